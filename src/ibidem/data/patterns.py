"""Patterns that hyperscan matches in one pass over the bytes; the same ones are compiled once in a process."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hyperscan


def database(patterns: Sequence[str], flags: int) -> "hyperscan.Database":
    """Return a database of patterns, numbered from 0, that are matched with the same flags.

    Each one has its own scratch space, so each thread must ask for one.
    """
    import hyperscan

    made = hyperscan.loadb(_compiled(tuple(patterns), flags), mode=hyperscan.HS_MODE_BLOCK)
    made.scratch = hyperscan.Scratch(made)
    return made


@cache
def _compiled(patterns: tuple[str, ...], flags: int) -> bytes:
    """Return a compiled database as bytes: to compile takes a tenth of a second, to load takes none."""
    import hyperscan

    made = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    expressions = [pattern.encode() for pattern in patterns]
    made.compile(expressions=expressions, ids=range(len(patterns)), flags=[flags] * len(patterns))
    serialized: bytes = hyperscan.dumpb(made)
    return serialized
