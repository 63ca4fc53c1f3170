"""A store of chunks on PostgreSQL and pgvector, in which the server itself hides what a principal may not read.

    documents   chunks   postings (BM25)   vectors          row-level security, forced; default deny
        └──────────┴────────┴─────────────────┘
                  class, document                one policy: the class is among `ibidem.classes`, and the document
                                                 among `ibidem.documents` (`*`: all of these classes)

A search is a transaction of the reading role, which neither owns the tables nor bypasses row-level security:

    read revision and access classes  ->  decide which are the principal's, by the rules as they are now
    ->  set_config(..., is_local => true)  ->  one statement: postings and exact cosine distances of permitted rows

If the rules changed since the documents were indexed, permitted documents are passed instead of whole classes. If the
store changed since its classes were read, the search is repeated. Ranks are those of the local index: BM25 with the
statistics of the permitted chunks alone, and reciprocal rank fusion with the cosine's. Contributions of terms are
added as integers, so no plan and no number of workers changes a bit of a score.

What the engine cannot promise: whoever holds the reading role's password can claim any principal and list all paths
(they are needed when the rules changed), so only this program may hold it. Rows that were removed are gone from the
tables' files (`VACUUM FULL`), and remain in the write-ahead log until it is recycled, in backups and on standbys.

Sources: https://www.postgresql.org/docs/current/ddl-rowsecurity.html; Robertson and Zaragoza 2009, "The probabilistic
relevance framework: BM25 and beyond", DOI 10.1561/1500000019; Cormack, Clarke and Buettcher 2009, "Reciprocal rank
fusion outperforms Condorcet and individual rank learning methods", DOI 10.1145/1571941.1572114.
"""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

from ibidem.errors import AccessDenied, ArtifactError, ConfigError, DataError
from ibidem.figures import visible
from ibidem.grounding import postgres_sql as sql
from ibidem.grounding import terms
from ibidem.grounding.alignment import Frequencies
from ibidem.grounding.encoder import Encoder
from ibidem.grounding.fusion import RRF_K
from ibidem.grounding.paths import document_path, is_below, with_parents
from ibidem.grounding.postgres_server import Session, Sessions, parse_address, quoted
from ibidem.grounding.segment import Entry, make_entry
from ibidem.grounding.store import NOBODY, Access, Chunk, Hit, Indexed, Query, Rules, is_bound_to_files
from ibidem.grounding.view import K1, RANK_WINDOW, B
from ibidem.records import Unreadable
from ibidem.signatures import keyed

BY_WORDS, BY_BOTH = sql.search_statements(k1=K1, b=B, rrf=RRF_K, window=RANK_WINDOW)

LOCK_WAIT_S = 10.0
"""How long a change waits for transactions that use the tables; queries that begin meanwhile wait too."""

_PAUSE_S = 0.05
_WRITER_WAIT_S = 1.0  # a server needs a moment to notice that a writer's connection is closed
_ATTEMPTS = 5
_MOST = 2**31 - 1
_BATCH = 200  # documents that are sent at once
_BLOCK = 2000  # lines of a message
_ID = re.compile("[0-9a-f]{32}")
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class _State(NamedTuple):
    revision: int
    rules: str
    encoder: str | None


_Classes = tuple[Access, ...]
"""Access classes of a document that must all permit: as the rules are now, and perhaps as it was indexed."""


class _Members(NamedTuple):
    classes: list[int]
    documents: list[int]
    """Empty if all documents of the classes are meant."""


class _Known(NamedTuple):
    document: int
    class_: int
    content: str


class PostgresStore:
    """Chunks on a PostgreSQL server; implements `ibidem.grounding.store.Store`.

    The address of the reading role serves `search` and `chunk`, that of the tables' owner `update` and `forget`.
    """

    def __init__(
        self, address: str, key: bytes, *, acl: str = "", chunks: Mapping[str, Any] | None = None,
        encoder: Encoder | None = None, model: str = "",
    ) -> None:  # fmt: skip
        """Name a store; nothing is connected yet.

        Args:
            address: as `postgres_server` describes it.
            key: the secret key of ids and terms.
            acl: where the access rules are, for `config`.
            chunks: settings of the division into chunks, for `config`.
            encoder: makes the vectors; None: words only.
            model: where the encoder is, for `config`.

        Raises:
            ConfigError: the address is malformed.
        """
        self.address = parse_address(address)
        self._sessions, self._key, self._encoder = Sessions(self.address), key, encoder
        self._config = {"acl": acl, "chunks": dict(chunks or {}), "model": model}
        self._members: tuple[tuple[int, str], dict[_Classes, _Members]] | None = None

    @classmethod
    def open(cls, address: str, key: bytes, encoder: Encoder | None = None) -> "PostgresStore":
        """Open a store; only an update needs the encoder, if there was one.

        Raises:
            ArtifactError: the server cannot be reached, or holds no store of this version.
            ConfigError: the role is wrong, or the store was made with another key.
        """
        store = cls(address, key, encoder=encoder)
        config = store.config
        store._config = {name: config[name] for name in ("acl", "chunks", "model")}
        return store

    @property
    def digest(self) -> str:
        """Identifies the content; it changes with every change."""
        return str(self._described("digest"))

    @property
    def config(self) -> dict[str, Any]:
        """What the store was made with: `acl`, `chunks`, `model`, the encoder's digest, versions of rules and terms."""
        config: dict[str, Any] = json.loads(self._described("config"))
        return config | {name: self._described(name) for name in ("encoder", "rules", "terms")}

    def search(self, query: Query, principal: str, rules: Rules, k: int) -> list[Hit]:
        """Return the best chunks that a principal may read, best first; fewer than k if there are no more."""
        times = Counter(_signed(term) for term in terms.hashes(query.text, self._key))
        words = {"terms": list(times), "times": list(times.values()), "k": min(max(k, 0), _MOST)}

        def statement(state: _State) -> tuple[str, dict[str, Any]]:
            if query.vector_D is None or state.encoder is None:
                return BY_WORDS, words
            return BY_BOTH, words | {"vector": _vector(query.vector_D.tolist())}

        rows = self._permitted(principal, rules, statement)
        return [Hit(_chunk(row), float(row[-1])) for row in rows]

    def chunk(self, chunk_id: str, principal: str, rules: Rules) -> Chunk:
        """Return one chunk.

        Raises:
            AccessDenied: there is no such chunk, or the principal may not read it; the message is the same.
        """
        id_ = chunk_id if _ID.fullmatch(chunk_id) else ""
        rows = self._permitted(principal, rules, lambda _: (sql.ONE_CHUNK, {"id": id_}))
        if not rows:
            raise AccessDenied(visible(f"{chunk_id}: no such chunk, or {principal} may not read it"))
        return _chunk(rows[0])

    def frequencies(self, wanted: Sequence[str], principal: str, rules: Rules) -> Frequencies:
        """Count the chunks that a principal may read, and those of them that have each term, with their headings."""
        hashed = [_signed(terms.hash_of(term, self._key)) for term in wanted]
        rows = self._seen(principal, rules, lambda _: (sql.COUNTED, {"terms": sorted(set(hashed))}))
        held = {term: count for _, term, count, _ in rows if term is not None}
        counts = {term: held.get(each, 0) for term, each in zip(wanted, hashed, strict=True)}
        return Frequencies(counts, rows[0][-1])

    def update(
        self, documents: Iterable[Indexed], rules: Rules, *, quarantined: Iterable[Unreadable] = ()
    ) -> list[str]:
        """Make the store hold exactly these documents, less those that are forgotten; what did not change is kept.

        Returns:
            the paths of the forgotten documents among them, which were left out.

        Raises:
            DataError: two documents have the same path, or one cannot be stored.
            ArtifactError: another process is changing the store.
        """
        with self._writing(create=True) as session:
            self._check_encoder(session)
            was_cut_off = session.run("SELECT unpurged FROM store")[0][0]
            session.run("UPDATE store SET unpurged = true")
            session.run("BEGIN")
            change = _Change(session, self._key, self._encoder)
            removed = change.replace(documents, rules.access)
            change.quarantine(quarantined)
            change.close(config=json.dumps(self._config), rules=rules.version)
            session.run("COMMIT")
            if removed or was_cut_off:
                self._purge(session)
            session.run("UPDATE store SET unpurged = false")
        return change.left_out

    def forget(self, path: str) -> int:
        """Remove a document, or all below a folder, from the tables' files.

        Their paths stay as keyed hashes, so that an update does not bring them back before `readmit`.

        Returns:
            how many were removed, files that could not be read included.

        Raises:
            ConfigError: the path leaves the documents' folder.
            ArtifactError: another process is changing the store, or may still read removed rows.
        """
        wanted = document_path(path)
        with self._writing() as session:
            session.run("UPDATE store SET unpurged = true")
            session.run("BEGIN")
            change = _Change(session, self._key, self._encoder)
            removed = change.forget(wanted)
            change.close()
            session.run("COMMIT")
            self._purge(session)
            session.run("UPDATE store SET unpurged = false")
        return removed

    def readmit(self, path: str) -> bool:
        """Let an update bring back a forgotten path; return whether this very path was forgotten."""
        with self._writing() as session:
            hashed = keyed(self._key, "forgotten", document_path(path))
            return bool(session.run("DELETE FROM forgotten WHERE path = :path RETURNING path", path=hashed))

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._sessions.close()

    def _described(self, column: str) -> Any:
        with self._sessions.session() as session:
            self._check_store(session)
            return session.run(f"SELECT {column} FROM store")[0][0]  # noqa: S608 - our own words

    def _permitted(
        self, principal: str, rules: Rules, statement: Callable[[_State], tuple[str, dict[str, Any]]]
    ) -> list[list[Any]]:
        """Return the rows of a statement about chunks that a principal may read; each is checked once more.

        Raises:
            ArtifactError: the server returned a chunk that they may not read.
        """
        found = [row for row in self._seen(principal, rules, statement) if row[1] is not None]
        if not all(rules.permits(principal, rules.access(row[2])) for row in found):
            raise ArtifactError(f"{self.address}: the server returned forbidden rows; its policies were changed")
        return found

    def _seen(
        self, principal: str, rules: Rules, statement: Callable[[_State], tuple[str, dict[str, Any]]]
    ) -> list[list[Any]]:
        """Return the rows of a statement that sees what a principal may read, all of one revision of the store."""
        for _ in range(_ATTEMPTS):
            with self._sessions.transaction("ISOLATION LEVEL READ COMMITTED READ ONLY") as session:
                self._check_reader(session)
                state = _State(*session.query("SELECT revision, rules, encoder FROM store")[0])
                classes, documents = self._readable(session, state, principal, rules)
                session.query(sql.PERMIT, classes=classes, documents=documents)
                text, values = statement(state)
                rows = session.query(text, **values)
            if all(row[0] == state.revision for row in rows):
                return rows
        raise ArtifactError(f"{self.address} changes faster than it can be searched; try again")

    def _readable(self, session: Session, state: _State, principal: str, rules: Rules) -> tuple[str, str]:
        """Return the values of `ibidem.classes` and `ibidem.documents` for a principal."""
        known, version = self._members, (state.revision, rules.version)
        if known is None or known[0] != version:
            self._members = known = version, _members(session, state, rules)
        permitted = [
            members
            for classes, members in known[1].items()
            if all(rules.permits(principal, access) for access in classes)
        ]
        numbers = sorted({class_ for members in permitted for class_ in members.classes})
        documents = sorted(document for members in permitted for document in members.documents)
        return _listed(numbers), "*" if rules.version == state.rules else _listed(documents)

    def _check_reader(self, session: Session) -> None:
        """Refuse a role that row-level security does not bind, and tables that it does not guard."""
        if session.is_checked:
            return
        schema, who = quoted(self.address.schema), f"{self.address}: role {self.address.user}"
        bypasses, owns = session.run(sql.ROLE, schema=schema)[0]
        if bypasses:
            raise ConfigError(f"{who} bypasses row-level security; search as a member of {sql.READER}")
        if owns:
            raise ConfigError(f"{who} owns the tables; search as a member of {sql.READER}")
        self._check_store(session)
        if session.run(sql.POLICIES_IN_FORCE, schema=schema)[0] != [2 * len(sql.GUARDED)] * 2:
            raise ConfigError(f"{self.address}: row-level security was changed; index into a new schema")
        session.is_checked = True

    def _check_store(self, session: Session) -> None:
        rows = session.run("SELECT version FROM store")
        if rows != [[sql.VERSION]]:
            found = rows[0][0] if rows else "none"
            raise ArtifactError(f"{self.address} has tables of version {found}, not {sql.VERSION}; use a new schema")
        if session.run("SELECT key FROM store") != [[keyed(self._key, "key")]]:
            raise ArtifactError(
                f"{self.address}: the index was made with another secret key; give that one (--key FILE)"
            )

    def _check_encoder(self, session: Session) -> None:
        if self._encoder is None and session.run("SELECT encoder FROM store")[0][0] is not None:
            raise ConfigError(f"{self.address}: the index has vectors; give its encoder, or choose another schema")

    @contextmanager
    def _writing(self, *, create: bool = False) -> Iterator[Session]:
        """Lend a connection that alone changes the store."""
        lock = f"ibidem {self.address.schema}"
        with self._sessions.session() as session:
            self._lock(session, lock)
            name = f"{quoted(self.address.schema)}.store"
            if create and session.run("SELECT to_regclass(:name)", name=name)[0][0] is None:
                self._create(session)
            self._check_store(session)
            session.run("SELECT set_config('lock_timeout', :wait, false)", wait=f"{1000 * LOCK_WAIT_S:.0f}ms")
            yield session
            session.run("SELECT pg_advisory_unlock(hashtextextended(:lock, 0))", lock=lock)

    def _lock(self, session: Session, lock: str) -> None:
        deadline = time.monotonic() + _WRITER_WAIT_S
        while not session.run("SELECT pg_try_advisory_lock(hashtextextended(:lock, 0))", lock=lock)[0][0]:
            if time.monotonic() > deadline:
                raise ArtifactError(f"{self.address}: another process is changing the store; try again later")
            time.sleep(_PAUSE_S)

    def _create(self, session: Session) -> None:
        has_vectors, has_reader, encoding = session.run(sql.NEEDS, reader=sql.READER)[0]
        if not has_vectors:
            raise ConfigError(f"{self.address}: the extension vector is missing; an administrator creates it")
        if not has_reader:
            raise ConfigError(f"{self.address}: the role {sql.READER} is missing; an administrator creates it")
        if encoding != "UTF8":
            raise ConfigError(f"{self.address}: the database's encoding is {encoding}; create one with UTF8")
        schema = quoted(self.address.schema)
        policies = "".join(sql.POLICIES.format(table=table) for table in sql.GUARDED)
        session.run(f"BEGIN; CREATE SCHEMA IF NOT EXISTS {schema}; GRANT USAGE ON SCHEMA {schema} TO {sql.READER}")
        session.run(sql.TABLES + policies + sql.UNSAMPLED)
        insert = "INSERT INTO store VALUES (:version, :key, '{}', NULL, :terms, '', '', 0, false, 0, 0, 0)"
        session.run(insert, version=sql.VERSION, key=keyed(self._key, "key"), terms=terms.VERSION)
        session.run("COMMIT")

    def _purge(self, session: Session) -> None:
        """Rewrite the tables, so that no removed row stays in their files.

        Raises:
            ArtifactError: an older transaction may still read removed rows, so the server keeps them.
        """
        tables, deadline = {*sql.GUARDED, "classes", "quarantine"}, time.monotonic() + LOCK_WAIT_S
        while tables := {table for table in tables if _rewrite(session, table)}:
            if time.monotonic() > deadline:
                raise ArtifactError(
                    f"{self.address}: no query finds the removed rows, but an older transaction keeps them in the "
                    "files; end it and repeat the command"
                )
            time.sleep(_PAUSE_S)


def _rewrite(session: Session, table: str) -> bool:
    """Rewrite a table's files; return whether removed rows had to be kept, as an older transaction may read them."""
    session.connection.notices.clear()
    vacuum = f"VACUUM (FULL, VERBOSE) {table}"
    session.run("CLUSTER VERBOSE postings USING postings_by_term" if table == "postings" else vacuum)
    return any(map(_kept_rows, session.connection.notices))


def _kept_rows(notice: Mapping[bytes, bytes]) -> int:
    """Return how many removed rows a rewritten table kept: the first number in a report's details.

    The server reports `INFO: "chunks": found 3 removable, 5 nonremovable row versions in 1 pages`, with the details
    `0 dead row versions cannot be removed yet.`; words may be translated, numbers are not.
    """
    number = re.search(rb"\d+", notice.get(b"D", b""))
    return int(number[0]) if number else 0


def _members(session: Session, state: _State, rules: Rules) -> dict[_Classes, _Members]:
    """Return each access class as the rules are now, and its members."""
    rows = session.query("SELECT class, readers, denied FROM classes")
    indexed = {class_: _access(readers, denied) for class_, readers, denied in rows}
    if rules.version == state.rules:
        return {(access,): _Members([class_], []) for class_, access in indexed.items()}
    members: defaultdict[_Classes, _Members] = defaultdict(lambda: _Members([], []))
    is_bound = is_bound_to_files(rules)
    for document, class_, path in session.query("SELECT document, class, path FROM every_document()"):
        now = rules.access(path)
        classes, documents = members[(now, indexed.get(class_, NOBODY)) if is_bound else (now,)]
        classes.append(class_)
        documents.append(document)
    return dict(members)


class _Change:
    """One change of the store's content, in a transaction of the owner."""

    def __init__(self, session: Session, key: bytes, encoder: Encoder | None) -> None:
        self._session, self._key, self._encoder = session, key, encoder
        counters = "SELECT last_class, last_document, last_chunk FROM store FOR UPDATE"
        self._last_class, self._last_document, self._last_chunk = map(int, session.run(counters)[0])
        rows = session.run("SELECT readers, denied, class FROM classes")
        self._classes = {_access(readers, denied): int(class_) for readers, denied, class_ in rows}
        self._forgotten = {row[0] for row in session.run("SELECT path FROM forgotten")}
        self.left_out: list[str] = []

    def replace(self, documents: Iterable[Indexed], access: Callable[[str], Access]) -> int:
        """Make the store hold exactly these documents; return how many were removed or replaced."""
        rows = self._session.run("SELECT path, document, class, content FROM documents")
        known = {path: _Known(*rest) for path, *rest in rows}
        moved: defaultdict[int, list[int]] = defaultdict(list)
        fresh: list[tuple[Indexed, str, int]] = []
        stale: list[int] = []
        for table in sql.GUARDED:  # COPY into a table with row-level security is refused
            self._session.run(f"CREATE TEMPORARY TABLE new_{table} (LIKE {table}) ON COMMIT DROP")
        for document in self._admitted(documents):
            content, class_ = self._content(document), self._class(access(document.path))
            before = known.pop(document.path, None)
            if before is None or before.content != content:
                stale += [before.document] if before else []
                fresh.append((document, content, class_))
            elif before.class_ != class_:
                moved[class_].append(before.document)
            if len(fresh) == _BATCH:
                self._send(fresh)
                fresh = []
        self._send(fresh)
        stale += [gone.document for gone in known.values()]
        self._delete(stale)
        self._move(moved)
        for table in sql.GUARDED:
            order = "class, term" if table == "postings" else "class"
            move = f"INSERT INTO {table} SELECT * FROM pg_temp.new_{table} ORDER BY {order}"  # noqa: S608 - our own
            self._session.run(move)
        return len(stale)

    def forget(self, path: str) -> int:
        """Delete a document, or all below a folder, files that could not be read included; return how many."""
        rows = self._session.run("SELECT document, path FROM documents")
        documents = [document for document, each in rows if is_below(each, path)]
        self._delete(documents)
        files = {file for (file,) in self._session.run("SELECT file FROM quarantine") if is_below(file, path)}
        self._session.run("DELETE FROM quarantine WHERE file = ANY (:files)", files=sorted(files))
        if documents or files:
            hashed = keyed(self._key, "forgotten", path)
            self._session.run("INSERT INTO forgotten VALUES (:path) ON CONFLICT DO NOTHING", path=hashed)
        return len(documents) + len(files)

    def quarantine(self, unreadable: Iterable[Unreadable]) -> None:
        """Replace the list of files that could not be read."""
        self._session.run("DELETE FROM quarantine")
        for each in unreadable:
            if not self._is_forgotten(each.file):
                insert = "INSERT INTO quarantine VALUES (:row, :file)"
                self._session.run(insert, row=json.dumps(asdict(each)), file=each.file)

    def close(self, *, config: str | None = None, rules: str | None = None) -> None:
        """Delete empty classes, and record what the store holds now."""
        self._session.run("DELETE FROM classes WHERE class NOT IN (SELECT class FROM documents)")
        rows = self._session.run(
            "SELECT path, content, readers, denied FROM documents JOIN classes USING (class) ORDER BY 1"
        )
        update = """UPDATE store SET revision = revision + 1, digest = :digest, config = coalesce(:config, config),
            rules = coalesce(:rules, rules), encoder = coalesce(:encoder, encoder), terms = :terms,
            last_class = :last_class, last_document = :last_document, last_chunk = :last_chunk"""
        self._session.run(
            update,
            digest=keyed(self._key, "digest", *(part for row in rows for part in row)),
            config=config,
            rules=rules,
            encoder=self._encoder.digest if self._encoder else None,
            terms=terms.VERSION,
            last_class=self._last_class,
            last_document=self._last_document,
            last_chunk=self._last_chunk,
        )

    def _admitted(self, documents: Iterable[Indexed]) -> Iterator[Indexed]:
        paths: set[str] = set()
        for document in documents:
            if document.path in paths:
                raise DataError(f"{document.path}: two documents have this path")
            paths.add(document.path)
            if self._is_forgotten(document.path):
                self.left_out.append(document.path)
            else:
                yield document

    def _is_forgotten(self, path: str) -> bool:
        hashes = (keyed(self._key, "forgotten", each) for each in with_parents(path))
        return bool(self._forgotten) and any(each in self._forgotten for each in hashes)

    def _content(self, document: Indexed) -> str:
        """Return a keyed digest of all that a document's rows depend on."""
        encoder = self._encoder.digest if self._encoder else ""
        spans = json.dumps(document.chunks)
        return keyed(self._key, "content", document.path, document.text, spans, encoder, str(terms.VERSION))

    def _class(self, access: Access) -> int:
        """Return the number of an access class; no number is used again."""
        if access not in self._classes:
            self._last_class += 1
            readers, denied = json.dumps(sorted(access.read)), json.dumps(sorted(access.deny))
            insert = "INSERT INTO classes VALUES (:number, :readers, :denied)"
            self._session.run(insert, number=self._last_class, readers=readers, denied=denied)
            self._classes[access] = self._last_class
        return self._classes[access]

    def _send(self, batch: Sequence[tuple[Indexed, str, int]]) -> None:
        """Send documents to the temporary tables."""
        lines: dict[str, list[str]] = {table: [] for table in sql.GUARDED}
        for document, content, class_ in batch:
            _check_text(document)
            entry = make_entry(document, self._key, self._encoder)
            self._last_document += 1
            for table, line in _lines(document, entry, content, self._last_document, class_, self._last_chunk + 1):
                lines[table].append(line)
            self._last_chunk += len(entry.spans)
        for table, some in lines.items():
            if some:
                self._session.run(f"COPY pg_temp.new_{table} FROM STDIN", stream=_blocks(some))

    def _delete(self, documents: Sequence[int]) -> None:
        for table in sql.GUARDED if documents else ():
            delete = f"DELETE FROM {table} WHERE document = ANY (:some)"  # noqa: S608 - our own words
            self._session.run(delete, some=list(documents))

    def _move(self, moved: Mapping[int, list[int]]) -> None:
        for class_, documents in moved.items():
            for table in sql.GUARDED:
                move = f"UPDATE {table} SET class = :class_ WHERE document = ANY (:some)"  # noqa: S608 - our own
                self._session.run(move, class_=class_, some=documents)


def _lines(
    document: Indexed, entry: Entry, content: str, number: int, class_: int, chunk: int
) -> Iterator[tuple[str, str]]:
    """Yield the rows of a document, each as its table and a line of COPY's text form."""
    words = int(entry.num_terms_N.sum())
    path = document.path.translate(_ESCAPED)
    yield "documents", f"{number}\t{class_}\t{path}\t{content}\t{len(entry.spans)}\t{words}\n"
    terms_P, counts_P, past = entry.terms_P.tolist(), entry.counts_P.tolist(), 0
    for place, span in enumerate(entry.spans):
        at = f"{number}\t{class_}\t{chunk + place}"
        title, text = json.dumps(span.title), document.text[span.start : span.end]
        shown = f"{title.translate(_ESCAPED)}\t{span.start}\t{span.end}\t{text.translate(_ESCAPED)}"
        yield "chunks", f"{at}\t{entry.ids[place].hex()}\t{shown}\n"
        first, past, length = past, past + int(entry.num_postings_N[place]), int(entry.num_terms_N[place])
        for term, count in zip(terms_P[first:past], counts_P[first:past], strict=True):
            yield "postings", f"{at}\t{_signed(term)}\t{count}\t{length}\n"
        if entry.vectors_ND is not None:
            yield "vectors", f"{at}\t{_vector(entry.vectors_ND[place].tolist())}\n"


def _check_text(document: Indexed) -> None:
    try:
        data = f"{document.path}\t{document.text}".encode()
    except UnicodeEncodeError:
        raise DataError(f"{document.path!r}: it is not valid Unicode, which PostgreSQL requires") from None
    if b"\0" in data:
        raise DataError(f"{document.path!r}: it holds a NUL character, which PostgreSQL cannot store")


def _blocks(lines: Sequence[str]) -> Iterator[bytes]:
    for first in range(0, len(lines), _BLOCK):
        yield "".join(lines[first : first + _BLOCK]).encode()


def _signed(term: int) -> int:
    return term - (1 << 64) if term >= 1 << 63 else term


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _vector(values: Iterable[float]) -> str:
    return f"[{','.join(map(repr, values))}]"


def _access(readers: str, denied: str) -> Access:
    return Access(frozenset(json.loads(readers)), frozenset(json.loads(denied)))


def _chunk(row: Sequence[Any]) -> Chunk:
    _, id_, path, title, start, stop, text, _ = row
    return Chunk(id_, path, tuple(json.loads(title)), start, stop, text)
