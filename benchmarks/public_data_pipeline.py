"""What `ibidem` does with 384 MB of source code: speed, memory, takedown, increments, kills.

    cleaning      read, clean, judge licenses, scrub, write: MB/s of input, start-up included
    pipeline      all steps with the contamination guard and 100 requests for removal, then the blend: MB/s, peak memory
    takedown      1,000 documents out of finished shards: seconds beyond start-up (the time of a plan for no document),
                  residuals, untouched shards byte-equal, the result byte-equal to a run asked from the start
    increment     1 % of the corpus, drawn by hash, against the finished rest, as a share of the time of the run for the
                  rest: as it is, less start-up, and beyond the start-up of both, which is the time of a run for one
                  document that is kept, for which all that is needed has to be loaded
    kills         kill -9 at 30 random moments of one run: the output byte-equal to an uninterrupted one

Wall-clock with 2 workers, medians of 3, of the increment 9; memory is the peak of the proportional set size of all
processes of a run.

    python benchmarks/public_data_pipeline.py CORPUS_DIR benchmarks/results/public_data_pipeline.json
"""

import hashlib
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measured
import pyarrow as pa
import pyarrow.parquet as pq

REPEATS, SMALL_REPEATS, KILLS, WORKERS = 3, 9, 30, "2"
NO_DEDUP = ("--dedup.near", "false", "--dedup.exact", "false")


def main() -> None:
    corpus, output = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = work / "corpus"
        source.mkdir()
        for file in sorted(corpus.glob("*.parquet")):
            shutil.copy(file, source)
        result: dict[str, Any] = {
            "command": f"python benchmarks/{Path(__file__).name} CORPUS_DIR {output.as_posix()}",
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "size_mb": round(size_mb(source), 1),
        }
        for measure in (cleaning, pipeline, takedown, increment, kills):
            result[measure.__name__] = measure(source, work, result["size_mb"])
            print(json.dumps({measure.__name__: result[measure.__name__]}, indent=1), flush=True)
    output.write_text(json.dumps(result, indent=1) + "\n")


def cleaning(source: Path, work: Path, size: float) -> dict[str, Any]:
    flags = ("--skip", "filters", "contamination", *NO_DEDUP)
    runs = [timed(*preprocess(source, fresh(work / "clean")), *flags) for _ in range(REPEATS)]
    return medians(runs, size)


def pipeline(source: Path, work: Path, size: float) -> dict[str, Any]:
    requests = write_requests(work / "asked.jsonl", sorted(rows(source, ["path"]), key=hashed)[:100], "path")
    runs = []
    for _ in range(REPEATS):
        first = timed(*whole(source, fresh(work / "public")), "--removals.requests", str(requests))
        blend = ["blend", "--datasets.public.path", str(work / "public"), "--output-dir", str(fresh(work / "blend"))]
        second = timed(*blend, "--shares.code", "0.8", "--shares.text", "0.2", "--workers", WORKERS)
        runs.append(
            {
                "wall_s": first["wall_s"] + second["wall_s"],
                "cpu_s": first["cpu_s"] + second["cpu_s"],
                "peak_mb": max(first["peak_mb"], second["peak_mb"]),
                "preprocess_s": first["wall_s"],
                "blend_s": second["wall_s"],
            }
        )
    counts = json.loads((work / "public" / "manifest.json").read_text())["counts"]
    return medians(runs, size) | {"read": counts["read"], "kept": counts["kept"], "dropped": counts["dropped"]}


def takedown(source: Path, work: Path, _: float) -> dict[str, Any]:
    timed(*whole(source, fresh(work / "all")))
    hashes = sorted(row["sha256"] for path in shards(work / "all") for row in read(path, ["sha256"]))
    random.Random(0).shuffle(hashes)
    requests = write_requests(work / "removal.jsonl", [{"sha256": value} for value in hashes[:1000]], "sha256")
    nothing = write_requests(work / "nothing.jsonl", [{"sha256": "0" * 64}], "sha256")
    flags = ["--workers", WORKERS, "--artifacts", str(work)]
    beyond, startup = [], []
    for _ in range(REPEATS):
        copy = fresh(work / "takedown")
        shutil.copytree(work / "all", copy)
        before = digests(copy)
        planned = ("takedown", "plan", str(nothing), "--dataset", str(copy), "--allow-unmatched")
        startup.append(timed(*planned, *flags)["wall_s"])
        beyond.append(timed("takedown", "apply", str(requests), "--dataset", str(copy), *flags)["wall_s"] - startup[-1])
    # of its own folder alone: the other datasets of this benchmark hold the documents
    flags = ["--workers", WORKERS, "--artifacts", str(copy)]
    proof = ibidem("takedown", "verify", str(requests), "--dataset", str(copy), *flags)
    timed(*whole(source, fresh(work / "asked")), "--removals.requests", str(requests))
    after, asked = digests(copy), digests(work / "asked")
    statement = json.loads(next(work.glob("takedown.takedown-*.json")).read_text())[0]["predicate"]
    rewritten = {name for name in statement["files"]["rewritten"] if name.endswith(".parquet")}
    return {
        "documents": len(statement["removed"]),
        "startup_s": round(statistics.median(startup), 3),
        "beyond_startup_s": round(statistics.median(beyond), 3),
        "s_per_1000_documents": round(1000 * statistics.median(beyond) / len(statement["removed"]), 3),
        "proof": proof.partition(";")[0].strip(),
        "shards_rewritten": len([name for name in rewritten if "shard-" in name]),
        "untouched_byte_equal": all(after[name] == value for name, value in before.items() if name not in {
            *statement["files"]["rewritten"], "manifest.json"}),
        "equal_to_a_run_asked_from_the_start": {n: v for n, v in after.items() if n != "manifest.json"}
        == {n: v for n, v in asked.items() if n != "manifest.json"},
    }  # fmt: skip


def increment(source: Path, work: Path, _: float) -> dict[str, Any]:
    settled, more, least = (work / name for name in ("settled", "more", "least"))
    held_out = []
    for folder in (settled, more, least):
        folder.mkdir()
    for path in sorted(source.glob("*.parquet")):
        table = pq.read_table(path)
        chosen = [int(hashed(f"{path.name} {row}")[:8], 16) % 100 == 0 for row in range(len(table))]
        held_out.append(table.filter(pa.array(chosen)))
        pq.write_table(table.filter(pa.array([not one for one in chosen])), settled / path.name)
    new = pa.concat_tables(held_out)
    pq.write_table(new, more / "new.parquet")
    full = [timed(*whole(settled, fresh(work / "full"))) for _ in range(REPEATS)]
    against = ("--dedup.against", str(work / "full"))
    kept = {row["raw_sha256"] for path in shards(work / "full") for row in read(path, ["raw_sha256"])}
    first = next(row for row in rows(settled, ["text", "path", "license"]) if hashed(row["text"]) in kept)
    pq.write_table(pa.Table.from_pylist([first]), least / "one.parquet")
    some, starts = [], []
    for _ in range(SMALL_REPEATS):  # in turn, for they differ by less than the machine does
        some.append(timed(*whole(more, fresh(work / "one")), *against))
        starts.append(timed(*whole(least, fresh(work / "none"))))
    full_s, one_s, startup = (statistics.median(run["wall_s"] for run in runs) for runs in (full, some, starts))
    cpu = [statistics.median(run["cpu_s"] for run in runs) for runs in (full, some)]
    counts = [json.loads((work / name / "manifest.json").read_text())["counts"] for name in ("one", "none")]
    assert counts[1]["kept"] == 1
    return {
        "documents": len(new),
        "kept": counts[0]["kept"],
        "full_s": round(full_s, 2),
        "increment_s": round(one_s, 2),
        "startup_s": round(startup, 2),
        "share": round(one_s / full_s, 3),
        "share_less_startup": round((one_s - startup) / full_s, 4),
        "share_beyond_startup": round((one_s - startup) / (full_s - startup), 4),
        "share_of_cpu": round(cpu[1] / cpu[0], 3),
    }


def kills(source: Path, work: Path, _: float) -> dict[str, Any]:
    ibidem(*whole(source, fresh(work / "uninterrupted")))
    expected = digests(work / "uninterrupted")
    output = fresh(work / "killed")
    rng, done, finished = random.Random(1), 0, 0
    command = [sys.executable, "-m", "ibidem", *whole(source, output)]
    while done < KILLS:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + rng.uniform(0.5, 9.0)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is not None:
            finished += 1
            assert digests(output) == expected
            shutil.rmtree(output)
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
        assert not output.exists() or digests(output) == expected
    subprocess.run(command, check=True, capture_output=True)
    equal = digests(output) == expected
    left = [path.name for path in work.glob(".killed*")]
    return {"kills": done, "runs_that_ended_between": finished, "byte_equal": equal, "left_behind": left}


def preprocess(source: Path, output: Path) -> list[str]:
    return ["preprocess", "--dataset", f"{source}:train:text", "--output-dir", str(output), "--workers", WORKERS]


def whole(source: Path, output: Path) -> list[str]:
    return [*preprocess(source, output), "--contamination.benchmarks", "human-eval"]


def ibidem(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "ibidem", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def timed(*words: str) -> dict[str, float]:
    return measured.run([sys.executable, "-m", "ibidem", *words])


def medians(runs: list[dict[str, float]], size: float) -> dict[str, Any]:
    found = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
    return {"mb_per_s": round(size / found["wall_s"], 1), "mb_per_cpu_s": round(size / found["cpu_s"], 1), **found}


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    return path


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("shard-*.parquet"))


def read(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    return pq.read_table(path, columns=columns).to_pylist()


def rows(source: Path, columns: list[str]) -> list[dict[str, Any]]:
    return [row for path in sorted(source.glob("*.parquet")) for row in read(path, columns)]


def hashed(value: Any) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()


def write_requests(path: Path, nouns: list[dict[str, Any]], kind: str) -> Path:
    path.write_text("".join(json.dumps({"kind": kind, "value": row[kind]}) + "\n" for row in nouns))
    return path


def size_mb(folder: Path) -> float:
    return sum(len(row["text"].encode()) for row in rows(folder, ["text"])) / 1e6


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


if __name__ == "__main__":
    main()
