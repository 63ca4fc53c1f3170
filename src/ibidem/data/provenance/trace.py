"""Answer "is this in the model?": find every artifact that contains or saw a document."""

from collections.abc import Iterator, Mapping
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
from ibidem.errors import ConfigError, NothingFound
from ibidem.lineage import placed, tree
from ibidem.runs import newest

NAMED_BY = ("record", "sha256", "raw_sha256", "swhid", "path", "url")
SHOWN = (*NAMED_BY, "source", "revision", "repo", "license", "license_evidence", "cluster")


@configuration
class TraceConfig:
    """Show what an artifact was made from, or where a document was used."""

    target: Annotated[str, POSITIONAL]
    """The folder of an artifact; or a document: its record, path, url, sha256 or SWHID (swh:1:cnt:...)."""
    artifacts: tuple[Path, ...] = (Path("artifacts"), Path("data"))
    """Folders to search for the document."""
    map: tuple[str, ...] = ()
    """Of an artifact: where ancestors are that were moved, as OLD=NEW: what was recorded below OLD is looked up below
    NEW."""


def trace(config: TraceConfig) -> str:
    """Show the lineage of an artifact, or every occurrence of a document.

    Raises:
        ConfigError: there is no dataset to search.
        NothingFound: the document is in no dataset.
        DigestMismatch: an artifact was edited or damaged.
    """
    path = newest(Path(config.target))
    if (path / artifacts.MANIFEST).exists():
        return tree(path, placed(config.map))
    if config.map:
        raise ConfigError(f"map: {config.target} is not the folder of an artifact")
    roots = [root for root in config.artifacts if root.exists()]
    datasets = [artifact for root in roots for artifact in artifacts_below(root) if artifact.kind == shards.KIND]
    if not datasets:
        where = " or ".join(map(str, config.artifacts))
        raise ConfigError(
            f"{config.target}: not an artifact, and no dataset is below {where}; give its folder with --artifacts"
        )
    lines, hashes = [], set()
    for dataset in datasets:
        for line, sha256 in _places(dataset, config.target):
            lines.append(line)
            hashes.add(sha256)
        lines += _unreadable(dataset, config.target)
    lines += [_describe(use) for use in uses(roots, hashes) if use.artifact.kind != shards.KIND]
    names = ", ".join(str(dataset.path) for dataset in datasets)
    if not lines:
        raise NothingFound(f"{config.target}: in none of {names}, nor among their dropped or unreadable documents")
    return "\n".join(lines)


def _places(dataset: Artifact, target: str) -> Iterator[tuple[str, str]]:
    """Yield (line to show, sha256 of the text) for each row of the document, kept or dropped."""
    name = f"{dataset.kind} {dataset.path}"
    for path in shards.checked_shards(dataset):
        for row, fields in _find(pq.read_table(path, columns=list(SHOWN)), target):
            facts = ", ".join(f"{field} {fields[field]}" for field in SHOWN if fields[field])
            yield f"{name}: {path.relative_to(dataset.path)} row {row}: {facts}", fields["sha256"]
    for _, fields in (match for rows in shards.read_dropped(dataset) for match in _find(rows, target)):
        kept = f", kept instead: {fields['kept']} (similarity {fields['similarity']:.2f})" if fields["kept"] else ""
        detail = f": {fields['detail']}" if fields["detail"] else ""
        yield f"{name}: not in it: {fields['record']} was dropped, {fields['reason']}{detail}{kept}", fields["sha256"]


def _unreadable(dataset: Artifact, target: str) -> Iterator[str]:
    """Yield lines that say why a record `file:row`, or a file, could not be read."""
    for item in shards.read_quarantine(dataset):
        place = item.file if item.line is None else f"{item.file}:{item.line}"
        if target in (item.file, place) or (item.line is None and target.startswith(f"{item.file}:")):
            yield f"{dataset.kind} {dataset.path}: not in it: {place} was quarantined: {item.reason}"


def _find(rows: pa.Table, target: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if not len(rows):  # pyarrow's kernels crash on tables without chunks
        return
    matches = pa.array([False] * len(rows))
    for name in NAMED_BY:
        matches = pc.or_(matches, pc.fill_null(pc.equal(rows[name], target), fill_value=False))
    for row in pc.indices_nonzero(matches).to_pylist():
        yield row, rows.slice(row, 1).to_pylist()[0]


def _describe(use: Use) -> str:
    places = [
        f"row {span['row']:,}"
        if "row" in span
        else f"{_shard(span)}{span['split']} tokens {span['start']:,} to {span['start'] + span['tokens'] - 1:,}"
        for span in use.spans
    ]
    return f"  {use.artifact.kind} {use.artifact.path}: " + (
        "; ".join(places) or "made from an artifact that contains it"
    )


def _shard(span: Mapping[str, Any]) -> str:
    return f"{span['shard']} " if "shard" in span else ""
