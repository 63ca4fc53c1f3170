"""Takedown: what a request for removal means for finished shards, its execution, and the proof.

    plan      which documents, with their near duplicates, in which rows; which tokens, checkpoints, ... saw them
    apply     rewrite the touched shards, and nothing else; certify
    verify    nothing is left: by the requests, by exact hash, by normalized hash, by MinHash

The result equals, byte for byte, what `preprocess` makes when it is given the requests from the start. Weights are not
unlearned by any of this, and the certificate says so.
"""

import heapq
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from ibidem import artifacts, log
from ibidem.artifacts import Artifact
from ibidem.config import POSITIONAL, configuration
from ibidem.data import shards
from ibidem.data.counts import Counts, count_dropped, from_manifest, to_manifest
from ibidem.data.dedup import agreement
from ibidem.data.engine import Engine, EngineConfig
from ibidem.data.filters import removals
from ibidem.data.filters.removals import Matcher, RemovalPolicy, Request, load_requests
from ibidem.data.pipeline import decide
from ibidem.data.pipeline.finish import write_staying
from ibidem.data.provenance.certificate import Certificate, beside, statement_of
from ibidem.data.provenance.exposure import Use, uses
from ibidem.data.provenance.plan import (
    REMOVED,
    Gone,
    Plan,
    Requested,
    find_requested,
    make_plans,
    policy_of,
    removed_only,
)
from ibidem.errors import ConfigError, DataError, IbidemError
from ibidem.files import sweep
from ibidem.records import DropReason

CERTAIN_AGREEMENT = 0.92
"""Estimated similarity from which on a document counts as a residual: 0.8 and three standard deviations of the
estimate from 112 MinHashes, sqrt(0.8 * 0.2 / 112)."""


@configuration
class TakedownConfig(EngineConfig):
    """Remove documents from finished datasets because somebody asked."""

    requests: Annotated[Path, POSITIONAL]
    """File of requests, JSON lines or YAML of `kind` and `value`; a kind is one of repo, owner, path, url, swhid,
    sha256, record, text."""
    dataset: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Folder of a preprocessed dataset; repeat the flag for datasets that were deduplicated against each other."""
    artifacts: tuple[Path, ...] = (Path("artifacts"), Path("data"))
    """Folders below which everything made from the datasets is looked for."""
    certificate: Path | None = None
    """Where apply puts the certificate; empty: beside the first dataset, as NAME.takedown-ID.json."""


def plan_command(config: TakedownConfig) -> str:
    """Say what would leave, and what saw it."""
    requests, engine = _requests(config), Engine(config)
    plans = make_plans(config.dataset, config.requests, requests, config.artifacts, engine)
    return "\n".join([*map(str, plans), *_warning([(plan.dataset, plan.unmatched) for plan in plans], requests)])


def apply_command(config: TakedownConfig) -> str:
    """Remove, prove that nothing is left, and write the certificate."""
    requests = _requests(config)
    path = config.certificate or beside(config.dataset[0], requests)
    artifacts.check_outside(path)
    engine = Engine(config)
    plans = make_plans(config.dataset, config.requests, requests, config.artifacts, engine)
    certificate = Certificate(path)
    searched = config.artifacts
    planned = [statement_of(plan, plan.dataset, requests, searched, None) for plan in plans]
    certificate.write(planned)  # a kill loses nothing
    after = _apply_all(plans, requests, engine)
    found = [find_requested(now, plan.policy, requests, engine) for plan, now in zip(plans, after, strict=True)]
    left = [residuals(now, some, plan.policy) for plan, now, some in zip(plans, after, found, strict=True)]
    certificate.write(
        [statement_of(plan, now, requests, searched, some) for plan, now, some in zip(plans, after, left, strict=True)]
    )
    if any(some for some in left):
        raise DataError(f"{path}: residuals were found, see there")
    removed = sum(len(plan.sha256s) for plan in plans)
    seen = sum(use.artifact.kind not in (shards.KIND, "tokens") for plan in plans for use in plan.uses)
    held = _still_held([use for plan in plans for use in plan.uses], searched)
    told = f"{removed:,} documents removed, 0 residuals; {seen} artifacts keep what they learned{held}"
    warning = _warning([(plan.dataset, plan.unmatched) for plan in plans], requests)
    return "\n".join([f"{told}; certificate: {path}", *warning])


def verify_command(config: TakedownConfig) -> str:
    """Prove that nothing of the requests is left.

    Raises:
        DataError: something is.
    """
    requests = _requests(config)
    found_in = []
    for path in config.dataset:
        dataset = shards.load_dataset(path)
        policy = policy_of(dataset, config.requests)
        found = find_requested(dataset, policy, requests, Engine(config))
        found_in.append((dataset, found))
        if left := residuals(dataset, found, policy):
            first = left[0]
            raise DataError(
                f"{path}: {len(left)} residuals, the first by {first['by']} in {first['shard']} row {first['row']}"
            )
    told = f"0 residuals of {len(requests)} requests, by request, exact hash, normalized hash and MinHash"
    try:
        used = [use for dataset, some in found_in for use in uses(config.artifacts, some.gone, dataset=dataset)]
        told += _still_held(used, config.artifacts)
    except IbidemError as error:  # the proof is about the datasets, and stands
        told += f"; what else holds some was not found out: {error}"
    return "\n".join([told, *_warning([(dataset, some.unmatched) for dataset, some in found_in], requests)])


def _still_held(used: Sequence[Use], searched: Sequence[Path]) -> str:
    """Name the other datasets that hold removed documents, and where they were looked for."""
    held = sorted({str(use.artifact.path) for use in used if use.spans and use.artifact.kind == shards.KIND})
    below = ", ".join(str(path) for path in searched if path.is_dir())
    told = f"; these still hold some, make them again: {', '.join(held)}" if held else ""
    return f"{told}; looked for below {below}" if below else "; nothing else was looked for: no --artifacts are there"


def _requests(config: TakedownConfig) -> list[Request]:
    requests = load_requests([config.requests])
    if not requests:
        raise ConfigError(f"{config.requests}: holds no request")
    places = [path.resolve() for path in config.dataset]
    if len(set(places)) < len(places):
        raise ConfigError("dataset: the same folder is given twice")
    for place in places:
        sweep(place.parent)
    return requests


def _apply_all(plans: Sequence[Plan], requests: Sequence[Request], engine: Engine) -> list[Artifact]:
    """Apply plans in order; datasets deduplicated against another one of them name it as it has become."""
    became: dict[str, str] = {}
    after = []
    for plan in plans:
        inputs = [replace(item, digest=became.get(item.digest, item.digest)) for item in plan.dataset.inputs]
        after.append(apply(plan, requests, engine, inputs=inputs))
        became[plan.dataset.digest] = after[-1].digest
    return after


def apply(plan: Plan, requests: Sequence[Request], engine: Engine, *, inputs: Sequence[artifacts.Input]) -> Artifact:
    """Replace the dataset by one without the rows; shards that lose none are the same files."""
    dataset = plan.dataset
    honored = {row["id"]: row for row in shards.read_tombstones(dataset)} | {
        request.id: request.tombstone for request in requests
    }
    tombstones = [honored[key] for key in sorted(honored)]
    inputs = [item for item in inputs if item.role != removals.ROLE] + removals.as_inputs(sorted(honored))
    with artifacts.create(dataset.path, kind=shards.KIND, config=dataset.config, inputs=inputs) as draft:
        for name, file in dataset.files.items():
            if name not in (shards.DROPPED, shards.REMOVED, shards.REMOVALS) and _shard_of(name) not in plan.rows:
                (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(dataset.path / name, draft.path / name)
                draft.rows |= {name: file.rows} if file.rows is not None else {}
        rewrite = partial(_rewrite, dataset.path, draft.path)
        with log.progress("takedown.rewrite", len(plan.rows), "shards") as bar:
            removed: list[_Removed] = []
            for some in engine.map(rewrite, list(plan.rows.items()), processes=False):
                draft.rows |= {some.shard: some.num_kept} if some.num_kept else {}
                removed.append(some)
                bar.advance()
        texts = {row["id"] for row in tombstones if row["kind"] == "text"}
        rename = partial(_renamed, matcher=Matcher(requests), texts=texts)
        dropped = _merge_dropped(dataset, draft, removed, map(rename, shards.read_dropped(dataset)))
        shards.write_tombstones(draft, tombstones)
        counted = from_manifest(dataset.counts)
        for some in removed:
            counted.subtract(some.counted)
        counted = Counter({key: count for key, count in counted.items() if key[0] != "dropped"}) + dropped
        more = {name: value for name, value in dataset.counts.items() if name in ("skipped_files", "clusters")}
        draft.counts |= to_manifest(counted, more=more)
    return artifacts.load(dataset.path, kind=shards.KIND)


def residuals(dataset: Artifact, requested: "Requested", policy: RemovalPolicy) -> list[dict[str, Any]]:
    """Find rows that a request names, or that are the same as, or nearly, something that was removed."""
    path = dataset.path
    found: list[dict[str, Any]] = [{"shard": shard, "row": row, "by": "request"} for shard, row in requested.rows]
    if shards.REMOVED not in dataset.files:
        return found
    removed = np.load(path / shards.REMOVED)
    hashes = ["reason", "raw_sha256", "sha256", "swhid"]
    told = pa.concat_tables(map(removed_only, shards.read_dropped(dataset, hashes)))
    for shard in shards.shard_paths(path):
        name = shard.relative_to(path).as_posix()
        columns = pq.read_table(shard, columns=["raw_sha256", "sha256", "swhid"])
        for column in columns.column_names:
            same = pc.indices_nonzero(pc.is_in(columns[column], told[column].combine_chunks())).to_pylist()
            found += [{"shard": name, "row": row, "by": f"exact hash ({column})"} for row in same]
        if policy.duplicates == "cluster" and dataset.config["dedup"]["near"]:
            found += [{"shard": name, **row} for row in _similar(np.load(shards.sketch_path(shard)), removed)]
    return found


def _similar(sketches: NDArray[Any], removed: NDArray[Any]) -> Iterator[dict[str, Any]]:
    for row in np.flatnonzero(np.isin(sketches["sequence"], removed["sequence"])).tolist():
        yield {"row": row, "by": "normalized hash"}
    from ibidem.data.text.shingles import NUM_KEYS, band_keys

    shares_band = np.zeros(len(sketches), bool)
    for band in range(NUM_KEYS):
        shares_band |= np.isin(band_keys(sketches["signature"], band), band_keys(removed["signature"], band))
    for row in np.flatnonzero(shares_band).tolist():
        agreed = float(agreement(sketches[row]["signature"], removed["signature"]).max())
        if agreed >= CERTAIN_AGREEMENT:
            yield {"row": row, "by": f"MinHash (estimated similarity {agreed:.2f})"}


class _Removed(NamedTuple):
    """What left one shard."""

    shard: str
    num_kept: int
    counted: Counts
    """Of the rows that left."""
    dropped: pa.Table
    sketches: NDArray[Any]


def _rewrite(old: Path, new: Path, task: tuple[str, list[Gone]]) -> _Removed:
    name, gone = task
    places = [one.row for one in gone]
    table = pa.table(
        {"row": places, "reason": [str(one.reason) for one in gone], "detail": [one.detail for one in gone]},
        schema=decide.SCHEMA.empty_table().select(["row", "reason", "detail"]).schema,
    )
    path = new / name
    path.parent.mkdir(parents=True, exist_ok=True)
    outcome = write_staying(old / name, path, table, _dataset_of(name))
    sketches = np.load(shards.sketch_path(old / name))
    num_kept = int(outcome.stays.sum())
    if num_kept:
        np.save(shards.sketch_path(path), sketches[outcome.stays])
    return _Removed(name, num_kept, outcome.gone, outcome.dropped, sketches[places])


def _merge_dropped(
    dataset: Artifact, draft: artifacts.Draft, removed: Sequence[_Removed], old: Iterable[pa.Table]
) -> Counts:
    """Write the dropped rows and the sketches of the removed ones, old and added, shard by shard; count the former."""
    number_of = partial(_shard_number, int(dataset.config["shard_size"]))
    added = sorted((some.dropped for some in removed), key=number_of)
    counted: Counts = Counter()
    places: list[pa.Table] = []

    def noted(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            places.append(removed_only(table).select(["dataset", "position"]))
            yield table

    def merged() -> Iterator[pa.Table]:
        for _, tables in groupby(heapq.merge(noted(old), added, key=number_of), key=number_of):
            rows = pa.concat_tables(tables).sort_by("position")
            counted.update(count_dropped(rows))
            yield rows

    draft.rows[shards.DROPPED] = shards.write_dropped(draft.path / shards.DROPPED, merged())
    sketches = [np.load(dataset.path / shards.REMOVED)] if shards.REMOVED in dataset.files else []
    sketches += [some.sketches for some in removed]
    if sketches:
        order = [("dataset", "ascending"), ("position", "ascending")]
        there = pa.concat_tables([*places, *(some.dropped.select(["dataset", "position"]) for some in removed)])
        by_place = pc.sort_indices(there, sort_keys=order).to_numpy()
        np.save(draft.path / shards.REMOVED, np.concatenate(sketches)[by_place])
    return counted


def _shard_number(shard_size: int, dropped: pa.Table) -> tuple[str, int]:
    return dropped["dataset"][0].as_py(), dropped["position"][0].as_py() // shard_size


def _renamed(dropped: pa.Table, matcher: Matcher, texts: Collection[str]) -> pa.Table:
    """Tell of rows that had left before that these requests name them too: of several names the least is told.

    Requests for a text give way to all others.
    """
    if not len(removed_only(dropped)):
        return dropped
    rows = dropped.to_pylist()
    for row in rows:
        if row["reason"] in REMOVED and (request := matcher.find(row)):
            by_noun = row["reason"] == DropReason.REMOVAL_REQUESTED and row["detail"] not in texts
            told = [row["detail"]] if by_noun else []
            row |= {"reason": str(DropReason.REMOVAL_REQUESTED), "detail": min([*told, request])}
    return pa.Table.from_pylist(rows, schema=shards.DROPPED_SCHEMA)


def _warning(unmatched: Sequence[tuple[Artifact, Sequence[Request]]], requests: Sequence[Request]) -> list[str]:
    """Say in one line which requests name nothing in any of the datasets; nothing where there is none.

    Of a text that was removed once nobody can tell any more in how many documents it stood: only its certificate can.
    """
    texts = {row["id"] for dataset, _ in unmatched for row in shards.read_tombstones(dataset) if row["kind"] == "text"}
    idle = [r.tombstone for r in requests if r.id not in texts and all(r in some for _, some in unmatched)]
    told = ", ".join(" ".join(f"{request['kind']} {request['value']}".split()) for request in idle[:10])
    more = f" and {len(idle) - 10:,} more" if len(idle) > 10 else ""
    return [f"{len(idle):,} of {len(requests):,} requests name nothing there: {told}{more}"] if idle else []


def _shard_of(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.replace("sketch-", "shard-").replace(".npy", ".parquet")


def _dataset_of(name: str) -> str:
    return name.rpartition("/")[0]
