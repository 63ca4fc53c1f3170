"""The page of the Python interface, written from the docstrings of `ibidem.api`."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise

import ibidem
from ibidem import api

SECTION = re.compile(r"^(Args|Returns|Raises):\n", re.MULTILINE)
MOST_CHARS = 100
TITLES = {"Args": "Arguments", "Returns": "Returns", "Raises": "Raises"}


def page() -> str:
    """Return the page: what the module says, then every name."""
    about = inspect.cleandoc(api.__doc__ or "")
    title, _, rest = about.partition("\n\n")
    parts = ["# Python", title, *_blocks(rest)]
    for name in ibidem.__all__:
        parts += _described(name)
    return "\n\n".join(parts) + "\n"


def _blocks(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring; indented ones are code."""
    for block in re.split(r"\n\n(?=\S)", text):
        is_code = block.startswith("    ")
        yield f"```python\n{inspect.cleandoc(block)}\n```" if is_code else block


def _described(name: str) -> Iterator[str]:
    module = import_module(getattr(ibidem, name).__module__)
    (node,) = (
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
    )
    yield f"## {name}"
    if isinstance(node, ast.FunctionDef):
        yield f"```python\nibidem.{_signature(node)}\n```"
        yield from _sections(node)
        return
    yield ast.get_docstring(node) or ""
    yield "\n".join(f"* `{member}`: {' '.join(SECTION.split(text)[0].split())}" for member, text in _members(node))


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {_typed(node.returns)}" if node.returns else ""
    line = f"{node.name}({_arguments(node)}){returns}"
    if len(line) <= MOST_CHARS:
        return line
    keywords = [f"{each.arg}: {_typed(each.annotation)}{_default(default)}" for each, default in _keywords(node)]
    places = [f"{each.arg}: {_typed(each.annotation)}" for each in node.args.args]
    arguments = [*places, *(["*", *keywords] if keywords else [])]
    return f"{node.name}(\n" + "".join(f"    {each},\n" for each in arguments) + f"){returns}"


def _keywords(node: ast.FunctionDef) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    return zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)


def _default(default: ast.expr | None) -> str:
    return "" if default is None else f" = {ast.unparse(default)}"


def _arguments(node: ast.FunctionDef) -> str:
    """Write the arguments of a function or method, in the usual spacing."""
    text = ast.unparse(node.args).replace("'", "")
    return re.sub(r"(: [^,=]+)=", r"\1 = ", re.sub(r"^(self|cls)(, )?", "", text))


def _typed(annotation: ast.expr | None) -> str:
    return ast.unparse(annotation).replace("'", "") if annotation else ""


def _members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the public attributes, properties and methods with their docstrings."""
    for member, following in pairwise([*node.body, None]):
        if isinstance(member, ast.AnnAssign) and isinstance(following, ast.Expr):
            yield ast.unparse(member.target), ast.literal_eval(following.value)
        elif isinstance(member, ast.FunctionDef) and (text := ast.get_docstring(member)):
            is_property = any(ast.unparse(each).endswith("property") for each in member.decorator_list)
            yield member.name if is_property else f"{member.name}({_arguments(member)})", text


def _sections(node: ast.FunctionDef) -> Iterator[str]:
    first, *sections = SECTION.split(ast.get_docstring(node) or "")
    yield first.strip()
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        entries = re.sub(r"\n\s{5,}", " ", inspect.cleandoc(text)).splitlines()
        items = [re.sub(r"^(\w+): ", r"`\1`: ", entry.strip()) for entry in entries if entry.strip()]
        yield f"{TITLES[name]}:\n\n" + "\n".join(f"* {item}" for item in items)
