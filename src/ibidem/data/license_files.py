"""Which license the LICENSE or COPYING files of a folder state for the files in it and below.

The nearest folder that has some counts, whatever they say. What stands side by side all applies; a file that is not
recognized leaves the license unknown, unless it only goes with one that is (`LICENSE-THIRD-PARTY` with `LICENSE`).
"""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from ibidem.data import language
from ibidem.data.readers import printable
from ibidem.data.spdx import MAX_TEXT_CHARS, UNKNOWN, normalize

NAMES = re.compile(r"(?:(?:un)?licen[sc]e|copying)(?P<more>[-.].+)?", re.IGNORECASE)
REUSE = "LICENSES"
"""Folder with the texts of all licenses that the files below name in their headers (https://reuse.software)."""
_PLAIN = (None, ".txt", ".md", ".rst")


@dataclass(frozen=True)
class Stated:
    """What the license files of one folder state."""

    expression: str
    evidence: str
    files: tuple[Path, ...]

    @property
    def nouns(self) -> dict[str, str]:
        """Give what a document says of it."""
        return {"license_raw": self.expression, "license_evidence": self.evidence}


class LicenseFiles:
    """The license files below a folder; each folder is looked into once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_folder: dict[Path, Stated | None] = {}

    def of(self, path: Path) -> Stated | None:
        """Give what the nearest license file states for a file below the root."""
        return self._below(path.parent)

    def _below(self, folder: Path) -> Stated | None:
        if folder not in self._by_folder:
            files = [path for path in sorted(folder.iterdir()) if _is_license(path)]
            if (folder / REUSE).is_dir():
                files += [path for path in sorted((folder / REUSE).iterdir()) if not path.is_dir()]
            is_root = folder == self._root
            self._by_folder[folder] = self._read(files) if files or is_root else self._below(folder.parent)
        return self._by_folder[folder]

    def _read(self, files: list[Path]) -> Stated | None:
        if not files:
            return None
        found = [(path, text := _text(path), normalize(text)) for path in files]
        is_open = any(known is None and (text is None or _is_plain(path)) for path, text, known in found)
        expression = None if is_open else normalize([known for _, _, known in found if known is not None])
        names = ", ".join(printable(path.relative_to(self._root).as_posix()) for path in files)
        return Stated(expression or UNKNOWN, f"license-file: {names}", tuple(files))


def _is_license(path: Path) -> bool:
    """Tell by its name whether a file states a license: `LICENSE-MIT` does, `license.py` is a program."""
    is_named = NAMES.fullmatch(path.name) and language.category(language.by_name(path.name)) == "text"
    try:
        return bool(is_named) and not path.is_dir()
    except OSError:  # a link into a folder that is closed to us
        return True


def _is_plain(path: Path) -> bool:
    named = NAMES.fullmatch(path.name)
    return named is not None and named["more"] in _PLAIN


def _text(path: Path) -> str | None:
    """Read the head of a license file, None where it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_CHARS)
    except OSError:
        return None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_wide else "utf-8-sig", errors="replace")
