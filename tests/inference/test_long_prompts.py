"""A prompt too long for the context loses its beginning, whatever the tokenizer makes of the rest, and it is told."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibidem import log
from ibidem.evaluation.config import HumanEvalConfig
from ibidem.evaluation.human_eval import human_eval
from ibidem.inference.models import OwnModel, open_model, report_truncated
from ibidem.modeling.generate import Sampling


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> OwnModel:
    opened = open_model(checkpoint)
    assert isinstance(opened, OwnModel)
    return opened


@settings(max_examples=60)
@given(text=st.text(alphabet="abde f(x):\n\t=1é\u2581図", min_size=1, max_size=300), count=st.integers(1, 60))
def test_the_end_of_a_prompt_fits(text: str, count: int, model: OwnModel) -> None:
    end = model._last_tokens(text, count)
    assert len(model.encode(end)) <= count
    assert text.endswith(end.lstrip("\ufffd"))


def test_every_long_prompt_is_completed(model: OwnModel) -> None:
    rng = random.Random(0)
    prompts = ["".join(rng.choices("def f(x): return\n\t é図", k=400)) for _ in range(40)]
    for most in (1, 30, 60):
        assert len(model.complete(prompts, Sampling(most, 0.0, 1.0, 0), [])) == len(prompts)


def test_how_many_prompts_are_cut_is_told(model: OwnModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(log, "event", lambda name, **fields: told.append({"name": name, **fields}))
    report_truncated(model, ["x", "x = 1\n" * 100], 8)
    report_truncated(model, ["x"], 8)
    ((event),) = told
    assert (event["name"], event["prompts"], event["of"]) == ("evaluate.truncated", 1, 2)


def test_a_small_model_is_evaluated_with_the_defaults(checkpoint: Path, tmp_path: Path) -> None:
    said = human_eval(HumanEvalConfig(checkpoint=checkpoint, limit=2, output_dir=tmp_path / "out", contamination=False))
    assert "on the first 2 of 164 problems" in said
