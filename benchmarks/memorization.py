"""What a small model repeats of its training documents, what deduplication is worth, and whether attribution is right.

    canaries      functions of random words among real code, 1 to 64 near copies of each in files of their own. One is
                  extracted if the model, given its first characters, greedily writes 40 of its tokens: with and without
                  the removal of duplicates, over seeds
    attribution   functions in one file each, trained on until the model repeats them. An output that repeats one must
                  be attributed to its file, and no file may be named that does not contain the span: the texts say

The real code is the standard library of this Python. Everything is done by the program's commands, with one thread.

    OMP_NUM_THREADS=1 python benchmarks/memorization.py benchmarks/results/memorization.json [STEPS SEEDS]
"""

import json
import os
import platform
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COPIES = (1, 2, 4, 8, 16, 32, 64)
OF_EACH = 6
"""Canaries with each number of copies."""
REAL_BYTES, PLANTED_REAL_BYTES, PLANTED = 1_200_000, 300_000, 60
STEPS, SEEDS, LEAST = 480, 2, 40
PROMPT_CHARS, MAX_TOKENS, HELD_OUT = 60, 96, 0.1
SYLLABLES = ("ba", "do", "fe", "gi", "ku", "la", "me", "no", "pi", "ra", "so", "tu", "ve", "wi", "xo", "za")


def main() -> None:
    output = Path(sys.argv[1])
    steps, seeds = (int(word) for word in sys.argv[2:]) if len(sys.argv) > 2 else (STEPS, SEEDS)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        canaries = [canary(scratch / str(seed), seed, steps) for seed in range(seeds)]
        found = {"canaries": together(canaries), "attribution": attribution(scratch / "planted", steps)}
    about = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/memorization.py benchmarks/results/memorization.json",
        "machine": f"{platform.machine()}, one thread",
        "steps": steps,
        "seeds": seeds,
        "least_tokens": LEAST,
    }
    output.write_text(json.dumps(about | found, indent=1) + "\n")
    print(output.read_text())


def canary(folder: Path, seed: int, steps: int) -> dict[str, dict[int, list[bool]]]:
    """Return which canaries can be extracted, by the number of copies, with and without deduplication."""
    rng = random.Random(seed)
    functions = {copies: [function(rng) for _ in range(OF_EACH)] for copies in COPIES}
    write_real(folder / "corpus", REAL_BYTES)
    for copies, texts in functions.items():
        for number, text in enumerate(texts):
            for copy in range(copies):
                write(folder / "corpus" / f"copy{copy}" / f"canary_{copies}_{number}.py", f"# Part {copy}.\n\n{text}")
    prompts = [
        {"id": f"{copies}-{number}", "prompt": text[:PROMPT_CHARS]}
        for copies, texts in functions.items()
        for number, text in enumerate(texts)
    ]
    found = {}
    for name, flags in (("deduplicated", ()), ("as it is", ("--dedup.near", "false", "--dedup.exact", "false"))):
        items = measured(folder / name, folder / "corpus", flags, prompts, steps, seed)
        found[name] = {
            copies: [is_extracted(items[f"{copies}-{number}"], text) for number, text in enumerate(texts)]
            for copies, texts in functions.items()
        }
    return found


def is_extracted(item: dict[str, Any], text: str) -> bool:
    """Return whether a span of at least LEAST tokens of the output is in a canary."""
    return any(span["text"].strip() in text for span in item["spans"])


def together(seeds: Sequence[dict[str, dict[int, list[bool]]]]) -> dict[str, dict[int, str]]:
    """Return how many canaries were extracted, over all seeds, by way and number of copies."""
    return {
        way: {copies: f"{sum(sum(each[way][copies]) for each in seeds)} of {OF_EACH * len(seeds)}" for copies in COPIES}
        for way in seeds[0]
    }


def attribution(folder: Path, steps: int) -> dict[str, int | float]:
    """Return how many outputs repeat a planted function, and how many of these are attributed to its file."""
    rng = random.Random(1)
    texts = {f"planted/part{number:02d}.py": function(rng) for number in range(PLANTED)}
    write_real(folder / "corpus", PLANTED_REAL_BYTES)
    for name, text in texts.items():
        write(folder / "corpus" / name, text)
    prompts = [{"id": name, "prompt": text[:PROMPT_CHARS]} for name, text in texts.items()]
    items = measured(folder / "work", folder / "corpus", (), prompts, steps, 0)
    repeating = right = wrong = spans = 0
    for name, text in texts.items():
        for span in items[name]["spans"]:
            spans += 1
            holders = {source["path"] for source in span["sources"]}
            wrong += sum(span["text"] not in (folder / "corpus" / path).read_text() for path in holders)
            if span["text"] in text:
                repeating += 1
                right += name in holders
    return {
        "planted": PLANTED,
        "spans": spans,
        "spans_of_a_planted_function": repeating,
        "attributed_to_its_file": right,
        "share": right / repeating if repeating else 0.0,
        "attributed_to_a_file_without_the_span": wrong,
    }


def measured(
    work: Path, corpus: Path, flags: Sequence[str], prompts: Sequence[dict[str, str]], steps: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Train on a corpus and continue prompts greedily; return the items by id."""
    data, tokenizer, run = work / "data", work / "tokenizer", work / "run"
    ibidem("preprocess", "--dataset", f"{corpus}:train:text", "--output-dir", data, "--skip", "filters", *flags)
    ibidem("train-tokenizer", "--input", data, "--output-dir", tokenizer, "--vocab-size", 4096)
    kept = ["--data.dataset", data, "--data.tokenizer", tokenizer, "--data.context", 256]
    kept += ["--data.held-out-share", HELD_OUT]
    trained = ["--training.steps", steps, "--training.batch-sequences", 8, "--training.micro-batch-sequences", 8]
    learned = ["--optim.name", "muon", "--optim.lr", 3e-2, "--optim.matrix-lr", 6e-3, "--optim.floor", 0]
    seeded = ["--training.seed", seed, "--training.mixed-precision", "no", "--optim.warmup-steps", max(1, steps // 20)]
    ended = ["--validation.every", steps, "--checkpoints.every", steps]
    ibidem("train", "--model", "demo", "--output-dir", run, *kept, *trained, *learned, *seeded, *ended)
    ibidem("attribute", "build", "--tokens", next((run / "tokens").iterdir()), "--output-dir", work / "index")
    (work / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    asked = ["--checkpoint", run, "--index", work / "index", "--prompts", work / "prompts.jsonl"]
    chosen = ["--temperatures", 0, "--max-tokens", MAX_TOKENS, "--least-tokens", LEAST]
    ibidem("evaluate", "verbatim", *asked, *chosen, "--output-dir", work / "verbatim", "--common-documents", 1000)
    rows = map(json.loads, (work / "verbatim" / "items.jsonl").read_text().splitlines())
    return {row["id"]: row for row in rows}


def function(rng: random.Random) -> str:
    """Return the text of a function of random words: as long as a page, like no other one."""
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))) for _ in range(24)]
    name, first, second, kept = words[:4]
    lines = [f"def {name}_{words[4]}({first}, {second}):", f'    """{" ".join(words[5:10])}."""', f"    {kept} = []"]
    for number in range(6):
        one, other = words[10 + 2 * number : 12 + 2 * number]
        lines.append(
            rng.choice(
                (
                    f"    {one} = {first}.{other}({rng.randint(2, 99)})",
                    f'    {kept}.append("{one} {other}")',
                    f"    if {second} > {rng.randint(2, 99)}: {kept} = {one}({other})",
                    f"    for {one} in {second}: {kept}.extend({other}({one}))",
                )
            )
        )
    return "\n".join([*lines, f"    return {kept}, {words[22]}", ""])


def write_real(folder: Path, least: int) -> None:
    """Copy files of the standard library, in an order of their own, until there are enough bytes."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    random.Random(0).shuffle(paths)
    size = 0
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        if size < least and len(text) < 100_000:
            write(folder / "real" / path.name, text)
            size += len(text)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def ibidem(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "ibidem", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
