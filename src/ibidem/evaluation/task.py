"""What one kind of evaluation tells the gate: its figures, the trials behind them, and what speaks against them.

Each benchmark exports its `TASK`; `gate/tasks.py` lists them, and the gate names no benchmark.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ibidem.evaluation.evidence import Evidence, Metrics
from ibidem.jsonl import Row
from ibidem.sandbox.config import SandboxConfig

Trials = dict[str, float]
Settings = Mapping[str, Any]


class Demand(NamedTuple):
    """What a criterion asks of the evidence beside its figure."""

    metric: str
    metrics: Collection[str]
    """Every figure of this evidence that the policy judges."""
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
    benchmark: Callable[[str], Sequence[Row]]
    """Reads everything that the benchmark at a place says, as JSON rows: they are pinned by digest."""
    asks: Callable[[Row], Any]
    """Returns what a row of the benchmark asks, without its id: no two rows may ask the same."""
    settings: Settings
    """The settings that decide its figures, with their defaults: a policy that names none requires these."""
    places: Settings = field(default_factory=dict)
    """Settings that only say where something is, with their defaults: they decide no figure, and may differ."""
    digests: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    """Settings that name a file or folder, by the function that returns its digest; an evaluation keeps the digest."""
    evaluate: Callable[[Mapping[str, Any]], str] | None = None
    """Evaluates with the given settings, among them the place of the benchmark; None if people are needed."""
    place: str = "problems"
    """The setting of the evaluation that names the benchmark."""
    follows: Callable[[Row, Settings], bool] = lambda _item, _config: True
    """Whether an item's outcome follows from the item's other columns and the settings."""
    differs: Callable[[Evidence, Sequence[Row], Settings], str | None] = lambda _evidence, _rows, _settings: None
    """Says how items differ from the benchmark's: missing, too many, or with another outcome."""
    doubt: Callable[[Evidence, Demand], str | None] = lambda _evidence, _demand: None
    """Says why figures do not count although nobody has edited them."""
    rejudge: Callable[[Evidence, Sequence[Row], Settings, SandboxConfig], list[str]] | None = None
    """Judges the programs again and names the outcomes that are missing or differ; None where there are no programs."""
    is_published: bool = False
    """Whether its problems are at large, so that they may occur in training data."""


def defaults(config: type[Any], *names: str) -> dict[str, Any]:
    """Return the default values of some settings of a configuration, as JSON values."""
    fields = config.__pydantic_fields__
    found = {name: fields[name].get_default(call_default_factory=True) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
