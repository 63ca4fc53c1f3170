"""Access as the file system has it: owners and modes in the documents' folder, and the accounts of this machine.

A principal is a user name, or `uid:1000`. It may read a document if the file's mode lets it read, and the mode of each
folder, from the documents' folder down, lets it search. As in POSIX, one class of a mode decides: the owner's for the
owner, else the group's for its members, else that of all others. So an owner without the right is denied what all
others may read. Nobody is above the modes, not even root. Folders above the documents' folder do not count.

Each mode is represented as a deny group of everyone it excludes:

    drwx--x--- alice staff  pay/            read: everyone
    -rw-r--r-- bob   staff  pay/march.md    deny: outside 1001:50:xx-    (alice is 1001, staff is 50)

Modes alone are judged. Nobody may read a document that has an access control list or is below a folder that has one,
nor one behind a link.

Modes belong to files, not to paths: another file at the path of a document does not open the text that was indexed.
So the mode at the time of the indexing and the mode now must both permit.

Source: POSIX.1-2024, 4.7 File Access Permissions.
"""

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ibidem.accounts import NO_ACCOUNT, Person, is_outside, person
from ibidem.errors import RulesError
from ibidem.files import stamp
from ibidem.grounding.paths import normalized
from ibidem.grounding.store import EVERYONE, NOBODY, Access, Rules

MODES_S = 60.0
"""All modes are read again after so long; those of documents that are to be shown, each time (`holds`)."""

ACCOUNTS_S = 1.0
"""A directory service is asked again for accounts after so long; /etc/passwd and /etc/group are compared each time."""

_ACCOUNTS = (Path("/etc/passwd"), Path("/etc/group"))
_LISTS = frozenset({"system.posix_acl_access", "system.nfs4_acl", "system.richacl"})
_REMEMBERED = 256  # principals whose groups are compared
_OTHERS = {"r": stat.S_IROTH, "x": stat.S_IXOTH}


class Modes(NamedTuple):
    """Who may read which document of a folder, by the modes of one moment."""

    digest: str
    access: dict[str, Access]
    """By path in Unicode's form NFC."""
    written: dict[str, str]
    """How such a path is written in the folder, where that differs."""
    unjudged: tuple[str, ...]
    """Files and folders with an access control list: nobody may read them."""


class PosixPermissions:
    """The modes of a folder's files, as they are now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._lock = threading.Lock()
        self._rules: PosixRules | None = None
        self._people: dict[str, Person | None] = {}  # as they were when they were asked for
        self._accounts_stamp: tuple[tuple[int, ...], ...] | None = None
        self._accounts_digest = ""
        self._revision = 0  # counts changes of people's groups: a directory service has no digest
        self._modes_at = self._accounts_at = -float("inf")

    def current(self) -> "PosixRules":
        with self._lock:
            now, rules = time.monotonic(), self._rules
            modes = None if rules is None or now - self._modes_at > MODES_S else rules.modes
            if modes is None:
                modes, self._modes_at = read_modes(self.folder), now
            version = f"{modes.digest}.{self._accounts(now)}"
            if rules is None or modes is not rules.modes or version != rules.version:
                rules = self._rules = PosixRules(modes, version, self._people)
            return rules

    def holds(self, rules: Rules, paths: Iterable[str]) -> bool:
        current = self.current()
        if current.version != rules.version:
            return False
        judge = _Judge(self.folder)
        if all(judge.access(current.modes.written.get(path, path)) == current.access(path) for path in paths):
            return True
        with self._lock:
            self._modes_at = -float("inf")
        return False

    def _accounts(self, now: float) -> str:
        """Return the version of all accounts."""
        stamps = tuple(stamp(path.stat()) for path in _ACCOUNTS if path.exists())
        is_other = stamps != self._accounts_stamp
        if is_other:
            data = b"".join(path.read_bytes() for path in _ACCOUNTS if path.exists())
            self._accounts_stamp, self._accounts_digest = stamps, hashlib.sha256(data).hexdigest()[:16]
        if is_other or now - self._accounts_at > ACCOUNTS_S:
            self._accounts_at = now
            people = list(self._people.items())
            if len(people) > _REMEMBERED or any(person(name) != known for name, known in people):
                self._people = {}
                self._revision += 1
        return f"{self._accounts_digest}.{self._revision}"


class PosixRules:
    """The modes of a folder's files, and the groups of principals, at one moment."""

    is_bound_to_files = True

    def __init__(self, modes: Modes, version: str, people: dict[str, Person | None]) -> None:
        self.version = version
        self.modes = modes
        self._people = people

    def access(self, path: str) -> Access:
        return self.modes.access.get(normalized(path), NOBODY)

    def resolved(self, access: Access) -> Access:
        return Access(access.read, access.deny | {NO_ACCOUNT})  # all other groups are those whom a mode shuts out

    def permits(self, principal: str, access: Access) -> bool:
        if principal not in self._people:
            self._people[principal] = person(principal)
        known = self._people[principal]
        return (
            known is not None and EVERYONE in access.read and not any(is_outside(known, each) for each in access.deny)
        )


def read_modes(folder: Path) -> Modes:
    """Read the modes of all files of a folder.

    Raises:
        RulesError: there is no such folder, or this system does not show access control lists.
    """
    if not hasattr(os, "listxattr"):
        raise RulesError("--acl posix needs Linux, which shows access control lists; give a file of rules instead")
    if not folder.is_dir():
        raise RulesError(f"{folder}: no such folder; until it is back, nobody may read anything")
    judge, access, written = _Judge(folder), dict[str, Access](), dict[str, str]()
    for path in _files(folder):
        name = normalized(path)
        judged = judge.access(path)
        access[name] = judged if access.get(name, judged) == judged else NOBODY
        if name != path:
            written[name] = path
    classes = {each: f"{sorted(each.read)} {sorted(each.deny)}" for each in set(access.values())}
    lines = "".join(f"{path}\0{classes[each]}\n" for path, each in sorted(access.items()))
    digest = f"sha256:{hashlib.sha256(lines.encode(errors='surrogateescape')).hexdigest()}"
    return Modes(digest, access, written, tuple(sorted(judge.unjudged)))


class _Judge:
    """Judges files; each folder above them once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unjudged: set[str] = set()
        self._folders: dict[str, frozenset[str] | None] = {}

    def access(self, path: str) -> Access:
        """Return the class of a file, by its path in the folder."""
        about, above = self._look(path), self._folder(path.rpartition("/")[0])
        if about is None or above is None:
            return NOBODY
        if not stat.S_ISREG(about.st_mode):  # a link, too: indexing follows none
            return NOBODY
        return Access(frozenset({EVERYONE}), above | _outside(about.st_uid, about.st_gid, about.st_mode, "r"))

    def _folder(self, path: str) -> frozenset[str] | None:
        """Return whom a folder and those above it shut out; None: everybody."""
        if path not in self._folders:
            about = self._look(path)
            above = self._folder(path.rpartition("/")[0]) if path else frozenset()
            if about is None or above is None or not stat.S_ISDIR(about.st_mode):
                self._folders[path] = None
            else:
                self._folders[path] = above | _outside(about.st_uid, about.st_gid, about.st_mode, "x")
        return self._folders[path]

    def _look(self, path: str) -> os.stat_result | None:
        """Return a file's owners and mode; None if it is not there, or has an access control list."""
        full = f"{self.root}/{path}"  # a Path takes three times as long as the system's calls
        try:
            about = os.stat(full, follow_symlinks=path == "")  # noqa: PTH116
            if stat.S_ISLNK(about.st_mode) or _LISTS.isdisjoint(os.listxattr(full)):
                return about
        except OSError:
            return None
        self.unjudged.add(path or ".")
        return None


def _files(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):  # links to folders are not followed
        below = Path(place).relative_to(folder)
        yield from names if below == Path() else (f"{below}/{name}" for name in names)


@lru_cache(1024)
def _outside(uid: int, gid: int, mode: int, letter: str) -> frozenset[str]:
    """Return the group of those whom a mode shuts out, as a set; an empty one if it lets all in."""
    bit = _OTHERS[letter]
    letters = "".join(letter if mode & bit << shift else "-" for shift in (6, 3, 0))
    return frozenset() if letters == 3 * letter else frozenset({f"outside {uid}:{gid}:{letters}"})
