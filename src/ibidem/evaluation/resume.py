"""Resume evaluations: rows and finished folders are reused only if this user wrote them on this machine.

Whoever can write beside the output could otherwise plant answers there, to be sealed as the checkpoint's own. Each row
therefore carries a message authentication code (MAC) that binds it to the run, the file and its place; a row without
it, and all rows behind it, are made anew. A finished folder carries one of its digest. Against the same user nothing
is shown by it: `ibidem gate --evaluate` therefore resumes and reuses nothing.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ibidem import artifacts, jsonl, log
from ibidem.artifacts import Artifact, Input
from ibidem.jsonl import Row
from ibidem.signatures import is_local_mac, local_mac

ROW, FINISHED = "row", "finished"


class RowLog:
    """The rows of one file of a run, in order.

    Args:
        path: the file, in the hidden folder of the run (`artifacts.workspace`), whose name stands for its inputs and
            settings.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows = self._recover()
        """The rows that are there; `extend` appends to them."""

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows to the file, each with its MAC."""
        lines = []
        for row in rows:
            lines.append({"row": row, "mac": local_mac(*self._parts(len(self.rows), row))})
            self.rows.append(row)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with open(descriptor, "a", encoding="utf-8") as file:
            file.write(jsonl.dumps(lines))

    def _parts(self, place: int, row: Row) -> tuple[str, ...]:
        return ROW, self._path.parent.name, self._path.name, str(place), json.dumps(row, sort_keys=True)

    def _recover(self) -> list[Row]:
        if self._path.is_dir() and not self._path.is_symlink():
            shutil.rmtree(self._path)
        elif self._path.is_symlink() or (self._path.exists() and not self._path.is_file()):  # planted
            self._path.unlink()
        data = self._path.read_bytes() if self._path.exists() else b""
        rows: list[Row] = []
        kept = 0
        for line in data.split(b"\n")[:-1]:  # what follows the last line end is a torn row
            row = self._authentic(line, len(rows))
            if row is None:
                log.event("evaluate.foreign_rows", file=str(self._path), kept=len(rows))
                break
            rows.append(row)
            kept += len(line) + 1
        if kept < len(data):  # into a new file: this one may be a link to another
            draft = self._path.with_name(f"{self._path.name}.partial")
            draft.unlink(missing_ok=True)
            draft.write_bytes(data[:kept])
            draft.replace(self._path)
        return rows

    def _authentic(self, line: bytes, place: int) -> Row | None:
        try:
            tree = json.loads(line)
            row = tree["row"]
        except (ValueError, RecursionError, KeyError, TypeError):
            return None
        return row if isinstance(row, dict) and is_local_mac(tree.get("mac"), *self._parts(place, row)) else None


def mark(digest: str) -> str:
    """Return the mark of a finished folder that this user made."""
    return local_mac(FINISHED, digest)


def finished(path: Path, *, kind: str, config: Mapping[str, Any], inputs: Sequence[Input]) -> Artifact | None:
    """Return the artifact at `path` if this user made it from these very inputs and settings."""
    artifact = artifacts.finished(path, kind=kind, config=config, inputs=inputs)
    if artifact is None or is_local_mac(artifact.volatile.get("mark"), FINISHED, artifact.digest):
        return artifact
    log.event("evaluate.foreign", path=str(path), reason="this user did not make it on this machine; made anew")
    return None
