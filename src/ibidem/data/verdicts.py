"""Decide between documents: duplicates, and what leaves with a document whose removal was asked for.

A requested document still stands for its duplicates, so that none of them takes its place; and since it is found only
after duplicates are, removing it from finished shards gives the same corpus as asking before the first run.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem.data.dedup import Indices, Part, Verdicts, read_texts
from ibidem.data.engine import Engine
from ibidem.data.removals import Matcher, RemovalPolicy, load_requests
from ibidem.records import DropReason

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("kept", pa.string()),
        ("similarity", pa.float64()),
        ("cluster", pa.string()),
    ]
)
CLUSTER_DIGITS = 16


def write_verdicts(
    parts: Sequence[Part], found: Verdicts, requested: dict[int, str], policy: RemovalPolicy, paths: Sequence[Path]
) -> None:
    """Write for each open part the rows about which something is to be said.

    Args:
        parts: all of them, settled ones first.
        found: which documents are duplicates.
        requested: request by index of the document.
        policy: whether near duplicates leave with a requested document.
        paths: where the verdicts of the last `len(paths)` parts go.
    """
    names = _Names(parts)
    doomed = {int(found.cluster[index]) for index in requested} - {-1} if policy.duplicates == "cluster" else set()
    records = names.of(np.unique(found.keeper[found.keeper >= 0]), "record")
    clusters = names.of(np.unique(found.cluster[found.cluster >= 0]), "sha256")
    telling = (found.keeper >= 0) | (found.cluster >= 0)
    telling[list(requested)] = True
    for path, start, end in zip(paths, names.bounds[-len(paths) - 1 :], names.bounds[-len(paths) :], strict=False):
        rows = []
        for index in (start + np.flatnonzero(telling[start:end])).tolist():
            keeper, cluster = int(found.keeper[index]), int(found.cluster[index])
            row: dict[str, Any] = {"row": index - int(start)}
            if cluster >= 0:
                row["cluster"] = clusters[cluster][:CLUSTER_DIGITS]
            if keeper >= 0:
                exact = names.same_text(index, keeper)
                row |= {"kept": records[keeper], "similarity": float(found.similarity[index])}
                row["reason"] = DropReason.DUPLICATE_EXACT if exact else DropReason.DUPLICATE_NEAR
            elif index in requested:
                row |= {"reason": DropReason.REMOVAL_REQUESTED, "detail": requested[index]}
            elif cluster in doomed:
                row |= {"reason": DropReason.REMOVAL_CLUSTER, "detail": clusters[cluster][:CLUSTER_DIGITS]}
            rows.append(row)
        write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def find_requested(
    parts: Sequence[Part], found: Verdicts, num_settled: int, policy: RemovalPolicy, engine: Engine
) -> dict[int, str]:
    """Give the request for each document that one names: by its nouns, or, if it is kept, by its text."""
    if not policy.requests:
        return {}
    bounds = _Names(parts).bounds
    open_parts = list(zip(parts, bounds, strict=False))[num_settled:]
    requested = {
        int(start) + row: request
        for part, start in open_parts
        for row, request in enumerate(read_column(part.text, "removal"))
        if request is not None
    }
    if Matcher(load_requests(policy.requests)).texts:
        tasks = [
            (
                part.text,
                np.flatnonzero(found.keeper[start : start + np.load(part.sketch, mmap_mode="r").shape[0]] < 0),
                int(start),
            )
            for part, start in open_parts
        ]
        for some in engine.map(partial(find_texts, policy), tasks, processes=False):
            requested = {index: keys[0] for index, keys in some.items()} | requested
    return requested


def find_texts(policy: RemovalPolicy, task: tuple[Path, Indices, int]) -> dict[int, list[str]]:
    """Look for the requested texts in some rows of a part; give the requests by index."""
    path, rows, start = task
    matcher = Matcher(load_requests(policy.requests))
    texts = read_texts(path, rows)
    found = {
        start + int(row): matcher.find_texts(text, policy.containment) for row, text in zip(rows, texts, strict=True)
    }
    return {index: requests for index, requests in found.items() if requests}


def summary(found: Verdicts) -> dict[str, int]:
    """Count clusters and their documents."""
    _, sizes = np.unique(found.cluster[found.cluster >= 0], return_counts=True)
    return {"clusters": len(sizes), "documents": int(sizes.sum()), "largest": int(sizes.max(initial=0))}


def aligned(batches: Iterable[pa.RecordBatch], verdicts: pa.Table) -> Iterator[tuple[pa.RecordBatch, pa.Table]]:
    """Give each batch with the verdicts about its rows, counted from its first."""
    before = 0
    places = verdicts["row"].to_numpy()
    for batch in batches:
        start, end = np.searchsorted(places, [before, before + len(batch)])
        inside = verdicts.slice(start, end - start)
        yield batch, inside.set_column(0, "row", pc.subtract(inside["row"], before))
        before += len(batch)


def read_column(path: Path, name: str) -> list[Any]:
    """Read one column of a Parquet or Arrow file."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path, columns=[name])[name].to_pylist())
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        place = reader.schema.get_field_index(name)
    options = pa.ipc.IpcReadOptions(included_fields=[place])
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file, options=options) as reader:
        return list(reader.read_all().column(0).to_pylist())


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow file."""
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Read an Arrow file."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        return reader.read_all()


class _Names:
    """What single documents are called, among all the parts."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._sketches = [np.load(part.sketch, mmap_mode="r") for part in parts]
        self.bounds = np.cumsum([0, *map(len, self._sketches)])

    def of(self, indices: Indices, column: str) -> dict[int, str]:
        """Give a column's value for each index."""
        by_part = defaultdict(list)
        for index in indices.tolist():
            by_part[int(np.searchsorted(self.bounds, index, side="right")) - 1].append(index)
        values: dict[int, str] = {}
        for number, some in by_part.items():
            column_values = read_column(self._parts[number].text, column)
            values |= {index: column_values[index - self.bounds[number]] for index in some}
        return values

    def same_text(self, one: int, other: int) -> bool:
        return bool((self._sha256(one) == self._sha256(other)).all())

    def _sha256(self, index: int) -> Any:
        number = int(np.searchsorted(self.bounds, index, side="right")) - 1
        return self._sketches[number][index - self.bounds[number]]["sha256"]
