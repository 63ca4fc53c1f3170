"""The wiring page: documents into an index, and out of it only what a principal may read and what was recorded.

    index    folder -> documents -> chunks -> (encoder) -> store          who may read each: the rules, read once
                                                 |
    search   rules -> principal -> query -> store.search -> hits -> choice of passages
               |                                                          |
               +--- the rules again: do they still hold for all hits? ----+    no: once more, then AccessDenied
                                                                          |
                                               audit: the query's keyed hash, the ids of what will be shown
                                                                          |
                                                                        shown
    answer   the rules again, as a model may write for minutes -> audit -> shown
    show     one chunk by its id: unknown and forbidden look alike, and are recorded as denied
    forget   a document out of every file; artifacts that were made from the index are named

Nothing is returned before its record is on disk: an error of the audit log is the only answer then.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.config import settings
from ibidem.data.provenance import exposure
from ibidem.errors import AccessDenied, ConfigError, IbidemError, NothingFound
from ibidem.figures import counted, visible
from ibidem.grounding import terms
from ibidem.grounding.access import YamlPermissions, YamlRules, unmatched
from ibidem.grounding.audit.commands import folder_of
from ibidem.grounding.audit.log import AuditLog
from ibidem.grounding.chunk import chunks
from ibidem.grounding.config import (
    GroundForgetConfig,
    GroundIndexConfig,
    GroundSearchConfig,
    GroundShowConfig,
    IndexChoice,
    RulesChoice,
)
from ibidem.grounding.documents.folder import Listing, list_folder, read_file
from ibidem.grounding.encoder import Encoder, open_encoder
from ibidem.grounding.index import QUARANTINE, Index
from ibidem.grounding.posix import PosixPermissions
from ibidem.grounding.store import Chunk, Hit, Indexed, Permissions, Query, Rules, Store
from ibidem.records import Unreadable
from ibidem.signatures import secret_key

Choice = Callable[[list[Hit]], list[Hit]]
"""Returns the hits that are shown, of those that were found."""

POSIX = "posix"
CHANGED = "the access rules or the index changed during the query; ask again"
TRIES = 2
FORGOTTEN_IN_TABLES = "in the database's tables; its write-ahead log, standbys and backups may still hold the text"
SHOWN_CHARS = 300
SHOWN_FILES = 10


@dataclass(frozen=True)
class Retriever:
    """Finds chunks as a principal, and records what is shown."""

    store: Store
    permissions: Permissions
    audit: AuditLog
    encoder: Encoder | None = None

    def search(self, text: str, principal: str, k: int, choose: Choice = lambda hits: hits) -> list[Hit]:
        """Return the best chunks that a principal may read, best first; the record is on disk before.

        Args:
            text: words, or a question.
            principal: who asks.
            k: number of chunks to look at.
            choose: picks those of them that are shown.

        Raises:
            AccessDenied: the rules or the index changed twice in the meantime.
            ConfigError: the rules cannot be read; nobody may read anything then.
            AuditError: the record cannot be written.
        """
        query = Query(text, self.encoder.encode([text])[0] if self.encoder else None)
        for _ in range(TRIES):
            rules, digest = self.permissions.current(), self.store.digest
            hits = self.store.search(query, principal, rules, k)
            try:
                chosen = choose(hits)
            except IbidemError:
                self._record(text, principal, rules, digest, [])
                raise
            if self._may_be_shown([hit.chunk for hit in hits], principal, rules) and self.store.digest == digest:
                self._record(text, principal, rules, digest, [hit.chunk for hit in chosen])
                return chosen
        raise self._denial(principal, query=text)

    def show(self, chunk_id: str, principal: str) -> Chunk:
        """Return one chunk.

        Raises:
            AccessDenied: there is no such chunk, or the principal may not read it; the message is the same.
        """
        for _ in range(TRIES):
            rules, digest = self.permissions.current(), self.store.digest
            try:
                chunk = self.store.chunk(chunk_id, principal, rules)
            except AccessDenied:
                self.audit.record("denied", principal, query=self.audit.keyed(chunk_id))
                raise
            if self._may_be_shown([chunk], principal, rules) and self.store.digest == digest:
                self._record(chunk_id, principal, rules, digest, [chunk])
                return chunk
        raise self._denial(principal, query=chunk_id)

    def answered(self, answer: str, principal: str, model: str, chunks: Sequence[Chunk]) -> None:
        """Record an answer before its last byte leaves.

        Args:
            answer: its text.
            principal: who asked.
            model: what wrote it, perhaps for minutes: the rules are read once more.
            chunks: all that it was made from.

        Raises:
            AccessDenied: the principal may no longer read all of them.
            ConfigError: the rules cannot be read.
            AuditError: the record cannot be written.
        """
        if not any(self._may_be_shown(chunks, principal, self.permissions.current()) for _ in range(TRIES)):
            raise self._denial(principal, answer=answer)
        self.audit.record("answer", principal, answer=self.audit.keyed(answer), model=model)

    def _may_be_shown(self, chunks: Sequence[Chunk], principal: str, rules: Rules) -> bool:
        """Return whether the rules are still these, and permit every chunk."""
        paths = dict.fromkeys(chunk.path for chunk in chunks)
        permitted = all(rules.permits(principal, rules.access(path)) for path in paths)
        return permitted and self.permissions.holds(rules, paths)

    def _denial(self, principal: str, **texts: str) -> AccessDenied:
        keyed = {name: self.audit.keyed(text) for name, text in texts.items()}
        self.audit.record("denied", principal, reason=CHANGED, **keyed)
        return AccessDenied(CHANGED)

    def _record(self, text: str, principal: str, rules: Rules, digest: str, chunks: Sequence[Chunk]) -> None:
        self.audit.record(
            "query",
            principal,
            query=self.audit.keyed(text),
            chunks=[chunk.id for chunk in chunks],
            rules=self.audit.keyed(rules.version),
            store=digest,
        )


def search(config: GroundSearchConfig) -> str:
    """Find passages, and return them as text or JSON.

    Raises:
        AccessDenied: the access rules or the index changed during the query.
        AuditError: the record cannot be written; nothing is shown then.
    """
    hits = found(config)
    if config.json:
        return json.dumps([as_row(hit) for hit in hits], ensure_ascii=False, indent=1)
    blocks = [
        f"{number}. {source_line(hit.chunk)}; score {hit.score:.3f}\n{_beginning(hit.chunk.text)}"
        for number, hit in enumerate(hits, 1)
    ]
    return "\n\n".join(blocks) or "No passage that you may read matches."


def found(config: GroundSearchConfig) -> list[Hit]:
    """Find passages."""
    with opened(config) as retriever:
        return retriever.search(config.query, config.principal, config.k)


def show(config: GroundShowConfig) -> str:
    """Open a cited chunk.

    Raises:
        AccessDenied: there is no such chunk, or the principal may not read it; the message is the same.
    """
    with opened(config) as retriever:
        chunk = retriever.show(config.chunk, config.principal)
    return f"{source_line(chunk)}\n\n{terminal_text(chunk.text)}"


def forget(config: GroundForgetConfig) -> str:
    """Remove a document, or a folder of documents, from every file; name what was made from the index.

    Raises:
        NothingFound: no document is at the path.
    """
    folder, key = folder_of(config.index, config.audit), secret_key(config.key, create=False)
    with open_store(config.index, config.store, key) as (store, _), AuditLog(folder, key) as audit:
        path = audit.keyed(config.path)
        if config.readmit:
            audit.record("forget", path=path, state="to be readmitted", by=_user())
            if not store.readmit(config.path):
                raise NothingFound(f"{config.path}: this very path is not forgotten")
            return f"readmitted: the next indexing takes {config.path} again"
        before = artifacts.load(config.index) if config.index else None
        audit.record("forget", path=path, state="begins", by=_user(), store=store.digest)
        number = store.forget(config.path)
        audit.record("forget", path=path, state="done", documents=number, store=store.digest)
    if not number:
        raise NothingFound(f"{config.path}: the index holds no document there")
    uses = exposure.made_from(config.artifacts, before) if before else []
    where = FORGOTTEN_IN_TABLES if config.store else "in every file of the index"
    return "\n".join([f"forgotten: {counted(number, 'document')}, {where}", *_named(uses, config)])


def index(config: GroundIndexConfig) -> str:
    """Index a folder, or bring its index up to date; return a line on what the index holds.

    Raises:
        ConfigError: the rules cannot be read, or the folders are inside one another.
        DataError: two files have paths that differ only in case or in the form of their characters.
    """
    _check_places(config)
    key = secret_key(config.key)
    place = _place(config)
    rules = permissions_at(place).current()
    listing, folder = list_folder(config.docs), folder_of(config.output_dir, config.audit)
    with closing(_store_to_update(config, key, place)) as store, AuditLog(folder, key) as audit:
        version = audit.keyed(rules.version)
        audit.record("index", state="begins", by=_user(), rules=version)
        unreadable: list[Unreadable] = []
        paths: list[str] = []
        left_out = store.update(_documents(config, listing, paths, unreadable), rules, quarantined=unreadable)
        held = sorted(set(paths) - set(left_out))
        audit.record("index", state="done", by=_user(), rules=version, store=store.digest, documents=len(held))
    for line in _warnings(rules, held):
        log.event("ground.rule", reason=line)
    return _summary(config, rules, held, len(left_out), unreadable, listing.skipped)


def preview(config: GroundIndexConfig) -> list[str]:
    """Return what an indexing would read, and what the rules say about it."""
    _check_places(config)
    listing = list_folder(config.docs)
    files, rules = _files(config, listing), permissions_at(_place(config)).current()
    classes = len({rules.access(path) for path in files})
    lines = [f"documents  {len(files):,} in {counted(classes, 'access class', 'access classes')}"]
    lines += [f"unreadable {visible(each.file)}: {visible(each.reason)}" for each in listing.unreadable]
    return [*lines, *(f"rules      {line}" for line in _warnings(rules, files))]


@contextmanager
def opened(choice: RulesChoice) -> Iterator[Retriever]:
    """Open an index for queries: its store, the rules as they are now, and the audit log.

    Args:
        choice: the index, and where its rules, key and log are; to search texts an `IndexChoice`, as an index with
            vectors needs their encoder then.

    Raises:
        ConfigError: the model that made the vectors of the index is not where it was, or another one is given.
        ArtifactError: there is no index, or it was made with another key.
    """
    folder, key = folder_of(choice.index, choice.audit), secret_key(choice.key, create=False)
    with open_store(choice.index, choice.store, key) as (store, about):
        encoder = None
        if isinstance(choice, IndexChoice):
            if about["terms"] != terms.VERSION:
                raise ConfigError("the index was made by another version of this program; index the documents again")
            encoder = _encoder(choice.encoder, about)
        with AuditLog(folder, key) as audit:
            yield Retriever(store, _permissions(choice.acl, str(about["acl"])), audit, encoder)


def _encoder(given: Path | None, about: Mapping[str, Any]) -> Encoder | None:
    """Open the model that made the vectors of an index; by default where it was then."""
    if about["encoder"] is None:
        if given is not None:
            raise ConfigError("the index has no vectors; leave --encoder out")
        return None
    place = given or Path(about["model"])
    if not place.is_dir():
        raise ConfigError(f"the model that made the vectors of the index is not at {place}; give it with --encoder")
    encoder = open_encoder(place)
    if encoder.digest != about["encoder"]:
        raise ConfigError(f"encoder {place}: the vectors of the index are of another model; give that one")
    return encoder


@contextmanager
def open_store(folder: Path | None, address: str | None, key: bytes) -> Iterator[tuple[Store, Mapping[str, Any]]]:
    """Open the store of an index, with the settings that it was made with; close it at the end.

    Raises:
        ConfigError: not exactly one of the two is given.
        ArtifactError: there is no index, or it was made with another key.
    """
    if (folder is None) == (address is None):
        raise ConfigError("give either --index, a folder, or --store, a database")
    if address is not None:
        from ibidem.grounding.postgres import PostgresStore

        with closing(PostgresStore.open(address, key)) as database:
            yield database, database.config
        return
    assert folder is not None
    with closing(Index.open(folder, key)) as local:
        yield local, local.artifact.config


def permissions_at(place: str) -> Permissions:
    """Return the access rules at a place: a YAML file, or `posix:` and the documents' folder."""
    kind, _, folder = place.partition(":")
    return PosixPermissions(Path(folder)) if kind == POSIX else YamlPermissions(Path(place))


def as_row(hit: Hit) -> dict[str, Any]:
    """Return a hit as a JSON value: chunk, path, title, span, score, text."""
    chunk = hit.chunk
    return {
        "chunk": chunk.id,
        "path": chunk.path,
        "title": list(chunk.title),
        "span": [chunk.start, chunk.end],
        "score": hit.score,
        "text": chunk.text,
    }


def source_line(chunk: Chunk) -> str:
    """Return the position of a chunk, for people."""
    title = f", {' > '.join(chunk.title)}" if chunk.title else ""
    return visible(f"{chunk.path}{title}; characters {chunk.start:,} to {chunk.end:,}; chunk {chunk.id}")


def terminal_text(text: str) -> str:
    r"""Return a document's text for a terminal, which it must not control.

    >>> terminal_text("a\tb\n\x1b[2J")
    'a       b\n\\x1b[2J'
    """
    return "\n".join(visible(line.expandtabs()) for line in text.split("\n"))


def _beginning(text: str) -> str:
    flat = " ".join(text.split())
    return f"   {visible(flat if len(flat) <= SHOWN_CHARS else f'{flat[:SHOWN_CHARS]}...')}"


def _documents(
    config: GroundIndexConfig, listing: Listing, paths: list[str], unreadable: list[Unreadable]
) -> Iterator[Indexed]:
    """Yield the documents of the folder in chunks; note their paths, and what cannot be read."""
    unreadable += listing.unreadable
    files = _files(config, listing)
    with log.progress("ground index", len(files), "documents") as bar:
        for path in files:
            document = read_file(config.docs, path, config.read)
            if isinstance(document, Unreadable):
                unreadable.append(document)
            else:
                paths.append(path)
                yield Indexed(path, document.text, chunks(document, config.chunks.max_chars))
            bar.advance()


def _files(config: GroundIndexConfig, listing: Listing) -> list[str]:
    """Return the files that may be documents: who may read what is none."""
    rules = None if config.acl == POSIX else Path(config.acl).resolve()
    return [path for path in listing.files if (config.docs / path).resolve() != rules]


def _summary(
    config: GroundIndexConfig,
    rules: Rules,
    paths: Sequence[str],
    num_forgotten: int,
    unreadable: Sequence[Unreadable],
    skipped: Mapping[str, int],
) -> str:
    """Return what is indexed, in one line, and below it what is not."""
    classes = len({rules.access(path) for path in paths})
    place = config.output_dir or "the database"
    lines = [f"index: {counted(len(paths), 'document')}, {counted(classes, 'access class', 'access classes')}; {place}"]
    lines += [f"  unreadable: {visible(each.file)}: {visible(each.reason)}" for each in unreadable[:SHOWN_FILES]]
    if more := len(unreadable) - SHOWN_FILES:
        lines += [f"  unreadable: {counted(more, 'more file')}, in {QUARANTINE} of the index"] if more > 0 else []
    lines += [f"  {counted(num_forgotten, 'forgotten document')} left out"] if num_forgotten else []
    lines += [f"  skipped: {counted(number, 'file')}, {visible(reason)}" for reason, number in skipped.items()]
    return "\n".join(lines)


def _permissions(acl: str | None, recorded: str) -> Permissions:
    if acl is None or (acl == POSIX and recorded.startswith(f"{POSIX}:")):
        return permissions_at(recorded)
    if acl == POSIX:
        raise ConfigError(f"--acl {POSIX}: the index was made with rules of a file; give a file")
    return permissions_at(str(Path(acl).resolve()))


def _place(config: GroundIndexConfig) -> str:
    """Return where the rules are, as the index records it."""
    return f"{POSIX}:{config.docs.resolve()}" if config.acl == POSIX else str(Path(config.acl).resolve())


def _check_places(config: GroundIndexConfig) -> None:
    if (config.output_dir is None) == (config.store is None):
        raise ConfigError("give either --output-dir, a folder, or --store, a database")
    if not config.docs.is_dir():
        raise ConfigError(f"docs {config.docs}: no such folder")
    docs = config.docs.resolve()
    written = [path for path in (config.output_dir, config.audit) if path is not None]
    for place in [*written, *([config.key] if config.key else [])]:
        if place.resolve().is_relative_to(docs) or docs.is_relative_to(place.resolve()):
            raise ConfigError(f"{place} and the documents {config.docs} are inside one another; choose another place")


def _store_to_update(config: GroundIndexConfig, key: bytes, place: str) -> Store:
    encoder = open_encoder(config.encoder) if config.encoder else None
    model = str(config.encoder.resolve()) if config.encoder else ""
    about: dict[str, Any] = {"acl": place, "chunks": settings(config.chunks), "model": model}
    if config.store is not None:
        from ibidem.grounding.postgres import PostgresStore

        return PostgresStore(config.store, key, encoder=encoder, **about)
    assert config.output_dir is not None
    return Index(config.output_dir, key, encoder=encoder, **about)


def _warnings(rules: Rules, paths: Sequence[str]) -> list[str]:
    lines = unmatched(rules, paths) if isinstance(rules, YamlRules) else []
    unread = sum(not rules.access(path).read for path in paths)
    return [*lines, *([f"{counted(unread, 'document')} that no rule lets anybody read"] if unread else [])]


def _named(uses: Sequence[exposure.Use], config: GroundForgetConfig) -> list[str]:
    searched = ", ".join(str(path) for path in config.artifacts if path.exists())
    if not uses:
        return [f"below {searched}, nothing was made from the index"] if searched else []
    return ["these were made from the index and may still contain the text; delete or rebuild them:", *map(str, uses)]


def _user() -> str:
    return f"uid:{os.getuid()}"
