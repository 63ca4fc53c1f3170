"""Answers that are looked up in the index of the model's training while they are written.

    said        Delta("def merge(a, b): ..."), Delta("..."), ..., Ended("stop", ...)
    sent        the same deltas, and behind the end of a span Delta("", repeated=(span,))
    blocked     the text before the span, and Ended("content_filter", ...)

A span is announced when a token behind it has been said, or the answer has ended. A look begins where a span may still
be open, so that the cost of an answer is linear in its length. If the policy can block, a text is held back as long as
it may be part of a blocked span: its last `least_tokens` tokens, and a span that is still open.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing

from ibidem.attribution.config import PolicyConfig
from ibidem.attribution.lookup import Attribution, Repetition
from ibidem.attribution.policy import decide
from ibidem.serving.server.responses import Pieces
from ibidem.serving.server.speech import Delta, Ended, Repeated

STEP_CHARS = 160
"""Text between two looks, so that most deltas cost nothing."""
EDGE_TOKENS = 4
"""At the end of a text, which may be cut into other tokens when more follows."""


async def attributed(pieces: Pieces, index: Attribution, policy: PolicyConfig) -> Pieces:
    """Yield an answer's pieces, and the spans that training documents contain; end before one that is blocked."""
    watch = _Watch(index, policy)
    async with aclosing(pieces):
        async for piece in pieces:
            is_end = isinstance(piece, Ended)
            if not isinstance(piece, Ended):
                watch.add(piece)
            if is_end or watch.is_due:
                await asyncio.to_thread(watch.look, is_end=is_end)
            for delta in watch.ready():
                yield delta
            if watch.is_blocked:
                yield Ended("content_filter", 0, watch.num_tokens)
                return
            if isinstance(piece, Ended):
                yield piece


class _Watch:
    """The text of an answer, as far as it was said, decided and sent."""

    def __init__(self, index: Attribution, policy: PolicyConfig) -> None:
        self._index, self._policy = index, policy
        self._text = ""
        self._begin = self._looked = self._announced = self._sent = 0
        self._safe = 0  # up to here nothing can be blocked any more
        self._waiting = deque[Delta]()
        self._spans: list[Repeated] = []
        self.is_blocked = False

    @property
    def is_due(self) -> bool:
        return len(self._text) - self._looked >= STEP_CHARS

    @property
    def num_tokens(self) -> int:
        """Tokens of what was said, as the index counts them."""
        return len(self._index.tokenizer.encode(self._text))

    def add(self, delta: Delta) -> None:
        """Take over a piece."""
        self._text += delta.text
        self._waiting.append(delta)

    def look(self, *, is_end: bool) -> None:
        """Look up what is not decided."""
        self._looked, offset = len(self._text), self._begin
        text = self._text[offset:]
        ids = self._index.tokenizer.encode(text)
        places_T2 = self._index.tokenizer.spans(text, ids)
        last = len(ids) if is_end else len(ids) - EDGE_TOKENS
        tail = max(0, last - self._policy.least_tokens)
        safe = len(self._text) if is_end else offset + (int(places_T2[tail, 0]) if tail < len(ids) else 0)
        for found in self._index.of_ids(ids):
            start, end = offset + int(places_T2[found.start, 0]), offset + int(places_T2[found.end - 1, 1])
            if end <= self._announced:
                continue
            action = decide(found, self._policy)
            if action == "block":
                self.is_blocked, self._safe = True, max(self._sent, start)
                return
            if found.end > last:
                safe = min(safe, start)
                continue
            self._announced = end
            if action == "mark":
                self._spans.append(_repeated(found, start, end))
        self._safe = max(self._safe, safe)
        line = self._text.rfind("\n", offset, self._safe) + 1
        self._begin = line if line > offset else self._safe

    def ready(self) -> Iterator[Delta]:
        """Return what may be sent: whole pieces, and the spans that have ended."""
        limit = self._safe if self._policy.blocks else len(self._text)
        while self._waiting and self._sent + len(self._waiting[0].text) <= limit:
            self._sent += len(self._waiting[0].text)
            yield self._waiting.popleft()
        if self.is_blocked:
            if self._waiting and self._sent < limit:
                yield Delta(self._waiting[0].text[: limit - self._sent])
            self._waiting.clear()
        while self._spans and self._spans[0].end <= self._sent:
            yield Delta("", repeated=(self._spans.pop(0),))


def _repeated(found: Repetition, start: int, end: int) -> Repeated:
    sources = tuple({"sha256": each.sha256, "is_removed": each.is_removed, **each.facts} for each in found.sources)
    return Repeated(start, end, found.num_tokens, found.num_documents, found.is_common, sources)
