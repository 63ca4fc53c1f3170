"""Find where documents were used: every artifact made from a dataset, and which of the documents it contains."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem import artifacts, jsonl
from ibidem.artifacts import Artifact, Input
from ibidem.data import shards
from ibidem.data.provenance.export_data import KIND as COPY
from ibidem.errors import ArtifactError, DigestMismatch, StoreError
from ibidem.places import joined
from ibidem.records import DOCUMENTS_FILE, PROBLEMS_FILE

OF_DOCUMENTS = frozenset({shards.KIND, COPY})
"""Kinds of the artifacts whose shards hold documents."""
State = Literal["holds", "saw", "may have seen"]


@dataclass(frozen=True)
class Use:
    """The documents that one artifact contains or saw."""

    artifact: Artifact
    spans: Sequence[dict[str, Any]]
    """Rows of shards or of problems, or ranges of tokens; empty if the artifact only saw the documents."""
    state: State
    """may have seen: it was made from an earlier state of the dataset, whose content is unknown, or from something that
    is not among the artifacts that were searched, nor where it was recorded."""

    def __str__(self) -> str:
        held = f"{len(self.spans):,} of the documents" if self.spans else f"{self.state} them"
        return f"{self.artifact.kind} {self.artifact.path}  {self.artifact.digest[:23]}  {held}"

    def as_record(self) -> dict[str, Any]:
        """Return its record for a certificate."""
        return {
            "kind": self.artifact.kind,
            "path": str(self.artifact.path),
            "digest": self.artifact.digest,
            "state": self.state,
            "spans": list(self.spans),
        }


def artifacts_below(root: Path) -> Iterator[Artifact]:
    """Yield every artifact below a folder; foreign manifests are skipped.

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


def artifacts_in(folders: Collection[Path]) -> dict[Path, Artifact]:
    """Return every artifact below any of the folders that exist, by its resolved path."""
    below = (artifact for folder in folders if folder.exists() for artifact in artifacts_below(folder))
    return {artifact.path.resolve(): artifact for artifact in below}


def uses(roots: Collection[Path], sha256s: Collection[str], *, dataset: Artifact | None = None) -> list[Use]:
    """Find the artifacts below `roots` that contain the documents, and those made from such artifacts.

    The ancestors of what is below `roots` are searched wherever they were recorded: a checkpoint that was tuned from
    another one saw what that one was trained on.

    Datasets and token files are searched directly, so an earlier takedown hides nothing and rebuilt artifacts are not
    listed. All others are found by their inputs, except the tokenizer, through which no document passes on.

    Args:
        roots: folders to search.
        sha256s: hashes of the documents.
        dataset: the dataset that contains or contained them; not listed itself.

    Raises:
        DigestMismatch: an artifact was edited or damaged.
    """
    wanted = pa.array(sorted(sha256s), pa.string())
    everything = _with_ancestors(artifacts_in([*roots, dataset.path] if dataset is not None else roots))
    spans = {path: list(_spans(artifact, wanted)) for path, artifact in everything.items()}
    states: dict[Path, State] = {path: "holds" for path in everything if spans[path]}
    _follow(everything, states, {everything[path].digest for path in states}, "saw")
    _follow(everything, states, _lost(everything) if wanted else set(), "may have seen")
    if dataset is not None:
        before = {item.digest for artifact in everything.values() for item in _inputs_at(artifact, dataset.path)}
        _follow(everything, states, before - {dataset.digest} if wanted else set(), "may have seen")
        states.pop(dataset.path.resolve(), None)
    return [Use(everything[path], spans[path], states[path]) for path in sorted(states)]


def made_from(roots: Collection[Path], source: Artifact) -> list[Use]:
    """Find the artifacts below `roots` that were made from another one, directly or indirectly.

    They saw it if they were made from its present state, and may have seen what it holds if they were made from an
    earlier or later state at its path.

    Raises:
        DigestMismatch: an artifact was edited.
    """
    everything = _with_ancestors(artifacts_in(roots))
    states: dict[Path, State] = {}
    _follow(everything, states, {source.digest}, "saw", lists=True)
    others = {item.digest for artifact in everything.values() for item in _inputs_at(artifact, source.path)}
    _follow(everything, states, others - {source.digest}, "may have seen", lists=True)
    return [Use(everything[path], (), states[path]) for path in sorted(states)]


def _follow(
    everything: Mapping[Path, Artifact],
    states: dict[Path, State],
    digests: Collection[str],
    state: State,
    *,
    lists: bool = False,
) -> None:
    """Add every artifact that was made from `digests`, directly or indirectly.

    Those that list their documents are added only if `lists`: else they are searched for the documents themselves.
    """
    while digests:
        more = {
            path: artifact.digest
            for path, artifact in everything.items()
            if path not in states
            and (lists or not _lists(artifact))
            and any(item.digest in digests for item in artifact.inputs if item.role != "tokenizer")
        }
        states.update(dict.fromkeys(more, state))
        digests = more.values()


def _lost(everything: Mapping[Path, Artifact]) -> set[str]:
    """Return the digests of the artifacts that others were made from, directly, and that nobody can look into."""
    known = {artifact.digest for artifact in everything.values()}
    return {
        item.digest
        for artifact in everything.values()
        for item in artifact.inputs
        if item.is_artifact and item.digest not in known
    }


def _with_ancestors(known: Mapping[Path, Artifact]) -> dict[Path, Artifact]:
    """Add everything that artifacts were made from, if it is still where it was recorded, and as it was."""
    everything = dict(known)
    waiting = list(known.values())
    while waiting:
        artifact = waiting.pop()
        for item in artifact.inputs:
            path = joined(artifact.path, item.name).resolve()
            if item.is_artifact and path not in everything and (parent := _load(path, item.digest)):
                everything[path] = parent
                waiting.append(parent)
    return everything


def _load(path: Path, digest: str) -> Artifact | None:
    try:
        artifact = artifacts.load(path)
    except (ArtifactError, StoreError):
        return None
    return artifact if artifact.digest == digest else None


def _inputs_at(artifact: Artifact, path: Path) -> Iterator[Input]:
    here = artifact.path.resolve()
    return (item for item in artifact.inputs if item.is_artifact and joined(here, item.name) == path.resolve())


def _lists(artifact: Artifact) -> bool:
    return artifact.kind in OF_DOCUMENTS or bool(_listings(artifact)) or PROBLEMS_FILE in artifact.files


def _listings(artifact: Artifact) -> list[str]:
    """Return the names of the files of tokens that list documents: one for each shard."""
    return sorted(name for name in artifact.files if PurePosixPath(name).name == DOCUMENTS_FILE)


def _spans(artifact: Artifact, sha256s: pa.Array) -> Iterator[dict[str, Any]]:
    if artifact.kind in OF_DOCUMENTS:
        for path in shards.checked_shards(artifact):
            hashes = pq.read_table(path, columns=["sha256"])["sha256"]
            rows = pc.indices_nonzero(pc.is_in(hashes, sha256s)).to_pylist()
            name = path.relative_to(artifact.path).as_posix()
            yield from ({"shard": name, "row": row, "sha256": hashes[row].as_py()} for row in rows)
    elif names := _listings(artifact):
        artifacts.check(artifact, names)
        for name in names:
            table = pq.read_table(artifact.path / name)
            shard = {"shard": name.removesuffix(f"/{DOCUMENTS_FILE}")} if name != DOCUMENTS_FILE else {}
            yield from (shard | row for row in table.filter(pc.is_in(table["sha256"], sha256s)).to_pylist())
    elif PROBLEMS_FILE in artifact.files:
        artifacts.check(artifact, [PROBLEMS_FILE])
        wanted = set(sha256s.to_pylist())
        for number, problem in enumerate(jsonl.loads((artifact.path / PROBLEMS_FILE).read_text(encoding="utf-8"))):
            if problem["sha256"] in wanted:
                yield {"row": number, "sha256": problem["sha256"]}
