"""Pretraining: the wiring of the stage."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ibidem import artifacts, log
from ibidem.config import flattened, resolved, settings
from ibidem.errors import CheckpointError, ConfigError
from ibidem.modeling.config import ModelConfig, read_model_config
from ibidem.modeling.modeling_custom import Decoder
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import loop, state
from ibidem.training.config import TrainConfig
from ibidem.training.optim import adamw, learning_rate
from ibidem.training.pretraining import Pretraining
from ibidem.training.processes import check_processes, start_accelerator
from ibidem.training.tokens import tokenize

EVENTS = "events.jsonl"


def train(config: TrainConfig) -> str | None:
    """Tokenize once, build or resume, run the loop; say where the last checkpoint is.

    Raises:
        ConfigError: the shapes, batch sizes or processes do not fit together.
        CheckpointError: there is nothing whole to resume from, or it belongs to another run.
    """
    shape = read_model_config(config.model)
    artifacts.check_outside(config.output_dir / "checkpoints")
    accelerator = start_accelerator(config)
    check_processes(config, accelerator)
    with accelerator.main_process_first():
        tokens, tokenizer = tokenize(
            config.data.dataset,
            config.data.tokenizer,
            config.data.cache_dir or config.output_dir / "tokens",
            held_out_share=config.data.held_out_share,
        )
    _check_shape(shape, tokenizer, config)
    inputs = [
        tokens.as_input("tokens", of=state.folder_of(config.output_dir, 0)),
        artifacts.load(config.data.tokenizer).as_input("tokenizer", of=state.folder_of(config.output_dir, 0)),
    ]
    with _alone(config.output_dir) if accelerator.is_main_process else nullcontext():
        last = _run(config, shape, accelerator, tokens, tokenizer, inputs)
    accelerator.end_training()
    return f"{last}: step {state.step_of(artifacts.load(last))} of {config.training.steps}"


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    with artifacts.locked(run), log.recording(run / EVENTS):
        yield


def _run(
    config: TrainConfig,
    shape: ModelConfig,
    accelerator: Accelerator,
    tokens: artifacts.Artifact,
    tokenizer: Tokenizer,
    inputs: list[artifacts.Input],
) -> Path:
    saved = {"model": resolved(shape), "train": settings(config)}
    checkpoint = state.find(accelerator, config.output_dir, config.training.resume_from)
    start = 0 if checkpoint is None else _check_resume(checkpoint, saved, inputs)
    plan = make_plan(config, shape, accelerator, start)
    if start > config.training.steps:
        raise ConfigError(f"training.steps={config.training.steps}, and the checkpoint is at step {start} already")
    if checkpoint is not None and plan.start == plan.stop:
        return checkpoint.path
    task = Pretraining(config, shape, tokens, tokenizer, accelerator, plan)
    task.check()
    model, optimizer = _build(config, shape, accelerator)
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint.path))

    def save(step: int, figures: dict[str, float]) -> None:
        where = state.folder_of(config.output_dir, step)
        tokenizer_dir = config.data.tokenizer
        state.save(accelerator, model, where, saved, inputs, tokenizer_dir=tokenizer_dir, step=step, figures=figures)
        if accelerator.is_main_process:
            state.prune(config.output_dir, config.checkpoints.keep_last)

    log.event("train.started", step=start, parameters=shape.parameters, processes=accelerator.num_processes)
    rate = partial(learning_rate, total_steps=plan.total_steps, config=config.optim)
    loop.run(plan, task, model, optimizer, accelerator, learning_rate=rate, save=save)
    return state.folder_of(config.output_dir, plan.stop)


def _build(
    config: TrainConfig, shape: ModelConfig, accelerator: Accelerator
) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Decoder(shape, gradient_checkpointing=config.training.gradient_checkpointing)
    model.init_weights(config.training.seed)
    prepared, optimizer = accelerator.prepare(model, adamw(model, config.optim))
    if config.training.compile and accelerator.device.type != "cpu":
        for block in accelerator.unwrap_model(prepared).blocks:
            block.compile()
    if config.trackers:
        values = flattened(resolved(config))
        plain = {key: v if isinstance(v, str | int | float | bool) else str(v) for key, v in values.items()}
        accelerator.init_trackers("ibidem", config=plain)
    return prepared, optimizer


def make_plan(config: TrainConfig, shape: ModelConfig, accelerator: Accelerator, start: int) -> loop.Plan:
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
    return loop.Plan(
        start=start,
        stop=max(start, min(training.steps, training.stop_at_step or training.steps)),
        total_steps=training.steps,
        micro_batches=training.batch_sequences // at_once,
        seed=training.seed,
        clip=config.optim.clip,
        tokens_per_step=training.batch_sequences * (config.data.context or shape.context),
        measure_every=config.validation.every,
        save_every=config.checkpoints.every,
    )


def _check_shape(shape: ModelConfig, tokenizer: Tokenizer, config: TrainConfig) -> None:
    if shape.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"model {config.model} has vocab_size={shape.vocab_size}, "
            f"tokenizer {config.data.tokenizer} has {tokenizer.vocab_size}; "
            f"train it with --vocab-size {shape.vocab_size}, or give a model file that has the tokenizer's size"
        )
    if (config.data.context or 0) > shape.context:
        raise ConfigError(f"data.context={config.data.context} exceeds the model's context={shape.context}")


def _check_resume(checkpoint: artifacts.Artifact, saved: dict[str, Any], inputs: list[artifacts.Input]) -> int:
    """Refuse a checkpoint of another tokenizer, corpus or shape; tell of settings that changed."""
    for mine, theirs in zip(inputs, checkpoint.inputs, strict=True):
        if mine.role == "tokenizer" and mine.digest != theirs.digest:
            raise CheckpointError(
                f"{checkpoint.path} was trained with another tokenizer ({theirs.digest[:23]}, not {mine.digest[:23]})"
            )
    if checkpoint.config["model"] != saved["model"]:
        raise CheckpointError(f"{checkpoint.path} has another shape than the model asked for")
    if [item.digest for item in inputs] != [item.digest for item in checkpoint.inputs]:
        raise CheckpointError(f"{checkpoint.path} was trained on another tokenized dataset")
    if checkpoint.config["train"] != saved["train"]:
        log.event("train.settings_changed", before=checkpoint.config["train"], now=saved["train"])
    return state.step_of(checkpoint)
