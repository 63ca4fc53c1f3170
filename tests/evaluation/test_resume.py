"""Resuming: rows that this user did not write are made anew, and so is everything behind them."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from ibidem import artifacts, jsonl
from ibidem.evaluation import evidence
from ibidem.evaluation.resume import RowLog

ROWS = [{"task_id": f"T/{n}", "text": "a\u2028\udcff" * n} for n in range(4)]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / ".out.work-0").mkdir()
    log = RowLog(tmp_path / ".out.work-0" / "rows.jsonl")
    log.extend(ROWS[:2])
    log.extend(ROWS[2:])
    return log._path


def test_rows_come_back_and_more_are_appended(work: Path) -> None:
    log = RowLog(work)
    assert log.rows == ROWS
    log.extend([{"task_id": "T/4"}])
    assert RowLog(work).rows == [*ROWS, {"task_id": "T/4"}]


def test_a_torn_row_is_cut_off(work: Path) -> None:
    whole = work.read_bytes()
    work.write_bytes(whole[:-3])
    log = RowLog(work)
    assert log.rows == ROWS[:3]
    log.extend(ROWS[3:])
    assert work.read_bytes() == whole


@pytest.mark.parametrize("place", range(4))
def test_a_foreign_row_ends_what_is_taken_up(place: int, work: Path) -> None:
    lines = jsonl.loads(work.read_text())
    for forged in (
        {"row": {"task_id": "T/9"}, "mac": lines[place]["mac"]},
        {"row": ROWS[place], "mac": "0" * 64},
        {"row": ROWS[place]},
        ROWS[place],
        lines[place - 1],
        ["row", "mac"],
        7,
    ):
        work.write_text(jsonl.dumps([*lines[:place], forged, *lines[place + 1 :]]))
        assert RowLog(work).rows == ROWS[:place]
        assert work.read_bytes().count(b"\n") == place


@pytest.mark.parametrize("data", [b"\xff\xfe\n", b"{}\n", b"[" * 100_000 + b"\n", b"null\n", b"\n"])
def test_planted_bytes_are_no_rows(data: bytes, work: Path) -> None:
    work.write_bytes(data)
    assert RowLog(work).rows == []
    assert work.read_bytes() == b""


def test_rows_of_another_run_or_file_are_foreign(work: Path) -> None:
    other = work.parent.with_name(".out.work-1")
    other.mkdir()
    (other / work.name).write_bytes(work.read_bytes())
    (work.parent / "other.jsonl").write_bytes(work.read_bytes())
    assert RowLog(other / work.name).rows == RowLog(work.parent / "other.jsonl").rows == []


def test_a_planted_link_is_not_written_through(work: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    work.unlink()
    work.symlink_to(target)
    RowLog(work).extend(ROWS)
    assert target.read_text() == "precious"
    assert RowLog(work).rows == ROWS


@pytest.mark.parametrize("kind", ["pipe", "folder", "hard link"])
def test_what_is_no_file_of_rows_is_replaced(kind: str, work: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    work.unlink()
    if kind == "pipe":
        os.mkfifo(work)
    elif kind == "folder":
        (work / "inside").mkdir(parents=True)
    else:
        work.hardlink_to(precious)
    RowLog(work).extend(ROWS)
    assert RowLog(work).rows == ROWS
    assert precious.read_text() == "precious"


def test_a_planted_workspace_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("precious")
    for _ in range(2):
        with suppress(KeyboardInterrupt), artifacts.workspace(tmp_path / "out", config={}, inputs=[]) as work:
            RowLog(work / "rows.jsonl").extend(ROWS)
            raise KeyboardInterrupt
        assert not work.is_symlink()
        shutil.rmtree(work)
        work.symlink_to(tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["precious"]


def test_a_finished_evaluation_counts_only_if_this_user_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> artifacts.Artifact:
        return evidence.write(tmp_path / "e", "t", config={"n": 1}, inputs=[], items=[], metrics={}, notes={})

    write()
    assert evidence.finished(tmp_path / "e", "t", config={"n": 1}, inputs=[]) is not None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert evidence.finished(tmp_path / "e", "t", config={"n": 1}, inputs=[]) is None
    write()
    assert evidence.finished(tmp_path / "e", "t", config={"n": 1}, inputs=[]) is not None
