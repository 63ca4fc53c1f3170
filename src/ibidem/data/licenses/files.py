"""Determine the license of files from the LICENSE or COPYING files of their folder.

The nearest folder with license files counts; all of them apply, with those in its folder LICENSES
(https://reuse.software). A file that cannot be read, or that has a plain name (`COPYING.txt`) and an unrecognized text,
makes the license unknown. Other files count if their text is recognized (`LICENSE-MIT`), or if they stand alone with a
name in capitals (`COPYING.gz`): `license.svg` does not count, nor does `LICENSE-THIRD-PARTY` beside LICENSE.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ibidem.data.licenses.spdx import MAX_TEXT_CHARS, UNKNOWN, normalize
from ibidem.data.text import language
from ibidem.files import is_file, printable

NAMES = re.compile(r"(?P<before>[\w.+]+[-_])?(?P<stem>(?:un)?licen[sc]es?|copying)(?P<more>[-_.\d ].*)?", re.IGNORECASE)
REUSE = "LICENSES"
_PLAIN = ("", ".txt", ".md", ".rst")
_PAGES = (".html", ".htm")


@dataclass(frozen=True)
class Stated:
    """What the license files of one folder state."""

    expression: str
    evidence: str
    files: tuple[Path, ...]

    @property
    def fields(self) -> dict[str, str]:
        """Return these facts as fields of a document."""
        return {"license_raw": self.expression, "license_evidence": self.evidence}


class _File(NamedTuple):
    path: Path
    license: str | None
    is_open: bool
    """Whether it makes the license unknown, whatever the other files state."""


class LicenseFiles:
    """The license files below a folder; each folder is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_folder: dict[Path, Stated | None] = {}

    def of(self, path: Path) -> Stated | None:
        """Return what the nearest license files state for a file below the root, None if there are none."""
        return self._below(path.parent)

    def _below(self, folder: Path) -> Stated | None:
        if folder not in self._by_folder:
            files = list(_files(folder))
            is_root = folder == self._root
            self._by_folder[folder] = self._stated(files) if files or is_root else self._below(folder.parent)
        return self._by_folder[folder]

    def _stated(self, files: list[_File]) -> Stated | None:
        if not files:
            return None
        known = [file.license for file in files if file.license is not None]
        expression = None if any(file.is_open for file in files) else normalize(known)
        names = ", ".join(printable(file.path.relative_to(self._root).as_posix()) for file in files)
        readable = tuple(file.path for file in files if is_file(file.path))
        return Stated(expression or UNKNOWN, f"license-file: {names}", readable)


def _files(folder: Path) -> Iterator[_File]:
    for path in sorted(folder.iterdir()):
        if path.name == REUSE and _is_folder(path):
            yield from _reuse_files(path)
        elif named := NAMES.fullmatch(path.name):
            is_program = language.category(language.by_name(path.name)) == "code" and path.suffix.lower() not in _PAGES
            if not is_program and not _is_folder(path):
                text = _text(path)
                expression = normalize(text)
                is_plain = not named["before"] and (named["more"] or "").lower() in _PLAIN
                if expression is not None or is_plain or named["stem"].isupper():
                    yield _File(path, expression, expression is None and (is_plain or text is None))


def _reuse_files(folder: Path) -> Iterator[_File]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        yield _File(folder, None, is_open=True)
        return
    for path in paths:
        if _is_folder(path):
            yield from _reuse_files(path)
        else:
            expression = normalize(_text(path)) or normalize(path.stem)
            yield _File(path, expression, expression is None)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link into a folder that we may not read
        return False


def _text(path: Path) -> str | None:
    """Read the head of a license file; None if it cannot be read as text."""
    if not is_file(path):
        return None
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_CHARS)
    except OSError:
        return None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_wide else "utf-8-sig", errors="replace")
    return None if "\0" in text else text
