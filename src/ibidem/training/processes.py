"""The processes and devices of a training, as accelerate starts them, and checks that it did."""

import os
from datetime import timedelta
from importlib.util import find_spec

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from ibidem import log
from ibidem.errors import ConfigError
from ibidem.training.config import SessionConfig

LONGEST_WAIT = timedelta(hours=12)


def start_accelerator(config: SessionConfig) -> Accelerator:
    """Start accelerate on the devices of this machine; a CPU always computes in float32.

    Raises:
        ConfigError: a tracker is not installed.
    """
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
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),  # the others wait while the main process tokenizes
        ],
    )


def check_processes(config: SessionConfig, accelerator: Accelerator) -> None:
    """Fail if fewer processes run than requested: on a CPU, launchers silently start only one.

    Raises:
        ConfigError: the number differs, or FSDP would be ignored.
    """
    wanted = config.training.num_processes or int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != wanted:
        raise ConfigError(
            f"{wanted} processes were requested, but {accelerator.num_processes} run; on a CPU start them with "
            "torchrun --nproc-per-node N -m ibidem train, because accelerate launch starts only one there"
        )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and accelerator.device.type == "cpu":
        raise ConfigError("FSDP was requested, but accelerate ignores it on a CPU; use torchrun without FSDP there")
