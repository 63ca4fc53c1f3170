"""`ibidem audit verify`, `head`, `prove` and `list`: what an auditor does with the log.

    log --> head: how many events, and their root, signed --> kept elsewhere
                                                                   |
    log, later: is it the same up to there? <-- verify ------------+--> prove: one event, checked without the log

A log proves nothing against those who can write it; a head that is kept out of their reach does. The user's state
folder remembers the last head that was signed of each log: one that contradicts it is never signed.
"""

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ibidem import log as events
from ibidem.errors import AuditError, ConfigError
from ibidem.figures import counted, visible
from ibidem.files import is_file, write_file
from ibidem.grounding.audit import head as heads
from ibidem.grounding.audit import log, proof
from ibidem.grounding.audit.head import Head, Verifier
from ibidem.grounding.audit.verify import Tree, check
from ibidem.grounding.config import AuditHeadConfig, AuditListConfig, AuditProveConfig, AuditVerifyConfig
from ibidem.signatures import create_key, open_key, state_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

EARLIER = "(earlier than an event before it: the clock was set back)"


def verify_command(config: AuditVerifyConfig) -> str:
    """Check a log against heads, or one proof.

    Raises:
        AuditError: it is not the log of the heads, or contradicts itself.
        SignatureError: a head is not signed by a key that must have signed it.
    """
    given = [(str(path), heads.read(path)) for path in config.head]
    keys = [heads.verifier(text) for text in config.verifier]
    for name, head in given:
        heads.check(head, keys or [_own_verifier(head)], name)
    if config.proof is not None:
        return _checked_proof(config.proof, given, keys)
    folder = folder_of(config.index, config.audit)
    with log.reading(folder) as database:
        tree, warning = _checked(database, given)
    events.event("audit.verified", events=tree.size, heads=len(given))
    size = counted(tree.size, "event")
    if given:
        covered = max(head.size for _, head in given)
        return f"{folder}: {size}; the first {covered:,} are those of {counted(len(given), 'head')}{warning}"
    return f"{folder}: {size}, consistent; give --head to compare with what was signed"


def head_command(config: AuditHeadConfig) -> str:
    """Sign the head of a log.

    Raises:
        AuditError: the log contradicts itself, or a head that was signed earlier.
    """
    key = _signing_key(config.key)
    head = sign_head(folder_of(config.index, config.audit), key, config.origin)
    verifier = heads.verifier_of(key, head.origin)
    events.event("audit.head", events=head.size, origin=head.origin, verifier=str(verifier))
    if config.output is None:
        return str(head).removesuffix("\n")
    write_file(config.output, str(_with_witnesses(head, config.output)))
    return f"{config.output}: {counted(head.size, 'event')}\nverifier key: {verifier}"


def prove_command(config: AuditProveConfig) -> str:
    """Return the proof of an event.

    Raises:
        AuditError: there is no such event, or the head is not of this log.
    """
    folder = folder_of(config.index, config.audit)
    head = heads.read(config.head) if config.head else sign_head(folder, _signing_key(None), None)
    with log.reading(folder) as database:
        return str(proof.make(database, config.event, head)).removesuffix("\n")


def list_command(config: AuditListConfig) -> str:
    """List the last events: number, time, kind and principal; those are marked that are older than one before.

    Raises:
        AuditError: there is no log, or it is damaged.
    """
    with log.reading(folder_of(config.index, config.audit)) as database:
        size = log.size_of(database)
        rows = [log.event_of(database, number) for number in range(max(0, size - config.number), size)]
    lines, latest = [], 0.0
    for row in rows:
        line, time_s = _listed(row)
        lines.append(f"{line}  {EARLIER}" if time_s < latest else line)
        latest = max(latest, time_s)
    return "\n".join(lines) or "no events"


def sign_head(folder: Path, key: "Ed25519PrivateKey", origin: str | None) -> Head:
    """Return the signed head of a log, and remember it.

    Raises:
        AuditError: the log contradicts itself, or a head that was signed earlier.
    """
    with log.reading(folder) as database:
        tree = check(database, _remembered(log.identity(database)))
    head = heads.sign(Head(origin or f"ibidem/{tree.identity}", tree.size, tree.root), key)
    write_file(_memory(tree.identity), str(head))
    return head


def verified(folder: Path) -> Tree:
    """Read a whole log again, and compare it with the head that this user signed last, if any.

    Raises:
        AuditError: the log contradicts itself, or that head.
    """
    with log.reading(folder) as database:
        tree, _ = _checked(database, ())
    events.event("audit.verified", events=tree.size, heads=0)
    return tree


def folder_of(index: Path | None, audit: Path | None) -> Path:
    """Return the folder of the log that a command names.

    Raises:
        ConfigError: it names none.
    """
    if audit is not None:
        return audit
    if index is None:
        raise ConfigError("no audit log named: give --audit DIR, or --index DIR for the one beside an index")
    return log.folder_beside(index)


def _checked(database: sqlite3.Connection, given: Sequence[tuple[str, Head]]) -> tuple[Tree, str]:
    """Check a log against heads and the one that is remembered; if heads are given, only they decide.

    Return the tree, and a warning if the remembered head contradicts them.
    """
    remembered = _remembered(log.identity(database))
    if not given or not remembered:
        return check(database, [*given, *remembered]), ""
    tree = check(database, given)
    try:
        check(database, remembered)
    except AuditError as error:
        return tree, f"\nwarning: {error}"
    return tree, ""


def _checked_proof(path: Path, given: Sequence[tuple[str, Head]], keys: Sequence[Verifier]) -> str:
    try:
        item = proof.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if not given:
        heads.check(item.head, keys or [_own_verifier(item.head)], str(path))
    for name, head in given:
        if head.text != item.head.text:
            raise AuditError(
                f"{path}: it leads to another head than {name}; ibidem audit prove --head makes it for that"
            )
    if not item.holds():
        raise AuditError(f"{path}: the event is not in the log of the head")
    return f"{path}: event {item.number} of the {item.head.size} of {item.head.origin} is\n{item.event}"


def _signing_key(path: Path | None) -> "Ed25519PrivateKey":
    file = path or _own_key()
    if path is None and not is_file(file):
        create_key(file)
    return open_key(file)


def _own_verifier(head: Head) -> Verifier:
    if not is_file(_own_key()):
        raise ConfigError("this user has signed no head; name the key of the log with --verifier")
    return heads.verifier_of(open_key(_own_key()), head.origin)


def _own_key() -> Path:
    return state_folder() / "audit.pem"


def _memory(identity: str) -> Path:
    return state_folder() / "heads" / identity


def _remembered(identity: str) -> list[tuple[str, Head]]:
    file = _memory(identity)
    name = (
        f"the head that this user signed last ({file}; if that was of a copy of the log, move this file away and "
        "compare the log with a head kept elsewhere)"
    )
    return [(name, heads.read(file))] if is_file(file) else []


def _with_witnesses(head: Head, file: Path) -> Head:
    """Keep the signatures of others that a file already has for the same head."""
    earlier = heads.read(file) if is_file(file) else None
    if earlier is None or earlier.text != head.text:
        return head
    (own,) = head.signatures
    others = [line for line in earlier.signatures if (line.name, line.id) != (own.name, own.id)]
    return head._replace(signatures=(own, *others))


def _listed(text: str) -> tuple[str, float]:
    """Return an event's line, and its time in seconds."""
    try:
        event = json.loads(text)
        when = datetime.fromtimestamp(event["time"], UTC).isoformat(" ", "seconds").removesuffix("+00:00")
        number, kind, principal = int(event["number"]), visible(event["kind"]), visible(event.get("principal", ""))
        return f"{number:>8}  {when}  {kind:<12}  {principal}".rstrip(), float(event["time"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise AuditError("an event is not what was written; ibidem audit verify says more") from None
