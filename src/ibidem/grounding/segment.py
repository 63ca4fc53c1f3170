"""Segments: the documents of one access class on disk, and what is needed to find their chunks.

    <segment>/documents.arrow    path, text (zstd, in blocks of 4,096 characters), number of chunks; ordered by path
              chunks.arrow       id, title, start, end, number of terms; ordered by (path, start)
              terms.arrow        the hash of each term, ascending, and its number of postings
              postings.arrow     chunk and count, ordered by (term, chunk)
              vectors.npy        float32 [N, D], of length 1; only with an encoder

A segment is never changed: a change writes another one, from the `Entry` of each of its documents. An entry depends on
its document, the key and the encoder alone, so a segment is the same bytes however its documents came together.

Legend: N chunks, D width of vectors, P postings, T distinct terms.
"""

import hmac
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray

from ibidem.errors import DataError, DigestMismatch
from ibidem.grounding.encoder import Encoder
from ibidem.grounding.store import Access, Chunk, Indexed, Span
from ibidem.grounding.terms import hashes

DOCUMENTS, CHUNKS, TERMS, POSTINGS = "documents.arrow", "chunks.arrow", "terms.arrow", "postings.arrow"
VECTORS = "vectors.npy"
ID_BYTES = 16

_BLOCK_CHARS = 1 << 12
_of_thread = threading.local()
_DOCUMENT_FIELDS = {"path": pa.string(), "text": pa.list_(pa.large_binary()), "chunks": pa.int32()}
_CHUNK_FIELDS = {
    "id": pa.binary(ID_BYTES),
    "title": pa.list_(pa.string()),
    "start": pa.int64(),
    "end": pa.int64(),
    "terms": pa.int32(),
}
_TERM_FIELDS = {"term": pa.uint64(), "postings": pa.int32()}
_POSTING_FIELDS = {"chunk": pa.int32(), "count": pa.int32()}


class Entry(NamedTuple):
    """One document as segments hold it."""

    path: str
    blocks: tuple[bytes, ...]
    spans: tuple[Span, ...]
    ids: tuple[bytes, ...]
    num_terms_N: NDArray[np.int32]
    """Terms of each chunk, repeats included."""
    num_postings_N: NDArray[np.int32]
    """Distinct terms of each chunk."""
    terms_P: NDArray[np.uint64]
    """Ascending within each chunk."""
    counts_P: NDArray[np.int32]
    vectors_ND: NDArray[np.float32] | None


def keyed(key: bytes, *parts: str) -> str:
    """Return the HMAC-SHA-256 of some texts, in hexadecimal; no two lists of texts are joined to the same bytes."""
    joined = b"".join(b"%d:%b" % (len(data), data) for data in (p.encode(errors="surrogatepass") for p in parts))
    return hmac.digest(key, joined, sha256).hex()


def name_of(key: bytes, access: Access) -> str:
    """Return the name of an access class's segment."""
    return keyed(key, "segment", *sorted(access.read), "", *sorted(access.deny))[:16]


def make_entry(document: Indexed, key: bytes, encoder: Encoder | None) -> Entry:
    """Prepare a document for a segment.

    Raises:
        DataError: its path or a title is not valid Unicode, a span is outside its text, or a vector is not finite.
    """
    _check_document(document)
    texts = [document.text[span.start : span.end] for span in document.chunks]
    counted = [Counter(hashes("\n".join((*span.title, text)), key)) for span, text in _zip(document.chunks, texts)]
    ordered = [sorted(counter.items()) for counter in counted]
    occurrences: Counter[str] = Counter()
    ids = []
    for text in texts:
        occurrences[text] += 1
        ids.append(bytes.fromhex(keyed(key, "chunk", document.path, text, str(occurrences[text]))[: 2 * ID_BYTES]))
    flat = [pair for pairs in ordered for pair in pairs]
    return Entry(
        path=document.path,
        blocks=_compressed(document.text),
        spans=document.chunks,
        ids=tuple(ids),
        num_terms_N=np.array([counter.total() for counter in counted], np.int32),
        num_postings_N=np.array([len(pairs) for pairs in ordered], np.int32),
        terms_P=np.array([term for term, _ in flat], np.uint64),
        counts_P=np.array([count for _, count in flat], np.int32),
        vectors_ND=_vectors(document, texts, encoder),
    )


def _check_document(document: Indexed) -> None:
    try:
        for name in (document.path, *(title for span in document.chunks for title in span.title)):
            name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{document.path!r}: its path, or a heading, is not valid Unicode") from None
    before = 0
    for span in document.chunks:
        if not before <= span.start < span.end <= len(document.text):
            raise DataError(f"{document.path!r}: the chunk {span.start} to {span.end} is empty, or out of order")
        before = span.start


def _vectors(document: Indexed, texts: Sequence[str], encoder: Encoder | None) -> NDArray[np.float32] | None:
    if encoder is None:
        return None
    titled = ["\n".join((*span.title, text)) for span, text in _zip(document.chunks, texts)]
    vectors_ND = encoder.encode(titled) if titled else np.empty((0, encoder.width), np.float32)
    if not np.isfinite(vectors_ND).all():
        raise DataError(f"{document.path!r}: the encoder returns vectors that are not finite")
    return np.ascontiguousarray(vectors_ND, np.float32)


def _zip(spans: Sequence[Span], texts: Sequence[str]) -> Iterator[tuple[Span, str]]:
    return zip(spans, texts, strict=True)


def _compressed(text: str) -> tuple[bytes, ...]:
    parts = (text[start : start + _BLOCK_CHARS] for start in range(0, len(text), _BLOCK_CHARS))
    return tuple(zstandard.compress(part.encode(errors="surrogatepass")) for part in parts)


def write_segment(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the files of a segment from its documents, which are ordered by path."""
    folder.mkdir()
    spans = [span for entry in entries for span in entry.spans]
    documents = {
        "path": [entry.path for entry in entries],
        "text": [entry.blocks for entry in entries],
        "chunks": [len(entry.spans) for entry in entries],
    }
    chunks = {
        "id": [chunk_id for entry in entries for chunk_id in entry.ids],
        "title": [span.title for span in spans],
        "start": [span.start for span in spans],
        "end": [span.end for span in spans],
        "terms": _joined([entry.num_terms_N for entry in entries], np.int32),
    }
    _write(folder / DOCUMENTS, documents, _DOCUMENT_FIELDS)
    _write(folder / CHUNKS, chunks, _CHUNK_FIELDS)
    _write_postings(folder, entries)
    vectors = [entry.vectors_ND for entry in entries if entry.vectors_ND is not None]
    if vectors:
        np.save(folder / VECTORS, np.concatenate(vectors), allow_pickle=False)


def _write_postings(folder: Path, entries: Sequence[Entry]) -> None:
    num_postings_N = _joined([entry.num_postings_N for entry in entries], np.int32)
    terms_P = _joined([entry.terms_P for entry in entries], np.uint64)
    counts_P = _joined([entry.counts_P for entry in entries], np.int32)
    chunks_P = np.repeat(np.arange(len(num_postings_N), dtype=np.int32), num_postings_N)
    by_term = np.argsort(terms_P, kind="stable")
    terms_T, postings_T = np.unique(terms_P, return_counts=True)
    _write(folder / TERMS, {"term": terms_T, "postings": postings_T.astype(np.int32)}, _TERM_FIELDS)
    _write(folder / POSTINGS, {"chunk": chunks_P[by_term], "count": counts_P[by_term]}, _POSTING_FIELDS)


def _joined(arrays: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])


def _write(path: Path, columns: Mapping[str, Any], fields: Mapping[str, pa.DataType]) -> None:
    batch = pa.record_batch({name: pa.array(columns[name], kind) for name, kind in fields.items()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


class Segment:
    """A segment on disk, mapped into memory; its files were checked against the manifest."""

    def __init__(self, folder: Path) -> None:
        """Open a segment.

        Raises:
            DigestMismatch: a file cannot be read, or its numbers contradict one another.
        """
        self.folder = folder
        documents = _read(folder / DOCUMENTS, _DOCUMENT_FIELDS)
        chunks = _read(folder / CHUNKS, _CHUNK_FIELDS)
        terms, postings = _read(folder / TERMS, _TERM_FIELDS), _read(folder / POSTINGS, _POSTING_FIELDS)
        self.paths: list[str] = documents.column("path").to_pylist()
        self._texts = documents.column("text")
        self._first_blocks = self._texts.offsets.to_numpy()
        self._block_ends, self._block_bytes = _pieces(self._texts.values)
        self._titles = chunks.column("title")
        self._first_titles = self._titles.offsets.to_numpy()
        self.ids_N2 = _ids(chunks.column("id"))
        self.starts_N, self.ends_N = _numbers(chunks, "start"), _numbers(chunks, "end")
        self.num_terms_N = _numbers(chunks, "terms")
        self.terms_T, self.postings_T = _numbers(terms, "term"), _numbers(terms, "postings")
        self.chunks_P, self.counts_P = _numbers(postings, "chunk"), _numbers(postings, "count")
        self.vectors_ND = _read_vectors(folder / VECTORS)
        num_chunks = _numbers(documents, "chunks")
        self.firsts = np.concatenate([[0], np.cumsum(num_chunks, dtype=np.int64)])
        """Number of the first chunk of each document, and the number of chunks."""
        self._check()

    def _check(self) -> None:
        N = len(self.starts_N)
        whole = (
            self.firsts[-1] == N
            and (np.diff(self.firsts) >= 0).all()
            and (self.postings_T >= 0).all()
            and self.postings_T.sum(dtype=np.int64) == len(self.chunks_P)
            and (len(self.chunks_P) == 0 or (self.chunks_P.min() >= 0 and self.chunks_P.max() < N))
            and (self.vectors_ND is None or len(self.vectors_ND) == N)
            and (self.num_terms_N >= 0).all()
        )
        if not whole:
            raise DigestMismatch(f"{self.folder}: damaged; the lengths of its files contradict one another")

    @cached_property
    def document_N(self) -> NDArray[np.int64]:  # noqa: N802 - the shape
        """Document of each chunk."""
        return np.repeat(np.arange(len(self.paths)), np.diff(self.firsts))

    def text(self, document: int, start: int = 0, end: int | None = None) -> str:
        """Return a part of a document's text, reading only the blocks that hold it."""
        offset, past = self._first_blocks[document : document + 2].tolist()
        first, last = start // _BLOCK_CHARS, past - offset if end is None else -(-end // _BLOCK_CHARS)
        bounds = self._block_ends[offset + first : min(offset + last, past) + 1].tolist()
        decompress = _decompressor().decompress
        try:
            parts = [decompress(self._block_bytes[begin:stop]) for begin, stop in pairwise(bounds)]
            text = b"".join(parts).decode(errors="surrogatepass")
        except (zstandard.ZstdError, UnicodeDecodeError) as error:
            raise DigestMismatch(f"{self.folder / DOCUMENTS}: damaged; {error}") from None
        shift = first * _BLOCK_CHARS
        return text[start - shift : None if end is None else end - shift]

    def chunk(self, number: int) -> Chunk:
        """Return a chunk."""
        document, start, end = int(self.document_N[number]), int(self.starts_N[number]), int(self.ends_N[number])
        return Chunk(
            id=self.ids_N2[number].tobytes().hex(),
            path=self.paths[document],
            title=self._title(number),
            start=start,
            end=end,
            text=self.text(document, start, end),
        )

    def spans(self, document: int) -> tuple[Span, ...]:
        """Return where the chunks of a document stand."""
        numbers = range(int(self.firsts[document]), int(self.firsts[document + 1]))
        return tuple(Span(self._title(n), int(self.starts_N[n]), int(self.ends_N[n])) for n in numbers)

    def _title(self, number: int) -> tuple[str, ...]:
        first, past = self._first_titles[number : number + 2].tolist()
        return tuple(self._headings[first:past])

    @cached_property
    def _headings(self) -> list[str]:
        return self._titles.values.to_pylist()  # type: ignore[no-any-return]

    def holds(self, number: int, document: Indexed) -> bool:
        """Return whether a document of the segment is still the same: its text, and its division into chunks."""
        return self.spans(number) == document.chunks and self.text(number) == document.text

    def entry(self, document: int) -> Entry:
        """Return a document as `write_segment` takes it."""
        first, past = int(self.firsts[document]), int(self.firsts[document + 1])
        terms_P, counts_P, ends_N = self._by_chunk
        postings = slice(ends_N[first], ends_N[past])
        return Entry(
            path=self.paths[document],
            blocks=tuple(self._texts[document].as_py()),
            spans=self.spans(document),
            ids=tuple(self.ids_N2[n].tobytes() for n in range(first, past)),
            num_terms_N=self.num_terms_N[first:past],
            num_postings_N=np.diff(ends_N[first : past + 1]).astype(np.int32),
            terms_P=terms_P[postings],
            counts_P=counts_P[postings],
            vectors_ND=None if self.vectors_ND is None else self.vectors_ND[first:past],
        )

    @cached_property
    def _by_chunk(self) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]:
        """Terms and counts ordered by (chunk, term), and where those of each chunk begin; [P], [P], [N + 1]."""
        order = np.argsort(self.chunks_P, kind="stable")
        terms_P = np.repeat(self.terms_T, self.postings_T)[order]
        sizes_N = np.bincount(self.chunks_P, minlength=len(self.starts_N))
        return terms_P, self.counts_P[order], np.concatenate([[0], np.cumsum(sizes_N)])


def _read(path: Path, fields: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DigestMismatch(f"{path}: damaged; {' '.join(str(error).split())[:200]}") from None
    if batch.schema != pa.schema(fields.items()) or any(column.null_count for column in batch.columns):
        raise DigestMismatch(f"{path}: damaged; it has other columns")
    return batch


def _read_vectors(path: Path) -> NDArray[np.float32] | None:
    if not path.exists():
        return None
    try:
        vectors_ND: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
        raise DigestMismatch(f"{path}: damaged; {error}") from None
    if vectors_ND.ndim != 2 or vectors_ND.dtype != np.float32:
        raise DigestMismatch(f"{path}: damaged; not float32 of two axes")
    return vectors_ND


def _numbers(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    return np.asarray(batch.column(name).to_numpy())


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor; making one takes three times as long as a block."""
    if not hasattr(_of_thread, "decompressor"):
        _of_thread.decompressor = zstandard.ZstdDecompressor()
    return _of_thread.decompressor  # type: ignore[no-any-return]


def _pieces(column: pa.LargeBinaryArray) -> tuple[NDArray[np.int64], memoryview]:
    """Return the offsets of the values of a column, and their bytes."""
    _, offsets, data = column.buffers()
    return np.frombuffer(offsets, np.int64, len(column) + 1), memoryview(data or b"")


def _ids(column: pa.FixedSizeBinaryArray) -> NDArray[np.uint64]:
    data = column.buffers()[1] if len(column) else b""
    return np.frombuffer(data, np.uint64, 2 * len(column)).reshape(-1, 2)
