"""Keys and values that later prompts may begin with.

    kept    scope "ada"   S H T q1 a1              of a prompt and its answer
    asked   scope "ada"   S H T q1 a1 q2           reads q2 alone
    asked   scope "ada"   S H T q3                 reads q3 alone
    asked   scope "bob"   S H T q1 a1 q2           reads everything: nothing is shared between scopes

What is shared must not tell one person what another one asked, not even by the time that an answer takes, so whoever
asks says within which scope. The sequences that were used last are kept, up to a number of bytes.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor


class Prefix(NamedTuple):
    """The beginning of a sequence that was read."""

    kv_L2GSK: Tensor
    length: int
    """Number of ids that the sequence shares with what was asked for; S may be more."""


class Prefixes:
    """Keys and values of sequences, each of a scope."""

    def __init__(self, most_bytes: int, *, bytes_per_id: int) -> None:
        """Keep up to `most_bytes` of keys and values."""
        self._most_bytes, self._bytes_per_id = most_bytes, bytes_per_id
        self._kept: dict[tuple[Hashable, tuple[int, ...]], Tensor] = {}
        self.size_bytes = 0

    def longest(self, scope: Hashable | None, ids: Sequence[int]) -> Prefix | None:
        """Return the sequence of the scope that shares most of its beginning with `ids`; None if none does.

        The last of the ids is never shared: it has to be read to know what follows.
        """
        asked = tuple(ids[:-1])
        shared = [(num_shared(known, asked), (own, known)) for own, known in self._kept if own == scope]
        length, key = max(shared, key=lambda each: each[0], default=(0, (None, ())))
        if not length:
            return None
        self._kept[key] = kv_L2GSK = self._kept.pop(key)  # now the last one to be forgotten
        return Prefix(kv_L2GSK, length)

    def wants(self, scope: Hashable | None, ids: Sequence[int]) -> bool:
        """Return whether to keep a sequence: it has a scope, is not too long, and no kept sequence extends it."""
        if scope is None or len(ids) * self._bytes_per_id > self._most_bytes:
            return False
        whole = tuple(ids)
        return not any(own == scope and known[: len(whole)] == whole for own, known in self._kept)

    def keep(self, scope: Hashable, ids: Sequence[int], kv_L2GSK: Tensor) -> None:
        """Keep a sequence that is wanted; it replaces its own prefixes in the scope."""
        whole = tuple(ids)
        for own, known in list(self._kept):
            if own == scope and whole[: len(known)] == known:
                self._forget((own, known))
        while self.size_bytes + kv_L2GSK.nbytes > self._most_bytes:
            self._forget(next(iter(self._kept)))
        self._kept[scope, whole] = kv_L2GSK
        self.size_bytes += kv_L2GSK.nbytes

    def _forget(self, key: tuple[Hashable, tuple[int, ...]]) -> None:
        self.size_bytes -= self._kept.pop(key).nbytes


def num_shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many ids two sequences have in common at their beginning.

    >>> num_shared((1, 2, 3, 4), (1, 2, 9)), num_shared((1,), (1, 2)), num_shared((3,), (4,))
    (2, 1, 0)
    """
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices is faster than comparing ids
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
