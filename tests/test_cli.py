"""The command line keeps its promises: help without torch, one line for a mistake, the right exit code."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

from ibidem import cli, config
from ibidem.cli import COMMANDS, main


def python(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, timeout=120
    )


def test_every_command_shows_its_help_without_torch() -> None:
    script = (
        "import sys\nfrom ibidem.cli import COMMANDS, main\n"
        "for words in [[], *[name.split() for name in COMMANDS]]:\n"
        "    assert main([*words, '--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_every_command_has_its_group_and_an_example_of_itself() -> None:
    grouped = [name for names in cli.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS)
    for names in cli.GROUPS.values():
        for name, example in names.items():
            words = shlex.split(example)
            command, _ = cli._find(words[1:])
            assert (words[0], command) == ("ibidem", name)
            flags = {flag for flag, *_ in config.describe(cli._load(COMMANDS[name].config))} | {"--config"}
            assert {word for word in words if word.startswith("--")} <= flags


def test_the_shipped_configurations_are_copied_to_be_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "configs"]) == 0
    assert "first: ibidem plan --config configs/training/base.yaml" in capsys.readouterr().out
    assert main(["plan", "--config", "configs/training/base.yaml"]) == 0
    assert main(["plan", "--config", "configs/training/base.yaml", "--model", "tiny"]) == 0
    assert main(["init", "configs"]) == 2


@pytest.mark.parametrize("command", [["doctor"], ["plan", "--config", "configs/training/base.yaml"]])
def test_doctor_and_plan_run_without_torch(command: list[str]) -> None:
    done = python(
        "-c", f"import sys; from ibidem.cli import main; assert main({command}) == 0; assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


LAUNCHERS = {
    "scripts/preprocess_public.py": "preprocess",
    "src/tokenization/train_tokenizer.py": "train-tokenizer",
    "src/training/train.py": "train",
    "src/evaluation/perplexity.py": "evaluate perplexity",
    "src/evaluation/human_eval.py": "evaluate human-eval",
    "src/evaluation/doc_qa.py": "evaluate doc-qa",
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_works_from_any_folder_and_holds_no_logic(launcher: str, tmp_path: Path) -> None:
    done = python("-X", "importtime", str(REPOSITORY / launcher), "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"usage: ibidem {LAUNCHERS[launcher]}" in done.stdout
    assert " torch\n" not in done.stderr
    assert len((REPOSITORY / launcher).read_text().splitlines()) <= 12


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["evaluate"], "evaluate what? evaluate perplexity"),
        (["generate", "--prompt", "\udcff"], "not UTF-8"),
        (["preprocess", "--dataset", "--output-dir", "out"], "dataset: give at least one"),
        (["report", "--run", "x", "--output", "/dev/null/page.html"], "ibidem: "),
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["train"], "model is required; give --model"),
        (["train"], "give --data.dataset and --data.tokenizer"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["preprocess", "--dataset", "x", "--output-dir", "out"], "NAME[:VERSION]:SPLIT:COLUMN"),
        (["preprocess", "--datset", "x"], "did you mean dataset?"),
        (["preprocess", "--dataset", "a:b:c", "--output-dir", "out", "--shard-size", "0"], "--shard-size: input"),
        (["preprocess", "--dataset", "a:b:c", "--output-dir", "out", "--shard-size", "x"], "must be a whole number"),
        (["train-tokenizer", "--input", ".", "--output-dir", "out", "--vocab-size", "0"], "--vocab-size: input"),
        (["verify", "nowhere"], "nowhere: no such folder"),
        (["verify", "."], "no artifact here"),
        (["verify"], "path is required; give PATH"),
        (["generate", "--checkpoint", "nowhere", "--prompt", "x"], "nowhere"),
        (["report", "--run", "nowhere", "--output", "page.html"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len(error) == 1
    assert error[0].startswith("ibidem: ")
    assert said in error[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [["--help"], ["--version"], ["train", "--help"], ["plan", "--config", "configs/training/base.yaml"]]
)
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_gone_is_no_mistake(command: list[str], *, buffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    words = [sys.executable, "-m", "ibidem", *command]
    done = subprocess.run(
        words, stdout=writing, stderr=subprocess.PIPE, check=False, cwd=REPOSITORY, timeout=120, env=environment
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("buffered", [True, False])
def test_a_gate_says_no_even_to_a_reader_that_has_gone(*, buffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    script = (
        "import sys\nfrom ibidem import cli\nfrom ibidem.errors import GateFailed\n"
        "def no(*_):\n    raise GateFailed('BLOCK')\n"
        "cli._run = no\nsys.exit(cli.main(['doctor']))\n"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    words = [sys.executable, "-c", script]
    done = subprocess.run(
        words, stdout=writing, stderr=subprocess.PIPE, check=False, cwd=REPOSITORY, timeout=120, env=environment
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_work_goes_on_when_the_reader_of_its_events_has_gone(source_folder: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = ["preprocess", "--dataset", f"{source_folder}:train:text", "--output-dir", str(tmp_path / "data")]
    command = [sys.executable, "-m", "ibidem", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writing, check=False, cwd=REPOSITORY, timeout=120)
    os.close(writing)
    assert done.returncode == 0
    assert b"documents kept" in done.stdout
    assert (tmp_path / "data" / "manifest.json").exists()


def test_no_command_writes_its_output_into_an_artifact(
    checkpoint: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(checkpoint / "output.json")
    for words in (
        ["generate", "--checkpoint", str(checkpoint), "--prompt", "x", "--max-tokens", "2", "--output", output],
        ["evaluate", "perplexity", "--checkpoint", str(checkpoint), "--data", str(dataset), "--output", output],
    ):
        assert main(words) == 2
        assert "inside the artifact" in capsys.readouterr().err
    assert not (checkpoint / "output.json").exists()


def test_events_are_json_lines_where_there_is_no_terminal(source_folder: Path, tmp_path: Path) -> None:
    done = python(
        "-m", "ibidem", "preprocess", "--dataset", f"{source_folder}:train:text", "--output-dir", str(tmp_path / "o")
    )
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events][-1] == "preprocess.finished"
    progress = [event for event in events if event["event"] == "progress"]
    read = [event for event in progress if event["name"] == "preprocess.prepare"]
    assert read[0]["total"] == read[-1]["done"] == 242
    assert {event["unit"] for event in read} == {"documents"}
    assert "documents kept" in done.stdout


def test_a_terminal_gets_bars() -> None:
    import io

    from ibidem import log

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with log.console(stream), log.progress("work", 2, "items") as bar:
        bar.advance()
        log.event("note", text="[bold]kept as it is[/bold]")
        bar.advance()
    shown = stream.getvalue()
    assert "work" in shown
    assert "[bold]kept as it is[/bold]" in shown
    assert "{" not in shown
