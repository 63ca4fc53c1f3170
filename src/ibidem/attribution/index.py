"""The index of a training's tokens on disk: a suffix array for each file of them, and where each document is from.

    tokens/train.bin            ids of the documents, one after the other
    index/train.suffixes        their suffix array, int32, memory-mapped
    index/documents.parquet     start and number of tokens of each document; path, license, SWHID and more

A suffix array depends on the ids of its file alone. Building again after a takedown makes those of changed files, and
takes over the others.
"""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem import artifacts, log
from ibidem.artifacts import Artifact
from ibidem.attribution.config import BuildConfig
from ibidem.attribution.suffix_array import suffix_array
from ibidem.data import shards
from ibidem.data.engine import Engine
from ibidem.errors import ArtifactError, ConfigError, DigestMismatch
from ibidem.figures import counted, size
from ibidem.files import hidden
from ibidem.readers import check_reader, readers_of, recorded
from ibidem.records import DOCUMENTS_FILE

KIND = "attribution-index"
TOKENS, DATASET = "tokens", "dataset"
"""Roles of the inputs, which are the kinds of what they name."""
FACTS = ("record", "source", "revision", "repo", "path", "url", "license", "language", "swhid")
"""What the index knows of a document, beside its tokens and the hash of its text."""


class Task(NamedTuple):
    """A file of ids whose suffix array is to be made."""

    ids: Path
    dtype: str
    suffixes: Path


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
    chosen = {"dtype": tokens.config["dtype"], "tokenizer": tokens.digest_of("tokenizer"), "ids": ids_files(tokens)}
    chosen |= recorded(inputs, config.output_dir)
    with artifacts.writing(config.output_dir):
        if artifacts.finished(config.output_dir, kind=KIND, config=chosen, inputs=inputs) is None:
            with artifacts.workspace(config.output_dir, config=chosen, inputs=inputs) as work:
                _make(tokens, chosen["ids"], config, work)
                _seal(config.output_dir, tokens, dataset, chosen, inputs, work)
    return _summary(artifacts.load(config.output_dir, kind=KIND))


def ids_files(tokens: Artifact) -> dict[str, str]:
    """Return the files with the ids of the training documents, and their hashes."""
    return {name: file.sha256 for name, file in sorted(tokens.files.items()) if Path(name).name.startswith("train")}


def suffixes_name(ids: str) -> str:
    """Return the name of the suffix array of a file of ids.

    >>> suffixes_name("train.bin")
    'train.suffixes'
    """
    return str(Path(ids).with_suffix(".suffixes"))


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


def _make(tokens: Artifact, ids: dict[str, str], config: BuildConfig, work: Path) -> None:
    """Make the suffix arrays that are not there yet; what a killed run or an older index has is taken over."""
    old = _older(config.output_dir)
    tasks = []
    for name, digest in ids.items():
        target = work / suffixes_name(name)
        if target.exists() or (old is not None and _taken_over(old, name, digest, target)):
            continue
        tasks.append(Task(tokens.path / name, tokens.config["dtype"], target))
    with log.progress("attribution", len(tasks), "files") as bar:
        for _ in Engine(config.engine).map(_write_suffixes, tasks, processes=False):
            bar.advance()


def _older(path: Path) -> Artifact | None:
    try:
        return artifacts.load(path, kind=KIND)
    except ArtifactError:
        return None


def _taken_over(old: Artifact, name: str, digest: str, target: Path) -> bool:
    if old.config["ids"].get(name) != digest:
        return False
    try:
        artifacts.check(old, [suffixes_name(name)])
    except DigestMismatch:
        return False
    _write(target, partial(shutil.copyfile, old.path / suffixes_name(name)))
    return True


def _write_suffixes(task: Task) -> None:
    suffixes = suffix_array(np.fromfile(task.ids, task.dtype))
    _write(task.suffixes, suffixes.tofile)


def _write(path: Path, write: Any) -> None:
    """Write a file of a workspace under another name first, so that a kill leaves none that is cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partly = hidden(path, "partial")
    write(partly)
    partly.rename(path)


def _seal(
    output_dir: Path, tokens: Artifact, dataset: Artifact, config: dict[str, Any], inputs: Sequence[Any], work: Path
) -> None:
    is_private = readers_of(config) is not None
    with artifacts.create(output_dir, kind=KIND, config=config, inputs=inputs, is_private=is_private) as draft:
        for name in map(suffixes_name, config["ids"]):
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).rename(draft.path / name)
        documents = _documents(tokens, dataset)
        pq.write_table(documents, draft.path / DOCUMENTS_FILE)
        num_tokens = sum((draft.path / suffixes_name(name)).stat().st_size // 4 for name in config["ids"])
        draft.counts |= {"documents": len(documents), "tokens": num_tokens}


def _documents(tokens: Artifact, dataset: Artifact) -> pa.Table:
    """Return start, tokens and hash of each training document, in order, and the facts of it.

    Raises:
        ConfigError: the dataset lacks one.
    """
    artifacts.check(tokens, [DOCUMENTS_FILE])
    documents = pq.read_table(tokens.path / DOCUMENTS_FILE)
    documents = documents.filter(pc.equal(documents["split"], "train"))
    facts = pa.concat_tables(
        pq.read_table(path, columns=["sha256", *FACTS]) for path in shards.checked_shards(dataset)
    ).combine_chunks()
    rows = pc.index_in(documents["sha256"], facts["sha256"])
    if rows.null_count:
        raise ConfigError(f"{dataset.path}: it lacks {counted(rows.null_count, 'document')} of {tokens.path}")
    for name in FACTS:
        documents = documents.append_column(name, facts[name].take(rows))
    return documents


def _summary(index: Artifact) -> str:
    num_bytes = sum(file.bytes for file in index.files.values())
    tokens = index.counts["tokens"]
    return (
        f"{index.path}: {counted(index.counts['documents'], 'document')}, {tokens:,} tokens, {size(num_bytes)}, "
        f"{num_bytes / max(tokens, 1):.1f} bytes a token"
    )
