"""The process that reads one PDF file from its input, and writes the text of its pages as JSON.

python -m ibidem.grounding.documents.pdf_reader CPU_SECONDS MEMORY_BYTES MAX_PAGES MAX_CHARS < FILE.pdf
"""

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

_MAX_BOOKMARKS = 10_000
_MAX_BOOKMARK_DEPTH = 20
_MAX_SHOWN = 100


def main() -> None:
    """Read the file, and say what it holds or why it cannot be read."""
    cpu_s, memory_bytes, max_pages, max_chars = map(int, sys.argv[1:5])
    raw = sys.stdin.buffer.read()
    _limit(cpu_s, memory_bytes)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    try:
        answer = read(raw, max_pages, max_chars)
    except MemoryError:
        answer = {"refused": f"a PDF file that takes more than {memory_bytes >> 20:,} MB of memory"}
    except Exception as error:  # noqa: BLE001 - pypdf raises whatever a malformed file leads to
        shown = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_SHOWN]
        answer = {"refused": f"a malformed PDF file: {shown}"}
    sys.stdout.buffer.write(json.dumps(answer).encode())


def read(raw: bytes, max_pages: int, max_chars: int) -> dict[str, Any]:
    """Return `pages` and `bookmarks` of a PDF file, or why it is `refused`."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(raw))
    if reader.is_encrypted and not reader.decrypt(""):
        return {"refused": "an encrypted PDF file; save it without a password"}
    count = len(reader.pages)
    if count > max_pages:
        return {"refused": f"a PDF file of {count:,} pages, more than {max_pages:,}"}
    pages, length = [], 0
    for page in reader.pages:
        pages.append(_text(page))
        length += len(pages[-1])
        if length > max_chars:
            return {"refused": f"a PDF file with more than {max_chars:,} characters"}
    return {"pages": pages, "bookmarks": list(_bookmarks(reader))}


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


def _limit(cpu_s: int, memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # there is none on Windows
        return
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    if sys.platform != "darwin":  # macOS refuses it
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()
