"""The refusal detector against people: precision and recall on the responses that XSTest's authors annotated.

CHECKOUT is a clone of github.com/paul-rottger/exaggerated-safety (CC-BY-4.0): 450 responses of each of five models, all
annotated as full compliance, full refusal or partial refusal. The list of XSTest alone is beside ours.

    python benchmarks/refusal_detector.py CHECKOUT benchmarks/results/refusal_detector.json
"""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ibidem.data.text.refusal import XSTEST_OPENINGS, is_refusal
from ibidem.statistics import lower_bound

Judge = Callable[[str], bool]
REFUSED = {"2_full_refusal", "3_partial_refusal"}


def main() -> None:
    checkout, path = map(Path, sys.argv[1:])
    rows = []
    for file in sorted((checkout / "model_completions").glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as text:
            rows += [(row["completion"], row["final_label"]) for row in csv.DictReader(text)]
    judges: dict[str, Judge] = {
        "ours": is_refusal,
        "XSTest's list": lambda response: response.lower().strip().startswith(XSTEST_OPENINGS),
    }
    result = {
        "command": f"python benchmarks/refusal_detector.py CHECKOUT {path.as_posix()}",
        "responses": len(rows),
        "refused by people": sum(label in REFUSED for _, label in rows),
        "note": "some of our openings were added after reading what XSTest's list misses here",
        **{name: measured(judge, rows) for name, judge in judges.items()},
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measured(judge: Judge, rows: list[tuple[str, str]]) -> dict[str, float]:
    told = [(judge(response), label in REFUSED) for response, label in rows]
    both = told.count((True, True))
    flagged, refused = sum(ours for ours, _ in told), sum(theirs for _, theirs in told)
    return {
        "precision": both / flagged,
        "precision, 95 % lower bound": lower_bound(both, flagged),
        "recall": both / refused,
        "recall, 95 % lower bound": lower_bound(both, refused),
        "agreement": sum(ours == theirs for ours, theirs in told) / len(told),
    }


if __name__ == "__main__":
    main()
