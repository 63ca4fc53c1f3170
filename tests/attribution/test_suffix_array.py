"""Suffix arrays against a naive scan."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ibidem.attribution.suffix_array import Span, maximal, occurrences, spans, suffix_array, tops

DTYPES = (np.uint8, np.uint16, np.uint32)


def naive_spans(ids: list[int], text: list[int], least: int) -> list[Span]:
    """Try every part of the text at every place."""

    def occurs(part: list[int]) -> bool:
        return any(ids[place : place + len(part)] == part for place in range(len(ids) - len(part) + 1))

    every = [
        Span(start, end)
        for start in range(len(text))
        for end in range(start + least, len(text) + 1)
        if occurs(text[start:end])
    ]
    return [span for span in every if not any(o.start <= span.start and span.end <= o.end for o in every if o != span)]


def row(alphabet: int, size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, alphabet), max_size=size)


@given(row(3, 40), st.sampled_from(DTYPES), st.sampled_from([1, 300, 70_000]))
def test_suffixes_are_sorted(ids: list[int], dtype: type, factor: int) -> None:
    scaled = [each * factor for each in ids]
    if max(scaled, default=0) <= np.iinfo(dtype).max:
        expected = sorted(range(len(ids)), key=lambda place: scaled[place:])
        assert suffix_array(np.array(scaled, dtype)).tolist() == expected


@given(row(2, 30), row(2, 20), st.integers(1, 9))
def test_spans_are_those_of_a_naive_scan(ids: list[int], text: list[int], least: int) -> None:
    searched = np.array(ids, np.uint16)
    suffixes = suffix_array(searched)
    found = spans(searched, suffixes, tops(searched, suffixes), np.array(text, np.uint16), least)
    assert found == naive_spans(ids, text, least)


def test_ten_thousand_parts_of_all_lengths_are_found_where_a_scan_finds_them() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, 3000).astype(np.uint16)
    ids[1000:1400] = ids[2000:2400]
    suffixes, raw = suffix_array(ids), ids.tobytes()
    highest = tops(ids, suffixes)
    for _ in range(10_000):
        size = int(rng.integers(1, 60))
        start = int(rng.integers(0, len(ids) - size))
        part = ids[start : start + size].copy()
        if rng.random() < 0.3:
            part[rng.integers(0, size)] = rng.integers(0, 41)
        assert sorted(occurrences(ids, suffixes, highest, part).tolist()) == scanned(raw, part.tobytes())


def scanned(raw: bytes, part: bytes) -> list[int]:
    """Find a sequence of 16-bit ids in another one."""
    places, place = [], raw.find(part)
    while place >= 0:
        if place % 2 == 0:
            places.append(place // 2)
        place = raw.find(part, place + 1)
    return places


@pytest.mark.parametrize("ids", [[], [7], [7] * 500, list(range(500)), [1, 2] * 250])
def test_extreme_rows(ids: list[int]) -> None:
    searched: NDArray[np.uint16] = np.array(ids, np.uint16)
    suffixes = suffix_array(searched)
    assert sorted(suffixes.tolist()) == list(range(len(ids)))
    assert spans(searched, suffixes, tops(searched, suffixes), searched, max(1, len(ids))) == (
        [Span(0, len(ids))] if ids else []
    )
    found = occurrences(searched, suffixes, tops(searched, suffixes), np.array([9, 9, 9], np.uint16))
    assert not len(found)


def test_maximal_spans_of_several_parts() -> None:
    assert maximal([]) == []
    assert maximal([Span(3, 9), Span(0, 4), Span(3, 8), Span(4, 9)]) == [Span(0, 4), Span(3, 9)]
