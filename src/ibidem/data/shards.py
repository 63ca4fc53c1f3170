"""Parquet shards: the corpus on disk, a row a document.

A shard holds what survived of `shard_size` consecutive positions of a source, so that its borders depend on the source
alone: whatever is dropped, now or later, leaves every other shard as it was. Beside each shard stands the sketch of its
documents, by which near duplicates are found without the text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ibidem import artifacts, jsonl
from ibidem.data.licenses.spdx import serialize
from ibidem.errors import DataError
from ibidem.records import Document, Unreadable

KIND = "dataset"
DROPPED = "dropped.parquet"
QUARANTINE = "quarantine.jsonl"
REMOVALS = "removals.jsonl"
REMOVED = "removed.npy"

_CODE_BLOCK = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("language", pa.string())])
SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
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
FACTS = tuple(name for name in SCHEMA.names if name != "text")
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
_DERIVED = ("text", "license_raw", "num_code_blocks", "code_blocks", "num_chars", "scrubbed", "cluster")
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
]


def as_batch(documents: Sequence[Document]) -> pa.RecordBatch:
    """Turn documents into rows of SCHEMA."""
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
    values["num_chars"] = [  # faster than to count in UTF-8 what most often is ASCII
        len(text) if text.isascii() else len(document.text) for text, document in zip(texts, documents, strict=True)
    ]
    values["scrubbed"] = [sorted(document.scrubbed.items()) for document in documents]
    values["cluster"] = [None] * len(documents)
    return pa.RecordBatch.from_arrays([pa.array(values[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def dropped_row(document: Document, dataset: str) -> dict[str, Any]:
    """Describe a dropped document, without its text."""
    assert document.drop is not None
    row = {name: getattr(document, name) for name in ("source", "record", "position", "repo", "path", "url")}
    hashes = {name: getattr(document, name) for name in ("raw_sha256", "sha256", "swhid")}
    return {"dataset": dataset, **row, **hashes, **vars(document.drop)}


def write_shard(path: Path, facts: pa.Table, texts: Iterable[pa.LargeStringArray]) -> None:
    """Write the rows of a shard, BATCH_ROWS to a row group, and no file for no rows.

    The bytes depend on the rows alone, not on how the texts come.

    Args:
        path: of the shard.
        facts: every column of SCHEMA but the text.
        texts: of the same rows, some at a time.
    """
    columns = [facts[name].combine_chunks() for name in FACTS]
    first, writer = 0, None
    with ExitStack() as stack:
        for some in _rebatched(texts):
            writer = writer or stack.enter_context(
                pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=_REPETITIVE)
            )
            beside = [column.slice(first, len(some)) for column in columns]
            rows = pa.RecordBatch.from_arrays([some, *beside], names=["text", *FACTS])
            writer.write_batch(rows.select(SCHEMA.names))
            first += len(some)


def write_dropped(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write the rows of dropped documents, a row group for each table that holds any; give their number."""
    count = 0
    with pq.ParquetWriter(path, DROPPED_SCHEMA, compression="zstd") as writer:
        for table in tables:
            if len(table):
                writer.write_table(table.combine_chunks(), row_group_size=len(table))
                count += len(table)
    return count


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a shard, or of rows in an Arrow file, a batch at a time."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield batch.select(columns)
        return
    with pa.OSFile(str(path)) as source:
        names = pa.ipc.open_file(source).schema.names
        options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
        with pa.ipc.open_file(source, options=options) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number).select(columns)


def read_texts(path: Path, rows: NDArray[np.int64]) -> Iterator[pa.LargeStringArray]:
    """Read the texts of some rows, ascending, some at a time; what holds none of them is not read."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            for number, inside in _parted(rows, groups):
                texts = file.read_row_group(number, ["text"], use_threads=False)["text"].combine_chunks()
                yield texts.take(pa.array(inside))
        return
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for number, inside in _parted(rows, list(map(len, batches))):
            yield batches[number]["text"].take(pa.array(inside))


def _parted(rows: NDArray[np.int64], sizes: Sequence[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Part ascending rows among batches of these sizes, as (batch, rows in it), where it has any."""
    bounds = np.cumsum([0, *sizes])
    for number, (start, end) in enumerate(pairwise(np.searchsorted(rows, bounds).tolist())):
        if end > start:
            yield number, rows[start:end] - bounds[number]


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow file."""
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Read an Arrow file."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        return reader.read_all()


def read_facts(path: Path) -> pa.Table:
    """Read what is known of the texts of a shard, or of rows in an Arrow file: every column but the text."""
    schema = pa.schema([SCHEMA.field(name) for name in FACTS])
    return pa.Table.from_batches(read_batches(path, FACTS), schema).combine_chunks()


def read_column(path: Path, name: str) -> pa.ChunkedArray:
    """Read one column of a shard, or of rows in an Arrow file, that holds strings."""
    return pa.chunked_array([batch[name] for batch in read_batches(path, [name])], pa.string())


def _rebatched(texts: Iterable[pa.LargeStringArray]) -> Iterator[pa.LargeStringArray]:
    """Cut arrays anew, each of BATCH_ROWS texts."""
    pending: list[pa.LargeStringArray] = []
    count = 0
    for some in texts:
        start = 0
        while count + len(some) - start >= BATCH_ROWS:
            end = start + BATCH_ROWS - count
            yield pa.concat_arrays([*pending, some.slice(start, end - start)])
            pending, count, start = [], 0, end
        pending.append(some.slice(start))
        count += len(some) - start
    if count:
        yield pa.concat_arrays(pending)


def sketch_path(shard: Path) -> Path:
    """Name the file of a shard's sketches.

    >>> sketch_path(Path("d/train/shard-00001.parquet")).name
    'sketch-00001.npy'
    """
    return shard.with_name(shard.name.replace("shard-", "sketch-")).with_suffix(".npy")


def write_quarantine(path: Path, unreadable: Iterable[Unreadable]) -> None:
    """Write one JSON line for each input that could not be read."""
    path.write_text(jsonl.dumps(map(asdict, unreadable)), encoding="utf-8")


def write_tombstones(draft: artifacts.Draft, tombstones: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON line for each request for removal that was honored; nothing where there is none."""
    if tombstones:
        (draft.path / REMOVALS).write_text(jsonl.dumps(tombstones, sort_keys=True), encoding="utf-8")
        draft.rows[REMOVALS] = len(tombstones)


def read_tombstones(dataset: artifacts.Artifact) -> list[dict[str, Any]]:
    """Read the requests for removal that a dataset honors, as `write_tombstones` wrote them."""
    if REMOVALS not in dataset.files:
        return []
    return jsonl.loads((dataset.path / REMOVALS).read_text(encoding="utf-8"))


def shard_paths(folder: Path) -> list[Path]:
    """List the shards of a dataset in reading order; none where no document was kept."""
    return sorted(path for path in folder.rglob("shard-*.parquet") if path.is_file())


def checked_shards(dataset: artifacts.Artifact) -> list[Path]:
    """List the shards that the manifest of a dataset names, in reading order.

    Raises:
        DigestMismatch: one is missing or damaged.
    """
    names = [name for name in dataset.files if PurePosixPath(name).match("shard-*.parquet")]
    artifacts.check(dataset, names)
    return sorted(dataset.path / name for name in names)


def read_dropped(dataset: artifacts.Artifact, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read what a dataset dropped, the rows of one shard at a time."""
    with pq.ParquetFile(dataset.path / DROPPED) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns)


def read_quarantine(dataset: artifacts.Artifact) -> list[Unreadable]:
    """Read what could not be read into a dataset."""
    rows = jsonl.loads((dataset.path / QUARANTINE).read_text(encoding="utf-8"))
    return [Unreadable(**row) for row in rows]


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read a Parquet file row by row, a batch at a time.

    Raises:
        DataError: it is not Parquet, or a column is missing.
    """
    try:
        with pq.ParquetFile(path) as file:
            if missing := sorted(set(columns) - set(file.schema_arrow.names)):
                present = ", ".join(file.schema_arrow.names)
                raise DataError(f"{path}: no column {missing[0]!r} (columns: {present})")
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def is_held_out(sha256: str, share: float) -> bool:
    """Decide by its hash whether a document is kept from training; the same everywhere, whatever else is in the corpus.

    >>> is_held_out("00" * 32, 0.01), is_held_out("ff" * 32, 0.01)
    (True, False)
    """
    return int(sha256[:8], 16) < share * 16**8


def load_dataset(folder: Path) -> artifacts.Artifact:
    """Load a preprocessed dataset, every shard checked against the manifest."""
    return artifacts.verify(folder, kind=KIND)
