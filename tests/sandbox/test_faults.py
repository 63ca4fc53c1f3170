"""A function has a fault only if the judge passes it, alone and again, and fails its mutant."""

import random
import sys
from collections.abc import Iterator

import pytest

from ibidem.data.synthetic.functions import Function, Source, functions
from ibidem.sandbox import faults
from ibidem.sandbox.faults import Fault, Unfit
from ibidem.sandbox.isolation import Limits
from ibidem.sandbox.judge import Judge

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(1, Limits(cpu_s=1)) as made:
        yield made


def function(signature: str, *body: str) -> Function:
    """Return the function with this body."""
    lines = [f"def f({signature}):", '    """Return what this test needs."""', *(f"    {line}" for line in body)]
    (made,) = functions("\n".join(lines), Source("0" * 64, "m.py"))
    return made


def outcome(judge: Judge, made: Function) -> Fault | Unfit:
    rng = random.Random(0)
    return faults.fault(judge, made, faults.cases(judge, made, rng), rng)


def test_a_mutant_is_found_with_a_call_that_tells_it_from_the_original(judge: Judge) -> None:
    made = function("count: int", "if count > 2:", "    return count + 1", "return 0")
    found = outcome(judge, made)
    assert isinstance(found, Fault)
    value = eval(found.case.arguments)
    assert int(found.case.result) == (value + 1 if value > 2 else 0)
    assert found.wrong != found.case.result


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (function("x: int", "y = x", "return None"), Unfit.NO_CALLS),
        (function("x: int", "class A: pass", "return A()"), Unfit.NO_CALLS),
        (function("x: int", "while True: x += 1", "return x"), Unfit.NO_CALLS),
        (function("x: int", "y = '[]' * 100000", "return y + str(x)"), Unfit.NO_CALLS),
        (function("x: int", "raise SystemExit(f'results {x}')", "return x"), Unfit.NO_CALLS),
        (function("x: int", "y = object()", "return repr(y) + str(x) if x < 9999 else ''"), Unfit.UNSTABLE),
        (function("x: int, seen=[]", "seen.append(x)", "return len(seen) if x > 0 else None"), Unfit.UNSTABLE),
        (function("x: str", "y = x.strip()", "return y.strip()"), Unfit.SURVIVED),
    ],
)
def test_a_function_without_a_fault_has_a_reason(made: Function, reason: Unfit, judge: Judge) -> None:
    assert outcome(judge, made) is reason


def test_values_are_those_that_the_function_returns_alone(judge: Judge) -> None:
    rng = random.Random(0)
    made = function("x: int", "y = {'b': x, 'a': (x, None)}", "return y")
    for case in faults.cases(judge, made, rng):
        x = eval(case.arguments)
        assert eval(case.result) == {"b": x, "a": (x, None)}
    counting = function("x: int, seen=[]", "seen.append(x)", "return len(seen)")
    tests = faults.cases(judge, counting, rng)
    assert [case.result for case in tests[:2]] == ["1", "2"]
    assert faults.stable_case(judge, counting, tests[1:], rng) is None
    assert faults.stable_case(judge, counting, tests[:1], rng) == tests[0]


def test_a_function_cannot_forge_its_report(judge: Judge) -> None:
    forged = f"{['1', '2', '3', '4', '5', '6', '7', '8']} at raise ValueError(results)"
    made = function("x: int", "y = x", "return y")
    assert len(faults.cases(judge, made, random.Random(0))) == 8
    for message in (forged, f"ValueError: {forged}"):
        inside = function("x: int", f"raise ValueError({message!r})", "return x")
        outside = made._replace(setup=(f"raise ValueError({message!r})",))
        assert faults.cases(judge, inside, random.Random(0)) == []
        assert faults.cases(judge, outside, random.Random(0)) == []
