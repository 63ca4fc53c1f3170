"""A program passes by its answers alone: not by copies of objects, not by ending an iteration, not by shared chance."""

import sys
from collections.abc import Iterator

import pytest

from ibidem.sandbox.judge import Judge
from ibidem.sandbox.program import Kind, Program, Verdict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")

OBJECT = "class A:\n    pass\ndef f(x):\n    return A()\n"
IMPORTS = "import copy, copyreg, pickle, random\n"


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=1) as judge:
        yield judge


def ask(judge: Judge, code: str, tests: str) -> Verdict:
    return judge.judge(Program((code,), IMPORTS + tests, ("f",)))


@pytest.mark.parametrize(
    "copied",
    [
        "copy.copy(f(21))",
        "copy.deepcopy(f(21))",
        "copy.deepcopy([f(21)])[0]",
        "copy.deepcopy({'a': (f(21),)})['a'][0]",
        "pickle.loads(pickle.dumps(f(21)))",
        "pickle.loads(pickle.dumps([f(21)], protocol=0))[0]",
        "f(21).__reduce__()[0]",
        "f(21).__reduce_ex__(4)[0]",
        "object.__reduce_ex__(f(21), 2)[1]",
        "copyreg.__reduce_ex__(f(21), 1)[0]",
        "copy.replace(f(21)) if hasattr(copy, 'replace') else copy.copy(f(21))",
    ],
)
@pytest.mark.parametrize("compared", ["assert {0} == 42", "r = {0}\nassert r == 42\nassert not r != 42"])
def test_a_copy_of_an_object_has_no_value_either(judge: Judge, copied: str, compared: str) -> None:
    verdict = ask(judge, OBJECT, compared.format(copied))
    assert not verdict.passed, verdict


def test_a_fault_is_not_lost_when_a_copy_takes_it(judge: Judge) -> None:
    tests = "r = copy.deepcopy(f(21))\ntry:\n    assert r == 42\nexcept BaseException:\n    pass\n"
    assert ask(judge, OBJECT, tests).kind is Kind.ANSWER


@pytest.mark.parametrize("kind", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
def test_a_program_cannot_end_the_iteration_of_a_test(judge: Judge, kind: str) -> None:
    code = f"def f(x):\n    if x:\n        raise {kind}('done')\n    return 0\n"
    tests = "for answer, due in zip(map(f, [0, 1, 2]), [0, 5, 9]):\n    assert answer == due\n"
    verdict = ask(judge, code, tests)
    assert (verdict.kind, verdict.detail) == (Kind.RAISED, f"{kind}: done")


def test_a_subclass_of_stop_iteration_does_not_either(judge: Judge) -> None:
    code = "class Enough(StopIteration):\n    pass\ndef f(x):\n    raise Enough\n"
    assert not ask(judge, code, "assert list(map(f, [1, 2])) == []").passed


@pytest.mark.parametrize("draw", ["random.random()", "random.getrandbits(64)", "random.Random().random()"])
def test_the_tests_draw_other_random_numbers_than_the_program(judge: Judge, draw: str) -> None:
    code = f"import random\ndef f(x):\n    return {draw}\n"
    assert ask(judge, code, f"assert f(0) == {draw}").kind is Kind.FAILED
    assert ask(judge, code, f"assert f(0) != {draw}").passed
