"""The Python interface: stages return what they made, names cost nothing until used, mistakes are ValueErrors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import python_file

import ibidem
from ibidem import api, errors
from ibidem.cli import main
from ibidem.commands import COMMANDS


def test_the_package_imports_nothing_before_a_name_is_used() -> None:
    script = (
        "import sys, ibidem\n"
        "assert set(ibidem.__all__) <= set(dir(ibidem))\n"
        "assert not {name for name in sys.modules if name.startswith(('ibidem.', 'pydantic', 'torch', 'numpy'))}\n"
        "ibidem.open_dataset, ibidem.load_model, ibidem.generate, ibidem.evaluate\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_name_is_documented_and_there() -> None:
    for name in ibidem.__all__:
        assert getattr(ibidem, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ibidem.nothing  # noqa: B018
    assert all(f"evaluate {name}" in COMMANDS for name in api.EVALUATIONS)


def test_stages_return_what_they_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(40):
        (source / f"module_{seed}.py").write_text(python_file(seed) if seed else "")
    data = ibidem.preprocess(dataset=[f"{source}:train:text"], output_dir=tmp_path / "data", shard_size=10)
    rows = list(data)
    assert len(rows) == len(data) == data.counts["kept"]
    assert {"text", "license", "record"} <= rows[0].keys()
    assert [row["record"] for row in data.rows("record")] == [row["record"] for row in rows]
    dropped = list(data.dropped())
    assert len(dropped) == data.counts["read"] - data.counts["kept"] - data.counts["quarantined"]
    assert [row["path"] for row in data.dropped("empty")] == ["module_0.py"]
    assert list(data.dropped("filter")) == list(data.dropped("emp")) == []
    assert repr(data) == f"Dataset({str(tmp_path / 'data')!r}, 39 documents, {data.digest[:19]})"

    mixed = ibidem.blend(
        datasets={"own": {"path": data}}, shares={"code": 1.0}, output_dir=tmp_path / "mixed", total=9000
    )
    assert 0 < len(list(mixed)) == len(mixed) < len(data)
    assert list(mixed.dropped()) == []
    again = ibidem.open_dataset(mixed)
    assert (again.digest, again.path) == (mixed.digest, tmp_path / "mixed")

    tokenizer = ibidem.train_tokenizer(input=data, output_dir=tmp_path / "tokenizer", vocab_size=512)
    assert tokenizer.decode(tokenizer.encode("x = 1\n")) == "x = 1\n"
    assert tokenizer.digest == ibidem.Tokenizer.load(str(tmp_path / "tokenizer")).digest
    assert not any(capsys.readouterr())


def test_a_model_is_trained_loaded_and_sampled(
    dataset: Path, tokenizer_dir: Path, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = ibidem.train(
        model=model_file,
        data={"dataset": ibidem.open_dataset(dataset), "tokenizer": ibidem.Tokenizer.load(tokenizer_dir)},
        training={"steps": 3, "batch_sequences": 2},
        output_dir=tmp_path / "run",
    )
    assert checkpoint.kind == "checkpoint"
    assert (checkpoint.counts["step"], checkpoint.path.name) == (3, "step-000003")
    model = ibidem.load_model(tmp_path / "run")
    assert model.digest == checkpoint.digest
    greedy = ibidem.generate(model, "def ", max_tokens=5, temperature=0)
    assert ibidem.generate(model, "def ", temperature=0, seed=1).startswith(greedy)  # as many as fit into 64
    words = ["generate", "--checkpoint", str(tmp_path / "run"), "--prompt", "def ", "--max-tokens", "5"]
    capsys.readouterr()
    assert main([*words, "--temperature", "0"]) == 0
    assert capsys.readouterr().out == f"def {greedy}\n"
    assert ibidem.generate(checkpoint, ["def ", "import "], max_tokens=5, seed=1) == ibidem.generate(
        model, ["def ", "import "], max_tokens=5, seed=1
    )
    held_out = ibidem.evaluate(
        "perplexity", checkpoint=checkpoint, data=dataset, max_documents=2, output=tmp_path / "p.json"
    )
    assert held_out["documents"] == 2
    assert held_out.results == json.loads((tmp_path / "p.json").read_text())
    assert held_out.path == tmp_path / "p.json"


def test_an_evaluation_returns_figures_and_items(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    rows = [{"task_id": f"HumanEval/{number}", "completion": "    return number % 1.0\n"} for number in (0, 2)]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = ibidem.evaluate("human-eval", samples=samples, ignore_incomplete=True, output_dir=tmp_path / "out")
    assert done["pass@1"] == 0.5
    assert [item["passed"] for item in done.items] == [False, True]
    assert done.path == tmp_path / "out"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ibidem.evaluate("humaneval"), "did you mean human-eval"),
        (
            lambda: ibidem.preprocess(dataset=["x:train:text"], outputdir="z"),
            "unknown key outputdir; did you mean output_dir",
        ),
        (lambda: ibidem.load_model("nowhere"), "neither a checkpoint"),
        (lambda: ibidem.load_model(api.Evaluation({}, (), None)), "this evaluation has no folder"),
        (lambda: ibidem.load_model(3), "a folder is due, not int"),
        (lambda: ibidem.generate("x", []), "prompt: give at least one"),
        (lambda: ibidem.generate("x", None), "prompt"),
        (lambda: ibidem.generate("x", "p", top_p=0), "top_p: input should be greater than 0"),
        (lambda: ibidem.generate("x", "p", temperature=-1), "temperature: input should be"),
        (lambda: ibidem.generate("x", "p", max_tokens=0), "max_tokens: input should be"),
    ],
)
def test_a_mistake_is_a_value_error(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert isinstance(raised.value, errors.IbidemError)


def test_a_folder_of_another_kind_is_refused(tokenizer_dir: Path) -> None:
    with pytest.raises(errors.ArtifactError, match="this is a tokenizer; expected a dataset"):
        ibidem.open_dataset(tokenizer_dir)


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    from ibidem import log

    with ibidem.show_progress():
        log.event("note", figure=1)
    assert capsys.readouterr().err.endswith("note: figure 1\n")


def test_private_documents_are_indexed_searched_and_asked(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "leave.md").write_text("# Leave\n\nEvery employee has 30 days of leave.\n")
    (tmp_path / "acl.yaml").write_text('rules: [{path: "**", read: [ada]}]\n')
    index = ibidem.index_documents(tmp_path / "docs", acl=str(tmp_path / "acl.yaml"), output_dir=tmp_path / "index")
    assert index.counts["documents"] == 1
    assert [row["path"] for row in ibidem.search_documents(index, "ada", "days of leave")] == ["leave.md"]
    assert ibidem.search_documents(index, "eve", "days of leave") == []
    answer = ibidem.ask_documents(index, "ada", "How many days of leave does an employee have?")
    assert "30 days of leave" in answer["answer"]
    assert answer["citations"][0]["path"] == "leave.md"
