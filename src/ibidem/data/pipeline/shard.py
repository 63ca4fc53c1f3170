"""Paths of the work files of one shard, in the hidden work folder of the stage.

<work>/prepared/<source>-<shard>/    kept.arrow, dropped.arrow, quarantine.jsonl, sketch.npy
<work>/verdicts/<source>-<shard>.arrow
<work>/finished/<source>-<shard>/    shard.parquet, sketch.npy, dropped.arrow, removed.npy, counts.json, hashes.json
"""

from pathlib import Path
from typing import NamedTuple

from ibidem.data import shards


class Prepared(NamedTuple):
    """Files that `prepare` writes for a shard."""

    folder: Path

    @property
    def kept(self) -> Path:
        """Documents that may enter, unless they are duplicates or their removal was requested."""
        return self.folder / "kept.arrow"

    @property
    def dropped(self) -> Path:
        """Documents that may not enter, without their text."""
        return self.folder / "dropped.arrow"

    @property
    def quarantine(self) -> Path:
        """Inputs that could not be read."""
        return self.folder / shards.QUARANTINE

    @property
    def sketch(self) -> Path:
        """A sketch for each row of `kept`."""
        return self.folder / "sketch.npy"


class Finished(NamedTuple):
    """Files that `finish` writes for a shard."""

    folder: Path

    @property
    def shard(self) -> Path:
        """The documents that stay; no file if there are none."""
        return self.folder / "shard.parquet"

    @property
    def sketch(self) -> Path:
        """A sketch for each row of `shard`."""
        return self.folder / "sketch.npy"

    @property
    def dropped(self) -> Path:
        """All dropped documents, duplicates included."""
        return self.folder / "dropped.arrow"

    @property
    def removed(self) -> Path:
        """Sketches of the documents whose removal was requested."""
        return self.folder / shards.REMOVED

    @property
    def hashes(self) -> Path:
        """Hashes of `shard` and `sketch`, by name."""
        return self.folder / "hashes.json"

    @property
    def counts(self) -> Path:
        """Counts for the manifest."""
        return self.folder / "counts.json"


class Shard(NamedTuple):
    """One shard of a source."""

    work: Path
    source: int
    number: int
    dataset: str
    """The folder of the source in the output: `<dataset>/<split>`."""

    @property
    def prepared(self) -> Prepared:
        return Prepared(self.work / "prepared" / self._key)

    @property
    def verdicts(self) -> Path:
        """Rows that are dropped or belong to a cluster."""
        return self.work / "verdicts" / f"{self._key}.arrow"

    @property
    def finished(self) -> Finished:
        return Finished(self.work / "finished" / self._key)

    @property
    def name(self) -> str:
        """Its file in the artifact."""
        return f"{self.dataset}/shard-{self.number:05d}.parquet"

    @property
    def _key(self) -> str:
        return f"{self.source:03d}-{self.number:05d}"
