"""A batch whose rows join and leave while it runs.

    batch = RunningBatch(FrozenDecoder(model), slots=16)
    numbers = batch.admit(Request(prompt_ids, temperature=0.8, top_p=0.95, seeds=[1]))
    batch.step()                # {number: what was drawn}: one token for every row
    batch.release(numbers[0])   # the row leaves; its slot is free

Below, each column is a step; `P` reads a prompt and draws its first token, `t` draws one more:

    row 0   P t t t t t t t t t     a long completion
    row 1   P t t                   leaves: the batch shrinks
    row 2       P t t t t           joins a running batch
    row 3         = t t t           another sample of row 2's prompt, whose keys and values are copied
              ^ this step reads one prompt, and one token of the other two

Each seed of a request is a row of its own, one sample of the prompt. Rows wait for a free slot in the order of their
admission, so that a prompt is read once even if its samples do not fit into the batch together.

The tokens of a row depend on its prompt and seed, not on the rest of the batch, up to rounding. A row's draws come from
its own random generator.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ibidem.modeling.cache import KVCache, read_prompts, read_tokens
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.sampling import draw, draw_scored

PASS_TOKENS = 8192
"""Prompts are joined up to this number of tokens, which bounds the memory of their activations."""
DRAWS = 64
"""Random numbers that a row draws from its generator at once."""


class Request(NamedTuple):
    """A prompt, and how its continuations are drawn."""

    ids: Sequence[int]
    temperature: float
    """0 takes the most likely token."""
    top_p: float
    seeds: Sequence[int]
    """Of the random generators of its samples."""
    log_probs: bool = False
    """Whether the log-probabilities of the drawn ids are wanted: not at temperature 0, and not with a nucleus."""


class Drawn(NamedTuple):
    """The next token of a row."""

    id: int
    log_prob: float | None
    """Under softmax(logits / temperature), in nats; None if it is not wanted."""


class _Read(NamedTuple):
    """What the samples of a prompt begin with."""

    hidden_1D: Tensor
    copies: list[Tensor]
    """Keys and values."""


@dataclass(eq=False)
class _Prompt:
    request: Request
    read: _Read | None = None
    """Kept while samples wait."""


@dataclass(eq=False)
class _Row:
    number: int
    prompt: _Prompt
    numbers: Iterator[float]
    last_id: int = 0

    @property
    def request(self) -> Request:
        return self.prompt.request


class RunningBatch:
    """Sequences that are continued together, token by token."""

    def __init__(self, model: FrozenDecoder, *, slots: int, size: int | None = None) -> None:
        """Reserve the memory of a batch.

        Args:
            model: the weights.
            slots: maximum number of rows at a time.
            size: maximum length of a row, prompt and continuation; by default the model's context.
        """
        self._model = model
        self._cache = KVCache(model.config, slots, size or model.config.context, dtype=model.dtype, device=model.device)
        self._rows: list[_Row] = []
        self._waiting: deque[_Row] = deque()
        self._admitted = 0
        self.tokens_read = 0
        """Number of tokens that went through the blocks so far."""

    def admit(self, request: Request) -> list[int]:
        """Add a row for each seed, which joins when there is a free slot; return the rows' numbers."""
        assert 0 < len(request.ids) <= self._cache.size
        assert not request.log_probs or (request.temperature > 0 and request.top_p == 1)
        prompt = _Prompt(request)
        rows = [_Row(number, prompt, _uniform(seed)) for number, seed in enumerate(request.seeds, self._admitted)]
        self._waiting += rows
        self._admitted += len(rows)
        return [row.number for row in rows]

    @torch.inference_mode()
    def step(self) -> dict[int, Drawn]:
        """Draw the next token of every row that has a slot; return them by the rows' numbers."""
        hidden = []
        if self._rows:
            ids_B = torch.tensor([row.last_id for row in self._rows], device=self._model.device)
            hidden.append(read_tokens(self._model, self._cache, ids_B))
            self.tokens_read += len(self._rows)
        hidden += self._join()
        if not hidden:
            return {}
        drawn = self._draw(torch.cat(hidden))
        for row, (next_id, _) in zip(self._rows, drawn, strict=True):
            row.last_id = next_id
        return {row.number: each for row, each in zip(self._rows, drawn, strict=True)}

    def release(self, number: int) -> None:
        """Let a row leave; the last row takes its slot."""
        slot = next((slot for slot, row in enumerate(self._rows) if row.number == number), None)
        if slot is None:
            self._waiting.remove(next(row for row in self._waiting if row.number == number))
            return
        with torch.inference_mode():
            self._cache.release(slot)
        self._rows[slot] = self._rows[-1]
        self._rows.pop()

    def _join(self) -> list[Tensor]:
        """Let waiting rows take the free slots; return the hidden states that they draw their first tokens from."""
        free = self._cache.slots - len(self._rows)
        joining = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        groups = [list(rows) for _, rows in groupby(joining, key=lambda row: row.prompt)]
        first = [rows.pop(0) for rows in groups if rows[0].prompt.read is None]
        others = [rows for rows in groups if rows]
        hidden = [self._read(rows) for rows in _passes(first)] + [self._copy(rows) for rows in others]
        self._rows += [*first, *chain.from_iterable(others)]
        next_prompt = self._waiting[0].prompt if self._waiting else None
        for row in joining:
            if row.prompt is not next_prompt:
                row.prompt.read = None
        return hidden

    def _read(self, rows: Sequence[_Row]) -> Tensor:
        """Read the prompts of rows, which join; keep what their other samples begin with."""
        self.tokens_read += sum(len(row.request.ids) for row in rows)
        first_slot = self._cache.rows
        hidden_BD = read_prompts(self._model, self._cache, [row.request.ids for row in rows])
        for place, row in enumerate(rows):
            if len(row.request.seeds) > 1:
                row.prompt.read = _Read(hidden_BD[place, None], self._cache.copied(first_slot + place))
        return hidden_BD

    def _copy(self, rows: Sequence[_Row]) -> Tensor:
        """Let samples of one prompt join, which was read for another one."""
        prompt = rows[0].prompt
        assert prompt.read is not None
        hidden_1D, copies = prompt.read
        self._cache.add(copies, len(rows))
        return hidden_1D.expand(len(rows), -1)

    def _draw(self, hidden_BD: Tensor) -> list[Drawn]:
        requests = [row.request for row in self._rows]
        temperature_B = torch.tensor([request.temperature for request in requests])
        top_p_B = torch.tensor([request.top_p for request in requests])
        uniform_B = torch.tensor([next(row.numbers) if row.request.temperature else 0.0 for row in self._rows])
        logits_BV = self._model.head(hidden_BD).float()
        scored_B = torch.tensor([request.log_probs for request in requests])
        if scored_B.all():
            ids_B, log_probs_B = draw_scored(logits_BV, temperature_B, uniform_B)
            return list(map(Drawn, ids_B.tolist(), log_probs_B.tolist()))
        ids: list[int] = draw(logits_BV, temperature_B, top_p_B, uniform_B).tolist()
        drawn = [Drawn(next_id, None) for next_id in ids]
        if scored_B.any():
            places = scored_B.nonzero()[:, 0]
            scored = draw_scored(logits_BV[places], temperature_B[places], uniform_B[places])
            for place, *each in zip(places.tolist(), *(part.tolist() for part in scored), strict=True):
                drawn[place] = Drawn(*each)
        return drawn


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
