r"""Words, shingles and sketches of a text, by which duplicates and quotations are found.

    text       "The cat sat on the mat."
    words      the cat sat on the mat            every lower-cased `\w+`, hashed to 64 bits
    shingles   {the cat sat on the, cat sat on the mat}     5 words in a row; a shorter text is one shingle
    MinHash    the smallest hash under each of 112 permutations; two texts agree in one with probability Jaccard
    bands      14 of 8 rows: two texts of similarity s share one with probability 1 - (1 - s**8)**14, 0.92 at 0.8; the
               rows are dealt six times, so that 1 in 5,000 pairs at 0.8 is missed, and fewer above
    body       without the license comments at the head: two files are not similar because both are licensed
    SimHash    64 bits, each the majority vote of the shingles; similar texts differ in few

The kernels are plain Python compiled by numba; they read the UTF-8 bytes of Arrow arrays in place, without the GIL.
Legend: N texts, W words, S shingles, H permutations, R rows of a band, K keys.

Sources: Broder 1997 "On the resemblance and containment of documents"; Charikar 2002 "Similarity estimation techniques
from rounding algorithms"; Manku et al. 2007 "Detecting near-duplicates for web crawling", section 3.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ibidem.data.text.boilerplate import end_of_license

SHINGLE_WORDS = 5
NUM_BANDS, BAND_ROWS = 14, 8
NUM_PERMUTATIONS = NUM_BANDS * BAND_ROWS
NUM_DEALS = 6
NUM_KEYS = NUM_BANDS * NUM_DEALS
_BLOCKS = (0x7FF, 0x7FF << 11, 0x7FF << 22, 0x7FF << 33, 0x3FF << 44, 0x3FF << 54)
SIMHASH_MASKS = tuple(np.uint64(a | b | c) for a, b, c in combinations(_BLOCKS, 3))
"""Each keeps 3 of 6 blocks of bits: texts whose SimHashes differ in at most 3 bits agree under one of the masks."""

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]

_LAST_WORD_CHARACTER = 0x32400  # no letter or digit has a higher code point
_ONE = np.uint64(1)
_PRIME = np.uint64(0x100000001B3)
_OFFSET = np.uint64(0xCBF29CE484222325)
_ROLL = np.uint64(0x9E3779B97F4A7C15)
_SIGMA, _DOTTED_I = 0x3A3, 0x130  # the only two that `str.lower` does not map one to one regardless of context
_IRREGULAR, _HAS_IRREGULAR = np.uint64(0xFFFFFFFFFFFFFFFF), -1
_MOST_VOTES = 63  # what six bit planes can count, for 64 bits at once


def word_hashes(text: bytes) -> Hashes:
    r"""Hash every lower-cased `\w+` word of a UTF-8 text, in order.

    >>> a, b = word_hashes(b"The cat"), word_hashes(b"(the CAT)")
    >>> bool((a == b).all()), len(a)
    (True, 2)
    """
    words = np.empty(len(text) // 2 + 2, np.uint64)
    count = _hash_words(np.frombuffer(text, np.uint8), 0, len(text), _letters(), words)
    return word_hashes(_lowered(text)) if count == _HAS_IRREGULAR else words[:count]


def shingle_set(text: bytes) -> Hashes:
    """Hash the shingles of a UTF-8 text; sorted, without repeats.

    >>> len(shingle_set(b"a b c d e f")), len(shingle_set(b"a b"))
    (2, 1)
    """
    return _as_set(runs(word_hashes(text), SHINGLE_WORDS))


def body_sets(texts: pa.LargeStringArray) -> Iterator[Hashes]:
    """Yield the `shingle_set` of the body of each text."""
    data, bounds = _bytes_of(texts)
    shingles = np.empty(len(data) // 2 + len(texts) + 2, np.uint64)
    ends = np.empty(len(texts), np.int64)
    _shingles(data, bounds, _letters(), shingles, ends)
    start = 0
    for place, end in enumerate(ends.tolist()):
        if end > start:
            yield _as_set(shingles[start:end])
        else:
            yield from body_sets(pa.array([texts[place].as_py().lower()], pa.large_string()))
        start = end


def _as_set(shingles: Hashes) -> Hashes:
    shingles.sort()
    return np.asarray(shingles[np.append(True, shingles[1:] != shingles[:-1])])


def runs(words: Hashes, size: int) -> Hashes:
    """Hash every run of `size` words, in order; a shorter text is a single run."""
    hashes = np.empty(max(1, len(words) - size + 1), np.uint64)
    _roll(words, len(words), size, hashes)
    return hashes


def sketch(texts: pa.LargeStringArray) -> tuple[NDArray[np.uint32], Hashes, Hashes]:
    """Sketch texts.

    Returns:
        MinHash signatures, uint32 [N, H], and SimHashes, uint64 [N], of the bodies; hashes of the word sequences of the
        whole texts, uint64 [N]: equal for texts that differ only in case and in the characters between the words.
    """
    count = len(texts)
    data, bounds = _bytes_of(texts)
    signatures = np.empty((count, NUM_PERMUTATIONS), np.uint32)
    simhashes, sequences, irregular = np.empty(count, np.uint64), np.empty(count, np.uint64), np.zeros(count, bool)
    _sketch(data, bounds, _letters(), *_permutations(), signatures, simhashes, sequences, irregular)
    if irregular.any():
        lowered = [text.as_py().lower() for text in texts.filter(pa.array(irregular))]
        signatures[irregular], simhashes[irregular], sequences[irregular] = sketch(pa.array(lowered, pa.large_string()))
    return signatures, simhashes, sequences


def _bytes_of(texts: pa.LargeStringArray) -> tuple[Bytes, NDArray[np.int64]]:
    """Return the bytes of the texts, without a copy, and the offset at which each begins, int64 [N + 1]."""
    _, offsets, characters = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(characters, np.uint8) if characters else np.empty(0, np.uint8), bounds


def band_keys(signatures: NDArray[np.uint32], band: int) -> Hashes:
    """Hash one of the NUM_KEYS bands of signatures [N, H] to keys [N]; texts equal in all its rows have equal keys."""
    keys = np.empty(len(signatures), np.uint64)
    _band_keys(signatures, _deals()[band], keys)
    return keys


def simhash_keys(simhashes: Hashes, number: int) -> Hashes:
    """Hash the bits of SimHashes that one of SIMHASH_MASKS keeps to keys [N]."""
    keys = np.empty(len(simhashes), np.uint64)
    _simhash_keys(simhashes, SIMHASH_MASKS[number], keys)
    return keys


def first_equal(keys: Hashes) -> NDArray[np.int64]:
    """Return the index of the first equal key for each key, int64 [K].

    >>> first_equal(np.array([7, 8, 7], np.uint64)).tolist()
    [0, 1, 0]
    """
    first = np.empty(len(keys), np.int64)
    _first_equal(keys, np.full(2 << len(keys).bit_length(), -1), first)
    return first


class HashSet:
    """A set of hashes with vectorized lookup.

    >>> HashSet(np.array([3, 5], np.uint64)).has(np.array([5, 4, 5], np.uint64)).tolist()
    [True, False, True]
    """

    def __init__(self, hashes: Hashes) -> None:
        self._table = np.full(4 << len(hashes).bit_length(), -1)
        self._hashes = hashes
        _first_equal(hashes, self._table, np.empty(len(hashes), np.int64))

    def has(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return whether each hash is in the set, bool [K]."""
        known = np.empty(len(hashes), bool)
        _look_up(hashes, self._hashes, self._table, known)
        return known


@cache
def _letters() -> Hashes:
    r"""Map each code point to its lower case, or to 0 if it is not `\w` in Python's `re`."""
    codes = np.arange(_LAST_WORD_CHARACTER, dtype="<i4")
    table = np.zeros(len(codes), np.uint64)
    for word in re.finditer(r"\w+", codes.tobytes().decode("utf-32-le", "surrogatepass")):
        letters = word[0].replace(chr(_DOTTED_I), " ").lower()
        table[word.start() : word.end()] = np.frombuffer(letters.encode("utf-32-le"), "<i4")
    table[[_SIGMA, _DOTTED_I]] = _IRREGULAR
    return table


def _lowered(text: bytes) -> bytes:
    return text.decode().lower().encode()


@cache
def _deals() -> NDArray[np.int64]:
    """Return the rows of each band, int64 [NUM_KEYS, R]: the first deal in order, the others shuffled."""
    generator = np.random.default_rng(0)
    deals = [np.arange(NUM_PERMUTATIONS), *(generator.permutation(NUM_PERMUTATIONS) for _ in range(NUM_DEALS - 1))]
    return np.concatenate(deals).reshape(NUM_KEYS, BAND_ROWS)


@cache
def _permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the factors a (odd) and the summands b of x -> a * x + b modulo 2**32; uint32 [H] each."""
    generator = np.random.default_rng(0x1B1DE)
    a, b = generator.integers(0, 2**32, (2, NUM_PERMUTATIONS), np.uint32)
    return a | np.uint32(1), b


def compiled(function: Any) -> Any:
    """Compile a kernel that runs without the GIL."""
    return numba.njit(cache=True, nogil=True, boundscheck=False)(function)


@compiled
def _beyond_ascii(data: Bytes, i: np.uint64) -> tuple[np.int32, np.uint64]:
    """Decode the UTF-8 sequence at `i`; return its code point and its length in bytes."""
    byte, second = np.int32(data[i]), np.int32(data[i + _ONE] & 0x3F)
    if byte < 0xE0:
        return ((byte & 0x1F) << 6) | second, np.uint64(2)
    third = np.int32(data[i + np.uint64(2)] & 0x3F)
    if byte < 0xF0:
        return ((byte & 0xF) << 12) | (second << 6) | third, np.uint64(3)
    fourth = np.int32(data[i + np.uint64(3)] & 0x3F)
    return ((byte & 0x7) << 18) | (second << 12) | (third << 6) | fourth, np.uint64(4)


@compiled
def _hash_words(data: Bytes, start: int, end: int, letters: Hashes, words: Hashes) -> int:
    """Hash the words by FNV-1a, from 0, over their letters; return the number of words.

    Word ends are unpredictable, so no branch depends on them: each letter writes the hash so far to the next free
    place, and the place is taken when the word ends. Each letter depends on the one before only through one
    multiplication, by 0 between words. Indices are unsigned, so that numba skips its check for negative ones.
    `words` must have two places more than half the bytes of the text.
    """
    bits = np.uint8(0)
    for n in range(start, end):
        bits |= data[n]
    if bits < 0x80:
        return int(_hash_ascii_words(data, start, end, letters, words))
    count = inside = h = np.uint64(0)
    i, past = np.uint64(start), np.uint64(end)
    while i < past:
        if data[i] < 0x80:
            letter = letters[data[i]]
            i += _ONE
        else:
            code, size = _beyond_ascii(data, i)
            letter = letters[np.uint32(code)] if code < _LAST_WORD_CHARACTER else np.uint64(0)
            i += size
        if letter == _IRREGULAR:
            return _HAS_IRREGULAR
        words[count] = h
        is_letter = np.uint64(letter != 0)
        count += inside & (is_letter ^ _ONE)
        inside = is_letter
        h = (h ^ letter) * (is_letter * _PRIME)
    words[count] = h
    return int(_folded(words, count + inside))


@compiled
def _hash_ascii_words(data: Bytes, start: int, end: int, letters: Hashes, words: Hashes) -> int:
    """Do the same for ASCII text, both halves side by side, so that their multiplications overlap.

    The general kernel takes 1.2 times as long on ASCII (`benchmarks/tuning.py`).
    """
    first, middle, past = np.uint64(start), np.uint64((start + end + 1) // 2), np.uint64(end)
    while middle < past and letters[data[middle]]:
        middle += _ONE
    longer, shorter = middle - first, past - middle
    count = inside = h = other_inside = g = np.uint64(0)
    space = longer // np.uint64(2) + _ONE  # the words of the second half start here until they are moved up
    beyond = space
    for n in range(shorter):
        letter, other = letters[data[first + n]], letters[data[middle + n]]
        words[count], words[beyond] = h, g
        is_letter, is_other = np.uint64(letter != 0), np.uint64(other != 0)
        count += inside & (is_letter ^ _ONE)
        beyond += other_inside & (is_other ^ _ONE)
        inside, other_inside = is_letter, is_other
        h, g = (h ^ letter) * (is_letter * _PRIME), (g ^ other) * (is_other * _PRIME)
    words[beyond] = g
    for n in range(shorter, longer):
        letter = letters[data[first + n]]
        words[count] = h
        is_letter = np.uint64(letter != 0)
        count += inside & (is_letter ^ _ONE)
        inside = is_letter
        h = (h ^ letter) * (is_letter * _PRIME)
    words[count] = h
    count += inside
    for n in range(space, beyond + other_inside):
        words[count] = words[n]
        count += _ONE
    return int(_folded(words, count))


@compiled
def _folded(words: Hashes, count: np.uint64) -> np.int64:
    """Fold the upper half of each hash into the lower half; only the upper half depends on every letter."""
    for n in range(count):
        words[n] ^= words[n] >> np.uint64(32)
    return np.int64(count)


@compiled
def mixed(x: np.uint64) -> np.uint64:
    """Spread every bit over all 64: the finalizer of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _roll(words: Hashes, num_words: int, size: int, hashes: Hashes) -> int:
    first = min(num_words, size)
    h = np.uint64(first)
    for i in range(first):
        h = h * _ROLL + words[i]
    hashes[0] = mixed(h)
    if num_words <= size:
        return 1
    oldest = _ONE
    for _ in range(size):
        oldest *= _ROLL
    salt = np.uint64(size) * (oldest * _ROLL - oldest)  # keeps the contribution of the length constant
    for i in range(num_words - size):
        h = h * _ROLL + (words[np.uint64(i + size)] - words[np.uint64(i)] * oldest - salt)
        hashes[np.uint64(i + 1)] = mixed(h)
    return num_words - size + 1


@compiled
def _first_of_body(data: Bytes, start: int, end: int, letters: Hashes, num_words: int) -> int:
    """Return the number of words in front of the body; 0 if it is shorter than a shingle."""
    body = end_of_license(data, start, end)
    if body == start:
        return 0
    skipped = _hash_words(data, start, body, letters, np.empty((body - start) // 2 + 3, np.uint64))
    return skipped if num_words - skipped >= SHINGLE_WORDS else 0


@compiled
def _shingles(
    data: Bytes, bounds: NDArray[np.int64], letters: Hashes, shingles: Hashes, ends: NDArray[np.int64]
) -> None:
    """Write the shingles of all texts one after another, except of texts that must be lowered first."""
    end = 0
    for n in range(len(ends)):
        words = shingles[end + 1 :]  # a word is read for the last time before a shingle overwrites it
        num_words = _hash_words(data, bounds[n], bounds[n + 1], letters, words)
        if num_words != _HAS_IRREGULAR:
            first = _first_of_body(data, bounds[n], bounds[n + 1], letters, num_words)
            end += _roll(words[first:], num_words - first, SHINGLE_WORDS, shingles[end:])
        ends[n] = end


@compiled
def num_shared(a: Hashes, b: Hashes) -> int:
    """Count the common elements of two sorted sets."""
    i = j = shared = 0
    while i < len(a) and j < len(b):
        x, y = a[i], b[j]
        shared += x == y
        i += x <= y
        j += y <= x
    return shared


@compiled
def jaccard(a: Hashes, b: Hashes) -> float:
    """Return the Jaccard similarity of two sorted sets: shared / all."""
    shared = num_shared(a, b)
    return float(shared / (len(a) + len(b) - shared))


@compiled
def _band_keys(signatures: NDArray[np.uint32], rows: NDArray[np.int64], keys: Hashes) -> None:
    for n in range(len(keys)):
        h = _OFFSET
        for row in rows:
            h = (h ^ np.uint64(signatures[n, row])) * _ROLL
            h ^= h >> np.uint64(29)
        keys[n] = h


@compiled
def _simhash_keys(simhashes: Hashes, mask: np.uint64, keys: Hashes) -> None:
    for n in range(len(keys)):
        keys[n] = mixed(simhashes[n] & mask)


@compiled
def _first_equal(keys: Hashes, table: NDArray[np.int64], first: NDArray[np.int64]) -> None:
    """Look up each key in a hash table with linear probing; its size is a power of 2, empty places are -1."""
    for n in range(len(keys)):
        place = mixed(keys[n]) & np.uint64(len(table) - 1)
        while table[place] >= 0 and keys[table[place]] != keys[n]:
            place = (place + np.uint64(1)) & np.uint64(len(table) - 1)
        if table[place] < 0:
            table[place] = n
        first[n] = table[place]


@compiled
def _look_up(keys: Hashes, known: Hashes, table: NDArray[np.int64], is_known: NDArray[np.bool_]) -> None:
    """Look up each key among those that `_first_equal` put into the table."""
    for n in range(len(keys)):
        place = mixed(keys[n]) & np.uint64(len(table) - 1)
        while table[place] >= 0 and known[table[place]] != keys[n]:
            place = (place + np.uint64(1)) & np.uint64(len(table) - 1)
        is_known[n] = table[place] >= 0


@compiled
def _min_hashes(
    shingles: Hashes, count: int, a: NDArray[np.uint32], b: NDArray[np.uint32], least: NDArray[np.uint32]
) -> None:
    """Compute the minimum of each permutation, four shingles at a time; the compiler vectorizes the inner loop."""
    least[:] = np.uint32(0xFFFFFFFF)
    last = count - 1
    for i in range(0, count, 4):
        w, x = _upper_half(shingles[i]), _upper_half(shingles[min(i + 1, last)])
        y, z = _upper_half(shingles[min(i + 2, last)]), _upper_half(shingles[min(i + 3, last)])
        for p in range(NUM_PERMUTATIONS):
            least_wx = min(np.uint32(np.uint32(a[p] * w) + b[p]), np.uint32(np.uint32(a[p] * x) + b[p]))
            least_yz = min(np.uint32(np.uint32(a[p] * y) + b[p]), np.uint32(np.uint32(a[p] * z) + b[p]))
            least[p] = min(least[p], least_wx, least_yz)


@compiled
def _upper_half(shingle: np.uint64) -> np.uint32:
    return np.uint32(shingle >> np.uint64(32))


@compiled
def _in_order(words: Hashes, num_words: int) -> np.uint64:
    """Hash a word sequence: the sum of its words, each mixed with its position."""
    h = np.uint64(num_words)
    for i in range(num_words):
        h += mixed(words[i] + np.uint64(i) * _ROLL)
    return np.uint64(mixed(h))


@compiled
def _simhash(shingles: Hashes, count: int) -> np.uint64:
    """Return the majority of the shingles in each of 64 bits; votes are counted in bit planes, 64 bits at a time."""
    votes = np.zeros(64, np.int64)
    for start in range(0, count, _MOST_VOTES):
        ones = twos = fours = eights = sixteens = thirty_twos = np.uint64(0)
        for i in range(start, min(start + _MOST_VOTES, count)):
            carry = shingles[i]
            ones, carry = ones ^ carry, ones & carry
            twos, carry = twos ^ carry, twos & carry
            fours, carry = fours ^ carry, fours & carry
            eights, carry = eights ^ carry, eights & carry
            sixteens, carry = sixteens ^ carry, sixteens & carry
            thirty_twos ^= carry
        for k, plane in enumerate((ones, twos, fours, eights, sixteens, thirty_twos)):
            for bit in range(64):
                votes[bit] += np.int64((plane >> np.uint64(bit)) & _ONE) << k
    simhash = np.uint64(0)
    for bit in range(64):
        if 2 * votes[bit] > count:
            simhash |= np.uint64(1) << np.uint64(bit)
    return simhash


@compiled
def _sketch(
    data: Bytes,
    bounds: NDArray[np.int64],
    letters: Hashes,
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    signatures: NDArray[np.uint32],
    simhashes: Hashes,
    sequences: Hashes,
    irregular: NDArray[np.bool_],
) -> None:
    longest = 0
    for n in range(len(bounds) - 1):
        longest = max(longest, bounds[n + 1] - bounds[n])
    shingles = np.empty(longest // 2 + 3, np.uint64)
    words = shingles[1:]  # a word is read for the last time before a shingle overwrites it
    for n in range(len(bounds) - 1):
        num_words = _hash_words(data, bounds[n], bounds[n + 1], letters, words)
        if num_words == _HAS_IRREGULAR:
            irregular[n] = True
            continue
        sequences[n] = _in_order(words, num_words)
        first = _first_of_body(data, bounds[n], bounds[n + 1], letters, num_words)
        count = _roll(words[first:], num_words - first, SHINGLE_WORDS, shingles)
        _min_hashes(shingles, count, a, b, signatures[n])
        simhashes[n] = _simhash(shingles, count)
