"""Events: what a run did, one record each, and the progress of long work.

    log.event("train.step", step=120, loss=2.31)
    {"time": 1764000000.0, "event": "train.step", "step": 120, "loss": 2.31}

Nothing is shown until a sink is opened: `recording(path)` appends events to a file as JSON lines, `console.console`
shows them to a person.
"""

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

EVENTS = "events.jsonl"
"""Where a run records its events."""

Record = dict[str, Any]
Sink = Callable[[Record], None]

PROGRESS_INTERVAL_S = 0.1  # between two records of the same progress; each sink shows as many as it wants

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a disk without room answers."""

_sinks: list[Sink] = []
_one_at_a_time = threading.RLock()  # a signal's handler may interrupt an event with another


def event(name: str, /, **fields: Any) -> None:
    """Send one event to every open sink."""
    record = {"time": round(time.time(), 3), "event": name, **fields}
    with _one_at_a_time:
        for sink in _sinks:
            sink(record)


@contextmanager
def recording(path: Path) -> Iterator[None]:
    """Append every event except progress to the JSON-lines file `path`; what a full disk refuses is appended later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    left = bytearray(b"\n" if torn else b"")  # by a kill: start on a new line

    def record(each: Record) -> None:
        if each["event"] != "progress":
            data = bytes(left) + _line(each).encode()
            left.clear()
            left[:0] = _append(file, data)

    with path.open("ab", buffering=0) as file, showing(record):
        yield


def _append(file: FileIO, data: bytes) -> bytes:
    """Append bytes; return those for which the disk has no room."""
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        if error.errno not in FULL:
            raise
    return data


class Bar:
    """The progress of one piece of work; `advance` it, with figures to show beside it."""

    def __init__(self, name: str, total: float | None, unit: str, start: float) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, float(start)
        self._start = self.done
        self._started = self._shown = time.monotonic()
        self._figures: Record = {}

    def advance(self, amount: float = 1, **figures: Any) -> None:
        """Count `amount` more units as done."""
        self.done += amount
        self._figures = figures or self._figures
        if time.monotonic() - self._shown >= PROGRESS_INTERVAL_S:
            self.show(state="running")

    def show(self, state: str) -> None:
        """Emit the progress event: the amount done, the rate and the remaining time."""
        now = time.monotonic()
        self._shown = now
        done_here = self.done - self._start
        rate = done_here / max(now - self._started, 1e-9)
        left = None if self.total is None or done_here == 0 else max(0.0, self.total - self.done) / rate
        event(
            "progress",
            name=self.name,
            state=state,
            done=round(self.done, 3),
            total=self.total,
            unit=self.unit,
            per_second=float(f"{rate:.3g}"),
            seconds=round(now - self._started, 1),
            eta_s=None if left is None else round(left, 1),
            **self._figures,
        )


@contextmanager
def progress(name: str, total: float | None = None, unit: str = "items", *, start: float = 0) -> Iterator[Bar]:
    """Show the progress of the block; `start`, done by an earlier run, counts toward neither rate nor ETA.

    >>> with progress("docs", total=2) as bar:
    ...     bar.advance()
    ...     bar.done
    1.0
    """
    bar = Bar(name, total, unit, start)
    bar.show(state="started")
    try:
        yield bar
    except BaseException:
        bar.show(state="stopped")
        raise
    bar.show(state="finished")


@contextmanager
def showing(sink: Sink) -> Iterator[None]:
    """Send the events of the block to a sink too."""
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


def write_json(file: TextIO, record: Record) -> None:
    """Write an event as one JSON line."""
    file.write(_line(record))
    file.flush()


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, default=str) + "\n"
