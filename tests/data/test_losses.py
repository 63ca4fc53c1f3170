"""`--explain` names every file that a source loses, with reason and detail: before anything is written, and after."""

from pathlib import Path

import pytest
from tests.conftest import python_file

from ibidem import artifacts
from ibidem.cli import main
from ibidem.serving import report_corpus

LOST = {
    "web/app.min.js": ("filter.minified", "name: .min.js", "var total = 1;\n"),
    "web/table.py": ("filter.lines", "characters in long lines: 1.00, at most 0.6", f"x = [{'1.5, ' * 400}]\n"),
    "gpl.py": (
        "license.header",
        "",
        "# SPDX-License-Identifier: GPL-3.0-only\n" + python_file(1),
    ),
    "blank.py": ("empty", "", "\n\n"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "code"
    (source / "web").mkdir(parents=True)
    for name, (_, _, text) in LOST.items():
        (source / name).write_text(text)
    (source / "a.py").write_text(python_file(2))
    (source / "b.py").write_text(python_file(2))
    (source / "c.py").write_text(python_file(3))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    command = ["preprocess", "--dataset", "code:train:text", "--output-dir", "out", "--quiet", *flags]
    assert main(command) == 0
    return capsys.readouterr().out.splitlines()


def check_listed(lines: list[str]) -> None:
    for name, (reason, detail, _) in LOST.items():
        assert any(line.startswith(f"{reason}: ") for line in lines), reason
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert detail in line


def test_a_dry_run_lists_what_would_be_lost_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run(capsys, "--dry-run", "--explain")
    assert "lost: 4 of 7 documents" in lines
    check_listed(lines)
    assert "(duplicates are found only by the run itself)" in lines
    assert not (folder / "out").exists()
    assert "lost: 4 of 7 documents" not in run(capsys, "--dry-run")


def test_a_run_lists_what_was_lost_duplicates_too_and_explaining_changes_no_byte(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not any(line.startswith("lost: ") for line in run(capsys))
    digest = artifacts.load(folder / "out").digest
    lines = run(capsys, "--explain")
    assert "lost: 5 of 7 documents" in lines
    check_listed(lines)
    assert "  b.py  kept instead: a.py (similarity 1.00)" in lines
    assert artifacts.load(folder / "out").digest == digest
    page = str(report_corpus.corpora([artifacts.load(folder / "out")]))
    assert "What each repository lost" in page
    assert all(name in page and detail in page for name, (_, detail, _) in LOST.items())
