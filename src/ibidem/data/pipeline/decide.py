"""Decide between documents: which are duplicates, and which are removed together with a requested one.

    requested   by group    documents that a request names, by their fields or their text
    facts       by group    record and hash of the documents that verdicts of any group name
    verdicts    by group    the rows of each shard that are dropped or belong to a cluster

A requested document still suppresses its duplicates, so that none of them takes its place. Requests are applied after
deduplication, so removing a document from finished shards gives the same corpus as a request before the first run.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ibidem.data import exchange, shards
from ibidem.data.dedup import Decisions, read_decisions
from ibidem.data.engine import Engine
from ibidem.data.exchange import Array, Indices
from ibidem.data.filters.removals import Matcher, RemovalPolicy, load_requests
from ibidem.data.near import Group, Layout, nothing_about, run
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


_FACTS = pa.schema([("document", pa.int64()), ("record", pa.string()), ("sha256", pa.binary(32))])


class _Task(NamedTuple):
    """Verdicts to write."""

    group: Group
    requested: Mapping[int, str]
    """Request by index of the document, in this group."""
    paths: Sequence[Path]
    """A file for each part."""


def write_verdicts(
    decisions: Decisions, requested: Mapping[int, str], policy: RemovalPolicy, paths: Sequence[Path], engine: Engine
) -> None:
    """For each part still open, write the rows that are dropped or belong to a cluster.

    Args:
        decisions: which documents are duplicates.
        requested: request id by index of the document.
        policy: whether near duplicates are removed with a requested document.
        paths: files for the verdicts of the last `len(paths)` parts.
        engine: runs the tasks.
    """
    layout, groups = decisions.layout, decisions.groups
    run(engine, partial(_list_named, layout), groups)
    run(engine, partial(_write_facts, layout), groups)
    doomed: set[int] = set()
    if policy.duplicates == "cluster":
        doomed = {cluster for group in groups for cluster in _clusters_of(decisions, group, requested)}
    tasks, left = [], list(paths)
    for group in _open_groups(decisions):
        inside = {index: requested[index] for index in requested if group.start <= index < group.end}
        tasks.append(_Task(group, inside, left[: len(group.parts)]))
        del left[: len(group.parts)]
    run(engine, partial(_write_verdicts, layout, doomed), tasks)


def _open_groups(decisions: Decisions) -> list[Group]:
    return [group for group in decisions.groups if not group.is_settled]


def _clusters_of(decisions: Decisions, group: Group, requested: Mapping[int, str]) -> Iterator[int]:
    wanted = [index for index in requested if group.start <= index < group.end]
    if wanted:
        found = decisions.of(group)
        yield from found["cluster"][np.isin(found["document"], wanted)].tolist()


def _list_named(layout: Layout, group: Group) -> None:
    """List the documents that the verdicts of a group name: keepers, and the first of each cluster."""
    found = read_decisions(layout, group)
    named = np.unique([*found["keeper"], *found["cluster"]]).astype(np.int64)
    exchange.save(layout.path("named", group.number), named[named >= 0])


def _write_facts(layout: Layout, group: Group) -> None:
    """Write record and hash of the documents of a group that any verdict names."""
    slices = [np.empty(0, np.int64)]
    for other in range(len(layout.bounds) - 1):
        named = exchange.kept_open(layout.path("named", other))
        slices.append(named[exchange.between(named, group.start, group.end)])
    documents = np.unique(np.concatenate(slices))
    tables = [_FACTS.empty_table()]
    for part, start, end in zip(group.parts, group.bounds, group.bounds[1:], strict=False):
        inside = documents[exchange.between(documents, start, end)]
        if len(inside):
            rows = inside - start
            records = shards.read_column(part.text, "record").take(pa.array(rows)).combine_chunks()
            hashes = [row.tobytes() for row in exchange.load(part.sketch)["sha256"][rows]]
            tables.append(pa.table([inside, records, pa.array(hashes, pa.binary(32))], schema=_FACTS))
    shards.write_table(_facts_path(layout, group.number), pa.concat_tables(tables))


def _facts_path(layout: Layout, group: int) -> Path:
    return layout.path("facts", group).with_suffix(".arrow")


def _facts(layout: Layout, named: Indices) -> dict[int, tuple[str, bytes]]:
    """Return record and hash of documents."""
    facts: dict[int, tuple[str, bytes]] = {}
    for group, inside in layout.split(named):
        table = shards.read_table(_facts_path(layout, group))
        rows = table.take(np.searchsorted(table["document"].to_numpy(), named[inside]))
        values = zip(rows["record"].to_pylist(), rows["sha256"].to_pylist(), strict=True)
        facts |= zip(named[inside].tolist(), values, strict=True)
    return facts


def _write_verdicts(layout: Layout, doomed: Collection[int], task: _Task) -> None:
    group = task.group
    found, hashes = read_decisions(layout, group), group.column("sha256")
    extra = np.setdiff1d([*task.requested], found["document"]).astype(np.int64)
    found = np.concatenate([found, nothing_about(extra)])
    found = found[np.argsort(found["document"])]
    facts = _facts(layout, exchange.load(layout.path("named", group.number)))
    for path, start, end in zip(task.paths, group.bounds, group.bounds[1:], strict=False):
        inside = found[exchange.between(found["document"], start, end)]
        own = hashes[inside["document"] - group.start]
        rows = [
            _row(task, doomed, facts, int(start), outcome, sha.tobytes())
            for outcome, sha in zip(inside, own, strict=True)
        ]
        shards.write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA))


def _row(
    task: _Task,
    doomed: Collection[int],
    facts: Mapping[int, tuple[str, bytes]],
    start: int,
    outcome: Array,
    sha256: bytes,
) -> dict[str, Any]:
    index, keeper, similarity, cluster = outcome.item()
    row: dict[str, Any] = {"row": index - start}
    if cluster >= 0:
        row["cluster"] = facts[cluster][1].hex()[:CLUSTER_DIGITS]
    if keeper >= 0:
        kept, hash_of_kept = facts[keeper]
        is_exact = hash_of_kept == sha256
        row |= {"kept": kept, "similarity": similarity}
        row["reason"] = DropReason.DUPLICATE_EXACT if is_exact else DropReason.DUPLICATE_NEAR
    elif index in task.requested:
        row |= {"reason": DropReason.REMOVAL_REQUESTED, "detail": task.requested[index]}
    elif cluster in doomed:
        row |= {"reason": DropReason.REMOVAL_CLUSTER, "detail": row["cluster"]}
    return row


def find_requested(decisions: Decisions, policy: RemovalPolicy, engine: Engine) -> dict[int, str]:
    """Return the request by document index: requests that name it by its fields, or, if it is kept, by its text."""
    if not policy.requests:
        return {}
    requested: dict[int, str] = {}
    for found in engine.map(
        partial(_find_requested, decisions.layout, policy), _open_groups(decisions), processes=False
    ):
        requested |= found
    return requested


def _find_requested(layout: Layout, policy: RemovalPolicy, group: Group) -> dict[int, str]:
    by_text: dict[int, str] = {}
    by_field: dict[int, str] = {}
    has_texts = bool(Matcher(load_requests(policy.requests)).texts)
    found = read_decisions(layout, group)
    covered = found["document"][found["keeper"] >= 0]
    for part, start, end in zip(group.parts, group.bounds.tolist(), group.bounds[1:].tolist(), strict=False):
        removals = shards.read_column(part.text, "removal")
        rows = np.flatnonzero(pc.is_valid(removals).to_numpy())
        by_field |= zip((start + rows).tolist(), removals.take(pa.array(rows)).to_pylist(), strict=True)
        if has_texts:
            kept = np.setdiff1d(np.arange(start, end), covered) - start
            matches = find_texts(policy, (part.text, kept, start))
            by_text |= {index: keys[0] for index, keys in matches.items()}
    return by_text | by_field


def find_texts(policy: RemovalPolicy, task: tuple[Path, Indices, int]) -> dict[int, list[str]]:
    """Search the given rows of a part for the requested texts; return the request ids by document index."""
    path, rows, start = task
    matcher = Matcher(load_requests(policy.requests))
    texts = (text.as_buffer().to_pybytes() for batch in shards.read_texts(path, rows) for text in batch)
    matches = {
        start + int(row): matcher.find_texts(text, policy.containment) for row, text in zip(rows, texts, strict=True)
    }
    return {index: requests for index, requests in matches.items() if requests}
