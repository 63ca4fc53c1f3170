"""How this process uses memory, searches for garbage and waits, set before pyarrow and torch are imported.

Each setting says what is spent without it, as `benchmarks/tuning.py` measures it on 384 MB of source code
(`benchmarks/results/tuning.json`).
"""

import atexit
import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_HEAPS = {  # name in the environment: number in malloc.h, value
    "MALLOC_ARENA_MAX": (-8, 2),
    "MALLOC_MMAP_THRESHOLD_": (-3, 16 << 20),
    "MALLOC_TRIM_THRESHOLD_": (-1, 64 << 20),
}
IDLE_SPINS = "2000"


def tune() -> None:
    """Set up the heaps and the end of the process; worker processes inherit the environment.

    Arrow and Python share two heaps among all threads. A heap keeps up to 64 MB that are free, since each page of a
    Parquet file asks for some; blocks of more than 16 MB go back to the system at once. Without this, deduplication
    peaks at 1.21 times the memory.

    The threads of OpenMP sleep after a short wait for one another; without this, they spin for milliseconds. It makes a
    training that is alone on two cores 16 % slower, one beside a busy process 1.37 times as fast, and two at once
    possible at all (`benchmarks/idle_threads.py`, `benchmarks/results/idle_threads.json`). On an idle machine,
    `GOMP_SPINCOUNT=300000` gives the speed back.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", IDLE_SPINS)
    for name, (number, value) in _HEAPS.items():
        os.environ.setdefault(name, str(value))
        with suppress(AttributeError, OSError, ValueError):  # only glibc has it
            ctypes.CDLL(None).mallopt(number, int(os.environ[name]))
    atexit.register(gc.freeze)  # without it the last search for garbage makes `--help` 1.2 times the CPU time


@contextmanager
def importing() -> Iterator[None]:
    """Import without searching for garbage, since imported objects stay; without this, `--help` costs 1.17 times."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def rare_collection() -> Iterator[None]:
    """Search for garbage a hundred times less often: documents hold no cycles, and all threads wait for a search.

    Without this, deduplication takes 1.02 times the CPU time.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(100 * thresholds[0], *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
