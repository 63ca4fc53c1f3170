"""Read PDF files: a section for each page, and for each bookmark on it from the line with the bookmark's title on.

Running titles are left out.

`ibidem.grounding.documents.isolation` runs it in a process of its own, since no code bounds what pypdf may cost.
"""

import io
import logging
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from ibidem.errors import DataError
from ibidem.grounding.documents.readable import Content, Heading, Title, sections_between, title_of

_END_SEARCHED_BYTES = 2048
_MAX_BOOKMARKS = 10_000
_MAX_BOOKMARK_DEPTH = 20
_MAX_SHOWN = 100
_MIN_RETURNS = 3


def read(raw: bytes, max_bytes: int, max_pages: int) -> Content:
    """Return the text of a PDF file.

    Raises:
        DataError: it is encrypted, truncated or malformed, too long, or has no text. Its text may have `max_bytes`
            bytes in UTF-8.
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
            pages, bookmarks = _read(raw[start:], max_bytes, max_pages)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - pypdf raises whatever a malformed file leads to
        shown = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_SHOWN]
        raise DataError(f"a malformed PDF file: {shown}") from None
    if not any(page.strip() for page in pages):
        raise DataError(f"a PDF file without text, {len(pages):,} pages of images; recognize its characters first")
    return _content(_without_running_titles(pages), bookmarks)


def _without_running_titles(pages: list[str]) -> list[str]:
    """Leave out first and last lines that return on a quarter of the pages, numbers aside; the first title stays."""
    lines = [page.strip("\n").split("\n") for page in pages]
    for edge in (0, -1):
        counts = Counter(_without_number(page[edge]) for page in lines if len(page) > 1)
        running = {line for line, count in counts.items() if count >= max(_MIN_RETURNS, len(pages) / 4)}
        seen: set[str] = set() if edge == 0 else running
        for page in lines:
            if len(page) > 1 and (line := _without_number(page[edge])) in running:
                if line in seen:
                    del page[edge]
                seen.add(line)
    return ["\n".join(page) for page in lines]


def _without_number(line: str) -> str:
    return re.sub(r"\d+|\b[ivxlc]+\b", "#", " ".join(line.split()))


def _content(pages: list[str], bookmarks: list[tuple[int, int, str]]) -> Content:
    marks: list[tuple[int, Title]] = []
    above: list[Heading] = []
    parts: list[str] = []
    start = 0
    remaining = deque(sorted(bookmarks, key=lambda bookmark: bookmark[0]))
    for number, page in enumerate(pages):
        label = f"page {number + 1}"
        marks.append((start, (label, *(each.title for each in above))))
        seen = 0
        while remaining and remaining[0][0] <= number:
            _, level, title = remaining.popleft()
            while above and above[-1].level >= level:
                above.pop()
            above += [Heading(start, level, shown)] if (shown := title_of(title)) else []
            seen = _place(title, page, seen)
            marks.append((start + seen, (label, *(each.title for each in above))))
        parts.append(page.rstrip() + "\n\n")
        start += len(parts[-1])
    text = "".join(parts)
    return Content(text, sections_between(text, marks))


def _place(title: str, page: str, start: int) -> int:
    """Return where the line with a bookmark's title begins; `start`, before which it is not, if there is none."""
    words = title_of(title).rstrip("…").split()
    match = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE).search(page, start) if words else None
    return max(start, page.rfind("\n", 0, match.start()) + 1) if match else start


def _read(raw: bytes, max_bytes: int, max_pages: int) -> tuple[list[str], list[tuple[int, int, str]]]:
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
        length += len(pages[-1].encode())
        if length > max_bytes:
            raise DataError(f"a PDF file with more than {max_bytes:,} bytes of text")
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
