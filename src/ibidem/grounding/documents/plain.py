"""Read plain text and reStructuredText: lines of punctuation below titles, or around them, make headings."""

import re
from collections.abc import Iterator
from itertools import pairwise

from ibidem.grounding.documents.readable import Content, Heading, line_starts, outline, title_of

_RULE = re.compile(r"([=\-~^\"'`#*+:._<>])\1+")
_MIN_RULE = 3
_LITERAL = re.compile(r"::\s*$|^\s*\.\. (?:code|code-block|sourcecode|parsed-literal)::")


def read(text: str) -> Content:
    """Divide a text at its underlined titles; the text stays as it is.

    Each style of underline is a level, in the order in which they first appear. Indented blocks after `::` stay whole.
    Source: docutils, reStructuredText Markup Specification, "Sections".
    """
    starts = line_starts(text)
    lines = [text[start:end].rstrip() for start, end in pairwise(starts)]
    return Content(text, outline(text, _headings(lines, starts)), tuple(_literal_blocks(lines, starts)))


def _headings(lines: list[str], starts: list[int]) -> Iterator[Heading]:
    levels: dict[str, int] = {}
    for number in range(1, len(lines)):
        title, rule = lines[number - 1], lines[number]
        if not _RULE.fullmatch(rule) or not _is_title(title, rule):
            continue
        before = lines[number - 2] if number > 1 else ""
        is_overlined = before == rule
        if before.strip() and not is_overlined:
            continue  # the last line of a paragraph or the first of a table
        style = rule[0] * (1 + is_overlined)
        level = levels.setdefault(style, len(levels) + 1)
        yield Heading(starts[number - 1 - is_overlined], level, title_of(title))


def _is_title(title: str, rule: str) -> bool:
    is_indented = title[:1].isspace() and title[:2].strip() == ""
    has_word = any(char.isalnum() for char in title)
    return has_word and not is_indented and len(rule) >= min(len(title.strip()), _MIN_RULE + 1)


def _literal_blocks(lines: list[str], starts: list[int]) -> Iterator[tuple[int, int]]:
    number = 0
    while number < len(lines):
        first = number + 1
        if _LITERAL.search(lines[number]):
            indent = _indent(lines[number])
            while number + 1 < len(lines) and (not lines[number + 1] or _indent(lines[number + 1]) > indent):
                number += 1
            if number >= first:
                yield starts[first], starts[number + 1]
        number += 1


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
