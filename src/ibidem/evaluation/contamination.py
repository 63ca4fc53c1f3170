"""Was the checkpoint trained on the test? Searches the data in its lineage with the contamination guard of `data`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.data import shards
from ibidem.data.filters.contamination import ContaminationPolicy, Guard, ProblemText
from ibidem.errors import ArtifactError
from ibidem.lineage import walk


def look(checkpoint: Path, problems: Sequence[ProblemText]) -> dict[str, Any] | None:
    """Search every document behind a checkpoint for problems; None if its data no longer exists.

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
    named = {dataset.path.name: dataset.digest for dataset in datasets}
    return {
        "documents": documents,
        "datasets": named,
        "problems": len(hits),
        "found": dict(sorted(hits.items())),
        "unchecked": sorted(guard.unchecked()),
    }


def _training_data(checkpoint: Path) -> list[artifacts.Artifact]:
    """Return the datasets that the weights have seen; empty if anything between them is missing, changed or damaged.

    What a tokenizer or a dataset was made from is not followed: the weights have not seen it.
    """
    datasets: dict[str, artifacts.Artifact] = {}
    closed: int | None = None
    for depth, state, node in walk(checkpoint):
        if closed is not None and depth > closed:
            continue
        kind = node.kind if isinstance(node, artifacts.Artifact) else node.role
        closed = depth if kind in {"tokenizer", shards.KIND} else None
        if kind == "tokenizer":
            continue
        if state not in {"ok", "source"}:
            reason = "problems cannot be searched in the training data"
            where = node.name if isinstance(node, artifacts.Input) else str(node.path)
            log.event("contamination.unchecked", path=where, state=state, reason=reason)
            return []
        if isinstance(node, artifacts.Artifact) and kind == shards.KIND and node.digest not in datasets:
            try:
                datasets[node.digest] = artifacts.verify(node.path, kind=shards.KIND)
            except ArtifactError as error:
                log.event("contamination.damaged", path=str(node.path), reason=str(error))
                return []
    return list(datasets.values())
