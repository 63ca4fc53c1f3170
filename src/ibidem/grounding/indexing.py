"""The wiring of an index: a folder of documents into a store, each document for those who may read it.

folder -> documents -> chunks -> (encoder) -> store          who may read each: the rules, read once
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ibidem import log
from ibidem.config import settings
from ibidem.errors import ConfigError
from ibidem.figures import counted, visible
from ibidem.grounding.access import YamlRules, unmatched
from ibidem.grounding.audit.commands import folder_of
from ibidem.grounding.audit.log import AuditLog
from ibidem.grounding.chunk import chunks
from ibidem.grounding.config import GroundIndexConfig
from ibidem.grounding.documents.folder import Listing, list_folder, read_file
from ibidem.grounding.encoder import open_encoder
from ibidem.grounding.index import QUARANTINE, Index
from ibidem.grounding.opening import POSIX, permissions_at, user
from ibidem.grounding.store import Indexed, Rules, Store
from ibidem.records import Unreadable
from ibidem.signatures import secret_key

SHOWN_FILES = 10


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
    if not _files(config, listing):
        raise ConfigError(f"docs {config.docs}: no documents there; is it the right folder, and mounted?")
    with closing(_store_to_update(config, key, place)) as store, AuditLog(folder, key) as audit:
        version = audit.keyed(rules.version)
        audit.record("index", state="begins", by=user(), rules=version)
        unreadable: list[Unreadable] = []
        paths: list[str] = []
        left_out = store.update(_documents(config, listing, paths, unreadable), rules, quarantined=unreadable)
        held = sorted(set(paths) - set(left_out))
        audit.record("index", state="done", by=user(), rules=version, store=store.digest, documents=len(held))
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
