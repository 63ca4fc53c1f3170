"""The loop that every training shares: accumulate, clip, step, measure, save.

A training is an `Objective`: it returns the loss of a micro batch of a step, and measures. The loop knows nothing of
tokens, prompts or rewards. Every random number of a micro batch follows from (seed, step, micro batch, process), so a
resumed run is bit-identical to an uninterrupted one on a CPU. On an accelerator the host does not wait for the step
that it has launched: it reads the figures of the one before.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from ibidem import log
from ibidem.errors import TrainingError
from ibidem.modeling.tensor_files import Tensors
from ibidem.training import sharding
from ibidem.training.guard import Guard
from ibidem.training.objective import Objective
from ibidem.training.optim import set_learning_rate

SLOW_STEPS = 10
HEADLINES = ("loss", "objective/scores")
"""Figures of a step that are shown while it runs, and kept in the checkpoint."""


@dataclass(frozen=True)
class Schedule:
    """When the loop measures, saves and stops, and the sizes of a step."""

    start: int
    stop: int
    total_steps: int
    micro_batches: int
    seed: int
    tokens_per_step: int
    most_skipped: int
    measure_every: int
    save_every: int


class Adapters(Protocol):
    """Adapters that are trained instead of a model's weights, and what a checkpoint holds of them."""

    @property
    def settings(self) -> str:
        """The file of their settings."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Return them by the names that the checkpoint has."""

    def merged(self) -> Mapping[str, Tensor]:
        """Return the weights of the model with the adapters added: what every other stage opens."""

    def restore(self, folder: Path, weights: Tensors) -> None:
        """Read them from a checkpoint, and what else is trained from its weights."""


class Learner(NamedTuple):
    """What a step changes."""

    model: nn.Module
    """On its devices."""
    optimizer: torch.optim.Optimizer
    guard: Guard
    """Clips gradients and skips steps."""
    adapters: Adapters | None = None
    """What is trained instead of the model's weights; None: the weights are."""


class Save(Protocol):
    """Saves a checkpoint."""

    def __call__(self, step: int, figures: dict[str, float], *, is_last: bool) -> None:
        """Save what was learned in so many steps."""


def run(
    schedule: Schedule,
    objective: Objective,
    learner: Learner,
    accelerator: Accelerator,
    *,
    learning_rate: Callable[[int], float],
    save: Save,
    asked_to_stop: Callable[[], bool],
) -> int:
    """Train from `schedule.start` to `schedule.stop`; return the last step, whose checkpoint is saved.

    Args:
        schedule: when to measure, save and stop.
        objective: what is optimized.
        learner: model, optimizer and guard.
        accelerator: the processes and devices.
        learning_rate: returns the learning rate of a step.
        save: saves a checkpoint after so many steps; only the last one has to succeed.
        asked_to_stop: whether to save after the current step and return.

    Raises:
        TrainingError: too many steps in a row were skipped, or weights or measurements are not finite.
    """
    model = learner.model
    if schedule.start == 0:
        _measure(objective, model, accelerator, 0)
    done = schedule.start
    with log.progress("train", schedule.stop, "steps", start=schedule.start) as bar:
        reports = _Reports(schedule, accelerator, bar)
        for step in range(schedule.start, schedule.stop):
            objective.begin(model, step)
            lr = learning_rate(step)
            figures = update(schedule, objective, learner, accelerator, step=step, lr=lr)
            done = step + 1
            reports.add(done, {**figures, "lr": lr, **objective.figures()})
            measures = done % schedule.measure_every == 0 or done == schedule.total_steps
            stops = asked_to_stop()
            saves = done % schedule.save_every == 0 or done == schedule.stop or stops
            if measures or saves:
                reports.finish()
            measured = _measure(objective, model, accelerator, done) if measures else {}
            if saves:
                _check_finite(model, accelerator, done)
                save(done, {**reports.headlines, **measured}, is_last=done == schedule.stop or stops)
            reports.resume()
            if stops:
                break
    return done


class _Reports:
    """Reads the figures of the steps and logs them: on an accelerator one step late, so that it never waits for it."""

    def __init__(self, schedule: Schedule, accelerator: Accelerator, bar: log.Bar) -> None:
        self._schedule, self._accelerator, self._bar = schedule, accelerator, bar
        self._waits = accelerator.device.type == "cpu"
        self._pending: tuple[int, _Figures] | None = None
        self._pace, self._since = Pace(), time.perf_counter()
        self.headlines: dict[str, float] = {}
        """The last step's headline figures; empty if all were skipped."""

    def add(self, done: int, figures: Mapping[str, Tensor | float]) -> None:
        """Take a step's figures; log those of the step before, or on a CPU these."""
        if self._pending is not None:
            self.finish()
        self._pending = done, _Figures(figures, self._accelerator.device)
        if self._waits:
            self.finish()

    def resume(self) -> None:
        """Leave what came between two steps out of the second one's time."""
        if self._pending is None:
            self._since = time.perf_counter()

    def finish(self) -> None:
        """Log the step whose figures have not been read."""
        if self._pending is None:
            return
        done, pending = self._pending
        self._pending = None
        figures = pending.read()
        now = time.perf_counter()
        speed, self._since = self._schedule.tokens_per_step / (now - self._since), now
        skipped = int(figures.pop("skipped"))
        if skipped:
            _report_skipped(done, figures, skipped, self._schedule.most_skipped)
        else:
            self.headlines = {name: figures[name] for name in HEADLINES if name in figures}
            tokens = done * self._schedule.tokens_per_step
            log.event("train.step", step=done, tokens=tokens, tokens_per_s=round(speed), **figures)
            self._accelerator.log({f"train/{name}": value for name, value in figures.items()}, step=done)
        self._pace.notice(done, speed)
        self._bar.advance(
            **{name: round(value, 4) for name, value in self.headlines.items()}, tokens_per_s=round(speed)
        )


class _Figures:
    """A step's figures on their way to the host, behind the step itself and nothing that is launched later."""

    def __init__(self, figures: Mapping[str, Tensor | float], device: torch.device) -> None:
        self._known = {name: value for name, value in figures.items() if not isinstance(value, Tensor)}
        tensors = {name: value for name, value in figures.items() if isinstance(value, Tensor)}
        self._names = list(figures)
        self._copied = list(tensors)
        self._values = torch.stack([value.double() for value in tensors.values()])
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            pinned = torch.empty(len(tensors), dtype=torch.float64, pin_memory=True)
            self._values = pinned.copy_(self._values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> dict[str, float]:
        """Return the figures, as soon as the step is done."""
        if self._event is not None:
            self._event.synchronize()
        values = {**self._known, **dict(zip(self._copied, self._values.tolist(), strict=True))}
        return {name: float(values[name]) for name in self._names}


def _report_skipped(step: int, figures: Mapping[str, float], skipped: int, most: int) -> None:
    said = f"loss {figures['loss']:.6g}, gradient norm {figures['grad_norm']:.6g}"
    if skipped >= most:
        raise TrainingError(f"step {step}: {said}; {skipped} skipped in a row: lower optim.lr, or look at the data")
    log.event("train.skipped", step=step, in_a_row=skipped, reason=f"{said}: the weights stay as they were")


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
    learner: Learner,
    accelerator: Accelerator,
    *,
    step: int,
    lr: float,
) -> dict[str, Tensor]:
    """Take one optimizer step, or skip it if the guard says so.

    Returns:
        Its loss per target (nats), the gradient's norm, and how many steps in a row were skipped, on the device.
    """
    model, optimizer, guard, _ = learner
    model.train()
    set_learning_rate(optimizer.param_groups, lr)
    total = torch.zeros((), device=accelerator.device)
    num_targets = 1
    for micro in range(schedule.micro_batches):
        torch.manual_seed(micro_seed(schedule.seed, step, micro, accelerator.process_index))
        is_last = micro == schedule.micro_batches - 1
        with _reduces_when(accelerator, model, is_last=is_last):
            loss, num_targets = objective.loss(model, step, micro)
            (loss * (guard.scale * accelerator.num_processes / num_targets).float()).backward()
        total += loss.detach()
    mean = accelerator.reduce(total, "sum") / num_targets
    figures = guard.judge(mean, gradient_norm(model), getattr(optimizer, "optimizer", optimizer))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": mean, **figures}


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the norm of all gradients together, over all processes that hold a part of them."""
    norm = get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def micro_seed(seed: int, step: int, micro: int, process: int) -> int:
    """Return a distinct seed for each micro batch.

    >>> micro_seed(0, 1, 0, 0) != micro_seed(0, 0, 1, 0)
    True
    """
    return int(np.random.SeedSequence((seed, step, micro, process)).generate_state(1, np.uint64)[0])


def _reduces_when(accelerator: Accelerator, model: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    sharding.reduces_when(model, is_last=is_last)
    return nullcontext() if is_last else accelerator.no_sync(model)


def _check_finite(model: nn.Module, accelerator: Accelerator, step: int) -> None:
    """Fail on all processes if a weight is not finite on one of them.

    Raises:
        TrainingError: a weight is not finite.
    """
    local = [each.to_local() if isinstance(each, DTensor) else each for each in model.parameters()]
    bad = torch.stack([(~torch.isfinite(each)).sum() for each in local]).sum()
    if int(accelerator.reduce(bad, "sum")):
        raise TrainingError(f"step {step}: the weights are not finite and were not saved; lower optim.lr")


def _measure(objective: Objective, model: nn.Module, accelerator: Accelerator, step: int) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        measured = objective.measure(model, step)
    if not all(np.isfinite(value) for value in measured.values()):
        raise TrainingError(f"step {step}: measured {measured}; lower optim.lr")
    log.event("train.measured", step=step, **measured)
    accelerator.log({f"held_out/{name}": value for name, value in measured.items()}, step=step)
    return measured
