"""Near duplicates as tasks: each reads and writes arrays, and none sees the whole corpus.

    scatter   by group of documents     all keys of a document, sorted by (prefix, key number)      keys-G, signatures-G
    link      by (prefix, key numbers)  documents with the same key whose MinHashes agree           edges-L
    connect   here                      components of all edges                                     roots
    sets      by group                  sets of shingles of the documents in components, by root    sets-G
    cover     by range of components    which are kept, by exact Jaccard similarity                 outcomes-C

Connecting takes 13 bytes a document, and everything else is on disk. Tasks are cut by numbers of documents, never by
workers, so that a run that was killed goes on with any other number of them.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ibidem import log
from ibidem.data import exchange, shards
from ibidem.data.engine import Engine
from ibidem.data.exchange import Array, Hashes, Indices
from ibidem.files import on_each

OUTCOME = np.dtype([("document", "<i8"), ("keeper", "<i8"), ("similarity", "<f8"), ("cluster", "<i8")])
_SET = np.dtype([("root", "<i8"), ("document", "<i8"), ("start", "<i8"), ("length", "<i8")])
_GROUP_DOCUMENTS, _GROUP_GROWTH = 1 << 14, 8
_GROUPS_OF_A_PARTITION = 4
_BATCH_DOCUMENTS, _BATCH_GROWTH = 1 << 13, 4
_KEYS_OF_A_TASK = 1 << 20
_DEVIATIONS = 4


class Part(NamedTuple):
    """Documents with their sketches: `text` is a Parquet shard or an Arrow file with the same rows."""

    sketch: Path
    text: Path


class Group(NamedTuple):
    """Consecutive parts that one task reads."""

    number: int
    parts: Sequence[Part]
    bounds: Indices
    """Index of the first document of each part, and the end; [parts + 1]."""
    is_settled: bool
    """Whether all documents are kept already."""

    @property
    def start(self) -> int:
        return int(self.bounds[0])

    @property
    def end(self) -> int:
        return int(self.bounds[-1])

    def column(self, name: str) -> Array:
        """Read a column of the sketches."""
        return np.concatenate([exchange.load(part.sketch)[name] for part in self.parts])


class Layout(NamedTuple):
    """What every task knows: where the files are, and which documents are in which."""

    folder: Path
    bounds: Indices
    """Index of the first document of each group, and the end; [groups + 1]."""
    first_open: int
    """Index of the first document that is not kept already."""
    bits: int
    """Of a key that name its partition."""

    def path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:06d}.npy"

    def split(self, documents: Indices) -> list[tuple[int, slice]]:
        """Return the groups of ascending documents, each with the slice of those in it."""
        numbers = np.unique(np.searchsorted(self.bounds, documents, side="right") - 1).tolist()
        return [(n, exchange.between(documents, self.bounds[n], self.bounds[n + 1])) for n in numbers]


class Threshold(NamedTuple):
    """From which similarity a document is a near duplicate, and by which keys candidates are found."""

    similarity: float
    simhash: bool


def lay_out(parts: Sequence[Part], num_settled: int, folder: Path, engine: Engine) -> tuple[Layout, list[Group]]:
    """Group parts by their number of documents.

    Groups and partitions grow with the square root of the corpus, and so does their number.
    """
    sizes = on_each(_num_documents, parts, engine)
    bounds = np.cumsum([0, *sizes])
    most = max(_GROUP_DOCUMENTS, _GROUP_GROWTH * math.isqrt(int(bounds[-1])))
    starts = [0]
    for number in range(1, len(parts)):
        if number == num_settled or bounds[number + 1] - bounds[starts[-1]] > most:
            starts.append(number)
    ends = [*starts[1:], len(parts)]
    groups = [
        Group(number, parts[start:end], bounds[start : end + 1], end <= num_settled)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        if end > start
    ]
    bits = max(0, math.ceil(math.log2(max(1, bounds[-1]) / (_GROUPS_OF_A_PARTITION * most))))
    return Layout(folder, bounds[[*starts, len(parts)]], int(bounds[num_settled]), bits), groups


def _num_documents(part: Part) -> int:
    return exchange.length(part.sketch)


def find_near(layout: Layout, groups: Sequence[Group], threshold: Threshold, engine: Engine, bar: log.Bar) -> Indices:
    """Decide which originals are near duplicates; return the least root of each batch of outcomes, and the end."""
    run(engine, partial(_scatter, layout, threshold), groups)
    run(engine, partial(_link, layout, threshold), _link_tasks(layout, threshold))
    batches, num_compared = _connect(layout, threshold)
    bar.advance(int(layout.bounds[-1]) - num_compared - bar.done)
    run(engine, partial(_write_sets, layout), groups)
    tasks = [(number, start, end) for number, (start, end) in enumerate(pairwise(batches.tolist()))]
    for count in engine.map(partial(_cover, layout, threshold), tasks, processes=False):
        bar.advance(count)
    return batches


def outcomes_of(layout: Layout, batches: Indices, documents: Indices) -> Array:
    """Read what was decided about originals; documents about which nothing was have -1 everywhere."""
    found = nothing_about(documents)
    if not len(batches):
        return found
    roots = exchange.kept_open(layout.path("roots", 0))[documents]
    numbers = np.where(roots >= 0, np.searchsorted(batches, roots, side="right") - 1, -1)
    for number in np.unique(numbers[numbers >= 0]).tolist():
        places, outcomes = np.flatnonzero(numbers == number), exchange.kept_open(layout.path("outcomes", number))
        rows = np.searchsorted(outcomes["document"], documents[places])
        known = rows < len(outcomes)
        known[known] = outcomes["document"][rows[known]] == documents[places[known]]
        found[places[known]] = outcomes[rows[known]]
    return found


def nothing_about(documents: Indices) -> Array:
    """Return outcomes without keeper and cluster."""
    found = np.empty(len(documents), OUTCOME)
    found["document"], found["keeper"], found["similarity"], found["cluster"] = documents, -1, np.nan, -1
    return found


def copies_between(layout: Layout, start: int, end: int) -> Indices:
    """Return the documents of a range that are copies, and their originals; [2, C]."""
    found = [np.empty((2, 0), np.int64)]
    for partition in range(1 << layout.bits):
        copies = exchange.kept_open(layout.path("copies", partition))
        found.append(copies[:, exchange.between(copies[0], start, end)])
    pairs = np.concatenate(found, axis=1)
    return pairs[:, np.argsort(pairs[0])]


def run(engine: Engine, function: "partial[None]", tasks: Sequence[object]) -> None:
    """Run tasks whose results are files."""
    for _ in engine.map(function, tasks, processes=False):
        pass


def _num_keys(threshold: Threshold) -> int:
    from ibidem.data.text import shingles

    return shingles.NUM_KEYS + (len(shingles.SIMHASH_MASKS) if threshold.simhash else 0)


def _scatter(layout: Layout, threshold: Threshold, group: Group) -> None:
    """Write the keys of the originals of a group, sorted by partition, and all signatures."""
    target = layout.path("keys", group.number)
    if target.is_file():
        return
    rows = np.delete(
        np.arange(group.end - group.start), copies_between(layout, group.start, group.end)[0] - group.start
    )
    signatures, simhashes = group.column("signature"), group.column("simhash")[rows]
    exchange.save(layout.path("signatures", group.number), signatures.astype(np.uint8))
    keys = _all_keys(signatures[rows], simhashes, _num_keys(threshold))
    partitions = (exchange.prefixes(keys, layout.bits) * len(keys) + np.arange(len(keys))[:, None]).ravel()
    order, bounds = exchange.in_order(partitions, len(keys) << layout.bits)
    exchange.save(layout.path("places", group.number), bounds)
    exchange.save(layout.path("rows", group.number), np.tile(rows.astype(np.uint32), len(keys))[order])
    exchange.save(target, keys.ravel()[order])


def _all_keys(signatures: NDArray[np.uint32], simhashes: Hashes, count: int) -> Hashes:
    """Compute the keys of documents; [keys, N]."""
    from ibidem.data.text import shingles

    keys = np.empty((count, len(simhashes)), np.uint64)
    for number in range(count):
        if number < shingles.NUM_KEYS:
            keys[number] = shingles.band_keys(signatures, number)
        else:
            keys[number] = shingles.simhash_keys(simhashes, number - shingles.NUM_KEYS)
    return keys


def _link_tasks(layout: Layout, threshold: Threshold) -> list[tuple[int, int, range]]:
    """Cut key numbers and partitions into tasks (number, partition, key numbers)."""
    count, each = _num_keys(threshold), max(1, int(layout.bounds[-1]) >> layout.bits)
    step = max(1, _KEYS_OF_A_TASK // each)
    cut = [
        (partition, range(start, min(start + step, count)))
        for partition in range(1 << layout.bits)
        for start in range(0, count, step)
    ]
    return [(number, partition, numbers) for number, (partition, numbers) in enumerate(cut)]


def _link(layout: Layout, threshold: Threshold, task: tuple[int, int, range]) -> None:
    """Write edges that connect the documents of one partition that share one of some keys, if they agree."""
    from ibidem.data.text import families

    number, partition, key_numbers = task
    target = layout.path("edges", number)
    if target.is_file():
        return
    found = [_buckets(*keys) for keys in _keys_of(layout, partition, key_numbers, _num_keys(threshold))]
    known = _merged([documents for _, _, documents in found])
    signatures, root, edges = _signatures(layout, known), np.arange(len(known)), []
    first_open, least = int(np.searchsorted(known, layout.first_open)), _least_agreement(threshold.similarity)
    for buckets, order, documents in found:
        places = np.searchsorted(known, documents)[order]
        edges.append(known[families.link(signatures, buckets, places, first_open, least, root)])
    exchange.save(target, np.concatenate(edges))


def _least_agreement(similarity: float) -> float:
    """Return the number of equal MinHashes that all but 1 in 10,000 similar documents exceed."""
    from ibidem.data.text import shingles

    deviation = (similarity * (1 - similarity) / shingles.NUM_PERMUTATIONS) ** 0.5
    return float(shingles.NUM_PERMUTATIONS * (similarity - _DEVIATIONS * deviation))


def _merged(rows: Sequence[Indices]) -> Indices:
    """Return the elements of ascending rows, ascending, each once."""
    together = np.concatenate(rows)
    together.sort(kind="stable")  # merges what is in order already
    return together[np.append(True, together[1:] != together[:-1])] if len(together) else together


def _buckets(keys: Hashes, documents: Indices) -> tuple[Indices, Indices, Indices]:
    """Return the documents whose key another one has, and the order in which they stand bucket by bucket.

    Args:
        keys: of each document.
        documents: ascending.

    Returns:
        The bucket of each, sorted; its place among the documents; the documents, ascending.
    """
    from ibidem.data.text import shingles

    first = shingles.first_equal(keys)
    inside = np.flatnonzero(np.bincount(first, minlength=len(first))[first] > 1)
    order = np.argsort(first[inside], kind="stable")
    return first[inside[order]], order, documents[inside]


def _keys_of(layout: Layout, partition: int, key_numbers: range, num_keys: int) -> Iterator[tuple[Hashes, Indices]]:
    """Yield for each number the keys of a partition, and their documents, ascending."""
    first, past = partition * num_keys + key_numbers.start, partition * num_keys + key_numbers.stop
    keys, documents, places = [], [], []
    for group, start in enumerate(layout.bounds[:-1].tolist()):
        bounds = exchange.kept_open(layout.path("places", group))[first : past + 1]
        keys.append(exchange.rows(layout.path("keys", group), bounds[0], bounds[-1]))
        rows = exchange.rows(layout.path("rows", group), bounds[0], bounds[-1])
        documents.append(rows.astype(np.int64) + start)
        places.append((bounds - bounds[0]).tolist())
    for number in range(len(key_numbers)):
        slices = [slice(bounds[number], bounds[number + 1]) for bounds in places]
        yield _joined(keys, slices), _joined(documents, slices)


def _joined(arrays: Sequence[Array], slices: Sequence[slice]) -> Array:
    return np.concatenate([array[inside] for array, inside in zip(arrays, slices, strict=True)])


def _signatures(layout: Layout, documents: Indices) -> NDArray[np.uint8]:
    from ibidem.data.text import shingles

    found = [np.empty((0, shingles.NUM_PERMUTATIONS), np.uint8)]
    for group, inside in layout.split(documents):
        found.append(exchange.kept_open(layout.path("signatures", group))[documents[inside] - layout.bounds[group]])
    return np.concatenate(found)


def _connect(layout: Layout, threshold: Threshold) -> tuple[Indices, int]:
    """Write the component of each document; return the ranges of roots to cover, and the number of documents there."""
    from ibidem.data.text import families

    target = layout.path("roots", 0)
    if not target.is_file():
        root = np.arange(layout.bounds[-1])
        for edges in exchange.load_each([layout.path("edges", n) for n, _, _ in _link_tasks(layout, threshold)]):
            families.unite_all(root, edges)
        families.resolve(root)
        exchange.save(target, root)
        del root
    roots = exchange.load(target)
    size = max(_BATCH_DOCUMENTS, _BATCH_GROWTH * math.isqrt(len(roots)))
    return families.batches(roots, size), int(np.count_nonzero(roots >= 0))


def _write_sets(layout: Layout, group: Group) -> None:
    """Write the sets of shingles of the documents of a group that are in components, and where each is, by root."""
    from ibidem.data.text import shingles

    target = layout.path("sets", group.number)
    if target.is_file():
        return
    roots = exchange.rows(layout.path("roots", 0), group.start, group.end)
    rows = np.flatnonzero(roots >= 0)
    order = np.argsort(roots[rows], kind="stable")
    sets = [own for texts in _texts(group, rows) for own in shingles.body_sets(texts)]
    index = np.empty(len(rows), _SET)
    index["root"], index["document"] = roots[rows[order]], group.start + rows[order]
    index["length"] = [len(sets[row]) for row in order]
    index["start"] = np.cumsum(index["length"]) - index["length"]

    def write(file: BinaryIO) -> None:
        file.writelines(sets[row].data for row in order)

    exchange.replace(target.with_suffix(".bin"), write)
    exchange.save(target, index)


def _texts(group: Group, rows: Indices) -> Iterator[pa.LargeStringArray]:
    documents = group.start + rows
    for part, start, end in zip(group.parts, group.bounds, group.bounds[1:], strict=False):
        yield from shards.read_texts(part.text, documents[exchange.between(documents, start, end)] - start)


def _cover(layout: Layout, threshold: Threshold, task: tuple[int, int, int]) -> int:
    """Cover the components with roots in a range; return the number of their documents."""
    from ibidem.data.text import families

    number, start, end = task
    target = layout.path("outcomes", number)
    index, groups = _index_of(layout, start, end)
    if not target.is_file():
        documents, bounds = index["document"].copy(), np.cumsum([0, *index["length"]])
        found = families.cover(
            _sets(layout, index, groups, bounds),
            bounds,
            index["root"].copy(),
            documents < layout.first_open,
            threshold.similarity,
        )
        outcomes = nothing_about(documents)
        outcomes["similarity"] = found.similarity
        outcomes["keeper"] = np.where(found.keeper >= 0, documents[found.keeper], -1)
        outcomes["cluster"] = np.where(found.cluster >= 0, documents[found.cluster], -1)
        outcomes = outcomes[outcomes["cluster"] >= 0]
        exchange.save(target, outcomes[np.argsort(outcomes["document"])])
    return len(index)


def _index_of(layout: Layout, start: int, end: int) -> tuple[Array, Indices]:
    """Read where the sets of some components are, by component and document, and the group of each."""
    slices = []
    for group in range(len(layout.bounds) - 1):
        index = exchange.kept_open(layout.path("sets", group))
        slices.append(index[exchange.between(index["root"], start, end)])
    index = np.concatenate(slices)
    order = np.lexsort((index["document"], index["root"]))
    return index[order], np.repeat(np.arange(len(slices)), list(map(len, slices)))[order]


def _sets(layout: Layout, index: Array, groups: Indices, bounds: Indices) -> Hashes:
    from ibidem.data.text import families

    sets = np.empty(bounds[-1], np.uint64)
    for group in np.unique(groups).tolist():
        places = np.flatnonzero(groups == group)
        starts, lengths = index["start"][places], index["length"][places]  # one after another, for they are by root
        source = exchange.rows(layout.path("sets", group).with_suffix(".bin"), starts[0], starts[-1] + lengths[-1])
        families.gather(source, starts - starts[0], lengths, bounds[places], sets)
    return sets
