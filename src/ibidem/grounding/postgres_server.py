"""Connections to a PostgreSQL server: its address, its errors in one line, and a few open connections to reuse.

    postgresql://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?schema=NAME&sslmode=MODE&sslrootcert=FILE&host=FOLDER]

`host=FOLDER` names the folder of a Unix socket. `sslmode` is `verify-full` (the default for other computers: the
server's certificate must be valid for its name), `require` (encrypted, not verified) or `disable` (the default for this
computer). A password that the address lacks is taken from `PGPASSWORD`; no message and no file names it.
"""

import os
import ssl
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ibidem.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from pg8000.native import Connection, PreparedStatement

SCHEMES = ("postgresql", "postgres")
DEFAULT_SCHEMA = "ibidem"
SSL_MODES = ("disable", "require", "verify-full")
_PARAMETERS = frozenset(["schema", "sslmode", "sslrootcert", "host"])
_LOCAL = frozenset(["localhost", "127.0.0.1", "::1"])
_LONGEST_NAME = 63  # bytes of an identifier; PostgreSQL would cut a longer one
_CONNECT_S, _MOST_IDLE = 10.0, 8

_REFUSALS: tuple[tuple[tuple[str, ...], type[ArtifactError | ConfigError], str], ...] = (
    (("28000", "28P01"), ConfigError, "the server refuses this role or its password (PGPASSWORD, or in the address)"),
    (("3D000",), ConfigError, "there is no such database; an administrator creates it"),
    (("42501",), ConfigError, "the role lacks a right; search as a member of ibidem_reader, write as the owner"),
    (("42P01", "3F000"), ArtifactError, "there is no index; run ibidem ground index with this store"),
    (("55P03",), ArtifactError, "a table is in use by another transaction; repeat the command when it has ended"),
    (("08", "57"), ArtifactError, "the server ended the connection"),
)
"""What codes of the server mean; https://www.postgresql.org/docs/current/errcodes-appendix.html"""


@dataclass(frozen=True)
class Address:
    """Where a store is; `str` of it has no password."""

    user: str
    database: str
    host: str = ""
    port: int = 5432
    socket_dir: str = ""
    schema: str = DEFAULT_SCHEMA
    sslmode: str = "disable"
    sslrootcert: str | None = None
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        place = f"{self.user}@{self.host or 'localhost'}:{self.port}/{self.database}?schema={self.schema}"
        return f"postgresql://{place}" + (f"&host={self.socket_dir}" if self.socket_dir else "")


def is_address(store: str) -> bool:
    """Return whether a store is named by the address of a PostgreSQL server.

    >>> is_address("postgresql://reader@localhost/documents"), is_address("indexes/handbook")
    (True, False)
    """
    return store.partition("://")[0].lower() in SCHEMES and "://" in store


def parse_address(store: str) -> Address:
    """Read the address of a store.

    Raises:
        ConfigError: it is malformed; the message repeats no part of it that may hold a password.

    >>> str(parse_address("postgresql://reader:secret@db.example/documents?schema=hr"))
    'postgresql://reader@db.example:5432/documents?schema=hr'
    """
    form = "postgresql://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?schema=NAME]"
    try:
        parts = urlsplit(store)
        port = parts.port or 5432
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ConfigError(f"the address of the store is malformed; it is {form}") from None
    host, database = parts.hostname or "", unquote(parts.path.removeprefix("/"))
    if not is_address(store) or not parts.username or not database or "/" in database:
        raise ConfigError(f"the address of the store is incomplete; it is {form}")
    if unknown := sorted(options.keys() - _PARAMETERS):
        raise ConfigError(
            f"the address of the store has the unknown parameter {unknown[0]!r}; known: schema, host, ssl*"
        )
    socket_dir, schema = options.get("host", ""), options.get("schema", DEFAULT_SCHEMA)
    sslmode = options.get("sslmode", "disable" if socket_dir or host in {*_LOCAL, ""} else "verify-full")
    if sslmode not in SSL_MODES:
        raise ConfigError(f"sslmode={sslmode} is none of {', '.join(SSL_MODES)}")
    user, password = unquote(parts.username), unquote(parts.password or "") or os.environ.get("PGPASSWORD", "")
    _check_names(user=user, database=database, schema=schema, password=password)
    certificates = options.get("sslrootcert")
    return Address(user, database, host, port, socket_dir, schema, sslmode, certificates, password)


def _check_names(**names: str) -> None:
    for what, name in names.items():
        if "\0" in name or (what != "password" and not 0 < len(name.encode(errors="replace")) <= _LONGEST_NAME):
            raise ConfigError(f"the {what} in the address of the store is empty, too long, or holds a NUL")


def quoted(identifier: str) -> str:
    """Return an identifier as SQL spells it.

    >>> print(quoted('a"; DROP TABLE b'))
    "a""; DROP TABLE b"
    """
    return '"' + identifier.replace('"', '""') + '"'


class Session:
    """One connection, and the statements that were prepared on it."""

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.is_checked = False
        self._prepared: dict[str, PreparedStatement] = {}

    def run(self, sql: str, **values: Any) -> list[list[Any]]:
        """Run a statement; a value never becomes part of the SQL."""
        return self.connection.run(sql, **values) or []

    def query(self, sql: str, **values: Any) -> list[list[Any]]:
        """Run a statement that is prepared once for the connection."""
        if sql not in self._prepared:
            self._prepared[sql] = self.connection.prepare(sql)
        return self._prepared[sql].run(**values) or []

    def close(self) -> None:
        self.connection.close()


class Sessions:
    """Connects when it must, and keeps idle connections for the next query; for use by several threads."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: deque[Session] = deque()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Lend a connection; after any error it is closed, so that no state of a failed query survives.

        Raises:
            ConfigError: role, password or database are wrong, or the role lacks a right.
            ArtifactError: the server cannot be reached, or the connection was lost.
        """
        session = self._take()
        try:
            yield session
        except BaseException as error:
            session.close()
            if (known := _in_one_line(error, self.address)) is not None:
                raise known from None
            raise
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(session)
        else:
            session.close()

    @contextmanager
    def transaction(self, kind: str = "") -> Iterator[Session]:
        """Lend a connection in a transaction of a kind, such as `READ ONLY`; it is committed at the end."""
        with self.session() as session:
            session.run(f"BEGIN {kind}")
            yield session
            session.run("COMMIT")

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Session:
        with suppress(IndexError):
            return self._idle.pop()
        return Session(_connect(self.address))


@cache
def _connection_class() -> Any:
    try:
        from pg8000.exceptions import InterfaceError
        from pg8000.native import Connection
    except ModuleNotFoundError:
        raise ConfigError("pg8000 is not installed; pip install 'ibidem[postgres]'") from None

    class Closing(Connection):  # type: ignore[misc]
        """Says in one way that the server is lost, and then closes without an error that would hide that one."""

        def handle_messages(self, context: Any) -> None:
            try:
                super().handle_messages(context)
            except OSError as error:  # the driver turns those of its other reads and of its writes into this one
                raise InterfaceError("network error") from error

        def close(self) -> None:
            file = self._sock
            with suppress(Exception):
                super().close()
            if file is not None:
                with suppress(OSError, ValueError):
                    file.close()

    return Closing


def _connect(address: Address) -> "Connection":
    kind = _connection_class()
    socket_file = f"{address.socket_dir}/.s.PGSQL.{address.port}" if address.socket_dir else None
    started = time.monotonic()
    try:
        connection: Connection = kind(
            address.user,
            host=address.host or "localhost",
            database=address.database,
            port=address.port,
            password=address.password,
            unix_sock=socket_file,
            ssl_context=_ssl_context(address),
            timeout=_CONNECT_S,
            application_name="ibidem",
            startup_params={"search_path": f"{quoted(address.schema)}, public, pg_temp", "row_security": "on"},
        )
    except Exception as error:
        if (known := _in_one_line(error, address)) is not None:
            raise known from None
        if isinstance(error, (OSError, EOFError)) or time.monotonic() - started >= _CONNECT_S:
            raise ArtifactError(f"{address} cannot be reached; does the server run, and listen there?") from None
        raise
    connection._usock.settimeout(None)  # noqa: SLF001 - pg8000 has one timeout for both; a long statement is none
    return connection


def _ssl_context(address: Address) -> "ssl.SSLContext | bool":
    if address.sslmode == "disable":
        return False
    authorities = address.sslrootcert
    if authorities is not None and not Path(authorities).is_file():
        raise ConfigError(f"sslrootcert={authorities} is not a file")
    try:
        context = ssl.create_default_context(cafile=authorities)
    except (ssl.SSLError, OSError):
        raise ConfigError(f"sslrootcert={authorities} holds no certificates in PEM form") from None
    if address.sslmode == "require":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _in_one_line(error: BaseException, address: Address) -> ArtifactError | ConfigError | None:
    """Return what an error of the driver means; details of the server are left out, for they may quote rows."""
    from pg8000.exceptions import DatabaseError, InterfaceError

    if isinstance(error, ssl.SSLError):
        return ArtifactError(f"{address}: no verified TLS connection ({error.reason or 'handshake failed'})")
    if isinstance(error, InterfaceError):
        cause = error.__cause__
        why = f" ({cause.strerror.lower()})" if isinstance(cause, OSError) and cause.strerror else ""
        if "SSL" in str(error):
            return ConfigError(f"{address}: the server offers no TLS; set sslmode=disable if the network is trusted")
        return ArtifactError(f"{address} cannot be reached{why}; does the server run, and listen there?")
    return _refusal(error, address) if isinstance(error, DatabaseError) else None


def _refusal(error: Exception, address: Address) -> ArtifactError | ConfigError:
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    code = fields.get("C", "")
    for codes, kind, reason in _REFUSALS:
        if code.startswith(codes):
            return kind(f"{address}: {reason}")
    return ArtifactError(f"{address}: the server refuses a statement (SQLSTATE {code or 'unknown'})")
