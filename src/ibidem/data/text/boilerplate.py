# mypy: disable-error-code="no-any-return"
r"""License comments at the head of a text, which similar documents do not share because they are similar.

    /*                                            <- skipped: a comment that names a license or a copyright
     * Licensed under the Apache License, ...
     */
    package org.apache.commons;                   <- the text begins here

The kernels are plain Python compiled by numba; they read the UTF-8 bytes in place, without the GIL.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

HEAD_BYTES = 8192
"""A comment that ends later is not at the head."""
MAX_COMMENTS = 4
_NEWLINE, _SLASH, _STAR, _LESS, _MORE, _BANG, _HASH, _DASH, _SEMICOLON, _PERCENT, _QUESTION = b"\n/*<>!#-;%?"
_BLANK = 0x20
_UPPER_A, _UPPER_Z = 0x41, 0x5A
_END_OF_C, _END_OF_HTML = (np.frombuffer(word, np.uint8) for word in (b"*/", b"-->"))
_LICENSE, _COPYRIGHT = (np.frombuffer(word, np.uint8) for word in (b"licen", b"copyright"))


def _compiled(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True, boundscheck=False)(function)


@_compiled
def find(data: Bytes, start: int, stop: int, wanted: Bytes) -> int:
    """Return the first position of `wanted` (lower case) in [start, stop), ignoring case; `stop` if absent."""
    for i in range(start, min(stop, len(data) - len(wanted) + 1)):
        k = 0
        while k < len(wanted) and (data[i + k] | (0x20 if _UPPER_A <= data[i + k] <= _UPPER_Z else 0)) == wanted[k]:
            k += 1
        if k == len(wanted):
            return i
    return stop


@_compiled
def end_of_license(data: Bytes, start: int, end: int) -> int:
    """Return where the last of the leading comments that name a license or a copyright ends; `start` without any.

    Args:
        data: UTF-8 bytes.
        start: first byte of the text.
        end: first byte behind it.
    """
    found, place, stop = start, start, min(end, start + HEAD_BYTES)
    for _ in range(MAX_COMMENTS):
        place = _first_visible(data, place, stop)
        while place + 1 < stop and (
            (data[place] == _LESS and data[place + 1] == _QUESTION)
            or (data[place] == _HASH and data[place + 1] == _BANG)
        ):
            place = _first_visible(data, _next_line(data, place, stop), stop)
        close = _end_of_comment(data, place, stop)
        if close == place:
            break
        if find(data, place, close, _LICENSE) < close or find(data, place, close, _COPYRIGHT) < close:
            found = close
        place = close
    return found


@_compiled
def _end_of_comment(data: Bytes, place: int, stop: int) -> int:
    """Return where the comment at `place` ends; `place` if there is none, or if it does not end before `stop`."""
    if place + 4 > stop:
        return place
    first, second = data[place], data[place + 1]
    if first == _SLASH and second == _STAR:
        close = find(data, place, stop - 1, _END_OF_C)
        return place if close == stop - 1 else close + 2
    if first == _LESS and second == _BANG and data[place + 2] == _DASH and data[place + 3] == _DASH:
        close = find(data, place, stop - 2, _END_OF_HTML)
        return place if close == stop - 2 else close + 3
    is_line = (first == second and first in (_SLASH, _DASH, _SEMICOLON)) or (
        first in (_HASH, _PERCENT) and (second <= _BLANK or second == first)
    )
    close = place
    while is_line and close < stop:
        following = _first_visible(data, _next_line(data, close, stop), stop)
        is_line = following < stop and data[following] == first and _is_next(data, close, following)
        close = following if is_line else _next_line(data, close, stop)
    return close


@_compiled
def _is_next(data: Bytes, place: int, following: int) -> bool:
    """Check that only one line ends between two places."""
    count = 0
    for i in range(place, following):
        count += data[i] == _NEWLINE
    return count == 1


@_compiled
def _first_visible(data: Bytes, place: int, stop: int) -> int:
    while place < stop and data[place] <= _BLANK:
        place += 1
    return place


@_compiled
def _next_line(data: Bytes, place: int, stop: int) -> int:
    while place < stop and data[place] != _NEWLINE:
        place += 1
    return min(place + 1, stop)
