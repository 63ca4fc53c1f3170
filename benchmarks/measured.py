"""Run a command and measure it: wall-clock seconds, CPU seconds of its tree, peak memory of all its processes."""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import psutil

SAMPLE_S = 0.1


def run(command: Sequence[str]) -> dict[str, float]:
    """Return `wall_s`, `cpu_s` (of processes that were waited for) and `peak_mb`, the sum of proportional set sizes.

    Raises:
        SystemExit: the command failed.
    """
    before, started, peak = children_cpu_s(), time.monotonic(), 0
    with tempfile.TemporaryFile() as told, ThreadPoolExecutor(1) as pool:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told)
        ended = pool.submit(lambda: (process.wait(), time.monotonic())[1])  # to the moment, whatever is sampled
        while not wait([ended], SAMPLE_S).done:
            peak = max(peak, tree_pss(process.pid))
        wall = ended.result() - started
        if process.returncode:
            told.seek(0)
            raise SystemExit(told.read()[-2000:].decode(errors="replace"))
    return {"wall_s": wall, "cpu_s": children_cpu_s() - before, "peak_mb": peak / 1e6}


def children_cpu_s() -> float:
    """Return the CPU seconds of all children that were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def tree_pss(pid: int) -> int:
    """Add up the proportional set sizes of a process and its descendants, in bytes."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total += 1024 * int(rollup.partition("\nPss:")[2].split()[0])
    except (psutil.Error, OSError, IndexError):
        return 0
    return total
