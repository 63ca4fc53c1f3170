"""Duplicates: every document that a kept one covers goes, and no other.

    sketch      each text, once, in the stage that cleans it        -> SKETCH rows
    equal       the same words in the same order                    -> the first represents the others
    candidates  those that agree in a band of MinHash, or in the bits of SimHash, and in most MinHashes
    verify      exact Jaccard similarity of the 5-word shingles     -> candidates that are not similar stay
    cover       in the order of the sources: keep a document unless one that is kept is similar to it

Every removed document is thus covered by a kept one, with at least the required similarity: a chain of documents, each
similar to the next, does not shrink to one. Documents linked by similarity share a cluster, named after its first.
What grows with the corpus is on disk; memory holds only a few numbers per document, for each worker.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ibidem import log
from ibidem.config import configuration
from ibidem.data import shards
from ibidem.data.engine import Engine

SKETCH = np.dtype(
    [
        ("sha256", "<u8", 4),  # of the text
        ("sequence", "<u8"),  # of its words
        ("simhash", "<u8"),
        ("signature", "<u4", 112),  # MinHash: the share of equal values estimates the similarity
    ]
)
Indices = NDArray[np.int64]
_SETS_IN_MEMORY = 512


@configuration
class DedupPolicy:
    """Which documents are duplicates."""

    exact: bool = True
    """Remove documents with the same text as a kept one; `near` includes this."""
    near: bool = True
    """Remove documents whose set of 5-word shingles is similar to that of a kept one."""
    simhash: bool = True
    """Find candidate pairs by SimHash as well as by bands of MinHash; both are verified."""
    similarity: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity from which a document is a near duplicate."""
    against: tuple[Path, ...] = ()
    """Existing datasets to deduplicate against: their near duplicates are dropped here."""


class Part(NamedTuple):
    """Documents with their sketches: `text` is a Parquet shard or an Arrow file with the same rows."""

    sketch: Path
    text: Path


class _Documents(NamedTuple):
    """All documents that are compared."""

    parts: Sequence[Part]
    sketches: Sequence[NDArray[Any]]
    bounds: Indices
    """Index of the first document of each part, [parts + 1]."""
    first_open: int
    """Index of the first document that is not kept already."""


@dataclass(frozen=True)
class Duplicates:
    """The decision about each document, in the order of the parts; -1 if there is no keeper or no cluster."""

    keeper: Indices
    """Index of the kept document that covers it."""
    similarity: NDArray[np.float64]
    cluster: Indices
    """Index of the first document of its cluster."""


def sketch_texts(texts: pa.LargeStringArray, sha256s: Sequence[str], *, near: bool) -> NDArray[Any]:
    """Compute SKETCH rows of texts; without `near`, only what exact duplicates need."""
    rows = np.zeros(len(texts), SKETCH)
    rows["sha256"] = np.frombuffer(bytes.fromhex("".join(sha256s)), "<u8").reshape(-1, 4)
    if near:
        from ibidem.data.text import shingles

        rows["signature"], rows["simhash"], rows["sequence"] = shingles.sketch(texts)
    return rows


def load_sketches(parts: Sequence[Part]) -> tuple[list[NDArray[Any]], Indices]:
    """Memory-map the sketches of parts; return them and the index of the first document of each part, [parts + 1]."""
    mapped = (np.load(part.sketch, mmap_mode="r") for part in parts)
    sketches = [sketch.view(np.ndarray) for sketch in mapped]  # slices of a memmap are memmaps too, which is slow
    return sketches, np.cumsum([0, *map(len, sketches)])


def find_duplicates(
    parts: Sequence[Part], policy: DedupPolicy, engine: Engine, scratch: Path, *, num_settled: int = 0
) -> Duplicates:
    """Decide which documents are duplicates, and show how many are decided.

    Args:
        parts: in order of precedence.
        policy: what counts as a duplicate.
        engine: processes several parts at a time.
        scratch: folder for what does not fit into memory.
        num_settled: number of leading parts whose documents are all kept already.
    """
    sketches, bounds = load_sketches(parts)
    total, documents = int(bounds[-1]), _Documents(parts, sketches, bounds, int(bounds[num_settled]))
    with log.progress("preprocess.deduplicate", total, "documents") as bar:
        duplicates = _decide(documents, policy, engine, scratch, bar)
        bar.advance(total - bar.done)
    return duplicates


def _decide(documents: _Documents, policy: DedupPolicy, engine: Engine, scratch: Path, bar: log.Bar) -> Duplicates:
    parts, sketches, bounds, first_open = documents
    equal = ["sequence"] if policy.near else ["sha256"]
    first = _first_of_equal(*(column.T for name in equal for column in [_column(sketches, name)]))
    first[:first_open] = np.arange(first_open)
    keeper, similarity = np.full(len(first), -1), np.full(len(first), np.nan)
    if not policy.exact and not policy.near:
        return Duplicates(keeper, similarity, keeper)
    root = np.arange(len(first))
    if policy.near:
        originals = np.flatnonzero(first == np.arange(len(first)))
        bar.advance(len(first) - len(originals))
        entries = _candidates(sketches, originals, first_open, simhash=policy.simhash, workers=engine.workers)
        entries = _likely(sketches, bounds, entries, policy.similarity)
        sets = _write_sets(parts, bounds, np.unique(entries[0]), engine, scratch)
        bar.advance(len(originals) - len(sets.documents))
        for document, kept, similar, linked in _cover(entries, sets, policy.similarity, first_open, bar):
            keeper[document], similarity[document] = kept, similar
            _link(root, [document, *linked])
    copies = np.flatnonzero(first != np.arange(len(first)))
    originals = first[copies]
    covered = keeper[originals] >= 0
    keeper[copies] = np.where(covered, keeper[originals], originals)
    similarity[copies] = np.where(covered, similarity[originals], 1.0)
    root = _resolved(root)
    root[copies] = root[originals]
    return Duplicates(keeper, similarity, np.where(_is_shared(root), root, -1))


def agreement(signature: NDArray[np.uint32], others: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Estimate the similarity of one signature [H] with others [N, H]: the share of equal MinHashes."""
    return np.asarray((others == signature).mean(axis=1))


def _column(sketches: Sequence[NDArray[Any]], name: str) -> NDArray[np.uint64]:
    return np.concatenate([sketch[name] for sketch in sketches])


def _first_of_equal(*columns: NDArray[np.uint64]) -> Indices:
    """Return the first row with equal values for each row; columns are [N] or [words, N]."""
    keys = np.vstack(columns)
    order = np.lexsort(keys)
    starts = np.append(True, (keys[:, order[1:]] != keys[:, order[:-1]]).any(axis=0))[: len(order)]
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    return first


def _candidates(
    sketches: Sequence[NDArray[Any]], documents: Indices, first_open: int, *, simhash: bool, workers: int
) -> tuple[Indices, Indices]:
    """Group documents that share a key into buckets; return (document, bucket) entries sorted by document."""
    from ibidem.data.text import shingles

    simhashes = _column(sketches, "simhash")[documents] if simhash else np.empty(0, np.uint64)

    def entries(number: int) -> tuple[Indices, Indices]:
        if number < shingles.NUM_KEYS:
            keys = np.concatenate([shingles.band_keys(sketch["signature"], number) for sketch in sketches])[documents]
        else:
            keys = simhashes & shingles.SIMHASH_MASKS[number - shingles.NUM_KEYS]
        compared = documents
        if first_open:  # settled documents come first; only those that share a key with a new one are compared
            has_key = shingles.HashSet(keys[first_open:]).has(keys[:first_open])
            chosen = np.append(np.flatnonzero(has_key), np.arange(first_open, len(documents)))
            keys, compared = keys[chosen], documents[chosen]
        first = shingles.first_equal(keys)
        sizes = np.bincount(first, minlength=len(first))
        inside = np.flatnonzero(sizes[first] > 1)
        return compared[inside], first[inside] + number * len(documents)

    num_keys = shingles.NUM_KEYS + (len(shingles.SIMHASH_MASKS) if simhash else 0)
    with ThreadPoolExecutor(workers) as pool:
        per_key = list(pool.map(entries, range(num_keys)))
    entry_documents = np.concatenate([entry[0] for entry in per_key])
    order = np.argsort(entry_documents, kind="stable")
    return entry_documents[order], np.concatenate([entry[1] for entry in per_key])[order]


def _likely(
    sketches: Sequence[NDArray[Any]], bounds: Indices, entries: tuple[Indices, Indices], threshold: float
) -> tuple[Indices, Indices]:
    """Remove documents whose MinHashes agree too rarely with those of all others in their buckets.

    Too rarely means 4 standard deviations below the required similarity.
    """
    from ibidem.data.text import shingles

    documents, buckets = entries
    candidates, places = np.unique(documents, return_inverse=True)
    starts = np.searchsorted(candidates, bounds)
    signatures = [
        sketch["signature"][candidates[start:end] - first].astype(np.uint8)
        for sketch, first, start, end in zip(sketches, bounds, starts, starts[1:], strict=False)
    ]
    deviation = (threshold * (1 - threshold) / shingles.NUM_PERMUTATIONS) ** 0.5
    least = shingles.NUM_PERMUTATIONS * (threshold - 4 * deviation)
    order = np.argsort(buckets, kind="stable")
    likely = np.zeros(len(candidates), bool)
    shingles.mark_agreeing(np.concatenate(signatures), buckets[order], places[order], least, likely)
    inside = likely[places]
    return documents[inside], buckets[inside]


class _Sets(NamedTuple):
    """Locations of the shingle sets on disk, one for each document."""

    documents: Indices
    file: NDArray[np.int64]
    start: Indices
    length: Indices
    paths: list[Path]

    def get(self, place: int) -> NDArray[np.uint64]:
        """Read the set at a place in `documents`."""
        file = os.open(self.paths[self.file[place]], os.O_RDONLY)
        try:
            return np.frombuffer(os.pread(file, 8 * int(self.length[place]), 8 * int(self.start[place])), np.uint64)
        finally:
            os.close(file)


def _write_sets(parts: Sequence[Part], bounds: Indices, documents: Indices, engine: Engine, scratch: Path) -> _Sets:
    scratch.mkdir(parents=True, exist_ok=True)
    numbers = np.searchsorted(bounds, documents, side="right") - 1
    tasks = [
        (parts[number].text, documents[numbers == number] - bounds[number], scratch / f"sets-{number:05d}.bin", number)
        for number in np.unique(numbers)
    ]
    lengths = dict(engine.map(_write_part_sets, tasks, processes=False))
    length = np.concatenate([lengths[task[3]] for task in tasks]) if tasks else np.empty(0, np.int64)
    start = np.concatenate([np.cumsum(lengths[task[3]]) - lengths[task[3]] for task in tasks]) if tasks else length
    files = np.searchsorted([task[3] for task in tasks], numbers)
    return _Sets(documents, files, start, length, [task[2] for task in tasks])


def _write_part_sets(task: tuple[Path, Indices, Path, int]) -> tuple[int, Indices]:
    from ibidem.data.text import shingles

    text, rows, path, number = task
    lengths = []
    partial_path = path.with_name(f".{path.name}.{os.getpid()}")
    with partial_path.open("wb") as file:
        for shingle_set in chain.from_iterable(map(shingles.shingle_sets, shards.read_texts(text, rows))):
            file.write(shingle_set.data)
            lengths.append(len(shingle_set))
    partial_path.replace(path)
    return number, np.array(lengths, np.int64)


def _cover(
    entries: tuple[Indices, Indices], sets: _Sets, threshold: float, first_open: int, bar: log.Bar
) -> Iterator[tuple[int, int, float, list[int]]]:
    """Yield (document, its keeper, similarity, all kept documents similar to it) for each covered document.

    The entries contain the same documents as the sets, in the same order; a place is an index into these.
    """
    from ibidem.data.text.shingles import jaccard

    kept_in: defaultdict[int, list[int]] = defaultdict(list)
    documents, buckets = entries
    lengths, read = sets.length.tolist(), lru_cache(_SETS_IN_MEMORY)(sets.get)
    borders = np.flatnonzero(np.append(True, documents[1:] != documents[:-1]))[: len(documents)].tolist()
    for place, (start, end) in enumerate(pairwise([*borders, len(documents)])):
        bar.advance()
        document, own = int(documents[start]), buckets[start:end].tolist()
        candidates = sorted({kept for bucket in own for kept in kept_in[bucket]}) if document >= first_open else ()
        length = lengths[place]
        alike = [k for k in candidates if min(length, lengths[k]) / max(length, lengths[k]) >= threshold]
        shingles = read(place) if alike else None
        similar = {}
        for kept in alike:
            score = jaccard(shingles, read(kept))
            if score >= threshold:
                similar[kept] = score
        if similar:
            best = max(similar, key=lambda kept: (similar[kept], -kept))
            yield document, int(sets.documents[best]), similar[best], sets.documents[list(similar)].tolist()
        else:
            for bucket in own:
                kept_in[bucket].append(place)


def _link(root: Indices, documents: Sequence[int]) -> None:
    """Merge the clusters of documents under the least of their roots."""
    roots = [_find(root, document) for document in documents]
    root[roots] = min(roots)


def _find(root: Indices, document: int) -> int:
    while root[document] != document:
        root[document] = root[root[document]]
        document = int(root[document])
    return document


def _resolved(root: Indices) -> Indices:
    while True:
        above = root[root]
        if (above == root).all():
            return root
        root = above


def _is_shared(root: Indices) -> NDArray[np.bool_]:
    return np.asarray(np.bincount(root, minlength=len(root))[root] > 1)
