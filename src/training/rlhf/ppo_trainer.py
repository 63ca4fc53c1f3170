"""Launcher: `accelerate launch src/training/rlhf/ppo_trainer.py` is `ibidem ppo`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

if __name__ == "__main__":
    from ibidem.cli import main

    sys.exit(main(["ppo", *sys.argv[1:]]))
