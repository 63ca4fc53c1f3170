"""Initial weights: each block of rows of a parameter has random numbers of its own.

    (seed, "blocks.0.ffn.down.weight", block 0)    rows 0 to 84
    (seed, "blocks.0.ffn.down.weight", block 1)    rows 85 to 169

So a process draws the rows that it holds, and they are the same ones whatever the number of processes: nobody needs a
parameter as a whole, on any device.
"""

from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from ibidem.modeling.tensor_files import part_of

BLOCK = 1 << 18
"""Numbers that are drawn at once, one row at least: what a process needs beside its own rows, and perhaps discards."""


def draw(parameter: Tensor, name: str, *, std: float, seed: int) -> None:
    """Fill the rows of a parameter that this process holds with normal numbers of mean 0."""
    part = part_of(name, parameter.detach())
    if not part.tensor.numel():
        return
    first, last = part.first_row, part.first_row + len(part.tensor)
    size = max(1, BLOCK // part.tensor[0].numel())
    total = len(part.tensor) if part.rows is None else part.rows
    for start in range(first // size * size, last, size):
        rows = _block(name, start // size, (min(size, total - start), *part.tensor.shape[1:]), seed) * std
        low, high = max(start, first), min(start + len(rows), last)
        part.tensor[low - first : high - first].copy_(torch.from_numpy(rows[low - start : high - start]))


def fill(parameter: Tensor, value: float) -> None:
    """Fill the rows of a parameter that this process holds with one value."""
    part_of("", parameter.detach()).tensor.fill_(value)


def _block(
    name: str, number: int, shape: tuple[int, ...], seed: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    of_name = int.from_bytes(sha256(name.encode()).digest()[:16], "little")
    generator = np.random.default_rng((seed, of_name, number))
    return generator.standard_normal(shape, dtype=np.float32)
