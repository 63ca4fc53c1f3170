"""Problems that are reserved for evaluation: MBPP's test split and HumanEval, recognized by what they say.

A copy may have other numbers, other names and another format. What is compared:

    statement      its words, without `Write a function to`; of HumanEval's prompts the docstring too
    assertion      its syntax tree: names by their order, the function's answer on the left, `== True` left out

A statement decides alone, and so does an assertion with enough to say. Short ones, such as `assert f(2) == 4`, occur in
many problems: they decide if all those of a problem are of one that is reserved, or the other way round. They
must be at least three, or two with literals that say enough.

`reserved.json`, beside this file, has the fingerprints; `scripts/fingerprints.py` writes it.
"""

import ast
import doctest
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import NamedTuple

MBPP, HUMAN_EVAL = "MBPP's test split", "HumanEval"
TELLING_CHARS, TELLING_CHARS_NAMED = 60, 12
"""Characters of the literals in an assertion from which it decides alone; and if the function has its own name."""
FEWEST_SHARED, FEWEST_SHARED_TELLING = 3, 2
"""Assertions that decide together, at least; and if the literals of those shared have `TELLING_CHARS_TOGETHER`."""
TELLING_CHARS_TOGETHER = 6
_HEX_DIGITS = 12
_LEAD = re.compile(
    r"(?:please )?(?:write|create|implement|define|make)(?: me)?(?: a| the)?(?: python)? (?:function|program|code)"
    r"(?: (?:named|called) \w+)? (?:to|that|which|for) "
)
"""How statements begin, whatever they ask for."""
_EXAMPLES = re.compile(r">>>|\n\s*(?:for )?examples?\b|\n\s*assert\b", re.IGNORECASE)


class Fingerprints(NamedTuple):
    """What identifies a problem."""

    certain: frozenset[str]
    """Each decides alone."""
    assertions: frozenset[str]
    """All of them decide."""


class Reserved:
    """The problems that are reserved for evaluation."""

    def __init__(self, known: Mapping[str, Mapping[str, Fingerprints]]) -> None:
        """Index fingerprints by benchmark and problem."""
        problems = [(name, each) for name, problems in known.items() for each in problems.values()]
        self._names = [name for name, _ in problems]
        self._sizes = [len(each.assertions) for _, each in problems]
        self._certain = {mark: name for name, each in problems for mark in each.certain}
        self._owners: dict[str, list[int]] = {}
        for number, (_, each) in enumerate(problems):
            for mark in each.assertions:
                self._owners.setdefault(mark, []).append(number)

    def benchmark_of(self, statements: Iterable[str], tests: Iterable[str]) -> str | None:
        """Return the benchmark that a problem is of; None if it is of none."""
        tests = list(tests)
        marks, sizes = fingerprints(statements, tests), _sizes(tests)
        certain = next((self._certain[mark] for mark in sorted(marks.certain) if mark in self._certain), None)
        if certain is not None:
            return certain
        shared, told = Counter[int](), Counter[int]()
        for mark in marks.assertions:
            for number in self._owners.get(mark, ()):
                shared[number] += 1
                told[number] += sizes[mark]
        alike = (
            number
            for number, count in sorted(shared.items())
            if count in {len(marks.assertions), self._sizes[number]}
            and count >= (FEWEST_SHARED_TELLING if told[number] >= TELLING_CHARS_TOGETHER else FEWEST_SHARED)
        )
        return next((self._names[number] for number in alike), None)


@cache
def reserved() -> Reserved:
    """Return the problems that ship with the program."""
    known = json.loads(PATH.read_text(encoding="utf-8"))
    return Reserved({name: {key: _read(text) for key, text in problems.items()} for name, problems in known.items()})


PATH = Path(__file__).with_suffix(".json")


def write(known: Mapping[str, Mapping[str, Fingerprints]]) -> str:
    """Return the content of the file of fingerprints."""
    rows = {
        name: {key: "|".join(" ".join(sorted(marks)) for marks in each) for key, each in problems.items()}
        for name, problems in known.items()
    }
    return json.dumps(rows, indent=0, separators=(",", ":")) + "\n"


def _read(text: str) -> Fingerprints:
    certain, _, assertions = text.partition("|")
    return Fingerprints(frozenset(certain.split()), frozenset(assertions.split()))


def fingerprints(statements: Iterable[str], tests: Iterable[str]) -> Fingerprints:
    """Return what identifies a problem.

    Args:
        statements: its statement, in as many forms as there are.
        tests: sources with its assertions.
    """
    certain = {_mark("statement", words) for text in statements for words in _worded(text)}
    assertions = set()
    for named, renamed, size in chain.from_iterable(map(_forms, tests)):
        if size:
            assertions.add(_mark("assertion", renamed))
        if size >= TELLING_CHARS:
            certain.add(_mark("assertion", renamed))
        if size >= TELLING_CHARS_NAMED:
            certain.add(_mark("named", named))
    return Fingerprints(frozenset(certain), frozenset(assertions))


def _sizes(tests: Iterable[str]) -> dict[str, int]:
    """Return the size of the literals in each assertion, by its mark."""
    return {_mark("assertion", renamed): size for _, renamed, size in chain.from_iterable(map(_forms, tests))}


def normal_form(test: str) -> str:
    r"""Return what two tests share that differ only in their format, the sides of `==`, or the message.

    >>> normal_form("assert 3 == f( 2 ), 'wrong'")
    'assert f(2) == 3'
    """
    tree = _tree(test)
    if tree is None:
        return test
    try:
        return ast.unparse(_Plain().visit(tree))
    except RecursionError:
        return test


def of_prompt(prompt: str) -> list[str]:
    """Return the forms in which the statement of a prompt may occur: whole, and as docstrings."""
    return [prompt, *_docstrings(prompt)]


def examples_of(prompt: str) -> list[str]:
    """Return the examples in a docstring as assertions."""
    parser, found = doctest.DocTestParser(), []
    for text in _docstrings(prompt) or [prompt]:
        try:
            examples = parser.get_examples(text)
        except ValueError:
            continue
        found += [f"assert {each.source.strip()} == {each.want.strip()}" for each in examples if each.want.strip()]
    return found


def _mark(kind: str, text: str) -> str:
    return sha256(f"{kind}:{text}".encode(errors="surrogatepass")).hexdigest()[:_HEX_DIGITS]


def _worded(text: str) -> Iterator[str]:
    """Yield the words of a statement, and those of its prose before the first example."""
    for part in (text, _EXAMPLES.split(text, maxsplit=1)[0]):
        words = " ".join(re.findall(r"\w+", part.lower()))
        words = _LEAD.sub("", f"{words} ", count=1).strip() if _LEAD.match(words) else words
        if words:
            yield words


def _docstrings(source: str) -> list[str]:
    tree = _tree(source)
    nodes = ast.walk(tree) if tree is not None else ()
    found = (ast.get_docstring(node) for node in nodes if isinstance(node, ast.FunctionDef | ast.Module))
    return [text for text in found if text]


def _tree(source: str) -> ast.Module | None:
    """Parse a source; None if it is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


class _Renamer(ast.NodeTransformer):
    """Names names by the order in which they occur."""

    def __init__(self) -> None:
        self._order: dict[str, str] = {}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._order.setdefault(node.id, f"v{len(self._order)}"), node.ctx)


class _Plain(ast.NodeTransformer):
    """Writes each assertion in normal form, without its message."""

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        return ast.Assert(_normal(node.test), None)


def _forms(source: str) -> list[tuple[str, str, int]]:
    """Return each assertion in normal form, with its names and without, and the size of its literals."""
    tree = _tree(source)
    found = []
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Assert):
            try:
                plain = _normal(node.test)
                found.append((ast.unparse(plain), ast.unparse(_Renamer().visit(plain)), _size(plain)))
            except RecursionError:  # no benchmark nests so deeply
                continue
    return found


def _size(node: ast.AST) -> int:
    if isinstance(node, ast.expr) and _is_literal(node):
        return len(ast.unparse(node))
    return sum(map(_size, ast.iter_child_nodes(node)))


def _normal(test: ast.expr) -> ast.expr:
    r"""Return an assertion with the computed value on the left, and without comparisons to True and False.

    >>> [ast.unparse(_normal(ast.parse(text, mode="eval").body)) for text in ("3 == f(x)", "f(x) is False")]
    ['f(x) == 3', 'not f(x)']
    """
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _normal(test.operand)
        return inner.operand if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not) else _negated(inner)
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is)):
        return test
    left, right = test.left, test.comparators[0]
    if _is_literal(left) and not _is_literal(right):
        left, right = right, left
    if isinstance(right, ast.Constant) and isinstance(right.value, bool):
        return left if right.value else _negated(left)
    return ast.Compare(left, [ast.Eq()], [right])


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _is_literal(node: ast.expr) -> bool:
    return not any(isinstance(each, ast.Call | ast.Name) for each in ast.walk(node))
