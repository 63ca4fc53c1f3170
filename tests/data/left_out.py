"""What a dataset does not hold: its dropped documents, and the inputs that could not be read."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ibidem import artifacts
from ibidem.data import shards


def dropped(output: Path) -> list[dict[str, Any]]:
    """Return the rows of all dropped documents."""
    tables = shards.read_dropped(artifacts.load(output))
    return [row for table in tables for row in table.to_pylist()]


def quarantined(output: Path) -> list[dict[str, Any]]:
    """Return the rows of all inputs that could not be read."""
    return [asdict(item) for item in shards.read_quarantine(artifacts.load(output))]
