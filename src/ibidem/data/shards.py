"""Parquet shards: the corpus on disk, one row per document.

A shard contains what was kept of `shard_size` consecutive positions of a source, so its bounds depend only on the
source: dropping documents, now or later, does not change any other shard. The sketches of its documents are stored
beside each shard; with them, near duplicates are found without the text.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ibidem import artifacts, jsonl, workfiles
from ibidem.conversation import to_rows
from ibidem.data.licenses.spdx import serialize
from ibidem.errors import DataError
from ibidem.files import Engine
from ibidem.places import StorePath, source
from ibidem.readers import check_reader
from ibidem.records import Document, Unreadable

AnyPath = TypeVar("AnyPath", Path, PurePosixPath)
Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)

KIND = "dataset"
REMOVALS = "removals.jsonl"
SHARDS = "shard-*.parquet"
SKETCHES = "sketch-*.npy"
DROPPED = "dropped-*.parquet"
QUARANTINE = "quarantine-*.jsonl"
REMOVED = "removed-*.npy"
"""Names of the files of a shard; each has its number in the place of the star, and none is empty."""

_CODE_BLOCK = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("language", pa.string())])
_PART = pa.struct([("kind", pa.string()), ("text", pa.large_string())])
_TURN = pa.struct([("role", pa.string()), ("parts", pa.list_(_PART))])
SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("messages", pa.list_(_TURN)),
        ("rejected", pa.list_(_PART)),
        ("margin", pa.float64()),
        ("num_code_blocks", pa.int32()),
        ("code_blocks", pa.list_(_CODE_BLOCK)),
        ("num_chars", pa.int64()),
        ("license", pa.string()),
        ("license_raw", pa.string()),
        ("license_evidence", pa.string()),
        ("source", pa.string()),
        ("revision", pa.string()),
        ("record", pa.string()),
        ("position", pa.int64()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("url", pa.string()),
        ("category", pa.string()),
        ("language", pa.string()),
        ("natural_language", pa.string()),
        ("raw_sha256", pa.string()),
        ("sha256", pa.string()),
        ("swhid", pa.string()),
        ("scrubbed", pa.map_(pa.string(), pa.int32())),
        ("cluster", pa.string()),
    ]
)
CONTENT = ("text", "messages", "rejected")
"""Columns that are streamed, since a shard may have more of them than fits into memory."""
FACTS = tuple(name for name in SCHEMA.names if name not in CONTENT)
OF_CONVERSATIONS = ("messages", "rejected", "margin")
"""Columns that a dataset without conversations may lack; they are read as null."""
DROPPED_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("source", pa.string()),
        ("record", pa.string()),
        ("position", pa.int64()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("url", pa.string()),
        ("raw_sha256", pa.string()),
        ("sha256", pa.string()),
        ("swhid", pa.string()),
        ("cluster", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("kept", pa.string()),
        ("similarity", pa.float64()),
    ]
)

BATCH_ROWS = 256
_DERIVED = (
    "text", "messages", "rejected", "license_raw", "num_code_blocks", "code_blocks", "num_chars", "scrubbed", "cluster",
)  # fmt: skip
_PLAIN = tuple(name for name in SCHEMA.names if name not in _DERIVED)
_REPETITIVE = [
    "license",
    "license_raw",
    "license_evidence",
    "source",
    "revision",
    "repo",
    "category",
    "language",
    "natural_language",
    "messages.list.element.role",
    "messages.list.element.parts.list.element.kind",
]


def as_batch(documents: Sequence[Document]) -> pa.RecordBatch:
    """Convert documents to rows of SCHEMA."""
    values: dict[str, Any] = dict(zip(_PLAIN, zip(*map(attrgetter(*_PLAIN), documents), strict=True), strict=True))
    values["num_code_blocks"] = [len(document.code_blocks) for document in documents]
    values["code_blocks"] = [
        [dict(zip(("start", "end", "language"), block, strict=True)) for block in document.code_blocks]
        for document in documents
    ]
    texts = [document.encoded for document in documents]
    bounds = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    buffers = pa.py_buffer(bounds), pa.py_buffer(b"".join(texts))
    values["license_raw"] = [serialize(document.license_raw) for document in documents]
    values["text"] = pa.LargeStringArray.from_buffers(len(documents), *buffers)
    values["num_chars"] = [  # most texts are ASCII, whose bytes need no counting
        len(text) if text.isascii() else len(document.text) for text, document in zip(texts, documents, strict=True)
    ]
    values["scrubbed"] = [sorted(document.scrubbed.items()) for document in documents]
    values["cluster"] = [None] * len(documents)
    values |= _conversations(documents)
    return pa.RecordBatch.from_arrays([pa.array(values[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _conversations(documents: Sequence[Document]) -> dict[str, Any]:
    if all(document.messages is None for document in documents):
        return {name: pa.nulls(len(documents), SCHEMA.field(name).type) for name in OF_CONVERSATIONS}
    messages = [None if document.messages is None else to_rows(document.messages) for document in documents]
    rejected = [
        None if document.rejected is None else [part._asdict() for part in document.rejected] for document in documents
    ]
    return {"messages": messages, "rejected": rejected}


def dropped_row(document: Document, dataset: str) -> dict[str, Any]:
    """Describe a dropped document, without its text."""
    assert document.drop is not None
    row = {name: getattr(document, name) for name in ("source", "record", "position", "repo", "path", "url")}
    hashes = {name: getattr(document, name) for name in ("raw_sha256", "sha256", "swhid")}
    return {"dataset": dataset, **row, **hashes, **vars(document.drop)}


def write_shard(path: Path, facts: pa.Table, contents: Iterable[pa.RecordBatch]) -> None:
    """Write the rows of a shard, BATCH_ROWS per row group; no file if there are no rows.

    The bytes depend only on the rows, not on how their contents are batched.

    Args:
        path: file of the shard.
        facts: the columns FACTS.
        contents: the columns CONTENT of the same rows, in batches.
    """
    columns = [facts[name].combine_chunks() for name in FACTS]
    first, writer = 0, None
    with ExitStack() as stack:
        for batch in rebatched(contents):
            writer = writer or stack.enter_context(
                pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=_REPETITIVE)
            )
            facts_of_batch = [column.slice(first, len(batch)) for column in columns]
            rows = pa.RecordBatch.from_arrays([*batch.columns, *facts_of_batch], names=[*CONTENT, *FACTS])
            writer.write_batch(rows.select(SCHEMA.names))
            first += len(batch)


def write_dropped(path: Path, rows: pa.Table) -> None:
    """Write the dropped documents of a shard, in one row group."""
    with pq.ParquetWriter(path, DROPPED_SCHEMA, compression="zstd") as writer:
        writer.write_table(rows.combine_chunks(), row_group_size=max(1, len(rows)))


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a shard, or of rows in an Arrow file, in batches; OF_CONVERSATIONS may be absent."""
    if path.suffix == ".parquet":
        with source(path) as name, pq.ParquetFile(name) as file:
            present = _without_absent(columns, file.schema_arrow.names)
            for batch in file.iter_batches(BATCH_ROWS, columns=present):
                yield _with_absent(batch, columns)
        return
    with workfiles.fetched(path) as local, pa.OSFile(str(local)) as rows:
        names = pa.ipc.open_file(rows).schema.names
        options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in _without_absent(columns, names)])
        with pa.ipc.open_file(rows, options=options) as reader:
            for number in range(reader.num_record_batches):
                yield _with_absent(reader.get_batch(number), columns)


def read_shard(path: Path) -> pa.Table:
    """Read a whole shard as SCHEMA; OF_CONVERSATIONS may be absent."""
    with source(path) as name:
        return _with_absent(pq.read_table(name), SCHEMA.names).cast(SCHEMA)


def num_rows(path: Path) -> int:
    """Return the number of rows of a shard."""
    with source(path) as name:
        return int(pq.read_metadata(name).num_rows)


def _without_absent(columns: Iterable[str], present: Collection[str]) -> list[str]:
    return [name for name in columns if name in present or name not in OF_CONVERSATIONS]


def _with_absent(rows: Rows, columns: Sequence[str]) -> Rows:
    for name in columns:
        if name in OF_CONVERSATIONS and name not in rows.schema.names:
            rows = rows.append_column(SCHEMA.field(name), pa.nulls(len(rows), SCHEMA.field(name).type))
    return rows.select(columns)


def read_texts(path: Path, rows: NDArray[np.int64]) -> Iterator[pa.LargeStringArray]:
    """Read the texts of the given rows (ascending) in batches; row groups without any of them are skipped."""
    if path.suffix == ".parquet":
        with source(path) as name, pq.ParquetFile(name) as file:
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            for number, inside in _parted(rows, groups):
                texts = file.read_row_group(number, ["text"], use_threads=False)["text"].combine_chunks()
                yield texts.take(pa.array(inside))
        return
    with workfiles.fetched(path) as local, pa.memory_map(str(local)) as mapped, pa.ipc.open_file(mapped) as reader:
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for number, inside in _parted(rows, list(map(len, batches))):
            yield batches[number]["text"].take(pa.array(inside))


def _parted(rows: NDArray[np.int64], sizes: Sequence[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Split ascending rows among batches of these sizes; yield (batch, rows in it) for batches with any."""
    bounds = np.cumsum([0, *sizes])
    for number, (start, end) in enumerate(pairwise(np.searchsorted(rows, bounds).tolist())):
        if end > start:
            yield number, rows[start:end] - bounds[number]


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow file, whole or not at all."""
    with workfiles.written(path) as partial, pa.ipc.new_file(partial, table.schema) as file:
        file.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Read an Arrow file."""
    with workfiles.fetched(path) as local, pa.OSFile(str(local)) as file, pa.ipc.open_file(file) as reader:
        return reader.read_all()


def read_facts(path: Path) -> pa.Table:
    """Read the columns FACTS of a shard, or of rows in an Arrow file."""
    schema = pa.schema([SCHEMA.field(name) for name in FACTS])
    return pa.Table.from_batches(read_batches(path, FACTS), schema).combine_chunks()


def read_column(path: Path, name: str) -> pa.ChunkedArray:
    """Read one string column of a shard, or of rows in an Arrow file."""
    return pa.chunked_array([batch[name] for batch in read_batches(path, [name])], pa.string())


def rebatched(contents: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Split batches into batches of BATCH_ROWS rows."""
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in contents:
        start = 0
        while count + len(batch) - start >= BATCH_ROWS:
            end = start + BATCH_ROWS - count
            yield pa.concat_batches([*pending, batch.slice(start, end - start)])
            pending, count, start = [], 0, end
        pending.append(batch.slice(start))
        count += len(batch) - start
    if count:
        yield pa.concat_batches(pending)


def beside(shard: AnyPath, name: str) -> AnyPath:
    """Return the path of another file of a shard.

    >>> beside(Path("d/train/shard-00001.parquet"), DROPPED).as_posix()
    'd/train/dropped-00001.parquet'
    """
    return shard.with_name(name.replace("*", shard.stem.rpartition("-")[2]))


def write_quarantine(path: Path, unreadable: Iterable[Unreadable]) -> None:
    """Write one JSON line for each input that could not be read."""
    path.write_text(jsonl.dumps(map(asdict, unreadable)), encoding="utf-8")


def write_tombstones(draft: artifacts.Draft, tombstones: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON line for each honored removal request; no file if there are none."""
    if tombstones:
        (draft.path / REMOVALS).write_text(jsonl.dumps(tombstones, sort_keys=True), encoding="utf-8")
        draft.rows[REMOVALS] = len(tombstones)


def read_tombstones(dataset: artifacts.Artifact) -> list[dict[str, Any]]:
    """Read the removal requests that a dataset honors, as written by `write_tombstones`."""
    if REMOVALS not in dataset.files:
        return []
    return jsonl.loads((dataset.path / REMOVALS).read_text(encoding="utf-8"))


def shard_paths(folder: Path) -> list[Path]:
    """List the shards of a dataset in reading order; empty if no document was kept."""
    return sorted(path for path in folder.rglob(SHARDS) if path.is_file())


def checked_shards(dataset: artifacts.Artifact) -> list[Path]:
    """List the shards that the manifest of a dataset names, in reading order.

    Raises:
        DigestMismatch: one is missing or damaged.
    """
    names = shard_names(dataset)
    artifacts.check(dataset, names)
    return sorted(dataset.path / name for name in names)


def shard_names(dataset: artifacts.Artifact) -> list[str]:
    """List the shards that the manifest of a dataset names, sorted; whether they exist is not looked at."""
    return names_of(dataset, SHARDS)


def is_of_earlier_layout(dataset: artifacts.Artifact) -> bool:
    """Return whether an earlier version made a dataset, which listed all dropped documents in one file."""
    return _without_number(DROPPED) in dataset.files


def names_of(dataset: artifacts.Artifact, pattern: str) -> list[str]:
    """List the files of shards that the manifest of a dataset names, sorted; whether they exist is not looked at.

    Args:
        dataset: the dataset.
        pattern: which files of a shard. Earlier versions wrote some of them once for the dataset, without a number.
    """
    whole = _without_number(pattern)
    return sorted(name for name in dataset.files if name == whole or PurePosixPath(name).match(pattern))


def _without_number(pattern: str) -> str:
    return pattern.replace("-*", "")


def read_dropped(dataset: artifacts.Artifact, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Check and read the dropped documents of a dataset, those of one shard at a time.

    Raises:
        DigestMismatch: a file is missing or damaged.
    """
    names = names_of(dataset, DROPPED)
    artifacts.check(dataset, names)
    for name in names:
        with source(dataset.path / name) as opened, pq.ParquetFile(opened) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns)


def read_quarantine(dataset: artifacts.Artifact) -> Iterator[Unreadable]:
    """Check and read the list of inputs that could not be read, that of one shard at a time.

    Raises:
        DigestMismatch: a file is missing or damaged.
    """
    names = names_of(dataset, QUARANTINE)
    artifacts.check(dataset, names)
    for name in names:
        for row in jsonl.loads((dataset.path / name).read_text(encoding="utf-8")):
            yield Unreadable(**row)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, read in batches; OF_CONVERSATIONS may be absent.

    Raises:
        DataError: it is not Parquet, or a column is missing.
    """
    try:
        with source(path) as name, pq.ParquetFile(name) as file:
            names = file.schema_arrow.names
            wanted = _without_absent(columns, names)
            if missing := sorted(set(wanted) - set(names)):
                raise DataError(f"{path}: no column {missing[0]!r} (columns: {', '.join(names)})")
            for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
                yield from _with_absent(batch, columns).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def is_held_out(sha256: str, share: float) -> bool:
    """Check whether a document is held out from training; depends only on its hash, not on the rest of the corpus.

    >>> is_held_out("00" * 32, 0.01), is_held_out("ff" * 32, 0.01)
    (True, False)
    """
    return place_of(sha256) < share


def place_of(sha256: str) -> float:
    """Return the place of a document between 0 and 1 that its hash gives it: those below a share are held out."""
    return int(sha256[:8], 16) / 16**8


def load_dataset(folder: Path, engine: Engine | None = None) -> artifacts.Artifact:
    """Load a preprocessed dataset after checking every file against the manifest.

    Of one at a store, files that have not changed since they were sent are not read. Others are read by tasks of the
    engine, or here.

    Raises:
        AccessDenied: a model that was tuned on documents wrote some of it, and the user is not among their readers.
    """
    if isinstance(folder, StorePath):
        dataset = artifacts.load(folder, kind=KIND)
        artifacts.check(dataset)
    else:
        dataset = artifacts.verify(folder, kind=KIND, engine=engine)
    check_reader(dataset)
    return dataset
