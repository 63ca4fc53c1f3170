# mypy: disable-error-code="arg-type,assignment,no-any-return"
# (numba uses fixed-width integers where the annotations say int)
r"""Counts over the UTF-8 bytes of a text, for the quality filters.

    text    "def f(a):\n    return a\n\n\n    return a\n"
    lines   3 that are not blank, the longest of 12 characters; one of them repeats an earlier one
    runs    64 or more characters of base64, or of numbers and their separators
    words   of prose only: runs of letters, digits and `_`, for the n-grams

The kernels are plain Python compiled by numba; they run without the GIL.
"""

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ibidem.data.text.boilerplate import find

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]

MIN_RUN = 64
"""Bytes of the shortest run: shorter ones are identifiers, paths, small lists. StarCoder2 (arXiv:2402.19173), 2.1."""

_LETTER, _DIGIT, _BLANK, _CHARACTER = (np.uint64(1 << shift) for shift in (0, 16, 32, 48))
_FIELD = np.uint64(0xFFFF)
_BLOCK = 1 << 15  # bytes that a field of 16 bits can count without overflow
_LAST_CLASSIFIED = 0x32400  # no letter or digit has a higher code point
_WORD, _HAS_LETTER, _SPACE, _ENCODED, _NUMERIC, _HEX = (1 << bit for bit in range(6))
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_BUCKETS = 4096
_BLANKS = b" \t\n\r\f\v"
_ONE, _LAST_BIT = np.uint64(1), np.uint64(63)
_NEWLINE, _LESS, _GREATER, _SLASH, _BANG = 0x0A, 0x3C, 0x3E, 0x2F, 0x21
_COMMENT, _COMMENT_END, _SCRIPT, _SCRIPT_END, _STYLE, _STYLE_END, _PICTURE, _PICTURE_END, _TEMPLATE = (
    np.frombuffer(word, np.uint8)
    for word in (b"<!--", b"-->", b"<script", b"</script", b"<style", b"</style", b"<svg", b"</svg", b"template")
)


class Statistics(NamedTuple):
    """Counts of one text; in characters without blanks, unless stated otherwise."""

    chars: int
    letters: int
    digits: int
    lines: int
    """Lines that are not blank; the fields below count only these."""
    longest_line: int
    """Including blanks."""
    line_chars: int
    """Characters of all lines, including blanks."""
    long_chars: int
    """Characters of the long ones among them."""
    duplicate_lines: int
    """Lines that already occurred, ignoring indentation."""
    duplicate_chars: int
    """Characters of these lines."""
    encoded_bytes: int
    """Bytes in runs of base64 characters and line ends."""
    longest_encoded: int
    number_bytes: int
    """Bytes in runs of hexadecimal digits, separators and brackets, at least a third of them digits."""


def statistics(text: bytes, *, words_only: bool = False, long_line: int = 1000) -> Statistics:
    r"""Compute the counts of a UTF-8 text.

    Args:
        text: the text.
        words_only: whether lines without a letter or a digit count as blank.
        long_line: lines with more characters are long.

    >>> counted = statistics(b"def f(a):\n    return a\n\n\n    return a\n")
    >>> counted.lines, counted.longest_line, counted.duplicate_lines, counted.duplicate_chars
    (3, 12, 1, 7)
    >>> statistics(b"|--|\n|--|\n| a |\n", words_only=True)[3:6]
    (1, 5, 5)
    >>> statistics(b"ab\nabcd\n", long_line=3).long_chars
    4
    """
    data = np.frombuffer(text, np.uint8)
    return Statistics(*_statistics(data, _increments(), _salts(), _classes(), words_only, long_line))


def top_ngram_shares(text: bytes, limits: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the share of all word bytes covered by the most frequent n-gram, for n = 2, 3, 4.

    A word is a run of letters, digits, `_` and non-ASCII characters. The share is 0 if no n-gram occurs twice, or if
    it cannot exceed its limit: n times the share of the most frequent word is an upper bound.
    Source: Gopher (arXiv:2112.11446), table A1, "top n-gram character fraction".

    >>> top_ngram_shares(b"spam egg - spam egg ham", (0.2, 0.18, 0.16))
    (0.8235294117647058, 0.0, 0.0)
    """
    shares: tuple[float, float, float] = _top_ngram_shares(np.frombuffer(text, np.uint8), _classes(), _salts(), limits)
    return shares


def visible_chars(html: bytes) -> int:
    """Count the characters of a page outside tags, comments, scripts and styles, without blanks.

    A script whose type is a template, as of Handlebars, holds a page, and counts as one.

    >>> visible_chars(b"<p>Hi <b>you</b></p><script>x = '<p>'</script>")
    5
    """
    return page_chars(html)[0]


def page_chars(html: bytes) -> tuple[int, int]:
    """Count the characters of a page that are seen, and those of its scripts, styles and pictures, without blanks.

    >>> page_chars(b"<style>p {}</style><p>Hi</p>")
    (2, 18)
    """
    seen, apart = _count_page(np.frombuffer(html, np.uint8), _classes())
    return int(seen), int(apart)


@cache
def _increments() -> Hashes:
    """Return what each code point adds to the four 16-bit counters of `_count`, packed into one word."""
    table = np.full(_LAST_CLASSIFIED + 1, _CHARACTER)
    for code in range(_LAST_CLASSIFIED):
        character = chr(code)
        if character.isalpha():
            table[code] |= _LETTER
        elif character.isalnum():
            table[code] |= _DIGIT
        elif character.isspace():
            table[code] |= _BLANK
    return table


@cache
def _salts() -> Hashes:
    """Return what each byte adds to the hash of a line or a word: 0 for a blank, so that indentation is ignored.

    Source: Cohen 1997, "Recursive hashing functions for n-grams", hashing by cyclic polynomials.
    """
    salts = np.random.default_rng(0x1B1DE).integers(1, 2**64, 256, np.uint64)
    salts[list(_BLANKS)] = 0
    return salts


@cache
def _classes() -> Bytes:
    table = np.zeros(256, np.uint8)
    table[0x80:] = _WORD | _HAS_LETTER
    letters = bytes(code for code in range(128) if chr(code).isalpha())
    digits = b"0123456789"
    for members, flag in (
        (letters + digits + b"_", _WORD),
        (letters, _HAS_LETTER),
        (_BLANKS, _SPACE),
        (letters + digits + b"+/=\n", _ENCODED),
        (digits + b"abcdefABCDEFxXuUlL+-.,;:'\"\\[](){}| \t\n\r", _NUMERIC),
        (digits + b"abcdefABCDEF", _HEX),
    ):
        table[list(members)] |= np.uint8(flag)
    return table


def _compiled(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True, boundscheck=False)(function)


@_compiled
def _statistics(
    data: Bytes, increments: Hashes, salts: Hashes, classes: Bytes, words_only: bool, long_line: int
) -> tuple[int, ...]:
    return *_count(data, increments, salts, words_only, long_line), *_count_runs(data, classes)


@_compiled
def _count(
    data: Bytes, increments: Hashes, salts: Hashes, words_only: bool, long_line: int
) -> tuple[int, int, int, int, int, int, int, int, int]:
    hashes = np.empty(len(data) // 2 + 1, np.uint64)
    sizes = np.empty(len(hashes), np.int64)
    num_lines = chars = letters = digits = longest_line = line_chars = long_chars = 0
    i = width = blanks = 0
    has_word = not words_only
    h = np.uint64(0)
    while i < len(data):
        block_end = min(len(data), i + _BLOCK)
        packed = np.uint64(0)
        code = np.int32(0)
        while i < block_end and code != _NEWLINE:
            code = np.int32(data[i])
            h = (h << _ONE | h >> _LAST_BIT) + salts[code]
            i += 1
            if code >= 0x80:
                more = 1 + (code >= 0xE0) + (code >= 0xF0)
                code &= 0x3F >> more
                for _ in range(more):
                    h = (h << _ONE | h >> _LAST_BIT) + salts[data[i]]
                    code = (code << 6) | np.int32(data[i] & 0x3F)
                    i += 1
                code = min(code, _LAST_CLASSIFIED)
            packed += increments[code]
        before = letters + digits
        letters += np.int64(packed & _FIELD)
        digits += np.int64((packed >> np.uint64(16)) & _FIELD)
        blanks += np.int64((packed >> np.uint64(32)) & _FIELD)
        width += np.int64(packed >> np.uint64(48))
        has_word |= letters + digits > before
        if code != _NEWLINE and i < len(data):
            continue
        if width > blanks and has_word:
            hashes[num_lines], sizes[num_lines] = h, width - blanks
            num_lines += 1
            chars += width - blanks
            width -= code == _NEWLINE
            longest_line = max(longest_line, width)
            line_chars += width
            long_chars += width * (width > long_line)
        width = blanks = 0
        has_word = not words_only
        h = np.uint64(0)
    repeated = _count_repeated(hashes, sizes, num_lines)
    return chars, letters, digits, num_lines, longest_line, line_chars, long_chars, *repeated


@_compiled
def _count_repeated(hashes: Hashes, sizes: NDArray[np.int64], count: int) -> tuple[int, int]:
    """Count the items that occurred before, and sum their sizes; uses an open-addressing table."""
    capacity = 16
    while capacity < 2 * count:
        capacity *= 2
    table = np.zeros(capacity, np.uint64)
    mask = np.uint64(capacity - 1)
    repeated = repeated_size = 0
    for n in range(count):
        key = (hashes[n] * _PRIME) | np.uint64(1)  # 0 marks an empty slot
        slot = (key >> np.uint64(32)) & mask
        while table[slot] != 0 and table[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] == key:
            repeated += 1
            repeated_size += sizes[n]
        table[slot] = key
    return repeated, repeated_size


@_compiled
def _count_runs(data: Bytes, classes: Bytes) -> tuple[int, int, int]:
    """Find runs by checking every `MIN_RUN`-th byte: every run that is long enough covers one of them."""
    encoded = longest = numbers = encoded_end = numbers_end = 0
    for position in range(MIN_RUN - 1, len(data), MIN_RUN):
        kind = classes[data[position]]
        if kind & _ENCODED and position >= encoded_end:
            start, encoded_end = _run_around(data, classes, position, _ENCODED)
            if encoded_end - start >= MIN_RUN:
                encoded += encoded_end - start
                longest = max(longest, encoded_end - start)
        if kind & _NUMERIC and position >= numbers_end:
            start, numbers_end = _run_around(data, classes, position, _NUMERIC)
            if numbers_end - start >= MIN_RUN and _is_numbers(data, classes, start, numbers_end):
                numbers += numbers_end - start
    return encoded, longest, numbers


@_compiled
def _run_around(data: Bytes, classes: Bytes, position: int, flag: int) -> tuple[int, int]:
    start, end = position, position + 1
    while start > 0 and classes[data[start - 1]] & flag:
        start -= 1
    while end < len(data) and classes[data[end]] & flag:
        end += 1
    return start, end


@_compiled
def _is_numbers(data: Bytes, classes: Bytes, start: int, end: int) -> bool:
    digits = visible = 0
    for i in range(start, end):
        digits += (classes[data[i]] & _HEX) != 0
        visible += (classes[data[i]] & _SPACE) == 0
    return 3 * digits >= visible and 4 * digits >= MIN_RUN


@_compiled
def _top_ngram_shares(
    data: Bytes, classes: Bytes, salts: Hashes, limits: tuple[float, float, float]
) -> tuple[float, float, float]:
    words = np.empty(len(data) + 1, np.uint64)
    sizes = np.empty(len(words), np.int32)
    num_words = size = was_inside = 0
    h = np.uint64(0)
    for i in range(len(data)):  # without a branch: word ends are unpredictable
        inside = -np.int64(classes[data[i]] & _WORD)
        num_words += was_inside & ~inside & 1
        h = ((h << _ONE | h >> _LAST_BIT) + salts[data[i]]) & np.uint64(inside)
        size = (size + 1) & inside
        words[num_words], sizes[num_words] = h, size
        was_inside = inside
    num_words += was_inside & 1
    total, most = _bound(words, sizes, num_words)
    two = _top_ngram(words, sizes, num_words, 2) / total if 2 * most > limits[0] * total else 0.0
    three = _top_ngram(words, sizes, num_words, 3) / total if 3 * most > limits[1] * total else 0.0
    four = _top_ngram(words, sizes, num_words, 4) / total if 4 * most > limits[2] * total else 0.0
    return two, three, four


@_compiled
def _bound(words: Hashes, sizes: NDArray[np.int32], count: int) -> tuple[int, int]:
    """Return the bytes of all words, and an upper bound of the bytes covered by all occurrences of one word."""
    buckets = np.zeros(_BUCKETS, np.int32)
    total = most = 0
    for n in range(count):
        bucket = ((words[n] * _PRIME) >> np.uint64(40)) & np.uint64(_BUCKETS - 1)
        buckets[bucket] += sizes[n]
        most = max(most, buckets[bucket])
        total += sizes[n]
    return total, most


@_compiled
def _top_ngram(words: Hashes, sizes: NDArray[np.int32], count: int, n: int) -> int:
    """Return the bytes covered by the most frequent n-gram; uses an open-addressing table."""
    capacity = 16
    while capacity < 2 * count:
        capacity *= 2
    keys, covered = np.zeros(capacity, np.uint64), np.zeros(capacity, np.int64)
    mask = np.uint64(capacity - 1)
    most = 0
    for first in range(count - n + 1):
        key, size = np.uint64(0), 0
        for k in range(first, first + n):
            key = (key ^ (key >> np.uint64(29)) ^ words[k]) * _PRIME
            size += sizes[k]
        key |= np.uint64(1)  # 0 marks an empty slot
        slot = (key >> np.uint64(32)) & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        keys[slot] = key
        covered[slot] += size
        if covered[slot] > size:
            most = max(most, covered[slot])
    return most


@_compiled
def _count_page(data: Bytes, classes: Bytes) -> tuple[int, int]:
    visible = apart = i = 0
    while i < len(data):
        opens_tag = (
            data[i] == _LESS
            and i + 1 < len(data)
            and (classes[data[i + 1]] & _HAS_LETTER or data[i + 1] == _SLASH or data[i + 1] == _BANG)
        )
        if opens_tag:
            end = _end_of_markup(data, i)
            is_apart = (
                find(data, i, i + 1, _SCRIPT) == i
                or find(data, i, i + 1, _STYLE) == i
                or find(data, i, i + 1, _PICTURE) == i
            )
            if is_apart:
                for k in range(i, min(end, len(data))):
                    apart += (classes[data[k]] & _SPACE) == 0
            i = end
        else:
            visible += (classes[data[i]] & _SPACE) == 0
            i += 1
    return visible, apart


@_compiled
def _end_of_markup(data: Bytes, start: int) -> int:
    if find(data, start, start + 1, _COMMENT) == start:
        return find(data, start, len(data), _COMMENT_END) + len(_COMMENT_END)
    if find(data, start, start + 1, _SCRIPT) == start:
        end = start
        while end < len(data) and data[end] != _GREATER:
            end += 1
        if find(data, start, end, _TEMPLATE) == end:
            start = find(data, start, len(data), _SCRIPT_END)
    elif find(data, start, start + 1, _STYLE) == start:
        start = find(data, start, len(data), _STYLE_END)
    elif find(data, start, start + 1, _PICTURE) == start:
        start = find(data, start, len(data), _PICTURE_END)
    while start < len(data) and data[start] != _GREATER:
        start += 1
    return start + 1
