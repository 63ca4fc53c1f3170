"""Launcher: `python src/evaluation/doc_qa.py` is `ibidem evaluate doc-qa`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from ibidem.cli import main

    sys.exit(main(["evaluate", "doc-qa", *sys.argv[1:]]))
