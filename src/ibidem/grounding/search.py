"""`ibidem ground search` and `ground show`: passages for a principal, as text or JSON."""

import json
from typing import Any

from ibidem.figures import terminal_text, visible
from ibidem.grounding.config import GroundSearchConfig, GroundShowConfig
from ibidem.grounding.opening import opened
from ibidem.grounding.quotes import POOL
from ibidem.grounding.store import Chunk, Hit

SHOWN_CHARS = 300


def search(config: GroundSearchConfig) -> str:
    """Find passages, and return them as text or JSON.

    Raises:
        AccessDenied: the access rules or the index changed during the query.
        AuditError: the record cannot be written; nothing is shown then.
    """
    hits = found(config)
    if config.json:
        return json.dumps([as_row(hit) for hit in hits], ensure_ascii=False, indent=1)
    blocks = [
        f"{number}. {source_line(hit.chunk)}; score {hit.score:.3f}\n{_beginning(hit.chunk.text)}"
        for number, hit in enumerate(hits, 1)
    ]
    return "\n\n".join(blocks) or "No passage that you may read matches."


def found(config: GroundSearchConfig) -> list[Hit]:
    """Find passages; those that a head ranks are chosen from more than are shown."""
    with opened(config, config.principal) as retriever:
        pool = config.k if retriever.head is None else max(POOL, config.k)
        return retriever.search(config.query, config.principal, pool, lambda hits: hits[: config.k])


def show(config: GroundShowConfig) -> str:
    """Open a cited chunk.

    Raises:
        AccessDenied: there is no such chunk, or the principal may not read it; the message is the same.
    """
    with opened(config) as retriever:
        chunk = retriever.show(config.chunk, config.principal)
    return f"{source_line(chunk)}\n\n{terminal_text(chunk.text)}"


def as_row(hit: Hit) -> dict[str, Any]:
    """Return a hit as a JSON value: chunk, path, title, span, score, text."""
    chunk = hit.chunk
    return {
        "chunk": chunk.id,
        "path": chunk.path,
        "title": list(chunk.title),
        "span": [chunk.start, chunk.end],
        "score": hit.score,
        "text": chunk.text,
    }


def source_line(chunk: Chunk) -> str:
    """Return the position of a chunk, for people."""
    title = f", {' > '.join(chunk.title)}" if chunk.title else ""
    return visible(f"{chunk.path}{title}; characters {chunk.start:,} to {chunk.end:,}; chunk {chunk.id}")


def _beginning(text: str) -> str:
    flat = " ".join(text.split())
    return f"   {visible(flat if len(flat) <= SHOWN_CHARS else f'{flat[:SHOWN_CHARS]}...')}"
