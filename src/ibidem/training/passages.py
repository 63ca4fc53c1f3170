"""Passages to learn from: the documents of a dataset, cut as those of an index are, or the chunks of a training set."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from ibidem import artifacts
from ibidem.data import shards
from ibidem.grounding.chunk import chunks
from ibidem.grounding.documents import definitions, markdown, plain
from ibidem.grounding.documents.readable import Content, Kind, Readable
from ibidem.grounding.training_set import read_chunks
from ibidem.training.tokens import default_share

_MARKDOWN = frozenset(["Markdown", "MDX"])


class Passages(NamedTuple):
    """Texts to learn from, and texts of other documents to measure on."""

    train: list[str]
    held_out: list[str]


def read_passages(dataset: artifacts.Artifact, max_chars: int, held_out_share: float | None) -> Passages:
    """Read the documents of a dataset and cut them; all passages of a document are on one side.

    Args:
        dataset: a preprocessed dataset.
        max_chars: maximum length of a passage.
        held_out_share: share of the documents to hold out; by default `tokens.default_share`.
    """
    found = [(row["sha256"], passage) for row in _rows(dataset) for passage in _passages(row, max_chars)]
    return _split(found, held_out_share)


def read_chunk_passages(training_set: artifacts.Artifact, held_out_share: float | None) -> Passages:
    """Read the chunks of a training set of RA-FT; all of a document are on one side, as `read_passages` splits."""
    found = [(sha256(chunk.path.encode()).hexdigest(), chunk.text) for chunk in read_chunks(training_set)]
    return _split(found, held_out_share)


def _split(found: Sequence[tuple[str, str]], held_out_share: float | None) -> Passages:
    share = default_share(key for key, _ in found) if held_out_share is None else held_out_share
    sides: tuple[list[str], list[str]] = [], []
    for key, passage in found:
        sides[shards.is_held_out(key, share)].append(passage)
    return Passages(*sides)


def _rows(dataset: artifacts.Artifact) -> Iterator[dict[str, str]]:
    for path in shards.shard_paths(dataset.path):
        yield from shards.read_rows(path, ["sha256", "text", "language", "category"])


def _passages(row: dict[str, str], max_chars: int) -> Iterator[str]:
    kind, content = _content(row["text"], row["language"], row["category"])
    document = Readable("", kind, content.text, content.sections, content.whole)
    for span in chunks(document, max_chars):
        yield content.text[span.start : span.end]


def _content(text: str, language: str | None, category: str) -> tuple[Kind, Content]:
    if language in _MARKDOWN:
        return "markdown", markdown.read(text)
    if category == "code":
        return "code", definitions.read(text, language)
    return "text", plain.read(text)
