"""The public summary of training content, for a reader at the authority: prose and tables, no settings.

Source: the European Commission's template of 24 July 2025 under article 53(1)(d) of Regulation (EU) 2024/1689.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ibidem import artifacts
from ibidem.artifacts import Artifact
from ibidem.data.blend import size_of
from ibidem.data.provenance.plain_words import (
    counted_licenses,
    counted_names,
    day,
    day_of,
    enumerated,
    language_name,
    license_name,
    steps,
    table,
)
from ibidem.data.provenance.source_facts import (
    Provenance,
    Share,
    knows_no_prose,
    removals,
    skips,
    total,
    totals,
)
from ibidem.figures import counted, percent

UNKNOWN = "*to be filled in by the provider*"
MOST_ROWS = 30
HUB = "https://huggingface.co/datasets"
STANDARD_LIBRARY = "python"
"""Name of the standard library among the installed packages."""
NOT_RECORDED = "not recorded"
Rows = list[tuple[str, ...]]


def eu_summary(dataset: Artifact, origins: Sequence[Artifact], found: Provenance) -> str:
    """Fill the summary from the manifests of a dataset and its origins, and from its rows without their texts."""
    parts = [
        "# Public summary of training content",
        "This summary has the sections of the European Commission's template under article 53(1)(d) of Regulation (EU) "
        f"2024/1689. It describes the dataset with the digest `{dataset.digest}`. Whatever the dataset does not know "
        f"is {UNKNOWN}.",
        "## 1. General information",
        f"1.1 Provider: {UNKNOWN}",
        f"1.2 Model: {UNKNOWN}",
        *_modalities(dataset, origins, found),
        "## 2. List of data sources",
        "2.1 Publicly available datasets",
        *(_public(found) or ["No sources of this kind."]),
        "2.2 Private datasets obtained from third parties, and files supplied by the provider",
        *(_files(found) or ["No sources of this kind."]),
        *_unused(found),
        "2.3 Data crawled and scraped from online sources: none by this program, which reads only the sources above.",
        f"2.4 User data: {UNKNOWN}",
        f"2.5 Synthetic data: {UNKNOWN}",
        "2.6 Other sources of data: none.",
        "## 3. Data processing aspects",
        "3.1 Respect of reservations of rights",
        *_rights(dataset, origins),
        "3.2 Removal of illegal content",
        _illegal_content(origins),
        "3.3 Other information",
        *_other_information(dataset, origins),
    ]
    return "\n\n".join(parts) + "\n"


def sources_in_words(found: Provenance) -> list[str]:
    """Describe all sources: datasets, repositories, packages and files."""
    return [*_hub(found), *_clones(found), *_packages(found), *_supplied(found), *_unused(found)]


def steps_in_words(origins: Sequence[Artifact]) -> list[str]:
    """List what was done with the documents: of all datasets, then what was done besides with those of some."""
    done = [(origin.path.resolve().name, steps(origin.config)) for origin in origins]
    shared = [step for step in done[0][1] if all(step in of_one for _, of_one in done)]
    parts = ["What was done with the documents, in this order:", _bullets(shared)]
    for name, of_one in done:
        if besides := [step for step in of_one if step not in shared]:
            parts += [f"Besides, with the documents of `{name}`:", _bullets(besides)]
    return parts


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"* {sentence}" for sentence in sentences)


def _modalities(dataset: Artifact, origins: Sequence[Artifact], found: Provenance) -> Iterator[str]:
    counts = dataset.counts
    prose = {language_name(code): count for code, count in counts["natural_language"].items() if code != "none"}
    size = f"{size_of(dataset)}, {counts['bytes']:,} bytes of UTF-8"
    made = max(day_of(origin.volatile["created"]) for origin in origins)
    newest = found.latest
    earliest = f"not before {day(newest)}, the day of the newest commit among the sources, and " if newest else ""
    yield f"1.3 Modalities: text. Size: {_size_class(counts['bytes'])} ({size})."
    if knows_no_prose(origins):
        yield "Languages of prose: not looked for."
    else:
        yield f"Languages of prose, with the number of documents: {counted_names(prose)}."
    languages = {"plain text" if name == "Text" else name: count for name, count in counts["language"].items()}
    yield f"Programming and markup languages, with the number of documents: {counted_names(languages)}."
    yield f"Latest date of acquisition: {earliest}not after {day(made)}, when the dataset was made."


def _public(found: Provenance) -> list[str]:
    parts = [*_hub(found), *_clones(found), *_packages(found)]
    return [*parts, f"Whether each of these is publicly available: {UNKNOWN}"] if parts else []


def _files(found: Provenance) -> list[str]:
    parts = [*_supplied(found)]
    return [*parts, f"How each of these was obtained, and under which terms: {UNKNOWN}"] if parts else []


def _hub(found: Provenance) -> Iterator[str]:
    if found.hub:
        rows = [
            (name, f"{HUB}/{name}", f"`{revision}`", *_kept(share)) for (name, revision), share in found.hub.items()
        ]
        yield "Datasets of the Hugging Face hub:"
        yield table(("Dataset", "Address", "Revision", "Documents", "Licenses"), rows)
        yield from _named(found.named_by_hub)


def _clones(found: Provenance) -> Iterator[str]:
    if found.clones:
        rows: Rows = [
            (
                clone.repo,
                clone.address or NOT_RECORDED,
                f"`{clone.commit}`",
                day(clone.date) if clone.date else NOT_RECORDED,
                *_kept(share),
            )
            for clone, share in found.clones.items()
        ]
        head = ("Repository", "Address", "Commit", "Day of the commit (UTC)", "Documents", "Licenses")
        yield f"{counted(len(rows), 'repository', 'repositories')} of source code:"
        yield table(head, _cut(rows, found.clones, len(head)))


def _packages(found: Provenance) -> Iterator[str]:
    if found.packages:
        documents = sum(share.documents for share in found.packages.values())
        library = ", the standard library among them" if STANDARD_LIBRARY in found.packages else ""
        yield (
            f"{counted(len(found.packages), 'package')} of Python software{library}, as installed on the provider's "
            f"machine ({counted(documents, 'document')}). The metadata of each package states its license; some "
            f"files state their own: {counted_licenses(dict(_together(found.packages).licenses.most_common()))}."
        )


def _supplied(found: Provenance) -> Iterator[str]:
    if found.files:
        rows: Rows = [(f"`{item.name}`", f"`{item.digest}`", *_kept(share)) for item, share in found.files.items()]
        yield "Files and folders, by the path under which they were supplied:"
        yield table(("Path", "Digest", "Documents", "Licenses"), rows)
        yield from _named(found.named_by_files)
    if found.unknown:
        rows = [(NOT_RECORDED if name == "none" else f"`{name}`", *_kept(s)) for name, s in found.unknown.items()]
        yield "Documents whose source is not among the inputs of the dataset, by the source that they name:"
        yield table(("Source", "Documents", "Licenses"), _cut(rows, found.unknown, 3))


def _unused(found: Provenance) -> Iterator[str]:
    if found.unused:
        names = ", ".join(f"`{item.name}`" for item in found.unused)
        yield f"Read, but without any document that was kept: {names}."


def _named(named: Mapping[str, Share]) -> Iterator[str]:
    if named:
        rows: Rows = [(repo, *_kept(share)) for repo, share in named.items()]
        yield f"Their rows name {counted(len(named), 'repository', 'repositories')} from which the documents come:"
        yield table(("Repository", "Documents", "Licenses"), _cut(rows, named, 3))


def _cut(rows: Rows, shares: Mapping[Any, Share], width: int) -> Rows:
    """Keep the first rows, and summarize the others in a last one."""
    if len(rows) <= MOST_ROWS:
        return rows
    rest = dict(list(shares.items())[MOST_ROWS:])
    return [*rows[:MOST_ROWS], (counted(len(rest), "other"), *[""] * (width - 3), *_kept(_together(rest)))]


def _together(shares: Mapping[Any, Share]) -> Share:
    together = Share()
    for share in shares.values():
        for expression, count in share.licenses.items():
            together.add(expression, count)
    return together


def _kept(share: Share) -> tuple[str, str]:
    return f"{share.documents:,}", counted_licenses(dict(share.licenses.most_common()))


def _rights(dataset: Artifact, origins: Sequence[Artifact]) -> Iterator[str]:
    dropped = total(totals(origins)["dropped"], "license.")
    licenses = [(name, count) for name, count in dataset.counts["license"].items() if name != "none"]
    rows: Rows = [(license_name(name), f"{count:,}") for name, count in licenses[:MOST_ROWS]]
    if rest := [count for _, count in licenses[MOST_ROWS:]]:
        rows.append((counted(len(rest), "other"), f"{sum(rest):,}"))
    yield (
        "Licenses were not judged."
        if skips(origins, "licenses")
        else "The license of each document was read from its own header, from license files and from the metadata of "
        f"its source, and judged. Dropped for their license, or because it could not be determined: "
        f"{counted(dropped, 'document')}."
    )
    yield f"Kept without a stated license: {counted(dataset.counts['license_unstated'], 'document')}."
    if rows:
        yield "Licenses of the other documents that were kept:"
        yield table(("License", "Documents"), rows)
    yield removals(origins)


def _illegal_content(origins: Sequence[Artifact]) -> str:
    sums = totals(origins)
    hate = any(o.config["filters"]["profanity"] or o.config["filters"]["scorer"] for o in _with(origins, "filters"))
    private = any(any(origin.config["scrub"].values()) for origin in _with(origins, "scrub"))
    dropped = counted(total(sums["dropped"], "filter.profanity"), "document")
    places = counted(sum(sums["scrubbed"].values()), "place")
    return " ".join(
        [
            f"Dropped as hate speech or profanity: {dropped}."
            if hate
            else "Hate speech and profanity were not looked for.",
            f"Secrets and personal data that were replaced by placeholders: {places}."
            if private
            else "Secrets and personal data were not looked for.",
        ]
    )


def _other_information(dataset: Artifact, origins: Sequence[Artifact]) -> Iterator[str]:
    sums = totals(origins)
    dropped = sums["dropped"]
    why = {
        "for their license": total(dropped, "license."),
        "as duplicates": total(dropped, "duplicate."),
        "by the filters of quality, language and tone": total(dropped, "filter."),
        "because they are empty or binary": total(dropped, "empty", "binary"),
        "because they are tests that contain secrets": total(dropped, "secret."),
        "because they contain evaluation problems": total(dropped, "contaminated"),
        "on request": total(dropped, "removal."),
    }
    yield (
        f"Of {counted(sums['read'], 'document')} that were found, {sums['kept']:,} were kept, "
        f"{sums['quarantined']:,} could not be read, and {sum(dropped.values()):,} were dropped: "
        + (", ".join(f"{count:,} {reason}" for reason, count in why.items() if count) or "none")
        + "."
    )
    if not any(origin.config["contamination"]["benchmarks"] for origin in _with(origins, "contamination")):
        yield "Evaluation problems were not looked for."
    yield from steps_in_words(origins)
    blended = dataset not in origins
    if blended:
        shares = enumerated([f"{percent(share, digits=0)} {name}" for name, share in dataset.counts["shares"].items()])
        yield f"The documents of {counted(len(origins), 'dataset')} were then blended: {shares}."
    whose = "each of these datasets" if blended else "the dataset"
    yield f"All settings, and the digest of every source, are in the file `{artifacts.MANIFEST}` of {whose}."


def _with(origins: Sequence[Artifact], step: str) -> list[Artifact]:
    return [origin for origin in origins if not skips([origin], step)]


def _size_class(num_bytes: int) -> str:
    """Return the size class of the template, assuming 4 bytes per token."""
    tokens = num_bytes / 4
    if tokens < 1e9:
        return "less than 1 billion tokens"
    return "1 billion to 10 trillion tokens" if tokens <= 1e13 else "more than 10 trillion tokens"
