"""The types of the judge: a program with its tests, and the verdict on it."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The outcome of a program."""

    PASSED = "passed"
    """All tests pass."""
    FAILED = "failed"
    """A test fails."""
    RAISED = "raised"
    """It raised an exception."""
    SYNTAX = "syntax"
    """It is not valid Python."""
    TIMEOUT = "timeout"
    """It, or a test of its answers, used up its CPU time."""
    IDLE = "idle"
    """It slept."""
    MEMORY = "memory"
    """It used up its memory."""
    CRASH = "crash"
    """It ended instead of answering."""
    ANSWER = "answer"
    """Its answer is not a plain value, or is too large."""
    UNTESTED = "untested"
    """The tests ended without calling it."""
    TESTS = "tests"
    """The tests themselves cannot be run."""


@dataclass(frozen=True)
class Program:
    """Untrusted code, and the tests that judge it."""

    sources: tuple[str, ...]
    """Run one after the other in the candidate's jail: the code, then the setup of the tests."""
    tests: str
    """Run in the referee's jail; it passes if nothing is raised."""
    names: tuple[str, ...]
    """The names that the tests take from the program. Nothing else of it is visible to them."""
    preamble: str = ""
    """Run before the tests, in their jail: imports and helpers that belong to the benchmark."""


@dataclass(frozen=True)
class Verdict:
    """The judge's verdict on a program."""

    kind: Kind
    detail: str
    answers: int
    """Calls that the program answered."""
    cpu_s: float
    """CPU seconds of the program and its tests."""
    peak_kb: int
    """Peak resident memory of the larger of the two."""

    @property
    def passed(self) -> bool:
        return self.kind is Kind.PASSED
