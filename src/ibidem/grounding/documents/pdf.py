"""Read PDF files in a process of their own, bounded in CPU time and memory, so that no file can stop the others."""

import json
import signal
import subprocess
import sys
from typing import Any

from ibidem.errors import DataError
from ibidem.grounding.config import ReadConfig
from ibidem.grounding.documents.readable import Content, Heading, Title, sections_between, title_of

READER = "ibidem.grounding.documents.pdf_reader"
_END_SEARCHED_BYTES = 2048
_MAX_SHOWN = 120


def read(raw: bytes, limits: ReadConfig) -> Content:
    """Return the text of a PDF file: a section for each page, below the bookmarks that lead to it or before it.

    Raises:
        DataError: it is encrypted, truncated or malformed, has no text, or costs more than the limits.
    """
    start = raw[:1024].find(b"%PDF-")
    if start < 0:
        raise DataError("not a PDF file")
    if b"%%EOF" not in raw.rstrip(b"\0 \t\r\n")[-_END_SEARCHED_BYTES:]:
        raise DataError("a truncated PDF file: its end is missing")
    answer = _asked(raw[start:], limits)
    if "refused" in answer:
        raise DataError(str(answer["refused"]))
    pages: list[str] = answer["pages"]
    if not any(page.strip() for page in pages):
        raise DataError(f"a PDF file without text, {len(pages):,} pages of images; recognize its characters first")
    return _content(pages, [(int(page), int(level), str(title)) for page, level, title in answer["bookmarks"]])


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


def _asked(raw: bytes, limits: ReadConfig) -> dict[str, Any]:
    """Return what the process says that reads the file."""
    budget = (limits.pdf_cpu_s, limits.pdf_memory_bytes, limits.max_pdf_pages, limits.max_bytes)
    command = [sys.executable, "-P", "-m", READER, *map(str, budget)]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and numbers
            command, input=raw, capture_output=True, check=False, timeout=30 + 20 * limits.pdf_cpu_s
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"a PDF file that takes more than {limits.pdf_cpu_s} CPU-seconds") from None
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise DataError(f"a PDF file that takes more than {limits.pdf_cpu_s} CPU-seconds")
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DataError(f"a PDF file that cannot be read: {last[:_MAX_SHOWN] or f'exit code {done.returncode}'}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
