"""Counts of documents in the manifest: they add up over shards, and later removals are subtracted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ASPECTS = ("license", "language", "natural_language", "category", "source")
Counts = Counter[tuple[str, str]]
"""Counts by (what is counted, its value); the value is empty for a plain sum."""


def count_kept(facts: pa.Table, num_bytes: int) -> Counts:
    """Count the rows of a shard by their columns except the text; `num_bytes` is the size of their texts."""
    counted: Counts = Counter({("kept", ""): len(facts), ("bytes", ""): num_bytes})
    counted["chars", ""] = pc.sum(facts["num_chars"]).as_py() or 0
    for aspect in ASPECTS:
        for value in facts[aspect].value_counts().to_pylist():
            counted[aspect, value["values"] or "none"] += value["counts"]
    _, bits = np.frexp(facts["num_chars"].to_numpy().astype(np.float64))
    for length, count in enumerate(np.bincount(bits).tolist()):
        counted["lengths", f"{2**length}"] += count
    for scrubbed in facts["scrubbed"].to_pylist():
        for kind, count in scrubbed:
            counted["scrubbed", kind] += count
    return counted


def count_dropped(rows: pa.Table) -> Counts:
    """Count rows that describe dropped documents."""
    return Counter(
        {("dropped", value["values"]): value["counts"] for value in rows["reason"].value_counts().to_pylist()}
    )


def to_manifest(counted: Counts, *, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts for a manifest: largest first, equal ones by name.

    Asserts kept + dropped + quarantined = read.
    """
    counts: dict[str, Any] = {name: counted[name, ""] for name in ("read", "kept", "quarantined", "chars", "bytes")}
    counts["license_unstated"] = counted["license", "none"]
    for name in ("dropped", "scrubbed", *ASPECTS):
        counts[name] = _of(counted, name)
    counts["lengths"] = {
        str(bound): counted["lengths", str(bound)] for bound in sorted(map(int, _of(counted, "lengths")))
    }
    assert counts["kept"] + sum(counts["dropped"].values()) + counts["quarantined"] == counts["read"]
    return counts | dict(more)


def from_manifest(manifest: Mapping[str, Any]) -> Counts:
    """Parse the counts of a manifest."""
    counted: Counts = Counter()
    for name in ("read", "kept", "quarantined", "chars", "bytes"):
        counted[name, ""] = manifest[name]
    for name in ("dropped", "scrubbed", "lengths", *ASPECTS):
        for value, count in manifest[name].items():
            counted[name, value] = count
    return counted


def total_of(parts: Iterable[Counts]) -> Counts:
    """Add counts up."""
    result: Counts = Counter()
    for counted in parts:
        result.update(counted)
    return result


def listed(counted: Counts) -> list[list[str | int]]:
    """Return counts as JSON can have them."""
    return [[what, value, number] for (what, value), number in counted.items()]


def counts_of(rows: Iterable[Iterable[Any]]) -> Counts:
    """Return the counts that `listed` listed."""
    return Counter({(what, value): number for what, value, number in rows})


def _of(counted: Counts, name: str) -> dict[str, int]:
    values = [(value, count) for (what, value), count in counted.items() if what == name and count]
    return dict(sorted(values, key=lambda item: (-item[1], item[0])))
