"""Lineage: what an artifact was made from, back to the sources, and the verification of all of it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from ibidem.artifacts import Artifact, Input, load, verify
from ibidem.config import POSITIONAL, configuration
from ibidem.errors import ArtifactError, ConfigError, DigestMismatch, StoreError
from ibidem.figures import counted
from ibidem.places import AnyPlace, StorePath, joined
from ibidem.runs import newest

Place = Callable[[Path], Path]
"""Returns where the artifact is now that was recorded at a path."""

Node = tuple[int, str, Input | Artifact]
"""Depth, state, and what is there."""


def walk(path: Path, place: Place = lambda path: path) -> list[Node]:
    """Walk from an artifact to everything it was made from, as (depth, state, node) in reading order.

    State is `ok`, `source` (outside the program), `missing` (or at a store that does not hand it out) or `changed` (the artifact there now has another digest).
    Only manifests are read. An ancestor that is missing or changed is named by its path here. What an artifact was made
    from follows where the artifact is met first: else a chain of trainings that share ancestors would double at each.
    """
    path = newest(path)
    artifact = load(path)
    return [(0, "ok", artifact), *_inputs(artifact, path, place, depth=1, seen=set())]


def tree(path: Path, place: Place = lambda path: path) -> str:
    """Return what an artifact was made from, back to the sources, as an indented tree."""
    rows = walk(path, place)
    lines = ["  " * depth + _describe("manifest ok" if state == "ok" else state, node) for depth, state, node in rows]
    return "\n".join([*lines, f"Only manifests were read; ibidem verify {path} rehashes every file."])


@configuration
class ArtifactPath:
    """Choose an artifact."""

    path: Annotated[AnyPlace, POSITIONAL]
    """The artifact's folder, or its URL at a store; of a run, its newest checkpoint."""
    map: tuple[str, ...] = ()
    """Where ancestors are that were moved, as OLD=NEW: what was recorded below OLD is looked up below NEW."""


def verify_command(config: ArtifactPath) -> str:
    """Rehash every file of an artifact and of all the artifacts it was made from."""
    lines: dict[str, None] = {}  # each node once, in order
    for _, state, node in walk(config.path, placed(config.map)):
        if state == "missing":
            moved = f"if it was moved: --map {_name(node)}=NEW"
            raise ArtifactError(f"{_name(node)}: missing, but {config.path} was made from it; {moved}")
        if state == "changed":
            raise DigestMismatch(f"{_name(node)}: it is no longer what {config.path} was made from")
        if isinstance(node, Artifact) and (line := _describe(state, node)) not in lines:
            verify(node.path)
            lines[line] = None
        lines.setdefault(_describe(state, node))
    return "\n".join(lines)


def placed(maps: Sequence[str]) -> Place:
    """Return the function that applies maps OLD=NEW to recorded paths; of several, the deepest OLD counts.

    >>> placed(["/a=/x", "/a/b=/y"])(Path("/a/b/c")), placed(["/a=/x"])(Path("/ab"))
    (PosixPath('/y/c'), PosixPath('/ab'))

    Raises:
        ConfigError: one is not of this form.
    """
    moves = []
    for each in maps:
        old, _, new = each.partition("=")
        if not old or not new:
            raise ConfigError(f"map {each}: give OLD=NEW, two folders")
        moves.append((Path(old).resolve(), Path(new).resolve()))
        if moves[-1][1].is_relative_to(moves[-1][0]):
            raise ConfigError(f"map {each}: NEW is inside OLD; name the folders that were moved themselves")
    moves.sort(key=lambda move: len(move[0].parts), reverse=True)

    def place(path: Path) -> Path:
        return next((new / path.relative_to(old) for old, new in moves if path.is_relative_to(old)), path)

    return place


def shown(path: Path) -> str:
    """Return a path as it is here: relative if it is below the current folder, else absolute."""
    if isinstance(path, StorePath):
        return str(path)
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)


def _name(node: Input | Artifact) -> str:
    return node.name if isinstance(node, Input) else shown(node.path)


def _describe(state: str, node: Input | Artifact) -> str:
    if isinstance(node, Input):
        return f"{node.role} {node.name}  {node.digest[:23]}  {state}"
    size = sum(file.bytes for file in node.files.values())
    return f"{node.kind} {_name(node)}  {node.digest[:23]}  {state}, {counted(len(node.files), 'file')}, {size:,} bytes"


def _inputs(artifact: Artifact, seen_from: Path, place: Place, *, depth: int, seen: set[str]) -> list[Node]:
    rows: list[Node] = []
    for item in artifact.inputs:
        state, node = _found(item, seen_from, place)
        rows.append((depth, state, node))
        if isinstance(node, Artifact) and node.digest not in seen:
            seen.add(node.digest)
            rows += _inputs(node, node.path, place, depth=depth + 1, seen=seen)
    return rows


def _found(item: Input, seen_from: Path, place: Place) -> tuple[str, Input | Artifact]:
    if not item.is_artifact:
        return "source", item
    path = place(joined(seen_from, item.name))
    try:
        artifact = load(path)
    except (ArtifactError, StoreError):
        return "missing", replace(item, name=shown(path))
    if artifact.digest != item.digest:
        return "changed", replace(item, name=shown(path))
    return "ok", artifact
