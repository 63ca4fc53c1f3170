"""Hash many contents at once without holding the GIL: SHA-256, and the git blob hash that a SWHID contains.

hashlib releases and reacquires the GIL for every content; with contents of a few kilobytes, threads spend more time
waiting for it than hashing. Compiled code therefore calls the OpenSSL that Python is linked with. Where OpenSSL is
linked statically into Python, its functions cannot be called from outside, and hashlib is used instead: on two threads
it takes 1.27 times as long (`benchmarks/tuning.py`).
"""

import ctypes
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Hashes = list[tuple[str, str]]

_ONE_SHOT = numba.types.uintp(numba.types.uintp, numba.types.uintp, numba.types.uintp)  # content, length, digest
_sha256: Any = numba.types.ExternalFunction("SHA256", _ONE_SHOT)
_sha1: Any = numba.types.ExternalFunction("SHA1", _ONE_SHOT)
_SHA256_BYTES, _SHA1_BYTES = 32, 20


def hash_contents(contents: Sequence[bytes]) -> Hashes:
    """Return the SHA-256 and the git blob hash of each content, in hexadecimal.

    >>> hash_contents([b""])[0][1]
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    headers = [b"blob %d\0" % len(content) for content in contents]
    pieces = list(chain.from_iterable(zip(headers, contents, strict=True)))
    data, bounds = np.frombuffer(b"".join(pieces), np.uint8), np.cumsum([0, *map(len, pieces)])
    sha256s = np.empty((len(contents), _SHA256_BYTES), np.uint8)
    blobs = np.empty((len(contents), _SHA1_BYTES), np.uint8)
    if not (_is_linked() and _hash_all(data, bounds, sha256s, blobs)):
        return [_hash_one(header, content) for header, content in zip(headers, contents, strict=True)]
    return list(zip(_hexadecimal(sha256s), _hexadecimal(blobs), strict=True))


def _hash_one(header: bytes, content: bytes) -> tuple[str, str]:
    blob = hashlib.sha1(header + content, usedforsecurity=False)
    return hashlib.sha256(content).hexdigest(), blob.hexdigest()


def _hexadecimal(digests: NDArray[np.uint8]) -> list[str]:
    size = 2 * digests.shape[1]
    text = digests.tobytes().hex()
    return [text[start : start + size] for start in range(0, len(text), size)]


@cache
def _is_linked() -> bool:
    """Make OpenSSL's functions callable by name from compiled code; return whether that worked."""
    with suppress(ImportError, AttributeError, OSError):
        import _hashlib

        import llvmlite.binding  # type: ignore[import-untyped]

        library = ctypes.CDLL(_hashlib.__file__)
        for function in (library.SHA256, library.SHA1):
            llvmlite.binding.add_symbol(function.__name__, ctypes.cast(function, ctypes.c_void_p).value)
        return True
    return False


@numba.njit(cache=True, nogil=True)
def _hash_all(
    data: NDArray[np.uint8], bounds: NDArray[np.int64], sha256s: NDArray[np.uint8], blobs: NDArray[np.uint8]
) -> bool:
    """Hash contents stored in `data`, each after its header; return False if OpenSSL fails."""
    for n in range(len(sha256s)):
        header, content, end = data.ctypes.data + bounds[2 * n : 2 * n + 3]
        if not _sha256(content, end - content, sha256s.ctypes.data + n * _SHA256_BYTES):
            return False
        if not _sha1(header, end - header, blobs.ctypes.data + n * _SHA1_BYTES):
            return False
    return True
