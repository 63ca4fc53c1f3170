"""The rows of a contrastive batch: one right span for each question, named wrong ones, and what is masked."""

import numpy as np
import pytest
from tests.training.passage_data import passage

from ibidem.errors import DataError
from ibidem.grounding.alignment import features
from ibidem.grounding.cloze import candidates, is_same
from ibidem.grounding.terms import terms
from ibidem.training.cloze_rows import Material, Rows

PASSAGES = [passage(seed) for seed in range(12)]


def texts_of(rows: Rows, question: int) -> list[str]:
    """The spans of a question's rows."""
    places = np.flatnonzero(rows.question_of_R == question)
    return [rows.passages[rows.passage_of_R[row]][slice(*rows.spans_R2[row])] for row in places]


def test_a_question_has_one_right_row_and_the_wrong_ones_of_its_passage_behind_it() -> None:
    material = Material(PASSAGES, 0)
    rows = material.rows([0, 5, 9])
    for place, item in enumerate([0, 5, 9]):
        _, text, spans = material.own_rows(item)
        mine = rows.question_of_R == place
        assert rows.is_right_R[mine].tolist() == [True, *[False] * (mine.sum() - 1)]
        assert rows.spans_R2[mine][: len(spans)].tolist() == [list(span) for span in spans]
        assert {rows.passages[passage] for passage in rows.passage_of_R[mine][: len(spans)]} == {text}


def test_the_right_spans_of_the_other_questions_are_wrong_ones() -> None:
    material = Material(PASSAGES, 0)
    items = [0, 8, 16]
    rows = material.rows(items)
    for place, item in enumerate(items):
        for other in items:
            if other != item:
                assert material.answer(other) in texts_of(rows, place)


def test_the_other_passage_that_has_most_in_common_lends_spans_of_the_kind() -> None:
    near = "A kettle was forged in 1888 by Grace Hopper near Ghent, long before 1901."
    texts = [*PASSAGES, "A kettle was forged in 1777 by Ada Byron near Ghent, long before 1802.", near]
    material = Material(texts, 0)
    (item, *_) = (number for number, each in enumerate(material.questions) if each.passage == len(texts) - 2)
    asked = material.questions[item]
    assert {"forg", "kettl", "ghent"} & set(terms(asked.question))
    rows = material.rows([item])
    assert rows.passages[-1] == near
    lent = rows.passage_of_R == len(rows.passages) - 1
    kinds = {each.kind for each in candidates(near) for span in rows.spans_R2[lent] if tuple(span) == each[:2]}
    assert kinds == {asked.answer.kind}
    assert 0 < lent.sum() <= len(asked.wrong)


def test_what_looks_wrong_and_is_right_is_masked_and_nothing_else() -> None:
    twin = PASSAGES[0].replace("was built", "had been built")
    material = Material([PASSAGES[0], twin, *PASSAGES[1:]], 0)
    rows = material.rows(range(8))
    assert rows.is_masked_R.any()
    for row, question in enumerate(rows.question_of_R):
        text = rows.passages[rows.passage_of_R[row]][slice(*rows.spans_R2[row])]
        is_false = not rows.is_right_R[row] and is_same(text, material.answer(question))
        assert rows.is_masked_R[row] == is_false


def test_each_row_has_the_features_of_its_question_passage_and_span() -> None:
    material = Material(PASSAGES, 0)
    rows = material.rows([3, 4, 20])
    for row in range(len(rows.question_of_R)):
        question, text = rows.questions[rows.question_of_R[row]], rows.passages[rows.passage_of_R[row]]
        (expected,) = features(question, text, [tuple(rows.spans_R2[row])], material.known)
        assert rows.features_RF[row] == pytest.approx(expected)


def test_a_batch_depends_on_its_questions_alone() -> None:
    one, other = Material(PASSAGES, 0), Material(PASSAGES, 0)
    one.rows([1, 2, 3])
    for mine, theirs in zip(one.rows([7, 11]), other.rows([7, 11]), strict=True):
        assert np.array_equal(mine, theirs)
    assert [each.question for each in Material(PASSAGES, 1).questions] != [each.question for each in one.questions]


def test_passages_that_cannot_be_asked_about_are_one_line() -> None:
    with pytest.raises(DataError, match=r"^here: no passage: all documents are empty$"):
        Material([], 0).check("here")
    with pytest.raises(DataError, match=r"^here: none of 2 passages can be asked about: .*$"):
        Material(["1889", "it was so"], 0).check("here")
