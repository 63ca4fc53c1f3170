"""What functions return, and mutants that the judge tells from them: the material of bug-fixing traces.

A function is untrusted: it runs in a jail, and only plain values cross. Its tests are calls with what it returned; the
original must pass the one that a mutant fails, alone and in another process.
"""

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from ibidem.data.synthetic import calls, mutants
from ibidem.data.synthetic.calls import Case
from ibidem.data.synthetic.functions import Function
from ibidem.data.synthetic.mutants import Mutant
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.program import Kind, Program

CALLS = 8
MOST_MUTANTS = 4


class Unfit(StrEnum):
    """Why a function has no fault."""

    NO_CALLS = "fix.no_calls"
    """No two calls return different plain values."""
    UNSTABLE = "fix.unstable"
    """It returns other values in another process, or after other calls."""
    SURVIVED = "fix.survived"
    """No mutant fails a test."""


class Fault(NamedTuple):
    """A mutant that fails a test which the original passes."""

    mutant: Mutant
    case: Case
    """The call, with the original's result."""
    wrong: str | None
    """What the mutant returns; None if it raises an exception."""


def cases(judge: Judge, function: Function, rng: random.Random) -> list[Case]:
    """Return calls of a function that return plain values, with these values."""
    return _probe(judge, function.name, function.program, calls.arguments(function, rng, CALLS))


def stable_case(judge: Judge, function: Function, tests: Sequence[Case], rng: random.Random) -> Case | None:
    """Return one of the calls, if it returns the same value alone, in another process."""
    case = rng.choice(tests) if tests else None
    return case if case is not None and _passes(judge, function.name, function.program, [case]) else None


def fault(judge: Judge, function: Function, tests: Sequence[Case], rng: random.Random) -> Fault | Unfit:
    """Return a mutant that fails the tests, or why there is none."""
    if not calls.is_telling(tests):
        return Unfit.NO_CALLS
    for mutant in mutants.some(function.code, rng, MOST_MUTANTS):
        found = _difference(judge, function, mutant, tests)
        if found is not None:
            is_stable = _passes(judge, function.name, function.program, [found.case])
            return found if is_stable else Unfit.UNSTABLE
    return Unfit.SURVIVED


def _difference(judge: Judge, function: Function, mutant: Mutant, tests: Sequence[Case]) -> Fault | None:
    """Judge a mutant; return how the first test that it fails comes out."""
    program = function.after_setup(mutant.code)
    if _passes(judge, function.name, program, tests):
        return None
    for case in tests:
        verdict = judge.judge(Program((program,), calls.tests(function.name, [case]), (function.name,)))
        if verdict.kind is Kind.RAISED:
            return Fault(mutant, case, None)
        if verdict.kind is Kind.FAILED:
            wrong = _probe(judge, function.name, program, [case.arguments])
            return Fault(mutant, case, wrong[0].result) if wrong else None
    return None


def _passes(judge: Judge, name: str, program: str, tests: Sequence[Case]) -> bool:
    return judge.judge(Program((program,), calls.tests(name, tests), (name,))).passed


def _probe(judge: Judge, name: str, program: str, given: Sequence[str]) -> list[Case]:
    """Return the calls that return plain values; a report that is cut is asked for again in halves."""
    verdict = judge.judge(Program((program,), calls.probe(name, given), (name,)))
    if verdict.kind in {Kind.SYNTAX, Kind.TIMEOUT, Kind.IDLE} or not given:
        return []
    found = calls.read_probe(verdict.detail, given) if verdict.kind is Kind.FAILED else None
    if found is not None or len(given) == 1:
        return found or []
    middle = len(given) // 2
    return [each for half in (given[:middle], given[middle:]) for each in _probe(judge, name, program, half)]
