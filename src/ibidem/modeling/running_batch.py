"""A batch whose rows join and leave while it runs.

    batch = RunningBatch(FrozenDecoder(model), slots=16)
    number = batch.admit(Request(prompt_ids, temperature=0.8, top_p=0.95, seed=1))
    batch.step()            # {number: next id}: one token for every row
    batch.release(number)   # the row leaves; its slot is free

Below, each column is a step; `P` reads a prompt and draws its first token, `t` draws one more:

    row 0   P t t t t t t t t t     a long completion
    row 1   P t t                   leaves: the batch shrinks
    row 2       P t t t t           joins a running batch
              ^ this step reads one prompt, and one token of the other two

The tokens of a row depend on its prompt and seed, not on the rest of the batch, up to rounding. A row's draws come from
its own random generator.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ibidem.modeling.cache import KVCache, read_prompts, read_tokens
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.sampling import draw

PASS_TOKENS = 8192
"""Prompts are joined up to this number of tokens, which bounds the memory of their activations."""
DRAWS = 64
"""Random numbers that a row draws from its generator at once."""


class Request(NamedTuple):
    """A prompt, and how its continuation is drawn."""

    ids: Sequence[int]
    temperature: float
    """0 takes the most likely token."""
    top_p: float
    seed: int
    """Of the row's own random generator."""


@dataclass
class _Row:
    number: int
    request: Request
    last_id: int = 0
    numbers: Iterator[float] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = _uniform(self.request.seed)


class RunningBatch:
    """Sequences that are continued together, token by token."""

    def __init__(self, model: FrozenDecoder, *, slots: int, size: int | None = None) -> None:
        """Reserve the memory of a batch.

        Args:
            model: the weights.
            slots: maximum number of rows.
            size: maximum length of a row, prompt and continuation; by default the model's context.
        """
        self._model = model
        self._cache = KVCache(model.config, slots, size or model.config.context, dtype=model.dtype, device=model.device)
        self._rows: list[_Row] = []
        self._waiting: list[_Row] = []
        self._admitted = 0
        self.tokens_read = 0
        """Number of tokens that went through the blocks so far."""

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self._cache.slots - len(self._rows) - len(self._waiting)

    def admit(self, request: Request) -> int:
        """Add a row, which joins at the next step; return its number. There must be a free slot."""
        assert self.free > 0
        assert 0 < len(request.ids) <= self._cache.size
        row = _Row(self._admitted, request)
        self._waiting.append(row)
        self._admitted += 1
        return row.number

    @torch.inference_mode()
    def step(self) -> dict[int, int]:
        """Draw the next token of every row; return the ids by the rows' numbers."""
        hidden = []
        if self._rows:
            ids_B = torch.tensor([row.last_id for row in self._rows], device=self._model.device)
            hidden.append(read_tokens(self._model, self._cache, ids_B))
            self.tokens_read += len(self._rows)
        hidden += [self._read(rows) for rows in _passes(self._waiting)]
        self._rows += self._waiting
        self._waiting = []
        if not hidden:
            return {}
        ids = self._draw(torch.cat(hidden))
        for row, next_id in zip(self._rows, ids, strict=True):
            row.last_id = next_id
        return {row.number: row.last_id for row in self._rows}

    def release(self, number: int) -> None:
        """Let a row leave; the last row takes its slot."""
        waiting = [row for row in self._waiting if row.number != number]
        if len(waiting) < len(self._waiting):
            self._waiting = waiting
            return
        slot = next(slot for slot, row in enumerate(self._rows) if row.number == number)
        with torch.inference_mode():
            self._cache.release(slot)
        self._rows[slot] = self._rows[-1]
        self._rows.pop()

    def _read(self, rows: Sequence[_Row]) -> Tensor:
        self.tokens_read += sum(len(row.request.ids) for row in rows)
        return read_prompts(self._model, self._cache, [row.request.ids for row in rows])

    def _draw(self, hidden_BD: Tensor) -> list[int]:
        requests = [row.request for row in self._rows]
        temperature_B = torch.tensor([request.temperature for request in requests])
        top_p_B = torch.tensor([request.top_p for request in requests])
        uniform_B = torch.tensor([next(row.numbers) if row.request.temperature else 0.0 for row in self._rows])
        ids_B = draw(self._model.head(hidden_BD).float(), temperature_B, top_p_B, uniform_B)
        ids: list[int] = ids_B.tolist()
        return ids


def _passes(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Divide rows into groups whose prompts have at most `PASS_TOKENS` tokens together, or into single rows."""
    group: list[_Row] = []
    size = 0
    for row in rows:
        if group and size + len(row.request.ids) > PASS_TOKENS:
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row.request.ids)
    if group:
        yield group


def _uniform(seed: int) -> Iterator[float]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.rand(DRAWS, generator=generator).tolist()
