"""Local sources: a file, or a folder of Parquet, Arrow, JSON-lines, text and source files."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq

from ibidem.artifacts import Input
from ibidem.data.licenses.files import LicenseFiles, Stated
from ibidem.data.sources.columns import LICENSE
from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.git import Clone, Clones
from ibidem.data.sources.readers import DAMAGE, READERS, Piece, lines, open_arrow, suffix_of, with_trees
from ibidem.data.sources.spec import Spec, check_no_column, content_digest
from ibidem.data.text import language
from ibidem.errors import ConfigError, DataError
from ibidem.files import is_file, printable
from ibidem.readers import check_outside_private

LICENSE_COLUMNS = set(LICENSE)
DATA_SUFFIXES = tuple(READERS)
UNKNOWN_KIND = "unknown kind "
"""How the reason begins for which a file is not read; its suffix follows."""
ARROW_METADATA = ("dataset_info.json", "state.json")
SPLITS = ("train", "validation", "valid", "val", "dev", "test")
_WRONG_CHECKSUM = re.compile("CRC check|checksum|incorrect data check", re.IGNORECASE)


@dataclass
class LocalFiles:
    """A file, or a folder of Parquet, Arrow, JSON-lines, text and source files."""

    spec: Spec
    trees: Trees = "best_path"
    skipped: Counter[str] = field(default_factory=Counter)

    def as_input(self) -> Input:
        files = list(self._files())
        stated = filter(None, (self._license_of(name, path) for name, path in files))
        stating = dict.fromkeys((license_file.evidence, path) for license_file in stated for path in license_file.files)
        clones = dict.fromkeys(filter(None, (self._clone_of(path) for _, path in files)))
        facts = [
            " ".join(map(str, (clone.folder.relative_to(self.spec.name), *clone.facts.values()))) for clone in clones
        ]
        digest = content_digest([*files, *stating], facts)
        return Input("source", digest, str(self.spec.name), is_artifact=False)

    @property
    def clones(self) -> list[Clone]:
        """The clones that `as_input` found."""
        return self._clones.found

    def pieces(self, spool: Path | None = None) -> Iterator[Piece]:  # noqa: ARG002 - nothing is remote
        self.skipped.clear()
        files = list(self._files(self.skipped))
        # if one data file states licenses, they are expected of all
        stated = any(_states_license(path) for name, path in files if name.endswith(DATA_SUFFIXES))
        first = 0
        for name, path in files:
            license_file, fields = self._license_of(name, path), self._fields_of(name, path)
            for row_group, row, count, damage in _parts(path, name, self.spec.column):
                piece = Piece(
                    path=str(path),
                    name=name,
                    first=first,
                    count=count,
                    source=self.spec.name,
                    revision=self.spec.version,
                    column=self.spec.column,
                    row_group=row_group,
                    row=row,
                    fields=fields if license_file is None else fields | license_file.fields,
                    license_stated=stated if name.endswith(DATA_SUFFIXES) else license_file is not None,
                    damage=damage,
                )
                piece = with_trees(piece, self.trees)
                yield piece
                first += piece.count

    def _license_of(self, name: str, path: Path) -> Stated | None:
        """Return the license of a plain file from the license files above it; they do not cover rows of data files."""
        return None if name.endswith(DATA_SUFFIXES) or path == Path(self.spec.name) else self._license_files.of(path)

    def _fields_of(self, name: str, path: Path) -> dict[str, str | None]:
        """Return what the clone around a file says of it; a VERSION of the spec outweighs the commit."""
        clone = self._clone_of(path)
        if clone is None:
            return {}
        fields = {"repo": clone.repo, "revision": self.spec.version or clone.commit}
        inside = {} if name.endswith(DATA_SUFFIXES) else {"path": printable(str(path.relative_to(clone.folder)))}
        return fields | inside

    def _clone_of(self, path: Path) -> Clone | None:
        return None if path == Path(self.spec.name) else self._clones.of(path)

    @cached_property
    def _clones(self) -> Clones:
        return Clones(Path(self.spec.name))

    @cached_property
    def _license_files(self) -> LicenseFiles:
        return LicenseFiles(Path(self.spec.name))

    def _files(self, skipped: Counter[str] | None = None) -> Iterator[tuple[str, Path]]:
        skipped = Counter() if skipped is None else skipped
        root = Path(self.spec.name)
        if root.is_file():
            if not root.name.endswith(DATA_SUFFIXES):
                check_no_column(self.spec)
            check_outside_private(root)
            yield printable(root.name), root
            return
        if not root.is_dir():
            raise DataError(f"{root}: neither a file nor a folder")
        files = _walk(root, skipped)
        if files and not any(name.endswith(DATA_SUFFIXES) for name in files):
            check_no_column(self.spec)
        for one in {(root / name).parent: root / name for name in files}.values():
            check_outside_private(one)
        splits = {split for name in files if name.endswith(DATA_SUFFIXES) and (split := _split_of(name))}
        if splits and self.spec.split not in splits and not _is_repository(files):
            raise ConfigError(f"{root}: no split {self.spec.split!r} (found: {', '.join(sorted(splits))})")
        for name in files:
            if name.endswith(DATA_SUFFIXES) and _split_of(name) not in (None, self.spec.split):
                skipped["another split"] += 1
            else:
                yield printable(name), root / name


def _parts(path: Path, name: str, column: str) -> Iterator[tuple[int | None, int, int, str | None]]:
    """Split a file into independently readable parts, as (row group, rows before it, positions, damage)."""
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
    """Count the rows before any damage, and the damage as one more."""
    count = 0
    try:
        with open_arrow(path) as (_, batches):
            for batch in batches:
                count += batch.num_rows
    except DAMAGE:
        count += 1
    return count


def _num_lines(path: Path) -> tuple[int, str | None]:
    """Count the lines before any damage, and the damage as one more; a wrong checksum invalidates all lines."""
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
    files = []

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
            elif name.endswith(DATA_SUFFIXES) or language.by_name(name) or _is_script(path):
                files.append(relative)
            else:
                skipped[f"{UNKNOWN_KIND}{path.suffix or name}"] += 1
    skipped += Counter()  # without the zeros
    return sorted(files)


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return language.by_shebang(file.read(language.SHEBANG_BYTES)) is not None
    except OSError:
        return False


def _is_repository(names: list[str]) -> bool:
    """Check whether a folder is of source files rather than of data files: its own prose and one loader say little."""
    data = sum(name.endswith(DATA_SUFFIXES) for name in names)
    plain = (name for name in names if not name.endswith(DATA_SUFFIXES))
    return data < sum("/" in name or language.category(language.by_name(name), name) == "code" for name in plain)


def _states_license(path: Path) -> bool:
    """Check whether any row of a data file may have a license."""
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
