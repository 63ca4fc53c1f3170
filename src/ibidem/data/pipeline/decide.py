"""Decide between documents: which are duplicates, and which are removed together with a requested one.

A requested document still suppresses its duplicates, so that none of them takes its place. Requests are applied after
deduplication, so removing a document from finished shards gives the same corpus as a request before the first run.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ibidem.data import shards
from ibidem.data.dedup import Duplicates, Indices, Part, load_sketches
from ibidem.data.engine import Engine
from ibidem.data.filters.removals import Matcher, RemovalPolicy, load_requests
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
    parts: Sequence[Part], found: Duplicates, requested: dict[int, str], policy: RemovalPolicy, paths: Sequence[Path]
) -> None:
    """For each part still open, write the rows that are dropped or belong to a cluster.

    Args:
        parts: all parts, settled ones first.
        found: which documents are duplicates.
        requested: request id by index of the document.
        policy: whether near duplicates are removed with a requested document.
        paths: files for the verdicts of the last `len(paths)` parts.
    """
    sketches, bounds = load_sketches(parts)
    hashes = np.concatenate([sketch["sha256"] for sketch in sketches])
    doomed = {int(found.cluster[index]) for index in requested} - {-1} if policy.duplicates == "cluster" else set()
    records = _records(parts, bounds, np.unique(found.keeper[found.keeper >= 0]))
    reported = (found.keeper >= 0) | (found.cluster >= 0)
    reported[list(requested)] = True
    for path, start, end in zip(paths, bounds[-len(paths) - 1 :], bounds[-len(paths) :], strict=False):
        rows = []
        inside = start + np.flatnonzero(reported[start:end])
        exact = (hashes[inside] == hashes[found.keeper[inside]]).all(axis=1)  # only valid where there is a keeper
        for place, index in enumerate(inside.tolist()):
            keeper, cluster = int(found.keeper[index]), int(found.cluster[index])
            row: dict[str, Any] = {"row": index - int(start)}
            if cluster >= 0:
                row["cluster"] = hashes[cluster].tobytes().hex()[:CLUSTER_DIGITS]
            if keeper >= 0:
                row |= {"kept": records[keeper], "similarity": float(found.similarity[index])}
                row["reason"] = DropReason.DUPLICATE_EXACT if exact[place] else DropReason.DUPLICATE_NEAR
            elif index in requested:
                row |= {"reason": DropReason.REMOVAL_REQUESTED, "detail": requested[index]}
            elif cluster in doomed:
                row |= {"reason": DropReason.REMOVAL_CLUSTER, "detail": row["cluster"]}
            rows.append(row)
        shards.write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def find_requested(
    parts: Sequence[Part], found: Duplicates, num_settled: int, policy: RemovalPolicy, engine: Engine
) -> dict[int, str]:
    """Return the request by document index: requests that name it by its fields, or, if it is kept, by its text."""
    if not policy.requests:
        return {}
    _, bounds = load_sketches(parts)
    open_parts = list(zip(parts, bounds, bounds[1:], strict=False))[num_settled:]
    requested = {
        int(start) + row: request
        for part, start, _ in open_parts
        for row, request in enumerate(shards.read_column(part.text, "removal").to_pylist())
        if request is not None
    }
    if Matcher(load_requests(policy.requests)).texts:
        tasks = [
            (part.text, np.flatnonzero(found.keeper[start:end] < 0), int(start)) for part, start, end in open_parts
        ]
        for matches in engine.map(partial(find_texts, policy), tasks, processes=False):
            requested = {index: keys[0] for index, keys in matches.items()} | requested
    return requested


def find_texts(policy: RemovalPolicy, task: tuple[Path, Indices, int]) -> dict[int, list[str]]:
    """Search the given rows of a part for the requested texts; return the request ids by document index."""
    path, rows, start = task
    matcher = Matcher(load_requests(policy.requests))
    texts = (text.as_buffer().to_pybytes() for batch in shards.read_texts(path, rows) for text in batch)
    matches = {
        start + int(row): matcher.find_texts(text, policy.containment) for row, text in zip(rows, texts, strict=True)
    }
    return {index: requests for index, requests in matches.items() if requests}


def summary(found: Duplicates) -> dict[str, int]:
    """Count clusters and their documents."""
    _, sizes = np.unique(found.cluster[found.cluster >= 0], return_counts=True)
    return {"clusters": len(sizes), "documents": int(sizes.sum()), "largest": int(sizes.max(initial=0))}


def _records(parts: Sequence[Part], bounds: Indices, documents: Indices) -> dict[int, str]:
    """Return the record of each document by its index among all parts; `documents` are ascending indices."""
    records: dict[int, str] = {}
    for part, start, end in zip(parts, bounds, bounds[1:], strict=False):
        inside = documents[np.searchsorted(documents, start) : np.searchsorted(documents, end)]
        if len(inside):
            column = shards.read_column(part.text, "record").take(pa.array(inside - start))
            records |= zip(inside.tolist(), column.to_pylist(), strict=True)
    return records
