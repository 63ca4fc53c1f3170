"""Decode the bytes of a text file."""

import codecs
import re

from ibidem.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # it begins as that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CHARSET = re.compile(
    rb"<(?:meta|\?xml)\b[^>]{0,200}?\b(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE
)
_SEARCHED_BYTES = 1024
_LATIN = frozenset({"iso-8859-1", "iso8859-1", "latin1", "latin-1", "us-ascii", "ascii", "windows-1252", "cp1252"})
_LEGACY = re.compile(r"iso-8859-\d{1,2}|windows-125\d|koi8-[ru]|gbk|gb2312|gb18030|big5|euc-jp|euc-kr|shift_jis")


def decode(raw: bytes, otherwise: str = "utf-8") -> str:
    r"""Decode UTF-8, or what the byte order mark says; the mark is left out.

    Args:
        raw: the bytes of a file.
        otherwise: the encoding without a mark.

    Raises:
        DataError: the bytes are not of that encoding, or the file is binary.

    >>> decode(b"\xff\xfeh\x00i\x00"), decode(b"\xef\xbb\xbfhi")
    ('hi', 'hi')
    """
    mark, encoding = next(((mark, name) for mark, name in _MARKS if raw.startswith(mark)), (b"", otherwise))
    if encoding == otherwise and (at := raw.find(b"\0")) >= 0:
        raise DataError(f"binary: NUL at byte {at:,}")
    try:
        text = raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        at = len(mark) + error.start
        raise DataError(f"not {encoding.upper()}: byte 0x{raw[at]:02x} at {at:,}; save the file as UTF-8") from None
    if (at := text.find("\0")) >= 0:
        raise DataError(f"binary: NUL at character {at:,}")
    return text


def decode_html(raw: bytes) -> str:
    r"""Decode a page: by its byte order mark, by the charset that it declares, otherwise as UTF-8.

    Latin-1 means Windows-1252, as in browsers. A declared encoding that is not known here is taken for UTF-8.

    Raises:
        DataError: as `decode`.

    >>> decode_html(b'<meta charset="latin1">caf\xe9')[-4:]
    'café'
    """
    declared = _CHARSET.search(raw[:_SEARCHED_BYTES])
    name = declared[1].decode().lower() if declared else "utf-8"
    if name in _LATIN:
        return decode(raw, "cp1252")
    return decode(raw, name if _LEGACY.fullmatch(name) else "utf-8")
