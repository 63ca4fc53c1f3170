"""The optimizer and the learning rate."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from ibidem.training.config import OptimConfig


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices but not on norms.

    Source: Loshchilov and Hutter 2017, arXiv:1711.05101.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Return the learning rate of a step, a function of the step alone."""
    if config.schedule == "cosine":
        share = warmup_cosine(step, warmup_steps=config.warmup_steps, total_steps=total_steps, floor=config.floor)
    else:
        decay_steps = max(1, round(config.decay_share * total_steps))
        share = warmup_stable_decay(
            step,
            warmup_steps=config.warmup_steps,
            decay_steps=decay_steps,
            total_steps=total_steps,
            floor=config.floor,
        )
    return config.lr * share


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, floor: float) -> float:
    """Return the learning rate as a share of its peak: linear warmup, then half a cosine down to the floor.

    >>> [round(warmup_cosine(s, warmup_steps=2, total_steps=6, floor=0.0), 3) for s in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5, without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_stable_decay(step: int, *, warmup_steps: int, decay_steps: int, total_steps: int, floor: float) -> float:
    """Return the share of the peak: linear warmup, constant, then linear decay to the floor over `decay_steps`.

    >>> [warmup_stable_decay(s, warmup_steps=1, decay_steps=2, total_steps=5, floor=0.0) for s in range(6)]
    [1.0, 1.0, 1.0, 1.0, 0.5, 0.0]

    Source: Hu et al. 2024, arXiv:2404.06395 (MiniCPM), section 4.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = min(1.0, max(0.0, (total_steps - step) / decay_steps))
    return floor + (1 - floor) * left


def set_learning_rate(groups: Iterable[dict[str, object]], lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in groups:
        group["lr"] = lr
