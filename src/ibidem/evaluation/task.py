"""What one kind of evaluation tells the gate: its figures, the trials behind them, and what speaks against them.

Each benchmark exports its `TASK`; `gate/tasks.py` lists them, and the gate names no benchmark.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ibidem.artifacts import Input
from ibidem.evaluation.config import SandboxConfig
from ibidem.evaluation.evidence import Evidence, Metrics
from ibidem.jsonl import Row

Trials = dict[str, float]


class Demand(NamedTuple):
    """What a criterion asks of the evidence beside its figure."""

    metric: str
    least_agreement: float
    """Krippendorff's alpha of the raters."""
    least_calibration: float
    """How often an entailment judge must agree with people."""


@dataclass(frozen=True)
class Task:
    """One kind of evaluation."""

    name: str
    """As in `ibidem evaluate NAME`."""
    key: tuple[str, ...]
    """Columns that identify an item."""
    measure: Callable[[Evidence], Metrics]
    """Counts its figures from the items."""
    trials: Callable[[Sequence[Row], str], Trials | None]
    """Returns the scores whose mean a figure is, by item; None if it has no such figure."""
    benchmark: Callable[[str], list[Input]]
    """Names the files that it may be made of, by the place of the benchmark."""
    follows: Callable[[Row, Mapping[str, Any]], bool] = lambda _item, _config: True
    """Whether an item's outcome follows from the item's other columns and the settings."""
    differs: Callable[[Evidence, str], str | None] = lambda _evidence, _place: None
    """Names an item that only the benchmark or only the evaluation has, or that has another answer there."""
    doubt: Callable[[Evidence, Demand], str | None] = lambda _evidence, _demand: None
    """Says why figures do not count although nobody has edited them."""
    rejudge: Callable[[Evidence, str, SandboxConfig], list[str]] | None = None
    """Judges the programs again and names the outcomes that are missing or differ; None where there are no programs."""
    is_published: bool = False
    """Whether its problems are at large, so that they may occur in training data."""
