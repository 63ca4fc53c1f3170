"""Blend preprocessed datasets into one that has the given shares in every prefix; reproducible to the byte.

    measure   bytes or tokens of each document
    plan      the order of documents: first the category furthest behind its share, within it the dataset
    scatter   each shard of a dataset is read once; its rows go to their shards of the blend
    gather    each shard of the blend is sorted and written

The result is a dataset like any other; its rows name their sources.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ibidem import artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.config import configuration, settings
from ibidem.data import shards
from ibidem.data.counts import (
    Counts,
    count_kept,
    read_counts,
    to_manifest,
    total_of,
    write_counts,
)
from ibidem.data.engine import Engine, EngineConfig
from ibidem.errors import ConfigError, DataError, DigestMismatch
from ibidem.figures import counted, percent
from ibidem.readers import readers_of, recorded
from ibidem.records import TOKENIZER_FILE, TOKENIZER_JSON, Category

CATEGORIES: tuple[Category, ...] = get_args(Category)
MEASURED = np.dtype([("key", "<u8"), ("size", "<i8"), ("bytes", "<i8"), ("category", "i1")])
"""For each document: its key for the shuffle, its size in tokens (or bytes), its bytes, its category."""
TOLERANCE = 1e-9
FAR = 0.05
"""Shares that miss the requested one by more than this are reported."""


@configuration
class Ingredient:
    """One dataset of a blend."""

    path: Path
    """Folder of a preprocessed dataset."""
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
    output_dir: Path
    """Folder of the blend; one artifact, replaced as a whole."""
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
        if item.path.resolve() == config.output_dir.resolve():
            raise ConfigError(f"datasets.{name}.path: {item.path} is also the output_dir")
    datasets = {name: shards.load_dataset(item.path) for name, item in sorted(config.datasets.items())}
    inputs = [dataset.as_input(name, of=config.output_dir) for name, dataset in datasets.items()]
    if config.tokenizer is not None:
        inputs.append(artifacts.verify(config.tokenizer, kind="tokenizer").as_input("tokenizer", of=config.output_dir))
    chosen = _settings(config) | recorded(inputs, config.output_dir)
    if config.verify:
        return _verify(config, datasets, chosen, inputs)
    artifacts.check_replaceable(config.output_dir, shards.KIND)
    blended = artifacts.finished(config.output_dir, kind=shards.KIND, config=chosen, inputs=inputs)
    blended = blended or _make(config, datasets, chosen, inputs, config.output_dir)
    if off := off_shares(blended):
        log.event("blend.off_shares", path=str(config.output_dir), reason=off)
    return summary(blended)


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
    again = config.output_dir.with_name(f".{config.output_dir.name}.again")
    try:
        made = _make(config, datasets, chosen, inputs, again)
        for name in sorted(there.files.keys() | made.files.keys()):
            if there.files.get(name) != made.files.get(name):
                raise DigestMismatch(f"{config.output_dir / name}: differs when made again")
        if there.digest != made.digest:
            raise DigestMismatch(f"{config.output_dir}: made with other settings: {_difference(there, made)}")
    finally:
        shutil.rmtree(again, ignore_errors=True)
    return f"{config.output_dir}: made again, byte for byte the same: {there.digest}"


def _difference(there: Artifact, made: Artifact) -> str:
    keys = sorted(there.config.keys() | made.config.keys())
    return ", ".join(key for key in keys if there.config.get(key) != made.config.get(key)) or "version or counts"


def _make(
    config: BlendConfig, datasets: Mapping[str, Artifact], chosen: dict[str, Any], inputs: Sequence[Input], path: Path
) -> Artifact:
    started = time.monotonic()
    is_private = readers_of(chosen) is not None
    with artifacts.workspace(path, config=chosen, inputs=inputs) as work:
        work.chmod(0o700 if is_private else work.stat().st_mode)
        engine = Engine(config)
        measured = {name: _measure(dataset, config.tokenizer, work, engine) for name, dataset in datasets.items()}
        order = _plan(config, measured)
        _scatter(order, config, datasets, work)
        gathered = [work / f"gathered-{number:05d}" for number in range(-(-len(order.document) // config.shard_size))]
        counted = list(_progress(engine, "gather", _gather, gathered))
        with artifacts.create(
            path, kind=shards.KIND, config=chosen, inputs=inputs, started=started, is_private=is_private
        ) as draft:
            (draft.path / "blend" / "train").mkdir(parents=True)
            for number, folder in enumerate(gathered):
                name = f"blend/train/shard-{number:05d}.parquet"
                os.link(folder / "shard.parquet", draft.path / name)
                draft.rows[name] = pq.read_metadata(draft.path / name).num_rows
            draft.rows[shards.DROPPED] = shards.write_dropped(draft.path / shards.DROPPED, ())
            shards.write_quarantine(draft.path / shards.QUARANTINE, ())
            draft.counts |= to_manifest(total_of(counted), more=order.counts)
    log.event("blend.finished", path=str(path), **order.counts)
    return artifacts.load(path)


# Measure


def _measure(dataset: Artifact, tokenizer: Path | None, work: Path, engine: Engine) -> list[NDArray[Any]]:
    """Return MEASURED rows for each shard of a dataset."""
    key = dataset.digest.removeprefix("sha256:")[:16]
    paths = shards.shard_paths(dataset.path)
    tasks = [(path, tokenizer, work / f"measured-{key}-{number:05d}.npy") for number, path in enumerate(paths)]
    for _ in _progress(engine, "measure", _measure_shard, tasks, processes=tokenizer is not None):
        pass
    return [np.load(kept) for _, _, kept in tasks]


def _measure_shard(task: tuple[Path, Path | None, Path]) -> None:
    path, tokenizer, kept = task
    if kept.exists():
        return
    pieces = []
    for rows in shards.read_batches(path, ["text", "sha256", "category"]):
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
    partial_path = kept.with_suffix(".partial.npy")
    np.save(partial_path, np.concatenate(pieces))
    partial_path.rename(kept)


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


def _scatter(order: Order, config: BlendConfig, datasets: Mapping[str, Artifact], work: Path) -> None:
    """Read each shard once; append its rows to `scattered.arrows` of their shards in the blend."""
    done = work / "scattered"
    if done.exists():
        return
    for folder in work.glob("gathered-*"):
        shutil.rmtree(folder)
    tasks = [
        (number, name, path)
        for number, (name, dataset) in enumerate(datasets.items())
        for path in shards.shard_paths(dataset.path)
    ]
    before = dict.fromkeys(datasets, 0)
    with log.progress("blend.scatter", len(tasks), "shards") as bar:
        for number, name, path in tasks:
            rows = pq.read_metadata(path).num_rows
            places = np.flatnonzero(
                (order.dataset == number) & (order.document >= before[name]) & (order.document < before[name] + rows)
            )
            if len(places):
                table = shards.read_shard(path)
                if (category := config.datasets[name].category) is not None:
                    column = table.schema.get_field_index("category")
                    table = table.set_column(column, "category", pa.array([category] * len(table), pa.string()))
                _hand_out(table, order.document[places] - before[name], places, config.shard_size, work)
            before[name] += rows
            bar.advance()
    done.touch()


def _hand_out(table: pa.Table, rows: NDArray[np.int64], places: NDArray[np.int64], shard_size: int, work: Path) -> None:
    for shard in np.unique(places // shard_size).tolist():
        inside = places // shard_size == shard
        wanted = table.take(rows[inside]).append_column("place", pa.array(places[inside], pa.int64()))
        folder = work / f"gathered-{shard:05d}"
        folder.mkdir(exist_ok=True)
        with (folder / "scattered.arrows").open("ab") as file, pa.ipc.new_stream(file, wanted.schema) as stream:
            stream.write_table(wanted)


def _gather(folder: Path) -> Counts:
    """Sort and write one shard of the blend; return its counts."""
    counts = folder / "counts.json"
    if not counts.exists():
        pieces = []
        with pa.OSFile(str(folder / "scattered.arrows")) as file:
            while file.tell() < file.size():
                with pa.ipc.open_stream(file) as stream:
                    pieces.append(stream.read_all())
        rows = pa.concat_tables(pieces).sort_by("place").select(shards.SCHEMA.names).combine_chunks()
        facts, contents = rows.select(shards.FACTS), rows.select(shards.CONTENT)
        shards.write_shard(folder / "shard.parquet", facts, contents.to_batches())
        counted = count_kept(facts, pc.sum(pc.binary_length(rows["text"])).as_py())
        counted["read", ""] = counted["kept", ""]
        write_counts(counts, counted)
    return read_counts(counts)


def _progress(
    engine: Engine, name: str, function: Any, tasks: Sequence[Any], *, processes: bool = False
) -> Iterator[Any]:
    with log.progress(f"blend.{name}", len(tasks), "shards") as bar:
        for result in engine.map(function, tasks, processes=processes):
            yield result
            bar.advance()
