"""Proofs that an event is in the log, as C2SP tlog-proofs: texts that can be checked alone.

    c2sp.org/tlog-proof@v1
    extra eyJraW5kIjoicXVlcnkiLCAuLi59          the event itself
    index 73894                                its number
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
    ...                                        the hashes from its leaf to the root

    ibidem/5f0c9d1e2b3a4958                    a head, with its signatures
    ...

Source: https://c2sp.org/tlog-proof.
"""

import re
import sqlite3
from typing import NamedTuple

from ibidem.errors import AuditError
from ibidem.grounding.audit import head, log, merkle
from ibidem.grounding.audit.head import Head, base64_of, bytes_of

_FORM = re.compile(
    r"c2sp\.org/tlog-proof@v1\nextra ([A-Za-z0-9+/=]+)\nindex (0|[1-9][0-9]{0,18})\n((?:[A-Za-z0-9+/=]{44}\n)*)\n(.*)",
    re.DOTALL,
)


class Proof(NamedTuple):
    """An event, where it is in the log, and the hashes that lead to the root of a head."""

    event: str
    number: int
    hashes: tuple[bytes, ...]
    head: Head

    def __str__(self) -> str:
        lines = ["c2sp.org/tlog-proof@v1", f"extra {base64_of(self.event.encode())}", f"index {self.number}"]
        return "".join(f"{line}\n" for line in [*lines, *map(base64_of, self.hashes), ""]) + str(self.head)

    def holds(self) -> bool:
        """Return whether the event is at its place in the log of the head; its signatures are another question."""
        leaf = merkle.leaf_hash(self.event.encode())
        return merkle.includes(leaf, self.number, self.head.size, self.hashes, self.head.root)


def make(database: sqlite3.Connection, number: int, of: Head) -> Proof:
    """Return the proof that an event is in the log of a head.

    Raises:
        AuditError: the head does not cover it, or it is not a head of this log.
    """
    if not 0 <= number < of.size:
        raise AuditError(f"there is no event {number} among the {of.size} events of the head")
    if of.size > log.size_of(database):
        raise AuditError(f"the head covers {of.size} events, the log has {log.size_of(database)}")
    hashes = merkle.inclusion_proof(number, of.size, lambda *place: log.subtree(database, *place))
    proof = Proof(log.event_of(database, number), number, tuple(hashes), of)
    if not proof.holds():
        raise AuditError("it is not the log of this head, or it was changed; ibidem audit verify says more")
    return proof


def parse(text: str, what: str) -> Proof:
    """Return the proof that a text is.

    Raises:
        AuditError: it is none.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise AuditError(f"{what}: not a proof; ibidem audit prove prints one")
    data, hashes = bytes_of(match[1]), tuple(map(bytes_of, match[3].split()))
    if not data.isascii() or not all([data, *hashes]):
        raise AuditError(f"{what}: not a proof: its event or a hash is damaged") from None
    return Proof(data.decode(), int(match[2]), hashes, head.parse(match[4], what))
