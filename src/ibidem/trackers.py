"""Trackers: TensorBoard and wandb, to which figures are sent besides the project's own files.

    FOLDER/ibidem/    files of TensorBoard
    FOLDER/wandb/     files of wandb, offline unless WANDB_MODE says otherwise; WANDB_DIR puts them elsewhere

They affect no result: `config.settings` leaves them out, and nothing is written into an artifact.
"""

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from ibidem.config import REPORTED, configuration
from ibidem.errors import ConfigError

PROJECT = "ibidem"
Trackers = Annotated[tuple[Literal["tensorboard", "wandb"], ...], REPORTED]


@configuration
class TrackersConfig:
    """Where an evaluation sends its figures."""

    trackers: Trackers = ()
    """Where to send the figures besides the result, also those of a result that was finished before; wandb stays
    offline unless WANDB_MODE says otherwise."""


class Point(NamedTuple):
    """Figures at one place of the x axis."""

    step: int | None
    """The step of a checkpoint; None if the model has none."""
    figures: Mapping[str, float]


def check(trackers: Sequence[str]) -> None:
    """Fail if a tracker is not installed.

    Raises:
        ConfigError: it is not.
    """
    for name in trackers:
        try:
            metadata.distribution(name)  # a folder named wandb, which wandb itself leaves, would pass for the module
        except metadata.PackageNotFoundError:
            raise ConfigError(f"trackers: {name} is not installed; pip install -c constraints.txt {name}") from None


def wandb_options(folder: Path) -> dict[str, Any]:
    """Return where and how wandb keeps the files of a run, as arguments of `wandb.init`."""
    return {"dir": os.environ.get("WANDB_DIR", str(folder)), "mode": os.environ.get("WANDB_MODE", "offline")}


def plain(values: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return values as trackers keep them: what is neither a number nor a text becomes a text.

    >>> plain({"lr": 0.1, "k": [1, 10], "limit": None})
    {'lr': 0.1, 'k': '[1, 10]', 'limit': 'None'}
    """
    return {key: value if isinstance(value, str | int | float | bool) else str(value) for key, value in values.items()}


def send(
    trackers: Sequence[str],
    folder: Path,
    *,
    model: str,
    task: str,
    about: Mapping[str, Any],
    points: Sequence[Point],
) -> None:
    """Send figures to the trackers, as TASK/FIGURE.

    Args:
        trackers: names of the trackers.
        folder: where their files are kept.
        model: what the points are of; checkpoints of one run share it. TensorBoard shows one curve for it, in wandb it
            is the group of the run.
        task: name of the evaluation.
        about: configuration of the evaluation.
        points: figures in the order of the steps.
    """
    named = [Point(step, {f"{task}/{name}": value for name, value in figures.items()}) for step, figures in points]
    if "tensorboard" in trackers:
        _send_to_tensorboard(folder / PROJECT / model, plain(about), named)
    if "wandb" in trackers:
        _send_to_wandb(folder, model, task, plain(about), named)


def _send_to_tensorboard(folder: Path, about: Mapping[str, Any], points: Sequence[Point]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    *earlier, last = points
    with SummaryWriter(folder) as writer:
        for step, figures in earlier:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
        writer.add_hparams(dict(about), dict(last.figures), run_name=".", global_step=last.step)


def _send_to_wandb(folder: Path, model: str, task: str, about: Mapping[str, Any], points: Sequence[Point]) -> None:
    import wandb

    settings = wandb.Settings(console="off")
    options = wandb_options(folder)
    with wandb.init(
        project=PROJECT,
        group=model,
        job_type=task,
        config=dict(about),
        settings=settings,
        reinit="create_new",
        **options,
    ) as run:
        for step, figures in points:
            run.log(dict(figures), step=step)
