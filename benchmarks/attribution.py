"""What attribution costs: an index of the tokens of a corpus, and looking texts up in it.

The corpus is source code of Python packages, preprocessed and tokenized by the program; every document is kept. The
index is built from its tokens, and its parts from the whole and from their first quarter. Texts of 500 tokens are half
copies of documents and half of other code.

    build       CPU-seconds and bytes for a token, with one thread
    open        CPU-milliseconds until the index can be asked
    lookup      CPU-milliseconds for a text that was not looked up before: cold, after the files left the page cache,
                and warm, with all of them in it
    similar     CPU-milliseconds for a second look at a text, and how many of the passages of 25 lines whose document it
                names, by what was edited in them
    longest     CPU-seconds for a text of about a million tokens, and its spans
    naive       `bytes.find` of the same spans over the ids, in the same process
    infini-gram the package's own index of the same ids, and its `attribute` of the same texts, in an environment of its
                own, whose Python is the last argument
    plan        what 10^12 tokens would take, from the figures measured here

    python benchmarks/attribution.py CORPUS benchmarks/results/attribution.json [PEER_PYTHON]

CORPUS may be a folder of tokens, which are then indexed as they are.
"""

import gc
import json
import keyword
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

VOCAB, CONTEXT = 16_384, 512
TEXTS, TEXT_TOKENS, LEAST = 200, 500, 40
NAIVE_TEXTS, PASSAGES, LONGEST_TOKENS = 3, 200, 1_000_000
PEER_TIMEOUT_S = 900


def main() -> None:
    corpus, output = Path(sys.argv[1]), Path(sys.argv[2])
    from ibidem import runtime

    runtime.tune()
    with tempfile.TemporaryDirectory() as name:
        is_made = (corpus / "manifest.json").exists()
        tokens = corpus if is_made else make_tokens(corpus, Path(name))
        found = {"index": built(tokens, Path(name)), **looked_up(Path(name))}
        found["sorting"] = {"all": sorting(tokens, 1.0), "quarter": sorting(tokens, 0.25)}
        found["infini_gram"] = peer(Path(name), sys.argv[3]) if len(sys.argv) > 3 else "NOT MEASURED: no PEER_PYTHON"
    found["plan"] = plan(found, 10**12)
    write(output, found)


def make_tokens(corpus: Path, scratch: Path) -> Path:
    """Preprocess and tokenize the corpus with the program's commands."""
    kept = [
        "--dedup.near",
        "false",
        "--dedup.exact",
        "false",
        "--skip",
        "filters",
        "licenses",
        "scrub",
        "contamination",
    ]
    ibidem("preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", scratch / "data", *kept)
    trained = ["--input", scratch / "data", "--output-dir", scratch / "tokenizer", "--vocab-size", VOCAB]
    ibidem("train-tokenizer", *trained, "--max-corpus-bytes", 5_000_000)
    made = ["--dataset", scratch / "data", "--tokenizer", scratch / "tokenizer", "--output-dir", scratch / "tokens"]
    ibidem("tokenize", *made)
    return scratch / "tokens"


def ibidem(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "ibidem", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def built(tokens: Path, scratch: Path) -> dict[str, Any]:
    from ibidem.attribution.config import BuildConfig
    from ibidem.attribution.index import build
    from ibidem.data.engine import EngineConfig

    one = EngineConfig(workers=1)
    _, cpu_s = timed(lambda: build(BuildConfig(tokens=tokens, output_dir=scratch / "index", engine=one)))
    from ibidem import artifacts

    index = artifacts.load(scratch / "index")
    num_bytes, num_tokens = sum(file.bytes for file in index.files.values()), index.counts["tokens"]
    return {
        "documents": index.counts["documents"],
        "tokens": num_tokens,
        "cpu_s": cpu_s,
        "cpu_us_a_token": cpu_s / num_tokens * 1e6,
        "bytes_a_token": num_bytes / num_tokens,
        "bytes_a_token_with_the_tokens": num_bytes / num_tokens + 2,
    }


def sorting(tokens: Path, share: float) -> dict[str, float]:
    """Sort the suffixes of the beginning of the ids, as one part."""
    import numpy as np

    from ibidem.attribution.suffix_array import suffix_array, tops

    files = sorted(tokens.rglob("train.bin"))
    ids = np.concatenate([np.fromfile(path, np.uint16) for path in files])
    ids = ids[: int(len(ids) * share)]
    _, cpu_s = timed(lambda: tops(ids, suffix_array(ids)))
    return {"tokens": len(ids), "cpu_s": cpu_s, "cpu_us_a_token": cpu_s / len(ids) * 1e6}


def looked_up(scratch: Path) -> dict[str, Any]:
    from ibidem.attribution.lookup import Attribution

    def opened() -> Attribution:
        return Attribution(scratch / "index", least_tokens=LEAST)

    lookup = opened()
    texts = make_texts(lookup)
    lookup.of_ids(texts[0])  # compiled now
    _, open_s = timed(opened)
    cold, found = [], []
    for text in texts[:20]:
        del lookup  # a page that is mapped stays in memory
        forget(scratch / "index")
        lookup = opened()
        cold.append(timed(lambda text=text, lookup=lookup: lookup.of_ids(text))[1])
    del lookup
    for path in (scratch / "index").rglob("*"):
        if path.is_file():
            path.read_bytes()  # into the page cache
    lookup, warm = opened(), []
    for text in texts:
        repetitions, cpu_s = timed(lambda text=text: lookup.of_ids(text))
        warm.append(cpu_s)
        found.append(len(repetitions))
    return {
        "lookup": {
            "tokens": TEXT_TOKENS,
            "parts": len(lookup._parts),
            "open_cpu_ms": open_s * 1e3,
            "cold_cpu_ms": statistics.median(cold) * 1e3,
            "warm_cpu_ms": statistics.median(warm) * 1e3,
            "warm_worst_cpu_ms": max(warm) * 1e3,
            "spans_a_text": statistics.mean(found),
        },
        "similar": similar(lookup, texts),
        "longest": longest(lookup),
        "naive": naive(lookup, texts),
    }


def similar(lookup: Any, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Look for what texts resemble, and for the documents of passages that were edited."""
    seconds = [timed(lambda text=text: lookup.similar_to(text))[1] for text in map(lookup.tokenizer.decode, texts)]
    rng = random.Random(1)
    passages = [passage_of_a_document(lookup, rng) for _ in range(PASSAGES)]
    named = dict.fromkeys(EDITS, 0)
    for name, edit in EDITS.items():
        for sha256, lines in passages:
            found = lookup.similar_to("\n".join(edit(lines, rng)))
            named[name] += sha256 in {each.source.sha256 for each in found}
    return {
        "cpu_ms": statistics.median(seconds) * 1e3,
        "cpu_ms_worst": max(seconds) * 1e3,
        "passages": PASSAGES,
        "named": named,
    }


def passage_of_a_document(lookup: Any, rng: random.Random) -> tuple[str, list[str]]:
    """Return the hash of a document and 25 lines of it that have words in them."""
    while True:
        part = rng.choice(lookup._parts)
        row = rng.randrange(len(part.documents))
        lines = [line for line in lookup.tokenizer.decode(part.ids_of(row)).splitlines() if line.strip()]
        if len(lines) > 40:
            start = rng.randrange(len(lines) - 25)
            passage = lines[start : start + 25]
            if len(set(re.findall(r"\w+", "\n".join(passage)))) > 40:
                return part.documents["sha256"][row].as_py(), passage


def renamed(lines: list[str], rng: random.Random, count: int) -> list[str]:
    """Give other names to some of the words that occur more than once."""
    words = re.findall(r"\b[a-z_]{3,}\b", "\n".join(lines))
    repeated = sorted({word for word in words if words.count(word) > 1 and not keyword.iskeyword(word)})
    text = "\n".join(lines)
    for number, word in enumerate(rng.sample(repeated, min(count, len(repeated)))):
        text = re.sub(rf"\b{word}\b", f"another{number}", text)
    return text.splitlines()


EDITS: dict[str, Callable[[list[str], random.Random], list[str]]] = {
    "copied": lambda lines, _: lines,
    "other layout": lambda lines, _: [" ".join(re.findall(r"\w+|[^\w\s]", line)) for line in lines],
    "every fifth line left out": lambda lines, _: [line for number, line in enumerate(lines) if number % 5],
    "one name changed": lambda lines, rng: renamed(lines, rng, 1),
    "three names changed": lambda lines, rng: renamed(lines, rng, 3),
    "all names changed": lambda lines, rng: renamed(lines, rng, 1000),
}


def longest(lookup: Any) -> dict[str, float]:
    """Look up documents one after another, as one text of about a million tokens."""
    part, ids = lookup._parts[0], list[int]()
    for row in range(len(part.documents)):
        if len(ids) > LONGEST_TOKENS:
            break
        ids += part.ids_of(row)
    text = lookup.tokenizer.decode(ids[:LONGEST_TOKENS])
    repetitions, cpu_s = timed(lambda: lookup.of_text(text))
    _, similar_s = timed(lambda: lookup.similar_to(text, repetitions))
    return {"characters": len(text), "cpu_s": cpu_s, "spans": len(repetitions), "similar_cpu_s": similar_s}


def make_texts(lookup: Any) -> list[list[int]]:
    """Return texts that are half copied from documents, in pieces of 100, and half random pieces of 3."""
    rng, shards = random.Random(0), lookup._parts

    def piece(size: int) -> list[int]:
        part = rng.choice(shards)
        start = rng.randrange(len(part.ids_N) - size)
        return [int(each) for each in part.ids_N[start : start + size]]

    texts = []
    for _ in range(TEXTS):
        text: list[int] = []
        while len(text) < TEXT_TOKENS:
            text += piece(100)
            while len(text) % 200:
                text += piece(4)
        texts.append(text[:TEXT_TOKENS])
    return texts


def forget(index: Path) -> None:
    """Let the pages of the index leave the page cache."""
    gc.collect()
    for path in index.rglob("train.*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


PEER = """
import json, os, resource, statistics, sys, time, types
from infini_gram import indexing
from infini_gram.engine import InfiniGramEngine
folder, here = sys.argv[1], os.getcwd()
indexing.build_sa(types.SimpleNamespace(
    save_dir=folder, temp_dir=folder, worker_id=0, shards=int(sys.argv[3]), workers=1, mem=8, cpus=1, token_width=2))
os.chdir(here)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
size = sum(os.path.getsize(os.path.join(folder, each)) for each in os.listdir(folder) if not each.endswith(".json"))
engine = InfiniGramEngine(folder, eos_token_id=0, vocab_size=65535, version=4, token_dtype="u16")
seconds, spans = [], 0
for text in json.load(open(folder + "/texts.json")):
    started = time.process_time()
    found = engine.attribute(text, [], int(sys.argv[2]), 1000000, False)
    seconds.append(time.process_time() - started)
    assert "error" not in found, found
    spans += len(found["spans"])
print(json.dumps({"build_cpu_s": used.ru_utime + used.ru_stime, "bytes": size, "spans_a_text": spans / len(seconds),
                  "warm_cpu_ms": statistics.median(seconds) * 1e3, "warm_worst_cpu_ms": max(seconds) * 1e3}))
"""


def peer(scratch: Path, python: str) -> Any:
    """Let infini-gram index the same ids, and ask it for the same texts."""
    import numpy as np

    from ibidem.attribution.lookup import Attribution

    lookup, folder = Attribution(scratch / "index", least_tokens=LEAST), scratch / "peer"
    folder.mkdir()
    (folder / "texts.json").write_text(json.dumps(make_texts(lookup)))
    for number, part in enumerate(lookup._parts):
        ids, starts = part.ids_N.copy(), part.documents["start"].to_numpy()
        ids[starts] = 0xFFFF  # its own mark of a document
        ids.tofile(folder / f"tokenized.{number}")
        (starts.astype(np.uint64) * 2).tofile(folder / f"offset.{number}")
    words = [python, "-c", PEER, str(folder), str(LEAST), str(len(lookup._parts))]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=PEER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"NOT MEASURED: no answer within {PEER_TIMEOUT_S} s"
    if done.returncode:
        return f"NOT MEASURED: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
    return json.loads(done.stdout.splitlines()[-1])


def plan(found: dict[str, Any], tokens: int) -> dict[str, float]:
    """Return what an index of parts of 2**30 tokens would take: a lookup asks each part once."""
    parts = -(-tokens // (1 << 30))
    index, lookup = found["index"], found["lookup"]
    return {
        "tokens": tokens,
        "parts": parts,
        "terabytes": tokens * index["bytes_a_token"] / 1e12,
        "memory_gigabytes": tokens * 18 / 256 / 1e9,
        "build_cpu_hours": tokens * found["sorting"]["all"]["cpu_us_a_token"] / 1e6 / 3600,
        "memory_of_a_build_gigabytes": 17 * 2**30 / 1e9,
        "cold_cpu_s": parts / lookup["parts"] * lookup["cold_cpu_ms"] / 1e3,
        "warm_cpu_s": parts / lookup["parts"] * lookup["warm_cpu_ms"] / 1e3,
    }


def naive(lookup: Any, texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Search every start of a text in the ids by `bytes.find`, and compare the spans."""
    import numpy as np

    from ibidem.attribution.suffix_array import maximal

    raw = [shard.ids_N.tobytes() for shard in lookup._parts]
    seconds, same = [], 0
    for each in texts[:NAIVE_TEXTS]:
        text = np.array(each, np.uint16)
        expected, cpu_s = timed(lambda text=text: naive_spans(raw, text))
        seconds.append(cpu_s)
        of_shards = (shard.spans(text, LEAST) for shard in lookup._parts)
        same += expected == [tuple(span) for span in maximal([span for spans in of_shards for span in spans])]
    return {"cpu_ms": statistics.median(seconds) * 1e3, "texts": NAIVE_TEXTS, "same_spans": same}


def naive_spans(raw: Sequence[bytes], text: Any) -> list[tuple[int, int]]:
    spans, reached = [], 0
    for start in range(len(text) - LEAST + 1):
        end = max(start + LEAST, reached)
        if occurs(raw, text[start:end].tobytes()):
            while end < len(text) and occurs(raw, text[start : end + 1].tobytes()):
                end += 1
            if end > reached:
                spans.append((start, end))
                reached = end
    return spans


def occurs(raw: Sequence[bytes], wanted: bytes) -> bool:
    """Return whether 16-bit ids occur, at the beginning of an id."""
    for each in raw:
        place = each.find(wanted)
        while place % 2 and place >= 0:
            place = each.find(wanted, place + 1)
        if place >= 0:
            return True
    return False


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    result = function()
    return result, time.process_time() - started


def write(path: Path, result: dict[str, Any]) -> None:
    whole = {
        "command": f"python benchmarks/attribution.py CORPUS benchmarks/results/{path.name} [PEER_PYTHON]",
        "machine": f"{os.cpu_count()} cores, one thread",
        "bars": {"cpu_us_a_token": 300 / 130, "bytes_a_token": 12, "cold_cpu_ms": 20, "warm_cpu_ms": 5},
        **result,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
