"""Every document by itself: read, clean, judge, scrub, sketch. Runs in a worker, a run of shards at a time.

    <work>/prepared/<source>-<shard>/kept.arrow         what may enter, if it is no duplicate and nobody objects
                                     dropped.arrow      what may not, without its text
                                     quarantine.jsonl   what could not be read
                                     sketch.npy         a sketch for each row of kept.arrow

The folder of a shard appears whole or not at all, so a run that was killed goes on where it was.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from ibidem import artifacts
from ibidem.config import configuration
from ibidem.data import shards
from ibidem.data.dedup import SKETCH, DedupPolicy, sketch_texts
from ibidem.data.filters.contamination import ContaminationPolicy, Guard
from ibidem.data.filters.quality import FilterPolicy, Filters
from ibidem.data.filters.removals import NOUNS, Matcher, RemovalPolicy, load_requests
from ibidem.data.licenses import policy
from ibidem.data.licenses.policy import LicensePolicy
from ibidem.data.scrub.scrubber import SECRET_KINDS, Scrubber, ScrubPolicy
from ibidem.data.sources.readers import Piece, read
from ibidem.data.text import clean, language
from ibidem.records import Document, Drop, DropReason, Unreadable

KEPT_SCHEMA = shards.SCHEMA.append(pa.field("removal", pa.string()))
_TEST_PATH = re.compile(r"(^|[/_.-])(tests?|testing|spec|fixtures?)([/_.-]|$)", re.IGNORECASE)
BATCH_BYTES, BATCH_DOCUMENTS = 1 << 20, 256

Step = Literal["clean", "natural_languages", "licenses", "filters", "scrub", "contamination"]


@configuration
class Policies:
    """What is asked of a document before it may enter."""

    licenses: LicensePolicy = Field(default_factory=LicensePolicy)
    """Which licenses may enter."""
    filters: FilterPolicy = Field(default_factory=FilterPolicy)
    """Which quality, language and tone."""
    scrub: ScrubPolicy = Field(default_factory=ScrubPolicy)
    """Which secrets and personal data become placeholders."""
    contamination: ContaminationPolicy = Field(default_factory=ContaminationPolicy)
    """Which evaluation problems must not occur."""
    dedup: DedupPolicy = Field(default_factory=DedupPolicy)
    """Which documents are duplicates."""
    removals: RemovalPolicy = Field(default_factory=RemovalPolicy)
    """Whose requests for removal are honored."""
    skip: tuple[Step, ...] = ()
    """Steps that are left out; `--dedup.near false` and `--dedup.exact false` leave out the search for duplicates."""

    @model_validator(mode="after")
    def _filters_are_told_what_they_ask(self) -> Self:
        asks = self.filters.natural_languages and "filters" not in self.skip
        if asks and "natural_languages" in self.skip:
            raise ValueError("skip: natural_languages cannot be left out while filters.natural_languages asks for some")
        return self


class Task(NamedTuple):
    """Consecutive shards of a source: positions `first_shard * shard_size` up to `end_shard * shard_size`."""

    dataset: str
    """The folder of the source in the output: `<dataset>/<split>`."""
    source: int
    first_shard: int
    end_shard: int
    shard_size: int
    end: int
    """First position that is not wanted any more."""
    pieces: tuple[Piece, ...]


class Steps:
    """What happens to each document, in this order; the first step that drops it is the last."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._requests = Matcher(load_requests(policies.removals.requests))
        self._steps: list[Callable[[Document], Drop | None]] = [self.refuse]
        if "clean" not in policies.skip:
            self._steps.append(self.clean)
        self._steps.append(self.code_blocks)
        if "natural_languages" not in policies.skip:
            self._steps.append(self.natural_language)
        if "licenses" not in policies.skip:
            self._steps.append(self.license)
        if "filters" not in policies.skip:
            self._steps.append(Filters(policies.filters))
        if "scrub" not in policies.skip:
            self._scrubber = Scrubber(policies.scrub)
            self._steps.append(self.scrub)
        if "contamination" not in policies.skip and policies.contamination.benchmarks:
            self._guard = Guard(policies.contamination)
            self._steps.append(self.contamination)

    def __call__(self, document: Document) -> None:
        """Change the document in place; set `drop` if it may not enter."""
        for step in self._steps:
            document.drop = step(document)
            if document.drop is not None:
                break
        if self._requests.is_needed:
            document.removal = self._requests.find({noun: getattr(document, noun) for noun in NOUNS})

    def refuse(self, document: Document) -> Drop | None:
        """Drop what holds NUL, or nothing but whitespace."""
        if b"\0" in document.raw:
            return Drop(DropReason.BINARY)
        return Drop(DropReason.EMPTY) if clean.is_blank(document.raw) else None

    def clean(self, document: Document) -> None:
        """Normalize whitespace."""
        if not clean.is_tidy(document.raw, document.category):
            document.text = clean.whitespace(document.text, document.category)

    def code_blocks(self, document: Document) -> None:
        """Annotate fenced code blocks of prose."""
        if document.category != "code":
            document.code_blocks = clean.code_blocks(document.text)

    def natural_language(self, document: Document) -> None:
        """Annotate the language of prose."""
        if document.category != "code":
            document.natural_language = language.natural(document.text)

    def license(self, document: Document) -> Drop | None:
        """Resolve the license to SPDX; drop what the policy denies, by metadata or by a header in the file."""
        verdict = policy.judge(
            document.license_raw,
            document.text,
            self._policies.licenses,
            stated=document.license_stated,
            path=document.path,
            evidence=document.license_evidence or "metadata",
        )
        document.license, document.license_raw = verdict.expression, verdict.raw
        document.license_evidence = verdict.evidence
        return None if verdict.reason is None else Drop(DropReason(verdict.reason), verdict.detail)

    def scrub(self, document: Document) -> Drop | None:
        """Put placeholders for secrets and personal data; drop tests that leak secrets."""
        document.text, document.scrubbed = self._scrubber(document.text)
        if document.code_blocks and document.scrubbed:
            document.code_blocks = clean.code_blocks(document.text)
        leaked = sorted(SECRET_KINDS.intersection(document.scrubbed))
        if leaked and document.path and _TEST_PATH.search(document.path):
            return Drop(DropReason.SECRET_TEST, ", ".join(leaked))
        return None

    def contamination(self, document: Document) -> Drop | None:
        """Drop what holds an evaluation problem."""
        return self._guard(document.encoded)


def prepare(policies: Policies, work: Path, task: Task) -> int:
    """Prepare the shards of a task that are not there yet; give the number of positions."""
    shard = task.first_shard
    while shard < task.end_shard and prepared_path(work, task.source, shard).exists():
        shard += 1
    items = _positioned(task, shard * task.shard_size)
    for number, group in groupby(items, key=lambda item: item[0] // task.shard_size):
        for empty in range(shard, number):
            _prepare_shard(policies, work, task, empty, iter(()))
        _prepare_shard(policies, work, task, number, group)
        shard = number + 1
    for empty in range(shard, task.end_shard):
        _prepare_shard(policies, work, task, empty, iter(()))
    return min(task.end, task.end_shard * task.shard_size) - task.first_shard * task.shard_size


def prepared_path(work: Path, source: int, shard: int) -> Path:
    """Name the folder of a prepared shard."""
    return work / "prepared" / f"{source:03d}-{shard:05d}"


@lru_cache(maxsize=1)
def _steps(policies: Policies) -> Steps:
    return Steps(policies)


def _positioned(task: Task, start: int) -> Iterator[tuple[int, Document | Unreadable]]:
    for piece in task.pieces:
        if piece.first + piece.count <= start:
            continue
        for position, item in read(piece, start):
            if position >= min(task.end, task.end_shard * task.shard_size):
                return
            if isinstance(item, Document):
                item.position = position
            yield position, item


def _prepare_shard(
    policies: Policies, work: Path, task: Task, number: int, items: Iterator[tuple[int, Document | Unreadable]]
) -> None:
    steps = _steps(policies)
    with (
        artifacts.make_folder(prepared_path(work, task.source, number)) as folder,
        _Writer(folder, task.dataset, near=policies.dedup.near) as writer,
    ):
        for batch in _batches(item for _, item in items):
            documents = [item for item in batch if isinstance(item, Document)]
            _hash(documents)
            for document in documents:
                steps(document)
            writer.add(batch)


def _batches(items: Iterator[Document | Unreadable]) -> Iterator[list[Document | Unreadable]]:
    """Gather items, few enough to stay in the processor's cache."""
    batch: list[Document | Unreadable] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.raw) if isinstance(item, Document) else 0
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hash(documents: Sequence[Document]) -> None:
    from ibidem.data.text.hashing import hash_contents

    hashes = hash_contents([document.raw for document in documents])
    for document, (sha256, blob) in zip(documents, hashes, strict=True):
        document.raw_sha256, document.swhid = sha256, f"swh:1:cnt:{blob}"


class _Writer:
    """Writes one prepared shard, a batch at a time."""

    def __init__(self, folder: Path, dataset: str, *, near: bool) -> None:
        self._folder, self._dataset, self._near = folder, dataset, near
        self._sketches: list[Any] = []
        self._dropped: list[dict[str, Any]] = []
        self._unreadable: list[Unreadable] = []
        self._file = pa.ipc.new_file(folder / "kept.arrow", KEPT_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            sketches = np.concatenate([np.empty(0, SKETCH), *self._sketches])
            np.save(self._folder / "sketch.npy", sketches)
            table = pa.Table.from_pylist(self._dropped, schema=shards.DROPPED_SCHEMA)
            with pa.ipc.new_file(self._folder / "dropped.arrow", table.schema) as file:
                file.write_table(table)
            shards.write_quarantine(self._folder / "quarantine.jsonl", self._unreadable)
        self._file.close()

    def add(self, batch: Sequence[Document | Unreadable]) -> None:
        documents = [item for item in batch if isinstance(item, Document)]
        self._unreadable += [item for item in batch if isinstance(item, Unreadable)]
        self._dropped += [shards.dropped_row(item, self._dataset) for item in documents if item.drop is not None]
        kept = [document for document in documents if document.drop is None]
        if kept:
            self._add_kept(kept)

    def _add_kept(self, kept: Sequence[Document]) -> None:
        batch = shards.as_batch(kept)
        removals = pa.array([document.removal for document in kept], pa.string())
        self._file.write_batch(pa.RecordBatch.from_arrays([*batch.columns, removals], schema=KEPT_SCHEMA))
        hashes = batch.column("sha256").to_pylist()
        self._sketches.append(sketch_texts(batch.column("text"), hashes, near=self._near))
