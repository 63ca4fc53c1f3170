"""Normalize whitespace where that is safe; find fenced code blocks.

Code: only line endings and the beginning and end of the file change. Indentation, tabs, form feeds and trailing blanks
inside the file stay: they have meaning in Makefiles, Markdown, patches and multi-line strings. Text outside fenced
blocks also loses trailing blanks (two or more become Markdown's line break of two), and runs of blank lines become one.
A document that is not empty always ends with exactly one newline.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ibidem.conversation import Part
from ibidem.records import Category

BYTE_ORDER_MARK = "\ufeff"
_MARK = BYTE_ORDER_MARK.encode()

_MARKS = {"```": re.compile("```+"), "~~~": re.compile("~~~+")}
_BEFORE_FENCE = re.compile(r"(?P<container>[ \t>]*)(?P<item>(?:[-*+]|\d{1,9}[.)])[ \t]+)?")
_MAX_INDENT = 3
_MARKUP = (
    ("<", re.compile(r"<!--.*?(?:-->|\Z)|</?[A-Za-z][^<>\n]*(?:\n[^<>\n]+)*>", re.DOTALL)),
    ("](", re.compile(r"\]\([^()\n]*\)")),
    ("]:", re.compile(r"\[(?<![^\n]\[)[^\]\n]+\]:.*")),
    ("://", re.compile(r"https?://\S+")),
    ("{%", re.compile(r"\{%[^%\n]*%\}")),
    ("{{", re.compile(r"\{\{[^{}\n]*\}\}")),
    ("\n", re.compile(r"^[ \t]*:[\w-]+:[ \t]*$", re.MULTILINE)),
    (".. ", re.compile(r"^[ \t]*\.\. [\w:+.-]+::.*$", re.MULTILINE)),
    (
        "[source",
        re.compile(
            r"^\[source[^\]\n]*\]\n(?:\.[^\n]*\n)?(?P<rule>-{4,})\n(?:(?!(?P=rule)[ \t]*$)[^\n]*\n)*(?P=rule)[ \t]*$",
            re.MULTILINE,
        ),
    ),
    ("[tabs", re.compile(r"^\[tabs\]$|^\w+::$", re.MULTILINE)),
)
"""What a reader of the page does not see: comments and tags, targets of links, definitions of links, addresses, tags
of templates, directives and their options, listings of AsciiDoc and the names of their tabs."""
_LITERAL = re.compile(
    r"^(?P<indent>[ \t]*+)(?:\.\. (?:code|code-block|sourcecode|parsed-literal|doctest|testcode|literalinclude)"
    r"::[^\n]*|(?P<line>[^\n]*[^\s:])?::)[ \t]*\n(?:[ \t]*+\n|(?P=indent)[ \t][^\n]*(?:\n|\Z))++",
    re.MULTILINE,
)
"""A literal block or a code directive of reStructuredText; `line` is the paragraph that announces it."""
_BLANKS = (" ", "\t")
_BLANK_BORDER = re.compile(r"[ \t]*(\n{1,2})(?:[ \t]*\n)*")
_LINE_ENDS = re.compile(r"\r\n?")
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


def of_parts(parts: Iterable[Part]) -> Iterator[Part]:
    r"""Normalize the whitespace of the texts and passages of a turn; citations and tool calls are left as they are.

    Blanks between a text and another part stay: they separate words.

    >>> list(of_parts([Part("text", "\n\nAt  nine \n\n\n\n"), Part("cite", "1"), Part("text", " .  \n")]))
    [Part(kind='text', text='At  nine\n\n'), Part(kind='cite', text='1'), Part(kind='text', text=' .')]
    """
    parts = tuple(parts)
    for number, part in enumerate(parts, start=1):
        if part.kind == "text":
            yield part._replace(text=_inside(part.text, is_first=number == 1, is_last=number == len(parts)))
        elif part.kind == "passage":
            yield part._replace(text=_inside(part.text, is_first=True, is_last=True))
        else:
            yield part


def _inside(text: str, *, is_first: bool, is_last: bool) -> str:
    r"""Normalize a text between others: `whitespace`, without the newline at its end.

    >>> _inside(" and \r\n", is_first=False, is_last=False)
    ' and\n'
    """
    text = _LINE_ENDS.sub("\n", text)
    body = whitespace(text, "instruction").removesuffix("\n")
    before = "" if is_first else _blanks(text[: len(text) - len(text.lstrip())])
    after = "" if is_last else _blanks(text[len(text.rstrip()) :])
    if not body.strip():
        return before if after else ""
    return before + (body if is_first else body.lstrip()) + after


def _blanks(blanks: str) -> str:
    return _BLANK_BORDER.sub(r"\1", blanks)


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
    document. A fence may begin an item of a list. Source: CommonMark 0.31, section 4.5.

    >>> code_blocks("See:\n```python\nx = 1\n```\n")
    ((15, 21, 'python'),)
    """
    return tuple(
        (opened.end, len(text) if closed is None else closed.start, opened.info.split()[0] if opened.info else None)
        for opened, closed in _fenced(text)
    )


def block(code: str, language: str = "python") -> str:
    r"""Return code in a fence, with more backticks than it contains in a row.

    >>> block("x = 1")
    '```python\nx = 1\n```'
    """
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}{language}\n{code.strip(chr(10))}\n{fence}"


def visible(text: str) -> str:
    r"""Return the prose of a page as its reader sees it: no code blocks, tags, targets of links.

    Fences deep in lists and quotes are found as well; one that is not closed takes only its own line with it.

    >>> visible("See <b>[this](https://example.org)</b>:\n> ```sh\n> ls\n> ```\n```\nx = 1\n```\nend\n")
    'See [this:\nend\n'
    """
    pieces, position = [], 0
    for opened, closed in _fenced(text, nested=True):
        pieces.append(text[position : opened.start])
        unclosed_end = opened.end if opened.is_nested else len(text)
        position = unclosed_end if closed is None else closed.end
    prose = "".join([*pieces, text[position:]])
    if "::" in prose:
        prose = _LITERAL.sub(lambda block: f"{block['line'] or ''}\n", prose)
    for sign, pattern in _MARKUP:
        if sign in prose:
            prose = pattern.sub("", prose)
    return prose


class _Fence(NamedTuple):
    """A line that may open or close a code block."""

    start: int
    end: int
    """After its newline."""
    container: str
    """Indentation and marks of quotes before it."""
    item: str
    """Mark of the list item that begins with it, with blanks; usually empty."""
    mark: str
    info: str

    @property
    def is_nested(self) -> bool:
        return len(self.container) > _MAX_INDENT or self.container.strip(" ") != ""

    def closes(self, opened: "_Fence") -> bool:
        if self.info or self.item or not self.mark.startswith(opened.mark):
            return False
        if self.container.count(">") != opened.container.count(">"):
            return False
        content = len(opened.container + opened.item) if opened.item or opened.is_nested else 0
        return len(self.container) <= content + _MAX_INDENT


def _fenced(text: str, *, nested: bool = False) -> Iterator[tuple[_Fence, _Fence | None]]:
    """Yield each opening fence with the one that closes it, None at the end of the text."""
    opened: _Fence | None = None
    for fence in _fences(text):
        if opened is None:
            opened = fence if nested or not fence.is_nested else None
        elif fence.closes(opened):
            yield opened, fence
            opened = None
    if opened is not None:
        yield opened, None


def _fences(text: str) -> Iterator[_Fence]:
    # one simple pattern for each mark is 10 times faster than a pattern of whole lines
    # and a search for one character, which most texts lack, is 10 times faster than one for three
    marks = [
        mark for sign, pattern in _MARKS.items() if sign[0] in text and sign in text for mark in pattern.finditer(text)
    ]
    end = 0
    for mark in sorted(marks, key=re.Match.start):
        if mark.start() < end:
            continue  # only the first mark of a line can be a fence
        start = text.rfind("\n", end, mark.start()) + 1 or end
        end = text.find("\n", mark.end()) + 1 or len(text)
        before = _BEFORE_FENCE.fullmatch(text, start, mark.start())
        if before is not None and "`" not in (info := text[mark.end() : end].strip()):
            yield _Fence(start, end, before["container"], before["item"] or "", mark[0], info)


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
