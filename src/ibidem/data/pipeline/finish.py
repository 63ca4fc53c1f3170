"""Turn prepared shards and verdicts into the artifact: shards, sketches and the list of dropped documents."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ibidem import artifacts
from ibidem.data import shards
from ibidem.data.counts import (
    Counts,
    count_dropped,
    count_kept,
    read_counts,
    write_counts,
)
from ibidem.data.pipeline.shard import Finished, Shard
from ibidem.data.shards import read_table, write_table
from ibidem.files import flush, sha256_of


def finish(shard: Shard) -> Counts:
    """Write the shard, its sketches and its dropped rows; return its counts."""
    if not shard.finished.counts.exists():
        with artifacts.make_folder(shard.finished.folder) as folder:
            _write(shard, Finished(folder))
    return read_counts(shard.finished.counts)


def assemble(draft: artifacts.Draft, finished: Sequence[Shard]) -> None:
    """Put the finished shards into the artifact."""
    for shard in finished:
        if shard.finished.shard.exists():
            path = draft.path / shard.name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(shard.finished.shard, path)
            os.link(shard.finished.sketch, shards.sketch_path(path))
            draft.rows[shard.name] = pq.read_metadata(path).num_rows
            hashes = json.loads(shard.finished.hashes.read_text(encoding="utf-8"))
            draft.hashes[shard.name] = hashes[shard.finished.shard.name]
            draft.hashes[shards.sketch_path(PurePosixPath(shard.name)).as_posix()] = hashes[shard.finished.sketch.name]
    in_order = sorted(finished, key=attrgetter("dataset", "number"))
    dropped = (read_table(shard.finished.dropped) for shard in in_order)
    draft.rows[shards.DROPPED] = shards.write_dropped(draft.path / shards.DROPPED, dropped)
    draft.rows[shards.QUARANTINE] = _join(
        (shard.prepared.quarantine for shard in in_order), draft.path / shards.QUARANTINE
    )
    removed = np.concatenate([np.load(shard.finished.removed) for shard in in_order])
    if len(removed):
        np.save(draft.path / shards.REMOVED, removed)


class Outcome(NamedTuple):
    """Which rows of a shard stay, and counts of both kinds."""

    kept: Counts
    """Counts of the rows that stay."""
    gone: Counts
    """Counts of the rows that are dropped."""
    dropped: pa.Table
    """The dropped rows, with DROPPED_SCHEMA."""
    stays: NDArray[np.bool_]
    """Which rows stay."""


def write_staying(source: Path, target: Path, verdicts: pa.Table, dataset: str) -> Outcome:
    """Write the rows of a shard that stay.

    Args:
        source: a shard, or rows in an Arrow file.
        target: the shard to write; no file if nothing stays.
        verdicts: `row`, `reason`, and optionally `detail`, `kept`, `similarity` and `cluster`; a row without a reason
            stays.
        dataset: the folder of the shard, for the dropped rows.
    """
    facts = shards.read_facts(source)
    if "cluster" in verdicts.column_names:
        facts = _with_clusters(facts, verdicts)
    goes = verdicts.filter(pc.is_valid(verdicts["reason"]))
    stays = np.ones(len(facts), bool)
    stays[goes["row"].to_numpy()] = False
    stay, gone = facts.filter(pa.array(stays)), facts.filter(pa.array(~stays))
    sizes = [np.empty(0, np.int64)]  # of the texts, in bytes

    def staying() -> Iterator[pa.RecordBatch]:
        before = 0
        for batch in shards.read_batches(source, shards.CONTENT):
            inside = stays[before : before + len(batch)]
            sizes.append(pc.binary_length(batch["text"]).to_numpy())
            edges = np.flatnonzero(np.diff(inside, prepend=False, append=False)).tolist()
            for start, end in zip(edges[::2], edges[1::2], strict=True):  # slices of consecutive rows need no copy
                yield batch.slice(start, end - start)
            before += len(batch)

    shards.write_shard(target, stay, staying())
    num_bytes = np.concatenate(sizes)
    return Outcome(
        count_kept(stay, int(num_bytes[stays].sum())),
        count_kept(gone, int(num_bytes[~stays].sum())),
        _dropped(gone, goes, dataset),
        stays,
    )


def _with_clusters(facts: pa.Table, verdicts: pa.Table) -> pa.Table:
    clusters = np.full(len(facts), None, object)
    clusters[verdicts["row"].to_numpy()] = verdicts["cluster"].to_pylist()
    return facts.set_column(facts.schema.get_field_index("cluster"), "cluster", pa.array(clusters, pa.string()))


def _dropped(gone: pa.Table, verdicts: pa.Table, dataset: str) -> pa.Table:
    nothing = pa.nulls(len(gone))
    known = {name: table[name] for table in (gone, verdicts) for name in table.schema.names}
    known["dataset"] = pa.array([dataset] * len(gone), pa.string())
    columns = [known.get(field.name, nothing).cast(field.type) for field in shards.DROPPED_SCHEMA]
    return pa.table(columns, schema=shards.DROPPED_SCHEMA)


def _write(shard: Shard, finished: Finished) -> None:
    verdicts = read_table(shard.verdicts)
    outcome = write_staying(shard.prepared.kept, finished.shard, verdicts, shard.dataset)
    sketches = np.load(shard.prepared.sketch, mmap_mode="r")
    removed = verdicts.filter(pc.starts_with(verdicts["reason"], "removal."))
    np.save(finished.removed, sketches[removed["row"].to_numpy()])
    if outcome.stays.any():
        np.save(finished.sketch, sketches[outcome.stays])
        for path in (finished.shard, finished.sketch):
            flush(path)  # here, in parallel with other shards
        hashes = {path.name: sha256_of(path) for path in (finished.shard, finished.sketch)}
        finished.hashes.write_text(json.dumps(hashes), encoding="utf-8")
    table = pa.concat_tables([read_table(shard.prepared.dropped), outcome.dropped]).sort_by("position")
    write_table(finished.dropped, table)
    counts = outcome.kept + count_dropped(table)
    counts["quarantined", ""] = shard.prepared.quarantine.read_bytes().count(b"\n")
    counts["read", ""] = counts["kept", ""] + len(table) + counts["quarantined", ""]
    write_counts(finished.counts, counts)


def _join(paths: Iterable[Path], joined: Path) -> int:
    count = 0
    with joined.open("wb") as file:
        for path in paths:
            content = path.read_bytes()
            count += content.count(b"\n")
            file.write(content)
    return count
