"""Small random worlds of documents, rules and questions, and all that a principal can observe in them.

A world is a history: documents are indexed, rules change, documents are forgotten or changed. Between these steps
principals ask. What they observe of a store must be equal to what they observe of a store of their own, which was made
from the documents alone that they may read. Who may read what is decided here by a second, naive reading of the rules.
"""

import fnmatch
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ibidem.errors import AccessDenied
from ibidem.grounding.access import YamlRules
from ibidem.grounding.acl import Acl, Rule
from ibidem.grounding.ask import Answerer, as_text, reply
from ibidem.grounding.retrieve import Retriever
from ibidem.grounding.store import EVERYONE, Chunk, Indexed, Query, Rules, Span, Store
from ibidem.grounding.support import WordCover

PRINCIPALS = ("ann", "bob", "cho", "dev", "eve", "unknown")
GROUPS = ("red", "green", "blue", "gold", "grey")
FOLDERS = ("", "a/", "a/b/", "a/b/c/", "b/", "c/d/")
GLOBS = ("**", "a/**", "a/b/**", "a/*", "b/*", "*", "**/d/*", "c/**", "a/b/c/1", "2", "b/0", "**/1")
WORDS = ("engine", "salary", "merger", "café", "plan", "budget", "parseHTTP", "x9", "the", "of", "zebra", "検索")
CANARY = "zanzibarcanary"
WIDTH = 6

Observation = list[Any]
Look = Callable[[Store, "World", str, Rules, Sequence[str]], Observation]
"""Returns all that a principal observes of a store."""


class Step(NamedTuple):
    """A moment of a world's history."""

    documents: tuple[Indexed, ...]
    acl: Acl
    is_indexed: bool
    """Whether the store is brought up to date with documents and rules; otherwise only the rules changed."""
    forget: str | None
    """A path that is forgotten before, if any."""


class World(NamedTuple):
    """A history, and what is asked at each of its steps."""

    steps: tuple[Step, ...]
    queries: tuple[tuple[Query, int], ...]
    """Each with the number of chunks that are wanted."""
    has_vectors: bool


class Bag:
    """An encoder for tests: the direction of a text's words, and of nothing else."""

    digest = "bag of words"
    width = WIDTH

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.ones((len(texts), WIDTH), np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, sum(word.encode()) % WIDTH] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)


class Made(Protocol):
    """What makes empty stores of one kind."""

    def __call__(self, encoder: Bag | None) -> Store: ...


def random_world(seed: int, *, num_queries: int = 5) -> World:
    """Return a world of up to four steps."""
    rng = random.Random(seed)
    has_vectors = rng.random() < 0.4
    documents, acl = _documents(rng), _acl(rng)
    steps = [Step(documents, acl, True, None)]
    for _ in range(rng.randint(0, 2)):
        steps.append(_next(rng, steps[-1]))
    queries = tuple((_query(rng, has_vectors), rng.choice((1, 2, 3, 5, 1000))) for _ in range(num_queries))
    return World(tuple(steps), queries, has_vectors)


def _next(rng: random.Random, before: Step) -> Step:
    kind = rng.choice(("rules", "rules and index", "forget", "documents"))
    if kind == "rules":
        return Step(before.documents, _acl(rng), False, None)
    if kind == "rules and index":
        return Step(before.documents, _acl(rng), True, None)
    if kind == "documents":
        mixed = {document.path: document for document in (*before.documents, *_documents(rng))}
        some = rng.sample(sorted(mixed), rng.randint(1, len(mixed)))
        return Step(tuple(mixed[path] for path in some), before.acl, True, None)
    path = rng.choice(before.documents).path if before.documents else "a"
    gone = rng.choice((path, path.rpartition("/")[0] or path))
    kept = tuple(each for each in before.documents if each.path != gone and not each.path.startswith(gone + "/"))
    return Step(kept, before.acl, False, gone)


def _documents(rng: random.Random) -> tuple[Indexed, ...]:
    paths = [folder + str(number) for folder in FOLDERS for number in range(3)]
    chosen = rng.sample(paths, rng.randint(2, 9))
    texts = [_text(rng) for _ in chosen]
    for place in range(1, len(chosen)):
        if rng.random() < 0.2:
            texts[place] = texts[rng.randrange(place)]  # a twin, often of another class
    return tuple(document_of(path, text) for path, text in zip(chosen, texts, strict=True))


def _text(rng: random.Random) -> str:
    paragraphs = []
    for _ in range(rng.randint(1, 3)):
        words = rng.choices(WORDS, k=rng.randint(1, 8))
        if rng.random() < 0.15:
            words.insert(rng.randrange(len(words)), CANARY)
        paragraphs.append(" ".join(words))
    if rng.random() < 0.2:
        paragraphs.append(paragraphs[0])
    return "\n\n".join(paragraphs)


def document_of(path: str, text: str) -> Indexed:
    """Return a document whose chunks are its paragraphs."""
    spans = [
        Span((path,) if path.endswith("1") else (), found.start(), found.end())
        for found in re.finditer(r"[^\n]+", text)
    ]
    return Indexed(path, text, tuple(spans))


def _acl(rng: random.Random) -> Acl:
    names = rng.sample(GROUPS, rng.randint(1, len(GROUPS)))
    groups = {}
    for place, name in enumerate(names):  # a group holds principals, and groups that follow it
        members = (*PRINCIPALS[:5], *names[place + 1 :])
        groups[name] = frozenset(rng.sample(members, rng.randint(0, 3)))
    named = (*PRINCIPALS[:5], *names, EVERYONE)
    rules = []
    for line in range(rng.randint(1, 5)):
        read = frozenset(rng.sample(named, rng.randint(1, 3)))
        deny = frozenset(rng.sample(named[:-1], rng.choice((0, 0, 1))))
        rules.append(Rule(rng.choice(GLOBS), read, deny, line + 1))
    return Acl(groups, tuple(rules), None)


def _query(rng: random.Random, has_vectors: bool) -> Query:
    words = rng.choices((*WORDS, CANARY, "absent"), k=rng.randint(0 if has_vectors else 1, 4))
    text = " ".join(words)
    return Query(text, Bag().encode([text])[0] if has_vectors else None)


def may_read(acl: Acl, principal: str, path: str) -> bool:
    """Return whether a principal may read a path, by the words of the rules alone."""
    rules = [rule for rule in acl.rules if _matches(rule.path, path)]
    return any(_is_in(acl, principal, name) for rule in rules for name in rule.read) and not any(
        _is_in(acl, principal, name) for rule in rules for name in rule.deny
    )


def _is_in(acl: Acl, principal: str, name: str) -> bool:
    if name in (EVERYONE, principal):
        return True
    return name in acl.groups and any(_is_in(acl, principal, member) for member in acl.groups[name])


def _matches(glob: str, path: str) -> bool:
    """Compare component by component: `**` stands for any number of folders, at the end for all that follow."""
    return _components_match(glob.split("/"), path.split("/"))


def _components_match(globs: list[str], parts: list[str]) -> bool:
    if not globs or not parts:
        return not globs and not parts
    if globs == ["**"]:
        return True
    if globs[0] == "**":
        return _components_match(globs[1:], parts) or _components_match(globs, parts[1:])
    return fnmatch.fnmatchcase(parts[0], globs[0]) and _components_match(globs[1:], parts[1:])


def observe(store: Store, world: World, principal: str, rules: Rules, ids: Sequence[str]) -> Observation:
    """Return all that a principal observes: each query's chunks, order, scores and number, and each error's text."""
    seen: Observation = [_answer(store, query, k, principal, rules) for query, k in world.queries]
    return seen + [_opened(store, chunk_id, principal, rules) for chunk_id in ids]


class _Fixed(NamedTuple):
    """Permissions that nobody changes."""

    rules: Rules

    def current(self) -> Rules:
        return self.rules

    def holds(self, *_: object) -> bool:
        return True


class _NoLog:
    """An audit log that keeps nothing."""

    def record(self, *_: object, **__: object) -> int:
        return 0

    def keyed(self, text: str) -> str:
        return text


def observe_answers(store: Store, world: World, principal: str, rules: Rules, _ids: Sequence[str]) -> Observation:
    """Return all that a principal is told who asks questions: each answer's passages, and its text with its sources."""
    retriever = Retriever(store, _Fixed(rules), _NoLog(), Bag() if world.has_vectors else None)
    answerer = Answerer(WordCover(0.75), 3, 64)
    seen: Observation = []
    for query, _ in world.queries:
        replied = reply(retriever, answerer, query.text, principal)
        seen += [[(chunk, "") for chunk in replied.passages], as_text(replied), replied.rows(), replied.left_out]
    return seen


def _answer(store: Store, query: Query, k: int, principal: str, rules: Rules) -> Any:
    hits = store.search(query, principal, rules, k)
    return [(hit.chunk, hit.score.hex()) for hit in hits]


def _opened(store: Store, chunk_id: str, principal: str, rules: Rules) -> Chunk | str:
    try:
        return store.chunk(chunk_id, principal, rules)
    except AccessDenied as error:
        return str(error)


def chunks_in(observation: Observation) -> Iterator[Chunk]:
    """Yield each chunk that was observed."""
    for each in observation:
        if isinstance(each, Chunk):
            yield each
        elif isinstance(each, list):
            yield from (item[0] for item in each if isinstance(item, tuple))


class Verdict(NamedTuple):
    """What became of one world."""

    num_trials: int
    """Queries, each under one set of rules by one principal."""
    num_forbidden: int
    """Chunks that were shown and may not be read, and forgotten ones."""
    num_canaries: int
    """Observations with a word that only forbidden documents hold."""
    differences: tuple[str, ...]
    """Where a principal could tell the store from one of their own documents."""


def judge(
    world: World,
    make: Made,
    principals: Sequence[str],
    discard: Callable[[Store], None],
    *,
    num_compared: int = 1 << 30,
    look: Look | None = None,
) -> Verdict:
    """Live through a world: at each step let principals ask in turn, twice; compare with stores of their own.

    Args:
        world: what happens and what is asked.
        make: makes an empty store.
        principals: who asks.
        discard: called with each store at its end.
        num_compared: how many principals get a store of their own to compare with, at each step.
        look: what they observe; `observe` unless given.
    """
    look = look or observe
    encoder = Bag() if world.has_vectors else None
    store = make(encoder)
    trials, forbidden, differences = 0, 0, []
    forgotten: set[str] = set()
    ids: list[str] = ["0" * 32, "f" * 31]
    canaries, known = 0, list[Indexed]()
    for number, step in enumerate(world.steps):
        rules = YamlRules(step.acl)
        if step.forget is not None:
            forgotten |= {step.forget} if store.forget(step.forget) else set()
        if step.is_indexed:
            store.update(step.documents, rules)
        documents = [each for each in step.documents if not _is_forgotten(each.path, forgotten)]
        if documents != known:
            ids, known = ids[:2] + _ids(store, documents, encoder)[:10], documents
        first = {each: look(store, world, each, rules, ids) for each in principals}
        again = {each: look(store, world, each, rules, ids) for each in reversed(principals)}
        trials += 2 * len(principals) * len(world.queries)
        for place, principal in enumerate(principals):
            own = [each for each in documents if may_read(step.acl, principal, each.path)]
            allowed = {each.path: each.text for each in own}
            shown = [*chunks_in(first[principal]), *chunks_in(again[principal])]
            forbidden += sum(chunk.text not in allowed.get(chunk.path, "") for chunk in shown)
            if not any(CANARY in each.text for each in own):
                canaries += CANARY in repr((first[principal], again[principal]))
            if place >= num_compared:
                continue
            alone = make(encoder)
            alone.update(own, rules)
            if not first[principal] == again[principal] == look(alone, world, principal, rules, ids):
                differences.append(f"step {number}, {principal}")
            discard(alone)
    discard(store)
    return Verdict(trials, forbidden, canaries, tuple(differences))


def _is_forgotten(path: str, forgotten: set[str]) -> bool:
    return any(path == each or path.startswith(each + "/") for each in forgotten)


def _ids(store: Store, documents: Sequence[Indexed], encoder: Bag | None) -> list[str]:
    """Return ids of chunks, also of those that some principals may not read."""
    everyone = YamlRules(Acl({}, (Rule("**", frozenset([EVERYONE]), frozenset(), len(documents)),), None))
    words = " ".join((*WORDS, CANARY))
    query = Query(words, encoder.encode([words])[0] if encoder else None)
    return [hit.chunk.id for hit in store.search(query, "ann", everyone, 1000)]
