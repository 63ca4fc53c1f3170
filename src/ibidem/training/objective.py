"""What one kind of training is: what it optimizes, measures and keeps."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class ObjectiveState(NamedTuple):
    """What an objective keeps in a checkpoint beside weights and optimizer; both may be empty."""

    tensors: Mapping[str, Tensor]
    """Saved as safetensors."""
    values: Mapping[str, Any]
    """Saved as JSON."""


class Objective(Protocol):
    """What one kind of training adds to the loop."""

    def check(self) -> None:
        """Fail before anything is built if the data or settings cannot work."""

    def begin(self, model: nn.Module, step: int) -> None:
        """Prepare a step, before its first micro batch: sample, score, count the targets."""

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return this process's summed loss of a micro batch, and how many targets the step has over all processes."""

    def figures(self) -> Mapping[str, Tensor | float]:
        """Return the objective's own figures of the step that was just taken, on all processes; scalars."""

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Measure on held-out data, on all processes."""

    def state(self) -> ObjectiveState:
        """Return what a checkpoint must keep so that a resumed run equals an uninterrupted one, bit for bit.

        It must be equal on every process: only the main process's state is saved.
        """

    def restore(self, state: ObjectiveState) -> None:
        """Restore the state of a checkpoint."""

    def close(self) -> None:
        """End whatever runs beside the training; called once, also after an error."""
