"""Results as sealed evidence: an artifact that names the exact checkpoint, with one row for each judged item.

<output-dir>/results.json    the figures, and what they were measured on
<output-dir>/items.jsonl     one item per line; every figure follows from them, and the gate recomputes it
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibidem import artifacts, jsonl, log
from ibidem.artifacts import Artifact, Input
from ibidem.errors import ArtifactError, ConfigError, DigestMismatch
from ibidem.evaluation import resume
from ibidem.figures import counted
from ibidem.jsonl import Row
from ibidem.records import ITEMS_FILE, RESULTS_FILE

KIND = "evaluation"
RESULTS, ITEMS = RESULTS_FILE, ITEMS_FILE

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Evidence:
    """One evaluation, read from its folder."""

    artifact: Artifact
    results: Row
    items: list[Row]

    @property
    def task(self) -> str:
        return str(self.results["task"])

    @property
    def checkpoint_digest(self) -> str | None:
        """The evaluated checkpoint, according to the manifest."""
        return self.artifact.digest_of("checkpoint")


def write(
    output_dir: Path,
    task: str,
    *,
    config: Mapping[str, Any],
    inputs: Sequence[Input],
    items: Sequence[Row],
    metrics: Metrics,
    notes: Mapping[str, Any],
    trials: Callable[[Sequence[Row], str], Mapping[str, float] | None] | None = None,
) -> Artifact:
    """Seal an evaluation; in results.json the metrics follow the task and the checkpoint's digest.

    `trials` returns the scores whose mean a metric is: results.json has their number, from which its bounds follow.
    """
    digest = next((item.digest for item in inputs if item.role == "checkpoint"), None)
    results = {"task": task, "checkpoint_digest": digest, **metrics, "items": len(items), **notes}
    if trials is not None:
        results["trials"] = {metric: len(scores) for metric in metrics if (scores := trials(items, metric)) is not None}
    is_private = any(item.role == "index" for item in inputs)  # its answers are those of private documents
    chosen = {"task": task, **config}
    with artifacts.create(output_dir, kind=KIND, config=chosen, inputs=inputs, is_private=is_private) as draft:
        text = json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False)
        (draft.path / RESULTS).write_text(text + "\n", encoding="utf-8")
        (draft.path / ITEMS).write_text(jsonl.dumps(items), encoding="utf-8")
        draft.counts = {"items": len(items), **metrics}
        draft.rows, draft.mark = {ITEMS: len(items)}, resume.mark
    return artifacts.load(output_dir, kind=KIND)


def finished(output_dir: Path, task: str, *, config: Mapping[str, Any], inputs: Sequence[Input]) -> Artifact | None:
    """Return the evaluation if this user made it from these inputs and settings; else check that it may be written.

    Raises:
        ArtifactError: something that is not an evaluation is there.
        ConfigError: an evaluation of another task is there.
    """
    evaluation = resume.finished(output_dir, kind=KIND, config={"task": task, **config}, inputs=inputs)
    if evaluation is None:
        artifacts.check_replaceable(output_dir, KIND)
        with suppress(ArtifactError):
            other = artifacts.load(output_dir, kind=KIND).config.get("task")
            if other != task:
                raise ConfigError(f"output_dir {output_dir} holds an evaluation of {other}; choose another folder")
    return evaluation


def read(folder: Path) -> Evidence:
    """Read an evaluation and verify all its files.

    Raises:
        ArtifactError: it is not an evaluation.
        DigestMismatch: it was damaged or edited.
    """
    artifact = artifacts.verify(folder, kind=KIND)
    try:
        results = json.loads(_sealed(artifact, RESULTS))
        items = jsonl.loads(_sealed(artifact, ITEMS).decode())
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise ArtifactError(f"{folder}: this evaluation cannot be read: {error}") from None
    if not isinstance(results, dict) or not all(isinstance(item, dict) for item in items) or "task" not in results:
        raise ArtifactError(f"{folder}: this is not an evaluation")
    if not is_contamination(results.get("contamination")):
        raise ArtifactError(f"{folder}: what it says about contamination is malformed")
    return Evidence(artifact, results, items)


def _sealed(artifact: Artifact, name: str) -> bytes:
    """Read a file of an artifact, whose bytes are compared with the manifest as they are read."""
    data = (artifact.path / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != artifact.files[name].sha256:
        raise DigestMismatch(f"{artifact.path / name}: it changed while it was read")
    return data


def discard(output_dir: Path) -> None:
    """Delete the evaluation at `output_dir`, and what interrupted runs left of it.

    Raises:
        ArtifactError: something that is not an evaluation is there.
    """
    artifacts.check_replaceable(output_dir, KIND)
    if output_dir.exists():
        log.event("evaluate.discarded", path=str(output_dir), reason="it is made anew, from nothing")
    artifacts.discard(output_dir)


def is_contamination(said: object) -> bool:
    """Return whether a value is what `contamination.look` returns: None, or what was searched and found."""
    if said is None:
        return True
    counts = ("documents", "problems")
    return (
        isinstance(said, dict)
        and all(type(said.get(name)) is int and said[name] >= 0 for name in counts)
        and isinstance(said.get("found"), dict)
        and said["problems"] == len(said["found"])
    )


def part(limit: int | None, total: int) -> dict[str, int]:
    """Return what results.json says of an evaluation with a limit; empty if all of the benchmark is within it.

    >>> part(10, 164), part(200, 164), part(None, 164)
    ({'limit': 10, 'of': 164}, {}, {})
    """
    return {"limit": limit, "of": total} if limit is not None and limit < total else {}


def extent(results: Mapping[str, Any], number: int, noun: str) -> str:
    """Write how many items were evaluated, and of how many if there was a limit.

    >>> extent({}, 164, "problem"), extent({"limit": 1, "of": 164}, 1, "problem")
    ('164 problems', 'the first 1 of 164 problems')
    """
    return f"the first {number:,} of {counted(results['of'], noun)}" if "limit" in results else counted(number, noun)


def benchmark_digest(rows: Iterable[Any]) -> str:
    """Return the digest of what a benchmark says, whatever kind of file says it."""
    return jsonl.digest(rows)


def benchmark_input(rows: Iterable[Any], name: str, role: str = "benchmark") -> Input:
    """Return a benchmark as an input, identified by what it says."""
    return Input(role, benchmark_digest(rows), name, is_artifact=False)


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None if there are no values."""
    return sum(values) / len(values) if values else None
