"""What the files of a source hold: their parts, and whether they state licenses; each file is looked through once.

A file of Parquet shows it at its end. The lines of others must be counted, which takes as long as reading them, so
every file is a task of its own.
"""

import json
import re
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from ibidem import workfiles
from ibidem.data.engine import Engine
from ibidem.data.sources.columns import LICENSE
from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.readers import DAMAGE, DATA_SUFFIXES, Piece, lines, open_arrow, suffix_of, with_trees
from ibidem.files import on_each
from ibidem.places import StorePath, source

LICENSE_COLUMNS = set(LICENSE)
FILE = "survey.json"
_WRONG_CHECKSUM = re.compile("CRC check|checksum|incorrect data check", re.IGNORECASE)
_KEYS = [f'"{name}"'.encode() for name in LICENSE]

Part = tuple[int | None, int, int, str | None]
"""Row group, rows before it, positions, damage."""
_WHOLE: list[Part] = [(None, 0, 1, None)]


class Facts(NamedTuple):
    """What one file holds."""

    parts: Sequence[Part]
    """Independently readable parts."""
    states_license: bool
    """Whether any row may have a license; of a plain file, False."""


def survey(
    files: Sequence[tuple[str, Path]], column: str, engine: Engine | None, kept_in: Path | None = None
) -> list[Facts]:
    """Look through files.

    Args:
        files: names and paths.
        column: that of the texts.
        engine: runs the tasks; None: threads do.
        kept_in: a folder in which a run that was killed left what it had found.
    """
    kept = None if kept_in is None else kept_in / FILE
    if kept is not None and kept.is_file():
        return [Facts(parts, states) for parts, states in json.loads(kept.read_text(encoding="utf-8"))]
    tasks = [(name, _pinned(path)) for name, path in files if name.endswith(DATA_SUFFIXES)]
    found = iter(on_each(partial(_look, column), tasks, engine))
    plain = Facts(_WHOLE, states_license=False)
    facts = [next(found) if name.endswith(DATA_SUFFIXES) else plain for name, _ in files]
    if kept is not None:
        workfiles.write(kept, json.dumps(facts))
    return facts


def counted(pieces: Sequence[Piece], trees: Trees, engine: Engine | None) -> Sequence[Piece]:
    """Return pieces whose trees of replies become one document or several, with the number of their positions."""
    if trees == "best_path":
        return pieces
    return on_each(partial(with_trees, trees=trees), pieces, engine)


def _pinned(path: Path) -> Path:
    return path.pinned(path.held().stamp) if isinstance(path, StorePath) else path


def _look(column: str, task: tuple[str, Path]) -> Facts:
    name, path = task
    suffix = suffix_of(name)
    if suffix == ".parquet":
        return _in_parquet(path, column)
    return _in_arrow(path) if suffix == ".arrow" else _in_lines(path)


def _in_parquet(path: Path, column: str) -> Facts:
    try:
        with source(path) as file:
            metadata = pq.read_metadata(file)
        names = metadata.schema.to_arrow_schema().names
    except DAMAGE:
        return Facts(_WHOLE, states_license=False)
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    starts = accumulate(counts, initial=0)
    parts = [(group, row, max(1, count), None) for group, (row, count) in enumerate(zip(starts, counts, strict=False))]
    return Facts(parts if column in names else _WHOLE, not LICENSE_COLUMNS.isdisjoint(names))


def _in_arrow(path: Path) -> Facts:
    """Count the rows before any damage, and the damage as one more."""
    count, states = 0, False
    try:
        with open_arrow(path) as (schema, batches):
            states = not LICENSE_COLUMNS.isdisjoint(schema.names)
            for batch in batches:
                count += batch.num_rows
    except DAMAGE:
        count += 1
    return Facts([(None, 0, count, None)], states)


def _in_lines(path: Path) -> Facts:
    """Count the lines before any damage, and the damage as one more; a wrong checksum invalidates all lines."""
    count, states = 0, False
    try:
        for line in lines(path):
            count += 1
            states = states or any(key in line for key in _KEYS)
    except DAMAGE as error:
        if count and _WRONG_CHECKSUM.search(str(error)):
            return Facts([(None, 0, 1, f"{error}: none of its rows can be trusted")], states)
        count += 1
    return Facts([(None, 0, count, None)], states)
