"""Pieces of Markdown pages."""

import re
from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """Write text as code."""
    return f"`{text}`"


def meaning(text: str) -> str:
    r"""Write a sentence of the code for a cell of a table: one line, in which only what stands in backticks is markup.

    >>> print(meaning("`a|b` or <c>, * and d|e"))
    `a\|b` or &lt;c>, \* and d\|e
    """
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    safe = (
        part if part.startswith("`") else re.sub(r"([*\[\]])", r"\\\1", part.replace("<", "&lt;")) for part in parts
    )
    return "".join(safe).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; the cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
