"""Change an index many times, each time in a process that ends at another of its file operations.

    python killed_writers.py FOLDER KILLS

For each kill prints a JSON line: which change, after how many operations, whether the index is the old one, the new one
or neither, and what a second attempt leaves behind.
"""

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.grounding.corpora import KEY, RULES, HashEncoder, corpus, document

from ibidem import artifacts
from ibidem.errors import ArtifactError
from ibidem.grounding.index import Index

OPERATIONS = ("open", "os.", "shutil.", "ctypes.dlsym", "mmap.")
SECRET = document("hr/secret.md", "The zanzibar clause", "pays nine million")
SWITCHES = ("os.rename", "ctypes.dlsym")
KILLED = 9


def change(name: str, path: Path) -> None:
    index = Index(path, KEY, encoder=HashEncoder())
    if name == "forget":
        index.forget("hr")
    else:
        index.update([*corpus(1), SECRET], RULES)


def in_child(work: Callable[[], None], operations: int) -> bool:
    """Run in a process that ends before its n-th operation; return whether it did."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == KILLED
    count = itertools.count()

    def hook(event: str, _: object) -> None:
        if event.startswith(OPERATIONS) and next(count) == operations:
            os._exit(KILLED)

    sys.addaudithook(hook)
    try:
        work()
    finally:
        os._exit(0)


def operations_of(work: Callable[[], None]) -> list[str]:
    """Return the names of the operations of some work, which is done in a process of its own."""
    read, write = os.pipe()
    if not os.fork():
        try:
            names: list[str] = []
            sys.addaudithook(lambda event, _: names.append(event) if event.startswith(OPERATIONS) else None)
            work()
            os.write(write, json.dumps(list(names)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        names = json.loads(file.read())
    os.wait()
    return names


def kills_of(names: list[str], kills: int) -> list[int]:
    """Return the operations to end before: those at which a folder takes another's place, and others evenly spread."""
    places = {n + after for n, name in enumerate(names[:-2]) if name in SWITCHES for after in range(3)}
    others = [n for n in range(len(names)) if n not in places]
    rest = max(1, kills - len(places))
    return sorted([*places, *(others[len(others) * n // rest] for n in range(rest))])[:kills]


def state(path: Path) -> str | None:
    try:
        return artifacts.verify(path, kind="ground-index").digest
    except ArtifactError as error:
        return f"neither: {error}"


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    base, path = folder / "base", folder / "work" / "index"
    Index(base, KEY, encoder=HashEncoder()).update([*corpus(0), SECRET], RULES)
    for name in ("update", "forget"):
        shutil.copytree(base, path)
        old = state(path)
        names = operations_of(lambda: change(name, path))  # noqa: B023
        new = state(path)
        for operations in kills_of(names, kills):
            shutil.rmtree(path.parent)
            shutil.copytree(base, path)
            was_killed = in_child(lambda: change(name, path), operations)  # noqa: B023
            left = state(path)
            is_found = bool(Index.open(path, KEY).artifact) if left in {old, new} else False
            change(name, path)
            data = b"".join(each.read_bytes() for each in path.parent.rglob("*") if each.is_file())
            row = {
                "change": name,
                "before": f"{operations} {names[operations]}",
                "killed": was_killed,
                "left": {old: "old", new: "new"}.get(left, left),
                "readable": is_found,
                "then": "new" if state(path) == new else "other",
                "beside": sorted(each.name for each in path.parent.iterdir()),
                "path": b"hr/secret.md" in data,
            }
            os.write(1, f"{json.dumps(row)}\n".encode())
        shutil.rmtree(path.parent)


if __name__ == "__main__":
    main()
