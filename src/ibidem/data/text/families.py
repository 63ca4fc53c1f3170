r"""Cover sets of shingles without comparing all of them: kernels for buckets, components and families.

    buckets     texts with the same key, linked if their MinHashes agree      -> edges
    components  texts that edges connect                                      -> roots
    families    the texts of a component, in order: each is dropped if a kept one is similar, or is kept

A family may have thousands of texts that are similar to each other but duplicates of none, such as pages of one
template. Texts x and y with Jaccard similarity t share `need = t / (1 + t) * (|x| + |y|)` shingles. So, in any order of
shingles, a shingle is common to the first `|x| - need + 1` of x and the first `|y| - need + 1` of y. In the order of
rising frequency, these are the shingles that x has for itself: the template comes last, and is not looked up.

    own      a b c d e | template ...      the first |x| - need + 1 lie here, as long as x and y are not similar
    lookup   by (shingle, class of lengths): `need` is known for a class, up to its width of 2 %

Nothing is missed, whatever the texts. The work grows with the pairs that share a rare shingle, not with all pairs.

Sources: Chaudhuri et al. 2006 "A primitive operator for similarity joins in data cleaning", doi:10.1109/ICDE.2006.9;
Bayardo et al. 2007 "Scaling up all pairs similarity search"; Xiao et al. 2008 "Efficient similarity joins for near
duplicate detection".
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibidem.data.text.shingles import NUM_PERMUTATIONS, Bytes, Hashes, compiled, mixed

MOST_COMPARED = 64
"""All texts of a larger bucket are linked; their sets of shingles are compared in any case."""
_MOST_COUNTER_BITS = 22
_LAST_COUNT = np.uint64((1 << 20) - 1)
_TOKEN_BITS = np.uint64(44)
_CLASS_WIDTH = 1.02
_UNKNOWN = -2.0
_ROUNDING = 1e-6  # more than the error of `need`, and less than would change an integer

Indices = NDArray[np.int64]


class Families(NamedTuple):
    """What is decided about each text; -1 if there is none."""

    keeper: Indices
    """The most similar text that is kept and covers it."""
    similarity: NDArray[np.float64]
    cluster: Indices
    """The first text of its cluster: texts linked by similarity."""


class _Sets(NamedTuple):
    shingles: Hashes
    bounds: Indices
    component: Indices


class _Index(NamedTuple):
    """The rare shingles of the texts that are kept: a hash table of chains, by shingle and class of lengths."""

    classes: Indices
    """Least length of each class."""
    heads: NDArray[Any]
    """First posting at each place, -1 if there is none."""
    postings: NDArray[Any]
    """Text, position of the shingle in it, next posting at the same place; [P, 3]."""
    tags: Hashes
    """Hash of shingle and class of each posting."""
    is_indexed: NDArray[np.bool_]
    """Whether a shingle was indexed in any class, it or another with the same place."""


def cover(
    shingles: Hashes, bounds: Indices, component: Indices, settled: NDArray[np.bool_], threshold: float
) -> Families:
    """Decide about texts in order: one is dropped if a kept one of its component is similar, otherwise it is kept.

    Args:
        shingles: the sets of all texts, one after another, each sorted.
        bounds: where the set of each text begins, and the end; [N + 1].
        component: texts of different components are not compared; [N].
        settled: texts that are kept in any case; [N].
        threshold: the Jaccard similarity from which a text is dropped.
    """
    count = len(component)
    found = Families(np.full(count, -1), np.full(count, np.nan), np.arange(count))
    if count:
        counters = np.zeros(1 << min(len(shingles).bit_length(), _MOST_COUNTER_BITS), np.uint32)
        _count(shingles, counters)
        index = _empty_index(np.diff(bounds), threshold)
        _cover(_Sets(shingles, bounds, component), settled, threshold, counters, index, found)
        resolve(found.cluster)
    return found


def _empty_index(lengths: Indices, threshold: float) -> _Index:
    most = int(((1 - threshold) * lengths + 2).sum())
    heads = np.full(1 << most.bit_length(), -1, np.int32 if most < 1 << 31 else np.int64)
    postings, tags = np.empty((most, 3), heads.dtype), np.empty(most, np.uint64)
    return _Index(_classes(int(lengths.max())), heads, postings, tags, np.zeros(len(heads), bool))


def _classes(longest: int) -> Indices:
    """Return the least length of each class, up to one beyond the longest."""
    least = [1]
    while least[-1] <= longest:
        least.append(max(least[-1] + 1, int(least[-1] * _CLASS_WIDTH)))
    return np.array(least)


@compiled
def _count(shingles: Hashes, counters: NDArray[np.uint32]) -> None:
    """Count shingles; some share a counter, which makes the order worse and stays an order."""
    mask = np.uint64(len(counters) - 1)
    for n in range(len(shingles)):
        counters[shingles[n] & mask] += np.uint32(1)


@compiled
def _rare_first(own: Hashes, counters: NDArray[np.uint32], ranked: Hashes) -> None:
    """Write the shingles of a set in the order of their frequency, as (count, the upper bits of the shingle)."""
    mask = np.uint64(len(counters) - 1)
    for n in range(len(own)):
        count = min(np.uint64(counters[own[n] & mask]), _LAST_COUNT)
        ranked[n] = (count << _TOKEN_BITS) | (own[n] >> (np.uint64(64) - _TOKEN_BITS))
    ranked.sort()


@compiled
def _needed(total: int, threshold: float) -> int:
    """Return how many shingles two sets with `total` members share at least, if they are similar."""
    return int(np.ceil(threshold / (1 + threshold) * total - _ROUNDING))


@compiled
def _shortest(length: int, threshold: float) -> int:
    """Return the least length of a set that is similar to one of this length."""
    return max(1, int(np.ceil(threshold * length - _ROUNDING)))


@compiled
def _class_of(classes: Indices, length: int) -> int:
    return int(np.searchsorted(classes, length, side="right")) - 1


@compiled
def _num_shared_at_least(a: Hashes, b: Hashes, least: int) -> int:
    """Count the common elements of two sorted sets, or return -1 as soon as they cannot be `least`."""
    i = j = shared = 0
    spare_a, spare_b = len(a) - least, len(b) - least
    while i < len(a) and j < len(b):
        x, y = a[i], b[j]
        shared += x == y
        i += x <= y
        j += y <= x
        if i - shared > spare_a or j - shared > spare_b:
            return -1
    return shared


@compiled
def _cover(
    sets: _Sets,
    settled: NDArray[np.bool_],
    threshold: float,
    counters: NDArray[np.uint32],
    index: _Index,
    found: Families,
) -> None:
    """Decide about all texts; the index holds the rare shingles of the kept ones."""
    seen, similar = np.full(len(sets.component), -1), np.empty(len(sets.component), np.int64)
    num_postings = 0
    for x in range(len(sets.component)):
        own = sets.shingles[sets.bounds[x] : sets.bounds[x + 1]]
        ranked = np.empty(len(own), np.uint64)
        _rare_first(own, counters, ranked)
        num_similar = 0 if settled[x] else _find_similar(x, ranked, sets, threshold, index, seen, similar, found)
        for n in range(num_similar):
            unite(found.cluster, x, similar[n])
        if not num_similar:
            num_postings = _index_rare(x, ranked, threshold, index, num_postings)


@compiled
def _find_similar(
    x: int,
    ranked: Hashes,
    sets: _Sets,
    threshold: float,
    index: _Index,
    seen: Indices,
    similar: Indices,
    found: Families,
) -> int:
    """Write the kept texts that are similar to a text, and its keeper; return their number.

    A place beyond `length - need` of the rare shingles is not looked up: longer texts share more, so the classes end.
    """
    length, mask, count = len(ranked), np.uint64(len(index.heads) - 1), 0
    shortest, longest = _shortest(length, threshold), int(np.floor(length / threshold + _ROUNDING))
    first_class = _class_of(index.classes, shortest)
    past_class = min(_class_of(index.classes, longest) + 1, len(index.classes))
    for a in range(length - shortest + 1):
        shingle = mixed(ranked[a])
        if not index.is_indexed[shingle & mask]:
            continue
        for c in range(first_class, past_class):
            if a > length - _needed(length + max(shortest, index.classes[c]), threshold):
                break
            tag = mixed(shingle + np.uint64(c))
            posting = index.heads[tag & mask]
            while posting >= 0:
                y, b = index.postings[posting, 0], index.postings[posting, 1]
                if index.tags[posting] == tag and seen[y] != x and sets.component[y] == sets.component[x]:
                    score = _similarity(sets, x, y, a, b, threshold)
                    seen[y] = x if score != _UNKNOWN else seen[y]
                    if score >= threshold:
                        similar[count] = y
                        count += 1
                        _choose(found, x, y, score)
                posting = index.postings[posting, 2]
    return count


@compiled
def _similarity(sets: _Sets, x: int, y: int, a: int, b: int, threshold: float) -> float:
    """Return the similarity of two texts that have a rare shingle at places a and b in common.

    Returns:
        -1 if it is below the threshold; _UNKNOWN if other rare shingles have to decide.
    """
    own, other = sets.shingles[sets.bounds[x] : sets.bounds[x + 1]], sets.shingles[sets.bounds[y] : sets.bounds[y + 1]]
    least = _needed(len(own) + len(other), threshold)
    if a > len(own) - least or b > len(other) - least:
        return _UNKNOWN
    shared = _num_shared_at_least(own, other, least)
    return -1.0 if shared < 0 else float(shared / (len(own) + len(other) - shared))


@compiled
def _choose(found: Families, x: int, y: int, score: float) -> None:
    """Let y be the keeper of x if none is more similar; of equal ones, the first is."""
    best = found.similarity[x]
    if found.keeper[x] < 0 or score > best or (score == best and y < found.keeper[x]):
        found.keeper[x], found.similarity[x] = y, score


@compiled
def _index_rare(x: int, ranked: Hashes, threshold: float, index: _Index, num_postings: int) -> int:
    """Index the rare shingles of a text that is kept; return the number of postings."""
    mask, own_class = np.uint64(len(index.heads) - 1), np.uint64(_class_of(index.classes, len(ranked)))
    for b in range(len(ranked) - _shortest(len(ranked), threshold) + 1):
        shingle = mixed(ranked[b])
        index.is_indexed[shingle & mask] = True
        tag = mixed(shingle + own_class)
        index.postings[num_postings, 0], index.postings[num_postings, 1] = x, b
        index.postings[num_postings, 2] = index.heads[tag & mask]
        index.tags[num_postings] = tag
        index.heads[tag & mask] = num_postings
        num_postings += 1
    return num_postings


@compiled
def unite(root: Indices, a: int, b: int) -> bool:
    """Merge the trees of two texts under the lesser root; return whether they were apart."""
    while root[a] != a:
        root[a] = root[root[a]]
        a = root[a]
    while root[b] != b:
        root[b] = root[root[b]]
        b = root[b]
    root[max(a, b)] = min(a, b)
    return bool(a != b)


@compiled
def unite_all(root: Indices, edges: Indices) -> None:
    """Merge the trees of the texts that edges [E, 2] link."""
    for n in range(len(edges)):
        unite(root, edges[n, 0], edges[n, 1])


@compiled
def resolve(root: Indices) -> None:
    """Replace each parent by the root, the least of the tree; -1 for a text that is alone."""
    alone = np.ones(len(root), np.bool_)
    for n in range(len(root)):
        root[n] = root[root[n]]  # which is resolved already, for parents are less
        if root[n] != n:
            alone[n] = alone[root[n]] = False
    for n in range(len(root)):
        if alone[n]:
            root[n] = -1


@compiled
def batches(root: Indices, size: int) -> Indices:
    """Split the components into ranges of roots with about `size` texts; return where each begins, and the end."""
    sizes = np.zeros(len(root), np.int32)
    for n in range(len(root)):
        if root[n] >= 0:
            sizes[root[n]] += 1
    starts = [np.int64(0)]
    inside = 0
    for n in range(len(root)):
        inside += sizes[n]
        if inside >= size:
            starts.append(np.int64(n + 1))
            inside = 0
    if starts[-1] < len(root):
        starts.append(np.int64(len(root)))
    return np.array(starts)


def link(signatures: Bytes, buckets: Indices, texts: Indices, first_open: int, least: float, root: Indices) -> Indices:
    """Link the texts of each bucket whose MinHashes agree; return the edges [E, 2] that connect what was apart.

    Args:
        signatures: the lowest byte of each MinHash of each text; [N, H].
        buckets: bucket of each entry, sorted; [K].
        texts: text of each entry, ascending in each bucket; [K].
        first_open: texts before it are settled: two of them are not compared.
        least: number of equal MinHashes from which two texts agree.
        root: tree of each text, merged here; [N].
    """
    edges = np.empty((len(buckets), 2), np.int64)
    return edges[: _link(signatures, buckets, texts, first_open, least, root, edges)]


@compiled
def _link(
    signatures: Bytes, buckets: Indices, texts: Indices, first_open: int, least: float, root: Indices, edges: Indices
) -> int:
    count = start = 0
    for end in range(1, len(buckets) + 1):
        if end < len(buckets) and buckets[end] == buckets[start]:
            continue
        is_large = end - start > MOST_COMPARED and texts[end - 1] >= first_open
        for j in range(start + 1, end):
            for i in range(start, start + 1 if is_large else j if texts[j] >= first_open else start):
                if _find(root, texts[i]) == _find(root, texts[j]):
                    continue
                if is_large or _num_equal(signatures, texts[i], texts[j]) >= least:
                    unite(root, texts[i], texts[j])
                    edges[count, 0], edges[count, 1] = texts[i], texts[j]
                    count += 1
        start = end
    return count


@compiled
def _num_equal(signatures: Bytes, a: int, b: int) -> int:
    agreed = 0
    for p in range(NUM_PERMUTATIONS):
        agreed += signatures[a, p] == signatures[b, p]
    return agreed


@compiled
def _find(root: Indices, n: int) -> int:
    while root[n] != n:
        n = root[n]
    return n


@compiled
def gather(source: Hashes, starts: Indices, lengths: Indices, places: Indices, target: Hashes) -> None:
    """Copy slices of the source to places in the target."""
    for n in range(len(starts)):
        for k in range(lengths[n]):
            target[places[n] + k] = source[starts[n] + k]
