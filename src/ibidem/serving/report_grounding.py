"""The report's section about a grounding head: its held-out questions by the kind of their answer."""

from collections.abc import Sequence
from pathlib import Path

from ibidem import log
from ibidem.errors import ConfigError
from ibidem.figures import percent
from ibidem.page import Html, join, table, tag
from ibidem.serving.run_history import read_events

Kind = dict[str, float | int | str]
_FIGURES = ("questions", "wins", "wins_at_least", "wins_at_most", "proximity_wins")


def read_kinds(run: Path) -> list[Kind]:
    """Read the figures of each kind of answer in the events of a head's run; the last event of each kind counts.

    Raises:
        ArtifactError: the folder is no run.
        ConfigError: the run has no such events: it is of another training, or not finished.
    """
    found = {
        str(row.get("kind")): row
        for row in read_events(run / log.EVENTS)[0]
        if row["event"] == "head.kind" and all(isinstance(row.get(name), int | float) for name in _FIGURES)
    }
    if not found:
        raise ConfigError(f"head {run}: no finished run of ibidem train-head")
    return list(found.values())


def kinds_as_text(run: Path) -> str:
    """Return the same as `grounding`, as lines for a terminal."""
    lines = [
        f"{row['kind']:8} {row['questions']:>9,}  {_interval(row):28} {percent(float(row['proximity_wins']), 1):>9}"
        for row in read_kinds(run)
    ]
    return "\n".join([f"{'answer':8} {'questions':>9}  {'head, with 95 % interval':28} {'proximity':>9}", *lines])


def grounding(kinds: Sequence[Kind]) -> Html:
    """Show how often the head ranks the right span of a passage above all others of its kind."""
    note = (
        "Held-out questions, made from sentences of the documents: the right answer has to be above every other one of "
        "its kind in the same passage. Proximity needs no model: the question's rarer words are nearer to the answer."
    )
    rows = [
        (
            str(row["kind"]),
            f"{row['questions']:,}",
            _interval(row),
            percent(float(row["proximity_wins"]), 1),
        )
        for row in kinds
    ]
    header = ("Answer", "Questions", "Head (95 % interval)", "Proximity")
    return join(tag("p", note, cls="note"), table(header, rows))


def _interval(row: Kind) -> str:
    wins, low, high = (percent(float(row[name]), 1) for name in ("wins", "wins_at_least", "wins_at_most"))
    return f"{wins} ({low} to {high})"
