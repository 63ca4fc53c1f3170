"""The search of the training data for the test: in the data that were sealed, or not at all."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ibidem import artifacts
from ibidem.artifacts import Input
from ibidem.data import shards
from ibidem.data.filters.contamination import ProblemText
from ibidem.evaluation.contamination import look

TOKENS = artifacts.Artifact(Path(), "tokens", "", "", (), {}, {}, {}, {})


def a_document(dataset: Path) -> ProblemText:
    texts = [row["text"] for row in shards.read_rows(shards.shard_paths(dataset)[0], ["text"])]
    return ProblemText("T/0", (max(texts, key=len),))


def test_a_problem_in_the_training_data_is_found(checkpoint: Path, dataset: Path) -> None:
    found = look(checkpoint, [a_document(dataset), ProblemText("T/1", ("Nothing of this kind is anywhere. " * 9,))])
    assert found is not None
    assert list(found["found"]) == ["T/0"]
    assert found["documents"] == artifacts.load(dataset).counts["kept"]


def test_a_search_that_cannot_see_all_that_the_weights_saw_is_not_made(
    checkpoint: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, data = a_document(dataset), artifacts.load(dataset)
    own = [(0, "ok", artifacts.load(checkpoint)), (1, "ok", TOKENS), (2, "ok", data)]
    tokenizer = Input("tokenizer", "sha256:0", "../tokenizer")
    first = Input("initial", "sha256:0", "../first")
    for more, is_complete in (
        ([], True),
        ([(1, "missing", tokenizer)], True),
        ([(1, "ok", replace(TOKENS, kind="tokenizer")), (2, "missing", Input("dataset", "", "x"))], True),
        ([(3, "missing", Input("dataset", "sha256:0", "an ingredient of a blend"))], True),
        ([(1, "missing", first)], False),
        ([(1, "changed", first)], False),
        ([(1, "missing", Input("tokens", "sha256:0", "x"))], False),
        ([(1, "ok", artifacts.load(checkpoint)), (2, "missing", Input("tokens", "sha256:0", "x"))], False),
        ([(1, "ok", artifacts.load(checkpoint)), (2, "ok", TOKENS), (3, "missing", Input("dataset", "", "x"))], False),
    ):
        monkeypatch.setattr("ibidem.evaluation.contamination.walk", lambda _, more=more: [*own, *more])
        assert (look(checkpoint, [problem]) is not None) == is_complete, more


def test_data_that_are_no_longer_as_they_were_sealed_are_not_measured(
    checkpoint: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = a_document(dataset)
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    monkeypatch.setattr(
        "ibidem.evaluation.contamination.walk",
        lambda _: [(0, "ok", artifacts.load(checkpoint)), (1, "ok", TOKENS), (2, "ok", artifacts.load(copy))],
    )
    assert look(checkpoint, [problem])["problems"] == 1  # type: ignore[index]
    shard = shards.shard_paths(copy)[0]
    shard.write_bytes(shards.shard_paths(copy)[-1].read_bytes() if len(shards.shard_paths(copy)) > 1 else b"PAR1PAR1")
    assert look(checkpoint, [problem]) is None
    shard.unlink()
    assert look(checkpoint, [problem]) is None
