r"""Read which license of a folder LICENSES each file has: `.reuse/dep5`, or `REUSE.toml`.

    [[annotations]]
    path = "vendor/**"                        ->  vendor/a/b.c: GPL-3.0-only
    SPDX-License-Identifier = "GPL-3.0-only"

The last annotation that matches a file counts. In a glob of REUSE.toml only stars and backslashes are special: `[a-z]*`
names files whose names begin with `[a-z]`. Its `precedence` decides between annotations of several folders, and what
the file's own head is worth; a copyright file is joined with the head.
Source: https://reuse.software/spec-3.3/
"""

import re
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ibidem.data.licenses import dep5
from ibidem.data.licenses.globs import STARS, compiled
from ibidem.data.licenses.precedence import AGGREGATE, CLOSEST, OVERRIDE
from ibidem.files import is_file
from ibidem.records import Precedence

_NAMES = ("REUSE.toml", ".reuse/dep5")
_PRECEDENCES: dict[str, Precedence] = {AGGREGATE: AGGREGATE, OVERRIDE: OVERRIDE}
MAX_BYTES = 1 << 20


class Note(NamedTuple):
    """What annotations state for one file."""

    licenses: list[str]
    precedence: Precedence


class Annotations(NamedTuple):
    """The annotations of a folder."""

    path: Path
    text: str

    def of(self, name: str) -> Note | None:
        """Return the licenses of a file, by its path below the folder; None if no annotation names it."""
        if self.path.name == _NAMES[0]:
            return next((note for path, note in reversed(_tables(self.text)) if path.fullmatch(name)), None)
        licenses, glob = dep5.licenses_of(self.text, name)
        return Note(licenses, AGGREGATE) if glob else None


def annotations(folder: Path) -> Annotations | None:
    """Return the annotations of a folder; None if it has none that can be read."""
    for name in _NAMES:
        path = folder / name
        try:
            if not is_file(path) or path.stat().st_size > MAX_BYTES:
                continue
            text = path.read_text(encoding="utf-8-sig")
            if _tables(text) if name == _NAMES[0] else dep5.is_dep5(text):
                return Annotations(path, text)
        except (OSError, ValueError, RecursionError):
            continue
    return None


@lru_cache(maxsize=64)
def _tables(text: str) -> tuple[tuple[re.Pattern[str], Note], ...]:
    """List the globs of a REUSE.toml with what is stated for the files that they name."""
    listed = tomllib.loads(text).get("annotations")
    return tuple(pair for table in (listed if isinstance(listed, list) else []) for pair in _pairs(table))


def _pairs(table: Any) -> Iterator[tuple[re.Pattern[str], Note]]:
    names = _texts(table.get("SPDX-License-Identifier")) if isinstance(table, dict) else []
    if names:
        precedence = _PRECEDENCES.get(str(table.get("precedence")), CLOSEST)
        yield from ((compiled(glob, STARS), Note(names, precedence)) for glob in _texts(table.get("path")))


def _texts(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
