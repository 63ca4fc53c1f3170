"""Normalize whitespace where that is safe; find fenced code blocks.

Code: only line endings and the beginning and end of the file change. Indentation, tabs, form feeds and trailing blanks
inside the file stay: they have meaning in Makefiles, Markdown, patches and multi-line strings. Text outside fenced
blocks also loses trailing blanks (two or more become Markdown's line break of two), and runs of blank lines become one.
A document that is not empty always ends with exactly one newline.
"""

import re

from ibidem.records import Category

BYTE_ORDER_MARK = "\ufeff"
_MARK = BYTE_ORDER_MARK.encode()

_FENCE = re.compile(r"^(?P<indent> {0,3})(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$", re.MULTILINE)
_BLANKS = (" ", "\t")
_BLANK_LINES = re.compile(r"\n{3,}")

CodeBlocks = tuple[tuple[int, int, str | None], ...]


def whitespace(text: str, category: Category) -> str:
    r"""Normalize the whitespace of a document.

    >>> whitespace("\ufeffall:  \r\n\techo\r\n\r\n\r\n", "code")
    'all:  \n\techo\n'
    >>> whitespace("one \n\n\n\ntwo   \nthree", "text")
    'one\n\ntwo  \nthree\n'
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    if "\r" in text:
        text = text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")
    if category != "code":
        text = _clean_prose(text)
    if text[-1:] == "\n" and not text[-2:-1].isspace() and text[0] != "\n":
        return text  # normalized already: a copy of every text would cost more than everything else here
    text = text.lstrip("\n").rstrip()
    return text + "\n" if text else ""


def is_tidy(text: bytes, category: Category) -> bool:
    r"""Check from its UTF-8 bytes whether `whitespace` leaves a text unchanged; only True is certain.

    >>> is_tidy(b"all:  \n\techo\n", "code"), is_tidy(b"one \n", "text"), is_tidy(b"no end", "code")
    (True, False, False)
    """
    if text.startswith((b"\n", _MARK)) or b"\r" in text:
        return False
    if category != "code" and any(blanks in text for blanks in (b" \n", b"\t\n", b"\n\n\n")):
        return False
    return text.endswith(b"\n") and b" " < text[-2:-1] < b"\x7f"  # Unicode has more whitespace beyond ASCII


def is_blank(text: bytes) -> bool:
    r"""Check from its UTF-8 bytes whether `whitespace` leaves nothing of a text.

    >>> is_blank("\ufeff \u3000\n".encode()), is_blank(b" x"), is_blank(b"")
    (True, False, True)
    """
    if b" " < text[:1] < b"\x7f":
        return False
    return not text.decode().removeprefix(BYTE_ORDER_MARK).strip()


def code_blocks(text: str) -> CodeBlocks:
    r"""Find fenced code blocks as (start, end, language), in characters, without the fences.

    A fence is closed by one of the same character that is at least as long; an unclosed fence runs to the end of the
    document. Source: CommonMark 0.31, section 4.5.

    >>> code_blocks("See:\n```python\nx = 1\n```\n")
    ((15, 21, 'python'),)
    """
    if "```" not in text and "~~~" not in text:
        return ()
    blocks = []
    opened: re.Match[str] | None = None
    for mark in _FENCE.finditer(text):
        if opened is None:
            opened = mark
        elif not mark["info"].strip() and mark["fence"].startswith(opened["fence"]):
            blocks.append(_block(opened, mark.start()))
            opened = None
    if opened is not None:
        blocks.append(_block(opened, len(text)))
    return tuple(blocks)


def _block(opened: re.Match[str], end: int) -> tuple[int, int, str | None]:
    info = opened["info"].split()
    return min(opened.end() + 1, end), end, info[0] if info else None


def _clean_prose(text: str) -> str:
    pieces, position = [], 0
    for start, end, _ in code_blocks(text):
        pieces += [_clean_lines(text[position:start]), text[start:end]]
        position = end
    return "".join([*pieces, _clean_lines(text[position:])])


def _clean_lines(text: str) -> str:
    lines = (_without_trailing_blanks(line) if line[-1:] in _BLANKS else line for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines))


def _without_trailing_blanks(line: str) -> str:
    kept = line.rstrip(" \t")
    if not kept:
        return ""
    if kept[-1].isspace():  # other whitespace may have a meaning: keep it
        return line
    return kept + "  " if line.startswith("  ", len(kept)) else kept
