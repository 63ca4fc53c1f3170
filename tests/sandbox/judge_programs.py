"""Judge the programs that standard input holds as JSON, and write the verdicts: run by the tests as another user."""

import json
import sys

from ibidem.sandbox.isolation import Limits
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.program import Program

TESTS = "assert f(21) == 42"


def main() -> None:
    """Judge every program by the same test, with little time."""
    sources = json.load(sys.stdin)
    with Judge(workers=2, limits=Limits(cpu_s=1, idle_s=1.0)) as judge:
        verdicts = list(judge.verdicts(Program((source,), TESTS, ("f",)) for source in sources))
    json.dump([[verdict.kind, verdict.detail] for verdict in verdicts], sys.stdout)


if __name__ == "__main__":
    main()
