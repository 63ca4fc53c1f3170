"""Where documents went: every artifact that was made from a dataset, and what it holds of given documents."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem import artifacts
from ibidem.artifacts import Artifact
from ibidem.data import shards
from ibidem.errors import ArtifactError, DigestMismatch

DOCUMENTS = "documents.parquet"
"""In an artifact of tokens: `sha256`, `split`, `start` and `tokens` of each document."""


@dataclass(frozen=True)
class Use:
    """What one artifact holds of some documents."""

    artifact: Artifact
    spans: Sequence[dict[str, Any]]
    """Rows of shards, or windows of tokens; empty where the artifact only saw them."""

    def __str__(self) -> str:
        held = f"{len(self.spans):,} of the documents" if self.spans else "saw them"
        return f"{self.artifact.kind} {self.artifact.path}  {self.artifact.digest[:23]}  {held}"

    def as_record(self) -> dict[str, Any]:
        """Describe it for a certificate."""
        return {
            "kind": self.artifact.kind,
            "path": str(self.artifact.path),
            "digest": self.artifact.digest,
            "spans": list(self.spans),
        }


def artifacts_below(root: Path) -> Iterator[Artifact]:
    """Give every artifact below a folder; what is no manifest of ours is passed over.

    Raises:
        DigestMismatch: a manifest was edited.
    """
    for manifest in sorted(root.rglob(artifacts.MANIFEST)):
        hidden = any(part.startswith(".") for part in manifest.relative_to(root).parts)
        if not hidden:
            try:
                yield artifacts.load(manifest.parent)
            except DigestMismatch:
                raise
            except ArtifactError:
                continue


def uses(roots: Collection[Path], sha256s: Collection[str], *, dataset: Artifact | None = None) -> list[Use]:
    """Say which artifacts below `roots` hold the documents, and which were made from those or from the dataset.

    A dataset is asked for its rows and tokens for their documents, whatever became of what they were made from; so an
    earlier takedown, which changed the dataset, hides nothing.

    Raises:
        DigestMismatch: one of them was edited or damaged.
    """
    wanted = pa.array(sorted(sha256s), pa.string())
    everything = {found.path.resolve(): found for root in roots if root.exists() for found in artifacts_below(root)}
    if dataset is not None:
        everything.pop(dataset.path.resolve(), None)
    spans = {path: list(_spans(artifact, wanted)) for path, artifact in everything.items()}
    reached = {artifact.digest for path, artifact in everything.items() if spans[path]}
    reached |= {dataset.digest} if dataset is not None else set()
    told = {path for path in everything if spans[path]}
    while True:
        more = {
            path for path, artifact in everything.items() if reached.intersection(i.digest for i in artifact.inputs)
        }
        if more <= told:
            return [Use(everything[path], spans[path]) for path in sorted(told)]
        told |= more
        reached |= {everything[path].digest for path in more}


def _spans(artifact: Artifact, sha256s: pa.Array) -> Iterator[dict[str, Any]]:
    if artifact.kind == shards.KIND:
        for path in shards.checked_shards(artifact):
            hashes = pq.read_table(path, columns=["sha256"])["sha256"]
            rows = pc.indices_nonzero(pc.is_in(hashes, sha256s)).to_pylist()
            name = path.relative_to(artifact.path).as_posix()
            yield from ({"shard": name, "row": row, "sha256": hashes[row].as_py()} for row in rows)
    elif DOCUMENTS in artifact.files:
        artifacts.check(artifact, [DOCUMENTS])
        table = pq.read_table(artifact.path / DOCUMENTS)
        yield from table.filter(pc.is_in(table["sha256"], sha256s)).to_pylist()
