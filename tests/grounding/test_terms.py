"""Words of a text, as a reader would count them."""

import pytest

from ibidem.grounding.terms import hashes, terms


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("holiday", "Holidays"),
        ("POLICY", "policies"),
        ("indexing", "indexed"),
        ("stop", "stopping"),
        ("classes", "class"),
        ("parse header", "parseHTTPHeader"),
        ("httpheader", "HTTPHeader"),
        ("max rows", "MAX_ROWS"),
        ("max_rows", "MAX_ROWS"),
        ("strasse", "Straße"),
        ("ﬁle", "file"),
        ("ＡＢＣ", "abc"),
        ("3.11", "Python 3.11"),
        ("1000", "1,000"),
        ("検索", "全文検索エンジン"),
        ("größe", "max_Größe"),
        ("the", "The"),
        ("v2", "V2"),
    ],
)
def test_a_query_has_the_terms_of_what_it_means(query: str, text: str) -> None:
    assert set(terms(query)) <= set(terms(text))


@pytest.mark.parametrize(
    ("one", "other"), [("status", "stat"), ("3.11", "3.12"), ("MAX_ROWS", "MAX_ROW_SIZE"), ("bus", "bu")]
)
def test_different_words_stay_different(one: str, other: str) -> None:
    assert set(terms(one)) != set(terms(other))


@pytest.mark.parametrize("text", ["", " \n", "___", "…!?", "\ud800", "x" * 100_000, "é" * 100_000, "検" * 100_000])
def test_any_text_has_terms_and_their_hashes(text: str) -> None:
    assert len(terms(text)) == len(hashes(text, b"key"))
