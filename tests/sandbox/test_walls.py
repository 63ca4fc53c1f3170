"""Every escape works once the walls that it names are down, and fails while one of them stands.

So no escape is contained only because it is broken, and none of two walls only stands because the other does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.sandbox import breach
from tests.sandbox.programs import ESCAPES, GOT_OUT, KINDS, MISTAKES, WALLS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a world whose users are nobody outside"),
]

OUT_OF_REACH = {
    "bpf": "the kernel lets only root of the machine make a map, unless kernel.unprivileged_bpf_disabled is 0",
    "clock": "the kernel lets only root of the machine set it, and there is no clock but the machine's",
}
"""Escapes that no namespace lets work. Root of the machine could, and is the one who must not try."""
SOME_KERNELS = {("io_uring", "locked memory")}
"""Walls that stand on some kernels only: the memory of rings counts as locked in some versions, not in others."""
SWITCHES = {"io_uring": ("io_uring_disabled", 0), "perf": ("perf_event_paranoid", 2)}
"""What a machine may have switched off: below /proc/sys/kernel, with the highest value that lets it work."""

REACHABLE = {name: WALLS[name] for name in ESCAPES if name not in OUT_OF_REACH}
ONE_STANDS = [
    (name, wall)
    for name, walls in REACHABLE.items()
    for wall in walls
    if len(walls) > 1 and (name, wall) not in SOME_KERNELS
]
DOWN = sorted(set(REACHABLE.values()))

Walls = tuple[str, ...]
Verdicts = dict[tuple[str, Walls], list[str]]


def without(walls: Walls, wall: str) -> Walls:
    return tuple(each for each in walls if each != wall)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Judge every escape without its walls, and with one of them, and every mistake wherever walls are down."""
    wanted = [*REACHABLE.items(), *((name, without(WALLS[name], wall)) for name, wall in ONE_STANDS)]
    wanted += [(name, walls) for name in MISTAKES for walls in DOWN]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("world.py")), str(tmp_path_factory.mktemp("world"))],
        input=json.dumps([((ESCAPES | MISTAKES)[name], walls) for name, walls in wanted]),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(wanted, json.loads(done.stdout), strict=True))


def test_every_escape_names_its_walls_and_every_wall_has_an_escape() -> None:
    assert {wall for walls in WALLS.values() for wall in walls} == set(breach.WALLS)
    assert all(WALLS.values())
    assert set(OUT_OF_REACH) <= set(ESCAPES)


@pytest.mark.parametrize("name", REACHABLE)
def test_an_escape_works_without_its_walls(name: str, verdicts: Verdicts) -> None:
    kind, detail = verdicts[name, WALLS[name]]
    if name in SWITCHES and kind not in GOT_OUT:
        switch, highest = SWITCHES[name]
        if (value := int(Path("/proc/sys/kernel", switch).read_text())) > highest:
            pytest.skip(f"{name} is switched off on this machine: kernel.{switch} is {value}")
    assert kind in GOT_OUT, (kind, detail)


@pytest.mark.parametrize(("name", "wall"), ONE_STANDS)
def test_each_wall_of_an_escape_stops_it_alone(name: str, wall: str, verdicts: Verdicts) -> None:
    kind, detail = verdicts[name, without(WALLS[name], wall)]
    assert kind not in GOT_OUT | {"no verdict"}, (kind, detail)


@pytest.mark.parametrize("walls", DOWN, ids=", ".join)
@pytest.mark.parametrize("name", MISTAKES)
def test_walls_that_are_down_let_no_mistake_pass(name: str, walls: Walls, verdicts: Verdicts) -> None:
    kind, detail = verdicts[name, walls]
    assert kind in {*KINDS[name], "failed"}, (kind, detail)


def test_walls_are_taken_down_in_the_throw_away_world_alone() -> None:
    with pytest.raises(PermissionError, match="in the throw-away world alone"):
        breach.main()
