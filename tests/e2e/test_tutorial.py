"""Every block of the tutorial runs as it stands, one after the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    script = "set -euo pipefail\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "0 residuals" in done.stdout
    assert "0 of 0" not in done.stdout
    page = (tmp_path / "work" / "report.html").read_text(encoding="utf-8")
    assert "step 100" in page
    assert "Measured on this checkpoint: yes." in page
