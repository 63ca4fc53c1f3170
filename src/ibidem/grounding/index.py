"""The local store: a segment for each access class, in an artifact.

    INDEX/manifest.json       kind `ground-index`; written last
          segments.jsonl      name, access class and size of each segment, by name
          paths.jsonl         paths of the documents of each segment, by name
          forgotten.jsonl     keyed hashes of paths that must not come back
          quarantine.jsonl    files that could not be read
          <segment>/          see `segment`

A query resolves who may read what, opens the segments with permitted documents alone, and searches a `View` of these.
Views are kept in memory for each principal and version of the rules.

A change writes a folder beside the index, with hard links to unchanged segments, and exchanges the two: an open
`Index` reads the new one at its next query. Where the system can exchange folders, a kill leaves the old index or the
new one.
"""

import os
import shutil
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from ibidem import __version__, artifacts, files, jsonl
from ibidem.errors import AccessDenied, ArtifactError, ConfigError, DataError
from ibidem.figures import visible
from ibidem.grounding import terms
from ibidem.grounding.alignment import Frequencies
from ibidem.grounding.encoder import Encoder
from ibidem.grounding.paths import document_path, is_below, with_parents
from ibidem.grounding.segment import Entry, Segment, make_entry, name_of, write_segment
from ibidem.grounding.store import Access, Chunk, Hit, Indexed, Query, Rules, is_bound_to_files
from ibidem.grounding.view import Part, View
from ibidem.records import Unreadable
from ibidem.signatures import keyed

KIND = "ground-index"
SEGMENTS, PATHS = "segments.jsonl", "paths.jsonl"
FORGOTTEN, QUARANTINE = "forgotten.jsonl", "quarantine.jsonl"
MAX_VIEW_BYTES = 1 << 30
"""Memory of the views that an index keeps; the view in use may be larger."""

T = TypeVar("T")


Stamp = tuple[int, ...]
"""Identifies the manifest file that was read."""


class Place(NamedTuple):
    """A document in a segment on disk."""

    segment: str
    number: int


Item = Place | Entry
"""A document of an index to write: one that is kept, or another."""
Classes = Mapping[Access, Mapping[str, Item]]
"""The documents of each access class, by path."""


class Content:
    """An index on disk as one manifest describes it; segments are opened when they are needed."""

    def __init__(self, path: Path, stamp: Stamp, key: bytes) -> None:
        self.stamp = stamp
        self.artifact = artifacts.load(path, kind=KIND)
        if self.artifact.config["key"] != key_id(key):
            raise ArtifactError(f"{path}: the index was made with another secret key; give that one (--key FILE)")
        artifacts.check(self.artifact, [SEGMENTS])
        rows = jsonl.loads((path / SEGMENTS).read_text(encoding="utf-8"))
        self.classes = {row["segment"]: Access(frozenset(row["read"]), frozenset(row["deny"])) for row in rows}
        self._opened: dict[str, Segment] = {}

    def segment(self, name: str) -> Segment:
        """Open a segment, after checking its files."""
        if name not in self._opened:
            artifacts.check(self.artifact, self.files(name))
            self._opened[name] = Segment(self.artifact.path / name)
        return self._opened[name]

    def files(self, name: str) -> list[str]:
        """List the files of a segment."""
        return [file for file in self.artifact.files if file.startswith(f"{name}/")]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Read one of the lists of the index."""
        artifacts.check(self.artifact, [name])
        return jsonl.loads((self.artifact.path / name).read_text(encoding="utf-8"))

    @cached_property
    def paths(self) -> dict[str, list[str]]:
        """Paths of the documents of each segment."""
        return {row["segment"]: row["paths"] for row in self.lines(PATHS)}

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where each document is, by path."""
        return {path: Place(name, number) for name, paths in self.paths.items() for number, path in enumerate(paths)}

    def kept(self, skip: Callable[[str], bool]) -> dict[Access, dict[str, Item]]:
        """Return the documents of each class, less those whose path is to be skipped."""
        return {
            access: {path: Place(name, number) for number, path in enumerate(self.paths[name]) if not skip(path)}
            for name, access in self.classes.items()
        }


class Index:
    """A store in a folder of this machine."""

    def __init__(
        self, path: Path, key: bytes, *, acl: str = "", chunks: Mapping[str, Any] | None = None,
        encoder: Encoder | None = None, model: str = "",
    ) -> None:  # fmt: skip
        """Prepare to bring the index at `path` up to date; there may be none.

        Args:
            path: its folder.
            key: the secret key of ids and terms.
            acl: where the access rules are, for the manifest.
            chunks: settings of the division into chunks, for the manifest.
            encoder: makes the vectors; None: words only.
            model: where the encoder is, for the manifest.
        """
        self.path, self._key = path, key
        self._config = {"acl": acl, "chunks": dict(chunks or {}), "model": model}
        self._encoder = encoder
        self._content: Content | None = None
        self._views: OrderedDict[tuple[str, str, str], View] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def open(cls, path: Path, key: bytes, encoder: Encoder | None = None) -> "Index":
        """Open an index; only an update needs the encoder, if there was one.

        Raises:
            ArtifactError: there is none, it is damaged, or it was made with another key.
        """
        index = cls(path, key, encoder=encoder)
        config = index._current().artifact.config
        index._config = {name: config[name] for name in ("acl", "chunks", "model")}
        return index

    @property
    def digest(self) -> str:
        """Identifies the content; it changes with every change."""
        return self._current().artifact.digest

    @property
    def artifact(self) -> artifacts.Artifact:
        """The index as its manifest describes it now."""
        return self._current().artifact

    def search(self, query: Query, principal: str, rules: Rules, k: int) -> list[Hit]:
        """Return the best chunks that a principal may read, best first; fewer than k if there are no more."""
        hashed = sorted(Counter(terms.hashes(query.text, self._key)).items())
        return self._reading(lambda content: self._view(content, principal, rules).search(hashed, query.vector_D, k))

    def chunk(self, chunk_id: str, principal: str, rules: Rules) -> Chunk:
        """Return one chunk.

        Raises:
            AccessDenied: there is no such chunk, or the principal may not read it; the message is the same.
        """
        chunk = self._reading(lambda content: self._view(content, principal, rules).find(chunk_id))
        if chunk is None:
            raise AccessDenied(visible(f"{chunk_id}: no such chunk, or {principal} may not read it"))
        return chunk

    def frequencies(self, wanted: Sequence[str], principal: str, rules: Rules) -> Frequencies:
        """Count the chunks that a principal may read, and those of them that have each term, with their headings."""
        hashes = [terms.hash_of(term, self._key) for term in wanted]

        def count(content: Content) -> Frequencies:
            view = self._view(content, principal, rules)
            return Frequencies(dict(zip(wanted, view.frequencies(hashes), strict=True)), len(view))

        return self._reading(count)

    def everything(self, principal: str, rules: Rules) -> list[Chunk]:
        """Return all chunks that a principal may read, in the order of (path, start)."""
        return self._reading(lambda content: self._view(content, principal, rules).chunks())

    def classes(self, paths: Iterable[str], rules: Rules) -> set[Access]:
        """Return the access classes that decide who may read documents of the index: all of them must permit."""
        places = list(paths)
        now = {rules.access(path) for path in places}
        if not is_bound_to_files(rules):
            return now
        return self._reading(lambda content: now | {content.classes[content.places[path].segment] for path in places})

    def update(
        self, documents: Iterable[Indexed], rules: Rules, *, quarantined: Iterable[Unreadable] = ()
    ) -> list[str]:
        """Make the index hold exactly these documents, less those that are forgotten; what did not change is kept.

        Args:
            documents: all of them, in any order.
            rules: who may read each.
            quarantined: files that could not be read; iterated after the documents.

        Returns:
            the paths of the forgotten documents among them, which were left out.

        Raises:
            DataError: two documents have the same path.
            ArtifactError: another process is writing to the index, or it is damaged.
        """
        with artifacts.writing(self.path):
            before = self._whole() if (self.path / artifacts.MANIFEST).exists() else None
            if before is not None:
                self._check_encoder(before)
            forgotten = before.lines(FORGOTTEN) if before else []
            hashes = {row["path"] for row in forgotten}
            classes: dict[Access, dict[str, Item]] = {}
            seen: set[str] = set()
            left_out: list[str] = []
            for document in documents:
                if document.path in seen:
                    raise DataError(f"{document.path}: two documents have this path")
                seen.add(document.path)
                if hashes and self._is_forgotten(document.path, hashes):
                    left_out.append(document.path)
                    continue
                item = self._kept(before, document) or make_entry(document, self._key, self._encoder)
                classes.setdefault(rules.access(document.path), {})[document.path] = item
            rows = [asdict(each) for each in quarantined if not self._is_forgotten(each.file, hashes)]
            config = self._config | {
                "encoder": self._encoder.digest if self._encoder else None,
                "key": key_id(self._key),
                "rules": rules.version,
                "terms": terms.VERSION,
            }
            self._write(before, classes, config, forgotten, rows)
        return left_out

    def forget(self, path: str) -> int:
        """Remove a document, or all below a folder, from every file.

        Their paths stay as keyed hashes, so that an update does not bring them back before `readmit`.

        Returns:
            how many were removed, files that could not be read included.

        Raises:
            ConfigError: the path leaves the documents' folder.
            ArtifactError: there is no index, it is damaged, or another process is writing to it.
        """
        wanted = document_path(path)
        with artifacts.writing(self.path):
            before = self._whole()
            kept = before.kept(lambda each: is_below(each, wanted))
            quarantined = before.lines(QUARANTINE)
            rows = [row for row in quarantined if not is_below(row["file"], wanted)]
            removed = len(before.places) - sum(map(len, kept.values())) + len(quarantined) - len(rows)
            if removed:
                hashes = {row["path"] for row in before.lines(FORGOTTEN)} | {self._hash(wanted)}
                forgotten = [{"path": each} for each in sorted(hashes)]
                self._write(before, kept, before.artifact.config, forgotten, rows)
        return removed

    def readmit(self, path: str) -> bool:
        """Let an update bring back a forgotten path; return whether this very path was forgotten."""
        with artifacts.writing(self.path):
            before = self._whole()
            forgotten = before.lines(FORGOTTEN)
            rest = [row for row in forgotten if row["path"] != self._hash(document_path(path))]
            if len(rest) < len(forgotten):
                config = before.artifact.config
                self._write(before, before.kept(lambda _: False), config, rest, before.lines(QUARANTINE))
        return len(rest) < len(forgotten)

    def close(self) -> None:
        """Let go of the views in memory."""
        with self._lock:
            self._content = None
            self._views.clear()

    def _check_encoder(self, content: Content) -> None:
        digest = content.artifact.config["encoder"]
        if digest is not None and self._encoder is None:
            raise ConfigError(f"{self.path}: the index has vectors; give its encoder, or choose another folder")

    def _is_forgotten(self, path: str, hashes: set[str]) -> bool:
        return bool(hashes) and any(self._hash(each) in hashes for each in with_parents(path))

    def _hash(self, path: str) -> str:
        return keyed(self._key, "forgotten", path)

    def _kept(self, content: Content | None, document: Indexed) -> Place | None:
        """Return where an unchanged document is in the index."""
        digest = self._encoder.digest if self._encoder else None
        if content is None or content.artifact.config["encoder"] != digest:
            return None
        if content.artifact.config["terms"] != terms.VERSION:
            return None
        place = content.places.get(document.path)
        return place if place and content.segment(place.segment).holds(place.number, document) else None

    def _write(
        self, before: Content | None, classes: Classes, config: Mapping[str, Any],
        forgotten: Sequence[Mapping[str, str]], quarantined: Sequence[Mapping[str, Any]],
    ) -> None:  # fmt: skip
        with artifacts.create(self.path, kind=KIND, config=config, is_private=True) as draft:
            named = sorted((name_of(self._key, access), access) for access, items in classes.items() if items)
            rows = [self._write_class(before, draft, name, access, classes[access]) for name, access in named]
            paths = [{"segment": name, "paths": sorted(classes[access])} for name, access in named]
            for name, lines in ((SEGMENTS, rows), (PATHS, paths), (FORGOTTEN, forgotten), (QUARANTINE, quarantined)):
                (draft.path / name).write_text(jsonl.dumps(lines), encoding="utf-8")
                draft.rows[name] = len(lines)
            sums = {name: sum(row[name] for row in rows) for name in ("documents", "chunks")}
            draft.counts |= sums | {"segments": len(rows), "forgotten": len(forgotten), "quarantined": len(quarantined)}
            if before is not None and before.artifact.config == config and _is_same(before.artifact, draft.path):
                draft.discard()

    def _write_class(
        self, before: Content | None, draft: artifacts.Draft, name: str, access: Access, items: Mapping[str, Item]
    ) -> dict[str, Any]:
        ordered = [items[path] for path in sorted(items)]
        folder = draft.path / name
        row = {"segment": name, "read": sorted(access.read), "deny": sorted(access.deny), "documents": len(ordered)}
        if before and name in before.classes:
            old = before.segment(name)
            if ordered == [Place(name, number) for number in range(len(old.paths))]:
                folder.mkdir()
                for file in before.files(name):
                    _link(before.artifact.path / file, draft.path / file)
                return row | {"chunks": len(old.starts_N)}
        entries = [item if isinstance(item, Entry) else _entry(before, item) for item in ordered]
        write_segment(folder, entries)
        return row | {"chunks": sum(len(entry.spans) for entry in entries)}

    def _whole(self) -> Content:
        """Return the index as it is now, all its files checked."""
        content = self._current()
        artifacts.check(content.artifact)
        return content

    def _reading(self, read: Callable[[Content], T]) -> T:
        """Read from the index as it is now; begin again if it is replaced meanwhile, as files are opened by name."""
        while True:
            content = self._current()
            try:
                result = read(content)
            except ArtifactError:
                if self._stamp() == content.stamp:
                    raise
                continue
            if self._stamp() == content.stamp:
                return result

    def _current(self) -> Content:
        while True:
            stamp, content = self._stamp(), self._content
            if content is not None and content.stamp == stamp:
                return content
            try:
                loaded = Content(self.path, stamp, self._key)
            except ArtifactError:
                if self._stamp() == stamp:
                    raise
                continue
            if self._stamp() == stamp:
                with self._lock:
                    self._content = loaded
                    digest = loaded.artifact.digest
                    self._views = OrderedDict((k, v) for k, v in self._views.items() if k[2] == digest)
                return loaded

    def _stamp(self) -> Stamp:
        try:
            return files.stamp((self.path / artifacts.MANIFEST).stat())
        except OSError:
            return ()

    def _view(self, content: Content, principal: str, rules: Rules) -> View:
        identity = (principal, rules.version, content.artifact.digest)
        with self._lock:
            if (known := self._views.get(identity)) is not None:
                self._views.move_to_end(identity)
                return known
        view = View(list(_permitted(content, principal, rules)))
        with self._lock:
            if self._content is not content:  # it was replaced meanwhile, and may hold what is forgotten now
                return view
            self._views[identity] = view
            while len(self._views) > 1 and sum(each.nbytes for each in self._views.values()) > MAX_VIEW_BYTES:
                self._views.popitem(last=False)
        return view


def key_id(key: bytes) -> str:
    """Return what identifies a key in manifests without revealing it."""
    return keyed(key, "key")[:16]


def _permitted(content: Content, principal: str, rules: Rules) -> Iterator[Part]:
    """Yield the permitted documents of each segment that has any; no other segment is opened."""
    is_indexed = rules.version == content.artifact.config["rules"]
    decided: dict[Access, bool] = {}

    def permits(access: Access) -> bool:
        if access not in decided:
            decided[access] = rules.permits(principal, access)
        return decided[access]

    for name, access in content.classes.items():
        if (is_indexed or is_bound_to_files(rules)) and not permits(access):
            continue
        if is_indexed:
            segment = content.segment(name)
            yield Part(segment, range(len(segment.paths)))
        elif permitted := [n for n, path in enumerate(content.paths[name]) if permits(rules.access(path))]:
            yield Part(content.segment(name), permitted)


def _entry(content: Content | None, place: Place) -> Entry:
    assert content is not None
    return content.segment(place.segment).entry(place.number)


def _is_same(before: artifacts.Artifact, folder: Path) -> bool:
    """Return whether a folder has the files of an artifact of this version, byte for byte."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    same = (
        (folder / name).samefile(before.path / name)
        or (folder / name).read_bytes() == (before.path / name).read_bytes()
        for name in names
    )
    return before.version == __version__ and names == before.files.keys() and all(same)


def _link(file: Path, other: Path) -> None:
    try:
        os.link(file, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, other)
