import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.errors import DataError
from ibidem.grounding.support import WordCover, calibrate, calibration_bound

COVER = WordCover(0.75)

PASSAGE = (
    "The tower was designed by Dr. Maurice Koechlin in the U.S. embassy. It can't be climbed at night, e.g. in winter. "
    "It was opened on 31 March 1889.\n\nThe “old” lift is no longer used. Visitors cannot enter without a ticket! "
    "The tower is 3.5 times as high as the dome. Does it sway? It never sways more than 7 cm. "
    "It cannot be entered... without a guide."
)
SENTENCES = (
    "The tower was designed by Dr. Maurice Koechlin in the U.S. embassy.",
    "It can't be climbed at night, e.g. in winter.",
    "It was opened on 31 March 1889.",
    "The “old” lift is no longer used.",
    "Visitors cannot enter without a ticket!",
    "The tower is 3.5 times as high as the dome.",
    "Does it sway?",
    "It never sways more than 7 cm.",
)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_of_the_premise_is_supported(sentence: str) -> None:
    assert COVER.entails(PASSAGE, sentence)


@pytest.mark.parametrize(
    "claim",
    [
        "it was  OPENED on\n31 march 1889",
        "“It was opened on 31 March 1889.”",
        "- The 'old' lift is no longer used",
        "It can’t be climbed at night, e.g. in winter.",
        "It cannot be climbed at night, e.g. in winter.",
        "It can\u00adnot be climbed at night, e.g. in winter.",
        "The tower is 3.5 times as high as the dome. Does it sway? It never sways more than 7 cm.",
        "It was opened on 31 March 1889. Visitors cannot enter without a ticket!",
        "designed by Dr. Maurice Koechlin",
        "It cannot be entered... without a guide",
    ],
)
def test_a_quote_is_compared_without_case_blanks_and_the_marks_around_it(claim: str) -> None:
    assert COVER.entails(PASSAGE, claim)


@pytest.mark.parametrize(
    ("premise", "claim"),
    [
        ("The drug cannot be used by children.", "The drug can be used by children."),
        ("The drug cannot be used by children.", "be used by children"),
        ("Not all birds can fly south.", "all birds can fly south"),
        ("It is not true that the tower is red.", "The tower is red."),
        ("The tower is red, which nobody believes.", "The tower is red"),
        ("The drug may not be given to e.g. Adults with asthma.", "Adults with asthma."),
        ("The drug may not be given to J. Smith and his family.", "Smith and his family."),
        ("The drug may not be given in sol. by adults with asthma.", "by adults with asthma"),
        ("The drug must not be\ngiven to adults.", "given to adults"),
    ],
)
def test_a_quote_that_cuts_away_a_negation_is_not_supported(premise: str, claim: str) -> None:
    assert not COVER.entails(premise, claim)


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("The tower does sway in the wind.", "The tower does not sway in the wind."),
        ("The tower does sway in the wind.", "The tower doesn't sway in the wind."),
        ("The tower does sway in the wind.", "The tower doesn’t sway in the wind."),
        ("The tower does sway in the wind.", "The tower doesnt sway in the wind."),
        ("The tower does sway in the wind.", "The tower does n\u200bot sway in the wind."),
        ("The tower does sway in the wind.", "The tower does _not_ sway in the wind."),
        ("The tower does sway in the wind.", "The tower does n**o**t sway in the wind."),
        ("The tower does sway in the wind.", "The tower does ｎｏｔ sway in the wind."),
        ("The lift can be used in winter by visitors.", "The lift cannot be used in winter by visitors."),
        ("The lift is used in winter by visitors.", "The lift is no longer used in winter by visitors."),
        ("The lift is used in winter by visitors.", "The lift is never used in winter by visitors."),
        ("The lift runs with power in winter.", "The lift runs without power in winter."),
        ("Visitors like the lift in winter.", "Nobody of the visitors like the lift in winter."),
        ("The lift always starts in winter.", "The lift hardly always starts in winter."),
        ("The lift is safe and never late.", "The lift is not safe and never late."),
        ("The lift is not without dangers.", "The lift is without dangers."),
        ("The use of the red lift is legal.", "The use of the red lift is illegal."),
    ],
)
def test_a_negation_must_be_in_both_or_in_neither(yes: str, no: str) -> None:
    """Neither does the negation elsewhere in the passage hide it."""
    for other in ("", " The dome is not open.", "\n\nNobody sells tickets, and none are needed."):
        assert COVER.entails(yes + other, yes)
        assert COVER.entails(no + other, no)
        assert not COVER.entails(yes + other, no)
        assert not COVER.entails(no + other, yes)


def test_a_negation_is_compared_in_the_sentence_that_the_claim_is_taken_from() -> None:
    premise = "The tower is 330 metres high and made of iron. It is not open on Mondays.\nThe dome isn't made of gold."
    assert COVER.entails(premise, "The tower is made of iron and 330 metres high.")
    assert COVER.entails(premise, "On Mondays it isn't open.")
    assert not COVER.entails(premise, "The tower is not made of iron, and 330 metres high.")
    assert not COVER.entails(premise, "On Mondays it is open.")
    assert not COVER.entails(premise, "The dome made of gold is open.")


def test_of_two_sentences_that_cover_a_claim_the_closer_one_counts() -> None:
    premise = "The drug is not safe for adults with asthma. The drug is safe for adults."
    assert COVER.entails(premise, "For adults the drug is safe.")
    assert not COVER.entails(premise, "For adults the drug is not safe.")


def test_no_before_a_number_is_no_negation() -> None:
    assert COVER.entails("The office is at No. 10 in Downing Street.", "In Downing Street the office is at number 10.")


def test_a_claim_may_be_taken_from_several_sentences() -> None:
    premise = "The tower was built in 1889.\n\nIts architect was Sauvestre. It does not rust."
    assert COVER.entails(premise, "The tower of the architect Sauvestre was built in 1889.")
    assert not COVER.entails(premise, "The tower of the architect Sauvestre was not built in 1889.")
    assert not COVER.entails(premise, "The tower built in 1889 by the architect Sauvestre does rust.")
    assert COVER.entails(premise, "The tower was built in 1889. It does not rust.")
    assert not COVER.entails(premise, "The tower was built in 1889. It does rust.")
    assert not COVER.entails(premise, "The tower was built in 1889. Its architect was Sauvestre. Aliens live there.")


def test_every_number_and_sign_must_occur() -> None:
    premise = "It weighs 3.5 kg, costs 1,000 euros, has 6½ floors and 10² rooms; p < 0.05 at -5 degrees."
    for claim in ("It weighs 3.5 kg", "It costs 1000 euros", "It has 6½ floors", "p < 0.05 at -5 degrees"):
        assert COVER.entails(premise, claim), claim
    assert COVER.entails(
        "The three lifts of the tower carry two million visitors.", "The tower carries visitors in 3 lifts"
    )
    for claim in (
        "The five lifts of the tower carry 2 million visitors",
        "The 3 lifts of the tower carry two thousand visitors",
    ):
        assert not COVER.entails("The three lifts of the tower carry two million visitors.", claim)
    for claim in (
        "It weighs 5.3 kg", "It weighs 3 kg, costs 1,000 euros", "It costs 100 euros", "It has 61 floors",
        "It has 102 rooms", "p > 0.05 at -5 degrees", "It weighs 3.5 kg, costs 1,000 euros, at 5 degrees",
    ):  # fmt: skip
        assert not COVER.entails(premise, claim), claim


def test_a_clause_is_not_hidden_in_a_longer_claim_that_is_covered() -> None:
    said = "The tower was built of iron in Paris by Gustave Eiffel and his company for the world fair of 1889"
    assert COVER.entails(f"{said}.", said)
    assert not COVER.entails(f"{said}.", f"{said}, and Martians secretly eat it.")
    assert not COVER.entails(f"{said}.", f"{said}; Martians secretly eat it")


def test_a_word_of_two_scripts_is_not_taken_for_one_that_is_merely_missing() -> None:
    premise = "The tower does sway in the wind and rain."
    assert not COVER.entails(premise, "The tower does n\u043et sway in the wind and rain.")
    assert COVER.entails(f"{premise} It is 5 \u03bcm wide.", "It is 5 \u00b5m wide.")


@pytest.mark.parametrize("claim", ["", " ", ".", "It is.", "It is not.", "\u200b", "\n"])
def test_nothing_is_not_supported(claim: str) -> None:
    for premise in ("", PASSAGE, "It is. It is not.", claim):
        assert not COVER.entails(premise, claim)
    assert not COVER.entails("", "The tower is red.")


@given(st.text(), st.text())
def test_any_text_is_judged_without_an_error(premise: str, claim: str) -> None:
    assert COVER.entails(premise, claim) in {True, False}


class Says:
    """A judge that gives each claim the answer that is written in it."""

    name = "says"

    def entails(self, premise: str, claim: str) -> bool:
        return "yes" in claim


def labels_file(path: Path, rows: Sequence[tuple[str, str, bool]]) -> Path:
    lines = (json.dumps({"premise": premise, "claim": claim, "supported": told}) for premise, claim, told in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_agreement_is_bounded_within_each_class(tmp_path: Path) -> None:
    rows = [("p", f"yes {n}", True) for n in range(40)] + [("p", f"no {n}", n >= 45) for n in range(50)]
    found = calibrate(Says(), labels_file(tmp_path / "l.jsonl", rows))
    assert found["labels"] == 90
    assert found["supported"] == {"labels": 45, "agreed": 40}
    assert found["unsupported"] == {"labels": 45, "agreed": 45}
    assert found["kappa"] == pytest.approx((85 / 90 - 0.5) / 0.5)
    # the share at which 40 or more of 45 are agreed with a probability of 2.5 %
    tail = math.fsum(
        math.comb(45, k) * found["agreement_at_least"] ** k * (1 - found["agreement_at_least"]) ** (45 - k)
        for k in range(40, 46)
    )
    assert tail == pytest.approx(0.025, abs=1e-9)


def test_a_judge_that_always_says_yes_is_not_trusted(tmp_path: Path) -> None:
    rows = [("p", f"yes {n}", True) for n in range(30)] + [("p", "yes, too", False)]
    assert calibrate(Says(), labels_file(tmp_path / "l.jsonl", rows))["agreement_at_least"] == 0


def test_labels_that_differ_in_case_and_blanks_count_once(tmp_path: Path) -> None:
    rows = [("A  b", "yes", True), ("a b", "YES ", True), ("a\nb", "yes", True), ("p", "no", False)]
    assert calibrate(Says(), labels_file(tmp_path / "l.jsonl", rows))["labels"] == 2


def test_a_pair_that_is_labelled_both_ways_is_named(tmp_path: Path) -> None:
    path = labels_file(tmp_path / "l.jsonl", [("A b", "yes", True), ("p", "no", False), ("a b", "Yes", False)])
    with pytest.raises(DataError, match="line 3 .* line 1"):
        calibrate(Says(), path)


@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_a_judge_that_is_no_better_than_chance_in_one_class_never_reaches_a_half(
    supported: int, unsupported: int, data: st.DataObject
) -> None:
    agreed = data.draw(st.integers(0, supported)), data.draw(st.integers(0, unsupported))
    bound = calibration_bound({"labels": supported, "agreed": agreed[0]}, {"labels": unsupported, "agreed": agreed[1]})
    shares = agreed[0] / supported, agreed[1] / unsupported
    assert bound < min(shares) or bound == 0
    if min(shares) <= 0.5:  # always yes, always no, and every judge that is right half of the time in one class
        assert bound < 0.5


@cache
def reaching_a_half(supported: int, unsupported: int) -> list[tuple[int, int]]:
    """Return how many labels of each class a judge must agree with for a bound of a half."""
    return [
        (yes, no)
        for yes in range(supported + 1)
        for no in range(unsupported + 1)
        if calibration_bound({"labels": supported, "agreed": yes}, {"labels": unsupported, "agreed": no}) >= 0.5
    ]


@pytest.mark.parametrize(("supported", "unsupported"), [(6, 6), (30, 1), (30, 30), (80, 17)])
@pytest.mark.parametrize("chance_of_yes", [0.1, 0.5, 0.6, 0.9, 0.99])
def test_a_judge_that_draws_lots_reaches_a_half_in_one_case_of_forty_at_most(
    supported: int, unsupported: int, chance_of_yes: float
) -> None:
    def chance(k: int, n: int, p: float) -> float:
        return math.comb(n, k) * p**k * (1 - p) ** (n - k)

    reached = math.fsum(
        chance(yes, supported, chance_of_yes) * chance(no, unsupported, 1 - chance_of_yes)
        for yes, no in reaching_a_half(supported, unsupported)
    )
    assert reached <= 0.025
