"""Places: a path of this machine, or a URL of a store that fsspec opens.

    StorePath("s3://bucket/data") / "train" / "shard-00000.parquet"      s3://bucket/data/train/shard-00000.parquet

Stages take paths, and a `StorePath` is one: it is read as others are, so nothing else needs to know of stores. It has
no name on this machine, and whoever asks for one is refused. Whatever a store raises becomes a `StoreError`, which is
no `OSError`: a file that a store does not hand out is not a damaged file.
"""

import hashlib
import io
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from fnmatch import fnmatchcase
from os.path import normpath, relpath
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from pydantic import BeforeValidator

from ibidem.config import STORED, URL
from ibidem.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CHUNK_BYTES = 8 << 20
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""The extra of this package that a protocol takes."""
_ONE_SLASH = re.compile(r"[a-z][a-z0-9+.-]+:/(?!/)", re.IGNORECASE)
_LOCAL = ("file", "local")
_ABSENT = (FileNotFoundError, NotADirectoryError)
_CHANGED = "it has changed since it was listed; start again"
_GONE = "it is gone since it was listed; start again"
_ATTEMPTS, _CONNECT_S, _READ_S = 2, 5, 30
"""How long a store may be silent: s3fs tries five times what botocore tries so often."""


class Place(NamedTuple):
    """A folder at a store."""

    files: "AbstractFileSystem"
    root: str

    def at(self, *names: str) -> str:
        """Return the path of what is below it."""
        return "/".join((self.root.rstrip("/"), *names))


def opened(url: str) -> Place:
    """Return the place that a URL names; nothing is sent.

    Raises:
        ConfigError: the protocol is unknown, its package is not installed, or it is of another machine's disk.
    """
    import fsspec

    url = _without_host(url)
    protocol = url.partition("://")[0]
    try:
        # not url_to_fs, for which each `::` in a name begins another URL
        kind = fsspec.get_filesystem_class(protocol)
        files = kind(**(kind._get_kwargs_from_urls(url) | {"use_listings_cache": False} | _patience(protocol)))  # noqa: SLF001 - as it does
    except ImportError:
        extra = EXTRAS.get(protocol)
        remedy = f"pip install 'ibidem[{extra}]'" if extra else f"install what fsspec needs for {protocol}"
        raise ConfigError(f"{url}: {remedy}") from None
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from None
    return Place(files, str(kind._strip_protocol(url)))  # noqa: SLF001


def _patience(protocol: str) -> dict[str, Any]:
    if EXTRAS.get(protocol) != "s3":
        return {}
    own = {} if "AWS_MAX_ATTEMPTS" in os.environ else {"retries": {"total_max_attempts": _ATTEMPTS}}
    return {"config_kwargs": {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S, **own}}


def shut(place: Place) -> None:
    """Let only the owner open a folder of this machine; that of a store is as private as its bucket."""
    if "file" in place.files.protocol:
        folder = Path(place.root)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)


def said(error: BaseException) -> str:
    """Return in one line what a store has to say."""
    text = str(getattr(error, "strerror", None) or " ".join(str(error).split())[:200])
    return text or type(error).__name__


def stream(source: IO[bytes], sink: IO[bytes], moved: Callable[[], None] = lambda: None) -> str:
    """Copy a file, and return its sha256; `moved` is called whenever the sink has taken something."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        sink.write(chunk)
        moved()
    return digest.hexdigest()


class Held(NamedTuple):
    """A file as a store lists it."""

    size: int
    stamp: str
    """Changes with the content: the store's own entity tag, or size and time."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Held":
        """Read what a store says of a file."""
        tag = next((info[key] for key in ("ETag", "etag") if info.get(key)), None)
        when = next((info[key] for key in ("mtime", "created", "last_modified") if info.get(key)), "")
        size, when = int(info["size"] or 0), when.timestamp() if isinstance(when, datetime) else when
        return cls(size, f"{size} " + (str(tag).strip('"') if tag else str(when)))


Listing = Mapping[str, Held]
"""The files below a folder, by name, sorted."""

_listings: "dict[StorePath, list[_Tree]]" = {}
"""Of each folder that is listed now, the newest last."""


class _Tree:
    """A listing as a tree: what is in each folder."""

    def __init__(self, listing: Listing) -> None:
        self.files = listing
        self.folders: dict[str, dict[str, None]] = {"": {}}
        for name in listing:
            folder, inside = name, ""
            while folder:
                folder, _, inside = folder.rpartition("/")
                known = folder in self.folders
                self.folders.setdefault(folder, {})[inside] = None
                if known:
                    break


class StorePath(type(Path())):  # type: ignore[misc] # the class of a path on this system
    """A file or folder of a store, by its URL; it is read, and never opened by its name on this machine."""

    _stamp: str | None = None

    def __str__(self) -> str:
        protocol, *names = self.parts or (".",)
        if not protocol.endswith(":"):  # relative to another one
            return "/".join((protocol, *names))
        return f"{protocol}//{'/' if protocol[:-1] in _LOCAL else ''}{'/'.join(names)}"

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __fspath__(self) -> str:
        raise StoreError(f"{self}: only a folder of this machine will do here")

    def __hash__(self) -> int:
        return hash(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and self.parts == other.parts

    @property
    def place(self) -> Place:
        """The store, and the path in it.

        Raises:
            StoreError: the path is absolute and of no store, or relative.
        """
        if not self.parts or not self.parts[0].endswith(":"):
            raise StoreError(f"{self}: it is the URL of no store")
        return opened(str(self))

    def pinned(self, stamp: str | None) -> Self:
        """Return the same path, which opens only a file with this stamp."""
        path = type(self)(self)
        path._stamp = stamp  # noqa: SLF001 - its own
        return path

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002 - as of any path
        """Return the path itself: a store has no links."""
        return self

    def absolute(self) -> Self:
        """Return the path itself."""
        return self

    def is_symlink(self) -> bool:
        """Return False: a store has no links."""
        return False

    def exists(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002 - as of any path
        """Check whether there is a file, or anything below."""
        return self._is_below_bucket and (self.is_file() or self.is_dir())

    def is_file(self) -> bool:
        """Check whether there is a file."""
        if (known := self._listed()) is not None:
            tree, name = known
            return name in tree.files
        return self._info() is not None

    def is_dir(self) -> bool:
        """Check whether there is anything below."""
        if (known := self._listed()) is not None:
            tree, name = known
            return name in tree.folders
        with explained(self), suppress(*_ABSENT):
            files, root = self.place
            return bool(files.isdir(root)) and bool(files.ls(root, detail=False))
        return False

    def iterdir(self) -> Iterator[Self]:
        """Yield what is in a folder."""
        if (known := self._listed()) is not None:
            tree, name = known
            yield from (self / inside for inside in tree.folders.get(name, ()))
            return
        with explained(self):
            files, root = self.place
            names = [str(each).rstrip("/").rpartition("/")[2] for each in files.ls(root, detail=False)]
        yield from (self / name for name in sorted(names))

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yield what is in a folder and matches a pattern."""
        with suppress(*_ABSENT):
            yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yield the files below whose name matches a pattern."""
        for name in self.listing():
            if fnmatchcase(name.rpartition("/")[2], pattern):
                yield self / name

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002 - as of any path
        """Return the size of a file; all else is zero."""
        return os.stat_result((stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, self.held().size, 0, 0, 0))

    def held(self) -> Held:
        """Return size and stamp of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        if (known := self._listed()) is not None and (held := known[0].files.get(known[1])):
            return held
        info = self._info()
        if info is None:
            raise FileNotFoundError(f"{self}: no such file")
        return Held.of(info)

    def listing(self) -> Listing:
        """List all files below, asking the store once; empty if there are none."""
        with explained(self), suppress(*_ABSENT):
            files, root = self.place
            found = files.find(root, detail=True)
            root = str(files._strip_protocol(root)).rstrip("/")  # noqa: SLF001 - the only way to the form that it lists
            names = {path.removeprefix(root).removeprefix("/"): info for path, info in found.items()}
            there = {name: info for name, info in names.items() if name and info.get("type", "file") == "file"}
            return {name: Held.of(there[name]) for name in sorted(there) if not name.endswith("/")}
        return {}

    def open(
        self, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None
    ) -> IO[Any]:
        """Open a file for reading; one that was listed must still be what it was.

        Raises:
            FileNotFoundError: there is none.
            StoreError: the store does not hand it out, or it has changed.
        """
        if mode.strip("bt") != "r":
            raise StoreError(f"{self}: it is only read here")
        with explained(self), self._absence_explained():
            files, path = self.place
            raw = files.open(path, "rb", **({} if "file" in files.protocol else {"block_size": CHUNK_BYTES}))
            if self._stamp is not None:
                info = getattr(raw, "details", None) or files.info(path)
                if Held.of(info).stamp != self._stamp:
                    raise StoreError(f"{self}: {_CHANGED}")
        file = io.BufferedReader(_Reading(self, raw), CHUNK_BYTES if buffering < 1 else buffering)
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def head(self, count: int) -> bytes:
        """Return the first bytes of a file, and fetch no more.

        Raises:
            FileNotFoundError: there is none.
            StoreError: the store does not hand it out.
        """
        if not self.held().size:
            return b""
        return self.part(0, count)

    def part(self, start: int, end: int) -> bytes:
        """Return some bytes of a file, and fetch no more.

        Raises:
            FileNotFoundError: there is none.
            StoreError: the store does not hand it out.
        """
        if start >= end:
            return b""
        with explained(self), self._absence_explained():
            files, path = self.place
            return bytes(files.cat_file(path, start=start, end=end))

    @contextmanager
    def _absence_explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if self._stamp is None:
                raise
            raise StoreError(f"{self}: {_GONE}") from None

    @property
    def _is_below_bucket(self) -> bool:
        return len(self.parts) > 1

    def _info(self) -> Mapping[str, Any] | None:
        with explained(self), suppress(*_ABSENT):
            files, path = self.place
            info: Mapping[str, Any] = files.info(path)
            return info if info["type"] == "file" else None
        return None

    def _listed(self) -> tuple[_Tree, str] | None:
        """Return the listing that covers the path, and its name there."""
        for folder in (self, *self.parents) if _listings else ():
            if trees := _listings.get(folder):
                return trees[-1], "/".join(self.parts[len(folder.parts) :])
        return None


def put(path: StorePath, content: bytes, mode: str = "overwrite") -> None:
    """Write a file of a store; with the mode `create`, only if there is none.

    Raises:
        FileExistsError: there is one.
        StoreError: the store fails.
    """
    with writable(path) as (files, at):
        files.pipe_file(at, content, mode=mode)


def send(source: Path, target: StorePath) -> str:
    """Copy a file to a store, where it appears as a whole or not at all; return its sha256.

    Raises:
        StoreError: a store fails.
    """
    with source.open("rb") as content, writable(target) as (files, at):
        is_disk = "file" in files.protocol  # there a file has another name until it is whole; elsewhere, an upload ends
        partial = f"{at}.partial-{os.getpid()}-{threading.get_ident()}" if is_disk else at
        sink = files.open(partial, "wb", autocommit=is_disk)
        try:
            with sink:
                sha256 = stream(content, sink)
            files.mv(partial, at) if is_disk else sink.commit()
        except BaseException:
            files.rm_file(partial) if is_disk else sink.discard()
            raise
        return sha256


@contextmanager
def writable(path: StorePath) -> Iterator[Place]:
    """Yield a store, and the path of a file in it that is to be written.

    Raises:
        StoreError: the store fails.
    """
    try:
        with explained(path):
            files, at = path.place
            if "file" in files.protocol:
                files.makedirs(at.rpartition("/")[0], exist_ok=True)
            yield Place(files, at)
    except FileNotFoundError as error:
        raise StoreError(f"{path.parent}: {' '.join(str(error).split()) or 'no such bucket'}") from None


def remove(path: StorePath) -> None:
    """Delete a file of a store."""
    with explained(path):
        files, at = path.place
        files.rm_file(at)


def remove_all(folder: StorePath) -> None:
    """Delete a folder of a store with all that is below it, if it is there."""
    with explained(folder), suppress(*_ABSENT):
        files, at = folder.place
        files.rm(at, recursive=True)


class _Reading(io.RawIOBase):
    """A file of a store; what the store raises becomes a `StoreError`."""

    def __init__(self, path: StorePath, raw: Any) -> None:
        self._path, self._raw = path, raw

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with explained(self._path):
            try:
                content = self._raw.read(len(buffer))
            except FileNotFoundError:
                raise StoreError(f"{self._path}: {_GONE}") from None
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._raw.seek(offset, whence))

    def tell(self) -> int:
        return int(self._raw.tell())

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


@contextmanager
def explained(path: object) -> Iterator[None]:
    """Make a `StoreError` of what a store raises, except that a file is not there.

    Raises:
        StoreError: the store fails.
    """
    try:
        yield
    except (*_ABSENT, FileExistsError, ConfigError, StoreError):
        raise
    except Exception as error:  # noqa: BLE001 - every store has errors of its own
        raise StoreError(f"{path}: {_CHANGED if type(error).__name__ == 'FileExpired' else said(error)}") from None


def is_url(text: object) -> bool:
    """Check whether a text is a URL.

    >>> is_url("s3://bucket/data"), is_url("data/public"), is_url("C:/data")
    (True, False, False)
    """
    return URL.match(str(text)) is not None


def on_disk(path: Path) -> Path:
    """Return the path of this machine that a URL of its disk names, which may be a link; any other place as it is.

    >>> on_disk(StorePath("file:///data/a")), on_disk(StorePath("s3://bucket/a"))
    (PosixPath('/data/a'), StorePath('s3://bucket/a'))
    """
    if isinstance(path, StorePath) and path.parts[0].removesuffix(":") in _LOCAL:
        return Path("/", *path.parts[1:])
    return path


def path_of(text: str | Path) -> Path:
    """Return the path that a text names: one of a store if it is a URL.

    Raises:
        ConfigError: it is a URL with one slash, or of another machine's disk.

    >>> path_of("memory://bucket/data/"), path_of("s3://bucket/data").name
    (StorePath('memory://bucket/data'), 'data')
    """
    if isinstance(text, Path):
        return text
    if isinstance(text, str) and _ONE_SLASH.match(text):
        raise ConfigError(f"{text}: a URL has two slashes behind the colon")
    return StorePath(_without_host(text)) if isinstance(text, str) and is_url(text) else Path(text)


def _without_host(url: str) -> str:
    """Return a URL of this machine's disk without the name `localhost`, any other as it is (RFC 8089)."""
    protocol, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    if protocol not in _LOCAL or rest.startswith("/"):
        return url
    if host.lower() == "localhost":
        return f"{protocol}:///{path}"
    raise ConfigError(f"{url}: a folder of this machine has three slashes, {protocol}:///{rest or 'data'}")


AnyPlace = Annotated[Path, BeforeValidator(path_of), STORED]
"""In a configuration: a path of this machine, or a URL of a store."""
MaybePlace = Annotated[Path | None, BeforeValidator(lambda value: None if value is None else path_of(value)), STORED]
"""The same, or nothing."""


@contextmanager
def listed(path: Path, listing: Listing) -> Iterator[None]:
    """Answer what is asked of a folder of a store within the block from its listing."""
    if not isinstance(path, StorePath):
        yield
        return
    tree = _Tree(listing)
    _listings.setdefault(path, []).append(tree)
    try:
        yield
    finally:  # in any order: blocks of several generators overlap
        _listings[path] = [each for each in _listings[path] if each is not tree]
        if not _listings[path]:
            del _listings[path]


@contextmanager
def source(path: Path) -> Iterator[str | IO[bytes]]:
    """Yield what Arrow opens: the name of a local file, an open file of a store."""
    if not isinstance(path, StorePath):
        yield str(path)
        return
    with path.open("rb") as file:
        yield file


@contextmanager
def here(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield a file of this machine, and its sha256: the file itself, or a copy of one of a store for the time being."""
    if not isinstance(path, StorePath):
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256")
        yield path, digest.hexdigest()
        return
    with tempfile.TemporaryDirectory(prefix="ibidem-") as folder:
        copy = Path(folder, path.name)
        with path.open("rb") as content, copy.open("wb") as sink:
            sha256 = stream(content, sink)
        yield copy, sha256


def walk(root: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder with the names of its subfolders and files; subfolders that are taken off are not visited."""
    if not isinstance(root, StorePath):
        for folder, folders, names in os.walk(root, onerror=onerror):
            yield Path(folder), folders, names
        return
    inside = list(root.iterdir())
    folders = [path.name for path in inside if path.is_dir()]
    yield root, folders, [path.name for path in inside if path.is_file()]
    for name in folders:
        yield from walk(root / name, onerror)


def relative(path: Path, of: Path) -> str:
    """Return the name of a place as seen from another one.

    >>> relative(StorePath("s3://b/data/blend"), StorePath("s3://b/tokens"))
    '../data/blend'
    >>> relative(StorePath("s3://b/data"), StorePath("s3://c/data")), relative(Path("/data"), StorePath("s3://b/o"))
    ('s3://b/data', '/data')
    """
    path, of = path.resolve(), of.resolve()
    if isinstance(path, StorePath) and isinstance(of, StorePath) and path.parts[:2] == of.parts[:2]:
        return relpath("/".join(path.parts), "/".join(of.parts))
    if isinstance(path, StorePath) or isinstance(of, StorePath):
        return str(path)
    return relpath(path, of)


def joined(folder: Path, name: str) -> Path:
    """Return the place that has a name as seen from a folder.

    >>> joined(StorePath("s3://b/tokens"), "../data/blend"), joined(Path("/runs"), "s3://b/data")
    (StorePath('s3://b/data/blend'), StorePath('s3://b/data'))
    """
    folder = folder.resolve()
    if is_url(name) or name.startswith("/"):
        return path_of(name if is_url(name) else normpath(name))
    if isinstance(folder, StorePath):
        return StorePath(normpath("/".join((*folder.parts, name))))
    return Path(normpath(folder / name))
