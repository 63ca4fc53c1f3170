"""Processes that tests launch together: one that fails ends the others, and a hang says where it is."""

import time
from pathlib import Path

import pytest
from tests import processes

FAILS = "import os, time\nif os.environ['RANK'] == '1':\n    raise SystemExit('no disk')\ntime.sleep(600)\n"
HANGS = "import time\ndef waits_forever():\n    time.sleep(600)\nwaits_forever()\n"


def test_a_process_that_fails_ends_the_others_and_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    started = time.monotonic()
    with pytest.raises(AssertionError, match="no disk"):
        processes.launch(tmp_path / "fails.py", [], tmp_path)
    assert time.monotonic() - started < 250


def test_processes_that_hang_are_killed_and_say_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.setattr(processes, "LONGEST_S", 8.0)
    with pytest.raises(AssertionError, match=r"in waits_forever"):
        processes.launch(tmp_path / "hangs.py", [], tmp_path)
