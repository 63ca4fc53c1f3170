"""Local files and folders: hashing, flushing, atomic writes.

Work in progress is kept beside its final path under a hidden name with state, host and process:
`.NAME.partial.by-HOST-PID`, or `.NAME.replaced.by-HOST-PID` for what is being replaced. `sweep` removes what killed
processes left.
"""

import hashlib
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ibidem.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")

_TASKS, _MOST_IN_A_TASK = 512, 64
_HIDDEN = re.compile(r"\.(?P<name>.+)\.(?P<state>partial|replaced)\.by-(?P<host>.+)-(?P<pid>\d+)")


def hidden(path: Path, state: str) -> Path:
    """Return the hidden name of a path in the given state, `partial` or `replaced`."""
    return path.parent / f".{path.name}.{state}.by-{platform.node()}-{os.getpid()}"


def write_file(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = hidden(path, "partial")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        if path.exists():
            beside.chmod(stat.S_IMODE(path.stat().st_mode))
        flush(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Clean up what killed processes of this machine left in `folder`: remove partial files, restore replaced ones."""
    for path in folder.glob(".*.by-*"):
        match = _HIDDEN.fullmatch(path.name)
        if match is None or match["host"] != platform.node() or _is_alive(int(match["pid"])):
            continue
        if match["state"] == "replaced" and not (folder / match["name"]).exists():
            path.rename(folder / match["name"])
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def stamp(about: os.stat_result) -> tuple[int, ...]:
    """Return what changes whenever a file is written, replaced, or its mode or owner changes.

    Two writes within the resolution of the file system's clock, some milliseconds, can leave it the same.
    """
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[str]:
    """Return the names of all files of a folder, ascending by parts; links to files and to folders are followed.

    Raises:
        ConfigError: a subfolder cannot be read, is a link to a folder around it, or a name has a line break.
    """
    return sorted(
        (path.relative_to(folder).as_posix() for path in _below(folder, ())), key=lambda name: name.split("/")
    )


def digest_of_folder(folder: Path) -> str:
    """Hash the names and contents of all files of a folder, those of linked files and subfolders included.

    Raises:
        ConfigError: as `files_below`.
    """
    lines = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in files_below(folder))
    return f"sha256:{hashlib.sha256(lines.encode(errors='surrogateescape')).hexdigest()}"


def _below(folder: Path, around: tuple[Path, ...]) -> Iterator[Path]:
    around = (*around, folder.resolve())
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from None
    for path in paths:
        if "\n" in path.name:  # the digest has a line for each name
            raise ConfigError(f"{folder}: a file name with a line break, {path.name!r}; rename the file")
        if is_file(path):
            yield path
        elif path.is_dir():
            if path.resolve() in around:
                raise ConfigError(f"{path}: a link to a folder that contains it; remove the link")
            yield from _below(path, around)


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file the same as another one: a hard link, or a copy where the file system or the system permits none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class Engine(Protocol):
    """Runs tasks here or on a cluster, and yields their results in any order."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any], *, processes: bool) -> Iterator[Any]:
        """Yield the result of each task."""


def on_each(function: Callable[[T], R], items: Sequence[T], engine: Engine | None = None) -> list[R]:
    """Call a function that reads a file on each item, on all cores; return the results in the order of the items.

    >>> on_each(str.upper, ["a", "b", "c"])
    ['A', 'B', 'C']

    Args:
        function: what is called.
        items: of which one at a time is given to it.
        engine: runs the calls as tasks, some of them in one; None: they run here.

    Raises:
        Exception: that of the first item that failed; items not started by then are skipped.
    """
    if engine is not None:
        size = min(_MOST_IN_A_TASK, -(-len(items) // _TASKS)) or 1
        tasks = [(start, items[start : start + size]) for start in range(0, len(items), size)]
        found = dict(engine.map(partial(_on_batch, function), tasks, processes=False))
        return [result for start, _ in tasks for result in found[start]]
    cores = os.cpu_count() or 1
    size = -(-len(items) // (8 * cores)) or 1  # a future for each of a million files would take a gigabyte
    batches = (items[start : start + size] for start in range(0, len(items), size))
    with ThreadPoolExecutor(cores) as pool:
        return [result for results in pool.map(lambda batch: list(map(function, batch)), batches) for result in results]


def _on_batch(function: Callable[[T], R], task: tuple[int, Sequence[T]]) -> tuple[int, list[R]]:
    start, items = task
    return start, list(map(function, items))


def is_file(path: Path) -> bool:
    """Return whether `path` is an accessible regular file; `Path.is_file` raises where access is denied."""
    try:
        return path.is_file()
    except OSError:  # a link into a folder that we may not enter
        return False


def printable(name: str) -> str:
    r"""Escape the bytes of a file name that are not UTF-8.

    >>> printable(os.fsdecode(b"caf\xe9.py"))
    'caf\\xe9.py'
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
