"""Where documents come from: `NAME[:VERSION]:SPLIT:COLUMN`.

NAME is a file or a folder here, `installed-packages`, or a dataset of the Hugging Face hub. VERSION is a configuration
of the hub dataset, otherwise a revision. SPLIT chooses among the splits of the hub dataset or of a folder whose files
are named or foldered by split. COLUMN holds the text in Parquet, Arrow and JSON-lines files, or a conversation (see
`instructions`); source and text files are one document each.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from ibidem import artifacts, log
from ibidem.artifacts import Input
from ibidem.data import language
from ibidem.data.columns import LICENSE, Columns
from ibidem.data.license_files import LicenseFiles, Stated
from ibidem.data.readers import DAMAGE, READERS, Piece, is_file, lines, open_arrow, printable, suffix_of
from ibidem.errors import ConfigError, DataError

INSTALLED = "installed-packages"
LICENSE_COLUMNS = set(LICENSE)
DATA_SUFFIXES = tuple(READERS)
ARROW_METADATA = ("dataset_info.json", "state.json")
SPLITS = ("train", "validation", "valid", "val", "dev", "test")
SPOOL_ROWS = 1000
_WRONG_CHECKSUM = re.compile("CRC check|checksum|incorrect data check", re.IGNORECASE)


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
        if not re.fullmatch(r"\w[\w.+-]*", rest[0]):
            raise ConfigError(f"dataset {text!r}: {rest[0]!r} is no name of a split, as train or validation")
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
    """Files that are not read at all, by reason; filled by `pieces`."""

    def as_input(self) -> Input:
        """Name the source, with a digest of its content where that can be had."""

    def pieces(self, spool: Path) -> Iterator[Piece]:
        """Give the pieces in a fixed order; what comes from afar is first put into the folder `spool`."""


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


def content_digest(files: Sequence[tuple[str, Path]]) -> str:
    """Hash names and contents of files, in the order given; what cannot be read counts by its name."""
    total = hashlib.sha256()
    for (name, _), content in zip(files, artifacts.on_each(_content_of, [path for _, path in files]), strict=True):
        total.update(f"{name}\0{content}\n".encode(errors="backslashreplace"))
    return "sha256:" + total.hexdigest()


def _content_of(path: Path) -> str:
    try:
        return artifacts.sha256_of(path)
    except OSError as error:
        return str(error.strerror)


@dataclass
class LocalFiles:
    """A file, or a folder of Parquet, Arrow, JSON-lines, text and source files."""

    spec: Spec
    skipped: Counter[str] = field(default_factory=Counter)

    def as_input(self) -> Input:
        files = list(self._files())
        stated = filter(None, (self._license_of(name, path) for name, path in files))
        stating = dict.fromkeys((found.evidence, path) for found in stated for path in found.files)
        return Input("source", content_digest([*files, *stating]), str(self.spec.name), is_artifact=False)

    def pieces(self, spool: Path | None = None) -> Iterator[Piece]:  # noqa: ARG002 - nothing comes from afar
        self.skipped.clear()
        files = list(self._files(self.skipped))
        # one data file that states licenses binds the others
        stated = any(_states_license(path) for name, path in files if name.endswith(DATA_SUFFIXES))
        first = 0
        for name, path in files:
            license_file = self._license_of(name, path)
            for row_group, row, count, damage in _parts(path, name, self.spec.column):
                yield Piece(
                    path=str(path),
                    name=name,
                    first=first,
                    count=count,
                    source=self.spec.name,
                    revision=self.spec.version,
                    column=self.spec.column,
                    row_group=row_group,
                    row=row,
                    nouns={} if license_file is None else license_file.nouns,
                    license_stated=stated if name.endswith(DATA_SUFFIXES) else license_file is not None,
                    damage=damage,
                )
                first += count

    def _license_of(self, name: str, path: Path) -> Stated | None:
        """Give the license of a plain file by the license file above it; rows of a data file are somebody else's."""
        return None if name.endswith(DATA_SUFFIXES) or path == Path(self.spec.name) else self._license_files.of(path)

    @cached_property
    def _license_files(self) -> LicenseFiles:
        return LicenseFiles(Path(self.spec.name))

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

    def as_input(self) -> Input:
        name = ":".join(part for part in (self.spec.name, self.spec.version, self.spec.split) if part)
        return Input("source", f"git:{self._commit}", name, is_artifact=False)

    def pieces(self, spool: Path) -> Iterator[Piece]:
        """Stream the rows into files of `spool`; those that an interrupted run left are not fetched again."""
        spool.mkdir(parents=True, exist_ok=True)
        first = 0
        for path in self._spooled(spool):
            count = sum(1 for _ in lines(path))
            yield Piece(
                path=str(path),
                name=self.spec.split,
                first=first,
                count=count,
                source=self.spec.name,
                revision=self._commit,
                column=self.spec.column,
                row=first,
                license_stated=(spool / "stated").read_text() == "True",
            )
            first += count

    def _spooled(self, spool: Path) -> Iterator[Path]:
        done = sorted(spool.glob("rows-*.jsonl"))
        yield from done
        if done and sum(1 for _ in lines(done[-1])) < SPOOL_ROWS:
            return
        before = len(done) * SPOOL_ROWS
        with self._explained(), log.progress(f"preprocess.{self.spec.folder}.fetch", None, "documents") as bar:
            rows = iter(self._rows().skip(before) if before else self._rows())
            for number in range(len(done), 10**8):
                chunk = list(islice(rows, SPOOL_ROWS))
                if not chunk:
                    return
                columns = _columns(chunk[0], self.spec.column, self.spec.name)
                artifacts.write_file(spool / "stated", str(columns.license is not None))
                path = spool / f"rows-{number:08d}.jsonl"
                wanted = [{name: row.get(name) for name in columns.wanted} for row in chunk]
                artifacts.write_file(path, "".join(json.dumps(row, default=str) + "\n" for row in wanted))
                bar.advance(len(chunk))
                yield path
                if len(chunk) < SPOOL_ROWS:
                    return

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


def _parts(path: Path, name: str, column: str) -> Iterator[tuple[int | None, int, int, str | None]]:
    """Cut a file into parts that can be read alone, as (row group, rows before it, positions, damage)."""
    suffix = suffix_of(name)
    if suffix == ".parquet":
        for group, row, count in _row_groups(path, column):
            yield group, row, count, None
    elif suffix == ".arrow":
        yield None, 0, _num_arrow_rows(path), None
    elif suffix:
        yield None, 0, *_num_lines(path)
    else:
        yield None, 0, 1, None


def _row_groups(path: Path, column: str) -> Iterator[tuple[int | None, int, int]]:
    try:
        metadata = pq.read_metadata(path)
        readable = column in metadata.schema.to_arrow_schema().names
    except DAMAGE:
        readable = False
    if not readable:
        yield None, 0, 1
        return
    row = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        yield group, row, max(1, count)
        row += count


def _num_arrow_rows(path: Path) -> int:
    """Count the rows that stand before any damage, and the damage as one more."""
    count = 0
    try:
        with open_arrow(path) as (_, batches):
            for batch in batches:
                count += batch.num_rows
    except DAMAGE:
        count += 1
    return count


def _num_lines(path: Path) -> tuple[int, str | None]:
    """Count the lines that stand before any damage, and the damage as one more; a wrong checksum damages all."""
    count = 0
    try:
        for _ in lines(path):
            count += 1
    except DAMAGE as error:
        if count and _WRONG_CHECKSUM.search(str(error)):
            return 1, f"{error}: none of its rows can be trusted"
        count += 1
    return count, None


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
            if not is_file(path):
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
            with open_arrow(path) as (schema, _):
                return not LICENSE_COLUMNS.isdisjoint(schema.names)
        keys = [f'"{name}"'.encode() for name in LICENSE_COLUMNS]
        return any(key in line for line in lines(path) for key in keys)
    except DAMAGE:
        return False


def _split_of(name: str) -> str | None:
    words = re.split(r"[/._-]", name)
    return next((word for word in words if word in SPLITS), None)
