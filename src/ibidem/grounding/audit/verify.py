"""The whole log read again: is it consistent, and is it the one whose heads were signed?"""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ibidem.errors import AuditError
from ibidem.grounding.audit import log, merkle
from ibidem.grounding.audit.head import Head


class Tree(NamedTuple):
    """A log of which every event was read."""

    identity: str
    size: int
    root: bytes


def check(database: sqlite3.Connection, heads: Sequence[tuple[str, Head]]) -> Tree:
    """Hash all events again, and compare with the stored hashes and with heads.

    Args:
        database: the log.
        heads: names, for messages, and heads.

    Raises:
        AuditError: a hash differs, an event is missing, or the log is not that of a head.
    """
    tree, subtrees = merkle.Growing(), 0
    due = sorted(heads, key=lambda named: named[1].size)
    for number, event in database.execute("SELECT number, event FROM events ORDER BY number"):
        due = _compared(tree, due)
        if number != tree.size:
            raise AuditError(f"event {tree.size} is missing")
        for level, position, expected in tree.append(merkle.leaf_hash(_bytes(event, number))):
            subtrees += 1
            if log.subtree(database, level, position) != expected:
                raise AuditError(f"an event between {position << level} and {number} is not the one that was recorded")
    due = _compared(tree, due)
    if due:
        name, head = due[0]
        raise AuditError(
            f"it has {tree.size} events, but {name} is the head of {head.size}: the later ones are missing"
        )
    if log.num_recorded(database) > tree.size:
        raise AuditError(
            f"it recorded {log.num_recorded(database)} events, but has {tree.size}: the later ones are missing"
        )
    stored = database.execute("SELECT count(*) FROM subtrees").fetchone()[0]
    if stored != subtrees:
        raise AuditError(f"it has hashes for more than its {tree.size} events: later ones are missing")
    return Tree(log.identity(database), tree.size, tree.root())


def _compared(tree: merkle.Growing, due: list[tuple[str, Head]]) -> list[tuple[str, Head]]:
    """Compare the tree with the heads of its size; return those of larger ones."""
    while due and due[0][1].size == tree.size:
        (name, head), *due = due
        if head.root != tree.root():
            raise AuditError(f"its first {tree.size} events are not those of {name}")
    return due


def _bytes(event: object, number: int) -> bytes:
    if not isinstance(event, str):
        raise AuditError(f"event {number} is not text")
    return event.encode(errors="surrogatepass")
