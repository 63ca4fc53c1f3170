"""Send the figures of evaluations to trackers, beside the result and after it is sealed.

The x axis is the step of the checkpoint, so the evaluations of a run's checkpoints are a curve.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibidem import trackers
from ibidem.config import flattened
from ibidem.evaluation.evidence import Evidence
from ibidem.inference.model_id import ModelId
from ibidem.runs import run_of, step_of
from ibidem.trackers import Point


def track(evaluation: Evidence, names: Sequence[str]) -> None:
    """Send the figures of sealed evidence; its digest, the checkpoint's and the settings are the configuration."""
    if not names:
        return
    artifact, digest = evaluation.artifact, evaluation.checkpoint_digest
    model, step = f"no checkpoint {_short(artifact.digest)}", None
    for each in artifact.inputs:
        if each.role == "checkpoint":
            place = artifact.path.resolve() / each.name
            model, step = name_of(ModelId(place, each.digest, is_checkpoint=each.is_artifact))
    about = {"checkpoint_digest": digest, "digest": artifact.digest, **flattened(artifact.config)}
    send(names, artifact.path.parent, model, evaluation.task, about, [(step, artifact.counts)])


def name_of(model_id: ModelId) -> tuple[str, int | None]:
    """Return run and step of a checkpoint; of any other model its name with its digest, and no step.

    >>> name_of(ModelId(Path("code/small/checkpoints/step-000040"), "sha256:0123456789abcdef", is_checkpoint=True))
    ('code/small', 40)
    >>> name_of(ModelId(Path("models/llama"), "sha256:0123456789abcdef", is_checkpoint=False))
    ('llama 0123456789ab', None)
    """
    step = step_of(model_id.path) if model_id.is_checkpoint else None
    if step is None:
        return f"{model_id.path.name} {_short(model_id.digest)}", None
    run = run_of(model_id.path)
    return Path(run.parent.name, run.name).as_posix(), step


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def send(
    names: Sequence[str],
    folder: Path,
    model: str,
    task: str,
    about: Mapping[str, Any],
    points: Sequence[tuple[int | None, Mapping[str, Any]]],
) -> None:
    """Send the numbers among the values of each step; the configuration is `about`, the task and the last step."""
    numbers = [
        Point(step, {name: value for name, value in values.items() if _is_number(value)}) for step, values in points
    ]
    about = {"task": task, "step": numbers[-1].step, **about}
    trackers.send(names, folder, model=model, task=task, about=about, points=numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
