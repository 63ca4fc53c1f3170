"""`list` and `show`: what is here, and what is in it."""

import json
import shutil
from pathlib import Path

import pytest
from tests.conftest import python_file

from ibidem.cli import main
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.errors import ConfigError, NothingFound
from ibidem.evaluation.config import HumanEvalConfig
from ibidem.evaluation.human_eval import human_eval
from ibidem.listing import ListConfig, list_artifacts
from ibidem.show import ShowConfig, show


def test_the_artifacts_of_a_folder_are_listed_with_what_they_were_made_from(
    dataset: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    shutil.copytree(tokenizer_dir, tmp_path / "tokenizers" / "small")
    shutil.copytree(dataset, tmp_path / "edited")
    manifest = tmp_path / "edited" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kept": 2', '"kept": 3', 1))
    shutil.copytree(dataset, tmp_path / ".hidden")
    monkeypatch.chdir(tmp_path)
    head, data, tokenizer, damaged = list_artifacts(ListConfig()).splitlines()
    assert head.split() == ["PATH", "KIND", "SIZE", "MADE", "DIGEST", "FROM"]
    digest = json.loads((dataset / "manifest.json").read_text())["digest"]
    assert data.split()[:2] == ["data", "dataset"]
    assert digest.removeprefix("sha256:")[:12] in data
    assert data.endswith("project")
    assert tokenizer.split()[:2] == ["tokenizers/small", "tokenizer"]
    assert damaged.startswith("damaged: edited/manifest.json")
    assert "tokenizers/small" not in list_artifacts(ListConfig(kind="dataset"))
    with pytest.raises(NothingFound, match="no checkpoint here or below"):
        list_artifacts(ListConfig(path=Path("tokenizers"), kind="checkpoint"))
    with pytest.raises(ConfigError, match="no such folder"):
        list_artifacts(ListConfig(path=Path("nowhere")))


def test_dropped_documents_are_shown_with_figure_and_limit_and_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "good.py").write_text("def good():\n    return 1\n")
    (source / "long.py").write_text("x = [" + "'word', " * 200 + "]\n")
    (source / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("", "fine text")))
    monkeypatch.chdir(tmp_path)
    assert main(["preprocess", "--dataset", "source:train:text", "--output-dir", "data"]) == 0
    capsys.readouterr()
    shown = show(ShowConfig(path=Path("data"), dropped="all"))
    assert "long.py\n  filter.lines: characters in long lines: 1.00, at most 0.6\n  | x = ['word', " in shown
    assert "rows.jsonl:1\n  empty\n" in shown
    assert "filter.lines: 1 of 1" in show(ShowConfig(path=Path("data"), dropped="filter"))
    kept = show(ShowConfig(path=Path("data"), lines=1))
    assert "good.py\n" in kept
    assert "  | def good():\n  | ... 1 more line" in kept
    with pytest.raises(NothingFound, match="for filter.line; did you mean filter.lines"):
        show(ShowConfig(path=Path("data"), dropped="filter.line"))
    (source / "long.py").write_text("x = 1\n")
    assert "(its source is not here, or has changed)" in show(ShowConfig(path=Path("data"), dropped="filter.lines"))
    assert main(["show", "data", "--verdict", "passed"]) == 2
    assert "--verdict: data is a dataset, not an evaluation" in capsys.readouterr().err


def test_programs_are_shown_with_their_verdicts(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    rows = [
        ("HumanEval/0", "    return True\n"),
        ("HumanEval/2", "    return number % 1.0\n"),
        ("HumanEval/3", "  (\n"),
    ]
    samples.write_text("".join(json.dumps({"task_id": name, "completion": text}) + "\n" for name, text in rows))
    out = tmp_path / "out"
    human_eval(HumanEvalConfig(samples=samples, ignore_incomplete=True, output_dir=out))
    shown = show(ShowConfig(path=out))
    assert "HumanEval/2  passed\n" in shown
    assert "  | def truncate_number(number: float) -> float:" in shown
    assert "  >     return number % 1.0" in shown
    assert "passed: 1 of 1 shown" in shown
    assert "HumanEval/0  failed; assert candidate(" in shown
    assert "failed: 2 of 2 shown" in shown
    assert "HumanEval/0" not in show(ShowConfig(path=out, verdict="syntax"))
    with pytest.raises(NothingFound, match="no item is timeout; there is failed, passed, syntax"):
        show(ShowConfig(path=out, verdict="timeout"))


def test_a_run_is_shown_as_its_newest_checkpoint(checkpoint: Path, tokenizer_dir: Path) -> None:
    shown = show(ShowConfig(path=checkpoint.parent.parent))
    assert shown.startswith(f"checkpoint {checkpoint}  sha256:")
    assert "\n  model.width: 32\n" in shown
    assert "\n  vocab_size: 512\n" in show(ShowConfig(path=tokenizer_dir))


def test_text_of_others_does_not_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("x = 1  # \x1b[2J\x1b]0;owned\x07 and more of it\n\ty = 2\n")
    preprocess(PreprocessConfig(dataset=(f"{source}:train:text",), output_dir=tmp_path / "data"))
    shown = show(ShowConfig(path=tmp_path / "data"))
    assert "\x1b" not in shown
    assert r"  | x = 1  # \x1b[2J\x1b]0;owned\x07 and more of it" in shown
    assert "  |     y = 2" in shown


def test_what_was_removed_on_request_is_shown_only_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()
    for seed in range(3):
        (tmp_path / "source" / f"m{seed}.py").write_text(python_file(seed))
    assert main(["preprocess", "--dataset", "source:train:text", "--output-dir", "data"]) == 0
    (tmp_path / "r.jsonl").write_text(json.dumps({"kind": "path", "value": "m1.py"}))
    assert main(["takedown", "apply", "r.jsonl", "--dataset", "data"]) == 0
    shown = show(ShowConfig(path=Path("data"), dropped="all"))
    assert "m1.py\n  removal.requested" in shown
    assert "its text is withheld; --dropped removal.requested shows it" in shown
    assert "Module 1." not in shown
    assert "Module 1." in show(ShowConfig(path=Path("data"), dropped="removal.requested"))


def test_as_many_documents_are_shown_as_were_asked_for(dataset: Path) -> None:
    for limit in (1, 5, 40):
        assert show(ShowConfig(path=dataset, limit=limit)).count(", sha256 ") == limit
    nothing = ShowConfig(path=dataset, dropped="all")
    with pytest.raises(NothingFound, match=r"no document was dropped$"):
        show(nothing)
