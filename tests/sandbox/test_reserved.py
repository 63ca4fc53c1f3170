"""Problems of MBPP's test split and of HumanEval are recognized by what they say; others are not."""

import ast
import re
from collections.abc import Callable
from functools import cache

import pytest
from tests.conftest import SHARED_DATA

from ibidem.jsonl import Row
from ibidem.sandbox import reserved
from ibidem.sandbox.problems import as_tested, number_in_test, read_rows
from ibidem.sandbox.reserved import HUMAN_EVAL, MBPP, Fingerprints, Reserved, fingerprints

MBPP_FILE = SHARED_DATA / "mbpp" / "mbpp.jsonl"
SANITIZED = SHARED_DATA / "mbpp_sanitized" / "sanitized-mbpp.json"
TRUE_DUPLICATES = {
    569: "the statement of 104 sanitized",
    602: "the statement of 217",
    635: "a test of 372",
    653: "a test of 174",
    658: "the statement of 362",
    673: "the statement of 439",
    704: "the statement and tests of 248",
    716: "the tests of 17",
    756: "sanitized, the tests of 285",
    784: "the tests of 38",
    787: "the tests of 285",
    872: "the statement of 216",
    928: "the statement of 427",
}
"""Problems of MBPP outside of the test split that say the same as one in it, or are judged by the same tests."""


LEAD = re.compile("^Write a (python )?function (to|that|which)")


def statement(row: Row) -> str:
    return str(row.get("text") or row["prompt"])


def renamed(row: Row) -> list[str]:
    """The tests of a problem, with other names and in another format."""
    return _renamed("\n".join(row["test_list"]), row.get("code") or "")


@cache
def _renamed(tests: str, code: str) -> list[str]:
    names = as_tested({"code": code}, tests).names
    parsed = map(ast.unparse, ast.parse(tests).body)
    return [re.sub(rf"\b({'|'.join(names)})\b", lambda found: f"my_{names.index(found[0])}", test) for test in parsed]


@pytest.fixture(scope="module")
def of_mbpp() -> list[Row]:
    if not SANITIZED.exists():
        pytest.skip("no MBPP here")
    return [*read_rows(str(MBPP_FILE)), *read_rows(str(SANITIZED))]


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda row: ([statement(row)], []), 757),
        (lambda row: ([LEAD.sub("please create a program TO", statement(row)).replace(" ", "  ")], []), 757),
        (lambda row: (["Solve it."], row["test_list"]), 756),
        (lambda row: (["Solve it."], renamed(row)), 755),
        (lambda row: (["Solve it."], renamed(row)[:2]), 714),
        (lambda row: (["Solve it."], [*renamed(row), "assert my_0(77, 4321) == 99"]), 740),
    ],
    ids=["statement", "reworded", "tests", "renamed", "fewer", "more"],
)
def test_the_test_split_of_mbpp_is_recognized(
    change: Callable[[Row], tuple[list[str], list[str]]], least: int, of_mbpp: list[Row]
) -> None:
    known = reserved.reserved()
    rows = [row for row in of_mbpp if number_in_test(str(row["task_id"]))]
    assert len(rows) == 500 + 257
    assert sum(known.benchmark_of(*change(row)) == MBPP for row in rows) >= least


def test_of_the_other_problems_of_mbpp_only_true_duplicates_are(of_mbpp: list[Row]) -> None:
    known = reserved.reserved()
    rows = [row for row in of_mbpp if not number_in_test(str(row["task_id"]))]
    assert len(rows) == 474 + 170
    found = {row["task_id"] for row in rows if known.benchmark_of([statement(row)], row["test_list"])}
    assert found == TRUE_DUPLICATES.keys()


def test_human_eval_is_recognized_by_prompt_docstring_or_tests() -> None:
    known = reserved.reserved()
    rows = read_rows("human-eval")
    for row in rows:
        forms = reserved.of_prompt(row["prompt"])
        assert {known.benchmark_of([form], []) for form in forms} == {HUMAN_EVAL}, row["task_id"]
    by_tests = [row["task_id"] for row in rows if known.benchmark_of([], [row["test"]]) == HUMAN_EVAL]
    assert len(by_tests) >= 155


def test_short_tests_alone_decide_only_together() -> None:
    short = ["assert f(2) == 4", "assert f(3) == 9", "assert f(4) == 16"]
    known = Reserved({"a benchmark": {"1": fingerprints(["Square a number."], short)}})
    assert known.benchmark_of(["Something else."], [short[0]]) is None
    assert known.benchmark_of(["Something else."], [short[0], "assert f(5) == 10"]) is None
    assert known.benchmark_of(["Something else."], ["assert g(2) == 4", "assert 9 == g(3)"]) is None
    renamed = ["assert g(2) == 4", "assert 9 == g(3)", "assert g(4) == 16, 'wrong'"]
    assert known.benchmark_of(["Something else."], renamed) == "a benchmark"
    assert known.benchmark_of(["square  a NUMBER"], []) == "a benchmark"


def test_two_tests_decide_together_if_they_say_enough() -> None:
    of_text = ["assert f('abc') == 'cba'", "assert f('xyz') == 'zyx'"]
    known = Reserved({"a benchmark": {"1": fingerprints([], of_text)}})
    assert known.benchmark_of([], [test.replace("f(", "g(") for test in of_text]) == "a benchmark"


def test_a_function_that_counts_on_is_of_no_benchmark() -> None:
    known = reserved.reserved()
    assert known.benchmark_of(["Next."], ["assert next_one(1) == 2", "assert next_one(2) == 3"]) is None
    assert known.benchmark_of(["Same."], ["assert same(1) == 1", "assert same(2) == 2"]) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("assert f(1) == True", "assert f(1)"),
        ("assert f(1) is False", "assert not f(1)"),
        ("assert not (not f(1))", "assert f(1) is True"),
        ("assert f('a') == [1, 2]", 'assert [1,2]==g("a"), "wrong"'),
        ("assert sorted(f(1)) == sorted([2])", "assert sorted( h(1) )==sorted( [2] )"),
    ],
)
def test_tests_that_differ_in_form_alone_are_the_same(one: str, other: str) -> None:
    assert fingerprints([], [one]).assertions == fingerprints([], [other]).assertions != frozenset()


def test_tests_that_differ_are_not_the_same() -> None:
    marks = [fingerprints([], [f"assert {test}"]).assertions for test in ("f(1)", "not f(1)", "f(1) == 1", "f(1) != 1")]
    assert len(set(marks)) == 4


def test_what_is_not_python_or_nests_too_deeply_has_no_assertions() -> None:
    assert fingerprints(
        [""], ["assert f(1", "\0", "(" * 5000, f"assert f(1) == {'+'.join('1' * 5000)}"]
    ) == Fingerprints(frozenset(), frozenset())
