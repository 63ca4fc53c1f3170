"""Views: what one principal may search, as if nothing else had been indexed.

    segment of everyone     a.md 0..2   c.md 0..1           rows of the view, ordered by (path, start)
    segment of engineering  b.md 0..3                ->     a.md 0, 1, 2, b.md 0, 1, 2, 3, c.md 0, 1
    segment of hr           not opened

Chunks, statistics and ties of a view come from permitted documents alone: it is the index that would be made of them.
Each row's figures are computed by the same kernel in the same order of summation, wherever the row is, so scores are
equal to the bit.

BM25: sum over the query's terms of `idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length))` with
`idf = ln(1 + (N - df + 0.5) / (df + 0.5))`; a repeated term of the query counts as often. Cosine: the exact inner
product, rounded to float32. An int8 copy bounds it from both sides, and only rows that may be among the best are
computed from their float32 vectors. Both rankings, down to `RANK_WINDOW`, are joined by reciprocal ranks.

Sources: Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"; Cormack et al. 2009,
"Reciprocal rank fusion outperforms Condorcet and individual rank learning methods".
Legend: N rows, T distinct terms, P postings, D width of vectors, C candidates, K results.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ibidem.errors import DataError
from ibidem.grounding.fusion import RRF_K
from ibidem.grounding.segment import Segment
from ibidem.grounding.store import Chunk, Hit

K1, B = 1.2, 0.75
RANK_WINDOW = 100
"""A chunk below this rank of a ranking gets nothing from it; with a larger k, below rank k."""

_CODE_LEVELS, _QUERY_LEVELS = 127, 4095
_MOST_INT32 = 2**31 - 1
_BLOCK = 32
_SLACK = 1e-6  # more than all rounding errors of the bounds

Rows = NDArray[np.int32]
Floats = NDArray[np.float64]


class Part(NamedTuple):
    """The permitted documents of a segment."""

    segment: Segment
    documents: Sequence[int]
    """Ascending."""


class View:
    """An index in memory of some documents of some segments."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._segments = [part.segment for part in parts]
        self._segment_N, self._chunk_N = _origins(parts)
        self._terms_T, self._bounds_T, self._rows_P, self._weights_P = self._postings()
        self._ids_N2 = self._gather([segment.ids_N2 for segment in self._segments], np.empty((0, 2), np.uint64))
        self._vectors_ND = self._vectors()
        if self._vectors_ND is not None:
            self._codes_ND, self._scales_N, self._errors_N2 = quantize(self._vectors_ND)

    def __len__(self) -> int:
        return len(self._chunk_N)

    @property
    def nbytes(self) -> int:
        """Memory of its arrays, in bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def search(self, terms: Sequence[tuple[int, int]], vector_D: NDArray[Any] | None, k: int) -> list[Hit]:
        """Return the best chunks, best first; equal scores in the order of (path, start).

        Args:
            terms: hash and number of each distinct term of the query, in the order in which their scores are added.
            vector_D: float32, of length 1; None: the score is BM25's, and chunks without a term are not found.
            k: number of chunks, at most.
        """
        k = min(k, len(self))
        if k < 1:
            return []
        scores_N = self.bm25(terms)
        if vector_D is None or self._vectors_ND is None:
            rows_K = best(scores_N, k, 0.0)
        else:
            window = min(max(k, RANK_WINDOW), len(self))
            by_words, by_vector = best(scores_N, window, 0.0), self.nearest(vector_D, window)
            scores_N = _fused(by_words, by_vector, len(self))
            rows_K = best(scores_N, k, 0.0)
        return [Hit(self._chunk(row), score) for row, score in zip(rows_K, scores_N[rows_K].tolist(), strict=True)]

    def find(self, chunk_id: str) -> Chunk | None:
        """Return the chunk with an id; None if the view has none."""
        try:
            wanted_2 = np.frombuffer(bytes.fromhex(chunk_id), np.uint64)
        except ValueError:
            return None
        if len(wanted_2) != 2:
            return None
        rows = np.flatnonzero((self._ids_N2[:, 0] == wanted_2[0]) & (self._ids_N2[:, 1] == wanted_2[1]))
        return self._chunk(rows[0]) if len(rows) else None

    def frequencies(self, hashes: Sequence[int]) -> list[int]:
        """Return how many of its chunks have each term, by the terms' hashes."""
        return [self._num_rows(place, each) for place, each in zip(self._places(hashes), hashes, strict=True)]

    def chunks(self) -> list[Chunk]:
        """Return all its chunks, in the order of (path, start)."""
        return [self._chunk(row) for row in range(len(self))]

    def bm25(self, terms: Sequence[tuple[int, int]]) -> Floats:
        """Return the score of each row, float64 [N]."""
        places_Q = self._places([term for term, _ in terms])
        N, weights_Q = len(self), np.zeros(len(terms))
        for number, (term, times) in enumerate(terms):
            if df := self._num_rows(places_Q[number], term):
                weights_Q[number] = times * math.log(1 + (N - df + 0.5) / (df + 0.5))
        scores_N = np.zeros(N)
        _add_scores(places_Q, weights_Q, self._bounds_T, self._rows_P, self._weights_P, scores_N)
        return scores_N

    def _places(self, hashes: Sequence[int]) -> NDArray[np.int64]:
        """Return where each term is among the terms of the view, or would be."""
        return np.searchsorted(self._terms_T, np.array(hashes, np.uint64))

    def _num_rows(self, place: int, term: int) -> int:
        """Return how many rows have the term with a hash, if it is at a place; 0 if another one is there."""
        is_there = place < len(self._terms_T) and int(self._terms_T[place]) == term
        return int(self._bounds_T[place + 1] - self._bounds_T[place]) if is_there else 0

    def nearest(self, vector_D: NDArray[Any], window: int) -> Rows:
        """Return the rows with the largest cosine, best first, int32 [min(window, N)]."""
        assert self._vectors_ND is not None
        query_D = np.ascontiguousarray(vector_D, np.float32)
        width = self._vectors_ND.shape[1]
        if query_D.shape != (width,) or not np.isfinite(query_D).all():
            raise DataError(f"the query's vector is not {width} finite numbers; encode it with the index's encoder")
        levels = min(_QUERY_LEVELS, _MOST_INT32 // (_CODE_LEVELS * len(query_D)))
        step = float(np.abs(query_D).max()) / levels or 1.0
        codes_D = np.rint(query_D / step).astype(np.int16)
        length = float(np.linalg.norm(query_D.astype(np.float64)))
        error = float(np.linalg.norm(query_D - step * codes_D.astype(np.float64)))
        lower_N, upper_N = np.empty(len(self), np.float32), np.empty(len(self), np.float32)
        _bound(self._codes_ND, self._scales_N, self._errors_N2, codes_D, step, length, error, lower_N, upper_N)
        least = lower_N[best(lower_N, window, -math.inf)[-1]]
        rows_C = np.flatnonzero(upper_N >= least).astype(np.int32)
        cosines_C = np.empty(len(rows_C))
        _similarities(self._vectors_ND, query_D, rows_C, cosines_C)
        return rows_C[best(cosines_C, window, -math.inf)]

    def _chunk(self, row: int) -> Chunk:
        segment: Segment = self._segments[self._segment_N[row]]
        return segment.chunk(int(self._chunk_N[row]))

    def _gather(self, arrays: Sequence[NDArray[Any]], none: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of the view from an array of each segment; `none` if there are no segments."""
        if not arrays:
            return none
        gathered = np.empty((len(self), *arrays[0].shape[1:]), arrays[0].dtype)
        for number, array in enumerate(arrays):
            rows = np.flatnonzero(self._segment_N == number)
            gathered[rows] = array[self._chunk_N[rows]]
        return gathered

    def _vectors(self) -> NDArray[np.float32] | None:
        vectors = [segment.vectors_ND for segment in self._segments if segment.vectors_ND is not None]
        return self._gather(vectors, vectors[0]) if vectors and len(vectors) == len(self._segments) else None

    def _postings(self) -> tuple[NDArray[np.uint64], NDArray[np.int64], Rows, NDArray[np.float32]]:
        """Join the postings of permitted chunks: terms [T], bounds of their postings [T + 1], rows and weights [P]."""
        joined = np.concatenate([np.empty(0, np.uint64), *(segment.terms_T for segment in self._segments)])
        terms_T, numbers = np.unique(joined, return_inverse=True)
        ends = np.cumsum([0, *(len(segment.terms_T) for segment in self._segments)])
        numbers_of = [np.ascontiguousarray(numbers[ends[n] : ends[n + 1]]) for n in range(len(self._segments))]
        rows_of = [self._rows_of(number) for number in range(len(self._segments))]
        df_T, next_N = np.zeros(len(terms_T), np.int64), np.zeros(len(self) + 1, np.int64)
        for segment, terms, rows in zip(self._segments, numbers_of, rows_of, strict=True):
            _count(terms, segment.postings_T, segment.chunks_P, rows, df_T, next_N)
        starts_N = np.cumsum(next_N)
        next_N = starts_N.copy()
        terms_P, counts_P = np.empty(starts_N[-1], np.int32), np.empty(starts_N[-1], np.int32)
        for segment, terms, rows in zip(self._segments, numbers_of, rows_of, strict=True):
            numbers_P = segment.chunks_P, segment.counts_P
            _place_by_row(terms, segment.postings_T, *numbers_P, rows, next_N, terms_P, counts_P)
        lengths = self._gather([segment.num_terms_N for segment in self._segments], np.empty(0, np.int32))
        lengths_N = lengths.astype(np.float64)
        mean = lengths_N.sum() / len(self) if len(self) else 1.0  # the sum of whole numbers is exact
        bounds_T = np.concatenate([[0], np.cumsum(df_T)])
        rows_P, weights_P = np.empty(bounds_T[-1], np.int32), np.empty(bounds_T[-1], np.float32)
        _place_by_term(terms_P, counts_P, starts_N, lengths_N, mean or 1.0, bounds_T[:-1].copy(), rows_P, weights_P)
        return terms_T, bounds_T, rows_P, weights_P

    def _rows_of(self, number: int) -> Rows:
        """Return the row of each chunk of a segment; -1 if it is not permitted."""
        rows = np.full(len(self._segments[number].starts_N), -1, np.int32)
        own = np.flatnonzero(self._segment_N == number)
        rows[self._chunk_N[own]] = own
        return rows


def _origins(parts: Sequence[Part]) -> tuple[Rows, Rows]:
    """Return segment and chunk of each row; rows are ordered by (path, start)."""
    documents = [
        (part.segment.paths[each], number, each) for number, part in enumerate(parts) for each in part.documents
    ]
    documents.sort()
    numbers = np.array([number for _, number, _ in documents], np.int32)
    firsts = np.array([parts[number].segment.firsts[each] for _, number, each in documents], np.int64)
    pasts = np.array([parts[number].segment.firsts[each + 1] for _, number, each in documents], np.int64)
    sizes = pasts - firsts
    begins = np.cumsum(sizes) - sizes
    chunk_N = np.arange(sizes.sum()) - np.repeat(begins - firsts, sizes)
    return np.repeat(numbers, sizes), chunk_N.astype(np.int32)


def _fused(by_words: Rows, by_vector: Rows, num_rows: int) -> Floats:
    """Return the sum of reciprocal ranks of each row, float64 [N]."""
    scores_N = np.zeros(num_rows)
    for rows in (by_words, by_vector):
        scores_N[rows] += 1.0 / (RRF_K + 1.0 + np.arange(len(rows)))
    return scores_N


def quantize(vectors_ND: NDArray[np.float32]) -> tuple[NDArray[np.int8], Floats, Floats]:
    """Return int8 codes [N, D], their scales [N], and the lengths of error and code vector of each row [N, 2].

    >>> codes, scales, errors = quantize(np.array([[3.0, -1.5]], np.float32))
    >>> codes.tolist(), bool(errors[0, 0] < scales[0])
    ([[127, -64]], True)
    """
    N, D = vectors_ND.shape
    codes_ND, scales_N, errors_N2 = np.empty((N, D), np.int8), np.empty(N), np.empty((N, 2))
    _quantize(vectors_ND, codes_ND, scales_N, errors_N2)
    return codes_ND, scales_N, errors_N2


def best(scores_N: NDArray[np.floating[Any]], k: int, above: float) -> Rows:
    """Return the rows of the k largest scores above a value, best first; of equal scores the first rows.

    >>> best(np.array([1.0, 3.0, 0.0, 3.0, 1.0]), 3, 0.0).tolist()
    [1, 3, 0]
    """
    rows_K = np.empty(max(0, min(k, len(scores_N))), np.int32)
    return rows_K[: _best(scores_N, above, rows_K)]


def _compiled(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True, boundscheck=False)(function)


@_compiled
def _count(
    terms_T: Any, postings_T: Any, chunks_P: Any, rows_N: Rows, df_T: NDArray[np.int64], next_N: NDArray[np.int64]
) -> None:
    """Count the postings of each term, and of each row one place further on."""
    p = 0
    for t in range(len(terms_T)):
        for _ in range(postings_T[t]):
            row = rows_N[chunks_P[p]]
            if row >= 0:
                df_T[terms_T[t]] += 1
                next_N[row + 1] += 1
            p += 1


@_compiled
def _place_by_row(
    terms_T: Any, postings_T: Any, chunks_P: Any, counts_P: Any, rows_N: Rows, next_N: NDArray[np.int64],
    placed_terms_P: Rows, placed_counts_P: Rows,
) -> None:  # fmt: skip
    p = 0
    for t in range(len(terms_T)):
        for _ in range(postings_T[t]):
            row = rows_N[chunks_P[p]]
            if row >= 0:
                placed_terms_P[next_N[row]] = terms_T[t]
                placed_counts_P[next_N[row]] = counts_P[p]
                next_N[row] += 1
            p += 1


@_compiled
def _place_by_term(
    terms_P: Rows, counts_P: Rows, starts_N: NDArray[np.int64], lengths_N: Floats, mean: float,
    next_T: NDArray[np.int64], rows_P: Rows, weights_P: NDArray[np.float32],
) -> None:  # fmt: skip
    """Order postings by (term, row), whatever segments they come from, and weigh them."""
    for row in range(len(lengths_N)):
        norm = K1 * (1.0 - B + B * (lengths_N[row] / mean))
        for p in range(starts_N[row], starts_N[row + 1]):
            place, tf = next_T[terms_P[p]], np.float64(counts_P[p])
            rows_P[place] = row
            weights_P[place] = tf * (K1 + 1.0) / (tf + norm)
            next_T[terms_P[p]] = place + 1


@_compiled
def _add_scores(
    places_Q: NDArray[np.int64], weights_Q: Floats, bounds_T: NDArray[np.int64], rows_P: Rows,
    weights_P: NDArray[np.float32], scores_N: Floats,
) -> None:  # fmt: skip
    for q in range(len(places_Q)):
        weight = weights_Q[q]
        if weight > 0.0:
            for p in range(bounds_T[places_Q[q]], bounds_T[places_Q[q] + 1]):
                scores_N[rows_P[p]] += weight * weights_P[p]


@_compiled
def _sink(scores_N: Floats, heap_K: Rows, size: int) -> None:
    """Move the root of a heap to its place; the root is the worst row: smallest score, of equal ones the last row."""
    place, row = 0, heap_K[0]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _is_worse(scores_N, heap_K[child + 1], heap_K[child]):
            child += 1
        if not _is_worse(scores_N, heap_K[child], row):
            break
        heap_K[place] = heap_K[child]
        place = child
    heap_K[place] = row


@_compiled
def _is_worse(scores_N: Floats, row: int, other: int) -> bool:
    return bool(scores_N[row] < scores_N[other] or (scores_N[row] == scores_N[other] and row > other))


@_compiled
def _select(scores_N: Floats, above: float, floor: float, heap_K: Rows) -> int:
    """Fill a heap with the best rows above a value and not below another; return their number."""
    size, K = 0, len(heap_K)
    for row in range(len(scores_N)):
        if scores_N[row] < floor:
            continue
        if size == K:
            if K and scores_N[row] > scores_N[heap_K[0]]:
                heap_K[0] = row
                _sink(scores_N, heap_K, size)
        elif scores_N[row] > above:
            place = size
            size += 1
            while place > 0 and _is_worse(scores_N, row, heap_K[(place - 1) // 2]):
                heap_K[place] = heap_K[(place - 1) // 2]
                place = (place - 1) // 2
            heap_K[place] = row
    return int(size)


@_compiled
def _best(scores_N: Floats, above: float, heap_K: Rows) -> int:
    """Write the best rows in order; return their number.

    The K-th largest of the maxima of blocks is not above the K-th largest score, and nearly all rows are below it.
    """
    floor, num_blocks = -np.inf, len(scores_N) // _BLOCK
    if num_blocks > len(heap_K):
        maxima = np.empty(num_blocks, scores_N.dtype)
        for block in range(num_blocks):
            largest = scores_N[block * _BLOCK]
            for row in range(block * _BLOCK + 1, (block + 1) * _BLOCK):
                largest = max(largest, scores_N[row])
            maxima[block] = largest
        if _select(maxima, -np.inf, -np.inf, heap_K):
            floor = np.float64(maxima[heap_K[0]])
    size = _select(scores_N, above, floor, heap_K)
    for last in range(size - 1, 0, -1):  # the worst goes to the end
        worst = heap_K[0]
        heap_K[0] = heap_K[last]
        _sink(scores_N, heap_K, last)
        heap_K[last] = worst
    return int(size)


@_compiled
def _quantize(vectors_ND: Any, codes_ND: NDArray[np.int8], scales_N: Floats, errors_N2: Floats) -> None:
    for n in range(vectors_ND.shape[0]):
        largest = 0.0
        for d in range(vectors_ND.shape[1]):
            largest = max(largest, abs(np.float64(vectors_ND[n, d])))
        scale = largest / _CODE_LEVELS if largest > 0.0 else 1.0
        error = length = 0.0
        for d in range(vectors_ND.shape[1]):
            code = np.rint(vectors_ND[n, d] / scale)
            codes_ND[n, d] = np.int8(code)
            error += (vectors_ND[n, d] - scale * code) ** 2
            length += (scale * code) ** 2
        scales_N[n] = scale
        errors_N2[n, 0], errors_N2[n, 1] = math.sqrt(error), math.sqrt(length)


@_compiled
def _bound(
    codes_ND: NDArray[np.int8], scales_N: Floats, errors_N2: Floats, query_D: NDArray[np.int16], step: float,
    length: float, error: float, lower_N: NDArray[np.float32], upper_N: NDArray[np.float32],
) -> None:  # fmt: skip
    """Bound the inner product of each vector and the query.

    With vector x = s * c + e and query q = t * u + f: |x.q - s * t * c.u| <= |e| * |q| + |s * c| * |f|.
    """
    for n in range(codes_ND.shape[0]):
        product = np.int32(0)
        for d in range(codes_ND.shape[1]):
            product = np.int32(product + np.int32(np.int32(codes_ND[n, d]) * np.int32(query_D[d])))  # not int64
        middle = scales_N[n] * step * product
        margin = errors_N2[n, 0] * length + errors_N2[n, 1] * error + _SLACK * length * (errors_N2[n, 1] + scales_N[n])
        lower_N[n], upper_N[n] = middle - margin, middle + margin


@_compiled
def _similarities(
    vectors_ND: NDArray[np.float32], query_D: NDArray[np.float32], rows_C: Rows, cosines_C: Floats
) -> None:
    """Compute inner products in float64: exact products, added in 8 lanes and then in order; rounded to float32."""
    D = vectors_ND.shape[1]
    lanes_8 = np.empty(8)
    for c in range(len(rows_C)):
        row = vectors_ND[rows_C[c]]
        lanes_8[:] = 0.0
        for start in range(0, D - 7, 8):
            for lane in range(8):
                lanes_8[lane] += np.float64(row[start + lane]) * np.float64(query_D[start + lane])
        total = 0.0
        for lane in range(8):
            total += lanes_8[lane]
        for d in range(D - D % 8, D):
            total += np.float64(row[d]) * np.float64(query_D[d])
        cosines_C[c] = np.float32(total)
