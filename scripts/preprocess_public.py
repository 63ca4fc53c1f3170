"""Launcher: `python scripts/preprocess_public.py` is `ibidem preprocess`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1] / "src")

if __name__ == "__main__":
    from ibidem.cli import main

    sys.exit(main(["preprocess", *sys.argv[1:]]))
