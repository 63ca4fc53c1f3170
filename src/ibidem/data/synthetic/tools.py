"""Calculations with a tool: word problems of a programmer's day, answered by what the calculator returns.

They need no document; numbers and wordings are drawn.
"""

import ast
import json
import operator
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from ibidem.conversation import Part, Turn
from ibidem.data.synthetic.trace import Trace, Wording, says

CALCULATOR_TOOL = (
    'You may call a tool by writing JSON: {"name": "calculator", "arguments": {"expression": "..."}} evaluates an '
    "arithmetic expression."
)
_SYSTEM = (
    "You are a helpful assistant.",
    "You are an assistant for engineers. Use the calculator instead of computing in your head.",
    "Answer questions about numbers exactly.",
    "You help with estimates and unit conversions.",
)

Problem = tuple[str, str, str]
"""Question, expression, and the answer with `{result}`."""


def calculate(rng: random.Random) -> Trace:
    """Return a question that a calculator answers, with the call and its result; now and then a second question."""
    say = Wording(rng)
    turns = [Turn.of("system", f"{say(_SYSTEM)} {CALCULATOR_TOOL}")]
    numbers = rng.sample(range(len(PROBLEMS)), 2 if rng.random() < 0.25 else 1)
    for number in numbers:
        question, expression, answer = PROBLEMS[number](rng)
        called = {"name": "calculator", "arguments": {"expression": expression}}
        result = evaluate(expression)
        turns += [
            Turn.of("user", question),
            says(Part("tool_call", json.dumps(called))),
            Turn.of("tool", result),
            says(answer.format(result=result)),
        ]
    return Trace("calculate", tuple(turns), ".".join([say.template, *map(str, numbers)]))


def evaluate(expression: str) -> str:
    """Return the value of an arithmetic expression, exact or rounded to six places.

    >>> evaluate("7 * 6"), evaluate("1 / 3"), evaluate("2 ** 10 / 4")
    ('42', '0.333333', '256')
    """
    value = _value(ast.parse(expression, mode="eval").body)
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() as number):
            return Fraction(number)
        case ast.BinOp(left=left, op=operation, right=right):
            return Fraction(_OPERATIONS[type(operation)](_value(left), _value(right)))
        case _:
            raise ValueError(f"not arithmetic: {ast.unparse(node)}")


def _product(rng: random.Random) -> Problem:
    a, b = rng.randint(12, 999), rng.randint(12, 999)
    asked = rng.choice(("What is {a} times {b}?", "Multiply {a} by {b}.", "{a} * {b} = ?", "Compute {a} x {b} for me."))
    return asked.format(a=a, b=b), f"{a} * {b}", f"{a} times {b} is {{result}}."


def _sum(rng: random.Random) -> Problem:
    numbers = [rng.randint(100, 99_999) for _ in range(rng.randint(3, 6))]
    asked = rng.choice(("Add these up: {n}.", "What is the sum of {n}?", "The batches have {n} rows. How many in all?"))
    return asked.format(n=", ".join(map(str, numbers))), " + ".join(map(str, numbers)), "Together that is {result}."


def _storage(rng: random.Random) -> Problem:
    files, kilobytes = rng.randint(200, 90_000), rng.randint(3, 900)
    asked = rng.choice(
        (
            "We store {f} files of {k} KiB each. How many MiB is that?",
            "How much space in MiB do {f} files of {k} KiB take?",
            "A folder has {f} logs, {k} KiB each. Its size in MiB?",
        )
    )
    return asked.format(f=files, k=kilobytes), f"{files} * {kilobytes} / 1024", "They take {result} MiB."


def _transfer(rng: random.Random) -> Problem:
    gigabytes, rate = rng.randint(2, 800), rng.choice((10, 25, 40, 80, 100, 125, 250))
    asked = rng.choice(
        (
            "How many seconds does it take to copy {g} GB at {r} MB/s?",
            "Our backup is {g} GB and the line does {r} MB per second. How long does it take, in seconds?",
        )
    )
    return asked.format(g=gigabytes, r=rate), f"{gigabytes} * 1000 / {rate}", "It takes {result} seconds."


def _percent(rng: random.Random) -> Problem:
    passed, total = rng.randint(20, 400), rng.randint(401, 900)
    asked = rng.choice(("{p} of {t} tests pass. What percentage is that?", "What share is {p} of {t}, in percent?"))
    return asked.format(p=passed, t=total), f"{passed} / {total} * 100", "That is {result} percent."


def _change(rng: random.Random) -> Problem:
    before, after = rng.randint(100, 999), rng.randint(20, 99)
    asked = rng.choice(
        (
            "The request took {b} ms and now takes {a} ms. How many times faster is it?",
            "Latency went from {b} ms to {a} ms. What is the speedup?",
        )
    )
    return asked.format(b=before, a=after), f"{before} / {after}", "It is {result} times as fast."


def _remainder(rng: random.Random) -> Problem:
    total, size = rng.randint(1_000, 99_999), rng.randint(7, 512)
    asked = rng.choice(
        (
            "I split {t} rows into batches of {s}. How many rows are in the last, incomplete batch?",
            "What is {t} modulo {s}?",
            "{t} items are packed {s} to a box. How many are left over?",
        )
    )
    return asked.format(t=total, s=size), f"{total} % {size}", "{result} are left."


def _time(rng: random.Random) -> Problem:
    days, hours = rng.randint(2, 60), rng.randint(1, 23)
    asked = rng.choice(
        ("How many seconds are {d} days and {h} hours?", "Convert {d} days and {h} hours to seconds for a timeout.")
    )
    return asked.format(d=days, h=hours), f"({days} * 24 + {hours}) * 3600", "That is {result} seconds."


def _power(rng: random.Random) -> Problem:
    bits = rng.randint(9, 40)
    asked = rng.choice(("How many values fit into {b} bits?", "What is 2 to the power of {b}?", "Compute 2**{b}."))
    return asked.format(b=bits), f"2 ** {bits}", "2 to the power of " + str(bits) + " is {result}."


def _mean(rng: random.Random) -> Problem:
    numbers = [rng.randint(10, 990) for _ in range(rng.randint(3, 6))]
    asked = rng.choice(
        ("What is the mean of {n}?", "The runs took {n} ms. What is the average?", "Average {n}, please.")
    )
    expression = f"({' + '.join(map(str, numbers))}) / {len(numbers)}"
    return asked.format(n=", ".join(map(str, numbers))), expression, "The mean is {result}."


def _cost(rng: random.Random) -> Problem:
    machines, hours, cents = rng.randint(2, 64), rng.randint(5, 720), rng.randint(8, 399)
    asked = rng.choice(
        (
            "{m} machines at {c} cents an hour run for {h} hours. What does that cost, in dollars?",
            "We rent {m} servers for {h} hours, each at {c} cents per hour. The bill in dollars?",
        )
    )
    return (
        asked.format(m=machines, h=hours, c=cents),
        f"{machines} * {hours} * {cents} / 100",
        "It costs {result} dollars.",
    )


PROBLEMS: tuple[Callable[[random.Random], Problem], ...] = (
    _product,
    _sum,
    _storage,
    _transfer,
    _percent,
    _change,
    _remainder,
    _time,
    _power,
    _mean,
    _cost,
)
