"""Describe a dataset for users, for machines and for the authority, from its manifest.

    README.md                          data card, with the front matter of the Hugging Face hub
    croissant.json                     Croissant 1.0 (http://mlcommons.org/croissant/1.0)
    eu_training_content_summary.md     the sections of the European Commission's template of 24 July 2025 for the
                                       summary of training content, Regulation (EU) 2024/1689, article 53(1)(d)

What a manifest cannot know (the provider, the model) is marked to be filled in by the provider.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import yaml

from ibidem import artifacts
from ibidem.artifacts import Artifact, Input
from ibidem.config import POSITIONAL, configuration, flattened
from ibidem.data import shards
from ibidem.data.blend import is_blend, size_of
from ibidem.errors import ArtifactError
from ibidem.files import write_file

UNKNOWN = "*to be filled in by the provider*"
MOST_ROWS = 30


@configuration
class CardConfig:
    """Describe a dataset."""

    dataset: Annotated[Path, POSITIONAL]
    """Folder of a preprocessed or blended dataset."""
    output_dir: Path | None = None
    """Folder for the three files; if empty, NAME.card beside the dataset."""


def card(config: CardConfig) -> str:
    """Write the data card, the Croissant metadata and the EU summary."""
    dataset = shards.load_dataset(config.dataset)
    path = dataset.path.resolve()
    beside = config.dataset if config.dataset.name not in ("", "..") else path
    folder = config.output_dir or beside.with_name(f"{path.name}.card")
    artifacts.check_outside(folder / "README.md")
    origins = _origins(dataset)
    written = {
        "README.md": data_card(dataset, path.name, origins),
        "croissant.json": json.dumps(croissant(dataset, path.name), ensure_ascii=False, indent=2) + "\n",
        "eu_training_content_summary.md": eu_summary(dataset, origins),
    }
    for name in written:
        if (folder / name).exists() and not (folder / "croissant.json").exists():
            raise ArtifactError(f"{folder / name} exists and is not a card to replace; choose another output_dir")
    for name, text in written.items():
        write_file(folder / name, text)
    return f"{folder}: {', '.join(written)}"


def data_card(dataset: Artifact, name: str, origins: Sequence[Artifact]) -> str:
    """Describe a dataset in Markdown, with YAML front matter for the Hugging Face hub.

    `origins` are the datasets that were read from sources: itself, or those it was blended from.
    """
    counts, read = dataset.counts, _totals(origins)
    where = "" if dataset in origins else ", in the datasets that were blended"
    front = {
        "pretty_name": name,
        "license": "other",
        "license_name": "see-the-column-license",
        "language": sorted(code for code in counts["natural_language"] if code != "none"),
        "size_categories": [_size_category(counts["kept"])],
        "task_categories": ["text-generation"],
        "configs": [{"config_name": "default", "data_files": "**/shard-*.parquet"}],
    }
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        f"# {name}",
        f"{size_of(dataset)}, {counts['bytes']:,} bytes, made by ibidem {dataset.version}. "
        f"Digest `{dataset.digest}`: the same inputs and settings give the same digest.",
        "## Sources",
        _table(("source", "digest"), [(item.name, f"`{item.digest}`") for item in _sources(origins)]),
        "## What was read and what was kept",
        f"{read['read']:,} read = {read['kept']:,} kept + {sum(read['dropped'].values()):,} dropped "
        f"+ {read['quarantined']:,} unreadable{where}. Every dropped document has its row in `{shards.DROPPED}`, "
        f"every unreadable input its line in `{shards.QUARANTINE}`.",
        _counted("reason", read["dropped"]),
        "## Composition",
        *(_counted(aspect, counts[aspect]) for aspect in ("category", "language", "natural_language")),
        "Languages of prose were not looked for: the settings left that out." if _knows_no_prose(origins) else "",
        "## Licenses",
        "No license was judged: the settings left that out." if _skips(origins, "licenses") else "",
        "Each row carries its SPDX expression (`license`), the license as the source supplied it (`license_raw`) and "
        f"what it was read from (`license_evidence`). {counts['license_unstated']:,} documents come from sources that "
        "state no license.",
        _counted("license", counts["license"]),
        "## Secrets and personal data",
        "Were not looked for: the settings left that out."
        if _skips(origins, "scrub")
        else "Became typed placeholders, by kind:",
        _counted("kind", read["scrubbed"]),
        "## Removal",
        _removals(origins),
        "## Settings",
        "```json\n" + json.dumps(dataset.config, ensure_ascii=False, indent=1, sort_keys=True) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def croissant(dataset: Artifact, name: str) -> dict[str, Any]:
    """Describe a dataset as Croissant 1.0 JSON-LD: shards with their sha256, columns with their types."""
    paths = shards.shard_paths(dataset.path)
    files = {path.relative_to(dataset.path).as_posix(): path for path in paths}
    distribution: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": shard,
            "name": shard,
            "contentUrl": shard,
            "contentSize": f"{dataset.files[shard].bytes} B",
            "encodingFormat": "application/x-parquet",
            "sha256": dataset.files[shard].sha256,
        }
        for shard in files
    ]
    distribution.append(
        {
            "@type": "cr:FileSet",
            "@id": "shards",
            "name": "shards",
            "containedIn": [{"@id": shard} for shard in files],
            "encodingFormat": "application/x-parquet",
            "includes": "**/shard-*.parquet",
        }
    )
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{size_of(dataset)}; licenses by row; made by ibidem {dataset.version}.",
        "license": sorted(name for name in dataset.counts["license"] if name != "none"),
        "version": dataset.version,
        "identifier": dataset.digest,
        "distribution": distribution,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "documents",
                "name": "documents",
                "field": [_field(column) for column in shards.SCHEMA],
            }
        ],
    }


def eu_summary(dataset: Artifact, origins: Sequence[Artifact]) -> str:
    """Fill the EU summary of training content from the manifests of the dataset and its origins."""
    counts, read, sources = dataset.counts, _totals(origins), _sources(origins)
    public = [item for item in sources if item.digest.startswith("git:")]
    local = [item for item in sources if item not in public]
    settings = flattened({origin.path.name: origin.config for origin in origins})
    prose = "not looked for" if _knows_no_prose(origins) else _list_of(counts["natural_language"])
    judged = "Licenses were not judged." if _skips(origins, "licenses") else "Licenses were judged for each file."
    parts = [
        "# Public summary of training content",
        "Sections of the European Commission's template under article 53(1)(d) of Regulation (EU) 2024/1689. "
        f"Read from the manifest of the dataset `{dataset.digest}`; whatever it does not know is {UNKNOWN}.",
        "## 1. General information",
        f"1.1 Provider: {UNKNOWN}",
        f"1.2 Model: {UNKNOWN}",
        "1.3 Modalities: text. Size: "
        f"{_eu_size(counts['bytes'])} ({size_of(dataset)}, {counts['bytes']:,} bytes of UTF-8). "
        f"Languages of prose: {prose}. Programming and markup languages: {_list_of(counts['language'])}. "
        f"Latest date of acquisition: {UNKNOWN}",
        "## 2. List of data sources",
        "2.1 Publicly available datasets",
        _table(("dataset", "revision"), [(item.name, f"`{item.digest}`") for item in public]) or "none",
        "2.2 Private datasets obtained from third parties, and files supplied by the provider",
        _table(("files", "digest"), [(item.name, f"`{item.digest}`") for item in local]) or "none",
        f"Of each of these, how it was obtained and under which terms: {UNKNOWN}",
        "2.3 Data crawled and scraped from online sources: none by this program, which reads only the sources above.",
        f"2.4 User data: {UNKNOWN}",
        f"2.5 Synthetic data: {UNKNOWN}",
        "2.6 Other sources of data: none.",
        "## 3. Data processing aspects",
        "3.1 Respect of reservations of rights",
        f"{judged} Kept: {_list_of(counts['license'])}. "
        f"Dropped for their license: {_total(read['dropped'], 'license.'):,} documents. Without a stated license: "
        f"{counts['license_unstated']:,}. {_removals(origins)}",
        "3.2 Removal of illegal content",
        f"Dropped as hate speech or profanity: {_total(read['dropped'], 'filter.profanity'):,} documents. Secrets "
        f"and personal data that became placeholders: {sum(read['scrubbed'].values()):,} places.",
        "3.3 Other information",
        f"Dropped as duplicates: {_total(read['dropped'], 'duplicate.'):,} documents; as holding evaluation problems:"
        f" {_total(read['dropped'], 'contaminated'):,}. All settings:",
        _table(("setting", "value"), [(key, f"`{value}`") for key, value in sorted(settings.items())]),
    ]
    return "\n\n".join(parts) + "\n"


_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def _field(column: pa.Field) -> dict[str, Any]:
    kind = "sc:Integer" if pa.types.is_integer(column.type) else "sc:Text"
    return {
        "@type": "cr:Field",
        "@id": f"documents/{column.name}",
        "name": column.name,
        "dataType": kind,
        "source": {"fileSet": {"@id": "shards"}, "extract": {"column": column.name}},
    }


def _origins(dataset: Artifact) -> list[Artifact]:
    """Find the datasets that were read from sources: the dataset itself, or all ingredients of a blend."""
    if not is_blend(dataset):
        return [dataset]
    origins: list[Artifact] = []
    for item in dataset.inputs:
        if item.role != "tokenizer":
            path = Path(os.path.normpath(dataset.path.resolve() / item.name))
            origin = artifacts.load(path, kind=shards.KIND)
            if origin.digest != item.digest:
                raise ArtifactError(f"{path}: changed since {dataset.path} was made from it; blend again")
            origins += _origins(origin)
    return list({origin.digest: origin for origin in origins}.values())


def _sources(origins: Sequence[Artifact]) -> list[Input]:
    inputs = [item for origin in origins for item in origin.inputs if item.role == "source"]
    return list({item.digest: item for item in inputs}.values())


def _totals(origins: Sequence[Artifact]) -> dict[str, Any]:
    sums = {name: sum(origin.counts[name] for origin in origins) for name in ("read", "kept", "quarantined")}
    several = {name: sum((Counter(o.counts[name]) for o in origins), Counter()) for name in ("dropped", "scrubbed")}
    return sums | {name: dict(counted.most_common()) for name, counted in several.items()}


def _skips(origins: Sequence[Artifact], step: str) -> bool:
    return any(step in origin.config["skip"] for origin in origins)


def _knows_no_prose(origins: Sequence[Artifact]) -> bool:
    return all(_skips([origin], "natural_languages") for origin in origins)


def _removals(origins: Sequence[Artifact]) -> str:
    requested = _total(_totals(origins)["dropped"], "removal.")
    requests = sum(o.files[shards.REMOVALS].rows or 0 for o in origins if shards.REMOVALS in o.files)
    if not requests:
        return "No request for removal has been made."
    return f"{requests:,} requests for removal were honored, and {requested:,} documents left by them."


def _counted(name: str, counts: Mapping[str, int]) -> str:
    rows = [(value, f"{count:,}") for value, count in list(counts.items())[:MOST_ROWS]]
    if len(counts) > MOST_ROWS:
        rest = list(counts.values())[MOST_ROWS:]
        rows.append((f"{len(rest):,} others", f"{sum(rest):,}"))
    return _table((name, "documents"), rows) or "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def _total(counts: Mapping[str, int], prefix: str) -> int:
    return sum(count for name, count in counts.items() if name.startswith(prefix))


def _list_of(counts: Mapping[str, int]) -> str:
    return ", ".join(name for name in counts if name != "none") or "none"


def _size_category(num_documents: int) -> str:
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
    return next((name for bound, name in bounds.items() if num_documents < bound), "n>10M")


def _eu_size(num_bytes: int) -> str:
    """Return the size class of the template, assuming 4 bytes per token."""
    tokens = num_bytes / 4
    if tokens < 1e9:
        return "less than 1 billion tokens"
    return "1 billion to 10 trillion tokens" if tokens <= 1e13 else "more than 10 trillion tokens"
