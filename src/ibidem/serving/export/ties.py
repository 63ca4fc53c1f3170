r"""Tell a tie from a mistake: two segmentations of one text that have the same score.

A unigram tokenizer chooses the segmentation with the highest sum of scores. sentencepiece adds in float32, tokenizers
in float64, so where two segmentations are equally good, rounding decides:

    34 blanks, in pieces of 11 and 12:      11 + 11 + 12        or        11 + 12 + 11

Both are right, and both decode to the same text. Between two places where both segmentations cut, the difference of
their scores is at most what float32 rounds away in as many additions, at the sum that was reached there.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ibidem.serving.export.hf_tokenizer import BYTE, NORMAL, Pieces

FLOAT32_STEP = 2.0**-23
"""Distance of two float32 numbers, relative to their size."""
UNKNOWN_PENALTY = 10.0
"""What a character without a piece costs beyond the worst piece, in sentencepiece and in tokenizers alike."""


class Cut(NamedTuple):
    """A place where a segmentation cuts the text."""

    total: float
    """Sum of the scores up to here."""
    number: int
    """Number of scores that were added."""


class Scorer:
    """Scores segmentations in float64."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        learned = [score for score, kind in zip(pieces.scores, pieces.types, strict=True) if kind == NORMAL]
        self._unknown = min(learned, default=0.0) - UNKNOWN_PENALTY
        self._byte_of = {number: int(pieces.texts[number][1:-1], 16) for number in _byte_ids(pieces)}

    def is_tie(self, one: Sequence[int], other: Sequence[int]) -> bool:
        """Return whether two sequences of ids are segmentations of one text with equal scores, up to rounding."""
        parts = list(self._texts(one)), list(self._texts(other))
        return len(parts[0]) == len(parts[1]) and all(map(self._is_tie, *parts))

    def _texts(self, ids: Sequence[int]) -> Iterator[tuple[int | None, list[int]]]:
        """Yield the ids of each text between two markers, and the marker before them."""
        marker, text = None, list[int]()
        for number in ids:
            if self._pieces.types[number] == NORMAL or number in self._byte_of:
                text.append(number)
            else:
                yield marker, text
                marker, text = number, []
        yield marker, text

    def _is_tie(self, one: tuple[int | None, list[int]], other: tuple[int | None, list[int]]) -> bool:
        ours, theirs = self._cuts(one[1]), self._cuts(other[1])
        if one[0] != other[0] or max(ours) != max(theirs) or self._bytes(one[1]) != self._bytes(other[1]):
            return False
        return all(
            _is_rounding(ours[start], ours[end], theirs[start], theirs[end])
            for start, end in pairwise(sorted(ours.keys() & theirs.keys()))
        )

    def _cuts(self, ids: Sequence[int]) -> dict[int, Cut]:
        """Return where a segmentation cuts, in bytes; a character that is spelled in bytes is not cut inside."""
        place, total, number = 0, 0.0, 0
        cuts = {0: Cut(0.0, 0)}
        for each in ids:
            byte = self._byte_of.get(each)
            is_inside = byte is not None and byte & 0xC0 == 0x80
            if is_inside:
                del cuts[place]
            else:
                total += self._pieces.scores[each] if byte is None else self._unknown
                number += 1
            place += 1 if byte is not None else len(self._pieces.texts[each].encode())
            cuts[place] = Cut(total, number)
        return cuts

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(
            bytes([self._byte_of[each]]) if each in self._byte_of else self._pieces.texts[each].encode() for each in ids
        )


def _is_rounding(our_start: Cut, our_end: Cut, their_start: Cut, their_end: Cut) -> bool:
    ours, theirs = our_end.total - our_start.total, their_end.total - their_start.total
    additions = our_end.number - our_start.number + their_end.number - their_start.number
    return abs(ours - theirs) <= additions * FLOAT32_STEP * max(abs(our_end.total), 1.0)


def _byte_ids(pieces: Pieces) -> list[int]:
    return [number for number, kind in enumerate(pieces.types) if kind == BYTE]
