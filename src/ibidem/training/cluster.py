"""What a training takes on 1, 8, 64, 512 GPUs, side by side: arithmetic, without torch.

    one GPU           no communication
    one machine       FSDP over its GPUs: each gathers the weights of a block before it computes it, forward and
                      backward, and gives away its gradients of all blocks but its own, once a step
    several machines  each holds all of it, divided over its GPUs (HSDP); between machines only the sums of gradients
                      travel, once a step

Sources: bytes of FSDP: Zhao et al. 2023 (arXiv:2304.11277), section 3.2; the interval between checkpoints that loses
least time: Young 1974, "A first order approximation to the optimum checkpoint interval"; failures: Llama 3
(arXiv:2407.21783), section 3.3.4: 419 unexpected interruptions of 16,384 GPUs in 54 days.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

from pydantic import Field

from ibidem.config import configuration
from ibidem.figures import aligned, duration, percent, short, size
from ibidem.modeling.config import ModelConfig
from ibidem.training.memory import GRADIENT, Setting, learner_bytes, need

Positive = Annotated[float, Field(gt=0)]
GIGA = 1e9
HOUR_S = 3_600


@configuration
class ClusterConfig:
    """The machines of a cluster; the defaults are those of eight H100 or H200 each."""

    gpus_per_machine: Annotated[int, Field(ge=1)] = 8
    """GPUs of a machine, over which the weights are divided."""
    link_gb_per_s: Positive = 450.0
    """What a GPU sends to the others of its machine, in GB/s (NVLink 4: 450)."""
    network_gb_per_s: Positive = 50.0
    """What a GPU sends to other machines, in GB/s (InfiniBand NDR: 50)."""
    link_share: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of these speeds that a collective reaches."""
    storage_gb_per_s: Positive = 2.0
    """What a machine writes to the shared disk, in GB/s."""
    copy_gb_per_s: Positive = 3.3
    """What a GPU copies to its machine's memory, in GB/s, while the training stands still (`benchmarks/saving.py`)."""
    gpu_hours_per_failure: Positive = 50_000.0
    """GPU-hours between two interruptions."""
    restart_minutes: Annotated[float, Field(ge=0)] = 15.0
    """Until a run that was interrupted trains again."""


@dataclass(frozen=True)
class Work:
    """A training, whatever it runs on."""

    shape: ModelConfig
    setting: Setting
    context: int
    flops_per_token: float
    """Forward and backward, with full attention; the mean over the training."""
    batch: int
    """Sequences of a step."""
    micro_batch: int
    """Sequences that a GPU computes at once, at most."""
    steps: int
    flops_per_gpu: float
    """That the training reaches on a GPU, in FLOP/s."""
    price: float
    """Of a GPU-hour."""


class Estimate(NamedTuple):
    """A training on a number of GPUs."""

    gpus: int
    machines: int
    shards: int
    """GPUs that share the states."""
    micro_batch: int
    batch: int
    steps: int
    step_tokens: int
    memory: float
    """Bytes on each GPU."""
    inside: float
    """Bytes that a GPU sends to the others of its machine in a step."""
    between: float
    """Bytes that it sends to other machines in a step."""
    communication_s: float
    """Of a step."""
    compute_s: float
    hidden_s: float
    """Of the training, if all communication is hidden behind the computing that it overlaps with."""
    shown_s: float
    """Of the training, if none is."""
    checkpoint: int
    """Bytes of a checkpoint."""
    stall_s: float
    """Of an asynchronous save."""
    written_s: float
    """Until the checkpoint is sealed."""
    failures: float
    """Expected interruptions of the training."""
    interval_s: float
    """Between two checkpoints, so that least time is lost."""
    lost: float
    """Share of the time that saving, repeating and starting again take."""


def estimate(work: Work, gpus: int, cluster: ClusterConfig) -> Estimate:
    """Return what a training takes on a number of GPUs.

    Each GPU has a sequence of a step at least: where the batch is smaller than that it grows, and the steps are fewer.
    """
    machines, shards = math.ceil(gpus / cluster.gpus_per_machine), min(gpus, cluster.gpus_per_machine)
    micro_batch = max(1, min(work.micro_batch, work.batch // gpus))
    batch = max(work.batch, gpus)
    steps = math.ceil(work.batch * work.steps / batch)
    micro_batches = batch / gpus / micro_batch
    setting = _setting(work, micro_batch, shards, accumulates=micro_batches > 1)
    inside, between = _sent(work.shape, setting, micro_batches, shards, machines)
    communication_s = (inside / cluster.link_gb_per_s + between / cluster.network_gb_per_s) / GIGA / cluster.link_share
    compute_s = batch / gpus * work.context * work.flops_per_token
    compute_s /= work.flops_per_gpu
    hidden_s, shown_s = steps * max(compute_s, communication_s), steps * (compute_s + communication_s)
    checkpoint = learner_bytes(work.shape, setting) - GRADIENT * work.shape.parameters
    stall_s = checkpoint / shards / cluster.copy_gb_per_s / GIGA
    return Estimate(
        gpus=gpus,
        machines=machines,
        shards=shards,
        micro_batch=micro_batch,
        batch=batch,
        steps=steps,
        step_tokens=batch * work.context,
        memory=need(work.shape, setting).total,
        inside=inside,
        between=between,
        communication_s=communication_s,
        compute_s=compute_s,
        hidden_s=hidden_s,
        shown_s=shown_s,
        checkpoint=checkpoint,
        stall_s=stall_s,
        written_s=stall_s + checkpoint / cluster.storage_gb_per_s / GIGA,
        **_interruptions(gpus, hidden_s, stall_s, cluster),
    )


def _setting(work: Work, micro_batch: int, shards: int, *, accumulates: bool) -> Setting:
    return replace(
        work.setting,
        tokens=micro_batch * work.context,
        accumulates=accumulates,
        sharded_over=shards if shards > 1 else None,
        replicated=False,
    )


def _sent(
    shape: ModelConfig, setting: Setting, micro_batches: float, shards: int, machines: int
) -> tuple[float, float]:
    """Return the bytes that a GPU sends in a step, in its machine and between machines.

    Blocks are gathered forward and backward, all else once; gradients are reduced in float32, in a step's last micro
    batch. A ring sends a share of (n - 1) / n for a gathering and for a reducing, and twice that for a sum.
    """
    others = (shards - 1) / shards
    blocks = shape.layers * shape.block_parameters
    gathered = setting.value_bytes * (2 * blocks + (shape.parameters - blocks)) * micro_batches
    inside = others * (gathered + GRADIENT * shape.parameters)
    between = 2 * (machines - 1) / machines * GRADIENT * shape.parameters / shards
    return inside, between


def _interruptions(gpus: int, training_s: float, stall_s: float, cluster: ClusterConfig) -> dict[str, float]:
    """Return the expected failures, the interval of checkpoints, and the share of time that is lost to both."""
    between_s = cluster.gpu_hours_per_failure * HOUR_S / gpus
    interval_s = math.sqrt(2 * stall_s * between_s)
    repeated_s = interval_s / 2 + 60 * cluster.restart_minutes
    return {
        "failures": training_s / between_s,
        "interval_s": interval_s,
        "lost": stall_s / interval_s + repeated_s / between_s,
    }


ROWS: tuple[tuple[str, Callable[[Estimate], str]], ...] = (
    ("GPUs", lambda of: f"{of.gpus:,}"),
    ("divided over, times machines", lambda of: f"{of.shards} x {of.machines}"),
    ("sequences of a step, at once on a GPU", lambda of: f"{of.batch:,}, {of.micro_batch}"),
    ("steps, tokens of each", lambda of: f"{of.steps:,}, {short(of.step_tokens)}"),
    ("tokens", lambda of: short(of.steps * of.step_tokens)),
    ("memory of each GPU", lambda of: size(of.memory)),
    ("a GPU sends a step, in its machine", lambda of: size(of.inside)),
    ("  to other machines", lambda of: size(of.between)),
    ("  time of that, and of computing", lambda of: f"{of.communication_s:.2f} s, {of.compute_s:.2f} s"),
    ("training, communication hidden", lambda of: duration(of.hidden_s)),
    ("  not hidden", lambda of: duration(of.shown_s)),
    ("checkpoint", lambda of: size(of.checkpoint)),
    ("  training stands still, written after", lambda of: f"{of.stall_s:.2f} s, {of.written_s:.1f} s"),
    ("interruptions to expect", lambda of: f"{of.failures:.2g}"),
    ("  save every", lambda of: duration(of.interval_s)),
    ("  time lost by saving and repeating", lambda of: percent(of.lost, 1)),
)


def table(work: Work, numbers: Sequence[int], cluster: ClusterConfig) -> list[str]:
    """Return the lines of a table, a column for each number of GPUs, and one on what is assumed."""
    estimates = [estimate(work, gpus, cluster) for gpus in numbers]
    rows = [(name, [write(each) for each in estimates]) for name, write in ROWS]
    rows.append(("cost", [f"{_gpu_hours(each) * work.price:,.0f}" for each in estimates]))
    return [*aligned(rows), _assumed(work, cluster)]


def _gpu_hours(each: Estimate) -> float:
    return each.hidden_s * (1 + each.lost) * each.gpus / HOUR_S


def _assumed(work: Work, cluster: ClusterConfig) -> str:
    return (
        f"assumed: {work.flops_per_gpu / 1e12:,.0f} TFLOP/s reached on a GPU; {percent(cluster.link_share, 0)} of "
        f"{cluster.link_gb_per_s:g} GB/s in a machine and of {cluster.network_gb_per_s:g} GB/s between machines; "
        f"{cluster.storage_gb_per_s:g} GB/s to the disk, written by one machine; an interruption in "
        f"{cluster.gpu_hours_per_failure:,.0f} GPU-hours. The cost is that of the time with communication hidden"
    )
