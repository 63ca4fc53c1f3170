"""Stream datasets of the Hugging Face hub, pinned to a commit and resumable.

Each of a dataset's own shards, which are its files, is a task: it writes its rows into files of the work folder.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import log, workfiles
from ibidem.artifacts import Input
from ibidem.data.engine import Engine, EngineConfig
from ibidem.data.sources.columns import Columns
from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.readers import Piece, lines, with_trees
from ibidem.data.sources.spec import Spec
from ibidem.errors import DataError, IbidemError

SPOOL_ROWS = 1000
_SPOOLED = "spooled.json"


class _Chunk(NamedTuple):
    """A file of consecutive rows."""

    name: str
    rows: int
    states_license: bool


class _Fetch(NamedTuple):
    """One shard of a dataset, which becomes files of a folder."""

    number: int
    rows: Any
    """The shard, which streams when it is read."""
    spec: Spec
    spool: Path
    most: int | None
    """Number of rows to read; None for all."""

    def path(self, number: int) -> Path:
        """Return one of its files."""
        return self.spool / f"rows-{self.number:05d}-{number:08d}.jsonl"


@dataclass
class HubDataset:
    """A dataset of the Hugging Face hub, streamed at the commit to which its version resolves."""

    spec: Spec
    trees: Trees = "best_path"
    engine: Engine | None = None
    """Where shards are fetched; None: here."""
    most: int | None = None
    """Number of documents to read; None for all."""
    skipped: Counter[str] = field(default_factory=Counter)

    def as_input(self) -> Input:
        name = ":".join(part for part in (self.spec.name, self.spec.version, self.spec.split) if part)
        return Input("source", f"git:{self._commit}", name, is_artifact=False)

    def pieces(self, spool: Path) -> Iterator[Piece]:
        """Stream the rows into files of `spool`; files left by an interrupted run are not fetched again."""
        first = row = 0
        for chunk in self._spooled(spool):
            piece = Piece(
                path=str(spool / chunk.name),
                name=self.spec.split,
                first=first,
                count=chunk.rows,
                source=self.spec.name,
                revision=self._commit,
                column=self.spec.column,
                row=row,
                license_stated=chunk.states_license,
            )
            piece = with_trees(piece, self.trees)
            yield piece
            first, row = first + piece.count, row + chunk.rows

    def _spooled(self, spool: Path) -> list[_Chunk]:
        """Return the files of all shards in order, or of as many as are needed."""
        finished = spool / _SPOOLED
        if finished.is_file():
            return [_Chunk(*chunk) for chunk in json.loads(finished.read_text(encoding="utf-8"))]
        engine, chunks = self.engine or Engine(EngineConfig()), list[_Chunk]()
        with _explained(self.spec), log.progress(f"preprocess.{self.spec.folder}.fetch", None, "documents") as bar:
            tasks = self._tasks(spool)
            together = len(tasks) if self.most is None else engine.workers
            for start in range(0, len(tasks), together or 1):
                found: dict[int, list[_Chunk]] = {}
                for number, of_shard in engine.map(_fetch, tasks[start : start + together], processes=False):
                    found[number] = of_shard
                    bar.advance(sum(chunk.rows for chunk in of_shard))
                chunks += [chunk for number in sorted(found) for chunk in found[number]]
                if self.most is not None and sum(chunk.rows for chunk in chunks) >= self.most:
                    break
        workfiles.write(finished, json.dumps(chunks))
        return chunks

    def _tasks(self, spool: Path) -> Sequence[_Fetch]:
        import datasets

        rows = datasets.load_dataset(
            self.spec.name, self._configuration, split=self.spec.split, revision=self._commit, streaming=True
        )
        shards = ((number, rows.shard(rows.num_shards, number)) for number in range(rows.num_shards))
        return [_Fetch(number, shard, self.spec, spool, self.most) for number, shard in shards]

    @cached_property
    def _configuration(self) -> str | None:
        """The version if it names a configuration; otherwise it is a revision."""
        import datasets

        version = self.spec.version
        return version if version and version in datasets.get_dataset_config_names(self.spec.name) else None

    @cached_property
    def _commit(self) -> str:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        with _explained(self.spec):
            import huggingface_hub
            from huggingface_hub.utils import logging

            logging.set_verbosity_error()  # type: ignore[no-untyped-call]
            hub = huggingface_hub.HfApi()
            newest = hub.dataset_info(self.spec.name)  # first, because it fails at once without a network
            if self.spec.version is None or self._configuration:
                return str(newest.sha)
            return str(hub.dataset_info(self.spec.name, revision=self.spec.version).sha)


def _fetch(task: _Fetch) -> tuple[int, list[_Chunk]]:
    """Write the rows of a shard, but for files that a killed run left; return its number and all its files."""
    chunks: list[_Chunk] = []
    while (path := task.path(len(chunks))).is_file():
        written = [json.loads(line) for line in lines(path)]
        chunks.append(_chunk(path, written, Columns.find(set(written[0]), text=task.spec.column)))
    done = sum(chunk.rows for chunk in chunks)
    if done < SPOOL_ROWS * len(chunks):
        return task.number, chunks
    with _explained(task.spec):
        left = None if task.most is None else max(0, task.most - done)
        rows = islice(iter(task.rows.skip(done) if done else task.rows), left)
        while several := list(islice(rows, SPOOL_ROWS)):
            path, columns = task.path(len(chunks)), _columns(several[0], task.spec.column, task.spec.name)
            wanted = [{name: row.get(name) for name in columns.wanted} for row in several]
            workfiles.write(path, "".join(json.dumps(row, default=str) + "\n" for row in wanted))
            chunks.append(_chunk(path, wanted, columns))
    return task.number, chunks


def _chunk(path: Path, rows: Sequence[Mapping[str, Any]], columns: Columns) -> _Chunk:
    return _Chunk(path.name, len(rows), columns.license is not None)


@contextmanager
def _explained(spec: Spec) -> Iterator[None]:
    """Convert whatever the hub's libraries raise to a one-line error."""
    try:
        yield
    except IbidemError:
        raise
    except Exception as error:  # noqa: BLE001 - they raise many kinds, none of them ours
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"dataset {spec.name!r}: not a local file or folder, and not available from the Hugging Face hub "
            f"({type(error).__name__}: {reason}); give a local path, or check name and network"
        ) from None


def _columns(row: Any, text: str, where: str) -> Columns:
    if text not in row:
        raise DataError(f"{where}: no column {text!r} (columns: {', '.join(map(str, row))})")
    return Columns.find(set(row), text=text)
