import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ibidem.conversation import Part
from ibidem.grounding.cite import (
    _cited_passages,
    check,
    escape,
    find_quote,
    passage_text,
    read_citations,
)
from ibidem.grounding.marked import UNSUPPORTED, escape_numbers
from ibidem.grounding.store import Chunk
from ibidem.grounding.support import WordCover

TOWER = Chunk(
    "a" * 32, "tower.md", ("Paris", "Tower"), 100, 158, "The tower is 330 metres high. It was built in 1889 by Eiffel."
)
PARKS = Chunk("b" * 32, "parks.md", (), 0, 27, "Paris has many parks [1][2].")
JUDGE = WordCover(0.75)


def checked(answer: str, *chunks: Chunk):
    return check(read_citations(answer), chunks or (TOWER, PARKS), JUDGE)


def test_a_supported_claim_is_not_marked() -> None:
    found = checked("The tower is 330 metres high [1].")
    assert found.text == found.said == "The tower is 330 metres high [1]."
    assert not found.unsupported
    assert found.citations[0].supported


def test_a_claim_that_its_passages_do_not_support_is_marked_in_the_text_and_listed() -> None:
    found = checked("The tower is 330 metres high [1]. The tower is 300 metres high [1]. It is red.")
    assert found.text == (
        "The tower is 330 metres high [1]. The tower is 300 metres high [1] (unsupported). It is red (unsupported)."
    )
    assert found.said == found.text.replace(UNSUPPORTED, "")
    assert found.unsupported == ("The tower is 300 metres high.", "It is red.")


def test_a_citation_of_the_wrong_passage_does_not_support() -> None:
    found = checked("The tower is 330 metres high [2].")
    assert [each.supported for each in found.citations] == [False]
    assert found.unsupported == ("The tower is 330 metres high.",)


@pytest.mark.parametrize("invented", ["0", "3", "7", "99999999"])
def test_invented_numbers_are_removed_and_counted(invented: str) -> None:
    found = checked(f"The tower is 330 metres high [1][{invented}]. It was built in 1889 [{invented}].")
    assert found.removed == 2
    assert f"[{invented}]" not in found.text
    assert found.text.startswith("The tower is 330 metres high [1]. It was built in 1889")
    assert [each.number for each in found.citations] == [1]


@pytest.mark.parametrize("text", ["x", "1x", "-1", "", "१", "1.5"])
def test_a_citation_part_that_is_no_number_is_removed_and_counted(text: str) -> None:
    found = check([Part("text", "The tower is 330 metres high"), Part("cite", text)], [TOWER], JUDGE)
    assert (found.removed, found.citations) == (1, ())


def test_a_number_and_an_id_are_one_citation_across_a_blank_and_two_across_a_comma() -> None:
    for text, numbers in (
        ("1, bbbb", [1, 2]),
        ("1; bbbb", [1, 2]),
        ("1 bbbb", [0]),
        ("2 bbbb", [2]),
        ("1,2 bbbb", [1, 2]),
    ):
        assert _cited_passages(text, [Chunk(each * 32, "a.md", (), 0, 1, "a") for each in "ab"]) == numbers, text


def test_verbatim_quotes_get_their_span_in_the_document() -> None:
    found = checked("It was built  in 1889 by Eiffel [1].")
    span, quote = found.citations[0].span, found.citations[0].quote
    assert quote == "It was built in 1889 by Eiffel."
    assert TOWER.text[span[0] - TOWER.start : span[1] - TOWER.start] == quote


def test_a_quote_within_a_claim_is_found_too() -> None:
    found = checked("The page says “was built in 1889” about it [1].")
    assert found.citations[0].quote == "was built in 1889"


def test_a_citation_that_quotes_nothing_has_the_span_of_its_chunk() -> None:
    found = checked("The height of the tower is 330 metres [1].")
    assert (found.citations[0].quote, found.citations[0].span) == (None, (TOWER.start, TOWER.end))


def test_two_quotes_of_one_passage_are_two_citations() -> None:
    found = checked("The tower is 330 metres high [1]. It was built in 1889 by Eiffel [1].")
    assert [each.number for each in found.citations] == [1, 1]
    assert len({each.span for each in found.citations}) == 2


def test_brackets_of_a_document_are_never_read_as_citations() -> None:
    found = checked(f"{escape(PARKS.text)} [2]")
    assert [each.number for each in found.citations] == [2]
    assert found.removed == 0
    assert found.text == "Paris has many parks \\[1\\]\\[2\\]. [2]"


def test_a_model_of_ours_cites_with_parts_alone() -> None:
    found = check([Part("text", "Paris has many parks [1][2]."), Part("cite", "2")], [TOWER, PARKS], JUDGE)
    assert [each.number for each in found.citations] == [2]
    assert "\\[1\\]" in found.text


@given(st.text(alphabet="a\\[]1,; \n"))
def test_an_escaped_text_spells_no_citation_and_is_read_back(text: str) -> None:
    parts = read_citations(escape(text))
    assert [part.kind for part in parts] in ([], ["text"])
    assert "".join(part.text for part in parts) == text


@given(st.text(alphabet="a\\[]1,; .\n\ue000\ue001\ue002\ue003"), st.integers(0, 3))
@example("][1 1", 0)
def test_every_number_in_brackets_of_a_checked_answer_is_a_citation(text: str, number: int) -> None:
    found = check([Part("text", text), Part("cite", str(number)), Part("text", text)], [TOWER, PARKS], JUDGE)
    cited = {str(each.number) for each in found.citations}
    parts = read_citations(found.text)
    assert {part.text for part in parts if part.kind == "cite"} <= {str(number)} | cited
    assert not any(mark in found.text for mark in "\ue000\ue001\ue002\ue003")


def test_only_brackets_around_numbers_are_escaped_for_people() -> None:
    assert escape_numbers("argv[1], list[str], [2; 3] and a[i]") == "argv\\[1\\], list[str], \\[2; 3\\] and a[i]"


@pytest.mark.parametrize(
    ("text", "passage", "quote"),
    [
        ("a  b c", "x a b\nc y", "a b\nc"),
        ("don't stop", "you don\u2019t stop", "don\u2019t stop"),
        ("\uff4eine", "nine", "nine"),
        ("cafe\u0301", "the caf\u00e9 is", "caf\u00e9"),
        ("absent", "something", None),
        ("", "something", None),
    ],
)
def test_quotes_are_found_whatever_the_form_of_characters_and_blanks(
    text: str, passage: str, quote: str | None
) -> None:
    span = find_quote(text, passage)
    assert (None if span is None else passage[slice(*span)]) == quote


def test_marks_stand_behind_the_claim_also_if_it_is_repeated() -> None:
    found = checked("It is red [1]. The tower is 330 metres high [1]. It is red [1].")
    assert found.text == ("It is red [1] (unsupported). The tower is 330 metres high [1]. It is red [1] (unsupported).")


def test_lists_and_code_keep_their_lines() -> None:
    answer = "- The tower is 330 metres high [1]\n- It is green [1]\n\n```\nif x:\n    y()\n```"
    assert checked(answer).text == (
        "- The tower is 330 metres high [1]\n- It is green [1] (unsupported)\n\n```\nif x:\n    y()\n``` (unsupported)"
    )


def test_headings_are_a_part_of_what_a_passage_says() -> None:
    assert passage_text(TOWER).startswith("Paris > Tower\n\nThe tower")
    assert passage_text(PARKS) == PARKS.text


@pytest.mark.parametrize("tail", ["x", "", " ", ",", ";;]"])
def test_a_bracket_of_many_digits_or_blanks_is_text_at_once(tail: str) -> None:
    for answer in ("[" + "1" * 5000 + tail, "[" + "1 " * 5000 + tail, "[1" + " " * 5000 + tail, "[" * 5000 + tail):
        assert read_citations(answer) == (Part("text", answer),)


@pytest.mark.parametrize("number", ["0000000012", "0000000001", "9" * 4000])
def test_a_number_of_more_than_nine_digits_cites_nothing(number: str) -> None:
    found = check((Part("text", "It is red "), Part("cite", number)), (TOWER, PARKS), JUDGE)
    assert (found.removed, found.citations) == (1, ())


@pytest.mark.parametrize(
    "code",
    [
        "argv[0] for the name",
        "rows[0][1]",
        "`rows [1]`, not `[2]`",
        "``a ` [1]``",
        "\n```python\nx = [1, 2]\n[1]\n```\n",
        "\n```python\nx = [1]",
        "list[str][1]",
    ],
)
def test_brackets_of_code_are_no_citations(code: str) -> None:
    assert read_citations(f"Use {code}") == (Part("text", f"Use {code}"),)


def test_citations_stand_behind_words_signs_code_and_each_other() -> None:
    numbers = [part.text for part in read_citations("`a` [1]. Ok.[2][3] (b)[4] 330 米高[5]。") if part.kind == "cite"]
    assert numbers == ["1", "2", "3", "4", "5"]
