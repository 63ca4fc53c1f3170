"""Ctrl-C in a training: the first finishes the step and saves it, the second stops at once.

Only where one process trains: several would have to agree on the step.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ibidem import log


@contextmanager
def noticed(*, is_alone: bool) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the user has asked to stop.

    Args:
        is_alone: whether this is the only process; otherwise, and outside of the main thread, Ctrl-C is not caught.
    """
    if not is_alone or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def notice(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        log.event("train.stopping", reason="Ctrl-C: the step is finished and saved; again stops at once")

    before = signal.signal(signal.SIGINT, notice)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
