"""The share of a model's tokens that stands in its training documents, and what the gate makes of it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.evaluation.bundle import reseal

from ibidem.attribution.config import BuildConfig
from ibidem.attribution.index import build as build_index
from ibidem.cli import main
from ibidem.conversation import Conversation, Turn
from ibidem.data import shards
from ibidem.errors import ArtifactError, DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import VerbatimConfig
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.verbatim import TASK, rows, verbatim
from ibidem.modeling.generate import Sampling
from ibidem.training.tokenize import tokenized

LEAST = 20
OWN = 'fn carry_on() { while let Some(x) = queue.pop() { println!("{x:?}"); } }  // of no training document\n'
PROMPTS = 12


@pytest.fixture
def index(dataset: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(dataset, tmp_path / "data")
    tokens, _ = tokenized(tmp_path / "data", tokenizer_dir, tmp_path / "tokens", held_out_share=0.1)
    build_index(BuildConfig(tokens=tokens.path, output_dir=tmp_path / "index"))
    return tmp_path / "index"


def documents(data: Path) -> list[tuple[str, str]]:
    """Return hash and text of the long documents that are trained on."""
    found = [
        (row["sha256"], row["text"])
        for path in shards.shard_paths(data)
        for row in shards.read_rows(path, ["sha256", "text"])
    ]
    return [(sha256, text) for sha256, text in found if len(text) > 400 and not shards.is_held_out(sha256, 0.1)]


@pytest.fixture
def copied(index: Path) -> tuple[str, str]:
    return documents(index.parent / "data")[0]


@pytest.fixture
def config(index: Path, copied: tuple[str, str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> VerbatimConfig:
    """At temperature 0 a quarter of the answers copy a document; at 0.8 none do."""

    def written(text: str, temperature: float) -> str:
        return copied[1][100:300] if temperature == 0 and int(text.split()[1]) % 4 == 0 else OWN

    def complete(prompts: Sequence[str], sampling: Sampling, _stop: Sequence[str]) -> list[str]:
        return [written(text, sampling.temperature) for text in prompts]

    def respond(conversations: Sequence[Conversation], sampling: Sampling) -> list[Turn]:
        return [Turn.of("assistant", written(turns[-1].text, sampling.temperature)) for turns in conversations]

    model = SimpleNamespace(
        complete=complete,
        respond=respond,
        check_fit=lambda *_: None,
        encode=list,
        start_ids=[],
        context=512,
    )
    monkeypatch.setattr("ibidem.inference.models.open_model", lambda *_: model)
    prompts = index.parent / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": f"p{n}", "prompt": f"prompt {n}"}) + "\n" for n in range(PROMPTS)))
    return VerbatimConfig(
        checkpoint=checkpoint,
        index=index,
        prompts=prompts,
        output_dir=index.parent / "verbatim",
        least_tokens=LEAST,
        batch=5,
    )


@pytest.mark.parametrize("as_conversation", [False, True])
def test_the_share_of_copied_tokens_is_measured_at_each_temperature(
    config: VerbatimConfig, copied: tuple[str, str], as_conversation: bool
) -> None:
    said = verbatim(config.__class__(**{**vars(config), "as_conversation": as_conversation}))
    found = tasks.recounted(evidence.read(config.output_dir))
    assert 0.2 < found.results["verbatim.0"] <= 0.25
    assert found.results["verbatim.0.8"] == 0
    assert found.results["trials"]["verbatim.0"] == PROMPTS
    items = [item for item in found.items if item["spans"]]
    assert {item["id"] for item in items} == {"p0", "p4", "p8"}
    assert {source["sha256"] for item in items for span in item["spans"] for source in span["sources"]} >= {copied[0]}
    assert "verbatim.0 2" in said
    assert "tokens in p0: " in said


def test_the_gate_counts_the_shares_again(config: VerbatimConfig) -> None:
    verbatim(config)
    found = evidence.read(config.output_dir)
    asked, chosen = rows(config.prompts), {**TASK.settings, "least_tokens": LEAST}
    assert TASK.differs(found, asked, chosen) is None
    assert "p0 at temperature 0" in (TASK.differs(found, asked[1:], chosen) or "")
    assert "p0 at temperature 0.5" in (TASK.differs(found, asked, {**chosen, "temperatures": [0.0, 0.5, 0.8]}) or "")
    scores = tasks.trials(found, "verbatim.0")
    assert scores is not None
    assert sum(map(bool, scores.values())) == 3
    assert tasks.trials(found, "verbatim.0.3") is None


@pytest.mark.parametrize("change", [{"verbatim": 0}, {"spans": []}, {"tokens": 10}])
def test_a_share_that_does_not_follow_from_the_spans_is_refused(config: VerbatimConfig, change: dict) -> None:
    verbatim(config)
    reseal(config.output_dir, lambda _, items: items[0].update(change), recount=False)
    with pytest.raises(ArtifactError, match="does not follow from its other columns"):
        tasks.recounted(evidence.read(config.output_dir))


def test_a_span_of_a_removed_document_is_counted_apart(config: VerbatimConfig, copied: tuple[str, str]) -> None:
    data = config.index.parent / "data"
    requests = data.parent / "requests.jsonl"
    requests.write_text(json.dumps({"kind": "sha256", "value": copied[0]}) + "\n")
    assert main(["takedown", "apply", str(requests), "--dataset", str(data), "--artifacts", str(data.parent)]) == 0
    verbatim(config)
    assert evidence.read(config.output_dir).results["removed.0"] == 0.25


def test_a_span_of_many_documents_is_not_counted_as_verbatim(config: VerbatimConfig) -> None:
    everything = config.__class__(**{**vars(config), "least_tokens": 1, "common_documents": 1})
    verbatim(everything)
    found = tasks.recounted(evidence.read(config.output_dir))
    assert found.results["common.0.8"] > 0.5
    assert all(item["verbatim"] + item["common"] <= item["tokens"] for item in found.items)


def test_a_finished_evaluation_is_not_made_again(config: VerbatimConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    verbatim(config)
    monkeypatch.setattr("ibidem.inference.models.open_model", None)
    assert "verbatim.0" in verbatim(config)


def test_bad_prompts_and_a_bad_index_are_one_line(config: VerbatimConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config.prompts.write_text('{"id": "a", "turns": ["x", "y"]}\n')
    with pytest.raises(DataError, match="has several turns"):
        verbatim(config)
    command = ["evaluate", "verbatim", "--checkpoint", str(config.checkpoint), "--prompts", str(config.prompts)]
    assert main([*command, "--index", str(config.index.parent / "data")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
