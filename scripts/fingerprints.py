"""Write the fingerprints of published benchmarks: `python scripts/fingerprints.py human-eval=FILE mbpp=FILE mmlu=DIR`.

Each copy must have a published digest; the benchmarks that are not named keep their fingerprints. A benchmark of
programs also gets those by which its problems are refused as reward: MBPP's test split, all of HumanEval. Name several
versions of one at once: `mbpp=FILE mbpp=SANITIZED human-eval=FILE`.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ibidem.evaluation import obtain, published
from ibidem.evaluation.evidence import benchmark_digest
from ibidem.jsonl import Row
from ibidem.sandbox import reserved
from ibidem.sandbox.problems import number_in_test

NAMES = {"mbpp": reserved.MBPP, "human-eval": reserved.HUMAN_EVAL}


def main() -> None:
    """Read each copy and replace its fingerprints."""
    file = Path(published.__file__).with_suffix(".json")
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    marks: dict[str, dict[str, reserved.Fingerprints]] = {}
    for word in sys.argv[1:]:
        name, _, path = word.partition("=")
        rows = obtain.read(name, Path(path), published.PUBLISHED)
        digest = benchmark_digest(rows)
        if digest not in published.PUBLISHED:
            sys.exit(f"{path}: not a published benchmark: {digest}")
        known[digest] = obtain.fingerprints_of(rows)
        if name in NAMES:
            version = published.PUBLISHED[digest].name
            found = {f"{version} {key}": each for key, each in reserved_marks(name, rows)}
            marks[NAMES[name]] = marks.get(NAMES[name], {}) | found
    ordered = {digest: known[digest] for digest in published.PUBLISHED if digest in known}
    file.write_text(json.dumps(ordered, indent=0, separators=(",", ":")) + "\n", encoding="utf-8")
    if marks.keys() == set(NAMES.values()):
        reserved.PATH.write_text(reserved.write(marks), encoding="utf-8")
    elif marks:
        sys.stderr.write(f"{reserved.PATH.name} stays as it is: name copies of both {' and '.join(NAMES)}\n")


def reserved_marks(name: str, rows: Sequence[Row]) -> Iterator[tuple[str, reserved.Fingerprints]]:
    """Yield the problems of a benchmark that no training may be rewarded for, with what identifies them."""
    for row in rows:
        key = str(row["task_id"])
        if name == "mbpp" and number_in_test(key):
            tests = [*row.get("test_list", ()), *row.get("challenge_test_list", ())]
            yield key.rpartition("/")[2], reserved.fingerprints([row.get("text") or row["prompt"]], tests)
        elif name == "human-eval":
            prompt, entry = row["prompt"], row["entry_point"]
            tests = [re.sub(r"\bcandidate\b", entry, row.get("test", "")), *reserved.examples_of(prompt)]
            yield key.rpartition("/")[2], reserved.fingerprints(reserved.of_prompt(prompt), tests)


if __name__ == "__main__":
    main()
