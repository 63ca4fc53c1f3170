"""Whitespace."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.conversation import Part, PartKind
from ibidem.data.pipeline import steps
from ibidem.data.text import clean
from ibidem.records import Category, Document

PIECES = ["a", " ", "\t", "\n", "\r", "```", "~~~", "\u00a0", "\x0b", "\x1c", "\ufeff", "é"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
TRAILING = re.compile(r"(?<=\S)(?P<blanks>[ \t]+)$|^[ \t]+$", re.MULTILINE)


@pytest.mark.parametrize("category", ["code", "text"])
@given(text=TEXTS)
def test_a_tidy_text_stays_as_it_is(text: str, category: Category) -> None:
    if clean.is_tidy(text.encode(), category):
        assert clean.whitespace(text, category) == text


@pytest.mark.parametrize("category", ["code", "text"])
def test_a_tidy_document_is_not_copied(category: Category) -> None:
    document = Document(raw=b"The end.\n\nx = 1\n", source="s", revision=None, record="1", category=category)
    steps.clean(steps.Policies())(document)
    assert document._text is None  # not even decoded
    assert document.encoded is document.raw


@given(text=TEXTS.filter(lambda text: not re.search(r"```|~~~|\r|^\n|\s$|^\ufeff|^[ \t]*\n", text)))
def test_trailing_blanks_of_prose_go_but_for_a_line_break(text: str) -> None:
    def line_break(found: re.Match[str]) -> str:
        return "  " if found["blanks"] and found["blanks"].startswith("  ") else ""

    naive = re.sub(r"\n{3,}", "\n\n", TRAILING.sub(line_break, text))
    assert clean.whitespace(text, "text") == (naive + "\n" if naive else "")


KINDS: list[PartKind] = ["text", "cite", "passage", "tool_call"]


UNMARKED = TEXTS.map(lambda text: text.replace(clean.BYTE_ORDER_MARK, ""))


@given(st.lists(st.builds(Part, st.sampled_from(KINDS), UNMARKED), min_size=1, max_size=4))
def test_cleaning_the_parts_of_a_turn_loses_no_word_and_no_space_between_them(parts: list[Part]) -> None:
    cleaned = list(clean.of_parts(parts))
    assert list(clean.of_parts(cleaned)) == cleaned
    assert [part.kind for part in cleaned] == [part.kind for part in parts]
    for part, before in zip(cleaned, parts, strict=True):
        if part.kind in ("cite", "tool_call"):
            assert part == before
        else:
            assert part.text.split() == before.text.split()
    for number, (part, before) in enumerate(zip(cleaned, parts, strict=True)):
        if part.kind == "text" and before.text.strip(" ").isalpha():
            start, end = number == 0, number == len(parts) - 1
            expected = before.text.lstrip(" ") if not start else before.text
            blanks = before.text[: len(before.text) - len(before.text.lstrip(" "))]
            assert part.text == ("" if start else blanks) + (expected.rstrip(" ") if end else expected)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("one\n```\ncode\n", "one\n"),
        ("one\n    ```\n    shown\n", "one\n    shown\n"),
        ("one\n  > ~~~ sh\n  > code\n  > ~~~\ntwo", "one\ntwo"),
        ("````md\n```\ncode\n```\n````\ntwo", "two"),
        ("```\n    ```\ncode\n```\ntwo", "two"),
        ("inline ```x``` code", "inline ```x``` code"),
        ("one <!-- two\n\nthree --> four <!-- five", "one  four "),
        ('<img\n  src="a.png">one</p>, a < b, c > d', "one, a < b, c > d"),
        ("if a <b\n\nthen c > d", "if a <b\n\nthen c > d"),
        ("[one](https://a.b/c) ![two](d.png)", "[one ![two"),
        ("[one]\n\n[one]: https://a.b\n two", "[one]\n\n\n two"),
        ("see https://a.b/c?d=e now", "see  now"),
        ("{% for a in b %}{{ a.name }}: x{% endfor %} {{ open", ": x {{ open"),
        ("one::\n\n    code\n\n    more\n\ntwo\n", "one\ntwo\n"),
        (".. code-block:: sh\n   :caption: x\n\n   code\ntwo\n", "\ntwo\n"),
        (".. code-block::\n\n\tcode", "\n"),
        ("- one\n\n  two::\n\n      code\n\n  three\n", "- one\n\ntwo\n  three\n"),
        (".. note:: one\n\n   two std::vector three:: four\n", "\n\n   two std::vector three:: four\n"),
        (".. class:: A\n   :members:\n\n   :undoc-members:\n", "\n\n\n\n"),
    ],
)
def test_a_reader_sees_the_prose_of_a_page(text: str, seen: str) -> None:
    assert clean.visible(text) == seen


@pytest.mark.parametrize(
    ("piece", "seen"),
    [
        ("```a\n", ""),
        ("    ```x\n", "    ```x\n" * 199_999),
        ("x ``` ~~~", "x ``` ~~~" * 200_000),
        ("``` ~~~ `\n", "``` ~~~ `\n" * 200_000),
        ("<!--", ""),
        ("<a", "<a" * 200_000),
        ("<a\nb", "<a\nb" * 200_000),
        ("a\n<b", "a\n<b" * 200_000),
        ("](", "](" * 200_000),
        ("[a", "[a" * 200_000),
        ("> ", "> " * 200_000),
        ("a::\n", "a::\n" * 200_000),
        ("::\n ", "\n"),
        ("a::", "a::" * 200_000),
        (" ::", " ::" * 200_000),
        ("{%", "{%" * 200_000),
        ("{{ ", "{{ " * 200_000),
        (":a", ":a" * 200_000),
    ],
)
def test_hostile_markup_does_not_take_forever(piece: str, seen: str) -> None:
    assert clean.visible(piece * 200_000) == seen
