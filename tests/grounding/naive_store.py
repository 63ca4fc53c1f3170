"""A naive store in memory, and the leaks that real stores have; each leak can be switched on."""

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tests.grounding.worlds import Bag

from ibidem.errors import AccessDenied
from ibidem.grounding.store import Access, Chunk, Hit, Indexed, Query, Rules

LEAKS = (
    *(
        "idf of all documents",
        "mean length of all documents",
        "filter behind the ranking",
        "ties by place in the whole",
    ),
    *("cache without principal", "cache without rules", "rules of the indexing", "deny loses"),
    *("numbered ids", "twins are merged", "error that tells", "forgotten stays", "count of all"),
)
"""What stores do that cannot keep documents apart."""


class Row(NamedTuple):
    """A chunk with its words."""

    chunk: Chunk
    words: Counter[str]
    access: Access
    vector: tuple[float, ...]


class NaiveStore:
    """Scores every permitted chunk by BM25, and by the cosine if there is an encoder."""

    def __init__(self, encoder: Bag | None, leak: str = "") -> None:
        assert leak in ("", *LEAKS)
        self.digest, self._encoder, self._leak = "", encoder, leak
        self._rows: list[Row] = []
        self._forgotten: set[str] = set()
        self._cache: dict[object, list[Hit]] = {}

    def update(self, documents: Iterable[Indexed], rules: Rules) -> None:
        self._rows = []
        for document in documents:
            if not any(document.path == each or document.path.startswith(each + "/") for each in self._forgotten):
                self._rows += self._rows_of(document, rules)
        self._rows.sort(key=lambda row: (row.chunk.path, row.chunk.start))
        if self._leak == "ties by place in the whole":
            middle = len(self._rows) // 2
            self._rows = self._rows[middle:] + self._rows[:middle]
        self._cache.clear()

    def forget(self, path: str) -> int:
        gone = {row.chunk.path for row in self._rows if f"{row.chunk.path}/".startswith(f"{path}/")}
        self._forgotten |= {path} if gone else set()
        if self._leak != "forgotten stays":
            self._rows = [row for row in self._rows if row.chunk.path not in gone]
        self._cache.clear()
        return len(gone)

    def chunk(self, chunk_id: str, principal: str, rules: Rules) -> Chunk:
        for row in self._rows:
            if row.chunk.id == chunk_id:
                if self._permits(row, principal, rules):
                    return row.chunk
                if self._leak == "error that tells":
                    raise AccessDenied(f"{principal} may not read {chunk_id}")
        raise AccessDenied(f"{chunk_id}: no such chunk, or {principal} may not read it")

    def search(self, query: Query, principal: str, rules: Rules, k: int) -> list[Hit]:
        name: object = (query.text, k, principal, rules.version)
        if self._leak == "cache without principal":
            name = (query.text, k, rules.version)
        if self._leak == "cache without rules":
            name = (query.text, k, principal)
        if name not in self._cache:
            self._cache[name] = self._search(query, principal, rules, k)
        return self._cache[name]

    def _search(self, query: Query, principal: str, rules: Rules, k: int) -> list[Hit]:
        permitted = [row for row in self._rows if self._permits(row, principal, rules)]
        if self._leak == "filter behind the ranking":
            best = self._ranked(query, self._rows, self._rows)[:k]
            return [hit for hit in best if any(row.chunk == hit.chunk for row in permitted)]
        if self._leak == "count of all":
            k = min(k, 3 + len(self._rows) // 8)
        if self._leak == "twins are merged":
            first = {row.chunk.text: row for row in reversed(self._rows)}
            permitted = [row for row in permitted if first[row.chunk.text] is row]
        return self._ranked(query, permitted, permitted)[:k]

    def _ranked(self, query: Query, rows: list[Row], counted: list[Row]) -> list[Hit]:
        everything = self._rows
        n = len(everything if self._leak == "idf of all documents" else counted)
        of_lengths = everything if self._leak == "mean length of all documents" else counted
        mean = sum(row.words.total() for row in of_lengths) / len(of_lengths) if of_lengths else 1.0
        scores = [0.0] * len(rows)
        for word, times in sorted(Counter(_words(query.text)).items()):
            held = sum(word in row.words for row in (everything if self._leak == "idf of all documents" else counted))
            idf = times * math.log(1 + (n - held + 0.5) / (held + 0.5))
            for place, row in enumerate(rows):
                tf = row.words[word]
                scores[place] += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * row.words.total() / mean))
        order = sorted((place for place in range(len(rows)) if scores[place] > 0), key=lambda place: -scores[place])
        if query.vector_D is not None and self._encoder is not None:
            near = [sum(a * b for a, b in zip(row.vector, query.vector_D.tolist(), strict=True)) for row in rows]
            by_vector = sorted(range(len(rows)), key=lambda place: -near[place])
            scores = [0.0] * len(rows)
            for ranking in (order, by_vector):
                for rank, place in enumerate(ranking, 1):
                    scores[place] += 1 / (60 + rank)
            order = sorted(by_vector, key=lambda place: -scores[place])
        return [Hit(rows[place].chunk, scores[place]) for place in order]

    def _rows_of(self, document: Indexed, rules: Rules) -> Iterable[Row]:
        texts = [document.text[span.start : span.end] for span in document.chunks]
        titled = ["\n".join((*span.title, text)) for span, text in zip(document.chunks, texts, strict=True)]
        vectors = self._encoder.encode(titled).tolist() if self._encoder and titled else [[]] * len(texts)
        access = rules.access(document.path)
        for place, (span, text) in enumerate(zip(document.chunks, texts, strict=True)):
            number = len(self._rows) + place if self._leak == "numbered ids" else texts[:place].count(text)
            id_ = hashlib.sha256(f"secret {document.path}\n{text}\n{number}".encode()).hexdigest()[:32]
            chunk = Chunk(id_, document.path, span.title, span.start, span.end, text)
            yield Row(chunk, Counter(_words(titled[place])), access, tuple(vectors[place]))

    def _permits(self, row: Row, principal: str, rules: Rules) -> bool:
        access = row.access if self._leak == "rules of the indexing" else rules.access(row.chunk.path)
        return rules.permits(principal, access._replace(deny=frozenset()) if self._leak == "deny loses" else access)


def _words(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text.casefold()).split()
