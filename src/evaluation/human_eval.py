"""Launcher: `python src/evaluation/human_eval.py` is `ibidem evaluate human-eval`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from ibidem.cli import main

    sys.exit(main(["evaluate", "human-eval", *sys.argv[1:]]))
