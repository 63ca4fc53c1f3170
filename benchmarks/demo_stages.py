"""How long each stage of `ibidem demo` takes on this computer, alone and beside a busy process.

    python benchmarks/demo_stages.py benchmarks/results/demo_stages.json

A stage ends with the event that says what it made. Needs an idle machine; each run starts in an empty folder.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SITUATIONS = ("alone", "beside a busy process")
STAGES = (
    "preprocess", "blend", "card", "tokenizer", "pretraining", "perplexity", "dashboard", "traces", "solved problems",
    "conversations", "SFT", "problems", "GRPO", "human-eval", "doc-qa", "chat", "attribution", "verbatim before",
    "verbatim after", "documents", "passages", "grounding head", "kinds of questions", "gate and report",
)  # fmt: skip
REACHED = ("bits_per_byte", "passed", "hidden_passed")
"""Figures on held-out data: of pretraining and SFT; of GRPO, before training and on the way."""


def main() -> None:
    """Measure both situations, and write the seconds."""
    found = {situation: measure(situation) for situation in SITUATIONS}
    result = {
        "command": "python benchmarks/demo_stages.py benchmarks/results/demo_stages.json",
        "cores": os.cpu_count(),
        **found,
    }
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def measure(situation: str) -> dict[str, Any]:
    """Return the seconds of each stage, and what the trainings reached."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if situation != SITUATIONS[0] else []
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.time()
            command = [sys.executable, "-m", "ibidem", "demo", "--output-dir", folder, "--log-format", "json"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            ended = time.time()
    finally:
        for process in others:
            process.kill()
            process.wait()
    events = list(rows(done.stderr + done.stdout))
    times = [started, *(event["time"] for event in events if event["event"] == "demo"), ended]
    assert len(times) == len(STAGES) + 1, f"{len(times) - 1} stages"
    measured = [event for event in events if event["event"] == "train.measured"]
    return {
        "total_s": round(ended - started, 1),
        "seconds": {name: round(end - start, 1) for name, start, end in zip(STAGES, times, times[1:], strict=False)},
        **{name: [round(each[name], 4) for each in measured if name in each] for name in REACHED},
    }


def rows(text: str) -> Iterator[dict[str, Any]]:
    """Yield the events among the lines."""
    for line in text.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


if __name__ == "__main__":
    main()
