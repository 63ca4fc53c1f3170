"""Ctrl-C or a termination in a training: the step is finished and saved, and all processes stop after the same one.

    SIGTERM   a scheduler needs the machine: the run ends with exit code 0. Repeated, it changes nothing, since Slurm
              and torchrun both send it; what they send at last is SIGKILL.
    SIGINT    Ctrl-C, where one process trains: exit code 130, and the second one stops at once.

Of several processes, each may be told at another step: after each step they agree, over sockets of their own, so that
no device waits.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ibidem import log

Agreement = Callable[[bool], bool]
"""Returns on every process whether one of them says yes."""


class Notice:
    """Whether this run is to stop; after each step all processes ask at once."""

    def __init__(self, agree: Agreement | None) -> None:
        """Begin without a signal.

        Args:
            agree: how several processes agree; None: there is one.
        """
        self._agree = agree
        self.signal: signal.Signals | None = None
        """What this process was sent first."""

    def __call__(self) -> bool:
        """Return whether to stop after this step."""
        asked = self.signal is not None
        if self._agree is None:
            return asked
        agreed = self._agree(asked)
        if agreed and not asked:
            log.event("train.stopping", reason="a termination of another process: the step is finished and saved")
        return agreed

    @property
    def is_termination(self) -> bool:
        """Whether a scheduler ended the run, not a person."""
        return self.signal != signal.SIGINT


@contextmanager
def noticed(agree: Agreement | None) -> Iterator[Notice]:
    """Yield the notice of the signals that are sent meanwhile; outside of the main thread, none is caught.

    Args:
        agree: how several processes agree; None: there is one, which catches Ctrl-C too.
    """
    notice = Notice(agree)
    before: dict[signal.Signals, object] = {}

    def restore(number: signal.Signals) -> None:
        if number in before:
            signal.signal(number, before.pop(number))  # type: ignore[arg-type]

    def note(number: int, _frame: FrameType | None) -> None:
        if notice.signal is not None:
            return
        notice.signal = signal.Signals(number)
        restore(signal.SIGINT)
        if number == signal.SIGINT:
            log.event("train.stopping", reason="Ctrl-C: the step is finished and saved; again stops at once")
        else:
            log.event("train.stopping", reason="a termination: the step is finished and saved")

    if threading.current_thread() is threading.main_thread():
        caught = (signal.SIGTERM, signal.SIGINT) if agree is None else (signal.SIGTERM,)
        before |= {number: signal.signal(number, note) for number in caught}
    try:
        yield notice
    finally:
        restore(signal.SIGINT)
        restore(signal.SIGTERM)
