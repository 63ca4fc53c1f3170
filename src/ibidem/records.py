"""The nouns that travel between the rooms."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Category = Literal["code", "text", "instruction"]


@dataclass(frozen=True)
class Drop:
    """Why a document does not enter the corpus."""

    reason: str
    """One of `data.preprocess.DropReason`."""
    detail: str | None = None
    """The evidence, short."""
    kept: str | None = None
    """The record that stands for a duplicate."""
    similarity: float | None = None


@dataclass(frozen=True)
class Unreadable:
    """Input that could not become a document."""

    file: str
    line: int | None
    """1-based line or row; None where the whole file is meant."""
    reason: str


@dataclass
class Document:
    """One document on its way from a source to a shard. `drop` is set by the step that judges against it."""

    text: str
    raw: bytes
    """The source's own bytes of the text, before anything was changed."""
    source: str
    revision: str | None
    record: str
    """The source's own id, otherwise `file:row`."""
    repo: str | None = None
    path: str | None = None
    category: Category = "text"
    language: str | None = None
    license_raw: object = None
    license_stated: bool = False
    """Whether the source states licenses at all."""
    license: str | None = None
    code_blocks: tuple[tuple[int, int, str | None], ...] = ()
    """Fenced code blocks as (start, end, language), in characters of `text`."""
    drop: Drop | None = None
    source_position: tuple[int, int] = (0, 0)
    """(number of the source, position in it), counted over everything that was read; decides the shard."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the text as it enters the shard; take it only when the text is final."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def raw_sha256(self) -> str:
        """Hash of the source's own bytes."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def swhid(self) -> str:
        """Software Heritage identifier of the source's own bytes: the git blob hash.

        >>> Document(text="", raw=b"", source="s", revision=None, record="1").swhid
        'swh:1:cnt:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
        """
        blob = b"blob %d\0" % len(self.raw) + self.raw
        return "swh:1:cnt:" + hashlib.sha1(blob, usedforsecurity=False).hexdigest()
