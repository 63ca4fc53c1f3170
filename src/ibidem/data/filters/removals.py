"""Requests for removal, and the documents that they name.

A file of requests is JSON lines, or a YAML list, of `kind` and `value`:

    {"kind": "repo", "value": "owner/name"}             every file of a repository or package; its address will do
    {"kind": "owner", "value": "owner"}                 every repository of an owner
    {"kind": "path", "value": "docs/*.md", "repo": "owner/name"}    files; `repo` is optional
    {"kind": "url", "value": "https://example.org/blog"}            everything below a URL
    {"kind": "swhid", "value": "swh:1:cnt:..."}         a content, by its Software Heritage identifier
    {"kind": "sha256", "value": "..."}                  a content, by its hash: as supplied, or as stored in a shard;
                                                        and what `synthesize` made from the latter
    {"kind": "record", "value": "..."}                  a document, by the source's own id
    {"kind": "text", "value": "..."}                    every document that contains most of this text

Optional for the certificate: `ticket`, `received` (a date, 2025-01-31), `by` (who asked) and `basis` (the legal basis).

A path is that of a file, or of a folder with everything below it (`docs` and `docs/` are the same), seen from the
repository or from the source folder. It may be a glob: `*` matches any text, slashes included, `?` one character,
`[abc]` one of these, or these characters themselves. Quotes, percent-encoding, backslashes and the address of a file or
folder (`https://github.com/octo/cat/blob/main/docs`) are read as people write them, and an address is no glob; the name
of its branch must be without a slash. Case counts in paths, records and texts alone.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args
from unicodedata import normalize
from urllib.parse import unquote

import yaml
from pydantic import Field

from ibidem import jsonl
from ibidem.artifacts import Input
from ibidem.config import configuration, suggest
from ibidem.data.filters.spellings import file_at, glob_of, literal, paths_of, unquoted
from ibidem.data.text.repository import HOSTS, place_of, repository_of
from ibidem.errors import ConfigError
from ibidem.figures import counted

Kind = Literal["repo", "owner", "path", "url", "swhid", "sha256", "record", "text"]
ROLE = "removals"
KINDS: tuple[Kind, ...] = get_args(Kind)
CASE = ("ticket", "received", "by", "basis")
"""Optional facts of a request."""
KEYS = ("kind", "value", "repo", *CASE)
FIELDS = ("record", "repo", "path", "url", "raw_sha256", "sha256", "swhid")
"""Columns that requests are matched against."""

_ANY_NAME = "\1\1\1/\1\1\1.\1\1\1"
"""A path that only a glob for every file matches."""
_MADE_FROM = re.compile(r" seed=\d.* sha256=([0-9a-f]{64})$")
"""In the record of a trace that `synthesize` made: the hash of the document that it was made from."""
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_SCHEME = re.compile(r"^[a-z+]+://(www\.)?", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """One request for removal."""

    kind: Kind
    value: str
    repo: str | None = None
    case: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What is known of it, by the names of CASE; no dataset keeps any of it."""

    @property
    def id(self) -> str:
        """Identify it by what it names: equal requests have the same id in every file."""
        named = {"kind": self.kind, "value": self.value, "repo": self.repo}
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def names_everything(self) -> bool:
        """Whether it is a path that matches whatever a file is called, or a whole host."""
        if self.kind in ("url", "owner"):
            hosts = [_bare(url).strip("/") for url in _urls_of(self.value)]
            return any("/" not in host and (self.kind == "url" or "." in host) for host in hosts)
        return self.kind == "path" and self.repo is None and re.match(_glob(self.value), _ANY_NAME) is not None

    def __str__(self) -> str:
        value = self.tombstone["value"]
        return " ".join(f"{self.kind} {value}{f' in {self.repo}' if self.repo else ''}".split())

    @property
    def tombstone(self) -> dict[str, str | None]:
        """Describe it without the text to be forgotten."""
        value = f"sha256:{hashlib.sha256(self.value.encode()).hexdigest()}" if self.kind == "text" else self.value
        return {"id": self.id, "kind": self.kind, "value": value, "repo": self.repo}


@configuration
class RemovalPolicy:
    """Which documents are removed on request."""

    requests: tuple[Path, ...] = ()
    """Files of requests, JSON lines or YAML."""
    duplicates: Literal["cluster", "requested"] = "cluster"
    """cluster: near duplicates of a requested document are removed with it; requested: they stay. Either way, documents
    that were dropped as its duplicates do not come back."""
    containment: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the 5-word shingles of a requested text that a document must contain."""


def load_requests(paths: Sequence[Path]) -> list[Request]:
    """Read files of requests without repeats, sorted by id; a repeated one keeps the facts of all of them.

    Raises:
        DataError: a file cannot be read, or a line is not JSON.
        ConfigError: a request is malformed; names file and line.
    """
    requests: dict[str, Request] = {}
    for request in (request for path in paths for request in _read(path)):
        earlier = requests.get(request.id, request)
        requests[request.id] = replace(request, case=merge_cases(earlier.case, request.case))
    return [requests[key] for key in sorted(requests)]


def merge_cases(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of two requests for the same.

    >>> merge_cases({"ticket": "T-1", "by": "Poe, Ann"}, {"ticket": "T-2", "by": "Poe, Ann", "basis": None})
    {'ticket': 'T-1; T-2', 'by': 'Poe, Ann'}
    """
    merged = {name: side_by_side(before.get(name), more.get(name)) for name in CASE}
    return {name: value for name, value in merged.items() if value}


def side_by_side(*texts: str | None) -> str | None:
    """Return the different ones of several texts as one, which may be given again; None if there are none.

    >>> side_by_side("Ann; Bob", None, "Ann", "Cid")
    'Ann; Bob; Cid'
    """
    return "; ".join(dict.fromkeys(part for text in texts if text for part in text.split("; "))) or None


def as_inputs(ids: Sequence[str]) -> list[Input]:
    """Describe requests, given by their ids, as an input; the files that contain them do not matter."""
    if not ids:
        return []
    digest = hashlib.sha256("".join(ids).encode()).hexdigest()
    return [Input(ROLE, f"sha256:{digest}", counted(len(ids), "request"), is_artifact=False)]


class Matcher:
    """Finds the requests that name a document."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.texts = [request for request in requests if request.kind == "text"]
        self._exact: dict[tuple[str, str | None], list[str]] = {}
        for request in requests:
            value = request.value if request.kind == "record" else request.value.lower()
            self._exact.setdefault((request.kind, value), []).append(request.id)
        globs = [each for request in requests for each in _globs_of(request)]
        self._globs = [(re.compile(glob), repo, key) for glob, repo, key in globs]
        self._any_glob = re.compile("|".join(glob for glob, *_ in globs))
        self._prefixes: dict[str, list[str]] = {}
        for request in requests:
            if request.kind == "url":
                for url in _urls_of(request.value):
                    self._prefixes.setdefault(_bare(url).rstrip("/"), []).append(request.id)
        self._reads_urls = any(request.kind in ("repo", "owner") for request in requests) or any(
            repo for _, repo, _ in globs
        )
        self.is_needed = len(self.texts) < len(requests)

    def find(self, fields: Mapping[str, Any]) -> str | None:
        """Return the least id of the requests, except text requests, that name a document with these FIELDS."""
        return min(self._matches(fields), default=None)

    def find_all(self, fields: Mapping[str, Any]) -> set[str]:
        """Return the ids of all requests, except text requests, that name a document with these FIELDS."""
        return set(self._matches(fields))

    def find_texts(self, text: bytes, containment: float) -> list[str]:
        """Return the ids of the requested texts of which a document contains at least this share, in order."""
        from ibidem.data.text import shingles

        own = shingles.shingle_set(text)
        return [key for key, wanted in self._wanted if shingles.num_shared(wanted, own) >= containment * len(wanted)]

    @cached_property
    def _wanted(self) -> list[tuple[str, Any]]:
        from ibidem.data.text import shingles

        return [(request.id, shingles.shingle_set(request.value.encode())) for request in self.texts]

    def _matches(self, fields: Mapping[str, Any]) -> Iterator[str]:
        repo = (fields["repo"] or "").lower()
        repos = dict.fromkeys((repo, repo_at(fields["url"]))) if self._reads_urls else {}
        hashes = [("sha256", fields["sha256"]), ("sha256", fields["raw_sha256"]), ("swhid", fields["swhid"])]
        named = [("repo", name) for name in repos] + [("owner", owner) for name in repos for owner in owners_of(name)]
        if made_from := _MADE_FROM.search(fields["record"] or ""):
            hashes.append(("sha256", made_from[1]))
        for key in [("record", fields["record"]), *hashes, *named]:
            yield from self._exact.get(key, ())
        if self._globs:
            for path in filter(self._any_glob.match, _paths(fields)):
                yield from (key for glob, where, key in self._globs if where in ("", *repos) and glob.match(path))
        if self._prefixes:
            yield from self._below(fields["url"], fields["repo"] or "")

    def _below(self, url: str | None, repo: str) -> Iterator[str]:
        places = [_QUERY.sub("", _bare(url)), _bare(url)] if url else []
        places += [_bare(unquote(url))] if url and "%" in url else []
        places += [place.lower()] if url and (place := place_of(url)) else []
        places += [_bare(repo), *(f"{host}/{repo.lower()}" for host in HOSTS)] if "/" in repo else []
        for place in places:
            above = place.rstrip("/")
            while above:
                yield from self._prefixes.get(above, ())
                above = above.rpartition("/")[0]


def _bare(url: str) -> str:
    """Strip the scheme and `www.`; lower-case the host name, and the path on hosts that ignore its case."""
    host, slash, path = _SCHEME.sub("", url.strip()).partition("/")
    return host.lower() + slash + (path.lower() if host.lower() in HOSTS else path)


def _glob(value: str) -> str:
    """Return the expression of all spellings of a path."""
    given, *decoded = paths_of(value)
    return "|".join([glob_of(given), *map(literal, decoded)])


def _globs_of(request: Request) -> Iterator[tuple[str, str, str]]:
    """Yield the expressions of the paths that a request names, the repository of each or nothing, and its id."""
    if request.kind == "path":
        yield f"{_glob(request.value)}|{literal(unquoted(request.value))}", (request.repo or "").lower(), request.id
    if request.kind in ("path", "url") and (file := file_at(request.value)):
        repo, paths = file
        if (request.repo or repo).lower() == repo:
            yield "|".join(literal(path) if path else glob_of("*") for path in paths), repo, request.id


def _urls_of(value: str) -> Iterable[str]:
    """Return a URL as it is and percent-decoded."""
    return dict.fromkeys((unquoted(value), unquoted(unquote(value))))


def _paths(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the path of a document, in its repository, and in the source folder if that is where its record ends."""
    if path := fields["path"]:
        yield normalize("NFC", path)
        if (fields["record"] or "").endswith(f"/{path}"):
            yield normalize("NFC", fields["record"])


@lru_cache(maxsize=1024)
def repo_at(url: str | None) -> str:
    """Return the repository of an address, in lower case; empty if there is none."""
    return (repository_of(url) or "").lower() if url else ""


def owners_of(repo: str) -> Iterator[str]:
    """Yield everything above a repository: its owner, and groups of owners or the host.

    >>> list(owners_of("codeberg.org/octo/cat"))
    ['codeberg.org/octo', 'codeberg.org']
    """
    while repo := repo.rpartition("/")[0]:
        yield repo


def _read(path: Path) -> Iterator[Request]:
    for number, row in _listed(path) if path.suffix in (".yaml", ".yml") else jsonl.read_numbered(path, "requests"):
        yield _request(row, f"{path}:{number}")


def _listed(path: Path) -> list[tuple[int, Any]]:
    text = jsonl.read_text(path, "requests")
    try:
        rows = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"requests {path}: not YAML: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(rows, list | None):
        raise ConfigError(f"requests {path}: not a list of requests")
    return list(enumerate(rows or [], start=1))


def _plain(kind: Kind, value: str) -> str:
    """Normalize a value to the spelling of the columns.

    >>> _plain("repo", "git@github.com:octo/cat.git"), _plain("owner", "@octo/"), _plain("path", "./a.py")
    ('octo/cat', 'octo', 'a.py')
    """
    if kind in ("repo", "owner"):
        value = unquoted(value).replace("\\", "/")
        place = place_of(value)
        if place is None:
            return _SCHEME.sub("", value).strip("/").removesuffix(".git").removeprefix("@")
        host, _, path = place.partition("/")
        return path if host in HOSTS else place
    if kind == "path":
        return "" if value == "." else value.removeprefix("./").strip("/")
    if kind == "swhid":
        return value.partition(";")[0]
    return value.removeprefix("sha256:") if kind == "sha256" else value


def _request(row: object, where: str) -> Request:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: a request must be a mapping of kind and value")
    kind, value, repo = row.get("kind"), row.get("value"), row.get("repo")
    if kind not in KINDS:
        hint = suggest(str(kind), KINDS)
        raise ConfigError(f"{where}: unknown kind {kind!r}{hint}; expected one of {', '.join(KINDS)}")
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: value is missing; it must be a string")
    if kind == "text" and len(re.findall(r"\w+", value)) < 5:
        raise ConfigError(f"{where}: a text of fewer than 5 words would match too much; give a longer one")
    try:
        f"{value}{repo}".encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: value is not valid Unicode") from None
    bare = value if kind == "text" else _plain(kind, value.strip())
    if unknown := [str(key) for key in row if key not in KEYS]:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}{suggest(unknown[0], KEYS)}; keys: {', '.join(KEYS)}")
    if not bare or (kind == "path" and not any(paths_of(bare))):
        raise ConfigError(f"{where}: {kind} {value!r} names nothing; the path * names every document")
    limit = _plain("repo", repo.strip()) if isinstance(repo, str) else repo
    if limit is not None and not (isinstance(limit, str) and limit):
        raise ConfigError(f"{where}: repo {repo!r} names no repository; it must be owner/name, or left out")
    return Request(cast("Kind", kind), bare, limit, _case(row, where))


def _case(row: Mapping[Any, Any], where: str) -> dict[str, str]:
    stated = {name: row[name] for name in CASE if row.get(name) not in (None, "")}
    for name, value in stated.items():
        if not isinstance(value, str | int | date) or isinstance(value, bool) or not str(value).isprintable():
            raise ConfigError(f"{where}: {name} must be one line of text")
    try:
        datetime.fromisoformat(str(stated.get("received", "2025-01-31")))
    except ValueError:
        raise ConfigError(f"{where}: received must be a date, such as 2025-01-31") from None
    return {name: str(value).strip() for name, value in stated.items()}
