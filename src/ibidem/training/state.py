"""Checkpoints of a run: saved so that a kill at any moment loses none, resumed so that no damage goes unseen."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors.torch import save_file
from torch import nn

from ibidem import artifacts, log
from ibidem.artifacts import Input
from ibidem.errors import CheckpointError
from ibidem.modeling.checkpoint import KIND, TOKENIZER_DIR, WEIGHTS, verified

PROGRESS = "progress.json"
LATEST = Path("latest")
_STEP = re.compile(r"step-(\d+)")


def folder_of(run: Path, step: int) -> Path:
    """Name the checkpoint of a step."""
    return run / "checkpoints" / f"step-{step:06d}"


def steps_of(run: Path) -> list[int]:
    """List the steps that have a checkpoint folder, newest first, whole or not."""
    found = (_STEP.fullmatch(path.name) for path in (run / "checkpoints").glob("step-*"))
    return sorted((int(match[1]) for match in found if match), reverse=True)


def is_sharded(accelerator: Accelerator) -> bool:
    """Tell whether the weights are spread over the processes (FSDP)."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def save(
    accelerator: Accelerator,
    model: nn.Module,
    folder: Path,
    config: Mapping[str, Any],
    inputs: Sequence[Input],
    *,
    tokenizer_dir: Path,
    step: int,
    figures: Mapping[str, float],
) -> None:
    """Save weights, optimizer, random states and the step, on all processes, as one artifact."""
    if not accelerator.is_main_process:
        _save_state(accelerator, model, _agree(None))
        accelerator.wait_for_everyone()  # until the main process has sealed it
        return
    with artifacts.create(folder, kind=KIND, config=config, inputs=inputs) as draft:
        _save_state(accelerator, model, _agree(str(draft.path)))
        shutil.copytree(tokenizer_dir, draft.path / TOKENIZER_DIR)
        (draft.path / PROGRESS).write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
        draft.counts |= {"step": step, **figures}
    accelerator.wait_for_everyone()
    log.event("checkpoint.saved", step=step, path=str(folder))


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest checkpoints."""
    for step in steps_of(run)[keep_last:]:
        shutil.rmtree(folder_of(run, step))


def find(accelerator: Accelerator, run: Path, resume_from: Path | None) -> artifacts.Artifact | None:
    """Choose the checkpoint to go on from, on the main process, for all; None to start from nothing.

    Raises:
        CheckpointError: the named checkpoint is damaged, all of them are, or a new run would bury old ones.
    """
    chosen: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            chosen = [_find(run, resume_from)]
        except CheckpointError as error:
            chosen = [error]
    chosen = broadcast_object_list(chosen)
    if isinstance(chosen[0], CheckpointError):
        raise chosen[0]
    return None if chosen[0] is None else artifacts.load(chosen[0], kind=KIND)


def step_of(checkpoint: artifacts.Artifact) -> int:
    """Tell how many steps a checkpoint has behind it."""
    return int(json.loads((checkpoint.path / PROGRESS).read_text(encoding="utf-8"))["step"])


def _find(run: Path, resume_from: Path | None) -> Path | None:
    steps = steps_of(run)
    if resume_from is None:
        if steps:
            raise CheckpointError(
                f"{run} has checkpoints up to step {steps[0]}; go on with --training.resume-from latest, "
                "or choose another --output-dir"
            )
        return None
    if resume_from != LATEST:
        checkpoint = verified(resume_from)
        _set_aside(run, [step for step in steps if step > step_of(checkpoint)], "superseded")
        return checkpoint.path
    refused: list[CheckpointError] = []
    for step in steps:
        try:
            checkpoint = verified(folder_of(run, step))
        except CheckpointError as error:
            refused.append(error)
            log.event("checkpoint.refused", step=step, reason=str(error))
            continue
        _set_aside(run, [other for other in steps if other > step], "damaged")
        return checkpoint.path
    if refused:
        raise CheckpointError(f"no checkpoint in {run} is whole; {refused[0]}; move them away to start again")
    return None


def _set_aside(run: Path, steps: Sequence[int], why: str) -> None:
    """Rename checkpoints that the run does not go on from, so that the steps can be saved again and nothing is lost."""
    for step in steps:
        folder = folder_of(run, step)
        number = 0
        while (target := folder.with_name(f"{why}-{number}-{folder.name}")).exists():
            number += 1
        folder.rename(target)
        log.event("checkpoint.set_aside", path=str(target))


def _save_state(accelerator: Accelerator, model: nn.Module, path: str) -> None:
    """Write every process's part; sharded weights are also gathered into the one file that other stages read."""
    accelerator.save_state(path)
    if is_sharded(accelerator):
        weights = accelerator.get_state_dict(model)
        if accelerator.is_main_process:
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, Path(path) / WEIGHTS)
    accelerator.wait_for_everyone()


def _agree(path: str | None) -> str:
    """Give the main process's folder to all."""
    return str(broadcast_object_list([path])[0])
