"""Judge the programs that standard input holds as JSON, and write the verdicts: run by the tests as another user."""

import json
import sys

from ibidem.sandbox.isolation import Limits
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.program import Program

LIMITS = Limits(cpu_s=1, idle_s=1.0, memory_bytes=256 << 20)
TESTS = "answer = f(21)\nassert answer == 42 or oversized(answer)"
PREAMBLE = '''
def oversized(answer):
    """Tell whether this is more than a judge may be made to hold: bytes, items or depth."""
    from collections.abc import Iterator
    from itertools import islice

    depth, items = 0, 1
    while type(answer) is list and answer and depth <= 100:
        depth, items, answer = depth + 1, items * len(answer), answer[0]
    if isinstance(answer, Iterator):
        items *= sum(1 for _ in islice(answer, 200_001))
    size = len(answer) if type(answer) is str else answer.bit_length() // 8 if type(answer) is int else 0
    return depth > 100 or items > 200_000 or size > 16_000_000
'''


def program(source: str) -> Program:
    """Give a program the test that all of them have: it answers 42, or what no judge should have to hold."""
    return Program((source,), TESTS, ("f",), PREAMBLE)


def main() -> None:
    """Judge every program by the same test, with little time."""
    sources = json.load(sys.stdin)
    with Judge(workers=2, limits=LIMITS) as judge:
        verdicts = list(judge.verdicts(map(program, sources)))
    json.dump([[verdict.kind, verdict.detail] for verdict in verdicts], sys.stdout)


if __name__ == "__main__":
    main()
