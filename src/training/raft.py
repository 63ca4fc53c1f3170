"""Launcher: `accelerate launch src/training/raft.py` is `ibidem raft`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from ibidem.cli import main

    sys.exit(main(["raft", *sys.argv[1:]]))
