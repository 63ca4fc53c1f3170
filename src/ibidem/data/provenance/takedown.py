"""Takedown: remove requested documents from finished shards, and prove that they are gone.

    plan      which documents, with their near duplicates, in which rows; which tokens, checkpoints, ... saw them
    apply     rewrite the affected shards, and nothing else; write the certificate, its page and its signatures
    verify    check that nothing is left: by the requests, by exact hash, by normalized hash, by MinHash; the exit code
              is 2 if anything is left, or a request matches nothing, 1 if only what else was made still contains
              documents, 0 if nothing does

The result equals, byte for byte, that of `preprocess` with the same requests from the start. Weights are not unlearned
by any of this, and the certificate says so.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
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
from ibidem.data.dedup import SKETCH, agreement
from ibidem.data.engine import Engine, EngineConfig
from ibidem.data.filters import removals
from ibidem.data.filters.removals import Matcher, RemovalPolicy, Request, load_requests
from ibidem.data.pipeline import decide
from ibidem.data.pipeline.finish import write_staying
from ibidem.data.provenance.certificate import Certificate, beside, now, statement_of
from ibidem.data.provenance.exposure import OF_DOCUMENTS, artifacts_in, uses
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
from ibidem.data.provenance.still_held import CACHES, delete_caches, still_held
from ibidem.data.provenance.unmatched import idle_requests, lines
from ibidem.errors import ConfigError, DataError, IbidemError, RequestsUnmatched, StillHeld
from ibidem.figures import counted
from ibidem.files import sha256_of, sweep
from ibidem.readers import readers_of
from ibidem.records import DropReason
from ibidem.signatures import open_key

CERTAIN_AGREEMENT = 0.92
"""Estimated similarity from which a document counts as a residual: 0.8 plus three standard deviations of the estimate
from 112 MinHashes, sqrt(0.8 * 0.2 / 112)."""


DEFAULT_ARTIFACTS = (Path("artifacts"), Path("data"))


@configuration
class TakedownConfig(EngineConfig):
    """Remove requested documents from finished datasets."""

    requests: Annotated[Path, POSITIONAL]
    """File of requests, JSON lines or YAML of `kind` and `value`. A kind is one of repo (owner/name, or its address),
    owner, path (a file, a folder with everything below it, or a glob, in which * matches slashes too; with `repo`, in
    that repository alone), url (with everything below it), swhid, sha256, record, text."""
    dataset: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Folder of a preprocessed dataset; repeat for datasets that were deduplicated against each other."""
    artifacts: tuple[Path, ...] = DEFAULT_ARTIFACTS
    """Folders to search for everything made from the datasets. Without this flag, one of the default folders must
    exist here."""
    allow_unmatched: bool = False
    """Accept requests that match nothing: the documents are not held here. Otherwise nothing is removed, and the exit
    code is 2."""
    everything: bool = False
    """Confirm a request for a path, such as *, that every document has."""
    caches: bool = False
    """Delete the tokens and attribution indexes below the searched folders that contain removed documents, instead of
    naming them."""
    certificate: Path | None = None
    """Path of the certificate that apply writes; if empty, NAME.takedown-ID.json beside the first dataset. A page for
    people is beside it, with the suffix .html."""
    operator: str | None = None
    """Who carries out the takedown, for the certificate."""
    sign_with: Path | None = None
    """Private key, as ibidem key makes it, that signs the certificate: DSSE envelopes beside it, with the suffix
    .intoto.jsonl."""


def plan_command(config: TakedownConfig) -> str:
    """Report which documents would be removed, and what saw them.

    Raises:
        RequestsUnmatched: a request matches nothing.
    """
    requests, engine = _requests(config), Engine(config)
    plans = make_plans(config.dataset, config.requests, requests, config.artifacts, engine)
    report = "\n".join([*map(str, plans), _searched(config.artifacts)])
    return _told(report, [(plan.dataset, plan.unmatched) for plan in plans], requests, config)


def preview(config: TakedownConfig) -> list[str]:
    """Return the plan, line by line.

    Raises:
        RequestsUnmatched: a request matches nothing.
    """
    return plan_command(config).splitlines()


def apply_command(config: TakedownConfig) -> str:
    """Remove the documents, check that nothing is left, and write the certificate.

    Raises:
        ArtifactError: another takedown is working on one of the datasets.
        DataError: a document is left.
        RequestsUnmatched: a request matches nothing; nothing was changed.
    """
    with ExitStack() as stack:
        for folder in sorted({path.resolve() for path in config.dataset}):
            stack.enter_context(artifacts.locked(folder.with_name(f".{folder.name}.takedown")))
        return _apply_command(config)


def _apply_command(config: TakedownConfig) -> str:
    requests = _requests(config)
    key = open_key(config.sign_with) if config.sign_with else None  # before the work, not after it
    path = config.certificate or beside(config.dataset[0], requests)
    artifacts.check_outside(path)
    certificate = Certificate(path, key)
    engine = Engine(config)
    plans = make_plans(config.dataset, config.requests, requests, config.artifacts, engine)
    found = [(plan.dataset, plan.unmatched) for plan in plans]
    _told("nothing was removed", found, requests, config)  # raises if a request has to be looked at first
    searched = config.artifacts
    state = partial(statement_of, requests=requests, searched=searched, operator=config.operator, planned=now())
    certificate.write(
        [state(plan, plan.dataset, left=None) for plan in plans]
    )  # before anything is removed, so that a kill loses nothing
    after = _apply_all(plans, requests, engine)
    requested = [find_requested(made, plan.policy, requests, engine) for plan, made in zip(plans, after, strict=True)]
    left = [residuals(made, named, plan.policy) for plan, made, named in zip(plans, after, requested, strict=True)]
    certificate.write([state(plan, made, left=rows) for plan, made, rows in zip(plans, after, left, strict=True)])
    if any(left):
        raise DataError(f"{path}: residuals were found; the certificate lists them")
    removed = sum(len(plan.sha256s) for plan in plans)
    used = [use for plan in plans for use in plan.uses]
    seen = len({use.artifact.path for use in used if use.artifact.kind not in (*OF_DOCUMENTS, *CACHES)})
    deleted = delete_caches(used, searched) if config.caches else ""
    held = deleted + still_held(use for use in used if use.artifact.path.exists())
    keep = counted(seen, "artifact keeps", "artifacts keep")
    result = f"{counted(removed, 'document')} removed, 0 residuals; {keep} what they learned{held}"
    report = f"{result}; {_searched(searched)}; certificate: {path}"
    return _told(report, found, requests, config)


def verify_command(config: TakedownConfig) -> str:
    """Check that no requested document is left.

    Raises:
        DataError: one is left.
        RequestsUnmatched: a request matches nothing.
        StillHeld: other datasets, copies, tokens or indexes contain removed documents, or cannot be checked.
    """
    requests = _requests(config)
    checked = []
    for path in config.dataset:
        engine = Engine(config)
        dataset = shards.load_dataset(path, engine)
        policy = policy_of(dataset, config.requests)
        requested = find_requested(dataset, policy, requests, engine)
        checked.append((dataset, requested))
        if left := residuals(dataset, requested, policy):
            first = left[0]
            found = counted(len(left), "residual")
            raise DataError(f"{path}: {found}, the first by {first['by']} in {first['shard']} row {first['row']}")
    amount = counted(len(requests), "request")
    result = f"0 residuals of {amount}, by request, exact hash, normalized hash and MinHash"
    try:
        used = [use for dataset, named in checked for use in uses(config.artifacts, named.gone, dataset=dataset)]
        elsewhere = still_held(used)
        result += f"{elsewhere}; {_searched(config.artifacts)}"
    except IbidemError as error:  # the result for the datasets is still valid
        elsewhere = f"; other artifacts could not be checked: {error}"
        result += elsewhere
    report = _told(result, [(dataset, named.unmatched) for dataset, named in checked], requests, config)
    if elsewhere:
        raise StillHeld(report)
    return report


def _searched(folders: Sequence[Path]) -> str:
    below = ", ".join(str(path) for path in folders if path.is_dir())
    found = artifacts_in(folders).values()
    alone = "" if any(each.kind != shards.KIND for each in found) else "; no tokens and no checkpoint are among them: "
    remedy = "if there are some elsewhere, name their folders by --artifacts" if alone else ""
    return f"searched {below}: {counted(len(found), 'artifact')}{alone}{remedy}"


def _told(
    report: str,
    unmatched: Sequence[tuple[Artifact, Sequence[Request]]],
    requests: Sequence[Request],
    config: TakedownConfig,
) -> str:
    """Return a line for each request that matches nothing, and the report, unless these have to be looked at first."""
    idle = idle_requests(unmatched, requests)
    report = "\n".join([*lines(idle, [dataset for dataset, _ in unmatched]), report])
    if idle and not config.allow_unmatched:
        raise RequestsUnmatched(
            f"{len(idle):,} of {len(requests):,} requests match nothing; correct {config.requests}, or confirm by "
            "--allow-unmatched that the documents are not held here",
            report,
        )
    return report


def _requests(config: TakedownConfig) -> list[Request]:
    requests = load_requests([config.requests])
    if not requests:
        raise ConfigError(f"{config.requests}: contains no requests")
    if not config.everything and (every := [request for request in requests if request.names_everything]):
        what = "every document" if every[0].kind == "path" else "everything on a host"
        raise ConfigError(f"{config.requests}: {every[0]} names {what}; confirm it by --everything")
    _check_folders(config.artifacts)
    places = [path.resolve() for path in config.dataset]
    if len(set(places)) < len(places):
        raise ConfigError("dataset: the same folder is given twice")
    for place in places:
        sweep(place.parent)
    return requests


def _check_folders(folders: Sequence[Path]) -> None:
    """Refuse to look for artifacts where there are none: a plan or a certificate would seem complete."""
    missing = [str(path) for path in folders if not path.is_dir()]
    if folders == DEFAULT_ARTIFACTS and len(missing) == len(folders):
        raise ConfigError(
            f"no folder {' or '.join(missing)} here to search for what was made from the datasets; give --artifacts"
        )
    if folders != DEFAULT_ARTIFACTS and missing:
        raise ConfigError(f"artifacts: {missing[0]}: no such folder; it was to be searched for what saw the documents")


def _apply_all(plans: Sequence[Plan], requests: Sequence[Request], engine: Engine) -> list[Artifact]:
    """Apply plans in order; a dataset deduplicated against another one of them gets that one's new digest as input."""
    became: dict[str, str] = {}
    after = []
    for plan in plans:
        inputs = [replace(item, digest=became.get(item.digest, item.digest)) for item in plan.dataset.inputs]
        after.append(apply(plan, requests, engine, inputs=inputs))
        became[plan.dataset.digest] = after[-1].digest
    return after


def apply(plan: Plan, requests: Sequence[Request], engine: Engine, *, inputs: Sequence[artifacts.Input]) -> Artifact:
    """Replace the dataset by one without the planned rows; unaffected shards stay the same files."""
    dataset = plan.dataset
    honored = {row["id"]: row for row in shards.read_tombstones(dataset)} | {
        request.id: request.tombstone for request in requests
    }
    tombstones = [honored[key] for key in sorted(honored)]
    inputs = [item for item in inputs if item.role != removals.ROLE] + removals.as_inputs(sorted(honored))
    is_private = readers_of(dataset.config) is not None
    with artifacts.create(
        dataset.path, kind=shards.KIND, config=dataset.config, inputs=inputs, is_private=is_private
    ) as draft:
        rewritten = dict(plan.rows)
        for name in shards.names_of(dataset, shards.REMOVED):  # these requests may name what was removed earlier
            rewritten.setdefault(_shard_of(name), [])
        for name, file in dataset.files.items():  # the plan has rehashed them all
            if name != shards.REMOVALS and _shard_of(name) not in rewritten:
                draft.add(name, dataset.path / name, sha256=file.sha256, rows=file.rows)
        texts = {row["id"] for row in tombstones if row["kind"] == "text"}
        rename = partial(_renamed, matcher=Matcher(requests), texts=texts)
        rewrite = partial(_rewrite, dataset.path, draft.path, rename)
        counted = from_manifest(dataset.counts)
        with log.progress("takedown.rewrite", len(rewritten), "shards") as bar:
            for shard in engine.map(rewrite, list(rewritten.items()), processes=False):
                draft.rows |= {name: rows for name, (_, rows) in shard.files.items() if rows is not None}
                draft.hashes |= {name: sha256 for name, (sha256, _) in shard.files.items()}
                counted.subtract(shard.counted)
                bar.advance()
        shards.write_tombstones(draft, tombstones)
        more = {
            name: value
            for name, value in dataset.counts.items()
            if name in ("skipped_files", "clusters", "clones", "synthetic")
        }
        draft.counts |= to_manifest(counted, more=more)
    return artifacts.load(dataset.path, kind=shards.KIND)


def residuals(dataset: Artifact, requested: "Requested", policy: RemovalPolicy) -> list[dict[str, Any]]:
    """Find rows that a request names, or that equal or nearly equal a removed document."""
    path = dataset.path
    left: list[dict[str, Any]] = [{"shard": shard, "row": row, "by": "request"} for shard, row in requested.rows]
    sketches = [np.load(path / name) for name in shards.names_of(dataset, shards.REMOVED)]
    if not sketches:
        return left
    removed = np.concatenate(sketches)
    hashes = ["reason", "raw_sha256", "sha256", "swhid"]
    dropped = pa.concat_tables(map(removed_only, shards.read_dropped(dataset, hashes)))
    for shard in shards.shard_paths(path):
        name = shard.relative_to(path).as_posix()
        columns = pq.read_table(shard, columns=["raw_sha256", "sha256", "swhid"])
        for column in columns.column_names:
            same = pc.indices_nonzero(pc.is_in(columns[column], dropped[column].combine_chunks())).to_pylist()
            left += [{"shard": name, "row": row, "by": f"exact hash ({column})"} for row in same]
        if policy.duplicates == "cluster" and dataset.config["dedup"]["near"]:
            there = np.load(shards.beside(shard, shards.SKETCHES))
            left += [{"shard": name, **row} for row in _similar(there, removed)]
    return left


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


class _Rewritten(NamedTuple):
    """One shard without the rows that go."""

    counted: Counts
    """Counts to subtract: of the rows that are gone, and of what was dropped before and after."""
    files: dict[str, tuple[str, int | None]]
    """sha256 and rows of what was written, by name."""


def _rewrite(old: Path, new: Path, rename: Callable[[pa.Table], pa.Table], task: tuple[str, list[Gone]]) -> _Rewritten:
    """Write the files of a shard again: the rows that go join those that were dropped before."""
    name, gone = task
    source, path = old / name, new / name
    path.parent.mkdir(parents=True, exist_ok=True)
    was_dropped, was_removed = _dropped_before(shards.beside(source, shards.DROPPED)), np.empty(0, SKETCH)
    if shards.beside(source, shards.REMOVED).exists():
        was_removed = np.load(shards.beside(source, shards.REMOVED))
    dropped, counted = rename(was_dropped), count_dropped(was_dropped)
    rows: dict[Path, int | None] = {}
    if shards.beside(source, shards.QUARANTINE).exists():
        kept = shards.beside(path, shards.QUARANTINE)
        os.link(shards.beside(source, shards.QUARANTINE), kept)
        rows[kept] = kept.read_bytes().count(b"\n")
    removed, places = was_removed, removed_only(was_dropped)["position"].to_numpy()
    if gone:
        outcome = write_staying(source, path, _verdicts(gone), _dataset_of(name))
        sketches = np.load(shards.beside(source, shards.SKETCHES))
        counted += outcome.gone
        dropped = pa.concat_tables([dropped, outcome.dropped]).sort_by("position")
        removed = np.concatenate([was_removed, sketches[[row.row for row in gone]]])
        places = np.concatenate([places, outcome.dropped["position"].to_numpy()])
        if outcome.stays.any():
            rows[path], rows[shards.beside(path, shards.SKETCHES)] = int(outcome.stays.sum()), None
            np.save(shards.beside(path, shards.SKETCHES), sketches[outcome.stays])
    elif source.exists():
        for each in (path, shards.beside(path, shards.SKETCHES)):
            os.link(old / each.relative_to(new), each)
        rows[path], rows[shards.beside(path, shards.SKETCHES)] = shards.num_rows(path), None
    counted.subtract(count_dropped(dropped))
    rows[shards.beside(path, shards.DROPPED)], rows[shards.beside(path, shards.REMOVED)] = len(dropped), None
    shards.write_dropped(shards.beside(path, shards.DROPPED), dropped)
    np.save(shards.beside(path, shards.REMOVED), removed[np.argsort(places)])
    files = {each.relative_to(new).as_posix(): (sha256_of(each), count) for each, count in rows.items()}
    return _Rewritten(counted, files)


def _verdicts(gone: Sequence[Gone]) -> pa.Table:
    columns = {
        "row": [row.row for row in gone],
        "reason": [str(row.reason) for row in gone],
        "detail": [row.detail for row in gone],
    }
    return pa.table(columns, schema=pa.schema([decide.SCHEMA.field(name) for name in columns]))


def _dropped_before(path: Path) -> pa.Table:
    return pq.read_table(path) if path.exists() else shards.DROPPED_SCHEMA.empty_table()


def _renamed(dropped: pa.Table, matcher: Matcher, texts: Collection[str]) -> pa.Table:
    """Note on rows removed earlier that these requests name them too: the least of several request ids is kept.

    Other requests take precedence over requests for a text.
    """
    if not len(removed_only(dropped)):
        return dropped
    rows = dropped.to_pylist()
    for row in rows:
        if row["reason"] in REMOVED and (request := matcher.find(row)):
            by_noun = row["reason"] == DropReason.REMOVAL_REQUESTED and row["detail"] not in texts
            earlier = [row["detail"]] if by_noun else []
            row |= {"reason": str(DropReason.REMOVAL_REQUESTED), "detail": min([*earlier, request])}
    return pa.Table.from_pylist(rows, schema=shards.DROPPED_SCHEMA)


def _shard_of(name: str) -> str:
    """Return the shard that a file belongs to."""
    return shards.beside(PurePosixPath(name), shards.SHARDS).as_posix()


def _dataset_of(name: str) -> str:
    return name.rpartition("/")[0]
