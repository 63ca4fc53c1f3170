"""The command line keeps its promises: help without torch, one line for a mistake, the right exit code."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

from ibidem import cli, jsonl
from ibidem.cli import main
from ibidem.commands import COMMANDS, flags_of
from ibidem.modeling.config import read_model_config
from ibidem.training import plan


def python(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, timeout=120
    )


def test_every_command_shows_its_help_without_torch() -> None:
    script = (
        "import sys\nfrom ibidem.cli import main\nfrom ibidem.commands import COMMANDS\n"
        "for words in [[], *[name.split() for name in COMMANDS]]:\n"
        "    assert main([*words, '--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_every_command_has_an_example_of_itself() -> None:
    for name, command in COMMANDS.items():
        words = shlex.split(command.example)
        assert (words[0], cli._find(words[1:])[0]) == ("ibidem", name)
        flags = {flag for flag, *_ in flags_of(command)}
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
    monkeypatch.chdir(tmp_path / "configs")
    assert main(["plan", "--config", "configs/training/base.yaml"]) == 2
    assert "`ibidem init configs` writes it" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["doctor"], ["plan", "--config", "configs/training/base.yaml"]])
def test_doctor_and_plan_run_without_torch(command: list[str]) -> None:
    done = python(
        "-c", f"import sys; from ibidem.cli import main; assert main({command}) == 0; assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr
    if command[0] == "plan" and not plan._has_gpu():
        assert "on this computer, without a GPU" in done.stdout


def test_a_plan_without_a_gpu_says_how_long_it_would_take_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(plan, "cpu_flops", lambda: 36e9)
    monkeypatch.setattr(plan, "_has_gpu", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["plan", "--config", "configs/training/base.yaml"]) == 0
    *_, speed, tokens_per_s, time = capsys.readouterr().out.splitlines()
    assert speed.endswith("36 GFLOP/s in float32, 1 thread")
    per_token = read_model_config(Path("base")).flops_per_token(8192)
    assert f"  {36e9 * plan.CPU_SHARE / per_token:.3g} tokens/s" in tokens_per_s
    years = 25_000 * 64 * 8192 * per_token / (36e9 * plan.CPU_SHARE) / (365.25 * 86_400)
    assert years > 100
    assert time.endswith(f"  {years:,.0f} years")


def test_a_plan_with_a_gpu_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> float:
        raise AssertionError

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(plan, "cpu_flops", refuse)
    monkeypatch.setattr(plan, "_has_gpu", lambda: True)
    assert main(["plan", "--config", "configs/training/base.yaml"]) == 0
    assert "on this computer" not in capsys.readouterr().out


def test_the_speed_of_this_computer_is_that_of_its_fastest_matrix_product(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 10.0, 10.5, 10.5, 20.0, 20.25, 99.0])  # two products: of half a second, of a quarter
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert plan.cpu_flops(seconds=30.0) == 2 * plan.EDGE**3 / 0.25


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
        (["train"], "give --data.tokenizer"),
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


def preprocess_words(source: Path, output: Path) -> list[str]:
    return ["preprocess", "--dataset", f"{source}:train:text", "--output-dir", str(output)]


def test_events_are_lines_for_people_where_there_is_no_terminal(source_folder: Path, tmp_path: Path) -> None:
    done = python("-m", "ibidem", *preprocess_words(source_folder, tmp_path / "o"))
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d [a-z]", line) for line in lines)
    assert any("preprocess prepare: 242 documents in " in line for line in lines)
    assert "preprocess finished" in lines[-1]
    assert "{" not in done.stderr
    assert "documents kept" in done.stdout


def test_events_are_json_lines_if_asked_for(source_folder: Path, tmp_path: Path) -> None:
    done = python("-m", "ibidem", *preprocess_words(source_folder, tmp_path / "o"), "--log-format", "json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events][-1] == "preprocess.finished"
    progress = [event for event in events if event["event"] == "progress"]
    read = [event for event in progress if event["name"] == "preprocess.prepare"]
    assert read[0]["total"] == read[-1]["done"] == 242
    assert {event["unit"] for event in read} == {"documents"}
    assert "documents kept" in done.stdout


def test_quiet_shows_the_result_alone_and_errors(source_folder: Path, tmp_path: Path) -> None:
    words = preprocess_words(source_folder, tmp_path / "o")
    done = python("-m", "ibidem", *words, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "documents kept" in done.stdout
    done = python("-m", "ibidem", "--quiet", "verify", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.startswith("ibidem: ")


def test_a_dry_run_shows_what_would_happen_and_writes_nothing(
    source_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*preprocess_words(source_folder, tmp_path / "new"), "--shard-size", "77", "--dry-run"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"reads   {source_folder}  242 documents; 1 file skipped: unknown kind .png" in shown
    assert f"writes  {tmp_path / 'new'}  new" in shown
    assert "  shard_size: 77\n" in shown
    words = ["evaluate", "human-eval", "--checkpoint", str(checkpoint), "--output-dir", str(tmp_path / "new")]
    assert main([*words, "--dry-run"]) == 0
    assert f"reads   {checkpoint}  checkpoint, " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_knows_what_each_command_writes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(dataset, "data")
    (tmp_path / "gate.yaml").write_text("checkpoint: x\n")
    requests = [{"kind": "path", "value": "pkg/module_001.py"}]
    (tmp_path / "requests.jsonl").write_text(jsonl.dumps(requests))
    before = sorted(tmp_path.rglob("*"))
    for words, line in [
        (["init", "configs"], "writes  configs  new"),
        (["key", "signing.key"], "writes  signing.key  new"),
        (["gate", "pin", "--policy", "gate.yaml"], "writes  gate.yaml  exists"),
        (["card", "data"], "writes  data.card  README.md, croissant.json"),
        (["takedown", "apply", "requests.jsonl", "--dataset", "data"], "1 document"),
    ]:
        assert main([*words, "--dry-run"]) == 0, words
        assert line in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["preprocess", "--dataset", "./nowhere:train:text", "--output-dir", "new"], "no such file or folder"),
        (["preprocess", "--dataset", "full:train:text", "--output-dir", "other"], "is not a dataset"),
        (["evaluate", "human-eval", "--checkpoint", "no/where", "--output-dir", "new"], "no such file or folder"),
        (["evaluate", "human-eval", "--checkpoint", "nowhere", "--output-dir", "new"], "no such file or folder"),
        (["generate", "--checkpoint", "nowhere", "--prompt", "x"], "no such file or folder"),
        (["show", "nowhere"], "no such file or folder"),
        (["takedown", "apply", "requests.jsonl", "--dataset", "full"], "no such file or folder"),
        (["evaluate", "human-eval", "--checkpoint", "full", "--output-dir", "new", "--n", "0"], "--n"),
    ],
)
def test_a_dry_run_finds_mistakes(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("full", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    assert main([*words, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def completed(line: str, script: str) -> list[str]:
    """Return what bash offers at the end of a line."""
    words = line.split(" ")
    ask = f'COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _ibidem; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed("ibidem dem", script) == ["demo"]
    assert completed("ibidem evaluate m", script) == ["mbpp", "mmlu"]
    assert completed("ibidem evaluate mmlu --sh", script) == ["--shots"]
    assert completed("ibidem train --optim.l", script) == ["--optim.lr"]
    assert completed("ibidem gate --eval", script) == ["--evaluate"]
    assert completed("ibidem verify art", script) == []  # the shell's own completion of files follows
    assert completed("ibidem verify some/path --q", script) == ["--quiet"]
    for name, command in COMMANDS.items():
        flags = [flag for flag, *_ in flags_of(command) if flag.startswith("--") and "NAME" not in flag]
        assert completed(f"ibidem {name} --", script) == [*flags, "--help"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_command_and_flag(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS.values():
        flags = [flag for flag, *_ in flags_of(command) if flag.startswith("--") and "NAME" not in flag]
        assert all((flag if shell == "zsh" else f"-l {flag[2:]}") in script for flag in flags)
    if shell == "fish":
        assert re.search(r"__ibidem_is blend' -l quiet$", script, re.MULTILINE)  # a switch takes no value
        assert re.search(r"__ibidem_is takedown plan' -l dataset -r$", script, re.MULTILINE)


@pytest.mark.parametrize("words", [[], ["doctor"]])
def test_output_that_cannot_be_written_is_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ibidem", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert "No space left" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_first_word_of_commands_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["takedown", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS if name.startswith("takedown "))
    assert main(["gate", "--help"]) == 0
    assert "usage: ibidem gate [flags]" in capsys.readouterr().out
