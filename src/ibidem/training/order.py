"""Which items a step takes: the step, the micro batch and the process alone decide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ibidem.training.config import LoopConfig
from ibidem.training.loader import Batch, Loader
from ibidem.training.permutation import items_at


@dataclass(frozen=True)
class Order:
    """Which items a step takes: each epoch is a permutation of its own, so that the step alone decides."""

    number: int
    """Of items."""
    training: LoopConfig
    processes: int
    process: int

    @property
    def micro_batches(self) -> int:
        """Of one process in a step."""
        return self.training.batch_sequences // (self.training.micro_batch_sequences * self.processes)

    def of_step(self, step: int) -> list[int]:
        """Return the items of a step, over all processes."""
        size = self.training.batch_sequences
        return self._items(range(step * size, (step + 1) * size))

    def of_micro_batch(self, step: int, micro: int) -> list[int]:
        """Return this process's items of a micro batch."""
        size = self.training.micro_batch_sequences
        first = step * self.training.batch_sequences + (micro * self.processes + self.process) * size
        return self._items(range(first, first + size))

    def loader(self, make: Callable[[Sequence[int]], Batch], device: torch.device) -> Loader:
        """Return the loader of this process's micro batches; `make` packs items."""
        return Loader(
            lambda step, micro: make(self.of_micro_batch(step, micro)),
            micro_batches=self.micro_batches,
            stop=min(self.training.steps, self.training.stop_at_step or self.training.steps),
            device=device,
        )

    def _items(self, places: range) -> list[int]:
        return list(map(int, items_at(places, self.number, self.training.seed)[1]))
