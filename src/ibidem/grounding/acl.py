"""The file of access rules, from YAML bytes to groups and rules; each refusal names the file, the line and the remedy.

    groups:
      engineering: [dev-1, dev-2]
      staff: [engineering, hr]                       groups may hold groups
    rules:
      - {path: "handbook/**", read: [everyone]}
      - {path: "salaries/**", read: [hr], deny: [contractor-1]}
    principals: [dev-1, dev-2, contractor-1, hr]     optional: any other name is refused then

A word that YAML reads as something else than text (`no`, `off`, `007`, `2026-01-31`) is no name; in quotes it is.
"""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import yaml

from ibidem.config import suggest
from ibidem.errors import RulesError
from ibidem.grounding.paths import normalized
from ibidem.grounding.store import EVERYONE

_TEXT = "tag:yaml.org,2002:str"


class Rule(NamedTuple):
    """Who may read the documents whose path matches."""

    path: str
    read: frozenset[str]
    deny: frozenset[str]
    line: int
    """Its line in the file."""


class Acl(NamedTuple):
    """What the file says; names and paths are in Unicode's form NFC."""

    groups: Mapping[str, frozenset[str]]
    rules: tuple[Rule, ...]
    principals: frozenset[str] | None
    """None if the file does not list them."""


def parse(data: bytes, origin: str) -> Acl:
    """Return what a file of access rules says.

    Args:
        data: its bytes.
        origin: its name, for messages.

    Raises:
        RulesError: it is not YAML, or not access rules.
    """
    reader = _Reader(origin)
    tree = reader.keys(_composed(data, origin), "the file", ("groups", "rules", "principals"), required="rules")
    groups = reader.groups(tree["groups"]) if "groups" in tree else {}
    principals = reader.names(tree["principals"], "principals") if "principals" in tree else None
    rules = tuple(reader.rule(node) for node in reader.items(tree["rules"], "rules"))
    reader.check_cycles(groups)
    if principals is not None:
        reader.check_principals(groups, principals)
    return Acl(groups, rules, principals)


def check_path(path: str) -> str:
    """Return what is wrong with the path of a rule; empty if nothing is.

    >>> check_path("a/../b")
    "'..' leads out of a folder; write the path from the documents' folder"
    """
    parts = path.split("/")
    if "\\" in path:
        return "folders are separated by /, not by a backslash"
    if path.startswith("/"):
        return "it is absolute; write it relative to the documents' folder"
    if ".." in parts:
        return "'..' leads out of a folder; write the path from the documents' folder"
    if not path.isprintable() or path != path.strip():
        return "it has a control character, or a blank at an end"
    if parts[-1] == "" and path:
        return f"for all below a folder, write {path}**"
    if "" in parts or "." in parts:
        return "a part of it is empty or '.'"
    if any("**" in part and part != "**" for part in parts):
        return "** stands alone between slashes, for any number of folders"
    if any(letter in path for letter in "[]{}") or path.startswith("!"):
        return "its wildcards are *, ** and ?; for another character that means something elsewhere, write ?"
    return ""


def _composed(data: bytes, origin: str) -> yaml.Node:
    try:
        node = yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except RecursionError:
        raise RulesError(f"{origin}: nested too deeply for access rules") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RulesError(f"{origin}: not YAML: {' '.join(str(error).split())}") from None
    if node is None:
        raise RulesError(f"{origin}: the file is empty; write at least rules: []")
    return node


class _Reader:
    """Reads YAML nodes."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.seen: dict[str, yaml.Node] = {}  # where each name stands first
        self.spelled = {EVERYONE.casefold(): EVERYONE}

    def wrong(self, node: yaml.Node, problem: str) -> RulesError:
        return RulesError(f"{self.origin}: line {node.start_mark.line + 1}: {problem}")

    def keys(self, node: yaml.Node, what: str, known: tuple[str, ...], required: str) -> dict[str, yaml.Node]:
        found: dict[str, yaml.Node] = {}
        for key, value in self.pairs(node, what):
            name = self.text(key, "a key")
            if name not in known:
                raise self.wrong(key, f"unknown key {name!r}{suggest(name, known) or '; known: ' + ', '.join(known)}")
            if name in found:
                raise self.wrong(key, f"key {name!r} appears twice")
            found[name] = value
        if required not in found:
            raise self.wrong(node, f"{what} has no key {required!r}")
        return found

    def groups(self, node: yaml.Node) -> dict[str, frozenset[str]]:
        groups: dict[str, frozenset[str]] = {}
        for key, members in self.pairs(node, "groups"):
            name = self.name(key)
            if name == EVERYONE:
                raise self.wrong(key, f"{EVERYONE!r} is the built-in group of all principals; choose another name")
            if name in groups:
                raise self.wrong(key, f"group {name!r} appears twice")
            groups[name] = self.names(members, f"group {name!r}", may_be_empty=True)
        return groups

    def rule(self, node: yaml.Node) -> Rule:
        tree = self.keys(node, "a rule", ("path", "read", "deny"), required="path")
        path = normalized(self.text(tree["path"], "a path"))
        if problem := check_path(path):
            raise self.wrong(tree["path"], f"path {path!r}: {problem}")
        if not {"read", "deny"} & tree.keys():
            raise self.wrong(node, f"rule {path!r} has neither read nor deny")
        read, deny = (self.names(tree[key], key) if key in tree else frozenset() for key in ("read", "deny"))
        return Rule(path, read, deny, node.start_mark.line + 1)

    def names(self, node: yaml.Node, what: str, *, may_be_empty: bool = False) -> frozenset[str]:
        nodes = [node] if isinstance(node, yaml.ScalarNode) and node.value else self.items(node, what)
        if not nodes and not may_be_empty:
            raise self.wrong(node, f"{what} names nobody; leave it out, or name somebody")
        return frozenset(map(self.name, nodes))

    def name(self, node: yaml.Node) -> str:
        name = normalized(self.text(node, "a name"))
        if name != name.strip() or not name.isprintable():
            raise self.wrong(node, f"name {name!r} has a control character, or a blank at an end")
        if "," in name:
            raise self.wrong(node, f"name {name!r} has a comma; write several names as a list: [{name}]")
        if (other := self.spelled.setdefault(name.casefold(), name)) != name:
            raise self.wrong(node, f"name {name!r} differs from {other!r} only in case")
        self.seen.setdefault(name, node)
        return name

    def text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.wrong(node, f"{what} must be a text, not a list or keys")
        if node.value == "":
            raise self.wrong(node, f"{what} is empty")
        if node.tag != _TEXT:
            kind = node.tag.rpartition(":")[2]
            raise self.wrong(node, f'{what}: YAML reads {node.value} as {kind}, not as text; write "{node.value}"')
        return str(node.value)

    def pairs(self, node: yaml.Node, what: str) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"{what} must be keys with values, as in the documentation")
        yield from node.value

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.wrong(node, f"{what} must be a list; an empty one is []")
        return list(node.value)

    def check_cycles(self, groups: Mapping[str, frozenset[str]]) -> None:
        try:
            TopologicalSorter({group: members & groups.keys() for group, members in groups.items()}).prepare()
        except CycleError as error:
            cycle = error.args[1][::-1]
            raise self.wrong(self.seen[cycle[0]], f"groups form a cycle: {' -> '.join(cycle)}") from None

    def check_principals(self, groups: Mapping[str, frozenset[str]], principals: frozenset[str]) -> None:
        known = {*groups, *principals, EVERYONE}
        for name, node in self.seen.items():
            if name in principals and (name in groups or name == EVERYONE):
                raise self.wrong(node, f"{name!r} is both a group and a principal; rename one")
            if name not in known:
                hint = suggest(name, known) or "; add it to principals"
                raise self.wrong(node, f"{name!r} is neither a group nor listed under principals{hint}")
