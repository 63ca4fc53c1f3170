"""Verbatim rates: what a model repeats is counted, what it writes itself is not, and the gate counts again."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from tests.evaluation.bundle import reseal

from ibidem import artifacts, jsonl
from ibidem.attribution.config import BuildConfig
from ibidem.attribution.index import build
from ibidem.attribution.lookup import Attribution
from ibidem.data import shards
from ibidem.errors import ArtifactError, DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import VerbatimConfig
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.task import Demand
from ibidem.evaluation.verbatim import TASK, rows, verbatim
from ibidem.lineage import walk
from ibidem.modeling.generate import Sampling
from ibidem.serving.report_evaluation import evaluation, read_result

OWN = 'fn carry_on() { while let Some(x) = queue.pop() { println!("{x:?}"); } }  // of no training document\n'
PROMPTS, COPIES = 10, 3
DEMAND = Demand("verbatim.0", (), 0.667, 0.8)


@pytest.fixture
def index(checkpoint: Path, tmp_path: Path) -> Path:
    """An index of the tokens that the checkpoint was trained on."""
    nodes = [node for _, _, node in walk(checkpoint) if isinstance(node, artifacts.Artifact) and node.kind == "tokens"]
    build(BuildConfig(tokens=nodes[0].path, output_dir=tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def config(checkpoint: Path, index: Path, tmp_path: Path) -> VerbatimConfig:
    prompts = [{"id": str(n), "prompt": f"def function_{n}("} for n in range(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text(jsonl.dumps(prompts))
    return VerbatimConfig(
        checkpoint=checkpoint,
        prompts=tmp_path / "prompts.jsonl",
        index=index,
        output_dir=tmp_path / "verbatim",
        temperatures=(0.0, 0.8),
        batch=4,
        least_tokens=20,
        common_documents=10**6,
    )


@pytest.fixture
def measured(config: VerbatimConfig, dataset: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Evidence of a model that repeats a training document for three of ten prompts, and only at temperature 0."""
    copy = _training_text(dataset, index)

    def complete(prompts: Sequence[str], sampling: Sampling, _stop: Sequence[str]) -> list[str]:
        repeats = [sampling.temperature == 0 and sampling.first + n < COPIES for n in range(len(prompts))]
        return [copy if each else OWN for each in repeats]

    model = SimpleNamespace(complete=complete, encode=lambda text: [*text], context=10**6, start_ids=[])
    monkeypatch.setattr("ibidem.inference.models.open_model", lambda *_: model)
    said = verbatim(config)
    assert "verbatim.0 " in said
    assert "unlicensed.0.8 0.00 %" in said
    return config.output_dir


def _training_text(dataset: Path, index: Path) -> str:
    """Return a text of the dataset that the training read as a whole."""
    opened = Attribution(index, least_tokens=20)
    for path in shards.checked_shards(artifacts.load(dataset)):
        for text in pq.read_table(path, columns=["text"])["text"].to_pylist():
            if len(found := opened.of_text(text)) == 1 and found[0].end - found[0].start == len(text):
                return str(text)
    raise AssertionError("no document was trained on as a whole")


def test_what_a_model_repeats_is_counted_by_temperature(measured: Path) -> None:
    found = tasks.recounted(evidence.read(measured))
    assert found.results["verbatim.0"] == pytest.approx(COPIES / PROMPTS)
    assert found.results["verbatim.0.8"] == 0
    assert found.results["trials"]["verbatim.0"] == PROMPTS
    assert sum(bool(item["spans"]) for item in found.items) == COPIES
    assert all(span["sources"][0]["path"] for item in found.items for span in item["spans"])


def test_the_gate_counts_only_an_index_of_the_checkpoints_own_tokens(measured: Path, config: VerbatimConfig) -> None:
    found = evidence.read(measured)
    due = {"temperatures": [0.0, 0.8]}
    assert TASK.doubt(found, DEMAND) is None
    assert TASK.differs(found, rows(config.prompts), due) is None
    assert "at temperature" in (TASK.differs(found, rows(config.prompts)[1:], due) or "")
    assert "is missing" in (TASK.differs(found, rows(config.prompts), {"temperatures": [0.0, 0.8, 1.0]}) or "")
    found.results["index_of_training"] = False
    assert "not of the tokens" in (TASK.doubt(found, DEMAND) or "")


@pytest.mark.parametrize("edit", [{"verbatim": 0}, {"spans": []}, {"unlicensed": True}])
def test_counts_that_do_not_follow_from_the_spans_are_refused(measured: Path, edit: dict[str, object]) -> None:
    unlicensed = evidence.read(measured).items[0]["unlicensed"]
    changed = {key: not unlicensed if key == "unlicensed" else value for key, value in edit.items()}
    reseal(measured, lambda _, items: items[0].update(changed), recount=False)
    with pytest.raises(ArtifactError, match="does not follow from its other columns"):
        tasks.recounted(evidence.read(measured))


def test_a_finished_evaluation_is_not_made_again(
    measured: Path, config: VerbatimConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = artifacts.load(measured).digest
    monkeypatch.setattr("ibidem.inference.models.open_model", None)  # would fail if it were called
    verbatim(config)
    assert artifacts.load(measured).digest == before


def test_a_prompt_of_several_turns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(jsonl.dumps([{"id": "a", "turns": ["x", "y"]}]))
    with pytest.raises(DataError, match="'a' has several turns"):
        rows(tmp_path / "prompts.jsonl")


def test_the_report_shows_the_completions_that_repeat_with_their_documents(measured: Path) -> None:
    (span,) = evidence.read(measured).items[0]["spans"]
    shown = evaluation([read_result(measured)], {"sha256:0": "another"})
    assert "verbatim.0.8" in shown
    assert span["sources"][0]["path"] in shown
    assert f"{span['num_tokens']} tokens" in shown
