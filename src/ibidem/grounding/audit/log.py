"""The audit log: events in the order in which they were recorded, under a Merkle tree.

    about(format, identity)       events(number, event)                    subtrees(level, position, hash)
                                  0  {"kind": "query", "number": 0, ...}   every full subtree of two leaves or more

An SQLite database. An event is canonical JSON (ASCII, keys sorted, no blanks); its bytes are a leaf of the tree.
SQLite remembers the largest number that it ever gave (AUTOINCREMENT), so that a cut of the last events is noticed.
Triggers refuse to change or delete rows. Both are guard rails, no evidence; evidence is a head kept elsewhere.
The log holds no text and no path of a document, only their keyed hashes, so that its readers learn none of them.
"""

import fcntl
import json
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from ibidem.errors import AuditError
from ibidem.files import flush, is_file
from ibidem.grounding.audit import merkle
from ibidem.signatures import keyed

Kind = Literal["index", "forget", "query", "answer", "denied", "training_set", "review"]
FILE = "audit.sqlite"
FORMAT = "2"
LEAST_ROOM = 64 << 10
"""Bytes; a disk with less is full."""
BUSY_S = 10.0
"""How long to wait for other writers."""

_SCHEMA = (
    "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL)",
    "CREATE TABLE subtrees (level INTEGER, position INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, position))"
    " WITHOUT ROWID",
    *(
        f"CREATE TRIGGER {table}_{change} BEFORE {change} ON {table}"
        " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        for table in ("about", "events", "subtrees")
        for change in ("UPDATE", "DELETE")
    ),
)


def folder_beside(index: Path) -> Path:
    """Return the folder of an index's audit log, unless another one is chosen."""
    whole = Path(os.path.abspath(index))  # noqa: PTH100 - `..` has no name to which `.audit` can be added
    return whole.with_name(f"{whole.name}.audit")


class AuditLog:
    """A log that can be appended to, by several threads and processes at once."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Open the log in a folder, or create it.

        Args:
            folder: made if it is missing.
            key: the secret key of the keyed hashes, kept elsewhere.

        Raises:
            AuditError: it cannot be opened or created, or it is no audit log.
        """
        self.file = folder / FILE
        self._key = key
        self._lock = threading.Lock()
        with explained(self.file):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._inode = self._inode_now()
            self._database = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                with _locked(folder):
                    self._prepare()
            except BaseException:
                self._database.close()
                raise

    def record(self, kind: Kind, principal: str | None = None, **fields: str | int | list[str]) -> int:
        """Append an event; return its number once it is on disk.

        Args:
            kind: what happened.
            principal: who did it, if anybody in particular.
            fields: what else; neither texts nor paths, but `keyed` ones.

        Raises:
            AuditError: it could not be recorded: nothing may be shown then.
        """
        assert not {"number", "time"} & fields.keys()
        event = {"kind": kind, "time": round(time.time(), 6), **fields}
        if principal is not None:
            event["principal"] = principal
        with self._lock, explained(self.file):
            if self._inode_now() != self._inode:
                raise AuditError("another file took its place; restart, and compare with a head from outside")
            with _transaction(self._database):
                return self._append(event)

    def keyed(self, text: str) -> str:
        """Return the keyed hash of a query, an answer or a path."""
        return keyed(self._key, "audit", text)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, event: Mapping[str, object]) -> int:
        number = size_of(self._database)
        if number != num_recorded(self._database):
            raise AuditError("its last events are missing; ibidem audit verify says more")
        data = canonical({**event, "number": number})
        self._database.execute("INSERT INTO events VALUES (?, ?)", (number, data))
        leaf = merkle.leaf_hash(data.encode())
        for node in merkle.completed(number, leaf, lambda *place: subtree(self._database, *place)):
            self._database.execute("INSERT INTO subtrees VALUES (?, ?, ?)", node)
        return number

    def _prepare(self) -> None:
        execute = self._database.execute
        if execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise AuditError("its file system cannot hold it; choose a local folder with --audit")
        execute("PRAGMA synchronous = FULL")  # with a write-ahead log, each commit is on disk when it returns
        if not execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            with _transaction(self._database):
                for statement in _SCHEMA:
                    execute(statement)
                about = (("format", FORMAT), ("identity", secrets.token_hex(8)))
                self._database.executemany("INSERT INTO about VALUES (?, ?)", about)
            flush(self.file.parent)
            flush(self.file.parent.parent)
        check_format(self._database)

    def _inode_now(self) -> tuple[int, int]:
        about = self.file.stat()
        return about.st_dev, about.st_ino


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the log in a folder at one moment, and change nothing.

    Raises:
        AuditError: there is none, or it is damaged; also for errors of the database inside the block.
    """
    file = folder / FILE
    if not is_file(file):
        raise AuditError(f"audit log {file}: there is none; give its folder with --audit")
    with explained(file), closing(_read_only(file)) as database:
        database.execute("BEGIN")  # one snapshot, whatever others append meanwhile
        check_format(database)
        yield database


def canonical(event: Mapping[str, object]) -> str:
    """Return the one spelling of an event: JSON in ASCII, keys sorted, no blanks.

    >>> canonical({"number": 0, "kind": "query"})
    '{"kind":"query","number":0}'
    """
    return json.dumps(event, sort_keys=True, separators=(",", ":"), allow_nan=False)


def size_of(database: sqlite3.Connection) -> int:
    """Return the number of events."""
    (last,) = database.execute("SELECT max(number) FROM events").fetchone()
    return 0 if last is None else int(last) + 1


def num_recorded(database: sqlite3.Connection) -> int:
    """Return the number of events that were ever recorded, as SQLite remembers it."""
    row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return 0 if row is None else int(row[0]) + 1


def event_of(database: sqlite3.Connection, number: int) -> str:
    """Return an event as it was written.

    Raises:
        AuditError: there is none of this number.
    """
    row = database.execute("SELECT event FROM events WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise AuditError(f"there is no event {number}")
    return str(row[0])


def subtree(database: sqlite3.Connection, level: int, position: int) -> merkle.Hash:
    """Return the hash of a full subtree.

    Raises:
        AuditError: it is missing.
    """
    if level == 0:
        return merkle.leaf_hash(event_of(database, position).encode())
    row = database.execute("SELECT hash FROM subtrees WHERE (level, position) = (?, ?)", (level, position)).fetchone()
    if row is None:
        raise AuditError(f"subtree {level}, {position} is missing; ibidem audit verify says more")
    return bytes(row[0])


def identity(database: sqlite3.Connection) -> str:
    """Return what tells a log from others: 16 random hexadecimal characters.

    Raises:
        AuditError: it is missing.
    """
    row = database.execute("SELECT value FROM about WHERE key = 'identity'").fetchone()
    if row is None or not re.fullmatch(r"[0-9a-f]{16}", str(row[0])):
        raise AuditError("it has no identity")
    return str(row[0])


def check_format(database: sqlite3.Connection) -> None:
    """Check that a database is an audit log of the format that is written here.

    Raises:
        AuditError: it is something else.
    """
    found = database.execute("SELECT value FROM about WHERE key = 'format'").fetchone()
    if found != (FORMAT,):
        raise AuditError(
            f"its format is {found and found[0]!r}, not {FORMAT!r}; move the log away, and a new one begins"
        )


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """Turn errors of the block into an AuditError that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise AuditError(f"audit log {file}: {'no space left' if _is_full(file.parent) else error}") from None
    except OSError as error:
        raise AuditError(f"audit log {error.filename or file}: {error.strerror}") from None
    except AuditError as error:
        raise AuditError(f"audit log {file}: {error}") from None


def _is_full(folder: Path) -> bool:
    """Return whether the disk of a folder has no room; SQLite reports some of these failures as errors of the disk."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < LEAST_ROOM


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite itself rolls back after some errors
            database.execute("ROLLBACK")
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time create the log."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_only(file: Path) -> sqlite3.Connection:
    where = f"file:{quote(str(file.absolute()))}"
    is_writable = os.access(file.parent, os.W_OK, effective_ids=True)
    is_whole = not file.with_name(f"{file.name}-wal").exists()
    # a reader shares the write-ahead log's index, for which it makes a file; on read-only media it cannot
    mode = "mode=ro" if is_writable or not is_whole else "immutable=1"
    return sqlite3.connect(f"{where}?{mode}", uri=True, timeout=BUSY_S, isolation_level=None)
