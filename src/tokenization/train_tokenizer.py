"""Launcher: `python src/tokenization/train_tokenizer.py` is `ibidem train-tokenizer`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

if __name__ == "__main__":
    from ibidem.cli import main

    sys.exit(main(["train-tokenizer", *sys.argv[1:]]))
