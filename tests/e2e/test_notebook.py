"""The notebook runs from its first cell to its last, and again."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def test_the_notebook_runs_and_holds_no_output(tmp_path: Path) -> None:
    notebook = json.loads((REPOSITORY / "docs" / "first_model.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    whole = "\n\n".join("".join(cell["source"]) for cell in cells)
    script = whole.replace('"steps": 200,', '"steps": 25,')
    assert script != whole
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    for expected in ("checkpoint saved", "artifact found"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stderr
        assert "bits per byte on " in done.stdout
        assert "source " in done.stdout
