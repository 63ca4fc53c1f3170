"""Read PDF files: a section for each page, below the bookmarks that lead to it or to a page before it.

`ibidem.grounding.documents.isolation` runs it in a process of its own, since no code bounds what pypdf may cost.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from ibidem.errors import DataError
from ibidem.grounding.documents.readable import Content, Heading, Title, sections_between, title_of

_END_SEARCHED_BYTES = 2048
_MAX_BOOKMARKS = 10_000
_MAX_BOOKMARK_DEPTH = 20
_MAX_SHOWN = 100


def read(raw: bytes, max_chars: int, max_pages: int) -> Content:
    """Return the text of a PDF file.

    Raises:
        DataError: it is encrypted, truncated or malformed, too long, or has no text.
    """
    start = raw[:1024].find(b"%PDF-")
    if start < 0:
        raise DataError("not a PDF file")
    if b"%%EOF" not in raw.rstrip(b"\0 \t\r\n")[-_END_SEARCHED_BYTES:]:
        raise DataError("a truncated PDF file: its end is missing")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pages, bookmarks = _read(raw[start:], max_chars, max_pages)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - pypdf raises whatever a malformed file leads to
        shown = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_SHOWN]
        raise DataError(f"a malformed PDF file: {shown}") from None
    if not any(page.strip() for page in pages):
        raise DataError(f"a PDF file without text, {len(pages):,} pages of images; recognize its characters first")
    return _content(pages, bookmarks)


def _content(pages: list[str], bookmarks: list[tuple[int, int, str]]) -> Content:
    marks: list[tuple[int, Title]] = []
    above: list[Heading] = []
    parts: list[str] = []
    length = 0
    remaining = sorted(bookmarks, key=lambda bookmark: bookmark[0])
    for number, page in enumerate(pages):
        while remaining and remaining[0][0] <= number:
            at, level, title = remaining.pop(0)
            while above and above[-1].level >= level:
                above.pop()
            above.append(Heading(at, level, title_of(title)))
        marks.append((length, (*(each.title for each in above if each.title), f"page {number + 1}")))
        parts.append(page.rstrip() + "\n\n")
        length += len(parts[-1])
    text = "".join(parts)
    return Content(text, sections_between(text, marks))


def _read(raw: bytes, max_chars: int, max_pages: int) -> tuple[list[str], list[tuple[int, int, str]]]:
    """Return the pages, and the bookmarks as (page, level, title)."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(raw))
    if reader.is_encrypted and not reader.decrypt(""):
        raise DataError("an encrypted PDF file; save it without a password")
    count = len(reader.pages)
    if count > max_pages:
        raise DataError(f"a PDF file of {count:,} pages, more than {max_pages:,}")
    pages, length = list[str](), 0
    for page in reader.pages:
        pages.append(_text(page))
        length += len(pages[-1])
        if length > max_chars:
            raise DataError(f"a PDF file with more than {max_chars:,} characters")
    return pages, list(_bookmarks(reader))


def _text(page: Any) -> str:
    text: str = page.extract_text().replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")
    return text.encode(errors="replace").decode()  # lone surrogates are no text


def _bookmarks(reader: Any) -> Iterator[tuple[int, int, str]]:
    """Yield page, level and title of each bookmark; none if they are malformed."""
    try:
        stack = [(reader.outline, 0)]
    except Exception:  # noqa: BLE001 - pypdf raises whatever a malformed file leads to
        return
    count = 0
    while stack:
        item, level = stack.pop()
        if isinstance(item, list):
            if level < _MAX_BOOKMARK_DEPTH:
                stack += [(each, level + 1) for each in reversed(item)]
            continue
        try:
            page = reader.get_destination_page_number(item)
        except Exception:  # noqa: BLE001, S112 - as above
            continue
        count += 1
        if page is not None and page >= 0 and count <= _MAX_BOOKMARKS:
            yield page, level, str(item.title).encode(errors="replace").decode()
