"""Paths of documents, relative to their folder, as people give them to commands."""

import unicodedata

from ibidem.errors import ConfigError


def document_path(path: str) -> str:
    """Return a path that somebody gave, without `.` and doubled slashes, in Unicode's form NFC.

    >>> document_path("./salaries//march.md/")
    'salaries/march.md'

    Raises:
        ConfigError: it is absolute, empty, or leads upwards.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if path.startswith("/") or ".." in parts or not parts:
        raise ConfigError(f"{path}: not a path below the documents' folder; give it as search results show it")
    return normalized("/".join(parts))


def normalized(path: str) -> str:
    """Return a path in Unicode's form NFC."""
    return unicodedata.normalize("NFC", path)


def is_below(path: str, wanted: str) -> bool:
    """Return whether a path is the wanted one, or inside it.

    >>> is_below("a/b", "a"), is_below("ab", "a")
    (True, False)
    """
    return normalized(path) == wanted or normalized(path).startswith(f"{wanted}/")


def with_parents(path: str) -> list[str]:
    """Return the folders above a path, from the outermost, and the path itself.

    >>> with_parents("a/b/c.md")
    ['a', 'a/b', 'a/b/c.md']
    """
    parts = normalized(path).split("/")
    return ["/".join(parts[:size]) for size in range(1, len(parts) + 1)]
