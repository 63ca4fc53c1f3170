"""The referee takes nothing for an answer that is none, and tells where a test failed."""

import socket

import pytest

from ibidem.sandbox import referee, values

STARTED = ("done", None, None)


def message(answer: object) -> bytes:
    data = values.dumps(answer, lambda _: 0)
    return len(data).to_bytes(4, "little") + data


def judged(*answers: object, tests: str = "assert f(1) == 2", **more: str) -> tuple[str, str]:
    """Judge a program whose answers are these; bytes stand for themselves."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for answer in answers:
            theirs.sendall(answer if isinstance(answer, bytes) else message(answer))
        theirs.shutdown(socket.SHUT_WR)
        job = {"sources": [""], "preamble": "", "names": ["f"], "tests": tests} | more
        verdict = referee.judge(job, ours.fileno())
    return verdict["kind"], verdict["detail"]


def test_a_right_answer_passes_and_a_wrong_one_does_not() -> None:
    assert judged(STARTED, ("value", 2, None)) == ("passed", "")
    assert judged(STARTED, ("value", 3, None)) == ("failed", "assert f(1) == 2")


@pytest.mark.parametrize(
    "answer",
    [
        5, None, "value", [], (), (1,), ("value",), ("value", 2), ("value", 2, None, None), ["value", 2, None],
        (1, 2, None), (None, 2, None), ("done", 2, None), ("other", 2, None), ("raised", 1, "ValueError: x"),
        ("raised", "ValueError", 1), ("raised", "ValueError", None), ("raised", "ValueError"),
    ],
)  # fmt: skip
def test_what_is_no_answer_ends_the_tests(answer: object) -> None:
    assert judged(STARTED, answer) == ("answer", "not an answer")


@pytest.mark.parametrize("answer", [("value", 2, None), ["done", None, None], ("raised", 1, 1), ("raised", "x"), 5])
def test_a_program_that_does_not_say_that_it_is_loaded_is_asked_nothing(answer: object) -> None:
    assert judged(answer, ("value", 2, None)) == ("answer", "not an answer")


def test_an_answer_that_is_no_value_is_told_apart_from_one_that_is_too_large_and_from_none() -> None:
    assert judged(STARTED, (1).to_bytes(4, "little") + b"{") == ("answer", "not a plain value: JSONDecodeError")
    assert judged(STARTED, referee.MAX_ANSWER.to_bytes(4, "little"))[1].startswith("a message of 16,000,008 bytes")
    assert judged(STARTED) == judged() == ("crash", "the program ended")
    assert judged(STARTED, (values.MAX_BYTES).to_bytes(4, "little")) == ("crash", "the program ended")


@pytest.mark.parametrize(
    ("tests", "line"),
    [
        ("x = 1\nassert f(1) == 3\ny = 2\n", "assert f(1) == 3"),
        ("def check(f):\n    y = f(1)\n    assert y == 3\n\ncheck(f)\nz = 1\n", "assert y == 3"),
        ("assert f(1) == 3", "assert f(1) == 3"),
    ],
)
def test_the_line_of_the_test_that_failed_is_told(tests: str, line: str) -> None:
    assert judged(STARTED, ("value", 2, None), tests=tests) == ("failed", line)


def test_the_preamble_runs_before_the_tests() -> None:
    assert judged(STARTED, ("value", 2, None), tests="assert f(1) == TWO", preamble="TWO = 2") == ("passed", "")


def test_what_the_program_has_changed_in_an_argument_is_changed_there_too() -> None:
    tests = "a, b, c, d = [1], {1: 2}, (3,), bytearray(b'x')\nf(a, b, c, d)\nassert (a, b, c, d) == EXPECTED"
    for changed, expected in (
        (([2], {3: 4}, (5,), bytearray(b"yz")), "([2], {3: 4}, (3,), bytearray(b'yz'))"),
        (({}, [], 1, b"q"), "([1], {1: 2}, (3,), bytearray(b'x'))"),  # of another type
        ((), "([1], {1: 2}, (3,), bytearray(b'x'))"),
    ):
        found = judged(STARTED, ("value", None, changed), tests=tests, preamble=f"EXPECTED = {expected}")
        assert found == ("passed", ""), changed
