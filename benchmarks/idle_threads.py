"""How long idle threads of OpenMP wait before they sleep, and what it does to training, alone and beside other work.

    python benchmarks/idle_threads.py benchmarks/results/idle_threads.json

The demo's shape is trained on this project's own source for SECONDS a run; a figure is the median speed of its steps
behind the first two, and then the median over the rounds, in which all settings and situations alternate.
`GOMP_SPINCOUNT=300000` is what libgomp does when nothing is set. Needs an idle machine.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROUNDS, SECONDS = 3, 30
SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=2000": {"GOMP_SPINCOUNT": "2000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
SITUATIONS = ("alone", "beside a busy process", "two trainings at once")
REPOSITORY = Path(__file__).resolve().parents[1]
IBIDEM = [sys.executable, "-m", "ibidem"]
STEPS_TO_SKIP = 2


def main() -> None:
    """Measure all settings in all situations, and write the medians."""
    speeds: dict[str, dict[str, list[float]]] = {name: {each: [] for each in SITUATIONS} for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for number in range(ROUNDS):
            for situation in SITUATIONS:
                for name, environment in SETTINGS.items():
                    speeds[name][situation].append(speed(Path(folder), environment, situation))
                    print(number, situation, name, speeds[name][situation][-1], flush=True)
    Path(sys.argv[1]).write_text(json.dumps(summary(speeds), indent=1) + "\n")


def summary(speeds: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, object]:
    """Return the medians, and their ratios to those without any setting; None where nothing got done."""
    usual = {name: {key: statistics.median(values) for key, values in rows.items()} for name, rows in speeds.items()}
    without = usual["as it comes"]
    return {
        "command": "python benchmarks/idle_threads.py benchmarks/results/idle_threads.json",
        "cores": os.cpu_count(),
        "rounds": ROUNDS,
        "seconds": SECONDS,
        "tokens_per_s": {name: {key: round(value) for key, value in rows.items()} for name, rows in usual.items()},
        "ratio_to_as_it_comes": {
            name: {key: round(value / without[key], 2) if without[key] else None for key, value in rows.items()}
            for name, rows in usual.items()
        },
        "all_tokens_per_s": speeds,
    }


def prepare(folder: Path) -> None:
    """Make a dataset of this project's source, its tokenizer and its tokens."""
    source = f"{REPOSITORY / 'src' / 'ibidem'}:train:text"
    vocabulary = ["--vocab-size", "8192"]
    for words in (
        ["preprocess", "--dataset", source, "--output-dir", "data"],
        ["train-tokenizer", "--input", "data", *vocabulary, "--output-dir", "tokenizer"],
        ["train", *training("first", steps=1)],
    ):
        subprocess.run([*IBIDEM, *words], cwd=folder, check=True, capture_output=True)


def training(run: str, *, steps: int) -> list[str]:
    """Return the flags of a training of the demo's shape."""
    flags = {
        "model": REPOSITORY / "configs" / "model" / "tiny.py",
        "output-dir": run,
        "data.dataset": "data",
        "data.tokenizer": "tokenizer",
        "data.cache-dir": "tokens",
        "data.context": 256,
        "data.held-out-share": 0.05,
        "training.steps": steps,
        "training.batch-sequences": 16,
        "training.micro-batch-sequences": 16,
        "training.mixed-precision": "no",
        "validation.every": 100_000,
        "validation.windows": 1,
        "checkpoints.every": 100_000,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def speed(folder: Path, environment: Mapping[str, str], situation: str) -> float:
    """Return the tokens per second of a training in a situation."""
    clean = {key: value for key, value in os.environ.items() if key not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    runs = [f"run-{time.monotonic_ns()}-{number}" for number in range(2 if situation == SITUATIONS[2] else 1)]
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if situation == SITUATIONS[1] else []
    trainings = [
        subprocess.Popen([*IBIDEM, "train", *training(run, steps=100_000)], env={**clean, **environment}, **quiet)
        for run in runs
    ]
    time.sleep(SECONDS)
    for process in [*trainings, *others]:
        process.kill()
        process.wait()
    return statistics.median(step for run in runs for step in steps_of(folder / run / "events.jsonl"))


def steps_of(events: Path) -> list[float]:
    """Return the speeds of the steps of a run behind the first ones; one of 0 if it got no further."""
    rows = [json.loads(line) for line in events.read_text().split("\n")[:-1]] if events.exists() else []
    return [row["tokens_per_s"] for row in rows if row["event"] == "train.step"][STEPS_TO_SKIP:] or [0.0]


if __name__ == "__main__":
    main()
