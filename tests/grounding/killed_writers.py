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
KILLED = 9
LAST = 10
"""So many kills are before the last operations, one each: the new index takes its place there."""


def change(name: str, path: Path) -> None:
    index = Index(path, KEY, encoder=HashEncoder())
    if name == "forget":
        index.forget("hr")
    else:
        index.update([*corpus(1), SECRET], RULES)


def in_child(work: Callable[[], None], operations: int | None) -> bool:
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
        if operations is None:
            os.write(1, str(next(count)).encode())
    finally:
        os._exit(0)


def num_operations(name: str, base: Path, path: Path) -> int:
    read, write = os.pipe()
    if not os.fork():
        os.dup2(write, 1)
        shutil.copytree(base, path)
        in_child(lambda: change(name, path), None)
        os._exit(0)
    os.wait()
    shutil.rmtree(path)
    return int(os.read(read, 100))


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
        total = num_operations(name, base, path)
        shutil.copytree(base, path)
        old = state(path)
        change(name, path)
        new = state(path)
        for number in range(kills):
            operations = (
                total * number // kills if number < kills - 8 else total - (kills - number)
            )  # the last ones too
            shutil.rmtree(path.parent)
            shutil.copytree(base, path)
            was_killed = in_child(lambda: change(name, path), operations)  # noqa: B023
            left = state(path)
            is_found = bool(Index.open(path, KEY).artifact) if left in {old, new} else False
            change(name, path)
            data = b"".join(each.read_bytes() for each in path.parent.rglob("*") if each.is_file())
            row = {
                "change": name,
                "operations": operations,
                "killed": was_killed,
                "left": {old: "old", new: "new"}.get(left, left),
                "readable": is_found,
                "then": "new" if state(path) == new else "other",
                "beside": sorted(each.name for each in path.parent.iterdir()),
                "path": b"hr/secret.md" in data,
            }
            os.write(1, f"{json.dumps(row)}\n".encode())


if __name__ == "__main__":
    main()
