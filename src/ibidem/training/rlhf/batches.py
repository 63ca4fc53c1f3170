"""Conversations as ids, in micro batches.

    conversation 0        conversation 1   conversation 2
    [a a a a a a a a a a] [b b b b b]      [c c c c c c c c]      one row of a micro batch: no padding, and no
     . . . . a a a . a a   . . b b b        . . . c . . c c       attention from one conversation to another

Only what the assistant says is a target.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ibidem.conversation import Turn
from ibidem.modeling.attention import Documents
from ibidem.modeling.loss import IGNORE, counted
from ibidem.tokenization.chat import ChatTemplate
from ibidem.training.loader import Batch


class Encoded(NamedTuple):
    """A rendered conversation of S ids."""

    ids_S: NDArray[np.int32]
    is_trained_S: NDArray[np.bool_]

    @property
    def untrained(self) -> "Encoded":
        """The same ids without any target."""
        return Encoded(self.ids_S, np.zeros_like(self.is_trained_S))

    @property
    def num_inputs(self) -> int:
        """How many ids the model reads: all but the last."""
        return len(self.ids_S) - 1

    @property
    def num_targets(self) -> int:
        """How many ids are trained."""
        return int(self.is_trained_S.sum())


def encode(template: ChatTemplate, turns: Iterable[Turn]) -> Encoded:
    """Render a conversation."""
    ids, is_trained = template.render(turns)
    return Encoded(np.array(ids, dtype=np.int32), np.array(is_trained, dtype=np.bool_))


def pack(conversations: Sequence[Encoded]) -> Batch:
    """Put conversations one behind the other into one row; the documents keep them apart."""
    ids = np.concatenate([each.ids_S[:-1] for each in conversations])
    targets = np.concatenate([np.where(each.is_trained_S, each.ids_S, IGNORE)[1:] for each in conversations])
    starts = np.zeros(len(ids), dtype=np.bool_)
    starts[np.cumsum([0, *(each.num_inputs for each in conversations[:-1])])] = True
    ids_1N, targets_1N = (torch.from_numpy(array.astype(np.int64))[None] for array in (ids, targets))
    documents = Documents.of(torch.from_numpy(starts)[None])
    return Batch(ids_1N, targets_1N, documents, counted(targets_1N))


def spread(number: int, count: int) -> list[int]:
    """Return `count` of the places 0 to `number` - 1, evenly spaced; all of them if there are fewer.

    >>> spread(10, 4), spread(3, 8)
    ([0, 2, 5, 7], [0, 1, 2])
    """
    count = min(count, number)
    return [place * number // count for place in range(count)]
