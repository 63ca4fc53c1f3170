r"""Divide readable documents into chunks, along their structure.

    sections     a tiny section joins its first subsection; then tiny neighbors below the same heading join
      pieces     a section that is too long is cut between paragraphs, then lines and sentences, then words
        chunks   the pieces are packed: full chunks, cut where the text is least torn

Every character that is not blank is in exactly one chunk. A document's chunks depend on that document alone.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ibidem.grounding.documents.readable import Readable, Section
from ibidem.grounding.sentences import sentence_ends
from ibidem.grounding.store import Span

TINY = 8
"""A section is tiny if it is shorter than the maximum / 8."""
_SMALLEST_PIECE = 32
"""Pieces shorter than the maximum / 32 are joined before packing, so that packing takes bounded time."""
_COLON_COST = 0.2
_HARD_COST = 1.0
_PARAGRAPH = re.compile(r"(?:\r\n?|\n)(?:[^\S\r\n]*(?:\r\n?|\n))+")
_LINE = re.compile(r"\r\n?|\n")
_WORD = re.compile(r"\s+")


class _Piece(NamedTuple):
    start: int
    end: int
    cost: float
    """How much a cut before it tears."""


class _Level(NamedTuple):
    """Where a text may be cut."""

    cost: float
    cuts: Callable[[str], Iterable[int]]
    in_whole: bool
    """Whether the cuts are allowed inside of what should stay whole."""


def _matches(pattern: re.Pattern[str]) -> Callable[[str], Iterator[int]]:
    return lambda text: (match.end() for match in pattern.finditer(text))


_PROSE = (
    _Level(0.0, _matches(_PARAGRAPH), in_whole=False),
    _Level(0.2, _matches(_PARAGRAPH), in_whole=True),
    _Level(0.3, sentence_ends, in_whole=False),
    _Level(0.35, _matches(_LINE), in_whole=True),
    _Level(0.4, sentence_ends, in_whole=True),
    _Level(0.6, _matches(_WORD), in_whole=True),
)
_LINES = tuple(_PROSE[number] for number in (0, 1, 3, 4, 5))
_LEVELS = {"code": _LINES, "html": _LINES, "openapi": _LINES}


def chunks(document: Readable, max_chars: int) -> tuple[Span, ...]:
    """Divide a document into chunks of at most `max_chars` characters, in order.

    A chunk never reaches across sections, with two exceptions. A section shorter than an eighth of the maximum is
    joined with the subsection that follows it, under that one's title: a heading without text is not left alone. Such
    tiny sections that follow each other below the same heading are joined under that heading, while they fit.

    A section that is too long is cut between paragraphs; only where a paragraph is too long, inside it: between
    sentences and lines (lines first where they are no accident: in code, tables and pages), then between words. Only a
    word that is longer than a chunk is cut itself. Blank lines around a chunk are left out; its indentation is kept.
    """
    return tuple(span for section in _joined(document, max_chars) for span in _divided(document, section, max_chars))


def _joined(document: Readable, max_chars: int) -> Iterator[Section]:
    """Yield the sections, tiny ones joined."""
    groups: list[list[Section]] = []
    for section in _led(document, max_chars):
        if groups and _joins(document, groups[-1], section, max_chars):
            groups[-1].append(section)
        else:
            groups.append([section])
    for first, *others in groups:
        yield Section(first.title[:-1], first.start, others[-1].end) if others else first


def _led(document: Readable, max_chars: int) -> Iterator[Section]:
    """Yield the sections; each tiny one before its first subsection has become a part of that."""
    start: int | None = None
    following = (*document.sections[1:], None)
    for section, after in zip(document.sections, following, strict=False):
        led = section if start is None else section._replace(start=start)
        is_above = after is not None and len(after.title) > len(led.title) == _common(after.title, led.title)
        if is_above and _is_tiny(document, led, max_chars):
            start = led.start
        else:
            start = None
            yield led


def _joins(document: Readable, group: list[Section], section: Section, max_chars: int) -> bool:
    last = group[-1]
    if not last.title or last.title[:-1] != section.title[:-1]:
        return False
    if not (_is_tiny(document, last, max_chars) and _is_tiny(document, section, max_chars)):
        return False
    return section.end - group[0].start <= max_chars


def _is_tiny(document: Readable, section: Section, max_chars: int) -> bool:
    return len(document.text[section.start : section.end].strip()) < max_chars // TINY


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return how many headings two titles begin with alike."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _divided(document: Readable, section: Section, max_chars: int) -> Iterator[Span]:
    cutter = _Cutter(document, max_chars)
    pieces = list(cutter.pieces(section.start, section.end, 0, 0.0))
    for start, end in _packed(document.text, pieces, max_chars):
        yield Span(section.title, start, end)


class _Cutter:
    """Cuts what is too long, at the best kind of cut that makes it fit."""

    def __init__(self, document: Readable, max_chars: int) -> None:
        self._text, self._max_chars = document.text, max_chars
        self._smallest = max(1, max_chars // _SMALLEST_PIECE)
        self._levels = _LEVELS.get(document.kind, _PROSE)
        self._whole = document.whole
        self._whole_starts = [start for start, _ in document.whole]

    def pieces(self, start: int, end: int, level: int, cost: float) -> Iterator[_Piece]:
        """Yield the pieces of a span; `cost` is that of the cut before it."""
        start, end = _trimmed(self._text, start, end, self._max_chars)
        if end - start <= self._max_chars:
            if start < end:
                yield _Piece(start, end, cost)
            return
        if level == len(self._levels):
            for at in range(start, end, self._max_chars):
                yield _Piece(at, min(at + self._max_chars, end), cost if at == start else _HARD_COST)
            return
        before = cost
        for first, last in self._spans(start, end, self._levels[level]):
            yield from self.pieces(first, last, level + 1, before)
            before = self._levels[level].cost

    def _spans(self, start: int, end: int, level: _Level) -> Iterator[tuple[int, int]]:
        """Yield the spans between the cuts of a level, small ones joined if the result is not too long."""
        first = last = start
        for cut in self._cuts(start, end, level):
            if last > first and (last - first >= self._smallest or cut - first > self._max_chars):
                yield first, last
                first = last
            last = cut
        if last > first:
            yield first, last

    def _cuts(self, start: int, end: int, level: _Level) -> Iterator[int]:
        for offset in level.cuts(self._text[start:end]):
            at = start + offset
            if at < end and (level.in_whole or not self._is_inside(at)):
                yield at
        yield end

    def _is_inside(self, at: int) -> bool:
        """Return whether a cut is inside of what should stay whole."""
        number = bisect_right(self._whole_starts, at) - 1
        return number >= 0 and self._whole[number][0] < at < self._whole[number][1]


def _trimmed(text: str, start: int, end: int, max_chars: int) -> tuple[int, int]:
    """Return a span without the blank lines around it; the indentation of its first line stays, unless it is absurd."""
    body = text[start:end]
    stripped = body.lstrip()
    first = end - len(stripped)
    line = max(text.rfind("\n", start, first), text.rfind("\r", start, first)) + 1
    if line == 0:
        line = start if start == 0 or text[start - 1] in "\r\n" else first
    return (line if first - line <= max_chars // 4 else first), start + len(body.rstrip())


def _packed(text: str, pieces: list[_Piece], max_chars: int) -> list[tuple[int, int]]:
    """Join consecutive pieces into chunks: as few as possible, evenly filled, cut where it tears least.

    The sum of each chunk's (free share of the maximum)^2 and of the costs of the cuts is minimal, as in the optimal
    line breaks of Knuth and Plass 1981, doi:10.1002/spe.4380111102.
    """
    costs = [
        piece.cost + (_COLON_COST if number and text[pieces[number - 1].end - 1] == ":" else 0.0)
        for number, piece in enumerate(pieces)
    ]
    best, first_of = [0.0], list[int]()
    for number, piece in enumerate(pieces):
        cheapest, chosen = float("inf"), number
        for first in range(number, -1, -1):
            length = piece.end - pieces[first].start
            if length > max_chars:
                break
            free = 1 - length / max_chars
            total = best[first] + costs[first] + free * free
            if total < cheapest:
                cheapest, chosen = total, first
        best.append(cheapest)
        first_of.append(chosen)
    spans, number = list[tuple[int, int]](), len(pieces)
    while number:
        spans.append((pieces[first_of[number - 1]].start, pieces[number - 1].end))
        number = first_of[number - 1]
    return spans[::-1]
