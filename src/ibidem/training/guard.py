"""Decide which steps to skip: loss or gradient not finite, or a gradient norm far above its running mean.

It is decided on the device, and reaches the optimizer as `grad_scale` and `found_inf`, as from torch's GradScaler: the
host does not wait for it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MEMORY = 0.98
"""Share of the running mean of the gradient norm that a step keeps."""
LARGEST_SCALE, STEPS_TO_GROW = 65536.0, 2000
"""In float16 the loss is multiplied by at most this; an overflow halves it, so many steps without one double it."""
VALUES = ("usual", "in_a_row", "scale", "good_steps")


class Guard:
    """Clips gradients, and skips steps; its state is a few numbers on the device."""

    def __init__(self, device: torch.device, *, clip: float, spike_factor: float | None, scales: bool) -> None:
        """Start without any memory.

        Args:
            device: of the gradients.
            clip: maximum norm of the gradient; a larger one is scaled down.
            spike_factor: how many times its running mean a norm may be; None: any finite norm is taken.
            scales: whether to scale the loss, as gradients in float16 require.
        """
        self._clip, self._spike_factor, self._scales = clip, spike_factor, scales
        start = [0.0, 0.0, LARGEST_SCALE if scales else 1.0, 0.0]
        self._state = torch.tensor(start, dtype=torch.float64, device=device)

    @property
    def scale(self) -> Tensor:
        """What the loss is multiplied by."""
        return self._state[VALUES.index("scale")]

    def judge(self, loss: Tensor, scaled_norm: Tensor, optimizer: Any) -> dict[str, Tensor]:
        """Tell the optimizer how to scale the gradients of this step, and whether to take it.

        Args:
            loss: the step's loss.
            scaled_norm: norm of its gradients, which are `scale` times too large.
            optimizer: reads `grad_scale` (gradients are divided by it) and `found_inf` (1: the step is not taken).

        Returns:
            The norm, and the number of steps in a row that were not taken.
        """
        usual, in_a_row, scale, good_steps = self._state.unbind()
        norm = scaled_norm / scale
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        taken = finite
        if self._spike_factor is not None:
            taken = finite & ((usual == 0) | (norm <= self._spike_factor * usual))
        optimizer.grad_scale = (scale / (self._clip / (norm + 1e-6)).clamp(max=1.0)).float()
        optimizer.found_inf = (~taken).float()
        running = torch.where(usual == 0, norm, MEMORY * usual + (1 - MEMORY) * norm)
        good_steps = torch.where(finite, good_steps + 1, 0)
        if self._scales:
            grows = good_steps >= STEPS_TO_GROW
            scale = torch.where(finite, torch.where(grows, (2 * scale).clamp(max=LARGEST_SCALE), scale), scale / 2)
            good_steps = torch.where(grows, 0, good_steps)
        in_a_row = torch.where(taken, 0, in_a_row + 1)
        self._state = torch.stack([torch.where(taken, running, usual), in_a_row, scale, good_steps])
        return {"grad_norm": norm, "skipped": in_a_row}

    def state(self) -> list[float]:
        """Return its numbers, exactly."""
        return [float(value) for value in self._state.tolist()]

    def restore(self, state: Sequence[float]) -> None:
        """Set its numbers."""
        self._state = self._state.new_tensor(state)
