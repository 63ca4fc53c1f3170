"""Tokenize a preprocessed dataset, shard by shard: the wiring of the stage.

    <output_dir>/<dataset>/<split>/shard-00000/train.bin, validation.bin, documents.parquet     as in `token_shards`
    <output_dir>/shards.parquet                                                                 a row for each shard
    <output_dir>/manifest.json                                                                  written last

Each shard is a task, here or on a cluster, and its tokens depend on it, the tokenizer and the held-out share alone. So
a killed run goes on with the shards that are finished; and if some shards of a dataset change, as by a takedown, only
they are tokenized again, and the tokens of all others stay the same files. Conversations are rendered by the chat
template; of a preference pair, the prompt and the chosen answer.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from ibidem import __version__, artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.config import configuration
from ibidem.data import shards
from ibidem.data.engine import Engine, EngineConfig
from ibidem.errors import ArtifactError, ConfigError, DataError, DigestMismatch
from ibidem.figures import counted
from ibidem.files import link_or_copy
from ibidem.places import AnyPlace, joined
from ibidem.readers import check_reader, readers_of, recorded
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.token_shards import (
    FILES,
    GROUPS,
    Job,
    ShardTokens,
    folder_of,
    read_counts,
    tokenize_shard,
    write_counts,
)
from ibidem.training.tokens import DEFAULT_SHARE, DOCUMENT_ID, KIND, SPLITS, default_share, dtype_of, share_before

SHARDS_FILE = "shards.parquet"
_BY_SPLIT = pa.struct([(split, pa.int64()) for split in SPLITS])
SHARDS = pa.schema(
    [
        ("shard", pa.string()),
        ("sha256", pa.string()),
        ("documents", pa.int64()),
        ("tokens", _BY_SPLIT),
        ("bytes", _BY_SPLIT),
    ]
)
MOST_HASHED = 100_000
"""Documents whose hashes are looked at to choose a held-out share."""


@configuration
class TokenizeConfig(EngineConfig):
    """Tokenize a preprocessed dataset, shard by shard, for `ibidem train --data.tokens`."""

    dataset: AnyPlace
    """A preprocessed dataset: its folder, or its URL at a store."""
    tokenizer: Path
    """A trained tokenizer."""
    output_dir: Path
    """Folder of the tokens; one artifact. The shards of the same dataset that did not change stay as they are."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the documents held out of training, for validation. By default 0.02, or as much as holds out 8
    documents of a small dataset, at most half of them."""


def tokenize(config: TokenizeConfig) -> str:
    """Tokenize a dataset; return a summary.

    Raises:
        ArtifactError: dataset or tokenizer are none, or the folder is that of something else.
        ConfigError: the folder has the tokens of another dataset, or the share leaves nothing for one of the splits.
        DataError: the dataset has no documents, or changes meanwhile.
    """
    engine = Engine(config)
    tokens = make(
        config.dataset,
        config.tokenizer,
        config.output_dir,
        held_out_share=config.held_out_share,
        engine=engine,
        cores=engine.workers,
        earlier=[config.output_dir],
    )
    return f"{tokens.path}: {_summary(tokens)}"


def preview(config: TokenizeConfig) -> list[str]:
    """Check the inputs, and say how many shards and documents would be tokenized."""
    data = _dataset(config.dataset)
    inputs = _inputs(data, config.tokenizer, config.output_dir)
    _check_place(config.output_dir, inputs)
    amount = f"{counted(len(shards.shard_names(data)), 'shard')}, {counted(int(data.counts['kept']), 'document')}"
    return [f"tokens  {amount}"]


def tokenized(
    dataset: Path, tokenizer: Path, cache_dir: Path, *, held_out_share: float | None
) -> tuple[Artifact, Tokenizer]:
    """Tokenize a dataset, or verify its tokens, in a folder that is named after the digests of dataset and tokenizer.

    Shards that other tokens in `cache_dir` have already are not tokenized again.

    Raises:
        ArtifactError: as `tokenize`.
        DataError: as `tokenize`.
        DigestMismatch: the tokens are damaged.
    """
    data, loaded = _dataset(dataset), Tokenizer.load(tokenizer)
    share = held_out_share or _default_share(data)
    key = hashlib.sha256(f"{data.digest} {loaded.digest} {share}".encode()).hexdigest()[:16]
    earlier = sorted(path.parent for path in cache_dir.glob(f"*/{artifacts.MANIFEST}"))
    tokens = make(
        dataset,
        tokenizer,
        cache_dir / key,
        held_out_share=share,
        engine=Engine(EngineConfig(workers=1)),  # accelerate has threads and devices, with which a fork is unsafe
        cores=os.cpu_count() or 1,
        earlier=earlier,
        flag="--data.held-out-share",
    )
    return artifacts.verify(tokens.path, kind=KIND), loaded


def make(
    dataset: Path,
    tokenizer: Path,
    output_dir: Path,
    *,
    held_out_share: float | None,
    engine: Engine,
    cores: int,
    earlier: Sequence[Path],
    flag: str = "--held-out-share",
) -> Artifact:
    """Tokenize a dataset, unless its tokens are there already.

    Args:
        dataset: a preprocessed dataset.
        tokenizer: a trained tokenizer.
        output_dir: where the tokens will be.
        held_out_share: share of the documents to hold out; None: `default_share` decides.
        engine: where the shards are tokenized.
        cores: how many cores the tasks share; those of few shards have several threads each.
        earlier: folders of tokens whose shards are taken over, if they would become the same.
        flag: how the user spells the share.
    """
    data, loaded = _dataset(dataset), Tokenizer.load(tokenizer)
    inputs = _inputs(data, tokenizer, output_dir)
    _check_place(output_dir, inputs)
    share = held_out_share or _default_share(data)
    config = {"held_out_share": share, "dtype": dtype_of(loaded.vocab_size).name, DOCUMENT_ID: loaded.document_id}
    config["groups"] = list(GROUPS)
    config |= recorded(inputs, output_dir)
    tokens = artifacts.finished(output_dir, kind=KIND, config=config, inputs=inputs)
    if tokens is not None:
        return tokens
    names = sorted(shards.shard_names(data), key=lambda name: name.split("/"))
    is_private = readers_of(config) is not None
    try:
        with artifacts.workspace(output_dir, config=config, inputs=inputs) as work:
            work.chmod(0o700 if is_private else work.stat().st_mode)
            threads = max(1, cores // min(engine.workers, len(names)))
            places = dataset.resolve(), tokenizer.resolve(), work.resolve()  # workers of a cluster are in other folders
            engine.check_seen([*places[:2], *work.iterdir()])
            job = Job(*places, loaded.digest, share, threads)
            _take_over(job, data, config, earlier)
            _tokenize(job, data, names, engine)
            with artifacts.create(output_dir, kind=KIND, config=config, inputs=inputs, is_private=is_private) as draft:
                _assemble(draft, work, names)
                _check_splits(data, draft.counts, share, flag)
    except FileNotFoundError:  # a node whose lock is not seen here has finished the same, and removed the work folder
        if (tokens := artifacts.finished(output_dir, kind=KIND, config=config, inputs=inputs)) is None:
            raise
        return tokens
    tokens = artifacts.load(output_dir, kind=KIND)
    log.event("tokens.finished", path=str(output_dir), **tokens.counts)
    return tokens


def _dataset(folder: Path) -> Artifact:
    """Load the manifest of a dataset; each shard is hashed when it is tokenized."""
    data = artifacts.load(folder, kind=shards.KIND)
    check_reader(data)
    if not shards.shard_names(data):
        raise DataError(
            f"{folder}: the dataset has no documents; choose another one, or relax the settings that made it"
        )
    return data


def _inputs(data: Artifact, tokenizer: Path, output_dir: Path) -> list[Input]:
    words = artifacts.load(tokenizer)
    return [data.as_input("dataset", of=output_dir), words.as_input("tokenizer", of=output_dir)]


def _check_place(output_dir: Path, inputs: Sequence[Input]) -> None:
    """Refuse to replace anything but tokens of the same dataset and tokenizer, which may have changed since."""
    artifacts.check_replaceable(output_dir, KIND)
    try:
        before = {item.role: item for item in artifacts.load(output_dir, kind=KIND).inputs}
    except ArtifactError:
        return
    for item in inputs:
        old = before.get(item.role, item)
        if old.name != item.name and old.digest != item.digest:
            place = joined(output_dir, old.name)
            raise ConfigError(
                f"output_dir {output_dir}: it has the tokens of another {item.role}, {place}; choose another folder, "
                "or delete it"
            )


def _default_share(data: Artifact) -> float:
    if int(data.counts["kept"]) > MOST_HASHED:  # 2 % are surely enough, even if each document comes several times
        return DEFAULT_SHARE
    return default_share(_hashes(data))


def _hashes(data: Artifact) -> Iterator[str]:
    names = shards.shard_names(data)
    return (row["sha256"] for name in names for row in shards.read_rows(data.path / name, ["sha256"]))


def _take_over(job: Job, data: Artifact, config: dict[str, Any], earlier: Iterable[Path]) -> None:
    """Link the shards of earlier tokens that were made from the same shards, by the same tokenizer and share."""
    count = 0
    for path in earlier:
        try:
            old = artifacts.load(path, kind=KIND)
        except ArtifactError:
            continue
        is_alike = (old.version, old.config) == (__version__, config) and SHARDS_FILE in old.files
        if not is_alike or old.digest_of("tokenizer") != job.tokenizer_digest:
            continue
        for row in pq.read_table(old.path / SHARDS_FILE).to_pylist():
            counts = ShardTokens(**row)
            file = data.files.get(counts.shard)
            if file is not None and file.sha256 == counts.sha256:
                count += _linked(job, old, counts)
    if count:
        log.event("tokens.taken_over", shards=count)


def _linked(job: Job, old: Artifact, counts: ShardTokens) -> bool:
    name = folder_of(counts.shard)
    if (job.folder / name).exists():
        return False
    try:
        artifacts.check(old, [f"{name}/{file}" for file in FILES])
    except (DigestMismatch, KeyError):
        return False
    with artifacts.make_folder(job.folder / name) as folder:
        for file in FILES:
            link_or_copy(old.path / name / file, folder / file)
        write_counts(folder, counts)
    return True


def _tokenize(job: Job, data: Artifact, names: Sequence[str], engine: Engine) -> None:
    tasks = [(name, data.files[name].sha256) for name in names]
    with log.progress("tokens", int(data.counts["kept"]), "documents") as bar:
        for count in engine.map(partial(tokenize_shard, job), tasks, processes=True):
            bar.advance(count)


def _assemble(draft: artifacts.Draft, work: Path, names: Sequence[str]) -> None:
    """Put the finished shards into the artifact, with a row for each, and add up the counts."""
    total: dict[str, Any] = {"documents": 0, "tokens": dict.fromkeys(SPLITS, 0), "bytes": dict.fromkeys(SPLITS, 0)}
    rows = []
    for name in names:
        folder = folder_of(name)
        counts = read_counts(work / folder)
        (draft.path / folder).mkdir(parents=True)
        for file in FILES:
            link_or_copy(work / folder / file, draft.path / folder / file)
        rows.append(counts._asdict())
        total["documents"] += counts.documents
        for split in SPLITS:
            total["tokens"][split] += counts.tokens[split]
            total["bytes"][split] += counts.bytes[split]
    pq.write_table(pa.Table.from_pylist(rows, schema=SHARDS), draft.path / SHARDS_FILE, compression="zstd")
    draft.rows[SHARDS_FILE] = len(rows)
    draft.counts |= {"shards": len(rows), **total}


def _check_splits(data: Artifact, counts: dict[str, Any], share: float, flag: str) -> None:
    if min(counts["tokens"].values()):
        return
    left = "nothing to train on" if counts["tokens"]["train"] == 0 else "nothing held out"
    places = sorted(map(shards.place_of, set(islice(_hashes(data), MOST_HASHED))))
    remedy = f", or {flag} {share_before(places, 1)}" if len(places) > 1 else ""
    raise ConfigError(
        f"{data.path}: a held-out share of {share:g} leaves {left} of {counted(counts['documents'], 'document')}; "
        f"give more data{remedy}"
    )


def _summary(tokens: Artifact) -> str:
    counts = tokens.counts
    train, held_out = (counts["tokens"][split] for split in SPLITS)
    amount = f"{counted(counts['documents'], 'document')} in {counted(counts['shards'], 'shard')}"
    return f"{amount}; {train:,} tokens to train on, {held_out:,} held out; {sum(counts['bytes'].values()):,} bytes"
