"""Non-interference: all that a principal can observe is what a store shows that was made from their documents alone."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.grounding.naive_store import LEAKS, NaiveStore
from tests.grounding.postgres_server import Pair, Server
from tests.grounding.worlds import PRINCIPALS, Bag, Made, judge, observe_answers, random_world

from ibidem.errors import AccessDenied
from ibidem.grounding.index import Index
from ibidem.grounding.store import Store

KEY = b"a secret key of thirty-two bytes"
_SCHEMAS = itertools.count()


def _nothing(_store: Store) -> None:
    pass


@pytest.mark.parametrize("leak", LEAKS)
def test_each_known_leak_is_noticed(leak: str) -> None:
    for seed in range(200):
        verdict = judge(random_world(seed), partial(NaiveStore, leak=leak), PRINCIPALS, _nothing)
        if verdict.differences:
            return
    pytest.fail(f"{leak}: no principal noticed it in 200 worlds")


@pytest.mark.parametrize(
    "leak", ["cache without principal", "cache without rules", "rules of the indexing", "deny loses"]
)
def test_each_forbidden_chunk_is_counted(leak: str) -> None:
    worlds = map(random_world, range(40))
    assert sum(judge(world, partial(NaiveStore, leak=leak), PRINCIPALS, _nothing).num_forbidden for world in worlds)


def test_a_naive_store_without_leaks_passes() -> None:
    verdicts = [judge(random_world(seed), NaiveStore, PRINCIPALS, _nothing) for seed in range(60)]
    assert sum(verdict.num_trials for verdict in verdicts) > 5000
    assert all(not verdict.num_forbidden and not verdict.differences for verdict in verdicts)


@pytest.fixture
def local(tmp_path: Path) -> Made:
    numbers = iter(range(1 << 20))
    return lambda encoder: Index(tmp_path / str(next(numbers)), KEY, encoder=encoder)


def test_the_local_index_cannot_be_told_from_one_of_the_permitted_documents_alone(local: Made) -> None:
    for seed in range(8):
        verdict = judge(random_world(seed), local, PRINCIPALS[:3], _nothing)
        assert verdict[1:] == (0, 0, ()), f"world {seed}"


def test_answers_cannot_be_told_from_those_of_an_index_of_the_permitted_documents_alone(local: Made) -> None:
    passages = 0
    for seed in range(6):
        verdict = judge(random_world(seed), local, PRINCIPALS[:3], _nothing, look=observe_answers)
        assert verdict[1:] == (0, 0, ()), f"world {seed}"
        passages += verdict.num_trials
    assert passages > 100


@pytest.mark.parametrize("leak", ["filter behind the ranking", "twins are merged"])
def test_a_leak_of_the_ranking_is_noticed_in_answers(leak: str) -> None:
    worlds, make = map(random_world, range(100)), partial(NaiveStore, leak=leak)
    assert any(judge(world, make, PRINCIPALS, _nothing, look=observe_answers).differences for world in worlds)


@pytest.mark.parametrize("leak", ["deny loses", "cache without principal", "cache without rules"])
def test_no_answer_is_made_from_a_forbidden_chunk_that_a_store_returns(leak: str) -> None:
    with pytest.raises(AccessDenied):
        for world in map(random_world, range(40)):
            judge(world, partial(NaiveStore, leak=leak), PRINCIPALS, _nothing, look=observe_answers)


def test_the_postgresql_store_cannot_be_told_from_one_of_the_permitted_documents_alone(server: Server) -> None:
    make = postgres_makes(server)
    for seed in range(2):
        verdict = judge(random_world(seed), make, PRINCIPALS[:2], Pair.discard)
        assert verdict[1:] == (0, 0, ()), f"world {seed}"


@pytest.mark.slow
def test_a_hundred_thousand_trials_on_postgresql_show_nothing_forbidden(server: Server) -> None:
    trials, make = 0, postgres_makes(server)
    for seed in itertools.count(1000):
        world = random_world(seed, num_queries=80)
        verdict = judge(world, make, PRINCIPALS[:3], Pair.discard, num_compared=1)
        assert verdict[1:] == (0, 0, ()), f"world {seed}"
        trials += verdict.num_trials
        if trials >= 100_000:
            break


def postgres_makes(server: Server) -> Callable[[Bag | None], Pair]:
    """Return what makes stores on a server."""
    return lambda encoder: Pair(server, f"world {next(_SCHEMAS)}", KEY, encoder)
