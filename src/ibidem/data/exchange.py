"""Intermediate arrays that tasks exchange through a folder: what one task writes by partition, others read by slice.

    group 0  [ partition 0 | partition 1 | ... ]           a task writes one row of this table
    group 1  [ partition 0 | partition 1 | ... ]           a later task reads one column

A file appears as a whole or not at all, under a name that does not depend on the number of workers; a task whose file
is there already has nothing to do.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibidem import workfiles
from ibidem.errors import StoreError
from ibidem.places import StorePath

Indices = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Array = NDArray[Any]
_OPEN_FILES, _AHEAD = 4096, 8
_HEADER_BYTES = 1024
"""More than the header of any array here takes."""
_SORTED_FAST = 1 << 16
"""Numbers of 16 bits are sorted digit by digit."""


def save(path: Path, array: Array) -> None:
    """Write an array."""
    replace(path, lambda partial: np.lib.format.write_array(partial, np.asarray(array)))


def replace(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file by a function that takes it open."""
    with workfiles.written(path) as partial, partial.open("wb") as file:
        write(file)


def load(path: Path) -> Array:
    """Map an array into memory, read-only: a .npy file, or 64-bit words one after another."""
    with workfiles.fetched(path) as file:  # what is mapped stays, even if its file is deleted
        return _map(file)


def load_each(paths: Sequence[Path]) -> Iterator[Array]:
    """Map arrays one after another; while one is used, the next ones come from a store."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        for start in range(0, len(paths), _AHEAD):
            yield from pool.map(load, paths[start : start + _AHEAD])


def rows(path: Path, start: int, end: int) -> Array:
    """Read consecutive rows of an array, of which a store sends no others."""
    if not isinstance(path, StorePath):
        return kept_open(path)[start:end]
    header = _header(path)
    size = header.dtype.itemsize * int(np.prod(header.shape))
    content = path.part(header.size + start * size, header.size + end * size)
    if len(content) != (end - start) * size:
        raise StoreError(f"{path}: the file ends early; delete it")
    return np.frombuffer(content, header.dtype).reshape(-1, *header.shape)


def kept_open(path: Path) -> Array:
    """Map an array that many small slices are read from; it stays mapped until `forget`."""
    file = workfiles.kept(path)
    facts = file.stat()
    return _mapped(file, facts.st_ino, facts.st_mtime_ns)


@lru_cache(_OPEN_FILES)
def _mapped(path: Path, _inode: int, _modified: int) -> Array:
    return _map(path)


def _map(path: Path) -> Array:
    mapped: Array = np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, np.uint64, "r")
    return mapped.view(np.ndarray)  # slices of a memmap are memmaps too, which is slow


class _Header(NamedTuple):
    """What a file of an array begins with."""

    size: int
    """In bytes."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of one row."""
    length: int | None
    """Number of rows; None if the file does not say it."""


@lru_cache(_OPEN_FILES)
def _header(path: StorePath) -> _Header:
    if path.suffix != ".npy":
        return _Header(0, np.dtype(np.uint64), (), None)
    file = io.BytesIO(path.part(0, _HEADER_BYTES))
    np.lib.format.read_magic(file)
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    assert not by_column
    return _Header(file.tell(), dtype, shape[1:], shape[0])


def length(path: Path) -> int:
    """Return the number of rows of a .npy file, of which a store sends the beginning alone."""
    if not isinstance(path, StorePath):
        return len(load(path))
    found = _header(path).length
    assert found is not None
    return found


def forget() -> None:
    """Unmap what was kept open, so that the space of deleted files is free."""
    _mapped.cache_clear()
    _header.cache_clear()


def prefixes(keys: Hashes, bits: int) -> Indices:
    """Return the partition of each key: its first bits."""
    return (keys >> np.uint64(63 - bits) >> np.uint64(1)).astype(np.int64)


def scatter(keys: Hashes, bits: int) -> tuple[Indices, Indices]:
    """Sort keys by partition; return their order, and where each of the 2**bits partitions begins, and the end.

    >>> order, bounds = scatter(np.array([2**63, 0, 1], np.uint64), 1)
    >>> order.tolist(), bounds.tolist()
    ([1, 2, 0], [0, 2, 3])
    """
    return in_order(prefixes(keys, bits), 1 << bits)


def in_order(partitions: Indices, count: int) -> tuple[Indices, Indices]:
    """Return the order by partition, and where each of `count` partitions begins, and the end."""
    order = np.argsort(partitions.astype(np.uint16 if count <= _SORTED_FAST else np.uint32), kind="stable")
    return order, np.cumsum([0, *np.bincount(partitions, minlength=count)])


def between(column: Array, start: int, end: int) -> slice:
    """Return the slice of a sorted column with values from `start` up to `end`."""
    first, past = np.searchsorted(column, [start, end])
    return slice(int(first), int(past))
