"""Clones below a folder: of which repository, at which commit, of which day. Their files are read; git is never run.

A clone is a folder with `.git`: a folder, or a file that names one, as in worktrees and submodules. Where that is
malformed or missing, or a store names what is outside the folder, the repository or the commit is unknown.

Source: gitrepository-layout(5), git-config(1), gitsubmodules(7), git-worktree(1), git-pack-refs(1).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ibidem.data.sources.git_objects import commit_date
from ibidem.data.text.repository import place_of, repository_of
from ibidem.files import is_file
from ibidem.places import StorePath, joined

ORIGIN = "origin"
MAX_BYTES = 64 << 20
"""Largest file that is read; packed-refs has about 60 bytes a ref."""
MAX_LINKS = 5
"""Symbolic refs that are followed, as in git."""
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(r"refs/(?!.*(?:\.\.|//))[^\0-\x20\x7f~^:?*\[\\]+")
_SECTION = re.compile(r'\[\s*(?P<section>[\w.-]+)(?:\s+"(?P<name>(?:[^"\\]|\\.)*)")?\s*\]')
_VARIABLE = re.compile(r"(?P<key>[A-Za-z][\w-]*)\s*=\s*(?P<value>.*)")


@dataclass(frozen=True)
class Clone:
    """A clone, as far as its files say what it is of."""

    folder: Path
    repo: str | None
    commit: str | None
    address: str | None = None
    """Where it was cloned from, without credentials."""
    date: str | None = None
    """Day of the commit in UTC, where the clone has it."""

    @property
    def facts(self) -> dict[str, str | None]:
        """What the manifest says of it."""
        return {"repo": self.repo, "commit": self.commit, "address": self.address, "date": self.date}


class Clones:
    """The clones at and below a folder; each folder is looked at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_folder: dict[Path, Clone | None] = {}

    def of(self, path: Path) -> Clone | None:
        """Return the innermost clone that contains a file below the root, None if there is none."""
        return self._around(path.parent)

    @property
    def found(self) -> list[Clone]:
        """The clones that were found so far."""
        return list(dict.fromkeys(filter(None, self._by_folder.values())))

    def _around(self, folder: Path) -> Clone | None:
        if folder not in self._by_folder:
            found = _clone(folder, self._root)
            above = None if found or folder in (self._root, folder.parent) else self._around(folder.parent)
            self._by_folder[folder] = found or above
        return self._by_folder[folder]


def _clone(folder: Path, root: Path) -> Clone | None:
    """Return the clone whose top is a folder; a folder `.git` without HEAD is none, as for git."""
    git = folder / ".git"
    if is_file(git):
        named = re.match(r"gitdir:[ \t]*(.+?)\s*\Z", _read(git))
        git = _followed(folder, named[1], root) or git if named and "\0" not in named[1] else git
    elif not is_file(git / "HEAD"):
        return None
    shared = re.match(r"([^\0]+?)\s*\Z", _read(git / "commondir"))
    common = _followed(git, shared[1], root) or git if shared else git
    url, commit = _origin(_read(common / "config")), _commit(git, common)
    place = place_of(url) if url else None
    return Clone(
        folder,
        repository_of(url) if url else None,
        commit,
        address=place and f"https://{place}",
        date=commit_date(common, commit) if commit else None,
    )


def _followed(folder: Path, name: str, root: Path) -> Path | None:
    """Return the place that a file of git names; None if that is at a store, and the place not below the root there."""
    if not isinstance(folder, StorePath):
        return folder / name
    path = joined(folder, name)
    return path if isinstance(path, StorePath) and path.is_relative_to(root) else None


def _origin(config: str) -> str | None:
    """Return the address of the remote `origin`, or of the only remote."""
    remotes: dict[str, str] = {}
    instead: dict[str, str] = {}
    for section, name, key, value in _variables(config):
        if (section, key) == ("remote", "url"):
            remotes.setdefault(name, value)
        elif (section, key) == ("url", "insteadof"):
            instead[value] = name
    url = remotes.get(ORIGIN) or (next(iter(remotes.values())) if len(remotes) == 1 else None)
    return _rewritten(url, instead) if url else None


def _rewritten(url: str, instead: Mapping[str, str]) -> str:
    longest = max((prefix for prefix in instead if prefix and url.startswith(prefix)), key=len, default=None)
    return url if longest is None else instead[longest] + url.removeprefix(longest)


def _variables(config: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (section, subsection, key, value) of a configuration file; lines that are neither are skipped."""
    section = name = ""
    for line in re.sub(r"\\\r?\n", "", config).splitlines():
        rest = line.strip()
        if head := _SECTION.match(rest):
            section, name = head["section"].lower(), re.sub(r"\\(.)", r"\1", head["name"] or "")
            rest = rest[head.end() :].strip()
        if variable := _VARIABLE.match(rest):
            yield section, name, variable["key"].lower(), _value(variable["value"])


def _value(text: str) -> str:
    r"""Remove quotes and the comment of a value.

    >>> _value('"https://example.org/a;b" ; a comment'), _value("a # b")
    ('https://example.org/a;b', 'a')
    """
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"|([^"#;]+)|([#;].*)', text)
    return "".join(quoted or plain for quoted, plain, _ in parts).strip()


def _commit(git: Path, common: Path) -> str | None:
    """Return the commit that HEAD names, directly or over refs, which are loose files or lines of packed-refs."""
    value = _read(git / "HEAD").strip()
    for _ in range(MAX_LINKS):
        if _COMMIT.fullmatch(value):
            return value
        ref = value.removeprefix("ref:").strip()
        if ref == value or not _REF.fullmatch(ref):
            return None
        value = (_read(git / ref) or _read(common / ref)).strip() or _packed(_read(common / "packed-refs"), ref)
    return None


def _packed(text: str, ref: str) -> str:
    line = re.search(rf"^([0-9a-f]+) {re.escape(ref)}\r?$", text, re.MULTILINE)
    return line[1] if line else ""


def _read(path: Path) -> str:
    """Return the text of a regular file; nothing if there is none, or it is too large."""
    try:
        if not is_file(path) or path.stat().st_size > MAX_BYTES:
            return ""
        return path.read_bytes().decode(errors="surrogateescape")
    except (OSError, ValueError):
        return ""
