"""Launcher: `accelerate launch src/training/train.py` is `ibidem train`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from ibidem.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
