"""Parquet shards: the corpus on disk, a row a document.

A shard holds what survived of `shard_size` consecutive documents of a source, so that its borders depend on the source
alone: whatever is dropped, now or later, leaves every other shard as it was.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ibidem import artifacts
from ibidem.errors import DataError
from ibidem.records import Document, Unreadable

KIND = "dataset"
DROPPED = "dropped.parquet"
QUARANTINE = "quarantine.jsonl"

_CODE_BLOCK = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("language", pa.string())])
SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("num_code_blocks", pa.int32()),
        ("code_blocks", pa.list_(_CODE_BLOCK)),
        ("num_chars", pa.int64()),
        ("license", pa.string()),
        ("license_raw", pa.string()),
        ("source", pa.string()),
        ("revision", pa.string()),
        ("record", pa.string()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("category", pa.string()),
        ("language", pa.string()),
        ("raw_sha256", pa.string()),
        ("sha256", pa.string()),
        ("swhid", pa.string()),
        ("scrubbed", pa.map_(pa.string(), pa.int32())),
        ("cluster", pa.string()),
    ]
)
DROPPED_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("record", pa.string()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("kept", pa.string()),
        ("similarity", pa.float64()),
    ]
)


def write_shard(path: Path, documents: Sequence[Document]) -> None:
    """Write one shard; nothing is written for no documents."""
    if documents:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, [_row(document) for document in documents], SCHEMA)


def write_dropped(path: Path, documents: Sequence[Document]) -> None:
    """Write one row for each dropped document, without its text."""
    _write(path, [_dropped_row(document) for document in documents], DROPPED_SCHEMA)


def write_quarantine(path: Path, unreadable: Iterable[Unreadable]) -> None:
    """Write one JSON line for each input that could not be read."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for item in unreadable:
            row = {"file": item.file, "line": item.line, "reason": item.reason}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def shard_paths(folder: Path) -> list[Path]:
    """List the shards of a dataset in reading order.

    Raises:
        DataError: the folder holds none.
    """
    found = sorted(path for path in folder.rglob("shard-*.parquet") if path.is_file())
    if not found:
        raise DataError(f"{folder}: no shard-*.parquet below it; run ibidem preprocess first")
    return found


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
            for batch in file.iter_batches(batch_size=256, columns=list(columns)):
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


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, compression="zstd", compression_level=3)


def _row(document: Document) -> dict[str, Any]:
    blocks = [dict(zip(("start", "end", "language"), block, strict=True)) for block in document.code_blocks]
    return {
        "text": document.text,
        "num_code_blocks": len(blocks),
        "code_blocks": blocks,
        "num_chars": len(document.text),
        "license": document.license,
        "license_raw": document.license_raw,
        "source": document.source,
        "revision": document.revision,
        "record": document.record,
        "repo": document.repo,
        "path": document.path,
        "category": document.category,
        "language": document.language,
        "raw_sha256": document.raw_sha256,
        "sha256": document.sha256,
        "swhid": document.swhid,
        "scrubbed": [],
        "cluster": None,
    }


def _dropped_row(document: Document) -> dict[str, Any]:
    assert document.drop is not None
    return {
        "source": document.source,
        "record": document.record,
        "repo": document.repo,
        "path": document.path,
        "reason": document.drop.reason,
        "detail": document.drop.detail,
        "kept": document.drop.kept,
        "similarity": document.drop.similarity,
    }
