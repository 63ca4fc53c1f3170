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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ibidem import artifacts
from ibidem.conversation import from_rows
from ibidem.data import shards
from ibidem.errors import DataError
from ibidem.files import flush, stamp
from ibidem.places import here
from ibidem.records import DOCUMENTS_FILE, IDS_FILES
from ibidem.tokenization.chat import ChatTemplate, joined
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.tokens import SPLITS, dtype_of

COUNTS_FILE = "counts.json"
FILES = (*IDS_FILES.values(), DOCUMENTS_FILE)
GROUPS = ("category", "language")
"""What is known of a document, so that windows and figures can be told apart by it."""
PLACES = pa.schema(
    [
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("start", pa.int64()),
        ("tokens", pa.int64()),
        *((name, pa.string()) for name in GROUPS),
    ]
)
ENCODE_AT_ONCE = 1 << 22
"""Bytes of text whose ids are in memory at once, unless one document has more."""
PLACES_AT_ONCE = 1 << 16
"""Documents in a row group of their places."""
Ids = NDArray[np.int32]
COLUMNS = ("text", "messages", "sha256", *GROUPS)


class Job(NamedTuple):
    """What the shards of a dataset have in common."""

    dataset: Path
    tokenizer: Path
    folder: Path
    """Where finished shards are."""
    tokenizer_digest: str
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
    remedy = f"ibidem verify {job.dataset} names what is damaged, then make it again"
    if before is None:
        raise DataError(f"{path}: missing; {remedy}")
    with here(path) as (file, found), _Writer(folder, tokenizer, job.held_out_share) as writer:
        if found != sha256:
            raise DataError(f"{path}: not what the manifest says; {remedy}")
        for batch in shards.read_batches(file, COLUMNS):
            for part in _parts(batch):
                writer.add(part, _encoded(part, tokenizer, job.threads))
    if not path.exists() or stamp(path.stat()) != before:
        raise DataError(f"{path}: changed while it was tokenized; run the command again when nothing writes to it")
    return ShardTokens(name, sha256, writer.documents, writer.tokens, writer.bytes)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch, so that the ids of few texts are in memory at once."""
    ends = np.cumsum(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False))
    edges = np.flatnonzero(np.diff(ends // ENCODE_AT_ONCE)) + 1
    for start, end in pairwise([0, *edges.tolist(), len(batch)]):
        yield batch.slice(start, end - start)


def _encoded(batch: pa.RecordBatch, tokenizer: Tokenizer, threads: int) -> Iterator[tuple[Ids, int]]:
    """Yield the ids of each document, without the document token, and the bytes of its text, or of all its turns."""
    texts, sizes = batch["text"].to_pylist(), pc.binary_length(batch["text"]).to_pylist()
    if batch["messages"].null_count == len(batch):
        yield from zip(tokenizer.encode_arrays(texts, threads=threads), sizes, strict=True)
        return
    conversations = [None if rows is None else from_rows(rows) for rows in batch["messages"].to_pylist()]
    parts = [
        [text] if turns is None else [part.text for turn in turns for part in joined(turn.parts)]
        for text, turns in zip(texts, conversations, strict=True)
    ]
    codec = _Encoded(tokenizer, list(chain.from_iterable(parts)), threads)
    template = ChatTemplate(codec)
    for text, size, turns, spoken in zip(texts, sizes, conversations, parts, strict=True):
        if turns is None:
            yield np.array(codec.encode(text), np.int32), size
        else:
            ids = np.array(template.render(turns).ids[1:], np.int32)
            yield ids, sum(len(part.encode()) for part in spoken)


class _Encoded:
    """A tokenizer that has encoded some texts already, on several threads."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], threads: int) -> None:
        self.document_id, self.end_ids = tokenizer.document_id, tokenizer.end_ids
        self.id_of, self.decode = tokenizer.id_of, tokenizer.decode
        self._ids_of = dict(zip(texts, tokenizer.encode_batch(texts, threads=threads), strict=True))

    def encode(self, text: str) -> list[int]:
        return self._ids_of[text]


class _Writer:
    """Writes the ids of documents, and their places in batches."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, held_out_share: float) -> None:
        self._document, self._dtype = np.array([tokenizer.document_id], np.int32), dtype_of(tokenizer.vocab_size)
        self._share = held_out_share
        self.tokens, self.bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
        self.documents = 0
        self._pending: list[pa.RecordBatch] = []
        self._stack = ExitStack()
        self._files = {split: self._stack.enter_context((folder / IDS_FILES[split]).open("wb")) for split in SPLITS}
        self._places = self._stack.enter_context(pq.ParquetWriter(folder / DOCUMENTS_FILE, PLACES, compression="zstd"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            if kind is None:
                self._write_places()

    def add(self, documents: pa.RecordBatch, encoded: Iterable[tuple[Ids, int]]) -> None:
        """Append documents to their splits."""
        rows: dict[str, list[Ids]] = {split: [] for split in SPLITS}
        places = []
        for sha256, (ids, size) in zip(documents["sha256"].to_pylist(), encoded, strict=True):
            split = SPLITS[shards.is_held_out(sha256, self._share)]
            places.append((sha256, split, self.tokens[split], 1 + len(ids)))
            rows[split] += (self._document, ids)
            self.tokens[split] += 1 + len(ids)
            self.bytes[split] += size
        for split, row in rows.items():
            if row:
                np.concatenate(row, dtype=self._dtype, casting="unsafe").tofile(self._files[split])
        columns = [*zip(*places, strict=True), *(documents[name] for name in GROUPS)]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, PLACES, strict=True)]
        self._pending.append(pa.record_batch(arrays, schema=PLACES))
        self.documents += len(places)
        if sum(map(len, self._pending)) >= PLACES_AT_ONCE:
            self._write_places()

    def _write_places(self) -> None:
        if self._pending:
            self._places.write_table(pa.Table.from_batches(self._pending).combine_chunks())
        self._pending = []
