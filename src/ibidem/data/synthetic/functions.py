r"""Small, documented, self-contained functions of Python documents: what traces are made of.

    import re                                    Function("slug", setup=("import re",), summary="Return a slug ...")

    def slug(title, sep="-"):                    code: with its docstring, as written; bare: without it
        '''Return a slug of a title.'''
        return sep.join(re.findall(r"\w+", title.lower()))

A function is self-contained if every name that it takes from its module is a builtin, an import of a module of the
standard library that neither reads nor writes anything, or a constant: a literal, or a pattern of `re.compile`.
"""

import ast
import builtins
import inspect
import re
import symtable
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

LEAST_LINES, MOST_LINES = 3, 30
MOST_CHARS = 1600
MOST_CONSTANT_LINES = 8
MOST_SUMMARY_CHARS = 240
MOST_DOCUMENT_CHARS = 200_000

PURE_MODULES = frozenset(
    {
        *(
            "__future__",
            "base64",
            "binascii",
            "bisect",
            "cmath",
            "collections",
            "colorsys",
            "copy",
            "decimal",
            "difflib",
        ),
        *("fractions", "functools", "hashlib", "heapq", "html", "itertools", "json", "keyword", "math", "numbers"),
        *(
            "operator",
            "re",
            "statistics",
            "string",
            "struct",
            "textwrap",
            "typing",
            "unicodedata",
            "urllib.parse",
            "zlib",
        ),
    }
)
_BUILTINS = frozenset(dir(builtins)) - {"open", "input", "exec", "eval", "compile", "__import__", "breakpoint", "exit"}
_UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|deprecated", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z`])")


class Source(NamedTuple):
    """The document that a function comes from: columns of its row in the dataset."""

    sha256: str
    record: str
    license: str | None = None
    repo: str | None = None
    path: str | None = None
    url: str | None = None
    revision: str | None = None


class Parameter(NamedTuple):
    """A parameter of a function; annotation and default as written, empty if there is none."""

    name: str
    annotation: str
    default: str
    meaning: str
    """What the docstring says of it; empty if nothing."""


class Function(NamedTuple):
    """A function of a document."""

    name: str
    setup: tuple[str, ...]
    """The statements of its module that it needs: imports, then constants."""
    code: str
    bare: str
    """The code without the docstring."""
    docstring: str
    summary: str
    """The first sentence of the docstring."""
    parameters: tuple[Parameter, ...]
    returns: str
    """What the docstring says of the returned value; empty if nothing."""
    source: Source

    @property
    def key(self) -> str:
        """Identify it: document and name."""
        return f"{self.source.sha256}:{self.name}"

    @property
    def program(self) -> str:
        """Its code after the statements that it needs."""
        return self.after_setup(self.code)

    def after_setup(self, code: str) -> str:
        """Return code after the statements that it needs."""
        return "\n".join([*self.setup, *([""] * 2 if self.setup else []), code])


def functions(text: str, source: Source) -> Iterator[Function]:
    """Yield the functions of a Python document, from top to bottom; none if it cannot be parsed."""
    if len(text) > MOST_DOCUMENT_CHARS:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = text.splitlines()
    bindings = _imports(tree) | _constants(tree)
    seen: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name not in seen and _is_simple(node):
            seen.add(node.name)
            made = _function(node, lines, bindings, source)
            if made is not None:
                yield made


def _imports(tree: ast.Module) -> dict[str, str]:
    """Return the statement that imports each name from a pure module."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                if alias.name in PURE_MODULES and (alias.asname or "." not in alias.name):
                    found[bound] = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in PURE_MODULES:
            for alias in node.names:
                renamed = f" as {alias.asname}" if alias.asname else ""
                found[alias.asname or alias.name] = f"from {node.module} import {alias.name}{renamed}"
    return found


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the statement that binds each name of a module to a constant, if it is bound once."""
    found: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            is_short = (node.end_lineno or node.lineno) - node.lineno < MOST_CONSTANT_LINES
            statements = [ast.unparse(node)] if is_short and _is_constant(node.value) else ["", ""]
            found.setdefault(node.targets[0].id, []).extend(statements)
    return {name: statements[0] for name, statements in found.items() if len(statements) == 1}


def _is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile":
        return len(node.args) == 1 and not node.keywords and isinstance(node.args[0], ast.Constant)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return bool(value) or not isinstance(value, list | dict | set)  # an empty one will be filled


def _is_simple(node: ast.FunctionDef) -> bool:
    """Check for a documented function without decorators, generators, nonlocal effects and starred parameters."""
    arguments = node.args
    if node.decorator_list or arguments.vararg or arguments.kwarg or node.name.startswith(("__", "test")):
        return False
    if node.end_lineno is None or not LEAST_LINES <= node.end_lineno - node.lineno + 1 <= MOST_LINES:
        return False
    refused = (ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom)
    return len(node.body) > 1 and not any(isinstance(each, refused) for each in ast.walk(node))


def _function(node: ast.FunctionDef, lines: list[str], bindings: Mapping[str, str], source: Source) -> Function | None:
    docstring = ast.get_docstring(node)
    first, last = node.lineno - 1, node.end_lineno or node.lineno
    code = textwrap.dedent("\n".join(line.rstrip() for line in lines[first:last]))
    if docstring is None or len(code) > MOST_CHARS or _UNFINISHED.search(code) or "\t" in code:
        return None
    expression = node.body[0]
    start, end = expression.lineno - 1, expression.end_lineno or expression.lineno
    if start == first or node.body[1].lineno <= end:
        return None
    bare = textwrap.dedent("\n".join(line.rstrip() for line in [*lines[first:start], *lines[end:last]]))
    summary = _summary(docstring)
    needed = _needed(code, node.name, bindings)
    if summary is None or needed is None:
        return None
    sections = _sections(docstring)
    return Function(
        name=node.name,
        setup=needed,
        code=code,
        bare=re.sub(r"(:)\n\n+", r"\1\n", bare, count=1),
        docstring=docstring,
        summary=summary,
        parameters=tuple(_parameters(node.args, sections)),
        returns=sections.get("return", ""),
        source=source,
    )


def _needed(code: str, name: str, bindings: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the statements that a function needs, imports first; None if it takes anything else from its module."""
    taken: dict[str, None] = {}
    open_names = sorted(_outside(code) - {name})
    while open_names:
        each = open_names.pop()
        if each not in bindings:
            return None
        if each not in taken:
            taken[each] = None
            open_names += sorted(_outside(bindings[each]) - {each})
    statements = {bindings[each] for each in taken}
    return tuple(sorted(statements, key=lambda statement: (not statement.startswith(("import ", "from ")), statement)))


def _outside(code: str) -> set[str]:
    """Return the names that code takes from its module and that are not builtins."""
    tables = [symtable.symtable(code, "code", "exec")]
    names: set[str] = set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        names.update(
            symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()
        )
    return names - _BUILTINS


def _summary(docstring: str) -> str | None:
    r"""Return the first sentence of a docstring; None if it is no sentence.

    >>> _summary("Return the\nmean of values. Slow.")
    'Return the mean of values.'
    """
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    sentence = _SENTENCE_END.split(paragraph)[0].strip()
    is_sentence = len(sentence.split()) >= 3 and sentence[:1].isupper() and sentence.isascii()
    if not is_sentence or len(sentence) > MOST_SUMMARY_CHARS or re.search(r"[:>@<]\s|::|>>>|https?:", sentence + " "):
        return None
    return sentence.rstrip(".:;,") + "."


_FIELD = re.compile(
    r"^\s*:(?:param|arg|parameter)\s+(?:[\w\[\], .|]+\s)?\*{0,2}(\w+):\s*(.+?)(?=\n\s*:|\n\s*\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
_RETURN_FIELD = re.compile(r"^\s*:returns?:\s*(.+?)(?=\n\s*:|\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
_GOOGLE = re.compile(r"^(Args|Arguments|Parameters|Returns):[ ]*\n((?:[ ]+.*(?:\n|\Z)|\n(?=[ ]))+)", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s+(.+(?:\n[ ]+.+)*)", re.MULTILINE)
_NUMPY = re.compile(r"^(Parameters|Returns)\n-{4,}\n(.+?)(?=\n\s*\n\w[\w ]*\n-{4,}|\Z)", re.MULTILINE | re.DOTALL)
_NUMPY_ENTRY = re.compile(r"^(\w+)(?: *:.*)?\n((?:[ ]+.+(?:\n|\Z))+)", re.MULTILINE)


def _sections(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each parameter and of `return`, in the styles of Sphinx, Google and NumPy."""
    docstring = inspect.cleandoc(docstring)
    found = dict(_FIELD.findall(docstring))
    if field := _RETURN_FIELD.search(docstring):
        found["return"] = field[1]
    for title, body in _GOOGLE.findall(docstring):
        dedented = textwrap.dedent(body)
        if title == "Returns":
            found["return"] = dedented.split("\n\n")[0]
        else:
            found |= dict(_ENTRY.findall(dedented))
    for title, body in _NUMPY.findall(docstring):
        entries = _NUMPY_ENTRY.findall(body)
        found |= (
            {"return": entries[0][1]} if title == "Returns" and entries else dict(entries if title != "Returns" else ())
        )
    cleaned = {name: " ".join(meaning.split()) for name, meaning in found.items()}
    return {name: meaning for name, meaning in cleaned.items() if 2 < len(meaning) <= MOST_SUMMARY_CHARS}


def _parameters(arguments: ast.arguments, sections: Mapping[str, str]) -> Iterator[Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = [*zip(positional, [*defaults, *arguments.defaults], strict=True)]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument, default in pairs:
        annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
        written = "" if default is None else ast.unparse(default)
        yield Parameter(argument.arg, annotation, written, sections.get(argument.arg, ""))
