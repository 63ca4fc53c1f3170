"""Read the pieces of a source, row by row: a piece is one file, or one row group of a Parquet file.

A piece is self-contained, so any worker can read it. Every row has a position in its source, fixed before anything is
read; a row that cannot be read is reported with file, line and reason, and reading continues with the next one. Where
trees of replies become several documents, each of these has a position (see `with_trees`).
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from ibidem.data.sources import notebooks
from ibidem.data.sources.columns import Columns
from ibidem.data.sources.conversations import Trees
from ibidem.data.text import encodings, language
from ibidem.errors import DataError
from ibidem.places import StorePath, path_of, source
from ibidem.records import Document, Unreadable

Item = Document | Unreadable
DAMAGE = (OSError, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError, pa.ArrowException)
"""Exceptions raised by reading a damaged file."""
_ARROW_FILE = b"ARROW1"


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive positions of a source, read from one file or one part of it."""

    path: str
    name: str
    """The file as shown to users: relative to the source, printable."""
    first: int
    """Position of its first row in the source."""
    count: int
    """Number of positions; some may stay empty."""
    source: str
    revision: str | None = None
    column: str = "text"
    row_group: int | None = None
    row: int = 0
    """Number of rows of the file before this piece."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Document fields known for a file that is one document: `record`, `repo`, `license_raw`, ...; of a data file,
    `repo` and `revision` of the rows that name no repository."""
    license_stated: bool = False
    damage: str | None = None
    """Why no row of the file can be trusted, if so."""
    trees: Trees = "best_path"
    """What becomes of a row that is a tree of replies; unless it is the best path, positions count documents."""
    stamp: str | None = None
    """Of a file of a store: what it was when it was listed; another one is refused."""

    @property
    def file(self) -> Path:
        """The file, to be opened."""
        path = path_of(self.path)
        return path.pinned(self.stamp) if isinstance(path, StorePath) else path


def read(piece: Piece, start: int = 0) -> Iterator[tuple[int, Item]]:
    """Yield (position, document or unreadable input) from position `start` on."""
    suffix = suffix_of(piece.path)
    skip = max(0, start - piece.first)
    if piece.damage is not None:
        yield piece.first, Unreadable(piece.name, None, piece.damage)
        return
    if suffix is None:
        if not skip:
            yield piece.first, _read_source_file(piece)
        return
    items = READERS[suffix](piece, skip) if piece.trees == "best_path" else _by_document(READERS[suffix], piece, skip)
    for index, item in items:
        if isinstance(item, Document):
            item.license_stated = piece.license_stated
        yield piece.first + index, item


def with_trees(piece: Piece, trees: Trees) -> Piece:
    """Return a piece whose trees of replies become one document or several, with the number of its positions."""
    if trees == "best_path" or suffix_of(piece.path) is None:
        return piece
    piece = replace(piece, trees=trees)
    return replace(piece, count=sum(1 for _ in read(piece)))


def _by_document(reader: "Reader", piece: Piece, skip: int) -> Iterator[tuple[int, Item]]:
    return islice(enumerate(item for _, item in reader(piece, 0)), skip, None)


def suffix_of(name: str) -> str | None:
    """Return the suffix of a data file, None for any other file.

    >>> suffix_of("a/b.jsonl.gz"), suffix_of("a/b.py")
    ('.jsonl.gz', None)
    """
    return next((suffix for suffix in READERS if name.endswith(suffix)), None)


def lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a plain or compressed file, up to the first damage."""
    if path.suffix == ".zst":
        yield from _zstd_lines(path)
        return
    with path.open("rb") as file, gzip.open(file) if path.suffix == ".gz" else file as content:
        yield from content


def _read_source_file(piece: Piece) -> Item:
    try:
        raw = piece.file.read_bytes()
    except OSError as error:
        return Unreadable(piece.name, None, error.strerror or "cannot be read")
    if b"\0" in raw and not encodings.has_mark(raw):
        return Unreadable(piece.name, None, "binary: it holds a NUL byte")
    text = None
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        text = encodings.decoded(raw)
        if text is None or notebooks.is_notebook(piece.name):
            line = raw.count(b"\n", 0, error.start) + 1
            return Unreadable(piece.name, line, f"not UTF-8: {error.reason} at byte {error.start}")
    kind = language.by_name(piece.name) or language.by_shebang(raw[: language.SHEBANG_BYTES])
    if notebooks.is_notebook(piece.name):
        try:
            text, kind = notebooks.read(raw)
        except UnicodeEncodeError:
            return Unreadable(piece.name, None, "not valid Unicode: a lone surrogate")
        except ValueError as error:
            return Unreadable(piece.name, None, str(error)[:200])
    fields = {"record": piece.name, "revision": piece.revision, "path": piece.name, **piece.fields}
    document = Document(
        raw=raw,
        source=piece.source,
        language=kind,
        category=language.category(kind, piece.name),
        license_stated=piece.license_stated,
        **fields,
    )
    if text is not None:
        document.text = text
    return document


def _read_parquet(piece: Piece, skip: int) -> Iterator[tuple[int, Item]]:
    index = 0
    try:
        with source(piece.file) as name, pq.ParquetFile(name, pre_buffer=False, buffer_size=1 << 20) as file:
            columns = _columns(file.schema_arrow.names, piece)
            groups = None if piece.row_group is None else [piece.row_group]
            for batch in file.iter_batches(64, row_groups=groups, columns=columns.wanted, use_threads=False):
                yield from _batch(batch, index, skip, columns, piece)
                index += batch.num_rows
    except (*DAMAGE, DataError) as error:
        yield index, _broken(piece, index, error)


def _read_arrow(piece: Piece, skip: int) -> Iterator[tuple[int, Item]]:
    index = 0
    try:
        with open_arrow(piece.file) as (schema, batches):
            columns = _columns(schema.names, piece)
            for batch in batches:
                yield from _batch(batch.select(columns.wanted), index, skip, columns, piece)
                index += batch.num_rows
    except (*DAMAGE, DataError) as error:
        yield index, _broken(piece, index, error)


@contextmanager
def open_arrow(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Open an Arrow file, which begins with a magic number, or an Arrow stream, as saved by `datasets`."""
    with path.open("rb") as file:
        if file.read(len(_ARROW_FILE)) == _ARROW_FILE:
            reader = pa.ipc.open_file(file)
            yield reader.schema, map(reader.get_batch, range(reader.num_record_batches))
        else:
            file.seek(0)
            stream = pa.ipc.open_stream(file)
            yield stream.schema, iter(stream)


def _batch(batch: pa.RecordBatch, before: int, skip: int, columns: Columns, piece: Piece) -> Iterator[tuple[int, Item]]:
    """Read the rows of a batch; a row whose text is not UTF-8 does not affect the others."""
    if before + batch.num_rows <= skip:
        return
    for index, row in enumerate(_rows(batch, columns.text), start=before):
        if index < skip:
            continue
        number = piece.row + index + 1
        if isinstance(row, str):
            yield index, Unreadable(piece.name, number, row)
        else:
            for item in _items(columns, row, piece, number):
                yield index, item


def _rows(batch: pa.RecordBatch, text: str) -> list[Any]:
    """Return the rows as mappings, with the text as bytes; for an unreadable row, the reason."""
    place = batch.schema.get_field_index(text)
    kind = batch.schema.field(place).type
    try:
        batch.validate(full=True)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            batch.column(place).cast(pa.large_string())  # raises if it is not UTF-8
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            batch = batch.set_column(place, text, batch.column(place).cast(pa.large_binary()))
        return list(batch.to_pylist())
    except (pa.ArrowInvalid, ValueError, OverflowError) as error:
        if batch.num_rows == 1:
            text_is_bad = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
            return ["not UTF-8" if text_is_bad else " ".join(str(error).split())[:200]]
        return [row for index in range(batch.num_rows) for row in _rows(batch.slice(index, 1), text)]


def _read_json_lines(piece: Piece, skip: int) -> Iterator[tuple[int, Item]]:
    index = -1
    try:
        for index, line in enumerate(lines(piece.file)):
            if index >= skip and line.strip(b" \t\r\n\xef\xbb\xbf"):
                for item in _json_row(line, piece.row + index + 1, piece):
                    yield index, item
    except DAMAGE as error:
        yield index + 1, _broken(piece, index + 1, error)


def _json_row(line: bytes, number: int, piece: Piece) -> Iterator[Item]:
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: {error.reason}"
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {error}"
    else:
        if isinstance(row, dict) and piece.column in row:
            yield from _items(Columns.find(set(row), text=piece.column), row, piece, number)
            return
        reason = f"a {type(row).__name__}, not an object"
        if isinstance(row, dict):
            reason = f"no column {piece.column!r} (columns: {', '.join(row)})"[:200]
    yield Unreadable(piece.name, number, reason)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return row


def _zstd_lines(path: Path) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    pending: list[bytes] = []  # the pieces of an unfinished line
    with path.open("rb") as file:
        while compressed := frame.unused_data or file.read(1 << 16):
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            first, *others = frame.decompress(compressed).split(b"\n")
            pending.append(first)
            if others:
                yield b"".join(pending)
                yield from others[:-1]
                pending = others[-1:]
    yield b"".join(pending)
    if not frame.eof:
        raise EOFError("the compressed file ended before its end-of-stream marker was reached")


Reader = Callable[[Piece, int], Iterator[tuple[int, Item]]]
READERS: dict[str, Reader] = {
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".jsonl": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".jsonl.zst": _read_json_lines,
}
DATA_SUFFIXES = tuple(READERS)


def _columns(present: list[str], piece: Piece) -> Columns:
    if present.count(piece.column) > 1:
        raise DataError(f"column {piece.column!r} appears twice")
    if piece.column not in present:
        raise DataError(f"no column {piece.column!r} (columns: {', '.join(map(str, present))})")
    return Columns.find(set(present), text=piece.column)


def _items(columns: Columns, row: Any, piece: Piece, number: int) -> Iterator[Item]:
    """Yield the documents of a row; those of one tree share its record, so that a request for it names all of them."""
    for one in columns.rows(row, piece.trees):
        yield _document(columns, one, piece, number)


def _document(columns: Columns, row: Any, piece: Piece, number: int) -> Item:
    place = f"{piece.name}:{number}"
    try:
        document = columns.document(row, source=piece.source, revision=piece.revision, place=place)
    except UnicodeEncodeError:
        return Unreadable(piece.name, number, "not valid Unicode: a lone surrogate")
    except ValueError as error:
        return Unreadable(piece.name, number, str(error))
    if document.repo is None:
        document.repo = piece.fields.get("repo")
        document.revision = document.revision or piece.fields.get("revision")
    return document


def _broken(piece: Piece, index: int, error: Exception) -> Unreadable:
    reason = " ".join(str(error).split())[:200]
    if not piece.row + index:
        return Unreadable(piece.name, None, reason)
    return Unreadable(piece.name, piece.row + index + 1, f"cannot be read any further: {reason}")
