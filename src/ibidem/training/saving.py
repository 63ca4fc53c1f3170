"""Checkpoints are saved by all processes together: each writes and hashes its own part, the main one seals the whole.

    main process                                    every other process
    opens the hidden folder         --- where --->
    writes its part                                 writes its part
                                    <-- hashes ---  or says why it could not
    fills in the rest, seals, publishes
                                    --- outcome -->

The three messages are always exchanged, so that all processes know the same: the checkpoint is there, or it is not and
why. A disk that is full or gone then costs a checkpoint and not the run, which tries again at the next one.

Asynchronously, all of this happens in a thread on each process, on copies in host memory, while the training goes on.
The messages have a group of their own, so that they never meet those of a step. One checkpoint is written at a time.
"""

import json
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from ibidem import artifacts, log
from ibidem.artifacts import Input
from ibidem.errors import ArtifactError, CheckpointError
from ibidem.modeling.checkpoint import MODEL, TOKENIZER_DIR
from ibidem.modeling.tensor_files import SUFFIX, Part, name_of_file, write
from ibidem.readers import readers_of
from ibidem.remote import Copier
from ibidem.runs import folder_of
from ibidem.training import snapshot, state
from ibidem.training.config import CheckpointConfig
from ibidem.training.loop import Learner
from ibidem.training.lora import ADAPTER, ADAPTER_CONFIG
from ibidem.training.objective import ObjectiveState
from ibidem.training.processes import LONGEST_SAVE, host_group
from ibidem.training.snapshot import Snapshot


@dataclass(frozen=True)
class Saved:
    """What a checkpoint contains besides weights and optimizer."""

    kind: str
    """Of the artifact."""
    config: Mapping[str, Any]
    inputs: Sequence[Input]
    tokenizer_dir: Path | None
    step: int
    figures: Mapping[str, Any]
    objective: ObjectiveState
    adapters: str | None = None
    """Settings of the adapters, if adapters are trained."""


class _Part(NamedTuple):
    """What a process has written of a checkpoint."""

    hashes: dict[str, str]
    failure: str | None = None
    """Why it could not."""


class Saver:
    """Saves the checkpoints of a run, on all processes."""

    def __init__(self, accelerator: Accelerator, run: Path, config: CheckpointConfig, patience_s: float) -> None:
        """Open the sockets over which the processes agree; all must call it.

        Args:
            accelerator: the processes.
            run: the run's folder.
            config: what to keep, and whether to write beside the training.
            patience_s: how long a run that fails waits for a checkpoint that is being written.
        """
        self._is_main, self._process = accelerator.is_main_process, accelerator.process_index
        self._processes, self._group = accelerator.num_processes, host_group(accelerator, LONGEST_SAVE)
        self._run, self._keep_last, self._patience_s = run, config.keep_last, patience_s
        self._copies = _HostCopies() if config.asynchronous else None
        self._writing: tuple[threading.Thread, Future[None]] | None = None
        self._copier = Copier(config.copy_to) if config.copy_to is not None and self._is_main else None

    def __enter__(self) -> Self:
        """Save checkpoints in the block."""
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Wait for the checkpoint that is being written and copied; not forever: a process or a store may be lost."""
        if self._writing is not None:
            self._writing[0].join(self._patience_s)
        if self._copier is not None:
            self._copier.close(self._patience_s if failed is None else 0.0, silence_s=self._patience_s)

    def save(self, learner: Learner, saved: Saved, *, is_last: bool) -> None:
        """Save a checkpoint; if that fails, report it and go on, unless it is the last one.

        Raises:
            CheckpointError: the last one could not be saved; earlier checkpoints are as they were.
        """
        self._wait()
        taken = snapshot.take(learner, is_main=self._is_main)
        progress = {
            "step": saved.step,
            "guard": learner.guard.state(),
            "optimizer": snapshot.optimizer_name(learner),
            "processes": self._processes,
        }
        if self._copies is None:
            self._save(taken, saved, progress, is_last=is_last)
            return
        taken = self._copies.of(taken)
        saved = replace(saved, objective=_copy(saved.objective))
        self._start(partial(self._save, taken, saved, progress, is_last=is_last))
        if is_last:
            self._wait()

    def _start(self, save: Callable[[], None]) -> None:
        """Save in a thread, which does not keep a process alive that fails."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                save()
                done.set_result(None)
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                done.set_exception(error)

        thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._writing = thread, done
        thread.start()

    def _wait(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            CheckpointError: it is the last one, and could not be saved.
        """
        if self._writing is not None:
            self._writing[1].result()
            self._writing = None

    def _save(self, taken: Snapshot, saved: Saved, progress: Mapping[str, Any], *, is_last: bool) -> None:
        failure, step = self._write(taken, saved, progress), saved.step
        folder = folder_of(self._run, step)
        if failure is None:
            log.event("checkpoint.saved", step=step, path=str(folder))
        elif is_last:
            raise CheckpointError(
                f"{folder} was not saved: {failure}; make room, and go on with --training.resume-from latest"
            )
        else:
            log.event("checkpoint.not_saved", step=step, reason=f"{failure}; the next one is tried as usual")

    def _write(self, taken: Snapshot, saved: Saved, progress: Mapping[str, Any]) -> str | None:
        """Write a checkpoint; return why it could not be, the same on every process."""
        if self._is_main:
            return self._write_as_main(taken, saved, progress)
        where = self._tell(None)
        if where is not None:
            self._gather(self._write_part(Path(where), taken))
        return self._tell(None)

    def _write_as_main(self, taken: Snapshot, saved: Saved, progress: Mapping[str, Any]) -> str | None:
        folder, is_open, failure = folder_of(self._run, saved.step), False, None
        is_private = readers_of(saved.config) is not None
        try:
            with artifacts.create(
                folder, kind=saved.kind, config=saved.config, inputs=saved.inputs, is_private=is_private
            ) as draft:
                is_open = True
                self._tell(str(draft.path))
                parts = self._gather(self._write_part(draft.path, taken))
                _check(parts, draft.path)
                draft.hashes |= {name: sha256 for part in parts for name, sha256 in part.hashes.items()}
                _fill(draft, saved, progress)
        except (OSError, ArtifactError) as error:
            failure = _reason(error, folder)
        else:
            self._prune()
            if self._copier is not None:
                self._copier.offer(folder)
        if not is_open:
            self._tell(None)
        return self._tell(failure)

    def _prune(self) -> None:
        try:
            state.prune(self._run, self._keep_last, but=None if self._copier is None else self._copier.copying)
        except OSError as error:  # the new checkpoint is there all the same
            log.event("checkpoint.not_removed", reason=f"{error.filename or self._run}: {error.strerror or error}")

    def _write_part(self, folder: Path, taken: Snapshot) -> _Part:
        part = _Part({})
        try:
            for name, parts in ((MODEL, taken.weights), (state.OPTIMIZER, taken.optimizer)):
                if parts or self._is_main:
                    file = self._file(name, taken.shards)
                    part.hashes[file] = write(folder / file, parts)
            if taken.adapters:
                part.hashes[ADAPTER] = write(folder / ADAPTER, taken.adapters)
            text = json.dumps(taken.random_states, separators=(",", ":"))
            (folder / state.random_states_file(self._process)).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            return _Part({}, _reason(error, folder))
        return part

    def _file(self, name: str, shards: int) -> str:
        return name_of_file(name, self._process, shards) if shards > 1 else f"{name}{SUFFIX}"

    def _tell(self, text: str | None) -> str | None:
        """Return on every process what the main process says."""
        said = [text]
        if self._group is not None:
            dist.broadcast_object_list(said, src=0, group=self._group)
        return said[0]

    def _gather(self, part: _Part) -> list[_Part]:
        parts = [part] * self._processes
        if self._group is not None:
            dist.all_gather_object(parts, part, self._group)
        return parts


class _HostCopies:
    """Copies of tensors in host memory, in the same memory for every checkpoint."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def of(self, taken: Snapshot) -> Snapshot:
        """Copy what is to be saved; a device copies everything at once."""
        copied = taken._replace(
            weights=list(map(self._of, taken.weights)),
            optimizer=list(map(self._of, taken.optimizer)),
            adapters=list(map(self._of, taken.adapters)),
        )
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _of(self, part: Part) -> Part:
        held, tensor = self._held.get(part.name), part.tensor.detach()
        if held is None or (held.shape, held.dtype) != (tensor.shape, tensor.dtype):
            held = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._held[part.name] = held
        return part._replace(tensor=held.copy_(tensor, non_blocking=True))


def _copy(state: ObjectiveState) -> ObjectiveState:
    tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.tensors.items()}
    return ObjectiveState(tensors, deepcopy(state.values))


def _check(parts: Sequence[_Part], folder: Path) -> None:
    """Fail if a process could not write, or wrote where the main process cannot see it.

    Raises:
        CheckpointError: of the first such process.
    """
    for process, part in enumerate(parts):
        if part.failure is not None:
            raise CheckpointError(part.failure if len(parts) == 1 else f"process {process}: {part.failure}")
        if any(not (folder / name).is_file() for name in part.hashes):
            raise CheckpointError(
                f"process {process} writes to another disk: output_dir must be a folder that all machines share"
            )


def _fill(draft: artifacts.Draft, saved: Saved, progress: Mapping[str, Any]) -> None:
    state.write_objective(draft.path, saved.objective)
    if saved.adapters is not None:
        (draft.path / ADAPTER_CONFIG).write_text(saved.adapters, encoding="utf-8")
    if saved.tokenizer_dir is not None:
        shutil.copytree(saved.tokenizer_dir, draft.path / TOKENIZER_DIR)
    (draft.path / state.PROGRESS).write_text(json.dumps(progress) + "\n", encoding="utf-8")
    draft.counts |= {"step": saved.step, **saved.figures}


def _reason(error: OSError | ArtifactError, folder: Path) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if error.errno not in log.FULL:
        return f"{error.filename or folder}: {error.strerror or error}"
    try:
        free = f"{shutil.disk_usage(folder.parent).free:,} bytes free"
    except OSError:
        free = "its free space cannot be read"
    return f"the disk is full ({folder.parent}: {free})"
