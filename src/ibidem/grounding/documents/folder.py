"""Read the documents of a folder: each becomes readable text with sections, or a reason why it cannot be read.

    list_folder(folder) -> Listing              paths, sorted; links, devices and hidden files are left out
      read_file(folder, path) -> Readable       bytes -> kind (by name) -> text, sections
                               | Unreadable     one line: what is wrong with the file
        isolation                               large files and PDF: in a process of their own, with limits
          reading                               which reader?
            markdown plain webpage definitions openapi pdf                      text -> Content

A document's reading depends on its path and bytes alone.
"""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ibidem.data.text import language
from ibidem.errors import ConfigError, DataError
from ibidem.files import printable
from ibidem.grounding.config import ReadConfig
from ibidem.grounding.documents import isolation
from ibidem.grounding.documents.opening import open_below, read_below
from ibidem.grounding.documents.readable import Content, Kind, Readable
from ibidem.grounding.documents.reading import content_of
from ibidem.records import Unreadable

DEFAULT = ReadConfig()
ISOLATED_BYTES = 512 << 10
"""Larger files, and all PDF files, are read in a process of their own: parsers take quadratic time for some inputs."""
MAX_DEPTH = 100
"""Maximum number of folders inside each other."""
MOST_TWINS = 5
"""Pairs of paths that look alike to name in a message."""
HIDDEN = "hidden"
INNER_LINK = "link to a file of the folder"
UNKNOWN_KIND = "unknown kind "
"""Why files are skipped; the suffix of an unknown kind follows."""
_SKIPPED_FOLDERS = frozenset({"__pycache__"})
_KINDS: dict[str, Kind] = {
    "Markdown": "markdown",
    "MDX": "markdown",
    "Text": "text",
    "reStructuredText": "text",
    "AsciiDoc": "text",
    "TeX": "text",
    "HTML": "html",
}
_SUFFIXES: dict[str, Kind] = {
    ".pdf": "pdf",
    ".htm": "html",
    ".xhtml": "html",
    ".text": "text",
    ".log": "text",
    ".org": "text",
}
_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Listing(NamedTuple):
    """What is in a folder."""

    files: tuple[str, ...]
    """Paths of the documents, relative, with `/`, sorted."""
    unreadable: tuple[Unreadable, ...]
    """What is neither a file nor a folder, leads elsewhere, or cannot be opened; sorted."""
    skipped: Mapping[str, int]
    """How many files and folders are left out on purpose, by reason."""


def read_folder(folder: Path, limits: ReadConfig = DEFAULT) -> Iterator[Readable | Unreadable]:
    """Yield the documents of a folder, sorted by path; in between, what cannot be read.

    Raises:
        ConfigError: there is no such folder.
        DataError: two paths differ only in case or in the form of their letters.
    """
    listing = list_folder(folder)
    unreadable = {each.file: each for each in listing.unreadable}
    for path in sorted([*listing.files, *unreadable]):
        yield unreadable[path] if path in unreadable else read_file(folder, path, limits)


def list_folder(folder: Path) -> Listing:
    """List the documents of a folder without reading them.

    Raises:
        ConfigError: there is no such folder.
        DataError: two paths differ only in case or in the form of their letters, which access rules could not tell
            apart on every system.
    """
    walk = _Walk(folder)
    _check_twins(walk.files)
    unreadable = sorted(walk.unreadable, key=lambda each: each.file)
    return Listing(tuple(sorted(walk.files)), tuple(unreadable), dict(sorted(walk.skipped.items())))


def read_file(folder: Path, path: str, limits: ReadConfig = DEFAULT) -> Readable | Unreadable:
    """Read one document of a folder; links are not followed, neither its own nor those of the folders above it.

    Args:
        folder: the folder.
        path: as `list_folder` returns it.
        limits: what a file may cost.

    Raises:
        DataError: the path leads out of the folder.
    """
    if path.startswith("/") or any(part in {"", ".", ".."} for part in path.split("/")):
        raise DataError(f"{path!r}: not a path inside a folder; give it relative, without `..`")
    kind, name = _kind(path)
    try:
        raw = read_below(folder, path, limits.max_pdf_bytes if kind == "pdf" else limits.max_bytes)
        if kind == "pdf" or len(raw) > ISOLATED_BYTES:
            kind, content = isolation.read(raw, kind, name, limits)
        else:
            kind, content = _read_here(raw, kind, name, limits)
    except DataError as error:
        return Unreadable(path, None, str(error))
    return Readable(path, kind, content.text, content.sections, content.whole)


def _read_here(raw: bytes, kind: Kind, name: str | None, limits: ReadConfig) -> tuple[Kind, Content]:
    try:
        return content_of(raw, kind, name, max_bytes=limits.max_bytes, max_pages=limits.max_pdf_pages)
    except DataError:
        raise
    except Exception as error:
        shown = " ".join(f"{type(error).__name__}: {error}".split())[: isolation.MAX_SHOWN]
        raise DataError(f"the reader failed: {shown}") from error


def _kind(path: str) -> tuple[Kind, str | None]:
    """Return the kind and the language of a file by its name; `code` with no language if it is unknown."""
    name, suffix = language.by_name(path), Path(path).suffix.lower()
    if kind := _SUFFIXES.get(suffix):
        return kind, name
    if name is not None:
        return (_KINDS.get(name, "code") if language.category(name, path) == "text" or name == "HTML" else "code"), name
    base = path.rpartition("/")[2]
    return ("text" if not suffix and base.isupper() else "code"), None  # LICENSE, NOTICE


def _is_known(path: str) -> bool:
    return _kind(path) != ("code", None)


def _check_twins(paths: list[str]) -> None:
    """Refuse paths, or folders of them, that are equal but for case and Unicode form."""
    seen: dict[str, str] = {}
    twins: dict[str, str] = {}
    for path in sorted(paths):
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            prefix = "/".join(parts[:depth])
            folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", prefix).casefold())
            if seen.setdefault(folded, prefix) != prefix:
                twins.setdefault(prefix, seen[folded])
                break
    if not twins:
        return
    pairs = [_shown_apart(other, one) for one, other in twins.items()]
    more = f"; and {len(pairs) - MOST_TWINS:,} more" if len(pairs) > MOST_TWINS else ""
    raise DataError(
        f"paths differ only in case or in the form of their letters; rename one of each: "
        f"{'; '.join(pairs[:MOST_TWINS])}{more}"
    )


def _shown_apart(one: str, other: str) -> str:
    r"""Return two paths for a message; escaped if they look the same.

    >>> _shown_apart("Caf\u00e9.md", "Cafe\u0301.md")
    "'Caf\\xe9.md' and 'Cafe\\u0301.md'"
    """
    is_alike = unicodedata.normalize("NFKC", one) == unicodedata.normalize("NFKC", other)
    return f"{one!a} and {other!a}" if is_alike else f"{one!r} and {other!r}"


class _Walk:
    """The files below a folder; everything is opened from its parent, so that no link can take its place."""

    def __init__(self, folder: Path) -> None:
        self.files: list[str] = []
        self.unreadable: list[Unreadable] = []
        self.skipped: Counter[str] = Counter()
        self._folder = folder
        try:
            root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"{folder}: {error.strerror}; give a folder of documents") from None
        try:
            self._below(root)
        finally:
            os.close(root)

    def _below(self, root: int) -> None:
        folders = [""]
        while folders:
            inside = folders.pop()
            try:
                descriptor = open_below(root, inside.split("/")[:-1], os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                self._refuse(inside, f"the folder cannot be opened: {error.strerror}")
                continue
            try:
                with os.scandir(descriptor) as entries:
                    folders += filter(None, [self._entry(inside, entry) for entry in entries])
            except OSError as error:
                self._refuse(inside, f"the folder cannot be read: {error.strerror}")
            finally:
                os.close(descriptor)

    def _entry(self, inside: str, entry: os.DirEntry[str]) -> str | None:
        """Note an entry of a folder; return the path of a folder to enter."""
        path = inside + entry.name
        if entry.name.startswith(".") or entry.name in _SKIPPED_FOLDERS:
            self.skipped[HIDDEN] += 1
        elif (reason := _bad_name(entry.name)) is not None:
            self._refuse(path, reason)
        elif entry.is_symlink():
            self._link(path)
        elif entry.is_dir(follow_symlinks=False):
            if path.count("/") < MAX_DEPTH:
                return path + "/"
            self._refuse(path, f"folders nested deeper than {MAX_DEPTH}")
        elif not entry.is_file(follow_symlinks=False):
            self._refuse(path, f"not a file, but {_special(entry)}")
        elif _is_known(path):
            self.files.append(path)
        else:
            self.skipped[UNKNOWN_KIND + (Path(path).suffix.lower() or entry.name)] += 1
        return None

    def _link(self, path: str) -> None:
        root = self._folder.resolve()
        try:
            target = (self._folder / path).resolve(strict=True)
        except FileNotFoundError:
            self._refuse(path, "a symbolic link to nothing")
        except (OSError, RuntimeError):
            self._refuse(path, "a symbolic link that leads in a circle, or cannot be followed")
        else:
            if not target.is_relative_to(root):
                self._refuse(path, "a symbolic link out of the folder")
            elif (root / path).parent.is_relative_to(target):
                self._refuse(path, "a symbolic link to a folder around it")
            else:
                self.skipped[INNER_LINK] += 1

    def _refuse(self, path: str, reason: str) -> None:
        self.unreadable.append(Unreadable(printable(path) or ".", None, reason))


def _bad_name(name: str) -> str | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in name):
        return "its name has control characters; rename it"
    return None


def _special(entry: os.DirEntry[str]) -> str:
    try:
        return _SPECIAL.get(stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode), "something else")
    except OSError:
        return "gone"
