"""Suffix arrays of token ids: every place where a sequence occurs, exactly, whatever its length.

    ids             5 7 5 7 9
    suffixes        0: 5 7 5 7 9     2: 5 7 9     1: 7 5 7 9     3: 7 9     4: 9       sorted: 0 2 1 3 4
    `5 7` occurs    at the suffixes that begin with it, which are neighbors: rows 0 and 1, places 0 and 2

A text of Q tokens is looked up in steps of half the least length: a span of at least that length contains one of the
short windows between two steps, so that a text that repeats nothing costs few searches. Around a window that occurs the
first start of a span is searched; from there, the first start of a sequence that goes further than the span.

Most steps of a search need only the first ids of some suffix. The tops are those of every 256th one: they are small
enough to stay in memory, so that a search reads one page of suffixes and a few places of the ids.

The array takes 4 bytes a token, the tops of 16-bit ids 0.07. Sources: Manber and Myers 1993, "Suffix arrays: a new
method for on-line string searches"; construction by libdivsufsort (Mori) over the bytes of the ids, most significant
first, whose order is that of the ids.

Legend: N tokens of a part, R rows of tops, Q tokens of a text, P places.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.unsignedinteger[Any]]
MOST_TOKENS = (1 << 31) - 1
"""Of one suffix array: its places are int32."""


TOP_EVERY, TOP_IDS = 256, 8
"""A top is of every 256th suffix: between two of them are 1,024 bytes of suffixes."""


class Span(NamedTuple):
    """Part of a text, in tokens."""

    start: int
    end: int


def suffix_array(ids_N: Ids) -> NDArray[np.int32]:
    """Sort the suffixes of a row of ids.

    Returns:
        The places at which they begin, int32 [N].

    Raises:
        ValueError: there are more than `MOST_TOKENS` ids.

    >>> suffix_array(np.array([5, 7, 5, 7, 9], np.uint16)).tolist()
    [0, 2, 1, 3, 4]
    """
    if len(ids_N) > MOST_TOKENS:
        raise ValueError(f"{len(ids_N):,} ids are too many for one suffix array; the most are {MOST_TOKENS:,}")
    if not len(ids_N):
        return np.empty(0, np.int32)
    from pydivsufsort import divsufsort

    width = max(1, (int(ids_N.max()).bit_length() + 7) // 8)
    suffixes = divsufsort(_big_endian(ids_N, width))
    kept: NDArray[np.int32] = _whole_ids(suffixes, width, len(ids_N))
    return kept


def tops(ids_N: Ids, suffixes_N: NDArray[np.int32]) -> Ids:
    """Return how many ids of every `TOP_EVERY`th suffix follow, and these: [R, 1 + TOP_IDS].

    >>> ids = np.array([5, 7, 9], np.uint16)
    >>> tops(ids, suffix_array(ids)).tolist()
    [[3, 5, 7, 9, 0, 0, 0, 0, 0]]
    """
    places_R = suffixes_N[::TOP_EVERY].astype(np.int64)
    kept = np.zeros((len(places_R), 1 + TOP_IDS), ids_N.dtype)
    kept[:, 0] = np.minimum(len(ids_N) - places_R, TOP_IDS)
    for offset in range(TOP_IDS):
        is_there = places_R + offset < len(ids_N)
        kept[is_there, 1 + offset] = ids_N[places_R[is_there] + offset]
    return kept


def _big_endian(ids_N: Ids, width: int) -> NDArray[np.uint8]:
    """Return the last `width` bytes of each id, the most significant first."""
    kept = min(size for size in (1, 2, 4, 8) if size >= width)
    bytes_ND = ids_N.astype(f">u{kept}").view(np.uint8).reshape(len(ids_N), kept)
    return np.ascontiguousarray(bytes_ND[:, kept - width :]).reshape(-1)


def _kernel(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True, boundscheck=False)(function)


@_kernel
def _whole_ids(suffixes: Any, width: int, size: int) -> NDArray[np.int32]:
    """Keep the suffixes that begin with a whole id."""
    kept = np.empty(size, np.int32)
    count = 0
    for place in suffixes:
        if place % width == 0:
            kept[count] = place // width
            count += 1
    return kept


def spans(ids_N: Ids, suffixes_N: NDArray[np.int32], tops_R: Ids, text_Q: Ids, least: int) -> list[Span]:
    """Return the maximal spans of a text that occur, in order: none of them lies within another one.

    Args:
        ids_N: the ids that are searched.
        suffixes_N: their suffix array.
        tops_R: its tops.
        text_Q: the ids of the text.
        least: smallest length of a span, at least 1.

    >>> ids = np.array([5, 7, 5, 7, 9], np.uint16)
    >>> suffixes = suffix_array(ids)
    >>> spans(ids, suffixes, tops(ids, suffixes), np.array([7, 9, 1, 5, 7, 5], np.uint16), 2)
    [Span(start=0, end=2), Span(start=3, end=6)]
    """
    starts, ends = np.empty(len(text_Q), np.int64), np.empty(len(text_Q), np.int64)
    count = _spans(ids_N, suffixes_N, tops_R, text_Q, least, starts, ends)
    return list(map(Span, starts[:count].tolist(), ends[:count].tolist()))


def occurrences(ids_N: Ids, suffixes_N: NDArray[np.int32], tops_R: Ids, sequence: Ids) -> NDArray[np.int32]:
    """Return a view of the places where a sequence occurs, int32 [P], not in order; of an empty one, everywhere.

    >>> ids = np.array([5, 7, 5, 7, 9], np.uint16)
    >>> suffixes = suffix_array(ids)
    >>> occurrences(ids, suffixes, tops(ids, suffixes), np.array([7], np.uint16)).tolist()
    [1, 3]
    """
    low = _boundary(ids_N, suffixes_N, tops_R, sequence, 0, len(sequence), False)
    high = _boundary(ids_N, suffixes_N, tops_R, sequence, 0, len(sequence), True)
    return suffixes_N[low:high]


def open_from(ids_N: Ids, suffixes_N: NDArray[np.int32], tops_R: Ids, text_Q: Ids, start: int) -> int:
    """Return the first place, not before `start`, from which the rest of a text occurs; its length if there is none.

    No sequence that occurs, and goes on behind the text, begins between the two.

    >>> ids = np.array([5, 7, 5, 7, 9], np.uint16)
    >>> suffixes = suffix_array(ids)
    >>> texts = (np.array(text, np.uint16) for text in ([9, 5, 7], [5, 9, 5], [5, 1]))
    >>> [open_from(ids, suffixes, tops(ids, suffixes), text_Q, 0) for text_Q in texts]
    [1, 2, 2]
    """
    return int(_open_from(ids_N, suffixes_N, tops_R, text_Q, start))


def maximal(found: Sequence[Span]) -> list[Span]:
    """Return the spans that lie within no other one, in order, each once.

    >>> maximal([Span(0, 5), Span(1, 5), Span(0, 5), Span(2, 9)])
    [Span(start=0, end=5), Span(start=2, end=9)]
    """
    kept: list[Span] = []
    for span in sorted(set(found), key=lambda each: (each.start, -each.end)):
        if not kept or span.end > kept[-1].end:
            kept.append(span)
    return kept


@_kernel
def _spans(ids: Any, suffixes: Any, tops: Any, text: Any, least: int, starts: Any, ends: Any) -> int:
    step = max(1, least // 2)
    window = least - step + 1
    count, first, middle = 0, 0, 0  # no span that is not found yet begins before `first`
    while middle + window <= len(text):
        start = middle
        if _occurs(ids, suffixes, tops, text, middle, middle + window):
            start = max(first, middle - step + 1)
            length = _longest(ids, suffixes, tops, text, start)
            while start < middle and length < least:
                start += 1
                length = _longest(ids, suffixes, tops, text, start)
            if length >= least:
                starts[count], ends[count] = start, start + length
                count += 1
                if start + length == len(text):
                    break
                first = _first_beyond(ids, suffixes, tops, text, start, start + length)
                middle = first
                continue
        middle += step
    return count


@_kernel
def _first_beyond(ids: Any, suffixes: Any, tops: Any, text: Any, start: int, end: int) -> int:
    """Return the first place after `start` from which the text occurs up to and with `end`; none before it does."""
    low, high = start + 1, end + 1
    while low < high:  # if it occurs from a place on, it does from each later one
        middle = (low + high) // 2
        if _occurs(ids, suffixes, tops, text, middle, end + 1):
            high = middle
        else:
            low = middle + 1
    return low


@_kernel
def _open_from(ids: Any, suffixes: Any, tops: Any, text: Any, start: int) -> int:
    low, high = start, len(text)
    while low < high:  # if the rest occurs from a place on, it does from each later one
        middle = (low + high) // 2
        if _occurs(ids, suffixes, tops, text, middle, len(text)):
            high = middle
        else:
            low = middle + 1
    return low


@_kernel
def _occurs(ids: Any, suffixes: Any, tops: Any, text: Any, start: int, end: int) -> bool:
    row = _boundary(ids, suffixes, tops, text, start, end, False)
    return bool(row < len(ids) and _common(ids, suffixes[row], text, start, end, 0) == end - start)


@_kernel
def _longest(ids: Any, suffixes: Any, tops: Any, text: Any, start: int) -> int:
    """Return the length of the longest sequence from `start` that occurs: with one of the suffixes around it."""
    row = _boundary(ids, suffixes, tops, text, start, len(text), False)
    length = 0
    if row < len(ids):
        length = _common(ids, suffixes[row], text, start, len(text), 0)
    if row > 0:
        length = max(length, _common(ids, suffixes[row - 1], text, start, len(text), 0))
    return length


@_kernel
def _boundary(ids: Any, suffixes: Any, tops: Any, text: Any, start: int, end: int, behind: bool) -> int:
    """Return the first row whose suffix is not smaller than text[start:end]; `behind`: and does not begin with it.

    What the suffixes at both ends of the search have in common with the text, all between them have too.
    """
    low, high = 0, len(tops)
    low_common, high_common = 0, 0
    while low < high:
        middle = (low + high) // 2
        common, count = min(low_common, high_common), tops[middle, 0]
        while common < count and start + common < end and tops[middle, 1 + common] == text[start + common]:
            common += 1
        if start + common < end and common < count:
            is_before = tops[middle, 1 + common] < text[start + common]
        else:
            place = suffixes[middle * TOP_EVERY]
            common = _common(ids, place, text, start, end, common)
            is_before = _is_before(ids, place, text, start, end, common, behind)
        if is_before:
            low, low_common = middle + 1, common
        else:
            high, high_common = middle, common
    low, high = max(0, (low - 1) * TOP_EVERY), min(len(ids), low * TOP_EVERY)
    while low < high:
        middle = (low + high) // 2
        place = suffixes[middle]
        common = _common(ids, place, text, start, end, min(low_common, high_common))
        if _is_before(ids, place, text, start, end, common, behind):
            low, low_common = middle + 1, common
        else:
            high, high_common = middle, common
    return low


@_kernel
def _is_before(ids: Any, place: int, text: Any, start: int, end: int, common: int, behind: bool) -> bool:
    """Return whether a suffix that has so many ids in common with text[start:end] is smaller."""
    if start + common == end:
        return behind
    return bool(place + common == len(ids) or ids[place + common] < text[start + common])


@_kernel
def _common(ids: Any, place: int, text: Any, start: int, end: int, known: int) -> int:
    """Return how many ids a suffix and text[start:end] share at their beginnings, at least those that are known."""
    length = known
    while start + length < end and place + length < len(ids) and ids[place + length] == text[start + length]:
        length += 1
    return length
