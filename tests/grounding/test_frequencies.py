"""How often terms occur among the chunks that a principal may read: exact, and nothing of the others shows in it."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.grounding.naive_store import NaiveStore
from tests.grounding.postgres_server import Pair, Server
from tests.grounding.worlds import (
    CANARY,
    PRINCIPALS,
    WORDS,
    Bag,
    Made,
    Observation,
    World,
    document_of,
    judge,
    random_world,
)

from ibidem.grounding.access import YamlRules
from ibidem.grounding.acl import Acl, Rule
from ibidem.grounding.alignment import frequencies
from ibidem.grounding.index import Index
from ibidem.grounding.store import Rules, Store
from ibidem.grounding.terms import terms

KEY = b"a secret key of thirty-two bytes"
WANTED = [*dict.fromkeys(terms(" ".join((*WORDS, CANARY, "absent"))))]
_SCHEMAS = itertools.count()


def observe(store: Store, _world: World, principal: str, rules: Rules, _ids: Sequence[str]) -> Observation:
    """Return all that a principal observes of frequencies."""
    known = store.frequencies(WANTED, principal, rules)
    return [[known.counts[term] for term in WANTED], known.number]


def _nothing(_store: Store) -> None:
    pass


@pytest.fixture
def local(tmp_path: Path) -> Made:
    numbers = iter(range(1 << 20))
    return lambda encoder: Index(tmp_path / str(next(numbers)), KEY, encoder=encoder)


@pytest.fixture
def on_server(server: Server) -> Made:
    return lambda encoder: Pair(server, f"counts {next(_SCHEMAS)}", KEY, encoder)


def check_counts(store: Store) -> None:
    texts = {"a/0": "engine plan plan\n\nsalary of the engine", "a/1": "plan", "b/0": "merger"}
    everyone, ann = frozenset(["everyone"]), frozenset(["ann"])
    rules = YamlRules(Acl({}, (Rule("a/*", everyone, frozenset(), 1), Rule("b/*", ann, frozenset(), 2)), None))
    store.update([document_of(path, text) for path, text in texts.items()], rules)
    found = {name: store.frequencies(WANTED, name, rules) for name in ("ann", "bob")}
    paragraphs = [part for path, text in texts.items() if path != "b/0" for part in text.split("\n\n")]
    due = frequencies(paragraphs)
    assert found["bob"].number == due.number == 3
    assert dict(found["bob"].counts) == {term: due.counts.get(term, 0) for term in WANTED}
    assert (found["ann"].number, found["ann"].counts["merger"]) == (4, 1)
    assert store.frequencies([], "bob", rules) == ({}, 3)
    nobody = YamlRules(Acl({}, (), None))
    assert store.frequencies(["plan"], "bob", nobody) == ({"plan": 0}, 0)


def test_the_local_index_counts_what_a_principal_may_read(local: Made) -> None:
    check_counts(local(None))


def test_the_postgresql_store_counts_what_a_principal_may_read(on_server: Made) -> None:
    pair = on_server(None)
    check_counts(pair)
    Pair.discard(pair)


def test_counts_of_the_local_index_are_those_of_the_permitted_documents_alone(local: Made) -> None:
    for seed in range(3):
        assert judge(random_world(seed), local, PRINCIPALS[:3], _nothing, look=observe)[1:] == (0, 0, ()), seed


def test_counts_of_the_postgresql_store_are_those_of_the_permitted_documents_alone(on_server: Made) -> None:
    for seed in range(2):
        assert judge(random_world(seed), on_server, PRINCIPALS[:2], Pair.discard, look=observe)[1:] == (0, 0, ()), seed


class Counting(NaiveStore):
    """A naive store that counts: of what may be read, or of all."""

    def __init__(self, encoder: Bag | None, leak: str = "", *, of_all: bool = False) -> None:
        super().__init__(encoder, leak)
        self._of_all = of_all

    def frequencies(self, wanted: Sequence[str], principal: str, rules: Rules) -> tuple[dict[str, int], int]:
        rows = [row for row in self._rows if self._of_all or self._permits(row, principal, rules)]
        found = frequencies(" ".join(row.words) for row in rows)
        return type(found)({term: found.counts.get(term, 0) for term in wanted}, found.number)


def test_counts_of_all_documents_are_noticed() -> None:
    worlds = [random_world(seed) for seed in range(60)]
    leaking: Callable[[Bag | None], Counting] = partial(Counting, of_all=True)
    assert any(judge(world, leaking, PRINCIPALS, _nothing, look=observe).differences for world in worlds)
    assert not any(judge(world, Counting, PRINCIPALS, _nothing, look=observe).differences for world in worlds)
