"""Pairs of answers as ids, in micro batches.

    pair 0, chosen     pair 0, rejected   pair 1, chosen ...
    [p p p a a END]    [p p p b END]      [q q c c c END]       one row of a micro batch, as in `batches`

The answers alone are targets: what the assistant said before, in the prompt, is not.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ibidem.conversation import Conversation, Part, Turn, is_same
from ibidem.modeling.attention import Documents
from ibidem.modeling.loss import IGNORE
from ibidem.tokenization.chat import ChatTemplate
from ibidem.training.loader import Batch
from ibidem.training.processes import shared_out
from ibidem.training.rlhf.batches import Encoded
from ibidem.training.rlhf.config import DatasetConfig
from ibidem.training.rlhf.examples import Pair, read_pairs, split_checked
from ibidem.training.rlhf.setup import Setup

Measure = Callable[[Sequence[int]], Tensor]


class EncodedPair(NamedTuple):
    """Both answers, each behind the prompt."""

    chosen: Encoded
    rejected: Encoded
    margin: float

    @property
    def both(self) -> tuple[Encoded, Encoded]:
        """The chosen answer, then the rejected one."""
        return self.chosen, self.rejected

    @property
    def num_ids(self) -> int:
        """Ids of both."""
        return len(self.chosen.ids_S) + len(self.rejected.ids_S)


class Pairs(NamedTuple):
    """What is trained on and measured."""

    train: list[EncodedPair]
    held_out: list[EncodedPair]
    prompts: list[Conversation]
    """Of the pairs held out."""
    left_out: Counter[str]
    """How many documents are not used, by reason."""

    @property
    def sides(self) -> dict[str, list[EncodedPair]]:
        """Both by name."""
        return {"train": self.train, "held_out": self.held_out}

    @property
    def mean_ids(self) -> float:
        """Mean number of ids of a pair."""
        return sum(each.num_ids for each in self.train) / len(self.train)


def read(config: DatasetConfig, setup: Setup) -> Pairs:
    """Read and render the pairs of the dataset, and split them by the turns before the first answer; none is ever cut.

    Raises:
        DataError: none can be trained on.
    """
    left_out: Counter[str] = Counter()
    found: list[tuple[Conversation, EncodedPair]] = []
    for pair in read_pairs(setup.dataset, left_out):
        if reason := reason_against(pair):
            left_out[reason] += 1
            continue
        encoded = encode(setup.template, pair)
        if max(len(each.ids_S) for each in encoded.both) > setup.shape.context:
            left_out["longer than the context"] += 1
            continue
        found.append((pair.prompt, encoded))
    train, held_out = split_checked(found, left_out, config.held_out_share, of=f"data {config.data}", noun="pair")
    prompts = [prompt for prompt, _ in held_out]
    return Pairs([pair for _, pair in train], [pair for _, pair in held_out], prompts, left_out)


def reason_against(pair: Pair) -> str | None:
    """Return why a pair says nothing about which answer is better; None if it does.

    >>> same = (Part("text", "Yes"),)
    >>> reason_against(Pair((), same, same, None))
    'equal answers'
    """
    if any(Turn("assistant", parts).is_blank for parts in (pair.chosen, pair.rejected)):
        return "an empty answer"
    return "equal answers" if is_same(pair.chosen, pair.rejected) else None


def encode(template: ChatTemplate, pair: Pair) -> EncodedPair:
    """Render both answers behind the prompt."""
    prompt = template.prompt(pair.prompt)
    chosen, rejected = (_answered(prompt, template, parts) for parts in (pair.chosen, pair.rejected))
    return EncodedPair(chosen, rejected, pair.margin or 0.0)


def _answered(prompt: Sequence[int], template: ChatTemplate, parts: Iterable[Part]) -> Encoded:
    answer = template.answer(parts)
    is_trained = np.repeat([False, True], [len(prompt), len(answer)])
    return Encoded(np.array([*prompt, *answer], dtype=np.int32), is_trained)


def answer_of_targets(answers: Sequence[Encoded]) -> Tensor:
    """Return for each target of packed answers the number of its answer; int64.

    >>> short, long = (Encoded(np.zeros(3), np.arange(3) >= first) for first in (2, 1))
    >>> answer_of_targets([long, short])
    tensor([0, 0, 1])
    """
    counts = torch.tensor([each.num_targets for each in answers])
    return torch.repeat_interleave(torch.arange(len(answers)), counts)


def pack_whole(answers: Sequence[Encoded]) -> Batch:
    """Put answers with their last ids into one row, without targets; what counts is the last id of each."""
    ends = np.cumsum([len(each.ids_S) for each in answers])
    starts = np.zeros(ends[-1], dtype=np.bool_)
    starts[[0, *ends[:-1]]] = True
    ids_1N = torch.from_numpy(np.concatenate([each.ids_S for each in answers]).astype(np.int64))[None]
    documents = Documents.of(torch.from_numpy(starts)[None])
    return Batch(ids_1N, torch.full_like(ids_1N, IGNORE), documents, torch.from_numpy(ends - 1))


def measured(number: int, values: int, accelerator: Accelerator, measure: Measure, size: int) -> Tensor:
    """Measure the items 0 to `number` - 1, each on one of the processes; (number, values), float64, on the CPU.

    Args:
        number: of items.
        values: how many values an item has.
        accelerator: the processes.
        measure: returns the values of some items.
        size: of a batch of items.
    """
    found = torch.zeros(number, values, dtype=torch.float64)
    for share in shared_out(number, size, accelerator):
        rows = measure([item for item, _ in share]).double().cpu()
        for (item, counts), row in zip(share, rows, strict=True):
            if counts:
                found[item] = row
    total: Tensor = accelerator.reduce(found.to(accelerator.device), "sum")
    return total.cpu()
