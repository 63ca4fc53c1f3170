"""`ibidem list`: the artifacts below some folders: what each is, how large, when it was made, and from what."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from ibidem import artifacts
from ibidem.artifacts import Artifact
from ibidem.config import POSITIONAL, configuration
from ibidem.errors import ArtifactError, ConfigError, NothingFound
from ibidem.figures import size
from ibidem.lineage import shown

HEAD = ("PATH", "KIND", "SIZE", "MADE", "DIGEST", "FROM")
RIGHT = HEAD.index("SIZE")


@configuration
class ListConfig:
    """Choose what to list."""

    path: Annotated[Path, POSITIONAL] = Path()
    """The folder to search, with everything below it; by default this one."""
    kind: str | None = None
    """Only artifacts of this kind: dataset, tokenizer, tokens, checkpoint, evaluation, ..."""


@dataclass(frozen=True)
class Damaged:
    """A folder whose manifest cannot be read."""

    path: Path
    reason: str


def list_artifacts(config: ListConfig) -> str:
    """Return a table of the artifacts.

    Raises:
        ConfigError: there is no such folder.
        NothingFound: no artifact is below it.
    """
    if not config.path.is_dir():
        raise ConfigError(f"{config.path}: no such folder")
    rows: list[tuple[str, ...]] = [HEAD]
    damaged = []
    for each in below(config.path):
        if isinstance(each, Damaged):
            damaged.append(f"damaged: {each.reason}")
        elif config.kind in {None, each.kind}:
            rows.append(_row(each))
    if len(rows) == 1 and not damaged:
        raise NothingFound(f"{config.path}: no {config.kind or 'artifact'} here or below")
    return "\n".join([*_table(rows), *damaged])


def below(root: Path) -> Iterator[Artifact | Damaged]:
    """Yield the artifacts below a folder, in the order of their paths; hidden folders are skipped."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if artifacts.MANIFEST in names:
            folders.clear()
            try:
                yield artifacts.load(Path(folder))
            except ArtifactError as error:
                yield Damaged(Path(folder), str(error))


def made_from(artifact: Artifact) -> str:
    """Name what an artifact was made from: artifacts by their paths from here, and the number of sources.

    >>> from ibidem.artifacts import Artifact, Input
    >>> inputs = (Input("tokens", "sha256:0", "../tokens"), Input("source", "sha256:1", "src", is_artifact=False))
    >>> made_from(Artifact(Path("run/step"), "checkpoint", "", "", inputs, {}, {}, {}, {}))
    'run/tokens, src'
    """
    inside = dict.fromkeys(shown(artifact.path / each.name) for each in artifact.inputs if each.is_artifact)
    outside = list(dict.fromkeys(each.name for each in artifact.inputs if not each.is_artifact))
    return ", ".join([*inside, *(outside if len(outside) <= 2 else [f"{len(outside)} sources"])])


def _row(artifact: Artifact) -> tuple[str, ...]:
    made = artifact.volatile.get("created")
    return (
        str(artifact.path),
        artifact.kind,
        size(sum(file.bytes for file in artifact.files.values())),
        f"{datetime.fromtimestamp(made).astimezone():%Y-%m-%d %H:%M}" if isinstance(made, int | float) else "",
        artifact.digest.removeprefix("sha256:")[:12],
        made_from(artifact),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.rjust(width) if number == RIGHT else cell.ljust(width)
