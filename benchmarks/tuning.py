"""What each setting of `ibidem.runtime`, and each hand-made kernel, saves: with and without it, in turn, in one run.

    python benchmarks/tuning.py CORPUS_DIR benchmarks/results/tuning.json

CORPUS_DIR holds Parquet files with a column `text`. Figures are medians of 5 interleaved pairs.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measured
import numpy as np

ROUNDS = 5
PREPROCESS = """
import sys
from contextlib import nullcontext
from ibidem import runtime
{patch}
from ibidem.cli import main
sys.exit(main(["preprocess", "--dataset", sys.argv[1] + ":train:text", "--output-dir", sys.argv[2], "--workers", "2",
               *sys.argv[3:]]))
"""
DEDUP_ALONE = ("--skip", "clean", "natural_languages", "licenses", "filters", "scrub", "contamination")
PATCHES = {  # each takes one setting away
    "heaps": "import os; runtime._HEAPS.clear(); os.environ['ARROW_DEFAULT_MEMORY_POOL'] = 'mimalloc'",
    "rare_collection": "runtime.rare_collection = nullcontext",
}
HELP = "import sys; from ibidem import runtime\n{patch}\nfrom ibidem.cli import main; main(['preprocess', '--help'])"
IMPORTING = {
    "importing": "runtime.importing = __import__('contextlib').nullcontext",
    "freeze at exit": "import gc; gc.freeze = lambda: None",
}


def main() -> None:
    """Measure every pair and write the result."""
    corpus, path = sys.argv[1], Path(sys.argv[2])
    rows = {name: in_turn(name, lambda patch: stage(corpus, patch), patch) for name, patch in PATCHES.items()}
    rows |= {name: in_turn(name, start, patch) for name, patch in IMPORTING.items()}
    rows["OpenSSL called from compiled code"] = hashing(corpus)
    rows["ASCII twin of the word hash"] = ascii_words(corpus)
    command = "python benchmarks/tuning.py CORPUS_DIR benchmarks/results/tuning.json"
    path.write_text(json.dumps({"command": command, "rounds": ROUNDS, "settings": rows}, indent=1) + "\n")


def in_turn(name: str, run: Callable[[str], dict[str, float]], patch: str) -> dict[str, object]:
    """Run with and without a setting, in turn; return the medians and how much more is spent without it."""
    pairs = [(run(""), run(patch)) for _ in range(ROUNDS)]
    figures = {key: [statistics.median(pair[side][key] for pair in pairs) for side in (0, 1)] for key in pairs[0][0]}
    print(name, figures)
    return {
        key: {"with": with_it, "without": without, "without / with": round(without / with_it, 3)}
        for key, (with_it, without) in figures.items()
    }


def stage(corpus: str, patch: str) -> dict[str, float]:
    """Deduplicate the corpus in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script = PREPROCESS.replace("{patch}", patch)
        return measured.run([sys.executable, "-c", script, corpus, f"{folder}/out", *DEDUP_ALONE])


def start(patch: str) -> dict[str, float]:
    """Show the help of a command, five times, in processes of their own."""
    script = HELP.replace("{patch}", patch)
    before = measured.children_cpu_s()
    for _ in range(5):
        subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    return {"cpu_s": (measured.children_cpu_s() - before) / 5}


def texts_of(corpus: str) -> list[bytes]:
    """Return the texts of the first file of the corpus."""
    import pyarrow.parquet as pq

    return [text.encode() for text in pq.read_table(next(Path(corpus).glob("*.parquet")))["text"].to_pylist()]


def hashing(corpus: str) -> dict[str, object]:
    """Hash the texts on two threads, by OpenSSL from compiled code and by hashlib."""
    from concurrent.futures import ThreadPoolExecutor

    from ibidem.data.text import hashing as module

    batches = [texts_of(corpus)[start : start + 256] for start in range(0, 8192, 256)]
    is_linked = module._is_linked

    def run(patch: str) -> dict[str, float]:
        module._is_linked = (lambda: False) if patch else is_linked
        module.hash_contents(batches[0])
        cpu, wall = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(module.hash_contents, batches))
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    return in_turn("hashing", run, "hashlib")


def ascii_words(corpus: str) -> dict[str, object]:
    """Hash the words of the ASCII texts by the twin for ASCII, and by the kernel for any text."""
    from ibidem.data.text import shingles

    texts = [text for text in texts_of(corpus) if text.isascii()][:4000]
    arrays = {end: [np.frombuffer(text + end.encode(), np.uint8) for text in texts] for end in ("", " é")}
    words, letters = np.empty(max(map(len, texts)), np.uint64), shingles._letters()

    def run(patch: str) -> dict[str, float]:
        before = time.process_time()
        for data in arrays[patch]:  # one character beyond ASCII sends a text through the general kernel
            shingles._hash_words(data, 0, len(data), letters, words)
        return {"cpu_s": time.process_time() - before}

    run("")
    run(" é")
    return in_turn("ascii words", run, " é")


if __name__ == "__main__":
    main()
