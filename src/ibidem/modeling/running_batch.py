"""A batch whose rows join and leave while it runs.

    batch = RunningBatch(FrozenDecoder(model), slots=16)
    numbers = batch.admit(Request(prompt_ids, temperature=0.8, top_p=0.95, seeds=[1]))
    batch.step()                # {number: what was drawn}: one token for every row
    batch.release(numbers[0])   # the row leaves; its slot is free

Below, each column is a step; `P` reads a prompt and draws its first token, `p` reads a piece of a long one, `t` draws
one more:

    row 0   P t t t t t t t t t     a long completion
    row 1   P t t                   leaves: the batch shrinks
    row 2       P t t t t           joins a running batch
    row 3         = t t t           another sample of row 2's prompt, whose keys and values are copied
    row 4         p p p P t t       a long prompt: no step reads more than `pace` tokens of prompts
              ^ this step reads one prompt, and one token of the other two

Each seed of a request is a row of its own, one sample of the prompt. Rows wait for a free slot, which is given to the
owner with the fewest rows, and among equals to the one who waits longest; the rows of an owner come in the order of
their admission, so that a prompt is read once even if its samples do not fit into the batch together. At most one
prompt is read in part, so that whoever comes next waits for nothing else.

The tokens of a row depend on its prompt and seed, not on the rest of the batch, up to rounding. A row's draws come from
its own random generator. Prompts of one scope that begin alike share what was read (see `prefixes`).
"""

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ibidem.modeling.cache import KVCache, Reading, read_prompts, read_tokens
from ibidem.modeling.decode_graphs import DecodeGraphs
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.prefixes import Prefixes
from ibidem.modeling.sampling import draw, draw_scored

PASS_TOKENS = 8192
"""Maximum number of tokens of prompts in one step, which bounds the memory of their activations."""
PREFIX_BYTES = 32 << 20
"""Size of the keys and values that are kept for later prompts."""
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
    owner: str = ""
    """Slots are given in turn to owners."""
    scope: Hashable | None = None
    """Prompts of one scope share what was read of a common beginning; None: share nothing."""


class Drawn(NamedTuple):
    """The next token of a row."""

    id: int
    log_prob: float | None
    """Under softmax(logits / temperature), in nats; None if it is not wanted."""


@dataclass(eq=False)
class _Prompt:
    request: Request
    num_waiting: int
    """Number of its samples that have no slot yet."""
    reading: Reading | None = None
    """Kept while samples wait."""
    hidden_1D: Tensor | None = None
    """What the first tokens are drawn from; None until everything was read."""

    def forget(self) -> None:
        """Free what nobody waits for."""
        if not self.num_waiting:
            self.reading = self.hidden_1D = None


@dataclass(eq=False)
class _Row:
    number: int
    prompt: _Prompt
    numbers: Iterator[float]
    drawn: list[int] = field(default_factory=list)

    @property
    def request(self) -> Request:
        return self.prompt.request


class RunningBatch:
    """Sequences that are continued together, token by token."""

    def __init__(
        self,
        model: FrozenDecoder,
        *,
        slots: int,
        size: int | None = None,
        pace: int = PASS_TOKENS,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        """Start an empty batch.

        Args:
            model: the weights.
            slots: maximum number of rows at a time.
            size: maximum length of a row, prompt and continuation, whose memory is reserved at once; by default the
                model's context, and memory grows and shrinks as rows do.
            pace: maximum number of tokens of prompts that a step reads: while a longer prompt is read, the other rows
                go on.
            prefix_bytes: size of the keys and values that are kept for later prompts of the same scope.
        """
        self._model = model
        self._pace = pace
        self._cache = KVCache(model.config, slots, size or model.config.context, dtype=model.dtype, device=model.device)
        self._is_growing = size is None
        self._graphs: DecodeGraphs | None = None
        if size is not None:
            self._cache.reserve(slots, size)
            self._graphs = DecodeGraphs(model, self._cache) if model.uses_graphs else None
        self._prefixes = Prefixes(prefix_bytes, bytes_per_id=self._cache.bytes_per_position)
        self._rows: list[_Row] = []
        self._partly_read: _Row | None = None
        self._waiting: dict[str, deque[_Row]] = {}
        """Rows by owner: first the owner who was given a slot least recently."""
        self._admitted = 0
        self.tokens_read = 0
        """Number of tokens that went through the blocks so far."""

    def admit(self, request: Request) -> list[int]:
        """Add a row for each seed, which joins when there is a free slot; return the rows' numbers."""
        assert 0 < len(request.ids) <= self._cache.size
        assert not request.log_probs or (request.temperature > 0 and request.top_p == 1)
        prompt = _Prompt(request, len(request.seeds))
        rows = [_Row(number, prompt, _uniform(seed)) for number, seed in enumerate(request.seeds, self._admitted)]
        self._waiting.setdefault(request.owner, deque()).extend(rows)
        self._admitted += len(rows)
        return [row.number for row in rows]

    @torch.inference_mode()
    def step(self) -> dict[int, Drawn]:
        """Draw the next token of every row whose prompt is read; return them by the rows' numbers."""
        hidden = []
        if self._rows:
            hidden.append(self._read_tokens([row.drawn[-1] for row in self._rows]))
            self.tokens_read += len(self._rows)
        hidden += self._join()
        if not hidden:
            return {}
        drawn = self._draw(torch.cat(hidden))
        for row, (next_id, _) in zip(self._rows, drawn, strict=True):
            row.drawn.append(next_id)
        return {row.number: each for row, each in zip(self._rows, drawn, strict=True)}

    def _read_tokens(self, ids: list[int]) -> Tensor:
        if self._graphs is not None:
            return self._graphs.read_tokens(ids)
        return read_tokens(self._model, self._cache, torch.tensor(ids, device=self._model.device))

    @torch.inference_mode()
    def release(self, number: int) -> None:
        """Let a row leave, also one that waits or is partly read; the last row takes its slot."""
        slot = next((slot for slot, row in enumerate(self._rows) if row.number == number), None)
        if slot is not None:
            self._keep(slot)
            self._cache.release(slot)
            self._rows[slot] = self._rows[-1]
            self._rows.pop()
            if self._is_growing:
                self._cache.shrink()
        elif self._partly_read is not None and self._partly_read.number == number:
            self._partly_read = None
        else:
            row = next(row for rows in self._waiting.values() for row in rows if row.number == number)
            self._remove(row)
            row.prompt.forget()

    def _keep(self, slot: int) -> None:
        """Keep the keys and values of a row for later prompts of its scope."""
        request, drawn = self._rows[slot].request, self._rows[slot].drawn
        ids = [*request.ids, *drawn[:-1]]
        if self._prefixes.wants(request.scope, ids):
            self._prefixes.keep(request.scope, ids, self._cache.copied(slot))

    def _join(self) -> list[Tensor]:
        """Read prompts, and let rows join; return the hidden states that they draw their first tokens from."""
        rows, sizes = self._take()
        if sizes:
            self._read(sizes)
        joining = [row for row in rows if row.prompt.hidden_1D is not None]
        self._partly_read = next((row for row in rows if row.prompt.hidden_1D is None), None)
        hidden = []
        for prompt, group in groupby(joining, key=lambda row: row.prompt):
            samples = list(group)
            assert prompt.reading is not None
            assert prompt.hidden_1D is not None
            self._cache.add(prompt.reading.kv_L2GSK, len(samples))
            hidden.append(prompt.hidden_1D.expand(len(samples), -1))
            prompt.forget()
        self._rows += joining
        return hidden

    def _take(self) -> tuple[list[_Row], dict[_Prompt, int]]:
        """Return the rows that get a slot in this step, and how many tokens are read of their prompts."""
        rows: list[_Row] = []
        sizes: dict[_Prompt, int] = {}
        owners = Counter(row.request.owner for row in self._rows)
        left = self._pace
        while len(self._rows) + len(rows) < self._cache.slots and (row := self._next(rows, owners)) is not None:
            unread = 0 if row.prompt in sizes else self._begun(row.prompt).unread
            size = self._portion(unread, left)
            if size:
                sizes[row.prompt] = size
                left -= size
            elif unread:
                break
            if row is not self._partly_read:
                self._remove(row)
            rows.append(row)
            owners[row.request.owner] += 1
            if size < unread:
                break
        return rows, sizes

    def _portion(self, unread: int, left: int) -> int:
        """Return how much of a prompt to read if `left` tokens may be read: a piece only if no step could read all."""
        if unread <= left:
            return unread
        return left if unread > self._pace else 0

    def _next(self, taken: Sequence[_Row], owners: Counter[str]) -> _Row | None:
        """Return the row whose turn it is: the one that is partly read, or the first of the owner with fewest rows."""
        if self._partly_read is not None and not taken:
            return self._partly_read
        owner = min(self._waiting, key=owners.__getitem__, default=None)
        return None if owner is None else self._waiting[owner][0]

    def _remove(self, row: _Row) -> None:
        """Take a row off the queue of its owner, who is now behind the others."""
        rows = self._waiting.pop(row.request.owner)
        rows.remove(row)
        if rows:
            self._waiting[row.request.owner] = rows
        row.prompt.num_waiting -= 1

    def _begun(self, prompt: _Prompt) -> Reading:
        """Return what was read of a prompt, which begins with what its scope has in common with it."""
        if prompt.reading is None:
            ids, scope = prompt.request.ids, prompt.request.scope
            prompt.reading = Reading.of(self._model, ids)
            if (prefix := self._prefixes.longest(scope, ids)) is not None:
                prompt.reading.begin_with(*prefix)
        return prompt.reading

    def _read(self, sizes: dict[_Prompt, int]) -> None:
        """Read so many of the next tokens of each prompt, in one pass."""
        readings = [self._begun(prompt) for prompt in sizes]
        self.tokens_read += sum(sizes.values())
        hidden_BD = read_prompts(self._model, readings, list(sizes.values()))
        for place, (prompt, reading) in enumerate(zip(sizes, readings, strict=True)):
            if not reading.unread:
                prompt.hidden_1D = hidden_BD[place, None]
                if self._prefixes.wants(prompt.request.scope, reading.ids):
                    self._prefixes.keep(prompt.request.scope, reading.ids, reading.kv_L2GSK)

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


def _uniform(seed: int) -> Iterator[float]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.rand(DRAWS, generator=generator).tolist()
