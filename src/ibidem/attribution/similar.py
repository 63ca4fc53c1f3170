"""Passages of a text that are much like passages of training documents: with other names, lines or layout.

    text           def merge(left, right): out = [] ...
    shingles       def merge left | merge left right | left right out | ...     3 words in a row, hashed to 64 bits
    postings       the hashes below a quarter of all, each with the number of its document: every text draws this sample
                   by the same rule, so that what two texts share is in the samples of both
    passage        where the shingles of the text that a document has outnumber the others by most
    similarity     of the passage and of its counterpart in the document: the Jaccard index of their shingles, exact

Sources: Broder 1997, "On the resemblance and containment of documents" (the sample modulo m); Bentley 1984,
"Programming pearls: algorithm design techniques" (the largest sum of neighbors).

Legend: W words, S postings.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibidem.data.text.shingles import Hashes, HashSet, compiled, jaccard, runs, word_hashes

SHINGLE_WORDS, SAMPLED = 3, 4
"""Of a shingle; one of so many hashes is kept. Longer shingles find fewer copies with other names."""
MOST_DOCUMENTS_OF_SHINGLE = 64
"""In a part. One of more documents, such as of the text of a license, tells none of them apart."""
LEAST_SHARED = 2
"""Sampled shingles that a text and a document share, at least."""
LEAST_WORDS = 30
"""Of a passage: from some five lines of code on."""
LEAST_SHINGLES = 16
"""Different ones, of a passage and of its counterpart: a row of equal words is like any other."""
_DOTTED_I = "\u0130".encode()
"""The only letter that is two characters when lower-cased."""
_ROW_BITS = np.uint64(32)
_HASH_BITS = np.uint64(64 - 32 - (SAMPLED.bit_length() - 1))
"""That are not kept: of the others the first are 0."""


class Passage(NamedTuple):
    """A part of a text that is like one of a document."""

    start: int
    """In characters of the text."""
    end: int
    similarity: float
    """Jaccard index of the shingles."""


def shingles(text: bytes) -> Hashes:
    """Hash the shingle that begins at each word of a UTF-8 text, [W]; a text of fewer words than a shingle has one."""
    return runs(word_hashes(text.replace(_DOTTED_I, b"I")), SHINGLE_WORDS)


def sample(hashes: Hashes) -> Hashes:
    """Return the sampled shingles of a text, as the postings have them: 32 bits each, in order, each once."""
    kept = hashes[hashes < np.uint64(2**64 // SAMPLED)]
    return np.unique(kept >> _HASH_BITS)


def postings(texts: Iterable[bytes]) -> Hashes:
    """Return the sampled shingles of documents in the upper and the documents' numbers in the lower 32 bits, sorted.

    >>> len(postings([b"a b c d e f g h i j k l m n o p", b""]))
    5
    """
    found = [np.empty(0, np.uint64)]
    for row, text in enumerate(texts):
        found.append(sample(shingles(text)) << _ROW_BITS | np.uint64(row))
    together = np.concatenate(found)
    together.sort()
    return together


def sharing(postings_S: Hashes, sampled: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the documents that share at least `LEAST_SHARED` shingles with a sample, and how many each."""
    lows = np.searchsorted(postings_S, sampled << _ROW_BITS)
    highs = np.searchsorted(postings_S, (sampled << _ROW_BITS) | np.uint64(0xFFFFFFFF), side="right")
    rows = [
        postings_S[low:high] & np.uint64(0xFFFFFFFF)
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
        if low < high <= low + MOST_DOCUMENTS_OF_SHINGLE
    ]
    documents, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *rows]), return_counts=True)
    is_kept = counts >= LEAST_SHARED
    return documents[is_kept].astype(np.int64), counts[is_kept]


def passage(text: str, text_W: Hashes, document_W: Hashes) -> Passage | None:
    """Return the passage of a text that is most like one of a document; None if it is too short, or repeats itself.

    Args:
        text: the text.
        text_W: its shingles.
        document_W: those of the document.

    >>> text = "of our own " + " ".join(f"word{number}" for number in range(40))
    >>> passage(text, shingles(text.encode()), shingles(b"of theirs. " + text[11:].encode()))
    Passage(start=11, end=280, similarity=1.0)
    """
    first, end = _densest(HashSet(document_W).has(text_W))
    if end - first + SHINGLE_WORDS - 1 < LEAST_WORDS:
        return None
    ours = np.unique(text_W[first:end])
    theirs = document_W[slice(*_densest(HashSet(ours).has(document_W)))]
    if min(len(ours), len(np.unique(theirs))) < LEAST_SHINGLES:
        return None
    words = [word.span() for word in re.finditer(r"\w+", text)]
    return Passage(words[first][0], words[end + SHINGLE_WORDS - 2][1], jaccard(ours, np.unique(theirs)))


@compiled
def _densest(is_shared_W: Any) -> tuple[int, int]:
    """Return start and end of the neighbors among which those that are shared outnumber the others by most."""
    start = end = most = 0
    first = surplus = 0
    for place in range(len(is_shared_W)):
        surplus += 1 if is_shared_W[place] else -1
        if surplus <= 0:
            first, surplus = place + 1, 0
        elif surplus > most:
            start, end, most = first, place + 1, surplus
    return start, end
