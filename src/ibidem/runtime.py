"""How this process spends memory and threads, set before pyarrow is imported and before threads start.

Each setting stands with what it saves, as `benchmarks/tuning.py` measures it.
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


def tune() -> None:
    """Set up heaps, waiting threads and the end of the process; worker processes inherit the environment.

    Arrow and Python share two heaps among all threads. A heap keeps up to 64 MB that are free, since each page of a
    Parquet file asks for some; blocks of more than 16 MB go back to the system at once.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # idle threads of numpy sleep instead of spinning
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    for name, (number, value) in _HEAPS.items():
        os.environ.setdefault(name, str(value))
        with suppress(AttributeError, OSError, ValueError):  # only glibc has it
            ctypes.CDLL(None).mallopt(number, int(os.environ[name]))
    atexit.register(gc.freeze)  # no last search for garbage when the interpreter ends


@contextmanager
def importing() -> Iterator[None]:
    """Import without searching for garbage: imported objects stay for good."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def rare_collection() -> Iterator[None]:
    """Search for garbage a hundred times less often: documents hold no cycles, and all threads wait for a search."""
    thresholds = gc.get_threshold()
    gc.set_threshold(100 * thresholds[0], *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
