"""Duplicates: every document that a kept one covers goes, and no other.

    sketch      each text, once, in the stage that cleans it        -> SKETCH rows
    equal       the same words in the same order                    -> the first represents the others
    near        candidates by keys, verified by exact Jaccard similarity of the 5-word shingles (see `near`)
                in the order of the sources: keep a document unless one that is kept is similar to it
    resolve     what is decided about each document, copies included

Every removed document is thus covered by a kept one, with at least the required similarity: a chain of documents, each
similar to the next, does not shrink to one. Documents linked by similarity share a cluster, named after its first.

Every step is a set of tasks over groups of documents, ranges of keys or components, which exchange arrays through a
folder; only components are found in the driver, which takes 13 bytes a document.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from ibidem import log
from ibidem.config import configuration
from ibidem.data import exchange, near
from ibidem.data.engine import Engine
from ibidem.data.exchange import Array, Indices
from ibidem.data.near import Group, Layout, Part, Threshold

SKETCH = np.dtype(
    [
        ("sha256", "<u8", 4),  # of the text
        ("sequence", "<u8"),  # of its words
        ("simhash", "<u8"),
        ("signature", "<u4", 112),  # MinHash: the share of equal values estimates the similarity
    ]
)


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


class Decisions(NamedTuple):
    """What is decided about the documents, in files."""

    layout: Layout
    groups: Sequence[Group]

    def of(self, group: Group) -> Array:
        """Read the decisions about the documents of a group that are dropped or in a cluster, in order."""
        return read_decisions(self.layout, group)

    def clusters(self) -> dict[str, int]:
        """Count clusters and their documents."""
        sizes = np.zeros(int(self.layout.bounds[-1]), np.int32)
        for found in exchange.load_each([self.layout.path("decisions", group.number) for group in self.groups]):
            heads, counts = np.unique(found["cluster"], return_counts=True)
            sizes[heads] += counts
        return {
            "clusters": int(np.count_nonzero(sizes)),
            "documents": int(sizes.sum()),
            "largest": int(sizes.max(initial=0)),
        }


def read_decisions(layout: Layout, group: Group) -> Array:
    """Read the decisions about the documents of a group that are dropped or in a cluster, in order."""
    return exchange.load(layout.path("decisions", group.number))


def sketch_texts(texts: pa.LargeStringArray, sha256s: Sequence[str], *, near: bool) -> NDArray[Any]:
    """Compute SKETCH rows of texts; without `near`, only what exact duplicates need."""
    rows = np.zeros(len(texts), SKETCH)
    rows["sha256"] = np.frombuffer(bytes.fromhex("".join(sha256s)), "<u8").reshape(-1, 4)
    if near:
        from ibidem.data.text import shingles

        rows["signature"], rows["simhash"], rows["sequence"] = shingles.sketch(texts)
    return rows


def find_duplicates(
    parts: Sequence[Part], policy: DedupPolicy, engine: Engine, scratch: Path, *, num_settled: int = 0
) -> Decisions:
    """Decide which documents are duplicates, and show how many are decided.

    Args:
        parts: in order of precedence.
        policy: what counts as a duplicate.
        engine: runs the tasks.
        scratch: folder for what they exchange; a run that was killed goes on from what is there.
        num_settled: number of leading parts whose documents are all kept already.
    """
    layout, groups = near.lay_out(parts, num_settled, scratch, engine)
    total, batches = int(layout.bounds[-1]), np.empty(0, np.int64)
    with log.progress("preprocess.deduplicate", total, "documents") as bar:
        if policy.exact or policy.near:
            name = "sequence" if policy.near else "sha256"
            near.run(engine, partial(_scatter, layout, name), groups)
            partitions = range(1 << layout.bits)
            bar.advance(sum(engine.map(partial(_find_copies, layout), partitions, processes=False)))
        if policy.near:
            threshold = Threshold(policy.similarity, policy.simhash)
            batches = near.find_near(layout, groups, threshold, engine, bar)
        near.run(engine, partial(_resolve, layout, batches, policy.exact or policy.near), groups)
        bar.advance(total - bar.done)
    exchange.forget()
    return Decisions(layout, groups)


def agreement(signature: NDArray[np.uint32], others: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Estimate the similarity of one signature [H] with others [N, H]: the share of equal MinHashes."""
    return np.asarray((others == signature).mean(axis=1))


def _scatter(layout: Layout, name: str, group: Group) -> None:
    """Write what equal documents of a group have in common, sorted by partition."""
    target = layout.path("equal", group.number)
    if target.is_file():
        return
    column = group.column(name)
    words = np.atleast_2d(column.T)
    order, bounds = exchange.scatter(words[0], layout.bits)
    exchange.save(layout.path("equal-places", group.number), bounds)
    exchange.save(layout.path("equal-documents", group.number), group.start + order)
    exchange.save(target, np.ascontiguousarray(words[:, order].T))


def _find_copies(layout: Layout, partition: int) -> int:
    """Write the copies of one partition with their originals, and the originals; return the number of copies."""
    words, documents = [], []
    for group in range(len(layout.bounds) - 1):
        start, end = exchange.kept_open(layout.path("equal-places", group))[partition : partition + 2]
        words.append(exchange.rows(layout.path("equal", group), start, end))
        documents.append(exchange.rows(layout.path("equal-documents", group), start, end))
    document = np.concatenate(documents)
    first = document[_first_of_equal(np.concatenate(words).T)]
    is_copy = (first != document) & (document >= layout.first_open)
    pairs = np.stack([document[is_copy], first[is_copy]])
    exchange.save(layout.path("originals", partition), np.unique(pairs[1]))
    exchange.save(layout.path("copies", partition), pairs)
    return int(np.count_nonzero(is_copy))


def _first_of_equal(words: NDArray[np.uint64]) -> Indices:
    """Return the first column with equal values for each column of [words, N]."""
    order = np.lexsort(words)
    starts = np.append(True, (words[:, order[1:]] != words[:, order[:-1]]).any(axis=0))[: len(order)]
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    return first


def _resolve(layout: Layout, batches: Indices, is_decided: bool, group: Group) -> None:
    """Write what is decided about the documents of a group that are dropped or in a cluster."""
    found = near.nothing_about(np.arange(group.start, group.end))
    if is_decided:
        found = near.outcomes_of(layout, batches, found["document"])
        for originals in _originals(layout, group):
            alone = originals[found["cluster"][originals - group.start] < 0]
            found["cluster"][alone - group.start] = alone
        copies, originals = near.copies_between(layout, group.start, group.end)
        found[copies - group.start] = _of_copies(layout, batches, copies, originals)
    exchange.save(layout.path("decisions", group.number), found[found["cluster"] >= 0])


def _originals(layout: Layout, group: Group) -> Iterator[Indices]:
    for partition in range(1 << layout.bits):
        originals = exchange.kept_open(layout.path("originals", partition))
        yield originals[exchange.between(originals, group.start, group.end)]


def _of_copies(layout: Layout, batches: Indices, copies: Indices, originals: Indices) -> Array:
    """Return what is decided about copies: what covers the original covers them, otherwise it does."""
    found = near.outcomes_of(layout, batches, originals)
    is_kept, is_alone = found["keeper"] < 0, found["cluster"] < 0
    found["document"] = copies
    found["keeper"][is_kept], found["similarity"][is_kept] = originals[is_kept], 1.0
    found["cluster"][is_alone] = originals[is_alone]
    return found
