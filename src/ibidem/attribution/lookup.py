"""Which training documents a text repeats or resembles, the license of each, and whether it was removed since.

    text           ... def merge(a, b): ... return out ...  # Licensed under the Apache License ...
    spans          [-------- 74 tokens --------]            [---- 61 tokens ----]
    documents      tools/merge.py, MIT                      1,204 documents: common

A span is a sequence of tokens of the text that occurs in the documents, and that no longer one contains. A text is
encoded as a whole: near its beginning, and wherever it differs from a document, a few tokens may be cut in another way
than in the document, so a copy may be found some characters shorter than it is. A second look finds passages that are
only similar to one of a document.
"""

import mmap
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property
from heapq import nlargest
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import feather

from ibidem import artifacts
from ibidem.attribution.config import COMMON_DOCUMENTS, LEAST_SIMILARITY, LEAST_TOKENS
from ibidem.attribution.index import (
    DATASET,
    DOCUMENTS,
    FACTS,
    IDS,
    KIND,
    SHINGLES,
    SUFFIXES,
    TOKENS,
    TOPS,
    parent,
    parent_path,
)
from ibidem.attribution.similar import Passage, passage, sample, sharing, shingles
from ibidem.attribution.suffix_array import TOP_IDS, Ids, Span, maximal, occurrences, open_from, spans
from ibidem.data import shards
from ibidem.errors import ArtifactError, ConfigError
from ibidem.readers import Readers, check_reader, readers_of
from ibidem.tokenization.tokenizer import Tokenizer

MOST_TOKENS = 1 << 20
"""Of a text."""
MOST_PLACES = 1 << 16
"""Of a span in a part: in how many documents the others are is not counted."""
MOST_SOURCES = 10
"""Documents that are named for a span."""
MOST_CANDIDATES = 32
"""Documents that are compared with a text whole: those that share most of its shingles."""
MOST_COVERED = 0.9
"""Share of a passage that the spans of a text cover; a passage that they cover more is left out."""
IDENTITY = ["sha256", "source", "record"]
"""Columns that are alike only in the rows of one document."""


class Source(NamedTuple):
    """A document that contains a span."""

    sha256: str
    facts: dict[str, str | None]
    """Record, repository, path, license, SWHID and more, as the dataset had them."""
    is_removed: bool | None
    """Whether the dataset no longer has it; None: the dataset is not where it was."""


class Repetition(NamedTuple):
    """A span of a text that occurs in training documents."""

    start: int
    """In characters of the text."""
    end: int
    num_tokens: int
    num_places: int
    """Number of places in the documents where it occurs."""
    num_documents: int
    """Number of these documents, each once, however often it was trained on; of the first `MOST_PLACES` places of a
    part, if it has more."""
    is_common: bool
    """Whether more documents have it than a text repeats by chance or by copying."""
    sources: tuple[Source, ...]
    """Up to `MOST_SOURCES` of them, in the order of the training's documents."""


class Resemblance(NamedTuple):
    """A passage of a text that is similar to one of a training document."""

    start: int
    """In characters of the text."""
    end: int
    similarity: float
    """Jaccard index of the passage's 3-word runs and those of its counterpart, above 0 to 1."""
    source: Source


class _Part:
    """The ids of a part, their suffix array and shingles, and its documents; all mapped into memory."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.ids_N: Ids = _mapped(folder / IDS, dtype)
        self.suffixes_N: NDArray[np.int32] = _mapped(folder / SUFFIXES, "int32")
        self.tops_R: Ids = np.fromfile(folder / TOPS, dtype).reshape(-1, 1 + TOP_IDS)
        self.postings_S: NDArray[np.uint64] = _mapped(folder / SHINGLES, "uint64")
        self._folder = folder

    @cached_property
    def documents(self) -> pa.Table:
        return feather.read_table(str(self._folder / DOCUMENTS), memory_map=True)

    @cached_property
    def _starts_D(self) -> NDArray[np.int64]:  # noqa: N802 - the shape
        starts: NDArray[np.int64] = self.documents["start"].to_numpy()
        return starts

    def spans(self, text_Q: Ids, least: int) -> list[Span]:
        """Return the maximal spans of a text that occur in the part, in order."""
        return spans(self.ids_N, self.suffixes_N, self.tops_R, text_Q, least)

    def occurrences(self, sequence_Q: Ids) -> NDArray[np.int32]:
        """Return the places where a sequence occurs, int32 [P]."""
        return occurrences(self.ids_N, self.suffixes_N, self.tops_R, sequence_Q)

    def open_from(self, text_Q: Ids, start: int) -> int:
        """Return the first place, not before `start`, from which the rest of a text occurs in the part."""
        return open_from(self.ids_N, self.suffixes_N, self.tops_R, text_Q, start)

    def ids_of(self, row: int) -> list[int]:
        """Return the ids of a document."""
        start = int(self._starts_D[row])
        ids: list[int] = self.ids_N[start : start + self.documents["tokens"][row].as_py()].tolist()
        return ids

    def rows_at(self, places_P: NDArray[np.int32]) -> list[int]:
        """Return the rows of the documents in which places are, ascending."""
        rows: list[int] = np.unique(np.searchsorted(self._starts_D, places_P, side="right") - 1).tolist()
        return rows

    def identities(self, rows: Sequence[int]) -> Iterator[tuple[str | None, ...]]:
        """Return what tells the documents of some rows apart; a blend may have a document several times."""
        documents = self.documents.select(IDENTITY).take(pa.array(rows, pa.int64()))
        return zip(*(column.to_pylist() for column in documents.columns), strict=True)


def _mapped(path: Path, dtype: str) -> Any:
    """Map a file into memory, to be read page by page: a search jumps, and what is around a page is of no use."""
    if not path.stat().st_size:
        return np.empty(0, dtype)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        pages.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(pages, dtype)


class Attribution:
    """An index that is open, and the tokenizer of its tokens."""

    def __init__(
        self,
        folder: Path,
        *,
        least_tokens: int = LEAST_TOKENS,
        common_documents: int = COMMON_DOCUMENTS,
        principal: str | None = None,
    ) -> None:
        """Map an index into memory.

        Args:
            folder: of the index.
            least_tokens: smallest length of a span.
            common_documents: a span of more documents is common.
            principal: who asks; None: the user who runs the program.

        Raises:
            AccessDenied: the tokens are of private documents, and the principal is not among their readers.
            ArtifactError: the index, its tokens or their tokenizer are missing or damaged.
            ConfigError: the tokens are no longer those that were indexed.
        """
        self._index = artifacts.load(folder, kind=KIND)
        if not {"parts", "shingles"} <= set(self._index.config):
            raise ArtifactError(f"{folder}: an index of another version of ibidem; run ibidem attribute build again")
        check_reader(self._index, principal)
        artifacts.check(self._index)
        tokens = parent(self._index, TOKENS)
        self.tokenizer = Tokenizer.load(parent(tokens, "tokenizer").path)
        self._least, self._common = least_tokens, common_documents
        self._known: tuple[tuple[int, int] | None, Container[str] | None] | None = None
        dtype = self._index.config["dtype"]
        self._dtype = np.dtype(dtype)
        self._parts = [
            _Part(self._index.path / part, dtype)
            for part in self._index.config["parts"]
            if self._index.files[f"{part}/{IDS}"].bytes
        ]

    @property
    def digest(self) -> str:
        """Digest of the index."""
        return self._index.digest

    @property
    def readers(self) -> Readers | None:
        """Who may read what it is of; None: everyone."""
        return readers_of(self._index.config)

    @cached_property
    def _bytes_of_V(self) -> list[bytes]:  # noqa: N802 - the shape
        """What each id adds to a document; a special token, which parts two words, a blank."""
        texts = self.tokenizer.texts_of_V
        return [each if isinstance(each, bytes) else each.encode() or b" " for each in texts]

    def of_text(self, text: str) -> list[Repetition]:
        """Return the spans of a text that occur in training documents, in order.

        Raises:
            ConfigError: the text has more than `MOST_TOKENS` tokens.
        """
        if len(text) > MOST_TOKENS * 16:
            raise ConfigError(f"a text of {len(text):,} characters are too many; cut it into parts")
        ids = self.tokenizer.encode(text)
        if len(ids) > MOST_TOKENS:
            raise ConfigError(
                f"a text of {len(ids):,} tokens is too long, the most are {MOST_TOKENS:,}; cut it into parts"
            )
        spans_T2 = self.tokenizer.spans(text, ids)
        return [
            repetition._replace(start=int(spans_T2[repetition.start, 0]), end=int(spans_T2[repetition.end - 1, 1]))
            for repetition in self.of_ids(ids)
        ]

    def similar_to(
        self, text: str, known: Sequence[Repetition] = (), *, least_similarity: float = LEAST_SIMILARITY
    ) -> list[Resemblance]:
        """Return passages of a text that are similar to ones of training documents: one a document, the longest first.

        Args:
            text: of any length.
            known: spans of the text; a passage that they cover is left out.
            least_similarity: of the passages, above 0 to 1.
        """
        text_W = shingles(text.encode(errors="replace"))
        sampled = sample(text_W)
        candidates = [
            (count, part, row)
            for part in self._parts
            for row, count in zip(*(each.tolist() for each in sharing(part.postings_S, sampled)), strict=True)
        ]
        found: dict[tuple[str | None, ...], Resemblance] = {}
        for _, part, row in nlargest(MOST_CANDIDATES, candidates, key=lambda each: each[0]):
            [identity] = part.identities([row])
            document = b"".join([self._bytes_of_V[number] for number in part.ids_of(row)])
            alike = passage(text, text_W, shingles(document))
            if alike is None or alike.similarity < least_similarity or _covered(alike, known) > MOST_COVERED:
                continue
            found.setdefault(identity, Resemblance(*alike, self._source(part.documents.slice(row, 1).to_pylist()[0])))
        longest = sorted(found.values(), key=lambda each: (each.start - each.end) * each.similarity)
        return longest[:MOST_SOURCES]

    def of_ids(self, ids: Sequence[int]) -> list[Repetition]:
        """Return the spans of a sequence of ids, as `of_text` does; start and end count ids.

        No span contains a document token: none crosses from a document into another.
        """
        text_Q = np.array(ids, self._dtype)
        found: list[Span] = []
        for start, end in _between(text_Q, self._index.config["document_id"]):
            of_parts = (part.spans(text_Q[start:end], self._least) for part in self._parts)
            found += (Span(start + each.start, start + each.end) for each in maximal([*chain.from_iterable(of_parts)]))
        return [self._repetition(span, text_Q[span.start : span.end]) for span in found]

    def open_from(self, ids: Sequence[int]) -> int:
        """Return from which place on the end of a sequence may be the start of a longer span; its length if nowhere.

        A span that has the least length already is one of `of_ids`, and is not looked for.
        """
        text_Q = np.array(ids, self._dtype)
        start = max(0, len(ids) - self._least)
        return min((part.open_from(text_Q, start) for part in self._parts), default=len(ids))

    def _repetition(self, span: Span, sequence_Q: Ids) -> Repetition:
        num_places, known, sources = 0, set[tuple[str | None, ...]](), list[Source]()
        for part in self._parts:
            places_P = part.occurrences(sequence_Q)
            if not len(places_P):
                continue
            num_places += len(places_P)
            rows = part.rows_at(places_P[:MOST_PLACES])
            for row, document in zip(rows, part.identities(rows), strict=True):
                if document not in known and len(sources) < MOST_SOURCES:
                    sources.append(self._source(part.documents.slice(row, 1).to_pylist()[0]))
                known.add(document)
        num_tokens, is_common = span.end - span.start, len(known) > self._common
        return Repetition(*span, num_tokens, num_places, len(known), is_common, tuple(sources))

    def _source(self, document: Mapping[str, Any]) -> Source:
        sha256 = document["sha256"]
        return Source(sha256, {name: document[name] for name in FACTS}, self._is_removed(sha256))

    def _is_removed(self, sha256: str) -> bool | None:
        present = self._present()
        return None if present is None else sha256 not in present

    def _present(self) -> Container[str] | None:
        """Return the hashes of the documents that the dataset still has; None: it is not where it was.

        They are read again when its manifest has changed: a server may run longer than from one takedown to the next.
        """
        state = _state_of(parent_path(self._index, DATASET) / artifacts.MANIFEST)
        if self._known is None or self._known[0] != state:
            self._known = (state, self._read_present())
        return self._known[1]

    def _read_present(self) -> Container[str] | None:
        try:
            parent(self._index, DATASET)
        except ConfigError:  # it has changed since
            dataset = artifacts.load(parent_path(self._index, DATASET))
        except ArtifactError:
            return None
        else:
            return _All()
        columns = (pq.read_table(path, columns=["sha256"])["sha256"] for path in shards.checked_shards(dataset))
        return {sha256 for column in columns for sha256 in column.to_pylist()}


def _covered(alike: Passage, known: Sequence[Repetition]) -> float:
    """Return the share of a passage's characters in spans.

    >>> spans = [Repetition(start, end, 9, 1, 1, False, ()) for start, end in ((0, 4), (2, 6), (9, 99))]
    >>> _covered(Passage(0, 10, 1.0), spans)
    0.7
    """
    covered, reached = 0, alike.start
    for each in known:  # in order, and none within another one
        covered += max(0, min(each.end, alike.end) - max(each.start, reached))
        reached = max(reached, each.end)
    return covered / (alike.end - alike.start)


def _state_of(path: Path) -> tuple[int, int] | None:
    """Return what differs between two versions of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _between(text_Q: Ids, separator: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the parts between separators.

    >>> list(_between(np.array([7, 7, 0, 8]), 0)), list(_between(np.array([7, 7]), 0))
    ([(0, 2), (3, 4)], [(0, 2)])
    """
    edges = [-1, *np.flatnonzero(text_Q == separator).tolist(), len(text_Q)]
    yield from ((before + 1, after) for before, after in pairwise(edges))


class _All:
    """Contains everything."""

    def __contains__(self, _: object) -> bool:
        return True
