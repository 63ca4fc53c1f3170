"""Work files: what the steps of a run leave for one another, in a folder that all workers see, or at a store.

    written(path)      a file of this machine to write, which then appears at the path as a whole
    fetched(path)      a file of this machine with what is at the path, for a block
    kept(path)         the same until `forget`: processes of one machine share it
    part(path, a, b)   some of its bytes

A folder of this machine holds the files themselves. Below a URL (see `places`), a worker sends what it has written, and
reads copies: machines of a cluster then need no disk in common. A work file never changes once it is there, so a copy
stays true as long as the run.
"""

import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ibidem import places
from ibidem.errors import StoreError
from ibidem.places import StorePath


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a file to write, which appears at the path as a whole when the block succeeds."""
    if isinstance(path, StorePath):
        with tempfile.TemporaryDirectory(prefix="ibidem-") as folder:
            yield Path(folder, path.name)
            places.send(Path(folder, path.name), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    yield partial
    partial.replace(path)


def write(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with written(path) as file:
        file.write_text(text, encoding="utf-8")


@contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """Yield a file of this machine: the one at the path, or a copy that is deleted after the block."""
    if not isinstance(path, StorePath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ibidem-") as folder:
        yield _copy(path, Path(folder, path.name))


def kept(path: Path) -> Path:
    """Return a file of this machine: the one at the path, or a copy that stays until `forget`.

    Raises:
        StoreError: another user may change what is in the folder of copies.
    """
    if not isinstance(path, StorePath):
        return path
    copy = _copy_of(path)
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, copy.with_name(f".{copy.name}.{os.getpid()}-{threading.get_ident()}")).replace(copy)
    return copy


def forget(folder: Path) -> None:
    """Delete the copies on this machine of what is below a folder."""
    if isinstance(folder, StorePath):
        shutil.rmtree(_copy_of(folder), ignore_errors=True)


def part(path: Path, start: int, end: int) -> bytes:
    """Return some bytes of a file."""
    if isinstance(path, StorePath):
        return path.part(start, end)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def remove(folder: Path) -> None:
    """Delete a folder, if it is there."""
    if isinstance(folder, StorePath):
        places.remove_all(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def shut(folder: Path) -> None:
    """Let only the owner open a folder; that of a store is as private as its bucket."""
    if isinstance(folder, StorePath):
        places.shut(folder.place)
    else:
        folder.chmod(0o700)


def _copy(path: StorePath, target: Path) -> Path:
    with path.open("rb") as content, target.open("wb") as sink:
        places.stream(content, sink)
    return target


def _copy_of(path: StorePath) -> Path:
    root = Path(tempfile.gettempdir(), f"ibidem-copies-{os.getuid()}")
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreError(f"{root}: other users may write there; delete it, or set TMPDIR to a folder of your own")
    return root.joinpath(*(name.removesuffix(":") for name in path.parts))
