"""The memory, compute, time and cost of a training: arithmetic on the configuration, without torch.

Without a GPU, the speed of this computer is measured too, for less than a second.
"""

import os
import shutil
import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ibidem.config import configuration
from ibidem.figures import counted, duration, percent, short, size
from ibidem.modeling.config import ModelConfig, read_model_config
from ibidem.training.config import TrainConfig

Positive = Annotated[float, Field(gt=0)]
SECONDS_PER_HOUR = 3600
CHINCHILLA_TOKENS_PER_PARAMETER = 20
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
    """Share of the peak that the training reaches: model FLOP utilization."""
    price_per_gpu_hour: Annotated[float, Field(ge=0)] = 2.5
    """Price of one accelerator per hour, in any currency."""


def plan(config: PlanConfig) -> str:
    """Return the figures as a table."""
    shape = read_model_config(config.model)
    context = config.data.context or shape.context
    rows = [*_model_rows(shape), *_memory_rows(shape, config, context), *_run_rows(shape, config, context)]
    if not _has_gpu():
        rows += _here_rows(shape, config, context, cpu_flops())
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def preview(config: TrainConfig) -> list[str]:
    """Return the plan of a training, on as many GPUs as it asks for, line by line."""
    same = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    return plan(PlanConfig(**same, gpus=config.training.num_processes or 1)).splitlines()


def activation_bytes(shape: ModelConfig, tokens: int, *, checkpointing: bool, bytes_per_value: int = 2) -> int:
    """Estimate the bytes that the forward pass keeps for the backward pass.

    Values that one block keeps per token: its input, both norms' outputs, the attention's output before and after its
    matrix and the sum in between (6 D); queries, keys and values before and after norm and rotation (2 (D + 2 G K));
    the feed-forward's two halves, the activated one and their product (4 F). With checkpointing only each block's input
    is kept, and one block at a time is recomputed. The logits are never kept.
    """
    kv = 2 * shape.num_kv_heads * shape.head_width
    block = 6 * shape.width + 2 * (shape.width + kv) + 4 * shape.ffn_hidden
    values = shape.layers * shape.width + block if checkpointing else shape.layers * block
    return tokens * values * bytes_per_value


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
    tokens = config.training.micro_batch_sequences * context
    kept = activation_bytes(shape, tokens, checkpointing=False)
    checkpointed = activation_bytes(shape, tokens, checkpointing=True)
    states = 16 * shape.parameters
    activations = checkpointed if config.training.gradient_checkpointing else kept
    return [
        ("weights, 16 bit / 32 bit", f"{size(2 * shape.parameters)} / {size(4 * shape.parameters)}"),
        ("weights, gradients, AdamW, 32 bit", size(states)),
        (f"  per GPU, sharded over {config.gpus}", size(states / config.gpus)),
        (f"activations of {tokens:,} tokens", f"{size(kept)}, with checkpointing {size(checkpointed)} (estimate)"),
        ("total per GPU, unsharded", size(states + activations)),
        ("total per GPU, sharded", size(states / config.gpus + activations)),
    ]


def _run_rows(shape: ModelConfig, config: PlanConfig, context: int) -> list[tuple[str, str]]:
    tokens_per_step = config.training.batch_sequences * context
    tokens = tokens_per_step * config.training.steps
    flops = shape.flops_per_token(context)
    tokens_per_s = config.gpus * config.gpu_tflops * 1e12 * config.mfu / flops
    hours = tokens / tokens_per_s / SECONDS_PER_HOUR
    full = shape.flops_per_token(context, causal=False)
    compute_optimal = CHINCHILLA_TOKENS_PER_PARAMETER * shape.parameters
    return [
        (
            "FLOP per token, forward and backward",
            f"{short(flops)} ({short(full)} with full attention counted)",
        ),
        ("tokens per step", f"{tokens_per_step:,}"),
        (
            "total tokens",
            f"{tokens:,} ({tokens / shape.parameters:.1f} per parameter; 20 would be {compute_optimal:,})",
        ),
        ("total FLOP", f"{flops * tokens:.3g}"),
        (
            f"speed on {counted(config.gpus, 'GPU')} at {percent(config.mfu, digits=0)} MFU",
            _speed(tokens_per_s),
        ),
        ("time", duration(hours * SECONDS_PER_HOUR)),
        ("cost", f"{hours * config.gpus * config.price_per_gpu_hour:,.0f} at {config.price_per_gpu_hour} per GPU-hour"),
    ]


def _here_rows(shape: ModelConfig, config: PlanConfig, context: int, flops: float) -> list[tuple[str, str]]:
    tokens = config.training.batch_sequences * context * config.training.steps
    tokens_per_s = flops * CPU_SHARE / shape.flops_per_token(context)
    share = percent(CPU_SHARE, digits=0)
    return [
        ("on this computer, without a GPU", f"{flops / 1e9:,.0f} GFLOP/s in float32, {counted(_threads(), 'thread')}"),
        (f"  speed at {share} of that", f"{_speed(tokens_per_s)} (estimate, if nothing else runs here)"),
        ("  time", duration(tokens / tokens_per_s)),
    ]


def _speed(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 10 else f"{tokens_per_s:.2g} tokens/s"
