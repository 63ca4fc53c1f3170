"""The figures of lm-evaluation-harness are met, and the page that says so has the measured numbers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import against_lm_eval as benchmark

RESULT = REPOSITORY / "benchmarks" / "results" / "against_lm_eval.json"
DISJOINT = "bos always, last_window full = add_bos_token=False"


def check_agreement(found: dict[str, Any]) -> None:
    """Settings that are said to agree do, and those that are said to differ do."""
    for model in found["models"].values():
        for scoring in ("letter", "text"):
            assert len(model[scoring]["float64"]) == 3
            assert max(model[scoring]["float64"].values()) < 1e-5
        assert model["perplexity"]["float64"][DISJOINT] < 1e-5
        assert model["perplexity"]["float64"]["bos always, last_window short = add_bos_token=False"] > 0.1
        assert model["bits_per_byte"]["ours"] == pytest.approx(model["bits_per_byte"]["harness"], abs=1e-9)
        assert model["answers_that_differ"] == 0
    assert found["models"]["gpt2"]["perplexity"]["float64"]["bos always, last_window full = harness's default"] < 1e-5
    assert found["models"]["llama"]["perplexity"]["float64"]["bos always, last_window full = harness's default"] > 0.1


@pytest.mark.peer
def test_the_figures_of_lm_evaluation_harness_are_met(tmp_path: Path) -> None:
    python = os.environ.get("PEERS_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import lm_eval"], capture_output=True, check=False).returncode:
        pytest.skip("lm_eval is not installed; name a Python that has it in PEERS_PYTHON")
    row = '"What is {0}?","the {0}","a {0} of water","nothing","{0}, or more",{1}\n'
    for subject in ("management", "computer_security"):
        (tmp_path / f"{subject}_test.csv").write_text(row.format("a river", "B") + row.format("a lake " * 40, "C"))
        (tmp_path / f"{subject}_dev.csv").write_text(row.format("a sea", "D"))
    found = benchmark.compare(Path(python), tmp_path, [REPOSITORY / "LICENSE"], None, questions=2)
    check_agreement(found)


def test_the_committed_result_agrees() -> None:
    found = json.loads(RESULT.read_text())
    check_agreement(found)
    assert found["pass_at_k"]["greatest_difference"] < 1e-12
    assert "against_lm_eval.py" in found["command"]


def cells(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each figure of the page, as the result has it."""
    models = [found["models"][name] for name in ("gpt2", "llama")]

    def row(figures: list[float]) -> str:
        return " | ".join(f"{figure:.1e}" if figure else "0" for figure in figures)

    for name in ("letter", "text"):
        yield name, row([max(model[name][each].values()) for each in ("float64", "float32") for model in models])
    yield (
        "perplexity",
        row([model["perplexity"][each][DISJOINT] for each in ("float64", "float32") for model in models]),
    )
    yield "rolling", row([model["rounding_of_harness_float32"]["rolling"] for model in models])
    yield "pass@k", f"at most {found['pass_at_k']['greatest_difference']:.1e}."
    default = models[1]["perplexity"]["float64"]["bos always, last_window full = harness's default"]
    yield "second BOS", f"up to {default:.1f} nats"
    short = "bos always, last_window short = add_bos_token=False"
    yield "short window", f"up to {max(model['perplexity']['float64'][short] for model in models):.1f} nats"
    yield "bits per byte", " and ".join(f"{model['bits_per_byte']['ours']:.4f}" for model in models)
    yield "document", f"up to {max(model['greatest_document_nats'] for model in models):,.0f} nats"
    yield "questions", f"on {found['questions']} questions"
    yield "version", f"lm_eval {found['versions']['lm_eval']}"


def test_the_page_has_the_measured_figures() -> None:
    text = " ".join((REPOSITORY / "docs" / "comparable.md").read_text().split())
    for name, cell in cells(json.loads(RESULT.read_text())):
        assert cell in text, name
