"""Dataset specs, `NAME[:VERSION]:SPLIT:COLUMN`, and the interface of every source.

NAME is a file or folder, local or a URL, `installed-packages`, or a dataset of the Hugging Face hub; it may have colons
if it exists. VERSION is a configuration of the hub dataset, otherwise a revision; of a URL, it has no slash. SPLIT selects a split of the hub dataset, or of a folder whose
data files or folders are named by split; of a repository, whose source files outnumber its data files, only the data
files that are named by another split are left out. COLUMN contains the text in Parquet, Arrow and JSON-lines files, or
a conversation or a preference pair (see `conversations`); every source or text file is one document, and COLUMN is
`text` where there are no other files.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ibidem.artifacts import Input
from ibidem.data.sources.readers import Piece
from ibidem.errors import ConfigError
from ibidem.files import Engine, on_each, sha256_of
from ibidem.places import StorePath, is_url, path_of

TEXT_COLUMNS = ("text", "content")
"""Columns of a spec whose files have none: the names that datasets of prose and of code have for a file's text."""


@dataclass(frozen=True)
class Spec:
    """A parsed dataset spec."""

    name: str
    version: str | None
    split: str
    column: str

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Parse `NAME[:VERSION]:SPLIT:COLUMN`.

        >>> Spec.parse("bigcode/the-stack-dedup:v1:train:content")
        Spec(name='bigcode/the-stack-dedup', version='v1', split='train', column='content')

        Raises:
            ConfigError: a part is missing or empty.
            StoreError: the store fails that is asked for a name with a colon.
        """
        name, *rest = text.rsplit(":", 2)
        if len(rest) != 2 or not all((name, *rest)):
            raise ConfigError(f"dataset {text!r}: expected NAME[:VERSION]:SPLIT:COLUMN, as in openwebtext:train:text")
        if not re.fullmatch(r"\w[\w.+-]*", rest[0]):
            raise ConfigError(f"dataset {text!r}: {rest[0]!r} is not the name of a split, such as train or validation")
        version = None
        if _ends_in_version(name) and not path_of(name).exists():
            name, _, version = name.rpartition(":")
            if not name or not version:
                raise ConfigError(f"dataset {text!r}: NAME or VERSION is empty in NAME[:VERSION]:SPLIT:COLUMN")
        return cls(name, version, *rest)

    @property
    def folder(self) -> str:
        """Folder of this dataset below the output."""
        path = path_of(self.name)
        name = path.resolve().name if is_url(self.name) or path.exists() else self.name
        return re.sub(r"[^\w.+-]+", "--", name.removesuffix(".parquet").removesuffix(".jsonl")).strip(".") or "data"


def _ends_in_version(name: str) -> bool:
    """Check whether a name with a colon can end in a version: of a URL, neither the host nor a folder is one."""
    if not is_url(name):
        return ":" in name
    return ":" in name.partition("://")[2].partition("/")[2].rpartition("/")[2]


def check_no_column(spec: Spec) -> None:
    """Refuse a column of a source that has none.

    Raises:
        ConfigError: the spec names another column than `text` or `content`.
    """
    if spec.column not in TEXT_COLUMNS:
        raise ConfigError(
            f"dataset {spec.name!r}: no column {spec.column!r}, for each of its files is one document; "
            f"use {spec.name}:{spec.split}:{TEXT_COLUMNS[0]}"
        )


class Source(Protocol):
    """A source of documents."""

    spec: Spec

    @property
    def skipped(self) -> Counter[str]:
        """Number of files that are not read, by reason; filled by `pieces`."""

    def as_input(self) -> Input:
        """Describe the source as an input, with a digest of its content or its commit."""

    def pieces(self, spool: Path) -> Iterator[Piece]:
        """Yield the pieces in a fixed order; remote data are first downloaded to the folder `spool`."""


def content_digest(files: Sequence[tuple[str, Path]], facts: Sequence[str] = (), engine: Engine | None = None) -> str:
    """Hash names and contents of files, in order; for an unreadable file, its name and the error.

    Of files of a store, which may be terabytes, their stamps are hashed instead.

    `facts` are hashed too: what documents say that stands in none of the files. Files are read by tasks of the engine,
    or here.
    """
    total = hashlib.sha256()
    for (name, _), content in zip(files, on_each(_content_of, [path for _, path in files], engine), strict=True):
        total.update(f"{name}\0{content}\n".encode(errors="backslashreplace"))
    for fact in facts:
        total.update(f"\0{fact}\n".encode(errors="backslashreplace"))
    return "sha256:" + total.hexdigest()


def _content_of(path: Path) -> str:
    if isinstance(path, StorePath):
        return path.held().stamp
    try:
        return sha256_of(path)
    except OSError as error:
        return str(error.strerror)
