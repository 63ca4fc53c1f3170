"""Blend preprocessed datasets into one that has the given shares in every prefix; reproducible to the byte.

    measure   bytes or tokens of each document
    plan      the order of documents: first the category furthest behind its share, within it the dataset
    scatter   each shard of a dataset is read, and its rows written by range of shards of the blend
    gather    each range is read from there, sorted, and its shards written

The result is a dataset like any other; its rows name their sources.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ibidem import artifacts, log, workfiles
from ibidem.artifacts import Artifact, Input
from ibidem.config import WRITTEN, configuration, settings
from ibidem.data import exchange, shards
from ibidem.data.counts import (
    Counts,
    count_kept,
    counts_of,
    listed,
    to_manifest,
    total_of,
)
from ibidem.data.engine import Engine, EngineConfig, work_dir_of
from ibidem.errors import ConfigError, DataError, DigestMismatch
from ibidem.figures import counted, percent
from ibidem.files import sha256_of
from ibidem.places import AnyPlace, MaybePlace, here, on_disk
from ibidem.readers import check_reader, readers_of, recorded
from ibidem.records import TOKENIZER_FILE, TOKENIZER_JSON, Category

CATEGORIES: tuple[Category, ...] = get_args(Category)
_ORDER, _PARTS, _MADE = "order.npy", "parts.npy", "made.json"
"""Work files: rows of shards with their places in the blend, by shard; for each place, the number of the task that
writes its row; hashes and counts of shards."""
_GROUP_GROWTH, _LEAST_GROUPS = 1000, 64
"""A group of shards has at most so many bytes for each root of a byte of the blend, and at most this part of it."""
_SCATTERED = shards.SCHEMA.append(pa.field("place", pa.int64()))
MEASURED = np.dtype([("key", "<u8"), ("size", "<i8"), ("bytes", "<i8"), ("category", "i1")])
"""For each document: its key for the shuffle, its size in tokens (or bytes), its bytes, its category."""
TOLERANCE = 1e-9
FAR = 0.05
"""Shares that miss the requested one by more than this are reported."""


@configuration
class Ingredient:
    """One dataset of a blend."""

    path: AnyPlace
    """Folder of a preprocessed dataset, or its URL at a store."""
    category: Category | None = None
    """Category of its documents; if empty, each document's own."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Relative share among the datasets of its category."""
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    """Maximum bytes of its text in one pass."""
    max_repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """Maximum number of passes over its documents; the second pass starts when the first is complete. Beyond 4 passes
    a model hardly learns more (Muennighoff et al. 2023, arXiv:2305.16264)."""


def _default_shares() -> dict[Category, float]:
    return {"code": 0.7, "text": 0.2, "instruction": 0.1}


@configuration
class BlendConfig(EngineConfig):
    """Blend preprocessed datasets in given shares."""

    datasets: dict[str, Ingredient] = Field(default_factory=dict)
    """Datasets to blend, by name."""
    output_dir: AnyPlace
    """Folder of the blend, or its URL at a store; one artifact, replaced as a whole."""
    work_dir: Annotated[MaybePlace, WRITTEN] = None
    """Folder for the files of the work where output_dir is a URL, or its URL at a store; all workers must see it. If
    empty, the folder around output_dir with the runner ray, otherwise the current folder."""
    shares: dict[Category, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=_default_shares)
    """Share of each category; they must add up to 1."""
    tokenizer: Path | None = None
    """Folder of a tokenizer, to count tokens; if empty, bytes are counted."""
    total: Annotated[int, Field(ge=1)] | None = None
    """Tokens (or bytes) of the blend; if empty, the blend ends when a category runs out."""
    seed: int = 0
    """Seed of the shuffle of each dataset."""
    shard_size: Annotated[int, Field(ge=1)] = 2000
    """Documents per shard."""
    verify: bool = False
    """Make the blend again and compare it with the existing one, byte for byte; nothing is written."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> "BlendConfig":
        if abs(sum(self.shares.values()) - 1) > TOLERANCE:
            raise ValueError(f"shares add up to {sum(self.shares.values()):g}, not to 1")
        if not self.datasets:
            raise ValueError("datasets: give at least one, as --datasets.NAME.path FOLDER")
        return self


def blend(config: BlendConfig) -> str:
    """Blend, or verify the existing blend.

    Raises:
        ConfigError: no dataset has documents of a category with a share.
        DigestMismatch: the existing blend differs from the result (`verify`).
    """
    for name, item in config.datasets.items():
        if on_disk(item.path).resolve() == on_disk(config.output_dir).resolve():
            raise ConfigError(f"datasets.{name}.path: {item.path} is also the output_dir")
    datasets = {name: _load(item.path) for name, item in sorted(config.datasets.items())}
    inputs = [dataset.as_input(name, of=config.output_dir) for name, dataset in datasets.items()]
    if config.tokenizer is not None:
        inputs.append(artifacts.verify(config.tokenizer, kind="tokenizer").as_input("tokenizer", of=config.output_dir))
    chosen = _settings(config) | recorded(inputs, config.output_dir)
    if config.verify:
        return _verify(config, datasets, chosen, inputs)
    artifacts.check_replaceable(config.output_dir, shards.KIND)
    blended = artifacts.finished(
        config.output_dir, kind=shards.KIND, config=chosen, inputs=inputs, beside=_work_dir(config)
    )
    blended = blended or _make(config, datasets, chosen, inputs, config.output_dir)
    if off := off_shares(blended):
        log.event("blend.off_shares", path=str(config.output_dir), reason=off)
    return summary(blended)


def _load(folder: Path) -> Artifact:
    """Load the manifest of a dataset; each shard is hashed by the task that measures it."""
    dataset = artifacts.load(folder, kind=shards.KIND)
    check_reader(dataset)
    return dataset


def summary(blended: Artifact) -> str:
    """Summarize a blend in one line."""
    counts = blended.counts
    unit = counts["unit"]
    amounts = ", ".join(f"{name} {percent(share, digits=1)}" for name, share in counts["shares"].items())
    asked = blended.config["total"]
    total = f"{counts['total']:,}" + (f" of {asked:,}" if asked and counts["total"] < asked else "")
    return f"{blended.path}: {size_of(blended)}, {total} {unit}; {amounts}; {off_shares(blended) or counts['ended']}"


def off_shares(blended: Artifact) -> str:
    """Say which shares a blend has instead of those asked for; empty if all are within `FAR` of them.

    One large document, or a category that runs out at once, makes them differ.
    """
    got = blended.counts["shares"]
    asked = {name: share for name, share in blended.config["shares"].items() if share > 0}
    if all(abs(got[name] - share) <= FAR for name, share in asked.items()):
        return ""
    wanted = " and ".join(f"{percent(asked[name], digits=0)} {name}" for name in got)
    found = " and ".join(percent(share, digits=0) for share in got.values())
    return f"asked for {wanted}, got {found}: {blended.counts['ended']}"


def size_of(dataset: Artifact) -> str:
    """Return the number of documents of a dataset as text, and of rows if some documents repeat."""
    documents, rows = num_documents(dataset), dataset.counts["kept"]
    return counted(documents, "document") + (f" in {counted(rows, 'row')}" if rows != documents else "")


def is_blend(dataset: Artifact) -> bool:
    """Check whether a dataset was blended from others."""
    return "unit" in dataset.counts


def num_documents(dataset: Artifact) -> int:
    """Count the documents of a dataset; repeats in a blend count once."""
    if not is_blend(dataset):
        return int(dataset.counts["kept"])
    digests = {item.role: item.digest for item in dataset.inputs}
    once: dict[tuple[str, str], int] = {}
    for name, lanes in dataset.counts["datasets"].items():
        for category, lane in lanes.items():
            in_one_pass = lane["of"] // dataset.config["datasets"][name]["max_repeats"]
            lane_of = digests[name], category  # if a dataset has two names, both lanes begin with the same documents
            once[lane_of] = max(once.get(lane_of, 0), min(lane["documents"], in_one_pass))
    return sum(once.values())


def _settings(config: BlendConfig) -> dict[str, Any]:
    elsewhere = {"runner", "ray_address", "workers", "verify"}  # these do not change the result
    chosen = {name: value for name, value in settings(config).items() if name not in elsewhere}
    return chosen | {"unit": "tokens" if config.tokenizer else "bytes"}


def _work_dir(config: BlendConfig) -> Path | None:
    return work_dir_of(config.output_dir, config.work_dir, config)


def _verify(
    config: BlendConfig, datasets: Mapping[str, Artifact], chosen: dict[str, Any], inputs: Sequence[Input]
) -> str:
    there = artifacts.verify(config.output_dir, kind=shards.KIND)
    made_of = {item.role: item.digest for item in there.inputs}
    for item in inputs:
        if made_of.get(item.role) != item.digest:
            raise DigestMismatch(
                f"{config.output_dir}: {item.role} is not the input that it was made from ({item.name})"
            )
    beside = artifacts.working_path(config.output_dir, _work_dir(config))
    again = beside.with_name(f".{beside.name}.again")
    try:
        made = _make(config, datasets, chosen, inputs, again)
        for name in sorted(there.files.keys() | made.files.keys()):
            if there.files.get(name) != made.files.get(name):
                raise DigestMismatch(f"{config.output_dir / name}: differs when made again")
        if there.digest != made.digest:
            raise DigestMismatch(f"{config.output_dir}: made with other settings: {_difference(there, made)}")
    finally:
        workfiles.remove(again)
    return f"{config.output_dir}: made again, byte for byte the same: {there.digest}"


def _difference(there: Artifact, made: Artifact) -> str:
    keys = sorted(there.config.keys() | made.config.keys())
    return ", ".join(key for key in keys if there.config.get(key) != made.config.get(key)) or "version or counts"


def _make(
    config: BlendConfig, datasets: Mapping[str, Artifact], chosen: dict[str, Any], inputs: Sequence[Input], path: Path
) -> Artifact:
    started = time.monotonic()
    is_private = readers_of(chosen) is not None
    artifacts.check_writable(path)
    engine, beside = Engine(config), _work_dir(config)
    place = artifacts.working_path(path, beside)
    with artifacts.workspace(place, config=chosen, inputs=inputs) as work, engine.working_in(work):
        if is_private:
            workfiles.shut(work)
        engine.check_seen([*(dataset.path for dataset in datasets.values()), *filter(None, [config.tokenizer])])
        measured = {name: _measure(dataset, config.tokenizer, work, engine) for name, dataset in datasets.items()}
        order = _plan(config, {name: each.rows for name, each in measured.items()})
        tasks = _scatter(order, config, measured, work, engine)
        gathered = []
        with log.progress("blend.gather", -(-len(order.document) // config.shard_size), "shards") as bar:
            for several in engine.map(_gather, tasks, processes=False):
                gathered += several
                bar.advance(len(several))
        exchange.forget()
        with artifacts.create(
            path,
            kind=shards.KIND,
            config=chosen,
            inputs=inputs,
            started=started,
            is_private=is_private,
            beside=beside,
            engine=engine,
        ) as draft:
            for shard in gathered:
                name = f"blend/train/{_shard_name(shard.number)}"
                draft.add(name, shard.path, sha256=shard.sha256, rows=shard.counts["kept", ""])
            draft.counts |= to_manifest(total_of(each.counts for each in gathered), more=order.counts)
    log.event("blend.finished", path=str(path), **order.counts)
    return artifacts.load(path)


# Measure


class _Measured(NamedTuple):
    """The shards of a dataset, and MEASURED rows of each."""

    paths: Sequence[Path]
    sha256s: Sequence[str]
    rows: Sequence[NDArray[Any]]


def _measure(dataset: Artifact, tokenizer: Path | None, work: Path, engine: Engine) -> _Measured:
    key = dataset.digest.removeprefix("sha256:")[:16]
    paths = sorted(dataset.path / name for name in shards.shard_names(dataset))
    digests = {dataset.path / name: file.sha256 for name, file in dataset.files.items()}
    tasks = [
        (path, digests[path], tokenizer, work / f"measured-{key}-{number:05d}.npy") for number, path in enumerate(paths)
    ]
    for _ in _progress(engine, "measure", _measure_shard, tasks, processes=tokenizer is not None):
        pass
    return _Measured(paths, [digests[path] for path in paths], [*exchange.load_each([kept for *_, kept in tasks])])


def _measure_shard(task: tuple[Path, str, Path | None, Path]) -> None:
    """Measure a shard, after it is hashed.

    Raises:
        DigestMismatch: it is not what the manifest says.
    """
    path, sha256, tokenizer, kept = task
    if kept.is_file():
        return
    pieces = [np.empty(0, MEASURED)]
    with here(path) as (file, found):
        if found != sha256:
            raise DigestMismatch(f"{path}: damaged; its sha256 differs from the manifest's")
        for rows in shards.read_batches(file, ["text", "sha256", "category"]):
            texts = rows["text"]
            measured = np.zeros(len(texts), MEASURED)
            measured["key"] = [int(sha256[:16], 16) for sha256 in rows["sha256"].to_pylist()]
            measured["bytes"] = pc.binary_length(texts)
            measured["size"] = measured["bytes"]
            if tokenizer is not None:
                # each document ends with one extra token
                measured["size"] = [count + 1 for count in _counter(tokenizer)(texts.to_pylist())]
            measured["category"] = [CATEGORIES.index(category) for category in rows["category"].to_pylist()]
            pieces.append(measured)
    exchange.save(kept, np.concatenate(pieces))


@cache
def _counter(tokenizer: Path) -> Callable[[list[str]], list[int]]:
    """Return what counts the ids of texts."""
    if (tokenizer / TOKENIZER_JSON).exists():
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ConfigError(f"{tokenizer}: it is read by tokenizers: pip install 'ibidem[huggingface]'") from None
        imported = Tokenizer.from_file(str(tokenizer / TOKENIZER_JSON))
        return lambda texts: [len(ids) for ids in imported.encode_batch_fast(texts, add_special_tokens=False)]
    from sentencepiece import SentencePieceProcessor

    trained = SentencePieceProcessor(model_file=str(tokenizer / TOKENIZER_FILE))
    return lambda texts: [len(ids) for ids in trained.encode(texts)]


# Order


@dataclass
class Lane:
    """The documents of one category in one dataset, in order."""

    dataset: int
    category: Category
    weight: float
    order: NDArray[np.int64]
    """Document numbers in the dataset, for all passes."""
    sizes: NDArray[np.int64]
    """Sizes of all documents of the dataset, by number."""
    place: int = 0
    served: int = 0

    @property
    def next_size(self) -> int:
        return int(self.sizes[self.order[self.place]])


class Order(NamedTuple):
    """The order of the blend: for each place, the dataset and the document number in it."""

    dataset: NDArray[np.int32]
    document: NDArray[np.int64]
    counts: dict[str, Any]


@dataclass
class _Queue:
    """The lanes of one category."""

    share: float
    lanes: list[Lane] = field(default_factory=list)
    served: int = 0


def _plan(config: BlendConfig, measured: Mapping[str, Sequence[NDArray[Any]]]) -> Order:
    queues = {c: _Queue(config.shares[c]) for c in CATEGORIES if config.shares.get(c, 0) > 0}
    names = sorted(config.datasets)
    for number, name in enumerate(names):
        rows = np.concatenate([np.empty(0, MEASURED), *measured[name]])
        for lane in _lanes(number, config.datasets[name], rows, config.seed):
            if lane.category in queues:
                queues[lane.category].lanes.append(lane)
    for category, queue in queues.items():
        if not queue.lanes:
            raise ConfigError(
                f"shares: {category} has a share of {queue.share:g}, but no dataset contains any {category}"
            )
    lanes = [lane for queue in queues.values() for lane in queue.lanes]
    picks = list(_interleave(queues, config.total))
    if not picks:
        raise DataError("the blend is empty")
    dry = [category for category, queue in queues.items() if not queue.lanes]
    total = sum(queue.served for queue in queues.values())
    counts = {
        "unit": "tokens" if config.tokenizer else "bytes",
        "total": total,
        "shares": {category: round(queue.served / total, 6) for category, queue in queues.items()},
        "datasets": {name: _of_dataset([lane for lane in lanes if lane.dataset == i]) for i, name in enumerate(names)},
        "ended": f"no more {dry[0]}" if dry else "the total is reached",
    }
    return Order(np.array([d for d, _ in picks], np.int32), np.array([n for _, n in picks], np.int64), counts)


def _furthest_behind(queue: _Queue) -> Lane:
    weights = sum(lane.weight for lane in queue.lanes)
    return max(queue.lanes, key=lambda lane: lane.weight / weights * (queue.served + lane.next_size) - lane.served)


def _of_dataset(lanes: Sequence[Lane]) -> dict[str, Any]:
    return {lane.category: {"documents": lane.place, "size": lane.served, "of": len(lane.order)} for lane in lanes}


def _lanes(number: int, ingredient: Ingredient, rows: NDArray[Any], seed: int) -> Iterator[Lane]:
    for code, category in enumerate(CATEGORIES):
        chosen = np.arange(len(rows)) if ingredient.category else np.flatnonzero(rows["category"] == code)
        if ingredient.category not in (None, category) or not len(chosen):
            continue
        first = chosen[_shuffled(rows["key"][chosen], seed, 0)]
        if ingredient.max_bytes is not None:
            first = first[np.cumsum(rows["bytes"][first]) <= ingredient.max_bytes]
        passes = [first[_shuffled(rows["key"][first], seed, n)] for n in range(ingredient.max_repeats)]
        yield Lane(number, category, ingredient.weight, np.concatenate(passes), rows["size"].astype(np.int64))


def _shuffled(keys: NDArray[np.uint64], seed: int, number: int) -> NDArray[np.int64]:
    """Return the order by a hash of each key; equal keys stay in the order of the dataset.

    Source: the finalizer of SplitMix64, Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195.
    """
    mixed = keys + np.uint64((seed * 2**32 + number + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")


def _interleave(queues: Mapping[Category, _Queue], total: int | None) -> Iterator[tuple[int, int]]:
    """Yield (dataset, document) in order: the category furthest behind its share comes next.

    Each category is compared including its next document, so that none is ever ahead of its share by more than one
    document; the same holds for the datasets of a category while all of them have documents left. Ends when
    a category runs out.
    """
    served = 0
    while total is None or served < total:
        for queue in queues.values():
            queue.lanes = [lane for lane in queue.lanes if lane.place < len(lane.order)]
            if not queue.lanes:
                return
        lanes = {category: _furthest_behind(queue) for category, queue in queues.items()}
        category = max(lanes, key=lambda c: queues[c].share * (served + lanes[c].next_size) - queues[c].served)
        queue, lane = queues[category], lanes[category]
        document = int(lane.order[lane.place])
        size = int(lane.sizes[document])
        lane.place += 1
        lane.served += size
        queue.served += size
        served += size
        yield lane.dataset, document


# Scatter and gather


class _Chosen(NamedTuple):
    """The rows of a shard of a dataset that are in the blend."""

    path: Path
    sha256: str
    category: Category | None
    first: int
    past: int
    """Where the rows and their places in the blend are in the file of all."""


class _Scattering(NamedTuple):
    """Consecutive shards of datasets, whose rows are written by range of places in the blend."""

    shards: Sequence[_Chosen]
    places: int
    """In each range."""
    work: Path
    number: int

    @property
    def target(self) -> Path:
        """Where the rows of each range begin and end in the file beside it; [ranges, (number, start, end)]."""
        return _scattered(self.work, self.number)


class _Gathering(NamedTuple):
    """A range of places: consecutive shards of the blend."""

    first: int
    past: int
    shard_size: int
    work: Path
    number: int

    @property
    def folder(self) -> Path:
        return self.work / f"gathered-{self.number:05d}"

    def parts(self) -> list[Path]:
        """Read what it is gathered from."""
        numbers = np.unique(exchange.rows(self.work / _PARTS, self.first, self.past))
        return [_scattered(self.work, number) for number in numbers.tolist()]


def _scattered(work: Path, number: int) -> Path:
    return work / "scattered" / f"{number:06d}.npy"


def _scatter(
    order: Order, config: BlendConfig, measured: Mapping[str, _Measured], work: Path, engine: Engine
) -> list[_Gathering]:
    """Write the rows of each shard by ranges of places in the blend; return the tasks that gather those.

    Ranges and groups of shards grow with the square root of the blend, and so does their number.
    """
    offsets = np.cumsum([0, *(sum(map(len, each.rows)) for each in measured.values())])
    documents = offsets[order.dataset] + order.document
    by_document = np.argsort(documents, kind="stable")
    sorted_documents, rows_and_places = documents[by_document], np.empty((len(documents), 2), np.int64)
    chosen, sizes = [], []
    for offset, (name, each) in zip(offsets.tolist(), measured.items(), strict=False):
        before = offset
        for path, sha256, rows in zip(each.paths, each.sha256s, each.rows, strict=True):
            first, past = np.searchsorted(sorted_documents, [before, before + len(rows)]).tolist()
            if past > first:
                places = np.sort(by_document[first:past])
                of_shard = documents[places] - before
                rows_and_places[first:past] = np.stack([of_shard, places], axis=1)
                chosen.append(_Chosen(path, sha256, config.datasets[name].category, first, past))
                sizes.append(int(rows["bytes"][of_shard].sum()))
            before += len(rows)
    total = sum(sizes)
    most = min(_GROUP_GROWTH * math.isqrt(total), total // _LEAST_GROUPS)
    num_shards = -(-len(documents) // config.shard_size)
    span = config.shard_size * max(1, most * num_shards // max(1, total))
    tasks = [_Scattering(group, span, work, number) for number, group in enumerate(_grouped(chosen, sizes, most))]
    part_of = np.empty(len(documents), np.int32)
    for task in tasks:
        part_of[rows_and_places[task.shards[0].first : task.shards[-1].past, 1]] = task.number
    exchange.save(work / _ORDER, rows_and_places)
    exchange.save(work / _PARTS, part_of)
    with log.progress("blend.scatter", len(chosen), "shards") as bar:
        for count in engine.map(_scatter_shards, tasks, processes=False):
            bar.advance(count)
    starts = range(0, len(documents), span)
    ends = [*starts[1:], len(documents)]
    return [
        _Gathering(*bounds, config.shard_size, work, number)
        for number, bounds in enumerate(zip(starts, ends, strict=True))
    ]


def _grouped(chosen: Sequence[_Chosen], sizes: Sequence[int], most: int) -> Iterator[list[_Chosen]]:
    """Group consecutive shards of at most so many bytes together, or one that is larger."""
    group: list[_Chosen] = []
    held = 0
    for shard, size in zip(chosen, sizes, strict=True):
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(shard)
        held += size
    if group:
        yield group


def _scatter_shards(task: _Scattering) -> int:
    """Write the rows of some shards by range; return the number of shards."""
    if task.target.is_file():
        return len(task.shards)
    rows = pa.concat_tables(_chosen_rows(task.work, shard) for shard in task.shards).combine_chunks()
    places = rows["place"].to_numpy()
    by_place, index = np.argsort(places), []

    def write(file: BinaryIO) -> None:
        numbers, starts = np.unique(places[by_place] // task.places, return_index=True)
        for number, start, end in zip(numbers.tolist(), starts, [*starts[1:], len(places)], strict=True):
            (batch,) = rows.take(by_place[start:end]).combine_chunks().to_batches()
            before = file.tell()
            file.write(batch.serialize())
            index.append((number, before, file.tell()))

    exchange.replace(task.target.with_suffix(".arrow"), write)
    exchange.save(task.target, np.array(index, np.int64))
    return len(task.shards)


def _chosen_rows(work: Path, shard: _Chosen) -> pa.Table:
    """Read the rows of a shard that are in the blend, with their places.

    Raises:
        DigestMismatch: the shard is not what it was when it was measured.
    """
    with here(shard.path) as (file, found):
        if found != shard.sha256:
            raise DigestMismatch(f"{shard.path}: it has changed since it was measured; its sha256 differs")
        rows = shards.read_shard(file)
    if shard.category is not None:
        column = rows.schema.get_field_index("category")
        rows = rows.set_column(column, "category", pa.array([shard.category] * len(rows), pa.string()))
    chosen, places = np.ascontiguousarray(exchange.rows(work / _ORDER, shard.first, shard.past).T)
    return rows.take(chosen).append_column("place", pa.array(places, pa.int64()))


class _Gathered(NamedTuple):
    """A finished shard of the blend."""

    number: int
    path: Path
    sha256: str
    counts: Counts


def _gather(task: _Gathering) -> list[_Gathered]:
    """Sort and write the shards of a range."""
    if not artifacts.is_made(task.folder):
        rows = pa.Table.from_batches([_part(path, task.number) for path in task.parts()])
        rows = rows.sort_by("place").select(shards.SCHEMA.names)
        with artifacts.make_folder(task.folder) as folder:
            written = []
            for start in range(0, len(rows), task.shard_size):
                number = (task.first + start) // task.shard_size
                path = folder / _shard_name(number)
                counted = _write_shard(path, rows.slice(start, task.shard_size).combine_chunks())
                written.append((number, sha256_of(path), listed(counted)))
            (folder / _MADE).write_text(json.dumps(written), encoding="utf-8")
    made = json.loads((task.folder / _MADE).read_text(encoding="utf-8"))
    return [
        _Gathered(number, task.folder / _shard_name(number), sha256, counts_of(counted))
        for number, sha256, counted in made
    ]


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


def _write_shard(path: Path, rows: pa.Table) -> Counts:
    facts, contents = rows.select(shards.FACTS), rows.select(shards.CONTENT)
    shards.write_shard(path, facts, contents.to_batches())
    counted = count_kept(facts, pc.sum(pc.binary_length(rows["text"])).as_py())
    counted["read", ""] = counted["kept", ""]
    return counted


def _part(path: Path, number: int) -> pa.RecordBatch:
    """Read the rows of one range that came from one group of shards."""
    index = exchange.kept_open(path)
    row = int(np.searchsorted(index[:, 0], number))
    message = workfiles.part(path.with_suffix(".arrow"), int(index[row, 1]), int(index[row, 2]))
    return pa.ipc.read_record_batch(pa.py_buffer(message), _SCATTERED)


def _progress(
    engine: Engine, name: str, function: Any, tasks: Sequence[Any], *, processes: bool = False
) -> Iterator[Any]:
    with log.progress(f"blend.{name}", len(tasks), "shards") as bar:
        for result in engine.map(function, tasks, processes=processes):
            yield result
            bar.advance()
