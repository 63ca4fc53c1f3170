"""Whitespace."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
