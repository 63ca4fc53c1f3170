"""Was the checkpoint trained on the test? Searches the data in its lineage with the contamination guard of `data`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.data import shards
from ibidem.data.filters.contamination import ContaminationPolicy, Guard, ProblemText
from ibidem.errors import ArtifactError
from ibidem.lineage import walk

Row = tuple[int, str, artifacts.Input | artifacts.Artifact]
"""Depth, state and node of a walk."""


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
    datasets: dict[str, artifacts.Artifact] = {}
    rows = _seen(walk(checkpoint))
    for (depth, found, node), following in zip(rows, [*rows[1:], None], strict=True):
        is_dataset = isinstance(node, artifacts.Artifact) and node.kind == shards.KIND
        is_leaf = following is None or following[0] <= depth
        if found != "ok" or (is_leaf and not is_dataset):
            reason = "problems cannot be searched in the training data"
            where = node.name if isinstance(node, artifacts.Input) else str(node.path)
            state = "without inputs" if found == "ok" else found
            log.event("contamination.unchecked", path=where, state=state, reason=reason)
            return []
        if isinstance(node, artifacts.Artifact) and is_dataset and node.digest not in datasets:
            try:
                datasets[node.digest] = artifacts.verify(node.path, kind=shards.KIND)
            except ArtifactError as error:
                log.event("contamination.damaged", path=str(node.path), reason=str(error))
                return []
    return list(datasets.values())


def _seen(rows: Sequence[Row]) -> list[Row]:
    """Leave out tokenizers, and what tokenizers and datasets were made from."""
    seen: list[Row] = []
    closed: int | None = None
    for depth, state, node in rows:
        if closed is not None and depth > closed:
            continue
        kind = node.kind if isinstance(node, artifacts.Artifact) else node.role
        closed = depth if kind in {"tokenizer", shards.KIND} else None
        if kind != "tokenizer":
            seen.append((depth, state, node))
    return seen


def _names(datasets: Sequence[artifacts.Artifact]) -> dict[str, str]:
    """Return the digests of datasets by their names; of several with one name, each has its digest in it."""
    count = Counter(dataset.path.name for dataset in datasets)
    return {
        each.path.name if count[each.path.name] == 1 else f"{each.path.name} {each.digest[7:19]}": each.digest
        for each in datasets
    }
