"""Small programming problems made from templates: a statement, a program that solves it, and tests.

    step       one operation of a family: `add` adds 7 to x, `multiply` multiplies it by 3
    function   one step, or two of different families: add_7_times_3(x)
    exercise   the function in one of several wordings, and tests with inputs that are drawn

A constant, the argument itself, one step alone of two, or a table of the tests that are shown passes no other test. The
name of a function says all of it, and its hash decides whether it may occur in traces or in a file of problems: what a
model is tuned on is never what it is rewarded for, whatever the seeds.
"""

import ast
import random
from collections.abc import Callable, Container, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field

from ibidem import jsonl
from ibidem.config import configuration
from ibidem.conversation import Turn
from ibidem.data.synthetic.trace import OWN_LICENSE, Trace, Wording
from ibidem.data.text.clean import block
from ibidem.errors import ConfigError
from ibidem.figures import counted
from ibidem.files import write_file

Family = Literal[
    "add", "subtract", "multiply", "divide", "remainder", "power",
    "append", "prepend", "repeat", "replace", "upper", "first", "skip", "reverse", "length", "count",
    "each_add", "each_times", "above", "below", "sort", "sum", "largest", "smallest",
    "total", "difference", "product", "larger", "smaller", "join",
]  # fmt: skip
FAMILIES: tuple[Family, ...] = get_args(Family)
Steps = tuple[Annotated[int, Field(ge=1, le=2)], ...]
Side = Literal["traces", "problems"]

Value = Literal["number", "text", "list", "numbers", "texts"]
ARGUMENTS: Mapping[Value, tuple[str, ...]] = {
    "number": ("x",),
    "text": ("s",),
    "list": ("v",),
    "numbers": ("x", "y"),
    "texts": ("s", "t"),
}
SHOWN, LISTED, CHALLENGES = 2, 3, 3
"""Tests that a trace shows, those in `test_list` of a file (its last one is withheld by default), and those in
`challenge_test_list`."""
DRAWS = 40
"""Inputs drawn for the tests of a function, at most."""
ATTEMPTS = 1000
"""Functions drawn for each exercise, at most."""
_LETTERS = "abcde"
_ASK = (
    "Write a function {call} that {does}.",
    "Write {call}: it {does}.",
    "Define a function {call} which {does}.",
    "I need a function {call} that {does}.",
    "Please write {call}. It {does}.",
)


@configuration
class ProblemsConfig:
    """Write small programming problems with tests, made from templates, to a file that GRPO can learn from."""

    output: Path
    """File of JSON lines in MBPP's schema."""
    number: Annotated[int, Field(ge=1)] = 500
    """Problems to make; fewer if the families have no more functions."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of functions, wordings and inputs."""
    families: tuple[Family, ...] = FAMILIES
    """Families of operations: a problem has only operations of these."""
    steps: Steps = (1, 2)
    """How many operations a problem has: 1, 2 or either."""


class Step(NamedTuple):
    """One operation; `{}` in `does` and `code` is what it is applied to."""

    family: Family
    takes: Value
    gives: Value
    name: str
    does: str
    code: str


class Function(NamedTuple):
    """A function of one step or two."""

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """Its name, which says all that it does."""
        return "_".join(step.name for step in self.steps)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of its arguments."""
        return ARGUMENTS[self.steps[0].takes]

    @property
    def call(self) -> str:
        """Its name with its arguments."""
        return f"{self.name}({', '.join(self.arguments)})"

    @property
    def does(self) -> str:
        """What it does, in words."""
        first, *others = self.steps
        return ", then ".join([first.does.format(*self.arguments), *(step.does.format("it") for step in others)])

    @property
    def expression(self) -> str:
        """What it returns."""
        first, *others = self.steps
        code = first.code.format(*self.arguments)
        for step in others:
            code = step.code.format(f"({code})")
        return ast.unparse(ast.parse(code, mode="eval"))

    @property
    def code(self) -> str:
        """The program."""
        return f"def {self.call}:\n    return {self.expression}"

    @property
    def side(self) -> Side:
        """Where it may occur."""
        return "traces" if sha256(self.name.encode()).digest()[0] % 2 else "problems"


class Exercise(NamedTuple):
    """A problem: its statement, its solution, and its tests."""

    function: Function
    statement: str
    template: str
    """The number of the wording."""
    tests: tuple[str, ...]

    @property
    def row(self) -> dict[str, Any]:
        """The problem in MBPP's schema."""
        return {
            "task_id": self.function.name,
            "text": self.statement,
            "code": self.function.code,
            "test_setup_code": "",
            "test_list": self.tests[:LISTED],
            "challenge_test_list": self.tests[LISTED:],
            "families": [step.family for step in self.function.steps],
            "license": OWN_LICENSE,
        }


def request(statement: str, tests: Sequence[str]) -> str:
    r"""Return what a user asks: the statement, and the tests that the program must pass.

    >>> request("Write add_7(x): it adds 7 to x.", ["assert add_7(1) == 8"])
    'Write add_7(x): it adds 7 to x.\n\nTests:\nassert add_7(1) == 8'
    """
    return "\n".join([statement, "", "Tests:", *tests])


def solve(rng: random.Random, families: Sequence[Family] = FAMILIES, steps: Sequence[int] = (1, 2)) -> Trace | None:
    """Return a problem, solved; None if there is none of these families among traces."""
    found = exercise(rng, families, steps, "traces")
    if found is None:
        return None
    asked = request(found.statement, found.tests[:SHOWN])
    turns = (Turn.of("user", asked), Turn.of("assistant", block(found.function.code)))
    return Trace("solve", turns, found.template)


def exercise(
    rng: random.Random,
    families: Sequence[Family],
    steps: Sequence[int],
    side: Side,
    taken: Container[str] = frozenset(),
) -> Exercise | None:
    """Draw a problem; None if none is found.

    Args:
        rng: draws the function, the wording and the inputs.
        families: families of its operations.
        steps: how many operations it may have.
        side: where it is to occur.
        taken: names of functions that it must not have.
    """
    for _ in range(ATTEMPTS):
        function = _function(rng, families, rng.choice(steps))
        if function is None or function.side != side or function.name in taken:
            continue
        tests = _tests(function, rng)
        if tests is not None:
            say = Wording(rng)
            statement = say(_ASK).format(call=function.call, does=function.does)
            return Exercise(function, statement, say.template, tests)
    return None


def write_problems(config: ProblemsConfig) -> str:
    """Write a file of problems, each function once; return a summary.

    Raises:
        ConfigError: the families have no functions with as many steps.
    """
    check(config.families, config.steps)
    made: dict[str, Exercise] = {}
    rng = random.Random(f"{config.seed}:problems")
    while len(made) < config.number and (found := exercise(rng, config.families, config.steps, "problems", taken=made)):
        made[found.function.name] = found
    if not made:
        raise ConfigError(f"families {' '.join(config.families)}: no problem can be made of them; name more families")
    write_file(config.output, jsonl.dumps(each.row for each in made.values()))
    missing = config.number - len(made)
    fewer = f"; {missing:,} fewer than asked for: the families have no more" if missing else ""
    return f"{config.output}: {counted(len(made), 'problem')}, {LISTED + CHALLENGES} tests each{fewer}"


def check(families: Sequence[Family], steps: Sequence[int]) -> None:
    """Refuse families of which no function with as many steps can be made.

    Raises:
        ConfigError: there is none.
    """
    if not families or not steps:
        raise ConfigError(f"{'steps' if families else 'families'}: give at least one")
    makers = [(family, maker) for family in families for maker in _MAKERS[family]]
    follow = any(first.gives == second.takes and one != other for one, first in makers for other, second in makers)
    if 1 not in steps and not follow:
        raise ConfigError(f"families {' '.join(families)}: no two of them can follow one another; name more families")


# ---------------------------------------------------------------- functions


def _function(rng: random.Random, families: Sequence[Family], count: int) -> Function | None:
    """Draw a function; None if no step can follow the first one that is drawn."""
    family = rng.choice(families)
    first = rng.choice(_MAKERS[family])
    if count == 1:
        return Function((first.step(rng),))
    others = [maker for other in families if other != family for maker in _MAKERS[other] if maker.takes == first.gives]
    return Function((first.step(rng), rng.choice(others).step(rng))) if others else None


def _tests(function: Function, rng: random.Random) -> tuple[str, ...] | None:
    """Return tests whose results all differ, from one another, from the arguments, and from those of one step alone."""
    values = _compiled(function)
    alone = [_compiled(Function((step,))) for step in function.steps] if len(function.steps) > 1 else []
    found: dict[str, str] = {}
    for _ in range(DRAWS):
        given = _drawn(function.steps[0].takes, rng)
        result = values(given)
        call = f"{function.name}({', '.join(map(repr, given))})"
        is_telling = result is not None and result not in [*given, *(each(given) for each in alone)]
        if is_telling and call not in found and repr(result) not in found.values():
            found[call] = repr(result)
        if len(found) == LISTED + CHALLENGES:
            return tuple(f"assert {call} == {result}" for call, result in found.items())
    return None


def _compiled(function: Function) -> Callable[[Sequence[Any]], Any]:
    """Return a function of the arguments that returns the value; None if there is none."""
    names, code = function.arguments, compile(function.expression, function.name, "eval")

    def value(given: Sequence[Any]) -> Any:
        try:
            return eval(code, dict(zip(names, given, strict=True)))  # noqa: S307 - made of the templates below
        except (TypeError, ValueError, AttributeError):  # the largest of no items; another kind of value
            return None

    return value


def _drawn(kind: Value, rng: random.Random) -> tuple[Any, ...]:
    def one(kind: Value) -> Any:
        match kind:
            case "number" | "numbers":
                return rng.randint(2, 99)
            case "text" | "texts":
                return "".join(rng.choices(_LETTERS, k=rng.randint(2, 8)))
            case "list":
                return [rng.randint(1, 30) for _ in range(rng.randint(3, 5))]

    return tuple(one(kind) for _ in ARGUMENTS[kind])


# ---------------------------------------------------------------- steps


class Maker(NamedTuple):
    """Makes steps of a family; what is drawn stands for N, or for A and B, in each text."""

    family: Family
    takes: Value
    gives: Value
    name: str
    does: str
    code: str
    draw: Callable[[random.Random], Mapping[str, str]]

    def step(self, rng: random.Random) -> Step:
        """Draw a step."""
        texts = [self.name, self.does, self.code]
        for sign, drawn in self.draw(rng).items():
            texts = [text.replace(sign, drawn) for text in texts]
        return Step(self.family, self.takes, self.gives, *texts)


def _constant(
    family: Family, of: tuple[Value, Value], name: str, does: str, code: str, low: int, high: int
) -> tuple[Maker, ...]:
    return (Maker(family, *of, name, does, code, lambda rng: {"N": str(rng.randint(low, high))}),)


def _letters(family: Family, of: tuple[Value, Value], name: str, does: str, code: str) -> tuple[Maker, ...]:
    return (Maker(family, *of, name, does, code, lambda rng: dict(zip("AB", rng.sample(_LETTERS, 2), strict=True))),)


def _fixed(family: Family, of: tuple[Value, Value], name: str, does: str, code: str) -> tuple[Maker, ...]:
    return (Maker(family, *of, name, does, code, lambda _: {}),)


_NUMBER: tuple[Value, Value] = ("number", "number")
_TEXT: tuple[Value, Value] = ("text", "text")
_LIST: tuple[Value, Value] = ("list", "list")
_OF_TEXT: tuple[Value, Value] = ("text", "number")
_OF_LIST: tuple[Value, Value] = ("list", "number")
_OF_NUMBERS: tuple[Value, Value] = ("numbers", "number")
_MAKERS: Mapping[Family, tuple[Maker, ...]] = {
    "add": _constant("add", _NUMBER, "add_N", "adds N to {}", "{} + N", 2, 60),
    "subtract": _constant("subtract", _NUMBER, "minus_N", "subtracts N from {}", "{} - N", 2, 60),
    "multiply": _constant("multiply", _NUMBER, "times_N", "multiplies {} by N", "{} * N", 2, 20),
    "divide": _constant("divide", _NUMBER, "over_N", "divides {} by N, rounding down", "{} // N", 2, 9),
    "remainder": _constant("remainder", _NUMBER, "mod_N", "takes the remainder of {} by N", "{} % N", 7, 40),
    "power": _constant("power", _NUMBER, "power_N", "raises {} to the power of N", "{} ** N", 2, 3),
    "append": _letters("append", _TEXT, "end_AB", "adds 'AB' to the end of {}", "{} + 'AB'"),
    "prepend": _letters("prepend", _TEXT, "start_AB", "puts 'AB' before {}", "'AB' + {}"),
    "repeat": _constant("repeat", _TEXT, "repeat_N", "repeats {} N times", "{} * N", 2, 4),
    "replace": _letters("replace", _TEXT, "swap_A_B", "replaces 'A' by 'B' in {}", "{}.replace('A', 'B')"),
    "upper": _fixed("upper", _TEXT, "upper", "puts {} in upper case", "{}.upper()"),
    "first": (
        *_constant("first", _TEXT, "first_N", "takes the first N letters of {}", "{}[:N]", 1, 3),
        *_constant("first", _LIST, "head_N", "takes the first N items of {}", "{}[:N]", 1, 3),
    ),
    "skip": (
        *_constant("skip", _TEXT, "skip_N", "drops the first N letters of {}", "{}[N:]", 1, 3),
        *_constant("skip", _LIST, "tail_N", "drops the first N items of {}", "{}[N:]", 1, 3),
    ),
    "reverse": (
        *_fixed("reverse", _TEXT, "mirror", "reverses {}", "{}[::-1]"),
        *_fixed("reverse", _LIST, "reverse", "reverses {}", "{}[::-1]"),
    ),
    "length": (
        *_fixed("length", _OF_TEXT, "letters", "takes the length of {}", "len({})"),
        *_fixed("length", _OF_LIST, "length", "takes the length of {}", "len({})"),
    ),
    "count": _letters("count", _OF_TEXT, "count_A", "counts the letter 'A' in {}", "{}.count('A')"),
    "each_add": _constant("each_add", _LIST, "each_add_N", "adds N to each item of {}", "[i + N for i in {}]", 2, 40),
    "each_times": _constant(
        "each_times", _LIST, "each_times_N", "multiplies each item of {} by N", "[i * N for i in {}]", 2, 20
    ),
    "above": _constant("above", _LIST, "above_N", "keeps the items of {} above N", "[i for i in {} if i > N]", 5, 20),
    "below": _constant("below", _LIST, "below_N", "keeps the items of {} below N", "[i for i in {} if i < N]", 10, 25),
    "sort": _fixed("sort", _LIST, "sort", "sorts {}", "sorted({})"),
    "sum": _fixed("sum", _OF_LIST, "sum_up", "sums {}", "sum({})"),
    "largest": _fixed("largest", _OF_LIST, "largest", "takes the largest item of {}", "max({})"),
    "smallest": _fixed("smallest", _OF_LIST, "smallest", "takes the smallest item of {}", "min({})"),
    "total": _fixed("total", _OF_NUMBERS, "total", "adds {} and {}", "{} + {}"),
    "difference": _fixed("difference", _OF_NUMBERS, "difference", "subtracts {1} from {0}", "{} - {}"),
    "product": _fixed("product", _OF_NUMBERS, "product", "multiplies {} by {}", "{} * {}"),
    "larger": _fixed("larger", _OF_NUMBERS, "larger", "takes the larger of {} and {}", "max({}, {})"),
    "smaller": _fixed("smaller", _OF_NUMBERS, "smaller", "takes the smaller of {} and {}", "min({}, {})"),
    "join": _fixed("join", ("texts", "text"), "join", "puts {} before {}", "{} + {}"),
}
