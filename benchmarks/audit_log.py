"""What an event of the audit log costs, and how long a long log takes to verify; access rules beside it.

    python benchmarks/audit_log.py OUT.json [--events 100000]

CPU time is what counts: the wall time of an append is the disk's. The access part resolves 20,000 paths under 50 rules.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ibidem.grounding import acl
from ibidem.grounding.access import YamlPermissions, YamlRules
from ibidem.grounding.audit import log, merkle, verify
from ibidem.grounding.audit.log import AuditLog
from ibidem.grounding.posix import PosixPermissions, read_modes

APPENDS = 1000
KEY = bytes(32)


def measured(work: Callable[[], Any], times: int = 1) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(times):
        work()
    return {
        "cpu_ms": round((time.process_time() - cpu) / times * 1000, 4),
        "wall_ms": round((time.perf_counter() - wall) / times * 1000, 4),
    }


def event(audit: AuditLog) -> dict[str, Any]:
    return {
        "query": audit.keyed("what does a senior engineer earn?"),
        "chunks": ["ab" * 16] * 6,
        "rules": "sha256:" + "0" * 64,
    }


def audit_figures(folder: Path, events: int) -> dict[str, Any]:
    with AuditLog(folder, KEY) as audit:
        append = measured(lambda: audit.record("query", "dev-1", **event(audit)), APPENDS)
        database = audit._database
        database.execute("PRAGMA synchronous = OFF")  # only to fill it
        database.execute("BEGIN IMMEDIATE")
        for _ in range(events - APPENDS):
            audit._append({"kind": "query", "principal": "dev-1", "time": time.time(), **event(audit)})
        database.execute("COMMIT")
        database.execute("PRAGMA synchronous = FULL")
        late = measured(lambda: audit.record("query", "dev-1", **event(audit)), APPENDS)
    with log.reading(folder) as database:
        size = log.size_of(database)
        whole = measured(lambda: verify.check(database, []))
        root = measured(lambda: merkle.root(size, lambda *place: log.subtree(database, *place)), 100)
        proof = measured(
            lambda: merkle.inclusion_proof(size // 3, size, lambda *place: log.subtree(database, *place)), 100
        )
    return {
        "events": size,
        "append": append,
        f"append after {events}": late,
        "verify": whole,
        "root": root,
        "proof": proof,
        "bytes_per_event": round(sum(each.stat().st_size for each in folder.iterdir()) / size),
    }


def access_figures(folder: Path) -> dict[str, Any]:
    rng = random.Random(0)
    paths = [f"d{rng.randrange(30)}/s{rng.randrange(30)}/f{number}.md" for number in range(20_000)]
    rules = [f"{{path: 'd{n}/**', read: [g{n}]}}" for n in range(25)] + [
        f"{{path: '**/s{n}/*.md', read: [g{n}]}}" for n in range(25)
    ]
    groups = [f"  g{n}: [g{n + 25}, p{n}]\n" for n in range(25)] + [f"  g{n}: [p{n}]\n" for n in range(25, 50)]
    text = "groups:\n" + "".join(groups) + "rules:\n" + "".join(f"- {rule}\n" for rule in rules)
    read = measured(lambda: YamlRules(acl.parse(text.encode(), "acl.yaml")))
    known = YamlRules(acl.parse(text.encode(), "acl.yaml"))
    resolve = measured(lambda: [known.access(path) for path in paths])
    classes = {known.access(path) for path in paths}
    (folder / "acl.yaml").write_text(text)
    permissions = YamlPermissions(folder / "acl.yaml")
    permissions.current()
    return {
        "paths": len(paths),
        "rules": len(rules),
        "classes": len(classes),
        "read the file": read,
        "resolve all paths": resolve,
        "look whether it changed": measured(permissions.current, 10_000),
        "judge all classes for a principal": measured(lambda: [known.permits("p7", each) for each in classes], 100),
    }


def posix_figures(folder: Path) -> dict[str, Any]:
    for n in range(200):
        (folder / f"d{n}").mkdir(parents=True)
        for m in range(100):
            (folder / f"d{n}" / f"{m}.md").touch()
    permissions = PosixPermissions(folder)
    rules = permissions.current()
    shown = [f"d{n}/{n}.md" for n in range(10)]
    return {
        "files": len(rules.modes.access),
        "read all modes": measured(lambda: read_modes(folder)),
        "look whether accounts changed": measured(permissions.current, 1000),
        "compare 10 documents": measured(lambda: permissions.holds(rules, shown), 1000),
    }


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("output", type=Path)
    flags.add_argument("--events", type=int, default=100_000)
    chosen = flags.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.output.parent) as work:
        folder = Path(work)
        figures = {
            "command": " ".join(["python", "benchmarks/audit_log.py", *sys.argv[1:]]),
            "audit": audit_figures(folder / "audit", chosen.events),
            "access": access_figures(folder),
            "posix": posix_figures(folder / "docs"),
        }
    chosen.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
