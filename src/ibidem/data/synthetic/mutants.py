"""Mutants of a function: copies with one small fault, as people make them.

    compare     a < b          a <= b
    arithmetic  a + b          a - b
    constant    xs[1:]         xs[2:]
    boundary    range(n)       range(n - 1)
    logic       a and b        a or b
    negation    not a          a
    arguments   f(a, b)        f(b, a)
    result      return xs      return xs[1:]

Source: Jia and Harman 2011 "An analysis and survey of the development of mutation testing", table 4 (the operators of
Mothra, restricted to those that Python has).
"""

import ast
import copy
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

Change = Callable[[ast.AST], ast.AST | None]
"""Returns the changed node, or None where the operator does not apply; the node may be changed in place."""

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


class Mutant(NamedTuple):
    """A copy of a function with one fault."""

    operator: str
    before: str
    """The expression or statement that was changed, as it was."""
    after: str
    code: str
    """The whole function with the fault."""
    original: str
    """The function in the same formatting, without the fault."""


def mutants(code: str) -> list[Mutant]:
    """Return every mutant of a function, in the order of its code."""
    tree = ast.parse(code)
    fixed = _fixed(tree)
    original = ast.unparse(tree)
    made: dict[str, Mutant] = {}
    for number, node in enumerate(ast.walk(tree)):
        if node in fixed:
            continue
        for operator, change in OPERATORS.items():
            mutant = _mutated(tree, number, operator, change)
            if mutant is not None and mutant.code != original:
                made.setdefault(mutant.code, mutant._replace(original=original))
    return list(made.values())


def some(code: str, rng: random.Random, most: int) -> Iterator[Mutant]:
    """Yield at most so many mutants, of different operators first."""
    groups: dict[str, list[Mutant]] = {}
    for mutant in mutants(code):
        groups.setdefault(mutant.operator, []).append(mutant)
    for group in groups.values():
        rng.shuffle(group)
    names = sorted(groups)
    rng.shuffle(names)
    count = 0
    while count < most and names:
        for name in list(names):
            yield groups[name].pop()
            count += 1
            if not groups[name]:
                names.remove(name)
            if count == most:
                return


def _fixed(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes that no call depends on: the docstring and annotations."""
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    roots: list[ast.AST | None] = [function.body[0]] if ast.get_docstring(function) is not None else []
    for node in ast.walk(function):
        roots += [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return {node for root in roots if root is not None for node in ast.walk(root)}


def _mutated(tree: ast.Module, number: int, operator: str, change: Change) -> Mutant | None:
    fresh = copy.deepcopy(tree)
    node = list(ast.walk(fresh))[number]
    before = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else ""
    changed = change(node)
    if changed is None or not before:
        return None
    whole = fresh if changed is node else ast.fix_missing_locations(_Replace(node, changed).visit(fresh))
    return Mutant(operator, before, ast.unparse(changed), ast.unparse(whole), "")


class _Replace(ast.NodeTransformer):
    """Replaces one node of a tree."""

    def __init__(self, node: ast.AST, by: ast.AST) -> None:
        self._node, self._by = node, by

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._node:
            return self._by
        return self.generic_visit(node)


def _compare(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Compare) or type(node.ops[0]) not in _COMPARISONS:
        return None
    node.ops[0] = _COMPARISONS[type(node.ops[0])]()
    return node


def _arithmetic(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.BinOp) or type(node.op) not in _ARITHMETIC:
        return None
    if any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (node.left, node.right)):
        return None
    node.op = _ARITHMETIC[type(node.op)]()
    return node


def _constant(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Constant):
        return None
    if isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node.value, int):
        node.value += 1
    elif isinstance(node.value, str) and node.value and node.value.isspace():
        node.value = ""
    else:
        return None
    return node


def _boundary(node: ast.AST) -> ast.AST | None:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"range", "len"}):
        return None
    if node.func.id == "len":
        return ast.BinOp(node, ast.Sub(), ast.Constant(1))
    place = min(1, len(node.args) - 1)
    node.args[place] = ast.BinOp(node.args[place], ast.Sub(), ast.Constant(1))
    return node


def _logic(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.BoolOp):
        return None
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return node


def _negation(node: ast.AST) -> ast.AST | None:
    return node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) else None


def _arguments(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Call) or len(node.args) != 2 or any(isinstance(a, ast.Starred) for a in node.args):
        return None
    node.args.reverse()
    return node


def _result(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Return) or not isinstance(node.value, ast.Name):
        return None
    node.value = ast.Subscript(node.value, ast.Slice(lower=ast.Constant(1)), ast.Load())
    return node


OPERATORS: dict[str, Change] = {
    "compare": _compare,
    "arithmetic": _arithmetic,
    "constant": _constant,
    "boundary": _boundary,
    "logic": _logic,
    "negation": _negation,
    "arguments": _arguments,
    "result": _result,
}
