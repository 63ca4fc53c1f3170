"""Describe a dataset for users, for machines and for the authority, from its manifest.

    README.md                          data card, with the front matter of the Hugging Face hub
    croissant.json                     Croissant 1.0 (http://mlcommons.org/croissant/1.0)
    eu_training_content_summary.md     the sections of the European Commission's template of 24 July 2025 for the
                                       summary of training content, Regulation (EU) 2024/1689, article 53(1)(d)

What a manifest cannot know (the provider, the model) is marked to be filled in by the provider.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml

from ibidem import artifacts
from ibidem.artifacts import Artifact
from ibidem.config import POSITIONAL, configuration
from ibidem.data import shards
from ibidem.data.blend import size_of
from ibidem.data.provenance.croissant import described
from ibidem.data.provenance.eu_summary import eu_summary, sources_in_words, steps_in_words
from ibidem.data.provenance.plain_words import table
from ibidem.data.provenance.source_facts import (
    Provenance,
    knows_no_prose,
    origins_of,
    provenance,
    removals,
    skips,
    sources_of,
    totals,
)
from ibidem.errors import ArtifactError
from ibidem.figures import counted
from ibidem.files import write_file

MOST_ROWS = 30


FILES = ("README.md", "croissant.json", "eu_training_content_summary.md")


@configuration
class CardConfig:
    """Describe a dataset."""

    dataset: Annotated[Path, POSITIONAL]
    """Folder of a preprocessed or blended dataset."""
    output_dir: Path | None = None
    """Folder for the three files; if empty, NAME.card beside the dataset."""


def card(config: CardConfig) -> str:
    """Write the data card, the Croissant metadata and the EU summary."""
    dataset, folder = shards.load_dataset(config.dataset), _folder(config)
    path = dataset.path.resolve()
    artifacts.check_outside(folder / "README.md")
    origins = origins_of(dataset)
    found = provenance(dataset, origins)
    texts = (
        data_card(dataset, path.name, origins, found),
        json.dumps(croissant(dataset, path.name), ensure_ascii=False, indent=2) + "\n",
        eu_summary(dataset, origins, found),
    )
    written = dict(zip(FILES, texts, strict=True))
    for name in written:
        if (folder / name).exists() and not (folder / "croissant.json").exists():
            raise ArtifactError(f"{folder / name} exists and is not a card to replace; choose another output_dir")
    for name, text in written.items():
        write_file(folder / name, text)
    return f"{folder}: {', '.join(written)}"


def preview(config: CardConfig) -> list[str]:
    """Say what would be written."""
    return [f"writes  {_folder(config)}  {', '.join(FILES)}"]


def _folder(config: CardConfig) -> Path:
    path = config.dataset.resolve()
    beside = config.dataset if config.dataset.name not in ("", "..") else path
    return config.output_dir or beside.with_name(f"{path.name}.card")


def data_card(dataset: Artifact, name: str, origins: Sequence[Artifact], found: Provenance) -> str:
    """Describe a dataset in Markdown, with YAML front matter for the Hugging Face hub.

    Args:
        dataset: the dataset.
        name: its name.
        origins: the datasets that were read from sources: itself, or those it was blended from.
        found: its documents by where they come from.
    """
    counts, read = dataset.counts, totals(origins)
    where = "" if dataset in origins else ", in the datasets that were blended"
    front = {
        "pretty_name": name,
        "license": "other",
        "license_name": "see-the-column-license",
        "language": sorted(code for code in counts["natural_language"] if code != "none"),
        "size_categories": [size_category(counts["kept"])],
        "task_categories": ["text-generation"],
        "configs": [{"config_name": "default", "data_files": f"**/{shards.SHARDS}"}],
    }
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        f"# {name}",
        f"{size_of(dataset)}, {counts['bytes']:,} bytes, made by ibidem {dataset.version}. "
        f"Digest `{dataset.digest}`: the same inputs and settings give the same digest.",
        "## Sources",
        table(("source", "digest"), [(f"`{item.name}`", f"`{item.digest}`") for item in sources_of(origins)]),
        *sources_in_words(found),
        "## What was read and what was kept",
        f"{read['read']:,} read = {read['kept']:,} kept + {sum(read['dropped'].values()):,} dropped "
        f"+ {read['quarantined']:,} unreadable{where}. Every dropped document has its row in `{shards.DROPPED}`, "
        f"every unreadable input its line in `{shards.QUARANTINE}`.",
        _count_table("reason", read["dropped"]),
        "## Composition",
        *(_count_table(aspect, counts[aspect]) for aspect in ("category", "language", "natural_language")),
        "Languages of prose were not looked for: the settings left that out." if knows_no_prose(origins) else "",
        "## Licenses",
        "No license was judged: the settings left that out." if skips(origins, "licenses") else "",
        "Each row carries its SPDX expression (`license`), the license as the source supplied it (`license_raw`) and "
        "what it was read from (`license_evidence`). Of sources that state no license: "
        f"{counted(counts['license_unstated'], 'document')}.",
        _count_table("license", counts["license"]),
        "## Secrets and personal data",
        "Were not looked for: the settings left that out."
        if skips(origins, "scrub")
        else "Became typed placeholders, by kind:",
        _count_table("kind", read["scrubbed"], "places"),
        "## Removal",
        removals(origins),
        "## Processing",
        *steps_in_words(origins),
        f"All settings are in `{artifacts.MANIFEST}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def croissant(dataset: Artifact, name: str) -> dict[str, Any]:
    """Describe a dataset as Croissant 1.0 JSON-LD."""
    return described(
        name=name,
        description=f"{size_of(dataset)}; licenses by row; made by ibidem {dataset.version}.",
        licenses=sorted(name for name in dataset.counts["license"] if name != "none"),
        version=dataset.version,
        identifier=dataset.digest,
        files={shard: dataset.files[shard] for shard in shards.shard_names(dataset)},
        schema=shards.SCHEMA,
    )


def _count_table(name: str, counts: Mapping[str, int], what: str = "documents") -> str:
    rows = [(value, f"{count:,}") for value, count in list(counts.items())[:MOST_ROWS]]
    if len(counts) > MOST_ROWS:
        rest = list(counts.values())[MOST_ROWS:]
        rows.append((counted(len(rest), "other"), f"{sum(rest):,}"))
    return table((name, what), rows) or "none"


def size_category(num_documents: int) -> str:
    """Return the size of a dataset in the words of the Hugging Face hub.

    >>> size_category(2_000)
    '1K<n<10K'
    """
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
    return next((name for bound, name in bounds.items() if num_documents < bound), "n>10M")
