"""Takedown: what a request for removal means for finished shards, its execution, and the proof.

    plan      which documents, with their near duplicates, in which rows; which tokens, checkpoints, ... saw them
    apply     rewrite the touched shards, and nothing else; certify
    verify    nothing is left: by the requests, by exact hash, by normalized hash, by MinHash

The result equals, byte for byte, what `preprocess` makes when it is given the requests from the start. Weights are not
unlearned by any of this, and the certificate says so.
"""

import heapq
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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

from ibidem import __version__, artifacts, config, log
from ibidem.artifacts import Artifact
from ibidem.config import POSITIONAL, configuration
from ibidem.data import shards
from ibidem.data.counts import Counts, count_dropped, from_manifest, to_manifest
from ibidem.data.dedup import agreement
from ibidem.data.engine import Engine, EngineConfig
from ibidem.data.filters import removals
from ibidem.data.filters.removals import NOUNS, Matcher, RemovalPolicy, Request, load_requests
from ibidem.data.pipeline import decide
from ibidem.data.pipeline.finish import write_staying
from ibidem.data.provenance.exposure import Use, uses
from ibidem.errors import ArtifactError, ConfigError, DataError, IbidemError
from ibidem.files import sweep, write_file
from ibidem.records import DropReason

REMOVED = (DropReason.REMOVAL_REQUESTED, DropReason.REMOVAL_CLUSTER)
CERTAIN_AGREEMENT = 0.92
"""Estimated similarity from which on a document counts as a residual: 0.8 and three standard deviations of the
estimate from 112 MinHashes, sqrt(0.8 * 0.2 / 112)."""
WEIGHTS_STATEMENT = (
    "Data were removed from the dataset. Weights are not unlearned: every checkpoint listed here was trained on the "
    "removed documents and keeps what it learned from them until it is trained again without them."
)


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


class Gone(NamedTuple):
    """A row that goes."""

    row: int
    reason: DropReason
    detail: str
    sha256: str


@dataclass(frozen=True)
class Plan:
    """What leaves one dataset."""

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
            f"{self.dataset.path}: {len(self.sha256s):,} documents in {len(self.rows)} shards "
            f"({reasons[REMOVED[0]]:,} requested, {reasons[REMOVED[1]]:,} near duplicates of these)"
        )
        touched = (f"  {shard}: rows {_some([gone.row for gone in rows])}" for shard, rows in self.rows.items())
        return "\n".join([head, *touched, *(f"  {use}" for use in self.uses)])


def plan_command(config: TakedownConfig) -> str:
    """Say what would leave, and what saw it."""
    requests = _requests(config)
    plans = make_plans(config, requests)
    return "\n".join([*map(str, plans), *_warning([(plan.dataset, plan.unmatched) for plan in plans], requests)])


def apply_command(config: TakedownConfig) -> str:
    """Remove, prove that nothing is left, and write the certificate."""
    requests = _requests(config)
    path = config.certificate or _beside(config.dataset[0], requests)
    artifacts.check_outside(path)
    plans = make_plans(config, requests)
    engine = Engine(config)
    certificate = Certificate(path)
    searched = config.artifacts
    planned = [_statement(plan, plan.dataset, requests, searched, None) for plan in plans]
    certificate.write(planned)  # a kill loses nothing
    after = _apply_all(plans, requests, engine)
    found = [_requested(now, plan.policy, requests, engine) for plan, now in zip(plans, after, strict=True)]
    left = [residuals(now, some, plan.policy) for plan, now, some in zip(plans, after, found, strict=True)]
    certificate.write(
        [_statement(plan, now, requests, searched, some) for plan, now, some in zip(plans, after, left, strict=True)]
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
        policy = _policy(dataset, config.requests)
        found = _requested(dataset, policy, requests, Engine(config))
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


def make_plans(config: TakedownConfig, requests: Sequence[Request]) -> list[Plan]:
    """Find what leaves each dataset."""
    datasets = [shards.load_dataset(path) for path in config.dataset]
    engine = Engine(config)
    policies = [_policy(dataset, config.requests) for dataset in datasets]
    found = [_requested(dataset, policy, requests, engine) for dataset, policy in zip(datasets, policies, strict=True)]
    doomed = {cluster for some in found for cluster in some.clusters}
    plans = []
    for dataset, policy, some in zip(datasets, policies, found, strict=True):
        rows = _rows(dataset, some.rows, doomed)
        hashes = [*some.gone, *(gone.sha256 for shard in rows.values() for gone in shard)]
        plans.append(Plan(dataset, policy, rows, some.unmatched, uses(config.artifacts, hashes, dataset=dataset)))
    return plans


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


def residuals(dataset: Artifact, requested: "_Requested", policy: RemovalPolicy) -> list[dict[str, Any]]:
    """Find rows that a request names, or that are the same as, or nearly, something that was removed."""
    path = dataset.path
    found: list[dict[str, Any]] = [{"shard": shard, "row": row, "by": "request"} for shard, row in requested.rows]
    if shards.REMOVED not in dataset.files:
        return found
    removed = np.load(path / shards.REMOVED)
    hashes = ["reason", "raw_sha256", "sha256", "swhid"]
    told = pa.concat_tables(map(_removed_only, shards.read_dropped(dataset, hashes)))
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
            places.append(_removed_only(table).select(["dataset", "position"]))
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
    if not len(_removed_only(dropped)):
        return dropped
    rows = dropped.to_pylist()
    for row in rows:
        if row["reason"] in REMOVED and (request := matcher.find(row)):
            by_noun = row["reason"] == DropReason.REMOVAL_REQUESTED and row["detail"] not in texts
            told = [row["detail"]] if by_noun else []
            row |= {"reason": str(DropReason.REMOVAL_REQUESTED), "detail": min([*told, request])}
    return pa.Table.from_pylist(rows, schema=shards.DROPPED_SCHEMA)


def _removed_only(dropped: pa.Table) -> pa.Table:
    return dropped.filter(pc.is_in(dropped["reason"], pa.array(REMOVED, pa.string())))


class _Requested(NamedTuple):
    """What requests mean for one dataset."""

    rows: dict[tuple[str, int], str]
    """The request by (shard, row)."""
    clusters: set[str]
    """Those that leave with these rows."""
    gone: list[str]
    """sha256 of the documents that left before, for these requests."""
    unmatched: list[Request]
    """Requests that name nothing that is or was in it."""


def _requested(dataset: Artifact, policy: RemovalPolicy, requests: Sequence[Request], engine: Engine) -> _Requested:
    matcher = Matcher(requests)
    rows: dict[tuple[str, int], str] = {}
    clusters: set[str | None] = set()
    met: set[str] = set()
    for name, row, nouns in _shard_rows(dataset):
        if keys := matcher.find_all(nouns):
            rows[name, row] = min(keys)
            met |= keys
    if matcher.texts:
        for place, keys_of_texts in _find_texts(dataset, policy, engine):
            rows.setdefault(place, keys_of_texts[0])
            met.update(keys_of_texts)
    removed: list[tuple[bool, dict[str, Any]]] = []
    for keys, nouns in _dropped_rows(dataset, matcher, {request.id for request in requests}):
        met |= keys
        if keys and nouns["reason"].startswith("duplicate."):
            clusters.add(nouns["cluster"])
        if nouns["reason"] in REMOVED:
            removed.append((bool(keys), nouns))
    clusters |= {nouns["cluster"] for name, row, nouns in _shard_rows(dataset) if (name, row) in rows}
    leaving = {cluster for cluster in clusters if cluster is not None and policy.duplicates == "cluster"}
    along = leaving | {nouns["cluster"] for named, nouns in removed if named}
    gone = [nouns["sha256"] for named, nouns in removed if named or nouns["detail"] in along]
    return _Requested(rows, leaving, gone, [request for request in requests if request.id not in met])


def _dropped_rows(dataset: Artifact, matcher: Matcher, ids: set[str]) -> Iterator[tuple[set[str], dict[str, Any]]]:
    """Give each dropped row with the requests that name it, or for which it left."""
    for dropped in shards.read_dropped(dataset, [*NOUNS, "cluster", "reason", "detail"]):
        for nouns in dropped.to_pylist():
            yield matcher.find_all(nouns) | ids.intersection([nouns["detail"]]), nouns


def _find_texts(
    dataset: Artifact, policy: RemovalPolicy, engine: Engine
) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """Give (shard, row) and the requests of each row that holds a requested text."""
    names = [path.relative_to(dataset.path).as_posix() for path in shards.shard_paths(dataset.path)]
    sizes = [dataset.files[name].rows or 0 for name in names]
    bounds = np.cumsum([0, *sizes])
    tasks = [
        (dataset.path / name, np.arange(size), int(start))
        for name, size, start in zip(names, sizes, bounds, strict=False)
    ]
    for some in engine.map(partial(decide.find_texts, policy), tasks, processes=False):
        for index, keys in some.items():
            number = int(np.searchsorted(bounds, index, side="right")) - 1
            yield (names[number], index - int(bounds[number])), keys


def _warning(unmatched: Sequence[tuple[Artifact, Sequence[Request]]], requests: Sequence[Request]) -> list[str]:
    """Say in one line which requests name nothing in any of the datasets; nothing where there is none.

    Of a text that was removed once nobody can tell any more in how many documents it stood: only its certificate can.
    """
    texts = {row["id"] for dataset, _ in unmatched for row in shards.read_tombstones(dataset) if row["kind"] == "text"}
    idle = [r.tombstone for r in requests if r.id not in texts and all(r in some for _, some in unmatched)]
    told = ", ".join(" ".join(f"{request['kind']} {request['value']}".split()) for request in idle[:10])
    more = f" and {len(idle) - 10:,} more" if len(idle) > 10 else ""
    return [f"{len(idle):,} of {len(requests):,} requests name nothing there: {told}{more}"] if idle else []


def _shard_rows(dataset: Artifact) -> Iterator[tuple[str, int, dict[str, Any]]]:
    has_clusters = dataset.config["dedup"]["near"] or dataset.config["dedup"]["exact"]
    for path in shards.shard_paths(dataset.path):
        name = path.relative_to(dataset.path).as_posix()
        rows = pq.read_table(path, columns=[*NOUNS, "cluster"]).to_pylist()
        for number, row in enumerate(rows):
            if has_clusters:
                row["cluster"] = row["cluster"] or row["sha256"][: decide.CLUSTER_DIGITS]
            yield name, number, row


def _rows(dataset: Artifact, named: dict[tuple[str, int], str], doomed: set[str]) -> dict[str, list[Gone]]:
    rows: dict[str, list[Gone]] = {}
    for name, row, nouns in _shard_rows(dataset):
        if request := named.get((name, row)):
            rows.setdefault(name, []).append(Gone(row, DropReason.REMOVAL_REQUESTED, request, nouns["sha256"]))
        elif nouns["cluster"] in doomed:
            rows.setdefault(name, []).append(Gone(row, DropReason.REMOVAL_CLUSTER, nouns["cluster"], nouns["sha256"]))
    return rows


def _policy(dataset: Artifact, requests: Path) -> RemovalPolicy:
    if "removals" not in dataset.config:
        raise ConfigError(
            f"{dataset.path}: not made by preprocess; take down from what it was made of, then make it again"
        )
    return config.build(RemovalPolicy, {**dataset.config["removals"], "requests": (requests,)})


class Certificate:
    """In-toto statements in a file; what it said before is never taken back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            statements = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            self._before = {statement["predicate"]["dataset"]["path"]: statement for statement in statements}
            self._hashes = {name: _hashes(statement) for name, statement in self._before.items()}
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} exists and is no certificate; choose another path") from None

    def write(self, statements: Sequence[dict[str, Any]]) -> None:
        """Write statements, each with what an earlier run of the same takedown found.

        Raises:
            ConfigError: the certificate is of another takedown.
        """
        for statement in statements:
            predicate = statement["predicate"]
            earlier = self._before.get(predicate["dataset"]["path"])
            if earlier is not None:
                before = earlier["predicate"]
                if _ids(before["requests"]) != _ids(predicate["requests"]):
                    raise ConfigError(f"{self._path} is the certificate of other requests; choose another path")
                predicate["searched"] = _union(before.get("searched", []), predicate["searched"])
                predicate["dataset"]["before"] = before["dataset"]["before"]
                predicate["removed"] = _union(before["removed"], predicate["removed"])
                predicate["seen_by"] = _since(before["seen_by"], predicate["seen_by"])
                idle = before.get("unmatched", predicate["unmatched"])
                predicate["unmatched"] = [key for key in predicate["unmatched"] if key in idle]
                told = before["files"]
                changed = _changed(self._hashes[predicate["dataset"]["path"]], _hashes(statement))
                rewritten = told["rewritten"] | {
                    name: {"before": told["rewritten"].get(name, {"before": old})["before"], "after": new}
                    for name, (old, new) in changed.items()
                }
                untouched = told["untouched"] + len(told["rewritten"]) - len(rewritten)
                predicate["files"] = {"rewritten": dict(sorted(rewritten.items())), "untouched": untouched}
        given = {statement["predicate"]["dataset"]["path"] for statement in statements}
        kept = [statement for path, statement in self._before.items() if path not in given]
        write_file(self._path, json.dumps([*statements, *kept], ensure_ascii=False, indent=1) + "\n")


def _ids(tombstones: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row["id"] for row in tombstones}


def _hashes(statement: Mapping[str, Any]) -> dict[str, str]:
    return {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str | None]]:
    """Give the hashes of each file that was written anew, or is gone."""
    return {name: (old, after.get(name)) for name, old in sorted(before.items()) if after.get(name) != old}


def _since(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell what was told before, with what became of it since, and then what is told now for the first time."""
    latest = {(use["path"], use["digest"]): use for use in now}
    told = []
    for use in before:
        found = latest.pop((use["path"], use["digest"]), use)
        certain = use if found.get("state") == "may have seen" else found  # the first takedown knew more
        told.append(certain | _became(Path(use["path"]), use["digest"]))
    return told + list(latest.values())


def _became(path: Path, digest: str) -> dict[str, str]:
    try:
        return {} if artifacts.load(path).digest == digest else {"state": "made again since"}
    except ArtifactError:
        return {"state": "gone since"}


def _union(before: list[Any], more: list[Any]) -> list[Any]:
    return before + [item for item in more if item not in before]


def _statement(
    plan: Plan,
    after: Artifact,
    requests: Sequence[Request],
    searched: Sequence[Path],
    left: Sequence[dict[str, Any]] | None,
) -> dict[str, Any]:
    """Write an in-toto statement (https://in-toto.io/Statement/v1) about one dataset; it holds no text.

    `left` is None before the removal.
    """
    before = plan.dataset
    hashes = [{name: file.sha256 for name, file in dataset.files.items()} for dataset in (before, after)]
    touched = _changed(*hashes)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": file.sha256}} for name, file in sorted(after.files.items())],
        "predicateType": "urn:ibidem:takedown:v1",
        "predicate": {
            "dataset": {"path": str(after.path), "before": before.digest, "after": after.digest},
            "requests": [request.tombstone for request in requests],
            "unmatched": [request.id for request in plan.unmatched],
            "removed": [{"shard": shard, **gone._asdict()} for shard, rows in plan.rows.items() for gone in rows],
            "files": {
                "rewritten": {name: {"before": old, "after": new} for name, (old, new) in touched.items()},
                "untouched": len(before.files) - len(touched),
            },
            "state": "planned" if left is None else "done",
            "residuals": None if left is None else list(left),
            "searched": [str(path.resolve()) for path in searched if path.is_dir()],
            "seen_by": [use.as_record() for use in plan.uses],
            "statement": WEIGHTS_STATEMENT,
            "tool": f"ibidem {__version__}",
        },
    }


def _beside(dataset: Path, requests: Sequence[Request]) -> Path:
    key = removals.as_inputs([request.id for request in requests])[0].digest.removeprefix("sha256:")[:12]
    return dataset.parent / f"{dataset.name}.takedown-{key}.json"


def _shard_of(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.replace("sketch-", "shard-").replace(".npy", ".parquet")


def _dataset_of(name: str) -> str:
    return name.rpartition("/")[0]


def _some(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10:,} more" if len(rows) > 10 else "")
