"""The tokens of one shard of a dataset: the ids of its documents by split, and the place of each document.

    <dataset>/<split>/shard-00000.parquet                      a shard of the dataset
    <dataset>/<split>/shard-00000/train.bin                    <document> a a a a <document> b b <document> c c ...
    <dataset>/<split>/shard-00000/validation.bin               the same for its held-out documents
    <dataset>/<split>/shard-00000/documents.parquet            where each document is in these
    <dataset>/<split>/shard-00000/counts.json                  what was counted; only while a run is at work

A shard is tokenized by one worker, which has a few documents in memory and nothing of those before. Its folder appears
as a whole, so whatever is there is finished, and workers that make the same one do not disturb each other.
"""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ibidem import artifacts
from ibidem.conversation import from_rows
from ibidem.data import shards
from ibidem.errors import DataError
from ibidem.files import flush, sha256_of, stamp
from ibidem.records import DOCUMENTS_FILE, IDS_FILES
from ibidem.tokenization.chat import ChatTemplate, joined
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.tokens import SPLITS, dtype_of

COUNTS_FILE = "counts.json"
FILES = (*IDS_FILES.values(), DOCUMENTS_FILE)
PLACES = pa.schema([("sha256", pa.string()), ("split", pa.string()), ("start", pa.int64()), ("tokens", pa.int64())])
ENCODE_AT_ONCE = 1 << 22
"""Bytes of text whose ids are in memory as Python integers, at most, unless one document has more."""
PLACES_AT_ONCE = 1 << 16
"""Documents in a row group of their places."""
COLUMNS = ("text", "messages", "sha256")


class Job(NamedTuple):
    """What the shards of a dataset have in common."""

    dataset: Path
    tokenizer: Path
    tokenizer_digest: str
    folder: Path
    """Where finished shards are."""
    held_out_share: float
    threads: int
    """Of one worker."""


class ShardTokens(NamedTuple):
    """A shard of a dataset, and what was counted in its tokens."""

    shard: str
    """Name of the dataset's file."""
    sha256: str
    """Digest of the dataset's file."""
    documents: int
    tokens: Mapping[str, int]
    """By split."""
    bytes: Mapping[str, int]
    """UTF-8 bytes of the texts, by split."""


def folder_of(shard: str) -> str:
    """Return the folder of a shard's tokens.

    >>> folder_of("python/train/shard-00001.parquet")
    'python/train/shard-00001'
    """
    return shard.removesuffix(".parquet")


def tokenize_shard(job: Job, shard: tuple[str, str]) -> int:
    """Tokenize a shard, unless it is finished; return the number of its documents.

    Args:
        job: what all shards have in common.
        shard: its name, and the digest that the manifest of the dataset has of it.

    Raises:
        DataError: shard or tokenizer are not those of the manifests, or the shard changes while it is read.
    """
    name, sha256 = shard
    folder = job.folder / folder_of(name)
    if not folder.exists():
        tokenizer = _tokenizer(job.tokenizer, job.tokenizer_digest)
        with artifacts.make_folder(folder) as partial:
            counts = _tokenized(job, name, sha256, tokenizer, partial)
            write_counts(partial, counts)
            for file in (*FILES, COUNTS_FILE):
                flush(partial / file)
    return read_counts(folder).documents


def write_counts(folder: Path, counts: ShardTokens) -> None:
    """Write what was counted in a shard."""
    (folder / COUNTS_FILE).write_text(json.dumps(counts._asdict()), encoding="utf-8")


def read_counts(folder: Path) -> ShardTokens:
    """Read what was counted in a finished shard."""
    return ShardTokens(**json.loads((folder / COUNTS_FILE).read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, digest: str) -> Tokenizer:
    tokenizer = Tokenizer.load(folder)
    if tokenizer.digest != digest:
        raise DataError(f"{folder}: the tokenizer was replaced while the dataset is tokenized; run the command again")
    return tokenizer


def _tokenized(job: Job, name: str, sha256: str, tokenizer: Tokenizer, folder: Path) -> ShardTokens:
    path = job.dataset / name
    before = stamp(path.stat()) if path.exists() else None
    if before is None or sha256_of(path) != sha256:
        what = "missing" if before is None else "not what the manifest says"
        raise DataError(f"{path}: {what}; ibidem verify {job.dataset} names what is damaged, then make it again")
    with _Writer(folder, tokenizer, job.held_out_share) as writer:
        for batch in shards.read_batches(path, COLUMNS):
            for part in _parts(batch):
                writer.add(part["sha256"], _encoded(part, tokenizer, job.threads))
    if not path.exists() or stamp(path.stat()) != before:
        raise DataError(f"{path}: changed while it was tokenized; run the command again when nothing writes to it")
    return ShardTokens(name, sha256, writer.documents, writer.tokens, writer.bytes)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch, so that the ids of few texts are in memory at once."""
    ends = np.cumsum(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False))
    edges = np.flatnonzero(np.diff(ends // ENCODE_AT_ONCE)) + 1
    for start, end in pairwise([0, *edges.tolist(), len(batch)]):
        yield batch.slice(start, end - start)


class _Encoded:
    """A tokenizer that has encoded some texts already, all at once."""

    def __init__(self, tokenizer: Tokenizer, ids_of: Mapping[str, list[int]]) -> None:
        self.document_id, self.end_ids = tokenizer.document_id, tokenizer.end_ids
        self.id_of, self.decode = tokenizer.id_of, tokenizer.decode
        self._ids_of = ids_of

    def encode(self, text: str) -> list[int]:
        return self._ids_of[text]

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self)


def _encoded(batch: pa.RecordBatch, tokenizer: Tokenizer, threads: int) -> Sequence[list[int]]:
    """Return the ids of each document, without the document token; the chat template renders conversations."""
    texts = batch["text"].to_pylist()
    if batch["messages"].null_count == len(batch):
        return tokenizer.encode_batch(texts, threads=threads)
    conversations = [None if rows is None else from_rows(rows) for rows in batch["messages"].to_pylist()]
    parts = [text for text, turns in zip(texts, conversations, strict=True) if turns is None]
    parts += [part.text for turns in conversations for turn in turns or () for part in joined(turn.parts)]
    codec = _Encoded(tokenizer, dict(zip(parts, tokenizer.encode_batch(parts, threads=threads), strict=True)))
    return [
        codec.encode(text) if turns is None else list(codec.template.render(turns).ids[1:])
        for text, turns in zip(texts, conversations, strict=True)
    ]


class _Writer:
    """Writes the ids of documents, and their places in batches."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, held_out_share: float) -> None:
        self._document_id, self._bytes_of_V = tokenizer.document_id, tokenizer.bytes_of_V
        self._dtype, self._share = dtype_of(tokenizer.vocab_size), held_out_share
        self.tokens, self.bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
        self.documents = 0
        self._pending: list[pa.RecordBatch] = []
        self._stack = ExitStack()
        self._files = [self._stack.enter_context((folder / IDS_FILES[split]).open("wb")) for split in SPLITS]
        self._places = self._stack.enter_context(pq.ParquetWriter(folder / DOCUMENTS_FILE, PLACES, compression="zstd"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            if kind is None:
                self._write_places()

    def add(self, sha256s: pa.Array, encoded: Sequence[list[int]]) -> None:
        """Append documents to their splits."""
        is_held_out = np.array([shards.is_held_out(each, self._share) for each in sha256s.to_pylist()], dtype=bool)
        sizes = np.array([1 + len(ids) for ids in encoded], dtype=np.int64)
        starts = np.zeros_like(sizes)
        for split, file, chosen in zip(SPLITS, self._files, (~is_held_out, is_held_out), strict=True):
            starts[chosen] = self.tokens[split] + np.cumsum(sizes[chosen]) - sizes[chosen]
            row = self._row([encoded[place] for place in np.flatnonzero(chosen).tolist()])
            row.tofile(file)
            self.tokens[split] += len(row)
            self.bytes[split] += int(self._bytes_of_V[row].sum(dtype=np.int64))
        splits = pa.array(np.array(SPLITS)[is_held_out.astype(np.int64)])
        self._pending.append(pa.record_batch([sha256s, splits, pa.array(starts), pa.array(sizes)], schema=PLACES))
        self.documents += len(sizes)
        if sum(map(len, self._pending)) >= PLACES_AT_ONCE:
            self._write_places()

    def _row(self, encoded: Sequence[list[int]]) -> NDArray[Any]:
        row = array("I")  # the fastest way from a list of integers to memory
        for ids in encoded:
            row.append(self._document_id)
            row.fromlist(ids)
        return np.asarray(row).astype(self._dtype)

    def _write_places(self) -> None:
        if self._pending:
            self._places.write_table(pa.Table.from_batches(self._pending).combine_chunks())
        self._pending = []
