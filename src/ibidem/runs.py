"""The folder of a run of training: `checkpoints/step-000040/`, and which of them is the newest."""

import re
from pathlib import Path

from ibidem import artifacts

CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"step-(\d{6,})")


def folder_of(run: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint in a run.

    >>> folder_of(Path("run"), 40).as_posix()
    'run/checkpoints/step-000040'
    """
    return run / CHECKPOINTS / f"step-{step:06d}"


def steps_of(run: Path) -> list[int]:
    """Return the steps that have a checkpoint folder, newest first, intact or not."""
    steps = (step_of(path) for path in (run / CHECKPOINTS).glob("step-*"))
    return sorted((step for step in steps if step is not None), reverse=True)


def step_of(folder: Path) -> int | None:
    """Read the step in the name of a checkpoint's folder; None if it has another name.

    >>> step_of(Path("run/checkpoints/step-000040")), step_of(Path("run/damaged-0-step-000040"))
    (40, None)
    """
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match else None


def run_of(checkpoint: Path) -> Path:
    """Return the run of a checkpoint's folder; of a copy elsewhere, the folder that it is in.

    >>> run_of(Path("run/checkpoints/step-000040")).name, run_of(Path("copies/step-000040")).name
    ('run', 'copies')
    """
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def newest(path: Path) -> Path:
    """Return the newest checkpoint of a run's folder; any other path as it is."""
    steps = [] if (path / artifacts.MANIFEST).exists() else steps_of(path)
    return folder_of(path, steps[0]) if steps else path
