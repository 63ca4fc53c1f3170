"""Near-duplicate removal, Parquet in and Parquet out, against plain Daft and datatrove's default.

Ours is `ibidem preprocess` with every step left out that can be: it still reads, refuses what is blank, finds code
blocks, hashes, verifies each pair by exact Jaccard similarity and writes provenance. Plain Daft is `minhash` (112
hashes of 5-word shingles), 14 bands, groupby, join. datatrove is its documented four-stage MinHash pipeline with 14
buckets of 8 hashes, on its default tokenizer, over a part of the corpus, for it takes minutes a hundred megabytes.
Every run is a process of its own on bytecode that is compiled already, as an installer leaves it for all of them, and
is pinned to the cores it may use; systems take turns, medians of 5. Time is wall-clock with 2 workers on 2 cores, for
both are what a user has, and for ibidem and Daft on the whole corpus once more with one worker on one core. CPU-seconds
stand beside (not for datatrove, whose processes nobody waits for), and the peak of the memory of all processes of the
run (proportional set size, sampled).

    python benchmarks/dedup_against_daft_and_datatrove.py CORPUS_DIR PEERS_PYTHON \
        benchmarks/results/dedup_against_daft_and_datatrove.json

CORPUS_DIR holds Parquet files with a `text` column, and SOURCE.txt, which says of what. PEERS_PYTHON is a Python that
has datatrove[processing,io]==0.10.1, daft==0.7.26 and psutil. `dedup_on_repositories.json` is the same on repositories
that nothing was tuned to, as `repositories_as_parquet.py` writes them.
"""

import compileall
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import measured
import pyarrow.parquet as pq

REPEATS, WORKERS = 5, 2
QUARTER_FILES, PEER_BYTES = 2, 27_000_000
JOBS = (  # system, set, cores
    ("ibidem", "whole", WORKERS),
    ("daft", "whole", WORKERS),
    ("ibidem", "whole", 1),
    ("daft", "whole", 1),
    ("ibidem", "quarter", WORKERS),
    ("daft", "quarter", WORKERS),
    ("ibidem", "part", WORKERS),
    ("datatrove", "part", WORKERS),
)
SKIP = ("clean", "natural_languages", "licenses", "filters", "scrub", "contamination")


def main() -> None:
    if sys.argv[1] == "run":
        globals()[f"run_{sys.argv[2]}"](*map(Path, sys.argv[3:]))
        return
    import ibidem  # which the peers' Python does not have

    corpus, peers, output = map(Path, sys.argv[1:])
    compileall.compile_dir(str(Path(ibidem.__file__).parent), quiet=1)
    with tempfile.TemporaryDirectory() as folder:
        sets = make_sets(corpus, Path(folder))
        sizes = {name: size_mb(path) for name, path in sets.items()}
        runs: dict[str, list[dict[str, float]]] = {}
        for _ in range(REPEATS):
            for system, name, cores in JOBS:
                found = measured.run(command(system, str(peers), sets[name], Path(folder, "out"), cores))
                found["mb_per_s"] = sizes[name] / found["wall_s"]
                if system == "datatrove":
                    del found["cpu_s"]
                else:
                    found["mb_per_cpu_s"] = sizes[name] / found["cpu_s"]
                run = f"{system} {name}" + (", one core" if cores == 1 else "")
                runs.setdefault(run, []).append(found)
                print(run, found, flush=True)
        write(output, corpus, sizes, runs)


def command(system: str, peers: str, source: Path, output: Path, cores: int) -> list[str]:
    shutil.rmtree(output, ignore_errors=True)
    pinned = ["taskset", "--cpu-list", ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))]
    if system == "ibidem":
        flags = ["--dataset", f"{source}:train:text", "--output-dir", str(output), "--workers", str(cores)]
        return [*pinned, sys.executable, "-m", "ibidem", "preprocess", *flags, "--skip", *SKIP]
    return [*pinned, peers, __file__, "run", system, str(source), str(output)]


def make_sets(corpus: Path, folder: Path) -> dict[str, Path]:
    files = sorted(corpus.glob("*.parquet"))
    sets = {name: folder / name for name in ("whole", "quarter", "part")}
    for path in sets.values():
        path.mkdir()
    for file in files:
        shutil.copy(file, sets["whole"])
    for file in files[:QUARTER_FILES]:
        shutil.copy(file, sets["quarter"])
    table = pq.read_table(files[0])
    sizes = itertools.accumulate(len(text.as_py().encode()) for text in table["text"])
    rows = sum(size <= PEER_BYTES for size in sizes)
    pq.write_table(table.slice(0, rows), sets["part"] / "part.parquet")
    return sets


def size_mb(folder: Path) -> float:
    texts = (pq.read_table(path, columns=["text"])["text"] for path in folder.glob("*.parquet"))
    return sum(len(text.as_py().encode()) for column in texts for text in column) / 1e6


def run_daft(source: Path, output: Path) -> None:
    os.environ["DO_NOT_TRACK"] = "1"
    import daft
    from daft import DataType, col, lit

    documents = daft.read_parquet(f"{source}/*.parquet").with_column(
        "doc", daft.functions.monotonically_increasing_id()
    )
    words = col("text").normalize(lowercase=True, white_space=True, remove_punct=True)
    signatures = documents.select("doc", words.minhash(num_hashes=112, ngram_size=5).alias("signature"))
    bands = col("signature").cast(DataType.list(DataType.uint32())).chunk(8).alias("band")
    rows = signatures.select("doc", bands, lit(list(range(14))).alias("number")).explode("band", "number")
    rows = rows.with_column("key", col("band").hash())
    groups = rows.groupby("number", "key").agg(col("doc").min().alias("first"), col("doc").count().alias("size"))
    covered = rows.join(groups.where(col("size") > 1), on=["number", "key"]).where(col("doc") != col("first"))
    documents.join(covered.select("doc").distinct(), on="doc", how="anti").write_parquet(str(output))


def run_datatrove(source: Path, output: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    config = MinhashConfig(num_buckets=14, hashes_per_bucket=8, n_grams=5)
    names = ("signatures", "buckets", "removed", "kept", "logs")
    signatures, buckets, removed, kept, logs = (str(output / name) for name in names)
    reader = ParquetReader(str(source), text_key="text", id_key="path")
    stages = [
        ([reader, MinhashDedupSignature(signatures, config=config)], WORKERS),
        ([MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets),
        ([MinhashDedupCluster(buckets, removed, config=config)], 1),
        ([reader, MinhashDedupFilter(removed), ParquetWriter(kept)], WORKERS),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        executor = LocalPipelineExecutor(pipeline, tasks=tasks, workers=WORKERS, logging_dir=f"{logs}/{number}")
        executor.run()


def write(output: Path, corpus: Path, sizes: dict[str, float], runs: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        name: {key: round(statistics.median(run[key] for run in some), 3) for key in some[0]}
        for name, some in runs.items()
    }
    own, quarter = medians["ibidem whole"], medians["ibidem quarter"]
    one, daft_one = medians["ibidem whole, one core"], medians["daft whole, one core"]
    result: dict[str, Any] = {
        "command": f"python benchmarks/{Path(__file__).name} CORPUS_DIR PEERS_PYTHON benchmarks/results/{output.name}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "corpus": names.read_text().split("\n")[:-1] if (names := corpus / "SOURCE.txt").exists() else [],
        "size_mb": {name: round(size, 1) for name, size in sizes.items()},
        "medians": medians,
        "ratios": {
            "mb_per_s against daft": round(own["mb_per_s"] / medians["daft whole"]["mb_per_s"], 2),
            "mb_per_cpu_s against daft": round(own["mb_per_cpu_s"] / medians["daft whole"]["mb_per_cpu_s"], 2),
            "mb_per_s against daft, one core": round(one["mb_per_s"] / daft_one["mb_per_s"], 2),
            "mb_per_cpu_s against daft, one core": round(one["mb_per_cpu_s"] / daft_one["mb_per_cpu_s"], 2),
            "mb_per_s against datatrove": round(own["mb_per_s"] / medians["datatrove part"]["mb_per_s"], 1),
            "mb_per_s against datatrove, same part": round(
                medians["ibidem part"]["mb_per_s"] / medians["datatrove part"]["mb_per_s"], 1
            ),
            "peak memory, whole against a quarter": round(own["peak_mb"] / quarter["peak_mb"], 3),
        },
        "runs": runs,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["ratios"], indent=1))


if __name__ == "__main__":
    main()
