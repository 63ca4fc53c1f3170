"""The loop that every training shares: accumulate, clip, step, measure, save.

A training is an `Objective`: it returns the loss of a micro batch of a step, and measures. The loop knows nothing of
tokens, prompts or rewards. Every random number of a micro batch follows from (seed, step, micro batch, process), so a
resumed run is bit-identical to an uninterrupted one.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ibidem import log
from ibidem.errors import TrainingError
from ibidem.training.objective import Objective
from ibidem.training.optim import set_learning_rate

SLOW_STEPS = 10


@dataclass(frozen=True)
class Schedule:
    """When the loop measures, saves and stops, and the sizes of a step."""

    start: int
    stop: int
    total_steps: int
    micro_batches: int
    seed: int
    clip: float
    tokens_per_step: int
    measure_every: int
    save_every: int


def run(
    schedule: Schedule,
    objective: Objective,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    *,
    learning_rate: Callable[[int], float],
    save: Callable[[int, dict[str, float]], None],
    asked_to_stop: Callable[[], bool],
) -> int:
    """Train from `schedule.start` to `schedule.stop`; return the last step, whose checkpoint is saved.

    Args:
        schedule: when to measure, save and stop.
        objective: what is optimized.
        model: as `accelerator` prepared it.
        optimizer: of the model.
        accelerator: the processes and devices.
        learning_rate: returns the learning rate of a step.
        save: saves a checkpoint after so many steps.
        asked_to_stop: whether to save after the current step and return.
    """
    if schedule.start == 0:
        _measure(objective, model, accelerator, 0)
    pace, done = Pace(), schedule.start
    with log.progress("train", schedule.stop, "steps", start=schedule.start) as bar:
        for step in range(schedule.start, schedule.stop):
            started = time.perf_counter()
            objective.begin(model, step)
            figures = update(schedule, objective, model, optimizer, accelerator, step=step, lr=learning_rate(step))
            figures |= objective.figures()
            done = step + 1
            speed = schedule.tokens_per_step / (time.perf_counter() - started)
            log.event(
                "train.step", step=done, tokens=done * schedule.tokens_per_step, tokens_per_s=round(speed), **figures
            )
            accelerator.log({f"train/{name}": value for name, value in figures.items()}, step=done)
            pace.notice(done, speed)
            bar.advance(loss=round(figures["loss"], 4), tokens_per_s=round(speed))
            measures = done % schedule.measure_every == 0 or done == schedule.total_steps
            measured = _measure(objective, model, accelerator, done) if measures else {}
            stops = asked_to_stop()
            if done % schedule.save_every == 0 or done == schedule.stop or stops:
                _check_finite(model, done)
                save(done, {"loss": figures["loss"], **measured})
            if stops:
                break
    return done


class Pace:
    """Notices when a run becomes far slower than it was: something else uses the machine."""

    def __init__(self) -> None:
        self._speeds: list[float] = []
        self._slow_steps, self._quiet_until = 0, 0

    def notice(self, step: int, tokens_per_s: float) -> None:
        """Take the speed of a step; report `SLOW_STEPS` steps in a row below half of the median so far."""
        usual = statistics.median(self._speeds) if len(self._speeds) >= SLOW_STEPS else 0.0
        self._slow_steps = self._slow_steps + 1 if tokens_per_s < usual / 2 else 0
        if self._slow_steps == 0:
            self._speeds.append(tokens_per_s)
        elif self._slow_steps >= SLOW_STEPS and step >= self._quiet_until:
            self._quiet_until = step + 10 * SLOW_STEPS
            reason = (
                "less than half the usual speed: does something else use this machine? `ibidem doctor` shows the load"
            )
            log.event("train.slow", step=step, tokens_per_s=round(tokens_per_s), usual=round(usual), reason=reason)


def update(
    schedule: Schedule,
    objective: Objective,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    *,
    step: int,
    lr: float,
) -> dict[str, float]:
    """Take one optimizer step; return its loss per target (nats), gradient norm and learning rate.

    Raises:
        TrainingError: loss or gradient are not finite; the weights are still those of the previous step.
    """
    model.train()
    set_learning_rate(optimizer.param_groups, lr)
    total = torch.zeros((), device=accelerator.device)
    num_targets = 1
    for micro in range(schedule.micro_batches):
        torch.manual_seed(micro_seed(schedule.seed, step, micro, accelerator.process_index))
        is_last = micro == schedule.micro_batches - 1
        with accelerator.autocast(), _synchronize(accelerator, model, when=is_last):
            loss, num_targets = objective.loss(model, step, micro)
            accelerator.backward(loss * (accelerator.num_processes / num_targets))
        total += loss.detach()
    mean = float(accelerator.reduce(total, "sum")) / num_targets
    norm = float(accelerator.clip_grad_norm_(model.parameters(), schedule.clip))
    if not (np.isfinite(mean) and np.isfinite(norm)):
        raise TrainingError(f"step {step + 1}: loss {mean}, gradient norm {norm}; lower optim.lr, or look at the data")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": mean, "grad_norm": norm, "lr": lr}


def micro_seed(seed: int, step: int, micro: int, process: int) -> int:
    """Return a distinct seed for each micro batch.

    >>> micro_seed(0, 1, 0, 0) != micro_seed(0, 0, 1, 0)
    True
    """
    return int(np.random.SeedSequence((seed, step, micro, process)).generate_state(1, np.uint64)[0])


def _synchronize(accelerator: Accelerator, model: nn.Module, *, when: bool) -> Any:
    return nullcontext() if when else accelerator.no_sync(model)


def _check_finite(model: nn.Module, step: int) -> None:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise TrainingError(f"step {step}: the weights are not finite and were not saved; lower optim.lr")


def _measure(objective: Objective, model: nn.Module, accelerator: Accelerator, step: int) -> dict[str, float]:
    model.eval()
    with torch.no_grad(), accelerator.autocast():
        measured = objective.measure(model, step)
    if not all(np.isfinite(value) for value in measured.values()):
        raise TrainingError(f"step {step}: measured {measured}; lower optim.lr")
    log.event("train.measured", step=step, **measured)
    accelerator.log({f"held_out/{name}": value for name, value in measured.items()}, step=step)
    return measured
