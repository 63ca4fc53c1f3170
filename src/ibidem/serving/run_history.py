"""A run of training, read back: its newest checkpoint, what that was made from, and its history from the events."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.errors import ArtifactError
from ibidem.lineage import walk
from ibidem.modeling.checkpoint import INITIAL, has_weights
from ibidem.page import Point
from ibidem.readers import check_reader
from ibidem.runs import folder_of, steps_of

WORK = {
    "train.step",
    "train.measured",
    "train.sample",
    "checkpoint.saved",
}
"""Events whose timestamps show how long a run was active."""
DATA = "data"
"""Role of what an alignment is trained on among a checkpoint's inputs."""
STAGES = {"dataset": "Preprocessing", "tokenizer": "Training the tokenizer", "tokens": "Tokenizing the corpus"}

Record = dict[str, Any]


@dataclass
class History:
    """The history of a run from its events; where a resumed run repeats a step, the later events count."""

    rows: dict[tuple[str, int, str], Record] = field(default_factory=dict)
    """Events by name, step and prompt."""
    refused: list[Record] = field(default_factory=list)
    no_samples: str | None = None
    """Why prompts were not completed."""
    parameters: int | None = None
    sessions: int = 0
    seconds: float = 0.0

    def curve(self, event: str, key: str) -> list[Point]:
        """Return the finite values of a figure by step."""
        rows = sorted((step, row.get(key)) for (name, step, _), row in self.rows.items() if name == event)
        return [(step, value) for step, value in rows if isinstance(value, int | float) and math.isfinite(value)]

    def keys(self, event: str) -> list[str]:
        """Return the names of all figures of an event, in order."""
        return sorted({key for (name, _, _), row in self.rows.items() if name == event for key in row})

    def completions(self, prompt: str) -> dict[int, str]:
        """Return the completions of a prompt by step."""
        rows = (
            (step, row) for (name, step, other), row in self.rows.items() if (name, other) == ("train.sample", prompt)
        )
        return {step: str(row.get("completion", "")) for step, row in sorted(rows, key=lambda item: item[0])}

    @property
    def prompts(self) -> list[str]:
        """The prompts, in order."""
        return list(dict.fromkeys(prompt for name, _, prompt in self.rows if name == "train.sample"))


@dataclass(frozen=True)
class Run:
    """A run's newest checkpoint, what it was made from, and its history."""

    folder: Path
    checkpoint: Artifact
    history: History
    torn: int
    """Number of lines of events.jsonl that are not whole events."""

    @cached_property
    def lineage(self) -> list[tuple[int, str, Input | Artifact]]:
        """The lineage of the checkpoint, as `lineage.walk` returns it."""
        return walk(self.checkpoint.path)

    @cached_property
    def stages_before(self) -> "list[Run]":
        """The runs from whose weights this one began, the first one first, as far as they are here."""
        initial = next((item for item in self.checkpoint.inputs if item.role == INITIAL), None)
        parents = [node for depth, _, node in self.lineage if depth == 1 and isinstance(node, Artifact)]
        parent = next((node for node in parents if initial is not None and node.digest == initial.digest), None)
        if parent is None:
            return []
        check_reader(parent)
        folder = parent.path.parent.parent
        try:
            events, torn = read_events(folder / log.EVENTS)
        except ArtifactError:
            return []
        before = Run(folder, parent, history_of(events), torn)
        return [*before.stages_before, before]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.resolve().name

    @property
    def tuned_on(self) -> Artifact | None:
        """What an alignment was trained on: a dataset, or problems; None if it is not here, or this is no alignment."""
        digests = {item.digest for item in self.checkpoint.inputs if item.role == DATA}
        made_from = (node for _, _, node in self.lineage if isinstance(node, Artifact))
        return next((node for node in made_from if node.digest in digests), None)

    def find(self, kind: str) -> Artifact | None:
        """Return the first artifact of a kind that the checkpoint was made from, or None."""
        return next(iter(self.find_all(kind)), None)

    def find_all(self, kind: str) -> list[Artifact]:
        """Return all artifacts of a kind that the checkpoint was made from, each once."""
        matches = (node for _, _, node in self.lineage if isinstance(node, Artifact) and node.kind == kind)
        return list({artifact.digest: artifact for artifact in matches}.values())

    @cached_property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage whose artifact is available."""
        made = {name: artifact.volatile for kind, name in STAGES.items() if (artifact := self.find(kind))}
        before = {f"Training {run.name}": run.history.seconds for run in self.stages_before}
        last = f"Training {self.name}" if before else "Training the model"
        return {name: float(volatile.get("seconds", 0)) for name, volatile in made.items()} | {
            **before,
            last: self.history.seconds,
        }


def open_run(folder: Path) -> Run:
    """Read a run's events and its newest checkpoint.

    Raises:
        AccessDenied: it was tuned on documents, and the user is not among their readers.
        ArtifactError: there are no events, or no checkpoint with a valid manifest.
    """
    events, torn = read_events(folder / log.EVENTS)
    for path in (folder_of(folder, step) for step in steps_of(folder)):
        try:
            found = artifacts.load(path)
        except ArtifactError as error:
            log.event("report.skipped", path=str(path), reason=str(error))
            continue
        if not has_weights(found.files):
            raise ArtifactError(f"{path}: {artifacts.with_article(found.kind)}, not a checkpoint of a run")
        check_reader(found)
        return Run(folder, found, history_of(events), torn)
    raise ArtifactError(f"{folder / 'checkpoints'}: no whole checkpoint here; ibidem train writes them")


def history_of(events: Iterable[Record]) -> History:
    """Sort events into a history; steps that a resumed run repeats are dropped."""
    history = History()
    before = 0.0
    for record in events:
        name, step = record["event"], record.get("step")
        if name == "train.started" and isinstance(step, int):
            history.rows = {key: row for key, row in history.rows.items() if key[1] <= step}
            history.sessions += 1
            history.parameters = record.get("parameters", history.parameters)
            before = record["time"]
        elif name in WORK and history.sessions:
            history.seconds += max(0.0, record["time"] - before)
            before = record["time"]
        elif name == "checkpoint.refused":
            history.refused.append(record)
        elif name == "train.no_samples":
            history.no_samples = record.get("reason")
        if name in WORK and isinstance(step, int):
            history.rows[name, step, str(record.get("prompt", ""))] = record
    return history


def read_events(path: Path) -> tuple[list[Record], int]:
    """Read the events of a run; return them, and the number of lines that are not whole events.

    Raises:
        ArtifactError: there are none.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; give the folder of a run of ibidem train") from None
    events = [record for line in lines if (record := _event(line)) is not None]
    if not events:
        raise ArtifactError(f"{path}: no events in it; give the folder of a run of ibidem train")
    return events, len(lines) - len(events)


def _event(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:  # a killed run leaves a torn line
        return None
    whole = isinstance(record, dict) and "event" in record and isinstance(record.get("time"), int | float)
    return record if whole else None
