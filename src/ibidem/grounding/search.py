"""The wiring page: documents into an index, and out of it only what a principal may read and what was recorded.

    index    folder -> documents -> chunks -> (encoder) -> store          who may read each: the rules, read once
                                                 |
    search   rules -> principal -> query -> store.search -> hits -> choice of passages
               |                                                          |
               +--- the rules again: do they still hold for each? --------+    no: once more, then AccessDenied
                                                                          |
                                               audit: the query's keyed hash, the ids of what will be shown
                                                                          |
                                                                        shown
    show     one chunk by its id: unknown and forbidden look alike, and are recorded as denied
    forget   a document out of every file; artifacts that were made from the index are named

Nothing is returned before its record is on disk: an error of the audit log is the only answer then.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibidem import artifacts, log
from ibidem.config import settings
from ibidem.data.provenance import exposure
from ibidem.errors import AccessDenied, ConfigError, NothingFound
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
)
from ibidem.grounding.documents.folder import Listing, list_folder, read_file
from ibidem.grounding.encoder import Encoder, open_encoder
from ibidem.grounding.index import QUARANTINE, Index
from ibidem.grounding.posix import PosixPermissions
from ibidem.grounding.store import Chunk, Hit, Indexed, Permissions, Query, Rules, Store
from ibidem.records import Unreadable
from ibidem.signatures import secret_key

if TYPE_CHECKING:
    from ibidem.grounding.postgres import PostgresStore

Choice = Callable[[list[Hit]], list[Hit]]
"""Returns the hits that are shown, of those that were found."""

POSIX = "posix"
CHANGED = "the access rules changed during the query; ask again"
TRIES = 2
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
            AccessDenied: the rules changed twice in the meantime.
            ConfigError: the rules cannot be read; nobody may read anything then.
            AuditError: the record cannot be written.
        """
        query = Query(text, self.encoder.encode([text])[0] if self.encoder else None)
        for _ in range(TRIES):
            rules = self.permissions.current()
            hits = choose(self.store.search(query, principal, rules, k))
            if self._may_be_shown([hit.chunk for hit in hits], principal, rules):
                self._record(text, principal, rules, [hit.chunk for hit in hits])
                return hits
        raise self._denial(text, principal)

    def show(self, chunk_id: str, principal: str) -> Chunk:
        """Return one chunk.

        Raises:
            AccessDenied: there is no such chunk, or the principal may not read it; the message is the same.
        """
        for _ in range(TRIES):
            rules = self.permissions.current()
            try:
                chunk = self.store.chunk(chunk_id, principal, rules)
            except AccessDenied:
                self.audit.record("denied", principal, query=self.audit.keyed(chunk_id))
                raise
            if self._may_be_shown([chunk], principal, rules):
                self._record(chunk_id, principal, rules, [chunk])
                return chunk
        raise self._denial(chunk_id, principal)

    def answered(self, answer: str, principal: str, model: str) -> None:
        """Record an answer before its last byte leaves."""
        self.audit.record("answer", principal, answer=self.audit.keyed(answer), model=model)

    def _may_be_shown(self, chunks: Sequence[Chunk], principal: str, rules: Rules) -> bool:
        """Return whether the rules are still these, and permit every chunk."""
        paths = dict.fromkeys(chunk.path for chunk in chunks)
        permitted = all(rules.permits(principal, rules.access(path)) for path in paths)
        return permitted and self.permissions.holds(rules, paths)

    def _denial(self, text: str, principal: str) -> AccessDenied:
        self.audit.record("denied", principal, query=self.audit.keyed(text), reason="the rules changed")
        return AccessDenied(CHANGED)

    def _record(self, text: str, principal: str, rules: Rules, chunks: Sequence[Chunk]) -> None:
        self.audit.record(
            "query",
            principal,
            query=self.audit.keyed(text),
            chunks=[chunk.id for chunk in chunks],
            rules=rules.version,
            store=self.store.digest,
        )


def search(config: GroundSearchConfig) -> str:
    """Find passages, and return them as text or JSON.

    Raises:
        AccessDenied: the access rules changed during the query.
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
    with opened(config, is_search=False) as retriever:
        chunk = retriever.show(config.chunk, config.principal)
    return f"{source_line(chunk)}\n\n{printable(chunk.text)}"


def forget(config: GroundForgetConfig) -> str:
    """Remove a document, or a folder of documents, from every file; name what was made from the index.

    Raises:
        NothingFound: no document is at the path.
    """
    key = secret_key(config.key)
    store, _ = open_store(config.index, config.store, key)
    with AuditLog(folder_of(config.index, config.audit), key) as audit:
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
    return "\n".join([f"forgotten: {counted(number, 'document')}, in every file of the index", *_named(uses, config)])


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
    listing = list_folder(config.docs)
    store = _store_to_update(config, key, place)
    with AuditLog(folder_of(config.output_dir, config.audit), key) as audit:
        audit.record("index", state="begins", by=_user(), rules=rules.version)
        unreadable: list[Unreadable] = []
        paths: list[str] = []
        store.update(_documents(config, listing, paths, unreadable), rules, quarantined=unreadable)
        audit.record("index", state="done", by=_user(), rules=rules.version, store=store.digest, documents=len(paths))
    for line in _warnings(rules, paths):
        log.event("ground.rule", reason=line)
    return _summary(config, rules, paths, unreadable, listing.skipped)


def preview(config: GroundIndexConfig) -> list[str]:
    """Return what an indexing would read, and what the rules say about it."""
    _check_places(config)
    listing = list_folder(config.docs)
    rules = permissions_at(_place(config)).current()
    classes = len({rules.access(path) for path in listing.files})
    lines = [f"documents  {len(listing.files):,} in {counted(classes, 'access class', 'access classes')}"]
    lines += [f"unreadable {visible(each.file)}: {visible(each.reason)}" for each in listing.unreadable]
    return [*lines, *(f"rules      {line}" for line in _warnings(rules, listing.files))]


@contextmanager
def opened(choice: IndexChoice, *, is_search: bool = True) -> Iterator[Retriever]:
    """Open an index for queries: its store, the rules as they are now, and the audit log.

    Args:
        choice: the index, and where its rules, key and log are.
        is_search: whether texts are searched, for which an index with vectors needs their encoder.

    Raises:
        ConfigError: the model that made the vectors of the index is not where it was, or another one is given.
        ArtifactError: there is no index, or it was made with another key.
    """
    folder, key = folder_of(choice.index, choice.audit), secret_key(choice.key)
    store, about = open_store(choice.index, choice.store, key)
    if is_search and about["terms"] != terms.VERSION:
        raise ConfigError("the index was made by another version of this program; index the documents again")
    encoder = _encoder(choice.encoder, about) if is_search else None
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


def open_store(folder: Path | None, address: str | None, key: bytes) -> tuple[Store, Mapping[str, Any]]:
    """Open the store of an index; return it with the settings that it was made with.

    Raises:
        ConfigError: not exactly one of the two is given.
        ArtifactError: there is no index, or it was made with another key.
    """
    if (folder is None) == (address is None):
        raise ConfigError("give either --index, a folder, or --store, a database")
    if address is not None:
        database = postgres_store().open(address, key)
        return database, database.config
    assert folder is not None
    local = Index.open(folder, key)
    return local, local.artifact.config


def postgres_store() -> type["PostgresStore"]:
    """Import the store on PostgreSQL, whose driver is an extra."""
    try:
        from ibidem.grounding.postgres import PostgresStore
    except ImportError:
        raise ConfigError("--store needs a driver: pip install 'ibidem[postgres]'") from None
    return PostgresStore


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
    """Return where a chunk stands, for people."""
    title = f", {' > '.join(chunk.title)}" if chunk.title else ""
    return visible(f"{chunk.path}{title}; characters {chunk.start:,} to {chunk.end:,}; chunk {chunk.id}")


def printable(text: str) -> str:
    r"""Return a document's text for a terminal, which it must not control.

    >>> printable("a\tb\n\x1b[2J")
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
    rules = None if config.acl == POSIX else Path(config.acl).resolve()
    unreadable += listing.unreadable
    with log.progress("ground index", len(listing.files), "documents") as bar:
        for path in listing.files:
            if (config.docs / path).resolve() == rules:  # who may read what is no document
                continue
            document = read_file(config.docs, path, config.read)
            if isinstance(document, Unreadable):
                unreadable.append(document)
            else:
                paths.append(path)
                yield Indexed(path, document.text, chunks(document, config.chunks.max_chars))
            bar.advance()


def _summary(
    config: GroundIndexConfig,
    rules: Rules,
    paths: Sequence[str],
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
        return postgres_store()(config.store, key, encoder=encoder, **about)
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
    return ["what was made from the index keeps what it took over; delete or make anew:", *map(str, uses)]


def _user() -> str:
    return f"uid:{os.getuid()}"
