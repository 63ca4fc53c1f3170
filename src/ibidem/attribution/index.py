"""The index of a training's tokens on disk: parts of neighboring shards, each with its own suffix array.

    shards of the tokens    0   1   2   3   4   5   6   7   8
    parts                   [------------] [----] [----] [--]      joined in pairs, as long as a part is small enough

    <first shard>-<last shard>/train.bin          ids of the documents, one after the other
    <first shard>-<last shard>/train.suffixes     their suffix array, int32
    <first shard>-<last shard>/train.tops         first ids of every 256th one
    <first shard>-<last shard>/train.shingles     which documents have which 3 words in a row, of a quarter of these
    <first shard>-<last shard>/documents.arrow    start and tokens of each document; path, license, SWHID and more
    <first shard>-<last shard>/documents.parquet  the same, compressed, for ibidem trace

Ids, suffixes, shingles and documents.arrow are mapped into memory; a lookup reads the pages that it needs. A search
costs much the same in a large part as in a small one, so that few parts are fast; but a part is sorted as a whole when
one of its shards has changed. What the index has of a part depends on the shards of that part alone. Building again
after a takedown makes the parts whose shards changed, and takes over the others. Shards are joined as the leaves of a
binary tree are: one that shrinks can join its part with the one beside it, and moves no border elsewhere.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import feather

from ibidem import artifacts, log, places
from ibidem.artifacts import Artifact, Input
from ibidem.attribution.config import BuildConfig
from ibidem.attribution.similar import SAMPLED, SHINGLE_WORDS, postings
from ibidem.attribution.suffix_array import MOST_TOKENS, suffix_array, tops
from ibidem.data.engine import Engine, EngineConfig
from ibidem.data.shards import read_batches
from ibidem.errors import ArtifactError, ConfigError, DigestMismatch
from ibidem.figures import counted, size
from ibidem.readers import check_reader, readers_of, recorded
from ibidem.records import DOCUMENTS_FILE, IDS_FILES

KIND = "attribution-index"
BYTES_OF_A_TOKEN = 17
"""Of memory, while a part is sorted."""
TOKENS, DATASET = "tokens", "dataset"
"""Roles of the inputs, which are the kinds of what they name."""
TRAIN = "train"
IDS, SUFFIXES, TOPS, DOCUMENTS = IDS_FILES[TRAIN], "train.suffixes", "train.tops", "documents.arrow"
SHINGLES = "train.shingles"
FILES = (IDS, SUFFIXES, TOPS, SHINGLES, DOCUMENTS, DOCUMENTS_FILE)
FACTS = ("record", "source", "revision", "repo", "path", "url", "license", "language", "swhid")
"""What the index knows of a document, beside its tokens and the hash of its text."""


class Shard(NamedTuple):
    """Where a shard is."""

    tokens: Path
    """Folder of its ids."""
    documents: Path
    """Its file in the dataset."""


class Task(NamedTuple):
    """A part that is to be indexed."""

    shards: tuple[Shard, ...]
    dtype: str
    folder: Path
    """Of the index."""


def build(config: BuildConfig) -> str:
    """Index tokens; return a line about it.

    Raises:
        AccessDenied: the tokens are of private documents, and the user is not among their readers.
        ArtifactError: tokens or dataset are missing or damaged, or something else is at `output_dir`.
        ConfigError: the dataset is no longer what was tokenized, or a shard has too many tokens.
    """
    artifacts.check_replaceable(config.output_dir, KIND)
    tokens = artifacts.verify(config.tokens, kind=TOKENS)
    check_reader(tokens)
    dataset = parent(tokens, DATASET)
    inputs = [tokens.as_input(TOKENS, of=config.output_dir), dataset.as_input(DATASET, of=config.output_dir)]
    shards = _shards(tokens, dataset)
    chosen = {
        "dtype": tokens.config["dtype"],
        "document_id": tokens.config["document_id"],
        "parts": _parts(tokens, list(shards), config.part_tokens),
        "shards": shards,
        "shingles": [SHINGLE_WORDS, SAMPLED],
    }
    chosen |= recorded(inputs, config.output_dir)
    with artifacts.writing(config.output_dir):
        if artifacts.finished(config.output_dir, kind=KIND, config=chosen, inputs=inputs) is None:
            with artifacts.workspace(config.output_dir, config=chosen, inputs=inputs) as work:
                work.chmod(0o700 if readers_of(chosen) is not None else work.stat().st_mode)
                _make(tokens, dataset, chosen, config, work)
                _seal(config.output_dir, chosen, inputs, work)
    return _summary(artifacts.load(config.output_dir, kind=KIND))


def _shards(tokens: Artifact, dataset: Artifact) -> dict[str, list[str]]:
    """Return the digests of what the index of each shard is made from, by the folder of its tokens."""
    folders = sorted(name.removesuffix(f"/{IDS}") for name in tokens.files if name.endswith(f"/{IDS}"))
    if not folders:
        raise ConfigError(f"{tokens.path}: tokens of another version, which have no shards; run ibidem tokenize again")
    return {
        folder: [
            tokens.files[f"{folder}/{IDS}"].sha256,
            tokens.files[f"{folder}/{DOCUMENTS_FILE}"].sha256,
            dataset.files[f"{folder}.parquet"].sha256,
        ]
        for folder in folders
    }


def _parts(tokens: Artifact, folders: Sequence[str], most: int) -> dict[str, list[str]]:
    """Return the shards of each part, by the name of its folder."""
    itemsize = np.dtype(tokens.config["dtype"]).itemsize
    sizes = [tokens.files[f"{folder}/{IDS}"].bytes // itemsize for folder in folders]
    if max(sizes) > MOST_TOKENS:
        largest = folders[sizes.index(max(sizes))]
        raise ConfigError(
            f"{tokens.path / largest}: {max(sizes):,} tokens are too many for one shard; the most are {MOST_TOKENS:,}; "
            "preprocess again with a smaller --shard-size"
        )
    groups = (list(folders[each.start : each.stop]) for each in joined(sizes, most))
    return {group[0] if len(group) == 1 else f"{group[0]}-{PurePosixPath(group[-1]).name}": group for group in groups}


def joined(sizes: Sequence[int], most: int) -> Iterator[range]:
    """Yield runs of neighbors: a half, a quarter and so on of all places, the largest whose sizes add up to the most.

    Which halves there are depends on the number of the sizes alone, so that a size that changes moves borders only
    within the halves around it.

    >>> list(joined([3, 3, 3, 3, 9], 6))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    yield from _joined(sizes, most, 0, 1 << max(0, len(sizes) - 1).bit_length())


def _joined(sizes: Sequence[int], most: int, start: int, end: int) -> Iterator[range]:
    here = range(start, min(end, len(sizes)))
    if len(here) == 1 or (here and sum(sizes[here.start : here.stop]) <= most):
        yield here
    elif here:
        middle = (start + end) // 2
        yield from _joined(sizes, most, start, middle)
        yield from _joined(sizes, most, middle, end)


def parent(artifact: Artifact, role: str) -> Artifact:
    """Open what an artifact was made from.

    Raises:
        ArtifactError: it is not where it was.
        ConfigError: it is no longer the same.
    """
    path = parent_path(artifact, role)
    before = artifacts.load(path)
    if before.digest != artifact.digest_of(role):
        raise ConfigError(f"{path}: it is no longer the {role} that {artifact.path} was made from; make that again")
    return before


def parent_path(artifact: Artifact, role: str) -> Path:
    """Return the place at which an input was recorded."""
    item = next(each for each in artifact.inputs if each.role == role)
    return places.joined(artifact.path, item.name)


def _make(tokens: Artifact, dataset: Artifact, chosen: dict[str, Any], config: BuildConfig, work: Path) -> None:
    """Index the parts that are not there yet; what a killed run or an older index has is taken over."""
    old = _older(config.output_dir)
    artifacts.check(dataset, [f"{folder}.parquet" for folder in chosen["shards"]])
    tasks = [
        Task(
            tuple(Shard(tokens.path / folder, dataset.path / f"{folder}.parquet") for folder in folders),
            chosen["dtype"],
            work / part,
        )
        for part, folders in chosen["parts"].items()
        if not (work / part).exists() and not (old is not None and _taken_over(old, part, chosen, work / part))
    ]
    engine = Engine(_fitting(config.engine, tokens, chosen["parts"]))
    engine.check_seen([tokens.path, dataset.path, *work.iterdir()])
    with log.progress("attribution", len(tasks), "parts") as bar:
        for _ in engine.map(index_part, tasks, processes=False):
            bar.advance()


def _fitting(engine: EngineConfig, tokens: Artifact, parts: Mapping[str, Sequence[str]]) -> EngineConfig:
    """Lower the number of parts that are indexed at a time on this computer to what its memory has room for."""
    if engine.runner != "native":
        return engine
    itemsize = np.dtype(tokens.config["dtype"]).itemsize
    sizes = [sum(tokens.files[f"{folder}/{IDS}"].bytes for folder in folders) for folders in parts.values()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    room = max(1, memory // 2 // (BYTES_OF_A_TOKEN * max(1, max(sizes) // itemsize)))
    return replace(engine, workers=min(Engine(engine).workers, room))


def _older(path: Path) -> Artifact | None:
    try:
        return artifacts.load(path, kind=KIND)
    except ArtifactError:
        return None


def _taken_over(old: Artifact, part: str, chosen: dict[str, Any], target: Path) -> bool:
    folders = chosen["parts"][part]
    before = old.config["shards"]
    if old.config.get("parts", {}).get(part) != folders or old.config["dtype"] != chosen["dtype"]:
        return False
    if old.config.get("shingles") != chosen["shingles"]:
        return False
    if any(before[folder] != chosen["shards"][folder] for folder in folders):
        return False
    try:
        artifacts.check(old, [f"{part}/{name}" for name in FILES])
    except DigestMismatch:
        return False
    with artifacts.make_folder(target) as partial:
        for name in FILES:
            shutil.copyfile(old.path / part / name, partial / name)
    return True


def index_part(task: Task) -> None:
    """Write the index of a part.

    Raises:
        ConfigError: the dataset has other documents.
    """
    ids_N = np.concatenate([np.fromfile(shard.tokens / IDS, task.dtype) for shard in task.shards])
    with artifacts.make_folder(task.folder) as partial:
        documents = _documents(task)
        pq.write_table(documents, partial / DOCUMENTS_FILE)
        feather.write_feather(documents, str(partial / DOCUMENTS), compression="uncompressed", chunksize=1 << 30)
        ids_N.tofile(partial / IDS)
        suffixes_N = suffix_array(ids_N)
        suffixes_N.tofile(partial / SUFFIXES)
        tops(ids_N, suffixes_N).tofile(partial / TOPS)
        del ids_N, suffixes_N
        postings(chain.from_iterable(map(_texts, task.shards))).tofile(partial / SHINGLES)


def _texts(shard: Shard) -> Iterator[bytes]:
    """Yield the texts of a shard's training documents, in UTF-8."""
    split = pq.read_table(shard.tokens / DOCUMENTS_FILE, columns=["split"])["split"]
    is_trained = pc.equal(split, TRAIN).combine_chunks()
    first = 0
    for batch in read_batches(shard.documents, ["text"]):
        for text in batch["text"].filter(is_trained.slice(first, len(batch))):
            yield text.as_buffer().to_pybytes()
        first += len(batch)


def _documents(task: Task) -> pa.Table:
    """Return start, tokens and hash of each training document of a part, in order, and the facts of it."""
    tables, first = [], 0
    for shard in task.shards:
        table = _documents_of(shard)
        place = table.schema.get_field_index("start")
        tables.append(table.set_column(place, "start", pc.add(table["start"], first)))
        first += (shard.tokens / IDS).stat().st_size // np.dtype(task.dtype).itemsize
    return pa.concat_tables(tables).combine_chunks()


def _documents_of(shard: Shard) -> pa.Table:
    """Match rows by their places: in a blend, texts that are equal may be of different repositories and licenses."""
    documents = pq.read_table(shard.tokens / DOCUMENTS_FILE, columns=["sha256", "split", "start", "tokens"])
    facts = pq.read_table(shard.documents, columns=["sha256", *FACTS])
    if documents["sha256"] != facts["sha256"]:
        raise ConfigError(f"{shard.documents}: its documents are not those of {shard.tokens}; tokenize it again")
    for name in FACTS:
        documents = documents.append_column(name, facts[name])
    return documents.filter(pc.equal(documents["split"], TRAIN))


def _seal(output_dir: Path, config: dict[str, Any], inputs: Sequence[Input], work: Path) -> None:
    is_private = readers_of(config) is not None
    with artifacts.create(output_dir, kind=KIND, config=config, inputs=inputs, is_private=is_private) as draft:
        documents, num_bytes = 0, 0
        for part in config["parts"]:
            (draft.path / part).parent.mkdir(parents=True, exist_ok=True)
            (work / part).rename(draft.path / part)
            for name in FILES:
                _settle(draft.path / part / name)
            documents += pq.read_metadata(draft.path / part / DOCUMENTS_FILE).num_rows
            num_bytes += (draft.path / part / SUFFIXES).stat().st_size
        draft.counts |= {"documents": documents, "tokens": num_bytes // np.dtype(np.int32).itemsize}


def _settle(path: Path) -> None:
    """Set a file's time back before it is hashed: a later change sets another one, so no opening hashes it again."""
    then_ns = time.time_ns() - 2 * artifacts.SETTLED_NS
    os.utime(path, ns=(then_ns, then_ns))


def _summary(index: Artifact) -> str:
    num_bytes = sum(file.bytes for file in index.files.values())
    tokens = index.counts["tokens"]
    return (
        f"{index.path}: {counted(index.counts['documents'], 'document')}, {tokens:,} tokens, {size(num_bytes)}, "
        f"{num_bytes / max(tokens, 1):.1f} bytes a token"
    )
