"""Token windows: a tokenized dataset, read as one long row of ids.

    shard-00000                              shard-00001
    <document> a a a a a <document> b b b    <document> c c c c ...    <document>    the ids of a split, shard by shard
    [-------- window 0 --------][-------- window 1 --------]                         T inputs, and one more as a target

The document token precedes every document and ends the last one: from it the model learns how documents start, and
where they end. A file is opened when a window of it is read, so a dataset may have any number of them.
"""

import os
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import ne
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ibidem import artifacts
from ibidem.data import shards
from ibidem.errors import ArtifactError, DataError
from ibidem.records import IDS_FILES

KIND = "tokens"
SPLITS = ("train", "validation")
DOCUMENT_ID = "document_id"
"""In the config of tokens: the id of the document token."""
MOST_OPEN = 256
"""Files that are open at once."""
DEFAULT_SHARE, FEWEST_HELD_OUT = 0.02, 8
"""What is held out by default: this share of the documents, and of a small dataset this number of them."""

FEWEST_CHARACTERS = 3
"""Of a document that can be cut in three."""

Ids = NDArray[np.int64]


class Codec(Protocol):
    """What fill-in-the-middle requires of a tokenizer."""

    @property
    def is_imported(self) -> bool:
        """Whether it was trained elsewhere."""

    @property
    def bytes_of_V(self) -> NDArray[np.int32]:  # noqa: N802 - the shape
        """Number of bytes of text that each id represents."""

    def encode_continued(self, text: str) -> list[int]:
        """Return the ids of a text that continues another."""

    def bytes_of(self, ids: Ids, before: Ids) -> NDArray[np.int32]:
        """Return the number of bytes of text of each id, given the id before it."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; never that of a special token."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids."""


class Fim(NamedTuple):
    """How to fill in the middle: the special tokens, and how often."""

    codec: Codec
    document: int
    prefix: int
    middle: int
    suffix: int
    rate: float
    """Share of the documents that are changed."""
    spm_rate: float
    """Share of these whose suffix comes first."""


def default_share(sha256s: Iterable[str]) -> float:
    """Return the share of the documents to hold out: 2 %, or as much as holds out eight of a few, at most half.

    >>> default_share(f"{number:02x}" * 32 for number in range(100))
    0.03
    """
    places = sorted(map(shards.place_of, set(sha256s)))
    if len(places) < 2 or FEWEST_HELD_OUT <= bisect_left(places, DEFAULT_SHARE) <= len(places) // 2:
        return DEFAULT_SHARE
    return share_before(places, min(FEWEST_HELD_OUT, len(places) // 2))


def share_before(places: Sequence[float], count: int) -> float:
    """Return a share that holds out exactly the first `count` places, with as few digits as that takes.

    >>> share_before([0.123, 0.5, 0.9], 1)
    0.31
    """
    low, high = places[count - 1], places[count]
    middle = (low + high) / 2
    return next((share for digits in range(2, 12) if low < (share := round(middle, digits)) <= high), middle)


def dtype_of(vocab_size: int) -> "np.dtype[Any]":
    """Return the type of the ids of a vocabulary.

    >>> dtype_of(65_536).name, dtype_of(65_537).name
    ('uint16', 'uint32')
    """
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class Windows:
    """The windows of one split of a tokenized dataset: the ids of all its shards, one after another."""

    def __init__(self, tokens: artifacts.Artifact, split: str, context: int) -> None:
        """Find the shards; none is read.

        Raises:
            ArtifactError: the tokens were written by another version of ibidem.
            DataError: the split is shorter than one window.
        """
        if DOCUMENT_ID not in tokens.config:
            raise ArtifactError(f"{tokens.path}: tokens of another version of ibidem; tokenize the dataset again")
        self.context = context
        self._last, self._dtype = tokens.config[DOCUMENT_ID], np.dtype(tokens.config["dtype"])
        names = (name for name in tokens.files if PurePosixPath(name).name == IDS_FILES[split])
        self._names = sorted(names, key=lambda name: name.split("/"))
        sizes = [tokens.files[name].bytes // self._dtype.itemsize for name in self._names]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._files = _Files(tokens)
        num_ids = sum(sizes) + 1  # the document token that ends the last document
        self.number = (num_ids - 1) // context
        if self.number < 1:
            raise DataError(
                f"{tokens.path}: {split} has {num_ids} tokens, less than one window of {context} + 1; "
                "give more data, a smaller --data.context or another held-out share"
            )

    def __getitem__(self, index: int) -> Ids:
        """Return the context + 1 ids of a window; int64.

        Raises:
            DataError: a shard is gone, or is another one than before.
        """
        start, end = index * self.context, (index + 1) * self.context + 1
        shard, pieces = int(np.searchsorted(self._ends, start, side="right")), []
        while start < end and shard < len(self._names):
            first = int(self._ends[shard - 1]) if shard else 0
            stop = min(end, int(self._ends[shard]))
            pieces.append(self._read(self._names[shard], start - first, stop - start))
            start, shard = stop, shard + 1
        if start < end:
            pieces.append(np.array([self._last], self._dtype))
        return np.concatenate(pieces).astype(np.int64)

    def spread(self, number: int) -> list[int]:
        """Return the indices of `number` windows, evenly spread over the split."""
        number = min(number, self.number)
        return [index * self.number // number for index in range(number)]

    def _read(self, name: str, first: int, count: int) -> NDArray[Any]:
        size = self._dtype.itemsize
        return np.frombuffer(self._files.read(name, first * size, count * size), self._dtype)


class _Files:
    """Files of an artifact, opened when they are read; an artifact that takes its place is not read instead of it."""

    def __init__(self, artifact: artifacts.Artifact) -> None:
        self._artifact = artifact
        self._open: dict[str, int] = {}
        self._folder = os.open(artifact.path, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, _close_all, self._folder, self._open)

    def read(self, name: str, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._descriptor(name), size, offset)
        except OSError as error:
            raise self._changed(name, error.strerror or "cannot be read") from None
        if len(data) != size:
            raise self._changed(name, "shorter than before")
        return data

    def _descriptor(self, name: str) -> int:
        if (descriptor := self._open.pop(name, None)) is None:
            while len(self._open) >= MOST_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            descriptor = os.open(name, os.O_RDONLY, dir_fd=self._folder)
            if os.fstat(descriptor).st_size != self._artifact.files[name].bytes:
                os.close(descriptor)
                raise self._changed(name, "another size than its manifest says")
        self._open[name] = descriptor  # the last one used is the last one closed
        return descriptor

    def _changed(self, name: str, what: str) -> DataError:
        return DataError(
            f"{self._artifact.path / name}: {what}; the tokens changed while they were trained on; bring them back, "
            "and go on with --training.resume-from latest"
        )


def _close_all(folder: int, files: Mapping[str, int]) -> None:
    for descriptor in (folder, *files.values()):
        os.close(descriptor)


def fill_in_middle(ids: Ids, fim: Fim, *, rng: np.random.Generator) -> Ids:
    """Move the middle of some documents of a window to their ends, in one of two orders.

        <document> <prefix> a <suffix> c <middle> b        PSM: prefix, suffix, middle
        <document> <prefix> <suffix> c <middle> a b        SPM: suffix, prefix, middle

    A document's text is cut before two random characters, and each part is encoded alone, so that parts end within
    tokens, as prompts do. The window keeps its length: what no longer fits is lost at its end. A document that the
    window cuts is treated as if it were whole, unless the cut divides a character.
    Source: Bavarian et al. 2022, arXiv:2207.14255, sections 3 and 4 (context level, cut before encoding).
    """
    edges = [0, *(np.flatnonzero(ids[1:] == fim.document) + 1), len(ids)]
    pieces: list[Ids] = []
    for start, end in pairwise(edges):
        document = ids[start:end]
        changed = _rearranged(document, fim, rng) if rng.random() < fim.rate else None
        pieces.append(document if changed is None else changed)
    return np.concatenate(pieces)[: len(ids)]


def _rearranged(document: Ids, fim: Fim, rng: np.random.Generator) -> Ids | None:
    """Return a document with its middle at its end; None if it is too short, or its ids are not those of a text."""
    head = document[: int(document[0] == fim.document)]
    body = document[len(head) :]
    if not fim.codec.bytes_of_V[body].all():  # the markers of a conversation
        return None
    text, before = fim.codec.decode(body.tolist()), np.concatenate([[fim.document], body[:-1]])
    if len(text) < FEWEST_CHARACTERS or len(text.encode()) != fim.codec.bytes_of(body, before).sum():
        return None
    low, high = sorted(rng.integers(0, len(text) + 1, size=2).tolist())
    texts = text[:low], text[low:high], text[high:]
    prefix, middle, suffix = (fim.codec.encode(part) for part in texts)
    if fim.codec.is_imported and any(map(ne, map(fim.codec.decode, (prefix, middle, suffix)), texts)):
        return None  # it may take a blank for its own at the beginning of a part
    if rng.random() < fim.spm_rate:
        middle = fim.codec.encode_continued(text[low:high]) if low else middle
        parts = [fim.prefix, fim.suffix, *suffix, fim.middle, *prefix, *middle]
    else:
        parts = [fim.prefix, *prefix, fim.suffix, *suffix, fim.middle, *middle]
    changed = np.array([*head, *parts], dtype=np.int64)
    return changed if len(changed) >= len(document) else None
