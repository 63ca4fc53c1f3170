"""Plan a takedown: which rows of finished datasets the requests remove, and which artifacts saw them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem import artifacts, config
from ibidem.artifacts import Artifact
from ibidem.data import shards
from ibidem.data.engine import Engine
from ibidem.data.filters.removals import FIELDS, Matcher, RemovalPolicy, Request
from ibidem.data.pipeline import decide
from ibidem.data.provenance.exposure import Use, uses
from ibidem.errors import ArtifactError, ConfigError
from ibidem.figures import counted
from ibidem.places import joined
from ibidem.records import DropReason

REMOVED = (DropReason.REMOVAL_REQUESTED, DropReason.REMOVAL_CLUSTER)


class Gone(NamedTuple):
    """A row to be removed."""

    row: int
    reason: DropReason
    detail: str
    sha256: str
    record: str
    path: str | None
    repo: str | None


@dataclass(frozen=True)
class Plan:
    """What is to be removed from one dataset."""

    dataset: Artifact
    policy: RemovalPolicy
    rows: dict[str, list[Gone]]
    """By shard."""
    unmatched: list[Request]
    uses: list[Use]

    @property
    def sha256s(self) -> list[str]:
        return [gone.sha256 for rows in self.rows.values() for gone in rows]

    def __str__(self) -> str:
        reasons = Counter(gone.reason for rows in self.rows.values() for gone in rows)
        head = (
            f"{self.dataset.path}: {counted(len(self.sha256s), 'document')} in {counted(len(self.rows), 'shard')} "
            f"({reasons[REMOVED[0]]:,} requested, {reasons[REMOVED[1]]:,} near duplicates of these)"
        )
        touched = (f"  {shard}: rows {_some([gone.row for gone in rows])}" for shard, rows in self.rows.items())
        return "\n".join([head, *touched, *(f"  {use}" for use in self.uses)])


def make_plans(
    folders: Sequence[Path], requests_file: Path, requests: Sequence[Request], roots: Sequence[Path], engine: Engine
) -> list[Plan]:
    """Find what is to be removed from each dataset.

    Args:
        folders: the datasets.
        requests_file: file of the requests, for workers.
        requests: all requests in it.
        roots: folders to search for uses of the documents.
        engine: searches several shards at a time.
    """
    datasets = [shards.load_dataset(folder, engine) for folder in folders]
    policies = [policy_of(dataset, requests_file) for dataset in datasets]
    requested_of = [find_requested(*each, requests, engine) for each in zip(datasets, policies, strict=True)]
    doomed = {cluster for requested in requested_of for cluster in requested.clusters}
    plans = []
    for dataset, policy, requested in zip(datasets, policies, requested_of, strict=True):
        rows = _rows(dataset, requested.rows, doomed)
        hashes = [*requested.gone, *(gone.sha256 for shard in rows.values() for gone in shard)]
        plans.append(Plan(dataset, policy, rows, requested.unmatched, uses(roots, hashes, dataset=dataset)))
    return plans


class Requested(NamedTuple):
    """What requests match in one dataset."""

    rows: dict[tuple[str, int], str]
    """Request id by (shard, row)."""
    clusters: set[str]
    """Clusters that are removed with these rows."""
    gone: list[str]
    """sha256 of the documents already removed for these requests."""
    unmatched: list[Request]
    """Requests that match nothing that is or was in it."""


def find_requested(dataset: Artifact, policy: RemovalPolicy, requests: Sequence[Request], engine: Engine) -> Requested:
    """Find what requests match in one dataset, including documents that were removed before."""
    matcher = Matcher(requests)
    rows: dict[tuple[str, int], str] = {}
    clusters: set[str | None] = set()
    met: set[str] = set()
    for name, row, fields in _shard_rows(dataset):
        if keys := matcher.find_all(fields):
            rows[name, row] = min(keys)
            met |= keys
    if matcher.texts:
        for place, keys_of_texts in _find_texts(dataset, policy, engine):
            rows.setdefault(place, keys_of_texts[0])
            met.update(keys_of_texts)
    removed: list[tuple[bool, dict[str, Any]]] = []
    for keys, fields in _dropped_rows(dataset, matcher, {request.id for request in requests}):
        met |= keys
        if keys and fields["reason"].startswith("duplicate."):
            clusters.add(fields["cluster"])
        if fields["reason"] in REMOVED:
            removed.append((bool(keys), fields))
    clusters |= {fields["cluster"] for name, row, fields in _shard_rows(dataset) if (name, row) in rows}
    leaving = {cluster for cluster in clusters if cluster is not None and policy.duplicates == "cluster"}
    along = leaving | {fields["cluster"] for named, fields in removed if named}
    gone = [fields["sha256"] for named, fields in removed if named or fields["detail"] in along]
    return Requested(rows, leaving, gone, [request for request in requests if request.id not in met])


def _dropped_rows(dataset: Artifact, matcher: Matcher, ids: set[str]) -> Iterator[tuple[set[str], dict[str, Any]]]:
    """Yield each dropped row with the requests that name it or for which it was removed."""
    for dropped in shards.read_dropped(dataset, [*FIELDS, "cluster", "reason", "detail"]):
        for fields in dropped.to_pylist():
            yield matcher.find_all(fields) | ids.intersection([fields["detail"]]), fields


def _find_texts(
    dataset: Artifact, policy: RemovalPolicy, engine: Engine
) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """Yield (shard, row) and the request ids of each row that contains a requested text."""
    names = [path.relative_to(dataset.path).as_posix() for path in shards.shard_paths(dataset.path)]
    sizes = [dataset.files[name].rows or 0 for name in names]
    bounds = np.cumsum([0, *sizes])
    tasks = [
        (dataset.path / name, np.arange(size), int(start))
        for name, size, start in zip(names, sizes, bounds, strict=False)
    ]
    for matches in engine.map(partial(decide.find_texts, policy), tasks, processes=False):
        for index, keys in matches.items():
            number = int(np.searchsorted(bounds, index, side="right")) - 1
            yield (names[number], index - int(bounds[number])), keys


def _shard_rows(dataset: Artifact) -> Iterator[tuple[str, int, dict[str, Any]]]:
    has_clusters = dataset.config["dedup"]["near"] or dataset.config["dedup"]["exact"]
    for path in shards.shard_paths(dataset.path):
        name = path.relative_to(dataset.path).as_posix()
        rows = pq.read_table(path, columns=[*FIELDS, "cluster"]).to_pylist()
        for number, row in enumerate(rows):
            if has_clusters:
                row["cluster"] = row["cluster"] or row["sha256"][: decide.CLUSTER_DIGITS]
            yield name, number, row


def _rows(dataset: Artifact, named: dict[tuple[str, int], str], doomed: set[str]) -> dict[str, list[Gone]]:
    rows: dict[str, list[Gone]] = {}
    for name, row, fields in _shard_rows(dataset):
        if request := named.get((name, row)):
            rows.setdefault(name, []).append(_gone(row, DropReason.REMOVAL_REQUESTED, request, fields))
        elif fields["cluster"] in doomed:
            rows.setdefault(name, []).append(_gone(row, DropReason.REMOVAL_CLUSTER, fields["cluster"], fields))
    return rows


def _gone(row: int, reason: DropReason, detail: str, fields: Mapping[str, Any]) -> Gone:
    return Gone(row, reason, detail, *(fields[name] for name in ("sha256", "record", "path", "repo")))


def policy_of(dataset: Artifact, requests: Path) -> RemovalPolicy:
    """Return the removal policy that a dataset was made with, for the requests in a file.

    Raises:
        ConfigError: the dataset was not made by `ibidem preprocess`, or by an earlier version.
    """
    if "removals" not in dataset.config:
        instead = " ".join(f"--dataset {path}" for path in dict.fromkeys(_made_of(dataset)))
        raise ConfigError(
            f"{dataset.path}: not made by preprocess, but blended from other datasets; take these down, then blend "
            f"again: {instead}"
        )
    if shards.is_of_earlier_layout(dataset):
        raise ConfigError(f"{dataset.path}: an earlier version made it; preprocess it again with --removals.requests")
    return config.build(RemovalPolicy, {**dataset.config["removals"], "requests": (requests,)})


def _made_of(dataset: Artifact) -> Iterator[Path]:
    """Yield the datasets made by preprocess that a blend, or a blend of blends, was made from."""
    for item in dataset.inputs:
        if item.is_artifact and item.role != "tokenizer":
            path = joined(dataset.path, item.name)
            try:
                made = artifacts.load(path, kind=shards.KIND)
            except ArtifactError:
                yield path
                continue
            yield from [path] if "removals" in made.config else _made_of(made)


def removed_only(dropped: pa.Table) -> pa.Table:
    """Return the dropped rows that were removed because of a request."""
    return dropped.filter(pc.is_in(dropped["reason"], pa.array(REMOVED, pa.string())))


def _some(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10:,} more" if len(rows) > 10 else "")
