"""Read source code: each definition is a section, with its qualified name as the title.

Python is parsed. Of other languages, a line that is not indented and looks like a definition begins a section; so do
tables of TOML and INI, and top-level keys of YAML.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from itertools import pairwise

from ibidem.grounding.documents.readable import Content, Heading, Part, line_starts, nested, outline, title_of

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_MODIFIERS = (
    "export default declare pub public private protected internal static final abstract sealed async extern inline "
    "virtual override open data unsafe const constexpr partial local"
)
_KEYWORDS = (
    "fn func function fun def defmodule defp class struct enum union trait impl interface protocol object module "
    "namespace record type typedef message service sub proc procedure macro resource variable provider"
)
_KEYWORD = re.compile(
    rf"(?:(?:{'|'.join(_MODIFIERS.split())})(?:\([\w ]*\))?\s+)*(?:{'|'.join(_KEYWORDS.split())})\b"
    rf"\s*(?:<[^<>]*>|\([^()]*\))?\s*[\"']?(?P<name>[\w.:$-]+)"
)
_SQL = re.compile(
    r"create\s+(?:or\s+replace\s+)?(?:\w+\s+){0,2}?"
    r"(?:table|view|function|procedure|trigger|type|index|schema|policy)\s+(?:if\s+not\s+exists\s+)?(?P<name>[\w.\"`]+)",
    re.IGNORECASE,
)
_C_FUNCTION = re.compile(
    r"(?!(?:if|for|while|switch|return|else|do|case|sizeof)\b)(?:[A-Za-z_][\w\s*&:<>,]*?[\s*&])?(?P<name>~?[A-Za-z_][\w:~]*)"
    r"\s*\([^;]*"
)
_TABLE = re.compile(r"\[{1,2}(?P<name>[^\[\]]+)\]{1,2}\s*(?:[#;].*)?")
_KEY = re.compile(r"(?P<name>[A-Za-z_][\w./-]*):(?:\s|$)")
_ATTACHED = re.compile(r"(?://|#|--|/\*|\*|\"\"\"|@|\[\[?\w|;|%)")
_MAX_LINE_CHARS = 400
_TABLES, _KEYS, _SQLS = frozenset({"TOML", "INI"}), frozenset({"YAML"}), frozenset({"SQL"})
_NO_DEFINITIONS = frozenset({"JSON", "XML", "CSS", "SCSS"})


def read(text: str, language: str | None) -> Content:
    r"""Divide source code at its definitions; the text stays as it is.

    Comments, decorators and attributes directly above a definition belong to it.

    Args:
        text: the code.
        language: as `ibidem.data.text.language.by_name` returns it.

    >>> code = "import x\n\nclass A:\n    def b(self):\n        pass\n"
    >>> [section.title for section in read(code, "Python").sections]
    [(), ('A',), ('A', 'A.b')]
    """
    if language == "Python" and (parts := _python_parts(text)) is not None:
        return Content(text, nested(text, parts))
    return Content(text, outline(text, _headings(text, language)))


def _python_parts(text: str) -> tuple[Part, ...] | None:
    """Return the definitions of a Python module; None if it cannot be parsed."""
    starts = line_starts(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
        return tuple(_part(node, "", text, starts) for node in _definitions(tree.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _part(node: _Definition, above: str, text: str, starts: list[int]) -> Part:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    while first > 1 and text[starts[first - 2] : starts[first - 1]].lstrip().startswith("#"):
        first -= 1
    name = f"{above}.{node.name}" if above else node.name
    inner = _definitions(node.body) if isinstance(node, ast.ClassDef) else ()
    parts = tuple(_part(each, name, text, starts) for each in inner)
    return Part(starts[first - 1], starts[node.end_lineno or node.lineno], title_of(name), parts)


def _definitions(body: Iterable[ast.stmt]) -> Iterator[_Definition]:
    """Yield the definitions of a scope, from top to bottom; those under `if`, `try` and `with` too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            handlers = (each.body for each in getattr(node, "handlers", ()))
            for inner in (node.body, *handlers, getattr(node, "orelse", ()), getattr(node, "finalbody", ())):
                yield from _definitions(inner)


def _headings(text: str, language: str | None) -> Iterator[Heading]:
    if language in _NO_DEFINITIONS:
        return
    starts = line_starts(text)
    spans = list(pairwise(starts))
    end = 0  # line after the last definition's first line
    for number, (start, stop) in enumerate(spans):
        line = text[start : min(stop, start + _MAX_LINE_CHARS)].rstrip()
        if not line or line[0].isspace():
            continue
        following = text[slice(*spans[number + 1])].strip() if number + 1 < len(spans) else ""
        if name := _name(line, following, language):
            first = number
            while first > end and _ATTACHED.match(text, *spans[first - 1]):
                first -= 1
            yield Heading(spans[first][0], 1, title_of(name))
            end = number + 1


def _name(line: str, following: str, language: str | None) -> str | None:
    """Return the name that a line defines."""
    if language in _TABLES:
        match = _TABLE.fullmatch(line)
    elif language in _KEYS:
        match = _KEY.match(line)
    elif language in _SQLS:
        match = _SQL.match(line)
    else:
        match = _KEYWORD.match(line) or _c_function(line, following)
    return match["name"].strip("\"'`: ") if match else None


def _c_function(line: str, following: str) -> re.Match[str] | None:
    is_open = line.endswith("{") or following.startswith("{")
    return _C_FUNCTION.match(line) if is_open and "(" in line else None
