"""Alignment features: those of a naive version, and what each of them is for."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.grounding.alignment import FEATURES, Frequencies, features, frequencies, proximity, sentence_of
from ibidem.grounding.terms import terms

PASSAGE = "The tower was built in 1889. It is 330 m high and weighs 10,100 tons. It was painted red in 1968."
KNOWN = frequencies([PASSAGE, "The tower is high.", "A bridge is long and weighs much."])
WORDS = st.sampled_from(["the", "tower", "is", "high.", "1889", "Red", "330", "tons", "It", "字"])


def span(text: str) -> tuple[int, int]:
    return PASSAGE.index(text), PASSAGE.index(text) + len(text)


def column(question: str, *texts: str) -> dict[str, list[float]]:
    found_SF = features(question, PASSAGE, [span(text) for text in texts], KNOWN)
    return dict(zip(FEATURES, found_SF.T.tolist(), strict=True))


def naive_proximity(question: str, passage: str, place: tuple[int, int], known: Frequencies, reach: float) -> float:
    words = [(match.span(), set(terms(match[0]))) for match in re.finditer(r"\w+(?:[.,'’_-]\w+)*", passage)]
    inside = [number for number, ((a, b), _) in enumerate(words) if b > place[0] and a < place[1]]
    total = 0.0
    for term in {term for word in re.findall(r"\w+(?:[.,'’_-]\w+)*", question) for term in terms(word)}:
        distances = [
            min(abs(number - each) for each in inside)
            for number, (_, held) in enumerate(words)
            if term in held and inside and number not in inside
        ]
        if distances:
            total += known.idf(term) * math.exp(-min(distances) / reach)
    return total


@given(st.lists(WORDS, min_size=1, max_size=30), st.lists(WORDS, max_size=6), st.data())
def test_proximity_is_the_sum_over_the_nearest_occurrences(
    passage: list[str], asked: list[str], data: st.DataObject
) -> None:
    text, question = " ".join(passage), " ".join(asked)
    first = data.draw(st.integers(0, len(passage) - 1))
    last = data.draw(st.integers(first, min(first + 2, len(passage) - 1)))
    start = len(" ".join([*passage[:first], ""]))
    place = start, start + len(" ".join(passage[first : last + 1]))
    found = float(proximity(question, text, [place], KNOWN)[0])
    assert found == pytest.approx(naive_proximity(question, text, place, KNOWN, 12.0), abs=1e-5)
    near = features(question, text, [place], KNOWN)[0, FEATURES.index("near_12")]
    total = sum(KNOWN.idf(term) for term in {term for word in asked for term in terms(word)})
    assert near * total == pytest.approx(found, abs=1e-4)


def test_a_rare_term_weighs_more() -> None:
    assert KNOWN.number == 3
    assert KNOWN.counts["tower"] == 2
    assert KNOWN.idf("the") < KNOWN.idf("weigh") + 1e-12 < KNOWN.idf("never")


def test_what_is_asked_is_near_its_answer() -> None:
    assert (
        column("How high is it?", "330", "10,100")["near_4"][0]
        > column("How high is it?", "330", "10,100")["near_4"][1]
    )
    sides = column("It is high", "330")
    assert sides["before"][0] > 0 < sides["behind"][0]


def test_sentences_pairs_kinds_and_places() -> None:
    found = column("When was the tower built?", "1889", "1968", "330")
    assert found["sentence"][0] > found["sentence"][1]
    assert found["sentence_beside"] >= found["sentence"]
    assert found["pairs"][0] > found["pairs"][1] == found["pairs"][2] - found["pairs"][2]
    assert found["kind"] == [1, 1, 1]
    assert column("Who was it?", "1889")["kind"] == [0]
    assert found["place"][0] < found["place"][2] < found["place"][1]
    assert column("In 1889 or not?", "1889")["inside"][0] > 0 == column("In 1889 or not?", "330")["inside"][0]


@pytest.mark.parametrize("question", ["", "?", "tower"])
@pytest.mark.parametrize("passage", ["", " ", "tower", "..."])
def test_nothing_is_not_a_failure(question: str, passage: str) -> None:
    found = features(question, passage, [(0, len(passage)), (0, 0)], Frequencies({}, 0))
    assert found.shape == (2, len(FEATURES))
    assert np.isfinite(found).all()
    assert np.isfinite(proximity(question, passage, [(0, len(passage))], Frequencies({}, 0))).all()
    assert features(question, passage, [], Frequencies({}, 0)).shape == (0, len(FEATURES))


def test_what_a_question_word_asks_for_is_looked_for_beside_the_span() -> None:
    found = column("How many tons has it?", "10,100", "330")
    assert found["focus_behind"] == [1, pytest.approx(math.exp(-5 / 2))]
    assert found["focus_before"] == [0, 0]
    assert column("Which year is it from, with what weight of tons?", "330")["focus_before"] == [0]
    assert column("Which red is it?", "1968")["focus_before"] == [pytest.approx(math.exp(-1 / 2))]
    assert column("What is it?", "1968")["focus_before"] == [0]


def test_a_span_has_the_sentence_that_it_begins_in() -> None:
    for text in ("tower", "1889", "330", "1968", "1889. It"):
        start, end = sentence_of(PASSAGE, span(text))
        assert PASSAGE[start:end].strip() in PASSAGE.replace(". ", ".|").split("|")
        assert start <= span(text)[0] < end
    assert sentence_of("", (0, 0)) == (0, 0)
