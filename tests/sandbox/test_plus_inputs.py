"""Inputs and answers of EvalPlus: read as EvalPlus reads them, and as large as its answers are."""

import cmath
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import SHARED_DATA

from ibidem.sandbox.judge import Judge
from ibidem.sandbox.problems import Problem, _mbpp, human_eval, mbpp
from ibidem.sandbox.program import Kind, Program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")

RELEASES = Path(os.environ.get("EVALPLUS_RELEASES", SHARED_DATA / "evalplus"))
"""A folder with the files of evalplus/humanevalplus_release v0.1.10 and evalplus/mbppplus_release v0.2.0."""
EXEMPT = {
    "Mbpp/255": "its answer for 12 words has 42 MB",
    "Mbpp/599": "its reference adds 10**8 numbers for each of 20 inputs: more than 10 CPU seconds",
}
"""Problems whose references exceed the default limits of a jail."""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=2) as judge:
        yield judge


def plus(number: int, body: str, *inputs: list) -> Problem:
    """Return a problem of MBPP+ whose reference has this body."""
    code = f"import cmath\ndef f(*given):\n    {body}\n"
    row = {"task_id": f"Mbpp/{number}", "prompt": "", "entry_point": "f", "canonical_solution": code}
    return _mbpp({**row, "base_input": [], "plus_input": json.loads(json.dumps(inputs)), "atol": 0}, "")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("HumanEvalPlus.jsonl.gz", 164), ("MbppPlus.jsonl.gz", 378)])
def test_every_reference_of_evalplus_passes(judge: Judge, name: str, count: int) -> None:
    path = RELEASES / name
    if not path.exists():
        pytest.skip(f"the release of EvalPlus is not here: {name}")
    problems = human_eval(str(path)) if name.startswith("Human") else mbpp(str(path), "all")
    due = [each for each in problems if each.task_id not in EXEMPT]
    verdicts = judge.verdicts(each.program(each.reference) for each in due)
    assert len(problems) == count
    assert [each.task_id for each, verdict in zip(due, verdicts, strict=True) if not verdict.passed] == []


@pytest.mark.parametrize("answer", ["'0 ' * 5_700_000", "list(range(1, 1_400_001))", "[-(10**7)] * 1_000_000"])
def test_an_answer_as_large_as_those_of_evalplus_is_compared(judge: Judge, answer: str) -> None:
    code = "def f(wrong):\n    value = {}\n    return value[1:] if wrong else value\n".replace("{}", answer)
    expected = f"EXPECTED = {answer}\n"
    assert judge.judge(Program((code,), f"{expected}assert f(False) == EXPECTED", ("f",))).passed
    assert judge.judge(Program((code,), f"{expected}assert f(True) == EXPECTED", ("f",))).kind is Kind.FAILED


SENDS = """
import os
def f(x):
    data = b'{"tuple":["value",[' + PART + b'[]],null]}'
    message = len(data).to_bytes(4, "little") + data
    descriptor = max(n for n in range(3, 20) if is_open(n))
    while message:
        message = message[os.write(descriptor, message):]
    while True:
        pass
def is_open(n):
    try:
        return bool(os.fstat(n))
    except OSError:
        return False
"""


@pytest.mark.parametrize(
    ("part", "kind"),
    [("b'[],' * 5_200_000", Kind.ANSWER), ("b'1000,' * 3_000_000", Kind.FAILED), ("b'0' * 16_500_000", Kind.ANSWER)],
)
def test_no_answer_is_too_large_for_the_jail_of_the_tests(judge: Judge, part: str, kind: Kind) -> None:
    assert judge.judge(Program((SENDS.replace("PART", part),), "assert f(21) == 42", ("f",))).kind is kind
    assert judge.judge(Program(("def f(x):\n    return 2 * x\n",), "assert f(21) == 42", ("f",))).passed


@pytest.mark.parametrize(
    ("number", "given", "read"),
    [
        (124, ["1e-100", "(-0-2j)"], (1e-100, complex("(-0-2j)"))),
        (252, ["(1+2j)"], (1 + 2j,)),
        (252, [4], (4 + 0j,)),
        (2, [[1, [2]], [3]], ((1, [2]), (3,))),
        (63, [[[1, 2], [3]]], ([(1, 2), (3,)],)),
        (75, [[[6, 24]], 6], ([(6, 24)], 6)),
        (106, [[5, 6], [9, 10]], ([5, 6], (9, 10))),
        (307, [["HELLO", 5, [], True], 2, 50], (("HELLO", 5, [], True), 2, 50)),
        (259, [[[1, 3], [4, 5]], [[6, 7]]], (((1, 3), (4, 5)), ((6, 7),))),
        (278, [[1, 5, [4, 6]]], ((1, 5, (4, 6)),)),
        (580, [[4, [7, [2]]], 5], ((4, (7, (2,))), 5)),
        (722, [{"a": [6.2, 70]}, 6.0], ({"a": (6.2, 70)}, 6.0)),
        (115, [[[1, 2], []]], ([{1, 2}, {}],)),
        (11, [[1, [2]], "1j"], ([1, [2]], "1j")),
    ],
)
def test_inputs_of_mbpp_plus_are_what_evalplus_makes_of_them(
    judge: Judge, number: int, given: list, read: tuple
) -> None:
    problem = plus(number, f"return given == {read!r} and [type(x) for x in given]", given)
    passes = f"def f(*given):\n    return [type(x) for x in {read!r}]\n"
    assert judge.judge(problem.program(passes)).passed
    assert not judge.judge(problem.program("def f(*given):\n    return False\n")).passed


@pytest.mark.parametrize(
    ("name", "given", "reference", "right", "wrong"),
    [("digit_distance_nums", [23, 256], 4, 8, 5), ("surface_Area", [4, 5], 56, 59, 57)],
)
def test_a_second_reading_that_evalplus_accepts_is_right(
    judge: Judge, name: str, given: list, reference: int, right: int, wrong: int
) -> None:
    code = "def {}(a, b):\n    return {}\n"
    row = {"task_id": "Mbpp/558", "prompt": "", "entry_point": name, "canonical_solution": code.format(name, reference)}
    problem = _mbpp({**row, "base_input": [given], "plus_input": [], "atol": 0}, "")
    verdicts = [judge.judge(problem.program(code.format(name, said))).passed for said in (reference, right, wrong)]
    assert verdicts == [True, True, False]


def test_a_phase_is_that_of_a_complex_number(judge: Judge) -> None:
    problem = plus(124, "return cmath.phase(sum(given))", ["0", "1j"], ["-3", "4j"])
    right = "import cmath\ndef f(a, b):\n    return cmath.phase(a + b)\n"
    wrong = f"def f(a, b):\n    return {cmath.pi / 2}\n"
    assert [judge.judge(problem.program(code)).kind for code in (right, wrong)] == [Kind.PASSED, Kind.FAILED]
