"""Calls of a function with arguments that its parameters suggest, and tests made of what they return."""

import ast
import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ibidem.data.synthetic.functions import Function, Parameter

MOST_RESULT_CHARS = 160

_VALUES: dict[str, tuple[Any, ...]] = {
    "int": (3, 0, 1, 7, 10, 2, -4, 255, 12),
    "float": (2.5, 0.0, 1.0, -3.75, 100.0, 0.1),
    "bool": (True, False),
    "str": (
        "Hello, World", "", "abc", "a_b-c", "alpha beta gamma", "12", "  padded  ", "x=1; y=2", "CamelCase",
        "a/b/c.txt",
        "2024-03-09", "1.2.3", "key: value", "<b>bold</b>", "line one\nline two", "#ff8800",
    ),
    "bytes": (b"abc", b"", b"\x00\xff", b"hello world"),
    "list": ([3, 1, 2], [], [1, 2, 2, 5], ["b", "a", "c"], [[1, 2], [3]], ["x"], [10, 20, 30, 40]),
    "tuple": ((3, 1, 2), (), (1, 4), ("a", "b"), (0, 0)),
    "dict": ({"a": 1, "b": 2}, {}, {"x": "1"}, {"name": "n", "size": 3}),
    "set": ({1, 2, 3}, set(), {"a"}),
    "none": (None,),
}  # fmt: skip
_BY_ANNOTATION = (
    ("bytes", r"\bbytes\b"),
    ("dict", r"\b[Dd]ict\b|Mapping"),
    ("tuple", r"\b[Tt]uple\b"),
    ("set", r"\b(?:Frozen)?[Ss]et\b"),
    ("list", r"\b[Ll]ist\b|Sequence|Iterable|Collection"),
    ("str", r"\bstr\b|AnyStr|Text"),
    ("bool", r"\bbool\b"),
    ("float", r"\bfloat\b"),
    ("int", r"\bint\b"),
)
_BY_NAME = (
    ("bool", r"^(?:is|has|use|do|allow|with|no|ignore|strict|include|keep)(?:_|$)|_flag$"),
    (
        "list",
        r"(?:list|items|values|array|seq|sequence|lines|words|parts|args|iterable|tokens|numbers|names|xs|ls)$|^lst",
    ),
    ("dict", r"(?:dict|mapping|map|kwargs|options|params|headers|attrs|config|data)$|^d$"),
    ("tuple", r"(?:pair|shape|point|coords?|rgb|bbox|size)$"),
    ("bytes", r"bytes|^raw|buf"),
    (
        "int",
        r"^[nikmjxyabcvwrghps]$|num|count|index|idx|width|height|length|offset|pos|^max|^min|year|month|day|bits|port",
    ),
    ("float", r"ratio|alpha|beta|gamma|rate|factor|seconds|temp|weight|float|angle|frac"),
    ("str", r"."),
)


class Case(NamedTuple):
    """A call that returned a plain value: its arguments, and the value, both as Python writes them."""

    arguments: str
    result: str


def kind_of(parameter: Parameter) -> str:
    """Return the kind of value that a parameter suggests, by annotation, default or name.

    >>> kind_of(Parameter("count", "", "", "")), kind_of(Parameter("x", "list[int]", "", ""))
    ('int', 'list')
    """
    written = next((kind for kind, pattern in _BY_ANNOTATION if re.search(pattern, parameter.annotation)), None)
    if written is not None:
        return written
    if parameter.default:
        default = type(ast.literal_eval(parameter.default)).__name__ if _is_literal(parameter.default) else "str"
        if default in _VALUES:
            return default
    return next(kind for kind, pattern in _BY_NAME if re.search(pattern, parameter.name.lower()))


def arguments(function: Function, rng: random.Random, number: int) -> list[str]:
    """Return the arguments of so many different calls, as Python writes them; fewer if there are fewer."""
    required = [each for each in function.parameters if not each.default]
    optional = [each for each in function.parameters if each.default and kind_of(each) in {"bool", "int"}][:1]
    made: dict[str, None] = {}
    for attempt in range(6 * number):
        kinds = [_kind(each, attempt, rng) for each in required]
        given = [repr(rng.choice(_VALUES[kind])) for kind in kinds]
        given += [f"{each.name}={rng.choice(_VALUES[kind_of(each)])!r}" for each in optional if attempt % 4 == 3]
        made.setdefault(", ".join(given))
        if len(made) == number or not function.parameters:
            break
    return list(made)


def _kind(parameter: Parameter, attempt: int, rng: random.Random) -> str:
    """Return the suggested kind, and now and then another one: names mislead."""
    kind = kind_of(parameter)
    if attempt % 3 < 2 or parameter.annotation:
        return kind
    return rng.choice(("str", "int", "list"))


def _is_literal(code: str) -> bool:
    try:
        ast.literal_eval(code)
    except (ValueError, TypeError, SyntaxError):
        return False
    return True


_PROBE = """results = []
for call in [
{calls}
]:
    try:
        results.append(repr(call()))
    except Exception:
        results.append(None)
results = repr(results)
raise ValueError(results)"""
_REPORTED = re.compile(r"ValueError: (.*) at raise ValueError\(results\)", re.DOTALL)


def probe(name: str, given: Sequence[str]) -> str:
    """Return tests that report what calls return in the verdict: no value leaves the judge otherwise."""
    return _PROBE.format(calls="\n".join(f"    lambda: {name}({arguments})," for arguments in given))


def read_probe(detail: str, given: Sequence[str]) -> list[Case] | None:
    """Return the calls that returned plain values, as a probe reported them; None if its report was cut.

    >>> read_probe("ValueError: ['[1, 2]', None] at raise ValueError(results)", ["2", "-1"])
    [Case(arguments='2', result='[1, 2]')]
    """
    match = _REPORTED.fullmatch(detail)
    if match is None or not _is_literal(match[1]):
        return None
    results = ast.literal_eval(match[1])
    pairs = zip(given, results, strict=True)
    return [Case(arguments, result) for arguments, result in pairs if result is not None and _is_plain(result)]


def _is_plain(result: str) -> bool:
    """Check for a short literal that equals itself, which NaN does not, and is written as Python would."""
    if len(result) > MOST_RESULT_CHARS or not _is_literal(result):
        return False
    value = ast.literal_eval(result)
    return bool(value == ast.literal_eval(repr(value))) and repr(value) == result


def is_telling(cases: Sequence[Case]) -> bool:
    """Check whether calls show what a function does: at least two, with at least two different results."""
    return len({case.result for case in cases}) >= 2


def tests(name: str, cases: Sequence[Case]) -> str:
    """Return assertions, a line for each call.

    >>> tests("inc", [Case("1", "2")])
    'assert inc(1) == 2'
    """
    return "\n".join(f"assert {name}({case.arguments}) == {case.result}" for case in cases)
