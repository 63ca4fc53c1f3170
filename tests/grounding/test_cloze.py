"""Cloze questions: their answers are there, their wrong answers are wrong, and nothing else decides."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.grounding import cloze
from ibidem.grounding.alignment import frequencies
from ibidem.grounding.cloze import (
    MOST_WRONG,
    SMALL,
    candidates,
    cloze_questions,
    is_same,
    kind_of,
    paraphrased_questions,
)

PASSAGE = (
    "In 1889 Gustave Eiffel opened the tower, which is 330 m high and weighs 10,100 tons. Maurice Koechlin drew it in "
    "1884 with Stephen Sauvestre; 18,038 pieces of wrought iron were joined by 2.5 million rivets."
)
TEXTS = st.text(alphabet=st.sampled_from("abZQ 19.,\n'é字"), max_size=80) | st.sampled_from([PASSAGE, "", " ", "1 2"])


def texts_of(passage: str, kind: str) -> list[str]:
    return [passage[each.start : each.end] for each in candidates(passage) if each.kind == kind]


def test_candidates_are_years_numbers_names_and_phrases() -> None:
    assert texts_of(PASSAGE, "year") == ["1889", "1884"]
    assert texts_of(PASSAGE, "number") == ["330", "10,100", "18,038", "2.5", "million"]
    assert texts_of(PASSAGE, "name") == ["Gustave Eiffel", "Maurice Koechlin", "Stephen Sauvestre"]
    assert {"wrought iron", "rivets"} <= set(texts_of(PASSAGE, "other"))


@given(TEXTS)
def test_candidates_lie_in_the_passage_in_order_and_apart(passage: str) -> None:
    found = candidates(passage)
    ends = [0, *(each.end for each in found)]
    for each, before in zip(found, ends, strict=False):
        text = passage[each.start : each.end]
        assert before <= each.start < each.end <= len(passage)
        assert text == text.strip()
        assert text.lower() not in SMALL
    assert all(kind_of(passage[each.start : each.end]) == each.kind for each in found if each.kind == "year")


@given(st.lists(TEXTS, max_size=4), st.integers(0, 3))
def test_a_wrong_answer_is_of_the_same_kind_and_another_text(passages: list[str], seed: int) -> None:
    for each in cloze_questions(passages, seed):
        passage = passages[each.passage]
        answer = passage[each.answer.start : each.answer.end]
        assert 1 <= len(each.wrong) <= MOST_WRONG
        for wrong in each.wrong:
            assert wrong.kind == each.answer.kind
            assert not is_same(passage[wrong.start : wrong.end], answer)


def test_a_question_is_made_of_words_around_its_answer_which_is_not_among_them() -> None:
    asked = [each for seed in range(30) for each in cloze_questions([PASSAGE], seed)]
    assert len(asked) > 100
    assert len({each.answer for each in asked}) > 8
    for each in asked:
        sentence = re.findall(r"\w+", PASSAGE[: PASSAGE.index("Maurice")] if each.answer.end < 85 else PASSAGE[85:])
        words = re.findall(r"\w+", each.question)
        openings = {word for group in cloze._ASKS.values() for start in group for word in start.split()}
        assert set(words) <= set(sentence) | openings
        assert each.question.count(PASSAGE[each.answer.start : each.answer.end]) == 0


def test_seed_and_passage_decide() -> None:
    alone = list(cloze_questions([PASSAGE], 7))
    assert alone == list(cloze_questions([PASSAGE, "Nothing here."], 7))
    assert alone != list(cloze_questions([PASSAGE], 8))


@pytest.mark.parametrize("passage", ["", "  ", "One name, Eiffel.", "330", "der die das 字字字"])
def test_a_passage_without_two_spans_of_a_kind_has_no_question(passage: str) -> None:
    assert list(cloze_questions([passage], 0)) == []


TOLD_TWICE = [
    "The lighthouse of Corvino was opened by Ada Ferro in 1931. Its lamp turns every 12 seconds.",
    "Fishermen remember 1931, when Corvino had its lighthouse opened at last; the mole is from 1925.",
    "A bakery opened in 1931 on the square; the mill is from 1890.",
]


def test_a_fact_that_is_told_twice_is_asked_in_the_words_of_the_other_passage() -> None:
    known = frequencies([*TOLD_TWICE, *("Nothing of this is here." for _ in range(300))])
    asked = [each for seed in range(20) for each in paraphrased_questions(TOLD_TWICE, seed, known.idf)]
    asked = [each for each in asked if each.answer.kind == "year"]
    assert {each.passage for each in asked} == {1}  # the first has no other year, and the third says something else
    for each in asked:
        passage = TOLD_TWICE[1]
        assert passage[each.answer.start : each.answer.end] == "1931"
        assert [passage[wrong.start : wrong.end] for wrong in each.wrong] == ["1925"]
        assert not {"Fishermen", "remember", "mole"} & set(each.question.split())
    assert list(paraphrased_questions(TOLD_TWICE, 3, known.idf)) == list(
        paraphrased_questions(TOLD_TWICE, 3, known.idf)
    )
    assert list(paraphrased_questions(TOLD_TWICE[1:], 0, known.idf)) == []
