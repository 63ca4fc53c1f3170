"""Ctrl-C or a termination in a training: the first finishes the step and saves it, the second stops at once.

Schedulers send SIGTERM some time before they kill a job.

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

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def notice(number: int, _frame: FrameType | None) -> None:
        asked.set()
        restore()
        name = "Ctrl-C" if number == signal.SIGINT else "a termination"
        log.event("train.stopping", reason=f"{name}: the step is finished and saved; again stops at once")

    before = {number: signal.signal(number, notice) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        restore()
