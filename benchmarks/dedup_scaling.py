"""What a decision between documents costs as the corpus grows: CPU seconds and memory, a document.

    random      documents of 40 words; none, or two in five, are another one with its last word changed
    families    documents that share 300 words and have 45 for themselves: Jaccard similarity 0.77, duplicates of none

Documents are written as `ibidem preprocess` prepares them, with their sketches, and a process of its own decides:
copies, near duplicates and verdicts, with one worker. It has decided about a small corpus before, so that all kernels
are loaded. CPU is that of the process, and `serial` the part that no worker can take; memory is the most that was
anonymous (what it holds, without mapped files) beyond that of the small corpus; disk is that of the sketches and of
what the decision writes. Tasks run in the same process, so their buffers count, and they do not grow.

    python benchmarks/dedup_scaling.py WORK_DIR benchmarks/results/dedup_scaling.json [MOST_RANDOM [MOST_OF_FAMILY]]

WORK_DIR takes 3 KB for each of 4,000,000 documents.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ibidem.data import near, shards
from ibidem.data.dedup import DedupPolicy, find_duplicates, sketch_texts
from ibidem.data.engine import Engine, EngineConfig
from ibidem.data.filters.removals import RemovalPolicy
from ibidem.data.near import Part
from ibidem.data.pipeline import decide

RANDOM, FAMILIES = (250_000, 1_000_000, 4_000_000), (1_000, 4_000, 16_000, 64_000)
WORDS, SHARED, OWN, SIMILAR = 40, 300, 45, 0.4
SHARD = 2000
SCHEMA = pa.schema([("text", pa.large_string()), ("record", pa.string())])


def main() -> None:
    if sys.argv[1] == "run":
        print(json.dumps(measure(Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    most_random, most_of_family = map(int, [*sys.argv[3:], RANDOM[-1], FAMILIES[-1]][:2])
    write(folder / "small", similar(np.random.default_rng(0), SHARD))
    jobs: list[tuple[str, int, float | None]] = [
        (f"random, {share:.0%} similar", count, share) for count in RANDOM for share in (0.0, SIMILAR)
    ]
    jobs = [("family", count, None) for count in FAMILIES if count <= most_of_family] + [
        job for job in jobs if job[1] <= most_random
    ]
    rows: list[dict[str, Any]] = []
    for job in jobs:
        rows.append(one(folder, *job))
        report(output, rows)  # after each: the largest come last and take longest


def report(output: Path, rows: list[dict[str, Any]]) -> None:
    result: dict[str, Any] = {
        "command": f"python benchmarks/{Path(__file__).name} WORK_DIR benchmarks/results/{output.name}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "runs": rows,
        "CPU a document: largest family against smallest, random documents against a fourth": ratios(rows),
    }
    output.write_text(json.dumps(result, indent=1) + "\n")


def one(folder: Path, name: str, count: int, share: float | None) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    write(source, family(rng, count) if share is None else similar(rng, count, share))
    command = [sys.executable, __file__, "run", str(folder / "small"), str(source)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    row = {"corpus": name, "documents": count} | found
    print(row, flush=True)
    shutil.rmtree(source)
    return row


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the CPU of a document, the largest family by the smallest, random documents by a fourth of them."""
    corpora: dict[str, list[float]] = {}
    for row in rows:
        corpora.setdefault(row["corpus"], []).append(row["cpu_us_a_document"])
    return {
        name: round(values[-1] / values[0 if name == "family" or len(values) < 2 else -2], 3)
        for name, values in corpora.items()
    }


def similar(rng: np.random.Generator, count: int, share: float = SIMILAR) -> Iterator[list[str]]:
    """Yield shards of random documents; a share of them are one of the same shard with another last word."""
    for _ in range(0, count, SHARD):
        words = rng.integers(0, 1 << 24, (SHARD, WORDS))
        copies = rng.random(SHARD) < share
        copies[0] = False
        originals = rng.choice(np.flatnonzero(~copies), np.count_nonzero(copies))
        words[copies, :-1] = words[originals, :-1]
        yield [" ".join(map(hex, row)) for row in words.tolist()]


def family(rng: np.random.Generator, count: int) -> Iterator[list[str]]:
    """Yield shards of documents that share their first words."""
    shared = " ".join(f"shared{number}" for number in range(SHARED))
    for start in range(0, count, SHARD):
        words = rng.integers(0, 1 << 24, (min(SHARD, count - start), OWN))
        yield [f"{shared} {' '.join(map(hex, row))}" for row in words.tolist()]


def write(folder: Path, corpus: Iterator[list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, texts in enumerate(corpus):
        column = pa.array(texts, pa.large_string())
        records = pa.array([f"{number}-{row}" for row in range(len(texts))])
        shards.write_table(folder / f"{number:06d}.arrow", pa.table([column, records], schema=SCHEMA))
        hashes = [f"{number * SHARD + row:064x}" for row in range(len(texts))]
        np.save(folder / f"{number:06d}.npy", sketch_texts(column, hashes, near=True))


def measure(small: Path, source: Path) -> dict[str, float]:
    """Decide about a small corpus, then about the one that is measured."""
    decide_about(small)
    before, peak, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, cpu = time.monotonic(), time.process_time()
    count, dropped, found = decide_about(source)
    cpu, wall = time.process_time() - cpu, time.monotonic() - started
    done.set()
    watcher.join()
    return {
        "dropped": dropped,
        "cpu_us_a_document": round(1e6 * cpu / count, 2),
        "wall_s": round(wall, 1),
        "peak_mb": round(peak[0] / 1e6, 1),
        "peak_bytes_a_document": round((peak[0] - before) / count, 1),
        "disk_bytes_a_document": round(found["disk"] / count, 1),
        "serial_cpu_us_a_document": round(1e6 * found["serial_s"] / count, 3),
    }


def decide_about(source: Path) -> tuple[int, int, dict[str, float]]:
    """Return the documents, how many are dropped, and the disk and the CPU of the driver alone that this took."""
    parts = [Part(path.with_suffix(".npy"), path) for path in sorted(source.glob("*.arrow"))]
    scratch, verdicts = source / "decisions", source / "verdicts"
    verdicts.mkdir(exist_ok=True)
    engine, policy = Engine(EngineConfig(workers=1)), RemovalPolicy()
    serial_s = 0.0
    connect = near._connect

    def timed(*args: Any) -> Any:
        nonlocal serial_s
        started = time.thread_time()
        result = connect(*args)
        serial_s += time.thread_time() - started
        return result

    near._connect = timed
    decisions = find_duplicates(parts, DedupPolicy(), engine, scratch)
    near._connect = connect
    decide.write_verdicts(decisions, {}, policy, [verdicts / part.text.name for part in parts], engine)
    decisions.clusters()
    dropped = sum(int(np.count_nonzero(decisions.of(group)["keeper"] >= 0)) for group in decisions.groups)
    kept = [scratch, verdicts, *(part.sketch for part in parts)]
    disk = sum(file.stat().st_size for path in kept for file in (path.rglob("*") if path.is_dir() else [path]))
    shutil.rmtree(scratch)
    shutil.rmtree(verdicts)
    return int(decisions.layout.bounds[-1]), dropped, {"disk": disk, "serial_s": serial_s}


def anonymous() -> int:
    """Return the anonymous memory of this process, in bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])


if __name__ == "__main__":
    main()
