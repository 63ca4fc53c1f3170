"""Hashes of contents."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.data.text import hashing
from ibidem.records import Document


def documented(contents: list[bytes]) -> list[tuple[str, str]]:
    documents = [Document(raw=content, source="s", revision=None, record="1") for content in contents]
    return [(document.raw_sha256, document.swhid.removeprefix("swh:1:cnt:")) for document in documents]


@given(st.lists(st.binary(max_size=200)))
def test_many_contents_have_the_hashes_of_each(contents: list[bytes]) -> None:
    found = hashing.hash_contents(contents)
    assert found == documented(contents)
    assert [sha256 for sha256, _ in found] == [hashlib.sha256(content).hexdigest() for content in contents]


def test_without_an_openssl_to_call_the_hashes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [b"", b"x" * 5000, b"\0"]
    linked = hashing.hash_contents(contents)
    monkeypatch.setattr(hashing, "_is_linked", lambda: False)
    assert hashing.hash_contents(contents) == linked == documented(contents)
