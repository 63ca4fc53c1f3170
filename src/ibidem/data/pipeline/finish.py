"""Turn prepared shards and verdicts into the artifact: shards, sketches and the list of dropped documents."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ibidem import artifacts, workfiles
from ibidem.data import exchange, shards
from ibidem.data.counts import (
    Counts,
    count_dropped,
    count_kept,
    counts_of,
    listed,
)
from ibidem.data.pipeline.shard import Shard
from ibidem.data.shards import read_table
from ibidem.files import flush, sha256_of

_MADE = "made.json"
"""Counts of a finished shard, and its files."""


class Made(NamedTuple):
    """A finished shard."""

    shard: Shard
    counts: Counts
    files: dict[str, tuple[str, int | None]]
    """sha256 and rows of its files for the artifact, by name."""


def finish(shard: Shard) -> Made:
    """Write the shard, its sketches, what was dropped and what could not be read."""
    if not artifacts.is_made(shard.finished):
        with artifacts.make_folder(shard.finished) as folder:
            _write(shard, folder)
    made = json.loads((shard.finished / _MADE).read_text(encoding="utf-8"))
    return Made(shard, counts_of(made["counts"]), {name: (sha256, rows) for name, sha256, rows in made["files"]})


def assemble(draft: artifacts.Draft, made: Sequence[Made]) -> None:
    """Put the finished shards into the artifact."""
    for shard, _, files in made:
        for name, (sha256, rows) in files.items():
            draft.add(f"{shard.dataset}/{name}", shard.finished / name, sha256=sha256, rows=rows)


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


def _write(shard: Shard, folder: Path) -> None:
    verdicts = read_table(shard.verdicts)
    path = folder / PurePosixPath(shard.name).name
    with workfiles.fetched(shard.prepared.kept) as kept:
        outcome = write_staying(kept, path, verdicts, shard.dataset)
    dropped = pa.concat_tables([read_table(shard.prepared.dropped), outcome.dropped]).sort_by("position")
    quarantine = shard.prepared.quarantine.read_bytes()
    counts = outcome.kept + count_dropped(dropped)
    counts["quarantined", ""] = quarantine.count(b"\n")
    counts["read", ""] = counts["kept", ""] + len(dropped) + counts["quarantined", ""]
    sketches = exchange.load(shard.prepared.sketch)
    removed = verdicts.filter(pc.starts_with(verdicts["reason"], "removal."))["row"].to_numpy()
    rows: dict[Path, int | None] = {}
    if outcome.stays.any():
        rows[path] = counts["kept", ""]
        rows[shards.beside(path, shards.SKETCHES)] = None
        np.save(shards.beside(path, shards.SKETCHES), sketches[outcome.stays])
    if len(removed):
        rows[shards.beside(path, shards.REMOVED)] = None
        np.save(shards.beside(path, shards.REMOVED), sketches[removed])
    if len(dropped):
        rows[shards.beside(path, shards.DROPPED)] = len(dropped)
        shards.write_dropped(shards.beside(path, shards.DROPPED), dropped)
    if quarantine:
        rows[shards.beside(path, shards.QUARANTINE)] = counts["quarantined", ""]
        shards.beside(path, shards.QUARANTINE).write_bytes(quarantine)
    for written in rows:
        flush(written)  # here, in parallel with other shards
    files = [(written.name, sha256_of(written), count) for written, count in rows.items()]
    (folder / _MADE).write_text(json.dumps({"counts": listed(counts), "files": files}), encoding="utf-8")
