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
from ibidem.errors import ArtifactError

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
    """Give every artifact below a folder; one that cannot be read is passed over."""
    for manifest in sorted(root.rglob(artifacts.MANIFEST)):
        hidden = any(part.startswith(".") for part in manifest.relative_to(root).parts)
        if not hidden:
            try:
                yield artifacts.load(manifest.parent)
            except ArtifactError:
                continue


def made_from(roots: Collection[Path], digests: Collection[str]) -> list[Artifact]:
    """Give the artifacts below `roots` that were made, step by step, from those with the given digests."""
    known = {found.path.resolve(): found for root in roots if root.exists() for found in artifacts_below(root)}
    reached, found = set(digests), dict[str, Artifact]()
    while True:
        more = [
            artifact
            for artifact in known.values()
            if artifact.digest not in reached and reached.intersection(item.digest for item in artifact.inputs)
        ]
        if not more:
            return list(found.values())
        reached.update(artifact.digest for artifact in more)
        found |= {artifact.digest: artifact for artifact in more}


def uses(roots: Collection[Path], dataset: Artifact, sha256s: Collection[str]) -> list[Use]:
    """Say which artifacts below `roots` were made from a dataset, and which places in them hold the documents."""
    wanted = pa.array(sorted(sha256s), pa.string())
    return [Use(artifact, list(_spans(artifact, wanted))) for artifact in made_from(roots, [dataset.digest])]


def uses_anywhere(roots: Collection[Path], sha256s: Collection[str]) -> list[Use]:
    """Say which tokens below `roots` hold the documents, whatever became of the dataset, and what learned from them."""
    wanted = pa.array(sorted(sha256s), pa.string())
    found = [Use(artifact, list(_spans(artifact, wanted))) for root in roots for artifact in artifacts_below(root)]
    holders = [use for use in found if use.spans and use.artifact.kind != shards.KIND]
    learned = made_from(roots, {use.artifact.digest for use in holders})
    return holders + [Use(artifact, []) for artifact in learned]


def _spans(artifact: Artifact, sha256s: pa.Array) -> Iterator[dict[str, Any]]:
    if artifact.kind == shards.KIND:
        for path in shards.shard_paths(artifact.path):
            hashes = pq.read_table(path, columns=["sha256"])["sha256"]
            rows = pc.indices_nonzero(pc.is_in(hashes, sha256s)).to_pylist()
            name = path.relative_to(artifact.path).as_posix()
            yield from ({"shard": name, "row": row, "sha256": hashes[row].as_py()} for row in rows)
    elif DOCUMENTS in artifact.files:
        table = pq.read_table(artifact.path / DOCUMENTS)
        yield from table.filter(pc.is_in(table["sha256"], sha256s)).to_pylist()
