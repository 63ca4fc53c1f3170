"""Files of a store, read as local ones are: listed once, looked through and read by the tasks, and checked there.

The digest of such a source is that of the names and stamps of its files. A file that has changed since it was listed
is refused by the task that opens it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ibidem.artifacts import Input
from ibidem.data.engine import Engine
from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.git import Clone
from ibidem.data.sources.local import LocalFiles
from ibidem.data.sources.readers import Piece
from ibidem.data.sources.spec import Spec
from ibidem.errors import ConfigError
from ibidem.places import Listing, StorePath, listed

NO_PATH = "name that is no path"
"""Why a file is not read whose name has an empty part, `.` or `..` between slashes."""


@dataclass
class StoredFiles:
    """A file, or a folder of files, at a URL."""

    spec: Spec
    trees: Trees = "best_path"
    engine: Engine | None = None

    def as_input(self) -> Input:
        with listed(self._root, self._listing):
            return self._files.as_input()

    def pieces(self, spool: Path) -> Iterator[Piece]:
        with listed(self._root, self._listing):
            yield from self._files.pieces(spool)
        if no_paths := len(self._found) - len(self._listing):
            self.skipped[NO_PATH] = no_paths

    @property
    def skipped(self) -> Counter[str]:
        """Number of files that are not read, by reason."""
        return self._files.skipped

    @property
    def clones(self) -> list[Clone]:
        """The clones that `as_input` found."""
        return self._files.clones

    @property
    def _root(self) -> StorePath:
        return StorePath(self.spec.name)

    @cached_property
    def _files(self) -> LocalFiles:
        return LocalFiles(self.spec, self.trees, self.engine)

    @cached_property
    def _listing(self) -> Listing:
        return {name: held for name, held in self._found.items() if _is_path(name)}

    @cached_property
    def _found(self) -> Listing:
        if found := self._root.listing():
            return found
        try:
            return {"": self._root.held()}
        except FileNotFoundError:
            raise ConfigError(f"dataset {self.spec.name!r}: no such file or folder") from None


def _is_path(name: str) -> bool:
    return not name or {"", ".", ".."}.isdisjoint(name.split("/"))
