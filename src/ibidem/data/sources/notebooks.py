r"""Turn Jupyter notebooks into texts to learn from.

A notebook with code becomes a script in the language of its kernel, with Markdown cells as comments, as Jupytext's
light format writes it: StarCoder learned notebooks from such scripts (arXiv:2305.06161, section 3.2), they are valid
code, and the filters for code judge them. Magics and shell commands become comments as well. A notebook without code,
or in a language whose comments are unknown, becomes a Markdown page with fenced code. Outputs, metadata, attachments
and images in base64 are left out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ibidem.data.text import language

DEFAULT_LANGUAGE = "python"
_ALIASES = {
    "python3": "python",
    "ipython": "python",
    "ir": "r",
    "bash": "shell",
    "node": "javascript",
    "cpp": "c++",
    "c++11": "c++",
    "c++14": "c++",
    "c++17": "c++",
    "c++20": "c++",
    "csharp": "c#",
    "fsharp": "f#",
}
_COMMENTS = {
    "#": ("python", "r", "julia", "shell", "ruby", "perl", "powershell", "elixir", "tcl"),
    "//": ("javascript", "typescript", "rust", "go", "java", "scala", "kotlin", "c", "c++", "c#", "f#", "swift", "php"),
    "--": ("haskell", "sql", "lua"),
}
_COMMENT = {name: mark for mark, names in _COMMENTS.items() for name in names}
_MAGIC = re.compile(r"^[ \t]*(?:%[A-Za-z]|!(?!=)).*(?:(?<=\\)\n.*)*", re.MULTILINE)
_IMAGE = re.compile(r"(data:[\w.+/-]{1,80};base64,)[A-Za-z0-9+/=]+")
_PROSE, _CODE = ("markdown", "raw", "heading", "html"), "code"


def is_notebook(name: str) -> bool:
    """Check whether a file is a notebook by its name.

    >>> is_notebook("a/b.ipynb"), is_notebook("a/b.py")
    (True, False)
    """
    return name.lower().endswith(".ipynb")


def read(raw: bytes) -> tuple[str, str]:
    r"""Return the text of a notebook of format 3 or 4, and its language.

    >>> cells = [{"cell_type": "markdown", "source": ["# One\n", "two"]}, {"cell_type": "code", "source": "x = 1"}]
    >>> read(json.dumps({"nbformat": 4, "metadata": {}, "cells": cells}).encode())
    ('# # One\n# two\n\nx = 1\n', 'Python')

    Raises:
        ValueError: it is not a notebook.
    """
    try:
        notebook = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a notebook: not JSON: {error}") from None
    if not isinstance(notebook, dict):
        raise ValueError(f"not a notebook: a {type(notebook).__name__}, not an object")  # noqa: TRY004 - a fact about the data
    cells = list(_cells(notebook))
    kernel = _kernel(notebook)
    comment = _COMMENT.get(kernel) if any(kind == _CODE for kind, _ in cells) else None
    if comment is None:
        parts = [_fenced(text, kernel) if kind == _CODE else text for kind, text in cells]
    else:
        code = _without_magics if kernel == "python" else _unchanged
        parts = [code(text) if kind == _CODE else _commented(text, comment) for kind, text in cells]
    text = "".join(part + "\n\n" for part in parts if part.strip())
    text.encode()
    return (text[:-1], "Markdown" if comment is None else _linguist(kernel))


def _cells(notebook: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    version = notebook.get("nbformat")
    if version not in (3, 4):
        raise ValueError(f"not a notebook: nbformat is {str(version)[:40]}, not 3 or 4")
    groups = [notebook] if version == 4 else notebook.get("worksheets")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError("not a notebook: no worksheets")
    number = 0
    for group in groups:
        cells = group.get("cells")
        if not isinstance(cells, list):
            raise ValueError("not a notebook: no cells")  # noqa: TRY004 - a fact about the data
        for cell in cells:
            number += 1
            yield _cell(cell, number)


def _cell(cell: Any, number: int) -> tuple[str, str]:
    kind = cell.get("cell_type") if isinstance(cell, dict) else None
    if kind not in (*_PROSE, _CODE):
        raise ValueError(f"not a notebook: cell {number} is neither code nor text")
    source = cell.get("source", cell.get("input") if kind == _CODE else None)
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise ValueError(f"not a notebook: cell {number} has no source")  # noqa: TRY004 - a fact about the data
    source = source.replace("\r\n", "\n").strip("\n")
    if kind == _CODE:
        return kind, source
    level = cell.get("level")
    heading = "#" * level + " " if kind == "heading" and isinstance(level, int) and 1 <= level <= 6 else ""
    return "markdown", heading + _IMAGE.sub(r"\1", source)


def _kernel(notebook: Mapping[str, Any]) -> str:
    """Return the language of the kernel in lower case; Python where the notebook does not say it."""
    metadata = notebook.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    places = (("language_info", "name"), ("kernelspec", "language"), ("kernelspec", "name"))
    for place, key in places:
        stated = metadata.get(place)
        name = stated.get(key) if isinstance(stated, dict) else None
        if isinstance(name, str) and name:
            name = _ALIASES.get(name.lower(), name.lower())
            if key != "name" or place == "language_info" or name in _COMMENT:
                return name
    return DEFAULT_LANGUAGE


def _linguist(kernel: str) -> str:
    return next(name for name in language.known() if name.lower() == kernel)


def _unchanged(source: str) -> str:
    return source


def _without_magics(source: str) -> str:
    """Return a code cell with magics as comments; a cell magic such as `%%bash` makes a comment of the cell."""
    if source.startswith("%%"):
        return _commented(source, "#")
    return _MAGIC.sub(lambda magic: _commented(magic[0].lstrip(), "#"), source)


def _commented(source: str, comment: str) -> str:
    return "\n".join(f"{comment} {line}".rstrip() for line in source.split("\n")) if source.strip() else ""


def _fenced(source: str, kernel: str) -> str:
    longest = max(map(len, re.findall("`+", source)), default=0)
    fence = "`" * max(3, longest + 1)
    name = re.sub(r"[^\w+#.-]", "", kernel)
    return f"{fence}{name}\n{source}\n{fence}" if source.strip() else ""
