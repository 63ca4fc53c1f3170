"""Show events to a person: bars and lines on a terminal, lines anywhere else; or JSON lines to a program.

    12:03:41 checkpoint saved: step 40, path artifacts/checkpoints/step-000040
    12:03:52 train: 52 of 240 steps (22 %), 1.3 steps/s, 2 min 25 s left, loss 4.31, tokens/s 5,410

A line has no nested values, and `events.jsonl` has them all.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Self, TextIO

from ibidem import log
from ibidem.figures import duration, percent, visible
from ibidem.log import Record

Form = Literal["lines", "json"]
INTERVAL_S: dict[Form, float] = {"lines": 10.0, "json": 2.0}  # between two lines of the same progress
SILENT = ("train.step",)  # its figures are those of the progress
LOST = ("dropped", "left_out")
"""Fields with counts by reason of what is not used."""
MOST_CHARS = 100  # of a value
MOST_VALUES = 6  # of a list
_OF_PROGRESS = {"time", "event", "name", "state", "done", "total", "unit", "per_second", "seconds", "eta_s"}


@contextmanager
def console(form: Form = "lines", stream: TextIO | None = None) -> Iterator[None]:
    """Show the events of the block on standard error; the work goes on if their reader closes the pipe."""
    stream = stream or sys.stderr
    with ExitStack() as stack:
        if form == "lines" and stream.isatty():
            terminal = stack.enter_context(_Terminal(stream))
            stack.enter_context(log.showing(terminal.show))
        else:
            stack.enter_context(log.showing(_Lines(stream, form).show))
        yield


def line(record: Record) -> str:
    """Return an event as a line: its name and figures, without nested values.

    >>> line({"time": 0.0, "event": "checkpoint.saved", "step": 1200, "loss": 2.30512, "config": {"lr": 1}})
    'checkpoint saved: step 1,200, loss 2.305'
    >>> line({"time": 0.0, "event": "checkpoint.refused", "step": 40, "reason": "it is damaged"})
    'checkpoint refused: step 40; it is damaged'
    """
    if "said" in record:
        return "\n".join(map(visible, str(record["said"] or "").splitlines()))
    figures = {name: value for name, value in record.items() if name not in {"time", "event", "reason"}}
    parts = [_figures(figures), *([visible(str(record["reason"]))] if record.get("reason") else [])]
    rest = "; ".join(part for part in parts if part)
    return f"{_words(record['event'])}{': ' if rest else ''}{rest}"


def progress_line(record: Record) -> str:
    """Return a progress event as a line.

    >>> record = {"name": "train", "state": "running", "done": 52.0, "total": 240, "unit": "steps", "seconds": 40.0}
    >>> progress_line({**record, "per_second": 1.3, "eta_s": 145.0, "loss": 4.31})
    'train: 52 of 240 steps (22 %), 1.3 steps/s, 2 min 25 s left, loss 4.31'
    """
    done, total, unit, state = record["done"], record["total"], record["unit"], record["state"]
    is_whole = total is None or (state == "finished" and done == total)
    of = "" if is_whole else f" of {total:,.7g}"
    share = "" if is_whole or not total else f" ({percent(done / total, digits=0)})"
    noun = unit.removesuffix("s") if (done if is_whole else total) == 1 else unit
    amount = f"{done:,.7g}{of} {noun}{share}"
    if state == "running":
        parts = [amount, f"{record['per_second']:,.4g} {unit}/s"]
        parts += [f"{duration(record['eta_s'])} left"] if record["eta_s"] is not None else []
    else:
        parts = [f"{amount} in {duration(record['seconds'])}", *(["stopped"] if state == "stopped" else [])]
    figures = _figures({name: value for name, value in record.items() if name not in _OF_PROGRESS})
    return f"{_words(record['name'])}: {', '.join([*parts, *([figures] if figures else [])])}"


def _words(name: str) -> str:
    return name.replace(".", " ").replace("_per_s", "/s").replace("_", " ")


def _figures(figures: Mapping[str, Any]) -> str:
    shown = {name: _counts(value) if name in LOST else _value(value) for name, value in figures.items()}
    return ", ".join(f"{_words(name)} {value}" for name, value in shown.items() if value)


def _counts(value: Any) -> str | None:
    """Return counts by reason as a person reads them; None if there are none.

    >>> _counts({"longer than the context": 58, "no answer": 1, "duplicate.exact": 0})
    '59 (longer than the context 58, no answer 1)'
    """
    found = {reason: count for reason, count in value.items() if count} if isinstance(value, dict) else {}
    if not found:
        return None
    return f"{sum(found.values()):,} ({', '.join(f'{reason} {count:,}' for reason, count in found.items())})"


def _value(value: Any) -> str | None:
    """Return a value as a person reads it; None for nothing, and for what has no place in a line."""
    match value:
        case None | dict():
            return None
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}"
        case list() | tuple():
            flat = [_value(item) for item in value[:MOST_VALUES]]
            return None if not flat or None in flat or len(value) > MOST_VALUES else " ".join(map(str, flat))
        case _:
            return _shortened(str(value))


def _shortened(text: str) -> str:
    """Cut a digest to its first digits, and a text to a line."""
    if text.startswith("sha256:"):
        return text[:19]
    text = visible(text)
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}..."


class _Lines:
    """Writes each event as a line, and each progress as a line now and then."""

    def __init__(self, stream: TextIO, form: Form) -> None:
        self._stream, self._form = stream, form
        self._shown: dict[str, float] = {}

    def show(self, record: Record) -> None:
        try:
            if record["event"] == "progress" and not self._is_due(record):
                return
            if self._form == "json":
                log.write_json(self._stream, record)
            elif record["event"] not in SILENT:
                self._write(progress_line(record) if record["event"] == "progress" else line(record))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def _is_due(self, record: Record) -> bool:
        if record["state"] == "started":
            self._shown[record["name"]] = time.monotonic()
            return self._form == "json"
        if record["state"] == "running":
            if time.monotonic() - self._shown.get(record["name"], 0.0) < INTERVAL_S[self._form]:
                return False
            self._shown[record["name"]] = time.monotonic()
        return True

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
            self._stream.flush()


class _Terminal:
    """Draws progress events as bars and prints the others as lines above them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column
        from rich.text import Text

        class Figures(TextColumn):
            """Gives way first where the terminal is narrow."""

            def render(self, task: Any) -> Text:
                return Text(task.fields["figures"], style="dim", no_wrap=True, overflow="ellipsis")

        def fixed() -> Column:
            return Column(no_wrap=True)

        self._bars: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description}", table_column=fixed()),
            BarColumn(bar_width=8, table_column=fixed()),
            MofNCompleteColumn(table_column=fixed()),
            TextColumn("{task.fields[rate]}", table_column=fixed()),
            TimeRemainingColumn(table_column=fixed()),
            Figures(""),
            console=Console(file=stream),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, record: Record) -> None:
        if record["event"] == "progress":
            self._draw(record)
        elif record["event"] not in SILENT and (text := line(record)):
            self._progress.console.print(text, style="dim", highlight=False, markup=False)

    def _draw(self, record: Record) -> None:
        fields: dict[str, Any] = {
            "rate": f"{record['per_second']:,.4g} {record['unit']}/s",
            "figures": _figures({name: value for name, value in record.items() if name not in _OF_PROGRESS}),
        }
        name = record["name"]
        if record["state"] == "started" or name not in self._bars:
            self._bars[name] = self._progress.add_task(_words(name), total=record["total"], **fields)
        self._progress.update(self._bars[name], completed=record["done"], total=record["total"], **fields)
        if record["state"] == "finished" and record["total"] is None:
            self._progress.update(self._bars[name], total=record["done"])
