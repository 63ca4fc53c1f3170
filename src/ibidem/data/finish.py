"""From prepared shards and verdicts to the artifact: shards, sketches and the list of what was dropped."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem import artifacts
from ibidem.data import shards, tally
from ibidem.data.tally import Tally
from ibidem.data.verdicts import aligned, read_table, write_table


class Shard(NamedTuple):
    """One shard on its way: where it was prepared, what was decided, and where it goes."""

    prepared: Path
    verdicts: Path
    finished: Path
    dataset: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.dataset}/shard-{self.number:05d}.parquet"


def finish(shard: Shard) -> Tally:
    """Write the shard, its sketches and its dropped rows; give its counts."""
    counts = shard.finished / "tally.json"
    if not counts.exists():
        with artifacts.make_folder(shard.finished) as folder:
            _write(shard, folder)
    return tally.read(counts)


def assemble(draft: artifacts.Draft, finished: Sequence[Shard]) -> None:
    """Put the finished shards into the artifact."""
    for shard in finished:
        if (shard.finished / "shard.parquet").exists():
            path = draft.path / shard.name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(shard.finished / "shard.parquet", path)
            os.link(shard.finished / "sketch.npy", shards.sketch_path(path))
            draft.rows[shard.name] = pq.read_metadata(path).num_rows
    in_order = sorted(finished, key=attrgetter("dataset", "number"))
    dropped = (read_table(shard.finished / "dropped.arrow") for shard in in_order)
    draft.rows[shards.DROPPED] = shards.write_dropped(draft.path / shards.DROPPED, dropped)
    draft.rows[shards.QUARANTINE] = _join(
        (shard.prepared / shards.QUARANTINE for shard in in_order), draft.path / shards.QUARANTINE
    )
    removed = np.concatenate([np.load(shard.finished / shards.REMOVED) for shard in in_order])
    if len(removed):
        np.save(draft.path / shards.REMOVED, removed)


def part_rows(
    rows: pa.RecordBatch, verdicts: pa.Table, dataset: str
) -> tuple[pa.RecordBatch, pa.RecordBatch, pa.RecordBatch]:
    """Part rows into those that stay and those that go; the latter also as rows of the dropped, in the middle.

    `verdicts` counts rows from the first of these and gives `reason` and, where there is one, `detail`, `kept` and
    `similarity`; rows without a reason stay.
    """
    goes = verdicts.filter(pc.is_valid(verdicts["reason"])).combine_chunks()
    stays = np.ones(len(rows), bool)
    stays[goes["row"].to_numpy()] = False
    gone = rows.filter(pa.array(~stays))
    told = {name: goes[name].combine_chunks() for name in _TOLD if name in goes.column_names}
    nothing = pa.nulls(len(gone))
    told["dataset"] = pa.array([dataset] * len(gone), pa.string())
    columns = [
        told.get(field.name, gone[field.name] if field.name in gone.schema.names else nothing).cast(field.type)
        for field in shards.DROPPED_SCHEMA
    ]
    stay = rows.filter(pa.array(stays)) if len(goes) else rows
    return stay, pa.RecordBatch.from_arrays(columns, schema=shards.DROPPED_SCHEMA), gone


_TOLD = ("reason", "detail", "kept", "similarity")


def _with_clusters(rows: pa.RecordBatch, verdicts: pa.Table) -> pa.RecordBatch:
    clusters = np.full(len(rows), None, object)
    clusters[verdicts["row"].to_numpy()] = verdicts["cluster"].to_pylist()
    return rows.set_column(rows.schema.get_field_index("cluster"), "cluster", pa.array(clusters, pa.string()))


def _write(shard: Shard, folder: Path) -> None:
    verdicts = read_table(shard.verdicts)
    counts: Tally = Counter()
    dropped = [read_table(shard.prepared / "dropped.arrow")]

    def kept() -> Iterator[pa.RecordBatch]:
        for batch, inside in aligned(shards.read_batches(shard.prepared / "kept.arrow"), verdicts):
            stay, go, _ = part_rows(_with_clusters(batch, inside), inside, shard.dataset)
            dropped.append(pa.Table.from_batches([go]))
            counts.update(tally.of_kept(stay))
            yield stay.select(shards.SCHEMA.names)

    sketches = np.load(shard.prepared / "sketch.npy", mmap_mode="r")
    gone = verdicts.filter(pc.is_valid(verdicts["reason"]))
    removed = gone.filter(pc.starts_with(gone["reason"], "removal."))
    np.save(folder / shards.REMOVED, sketches[removed["row"].to_numpy()])
    if shards.write_shard(folder / "shard.parquet", kept()):
        np.save(folder / "sketch.npy", np.delete(sketches, gone["row"].to_numpy()))
    table = pa.concat_tables(dropped).sort_by("position")
    write_table(folder / "dropped.arrow", table)
    counts.update(tally.of_dropped(table))
    counts["quarantined", ""] = (shard.prepared / shards.QUARANTINE).read_bytes().count(b"\n")
    counts["read", ""] = counts["kept", ""] + len(table) + counts["quarantined", ""]
    tally.write(folder / "tally.json", counts)


def _join(paths: Iterable[Path], joined: Path) -> int:
    count = 0
    with joined.open("wb") as file:
        for path in paths:
            content = path.read_bytes()
            count += content.count(b"\n")
            file.write(content)
    return count
