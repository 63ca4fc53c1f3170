"""Text to read: a preprocessed dataset, or any file or folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ibidem import artifacts, log
from ibidem.data import shards
from ibidem.data.sources.local import LocalFiles
from ibidem.data.sources.readers import read
from ibidem.data.sources.spec import Spec
from ibidem.errors import ConfigError, DataError
from ibidem.records import Document


class Text(NamedTuple):
    """A document, and what kind of text it is."""

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
        """Find the text.

        Raises:
            ConfigError: nothing is there.
        """
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder; ibidem preprocess makes a dataset")
        return cls(path, column)

    def as_input(self, role: str, *, of: Path) -> artifacts.Input:
        """Name it as an input of the artifact at `of`."""
        return shards.load_dataset(self.path).as_input(role, of=of) if self.is_dataset else self._files.as_input()

    def num_bytes(self) -> int:
        """Count the bytes of all texts: told by a dataset's manifest, read otherwise."""
        if self.is_dataset:
            return int(artifacts.load(self.path).counts["bytes"])
        return sum(len(text.encode()) for _, text in self.documents())

    def documents(self) -> Iterator[tuple[str, str]]:
        """Give every document; what cannot be read is told and passed over.

        Raises:
            DataError: there is none.
        """
        for found in self.texts():
            yield found.sha256, found.text

    def texts(self) -> Iterator[Text]:
        """Give every document with its category and language.

        Raises:
            DataError: there is none.
        """
        some = False
        for found in self._shards() if self.is_dataset else self._read_files():
            some = True
            yield found
        if not some:
            raise DataError(f"{self.path}: it holds no document that could be read")

    @property
    def is_dataset(self) -> bool:
        """Whether it was preprocessed."""
        return (self.path / artifacts.MANIFEST).exists()

    @property
    def _files(self) -> LocalFiles:
        return LocalFiles(Spec(str(self.path), None, "train", self.column))

    def _shards(self) -> Iterator[Text]:
        for path in shards.shard_paths(self.path):
            for row in shards.read_rows(path, [self.column, "sha256", "category", "language"]):
                yield Text(row["sha256"], row[self.column], row["category"], row["language"])

    def _read_files(self) -> Iterator[Text]:
        first = None
        some = False
        for _, item in (found for piece in self._files.pieces() for found in read(piece)):
            if isinstance(item, Document):
                some = True
                yield Text(item.sha256, item.text, item.category, item.language or item.natural_language)
            else:
                first = first or item
                log.event("corpus.unreadable", file=item.file, line=item.line, reason=item.reason)
        if first is not None and not some:
            raise DataError(f"{self.path}: nothing could be read: {first.file}: {first.reason}")
