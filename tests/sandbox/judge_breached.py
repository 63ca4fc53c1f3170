"""Judge programs by jails some of whose walls are down: process 1 of the throw-away world.

Standard input holds pairs of a program and the walls that it is to be judged without, as JSON; the verdicts are written
in the same order. Programs that miss the same walls share their jails.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from threading import Timer

from tests.sandbox.judge_programs import LIMITS, program

from ibidem.errors import SandboxError
from ibidem.sandbox import judge, supervisor

SIDE_BY_SIDE = 4
DEADLINE_S = 60
LONGEST = {"time", "idleness"}
"""Walls whose programs take their time: they are judged first."""
BOOT = "import sys; sys.path[:0] = [sys.argv[2], sys.argv[4]]; from tests.sandbox.breach import main; main()"

Walls = tuple[str, ...]


def command(walls: Walls) -> list[str]:
    """Say how jails without these walls are started."""
    setup = {"sandbox": supervisor.NAMESPACES, "packages": (), "limits": LIMITS._asdict()}
    words = [json.dumps(setup), str(judge.SOURCE), json.dumps(walls), str(judge.SOURCE.parent)]
    return [sys.executable, *judge.PYTHON_FLAGS[:-1], BOOT, *words]


@contextmanager
def deadline(jails: judge._Supervisor) -> Iterator[None]:
    """End the jails if a program has made them mute."""
    timer = Timer(DEADLINE_S, jails._process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def verdicts(walls: Walls, sources: list[str]) -> Iterator[tuple[str, str]]:
    """Judge one program after the other; where one of them ended the jails, there are new ones for the next."""
    jails = None
    for source in sources:
        try:
            if jails is None:
                jails = judge._Supervisor(command(walls))
                jails.wait_until_ready()
            with deadline(jails):
                verdict = judge._verdict(*jails.run(asdict(program(source))), LIMITS)
            yield verdict.kind, verdict.detail
        except SandboxError as error:
            jails = None
            yield "no verdict", str(error)
    if jails is not None:
        jails.stop()


def main() -> None:
    """Judge every program, some jails side by side."""
    requests = [(source, tuple(walls)) for source, walls in json.load(sys.stdin)]
    different = sorted(dict.fromkeys(walls for _, walls in requests), key=LONGEST.isdisjoint)
    batches = {walls: [source for source, of in requests if of == walls] for walls in different}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        found = pool.map(lambda batch: iter(list(verdicts(*batch))), batches.items())
        said = dict(zip(batches, found, strict=True))
    json.dump([next(said[walls]) for _, walls in requests], sys.stdout)


if __name__ == "__main__":
    main()
