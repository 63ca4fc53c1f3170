"""The processes and devices of a training, as accelerate starts them, and checks that it did."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from ibidem import log, trackers
from ibidem.errors import ConfigError
from ibidem.modeling import flash_attention
from ibidem.training import sharding
from ibidem.training.config import LoopConfig, SessionConfig

LONGEST_PREPARATION = timedelta(hours=12)
"""For what the main process does while the others wait, such as tokenizing: if it ends, their sockets tell them."""
LONGEST_SAVE = timedelta(hours=1)
"""For the slowest process that writes its part of a checkpoint."""


def start_accelerator(config: SessionConfig) -> Accelerator:
    """Start accelerate on the devices of this machine; precision and sharding are the project's own.

    Raises:
        ConfigError: a tracker or flash attention is not installed, there are more processes than GPUs, or the launcher
            asks for something that is not done here.
    """
    on_cpu = not torch.cuda.is_available()
    precision = config.training.mixed_precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", precision)
    if launched != precision:
        log.event("train.precision", asked=launched, used=precision, reason="training.mixed_precision decides")
    if on_cpu and precision != "no":
        log.event("train.precision", asked=precision, used="float32", reason="a CPU is slower in 16 bits")
    trackers.check(config.trackers)
    sharding.check(config.training.shard_processes)
    _check_device()
    with sharding.hidden_from_accelerate():
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="no",
            log_with=list(config.trackers) or None,
            project_dir=str(config.output_dir),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timeout_of_steps(config)),
            ],
        )
    flash_attention.use(config.training.flash_attention, "training.flash_attention", accelerator.device)
    return accelerator


def _check_device() -> None:
    """Fail in one line if there are more processes than GPUs.

    Raises:
        ConfigError: this process has none.
    """
    place, number = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if torch.cuda.is_available() and place >= number:
        raise ConfigError(
            f"process {place} of this machine has no GPU: {number} are here, and "
            f"{os.environ.get('LOCAL_WORLD_SIZE', place + 1)} processes; start {number} with --num_processes or "
            "--nproc-per-node"
        )


def timeout_of_steps(config: SessionConfig) -> timedelta:
    """Return how long the processes wait for one another in a step."""
    return timedelta(minutes=config.training.timeout_minutes)


def host_group(accelerator: Accelerator, timeout: timedelta) -> dist.ProcessGroup | None:
    """Return a group of all processes that talks over sockets of its own; None if there is one process.

    All must call it. Devices are not involved, and a process that ends is noticed at once, whatever the timeout.
    """
    return dist.new_group(backend="gloo", timeout=timeout) if accelerator.num_processes > 1 else None


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Let the main process go through the block before the others do, however long it takes."""
    group = host_group(accelerator, LONGEST_PREPARATION)
    if group is not None and not accelerator.is_main_process:
        dist.barrier(group)
    yield
    if group is not None and accelerator.is_main_process:
        dist.barrier(group)


def any_says_yes(group: dist.ProcessGroup, *, yes: bool) -> bool:
    """Return on every process whether one of them says yes."""
    votes = torch.tensor(int(yes))
    dist.all_reduce(votes, dist.ReduceOp.MAX, group)
    return bool(votes)


def shared_out(number: int, size: int, accelerator: Accelerator) -> Iterator[list[tuple[int, bool]]]:
    """Share out the items 0 to `number` - 1 for measuring; yield this process's batches of `size` items.

    Every process gets the same number of batches, as FSDP requires. Surplus places repeat an item and do not count.

    Yields:
        Pairs of an item and whether it counts.
    """
    processes, process = accelerator.num_processes, accelerator.process_index
    for start in range(process * size, math.ceil(number / (size * processes)) * size * processes, size * processes):
        yield [(place % number, place < number) for place in range(start, start + size)]


def compute_dtype(config: LoopConfig) -> torch.dtype:
    """Return the precision of blocks and matrices: 16 bits on an accelerator if asked for, float32 on a CPU."""
    if not torch.cuda.is_available():
        return torch.float32
    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.mixed_precision]


def check_processes(config: SessionConfig, accelerator: Accelerator) -> None:
    """Fail if fewer processes run than requested: on a CPU, launchers silently start only one.

    Raises:
        ConfigError: the number differs.
    """
    wanted = config.training.num_processes or int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != wanted:
        raise ConfigError(
            f"{wanted} processes were requested, but {accelerator.num_processes} run; on a CPU start them with "
            "torchrun --nproc-per-node N -m ibidem train, because accelerate launch starts only one there"
        )
