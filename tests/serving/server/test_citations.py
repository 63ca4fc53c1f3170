import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ibidem.conversation import Part
from ibidem.grounding.ask import NO_ANSWER
from ibidem.grounding.cite import Checking, check, read_citations
from ibidem.grounding.marked import escape_numbers
from ibidem.grounding.store import Chunk
from ibidem.grounding.support import WordCover
from ibidem.serving.server.citations import BracketReader, CitedAnswer, Sent
from ibidem.serving.server.speech import Cited, Said

TOWER = Chunk(
    "a" * 32, "tower.md", ("Paris", "Tower"), 100, 162, "The tower is 330 metres high. It was built in 1889 by Eiffel."
)
PARKS = Chunk("b" * 32, "parks.md", (), 0, 27, "Paris has many parks [1][2].")
CHUNKS = (TOWER, PARKS)
JUDGE = WordCover(0.75)
SPELLED = re.compile(r"(?<!\\)[\[［][\s\u200b\u2060]*\d+[\s\u200b\u2060]*[\]］]")
WORDS = (
    *(
        "The tower is 330 metres high",
        "It was built in 1889",
        " by Eiffel",
        "Paris has many parks",
        "It is red",
        " Dr.",
    ),
    *(
        ". ",
        ".",
        "! ",
        "? ",
        "... ",
        "…",
        "。",
        "米",
        " U.S. The",
        "e.g. ",
        " no. 5",
        ", ",
        "\n",
        "\n\n",
        " ",
        "\t",
        "\r\n",
    ),
    *("- ", "1. ", "2. ", "* ", "**", "```", "```python\n", "\n```\n", "`x`", "<br>", "<b>", "</li>", "<", "\u2028"),
    *("[1]", "[", "]", "1", "[1,", "\\[", "(unsupported)", "(un", "(", ")", "\u200b", "\u00a0", "\u202e", "\x1b[31m"),
    *("\ue000", "\ue001", "½", "İ", "\u0338", '"', "”", "３", "［", "］", "argv", "\\"),
)
CITES = ("1", "2", "7", "1 aaaa", "1 bbbb", "2, 1", "x", "")
said_texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=2), min_size=1, max_size=4).map("".join)
own_saids = st.lists(
    st.builds(Said, st.just("text"), said_texts) | st.builds(Said, st.just("cite"), st.sampled_from(CITES)), max_size=8
)


def whole(saids: Sequence[Said], *, cites_with_parts: bool = True) -> tuple[list[Sent], CitedAnswer]:
    answer = CitedAnswer("How high is it?", CHUNKS, JUDGE, cites_with_parts=cites_with_parts)
    return [*map(answer.say, saids), answer.end()], answer


def joined(sent: Sequence[Sent]) -> tuple[str, list[Cited]]:
    return "".join(each.text for each in sent), [cited for each in sent for cited in each.citations]


def cut(saids: Sequence[Said], data: st.DataObject) -> list[Said]:
    """Cut texts anywhere, with empty pieces between."""
    pieces = []
    for said in saids:
        if said.kind == "text":
            cuts = sorted(data.draw(st.lists(st.integers(0, len(said.text)), max_size=6)))
            ends = zip([0, *cuts], [*cuts, len(said.text)], strict=True)
            pieces += [Said("text", said.text[start:end]) for start, end in ends]
        else:
            pieces.append(said)
    return pieces


def merged(saids: Sequence[Said]) -> list[Said]:
    """Join texts that follow one another, as a conversation has them."""
    found: list[Said] = []
    for said in saids:
        if found and said.kind == found[-1].kind == "text":
            found[-1] = Said("text", found[-1].text + said.text)
        else:
            found.append(said)
    return found


@given(own_saids, st.data())
def test_text_and_citations_of_our_models_do_not_depend_on_where_they_are_cut(
    saids: list[Said], data: st.DataObject
) -> None:
    one, about = whole(merged(saids))
    many, other = whole(cut(merged(saids), data))
    assert joined(many) == joined(one)
    assert other.grounding(0) == about.grounding(0)


def test_a_line_end_of_two_characters_is_one_though_an_empty_piece_is_between() -> None:
    line = Said("text", "The tower is 330 metres high\r")
    one, _ = whole([line, Said("text", "\nIt is of iron.")])
    many, _ = whole([line, Said("text", ""), Said("text", "\nIt is of iron.")])
    assert joined(many) == joined(one)


@given(own_saids, st.data())
def test_a_long_sentence_is_looked_at_more_rarely_and_stays_the_same(saids: list[Said], data: st.DataObject) -> None:
    one, about = whole(merged(saids))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ibidem.grounding.cite.LONG", 2)
        many, other = whole(cut(merged(saids), data))
    assert joined(many) == joined(one)
    assert other.grounding(0) == about.grounding(0)


@given(said_texts, said_texts, st.data())
def test_text_and_citations_of_foreign_models_do_not_depend_on_where_they_are_cut(
    first: str, second: str, data: st.DataObject
) -> None:
    saids = [Said("text", f"{first} [1]{second} [7]. It is so [2].")]
    one, about = whole(saids, cites_with_parts=False)
    many, other = whole(cut(saids, data), cites_with_parts=False)
    assert joined(many) == joined(one)
    assert other.grounding(0) == about.grounding(0)


@given(own_saids, st.booleans(), st.data())
def test_at_no_prefix_there_is_a_citation_that_was_not_checked(
    saids: list[Said], cites_with_parts: bool, data: st.DataObject
) -> None:
    sent, _ = whole(cut(merged(saids), data), cites_with_parts=cites_with_parts)
    text, known = "", set()
    for each in sent:
        text += each.text
        known |= {(cited.start, cited.end) for cited in each.citations}
        assert {match.span() for match in SPELLED.finditer(text)} <= known
        for cited in each.citations:
            assert text[cited.start : cited.end] == f"[{cited.number}]"
            assert CHUNKS[cited.number - 1].id == cited.chunk


@given(own_saids)
def test_the_whole_answer_is_that_of_ground_ask(saids: list[Said]) -> None:
    """Its text, how many citations were removed, which claims are unsupported, and what each citation says."""
    parts = [Part(said.kind, said.text) for said in merged(saids)]
    sent, answer = whole(merged(saids))
    text, cited = joined(sent)
    if answer.grounding(0)["abstained"]:
        assert text == NO_ANSWER
        return
    due = check(parts, CHUNKS, JUDGE)
    about = answer.grounding(0)
    assert (text, about["removed"], len(about["unsupported"])) == (due.text, due.removed, len(due.unsupported))
    assert {(each.number, each.span) for each in due.citations} <= {(each.number, each.span) for each in cited}


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=2), max_size=12).map("".join), st.data())
def test_brackets_that_arrive_in_pieces_are_read_as_in_one(text: str, data: st.DataObject) -> None:
    reader = BracketReader()
    parts = [part for said in cut([Said("text", text)], data) for part in reader.add(said.text)] + reader.end()
    due = merged([Said(part.kind, part.text) for part in read_citations(text)])
    assert merged([Said(part.kind, part.text) for part in parts]) == due


@given(own_saids)
@example([Said("text", "<br>"), Said("cite", "1"), Said("text", "Paris has many parks")])
def test_unsupported_claims_are_at_the_places_that_are_named(saids: list[Said]) -> None:
    checking = Checking(CHUNKS, JUDGE)
    text = "".join(checking.add(Part(said.kind, said.text)).text for said in merged(saids)) + checking.end().text
    doubted = [claim for claim in checking.claims if not claim.supported]
    assert len(doubted) == len(checking.unsupported)
    for start, end in checking.unsupported:
        assert 0 <= start <= end <= len(text)
        assert text[start:end] == text[start:end].strip()


def test_a_sentence_is_sent_at_once_and_its_citation_when_it_has_ended() -> None:
    answer = CitedAnswer("How high is it?", CHUNKS, JUDGE, cites_with_parts=True)
    sent = [
        answer.say(Said(*said))
        for said in (
            ("text", "The tower is"), ("text", " 330 metres high"), ("cite", "1 aaaa"), ("text", "."), ("text", " It"),
            ("text", " is red"),
        )
    ]  # fmt: skip
    assert [each.text for each in sent] == ["The tower is", " 330 metres high", "", "", "", " [1]. It is red"]
    (cited,) = sent[-1].citations
    assert (cited.quote, cited.supported, cited.span) == ("The tower is 330 metres high.", True, (100, 129))
    assert answer.end().text == " (unsupported)"
    assert answer.grounding(2) == {"abstained": False, "removed": 0, "left_out": 2, "unsupported": [[34, 43]]}


@pytest.mark.parametrize(
    "pieces", [["I don't know."], list("I don't know."), ["I", " don't know", " from the passages."]]
)
def test_an_abstention_is_told_in_one_phrase_and_nothing_of_it_is_sent(pieces: list[str]) -> None:
    sent, answer = whole([Said("text", each) for each in pieces])
    assert [each.text for each in sent if each.text] == [NO_ANSWER]
    assert answer.grounding(0)["abstained"]


def test_what_only_begins_like_an_abstention_is_sent_when_that_is_certain() -> None:
    sent, answer = whole([Said("text", each) for each in ("I", " don't know", " why", " the tower is red")])
    assert sent[0].text == sent[1].text == ""
    assert joined(sent)[0] == "I don't know why the tower is red (unsupported)"
    assert not answer.grounding(0)["abstained"]


@pytest.mark.parametrize(
    "spelled",
    [
        "[1]",
        "[ 1 ]",
        "[1, 2]",
        "[\u200b1]",
        "[1\u2060]",
        "[1\u00ad]",
        "［1］",
        "[１]",
        "[1,]",
        "[\U000e00311]",
    ],
)
def test_numbers_in_brackets_that_are_no_citations_are_escaped_whatever_is_invisible_in_them(spelled: str) -> None:
    for pieces in ([spelled], list(spelled)):
        sent, _ = whole([Said("text", "See "), *(Said("text", each) for each in pieces), Said("text", " there")])
        text, cited = joined(sent)
        assert not cited
        assert text.count("\\") == 2
        assert text.startswith("See \\")
    assert escape_numbers(spelled).count("\\") == 2


@pytest.mark.parametrize("spelled", ["(unsupported)", "( Unsupported )", "(un\u200bsupported)", "（unsupported）"])
def test_a_spelled_mark_of_doubt_is_escaped(spelled: str) -> None:
    sent, _ = whole([*(Said("text", each) for each in f"The tower is 330 metres high {spelled}"), Said("cite", "1")])
    assert joined(sent)[0].count("(unsupported)") <= 1
    assert "\\" in joined(sent)[0]


def test_a_citation_without_a_claim_supports_nothing() -> None:
    sent, _ = whole([Said("cite", "1"), Said("text", "\n\nThe tower is 330 metres high"), Said("cite", "1")])
    text, cited = joined(sent)
    assert text == "[1]\n\nThe tower is 330 metres high [1]"
    assert [each.supported for each in cited] == [False, True]


def test_controls_of_terminals_and_of_the_direction_of_writing_are_left_out() -> None:
    sent, _ = whole([Said("text", "The tower\x1b[2J is \u202e330 metres\u2066 high\x07"), Said("cite", "1")])
    assert joined(sent)[0] == "The tower[2J is 330 metres high [1] (unsupported)"
