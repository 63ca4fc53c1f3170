"""Was the checkpoint trained on the test? Its lineage names the data, and the data room's guard looks for problems."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.data import shards
from ibidem.data.filters.contamination import ContaminationPolicy, Guard, ProblemText
from ibidem.lineage import walk


def look(checkpoint: Path, problems: Sequence[ProblemText]) -> dict[str, Any] | None:
    """Look for problems in every document behind a checkpoint; None where its data are not there any more.

    A document holds a problem if it quotes half of the 10-word runs of its statement or solution, or is, as a whole,
    like the problem: exact Jaccard similarity of 5-word shingles, which MinHash estimates. `unchecked` are too short.
    """
    datasets = _training_data(checkpoint)
    if not datasets:
        return None
    guard = Guard(ContaminationPolicy(), problems)
    found: dict[str, str] = {}
    documents = 0
    for dataset in datasets:
        with log.progress("contamination", int(dataset.counts["kept"]), "documents") as bar:
            for path in shards.shard_paths(dataset.path):
                for row in shards.read_rows(path, ["text", "record"]):
                    for name, drop in guard.hits(row["text"].encode()):
                        found.setdefault(name, f"{row['record']}: {drop.detail}")
                    documents += 1
                    bar.advance()
    named = {dataset.path.name: dataset.digest for dataset in datasets}
    return {
        "documents": documents,
        "datasets": named,
        "problems": len(found),
        "found": dict(sorted(found.items())),
        "unchecked": sorted(guard.unchecked()),
    }


def _training_data(checkpoint: Path) -> list[artifacts.Artifact]:
    """Find the datasets that the tokens were made of; none if one of them is not there as it was."""
    found: dict[str, artifacts.Artifact] = {}
    kinds: dict[int, str] = {}
    for depth, state, node in walk(checkpoint):
        kinds[depth] = node.kind if isinstance(node, artifacts.Artifact) else node.role
        if kinds.get(depth - 1) != "tokens" or kinds[depth] == "tokenizer":
            continue
        if state != "ok" or not isinstance(node, artifacts.Artifact):
            return []
        if node.kind == shards.KIND:
            found.setdefault(node.digest, node)
    return list(found.values())
