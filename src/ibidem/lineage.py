"""Lineage: what an artifact was made from, back to the sources, and the verification of all of it."""

import os
from pathlib import Path
from typing import Annotated

from ibidem.artifacts import Artifact, Input, load, verify
from ibidem.config import POSITIONAL, configuration
from ibidem.errors import ArtifactError, DigestMismatch


def walk(path: Path) -> list[tuple[int, str, Input | Artifact]]:
    """Walk from an artifact to everything it was made from, as (depth, state, node) in reading order.

    State is `ok`, `source` (outside the program), `missing` or `changed` (the artifact there now has another digest).
    """
    artifact = load(path)
    rows: list[tuple[int, str, Input | Artifact]] = [(0, "ok", artifact)]
    for item in artifact.inputs:
        rows += [(depth + 1, state, node) for depth, state, node in _ancestry(item, seen_from=path)]
    return rows


def tree(path: Path) -> str:
    """Return what an artifact was made from, back to the sources, as an indented tree."""
    return "\n".join("  " * depth + _describe(state, node) for depth, state, node in walk(path))


@configuration
class ArtifactPath:
    """Choose an artifact."""

    path: Annotated[Path, POSITIONAL]
    """The artifact's folder."""


def verify_command(config: ArtifactPath) -> str:
    """Rehash every file of an artifact and of all the artifacts it was made from."""
    lines: dict[str, None] = {}  # each node once, in order
    for _, state, node in walk(config.path):
        if state == "missing":
            raise ArtifactError(f"{_name(node)}: missing, but {config.path} was made from it")
        if state == "changed":
            raise DigestMismatch(f"{_name(node)}: it is no longer what {config.path} was made from")
        if isinstance(node, Artifact) and (line := _describe(state, node)) not in lines:
            verify(node.path)
            lines[line] = None
        lines.setdefault(_describe(state, node))
    return "\n".join(lines)


def _name(node: Input | Artifact) -> str:
    return node.name if isinstance(node, Input) else str(node.path)


def _describe(state: str, node: Input | Artifact) -> str:
    if isinstance(node, Input):
        return f"{node.role} {node.name}  {node.digest[:23]}  {state}"
    size = sum(file.bytes for file in node.files.values())
    return f"{node.kind} {node.path}  {node.digest[:23]}  {state}, {len(node.files)} files, {size:,} bytes"


def _ancestry(item: Input, *, seen_from: Path) -> list[tuple[int, str, Input | Artifact]]:
    if not item.is_artifact:
        return [(0, "source", item)]
    path = Path(os.path.normpath(seen_from.resolve() / item.name))
    try:
        if load(path).digest != item.digest:
            return [(0, "changed", item)]
    except ArtifactError:
        return [(0, "missing", item)]
    return walk(path)
