"""What the statements of a function do, in words: numbered steps for traces that reason aloud."""

import ast
from collections.abc import Iterator, Sequence

MOST_STEPS = 14
_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "Add {value} to {target}",
    ast.Sub: "Subtract {value} from {target}",
    ast.Mult: "Multiply {target} by {value}",
    ast.Div: "Divide {target} by {value}",
    ast.FloorDiv: "Divide {target} by {value}, rounding down",
    ast.Mod: "Replace {target} by its remainder modulo {value}",
}
_MOST_INLINE = 90


def steps(code: str) -> list[str] | None:
    r"""Return the steps of a function as the lines of a numbered list; None if there are too many, or one is too long.

    >>> steps("def f(x):\n    y = x + 1\n    return y")
    ['1. Set `y` to `x + 1`.', '2. Return `y`.']
    """
    (function,) = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    lines = list(_block(body, "", ""))
    return lines if 2 <= len(lines) <= MOST_STEPS and all(len(line) < 200 for line in lines) else None


def remarks(code: str) -> list[str]:
    """Return what is worth knowing of a function besides its steps: what it raises, recursion, changed arguments."""
    (function,) = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)
    nodes = list(ast.walk(function))
    raised = [_exception(node.exc) for node in nodes if isinstance(node, ast.Raise) and node.exc is not None]
    found = [f"It can raise {_listed([f'`{name}`' for name in dict.fromkeys(raised)])}."] if raised else []
    calls = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    if function.name in calls:
        found.append("It calls itself for the parts of its input.")
    if not any(isinstance(node, ast.Return) and node.value is not None for node in nodes):
        found.append("It returns nothing.")
    return found


def _block(body: Sequence[ast.stmt], prefix: str, indent: str) -> Iterator[str]:
    number = 0
    for statement in body:
        number += 1
        yield f"{indent}{prefix}{number}. {_sentence(statement)}"
        for opening, inside in _inside(statement):
            if opening:
                number += 1
                yield f"{indent}{prefix}{number}. {opening}"
            yield from _block(inside, f"{prefix}{number}.", indent + "   ")


def _sentence(statement: ast.stmt) -> str:  # noqa: C901, PLR0912 - a table of statements
    match statement:
        case ast.Assign(targets=[target], value=value):
            return f"Set {_code(target)} to {_code(value)}."
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            return f"Set {_code(target)} to {_code(value)}."
        case ast.AugAssign(target=target, op=operator, value=value):
            form = _OPERATORS.get(type(operator), "Update {target} with {value}")
            return form.format(target=_code(target), value=_code(value)) + "."
        case ast.Return(value=None):
            return "Return without a value."
        case ast.Return(value=value):
            return f"Return {_code(value)}."
        case ast.If(test=test):
            return f"If {_code(test)} is true:"
        case ast.For(target=target, iter=values):
            return f"For each {_code(target)} in {_code(values)}:"
        case ast.While(test=test):
            return f"As long as {_code(test)} is true:"
        case ast.Raise(exc=ast.expr() as exception):
            return f"Raise `{_exception(exception)}`."
        case ast.Try():
            return "Try the following:"
        case ast.With(items=items):
            return f"Within {_listed([_code(item.context_expr) for item in items])}:"
        case ast.FunctionDef(name=name):
            return f"Define the helper `{name}`."
        case ast.Expr(value=ast.Call() as call):
            return f"Call {_code(call)}."
        case ast.Break():
            return "Leave the loop."
        case ast.Continue():
            return "Go on with the next round."
        case ast.Assert(test=test):
            return f"Make sure that {_code(test)} is true."
        case _:
            return f"Execute {_code(statement)}."


def _inside(statement: ast.stmt) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Yield the blocks of a statement, each after its opening words; the first block follows the statement itself."""
    match statement:
        case ast.If(body=body, orelse=[ast.If() as other]):
            yield "", body
            yield f"Otherwise, if {_code(other.test)} is true:", other.body
            yield from list(_inside(other))[1:]
        case ast.If(body=body, orelse=otherwise):
            yield "", body
            yield from [("Otherwise:", otherwise)] if otherwise else []
        case ast.For(body=body, orelse=otherwise) | ast.While(body=body, orelse=otherwise):
            yield "", body
            yield from [("If the loop was not left early:", otherwise)] if otherwise else []
        case ast.With(body=body) | ast.FunctionDef(body=body):
            yield "", body
        case ast.Try(body=body, handlers=handlers, orelse=otherwise, finalbody=last):
            yield "", body
            for handler in handlers:
                kind = "an exception" if handler.type is None else _code(handler.type)
                yield f"If {kind} is raised:", handler.body
            yield from [("If nothing was raised:", otherwise)] if otherwise else []
            yield from [("In any case:", last)] if last else []


def _exception(node: ast.expr | None) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node) if node is not None else ""


def _code(node: ast.AST | None) -> str:
    written = " ".join(ast.unparse(node).split()) if node is not None else ""
    return f"`{written}`" if "`" not in written else f"`` {written} ``"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
