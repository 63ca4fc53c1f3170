"""Write the fingerprints of published benchmarks: `python scripts/fingerprints.py human-eval=FILE mbpp=FILE mmlu=DIR`.

Each copy must have a published digest; the benchmarks that are not named keep their fingerprints.
"""

import json
import sys
from pathlib import Path

from ibidem.evaluation import obtain, published
from ibidem.evaluation.evidence import benchmark_digest


def main() -> None:
    """Read each copy and replace its fingerprints."""
    file = Path(published.__file__).with_suffix(".json")
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for word in sys.argv[1:]:
        name, _, path = word.partition("=")
        rows = obtain.read(name, Path(path), published.PUBLISHED)
        digest = benchmark_digest(rows)
        if digest not in published.PUBLISHED:
            sys.exit(f"{path}: not a published benchmark: {digest}")
        known[digest] = obtain.fingerprints_of(rows)
    ordered = {digest: known[digest] for digest in published.PUBLISHED if digest in known}
    file.write_text(json.dumps(ordered, indent=0, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
