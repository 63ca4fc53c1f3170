"""Process every document by itself: read, clean, judge, scrub, sketch. A worker takes one run of shards at a time.

The folder of a prepared shard (see `shard`) appears as a whole or not at all, so a killed run resumes where it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from ibidem import artifacts
from ibidem.data import shards
from ibidem.data.dedup import SKETCH, sketch_texts
from ibidem.data.filters.removals import FIELDS, Matcher, load_requests
from ibidem.data.pipeline.shard import Prepared, Shard
from ibidem.data.pipeline.steps import Policies, StepMaker
from ibidem.data.sources.readers import Piece, read
from ibidem.records import Document, Unreadable

KEPT_SCHEMA = shards.SCHEMA.append(pa.field("removal", pa.string()))
BATCH_BYTES, BATCH_DOCUMENTS = 1 << 20, 256


class ShardRun(NamedTuple):
    """Consecutive shards of a source, prepared as one task.

    They cover positions from `first_shard * shard_size` up to `end_shard * shard_size`.
    """

    dataset: str
    """The folder of the source in the output: `<dataset>/<split>`."""
    source: int
    first_shard: int
    end_shard: int
    shard_size: int
    end: int
    """First position that is not read any more."""
    pieces: tuple[Piece, ...]
    work: Path
    """Work folder of the stage."""

    def shard(self, number: int) -> Shard:
        """Return one of the shards."""
        return Shard(self.work, self.source, number, self.dataset)

    @property
    def shards(self) -> list[Shard]:
        """All shards, in order."""
        return [self.shard(number) for number in range(self.first_shard, self.end_shard)]


def prepare(steps: Mapping[str, StepMaker], policies: Policies, run: ShardRun) -> int:
    """Prepare the missing shards of a run; return its number of positions.

    Args:
        steps: makers of the steps by name, in order; the first step that drops a document is its last.
        policies: what is required of a document, and which steps are skipped.
        run: which shards.
    """
    process = processing(tuple(steps.items()), policies)
    shard = run.first_shard
    while shard < run.end_shard and run.shard(shard).prepared.is_made:
        shard += 1
    items = _positioned(run, shard * run.shard_size)
    for number, group in groupby(items, key=lambda item: item[0] // run.shard_size):
        for empty in range(shard, number):
            _prepare_shard(process, run.shard(empty), iter(()), near=policies.dedup.near)
        _prepare_shard(process, run.shard(number), group, near=policies.dedup.near)
        shard = number + 1
    for empty in range(shard, run.end_shard):
        _prepare_shard(process, run.shard(empty), iter(()), near=policies.dedup.near)
    return min(run.end, run.end_shard * run.shard_size) - run.first_shard * run.shard_size


def load_kernels() -> None:
    """Load the compiled kernels, which takes a third of a second; processes made afterwards have them already."""
    _hash([Document(raw=b"", source="", revision=None, record="")])
    sketch_texts(pa.array(["text"], pa.large_string()), [64 * "0"], near=True)


@lru_cache(maxsize=1)
def processing(makers: tuple[tuple[str, StepMaker], ...], policies: Policies) -> Callable[[Document], None]:
    """Combine the steps that are not skipped into one function, once per worker."""
    made = [make(policies) for name, make in makers if name not in policies.skip]
    steps = [step for step in made if step is not None]
    requests = Matcher(load_requests(policies.removals.requests))

    def process(document: Document) -> None:
        for step in steps:
            document.drop = step(document)
            if document.drop is not None:
                break
        if requests.is_needed:
            document.removal = requests.find({field: getattr(document, field) for field in FIELDS})

    return process


def _positioned(run: ShardRun, start: int) -> Iterator[tuple[int, Document | Unreadable]]:
    for piece in run.pieces:
        if piece.first + piece.count <= start:
            continue
        for position, item in read(piece, start):
            if position >= min(run.end, run.end_shard * run.shard_size):
                return
            if isinstance(item, Document):
                item.position = position
            yield position, item


def _prepare_shard(
    process: Callable[[Document], None],
    shard: Shard,
    items: Iterator[tuple[int, Document | Unreadable]],
    *,
    near: bool,
) -> None:
    with (
        artifacts.make_folder(shard.prepared.folder) as folder,
        _Writer(Prepared(folder), shard.dataset, near=near) as writer,
    ):
        for batch in _batches(item for _, item in items):
            documents = [item for item in batch if isinstance(item, Document)]
            _hash(documents)
            for document in documents:
                process(document)
            writer.add(batch)


def _batches(items: Iterator[Document | Unreadable]) -> Iterator[list[Document | Unreadable]]:
    """Group items into batches that fit into the processor's cache."""
    batch: list[Document | Unreadable] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.raw) if isinstance(item, Document) else 0
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hash(documents: Sequence[Document]) -> None:
    from ibidem.data.text.hashing import hash_contents

    hashes = hash_contents([document.raw for document in documents])
    for document, (sha256, blob) in zip(documents, hashes, strict=True):
        document.raw_sha256, document.swhid = sha256, f"swh:1:cnt:{blob}"


class _Writer:
    """Writes one prepared shard, batch by batch."""

    def __init__(self, prepared: Prepared, dataset: str, *, near: bool) -> None:
        self._prepared, self._dataset, self._near = prepared, dataset, near
        self._sketches: list[Any] = []
        self._dropped: list[dict[str, Any]] = []
        self._unreadable: list[Unreadable] = []
        self._file = pa.ipc.new_file(prepared.kept, KEPT_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            sketches = np.concatenate([np.empty(0, SKETCH), *self._sketches])
            np.save(self._prepared.sketch, sketches)
            table = pa.Table.from_pylist(self._dropped, schema=shards.DROPPED_SCHEMA)
            shards.write_table(self._prepared.dropped, table)
            shards.write_quarantine(self._prepared.quarantine, self._unreadable)
        self._file.close()

    def add(self, batch: Sequence[Document | Unreadable]) -> None:
        documents = [item for item in batch if isinstance(item, Document)]
        self._unreadable += [item for item in batch if isinstance(item, Unreadable)]
        self._dropped += [shards.dropped_row(item, self._dataset) for item in documents if item.drop is not None]
        kept = [document for document in documents if document.drop is None]
        if kept:
            self._add_kept(kept)

    def _add_kept(self, kept: Sequence[Document]) -> None:
        batch = shards.as_batch(kept)
        removals = pa.array([document.removal for document in kept], pa.string())
        self._file.write_batch(pa.RecordBatch.from_arrays([*batch.columns, removals], schema=KEPT_SCHEMA))
        hashes = batch.column("sha256").to_pylist()
        self._sketches.append(sketch_texts(batch.column("text"), hashes, near=self._near))
