"""What a dataset was made from: its sources, the repositories that its rows name, and what was kept of each."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from ibidem import artifacts
from ibidem.artifacts import Artifact, Input
from ibidem.data import shards
from ibidem.data.blend import is_blend
from ibidem.data.sources.open import INSTALLED
from ibidem.errors import ArtifactError
from ibidem.figures import counted
from ibidem.places import joined

COLUMNS = ("source", "repo", "revision", "license")
"""The columns that are read to group documents by where they come from."""


class Group(NamedTuple):
    """Documents of one source, repository, version and license; `none` where the row has no value."""

    source: str
    repo: str
    revision: str
    license: str


@dataclass
class Share:
    """What was kept of a source or repository."""

    documents: int = 0
    licenses: Counter[str] = field(default_factory=Counter)

    def add(self, license_expression: str, count: int) -> None:
        self.documents += count
        self.licenses[license_expression] += count


class Clone(NamedTuple):
    """A repository at a commit, read from a clone below a source."""

    source: str
    repo: str
    commit: str
    address: str | None
    date: str | None


@dataclass
class Provenance:
    """What was kept, by where it comes from; largest first."""

    clones: dict[Clone, Share]
    """Repositories whose clones were read."""
    packages: dict[str, Share]
    """Installed packages by name."""
    hub: dict[tuple[str, str], Share]
    """Datasets of the Hugging Face hub, by name and revision."""
    files: dict[Input, Share]
    """Files and folders, without what belongs to a clone."""
    named_by_hub: dict[str, Share]
    """Repositories that the rows of datasets of the hub name."""
    named_by_files: dict[str, Share]
    """Repositories that the rows of files name."""
    unused: list[Input]
    """Sources of which nothing was kept."""
    unknown: dict[str, Share] = field(default_factory=dict)
    """Sources that rows name, and no input."""

    @property
    def latest(self) -> str | None:
        """The latest day that is known of a source."""
        return max((clone.date for clone in self.clones if clone.date), default=None)


def origins_of(dataset: Artifact) -> list[Artifact]:
    """Find the datasets that were read from sources: the dataset itself, or all ingredients of a blend.

    Raises:
        ArtifactError: an ingredient changed since the blend was made.
    """
    if not is_blend(dataset):
        return [dataset]
    origins: list[Artifact] = []
    for item in dataset.inputs:
        if item.role != "tokenizer":
            path = joined(dataset.path, item.name)
            origin = artifacts.load(path, kind=shards.KIND)
            if origin.digest != item.digest:
                raise ArtifactError(f"{path}: changed since {dataset.path} was made from it; blend again")
            origins += origins_of(origin)
    return list({origin.digest: origin for origin in origins}.values())


def sources_of(origins: Sequence[Artifact]) -> list[Input]:
    """List the sources of datasets, each once."""
    inputs = [item for origin in origins for item in origin.inputs if item.role == "source"]
    return list(dict.fromkeys(inputs))


def totals(origins: Sequence[Artifact]) -> dict[str, Any]:
    """Add up what datasets read, kept, dropped and scrubbed."""
    sums = {name: sum(origin.counts[name] for origin in origins) for name in ("read", "kept", "quarantined")}
    several = {name: sum((Counter(o.counts[name]) for o in origins), Counter()) for name in ("dropped", "scrubbed")}
    return sums | {name: dict(counts.most_common()) for name, counts in several.items()}


def total(counts: Mapping[str, int], *prefixes: str) -> int:
    """Add up the counts whose name begins with one of the prefixes.

    >>> total({"duplicate.near": 2, "duplicate.exact": 1, "empty": 5}, "duplicate.")
    3
    """
    return sum(count for name, count in counts.items() if name.startswith(prefixes))


def skips(origins: Sequence[Artifact], step: str) -> bool:
    """Return whether a step was left out of any of the datasets."""
    return any(step in origin.config["skip"] for origin in origins)


def knows_no_prose(origins: Sequence[Artifact]) -> bool:
    """Return whether languages of prose were looked for in none of the datasets."""
    return all(skips([origin], "natural_languages") for origin in origins)


def removals(origins: Sequence[Artifact]) -> str:
    """Return a sentence about requests for removal."""
    requested = total(totals(origins)["dropped"], "removal.")
    requests = sum(o.files[shards.REMOVALS].rows or 0 for o in origins if shards.REMOVALS in o.files)
    if not requests:
        return "No request for removal has been made."
    return f"Honored: {counted(requests, 'request')} for removal. Removed on request: {counted(requested, 'document')}."


def provenance(dataset: Artifact, origins: Sequence[Artifact]) -> Provenance:
    """Group the documents of a dataset by where they come from."""
    sources = sources_of(origins)
    inputs = {_source_name(item): item for item in sources}
    clones = _Clones(origins)
    packages, of_clones, hub, files, by_hub, by_files, unknown = (defaultdict[Any, Share](Share) for _ in range(7))
    groups = grouped(dataset)
    for group, count in groups.items():
        item = inputs.get(group.source)
        if clone := clones.of(group):
            of_clones[clone].add(group.license, count)
        elif item is None:
            unknown[group.source].add(group.license, count)
        elif item.name == INSTALLED:
            packages[group.repo].add(group.license, count)
        else:
            (hub[group.source, group.revision] if is_hub(item) else files[item]).add(group.license, count)
            if group.repo != "none":
                (by_hub if is_hub(item) else by_files)[group.repo].add(group.license, count)
    used = {group.source for group in groups}
    return Provenance(
        _largest_first(of_clones),
        _largest_first(packages),
        _largest_first(hub),
        _largest_first(files),
        _largest_first(by_hub),
        _largest_first(by_files),
        [item for item in sources if not unknown and _source_name(item) not in used],  # it may be one of the unknown
        _largest_first(unknown),
    )


def grouped(dataset: Artifact) -> Counter[Group]:
    """Count the documents of a dataset by source, repository, version and license; no text is read."""
    schema = pa.schema([shards.SCHEMA.field(name) for name in COLUMNS])
    documents: Counter[Group] = Counter()
    for path in shards.shard_paths(dataset.path):
        rows = pa.Table.from_batches(shards.read_batches(path, COLUMNS), schema)
        groups = rows.group_by(list(COLUMNS)).aggregate([([], "count_all")])
        for row in groups.to_pylist():
            documents[Group(*(row[name] or "none" for name in COLUMNS))] += row["count_all"]
    return documents


def is_hub(item: Input) -> bool:
    """Return whether a source is a dataset of the Hugging Face hub: it is known by its commit."""
    return item.digest.startswith("git:")


def _source_name(item: Input) -> str:
    """Return what the rows of a source have in their column `source`."""
    return item.name.partition(":")[0] if is_hub(item) else item.name


class _Clones:
    """The clones that manifests name."""

    def __init__(self, origins: Iterable[Artifact]) -> None:
        facts = [Clone(**clone) for origin in origins for clone in origin.counts.get("clones", ())]
        self._by_commit = {(clone.source, clone.repo, clone.commit): clone for clone in facts}
        self._by_repo: dict[tuple[str, str], set[Clone]] = defaultdict(set)
        for clone in facts:
            self._by_repo[clone.source, clone.repo].add(clone)

    def of(self, group: Group) -> Clone | None:
        """Return the clone of documents; a spec may name another version than the commit."""
        same = self._by_repo[group.source, group.repo]
        only = next(iter(same)) if len(same) == 1 else None
        return self._by_commit.get((group.source, group.repo, group.revision), only)


def _largest_first(shares: Mapping[Any, Share]) -> dict[Any, Share]:
    return dict(sorted(shares.items(), key=lambda item: (-item[1].documents, str(item[0]))))
