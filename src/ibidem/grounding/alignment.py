"""How well the words of a question are aligned with a span of a passage: what needs no model.

    question     How high is the tower?
    its terms    high 3.1, tower 1.2                    rarer among the texts, heavier: the inverse document frequency
    passage      The tower was built in 1889. It is 330 m high and weighs 10,100 tons.
    near         330: high is 2 words away, tower 8      10,100: high is 3 words away, tower 11, in another sentence

A term counts as far away as its occurrence that is nearest to the span; what is inside of the span does not count.
`proximity` is the sum of the weights, each times exp(-distance / 12): untrained, and hard to beat.

Shapes: S spans, F features.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibidem.grounding.cloze import SMALL, kind_of
from ibidem.grounding.sentences import sentence_ends
from ibidem.grounding.terms import terms

REACH = 12.0
"""Words over which nearness falls to 1 / e."""
FEATURES = (
    "near_4",
    "near_12",
    "near_32",
    "before",
    "behind",
    "sentence",
    "sentence_beside",
    "passage",
    "pairs",
    "inside",
    "focus_before",
    "focus_behind",
    "kind",
    "words",
    "place",
)
"""near_N: share of the question's weight, each term times exp(-distance / N); before, behind: near_12 of terms on one
side; sentence, sentence_beside, passage: share of the weight in the span's sentence, or in one beside it too, or in the
passage; pairs: share of the question's neighboring terms that are neighbors in the span's sentence; inside: share of
the weight inside of the span; focus_before, focus_behind: nearness, exp(-distance / 2), of what the question word asks
for, such as sacks in "how many sacks", within six words on one side; kind: whether the span is of the kind that is
asked for; words: logarithm of its length; place: of the span in the passage, from 0 to 1."""
_WORD = re.compile(r"\w+(?:[.,'’_-]\w+)*")
_FAR = 1e9
_FOCUS_REACH, _FOCUS_WORDS, _FOCUS_TERMS = 2.0, 6, 4
_ASKS = re.compile(r"(?i)\b(?:whose|what|which|how (?:many|much)|how)\b")
_BEFORE_FOCUS = frozenset(["of", "the", "kind", "kinds", "type", "types", "sort", "a", "an"])
_ASKED = (
    (re.compile(r"(?i)\b(?:when|what year|which year)\b"), frozenset(["year", "number"])),
    (re.compile(r"(?i)\bhow (?:many|much|long|large|high|old|often|far|fast|big|deep|tall)\b"), frozenset(["number"])),
    (re.compile(r"(?i)\b(?:who|whom|whose)\b"), frozenset(["name"])),
    (re.compile(r"(?i)\bwhere\b"), frozenset(["name"])),
)


class Frequencies(NamedTuple):
    """In how many of some texts each term occurs."""

    counts: Mapping[str, int]
    number: int
    """Of texts in all."""

    def idf(self, term: str) -> float:
        """Return the inverse document frequency of a term, as BM25 has it.

        >>> Frequencies({"the": 10, "tower": 1}, 10).idf("the") < Frequencies({}, 10).idf("tower")
        True
        """
        count = self.counts.get(term, 0)
        return math.log1p((self.number - count + 0.5) / (count + 0.5))


def frequencies(texts: Iterable[str]) -> Frequencies:
    """Count in how many texts each term occurs."""
    counts: Counter[str] = Counter()
    number = 0
    for text in texts:
        counts.update(set(terms(text)))
        number += 1
    return Frequencies(counts, number)


def proximity(question: str, passage: str, spans: Sequence[tuple[int, int]], known: Frequencies) -> NDArray[np.float32]:
    """Return the untrained score of each span, [S]: the sum of idf x exp(-distance / 12) over the question's terms."""
    found = _align(question, _read(passage), spans, known)
    return np.asarray((found.weights_Q * np.exp(-np.abs(found.distances_SQ) / REACH)).sum(1), np.float32)


def features(question: str, passage: str, spans: Sequence[tuple[int, int]], known: Frequencies) -> NDArray[np.float32]:
    """Return `FEATURES` of each span, [S, F].

    Args:
        question: the question, or the rest of a claim.
        passage: the text.
        spans: in characters of the passage.
        known: weights the terms.
    """
    read = _read(passage)
    found = _align(question, read, spans, known)
    share_Q = found.weights_Q / (found.weights_Q.sum() or 1.0)
    away_SQ = np.abs(found.distances_SQ)
    near_SQ = share_Q * np.exp(-away_SQ / REACH)
    columns = [
        (share_Q * np.exp(-away_SQ / 4.0)).sum(1),
        near_SQ.sum(1),
        (share_Q * np.exp(-away_SQ / 32.0)).sum(1),
        (near_SQ * (found.distances_SQ < 0)).sum(1),
        (near_SQ * (found.distances_SQ > 0)).sum(1),
        (share_Q * found.in_sentence_SQ).sum(1),
        (share_Q * found.beside_SQ).sum(1),
        (share_Q * (away_SQ < _FAR)).sum(1),
        _pairs(read, found.places, _terms(question)),
        (share_Q * found.inside_SQ).sum(1),
        *_beside_focus(question, read, found.places),
        [_is_asked(question, passage[start:end]) for start, end in spans],
        [math.log1p(last - first) for first, last in found.places],
        [first / max(len(read.words), 1) for first, _ in found.places],
    ]
    return np.asarray(columns, np.float32).T.reshape(len(spans), len(FEATURES))


def weights_of_words(text: str, known: Frequencies) -> list[tuple[int, int, float]]:
    """Return the span of each word of a text, and the weight of its rarest term."""
    found = [(match.span(), terms(match[0])) for match in _WORD.finditer(text)]
    return [(start, end, max(map(known.idf, held))) for (start, end), held in found if held]


class _Read(NamedTuple):
    """A passage, word by word."""

    words: list[tuple[int, int]]
    """In characters."""
    terms: list[frozenset[str]]
    sentences: NDArray[np.int64]
    """Number of the sentence of each word."""
    places: dict[str, NDArray[np.int64]]
    """Numbers of the words that have a term, ascending."""


@lru_cache(maxsize=1024)
def _read(passage: str) -> _Read:
    ends = [*sentence_ends(passage), len(passage)]
    words, held, sentences = [], [], []
    places: dict[str, list[int]] = {}
    for number, match in enumerate(_WORD.finditer(passage)):
        words.append(match.span())
        held.append(frozenset(terms(match[0])))
        sentences.append(bisect_right(ends, match.start()))
        for term in held[-1]:
            places.setdefault(term, []).append(number)
    numbers = {term: np.asarray(found) for term, found in places.items()}
    return _Read(words, held, np.asarray(sentences, np.int64), numbers)


def _terms(question: str) -> list[str]:
    return [term for word in _WORD.findall(question) for term in terms(word)]


def _place(read: _Read, span: tuple[int, int]) -> tuple[int, int]:
    """Return the words of a span: the first one, and the one behind the last; both are 0 if it has none."""
    first = bisect_right(read.words, span[0], key=_end)
    behind = bisect_left(read.words, span[1], key=_start)
    return (first, behind) if first < behind else (0, 0)


class _Aligned(NamedTuple):
    """The terms of a question and the spans of a passage."""

    weights_Q: NDArray[np.float64]
    places: list[tuple[int, int]]
    """Words of each span."""
    distances_SQ: NDArray[np.float64]
    """Of the nearest occurrence outside of the span, in words; negative before it."""
    inside_SQ: NDArray[np.bool_]
    in_sentence_SQ: NDArray[np.bool_]
    """Whether the term occurs in the span's sentence, outside of the span."""
    beside_SQ: NDArray[np.bool_]
    """The same of the sentences beside it too."""


def _align(question: str, read: _Read, spans: Sequence[tuple[int, int]], known: Frequencies) -> _Aligned:
    asked, places = list(dict.fromkeys(_terms(question))), [_place(read, span) for span in spans]
    shape = len(spans), len(asked)
    distances_SQ, (inside_SQ, in_sentence_SQ, beside_SQ) = np.full(shape, _FAR), np.zeros((3, *shape), np.bool_)
    first_S1, behind_S1 = np.asarray(places, np.int64).reshape(-1, 2, 1).transpose(1, 0, 2)
    sentence_S1 = read.sentences[first_S1] if len(read.words) else first_S1
    for column, term in enumerate(asked):
        numbers_K = read.places.get(term)
        if numbers_K is None:
            continue
        signed_SK = np.minimum(numbers_K - first_S1, 0) + np.maximum(numbers_K - behind_S1 + 1, 0)
        is_inside_SK = signed_SK == 0
        apart_SK = np.abs(read.sentences[numbers_K] - sentence_S1)
        nearest_S1 = np.where(is_inside_SK, _FAR, np.abs(signed_SK)).argmin(1)[:, None]
        inside_SQ[:, column] = is_inside_SK.any(1)
        in_sentence_SQ[:, column] = (~is_inside_SK & (apart_SK == 0)).any(1)
        beside_SQ[:, column] = (~is_inside_SK & (apart_SK <= 1)).any(1)
        nearest_S = np.take_along_axis(signed_SK, nearest_S1, 1)[:, 0]
        distances_SQ[:, column] = np.where(nearest_S == 0, _FAR, nearest_S)
    weights_Q = np.asarray([known.idf(term) for term in asked], np.float64)
    return _Aligned(weights_Q, places, distances_SQ, inside_SQ, in_sentence_SQ, beside_SQ)


def _pairs(read: _Read, places: Sequence[tuple[int, int]], asked: Sequence[str]) -> list[float]:
    """Return the share of neighboring terms of a question that are neighbors in each span's sentence."""
    wanted = set(pairwise(asked))
    sentences: dict[tuple[str, str], set[int]] = {}
    for one, other in wanted:
        ones, others = read.places.get(one), read.places.get(other)
        if ones is not None and others is not None:
            both = np.intersect1d(ones + 1, others)
            same = both[read.sentences[both] == read.sentences[both - 1]]
            sentences[one, other] = set(read.sentences[same].tolist())
    return [
        sum(int(read.sentences[first]) in found for found in sentences.values()) / len(wanted)
        if first < behind and wanted
        else 0.0
        for first, behind in places
    ]


def _start(word: tuple[int, int]) -> int:
    return word[0]


def _end(word: tuple[int, int]) -> int:
    return word[1]


def focus(question: str) -> frozenset[str]:
    """Return the terms of what a question word asks for, which follows it; none if nothing does.

    >>> sorted(focus("How many career sacks did he have?")), sorted(focus("What is it?"))
    (['career', 'sack'], [])
    """
    found: list[str] = []
    if asks := _ASKS.search(question):
        for word in _WORD.findall(question[asks.end() :]):
            if word.lower() in SMALL or len(found) >= _FOCUS_TERMS:
                if found or word.lower() not in _BEFORE_FOCUS:
                    break
            else:
                found += terms(word)
    return frozenset(found)


def _beside_focus(question: str, read: _Read, places: Sequence[tuple[int, int]]) -> tuple[list[float], list[float]]:
    """Return how near the focus of a question is before each span, and behind it."""
    asked = focus(question)
    before: list[float] = []
    behind: list[float] = []
    for first, end in places:
        sides = (
            range(first - 1, max(first - 1 - _FOCUS_WORDS, -1), -1),
            range(end, min(end + _FOCUS_WORDS, len(read.words))),
        )
        for found, side in zip((before, behind), sides, strict=True):
            distance = next((place for place, number in enumerate(side) if read.terms[number] & asked), None)
            found.append(0.0 if distance is None else math.exp(-distance / _FOCUS_REACH))
    return before, behind


def sentence_of(passage: str, span: tuple[int, int]) -> tuple[int, int]:
    """Return the sentence of a passage in which a span begins, in characters.

    >>> text = "It is old. It is high."
    >>> text[slice(*sentence_of(text, (17, 21)))]
    'It is high.'
    """
    ends = _sentence_ends(passage)
    number = bisect_right(ends, span[0])
    return (ends[number - 1] if number else 0), (ends[number] if number < len(ends) else len(passage))


@lru_cache(maxsize=1024)
def _sentence_ends(passage: str) -> list[int]:
    return list(sentence_ends(passage))


def _is_asked(question: str, answer: str) -> float:
    """Return 1 if an answer is of the kind that a question asks for, 0 if not, one half if it asks for any.

    >>> _is_asked("When was it built?", "1889"), _is_asked("Who built it?", "1889"), _is_asked("What is it?", "1889")
    (1.0, 0.0, 0.5)
    """
    for pattern, kinds in _ASKED:
        if pattern.search(question):
            return float(kind_of(answer) in kinds)
    return 0.5
