r"""Answers that are looked up in the index of the model's training while they are written.

    said        Delta("def merge(a, b): ..."), Delta("..."), ..., Ended("stop", ...)
    sent        the same deltas, and behind the end of a span Delta("", repeated=(span,))
    blocked     the text before the span, and Ended("content_filter", ...)

A span is announced when a token behind it has been said, or the answer has ended. A look begins where a span may still
be open, so that the cost of an answer is linear in its length. If the policy can block, a text is held back from the
first token on that may belong to a span to come:

    said        x = [ ] \n def merge ( a , b ) : ou        "def merge ( a , b ) :" is in a document, "\n def" is not
    sent        x = [ ] \n                                 the last word waits too: it may be cut into other tokens
"""

import asyncio
from bisect import bisect_left
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
HELD_STEP_CHARS = 16
"""The same while text is held back for a look."""
MOST_WORD_CHARS = 64
"""A text without blanks is cut where it may be within a token."""
EDGE_TOKENS = 4
"""At the beginning of a part of a text, which may be cut into other tokens there than in the whole."""


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
        self._is_within_span = False
        self.is_blocked = False

    @property
    def is_due(self) -> bool:
        is_waited_for = self._policy.blocks and not self._is_within_span  # within a span all is held back anyway
        return len(self._text) - self._looked >= (HELD_STEP_CHARS if is_waited_for else STEP_CHARS)

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
        ids, places = self._certain(is_end=is_end)
        held = len(ids) if is_end else self._index.open_from(ids)
        self._is_within_span = False
        for found in self._index.of_ids(ids):
            start, end = places[found.start], places[found.end]
            if end <= self._announced:
                continue
            action = decide(found, self._policy)
            if action == "block":
                self.is_blocked, self._safe = True, max(self._sent, start)
                return
            if not is_end and found.end == len(ids):
                held, self._is_within_span = min(held, found.start), True
                continue
            self._announced = end
            if action == "mark":
                self._spans.append(_repeated(found, start, end))
        self._safe = max(self._safe, places[held])
        before = places[max(0, held - EDGE_TOKENS)]
        self._begin = max(offset, _word_before(self._text, before, lowest=before - MOST_WORD_CHARS))

    def _certain(self, *, is_end: bool) -> tuple[list[int], list[int]]:
        """Return the ids of what is looked up, but for a word that may go on, their places, and the place behind."""
        offset = self._begin
        text = self._text[offset:]
        ids = self._index.tokenizer.encode(text)
        starts = [offset + place for place in self._index.tokenizer.spans(text, ids)[:, 0].tolist()]
        places = [*starts, len(self._text)]
        if is_end:
            return ids, places
        word = _word_before(self._text, len(self._text), lowest=len(self._text) - MOST_WORD_CHARS)
        count = bisect_left(starts, word)
        return ids[:count], places[: count + 1]

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


def _word_before(text: str, place: int, *, lowest: int) -> int:
    r"""Return the last place before another one where a blank begins a word, at which a text can be cut; or `lowest`.

    What is before it has the same tokens, whatever follows: those of words begin with the blank.

    >>> [_word_before("a = b\n    c d", place, lowest=lowest) for place, lowest in ((12, 0), (11, 0), (11, 8), (1, -9))]
    [11, 3, 8, 0]
    """
    lowest = max(0, lowest)
    found = text.rfind(" ", lowest + 1, place)
    while found > lowest and text[found - 1].isspace():
        found = text.rfind(" ", lowest + 1, found)
    return max(lowest, found)


def _repeated(found: Repetition, start: int, end: int) -> Repeated:
    sources = tuple({"sha256": each.sha256, "is_removed": each.is_removed, **each.facts} for each in found.sources)
    return Repeated(start, end, found.num_tokens, found.num_documents, found.is_common, sources)
