"""Read text from a preprocessed dataset, or from any file or folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ibidem import artifacts, log
from ibidem.data import shards
from ibidem.data.sources.local import LocalFiles
from ibidem.data.sources.readers import read
from ibidem.data.sources.spec import Spec
from ibidem.data.sources.stored import StoredFiles
from ibidem.errors import ConfigError, DataError
from ibidem.places import StorePath
from ibidem.records import Document


class Text(NamedTuple):
    """A document with its category and language."""

    sha256: str
    text: str
    category: str | None
    language: str | None


@dataclass(frozen=True)
class Corpus:
    """Documents below `path`, as (sha256, text)."""

    path: Path
    column: str

    @classmethod
    def open(cls, path: Path, column: str) -> "Corpus":
        """Open a dataset, file or folder.

        Raises:
            ConfigError: the path does not exist.
        """
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder; make a dataset with ibidem preprocess")
        return cls(path, column)

    def as_input(self, role: str, *, of: Path) -> artifacts.Input:
        """Describe it as an input of the artifact at `of`."""
        return shards.load_dataset(self.path).as_input(role, of=of) if self.is_dataset else self._files.as_input()

    def num_bytes(self) -> int:
        """Count the bytes of all texts: from the manifest of a dataset, otherwise by reading them."""
        if self.is_dataset:
            return int(artifacts.load(self.path).counts["bytes"])
        return sum(len(text.encode()) for _, text in self.documents())

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (sha256, text) of every document; unreadable input is logged and skipped.

        Raises:
            DataError: there are no documents.
        """
        for document in self.texts():
            yield document.sha256, document.text

    def texts(self) -> Iterator[Text]:
        """Yield every document with its category and language.

        Raises:
            DataError: there are no documents.
        """
        is_empty = True
        for document in self._shards() if self.is_dataset else self._read_files():
            is_empty = False
            yield document
        if is_empty:
            raise DataError(f"{self.path}: no document could be read")

    @property
    def is_dataset(self) -> bool:
        """Whether it is a preprocessed dataset."""
        return (self.path / artifacts.MANIFEST).exists()

    @property
    def _files(self) -> LocalFiles | StoredFiles:
        spec = Spec(str(self.path), None, "train", self.column)
        return StoredFiles(spec) if isinstance(self.path, StorePath) else LocalFiles(spec)

    def _shards(self) -> Iterator[Text]:
        for path in shards.shard_paths(self.path):
            for row in shards.read_rows(path, [self.column, "sha256", "category", "language"]):
                yield Text(row["sha256"], row[self.column], row["category"], row["language"])

    def _read_files(self) -> Iterator[Text]:
        first = None
        is_empty = True
        for _, item in (row for piece in self._files.pieces(Path()) for row in read(piece)):
            if isinstance(item, Document):
                is_empty = False
                yield Text(item.sha256, item.text, item.category, item.language or item.natural_language)
            else:
                first = first or item
                log.event("corpus.unreadable", file=item.file, line=item.line, reason=item.reason)
        if first is not None and is_empty:
            raise DataError(f"{self.path}: nothing could be read: {first.file}: {first.reason}")
