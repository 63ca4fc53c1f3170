"""What the source of the package says of itself: constants, schemas, members of enumerations; without importing it."""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import ibidem

PACKAGE = Path(ibidem.__file__).parent
FILE_NAME = re.compile(r"[\w-]*\.[a-z]\w*")


@cache
def constants() -> dict[str, Any]:
    """Return the literal constants of all modules, as `data.shards:DROPPED`."""
    found = {}
    for module, tree in _modules():
        for name, value in _assigned(tree):
            with suppress(ValueError):
                found[f"{module}:{name}"] = ast.literal_eval(value)
    return found


def kinds() -> set[str]:
    """Return the constants that name a kind of artifact."""
    return {key for key in constants() if key.endswith((":KIND", ":HEAD_KIND"))}


def file_names() -> set[str]:
    """Return the constants that hold the name of a file."""
    return {key for key, value in constants().items() if isinstance(value, str) and FILE_NAME.fullmatch(value)}


def schemas() -> set[str]:
    """Return the constants that hold an Arrow schema."""
    return {
        f"{module}:{name}"
        for module, tree in _modules()
        for name, value in _assigned(tree)
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "pa.schema"
    }


def members(module: str, enumeration: str) -> dict[str, str]:
    """Return the values of an enumeration with the docstrings below them."""
    (found,) = (
        node for node in dict(_modules())[module].body if isinstance(node, ast.ClassDef) and node.name == enumeration
    )
    return {
        ast.literal_eval(member.value): ast.literal_eval(docstring.value)
        for member, docstring in pairwise(found.body)
        if isinstance(member, ast.Assign) and isinstance(docstring, ast.Expr)
    }


def forget() -> None:
    """Read the source again at the next question."""
    constants.cache_clear()
    _modules.cache_clear()


@cache
def _modules() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(
        (".".join(path.relative_to(PACKAGE).with_suffix("").parts), _parsed(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    )


_parsed = cache(ast.parse)
"""A module that has not changed is parsed once."""


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Pair names with values; `A, B = 1, 2` is two of them."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
        elif isinstance(node, ast.Assign):
            (target, *_), value = node.targets, node.value
            names, values = (
                (target.elts, value.elts)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else ([target], [value])
            )
            yield from ((name.id, each) for name, each in zip(names, values, strict=True) if isinstance(name, ast.Name))
