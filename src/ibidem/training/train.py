"""Pretraining: the wiring of the stage."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ibidem import artifacts, log
from ibidem.config import resolved, settings
from ibidem.errors import CheckpointError, ConfigError
from ibidem.modeling.attention import Documents
from ibidem.modeling.config import ModelConfig, read_model_config
from ibidem.modeling.generate import Sampling, complete
from ibidem.modeling.loss import IGNORE
from ibidem.modeling.modeling_custom import Decoder
from ibidem.tokenization import special
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import loop, state
from ibidem.training.config import TrainConfig
from ibidem.training.optim import adamw, learning_rate
from ibidem.training.tokens import FimIds, Windows, fill_in_middle, tokenize, window_at

EVENTS = "events.jsonl"
NATS_PER_BIT = float(np.log(2))


def train(config: TrainConfig) -> str | None:
    """Tokenize once, build or resume, run the loop; say where the last checkpoint is.

    Raises:
        ConfigError: the shapes, batch sizes or processes do not fit together.
        CheckpointError: there is nothing whole to resume from, or it belongs to another run.
    """
    shape = read_model_config(config.model)
    accelerator = start_accelerator(config)
    _check_processes(config, accelerator)
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
    with log.recording(config.output_dir / EVENTS) if accelerator.is_main_process else nullcontext():
        last = _run(config, shape, accelerator, tokens, tokenizer, inputs)
    accelerator.end_training()
    return f"{last}: step {state.step_of(artifacts.load(last))} of {config.training.steps}"


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
        accelerator.init_trackers("ibidem", config=flat(resolved(config)))
    return prepared, optimizer


@dataclass
class Pretraining:
    """Next-token prediction on windows of a tokenized dataset."""

    config: TrainConfig
    shape: ModelConfig
    tokens: artifacts.Artifact
    tokenizer: Tokenizer
    accelerator: Accelerator
    plan: loop.Plan

    def check(self) -> None:
        """Fail now, not at the first step or measurement, if a split has no whole window."""
        log.event("train.windows", train=self.windows.number, held_out=self.held_out.number)

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Give the summed loss of this process's windows of a micro batch."""
        ids_BT, targets_BT = self._split(self._micro_batch(step, micro))
        loss = model(ids_BT, targets_BT, self._documents(ids_BT))
        return loss, self.plan.tokens_per_step

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Give bits per byte and loss a token on held-out windows; complete the prompts."""
        self._sample(model, step)
        sums = torch.zeros(3, dtype=torch.float64, device="cpu")
        chosen = self.held_out.spread(self.config.validation.windows)
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        chosen = chosen[: max(processes, len(chosen) // processes * processes)]
        for index in chosen[rank::processes]:
            ids_BT, targets_BT = self._split(self.held_out[index][None])
            sizes_BT = self.bytes_of_V[targets_BT]
            targets_BT = targets_BT.masked_fill(sizes_BT == 0, IGNORE)
            nll = model(ids_BT, targets_BT, self._documents(ids_BT))
            sums += torch.tensor([float(nll), float(sizes_BT.sum()), float((sizes_BT > 0).sum())], dtype=torch.float64)
        nll, num_bytes, num_tokens = self.accelerator.reduce(sums.to(self.accelerator.device), "sum").tolist()
        return {"bits_per_byte": nll / NATS_PER_BIT / num_bytes, "held_out_loss": nll / num_tokens}

    @cached_property
    def windows(self) -> Windows:
        """What is trained on."""
        return Windows(self.tokens, "train", self._context)

    @cached_property
    def held_out(self) -> Windows:
        """What is only measured."""
        return Windows(self.tokens, "validation", self._context)

    @cached_property
    def bytes_of_V(self) -> Tensor:  # noqa: N802 - the shape
        """Bytes of text that each id stands for."""
        return torch.from_numpy(self.tokenizer.bytes_of_V).to(self.accelerator.device)

    @cached_property
    def fim(self) -> FimIds | None:
        """The ids of fill-in-the-middle, if it is on."""
        if self.config.data.fim_rate == 0:
            return None
        names = (special.FIM_PREFIX, special.FIM_MIDDLE, special.FIM_SUFFIX)
        return FimIds(*(self.tokenizer.id_of(name) for name in names))

    @property
    def _context(self) -> int:
        return self.config.data.context or self.shape.context

    def _micro_batch(self, step: int, micro: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Read this process's windows of a micro batch; which ones follows from the step alone."""
        size = self.config.training.micro_batch_sequences
        place = micro * self.accelerator.num_processes + self.accelerator.process_index
        first = step * self.config.training.batch_sequences + place * size
        return np.stack([self._window(position) for position in range(first, first + size)])

    def _window(self, position: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        seed = self.config.training.seed
        epoch, index = window_at(position, self.windows.number, seed)
        ids = self.windows[index]
        if self.fim is None:
            return ids
        rng = np.random.default_rng((seed, epoch, index))
        return fill_in_middle(ids, self.tokenizer.document_id, self.fim, rate=self.config.data.fim_rate, rng=rng)

    def _split(self, windows: "np.ndarray[Any, np.dtype[np.int64]]") -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(windows).to(self.accelerator.device, non_blocking=True)
        return ids[:, :-1], ids[:, 1:]

    def _documents(self, ids_BT: Tensor) -> Documents | None:
        if not self.config.data.document_mask:
            return None
        documents = Documents(ids_BT == self.tokenizer.document_id)
        if ids_BT.is_cuda:
            documents.block_mask  # noqa: B018 - built here, outside of the compiled blocks
        return documents

    def _sample(self, model: nn.Module, step: int) -> None:
        prompts = self.config.validation.prompts
        if not prompts or not self.accelerator.is_main_process or state.is_sharded(self.accelerator):
            return
        decoder = self.accelerator.unwrap_model(model)
        sampling = Sampling(max_tokens=self.config.validation.sample_tokens, seed=self.config.training.seed)
        for prompt, done in zip(prompts, complete(decoder, self.tokenizer, prompts, sampling), strict=True):
            log.event("train.sample", step=step, prompt=prompt, completion=done.text, finish=done.finish)


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Start accelerate on what this machine has; a CPU computes in float32, whatever is asked."""
    on_cpu = not torch.cuda.is_available()
    precision = config.training.mixed_precision
    if on_cpu and precision != "no":
        log.event("train.precision", asked=precision, used="float32", reason="a CPU is slower in 16 bits")
        precision = "no"
    if missing := [name for name in config.trackers if find_spec(name) is None]:
        raise ConfigError(f"trackers: {missing[0]} is not installed; pip install -c constraints.txt {missing[0]}")
    if "wandb" in config.trackers:
        os.environ.setdefault("WANDB_MODE", "offline")
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        log_with=list(config.trackers) or None,
        project_dir=str(config.output_dir),
    )


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


def _check_processes(config: TrainConfig, accelerator: Accelerator) -> None:
    wanted = config.training.num_processes or int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != wanted:
        raise ConfigError(
            f"{wanted} processes were asked for and {accelerator.num_processes} run; on a CPU start them with "
            "torchrun --nproc-per-node N src/training/train.py, for accelerate launch starts one there"
        )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and accelerator.device.type == "cpu":
        raise ConfigError("FSDP was asked for, and accelerate ignores it on a CPU; use torchrun without FSDP there")


def _check_shape(shape: ModelConfig, tokenizer: Tokenizer, config: TrainConfig) -> None:
    if shape.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"model {config.model} has vocab_size={shape.vocab_size}, "
            f"tokenizer {config.data.tokenizer} has {tokenizer.vocab_size}"
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


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Spell nested settings with dots, as trackers want them.

    >>> flat({"optim": {"lr": 0.1}})
    {'optim.lr': 0.1}
    """
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: _plain(value)}
    return rows


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)
