"""What every reader of documents returns: readable text, and the sections of it."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

Kind = Literal["markdown", "text", "html", "code", "pdf", "openapi"]
Title = tuple[str, ...]

MAX_TITLE_CHARS = 120
_LINE_END = re.compile(r"\r\n?|\n")


class Section(NamedTuple):
    """A part of a text under one heading, without the parts under the headings below it."""

    title: Title
    """The headings above it, from the outermost, its own included."""
    start: int
    end: int


class Content(NamedTuple):
    """What a file says."""

    text: str
    sections: tuple[Section, ...]
    """Disjoint and ordered; what is in none of them is blank."""
    whole: tuple[tuple[int, int], ...] = ()
    """Spans that should stay whole: blocks of code, tables. Disjoint and ordered."""


class Readable(NamedTuple):
    """A document that could be read."""

    path: str
    """Relative to the folder, with `/`."""
    kind: Kind
    text: str
    """Of Markdown, text and code: the file's own text, without its byte order mark."""
    sections: tuple[Section, ...]
    whole: tuple[tuple[int, int], ...] = ()


class Heading(NamedTuple):
    """A heading in a text."""

    start: int
    level: int
    """Smaller is further out."""
    title: str


class Part(NamedTuple):
    """A part of a text that has its own title and may have parts itself."""

    start: int
    end: int
    name: str
    parts: tuple["Part", ...] = ()


def title_of(text: str) -> str:
    r"""Return a heading as one line of at most 120 characters.

    >>> title_of(" Getting\n started ")
    'Getting started'
    """
    title = " ".join(text[: 8 * MAX_TITLE_CHARS].split())
    return title if len(title) <= MAX_TITLE_CHARS else title[: MAX_TITLE_CHARS - 1].rstrip() + "…"


def line_starts(text: str) -> list[int]:
    r"""Return where each line starts, and the end of the text.

    >>> line_starts("a\r\nb\n")
    [0, 3, 5, 5]
    """
    return [0, *(match.end() for match in _LINE_END.finditer(text)), len(text)]


def outline(text: str, headings: Iterable[Heading], root: Title = ()) -> tuple[Section, ...]:
    """Divide a text at its headings; each section starts with its heading.

    Args:
        text: the text.
        headings: ascending.
        root: the title of what is before the first heading; it is above all others.

    >>> [tuple(section) for section in outline("intro A a B b", [Heading(6, 1, "A"), Heading(10, 2, "B")])]
    [((), 0, 6), (('A',), 6, 10), (('A', 'B'), 10, 13)]
    """
    marks, above = [(0, root)], list[Heading]()
    for heading in headings:
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
        marks.append((heading.start, (*root, *(each.title for each in above))))
    return sections_between(text, marks)


def sections_between(text: str, marks: Sequence[tuple[int, Title]]) -> tuple[Section, ...]:
    """Return a section from each mark to the next; blank ones are left out.

    Args:
        text: the text.
        marks: positions, ascending, each with the title of what follows.
    """
    assert all(one <= other for (one, _), (other, _) in pairwise(marks))
    ends = [*(start for start, _ in marks[1:]), len(text)]
    spans = zip(marks, ends, strict=True)
    return tuple(Section(title, start, end) for (start, title), end in spans if text[start:end].strip())


def nested(text: str, parts: Sequence[Part], title: Title = ()) -> tuple[Section, ...]:
    """Divide a text into its parts, the parts of these, and what is between them.

    >>> [tuple(section) for section in nested("import x def f x = 1", [Part(9, 15, "f")])]
    [((), 0, 9), (('f',), 9, 15), ((), 15, 20)]
    """
    marks = [(0, title)]
    _mark(parts, title, marks)
    return sections_between(text, marks)


def _mark(parts: Sequence[Part], title: Title, marks: list[tuple[int, Title]]) -> None:
    for part in parts:
        marks.append((part.start, (*title, part.name)))
        _mark(part.parts, (*title, part.name), marks)
        marks.append((part.end, title))
