"""The date of a commit, read from the object store of a clone; git itself is never run.

A commit is a loose file, or an entry of a pack, whole or as a delta of another entry. What is read counts only if its
hash is the commit's name.

Source: gitformat-loose(5), gitformat-pack(5), gitrepository-layout(5).
"""

import hashlib
import mmap
import re
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ibidem.files import is_file
from ibidem.places import StorePath

MAX_BYTES = 1 << 20
"""Largest commit that is read, and the most bytes of its deltas."""
MAX_DIGITS = 10
"""Longest number that is read, in bytes; ten hold 64 bits."""
MAX_DELTAS = 250
"""Longest chain of deltas that is followed; `git gc --aggressive` makes chains of 50."""
MAX_STORES = 5
"""Stores of other clones that are looked at: those of `objects/info/alternates`."""
_COMMIT, _OFFSET_DELTA, _REF_DELTA = 1, 6, 7
_COMMITTER = re.compile(rb"^committer .*> (\d{1,12}) [+-]\d{4}$", re.MULTILINE)
_INDEX_HEADER = b"\xfftOc\x00\x00\x00\x02"
_DAMAGE = (OSError, ValueError, IndexError, struct.error, zlib.error)


class _Entry(NamedTuple):
    """An entry of a pack: what it holds, and of which entry it is a delta."""

    kind: int
    data: bytes
    base: int | bytes | None


def commit_date(git: Path, commit: str) -> str | None:
    """Return the day of a commit in UTC, as 2026-08-20; None if the store does not have it.

    Args:
        git: the folder with `objects`, shared by all worktrees.
        commit: the commit's name, of 40 or 64 hexadecimal digits.
    """
    with suppress(*_DAMAGE):
        for store in _stores(git / "objects"):
            with suppress(*_DAMAGE):
                found = _loose(store, commit) or _packed(store, bytes.fromhex(commit))
                if found is not None and _is_named(found, commit):
                    return _date(found)
    return None


def _date(text: bytes) -> str | None:
    head = text.partition(b"\n\n")[0]
    committer = _COMMITTER.search(head)
    try:
        return datetime.fromtimestamp(int(committer[1]), UTC).date().isoformat() if committer else None
    except (ValueError, OverflowError, OSError):
        return None


def _is_named(text: bytes, commit: str) -> bool:
    digest = hashlib.sha1(usedforsecurity=False) if len(commit) == 40 else hashlib.sha256()
    digest.update(b"commit %d\0" % len(text) + text)
    return digest.hexdigest() == commit


def _stores(objects: Path) -> Iterator[Path]:
    """Yield the object stores of a clone: its own, and those that it borrows from, if it is on this machine."""
    stores = [objects]
    for store in stores:
        yield store
        borrowed = store / "info" / "alternates"
        if not isinstance(store, StorePath) and is_file(borrowed) and borrowed.stat().st_size <= MAX_BYTES:
            lines = borrowed.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            stores += [store / line for line in lines if line and "\0" not in line][: MAX_STORES - len(stores)]


def _loose(store: Path, commit: str) -> bytes | None:
    path = store / commit[:2] / commit[2:]
    if not is_file(path) or path.stat().st_size > MAX_BYTES:
        return None
    head, _, text = _inflated(path.read_bytes()).partition(b"\0")
    return text if head.startswith(b"commit ") else None


def _packed(store: Path, name: bytes) -> bytes | None:
    for index in sorted((store / "pack").glob("*.idx")):
        pack = index.with_suffix(".pack")
        if is_file(index) and is_file(pack):
            with _mapped(index) as names:
                place = _place(names, name)
                if place is not None:
                    with _mapped(pack) as entries:
                        return _content(entries, names, place, len(name))
    return None


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _place(names: mmap.mmap, name: bytes) -> int | None:
    """Return where a pack has an object, by its index of version 2."""
    if names[:8] != _INDEX_HEADER:
        return None
    total, width = _number(names, 8 + 255 * 4), len(name)
    first = _number(names, 8 + (name[0] - 1) * 4) if name[0] else 0
    start = 8 + 256 * 4
    within = range(first, _number(names, 8 + name[0] * 4))
    found = bisect_left(within, name, key=lambda row: names[start + row * width : start + (row + 1) * width])
    row = first + found
    if found == len(within) or names[start + row * width : start + (row + 1) * width] != name:
        return None
    offsets = start + total * (width + 4)
    offset = _number(names, offsets + row * 4)
    if offset < 1 << 31:
        return offset
    large = offsets + total * 4 + (offset - (1 << 31)) * 8
    return int(struct.unpack(">Q", names[large : large + 8])[0])


def _number(names: mmap.mmap, place: int) -> int:
    return int(struct.unpack(">I", names[place : place + 4])[0])


def _content(entries: mmap.mmap, names: mmap.mmap, place: int, width: int) -> bytes | None:
    """Return the commit at a place of a pack; None if the entry is another object."""
    deltas: list[bytes] = []
    for _ in range(MAX_DELTAS):
        entry = _entry(entries, place, width)
        if entry.base is None:
            if entry.kind != _COMMIT:
                return None
            text = entry.data
            for delta in reversed(deltas):
                text = applied(delta, text)
            return text
        deltas.append(entry.data)
        if sum(map(len, deltas)) > MAX_BYTES:
            return None
        base = entry.base if isinstance(entry.base, int) else _place(names, entry.base)
        if base is None:
            return None
        place = base
    return None


def _entry(entries: mmap.mmap, place: int, width: int) -> _Entry:
    kind = entries[place] >> 4 & 7
    _, at = _digits(entries, place)
    base: int | bytes | None = None
    if kind == _OFFSET_DELTA:
        digits, at = _digits(entries, at)
        back = -1
        for digit in digits:
            back = (back + 1 << 7) | digit
        base = place - back
        if not 0 < base < place:
            raise ValueError("a delta of an entry outside the pack")
    elif kind == _REF_DELTA:
        base, at = entries[at : at + width], at + width
    return _Entry(kind, _inflated(entries[at : at + MAX_BYTES]), base)


def _inflated(data: bytes) -> bytes:
    """Inflate at most MAX_BYTES.

    Raises:
        ValueError: there is more.
    """
    stream = zlib.decompressobj()
    text = stream.decompress(data, MAX_BYTES)
    if not stream.eof:
        raise ValueError("larger than a commit may be")
    return text


def applied(delta: bytes, base: bytes) -> bytes:
    r"""Apply a delta of a pack: copies from the base and new bytes, in turn.

    >>> applied(b"\x05\x07" + b"\x90\x03" + b"\x04 new", b"abcde")
    b'abc new'

    Raises:
        ValueError: the delta is of another base, makes more than a commit may have, or is malformed.
    """
    size, at = _varint(delta, 0)
    target, at = _varint(delta, at)
    if size != len(base) or target > MAX_BYTES:
        raise ValueError("a delta of another base, or of more than a commit may have")
    parts: list[bytes] = []
    made = 0
    while at < len(delta):
        code, at = delta[at], at + 1
        if code & 128:
            numbers = []
            for bit in range(7):
                present = code >> bit & 1
                numbers.append(delta[at] if present else 0)
                at += present
            start, length = int.from_bytes(numbers[:4], "little"), int.from_bytes(numbers[4:], "little") or 1 << 16
            parts.append(base[start : start + length])
        else:
            parts.append(delta[at : at + code])
            at += code
        made += len(parts[-1])
        if made > target:
            break
    if made != target:
        raise ValueError("a malformed delta")
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    digits, at = _digits(data, at)
    return sum(digit << 7 * place for place, digit in enumerate(digits)), at


def _digits(data: bytes | mmap.mmap, at: int) -> tuple[list[int], int]:
    """Read a number of several bytes, 7 bits of each; return these, and the place after them.

    Raises:
        ValueError: the number is too long.
    """
    digits: list[int] = []
    while len(digits) < MAX_DIGITS:
        digits.append(data[at] & 127)
        at += 1
        if not data[at - 1] & 128:
            return digits, at
    raise ValueError("a number of too many bytes")
