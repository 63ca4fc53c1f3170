"""Stream datasets of the Hugging Face hub, pinned to a commit and resumable."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from ibidem import log
from ibidem.artifacts import Input
from ibidem.data.sources.columns import Columns
from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.readers import Piece, lines, with_trees
from ibidem.data.sources.spec import Spec
from ibidem.errors import DataError
from ibidem.files import write_file

SPOOL_ROWS = 1000


@dataclass
class HubDataset:
    """A dataset of the Hugging Face hub, streamed at the commit to which its version resolves."""

    spec: Spec
    trees: Trees = "best_path"
    skipped: Counter[str] = field(default_factory=Counter)

    def as_input(self) -> Input:
        name = ":".join(part for part in (self.spec.name, self.spec.version, self.spec.split) if part)
        return Input("source", f"git:{self._commit}", name, is_artifact=False)

    def pieces(self, spool: Path) -> Iterator[Piece]:
        """Stream the rows into files of `spool`; files left by an interrupted run are not fetched again."""
        spool.mkdir(parents=True, exist_ok=True)
        first = row = 0
        for path in self._spooled(spool):
            count = sum(1 for _ in lines(path))
            piece = Piece(
                path=str(path),
                name=self.spec.split,
                first=first,
                count=count,
                source=self.spec.name,
                revision=self._commit,
                column=self.spec.column,
                row=row,
                license_stated=(spool / "stated").read_text() == "True",
            )
            piece = with_trees(piece, self.trees)
            yield piece
            first, row = first + piece.count, row + count

    def _spooled(self, spool: Path) -> Iterator[Path]:
        done = sorted(spool.glob("rows-*.jsonl"))
        yield from done
        if done and sum(1 for _ in lines(done[-1])) < SPOOL_ROWS:
            return
        before = len(done) * SPOOL_ROWS
        with self._explained(), log.progress(f"preprocess.{self.spec.folder}.fetch", None, "documents") as bar:
            rows = iter(self._rows().skip(before) if before else self._rows())
            for number in range(len(done), 10**8):
                chunk = list(islice(rows, SPOOL_ROWS))
                if not chunk:
                    return
                columns = _columns(chunk[0], self.spec.column, self.spec.name)
                write_file(spool / "stated", str(columns.license is not None))
                path = spool / f"rows-{number:08d}.jsonl"
                wanted = [{name: row.get(name) for name in columns.wanted} for row in chunk]
                write_file(path, "".join(json.dumps(row, default=str) + "\n" for row in wanted))
                bar.advance(len(chunk))
                yield path
                if len(chunk) < SPOOL_ROWS:
                    return

    @cached_property
    def _configuration(self) -> str | None:
        """The version if it names a configuration; otherwise it is a revision."""
        import datasets

        version = self.spec.version
        return version if version and version in datasets.get_dataset_config_names(self.spec.name) else None

    @cached_property
    def _commit(self) -> str:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        with self._explained():
            import huggingface_hub
            from huggingface_hub.utils import logging

            logging.set_verbosity_error()  # type: ignore[no-untyped-call]
            hub = huggingface_hub.HfApi()
            newest = hub.dataset_info(self.spec.name)  # first, because it fails at once without a network
            if self.spec.version is None or self._configuration:
                return str(newest.sha)
            return str(hub.dataset_info(self.spec.name, revision=self.spec.version).sha)

    def _rows(self) -> Any:
        import datasets

        return datasets.load_dataset(
            self.spec.name, self._configuration, split=self.spec.split, revision=self._commit, streaming=True
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert whatever the hub's libraries raise to a one-line error."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - they raise many kinds, none of them ours
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"dataset {self.spec.name!r}: not a local file or folder, and not available from the Hugging Face hub "
                f"({type(error).__name__}: {reason}); give a local path, or check name and network"
            ) from None


def _columns(row: Any, text: str, where: str) -> Columns:
    if text not in row:
        raise DataError(f"{where}: no column {text!r} (columns: {', '.join(map(str, row))})")
    return Columns.find(set(row), text=text)
