"""Runs that are killed at any moment end with the bits of a run that never was: as benchmarks/kills.py counts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_twelve_kills_of_every_kind_of_run_change_no_bit(tmp_path: Path) -> None:
    out = tmp_path / "kills.json"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "kills.py"), str(out), "--kills", "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["kills"] == 12
    assert found["while_saving"] > 0
    assert found["all_bit_equal"]
    assert all(kind["checkpoints_lost"] == 0 for kind in found["kinds"])
