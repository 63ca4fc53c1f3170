"""Where documents come from: `NAME[:VERSION]:SPLIT:COLUMN`.

NAME is a file or a folder here, `installed-packages`, or a dataset of the Hugging Face hub. VERSION is a configuration
of the hub dataset, otherwise a revision. SPLIT chooses among the splits of the hub dataset or of a folder whose files
are named or foldered by split. COLUMN holds the text in Parquet, Arrow and JSON-lines files; source and text files are
one document each.
"""

import gzip
import hashlib
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from ibidem import artifacts
from ibidem.artifacts import Input
from ibidem.data import language
from ibidem.data.columns import LICENSE, Columns
from ibidem.errors import ConfigError, DataError
from ibidem.records import Document, Unreadable

INSTALLED = "installed-packages"
LICENSE_COLUMNS = set(LICENSE)
DATA_SUFFIXES = (".parquet", ".arrow", ".jsonl", ".jsonl.gz", ".jsonl.zst")
ARROW_METADATA = ("dataset_info.json", "state.json")
SPLITS = ("train", "validation", "valid", "val", "dev", "test")

Item = Document | Unreadable
DAMAGE = (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException)
"""What reading a damaged file raises."""


@dataclass(frozen=True)
class Spec:
    """A parsed dataset spec."""

    name: str
    version: str | None
    split: str
    column: str

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read `NAME[:VERSION]:SPLIT:COLUMN`.

        >>> Spec.parse("bigcode/the-stack-dedup:v1:train:content")
        Spec(name='bigcode/the-stack-dedup', version='v1', split='train', column='content')

        Raises:
            ConfigError: a part is missing or empty.
        """
        name, *rest = text.rsplit(":", 2)
        if len(rest) != 2 or not all((name, *rest)):
            raise ConfigError(f"dataset {text!r}: expected NAME[:VERSION]:SPLIT:COLUMN, as in openwebtext:train:text")
        version = None
        if ":" in name and not Path(name).exists():
            name, _, version = name.rpartition(":")
            if not name or not version:
                raise ConfigError(f"dataset {text!r}: NAME or VERSION is empty in NAME[:VERSION]:SPLIT:COLUMN")
        return cls(name, version, *rest)

    @property
    def folder(self) -> str:
        """Name the folder of this dataset below the output."""
        name = Path(self.name).resolve().name if Path(self.name).exists() else self.name
        return re.sub(r"[^\w.+-]+", "--", name.removesuffix(".parquet").removesuffix(".jsonl")).strip(".") or "data"


class Source(Protocol):
    """Something that documents are read from."""

    spec: Spec
    skipped: Counter[str]
    """Files that were not read at all, by reason; filled while reading."""

    def expected(self) -> int | None:
        """Tell how many items `read` gives, where that is cheap to know."""

    def as_input(self) -> Input:
        """Name the source, with a digest of its content where that can be had."""

    def read(self) -> Iterator[Item]:
        """Give every document, and every piece that could not be read, in a fixed order."""


def open_source(spec: Spec, *, package_cap_bytes: int) -> Source:
    """Find what a spec means.

    Raises:
        ConfigError: there is nothing of that name here, and it cannot be the name of a hub dataset.
    """
    if spec.name == INSTALLED:
        from ibidem.data.installed import InstalledPackages

        return InstalledPackages(spec, cap_bytes=package_cap_bytes)
    if Path(spec.name).exists():
        return LocalFiles(spec)
    if spec.name.startswith((".", "/", "~")) or spec.name.endswith(DATA_SUFFIXES) or spec.name.count("/") > 1:
        raise ConfigError(f"dataset {spec.name!r}: no such file or folder")
    return HubDataset(spec)


def content_digest(files: Iterator[tuple[str, Path]]) -> str:
    """Hash names and contents of files, in the order given; what cannot be read counts by its name."""
    total = hashlib.sha256()
    for name, path in files:
        try:
            content = artifacts.sha256_of(path)
        except OSError as error:
            content = str(error.strerror)
        total.update(f"{name}\0{content}\n".encode(errors="backslashreplace"))
    return "sha256:" + total.hexdigest()


def printable(name: str) -> str:
    r"""Spell a file name that is not UTF-8.

    >>> printable(os.fsdecode(b"caf\xe9.py"))
    'caf\\xe9.py'
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def read_source_file(path: Path, *, name: str, **nouns: Any) -> Item:
    """Read a file as one document."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return Unreadable(name, None, error.strerror or "cannot be read")
    if b"\0" in raw:
        return Unreadable(name, None, "binary: it holds a NUL byte")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Unreadable(name, line, f"not UTF-8: {error.reason} at byte {error.start}")
    kind = language.by_name(name)
    return Document(
        text=text,
        raw=raw,
        path=name,
        language=kind,
        category=language.category(kind),
        **({"record": name} | nouns),
    )


@dataclass
class LocalFiles:
    """A file, or a folder of Parquet, Arrow, JSON-lines, text and source files."""

    spec: Spec
    skipped: Counter[str] = field(default_factory=Counter)

    def expected(self) -> int | None:
        files = list(self._files())
        if all(not name.endswith(DATA_SUFFIXES) for name, _ in files):
            return len(files)
        if all(name.endswith(".parquet") for name, _ in files):
            return sum(_num_rows(path) for _, path in files)
        return None

    def as_input(self) -> Input:
        return Input("source", content_digest(self._files()), str(self.spec.name), is_artifact=False)

    def read(self) -> Iterator[Item]:
        self.skipped.clear()
        files = list(self._files(self.skipped))
        stated = any(_states_license(path) for name, path in files if name.endswith(DATA_SUFFIXES))
        for name, path in files:
            reader = next((READERS[suffix] for suffix in READERS if name.endswith(suffix)), None)
            if reader is None:
                yield read_source_file(path, name=name, source=self.spec.name, revision=self.spec.version)
                continue
            for item in reader(path, name, self.spec):
                if isinstance(item, Document):
                    item.license_stated = stated  # one file that states licenses binds the others
                yield item

    def _files(self, skipped: Counter[str] | None = None) -> Iterator[tuple[str, Path]]:
        skipped = Counter() if skipped is None else skipped
        root = Path(self.spec.name)
        if root.is_file():
            yield printable(root.name), root
            return
        if not root.is_dir():
            raise DataError(f"{root}: neither a file nor a folder")
        files = _walk(root, skipped)
        splits = {split for name in files if name.endswith(DATA_SUFFIXES) and (split := _split_of(name))}
        if splits and self.spec.split not in splits:
            raise ConfigError(f"{root}: no split {self.spec.split!r} (found: {', '.join(sorted(splits))})")
        for name in files:
            if name.endswith(DATA_SUFFIXES) and _split_of(name) not in (None, self.spec.split):
                skipped["another split"] += 1
            else:
                yield printable(name), root / name


@dataclass
class HubDataset:
    """A dataset of the Hugging Face hub, streamed, at the commit that the hub gives for it."""

    spec: Spec
    skipped: Counter[str] = field(default_factory=Counter)

    def expected(self) -> int | None:
        return None

    def as_input(self) -> Input:
        name = ":".join(part for part in (self.spec.name, self.spec.version, self.spec.split) if part)
        return Input("source", f"git:{self._commit}", name, is_artifact=False)

    def read(self) -> Iterator[Item]:
        columns: Columns | None = None
        with self._explained():
            for number, row in enumerate(self._rows(), start=1):
                columns = columns or _columns(row, self.spec.column, self.spec.name)
                yield _document(columns, row, self.spec, self._commit, f"{self.spec.split}:{number}", number)

    @cached_property
    def _configuration(self) -> str | None:
        """The version, if it is the name of a configuration; otherwise it is a revision."""
        import datasets

        version = self.spec.version
        return version if version and version in datasets.get_dataset_config_names(self.spec.name) else None

    @cached_property
    def _commit(self) -> str:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        with self._explained():
            import huggingface_hub
            from huggingface_hub.utils import logging

            logging.set_verbosity_error()  # type: ignore[no-untyped-call]
            hub = huggingface_hub.HfApi()
            newest = hub.dataset_info(self.spec.name)  # asked first: without a network it fails at once
            if self.spec.version is None or self._configuration:
                return str(newest.sha)
            return str(hub.dataset_info(self.spec.name, revision=self.spec.version).sha)

    def _rows(self) -> Any:
        import datasets

        return datasets.load_dataset(
            self.spec.name, self._configuration, split=self.spec.split, revision=self._commit, streaming=True
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn whatever the hub's libraries raise into one line."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - they raise many kinds, none of them ours
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"dataset {self.spec.name!r}: no such file or folder here, and the Hugging Face hub does not give it "
                f"({type(error).__name__}: {reason}); give a local path, or check name and network"
            ) from None


def _columns(row: Any, text: str, where: str) -> Columns:
    if text not in row:
        raise DataError(f"{where}: no column {text!r} (columns: {', '.join(map(str, row))})")
    return Columns.find(set(row), text=text)


def _document(columns: Columns, row: Any, spec: Spec, version: str | None, place: str, number: int) -> Item:
    try:
        return columns.document(row, source=spec.name, revision=version, place=place)
    except UnicodeEncodeError:
        return Unreadable(place.rpartition(":")[0], number, "not valid Unicode: a lone surrogate")
    except ValueError as error:
        return Unreadable(place.rpartition(":")[0], number, str(error))


def _read_parquet(path: Path, name: str, spec: Spec) -> Iterator[Item]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow.names, spec.column, name)
            for batch in file.iter_batches(batch_size=256, columns=columns.wanted):
                yield from _batch(batch, number, columns, name, spec)
                number += batch.num_rows
    except (*DAMAGE, DataError) as error:
        yield _broken(name, number, error)


def _read_arrow(path: Path, name: str, spec: Spec) -> Iterator[Item]:
    number = 0
    try:
        with path.open("rb") as file:
            table = pa.ipc.open_stream(file)
            columns = _columns(table.schema.names, spec.column, name)
            for batch in table:
                yield from _batch(batch.select(columns.wanted), number, columns, name, spec)
                number += batch.num_rows
    except (*DAMAGE, DataError) as error:
        yield _broken(name, number, error)


def _batch(batch: pa.RecordBatch, before: int, columns: Columns, name: str, spec: Spec) -> Iterator[Item]:
    """Read the rows of a batch; if one holds text that is not UTF-8, only that one is lost."""
    try:
        rows: list[Any] = batch.to_pylist()
    except UnicodeDecodeError:
        rows = [_one_row(batch, index) for index in range(batch.num_rows)]
    for number, row in enumerate(rows, start=before + 1):
        if row is None:
            yield Unreadable(name, number, "not UTF-8")
        else:
            yield _document(columns, row, spec, spec.version, f"{name}:{number}", number)


def _one_row(batch: pa.RecordBatch, index: int) -> Any:
    try:
        return batch.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError:
        return None


def _read_json_lines(path: Path, name: str, spec: Spec) -> Iterator[Item]:
    number = 0
    try:
        for number, line in enumerate(_lines(path), start=1):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield _json_row(line, name, number, spec)
    except DAMAGE as error:
        yield _broken(name, number, error)


def _json_row(line: bytes, name: str, number: int, spec: Spec) -> Item:
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        return Unreadable(name, number, f"not UTF-8: {error.reason}")
    except (ValueError, RecursionError) as error:
        return Unreadable(name, number, f"not JSON: {error}")
    if not isinstance(row, dict):
        return Unreadable(name, number, f"a {type(row).__name__}, not an object")
    if spec.column not in row:
        return Unreadable(name, number, f"no column {spec.column!r} (columns: {', '.join(row)})"[:200])
    columns = Columns.find(set(row), text=spec.column)
    return _document(columns, row, spec, spec.version, f"{name}:{number}", number)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r} stands there twice")
    return row


def _lines(path: Path) -> Iterator[bytes]:
    """Give the lines of a plain or compressed file, all that stand before any damage."""
    if path.suffix == ".zst":
        yield from _zstd_lines(path)
        return
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        yield from file


def _zstd_lines(path: Path) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    pending = b""
    with path.open("rb") as file:
        while compressed := frame.unused_data or file.read(1 << 16):
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            *lines, pending = (pending + frame.decompress(compressed)).split(b"\n")
            yield from lines
    yield pending
    if not frame.eof:
        raise EOFError("the compressed file ended before its end-of-stream marker was reached")


READERS: dict[str, Callable[[Path, str, Spec], Iterator[Item]]] = {
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".jsonl": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".jsonl.zst": _read_json_lines,
}


def _broken(name: str, after: int, error: Exception) -> Unreadable:
    reason = " ".join(str(error).split())[:200]
    return Unreadable(name, after + 1 if after else None, f"cannot be read any further: {reason}" if after else reason)


def _walk(root: Path, skipped: Counter[str]) -> list[str]:
    found = []

    def unreadable(_: OSError) -> None:
        skipped["unreadable folder"] += 1

    for folder, folders, names in os.walk(root, onerror=unreadable):
        skipped["hidden folder"] += sum(name.startswith(".") for name in folders)
        skipped["symbolic link to a folder"] += sum(Path(folder, name).is_symlink() for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        has_arrow = any(name.endswith(".arrow") for name in names)
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if not path.is_file():
                skipped["not a regular file"] += 1
            elif has_arrow and name in ARROW_METADATA:
                skipped["metadata of an Arrow dataset"] += 1
            elif name.endswith(DATA_SUFFIXES) or language.by_name(name):
                found.append(relative)
            else:
                skipped[f"unknown kind {path.suffix or name}"] += 1
    skipped += Counter()  # without the zeros
    return sorted(found)


def _states_license(path: Path) -> bool:
    """Tell whether any row of a data file may carry a license."""
    try:
        if path.suffix == ".parquet":
            return not LICENSE_COLUMNS.isdisjoint(pq.read_schema(path).names)
        if path.suffix == ".arrow":
            with path.open("rb") as file:
                return not LICENSE_COLUMNS.isdisjoint(pa.ipc.open_stream(file).schema.names)
        keys = [f'"{name}"'.encode() for name in LICENSE_COLUMNS]
        return any(key in line for line in _lines(path) for key in keys)
    except DAMAGE:
        return False


def _split_of(name: str) -> str | None:
    words = re.split(r"[/._-]", name)
    return next((word for word in words if word in SPLITS), None)


def _num_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 0
