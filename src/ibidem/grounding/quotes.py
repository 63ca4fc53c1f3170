"""The best quotes: an answer without a model, and the choice of the passages that a model reads.

    question     How do I set the maximum depth of the interpreter stack?
    its words    set 1.9, maximum 3.1, depth 4.0, interpreter 1.5, stack 2.9      rarer in the chunks found, heavier
    units        sentences, list items, table rows and pieces of code of each chunk
    score        what share of the words' weight a unit has itself, in its headings, and in the units around it
    quotes       the best units, each with what it introduces; none if the best chunk lacks most of the weight

Everything follows from the question and the chunks that were found, so that nothing else can change an answer.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from ibidem.grounding.sentences import split_sentences
from ibidem.grounding.store import Chunk, Hit
from ibidem.grounding.terms import terms

POOL = 40
"""Chunks to look at for each question."""
MOST_QUOTES = 3
LONGEST_QUOTE = 480
"""Characters; a longer unit is cut at the end of a line."""
LEAST_COVER = 0.5
"""Share of the question's weight that a chunk with its headings must have to answer it."""
IN_HEADINGS, BESIDE, IN_CHUNK = 0.7, 0.35, 0.15
"""What a word counts that stands not in the unit itself, but in the headings, the units beside it, or the chunk."""
CLOSE = 0.8
"""Share of the best quote's score that a further quote needs."""
_QUESTION_WORDS = """
a about all am an and any anyone are as at be been being between but by can could did do does doing done each either for
from get give gets got had has have having he her his how i if in into is it its kind like many may me mean means might
more most much must my need of on one or our out please say says she should so some something such tell than that the
their them there these they thing this those to up use used using want was way ways we were what when where whether
which while who whom whose why will with would you your
"""
_EMPTY = frozenset(term for word in _QUESTION_WORDS.split() for term in terms(word))
_BLOCK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*•+]|\d{1,3}[.)])[ \t])|\n(?=[ \t]*\|)|\n(?=>>> )")
_SENTENCE = re.compile(r"[.!?。！？][\"'”’»)\]]*(?:[ \t]*\n[ \t]*|[ \t]+)|[。！？]")
_ASKED_NUMBER = re.compile(r"\bhow (?:many|much|long|large|high|old|often|far|fast|big)\b|\bwhen\b|\bwhat year\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|hundred|thousand|million)\b", re.IGNORECASE)


class Quote(NamedTuple):
    """A part of a chunk that answers a question."""

    place: int
    """Of its chunk among those given."""
    start: int
    end: int
    """It is `chunk.text[start:end]`."""
    score: float


class _Unit(NamedTuple):
    start: int
    end: int
    terms: frozenset[str]


def choose(question: str, hits: Sequence[Hit], k: int) -> list[Hit]:
    """Return the k hits whose best unit fits the question best, where the store's order counts as much."""
    ranking = {place: rank for rank, place in enumerate(_by_unit(question, [hit.chunk for hit in hits]))}
    order = sorted(range(len(hits)), key=lambda place: (-1 / (60 + ranking[place]) - 1 / (60 + place), place))
    return [hits[place] for place in order[:k]]


def quotes(question: str, chunks: Sequence[Chunk], among: Sequence[Chunk]) -> list[Quote]:
    """Return the parts of the chunks that answer a question best, best first; none if they do not answer it.

    Args:
        question: the question.
        chunks: those to quote.
        among: all that were found, by which the question's words are weighted.
    """
    weights = _weights(question, among)
    scored = sorted(_scored(question, chunks, weights), key=lambda quote: (-quote.score, quote.place, quote.start))
    if not scored:
        return []
    chosen: list[Quote] = []
    for quote in scored:
        if len(chosen) == MOST_QUOTES or quote.score < CLOSE * scored[0].score:
            break
        if not any(_repeats(quote, other, chunks) for other in chosen):
            chosen.append(quote)
    return [_extended(quote, chunks[quote.place]) for quote in chosen]


def _by_unit(question: str, chunks: Sequence[Chunk]) -> list[int]:
    """Return the places of chunks in the order of their best units."""
    best = dict.fromkeys(range(len(chunks)), 0.0)
    for quote in _scored(question, chunks, _weights(question, chunks), least_cover=0.0):
        best[quote.place] = max(best[quote.place], quote.score)
    return sorted(best, key=lambda place: (-best[place], place))


def _weights(question: str, chunks: Sequence[Chunk]) -> dict[str, float]:
    """Return the weight of each content word of a question: the rarer among the chunks, the heavier."""
    words = dict.fromkeys(term for term in terms(question) if term not in _EMPTY)
    words = words or dict.fromkeys(terms(question))
    held = [_terms_of(chunk) for chunk in chunks]
    counts = {word: sum(word in each for each in held) for word in words}
    return {word: 1 + math.log1p((len(chunks) - count + 0.5) / (count + 0.5)) for word, count in counts.items()}


def _scored(
    question: str, chunks: Sequence[Chunk], weights: Mapping[str, float], least_cover: float = LEAST_COVER
) -> Iterator[Quote]:
    """Yield each unit that answers, with its score from 0 to 1 and a little more."""
    whole = sum(weights.values()) or 1.0
    asks_number = _ASKED_NUMBER.search(question) is not None
    for place, chunk in enumerate(chunks):
        if _cover(weights, _terms_of(chunk)) < least_cover * whole:
            continue
        headings = frozenset(terms(" ".join(chunk.title)))
        units = _units(chunk.text)
        for number, unit in enumerate(units):
            text = chunk.text[unit.start : unit.end]
            beside = frozenset[str]().union(*(other.terms for other in units[max(0, number - 1) : number + 2]))
            score = _score(weights, unit.terms, headings, beside, _terms_of(chunk)) / whole
            score += 0.03 / (1 + number) + (0.05 if asks_number and _NUMBER.search(text) else 0.0)
            yield Quote(place, unit.start, unit.end, score * _worth(text, unit.terms, weights) * (1 - 0.01 * place))


def _score(
    weights: Mapping[str, float],
    own: Collection[str],
    headings: Collection[str],
    beside: Collection[str],
    chunk: Collection[str],
) -> float:
    score = 0.0
    for word, weight in weights.items():
        places = ((own, 1.0), (headings, IN_HEADINGS), (beside, BESIDE), (chunk, IN_CHUNK))
        score += weight * next((share for held, share in places if word in held), 0.0)
    return score


def _cover(weights: Mapping[str, float], held: Collection[str]) -> float:
    return sum(weight for word, weight in weights.items() if word in held)


def _worth(text: str, own: Collection[str], weights: Mapping[str, float]) -> float:
    """Return what a unit is worth as an answer: a question is none, nor is what says no more than the question."""
    more = sum(1 for term in own if term not in weights and term not in _EMPTY)
    if text.rstrip().endswith("?"):
        return 0.2
    if more < 2:
        return 0.3 + 0.3 * more
    return 1.0


def _repeats(quote: Quote, other: Quote, chunks: Sequence[Chunk]) -> bool:
    """Return whether two quotes overlap, or say nearly the same."""
    one, two = chunks[quote.place], chunks[other.place]
    if one.path == two.path:
        first, second = one.start + quote.start, two.start + other.start
        if first < two.start + other.end and second < one.start + quote.end:
            return True
    ours = set(terms(one.text[quote.start : quote.end]))
    theirs = set(terms(two.text[other.start : other.end]))
    return len(ours & theirs) >= 0.7 * min(len(ours), len(theirs))


def _extended(quote: Quote, chunk: Chunk) -> Quote:
    """Add to a quote what it introduces: the unit behind a colon, or behind a very short one."""
    units = _units(chunk.text)
    text = chunk.text[quote.start : quote.end].rstrip()
    following = next((unit for unit in units if unit.start >= quote.end), None)
    is_open = text.endswith(":") or len(text) < 40 or not text.endswith((".", "!", "?", "。", "```", "|"))
    if following is not None and is_open and following.end - quote.start <= LONGEST_QUOTE:
        return quote._replace(end=following.end)
    return quote


@lru_cache(maxsize=256)
def _terms_of(chunk: Chunk) -> frozenset[str]:
    return frozenset(terms(" ".join([*chunk.title, chunk.text])))


@lru_cache(maxsize=256)
def _units(text: str) -> tuple[_Unit, ...]:
    """Divide a chunk into sentences, list items, table rows and pieces of code."""
    return tuple(_Unit(start, end, frozenset(terms(text[start:end]))) for start, end in unit_spans(text))


def unit_spans(text: str) -> list[tuple[int, int]]:
    r"""Return where the units of a text stand.

    >>> [("It is. No!\\n- one\\n- two")[start:end] for start, end in unit_spans("It is. No!\\n- one\\n- two")]
    ['It is.', 'No!', '- one', '- two']
    """
    spans = []
    for start, end in _between(text, _BLOCK, 0, len(text)):
        if _is_prose(text[start:end]):
            spans += _sentence_spans(text, start, end)
        else:
            spans.append((start, end))
    return [piece for start, end in spans for piece in _cut(text, start, end) if text[slice(*piece)].strip()]


def _is_prose(block: str) -> bool:
    """Return whether a block is text in sentences, not code or a table."""
    lines = block.strip("\n").split("\n")
    is_indented = len(lines) > 1 and all(line.startswith(("    ", "\t")) for line in lines if line.strip())
    return not is_indented and not block.lstrip().startswith((">>>", "```", "~~~", "|", "$ "))


def _sentence_spans(text: str, start: int, end: int) -> Iterable[tuple[int, int]]:
    """Yield where the sentences of a block stand; what `split_sentences` does not take for an end is none."""
    begin = start
    for match in _SENTENCE.finditer(text, start, end):
        around = " ".join(f"{text[begin : match.end()]}{text[match.end() : min(end, match.end() + 60)]}".split())
        before = " ".join(text[begin : match.end()].split())
        if match.end() < end and split_sentences(around)[0] == before:
            yield begin, match.end()
            begin = match.end()
    yield begin, end


def _between(text: str, pattern: re.Pattern[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text, start, end):
        yield start, match.start()
        start = match.end()
    yield start, end


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a span without the blanks around it, in pieces of whole lines if it is too long."""
    while start < end:
        stop = end
        if end - start > LONGEST_QUOTE:
            stop = max(text.rfind("\n", start, start + LONGEST_QUOTE), text.rfind(" ", start, start + LONGEST_QUOTE))
            stop = end if stop <= start else stop
        piece = text[start:stop]
        left = len(piece) - len(piece.lstrip("\n"))
        yield start + left, start + len(piece.rstrip())
        start = stop + (stop < end)
