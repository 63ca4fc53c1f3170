"""The store on PostgreSQL: what the server guarantees, what is refused in one line, and what forgetting removes."""

import errno
import itertools
import re
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.grounding.postgres_server import PASSWORDS, Pair, Server
from tests.grounding.worlds import Bag, document_of

from ibidem.errors import AccessDenied, ArtifactError, ConfigError, DataError, IbidemError
from ibidem.figures import visible
from ibidem.grounding import acl
from ibidem.grounding import postgres_sql as sql
from ibidem.grounding.access import YamlRules
from ibidem.grounding.index import Index
from ibidem.grounding.postgres import PostgresStore
from ibidem.grounding.postgres_server import parse_address
from ibidem.grounding.store import Access, Indexed, Query, Rules, Span
from ibidem.records import Unreadable

KEY = b"a secret key of thirty-two bytes"
CANARY = "zanzibarcanary"
RULES = """
groups: {staff: [ann, bob]}
rules:
- {path: "handbook/**", read: [everyone]}
- {path: "salaries/**", read: [staff], deny: [bob]}
"""
DOCUMENTS = (
    document_of("handbook/leave", "Leave is thirty days.\nAsk your lead for leave."),
    document_of("handbook/travel", "Travel by train.\nThe plan is public."),
    document_of("salaries/ann", f"The salary of ann is in the plan, {CANARY}."),
)
_SCHEMAS = itertools.count()


def rules_of(text: str) -> YamlRules:
    return YamlRules(acl.parse(text.encode(), "acl.yaml"))


def titled(path: str, title: str, text: str) -> Indexed:
    return Indexed(path, text, (Span((title,), 0, len(text)),))


@pytest.fixture
def new_store(server: Server) -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(encoder: Bag | None = None, schema: str = "") -> Pair:
        pairs.append(Pair(server, schema or f"store {next(_SCHEMAS)}", KEY, encoder))
        return pairs[-1]

    yield make
    for pair in pairs:
        with suppress(Exception):
            pair.discard()


@pytest.fixture
def store(new_store: Callable[..., Pair]) -> Pair:
    pair = new_store(Bag())
    pair.update(DOCUMENTS, rules_of(RULES))
    return pair


def ask(text: str, encoder: Bag | None = None) -> Query:
    return Query(text, encoder.encode([text])[0] if encoder else None)


def found(pair: Pair, text: str, principal: str, rules: Rules | None = None, k: int = 10) -> list[str]:
    hits = pair.search(ask(text), principal, rules or rules_of(RULES), k)
    return sorted({hit.chunk.path for hit in hits})


def raw(server: Server, pair: Pair, statements: str, role: str = "ibidem_app") -> list[list[Any]]:
    return server.run(f'SET search_path = "{pair.schema}", public; {statements}', role)


# Ranks


class Scattered(Bag):
    """An encoder whose vectors have no ties."""

    def encode(self, texts: Any) -> Any:
        vectors = np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=384) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("encoder", [None, Scattered()], ids=["words", "vectors"])
def test_ranks_and_ids_are_those_of_the_local_index(
    new_store: Callable[..., Pair], tmp_path: Path, encoder: Bag | None
) -> None:
    folder = Path(re.__file__).parent.parent
    files = sorted(folder.glob("*.py"))[:12]
    documents = [document_of(file.name, file.read_text(encoding="utf-8")[:8000]) for file in files]
    rules = rules_of('rules: [{path: "**", read: [everyone]}, {path: "a*.py", read: [ann], deny: [bob]}]')
    local, pair = Index(tmp_path / "index", KEY, encoder=encoder), new_store(encoder)
    local.update(documents, rules)
    pair.update(documents, rules)
    for text, principal in itertools.product(("return the value", "import os", "class Error", "def"), ("ann", "bob")):
        ours, peers = (each.search(ask(text, encoder), principal, rules, 20) for each in (pair, local))
        assert [hit.chunk for hit in ours] == [hit.chunk for hit in peers]
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in peers], abs=1e-5)
        assert pair.chunk(peers[0].chunk.id, principal, rules) == peers[0].chunk


def test_a_query_may_be_long_repeat_itself_and_want_everything(store: Pair) -> None:
    rules = rules_of(RULES)
    assert found(store, "plan " * 50_000, "ann") == ["handbook/travel", "salaries/ann"]
    assert found(store, " ".join(map(str, range(20_000))) + " plan", "ann") == ["handbook/travel", "salaries/ann"]
    for query in (ask("plan"), ask("plan", Bag())):
        assert store.search(query, "ann", rules, 1 << 40) == store.search(query, "ann", rules, 1000)
        assert store.search(query, "ann", rules, 0) == store.search(query, "ann", rules, -1) == []


def test_a_store_without_vectors_ignores_those_of_a_query(new_store: Callable[..., Pair]) -> None:
    pair, rules = new_store(), rules_of(RULES)
    pair.update(DOCUMENTS, rules)
    expected = pair.search(ask("plan"), "ann", rules, 5)
    assert pair.search(ask("plan", Bag()), "ann", rules, 5) == expected != []


def test_a_chunk_is_opened_only_by_those_who_may_read_it(store: Pair) -> None:
    (hit,) = store.search(ask(CANARY), "ann", rules_of(RULES), 5)
    assert store.chunk(hit.chunk.id, "ann", rules_of(RULES)) == hit.chunk
    messages = set()
    for chunk_id in (hit.chunk.id, "0" * 32, "no id", "x\0y"):
        with pytest.raises(AccessDenied) as denied:
            store.chunk(chunk_id, "bob", rules_of(RULES))
        messages.add(str(denied.value).removeprefix(visible(chunk_id)))
    assert messages == {": no such chunk, or bob may not read it"}


# What the server guarantees


@pytest.mark.parametrize("table", sql.GUARDED)
@pytest.mark.parametrize("settings", [{}, {"classes": "1,2"}, {"documents": "*"}, {"classes": "", "documents": "*"}])
def test_without_a_principals_settings_the_server_shows_no_row(
    server: Server, store: Pair, table: str, settings: dict[str, str]
) -> None:
    assert raw(server, store, f"SELECT count(*) FROM {table}", "ibidem_writer") > [[0]]
    claims = "".join(f"SET ibidem.{name} = '{value}';" for name, value in settings.items())
    assert raw(server, store, f"{claims} SELECT count(*) FROM {table}")[-1:] == [[0]]


def test_a_setting_ends_with_its_transaction(server: Server, store: Pair) -> None:
    claim = "BEGIN; SELECT set_config('ibidem.classes', '1,2', true), set_config('ibidem.documents', '*', true);"
    seen = raw(server, store, f"{claim} SELECT count(*) FROM documents; COMMIT; SELECT count(*) FROM documents")
    assert seen[-2:] == [[3], [0]]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM chunks",
        "INSERT INTO documents VALUES (9, 1, 'p', '', 1, 1)",
        "ALTER TABLE chunks DISABLE ROW LEVEL SECURITY",
        "DROP POLICY reads ON chunks",
        "SELECT * FROM forgotten",
        "SELECT * FROM quarantine",
        "SET ROLE ibidem_writer",
        "CREATE TABLE mine (a int)",
    ],
)
def test_the_reading_role_can_do_nothing_else(server: Server, store: Pair, statement: str) -> None:
    from pg8000.exceptions import DatabaseError

    with pytest.raises(DatabaseError, match="42501|denied|owner"):
        raw(server, store, statement)
    assert found(store, CANARY, "ann") == ["salaries/ann"]


def test_the_server_keeps_no_samples_of_values(server: Server, store: Pair) -> None:
    raw(server, store, "ANALYZE", "postgres")
    schema = store.schema.replace("'", "''")
    sampled = f"SELECT count(*) FROM pg_stats WHERE schemaname = '{schema}'"
    assert server.run(sampled) == [[0]]
    assert server.run("SELECT count(*) FROM pg_stats") > [[0]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ALTER TABLE chunks DISABLE ROW LEVEL SECURITY", "row-level security was changed"),
        ("ALTER TABLE postings NO FORCE ROW LEVEL SECURITY", "row-level security was changed"),
        ("CREATE POLICY more ON documents TO PUBLIC USING (true)", "row-level security was changed"),
        ("UPDATE store SET version = 0", "has tables of version 0, not 1"),
        ("DROP TABLE store", "there is no index"),
        ("REVOKE SELECT ON chunks FROM ibidem_reader", "the role lacks a right"),
    ],
)
def test_a_changed_schema_is_refused(server: Server, store: Pair, change: str, reason: str) -> None:
    raw(server, store, change, "ibidem_writer")
    with pytest.raises(IbidemError, match=reason):
        found(store, "plan", "ann")


def test_a_policy_that_shows_all_is_noticed_before_anything_is_shown(server: Server, store: Pair) -> None:
    assert found(store, CANARY, "cho") == []
    for table in sql.GUARDED:  # the connection was checked before
        raw(server, store, f"ALTER POLICY reads ON {table} USING (true)", "ibidem_writer")
    with pytest.raises(ArtifactError, match="forbidden rows"):
        found(store, CANARY, "cho")


@pytest.mark.parametrize("role", ["ibidem_writer", "postgres"])
def test_no_search_runs_as_a_role_that_sees_all(server: Server, store: Pair, role: str) -> None:
    unsafe = PostgresStore(server.address(role, store.schema), KEY)
    with pytest.raises(ConfigError, match=r"(owns the tables|bypasses row-level security); search as a member of"):
        unsafe.search(ask("plan"), "ann", rules_of(RULES), 5)
    unsafe.close()


# Rights that change


def test_rights_are_those_of_the_rules_now_and_not_of_the_indexing(store: Pair) -> None:
    assert found(store, "plan", "cho") == ["handbook/travel"]
    opened = rules_of('rules: [{path: "salaries/**", read: [cho]}, {path: "handbook/leave", read: [everyone]}]')
    assert found(store, "plan leave", "cho", opened) == ["handbook/leave", "salaries/ann"]
    assert found(store, "plan leave", "ann", opened) == ["handbook/leave"]
    assert found(store, "plan", "cho") == ["handbook/travel"]


class Interfering:
    """Rules that let something happen while a search asks them."""

    def __init__(self, rules: Rules, happens: Callable[[], object], times: int = 1) -> None:
        self.version, self._rules, self._happens, self._left = rules.version, rules, happens, times

    def access(self, path: str) -> Access:
        return self._rules.access(path)

    def permits(self, principal: str, access: Access) -> bool:
        if self._left:
            self._left -= 1
            self._happens()
        return self._rules.permits(principal, access)


def test_a_document_that_is_forgotten_in_mid_query_is_not_shown(store: Pair) -> None:
    forgetting = threading.Thread(target=store.forget, args=["handbook/travel"])
    before = store.digest

    def happens() -> None:
        forgetting.start()  # its rewriting of the files waits until the search has ended
        while store.digest == before:
            pass

    assert found(store, "plan", "ann", Interfering(rules_of(RULES), happens)) == ["salaries/ann"]
    forgetting.join()


def test_forgetting_waits_for_no_search_for_long(store: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibidem.grounding.postgres.LOCK_WAIT_S", 0.2)
    with store.reader._sessions.transaction() as session:
        session.run("SELECT FROM chunks")
        with pytest.raises(ArtifactError, match="in use by another transaction"):
            store.forget("salaries")
        assert found(store, CANARY, "ann") == []
    assert store.forget("salaries") == 0


def test_a_search_that_loses_its_rights_in_mid_query_shows_nothing(server: Server, store: Pair) -> None:
    assert found(store, "plan", "ann") == ["handbook/travel", "salaries/ann"]
    revoke = "REVOKE SELECT ON documents, chunks FROM ibidem_reader"
    rules = Interfering(rules_of(RULES), lambda: raw(server, store, revoke, "ibidem_writer"))
    with pytest.raises(ConfigError, match="the role lacks a right"):
        found(store, "plan", "ann", rules)


def test_a_second_connection_sees_in_mid_transaction_what_it_lost(store: Pair) -> None:
    with store.reader._sessions.transaction() as session:
        session.run(sql.PERMIT, classes="1,2", documents="*")
        rows = "SELECT path FROM documents ORDER BY 1"
        assert session.run(rows) == [["handbook/leave"], ["handbook/travel"], ["salaries/ann"]]
        moved = rules_of(RULES.replace("read: [staff]", "read: [board]"))
        store.update(DOCUMENTS, moved)  # the document is in another class now
        assert session.run(rows) == [["handbook/leave"], ["handbook/travel"]]


def test_a_store_that_always_changes_is_said_so(store: Pair) -> None:
    documents = list(DOCUMENTS)

    def change() -> None:
        documents.append(document_of(f"more/{len(documents)}", "more"))
        store.update(documents, rules_of(RULES))

    with pytest.raises(ArtifactError, match="changes faster than it can be searched"):
        found(store, "plan", "ann", Interfering(rules_of(RULES), change, times=1000))


# Changes


def test_what_did_not_change_is_kept_and_what_moved_is_not_encoded_again(server: Server, store: Pair) -> None:
    encoded: list[str] = []

    class Counting(Bag):
        def encode(self, texts: Any) -> Any:
            encoded.extend(texts)
            return super().encode(texts)

    writer = PostgresStore(server.address("ibidem_writer", store.schema), KEY, encoder=Counting())
    before = store.digest
    writer.update(DOCUMENTS, rules_of(RULES))
    assert encoded == []
    assert store.digest == before
    moved = rules_of(RULES.replace("deny: [bob]", "deny: [ann]"))
    writer.update((*DOCUMENTS, document_of("handbook/food", "Lunch.")), moved)
    assert encoded == ["Lunch."]
    assert store.digest != before
    assert (found(store, CANARY, "ann", moved), found(store, CANARY, "bob", moved)) == ([], ["salaries/ann"])
    writer.close()


def test_a_refused_document_changes_nothing(store: Pair) -> None:
    before = store.digest
    for document, reason in (
        (document_of("nul", "a\0b"), "NUL"),
        (document_of("surrogate", "a\ud800"), "Unicode"),
        (document_of("handbook/leave", "again"), "two documents have this path"),
    ):
        with pytest.raises(DataError, match=reason):
            store.update((*DOCUMENTS, document), rules_of(RULES))
    assert store.digest == before
    assert found(store, "plan", "ann") == ["handbook/travel", "salaries/ann"]


def test_one_process_at_a_time_changes_a_store(server: Server, store: Pair) -> None:
    second = PostgresStore(server.address("ibidem_writer", store.schema), KEY, encoder=Bag())

    def documents() -> Iterator[Indexed]:
        yield DOCUMENTS[0]
        with pytest.raises(ArtifactError, match="another process is changing the store"):
            second.update(DOCUMENTS, rules_of(RULES))

    store.update(documents(), rules_of(RULES))
    second.update(DOCUMENTS[:2], rules_of(RULES))
    assert found(store, "plan", "ann") == ["handbook/travel"]
    second.close()


def test_readers_see_the_old_store_until_an_update_is_whole(store: Pair) -> None:
    def documents() -> Iterator[Indexed]:
        yield document_of("handbook/new", "The plan is new.")
        assert found(store, "plan", "ann") == ["handbook/travel", "salaries/ann"]

    store.update(documents(), rules_of(RULES))
    assert found(store, "plan", "ann") == ["handbook/new"]


# Forgetting


def bytes_in(folder: Path, *needles: bytes) -> list[set[str]]:
    """Return the top folders of the files that hold each of some bytes."""
    held: list[set[str]] = [set() for _ in needles]
    for file in folder.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        for needle, folders in zip(needles, held, strict=True):
            if needle in data:
                folders.add(file.relative_to(folder).parts[0])
    return held


def secret_needles() -> list[bytes]:
    vector_D = Bag().encode([f"titlecanary\nsecret {CANARY} text"])[0]
    return [CANARY.encode(), b"titlecanary", b"pathcanary", struct.pack(f"<{len(vector_D)}f", *vector_D.tolist())]


def test_a_forgotten_document_is_in_no_data_file_and_leaves_the_log_with_its_segments(
    server: Server, store: Pair
) -> None:
    secret = titled("salaries/pathcanary", "titlecanary", f"secret {CANARY} text")
    store.update((*DOCUMENTS[:2], secret), rules_of(RULES))
    assert all("pg_wal" in folders for folders in bytes_in(server.data, *secret_needles()))
    server.run("CHECKPOINT")
    assert all("base" in folders for folders in bytes_in(server.data, *secret_needles()))
    assert store.forget("salaries") == 1
    server.run("CHECKPOINT")
    assert all(folders <= {"pg_wal"} for folders in bytes_in(server.data, *secret_needles()))
    for _ in range(2):  # without wal_recycle, a checkpoint deletes the segments before it
        server.run("SELECT pg_switch_wal()")
        server.run("CHECKPOINT")
    assert bytes_in(server.data, *secret_needles()) == [set()] * 4
    assert found(store, "plan", "ann") == ["handbook/travel"]


def test_a_document_that_an_update_drops_or_changes_is_in_no_data_file(server: Server, store: Pair) -> None:
    for text in (f"secret {CANARY}one", f"secret {CANARY}two"):
        store.update((*DOCUMENTS[:2], document_of("salaries/x", text)), rules_of(RULES))
    store.update(DOCUMENTS[:2], rules_of(RULES))
    server.run("CHECKPOINT")
    assert bytes_in(server.data, CANARY.encode())[0] <= {"pg_wal"}


def test_what_an_interrupted_update_left_goes_with_the_next_one(server: Server, store: Pair) -> None:
    def documents() -> Iterator[Indexed]:
        for number in range(300):  # more than are sent at once
            yield document_of(f"salaries/{number}", f"secret interruptedcanary {number}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.update(documents(), rules_of(RULES))
    store.update(DOCUMENTS, rules_of(RULES))
    server.run("CHECKPOINT")
    assert bytes_in(server.data, b"interruptedcanary")[0] <= {"pg_wal"}


def test_rows_that_an_older_transaction_keeps_are_reported(
    server: Server, store: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pg8000.native import Connection

    monkeypatch.setattr("ibidem.grounding.postgres.LOCK_WAIT_S", 0.2)
    socket_file = f"{server.sockets}/.s.PGSQL.5432"
    with Connection("postgres", database="ibidem", password=PASSWORDS["postgres"], unix_sock=socket_file) as older:
        older.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        older.run("SELECT count(*) FROM pg_class")  # has a snapshot, and no lock on the store
        with pytest.raises(ArtifactError, match="an older transaction keeps them in the files"):
            store.forget("salaries")
        assert found(store, CANARY, "ann") == []
    assert store.forget("salaries") == 0
    server.run("CHECKPOINT")
    assert bytes_in(server.data, CANARY.encode())[0] <= {"pg_wal"}


def test_a_forgotten_path_stays_out_until_it_is_readmitted(store: Pair) -> None:
    assert (store.forget("salaries/none"), store.forget("./salaries/")) == (0, 1)
    store.update(DOCUMENTS, rules_of(RULES))
    assert found(store, CANARY, "ann") == []
    assert (store.writer.readmit("salaries/ann"), store.writer.readmit("salaries")) == (False, True)
    store.update(DOCUMENTS, rules_of(RULES))
    assert found(store, CANARY, "ann") == ["salaries/ann"]
    for path in ("../salaries", "/salaries", ".", ""):
        with pytest.raises(ConfigError, match="not a path below the documents' folder"):
            store.forget(path)


# Hostile input


HOSTILE = (
    *("'; DROP TABLE chunks; --", '"; DROP SCHEMA public; --', "{1,2}", "1,2", "*", "a\\", "a\0b", "\ud800"),
    "%s :x $1",
)


def test_rules_that_belong_to_files_need_the_class_of_the_indexing_too(store: Pair) -> None:
    class Bound(YamlRules):
        is_bound_to_files = True

    opened = RULES.replace("read: [staff]", "read: [everyone]")
    assert found(store, CANARY, "eve", rules_of(opened)) == ["salaries/ann"]
    bound = Bound(acl.parse(f"{opened}- {{path: elsewhere, read: [x]}}".encode(), "acl.yaml"))
    assert found(store, CANARY, "eve", bound) == []
    assert found(store, CANARY, "ann", bound) == ["salaries/ann"]


def test_an_update_and_forgetting_count_what_is_left_out_and_what_could_not_be_read(store: Pair) -> None:
    assert store.update(DOCUMENTS, rules_of(RULES), quarantined=[Unreadable("salaries/b.pdf", None, "damaged")]) == []
    assert store.forget("salaries/b.pdf") == 1
    assert store.forget("salaries") == 1
    assert store.update(DOCUMENTS, rules_of(RULES)) == ["salaries/ann"]


@pytest.mark.parametrize("text", HOSTILE)
def test_sql_in_principals_queries_paths_and_groups_stays_text(store: Pair, text: str) -> None:
    rules = rules_of(RULES)
    assert found(store, "plan", text) == ["handbook/travel"]
    assert found(store, f"plan {text}", "bob") == ["handbook/travel"]
    assert store.search(ask("plan"), "bob", rules, 1 << 40) == store.search(ask("plan"), "bob", rules, 9)
    assert store.forget(f"handbook/{text}") == 0
    with pytest.raises(AccessDenied):
        store.chunk(text, "ann", rules)
    assert found(store, CANARY, "ann") == ["salaries/ann"]


@pytest.mark.parametrize("name", ["'; DROP TABLE chunks; --", 'a"b', "a\\b\tc\nd", "ünï $1 :x {}", "*"])
def test_any_path_title_and_group_is_stored_as_it_is(new_store: Callable[..., Pair], name: str) -> None:
    class Named:
        version = "1"

        def access(self, path: str) -> Access:
            return Access(frozenset([name]), frozenset(["nobody"]))

        def permits(self, principal: str, access: Access) -> bool:
            return principal in access.read

    pair = new_store(schema=f"{name.replace(chr(9), ' ').replace(chr(10), ' ')} {next(_SCHEMAS)}"[:60].replace('"', ""))
    document = titled(name, name, f"plan {name} \\. \r\n end")
    pair.update([document], Named())
    (hit,) = pair.search(ask("plan"), name, Named(), 5)
    assert (hit.chunk.path, hit.chunk.title, hit.chunk.text) == (name, (name,), document.text)


# Addresses and errors


def message_of(address: str, work: Callable[[PostgresStore], object] | None = None) -> str:
    store = PostgresStore(address, KEY)
    with pytest.raises(IbidemError) as refused:
        (work or (lambda each: each.search(ask("plan"), "ann", rules_of(RULES), 5)))(store)
    message = str(refused.value)
    assert "\n" not in message
    assert not any(password in message for password in (*PASSWORDS.values(), "pw-wrong"))
    return message


def test_each_failure_is_one_line_without_a_password(server: Server, store: Pair) -> None:
    app, writer = server.address("ibidem_app", store.schema), server.address("ibidem_writer", store.schema)
    assert "cannot be reached (no such file" in message_of(app.replace(str(server.sockets), "/nowhere"))
    assert "cannot be reached" in message_of("postgresql://ibidem_app:pw-wrong@127.0.0.1:1/ibidem")
    assert "refuses this role or its password" in message_of(app.replace(PASSWORDS["ibidem_app"], "pw-wrong"))
    assert "refuses this role or its password" in message_of(app.replace(f":{PASSWORDS['ibidem_app']}", ""))
    assert "there is no such database" in message_of(app.replace("/ibidem?", "/nowhere?"))
    assert "there is no index" in message_of(server.address("ibidem_app", "empty"))
    update = lambda each: each.update((), rules_of(RULES))  # noqa: E731
    assert "the role lacks a right" in message_of(server.address("ibidem_app", "empty"), update)
    assert "the role lacks a right" in message_of(app, lambda each: each.forget("handbook"))
    assert "the index has vectors; give its encoder" in message_of(writer, update)
    assert "the extension vector is missing" in message_of(server.address("postgres", database="template1"), update)


def test_a_missing_role_and_another_key_are_one_line(server: Server, store: Pair) -> None:
    server.run("ALTER ROLE ibidem_reader RENAME TO hidden")
    try:
        update = lambda each: each.update((), rules_of(RULES))  # noqa: E731
        assert "the role ibidem_reader is missing" in message_of(server.address("ibidem_writer", "fresh"), update)
    finally:
        server.run("ALTER ROLE hidden RENAME TO ibidem_reader")
    other = PostgresStore(server.address("ibidem_app", store.schema), b"another secret key of 32 bytes..")
    with pytest.raises(ArtifactError, match="another secret key"):
        other.search(ask("plan"), "ann", rules_of(RULES), 5)


def test_a_lost_connection_is_one_line_and_the_next_query_connects_again(server: Server, store: Pair) -> None:
    assert found(store, "plan", "ann") == ["handbook/travel", "salaries/ann"]
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ibidem_app'")
    with pytest.raises(ArtifactError, match="the server ended the connection|cannot be reached"):
        found(store, "plan", "ann")
    assert found(store, "plan", "ann") == ["handbook/travel", "salaries/ann"]


class Breaking:
    """The file of a connection that is lost after some reads or writes."""

    def __init__(self, file: Any, method: str, calls: int, error: OSError) -> None:
        self._file, self._method, self._left, self._error = file, method, calls, error

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self._left -= 1
            if self._left < 0:
                raise self._error
        return getattr(self._file, name)


def lose(store: PostgresStore, method: str, calls: int, error: OSError) -> None:
    (session,) = store._sessions._idle
    session.connection._sock = Breaking(session.connection._sock, method, calls, error)


@pytest.mark.parametrize("calls", [0, 2])
@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("read", ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")),
        ("read", TimeoutError(errno.ETIMEDOUT, "Connection timed out")),
        ("read", TimeoutError("timed out")),
        ("read", ssl.SSLEOFError(8, "EOF occurred in violation of protocol")),
        ("write", BrokenPipeError(errno.EPIPE, "Broken pipe")),
        ("flush", BrokenPipeError(errno.EPIPE, "Broken pipe")),
    ],
    ids=["reset", "timed out", "timeout", "TLS", "written", "flushed"],
)
def test_wherever_a_connection_is_lost_it_is_one_line(store: Pair, method: str, calls: int, error: OSError) -> None:
    rules = rules_of(RULES)
    (hit,) = store.search(ask("plan"), "bob", rules, 5)
    for side, work in (
        (store.reader, lambda: store.search(ask("plan"), "ann", rules, 5)),
        (store.reader, lambda: store.chunk(hit.chunk.id, "ann", rules)),
        (store.reader, lambda: store.digest),
        (store.writer, lambda: store.update(DOCUMENTS, rules)),
        (store.writer, lambda: store.forget("handbook/nothing")),
        (store.writer, lambda: store.writer.readmit("handbook/nothing")),
    ):
        lose(side, method, calls, error)
        with pytest.raises(ArtifactError, match="cannot be reached") as lost:
            work()
        assert "\n" not in str(lost.value)
        work()
    assert found(store, "plan", "ann") == ["handbook/travel", "salaries/ann"]


def test_an_error_of_the_documents_is_not_taken_for_one_of_the_server(store: Pair) -> None:
    def unreadable() -> Iterator[Indexed]:
        yield DOCUMENTS[0]
        raise ConnectionResetError(errno.ECONNRESET, "the network file system is gone")

    with pytest.raises(ConnectionResetError, match="the network file system is gone"):
        store.update(unreadable(), rules_of(RULES))
    assert found(store, "plan", "ann") == ["handbook/travel", "salaries/ann"]


def test_no_password_is_in_what_a_store_says_of_itself(server: Server, store: Pair) -> None:
    reader = store.reader
    said = f"{reader.config} {reader.digest} {reader.address} {reader.address!r} {vars(reader)}"
    assert "ibidem_app" in said
    assert not any(password in said for password in PASSWORDS.values())
    kept = server.run(f'SELECT * FROM "{store.schema}".store')
    assert not any(password in str(kept) for password in PASSWORDS.values())


def test_a_password_may_come_from_the_environment(server: Server, store: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    address = server.address("ibidem_app", store.schema).replace(f":{PASSWORDS['ibidem_app']}", "")
    monkeypatch.setenv("PGPASSWORD", PASSWORDS["ibidem_app"])
    with closing(PostgresStore(address, KEY)) as reader:
        assert reader.search(ask("plan"), "ann", rules_of(RULES), 5)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("postgresql://pw-secret@/", "is incomplete"),
        ("postgresql://u:pw-secret@h:port/d", "is malformed"),
        ("postgresql://u:pw-secret@h/d?shema=x", "unknown parameter 'shema'"),
        ("postgresql://u:pw-secret@h/d?sslmode=prefer", "sslmode=prefer is none of"),
        (f"postgresql://u:pw-secret@h/d?schema={'x' * 64}", "the schema in the address of the store"),
        ("mysql://u:pw-secret@h/d", "is incomplete"),
        ("postgresql://u:pw-secret@[h/d", "is malformed"),
        ("postgresql://u:pw-secret@h/d%00", "holds a NUL"),
        ("postgresql://u:pw-secret@h/d?sslrootcert=/nowhere/ca.pem", "is not a file"),
    ],
)
def test_a_wrong_address_is_one_line_without_a_password(address: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        PostgresStore(address, KEY).search(ask("plan"), "ann", rules_of(RULES), 5)
    assert reason in str(refused.value)
    assert "pw-secret" not in str(refused.value)


def test_other_computers_are_reached_with_verified_tls_unless_said_otherwise() -> None:
    modes = {host: parse_address(f"postgresql://u@{host}/d").sslmode for host in ("db.example", "127.0.0.1", "[::1]")}
    assert modes == {"db.example": "verify-full", "127.0.0.1": "disable", "[::1]": "disable"}
    assert parse_address("postgresql://u@h/d?sslmode=require").sslmode == "require"


def test_a_server_without_tls_is_not_spoken_to_in_the_open(server: Server, store: Pair) -> None:
    assert "offers no TLS" in message_of(server.address("ibidem_app", store.schema) + "&sslmode=verify-full")


def test_threads_share_a_store(store: Pair) -> None:
    seen: list[list[str]] = []

    def ask_as(who: str) -> None:
        seen.append([who, *found(store, "plan", who)])

    asks = [threading.Thread(target=ask_as, args=[who]) for who in ("ann", "cho") * 4]
    for thread in asks:
        thread.start()
    for thread in asks:
        thread.join()
    assert sorted(seen) == [["ann", "handbook/travel", "salaries/ann"]] * 4 + [["cho", "handbook/travel"]] * 4
