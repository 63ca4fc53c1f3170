"""The search of the training data for the test: in the data that were sealed, or not at all."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ibidem import artifacts
from ibidem.artifacts import Input
from ibidem.data import shards
from ibidem.data.filters.contamination import ProblemText
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.evaluation.config import MbppConfig
from ibidem.evaluation.contamination import look
from ibidem.evaluation.evidence import read
from ibidem.evaluation.gate.tasks import seen_in_training
from ibidem.evaluation.mbpp import mbpp

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
        (
            [
                (1, "ok", replace(TOKENS, kind="tokenizer", digest="sha256:1")),
                (2, "missing", Input("dataset", "", "x")),
            ],
            True,
        ),
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


MBPP = {
    "task_id": 11,
    "text": "Write a python function to remove first and last occurrence of a given character from the string.",
    "code": "def remove_occ(s, ch):\n    parts = s.split(ch)\n    first = ''.join(parts[:2])\n"
    "    last = ''.join(parts[-2:])\n    return first + last if len(parts) > 2 else first\n",
    "test_setup_code": "",
    "test_list": ["assert remove_occ('hello', 'l') == 'heo'"],
}
OTHER = {
    "task_id": 12,
    "text": "Write a function that sorts the rows of a matrix by the sum of the numbers in each row.",
    "code": "def sort_matrix(m):\n    return sorted(m, key=sum)\n",
    "test_setup_code": "",
    "test_list": ["assert sort_matrix([[2], [1]]) == [[1], [2]]"],
}


def chats(folder: Path, *problems: Mapping[str, object]) -> Path:
    """Make a dataset of conversations in which the problems are asked and solved."""
    said = [("What is the capital of France, and how large is it?", "Paris. About two million people live there.")]
    said += [(str(each["text"]), str(each["code"])) for each in problems]
    rows = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in said]
    folder.mkdir(parents=True)
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = (f"{folder / 'chats.jsonl'}:train:messages",)
    preprocess(PreprocessConfig(dataset=source, output_dir=folder / "data", skip=("licenses", "filters", "scrub")))
    return folder / "data"


def trained(path: Path, kind: str = "checkpoint", sources: tuple[Input, ...] = (), **parents: Path) -> Path:
    """Stand for a training that names its parents by their roles."""
    inputs = [artifacts.load(parent).as_input(role, of=path) for role, parent in parents.items()]
    with artifacts.create(path, kind=kind, config={}, inputs=[*inputs, *sources]) as draft:
        (draft.path / "content").write_text(path.name)
    return path


def problems_of(*rows: Mapping[str, object]) -> list[ProblemText]:
    return [ProblemText(str(row["task_id"]), (str(row["text"]), str(row["code"]))) for row in rows]


@pytest.fixture
def base(dataset: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A base checkpoint whose tokens come from a clean dataset."""
    trained(tmp_path / "tokens", "tokens", dataset=dataset, tokenizer=tokenizer_dir)
    return trained(tmp_path / "base", tokens=tmp_path / "tokens", tokenizer=tokenizer_dir)


@pytest.mark.parametrize("role", ["initial", "data", "reference", "reward", "policy"])
def test_a_problem_is_found_in_the_data_of_any_ancestor(
    role: str, base: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """base <- tuned on MBPP <- (role) tuned on clean conversations <- tuned once more."""
    leaked = chats(tmp_path / "leaked", MBPP)
    clean = chats(tmp_path / "clean")
    tuned = trained(tmp_path / "sft", data=leaked, initial=base, tokenizer=tokenizer_dir)
    parents = {"initial": base, role: leaked if role == "data" else tuned}
    later = trained(tmp_path / "later", tokenizer=tokenizer_dir, pairs=clean, **parents)
    last = trained(tmp_path / "last", data=clean, initial=later, tokenizer=tokenizer_dir)
    for checkpoint in (tuned, later, last):
        said = look(checkpoint, problems_of(MBPP, OTHER))
        assert said is not None
        assert list(said["found"]) == ["11"], checkpoint
        assert set(said["datasets"].values()) >= {artifacts.load(leaked).digest}
        assert len(said["datasets"]) == (2 if checkpoint == tuned else 3)
    assert look(base, problems_of(MBPP))["problems"] == 0  # type: ignore[index]


def test_the_evidence_of_mbpp_names_the_problem_that_tuning_has_seen(
    checkpoint: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    parents = {"data": chats(tmp_path / "leaked", MBPP), "initial": checkpoint, "tokenizer": tokenizer_dir}
    inputs = [artifacts.load(parent).as_input(role, of=tuned) for role, parent in parents.items()]
    with artifacts.create(tuned, kind="checkpoint", config=artifacts.load(checkpoint).config, inputs=inputs) as draft:
        shutil.copytree(checkpoint, draft.path, dirs_exist_ok=True)
        (draft.path / artifacts.MANIFEST).unlink()
        draft.counts |= artifacts.load(checkpoint).counts
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(MBPP) + "\n" + json.dumps(OTHER) + "\n")
    for model, seen in ((checkpoint, set()), (tuned, {"11"})):
        output = tmp_path / f"mbpp-{model.name}"
        mbpp(MbppConfig(checkpoint=model, problems=tmp_path / "mbpp.jsonl", output_dir=output, max_tokens=2))
        assert seen_in_training(read(output)) == seen


def test_training_continued_on_the_same_tokens_is_searched(base: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    """base <- continued on the tokens of base <- continued on them once more."""
    checkpoint = base
    for name in ("second", "third"):
        parents = {"tokens": tmp_path / "tokens", "tokenizer": tokenizer_dir, "initial": checkpoint}
        checkpoint = trained(tmp_path / name, **parents)
        found = look(checkpoint, problems_of(MBPP))
        assert found is not None
        assert found["datasets"] == look(base, problems_of(MBPP))["datasets"]  # type: ignore[index]


def written_by(model: Path, origin: Path, folder: Path) -> Path:
    """Make conversations that name a model and a dataset as their origins, as `synthesize --model` does."""
    source = chats(folder)
    path = folder / "written"
    inputs = [
        artifacts.load(origin).as_input("dataset", of=path),
        artifacts.load(model).as_input("checkpoint", of=path),
    ]
    sealed = artifacts.load(source)
    with artifacts.create(path, kind=shards.KIND, config=sealed.config, inputs=inputs) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
        (draft.path / artifacts.MANIFEST).unlink()
        draft.counts |= sealed.counts
        draft.rows |= {name: file.rows for name, file in sealed.files.items() if file.rows is not None}
    return path


@pytest.mark.parametrize("origin", ["clean", "leaked"])
def test_tuning_a_model_on_what_it_wrote_itself_searches_what_the_model_was_trained_on(
    origin: str, base: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """The dataset names the model first; what the model was trained on counts, what the dataset was made from not."""
    leaked = chats(tmp_path / "leaked", MBPP)
    model = (
        trained(tmp_path / "model", data=leaked, initial=base, tokenizer=tokenizer_dir) if origin == "leaked" else base
    )
    written = written_by(model, chats(tmp_path / "origin", OTHER), tmp_path / "own")
    tuned = trained(tmp_path / "tuned", data=written, tokenizer=tokenizer_dir, initial=model, reference=model)
    found = look(tuned, problems_of(MBPP, OTHER))
    assert found is not None
    assert list(found["found"]) == (["11"] if origin == "leaked" else [])
    assert found["datasets"].keys() == look(model, [])["datasets"].keys() | {"written"}  # type: ignore[index]


@pytest.mark.parametrize("chain", ["same tokens", "own words"])
def test_an_ancestor_that_is_named_twice_and_was_made_from_nothing_stays_unknown(
    chain: str, dataset: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    first = trained(tmp_path / "first", tokenizer=tokenizer_dir)
    if chain == "same tokens":
        tokens = trained(tmp_path / "tokens", "tokens", dataset=dataset, tokenizer=tokenizer_dir)
        second = trained(tmp_path / "second", tokens=tokens, initial=first, tokenizer=tokenizer_dir)
        last = trained(tmp_path / "last", tokens=tokens, reference=first, initial=second, tokenizer=tokenizer_dir)
    else:
        written = written_by(first, dataset, tmp_path / "own")
        last = trained(tmp_path / "last", data=written, initial=first, tokenizer=tokenizer_dir)
    assert look(last, problems_of(MBPP)) is None


@pytest.mark.parametrize("unknown", ["missing", "changed", "a file", "nothing named", "of tokens"])
def test_an_ancestor_that_cannot_be_searched_is_unknown_and_not_clean(
    unknown: str, base: Path, dataset: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    clean = chats(tmp_path / "clean")
    told = Input("data", "sha256:0", "chats.jsonl", is_artifact=False)
    more: dict[str, Path] = {}
    if unknown == "nothing named":
        more["reference"] = trained(tmp_path / "found", tokenizer=tokenizer_dir)
    elif unknown == "of tokens":
        tokens = trained(tmp_path / "files", "tokens", (replace(told, role="corpus"),), tokenizer=tokenizer_dir)
        more["reference"] = trained(tmp_path / "raw", tokens=tokens)
    sources = (told,) if unknown == "a file" else ()
    tuned = trained(tmp_path / "sft", sources=sources, data=clean, initial=base, tokenizer=tokenizer_dir, **more)
    last = trained(tmp_path / "last", data=clean, initial=tuned, tokenizer=tokenizer_dir)
    if unknown == "missing":
        shutil.rmtree(base)
    elif unknown == "changed":
        shutil.rmtree(base)
        trained(base, data=dataset, tokenizer=tokenizer_dir)
    assert look(last, problems_of(MBPP)) is None
