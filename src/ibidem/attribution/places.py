"""How documents that a text repeats are written for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from ibidem.figures import visible
from ibidem.jsonl import Row


def place_of(source: Mapping[str, Any]) -> str:
    """Return the repository, path, license and SWHID of a document, and whether it was removed since, on one line."""
    place = " ".join(filter(None, (source["repo"], source["path"] or source["url"] or source["record"])))
    removed = "removed since" if source["is_removed"] else None
    return visible(", ".join(filter(None, [place, source["license"] or "no license", source["swhid"], removed])))


def longest_by_documents(spans: Iterable[Row]) -> dict[str, Row]:
    """Return the longest span of each set of documents, by the documents' places, the longest first.

    Args:
        spans: with start, end and sources, as an evaluation of what a model repeats has them.
    """
    longest: dict[str, Row] = {}
    for span in sorted(spans, key=lambda span: span["start"] - span["end"]):
        longest.setdefault("; ".join(map(place_of, span["sources"])), span)
    return longest


def variety(spans: Iterable[Row]) -> int:
    """Return the number of different words in spans: a ruler of a hundred dashes is one."""
    return len({word for span in spans for word in span["text"].split()})
