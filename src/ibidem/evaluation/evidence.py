"""Results as sealed evidence: an artifact that names the exact checkpoint, with one row for each judged item.

<output-dir>/results.json    the figures, and what they were measured on
<output-dir>/items.jsonl     one item per line; every figure follows from them, and the gate recomputes it
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibidem import artifacts, jsonl
from ibidem.artifacts import Artifact, Input
from ibidem.errors import ArtifactError, ConfigError
from ibidem.jsonl import Row
from ibidem.records import RESULTS_FILE

KIND = "evaluation"
RESULTS, ITEMS = RESULTS_FILE, "items.jsonl"

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
) -> Artifact:
    """Seal an evaluation; in results.json the metrics follow the task and the checkpoint's digest."""
    digest = next((item.digest for item in inputs if item.role == "checkpoint"), None)
    results = {"task": task, "checkpoint_digest": digest, **metrics, "items": len(items), **notes}
    with artifacts.create(output_dir, kind=KIND, config={"task": task, **config}, inputs=inputs) as draft:
        text = json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False)
        (draft.path / RESULTS).write_text(text + "\n", encoding="utf-8")
        (draft.path / ITEMS).write_text(jsonl.dumps(items), encoding="utf-8")
        draft.counts = {"items": len(items), **metrics}
        draft.rows = {ITEMS: len(items)}
    return artifacts.load(output_dir, kind=KIND)


def finished(output_dir: Path, task: str, *, config: Mapping[str, Any], inputs: Sequence[Input]) -> Artifact | None:
    """Return the evaluation if it was made from these very inputs and settings; otherwise check that it may be written.

    Raises:
        ArtifactError: something that is not an evaluation is there.
        ConfigError: an evaluation of another task is there.
    """
    evaluation = artifacts.finished(output_dir, kind=KIND, config={"task": task, **config}, inputs=inputs)
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
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        items = jsonl.loads((folder / ITEMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: this evaluation cannot be read: {error}") from None
    if not isinstance(results, dict) or not all(isinstance(item, dict) for item in items) or "task" not in results:
        raise ArtifactError(f"{folder}: this is not an evaluation")
    return Evidence(artifact, results, items)


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None if there are no values."""
    return sum(values) / len(values) if values else None
