"""Was the checkpoint trained on the test? Searches the data in its lineage with the contamination guard of `data`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.data import shards
from ibidem.data.filters.contamination import ContaminationPolicy, Guard, ProblemText
from ibidem.errors import ArtifactError
from ibidem.lineage import Node, walk

Parent = tuple[str, artifacts.Input | artifacts.Artifact]
"""Something that an artifact was made from: state and node of a walk."""
Parents = Mapping[str, Sequence[Parent]]
"""What artifacts were made from, by their digests."""


def look(checkpoint: Path, problems: Sequence[ProblemText]) -> dict[str, Any] | None:
    """Search every document that a checkpoint or any of its ancestors was trained on; None if not all are known.

    A document contains a problem if it quotes half of the 10-word runs of its statement or solution, or if it resembles
    the problem as a whole: exact Jaccard similarity of 5-word shingles, which MinHash estimates. Problems in
    `unchecked` are too short to check.
    """
    datasets = _training_data(checkpoint)
    if not datasets:
        return None
    guard = Guard(ContaminationPolicy(), problems)
    hits: dict[str, str] = {}
    documents = 0
    for dataset in datasets:
        with log.progress("contamination", int(dataset.counts["kept"]), "documents") as bar:
            for path in shards.checked_shards(dataset):
                for row in shards.read_rows(path, ["text", "record"]):
                    for name, drop in guard.hits(row["text"].encode()):
                        hits.setdefault(name, f"{row['record']}: {drop.detail}")
                    documents += 1
                    bar.advance()
    return {
        "documents": documents,
        "datasets": _names(datasets),
        "problems": len(hits),
        "found": dict(sorted(hits.items())),
        "unchecked": sorted(guard.unchecked()),
    }


def _training_data(checkpoint: Path) -> list[artifacts.Artifact]:
    """Return every dataset that the weights have seen, their own and those of all ancestors, whatever their roles.

    Empty if they are unknown: an ancestor is missing, changed or damaged, is not an artifact (a file, say), or names
    nothing that it was made from. What a tokenizer or a dataset was made from is not followed: the weights have not
    seen it.
    """
    (_, _, first), *_ = rows = walk(checkpoint)
    parents = _parents(rows)
    datasets: dict[str, artifacts.Artifact] = {}
    for state, node in _seen(("ok", first), parents):
        is_dataset = isinstance(node, artifacts.Artifact) and node.kind == shards.KIND
        if state != "ok" or not (is_dataset or _seen_by(node, parents)):
            reason = "problems cannot be searched in the training data"
            where = node.name if isinstance(node, artifacts.Input) else str(node.path)
            found = "without inputs" if state == "ok" else state
            log.event("contamination.unchecked", path=where, state=found, reason=reason)
            return []
        if isinstance(node, artifacts.Artifact) and is_dataset and node.digest not in datasets:
            try:
                datasets[node.digest] = artifacts.verify(node.path, kind=shards.KIND)
            except ArtifactError as error:
                log.event("contamination.damaged", path=str(node.path), reason=str(error))
                return []
    return list(datasets.values())


def _parents(rows: Sequence[Node]) -> Parents:
    """Return what each artifact of a walk was made from: a walk lists it only where the artifact is met first."""
    parents: dict[str, list[Parent]] = {}
    path: list[str] = []
    for depth, state, node in rows:
        del path[depth:]
        if path:
            parents.setdefault(path[-1], []).append((state, node))
        path.append(node.digest)
    return parents


def _seen(first: Parent, parents: Parents) -> Iterator[Parent]:
    """Yield an artifact and all that its weights have seen, each once for each state, in the order of a walk."""
    left, done = [first], set[tuple[str, str]]()
    while left:
        state, node = left.pop()
        if (state, node.digest) not in done:
            done.add((state, node.digest))
            yield state, node
            left += reversed(_seen_by(node, parents))


def _seen_by(node: artifacts.Input | artifacts.Artifact, parents: Parents) -> Sequence[Parent]:
    """Return what an artifact was made from, without tokenizers; nothing if the artifact is a dataset."""
    if _kind(node) == shards.KIND:
        return []
    return [(state, parent) for state, parent in parents.get(node.digest, ()) if _kind(parent) != "tokenizer"]


def _kind(node: artifacts.Input | artifacts.Artifact) -> str:
    return node.kind if isinstance(node, artifacts.Artifact) else node.role


def _names(datasets: Sequence[artifacts.Artifact]) -> dict[str, str]:
    """Return the digests of datasets by their names; of several with one name, each has its digest in it."""
    count = Counter(dataset.path.name for dataset in datasets)
    return {
        each.path.name if count[each.path.name] == 1 else f"{each.path.name} {each.digest[7:19]}": each.digest
        for each in datasets
    }
