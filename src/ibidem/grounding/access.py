"""Access rules from a YAML file (see `acl`), as they are at the moment.

A document's readers are all whom the rules that match its path name under `read`, except those whom any of them names
under `deny`; no rule, no reader. Names and paths are compared in Unicode's form NFC, with their case. A principal whose
name differs from a known one only in case may read nothing, so that no deny is evaded; nor may one that is not listed,
if the file lists the principals.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from ibidem.config import suggest
from ibidem.errors import RulesError
from ibidem.files import stamp
from ibidem.grounding import acl
from ibidem.grounding.acl import Acl
from ibidem.grounding.globs import compile_glob, literal_prefix
from ibidem.grounding.paths import normalized
from ibidem.grounding.store import EVERYONE, Access, Rules

SETTLED_S = 0.1
"""Minimum time since the last change before a file is read; an earlier look could see it half written."""

MAX_BYTES = 1 << 24
_TRIES = 20
_REMEMBERED = 4096  # principals whose names are kept
_SUGGESTED_FROM = 2000  # folders among which a similar one is searched

_Stamp = tuple[int, ...]


class YamlPermissions:
    """The rules of a file, as they are now."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._known: tuple[_Stamp, YamlRules] | None = None

    def current(self) -> "YamlRules":
        known = self._known
        try:
            if known is not None and stamp(self.path.stat()) == known[0]:
                return known[1]
            seen, data = _settled(self.path)
        except OSError as error:
            raise RulesError(f"{self.path}: {error.strerror}; until it can be read, nobody may read anything") from None
        rules = YamlRules(acl.parse(data, str(self.path)))
        self._known = seen, rules
        return rules

    def holds(self, rules: Rules, paths: Iterable[str]) -> bool:  # noqa: ARG002 - one file decides on all
        return self.current().version == rules.version


class YamlRules:
    """The rules of a file at one moment."""

    def __init__(self, content: Acl) -> None:
        self.content = content
        self.version = _version(content)
        self._matchers = [(literal_prefix(rule.path), compile_glob(rule.path).fullmatch) for rule in content.rules]
        self._groups_of: dict[str, set[str]] = {}
        for group, members in content.groups.items():
            for member in members:
                self._groups_of.setdefault(member, set()).add(group)
        self._spelled = {name.casefold(): name for name in _all_names(content)}
        self._classes: dict[tuple[int, ...], Access] = {}
        self._names: dict[str, frozenset[str]] = {}

    def access(self, path: str) -> Access:
        path = normalized(path)
        numbers = tuple(
            [n for n, (prefix, matches) in enumerate(self._matchers) if path.startswith(prefix) and matches(path)]
        )
        if (access := self._classes.get(numbers)) is None:
            rules = [self.content.rules[number] for number in numbers]
            read = frozenset(name for rule in rules for name in rule.read)
            deny = frozenset(name for rule in rules for name in rule.deny)
            access = self._classes[numbers] = Access(read, deny)
        return access

    def permits(self, principal: str, access: Access) -> bool:
        names = self.names(principal)
        return names.isdisjoint(access.deny) and not names.isdisjoint(access.read)

    def resolved(self, access: Access) -> Access:
        read, deny = self._members(access.read), self._members(access.deny)
        if self.content.principals is not None:
            read = frozenset(name for name in self.content.principals if self.permits(name, access))
        elif EVERYONE in read:
            deny |= self.content.groups.keys()  # a group is no principal
        return Access(read, deny)

    def names(self, principal: str) -> frozenset[str]:
        """Return all names that stand for a principal: its own and its groups'; none if it can be no principal."""
        if (names := self._names.get(principal)) is None:
            if len(self._names) >= _REMEMBERED:
                self._names.clear()
            names = self._names[principal] = self._resolved(normalized(principal))
        return names

    def _members(self, names: frozenset[str]) -> frozenset[str]:
        """Return the principals that names stand for; everyone stays a name."""
        ahead, found = list(names), set[str]()
        while ahead:
            found.add(name := ahead.pop())
            ahead += self.content.groups.get(name, frozenset()) - found
        return frozenset(found - self.content.groups.keys())

    def _resolved(self, principal: str) -> frozenset[str]:
        listed = self.content.principals
        is_group = principal == EVERYONE or principal in self.content.groups
        is_unlisted = listed is not None and principal not in listed
        if is_group or is_unlisted or self._spelled.get(principal.casefold(), principal) != principal:
            return frozenset()
        ahead = [principal, EVERYONE]
        found = set(ahead)
        while ahead:
            groups = self._groups_of.get(ahead.pop(), set()) - found
            found |= groups
            ahead += groups
        return frozenset(found)


def unmatched(rules: YamlRules, paths: Iterable[str]) -> list[str]:
    """Return a line for each rule that matches none of the documents' paths, with what may have been meant."""
    documents = list(map(normalized, paths))
    lines = []
    for rule in rules.content.rules:
        matches = compile_glob(rule.path).fullmatch
        if not any(map(matches, documents)):
            lines.append(f"line {rule.line}: rule {rule.path!r} matches no document{_meant(rule.path, documents)}")
    return lines


def _meant(glob: str, documents: list[str]) -> str:
    folded = compile_glob(glob.casefold())
    if twin := next((path for path in documents if folded.fullmatch(path.casefold())), None):
        return f"; {twin!r} differs in case"
    if any(path.startswith(f"{glob}/") for path in documents):
        return f"; it is a folder: write {glob}/**"
    folders = sorted({path.rpartition("/")[0] for path in documents} - {""})
    return suggest(literal_prefix(glob).rstrip("/"), folders[:_SUGGESTED_FROM])


def _all_names(content: Acl) -> frozenset[str]:
    rules = (rule.read | rule.deny for rule in content.rules)
    return frozenset({EVERYONE}).union(content.groups, *content.groups.values(), *rules, content.principals or ())


def _version(content: Acl) -> str:
    canonical = {
        "groups": {name: sorted(members) for name, members in content.groups.items()},
        "rules": sorted([rule.path, sorted(rule.read), sorted(rule.deny)] for rule in content.rules),
        "principals": None if content.principals is None else sorted(content.principals),
    }
    return f"sha256:{hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()}"


def _settled(path: Path) -> tuple[_Stamp, bytes]:
    """Read a file that nobody is writing."""
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise RulesError(f"{path}: not a file; give a YAML file with groups and rules")
            if about.st_size > MAX_BYTES:
                raise RulesError(f"{path}: larger than {MAX_BYTES >> 20} MiB; is it a file of access rules?")
            data = file.read(MAX_BYTES + 1)
            if not time.time() - about.st_ctime > SETTLED_S:  # the file system's clock may be ahead of ours
                time.sleep(SETTLED_S)
            if stamp(os.fstat(descriptor)) == stamp(about) == stamp(path.stat()):
                return stamp(about), data
    raise RulesError(f"{path}: it keeps changing; write another file, and rename it to this one")
