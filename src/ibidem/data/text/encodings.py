r"""Decode files that are not UTF-8, where the encoding is certain enough: UTF-16 by its mark, and Windows-1252.

    caf\xe9       -> café     Western European: single letters between ASCII
    \x83e\x83X    -> None     Shift-JIS: lead bytes that are no letters of Windows-1252
    \xd6\xd0\xce  -> None     GBK, KOI8-R, Windows-1251: whole words beyond ASCII
    caf\xc3\xa9 \xe9 -> None  UTF-8 that is damaged

Windows-1252 contains the printable characters of Latin-1. It is taken only if the bytes beyond ASCII are few, at most
two in a row, and letters or marks that Western European texts use; what a Central European file so becomes has wrong
letters in single words, as in any editor that guesses.
"""

import codecs
import re

WINDOWS = "cp1252"
MAX_SHARE = 0.05
"""Maximum share of bytes beyond ASCII; German and French text has 0.02 to 0.04."""
MAX_PAIRS = 0.2
"""Maximum share of pairs among the runs of bytes beyond ASCII: a text of double bytes has hardly anything else."""
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_LETTERS = "ÀÁÂÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüý"
_SIGNS = "\xa0©®°«»§·´µ£€…–—‘’“”„•™¡¿ºª½¼¾"
_ALLOWED = frozenset((_LETTERS + _SIGNS).encode(WINDOWS))
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
_UTF_8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def has_mark(raw: bytes) -> bool:
    """Check whether a file begins with the byte order mark of UTF-16."""
    return raw[:2] in _MARKS


def decoded(raw: bytes) -> str | None:
    r"""Decode a file that is not UTF-8; None if its encoding is not certain.

    >>> decoded(b"caf\xe9"), decoded(b"\xff\xfea\x00"), decoded(b"\xd6\xd0\xce\xc4"), decoded(b"caf\xc3\xa9 \xe9")
    ('café', 'a', None, None)
    """
    if has_mark(raw):
        try:
            text = raw.decode(_MARKS[raw[:2]])
        except UnicodeDecodeError:
            return None
        return None if "\0" in text else text
    runs = _BEYOND_ASCII.findall(raw)
    sizes = [len(run) for run in runs]
    is_western = (
        max(sizes, default=0) <= 2
        and sum(sizes) <= max(2, MAX_SHARE * len(raw))
        and sum(size == 2 for size in sizes) <= MAX_PAIRS * len(sizes)
        and _ALLOWED.issuperset(b"".join(runs))
        and _UTF_8.search(raw) is None
    )
    return raw.decode(WINDOWS) if is_western else None
