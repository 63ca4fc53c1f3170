"""Counts of documents, kept in the manifest: they add up over shards, and what is removed later is taken off again."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ibidem import artifacts

ASPECTS = ("license", "language", "natural_language", "category", "source")
Tally = Counter[tuple[str, str]]
"""Numbers by (what is counted, its value); the value is empty for a plain sum."""


def of_kept(facts: pa.Table, num_bytes: int) -> Tally:
    """Count rows of a shard, by every column but the text, and the bytes of their texts."""
    tally: Tally = Counter({("kept", ""): len(facts), ("bytes", ""): num_bytes})
    tally["chars", ""] = pc.sum(facts["num_chars"]).as_py() or 0
    for aspect in ASPECTS:
        for value in facts[aspect].value_counts().to_pylist():
            tally[aspect, value["values"] or "none"] += value["counts"]
    _, bits = np.frexp(facts["num_chars"].to_numpy().astype(np.float64))
    for length, count in enumerate(np.bincount(bits).tolist()):
        tally["lengths", f"{2**length}"] += count
    for scrubbed in facts["scrubbed"].to_pylist():
        for kind, count in scrubbed:
            tally["scrubbed", kind] += count
    return tally


def of_dropped(rows: pa.Table) -> Tally:
    """Count rows that describe dropped documents."""
    return Counter(
        {("dropped", value["values"]): value["counts"] for value in rows["reason"].value_counts().to_pylist()}
    )


def as_counts(tally: Tally, *, more: Mapping[str, Any]) -> dict[str, Any]:
    """Give the counts of a manifest: the largest first, equal ones by name.

    Kept + dropped + quarantined = read is asserted.
    """
    counts: dict[str, Any] = {name: tally[name, ""] for name in ("read", "kept", "quarantined", "chars", "bytes")}
    counts["license_unstated"] = tally["license", "none"]
    for name in ("dropped", "scrubbed", *ASPECTS):
        counts[name] = _of(tally, name)
    counts["lengths"] = {str(bound): tally["lengths", str(bound)] for bound in sorted(map(int, _of(tally, "lengths")))}
    assert counts["kept"] + sum(counts["dropped"].values()) + counts["quarantined"] == counts["read"]
    return counts | dict(more)


def from_counts(counts: Mapping[str, Any]) -> Tally:
    """Read the counts of a manifest back."""
    tally: Tally = Counter()
    for name in ("read", "kept", "quarantined", "chars", "bytes"):
        tally[name, ""] = counts[name]
    for name in ("dropped", "scrubbed", "lengths", *ASPECTS):
        for value, count in counts[name].items():
            tally[name, value] = count
    return tally


def total(tallies: Iterable[Tally]) -> Tally:
    """Add tallies up."""
    result: Tally = Counter()
    for tally in tallies:
        result.update(tally)
    return result


def write(path: Path, tally: Tally) -> None:
    """Write a tally, whole or not at all."""
    artifacts.write_file(path, json.dumps([[what, value, number] for (what, value), number in tally.items()]))


def read(path: Path) -> Tally:
    """Read a tally that was written."""
    return Counter({(what, value): number for what, value, number in json.loads(path.read_text(encoding="utf-8"))})


def _of(tally: Tally, name: str) -> dict[str, int]:
    found = [(value, count) for (what, value), count in tally.items() if what == name and count]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))
