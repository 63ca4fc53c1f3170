"""Checkpoints of a run: saved atomically, and verified before a run resumes from them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ibidem import artifacts, log
from ibidem.artifacts import Input
from ibidem.errors import AccessDenied, ArtifactError, CheckpointError
from ibidem.modeling.checkpoint import KIND, TOKENIZER_DIR, verified
from ibidem.readers import readers_of
from ibidem.runs import folder_of, newest, steps_of
from ibidem.training import sharding
from ibidem.training.loop import Learner
from ibidem.training.objective import ObjectiveState

NEARLY_FULL_BYTES = 16 << 20
PROGRESS = "progress.json"
LATEST = Path("latest")
OBJECTIVE_TENSORS, OBJECTIVE_VALUES = "objective.safetensors", "objective.json"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint contains besides weights and optimizer."""

    kind: str
    """Of the artifact."""
    config: Mapping[str, Any]
    inputs: Sequence[Input]
    tokenizer_dir: Path | None
    step: int
    figures: Mapping[str, float]
    objective: ObjectiveState


def save(accelerator: Accelerator, learner: Learner, folder: Path, saved: Saved) -> None:
    """Save weights, optimizer, random states and the objective's state, on all processes, as one artifact.

    Raises:
        CheckpointError: the disk is full; earlier checkpoints are as they were.
    """
    if not accelerator.is_main_process:
        _save_state(accelerator, learner, _agree(None))
        accelerator.wait_for_everyone()  # until the main process has sealed it
        return
    is_private = readers_of(saved.config) is not None
    with artifacts.create(
        folder, kind=saved.kind, config=saved.config, inputs=saved.inputs, is_private=is_private
    ) as draft:
        _save_state(accelerator, learner, _agree(str(draft.path)))
        _write_objective(draft.path, saved.objective)
        if saved.tokenizer_dir is not None:
            shutil.copytree(saved.tokenizer_dir, draft.path / TOKENIZER_DIR)
        progress = {"step": saved.step, "guard": learner.guard.state(), "sharded": sharding.is_requested()}
        (draft.path / PROGRESS).write_text(json.dumps(progress) + "\n", encoding="utf-8")
        draft.counts |= {"step": saved.step, **saved.figures}
    accelerator.wait_for_everyone()
    log.event("checkpoint.saved", step=saved.step, path=str(folder))


def load(accelerator: Accelerator, learner: Learner, checkpoint: artifacts.Artifact) -> None:
    """Restore weights, optimizer, random states and guard.

    Raises:
        CheckpointError: one run is sharded and the other is not, or one has a head and the other has not.
    """
    progress = _progress(checkpoint)
    if not {"sharded", "guard"} <= progress.keys():
        raise CheckpointError(
            f"{checkpoint.path} was saved by another version of ibidem: start a new run from its data and tokenizer"
        )
    if progress["sharded"] != sharding.is_requested():
        saved, now = ("FSDP", "without") if progress["sharded"] else ("one process or DDP", "with FSDP")
        raise CheckpointError(
            f"{checkpoint.path} was saved by {saved}, and this run is {now}: "
            "start it the same way, or start a new run from its weights with --initial"
        )
    try:
        accelerator.load_state(str(checkpoint.path))
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise CheckpointError(
            f"{checkpoint.path}: its weights are not those of this run's model; resume with the settings that it was "
            "trained with (contrast.weight: 0, or not), or start a new run from its weights with --initial"
        ) from None
    if sharding.is_requested():
        sharding.load(learner.model, learner.optimizer, checkpoint.path)
    learner.guard.restore(progress["guard"])


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


def _write_objective(folder: Path, objective: ObjectiveState) -> None:
    if objective.tensors:
        save_file({name: tensor.contiguous() for name, tensor in objective.tensors.items()}, folder / OBJECTIVE_TENSORS)
    if objective.values:
        text = json.dumps(objective.values, ensure_ascii=False, allow_nan=False, sort_keys=True)
        (folder / OBJECTIVE_VALUES).write_text(text + "\n", encoding="utf-8")


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest checkpoints."""
    for step in steps_of(run)[keep_last:]:
        shutil.rmtree(folder_of(run, step))


def find(
    accelerator: Accelerator, run: Path, resume_from: Path | None, kind: str = KIND, *, principal: str | None = None
) -> artifacts.Artifact | None:
    """Choose the checkpoint to resume from, on the main process, for all; None to start from scratch.

    Args:
        accelerator: the processes.
        run: the run's folder.
        resume_from: `latest`, a checkpoint or a run.
        kind: kind of the artifacts.
        principal: who opens them; None: the user who runs the program.

    Raises:
        AccessDenied: the run was tuned on documents, and the principal is not among their readers.
        CheckpointError: the named checkpoint is damaged, all of them are, or a new run would replace old ones.
    """
    chosen: list[Any] = [None]
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


def check_resume(run: Path, resume_from: Path | None, kind: str = KIND) -> None:
    """Check, without reading any weights, that a run can begin, or resume from a checkpoint.

    Raises:
        CheckpointError: there is no such checkpoint, or a new run would replace old ones.
    """
    if resume_from is not None and resume_from != LATEST:
        try:
            artifacts.load(newest(resume_from), kind=kind)
        except ArtifactError as error:
            raise CheckpointError(f"checkpoint refused: {error}") from None
    if resume_from is None and (steps := steps_of(run)):
        raise CheckpointError(
            f"{run} has checkpoints up to step {steps[0]}; resume with --training.resume-from latest, "
            "or choose another --output-dir"
        )


def _find(run: Path, resume_from: Path | None, kind: str, principal: str | None) -> Path | None:
    check_resume(run, resume_from, kind)
    steps = steps_of(run)
    if resume_from is None:
        return None
    if resume_from != LATEST:
        checkpoint = verified(newest(resume_from), kind, principal=principal)
        _set_aside(run, [step for step in steps if step > steps_done(checkpoint)], "superseded")
        return checkpoint.path
    refused: list[CheckpointError] = []
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


def _set_aside(run: Path, steps: Sequence[int], why: str) -> None:
    """Rename checkpoints after the one resumed from, so that their steps can be saved again and nothing is lost."""
    for step in steps:
        folder = folder_of(run, step)
        number = 0
        while (target := folder.with_name(f"{why}-{number}-{folder.name}")).exists():
            number += 1
        folder.rename(target)
        log.event("checkpoint.set_aside", path=str(target))


def _save_state(accelerator: Accelerator, learner: Learner, path: str) -> None:
    """Save every process's part; sharded weights are also gathered into the single file that other stages read."""
    try:
        accelerator.save_state(path)
        if sharding.is_requested():
            sharding.save(learner.model, learner.optimizer, Path(path))
    except (RuntimeError, SafetensorError) as error:  # torch and safetensors do not say that the disk is full
        free = shutil.disk_usage(Path(path).parent).free
        if free > NEARLY_FULL_BYTES and isinstance(error, RuntimeError):
            raise
        why = f"the disk is full ({free:,} bytes free)" if free <= NEARLY_FULL_BYTES else str(error)
        raise CheckpointError(
            f"{Path(path).parent}: {why}, so the checkpoint was not saved; "
            "make room, and go on with --training.resume-from latest"
        ) from error
    accelerator.wait_for_everyone()


def _agree(path: str | None) -> str:
    """Return the main process's folder on all processes."""
    return str(broadcast_object_list([path])[0])
