"""Duplicates: what is the same as a document that is kept."""

from collections.abc import Iterable, Iterator

from ibidem.records import Document, Drop


def drop_exact_duplicates(documents: Iterable[Document]) -> Iterator[Document]:
    """Keep the first of the documents with the same text; the others name it."""
    kept: dict[bytes, str] = {}
    for document in documents:
        if document.drop is None:
            key = bytes.fromhex(document.sha256)
            if key in kept:
                document.drop = Drop("duplicate.exact", kept=kept[key], similarity=1.0)
            else:
                kept[key] = document.record
        yield document
