"""A run of training, whatever its objective: build or resume, run the loop, save and prune checkpoints.

    <output_dir>/checkpoints/step-000040/    weights, optimizer, random states, the step, the objective's own state
    <output_dir>/events.jsonl                what happened, one event a line
    <output_dir>/.lock                       held while a process writes to the run

A training brings its objective, the model to start from and the inputs of its checkpoints; all else is here.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import nn

from ibidem import artifacts, log, places, trackers
from ibidem.artifacts import Artifact, Input
from ibidem.config import build as build_config
from ibidem.config import flattened, resolved, settings
from ibidem.errors import CheckpointError, ConfigError, Terminated
from ibidem.figures import percent
from ibidem.modeling.checkpoint import IMPORTED, INITIAL, KIND, load_weights, model_config, verified
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.heads import GroundingHead, RewardModel
from ibidem.modeling.modeling_custom import Decoder
from ibidem.readers import KEY, Readers, check_reader, common, inherited, readers_of
from ibidem.runs import CHECKPOINTS, folder_of, newest
from ibidem.training import interrupts, loop, lora, permutation, saving, sharding, state
from ibidem.training.config import LoopConfig, OptimConfig, SessionConfig, decay_steps, measure_every, warmup_steps
from ibidem.training.guard import Guard
from ibidem.training.objective import Objective
from ibidem.training.optim import learning_rate, make_optimizer
from ibidem.training.processes import any_says_yes, compute_dtype, host_group, timeout_of_steps

COMPILER = "inductor"
PARENT = "parent"
"""Role of the checkpoint of another run from which a run went on."""
PARENTS = ("tokenizer", "encoder")
"""Roles of the inputs without which nothing of a checkpoint fits."""
Model = Decoder | RewardModel | GroundingHead


class Shape(Protocol):
    """A configuration that says how large a model is."""

    @property
    def parameters(self) -> int:
        """Number of parameters."""


@dataclass(frozen=True)
class Provenance:
    """What the checkpoints of a run are made from, and what they record of it."""

    inputs: Sequence[Input]
    """What was read, seen from a checkpoint's folder; the tokenizer is one of them, or the encoder."""
    tokenizer_dir: Path | None
    """Copied into every checkpoint; None: the model reads an encoder's states, not tokens."""
    shape: Shape
    settings: Mapping[str, Any]
    """The settings that decide the result."""
    initial: Artifact | None = None
    """The checkpoint whose weights a new run starts from, as `initial_of` chose it."""
    kind: str = KIND
    """Kind of the artifacts: a checkpoint, unless it is a model of another use."""
    readers: Readers | None = None
    """Who may open the checkpoints, if they are tuned on documents, or from a checkpoint that was; `run` finds out."""
    imported: Mapping[str, Any] | None = None
    """What is known of weights from outside, if the run starts from some; `run` finds out."""
    trained_tokens: Callable[[int], Mapping[str, int]] | None = None
    """Returns the tokens that so many steps take, by stage; None: they are not recorded."""

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint's manifest says of model and training."""
        config = {"model": resolved(self.shape), "train": self.settings, "order": permutation.NAME}
        if self.imported is not None:
            config[IMPORTED] = self.imported
        return config if self.readers is None else config | {KEY: self.readers.as_json()}


def check(config: SessionConfig, kind: str = KIND, *, initial: Path | None = None) -> None:
    """Fail before any data are read if the run's folder or the initial checkpoint cannot be used.

    Args:
        config: where the run is, and whether it resumes.
        kind: kind of the artifacts.
        initial: the checkpoint to begin with, or the run whose newest one that is.

    Raises:
        ArtifactError: the folder is inside an artifact, or the checkpoint to begin with is not one.
        CheckpointError: a new run would replace old checkpoints.
    """
    artifacts.check_outside(config.output_dir / "checkpoints")
    if run := next((each.parent for each in [config.output_dir, *config.output_dir.parents] if is_of_run(each)), None):
        raise ConfigError(f"output_dir {config.output_dir}: inside the run {run}; choose a folder outside of it")
    state.check_resume(config.output_dir, config.training.resume_from, kind)
    if config.checkpoints.copy_to is not None:
        places.opened(config.checkpoints.copy_to)
    if initial is not None:
        check_reader(artifacts.load(newest(initial), kind=KIND), config.reader)


def is_of_run(folder: Path) -> bool:
    """Return whether a folder is that of the checkpoints of a run."""
    return folder.name == CHECKPOINTS and (folder.parent / log.EVENTS).exists()


def initial_of(path: Path | None, accelerator: Accelerator, principal: str | None = None) -> Artifact | None:
    """Choose the checkpoint to start from, on the main process, for all: of a run the newest, which may change.

    Args:
        path: a checkpoint or a run; None: none is chosen.
        accelerator: the processes.
        principal: who opens it; None: the user who runs the program.

    Raises:
        AccessDenied: it was tuned on documents, and the principal is not among their readers.
        ArtifactError: it is not a checkpoint.
    """
    if path is None:
        return None
    initial = artifacts.load(agreed_newest(path, accelerator), kind=KIND)
    check_reader(initial, principal)
    return initial


def agreed_newest(path: Path, accelerator: Accelerator) -> Path:
    """Return the newest checkpoint of a run's folder, the same one on all processes; any other path as it is."""
    chosen = [newest(path) if accelerator.is_main_process else None]
    return Path(broadcast_object_list(chosen)[0])


def run(
    objective: Objective,
    config: SessionConfig,
    accelerator: Accelerator,
    made: Provenance,
    *,
    build: Callable[[], Model],
    rebuild: Callable[[], Model] | None = None,
    adapt: Callable[[Model], loop.Adapters] | None = None,
    tokens_per_step: int,
) -> Path:
    """Train until the last step of the configuration; return the folder of the last checkpoint.

    Args:
        objective: what is optimized and measured.
        config: how long, how fast, what to keep.
        accelerator: the processes and devices.
        made: inputs and settings of the checkpoints.
        build: makes the model with its initial weights; called only if there is something to train.
        rebuild: makes the model of a run that resumes, before its weights are loaded; by default as `build`.
        adapt: freezes the initial weights, which a run that resumes then loads too, and adds what is trained instead.
        tokens_per_step: tokens of one optimizer step over all processes, for the speed that is reported.

    Raises:
        KeyboardInterrupt: the user stopped it; its message says how to go on.
        Terminated: a scheduler did.
        AccessDenied: what it starts or resumes from was tuned on documents, of which the user is no reader.
        ConfigError: the batch cannot be shared out evenly, or the run is over already.
        CheckpointError: no intact checkpoint to resume from, or it belongs to another run; or the last one cannot be
            saved.
        ArtifactError: another process writes to the run.
    """
    is_private = _readers(config, made, None) is not None
    with (
        closing(objective),
        _alone(config.output_dir, is_private=is_private) if accelerator.is_main_process else nullcontext(),
    ):
        resume_from = config.training.resume_from
        checkpoint = state.find(accelerator, config.output_dir, resume_from, made.kind, principal=config.reader)
        _check_start(config, is_anew=checkpoint is None and resume_from is not None)
        made = _completed(made, config, checkpoint)
        if made.readers is not None and accelerator.is_main_process:
            _shut(config.output_dir)
        start = 0 if checkpoint is None else _check_resume(checkpoint, made, config)
        schedule = make_schedule(config, accelerator, start, tokens_per_step)
        if start > config.training.steps:
            raise ConfigError(f"training.steps={config.training.steps}, but the checkpoint is already at step {start}")
        if checkpoint is not None and schedule.start == schedule.stop:
            last, stopped = checkpoint.path, None
        else:
            objective.check()
            state.supersede(accelerator, config.output_dir, start)
            new_model = build if checkpoint is None else rebuild or build
            built = partial(_build, new_model, adapt, objective, config, accelerator, checkpoint, made.initial)
            last, stopped = _train(schedule, objective, built(), config, accelerator, made)
    accelerator.free_memory()  # before the group: freed by DDP's reducer, it waits for a thread that waits for the GIL
    accelerator.end_training()
    if stopped is not None:
        raise stopped
    return last


def _completed(made: Provenance, config: SessionConfig, checkpoint: Artifact | None) -> Provenance:
    """Return what the checkpoints are made from, with what the one knows that the run resumes or starts from."""
    inputs = [*made.inputs, *_initial_inputs(config, made, checkpoint), *_parent_inputs(config, checkpoint)]
    made = replace(made, inputs=inputs)
    return replace(made, readers=_readers(config, made, checkpoint), imported=_imported(made, checkpoint))


@contextmanager
def _alone(run: Path, *, is_private: bool) -> Iterator[None]:
    with artifacts.locked(run):
        if is_private:
            _shut(run)
        with log.recording(run / log.EVENTS):
            yield


def _shut(run: Path) -> None:
    """Shut out all but the owner: the events hold answers of a model that was tuned on documents."""
    run.chmod(run.stat().st_mode & 0o700)


def _build(
    build: Callable[[], Model],
    adapt: Callable[[Model], loop.Adapters] | None,
    objective: Objective,
    config: SessionConfig,
    accelerator: Accelerator,
    checkpoint: Artifact | None,
    initial: Artifact | None,
) -> loop.Learner:
    """Build model and optimizer on their devices; restore the state of the checkpoint, or load the initial weights."""
    set_seed(config.training.seed)  # of Python and numpy too: every random state is in the checkpoint
    with sharding.without_memory():
        model = build()
    if sharding.is_requested():
        assert not isinstance(model, GroundingHead), "too small to be divided"
        sharding.divide(model, accelerator.device, config.training)
    if initial is not None and (checkpoint is None or adapt is not None):
        load_weights(model.decoder if isinstance(model, RewardModel) else model, initial.path)
    adapters = None if adapt is None else adapt(model)
    if config.training.compile and _can_compile(accelerator):
        compile_blocks(model.blocks)
    learner = _placed(model, config, accelerator)._replace(adapters=adapters)
    if config.trackers:
        values = trackers.plain(flattened(resolved(config)))
        options = {"wandb": trackers.wandb_options(config.output_dir)}
        accelerator.init_trackers(trackers.PROJECT, config=values, init_kwargs=options)
    if checkpoint is not None:
        state.load(accelerator, learner, checkpoint)
        objective.restore(state.read_objective(checkpoint))
    return learner


def new_decoder(shape: ModelConfig, training: LoopConfig) -> Decoder:
    """Return a decoder with random weights, which the seed decides."""
    model = Decoder(
        shape, gradient_checkpointing=training.gradient_checkpointing, compute_dtype=compute_dtype(training)
    )
    model.init_weights(training.seed)
    return model


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile the blocks; they are alike and shapes are fixed, so that one graph serves all of them."""
    for block in blocks:
        block.compile(backend=COMPILER, dynamic=False, fullgraph=True)


def _can_compile(accelerator: Accelerator) -> bool:
    """Return whether this machine can compile; on a CPU that takes a C++ compiler, and without one it is reported."""
    if accelerator.device.type != "cpu" or shutil.which(os.environ.get("CXX", "g++")):
        return True
    log.event("train.not_compiled", reason="a CPU's blocks are compiled with g++, which is not installed")
    return False


def _placed(model: Model, config: SessionConfig, accelerator: Accelerator) -> loop.Learner:
    """Move a model to its devices, unless it is divided over them, and make its optimizer."""
    guard = Guard(
        accelerator.device,
        clip=config.optim.clip,
        spike_factor=config.optim.spike_factor,
        scales=model.compute_dtype == torch.float16,
    )
    if not sharding.is_requested():
        prepared, optimizer = accelerator.prepare(model, make_optimizer(model, config.optim))
        return loop.Learner(prepared, optimizer, guard)
    return loop.Learner(model, make_optimizer(model, config.optim), guard)


def _train(
    schedule: loop.Schedule,
    objective: Objective,
    learner: loop.Learner,
    config: SessionConfig,
    accelerator: Accelerator,
    made: Provenance,
) -> tuple[Path, KeyboardInterrupt | None]:
    """Run the loop; return the last checkpoint, and what stopped the run, if it was stopped."""
    patience = timeout_of_steps(config).total_seconds()
    saver = saving.Saver(accelerator, config.output_dir, config.checkpoints, patience)

    def save(step: int, figures: dict[str, float], *, is_last: bool) -> None:
        adapters = None if learner.adapters is None else learner.adapters.settings
        counts: dict[str, Any] = dict(figures)
        if made.trained_tokens is not None:
            counts["trained_tokens"] = made.trained_tokens(step)
        saved = saving.Saved(
            made.kind, made.config, made.inputs, made.tokenizer_dir, step, counts, objective.state(), adapters
        )
        saver.save(learner, saved, is_last=is_last)

    log.event(
        "train.started",
        step=schedule.start,
        parameters=made.shape.parameters,
        processes=accelerator.num_processes,
        wrapper=sharding.check_wrapper(learner.model),
        shards=sharding.shards_of(learner.model),
    )
    rate = partial(learning_rate, total_steps=schedule.total_steps, config=config.optim)
    with saver, interrupts.noticed(_agreement(config, accelerator)) as notice:
        done = loop.run(
            schedule,
            objective,
            learner,
            accelerator,
            learning_rate=rate,
            save=save,
            asked_to_stop=notice,
        )
    last = folder_of(config.output_dir, done)
    if done == schedule.stop:
        return last, None
    said = f"{last} is saved; go on with the same command and --training.resume-from latest"
    return last, Terminated(said) if notice.is_termination else KeyboardInterrupt(said)


def _agreement(config: SessionConfig, accelerator: Accelerator) -> interrupts.Agreement | None:
    """Return how the processes agree whether to stop; None if there is one."""
    group = host_group(accelerator, timeout_of_steps(config))
    return None if group is None else lambda yes: any_says_yes(group, yes=yes)


def _check_is_own(resume_from: Path | str | None, config: SessionConfig) -> None:
    """Refuse a URL without a checkpoint, unless the run's own copies are to be there: its first start finds none.

    Raises:
        CheckpointError: the URL is another one.
    """
    own = (config.checkpoints.copy_to or "").rstrip("/")
    if isinstance(resume_from, str) and resume_from.rstrip("/") != own:
        raise CheckpointError(
            f"training.resume_from {resume_from}: no checkpoint there, nor in {config.output_dir}; correct the URL, "
            "leave it out to start anew, or give --checkpoints.copy-to the same one"
        )


def _check_start(config: SessionConfig, *, is_anew: bool) -> None:
    """Report a run that was to resume and starts anew, and a warmup that is never over.

    Raises:
        CheckpointError: it was to resume from a URL that is not that of its own copies.
    """
    if is_anew:
        _check_is_own(config.training.resume_from, config)
        log.event("train.starts_anew", reason=f"{config.output_dir} has no checkpoint to resume from")
    steps = config.training.steps
    warmup = warmup_steps(config.optim, steps)
    if warmup >= steps:
        reached = f"the learning rate ends at {percent(steps / warmup, digits=0)} of optim.lr, still rising"
        reason = f"optim.warmup_steps is {warmup}, training.steps is {steps}: {reached}"
        log.event("train.long_warmup", reason=reason)


def make_schedule(config: SessionConfig, accelerator: Accelerator, start: int, tokens_per_step: int) -> loop.Schedule:
    """Work out steps and micro batches.

    Raises:
        ConfigError: the batch cannot be shared out evenly.
    """
    training = config.training
    at_once = training.micro_batch_sequences * accelerator.num_processes
    if training.batch_sequences % at_once:
        raise ConfigError(
            f"training.batch_sequences={training.batch_sequences} is not a multiple of "
            f"micro_batch_sequences x processes = {at_once}"
        )
    return loop.Schedule(
        start=start,
        stop=max(start, min(training.steps, training.stop_at_step or training.steps)),
        total_steps=training.steps,
        micro_batches=training.batch_sequences // at_once,
        seed=training.seed,
        tokens_per_step=tokens_per_step,
        most_skipped=config.optim.most_skipped,
        measure_every=config.validation.every or measure_every(training.steps),
        save_every=config.checkpoints.every,
    )


def _initial_inputs(config: SessionConfig, made: Provenance, checkpoint: Artifact | None) -> list[Input]:
    """Name the checkpoint whose weights the run starts from; a resumed run keeps the one it started from.

    Raises:
        CheckpointError: it is damaged, has another shape, or another tokenizer.
    """
    if made.initial is None:
        found = [] if checkpoint is None else [item for item in checkpoint.inputs if item.role == INITIAL]
        return [_seen_from(folder_of(config.output_dir, 0), item, checkpoint) for item in found if checkpoint]
    initial = verified(made.initial.path, principal=config.reader)
    if model_config(initial) != made.shape:
        raise CheckpointError(f"initial {initial.path}: its model has another shape than the model of this run")
    if initial.digest_of("tokenizer") != _digest_of(made, "tokenizer"):
        raise CheckpointError(f"initial {initial.path}: it was trained with another tokenizer")
    return [initial.as_input(INITIAL, of=folder_of(config.output_dir, 0))]


def _seen_from(folder: Path, item: Input, checkpoint: Artifact) -> Input:
    """Return an input of a checkpoint by its path from another folder."""
    path = checkpoint.path.resolve() / item.name
    return replace(item, name=os.path.relpath(path, folder.resolve()))


def _parent_inputs(config: SessionConfig, checkpoint: Artifact | None) -> list[Input]:
    """Name the checkpoint of another run that this one goes on from; its own checkpoints keep it."""
    if checkpoint is None:
        return []
    if _is_of(config.output_dir, checkpoint):
        return [item for item in checkpoint.inputs if item.role == PARENT]
    return [checkpoint.as_input(PARENT, of=folder_of(config.output_dir, 0))]


def _is_of(run: Path, checkpoint: Artifact) -> bool:
    return checkpoint.path.resolve().parent == folder_of(run, 0).resolve().parent


def _check_decay(config: SessionConfig, start: int) -> None:
    """Refuse to go on from a checkpoint of another run behind the step at which the learning rate begins to fall.

    Raises:
        ConfigError: the decay is longer than what is left of the run.
    """
    if config.optim.schedule != "wsd":
        return
    decay, left = decay_steps(config.optim, config.training.steps), config.training.steps - start
    if decay > left:
        raise ConfigError(
            f"optim.decay_steps={decay} is longer than what is left of the run: {left} steps, from the checkpoint at "
            f"{start} to training.steps={config.training.steps}"
        )


def _warn_of_decay(config: SessionConfig, checkpoint: Artifact) -> None:
    """Say if the learning rate had fallen by the end of a checkpoint of another run from which this one decays."""
    if config.optim.schedule != "wsd":
        return
    theirs, step = checkpoint.config["train"], state.steps_done(checkpoint)
    before, steps = build_config(type(config.optim), theirs["optim"]), int(theirs["training"]["steps"])
    share = learning_rate(step, steps, before) / before.lr
    if step >= warmup_steps(before, steps) and share < 1:
        reason = (
            f"the learning rate of {checkpoint.path} fell to {percent(share, digits=0)} of its peak already; "
            f"{_stable_until(before, steps)}"
        )
        log.event("train.decays_again", reason=reason)


def _stable_until(optim: OptimConfig, steps: int) -> str:
    if optim.schedule != "wsd":
        return f"that of a run with optim.schedule {optim.schedule} is never stable"
    return f"its run was stable up to step {steps - decay_steps(optim, steps)}: decay from a checkpoint up to there"


def _readers(config: SessionConfig, made: Provenance, checkpoint: Artifact | None) -> Readers | None:
    """Return the readers that all that the run is made from has in common; None if none of it is private."""
    known = [readers_of(each.config) for each in (checkpoint, made.initial) if each is not None]
    # what a resumed run began with may be gone: its checkpoints know
    left_out = {PARENT} if made.initial is not None else {PARENT, INITIAL}
    inputs = [item for item in made.inputs if item.role not in left_out]
    found = [inherited(inputs, folder_of(config.output_dir, 0)), *known]
    private = [each for each in found if each is not None]
    return common(private) if private else None


def _imported(made: Provenance, checkpoint: Artifact | None) -> Mapping[str, Any] | None:
    """Return what the checkpoint that the run resumes or starts from knows of weights from outside."""
    start = made.initial if checkpoint is None else checkpoint
    return None if start is None else start.config.get(IMPORTED)


def _digest_of(made: Provenance, role: str) -> str | None:
    return next((item.digest for item in made.inputs if item.role == role), None)


def _check_resume(checkpoint: Artifact, made: Provenance, config: SessionConfig) -> int:
    """Refuse a checkpoint of another order, tokenizer, encoder, shape or data, or too late; report changed settings.

    Returns:
        Its step.
    """
    for role in PARENTS:
        theirs, mine = checkpoint.digest_of(role) or "none", _digest_of(made, role) or "none"
        if mine != theirs:
            raise CheckpointError(f"{checkpoint.path} was trained with another {role} ({theirs[:23]}, not {mine[:23]})")
    if checkpoint.config["model"] != made.config["model"]:
        raise CheckpointError(f"{checkpoint.path} has another shape than the model of this run")
    if _data_of(made.inputs) != _data_of(checkpoint.inputs):
        raise CheckpointError(f"{checkpoint.path} was trained on other data, or from other weights (--initial)")
    if (order := checkpoint.config.get("order")) != made.config["order"]:
        raise CheckpointError(
            f"{checkpoint.path} was trained by another version of ibidem, in another order of its data "
            f"({order or 'unnamed'}, not {made.config['order']}): start a new run from its weights with --initial"
        )
    lora.check_resume(checkpoint.path, checkpoint.config["train"], made.config["train"])
    if checkpoint.config["train"] != made.config["train"]:
        before, now = checkpoint.config["train"], made.config["train"]
        log.event("train.settings_changed", reason=changes(before, now), before=before, now=now)
        if not _is_of(config.output_dir, checkpoint):
            _check_decay(config, state.steps_done(checkpoint))
            _warn_of_decay(config, checkpoint)
    return state.steps_done(checkpoint)


def _data_of(inputs: Iterable[Input]) -> set[tuple[str, str]]:
    return {(item.role, item.digest) for item in inputs if item.role != PARENT}


def summary(last: Artifact, config: SessionConfig) -> str:
    """Say where the last checkpoint is, and whether it was trained before with other settings."""
    said = f"{last.path}: step {state.steps_done(last)} of {config.training.steps}"
    changed = changes(last.config["train"], settings(config))
    if not changed:
        return said
    return f"{said}; trained before, with other settings ({changed}): choose another --output-dir to train with these"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which settings differ.

    >>> changes({"optim": {"lr": 0.1}, "seed": 0}, {"optim": {"lr": 0.2}, "seed": 0})
    'optim.lr was 0.1, is 0.2'
    """
    old, new = flattened(before), flattened(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in keys)
