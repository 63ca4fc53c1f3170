"""Read Markdown: its headings begin sections; fenced and indented code and tables stay whole."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from ibidem.grounding.documents.readable import Content, Heading, line_starts, outline, title_of

_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?:(?!---).*\r?\n)*---[ \t]*(?:\r?\n|\Z)")
_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*\r?$", re.MULTILINE)
_WHOLE = frozenset({"fence", "code_block", "table_open"})


def read(text: str) -> Content:
    """Divide a Markdown text; the text stays as it is.

    The title in its front matter is above all headings if no heading of level 1 is there.
    """
    front = _FRONT_MATTER.match(text)
    start = front.end() if front else 0
    tokens = _parser().parse(text[start:])
    lines = [start + each for each in line_starts(text[start:])]
    headings = list(_headings(tokens, lines))
    title = _TITLE.search(front[0]) if front else None
    root = (title_of(title[1]),) if title and all(heading.level > 1 for heading in headings) else ()
    whole = (token.map for token in tokens if token.level == 0 and token.type in _WHOLE)
    return Content(text, outline(text, headings, root), tuple((lines[first], lines[last]) for first, last in whole))


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").disable("inline")


@cache
def _inline_parser() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


def _headings(tokens: list[Any], lines: list[int]) -> Iterator[Heading]:
    for token, following in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and (title := _plain(following.content)):
            yield Heading(lines[token.map[0]], int(token.tag[1:]), title)


def _plain(heading: str) -> str:
    """Return a heading as its reader sees it."""
    children = [child for token in _inline_parser().parseInline(heading[:1000]) for child in token.children or ()]
    shown = ("".join(" " if child.type.endswith("break") else _shown(child) for child in children)).strip()
    return title_of(shown)


def _shown(token: Any) -> str:
    return "" if token.type == "html_inline" else str(token.content)
