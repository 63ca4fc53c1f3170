"""The figures of a step: summed over its micro batches, and their means over all processes."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor


class StepMeans:
    """Sums each figure of a step on this process, in float64."""

    def __init__(self, names: Sequence[str], accelerator: Accelerator) -> None:
        self._names, self._accelerator = names, accelerator
        self.begin(1)

    def begin(self, count: int) -> None:
        """Forget the step before; `count` is what the sums of the next one are divided by, over all processes."""
        self._count = count
        self._sums = torch.zeros(len(self._names), dtype=torch.float64, device=self._accelerator.device)

    def add(self, rows: Iterable[Tensor]) -> None:
        """Add the values of a micro batch: a row of them for each name."""
        sums = [row.detach().double().sum() for row in rows]
        assert len(sums) == len(self._names), f"{len(sums)} rows for {len(self._names)} names"
        self._sums += torch.stack(sums)

    def means(self) -> dict[str, Tensor]:
        """Return the mean of each figure; on all processes, at once."""
        means = self._accelerator.reduce(self._sums, "sum") / self._count
        return dict(zip(self._names, means.unbind(), strict=True))


RATIO, SQUARED, VARIANCE = "val/ratio", "val/ratio_squared", "val/ratio_var"


def with_variance(means: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return means with the variance of the ratio instead of the mean of its square."""
    others = {name: value for name, value in means.items() if name != SQUARED}
    return {**others, VARIANCE: means[SQUARED] - means[RATIO] ** 2}
