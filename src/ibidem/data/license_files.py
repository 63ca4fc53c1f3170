"""Which license the LICENSE or COPYING file of a folder states for the files in it and below.

The nearest one counts, whatever it says: below a license that is not recognized nothing is stated, for the one further
up is not about these files. What stands side by side in one folder all applies.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ibidem.data.readers import printable
from ibidem.data.spdx import MAX_TEXT_CHARS, normalize

NAMES = re.compile(r"(?:licen[sc]e|copying)(?:\.(?:txt|md|rst))?", re.IGNORECASE)


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
            files = sorted(path for path in folder.iterdir() if NAMES.fullmatch(path.name) and path.is_file())
            is_root = folder == self._root
            self._by_folder[folder] = self._read(files) if files or is_root else self._below(folder.parent)
        return self._by_folder[folder]

    def _read(self, files: list[Path]) -> Stated | None:
        expression = normalize([_text(path) for path in files])
        names = ", ".join(printable(path.relative_to(self._root).as_posix()) for path in files)
        return None if expression is None else Stated(expression, f"license-file: {names}", tuple(files))


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_TEXT_CHARS)
    except OSError:
        return "unreadable"
