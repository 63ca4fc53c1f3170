"""Tokens: who calls. Kept in an SQLite database in the state folder of a server.

    tokens      id, hash, principal, is_admin, created, expires
    sessions    id, hash, token, expires                           of browsers; they go with their token

A token is `ib-` and 256 random bits. Of a token and of a session only the SHA-256 is kept: so many random bits cannot
be found from it, and a slow hash would add nothing. The id, which is no secret, is the beginning of the hash.

A process keeps a copy of both tables, and reads them again when another process has changed them, so that
`ibidem token revoke` ends what a running server is sending. Reading never waits for a writer, so that it can be done
on an event loop. If another file takes the place of the database, nobody is known until the server starts again.
"""

import hashlib
import hmac
import os
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ibidem.errors import ConfigError
from ibidem.figures import DAY_S

FILE = "tokens.sqlite"
PREFIX = "ib-"
SECRET_BYTES = 32
ID_DIGITS = 8
SESSION_S = 7 * DAY_S
MOST_SESSIONS = 100
"""Of a token at once; the oldest go."""
CHECK_S = 0.005
"""How old the copy of the tables may be while an answer is sent: less than a step of a model."""
BUSY_S = 10.0
"""How long to wait for other writers."""

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, hash BLOB NOT NULL, principal TEXT NOT NULL,
        is_admin INTEGER NOT NULL, created REAL NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, hash BLOB NOT NULL,
        token TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE, expires REAL NOT NULL) WITHOUT ROWID;
"""
_NEW_SESSION = "INSERT INTO sessions SELECT ?, ?, id, ? FROM tokens WHERE id = ?"
_OLD_SESSIONS = """
    DELETE FROM sessions WHERE expires < ? OR token = ? AND id NOT IN
        (SELECT id FROM sessions WHERE token = ? ORDER BY expires DESC LIMIT ?)
"""


class Caller(NamedTuple):
    """Who a token belongs to; nothing of a request's body has any say in this."""

    token: str
    """Public id of the token."""
    principal: str
    is_admin: bool
    session: str = ""
    """Public id of the session of a browser; empty: the token itself was sent."""


class Token(NamedTuple):
    """What is known of a token."""

    hash: bytes
    caller: Caller
    created: float
    expires: float
    """Unix times."""


class _Session(NamedTuple):
    hash: bytes
    token: str
    expires: float


class _Tables(NamedTuple):
    """A copy of the database at one moment."""

    tokens: Mapping[str, Token]
    sessions: Mapping[str, _Session]


class TokenStore:
    """The tokens of a server, in its state folder."""

    def __init__(self, state: Path) -> None:
        """Open the tokens of a state folder, which is made if it is missing.

        Raises:
            ConfigError: it cannot be made or opened, or others may read it.
        """
        self.file = state / FILE
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._tables = _Tables({}, {})
        self._version = self._checked = -1.0
        with _explained(self.file), ExitStack() as opened:
            _make_private(state, self.file)
            self._writer = opened.enter_context(closing(_connected(self.file)))
            self._writer.execute("PRAGMA journal_mode = WAL")  # a reader never waits for a writer
            self._writer.execute("PRAGMA foreign_keys = ON")
            self._writer.executescript(_SCHEMA)
            self._reader = opened.enter_context(closing(_connected(self.file)))
            self._place = _place(self.file)
            self._refresh()
            self._opened = opened.pop_all()

    def create(self, principal: str, *, is_admin: bool, days: float) -> str:
        """Make a token; return it, for the only time.

        Raises:
            ConfigError: the name of the principal is empty or not printable.
        """
        check_principal(principal)
        now = time.time()
        while True:  # until no other token has the id
            secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
            digest = _hashed(secret)
            row = (_id(digest), digest, principal, is_admin, now, now + days * DAY_S)
            if self._change("INSERT OR IGNORE INTO tokens VALUES (?, ?, ?, ?, ?, ?)", row):
                return secret

    def caller_of(self, secret: str) -> Caller | None:
        """Return who calls with a token; None if it is unknown, expired or revoked."""
        token = self._valid(secret)
        return None if token is None else token.caller

    def new_session(self, secret: str) -> str | None:
        """Begin a session of a browser that shows a token; return its value, None if the token is not valid.

        It can wait for other writers, as `end_session` can.
        """
        token = self._valid(secret)
        if token is None:
            return None
        value, now = secrets.token_urlsafe(SECRET_BYTES), time.time()
        digest, owner = _hashed(value), token.caller.token
        if not self._change(_NEW_SESSION, (_session_id(digest), digest, min(now + SESSION_S, token.expires), owner)):
            return None  # revoked meanwhile
        self._change(_OLD_SESSIONS, (now, owner, owner, MOST_SESSIONS))
        return value

    def caller_of_session(self, value: str) -> Caller | None:
        """Return whose session it is; None if it is unknown, expired or ended, or its token is."""
        digest = _hashed(value)
        self._refresh()
        tokens, sessions = self._tables
        number = _session_id(digest)
        session = sessions.get(number)
        if session is None or not hmac.compare_digest(session.hash, digest) or session.expires <= time.time():
            return None
        token = tokens[session.token]
        return token.caller._replace(session=number) if token.expires > time.time() else None

    def end_session(self, value: str) -> None:
        """End a session, if there is one of this value."""
        self._change("DELETE FROM sessions WHERE id = ?", (_session_id(_hashed(value)),))

    def is_valid(self, caller: Caller) -> bool:
        """Return whether a caller's token, and the session, is still valid; may be a few milliseconds stale.

        It is asked at each step of each answer.
        """
        if time.monotonic() - self._checked > CHECK_S:
            self._refresh()
        tokens, sessions = self._tables
        token, now = tokens.get(caller.token), time.time()
        if token is None or token.caller != caller._replace(session="") or token.expires <= now:
            return False
        session = sessions.get(caller.session)
        return not caller.session or (session is not None and session.expires > now)

    def revoke(self, token: str) -> None:
        """Revoke a token and its sessions, by its id.

        Raises:
            ConfigError: there is none of this id.
        """
        if not self._change("DELETE FROM tokens WHERE id = ?", (token,)):
            raise ConfigError(f"token {token!a}: there is none of this id; `ibidem token list` shows them")

    def listed(self) -> list[Token]:
        """Return all tokens, the oldest first."""
        self._refresh()
        return sorted(self._tables.tokens.values(), key=lambda token: (token.created, token.caller.token))

    def close(self) -> None:
        """Close the database."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _change(self, statement: str, values: tuple[object, ...]) -> int:
        with self._writing, _explained(self.file):
            changed = self._writer.execute(statement, values).rowcount
        self._refresh()
        return changed

    def _valid(self, secret: str) -> Token | None:
        digest = _hashed(secret)
        self._refresh()
        token = self._tables.tokens.get(_id(digest))
        if token is None or not hmac.compare_digest(token.hash, digest) or token.expires <= time.time():
            return None
        return token

    def _refresh(self) -> None:
        self._checked = time.monotonic()
        with self._reading:
            if _place(self.file) != self._place:  # the changes of others are in another file
                self._tables, self._version = _Tables({}, {}), -1
                return
            (version,) = self._reader.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return
            self._reader.execute("BEGIN")  # both tables at one moment
            try:
                tokens = {row[0]: _token(*row) for row in self._reader.execute("SELECT * FROM tokens")}
                sessions = {row[0]: _Session(*row[1:]) for row in self._reader.execute("SELECT * FROM sessions")}
            finally:
                self._reader.execute("COMMIT")
            self._tables, self._version = _Tables(tokens, sessions), version


def check_principal(principal: str) -> None:
    """Refuse a name that no list can show.

    Raises:
        ConfigError: it is empty or not printable.
    """
    if not principal.strip() or not principal.isprintable():
        raise ConfigError(f"principal {principal!a}: must be non-empty and printable")


def _place(file: Path) -> tuple[int, int] | None:
    """Return which file it is; None if it is gone."""
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _connected(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _token(number: str, digest: bytes, principal: str, is_admin: int, created: float, expires: float) -> Token:
    return Token(digest, Caller(number, principal, bool(is_admin)), created, expires)


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _id(digest: bytes) -> str:
    return digest.hex()[:ID_DIGITS]


def _session_id(digest: bytes) -> str:
    return digest.hex()[: 2 * ID_DIGITS]


def _make_private(folder: Path, file: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for path, mode in ((folder, "700"), (file, "600")):
        about = path.stat()
        if stat.S_IMODE(about.st_mode) & 0o077 or about.st_uid != os.geteuid():
            raise ConfigError(f"state {path}: it must be yours, and only you may read it: chmod {mode} {path}")


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"state {file}: {error.strerror}; choose a folder that you can write with --state") from None
    except sqlite3.Error as error:
        raise ConfigError(f"state {file}: {error}; choose another folder with --state, or restore the file") from None
