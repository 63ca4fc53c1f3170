"""Time the order of 10^8 windows at step 1,000,000, without warmup, against a permutation by numpy.

    python benchmarks/window_order.py benchmarks/results/window_order.json

Each figure is the median of fresh processes. `wall_s` is the first step after the imports, `peak_mb` what the process
takes more than before it.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ibidem.training.permutation import NAME, items_at

WINDOWS, STEP, BATCH, SEED, TIMES = 100_000_000, 1_000_000, 256, 7, 3


def ours() -> list[int]:
    """Return the windows of the step."""
    return items_at(range(STEP * BATCH, (STEP + 1) * BATCH), WINDOWS, SEED)[1].tolist()


def numpys() -> list[int]:
    """Return as many windows of a permutation that numpy makes of all of them."""
    epoch, place = divmod(STEP * BATCH, WINDOWS)
    return np.random.default_rng((SEED, epoch)).permutation(WINDOWS)[place : place + BATCH].tolist()


WAYS = {"ours": ours, "numpy": numpys}


def measure(name: str) -> dict[str, float]:
    """Measure one way in this process."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    assert len(set(WAYS[name]())) == BATCH
    wall = time.perf_counter() - started
    return {"wall_s": wall, "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3}


def medians(name: str) -> dict[str, float]:
    """Return the medians of fresh processes."""
    command = [sys.executable, __file__, "--measure", name]
    rows = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(TIMES)]
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def main(output: str) -> None:
    """Write the result."""
    facts = {"windows": WINDOWS, "step": STEP, "batch": BATCH, "order": NAME, "times": TIMES}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    result = facts | versions | {name: medians(name) for name in WAYS}
    Path(output).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(sys.argv[1])
