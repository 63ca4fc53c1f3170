"""Answer "is this in the model?": from one document to every artifact that holds it or saw it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ibidem import artifacts
from ibidem.artifacts import Artifact
from ibidem.config import POSITIONAL, configuration
from ibidem.data import shards
from ibidem.data.provenance.exposure import Use, artifacts_below, uses
from ibidem.errors import ConfigError
from ibidem.lineage import tree

NAMED_BY = ("record", "sha256", "raw_sha256", "swhid", "path", "url")
TOLD = (*NAMED_BY, "source", "revision", "repo", "license", "license_evidence", "cluster")


@configuration
class TraceConfig:
    """Show where something came from, or where a document went."""

    target: Annotated[str, POSITIONAL]
    """The folder of an artifact; or a document: its record, path, url, sha256 or SWHID (swh:1:cnt:...)."""
    artifacts: tuple[Path, ...] = (Path("artifacts"), Path("data"))
    """Folders below which a document is looked for."""


def trace(config: TraceConfig) -> str:
    """Show the lineage of an artifact, or every place of a document.

    Raises:
        ConfigError: there is no dataset to look into.
        DigestMismatch: what is looked into was edited or damaged.
    """
    path = Path(config.target)
    if (path / artifacts.MANIFEST).exists():
        return tree(path)
    roots = [root for root in config.artifacts if root.exists()]
    datasets = [found for root in roots for found in artifacts_below(root) if found.kind == shards.KIND]
    if not datasets:
        where = " or ".join(map(str, config.artifacts))
        raise ConfigError(f"{config.target}: no artifact of that path, and no dataset below {where} to look into")
    lines, hashes = [], set()
    for dataset in datasets:
        for line, sha256 in _places(dataset, config.target):
            lines.append(line)
            hashes.add(sha256)
        lines += _unreadable(dataset, config.target)
    lines += [_describe(use) for use in uses(roots, hashes) if use.artifact.kind != shards.KIND]
    names = ", ".join(str(dataset.path) for dataset in datasets)
    nowhere = f"{config.target}: in none of {names}, nor among what they dropped or could not read"
    return "\n".join(lines) or nowhere


def _places(dataset: Artifact, target: str) -> Iterator[tuple[str, str]]:
    """Give (what to say, sha256 of the text) for each row of the document, kept or dropped."""
    name = f"{dataset.kind} {dataset.path}"
    for path in shards.checked_shards(dataset):
        for row, nouns in _find(pq.read_table(path, columns=list(TOLD)), target):
            told = ", ".join(f"{noun} {nouns[noun]}" for noun in TOLD if nouns[noun])
            yield f"{name}: {path.relative_to(dataset.path)} row {row}: {told}", nouns["sha256"]
    artifacts.check(dataset, [shards.DROPPED])
    for _, nouns in (found for rows in shards.read_dropped(dataset) for found in _find(rows, target)):
        kept = f", kept is {nouns['kept']} (similarity {nouns['similarity']:.2f})" if nouns["kept"] else ""
        detail = f": {nouns['detail']}" if nouns["detail"] else ""
        yield f"{name}: not in it: {nouns['record']} was dropped, {nouns['reason']}{detail}{kept}", nouns["sha256"]


def _unreadable(dataset: Artifact, target: str) -> Iterator[str]:
    """Say why a record `file:row`, or a file, could not be read."""
    artifacts.check(dataset, [shards.QUARANTINE])
    for item in shards.read_quarantine(dataset):
        place = item.file if item.line is None else f"{item.file}:{item.line}"
        if target in (item.file, place) or (item.line is None and target.startswith(f"{item.file}:")):
            yield f"{dataset.kind} {dataset.path}: not in it: {place} was quarantined: {item.reason}"


def _find(rows: pa.Table, target: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if not len(rows):  # pyarrow's kernels crash on tables without chunks
        return
    found = pa.array([False] * len(rows))
    for name in NAMED_BY:
        found = pc.or_(found, pc.fill_null(pc.equal(rows[name], target), fill_value=False))
    for row in pc.indices_nonzero(found).to_pylist():
        yield row, rows.slice(row, 1).to_pylist()[0]


def _describe(use: Use) -> str:
    places = [
        f"{span['split']} tokens {span['start']:,} to {span['start'] + span['tokens'] - 1:,}" for span in use.spans
    ]
    return f"  {use.artifact.kind} {use.artifact.path}: " + ("; ".join(places) or "was made from what holds it")
