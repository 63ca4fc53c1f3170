"""Turn public data into clean, licensed, deduplicated, traceable Parquet shards: the wiring of the stage.

    <output_dir>/<dataset>/<split>/shard-00000.parquet   one row per document
    <output_dir>/<dataset>/<split>/sketch-00000.npy      one sketch per row, for comparison by later runs
    <output_dir>/<dataset>/<split>/dropped-00000.parquet one row per document dropped there, with the reason
    <output_dir>/<dataset>/<split>/quarantine-00000.jsonl one line per input there that could not be read
    <output_dir>/removals.jsonl                          one line per removal request, without its text
    <output_dir>/manifest.json                           written last: counts, digests, settings

Always kept + dropped + quarantined = read. Each step works on shards in a hidden folder beside the output, which appear
there as a whole, so that a killed run resumes where it was; the result does not depend on the number of workers.
"""

import dataclasses
import json
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from ibidem import artifacts, jsonl, log, workfiles
from ibidem.config import WRITTEN, configuration, settings
from ibidem.data import exchange, shards
from ibidem.data.counts import (
    Counts,
    to_manifest,
    total_of,
)
from ibidem.data.dedup import find_duplicates
from ibidem.data.engine import Engine, EngineConfig, work_dir_of
from ibidem.data.filters import contamination, removals
from ibidem.data.near import Part
from ibidem.data.pipeline import decide, finish, losses, steps
from ibidem.data.pipeline.prepare import ShardRun, load_kernels, prepare, processing
from ibidem.data.pipeline.shard import Prepared, Shard
from ibidem.data.pipeline.steps import Policies, StepMaker
from ibidem.data.scrub.names import read_names
from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.hub import HubDataset
from ibidem.data.sources.local import UNKNOWN_KIND, LocalFiles
from ibidem.data.sources.open import open_source
from ibidem.data.sources.readers import Piece, read
from ibidem.data.sources.spec import Source, Spec
from ibidem.data.sources.stored import StoredFiles
from ibidem.errors import ArtifactError, ConfigError, DataError
from ibidem.figures import counted
from ibidem.places import AnyPlace, MaybePlace, StorePath, on_disk, path_of
from ibidem.readers import readers_of, recorded
from ibidem.records import Document
from ibidem.runtime import rare_collection

STEPS: dict[str, StepMaker] = {
    "refuse": steps.refuse,  # NUL characters, only whitespace
    "clean": steps.clean,  # line ends, trailing blanks, blank lines
    "code_blocks": steps.code_blocks,  # code in prose
    "natural_languages": steps.natural_languages,  # the language of prose
    "licenses": steps.licenses,  # an SPDX expression, from metadata and the file's own header
    "filters": steps.filters,  # quality, language, tone
    "scrub": steps.scrub,  # placeholders for secrets and personal data
    "contamination": steps.contamination,  # evaluation problems
}
"""The steps of each document, in order; the first step that drops it is its last."""
MOST_KINDS = 3


@configuration
class PreprocessConfig(Policies, EngineConfig):
    """Turn public datasets and local files into clean, licensed, deduplicated, traceable Parquet shards."""

    dataset: Annotated[tuple[str, ...], Field(min_length=1)]
    """Dataset to read, as NAME[:VERSION]:SPLIT:COLUMN; repeat for more. NAME is a local file or folder, its URL at a
    store, installed-packages, or a dataset of the Hugging Face hub."""
    output_dir: AnyPlace
    """Folder of the resulting dataset, or its URL at a store; one artifact, replaced as a whole."""
    work_dir: Annotated[MaybePlace, WRITTEN] = None
    """Folder for the files of the work where output_dir is a URL, or its URL at a store; all workers must see it. If
    empty, the folder around output_dir with the runner ray, otherwise the current folder."""
    shard_size: Annotated[int, Field(ge=1)] = 2000
    """Number of documents of a source that one shard spans."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of documents to read from each dataset."""
    package_cap_bytes: Annotated[int, Field(ge=1)] = 2_000_000
    """Maximum bytes to read from each package of installed-packages."""
    explain: bool = False
    """List what is lost, file by file, with reason and detail; with --dry-run, before anything is written."""
    reply_trees: Trees = "best_path"
    """What becomes of a tree of replies, as OpenAssistant has them: best_path is one conversation, of the best ranked
    reply to each message; all_paths is a conversation for each path from the root to a leaf; ranked_pairs is a
    preference pair for each two answers to one prompt of which one is ranked better."""


def preprocess(config: PreprocessConfig) -> str:
    """Read, clean, judge, deduplicate and write; return a summary.

    Raises:
        ConfigError: a spec names nothing.
        DataError: a source has no documents.
    """
    artifacts.check_replaceable(config.output_dir, shards.KIND)
    sources = _open_sources(config)
    dataset = make(config, [source.as_input() for source in sources], lambda _: Opened(sources))
    lost = losses.listed(losses.of_dataset(dataset), dataset.counts["read"]) if config.explain else []
    return "\n".join([summary(dataset), *lost])


class Opened(NamedTuple):
    """Sources to read, and what the manifest says of them besides its own counts."""

    sources: Sequence[Source]
    counts: Mapping[str, Any] = MappingProxyType({})
    must_keep: bool = False
    """Whether a dataset without documents is an error."""


def make(
    config: PreprocessConfig,
    origins: Sequence[artifacts.Input],
    open_sources: Callable[[Path], Opened],
    *,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> artifacts.Artifact:
    """Make a dataset of sources, unless it is there already.

    Args:
        config: the settings; `dataset` names the sources.
        origins: what the sources are, or are made from.
        open_sources: opens them; takes the work folder, in which it may write.
        more: further settings that decide the result.
    """
    started = time.monotonic()
    artifacts.check_replaceable(config.output_dir, shards.KIND)
    requests = removals.load_requests(config.removals.requests)
    honored = {request.id for request in requests}
    for path in (config.output_dir, *config.dedup.against):
        _check_removals(path, honored)
    settled = [shards.load_dataset(path, Engine(config)) for path in config.dedup.against]
    settled_parts = _settled_parts(settled, near=config.dedup.near)
    inputs = [*origins, *(existing.as_input("against", of=config.output_dir) for existing in settled)]
    inputs += [*contamination.as_inputs(config.contamination), *_lists_as_inputs(config)]
    inputs += removals.as_inputs([request.id for request in requests])
    chosen = _settings(config) | dict(more) | recorded(origins, config.output_dir)
    dataset = artifacts.finished(
        config.output_dir, kind=shards.KIND, config=chosen, inputs=inputs, beside=_work_dir(config)
    )
    if dataset is None:
        _make(config, settled_parts, chosen, inputs, requests, open_sources, started)
        dataset = artifacts.load(config.output_dir, kind=shards.KIND)
        log.event("preprocess.finished", path=str(config.output_dir), **dataset.counts)
    return dataset


def _make(
    config: PreprocessConfig,
    settled_parts: list[Part],
    chosen: dict[str, Any],
    inputs: Sequence[artifacts.Input],
    requests: Sequence[removals.Request],
    open_sources: Callable[[Path], Opened],
    started: float,
) -> None:
    is_private = readers_of(chosen) is not None
    artifacts.check_writable(config.output_dir)
    engine, beside = Engine(config), _work_dir(config)
    place = artifacts.working_path(config.output_dir, beside)
    with (
        rare_collection(),
        artifacts.workspace(place, config=chosen, inputs=inputs) as folder,
        engine.working_in(folder),
    ):
        if is_private:
            workfiles.shut(folder)
        engine.check_seen(_local_inputs(config))
        opened = open_sources(folder)
        work = _plan(opened.sources, config, folder)
        _prepare(work, config, engine)
        _decide(work, settled_parts, config, engine)
        made = _finish(work, engine)
        total = total_of(each.counts for each in made)
        if opened.must_keep:
            _check_kept(total, config)
        with artifacts.create(
            config.output_dir,
            kind=shards.KIND,
            config=chosen,
            inputs=inputs,
            started=started,
            is_private=is_private,
            beside=beside,
            engine=engine,
        ) as draft:
            finish.assemble(draft, made)
            shards.write_tombstones(draft, [request.tombstone for request in requests])
            others = _other_counts(opened.sources, folder) | dict(opened.counts)
            draft.counts |= to_manifest(total, more=others)


def _work_dir(config: PreprocessConfig) -> Path | None:
    return work_dir_of(config.output_dir, config.work_dir, config)


def _local_inputs(config: PreprocessConfig) -> list[Path]:
    """Return the paths that tasks read, besides the work files."""
    named = [path_of(Spec.parse(text).name) for text in config.dataset]
    lists = [path for paths in (config.removals.requests, config.dedup.against) for path in paths]
    lists += _word_lists(config).values()
    lists += [Path(name) for name in config.contamination.benchmarks if Path(name).exists()]
    return [*(path for path in named if not isinstance(path, StorePath) and path.exists()), *lists]


def _check_kept(total: Counts, config: PreprocessConfig) -> None:
    if not total["kept", ""]:
        lost = ", ".join(
            f"{reason} {count:,}" for (what, reason), count in total.items() if what == "dropped" and count
        )
        raise DataError(
            f"{config.output_dir}: nothing is left of {total['read', '']:,} documents (dropped: {lost or 'none'}; "
            f"quarantined: {total['quarantined', '']:,}); relax the settings that these reasons name"
        )


def summary(dataset: artifacts.Artifact) -> str:
    """Summarize a dataset in one line."""
    counts = dataset.counts
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in counts["dropped"].items()) or "none"
    unstated = f" ({counts['license_unstated']:,} without a stated license)" if counts["license_unstated"] else ""
    return (
        f"{dataset.path}: {counts['kept']:,} of {counts['read']:,} documents kept{unstated}, "
        f"{counts['bytes']:,} bytes; dropped: {dropped}; quarantined: {counts['quarantined']:,}"
        f"{_skipped(counts.get('skipped_files', {}))}"
    )


def _skipped(files: Mapping[str, int]) -> str:
    """Say what was not read; `--dry-run` and the manifest list all of it."""
    kinds = {reason.removeprefix(UNKNOWN_KIND): count for reason, count in files.items() if UNKNOWN_KIND in reason}
    if not kinds:
        return ""
    named = ", ".join(f"{kind} {count:,}" for kind, count in list(kinds.items())[:MOST_KINDS])
    more = ", ..." if len(kinds) > MOST_KINDS else ""
    return f"; files of unknown kinds, not read: {sum(kinds.values()):,} ({named}{more})"


def preview(config: PreprocessConfig) -> list[str]:
    """Say what would be read, a line for each source; what is on the hub is not fetched."""
    artifacts.check_replaceable(config.output_dir, shards.KIND)
    sources = _open_sources(config)
    lines = []
    for source in sources:
        lines.append(f"reads   {source.spec.name}  {_extent(source, config)}")
        if config.explain and not isinstance(source, HubDataset):
            lines += _explained(source, config)
    return lines


def _explained(source: Source, config: PreprocessConfig) -> list[str]:
    process = processing(tuple(STEPS.items()), _policies(config))
    with tempfile.TemporaryDirectory() as spool:
        pieces = _capped(source.pieces(Path(spool)), config)
        count, lost = losses.of_pieces(pieces, process, config.max_documents or sys.maxsize)
    looked_for = ["(duplicates are found only by the run itself)"] if config.dedup.exact or config.dedup.near else []
    return [*losses.listed(lost, count), *looked_for]


def _extent(source: Source, config: PreprocessConfig) -> str:
    if isinstance(source, HubDataset):
        return "a dataset of the Hugging Face hub"
    with tempfile.TemporaryDirectory() as spool:
        pieces = list(_capped(source.pieces(Path(spool)), config))
    documents = min(sum(piece.count for piece in pieces), config.max_documents or sys.maxsize)
    skipped = [f"{counted(count, 'file')} skipped: {reason}" for reason, count in source.skipped.items()]
    return "; ".join([counted(documents, "document"), *skipped])


def source_texts(dataset: artifacts.Artifact, rows: Sequence[jsonl.Row]) -> list[str | None]:
    """Read the texts of dropped documents from their sources again; the dataset does not hold them.

    Args:
        dataset: the dataset that dropped them.
        rows: as `shards.read_dropped` reads them.

    Returns:
        The text of each row; None if the source is not at hand, or has another document there now.
    """
    specs = [Spec.parse(text) for text in dataset.config["dataset"]]
    cap, trees = dataset.config["package_cap_bytes"], dataset.config.get("reply_trees", "best_path")
    sources = [open_source(spec, package_cap_bytes=cap, trees=trees) for spec in specs]
    found: dict[tuple[str, int], str] = {}
    for folder, source in zip(_folders(sources), sources, strict=True):
        wanted = {row["position"]: row["raw_sha256"] for row in rows if row["dataset"] == folder}
        if wanted and not isinstance(source, HubDataset):
            found |= {(folder, position): text for position, text in _texts_at(source, wanted)}
    return [found.get((row["dataset"], row["position"])) for row in rows]


def _texts_at(source: Source, wanted: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """Yield (position, text) of the documents at some positions that have the given hashes of their raw bytes."""
    for piece in source.pieces(Path()):
        here = [position for position in wanted if piece.first <= position < piece.first + piece.count]
        for position, item in read(piece, min(here)) if here else ():
            if position > max(here):
                break
            if position in here and isinstance(item, Document) and item.raw_sha256 == wanted[position]:
                yield position, item.text


class _Work(NamedTuple):
    """The work to do: each run reads and prepares some of the shards."""

    folder: Path
    runs: list[ShardRun]
    shards: list[Shard]


def _open_sources(config: PreprocessConfig) -> list[Source]:
    specs = [Spec.parse(text) for text in config.dataset]
    if len(set(specs)) < len(specs):
        raise ConfigError("dataset: the same spec is given twice")
    output = on_disk(config.output_dir).resolve()
    for spec in specs:
        if _is_dataset(path_of(spec.name)):
            raise ConfigError(
                f"dataset {spec.name}: it is an artifact of ibidem already; ibidem blend reads such datasets"
            )
        if on_disk(path_of(spec.name)).resolve() in (output, *output.parents):
            raise ConfigError(f"output_dir {config.output_dir} is inside the dataset {spec.name}")
    if output in (path.resolve() for path in config.dedup.against):
        raise ConfigError(f"dedup.against: {config.output_dir} is also the output_dir")
    cap, trees, most = config.package_cap_bytes, config.reply_trees, config.max_documents
    engine = Engine(config)
    return [open_source(spec, package_cap_bytes=cap, trees=trees, engine=engine, most=most) for spec in specs]


def _is_dataset(folder: Path) -> bool:
    try:
        artifacts.load(folder, kind=shards.KIND)
    except ArtifactError:
        return False
    return True


def _check_removals(path: Path, honored: Collection[str]) -> None:
    """Refuse to bring back documents that were removed from the existing dataset at a path."""
    try:
        before = artifacts.load(path, kind=shards.KIND)
    except ArtifactError:
        return
    forgotten = [row for row in shards.read_tombstones(before) if row["id"] not in honored]
    if forgotten:
        first = f"{forgotten[0]['kind']} {forgotten[0]['value']}"
        raise ConfigError(
            f"{path}: honors {counted(len(forgotten), 'removal request')} that this run lacks "
            f"({first}); give them (removals.requests), or choose another path"
        )


def _settings(config: PreprocessConfig) -> dict[str, Any]:
    elsewhere = {field.name for field in dataclasses.fields(EngineConfig)}  # where the tasks run changes no result
    elsewhere.add("explain")  # what is printed changes no result
    return {name: value for name, value in settings(config).items() if name not in elsewhere}


def _lists_as_inputs(config: PreprocessConfig) -> list[artifacts.Input]:
    if config.scrub.deny is not None:
        read_names(config.scrub.deny)  # a mistake in it is one line, before anything is read
    return [artifacts.Input.of_file(role, path) for role, path in _word_lists(config).items()]


def _word_lists(config: PreprocessConfig) -> dict[str, Path]:
    lists = {"word-list": config.filters.profanity_words, "deny-list": config.scrub.deny}
    return {role: path for role, path in lists.items() if path is not None}


def _settled_parts(settled: Sequence[artifacts.Artifact], *, near: bool) -> list[Part]:
    for dataset in settled:
        if near and not dataset.config.get("dedup", {}).get("near"):
            raise ConfigError(
                f"dedup.against: {dataset.path} was made without dedup.near; it has no MinHash sketches to compare"
            )
    paths = [path for dataset in settled for path in shards.shard_paths(dataset.path)]
    for path in paths:
        if not shards.beside(path, shards.SKETCHES).exists():
            raise ConfigError(f"dedup.against: {path} has no sketches beside it; preprocess that dataset again")
    return [Part(shards.beside(path, shards.SKETCHES), path) for path in paths]


def _plan(sources: Sequence[Source], config: PreprocessConfig, folder: Path) -> _Work:
    runs = [
        run
        for number, (source, dataset) in enumerate(zip(sources, _folders(sources), strict=True))
        for run in _cut(
            number, dataset, list(_capped(source.pieces(folder / f"spool-{number:03d}"), config)), config, folder
        )
    ]
    return _Work(folder, runs, [shard for run in runs for shard in run.shards])


def _capped(pieces: Iterator[Piece], config: PreprocessConfig) -> Iterator[Piece]:
    for piece in pieces:
        if config.max_documents is not None and piece.first >= config.max_documents:
            return
        yield piece


def _cut(
    source: int, dataset: str, pieces: Sequence[Piece], config: PreprocessConfig, folder: Path
) -> Iterator[ShardRun]:
    """Split a source into runs: shards that begin in the same piece are one run; small pieces are combined."""
    size = config.shard_size
    end = min(pieces[-1].first + pieces[-1].count, config.max_documents or sys.maxsize) if pieces else 0
    shard = low = 0
    for piece in pieces:
        next_shard = -(-min(piece.first + piece.count, end) // size)  # shards that begin in this piece or before it
        if next_shard > shard:
            high = bisect_left(pieces, min(next_shard * size, end), key=attrgetter("first"))
            while pieces[low].first + pieces[low].count <= shard * size:
                low += 1
            yield ShardRun(dataset, source, shard, next_shard, size, end, tuple(pieces[low:high]), folder)
            shard = next_shard


def _prepare(work: _Work, config: PreprocessConfig, engine: Engine) -> None:
    policies = _policies(config)
    processing.cache_clear()  # the files that policies name may have changed since an earlier run of this process
    function = partial(prepare, STEPS, policies)
    total = sum(min(run.end, run.end_shard * run.shard_size) - run.first_shard * run.shard_size for run in work.runs)
    load_kernels()
    with log.progress("preprocess.prepare", total, "documents") as bar:
        for count in engine.map(function, work.runs, processes=True):
            bar.advance(count)
    for number, spec in enumerate(config.dataset):
        prepared = [shard.prepared for shard in work.shards if shard.source == number]
        if all(map(_is_empty, prepared)):
            reason = next(filter(None, map(_first_unreadable, prepared)), "it contains no documents")
            workfiles.remove(work.folder)
            raise DataError(f"dataset {Spec.parse(spec).name!r}: nothing could be read: {reason}")


def _policies(config: PreprocessConfig) -> Policies:
    return Policies(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Policies)})


def _is_empty(prepared: Prepared) -> bool:
    return not len(exchange.load(prepared.sketch)) and not len(shards.read_table(prepared.dropped))


def _first_unreadable(prepared: Prepared) -> str | None:
    rows = jsonl.loads(prepared.quarantine.read_text(encoding="utf-8"))
    return f"{rows[0]['file']}: {rows[0]['reason']}" if rows else None


def _decide(work: _Work, settled: list[Part], config: PreprocessConfig, engine: Engine) -> None:
    if (work.folder / "clusters.json").is_file():
        return
    parts = settled + [Part(shard.prepared.sketch, shard.prepared.kept) for shard in work.shards]
    scratch = work.folder / "decisions"
    decisions = find_duplicates(parts, config.dedup, engine, scratch, num_settled=len(settled))
    requested = decide.find_requested(decisions, config.removals, engine)
    verdicts = [shard.verdicts for shard in work.shards]
    decide.write_verdicts(decisions, requested, config.removals, verdicts, engine)
    clusters = json.dumps(decisions.clusters())
    exchange.forget()
    workfiles.remove(scratch)
    workfiles.write(work.folder / "clusters.json", clusters)


def _other_counts(sources: Sequence[Source], folder: Path) -> dict[str, Any]:
    skipped = sum((source.skipped for source in sources), Counter[str]())
    clones = [
        {"source": source.spec.name, **clone.facts}
        for source in sources
        if isinstance(source, LocalFiles | StoredFiles)
        for clone in source.clones
    ]
    distinct = {json.dumps(facts): facts for facts in clones if facts["repo"] and facts["commit"]}
    return ({"clones": [distinct[key] for key in sorted(distinct)]} if distinct else {}) | {
        "skipped_files": dict(sorted(skipped.items(), key=lambda item: (-item[1], item[0]))),
        "clusters": json.loads((folder / "clusters.json").read_text()),
    }


def _finish(work: _Work, engine: Engine) -> list[finish.Made]:
    made = []
    with log.progress("preprocess.finish", len(work.shards), "shards") as bar:
        for shard in engine.map(finish.finish, work.shards, processes=False):
            made.append(shard)
            bar.advance()
    return made


def _folders(sources: Sequence[Source]) -> list[str]:
    """Return the folder of each source, `<dataset>/<split>`; repeated names are numbered."""
    names: list[str] = []
    for source in sources:
        name, number = f"{source.spec.folder}/{source.spec.split}", 1
        while name in names:
            number += 1
            name = f"{source.spec.folder}-{number}/{source.spec.split}"
        names.append(name)
    return names
