"""Open files below a folder without ever following a link."""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ibidem.errors import DataError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_LINKS = frozenset({errno.ELOOP, errno.EMLINK})


def open_below(root: int, parts: Sequence[str], flags: int) -> int:
    """Return a descriptor of what is below a folder.

    Args:
        root: descriptor of the folder.
        parts: names from the folder down; empty for the folder itself.
        flags: for what is opened.

    Raises:
        OSError: it cannot be opened; a link is on the way.
    """
    here = os.open(".", _FOLDER | os.O_CLOEXEC, dir_fd=root)
    for number, name in enumerate(parts, start=1):
        wanted = flags if number == len(parts) else _FOLDER
        try:
            below = os.open(name, wanted | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def read_below(folder: Path, path: str, max_bytes: int) -> bytes:
    """Return the bytes of a file below a folder.

    Raises:
        DataError: it is no regular file, larger than `max_bytes`, gone, or it changes meanwhile.
    """
    try:
        root = os.open(folder, _FOLDER | os.O_CLOEXEC)
        try:
            descriptor = open_below(root, path.split("/"), os.O_RDONLY | os.O_NONBLOCK)
        finally:
            os.close(root)
    except OSError as error:
        reason = "a symbolic link by now" if error.errno in _LINKS else error.strerror
        raise DataError(f"cannot be opened: {reason}") from None
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise DataError("not a regular file by now")
        if before.st_size > max_bytes:
            raise DataError(f"{before.st_size:,} bytes, more than the limit of {max_bytes:,}")
        try:
            raw = file.read(max_bytes + 1)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from None
        after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(raw) != after.st_size:
        raise DataError("it changed while it was read; run again")
    return raw
