"""`ibidem tokenize` against the bare `SentencePieceProcessor.encode`, on the same texts; and its memory per document.

    python benchmarks/tokenizing.py DATASET TOKENIZER OUT.json [speed | memory]

`speed`: bytes of text per CPU second, medians of 3. Bare: a process reads the texts into memory first and encodes each
of them, and only that is counted. Ours: the whole command on 2 workers, less its imports, as `--dry-run` takes them; so
the Parquet that it reads, the hashes and the files that it writes are counted. `bare_and_read` counts reading the texts
too. `memory`: peak of all processes on one and on ten million tiny documents, in shards of the default size. A part
that is named is measured again alone, and the other one stays as it is in OUT.json.
"""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import measured
import sentencepiece as spm

from ibidem import artifacts
from ibidem.data import shards
from ibidem.records import TOKENIZER_FILE

TIMES, WORKERS = 3, 2
TINY = (1_000_000, 10_000_000)


def bare(dataset: Path, tokenizer: Path) -> dict[str, float]:
    """Encode all texts in this process; return CPU seconds and bytes."""
    before = time.process_time()
    texts = [row["text"] for path in shards.shard_paths(dataset) for row in shards.read_rows(path, ["text"])]
    model = spm.SentencePieceProcessor(model_file=str(tokenizer / TOKENIZER_FILE))
    started, tokens = time.process_time(), 0
    for text in texts:
        tokens += len(model.encode(text))
    ended = time.process_time()
    spent = {"cpu_s": ended - started, "read_and_encode_cpu_s": ended - before}
    return {**spent, "bytes": sum(len(text.encode()) for text in texts), "tokens": tokens}


def ours(dataset: Path, tokenizer: Path, *more: str) -> dict[str, float]:
    """Run the command; return seconds, memory, and what it counted."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "tokens"
        command = [sys.executable, "-m", "ibidem", "tokenize", "--quiet", "--workers", str(WORKERS), *more]
        places = ["--dataset", str(dataset), "--tokenizer", str(tokenizer), "--output-dir", str(output)]
        found = measured.run([*command, *places])
        counts = artifacts.load(output).counts if not more else {"bytes": {}, "tokens": {}}
    return found | {"bytes": sum(counts["bytes"].values()), "tokens": sum(counts["tokens"].values())}


def speed(dataset: Path, tokenizer: Path) -> dict[str, object]:
    """Compare bytes per CPU second."""
    rows: dict[str, list[dict[str, float]]] = {"bare": [], "ours": [], "imports": []}
    for _ in range(TIMES):
        command = [sys.executable, __file__, "--bare", str(dataset), str(tokenizer)]
        rows["bare"].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        rows["ours"].append(ours(dataset, tokenizer))
        rows["imports"].append(ours(dataset, tokenizer, "--dry-run"))
    cpu_s = {name: statistics.median(row["cpu_s"] for row in each) for name, each in rows.items()}
    cpu_s["bare_and_read"] = statistics.median(row["read_and_encode_cpu_s"] for row in rows["bare"])
    size = rows["ours"][0]["bytes"]
    assert size == rows["bare"][0]["bytes"], "both encode the same texts"
    spent = {name: cpu_s[name] for name in ("bare", "bare_and_read")} | {"ours": cpu_s["ours"] - cpu_s["imports"]}
    rates = {name: size / seconds / 1e6 for name, seconds in spent.items()}
    wall_s = statistics.median(row["wall_s"] for row in rows["ours"])
    return {
        "bytes": size,
        "tokens": rows["ours"][0]["tokens"],
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "mb_per_cpu_s": rates,
        "share_of_bare": rates["ours"] / rates["bare"],
    }


def tiny_documents(folder: Path, count: int) -> Path:
    """Write a dataset of so many documents of a few bytes."""
    with (folder / "lines.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f'{{"text": "x{number} = {number}"}}\n' for number in range(count))
    spec, output = f"{folder / 'lines.jsonl'}:train:text", folder / f"data-{count}"
    flags = ["--dedup.near", "false", "--skip", "filters", "licenses", "scrub"]
    command = ["preprocess", "--dataset", spec, "--output-dir", str(output), *flags]
    subprocess.run([sys.executable, "-m", "ibidem", *command, "--quiet"], check=True)
    return output


def memory(tokenizer: Path) -> dict[str, object]:
    """Measure the peak over the number of documents."""
    peaks = {}
    for count in TINY:
        with tempfile.TemporaryDirectory() as folder:
            peaks[count] = ours(tiny_documents(Path(folder), count), tokenizer)["peak_mb"]
    few, many = TINY
    return {"peak_mb": peaks, "bytes_per_document": (peaks[many] - peaks[few]) / (many - few) * 1e6}


def main(dataset: Path, tokenizer: Path, output: Path, *parts: str) -> None:
    """Write the result."""
    versions = {"python": platform.python_version(), "sentencepiece": version("sentencepiece")}
    result = json.loads(output.read_text()) if parts else {}
    result |= versions | {"workers": WORKERS, "times": TIMES}
    if not parts or "speed" in parts:
        result["speed"] = speed(dataset, tokenizer)
    if not parts or "memory" in parts:
        result["memory"] = memory(tokenizer)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "--bare":
        print(json.dumps(bare(*map(Path, sys.argv[2:4]))))
    else:
        main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
