"""The index of a training's tokens on disk: for each shard a suffix array, and where each document is from.

    tokens/<shard>/train.bin           ids of the documents, one after the other
    index/<shard>/train.suffixes       their suffix array, int32, memory-mapped
    index/<shard>/documents.parquet    start and number of tokens of each document; path, license, SWHID and more

What the index has of a shard depends on that shard alone. Building again after a takedown makes it for the shards that
changed, and takes over the others.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem import artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.attribution.config import BuildConfig
from ibidem.attribution.suffix_array import suffix_array
from ibidem.data.engine import Engine
from ibidem.errors import ArtifactError, ConfigError, DigestMismatch
from ibidem.figures import counted, size
from ibidem.readers import check_reader, readers_of, recorded
from ibidem.records import DOCUMENTS_FILE, IDS_FILES

KIND = "attribution-index"
TOKENS, DATASET = "tokens", "dataset"
"""Roles of the inputs, which are the kinds of what they name."""
TRAIN = "train"
IDS, SUFFIXES = IDS_FILES[TRAIN], "train.suffixes"
FILES = (SUFFIXES, DOCUMENTS_FILE)
FACTS = ("record", "source", "revision", "repo", "path", "url", "license", "language", "swhid")
"""What the index knows of a document, beside its tokens and the hash of its text."""


class Task(NamedTuple):
    """A shard that is to be indexed."""

    tokens: Path
    """Folder of its tokens."""
    dtype: str
    shard: Path
    """Its documents, in the dataset."""
    folder: Path
    """Of the index."""


def build(config: BuildConfig) -> str:
    """Index tokens; return a line about it.

    Raises:
        AccessDenied: the tokens are of private documents, and the user is not among their readers.
        ArtifactError: tokens or dataset are missing or damaged, or something else is at `output_dir`.
        ConfigError: the dataset is no longer what was tokenized.
    """
    artifacts.check_replaceable(config.output_dir, KIND)
    tokens = artifacts.verify(config.tokens, kind=TOKENS)
    check_reader(tokens)
    dataset = parent(tokens, DATASET)
    inputs = [tokens.as_input(TOKENS, of=config.output_dir), dataset.as_input(DATASET, of=config.output_dir)]
    chosen = {"dtype": tokens.config["dtype"], "shards": _shards(tokens, dataset)}
    chosen |= recorded(inputs, config.output_dir)
    with artifacts.writing(config.output_dir):
        if artifacts.finished(config.output_dir, kind=KIND, config=chosen, inputs=inputs) is None:
            with artifacts.workspace(config.output_dir, config=chosen, inputs=inputs) as work:
                work.chmod(0o700 if readers_of(chosen) is not None else work.stat().st_mode)
                _make(tokens, dataset, chosen["shards"], config, work)
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
    return Path(os.path.normpath(artifact.path.resolve() / item.name))


def _make(tokens: Artifact, dataset: Artifact, digests: dict[str, list[str]], config: BuildConfig, work: Path) -> None:
    """Index the shards that are not there yet; what a killed run or an older index has is taken over."""
    old = _older(config.output_dir)
    artifacts.check(dataset, [f"{folder}.parquet" for folder in digests])
    tasks = [
        Task(tokens.path / folder, tokens.config["dtype"], dataset.path / f"{folder}.parquet", work / folder)
        for folder, of_shard in digests.items()
        if not (work / folder).exists() and not (old is not None and _taken_over(old, folder, of_shard, work / folder))
    ]
    with log.progress("attribution", len(tasks), "shards") as bar:
        for _ in Engine(config.engine).map(index_shard, tasks, processes=False):
            bar.advance()


def _older(path: Path) -> Artifact | None:
    try:
        return artifacts.load(path, kind=KIND)
    except ArtifactError:
        return None


def _taken_over(old: Artifact, folder: str, digests: list[str], target: Path) -> bool:
    if old.config["shards"].get(folder) != digests:
        return False
    try:
        artifacts.check(old, [f"{folder}/{name}" for name in FILES])
    except DigestMismatch:
        return False
    with artifacts.make_folder(target) as partial:
        for name in FILES:
            shutil.copyfile(old.path / folder / name, partial / name)
    return True


def index_shard(task: Task) -> None:
    """Write the index of a shard.

    Raises:
        ConfigError: the dataset has other documents.
    """
    with artifacts.make_folder(task.folder) as partial:
        pq.write_table(_documents(task), partial / DOCUMENTS_FILE)
        suffix_array(np.fromfile(task.tokens / IDS, task.dtype)).tofile(partial / SUFFIXES)


def _documents(task: Task) -> pa.Table:
    """Return start, tokens and hash of each training document, in order, and the facts of it.

    Rows are matched by their places: in a blend, texts that are equal may be of different repositories and licenses.
    """
    documents = pq.read_table(task.tokens / DOCUMENTS_FILE)
    facts = pq.read_table(task.shard, columns=["sha256", *FACTS])
    if documents["sha256"] != facts["sha256"]:
        raise ConfigError(f"{task.shard}: its documents are not those of {task.tokens}; tokenize the dataset again")
    for name in FACTS:
        documents = documents.append_column(name, facts[name])
    return documents.filter(pc.equal(documents["split"], TRAIN))


def _seal(output_dir: Path, config: dict[str, Any], inputs: Sequence[Input], work: Path) -> None:
    is_private = readers_of(config) is not None
    with artifacts.create(output_dir, kind=KIND, config=config, inputs=inputs, is_private=is_private) as draft:
        documents, num_bytes = 0, 0
        for folder in config["shards"]:
            (draft.path / folder).parent.mkdir(parents=True, exist_ok=True)
            (work / folder).rename(draft.path / folder)
            documents += pq.read_metadata(draft.path / folder / DOCUMENTS_FILE).num_rows
            num_bytes += (draft.path / folder / SUFFIXES).stat().st_size
        draft.counts |= {"documents": documents, "tokens": num_bytes // np.dtype(np.int32).itemsize}


def _summary(index: Artifact) -> str:
    num_bytes = sum(file.bytes for file in index.files.values())
    tokens = index.counts["tokens"]
    return (
        f"{index.path}: {counted(index.counts['documents'], 'document')}, {tokens:,} tokens, {size(num_bytes)}, "
        f"{num_bytes / max(tokens, 1):.1f} bytes a token"
    )
