r"""Read which license of a folder LICENSES each file has: `.reuse/dep5`, or `REUSE.toml`.

    [[annotations]]
    path = "vendor/**"                        ->  vendor/a/b.c: GPL-3.0-only
    SPDX-License-Identifier = "GPL-3.0-only"

The last annotation that matches a file counts. A file of annotations that cannot be read, or does not keep to its
format, could name any file below it: all of them have an unknown license. In a glob of REUSE.toml only stars and
backslashes are special: `[a-z]*` names files whose names begin with `[a-z]`. Its `precedence` decides between
annotations of several folders, and what the file's own head is worth; a copyright file is joined with the head.
Source: https://reuse.software/spec-3.3/
"""

import errno
import re
import tomllib
from collections.abc import Iterator, Mapping
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
    text: str | None
    """None if they cannot be read."""

    def of(self, name: str) -> Note | None:
        """Return the licenses of a file, by its path below the folder; None if no annotation names it.

        Those that cannot be read name every file, and no license.
        """
        if self.text is None:
            return Note([], CLOSEST)
        if self.path.name == _NAMES[0]:
            return next((note for path, note in reversed(_tables(self.text)) if path.fullmatch(name)), None)
        licenses, glob = dep5.licenses_of(self.text, name)
        return Note(licenses, AGGREGATE) if glob else None


def annotations(folder: Path) -> Annotations | None:
    """Return the annotations of a folder; None if it has none. A REUSE.toml that names no license gives way to dep5."""
    for path in (folder / name for name in _NAMES):
        if is_present(path):
            text = _read(path)
            if text is None or path.name != _NAMES[0] or _tables(text):
                return Annotations(path, text)
    return None


def is_present(path: Path) -> bool:
    """Check whether a name is taken by anything but a folder: a file, a link to nothing, what we may not look at."""
    try:
        return (path.is_symlink() or path.exists()) and not path.is_dir()
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG


def _read(path: Path) -> str | None:
    """Return the text of a file of annotations; None if it cannot be read, or is not in its format."""
    try:
        if not is_file(path) or path.stat().st_size > MAX_BYTES:
            return None
        text = path.read_text(encoding="utf-8-sig")
        if path.name != _NAMES[0]:
            return text if dep5.is_whole(text) else None
        _tables(text)
    except (OSError, ValueError, RecursionError):
        return None
    return text if text.strip() else None


@lru_cache(maxsize=64)
def _tables(text: str) -> tuple[tuple[re.Pattern[str], Note], ...]:
    """List the globs of a REUSE.toml with what is stated for the files that they name.

    Raises:
        ValueError: it is no TOML, or an annotation names no files, or states a license that is no text.
    """
    listed = tomllib.loads(text).get("annotations", [])
    if not isinstance(listed, list) or not all(isinstance(table, dict) for table in listed):
        raise ValueError("annotations that are no tables")
    return tuple(pair for table in listed for pair in _pairs(table))


def _pairs(table: Mapping[str, Any]) -> Iterator[tuple[re.Pattern[str], Note]]:
    globs = [compiled(glob, STARS) for glob in _texts(table.get("path"))]
    if not globs:
        raise ValueError("an annotation of no files")
    if names := _texts(table.get("SPDX-License-Identifier", [])):
        precedence = _PRECEDENCES.get(str(table.get("precedence")), CLOSEST)
        yield from ((glob, Note(names, precedence)) for glob in globs)


def _texts(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("neither a text nor a list of texts")
    return texts
