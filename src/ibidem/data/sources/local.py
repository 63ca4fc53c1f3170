"""Local sources: a file, or a folder of Parquet, Arrow, JSON-lines, text and source files."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ibidem.artifacts import Input
from ibidem.data.engine import Engine
from ibidem.data.licenses.files import LicenseFiles, Stated
from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.git import Clone, Clones
from ibidem.data.sources.readers import DATA_SUFFIXES, Piece
from ibidem.data.sources.spec import Spec, check_no_column, content_digest
from ibidem.data.sources.survey import Facts, counted, survey
from ibidem.data.text import language
from ibidem.errors import ConfigError, DataError
from ibidem.files import is_file, printable
from ibidem.places import StorePath, path_of, walk
from ibidem.readers import check_outside_private

UNKNOWN_KIND = "unknown kind "
"""How the reason begins for which a file is not read; its suffix follows."""
ARROW_METADATA = ("dataset_info.json", "state.json")
SPLITS = ("train", "validation", "valid", "val", "dev", "test")


@dataclass
class LocalFiles:
    """A file, or a folder of Parquet, Arrow, JSON-lines, text and source files."""

    spec: Spec
    trees: Trees = "best_path"
    engine: Engine | None = None
    """Where files are hashed and looked through; None: here."""
    skipped: Counter[str] = field(default_factory=Counter)

    def as_input(self) -> Input:
        files = list(self._files())
        stated = filter(None, (self._license_of(name, path) for name, path in files))
        stating = dict.fromkeys((license_file.evidence, path) for license_file in stated for path in license_file.files)
        clones = dict.fromkeys(filter(None, (self._clone_of(path) for _, path in files)))
        facts = [
            " ".join(map(str, (clone.folder.relative_to(self.spec.name), *clone.facts.values()))) for clone in clones
        ]
        digest = content_digest([*files, *stating], facts, self.engine)
        return Input("source", digest, str(self.spec.name), is_artifact=False)

    @property
    def clones(self) -> list[Clone]:
        """The clones that `as_input` found."""
        return self._clones.found

    def pieces(self, spool: Path | None = None) -> Iterator[Piece]:
        self.skipped.clear()
        files = list(self._files(self.skipped))
        kept = None if spool in (None, Path()) or not isinstance(self._root, StorePath) else spool
        facts = survey(files, self.spec.column, self.engine, kept)
        # if one data file states licenses, they are expected of all
        stated = any(each.states_license for each in facts)
        first = 0
        for piece in counted(list(self._pieces(files, facts, stated=stated)), self.trees, self.engine):
            yield replace(piece, first=first)
            first += piece.count

    def _pieces(self, files: Sequence[tuple[str, Path]], facts: Sequence[Facts], *, stated: bool) -> Iterator[Piece]:
        for (name, path), found in zip(files, facts, strict=True):
            license_file, fields = self._license_of(name, path), self._fields_of(name, path)
            for row_group, row, count, damage in found.parts:
                yield Piece(
                    path=str(path),
                    name=name,
                    first=0,
                    count=count,
                    source=self.spec.name,
                    revision=self.spec.version,
                    column=self.spec.column,
                    row_group=row_group,
                    row=row,
                    fields=fields if license_file is None else fields | license_file.fields,
                    license_stated=stated if name.endswith(DATA_SUFFIXES) else license_file is not None,
                    damage=damage,
                    stamp=path.held().stamp if isinstance(path, StorePath) else None,
                )

    def _license_of(self, name: str, path: Path) -> Stated | None:
        """Return the license of a plain file from the license files above it; they do not cover rows of data files."""
        return None if name.endswith(DATA_SUFFIXES) or path == self._root else self._license_files.of(path)

    def _fields_of(self, name: str, path: Path) -> dict[str, str | None]:
        """Return what the clone around a file says of it; a VERSION of the spec outweighs the commit."""
        clone = self._clone_of(path)
        if clone is None:
            return {}
        fields = {"repo": clone.repo, "revision": self.spec.version or clone.commit}
        inside = {} if name.endswith(DATA_SUFFIXES) else {"path": printable(str(path.relative_to(clone.folder)))}
        return fields | inside

    def _clone_of(self, path: Path) -> Clone | None:
        return None if path == self._root else self._clones.of(path)

    def _is_foreign(self, path: Path) -> bool:
        """Check for a link out of the folder; a data file may be one, as in caches, unless it is in a clone."""
        if isinstance(path, StorePath) or not path.is_symlink():
            return False
        is_data = path.name.endswith(DATA_SUFFIXES) and self._clone_of(path) is None
        return not is_data and not path.resolve().is_relative_to(self._root.resolve())

    @property
    def _root(self) -> Path:
        return path_of(self.spec.name)

    @cached_property
    def _scripts(self) -> dict[Path, bool]:
        return {}

    @cached_property
    def _clones(self) -> Clones:
        return Clones(self._root)

    @cached_property
    def _license_files(self) -> LicenseFiles:
        return LicenseFiles(self._root)

    def _files(self, skipped: Counter[str] | None = None) -> Iterator[tuple[str, Path]]:
        skipped = Counter() if skipped is None else skipped
        root = self._root
        if root.is_file():
            if not root.name.endswith(DATA_SUFFIXES):
                check_no_column(self.spec)
            check_outside_private([root])
            yield printable(root.name), root
            return
        if not root.is_dir():
            raise DataError(f"{root}: neither a file nor a folder")
        found = _walk(root, skipped, self._scripts)
        files = [name for name in found if not self._is_foreign(root / name)]
        if len(files) < len(found):
            skipped["symbolic link out of the folder"] = len(found) - len(files)
        if files and not any(name.endswith(DATA_SUFFIXES) for name in files):
            check_no_column(self.spec)
        check_outside_private(root / name for name in found)
        splits = {split for name in files if name.endswith(DATA_SUFFIXES) and (split := _split_of(name))}
        if splits and self.spec.split not in splits and not _is_repository(files):
            raise ConfigError(f"{root}: no split {self.spec.split!r} (found: {', '.join(sorted(splits))})")
        for name in files:
            if name.endswith(DATA_SUFFIXES) and _split_of(name) not in (None, self.spec.split):
                skipped["another split"] += 1
            else:
                yield printable(name), root / name


def _walk(root: Path, skipped: Counter[str], scripts: dict[Path, bool]) -> list[str]:
    files = []

    def unreadable(_: OSError) -> None:
        skipped["unreadable folder"] += 1

    for folder, folders, names in walk(root, unreadable):
        skipped["hidden folder"] += sum(name.startswith(".") for name in folders)
        skipped["symbolic link to a folder"] += sum((folder / name).is_symlink() for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        has_arrow = any(name.endswith(".arrow") for name in names)
        for name in names:
            path = folder / name
            relative = path.relative_to(root).as_posix()
            if not is_file(path):
                skipped["not a regular file"] += 1
            elif has_arrow and name in ARROW_METADATA:
                skipped["metadata of an Arrow dataset"] += 1
            elif name.endswith(DATA_SUFFIXES) or language.by_name(name) or _is_script(path, scripts):
                files.append(relative)
            else:
                skipped[f"{UNKNOWN_KIND}{path.suffix or name}"] += 1
    skipped += Counter()  # without the zeros
    return sorted(files)


def _is_script(path: Path, known: dict[Path, bool]) -> bool:
    """Check whether a file begins as a script does; at a store only a name without a suffix is looked at, and once."""
    if isinstance(path, StorePath):
        if path not in known:
            known[path] = not path.suffix and language.by_shebang(path.head(language.SHEBANG_BYTES)) is not None
        return known[path]
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


def _split_of(name: str) -> str | None:
    words = re.split(r"[/._-]", name)
    return next((word for word in words if word in SPLITS), None)
