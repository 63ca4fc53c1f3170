"""Events: one JSON line each, and the progress bars that are drawn from the same events.

    log.event("train.step", step=120, loss=2.31)
    {"time": 1764000000.0, "event": "train.step", "step": 120, "loss": 2.31}

Nothing is shown until a sink is opened: `recording(path)` appends the lines to a file, `console()` draws bars on a
terminal and writes the lines to standard error otherwise.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

EVENTS = "events.jsonl"
"""Where a run records its events."""

Record = dict[str, Any]
Sink = Callable[[Record], None]

PROGRESS_INTERVAL_S = 2.0  # between two lines of the same progress; a terminal gets ten a second
TERMINAL_INTERVAL_S = 0.1

_sinks: list[Sink] = []


def event(name: str, /, **fields: Any) -> None:
    """Send one event to every open sink."""
    record = {"time": round(time.time(), 3), "event": name, **fields}
    for sink in _sinks:
        sink(record)


@contextmanager
def recording(path: Path) -> Iterator[None]:
    """Append every event except progress to the JSON-lines file `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file, _open_sink(lambda record: _write_line(file, record)):
        if torn:  # by a kill: start on a new line
            file.write("\n")
        yield


@contextmanager
def console(stream: TextIO | None = None) -> Iterator[None]:
    """Show events: bars and short lines on a terminal, JSON lines anywhere else; the work outlives their reader."""
    stream = stream or sys.stderr
    if not stream.isatty():

        def show(record: Record) -> None:
            try:
                _write_line(stream, record, with_progress=True)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

        with _open_sink(show):
            yield
        return
    with _Terminal(stream) as terminal, _open_sink(terminal.show):
        yield


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
        interval = TERMINAL_INTERVAL_S if _Terminal.is_open else PROGRESS_INTERVAL_S
        if time.monotonic() - self._shown >= interval:
            self.show(state="running")

    def show(self, state: str) -> None:
        """Emit the progress event: the amount done, the rate and the remaining time."""
        now = time.monotonic()
        self._shown = now
        done_here = self.done - self._start
        rate = done_here / max(now - self._started, 1e-9)
        left = None if self.total is None or done_here == 0 else (self.total - self.done) / rate
        event(
            "progress",
            name=self.name,
            state=state,
            done=round(self.done, 3),
            total=self.total,
            unit=self.unit,
            per_second=float(f"{rate:.3g}"),
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
def _open_sink(sink: Sink) -> Iterator[None]:
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


def _write_line(file: TextIO, record: Record, *, with_progress: bool = False) -> None:
    if record["event"] != "progress" or with_progress:
        file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        file.flush()


class _Terminal:
    """Draws progress events as bars and prints the others as short lines."""

    is_open = False
    silent = ("train.step",)  # shown by the figures beside a bar

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description:<20}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=Console(file=stream),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        type(self).is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        type(self).is_open = False
        self._progress.stop()

    def show(self, record: Record) -> None:
        if record["event"] == "progress":
            self._draw(record)
        elif record["event"] not in self.silent:
            self._progress.console.print(f"[dim]{record['event']}[/dim] {_short(record)}", highlight=False)

    def _draw(self, record: Record) -> None:
        known = {"time", "event", "name", "state", "done", "total", "unit", "per_second", "eta_s"}
        figures = " ".join(f"{key} {value}" for key, value in record.items() if key not in known)
        fields: dict[str, Any] = {
            "rate": f"{record['per_second']:,.4g} {record['unit']}/s",
            "figures": figures,
        }
        name = record["name"]
        if record["state"] == "started" or name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=record["total"], **fields)
        self._progress.update(self._bars[name], completed=record["done"], total=record["total"], **fields)
        if record["state"] == "finished" and record["total"] is None:
            self._progress.update(self._bars[name], total=record["done"])


def _short(record: Record) -> str:
    text = " ".join(f"{key}={value}" for key, value in record.items() if key not in {"time", "event"})
    return text.replace("[", "\\[")
