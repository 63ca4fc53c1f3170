"""The rows of a contrastive batch: the right span of a passage for each cloze question, and spans that are wrong.

    question 0   how many tower high              passage 0    It is <330> m high and weighs [10,100] tons.
    question 1   when opened                      passage 7    The bridge opened in <1932> after [8] years.
                                                  passage 4    The pylon of [1932] is [89] m high.

    rows of question 0    <330> of passage 0                   right
                          [10,100] of passage 0                wrong: of its kind, in its passage
                          <1932> of passage 7                  wrong: the right span of another question of the batch
                          [1932], [89] of passage 4            wrong: of its kind, in the other passage that is nearest
    rows of question 1    ...                                  [1932] of passage 4 is masked: not the one, but right

The questions are made from the passages themselves (`grounding.cloze`), nothing is labeled. What is in a batch depends
on the numbers of its questions alone, and these on seed, step, micro batch and process (`training.order`).

Shapes: R rows, F features.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibidem.errors import DataError
from ibidem.grounding.alignment import FEATURES, Frequencies, features, frequencies, sentence_of
from ibidem.grounding.cloze import Candidate, Cloze, candidates, cloze_questions, is_same, paraphrased_questions
from ibidem.grounding.terms import terms
from ibidem.grounding.view import K1, B

Span = tuple[int, int]


class Rows(NamedTuple):
    """Spans to score, as texts: what a batch is before a model has read it."""

    questions: tuple[str, ...]
    passages: tuple[str, ...]
    question_of_R: NDArray[np.int64]
    passage_of_R: NDArray[np.int64]
    spans_R2: NDArray[np.int64]
    """In characters of the passage."""
    sentences_R2: NDArray[np.int64]
    """Of the sentences that the spans are in."""
    features_RF: NDArray[np.float32]
    is_right_R: NDArray[np.bool_]
    is_masked_R: NDArray[np.bool_]
    """Not right, and a right answer nevertheless by its text."""


class _Row(NamedTuple):
    question: int
    """Its place in the batch."""
    passage: int
    """Its place among all passages."""
    span: Span
    is_right: bool = False


class Material:
    """The cloze questions of some passages, and what their wrong answers are taken from."""

    def __init__(self, passages: Sequence[str], seed: int, known: Frequencies | None = None) -> None:
        """Make the questions.

        Args:
            passages: the texts.
            seed: decides which spans are asked for, and in which words.
            known: weights of the terms; by default those of these passages.
        """
        self.passages = tuple(passages)
        self.known = frequencies(passages) if known is None else known
        self.questions: list[Cloze] = [
            *cloze_questions(self.passages, seed),
            *paraphrased_questions(self.passages, seed, self.known.idf),
        ]

    def __len__(self) -> int:
        return len(self.questions)

    def check(self, of: str) -> None:
        """Fail if there is nothing to ask; `of` says what was read.

        Raises:
            DataError: no passage has two numbers, names or phrases to be told apart.
        """
        if not self.passages:
            raise DataError(f"{of}: no passage: all documents are empty")
        if not self.questions:
            raise DataError(
                f"{of}: none of {len(self.passages):,} passages can be asked about: a question needs two numbers, two "
                "names or two phrases in one passage, and words beside them"
            )

    def answer(self, item: int) -> str:
        """Return the right answer of a question."""
        asked = self.questions[item]
        return self.passages[asked.passage][asked.answer.start : asked.answer.end]

    def rows(self, items: Sequence[int]) -> Rows:
        """Return the rows of a batch of questions, those of each in turn, the right one first."""
        found = [row for place, item in enumerate(items) for row in self._rows_of(place, item, items)]
        used = list(dict.fromkeys(row.passage for row in found))
        return Rows(
            questions=tuple(self.questions[item].question for item in items),
            passages=tuple(self.passages[place] for place in used),
            question_of_R=np.array([row.question for row in found], np.int64),
            passage_of_R=np.array([used.index(row.passage) for row in found], np.int64),
            spans_R2=np.array([row.span for row in found], np.int64).reshape(-1, 2),
            sentences_R2=np.array(
                [sentence_of(self.passages[row.passage], row.span) for row in found], np.int64
            ).reshape(-1, 2),
            features_RF=self._features(found, items),
            is_right_R=np.array([row.is_right for row in found], np.bool_),
            is_masked_R=np.array([self._is_masked(row, items[row.question]) for row in found], np.bool_),
        )

    def own_rows(self, item: int) -> tuple[str, str, list[Span]]:
        """Return a question, its passage and the spans of one kind in it, the right one first."""
        asked = self.questions[item]
        return asked.question, self.passages[asked.passage], [_span(each) for each in (asked.answer, *asked.wrong)]

    def _rows_of(self, place: int, item: int, items: Sequence[int]) -> list[_Row]:
        asked, others = self.questions[item], [self.questions[each] for each in items if each != item]
        nearest = self._nearest.to(asked)
        wrong = [
            *((asked.passage, _span(each)) for each in asked.wrong),
            *((other.passage, _span(other.answer)) for other in others),
            *((nearest, _span(each)) for each in self._alike(nearest, asked)),
        ]
        right = (asked.passage, _span(asked.answer))
        return [
            _Row(place, *right, is_right=True),
            *(_Row(place, *each) for each in dict.fromkeys(wrong) if each != right),
        ]

    def _alike(self, passage: int, asked: Cloze) -> list[Candidate]:
        """Return as many spans of the right answer's kind in another passage as there are wrong ones in its own."""
        alike = [each for each in candidates(self.passages[passage]) if each.kind == asked.answer.kind]
        return alike[: len(asked.wrong)]

    def _is_masked(self, row: _Row, item: int) -> bool:
        start, end = row.span
        return not row.is_right and is_same(self.passages[row.passage][start:end], self.answer(item))

    def _features(self, rows: Sequence[_Row], items: Sequence[int]) -> NDArray[np.float32]:
        by_pair: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            by_pair[row.question, row.passage].append(number)
        found_RF = np.zeros((len(rows), len(FEATURES)), np.float32)
        for (question, passage), numbers in by_pair.items():
            spans = [rows[number].span for number in numbers]
            text = self.questions[items[question]].question
            found_RF[numbers] = features(text, self.passages[passage], spans, self.known)
        return found_RF

    @cached_property
    def _nearest(self) -> "_Nearest":
        return _Nearest(self.passages, self.known)


class _Nearest:
    """Finds the other passage that has most in common with a question, by BM25.

    Source: Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond".
    """

    def __init__(self, passages: Sequence[str], known: Frequencies) -> None:
        counts = [Counter(terms(passage)) for passage in passages]
        sizes = np.array([count.total() for count in counts], np.float64)
        norms = K1 * (1 - B + B * sizes / max(sizes.mean(), 1.0))
        postings: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for place, count in enumerate(counts):
            for term, number in count.items():
                places, weights = postings[term]
                places.append(place)
                weights.append(number * (K1 + 1) / (number + norms[place]))
        self._postings = {term: (np.array(places), np.array(weights)) for term, (places, weights) in postings.items()}
        self._known, self._number = known, len(passages)

    def to(self, asked: Cloze) -> int:
        """Return the place of the passage; of equal ones the first, and of a single one itself."""
        scores_N = np.zeros(self._number)
        for term, number in Counter(terms(asked.question)).items():
            if term in self._postings:
                places, weights = self._postings[term]
                scores_N[places] += number * self._known.idf(term) * weights
        scores_N[asked.passage] = -1.0
        return int(scores_N.argmax())


def _span(candidate: Candidate) -> Span:
    return candidate.start, candidate.end
