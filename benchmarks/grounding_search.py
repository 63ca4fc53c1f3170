"""CPU time of a hybrid search in 20,000 chunks, against tantivy with numpy, and LanceDB.

Chunks of at most 1,200 characters with vectors of width 384; with rules, each document is in one of 50 groups and the
principal in all of them, so that every chunk is permitted, from 50 segments. A query has six words of a chunk and a
vector near that chunk's. Each system returns the texts of its 20 best chunks by reciprocal rank fusion of BM25 and
cosine.

    row           corpus
    zipf          words drawn by Zipf's law
    texts         paragraphs of real texts, in order of their paths: TEXTS, folders separated by colons

    system        search
    ibidem        without rules (one class of documents) and with 50 groups: two indexes in one process
    tantivy       its 100 best by BM25, all cosines by numpy, ranks fused in Python
    lancedb       its full-text index and its vectors without an index (exact), `RRFReranker`

Each run is a process of its own with one thread; systems take turns; medians of 3. CPU-milliseconds a query after a
first round of the same queries; CPU-seconds to build, without computing vectors; bytes on disk. `floor_ms` is the time
that one pass over the bytes takes that ours reads for a query: all int8 codes, and the postings of the query's terms.

    python benchmarks/grounding_search.py TEXTS PYTHON_WITH_PEERS benchmarks/results/grounding_search.json

PYTHON_WITH_PEERS has `pip install -c constraints.txt tantivy==0.27.0 lancedb==0.40.0 numpy`.
"""

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

CHUNKS, WIDTH, GROUPS, QUERIES, K, WINDOW, REPEATS = 20_000, 384, 50, 100, 20, 100, 3
ROUNDS = 7
"""Our two indexes take turns so often, each time with all queries."""
MAX_CHARS, CHUNKS_A_DOCUMENT = 1200, 10
SYSTEMS = ("ibidem", "tantivy + numpy", "lancedb")
ROWS = ("zipf", "texts")
SUFFIXES = frozenset([".txt", ".md", ".rst", ".py"])

Search = Callable[[str, Any], list[str]]


def main() -> None:
    if sys.argv[1] in SYSTEMS:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
        return
    texts, peer, output = [Path(each) for each in sys.argv[1].split(":")], sys.argv[2], Path(sys.argv[3])
    runs: dict[str, dict[str, list[dict[str, float]]]] = {row: {name: [] for name in SYSTEMS} for row in ROWS}
    with tempfile.TemporaryDirectory() as folder:
        for row in ROWS:
            prepare(Path(folder) / row, zipf() if row == "zipf" else paragraphs(texts))
        for _ in range(REPEATS):
            for row, systems in runs.items():
                for name, results in systems.items():
                    python = sys.executable if name.startswith("ibidem") else peer
                    results.append(run(python, name, Path(folder) / row))
                    print(row, name, results[-1], flush=True)
    write(output, runs)


def run(python: str, system: str, folder: Path) -> dict[str, float]:
    """Measure in a process of its own, with one thread."""
    threads = (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "RAYON_NUM_THREADS",
        "TOKIO_WORKER_THREADS",
        "LANCE_CPU_THREADS",
    )
    environment = os.environ | dict.fromkeys(threads, "1")
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    command = [python, __file__, system, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def zipf() -> list[str]:
    rng, words = random.Random(0), [f"w{number:x}" for number in range(30_000)]
    weights = list(accumulate(1 / (rank + 2) for rank in range(len(words))))
    return [
        " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(40, 200)))[:MAX_CHARS] for _ in range(CHUNKS)
    ]


def paragraphs(folders: list[Path]) -> list[str]:
    """Return the first paragraphs of the text files of some folders, joined up to the length of a chunk."""
    chunks: list[str] = []
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
    for path in paths:
        chunk = ""
        for paragraph in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            if chunk and len(chunk) + len(paragraph) + 2 > MAX_CHARS:
                chunks.append(chunk)
                chunk = ""
            chunk = f"{chunk}\n\n{paragraph}".strip()[:MAX_CHARS]
        chunks += [chunk] if chunk else []
        if len(chunks) >= CHUNKS:
            return chunks[:CHUNKS]
    sys.exit(f"the texts have {len(chunks):,} chunks, and {CHUNKS:,} are needed")


def prepare(folder: Path, chunks: list[str]) -> None:
    """Write the chunks, their vectors (200 topics and noise), and the queries."""
    folder.mkdir()
    rng, numbers = random.Random(1), np.random.default_rng(1)
    vectors_ND = numbers.standard_normal((200, WIDTH))[numbers.integers(0, 200, CHUNKS)]
    vectors_ND = unit(vectors_ND + 1.5 * numbers.standard_normal((CHUNKS, WIDTH)))
    targets = [rng.randrange(CHUNKS) for _ in range(QUERIES)]
    words = [chunks[target].split() for target in targets]
    queries = [" ".join(rng.sample(each, min(6, len(each)))) for each in words]
    np.save(folder / "vectors.npy", vectors_ND)
    np.save(folder / "queries.npy", unit(vectors_ND[targets] + 0.05 * numbers.standard_normal((QUERIES, WIDTH))))
    (folder / "texts.json").write_text(json.dumps({"chunks": chunks, "queries": queries}), encoding="utf-8")


def unit(vectors_ND: Any) -> Any:
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


def group_of(document: int) -> str:
    return f"group-{document % GROUPS}"


def measure(system: str, folder: Path) -> dict[str, float]:
    given = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    vectors_ND, queries_QD = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    if system == "ibidem":
        return measure_own(given, vectors_ND, queries_QD)
    make = tantivy_and_numpy if system.startswith("tantivy") else lance
    with tempfile.TemporaryDirectory() as place:
        started = time.process_time()
        search = make(Path(place), given["chunks"], vectors_ND)
        built = time.process_time()
        first, *_ = [search(query, vector_D) for query, vector_D in zip(given["queries"], queries_QD, strict=True)]
        begun = time.process_time()
        for query, vector_D in zip(given["queries"], queries_QD, strict=True):
            found = search(query, vector_D)
            assert len(found) == K
        ended = time.process_time()
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
    return {
        "cpu_ms_per_query": 1e3 * (ended - begun) / QUERIES,
        "build_cpu_s": built - started,
        "megabytes": size / 1e6,
        "checksum_of_first": checksum(first),
    }


def checksum(texts: list[str]) -> int:
    return zlib.crc32("\n".join(sorted(texts)).encode(errors="replace"))


def measure_own(given: dict[str, list[str]], vectors_ND: Any, queries_QD: Any) -> dict[str, float]:
    """Measure both indexes, taking turns; both must find the same."""
    names, queries = ("", "_with_rules"), list(zip(given["queries"], queries_QD, strict=True))
    figures: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    searches: dict[str, Search] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            place = Path(folder) / f"index{name}"
            started = time.process_time()
            searches[name], more = own(place, given["chunks"], vectors_ND, has_rules=bool(name))
            figures[f"build_cpu_s{name}"] = time.process_time() - started
            figures[f"megabytes{name}"] = sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / 1e6
        searches[""](*queries[0])  # compiles
        started = time.process_time()
        first = searches["_with_rules"](*queries[0])
        figures["first_cpu_ms_with_rules"] = 1e3 * (time.process_time() - started)
        for query in queries:
            assert searches[""](*query) == searches["_with_rules"](*query)
        for name in names * ROUNDS:
            started = time.process_time()
            for query in queries:
                assert len(searches[name](*query)) == K
            seconds[name].append((time.process_time() - started) / QUERIES)
        figures["floor_ms"] = more(given["queries"])
    medians = {f"cpu_ms_per_query{name}": 1e3 * statistics.median(times) for name, times in seconds.items()}
    return medians | figures | {"checksum_of_first": checksum(first)}


def own(place: Path, chunks: list[str], vectors_ND: Any, *, has_rules: bool) -> tuple[Search, Any]:
    from ibidem.grounding.index import Index
    from ibidem.grounding.store import EVERYONE, Access, Indexed, Query, Span

    class Rules:
        version = "1"

        def access(self, path: str) -> Access:
            return Access(frozenset([group_of(int(path[:6]))]) if has_rules else frozenset([EVERYONE]), frozenset())

        def permits(self, principal: str, access: Access) -> bool:
            return bool(principal and access.read)

    class Given:
        digest, width = "given", WIDTH

        def encode(self, texts: list[str]) -> Any:
            first = next(given)
            return vectors_ND[first : first + len(texts)]

    def document(first: int) -> Indexed:
        parts, spans, start = chunks[first : first + CHUNKS_A_DOCUMENT], [], 0
        for part in parts:
            spans.append(Span((), start, start + len(part)))
            start += len(part) + 2
        return Indexed(f"{first // CHUNKS_A_DOCUMENT:06d}.txt", "\n\n".join(parts), tuple(spans))

    given = iter(range(0, CHUNKS, CHUNKS_A_DOCUMENT))
    key, rules = b"k" * 32, Rules()
    Index(place / "index", key, encoder=Given()).update(map(document, range(0, CHUNKS, CHUNKS_A_DOCUMENT)), rules)
    index = Index.open(place / "index", key)

    def search(query: str, vector_D: Any) -> list[str]:
        return [hit.chunk.text for hit in index.search(Query(query, vector_D), "ann", rules, K)]

    return search, lambda queries: floor_ms(index, rules, queries)


def floor_ms(index: Any, rules: Any, queries: list[str]) -> float:
    """Return the median time of one sum over as many bytes as a query reads."""
    from ibidem.grounding import terms

    view = index._view(index._current(), "ann", rules)
    hashes = [[terms.hash_of(term, b"k" * 32) for term in set(terms.terms(query))] for query in queries]
    df_T = np.diff(view._bounds_T)
    known = [np.isin(view._terms_T, np.array(each, np.uint64)) for each in hashes]
    postings = statistics.mean(int(df_T[each].sum()) for each in known)
    data = np.ones((view._codes_ND.nbytes + 8 * int(postings)) // 8, np.uint64)
    seconds = []
    for _ in range(50):
        started = time.process_time()
        data.sum()
        seconds.append(time.process_time() - started)
    return 1e3 * statistics.median(seconds)


def tantivy_and_numpy(place: Path, chunks: list[str], vectors_ND: Any) -> Search:
    import tantivy

    schema = tantivy.SchemaBuilder().add_text_field("text", stored=True).add_unsigned_field("row", stored=True).build()
    (place / "tantivy").mkdir()
    index = tantivy.Index(schema, path=str(place / "tantivy"))
    writer = index.writer(num_threads=1)
    for row, chunk in enumerate(chunks):
        writer.add_document(tantivy.Document(text=chunk, row=row))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    np.save(place / "vectors.npy", vectors_ND)
    searcher = index.searcher()

    def search(query: str, vector_D: Any) -> list[str]:
        parsed = index.parse_query_lenient(query, ["text"])[0]
        addresses = [address for _, address in searcher.search(parsed, WINDOW, count=False).hits]
        documents = {}
        for address in addresses:
            found = searcher.doc(address)
            documents[found["row"][0]] = found
        cosines_N = vectors_ND @ vector_D
        nearest = np.argpartition(-cosines_N, WINDOW)[:WINDOW]
        nearest = nearest[np.argsort(-cosines_N[nearest], kind="stable")]
        scores: dict[int, float] = {}
        for ranking in (list(documents), nearest.tolist()):
            for rank, row in enumerate(ranking, 1):
                scores[row] = scores.get(row, 0.0) + 1 / (60 + rank)
        best = sorted(scores, key=lambda row: (-scores[row], row))[:K]
        return [documents[row]["text"][0] if row in documents else chunks[row] for row in best]

    return search


def lance(place: Path, chunks: list[str], vectors_ND: Any) -> Search:
    import lancedb
    import pyarrow as pa
    from lancedb.rerankers import RRFReranker

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), WIDTH)
    rows = pa.table({"text": chunks, "vector": vectors})
    table = lancedb.connect(str(place / "lance")).create_table("chunks", rows)
    table.create_fts_index("text")
    reranker = RRFReranker()

    def search(query: str, vector_D: Any) -> list[str]:
        words = " ".join("".join(char if char.isalnum() else " " for char in query).split())
        asked = table.search(query_type="hybrid").vector(vector_D).text(words).distance_type("cosine")
        return [str(row["text"]) for row in asked.rerank(reranker).limit(K).to_list()]

    return search


def write(output: Path, runs: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    rows: dict[str, Any] = {}
    for row, systems in runs.items():
        medians = {
            name: {figure: round(statistics.median(result[figure] for result in results), 3) for figure in results[0]}
            for name, results in systems.items()
        }
        ratio = [each["cpu_ms_per_query_with_rules"] / each["cpu_ms_per_query"] for each in systems["ibidem"]]
        rows[row] = {"systems": medians, "with_rules_to_without": round(statistics.median(ratio), 3)}
    figures = {
        "chunks": CHUNKS, "width": WIDTH, "groups": GROUPS, "k": K, "queries": QUERIES, "repeats": REPEATS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "rows": rows, "runs": runs,
    }  # fmt: skip
    output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
