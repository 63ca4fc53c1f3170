"""Paths of the work files of one shard, in the hidden work folder of the stage.

<work>/prepared/<source>-<shard>/    kept.arrow, dropped.arrow, quarantine.jsonl, sketch.npy
<work>/verdicts/<source>-<shard>.arrow
<work>/finished/<source>-<shard>/    files for the artifact, by the names that they have there, and made.json
"""

from pathlib import Path
from typing import NamedTuple

from ibidem import artifacts


class Prepared(NamedTuple):
    """Files that `prepare` writes for a shard."""

    folder: Path

    @property
    def is_made(self) -> bool:
        """Whether they are all there."""
        return artifacts.is_made(self.folder)

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
        return self.folder / "quarantine.jsonl"

    @property
    def sketch(self) -> Path:
        """A sketch for each row of `kept`."""
        return self.folder / "sketch.npy"


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
    def finished(self) -> Path:
        """Folder of the files that `finish` writes."""
        return self.work / "finished" / self._key

    @property
    def name(self) -> str:
        """Its file in the artifact, beside which its other files are."""
        return f"{self.dataset}/shard-{self.number:05d}.parquet"

    @property
    def _key(self) -> str:
        return f"{self.source:03d}-{self.number:05d}"
