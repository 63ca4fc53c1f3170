"""Public data to clean, licensed, traceable Parquet shards: the wiring of the stage.

    <output_dir>/<dataset>/<split>/shard-00000.parquet   a row a document
    <output_dir>/dropped.parquet                         a row for each document that did not enter, and why
    <output_dir>/quarantine.jsonl                        a line for each input that could not be read
    <output_dir>/manifest.json                           written last: counts, digests, settings

Kept + dropped + quarantined = read, always.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ibidem import artifacts, log
from ibidem.config import configuration, settings
from ibidem.data import clean, licenses, shards
from ibidem.data.dedup import drop_exact_duplicates
from ibidem.data.licenses import LicensePolicy
from ibidem.data.sources import Source, Spec, open_source
from ibidem.errors import ConfigError, DataError
from ibidem.records import Document, Drop, Unreadable


class DropReason(StrEnum):
    """Why a document does not enter the corpus."""

    BINARY = "binary"
    """The text holds a NUL character."""
    EMPTY = "empty"
    """Nothing is left after the whitespace."""
    LICENSE_DENIED = "license.denied"
    """The license metadata names an excluded family."""
    LICENSE_HEADER = "license.header"
    """A license header in the file names an excluded family, whatever the metadata says."""
    LICENSE_MISSING = "license.missing"
    """The source states licenses, but none for this document."""
    LICENSE_UNKNOWN = "license.unknown"
    """The license metadata cannot be resolved."""
    LICENSE_UNSTATED = "license.unstated"
    """The source states no licenses, and the policy asks for them."""
    DUPLICATE_EXACT = "duplicate.exact"
    """The same text stands in an earlier document."""


@configuration
class PreprocessConfig:
    """Turn public datasets and local files into clean, licensed, traceable Parquet shards."""

    dataset: Annotated[tuple[str, ...], Field(min_length=1)]
    """What to read, as NAME[:VERSION]:SPLIT:COLUMN; repeat the flag for more. NAME is a local file or folder,
    installed-packages, or a dataset of the Hugging Face hub."""
    output_dir: Path
    """Folder of the dataset that is made; one artifact, replaced as a whole."""
    shard_size: Annotated[int, Field(ge=1)] = 2000
    """Documents of a source that one shard spans."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Read at most so many documents of each dataset."""
    package_cap_bytes: Annotated[int, Field(ge=1)] = 2_000_000
    """Read at most so many bytes of each package of installed-packages."""
    licenses: LicensePolicy = Field(default_factory=LicensePolicy)
    """Which licenses may enter."""


def preprocess(config: PreprocessConfig) -> str:
    """Read, clean, judge, deduplicate and write; say what was kept.

    Raises:
        ConfigError: a spec names nothing.
        DataError: a source gives no document at all.
    """
    sources = _open_sources(config)
    artifacts.check_replaceable(config.output_dir, shards.KIND)
    for source in sources:
        if Path(source.spec.name).resolve() in (config.output_dir.resolve(), *config.output_dir.resolve().parents):
            raise ConfigError(f"output_dir {config.output_dir} is inside the dataset {source.spec.name}")
    inputs = [source.as_input() for source in sources]
    chosen = settings(config)
    found = artifacts.finished(config.output_dir, kind=shards.KIND, config=chosen, inputs=inputs)
    if found is None:
        with artifacts.create(config.output_dir, kind=shards.KIND, config=chosen, inputs=inputs) as draft:
            tally = Tally()
            seen = _read_all(sources, config, tally)
            documents = clean_whitespace(seen)
            documents = judge_licenses(documents, config.licenses)
            documents = drop_exact_duplicates(documents)
            _write(documents, draft, sources, config, tally)
            draft.counts |= tally.counts(sources)
        found = artifacts.load(config.output_dir, kind=shards.KIND)
        log.event("preprocess.finished", path=str(config.output_dir), **found.counts)
    return summary(found)


def clean_whitespace(documents: Iterable[Document]) -> Iterator[Document]:
    """Normalize whitespace and annotate fenced code blocks; drop what holds NUL or nothing."""
    for document in documents:
        if "\0" in document.text:
            document.drop = Drop(DropReason.BINARY)
        else:
            document.text = clean.whitespace(document.text, document.category)
            document.code_blocks = clean.code_blocks(document.text) if document.category != "code" else ()
            if not document.text:
                document.drop = Drop(DropReason.EMPTY)
        yield document


def judge_licenses(documents: Iterable[Document], policy: LicensePolicy) -> Iterator[Document]:
    """Resolve each license to SPDX and drop what the policy denies, by metadata or by a header in the file."""
    for document in documents:
        verdict = licenses.judge(document.license_raw, document.text, policy, stated=document.license_stated)
        document.license, document.license_raw = verdict.expression, verdict.raw
        if document.drop is None and verdict.reason is not None:
            document.drop = Drop(DropReason(verdict.reason), verdict.detail)
        yield document


@dataclass
class Tally:
    """What became of everything that was read."""

    dropped: list[Document] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    read: int = 0
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Documents by (aspect, value): license, language, category and source."""
    chars: int = 0
    bytes: int = 0

    def judge(self, document: Document) -> bool:
        """Count a document; say whether it is kept."""
        if document.drop is not None:
            document.text, document.raw = "", b""
            self.dropped.append(document)
            return False
        self.chars += len(document.text)
        self.bytes += len(document.text.encode())
        for aspect in ("license", "language", "category", "source"):
            self.kept[aspect, getattr(document, aspect) or "none"] += 1
        return True

    def counts(self, sources: Iterable[Source]) -> dict[str, Any]:
        """Give the manifest's counts, checked to add up."""
        kept = sum(count for (aspect, _), count in self.kept.items() if aspect == "source")
        assert kept + len(self.dropped) + len(self.unreadable) == self.read
        skipped = sum((source.skipped for source in sources), Counter[str]())
        reasons = Counter(str(document.drop.reason) for document in self.dropped if document.drop)
        return {
            "read": self.read,
            "kept": kept,
            "dropped": dict(reasons.most_common()),
            "quarantined": len(self.unreadable),
            "chars": self.chars,
            "bytes": self.bytes,
            "license_unstated": self.kept["license", "none"],
            "skipped_files": dict(skipped.most_common()),
            **{aspect: self._of(aspect) for aspect in ("license", "language", "category", "source")},
        }

    def _of(self, aspect: str) -> dict[str, int]:
        return {value: count for (name, value), count in self.kept.most_common() if name == aspect}


def summary(dataset: artifacts.Artifact) -> str:
    """Say in one line what a dataset holds."""
    counts = dataset.counts
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in counts["dropped"].items()) or "none"
    unstated = f" ({counts['license_unstated']:,} without a stated license)" if counts["license_unstated"] else ""
    return (
        f"{dataset.path}: {counts['kept']:,} of {counts['read']:,} documents kept{unstated}, "
        f"{counts['bytes']:,} bytes; dropped: {dropped}; quarantined: {counts['quarantined']:,}"
    )


def _open_sources(config: PreprocessConfig) -> list[Source]:
    specs = [Spec.parse(text) for text in config.dataset]
    if len(set(specs)) < len(specs):
        raise ConfigError("dataset: the same spec is given twice")
    return [open_source(spec, package_cap_bytes=config.package_cap_bytes) for spec in specs]


def _read_all(sources: list[Source], config: PreprocessConfig, tally: Tally) -> Iterator[Document]:
    """Give the documents of all sources; what is unreadable goes to the tally."""
    for number, source in enumerate(sources):
        before, unreadable = tally.read, len(tally.unreadable)
        with log.progress(f"preprocess.{source.spec.folder}", _expected(source, config), "documents") as bar:
            for item in source.read():
                tally.read += 1
                bar.advance()
                if isinstance(item, Unreadable):
                    tally.unreadable.append(item)
                else:
                    item.source_position = (number, tally.read - before - 1)
                    yield item
                if tally.read - before == config.max_documents:
                    break
        if tally.read - before == len(tally.unreadable) - unreadable:
            first = tally.unreadable[unreadable] if len(tally.unreadable) > unreadable else None
            reason = f": {first.file}: {first.reason}" if first else ": it holds no document"
            raise DataError(f"dataset {source.spec.name!r}: nothing could be read{reason}")


def _expected(source: Source, config: PreprocessConfig) -> int | None:
    expected = source.expected()
    return expected if config.max_documents is None or expected is None else min(expected, config.max_documents)


def _write(
    documents: Iterable[Document],
    draft: artifacts.Draft,
    sources: list[Source],
    config: PreprocessConfig,
    tally: Tally,
) -> None:
    folders = _folders(sources)
    batch: list[Document] = []
    current = (0, 0)
    for document in documents:
        number, position = document.source_position
        if (number, position // config.shard_size) != current:
            _write_shard(batch, draft, folders, current)
            batch, current = [], (number, position // config.shard_size)
        if tally.judge(document):
            batch.append(document)
    _write_shard(batch, draft, folders, current)
    shards.write_dropped(draft.path / shards.DROPPED, tally.dropped)
    shards.write_quarantine(draft.path / shards.QUARANTINE, tally.unreadable)
    draft.rows |= {shards.DROPPED: len(tally.dropped), shards.QUARANTINE: len(tally.unreadable)}


def _write_shard(batch: list[Document], draft: artifacts.Draft, folders: list[str], current: tuple[int, int]) -> None:
    number, shard = current
    name = f"{folders[number]}/shard-{shard:05d}.parquet"
    shards.write_shard(draft.path / name, batch)
    draft.rows[name] = len(batch)


def _folders(sources: list[Source]) -> list[str]:
    """Name each source's folder, `<dataset>/<split>`; a name that comes again is numbered."""
    names: list[str] = []
    for source in sources:
        name, number = f"{source.spec.folder}/{source.spec.split}", 1
        while name in names:
            number += 1
            name = f"{source.spec.folder}-{number}/{source.spec.split}"
        names.append(name)
    return names
