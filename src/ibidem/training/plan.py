"""The memory, compute, time and cost of a training: arithmetic on the configuration, without torch.

Without a GPU, the speed of this computer is measured too, for less than a second.
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ibidem.config import configuration
from ibidem.figures import counted, duration, percent, short, size
from ibidem.modeling.config import ModelConfig, read_model_config
from ibidem.training.cluster import ClusterConfig, Work, table
from ibidem.training.config import TrainConfig
from ibidem.training.curriculum import Stage, stages_of
from ibidem.training.memory import CHUNK_TOKENS, WIDE, Setting, activation_bytes, learner_bytes, need

Positive = Annotated[float, Field(gt=0)]
SECONDS_PER_HOUR = 3600
CHINCHILLA_TOKENS_PER_PARAMETER = 20
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}
CARDS = {
    "L4 24 GB": 24e9,
    "RTX 4090 24 GB": 24e9,
    "A100 40 GB": 40e9,
    "A100 80 GB": 80e9,
    "H100 80 GB": 80e9,
    "H200 141 GB": 141e9,
}
RESERVED = 0.05
"""Share of a card's memory that the CUDA context and fragmentation take."""
CPU_SHARE = 0.5
"""Share of the speed of matrix products that training on a CPU reaches. Alone on two cores the tiny model trains at
2,267 tokens/s (`benchmarks/results/idle_threads.json`): 95 GFLOP/s of the 200 that `cpu_flops` measures there."""
MEASURE_S, EDGE = 0.7, 1536
"""How long this computer's speed is measured, with matrices of this many rows and columns."""


@configuration
class PlanConfig(TrainConfig):
    """Estimate the cost of a training: the same keys as `ibidem train`, and the machine."""

    gpus: Annotated[int, Field(ge=1)] = 8
    """Number of accelerators."""
    gpu_tflops: Positive = 989.0
    """Peak dense bf16 speed of one accelerator, in TFLOP/s (H100 and H200: 989)."""
    mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the peak that the training reaches: model FLOP utilization, with full attention counted, as published
    figures are."""
    price_per_gpu_hour: Annotated[float, Field(ge=0)] = 2.5
    """Price of one accelerator per hour, in any currency."""
    compare: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Numbers of GPUs to set side by side, such as 1 8 64 512, instead of the plan of one of them."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Speeds and failures of the machines that --compare assumes."""


def plan(config: PlanConfig) -> str:
    """Return the figures as a table."""
    shape = read_model_config(config.model)
    context = config.data.context or shape.context
    stages = stages_of(config.data.stages, context=context, steps=config.training.steps)
    if config.compare:
        return "\n".join(table(_work(shape, config, context, stages), config.compare, config.cluster))
    rows = [*_model_rows(shape), *_memory_rows(shape, config, context), *_run_rows(shape, config, context, stages)]
    if not _has_gpu():
        rows += _here_rows(shape, config, context, stages, cpu_flops())
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _work(shape: ModelConfig, config: PlanConfig, context: int, stages: Sequence[Stage]) -> Work:
    training = config.training
    return Work(
        shape=shape,
        setting=_setting(config, context, compiled=training.compile),
        context=context,
        flops_per_token=_flops_per_token(shape, stages, causal=False),
        batch=training.batch_sequences,
        micro_batch=training.micro_batch_sequences,
        steps=training.steps,
        flops_per_gpu=config.gpu_tflops * 1e12 * config.mfu,
        price=config.price_per_gpu_hour,
    )


def preview(config: TrainConfig) -> list[str]:
    """Return the plan of a training, on as many GPUs as it asks for, line by line."""
    same = {each.name: getattr(config, each.name) for each in fields(TrainConfig)}
    return plan(PlanConfig(**same, gpus=config.training.num_processes or 1)).splitlines()


def cpu_flops(seconds: float = MEASURE_S) -> float:
    """Measure this computer's speed in float32 matrix products, in FLOP/s: the best of those that fit into the time.

    It uses as many threads as training does: the number of cores, or OMP_NUM_THREADS.
    """
    import numpy as np

    matrix = np.random.default_rng(0).standard_normal((EDGE, EDGE), dtype=np.float32)
    best, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        matrix @ matrix
        best = max(best, 2 * EDGE**3 / (time.perf_counter() - begun))
    return best


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdecimal() and int(asked) > 0 else cores


def _model_rows(shape: ModelConfig) -> list[tuple[str, str]]:
    return [
        ("parameters", f"{shape.parameters:,}"),
        ("  embeddings", f"{shape.vocab_size * shape.width * (1 if shape.tied else 2):,}"),
        ("  per block", f"{shape.block_parameters:,} x {shape.layers}"),
        ("KV cache at full context, 16 bit", size(shape.kv_cache_bytes(shape.context))),
    ]


def _memory_rows(shape: ModelConfig, config: PlanConfig, context: int) -> list[tuple[str, str]]:
    eager, compiled = (_setting(config, context, compiled=on) for on in (False, True))
    needs = need(shape, eager), need(shape, compiled)
    other = _both([activation_bytes(shape, _checkpointed(setting)) for setting in (eager, compiled)])
    how = f", with checkpointing {other}" if not eager.checkpointing else ""
    casts = [("weights cast to 16 bit", size(needs[0].casts))] if needs[0].casts else []
    return [
        (f"weights, gradients, {OPTIMIZERS[config.optim.name]}, 32 bit", size(learner_bytes(shape, eager))),
        *casts,
        (f"activations of {eager.tokens:,} tokens", _both([each.activations for each in needs]) + how),
        (
            f"loss: gradients, and logits of {CHUNK_TOKENS:,} tokens",
            _both([each.loss + each.passing for each in needs]),
        ),
        ("total on one GPU", _both([each.total for each in needs])),
        *_sharded_rows(shape, config, (eager, compiled)),
        *_card_rows(shape, config, (eager, compiled)),
    ]


def _setting(config: PlanConfig, context: int, *, compiled: bool) -> Setting:
    training = config.training
    return Setting(
        tokens=training.micro_batch_sequences * context,
        value_bytes=WIDE if training.mixed_precision == "no" else 2,
        compiled=compiled,
        checkpointing=training.gradient_checkpointing,
        optimizer=config.optim.name,
        accumulates=training.batch_sequences > training.micro_batch_sequences * config.gpus,
        replicated=config.gpus > 1,
    )


def _checkpointed(setting: Setting) -> Setting:
    return replace(setting, checkpointing=True)


def _sharded(setting: Setting, gpus: int) -> Setting:
    return replace(setting, sharded_over=gpus, replicated=False)


def _sharded_rows(shape: ModelConfig, config: PlanConfig, settings: Sequence[Setting]) -> list[tuple[str, str]]:
    if config.gpus == 1:
        return []
    needs = [need(shape, _sharded(setting, config.gpus)) for setting in settings]
    return [
        (f"FSDP over {config.gpus}: states on each GPU", size(needs[0].states)),
        ("  gathered blocks, gradients to reduce", size(needs[0].gathered)),
        (f"total on each GPU, FSDP over {config.gpus}", _both([each.total for each in needs])),
    ]


def _card_rows(shape: ModelConfig, config: PlanConfig, settings: Sequence[Setting]) -> list[tuple[str, str]]:
    rows = []
    for card, num_bytes in CARDS.items():
        said = _verdicts(shape, settings, num_bytes)
        if config.gpus > 1:
            said += f"; sharded: {_verdicts(shape, [_sharded(each, config.gpus) for each in settings], num_bytes)}"
        rows.append((f"  fits on {card}", said))
    return rows


def _verdicts(shape: ModelConfig, settings: Sequence[Setting], num_bytes: float) -> str:
    fits = [need(shape, setting).total <= num_bytes * (1 - RESERVED) for setting in settings]
    eager, compiled = ("fits" if each else "does not fit" for each in fits)
    return f"eager {eager}, compiled {compiled}"


def _both(sizes: Sequence[float]) -> str:
    eager, compiled = map(size, sizes)
    return f"eager {eager}, compiled {compiled}"


def _flops_per_token(shape: ModelConfig, stages: Sequence[Stage], *, causal: bool) -> float:
    """Return the mean over a training: every step has the same tokens, in shorter sequences with less attention."""
    if len({stage.context for stage in stages}) == 1:
        return shape.flops_per_token(stages[0].context, causal=causal)
    total = sum(stage.steps * shape.flops_per_token(stage.context, causal=causal) for stage in stages)
    return total / sum(stage.steps for stage in stages)


def _stage_rows(config: PlanConfig, context: int, stages: Sequence[Stage]) -> list[tuple[str, str]]:
    if not config.data.stages:
        return []
    batch = config.training.batch_sequences
    return [
        (
            f"  stage {stage.name}",
            f"{stage.steps * batch * context:,} in {counted(stage.steps, 'step')} of "
            f"{counted(batch * context // stage.context, 'sequence')} of {stage.context:,}{_mix(stage)}",
        )
        for stage in stages
    ]


def _mix(stage: Stage) -> str:
    total = sum(stage.shares.values())
    parts = [f"{percent(share / total, digits=0)} {name}" for name, share in stage.shares.items()]
    return f"; {', '.join(parts)}" if parts else ""


def _run_rows(shape: ModelConfig, config: PlanConfig, context: int, stages: Sequence[Stage]) -> list[tuple[str, str]]:
    tokens_per_step = config.training.batch_sequences * context
    tokens = tokens_per_step * config.training.steps
    full, causal = (_flops_per_token(shape, stages, causal=on) for on in (False, True))
    tokens_per_s = config.gpus * config.gpu_tflops * 1e12 * config.mfu / full
    hours = tokens / tokens_per_s / SECONDS_PER_HOUR
    compute_optimal = CHINCHILLA_TOKENS_PER_PARAMETER * shape.parameters
    return [
        (
            "FLOP per token, forward and backward",
            f"{short(full)} with full attention, {short(causal)} with its causal half",
        ),
        ("tokens per step", f"{tokens_per_step:,}"),
        (
            "total tokens",
            f"{tokens:,} ({tokens / shape.parameters:.1f} per parameter; 20 would be {compute_optimal:,})",
        ),
        *_stage_rows(config, context, stages),
        ("total FLOP, with full attention", f"{full * tokens:.3g}"),
        (f"speed on {counted(config.gpus, 'GPU')} at {percent(config.mfu, digits=0)} MFU", _speed(tokens_per_s)),
        ("  MFU with the causal half counted", percent(config.mfu * causal / full, digits=0)),
        ("time", duration(hours * SECONDS_PER_HOUR)),
        ("cost", f"{hours * config.gpus * config.price_per_gpu_hour:,.0f} at {config.price_per_gpu_hour} per GPU-hour"),
    ]


def _here_rows(
    shape: ModelConfig, config: PlanConfig, context: int, stages: Sequence[Stage], flops: float
) -> list[tuple[str, str]]:
    tokens = config.training.batch_sequences * context * config.training.steps
    tokens_per_s = flops * CPU_SHARE / _flops_per_token(shape, stages, causal=True)
    share = percent(CPU_SHARE, digits=0)
    return [
        ("on this computer, without a GPU", f"{flops / 1e9:,.0f} GFLOP/s in float32, {counted(_threads(), 'thread')}"),
        (f"  speed at {share} of that", f"{_speed(tokens_per_s)} (estimate, if nothing else runs here)"),
        ("  time", duration(tokens / tokens_per_s)),
    ]


def _speed(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 10 else f"{tokens_per_s:.2g} tokens/s"
