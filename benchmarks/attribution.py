"""What attribution costs: an index of the tokens of a corpus, and looking texts up in it.

The corpus is source code of Python packages, preprocessed and tokenized by the program; the index is built from its
tokens, whole and from their first quarter. Texts of 500 tokens are half copies of documents and half of other code.

    build       CPU-seconds and bytes for a token, with one thread
    lookup      CPU-milliseconds for a text: cold, after the files left the page cache, and warm
    naive       `bytes.find` of the same spans over the ids, in the same process


    python benchmarks/attribution.py CORPUS benchmarks/results/attribution.json
"""

import json
import os
import random
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
NAIVE_TEXTS = 3


def main() -> None:
    corpus, output = Path(sys.argv[1]), Path(sys.argv[2])
    from ibidem import runtime

    runtime.tune()
    with tempfile.TemporaryDirectory() as name:
        tokens = make_tokens(corpus, Path(name))
        found = {"index": built(tokens, Path(name)), **looked_up(Path(name))}
        found["sorting"] = {"all": sorting(tokens, 1.0), "quarter": sorting(tokens, 0.25)}
    write(output, found)


def make_tokens(corpus: Path, scratch: Path) -> Path:
    """Preprocess and tokenize the corpus with the program's commands."""
    ibidem("preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", scratch / "data")
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
        "bytes_a_token_with_the_ids": num_bytes / num_tokens + 2,
    }


def sorting(tokens: Path, share: float) -> dict[str, float]:
    """Sort the suffixes of the beginning of the ids, as one part."""
    import numpy as np

    from ibidem.attribution.suffix_array import suffix_array

    files = sorted(tokens.rglob("train.bin"))
    ids = np.concatenate([np.fromfile(path, np.uint16) for path in files])
    ids = ids[: int(len(ids) * share)]
    _, cpu_s = timed(lambda: suffix_array(ids))
    return {"tokens": len(ids), "cpu_s": cpu_s, "cpu_us_a_token": cpu_s / len(ids) * 1e6}


def looked_up(scratch: Path) -> dict[str, Any]:
    from ibidem.attribution.lookup import Attribution

    lookup = Attribution(scratch / "index", least_tokens=LEAST)
    texts = make_texts(lookup)
    lookup.of_ids(texts[0])  # compiled now
    cold, found = [], []
    for text in texts[:20]:
        forget(lookup)
        cold.append(timed(lambda text=text: lookup.of_ids(text))[1])
    warm = []
    for text in texts:
        repetitions, cpu_s = timed(lambda text=text: lookup.of_ids(text))
        warm.append(cpu_s)
        found.append(len(repetitions))
    return {
        "lookup": {
            "tokens": TEXT_TOKENS,
            "cold_cpu_ms": statistics.median(cold) * 1e3,
            "warm_cpu_ms": statistics.median(warm) * 1e3,
            "warm_worst_cpu_ms": max(warm) * 1e3,
            "spans_a_text": statistics.mean(found),
        },
        "naive": naive(lookup, texts),
    }


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


def forget(lookup: Any) -> None:
    """Let the pages of the index leave the page cache."""
    for part in lookup._parts:
        for array in (part.ids_N, part.suffixes_N):
            array._mmap.madvise(4)  # MADV_DONTNEED
            with Path(array.filename).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def naive(lookup: Any, texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Search every start of a text in the ids by `bytes.find`, and compare the spans."""
    import numpy as np

    from ibidem.attribution.suffix_array import maximal
    from ibidem.attribution.suffix_array import spans as exact

    raw = [shard.ids_N.tobytes() for shard in lookup._parts]
    seconds, same = [], 0
    for each in texts[:NAIVE_TEXTS]:
        text = np.array(each, np.uint16)
        expected, cpu_s = timed(lambda text=text: naive_spans(raw, text))
        seconds.append(cpu_s)
        of_shards = (exact(shard.ids_N, shard.suffixes_N, text, LEAST) for shard in lookup._parts)
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
        "command": f"python benchmarks/attribution.py CORPUS {path.as_posix()}",
        "machine": f"{os.cpu_count()} cores, one thread",
        "bars": {"cpu_us_a_token": 300 / 130, "bytes_a_token": 12, "cold_cpu_ms": 20, "warm_cpu_ms": 5},
        **result,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
