"""Checkpoints of a run: verified before it resumes from one, and removed when there are too many."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file

from ibidem import artifacts, log, places, remote
from ibidem.errors import AccessDenied, ArtifactError, CheckpointError
from ibidem.files import hidden
from ibidem.modeling.checkpoint import KIND, verified, weights_of
from ibidem.modeling.tensor_files import files_of, opened
from ibidem.runs import folder_of, newest, step_of, steps_of
from ibidem.training import snapshot
from ibidem.training.loop import Learner
from ibidem.training.objective import ObjectiveState
from ibidem.training.processes import main_process_first

OPTIMIZER = "optimizer"
PROGRESS = "progress.json"
LATEST = Path("latest")
OBJECTIVE_TENSORS, OBJECTIVE_VALUES = "objective.safetensors", "objective.json"


def random_states_file(process: int) -> str:
    """Return the name of the file with a process's random states."""
    return f"random_states_{process}.json"


def load(accelerator: Accelerator, learner: Learner, checkpoint: artifacts.Artifact) -> None:
    """Restore weights, optimizer, random states and guard, however the run was divided that saved them.

    Raises:
        CheckpointError: the checkpoint is of another version, optimizer or model.
    """
    progress, folder = _progress(checkpoint), checkpoint.path
    if not {"optimizer", "guard", "processes"} <= progress.keys():
        raise CheckpointError(
            f"{folder} was saved by another version of ibidem, whose states are pickles, which are not read: "
            "start a new run from its weights with --initial"
        )
    if (mine := snapshot.optimizer_name(learner)) != progress["optimizer"]:
        raise CheckpointError(
            f"{folder}: the states are those of {progress['optimizer']}, and this run has {mine}: keep optim.name, "
            "or start a new run from its weights with --initial"
        )
    try:
        with weights_of(folder) as weights, opened(files_of(folder, OPTIMIZER)) as states:
            if learner.adapters is None:
                snapshot.restore_weights(learner, weights)
            else:
                learner.adapters.restore(folder, weights)
            snapshot.restore_optimizer(learner, states)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: its weights are not those of this run's model ({error}); resume with the settings that it was "
            "trained with (contrast.weight: 0, or not), or start a new run from its weights with --initial"
        ) from None
    _restore_random_states(accelerator, folder, progress["processes"])
    learner.guard.restore(progress["guard"])


def _restore_random_states(accelerator: Accelerator, folder: Path, processes: int) -> None:
    """Restore this process's random states; another number of processes begins with those of the seed."""
    if processes != accelerator.num_processes:
        reason = f"{folder} was saved by {processes}, and {accelerator.num_processes} go on: what dropout draws differs"
        log.event("train.processes_changed", reason=reason)
        return
    text = (folder / random_states_file(accelerator.process_index)).read_text(encoding="utf-8")
    snapshot.restore_random_states(json.loads(text))


def _progress(checkpoint: artifacts.Artifact) -> dict[str, Any]:
    if PROGRESS not in checkpoint.files:  # ibidem import wrote it
        raise CheckpointError(f"{checkpoint.path}: no training is to be resumed; start one from it with --initial")
    return dict(json.loads((checkpoint.path / PROGRESS).read_text(encoding="utf-8")))


def read_objective(checkpoint: artifacts.Artifact) -> ObjectiveState:
    """Read the objective's state in a checkpoint; empty if it has none."""
    tensors, values = checkpoint.path / OBJECTIVE_TENSORS, checkpoint.path / OBJECTIVE_VALUES
    return ObjectiveState(
        load_file(tensors) if tensors.exists() else {},
        json.loads(values.read_text(encoding="utf-8")) if values.exists() else {},
    )


def write_objective(folder: Path, objective: ObjectiveState) -> None:
    """Write the objective's state, if it has any."""
    if objective.tensors:
        save_file({name: tensor.contiguous() for name, tensor in objective.tensors.items()}, folder / OBJECTIVE_TENSORS)
    if objective.values:
        text = json.dumps(objective.values, ensure_ascii=False, allow_nan=False, sort_keys=True)
        (folder / OBJECTIVE_VALUES).write_text(text + "\n", encoding="utf-8")


def prune(run: Path, keep_last: int, but: Path | None = None) -> None:
    """Remove all but the newest checkpoints, and one that is still needed."""
    for folder in (folder_of(run, step) for step in steps_of(run)[keep_last:]):
        if folder != but:
            removed = hidden(folder, "partial")  # a kill leaves no half of a checkpoint
            folder.rename(removed)
            shutil.rmtree(removed)


def find(
    accelerator: Accelerator,
    run: Path,
    resume_from: Path | str | None,
    kind: str = KIND,
    *,
    principal: str | None = None,
) -> artifacts.Artifact | None:
    """Choose the checkpoint to resume from, on the main process, for all; None to start from scratch.

    Args:
        accelerator: the processes.
        run: the run's folder.
        resume_from: `latest`, a checkpoint or a run; or a URL with copies.
        kind: kind of the artifacts.
        principal: who opens them; None: the user who runs the program.

    Raises:
        AccessDenied: the run was tuned on documents, and the principal is not among their readers.
        CheckpointError: the named checkpoint is damaged, all of them are, or a new run would replace old ones.
    """
    chosen: list[Any] = [None]
    with main_process_first(accelerator):  # to fetch and to hash may take longer than a step
        if accelerator.is_main_process:
            try:
                chosen = [_find(run, resume_from, kind, principal)]
            except (CheckpointError, AccessDenied) as error:
                chosen = [error]
    chosen = broadcast_object_list(chosen)
    if isinstance(chosen[0], Exception):
        raise chosen[0]
    return None if chosen[0] is None else artifacts.load(chosen[0], kind=kind)


def steps_done(checkpoint: artifacts.Artifact) -> int:
    """Return the number of steps that a checkpoint was trained for."""
    return int(_progress(checkpoint)["step"])


def check_resume(run: Path, resume_from: Path | str | None, kind: str = KIND) -> None:
    """Check, without reading any weights, that a run can begin, or resume from a checkpoint.

    Raises:
        CheckpointError: there is no such checkpoint, or a new run would replace old ones.
    """
    if isinstance(resume_from, str):
        places.opened(resume_from)
    elif resume_from is not None and resume_from != LATEST:
        try:
            artifacts.load(newest(resume_from), kind=kind)
        except ArtifactError as error:
            raise CheckpointError(f"checkpoint refused: {error}") from None
    if resume_from is None and (steps := steps_of(run)):
        raise CheckpointError(
            f"{run} has checkpoints up to step {steps[0]}; resume with --training.resume-from latest, "
            "or choose another --output-dir"
        )


def _find(run: Path, resume_from: Path | str | None, kind: str, principal: str | None) -> Path | None:
    check_resume(run, resume_from, kind)
    if resume_from is None:
        return None
    if isinstance(resume_from, str):
        return _here_or_there(run, resume_from, kind, principal)
    if resume_from != LATEST:
        return verified(newest(resume_from), kind, principal=principal).path
    return _latest(run, kind, principal)


def _here_or_there(run: Path, url: str, kind: str, principal: str | None) -> Path | None:
    """Return the newest intact checkpoint of a run, or of its copies if they have a later one."""
    own, damaged, in_the_way = None, None, list[int]()
    try:
        own = _latest(run, kind, principal)
    except CheckpointError as error:
        damaged, in_the_way = error, steps_of(run)
    step = None if own is None else step_of(own)
    # not before there is something in their place: the next start would take the run for one that has not begun
    make_way = partial(_set_aside, run, in_the_way, "damaged")
    fetched = remote.fetch(url, run, kind, beyond=-1 if step is None else step, make_way=make_way)
    if fetched is None and damaged is not None:
        raise damaged
    return own if fetched is None else verified(fetched, kind, principal=principal).path


def _latest(run: Path, kind: str, principal: str | None) -> Path | None:
    steps, refused = steps_of(run), list[CheckpointError]()
    for step in steps:
        try:
            checkpoint = verified(folder_of(run, step), kind, principal=principal)
        except CheckpointError as error:
            refused.append(error)
            log.event("checkpoint.refused", step=step, reason=str(error))
            continue
        _set_aside(run, [other for other in steps if other > step], "damaged")
        return checkpoint.path
    if refused:
        raise CheckpointError(f"no checkpoint in {run} is intact; {refused[0]}; move them away to start again")
    return None


def supersede(accelerator: Accelerator, run: Path, start: int) -> None:
    """Put the checkpoints aside that a run has after the step from which it goes on."""
    if accelerator.is_main_process:
        _set_aside(run, [step for step in steps_of(run) if step > start], "superseded")
    accelerator.wait_for_everyone()


def _set_aside(run: Path, steps: Sequence[int], why: str) -> None:
    """Rename checkpoints after the one resumed from, so that their steps can be saved again and nothing is lost."""
    for step in steps:
        folder = folder_of(run, step)
        number = 0
        while (target := folder.with_name(f"{why}-{number}-{folder.name}")).exists():
            number += 1
        folder.rename(target)
        log.event("checkpoint.set_aside", path=str(target))
