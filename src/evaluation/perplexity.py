"""Launcher: `python src/evaluation/perplexity.py` is `ibidem evaluate perplexity`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from ibidem.cli import main

    sys.exit(main(["evaluate", "perplexity", *sys.argv[1:]]))
