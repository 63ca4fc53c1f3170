"""Steps of generation as CUDA graphs: the host launches one graph instead of several kernels for each block.

A graph repeats the same kernels on the same memory, so a step is computed for more rows and positions than it needs:

    rows in use      1    2    3    5    9   ...      computed   1    2    4    8    16   ...
    longest row     40  300                           computed  256  512                      positions, masked

For each such pair a step is recorded when it is first needed. What differs from step to step are numbers on the device,
which are copied there before the graph is replayed: the ids, and the positions at which they are stored. Rows that are
not in use store at position 0 of slots that nobody reads before they are written again.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ibidem.modeling.cache import KVCache, token_states
from ibidem.modeling.matrices import FrozenDecoder

LEAST_POSITIONS = 256


class DecodeGraphs:
    """The recorded steps of a cache whose memory stays where it is."""

    def __init__(self, model: FrozenDecoder, cache: KVCache) -> None:
        """Record nothing yet.

        Args:
            model: the weights.
            cache: all its slots and positions are reserved.
        """
        assert cache.is_reserved
        self._model, self._cache = model, cache
        self._ids_B = torch.zeros(cache.slots, dtype=torch.int64, device=model.device)
        self._positions_B = torch.zeros_like(self._ids_B)
        self._recorded: dict[tuple[int, int], Recording] = {}

    @property
    def recorded(self) -> list[tuple[int, int]]:
        """Numbers of rows and positions of the steps that were recorded."""
        return list(self._recorded)

    def read_tokens(self, ids: Sequence[int]) -> Tensor:
        """Add one token to each row; return the normalized hidden states, (B, D), which the next step overwrites."""
        cache = self._cache
        B, longest = cache.rows, max(cache.lengths) + 1
        assert longest <= cache.size
        rows, size = min(cache.slots, enclosing(B)), min(cache.size, max(LEAST_POSITIONS, enclosing(longest)))
        unused = [0] * (rows - B)
        self._ids_B[:rows].copy_(torch.tensor([*ids, *unused]))
        self._positions_B[:rows].copy_(torch.tensor([*cache.lengths, *unused]))
        if (rows, size) not in self._recorded:
            self._recorded[rows, size] = Recording(lambda: self._states(rows, size))
        hidden_BD = self._recorded[rows, size].replay()
        cache.lengths = [length + 1 for length in cache.lengths]
        return hidden_BD[:B]

    def _states(self, rows: int, size: int) -> Tensor:
        return token_states(self._model, self._cache, self._ids_B[:rows], self._positions_B[:rows], size)


class Recording:
    """A computation as a CUDA graph."""

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        """Compute once, for what libraries do at a first call, and then record; computing twice must change nothing."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            compute()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = compute()

    def replay(self) -> Tensor:
        """Compute with what is in memory now; return the result, always in the same memory."""
        self._graph.replay()
        return self._result


def enclosing(number: int) -> int:
    """Return the smallest power of two that is not less.

    >>> [enclosing(number) for number in (1, 2, 3, 64, 65)]
    [1, 2, 4, 64, 128]
    """
    return 1 << (number - 1).bit_length()
