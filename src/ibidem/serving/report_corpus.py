"""The report's section about the corpus: what was kept, what was dropped, and the evidence for both."""

import ast
import inspect
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ibidem.artifacts import Artifact
from ibidem.data import shards
from ibidem.data.blend import is_blend, size_of
from ibidem.figures import percent
from ibidem.files import sha256_of
from ibidem.page import Html, Row, bars, join, share, table, tag, top
from ibidem.records import DropReason

MOST_EXAMPLES = 3  # of a reason
MOST_LOSSES = 1000  # of all repositories
UNNAMED = {
    "license": "none stated",
    "language": "not recognized",
    "natural_language": "none: it is code, or prose too short to tell",
}
"""What the count `none` of an aspect means."""


def corpora(datasets: Sequence[Artifact]) -> Html:
    """Show each dataset behind the checkpoint: first what it was trained on, then what that was made from."""
    if not datasets:
        return tag("p", None, " The dataset is not where the checkpoint says, or was changed since, as by a takedown.")
    return join(*(blend(dataset) if is_blend(dataset) else corpus(dataset) for dataset in datasets))


def intact(artifact: Artifact, name: str) -> Path | None:
    """Return the path of an artifact's file if it still has the manifest's digest."""
    path = artifact.path / name
    is_whole = name in artifact.files and path.is_file() and sha256_of(path) == artifact.files[name].sha256
    return path if is_whole else None


def blend(dataset: Artifact) -> Html:
    """Show what was blended, and in which shares."""
    counts = dataset.counts
    rows = [
        (name, category, lane.get("documents"), lane.get("of"), lane.get("size"))
        for name, lanes in counts.get("datasets", {}).items()
        for category, lane in lanes.items()
    ]
    shares = {name: percent(part, digits=1) for name, part in counts.get("shares", {}).items()}
    return join(
        tag("h3", "Blend"),
        tag("p", size_of(dataset), "."),
        tag("p", ", ".join(f"{name} {part}" for name, part in shares.items()), f"; {counts.get('ended')}."),
        table(("Dataset", "Category", "Rows", "Of, with repeats", f"Size, {counts['unit']}"), rows, right=(2, 3, 4)),
        licenses_by_repository(dataset),
    )


def corpus(dataset: Artifact) -> Html:
    """Show what was kept, what was dropped and why."""
    counts = dataset.counts
    outside = {f"quarantined: unreadable, each listed in {shards.QUARANTINE}": counts.get("quarantined")}
    outside |= {f"skipped files: {why}": n for why, n in counts.get("skipped_files", {}).items()}
    duplicates, scrubbed, lengths = counts.get("clusters", {}), counts.get("scrubbed"), counts.get("lengths")
    dropped = sum(counts.get("dropped", {}).values())
    total = (counts.get("kept"), " kept + ", dropped, " dropped + ", counts.get("quarantined"))
    return join(
        tag("h3", f"What was read into {dataset.path.name}"),
        tag("p", *total, " quarantined = ", counts.get("read"), " documents read."),
        tag("p", "Kept without any stated license: ", counts.get("license_unstated"), "."),
        _kept_by(counts, "license"),
        licenses_by_repository(dataset),
        tag(
            "div",
            _kept_by(counts, "language"),
            tag("div", *(_kept_by(counts, aspect) for aspect in ("category", "source", "natural_language"))),
            cls="columns",
        ),
        tag("h3", "Kept by length, in characters up to"),
        bars(lengths and {f"{int(bound):,}": count for bound, count in lengths.items()}),
        tag("h3", "Clusters of duplicates"),
        table(
            ("Clusters", "Documents in them, kept or dropped", "Largest"),
            [(duplicates.get("clusters"), duplicates.get("documents"), duplicates.get("largest"))],
            right=(0, 1, 2),
        ),
        tag("h3", "Secrets and personal data replaced by placeholders"),
        table(("Kind", "Count"), None if scrubbed is None else list(scrubbed.items()), right=(1,)),
        *_drops(dataset),
        tag("h3", "Never became documents"),
        table(("What", "Count"), list(outside.items()), right=(1,)),
    )


def _kept_by(counts: Mapping[str, Any], aspect: str) -> Html:
    values: Mapping[str, int] | None = counts.get(aspect)
    unnamed = UNNAMED.get(aspect, "none")
    named = None if values is None else {unnamed if name == "none" else name: n for name, n in values.items()}
    return tag("div", tag("h3", f"Kept by {aspect.replace('_', ' ')}"), bars(named and top(named)))


def licenses_by_repository(dataset: Artifact) -> Html:
    """Count the kept documents of each repository by license, from two columns of the shards."""
    names = shards.shard_names(dataset)
    groups: Counter[tuple[str, str]] = Counter()
    try:
        for name in names:
            rows = pa.Table.from_batches(shards.read_batches(dataset.path / name, ["repo", "license"]))
            for row in rows.group_by(["repo", "license"]).aggregate([([], "count_all")]).to_pylist():
                groups[row["repo"] or "not stated", row["license"] or UNNAMED["license"]] += row["count_all"]
    except (OSError, KeyError, pa.ArrowException):
        groups.clear()
    title = "Licenses by repository"
    if not names or groups.total() != dataset.counts.get("kept"):
        return join(tag("h3", title), tag("p", None, " The shards are missing, or differ from the manifest."))
    repositories = len({repository for repository, _ in groups})
    by_size = sorted(groups.items(), key=lambda item: (-item[1], item[0]))
    shown = table(("Repository", "License", "Documents"), [(*key, n) for key, n in by_size], right=(2,))
    return tag("details", tag("summary", f"{title} ({repositories:,})", cls="note"), shown)


def _drops(dataset: Artifact) -> list[Html]:
    """Show how many documents each reason dropped, examples of each, and every drop for a license."""
    dropped, meaning = dataset.counts.get("dropped"), explanations()
    rows = [
        (
            join(reason, tag("div", meaning.get(reason, ""), cls="soft")),
            number,
            share(number, dataset.counts.get("read")),
        )
        for reason, number in (dropped or {}).items()
    ]
    counted = table(("Reason", "Documents", "Of read"), None if dropped is None else rows, right=(1, 2))
    paths = [intact(dataset, name) for name in shards.names_of(dataset, shards.DROPPED)]
    whole = [path for path in paths if path is not None]
    if len(whole) < len(paths):
        evidence = [tag("p", None, f" One of {shards.DROPPED} is missing, or differs from the manifest.")]
    else:
        evidence = [_examples(whole, dropped or {}), *_losses(whole), *_license_drops(whole)]
    return [tag("h3", "Dropped, and why"), counted, *evidence]


def explanations() -> dict[str, str]:
    """Read the meaning of each drop reason from its docstring in the enum."""
    (enum,) = ast.parse(inspect.getsource(DropReason)).body
    assert isinstance(enum, ast.ClassDef)
    return {
        str(DropReason[ast.unparse(member.targets[0])]): " ".join(ast.literal_eval(text.value).split())
        for member, text in zip(enum.body, enum.body[1:], strict=False)
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr)
    }


def _rows(paths: Sequence[Path], *columns: str) -> Iterator[dict[str, Any]]:
    return (row for path in paths for row in shards.read_rows(path, columns))


def _examples(paths: Sequence[Path], dropped: Mapping[str, int]) -> Html:
    """Show the first documents that each reason dropped; those removed on request are not named again."""
    examples: dict[str, list[Html]] = defaultdict(list)
    for row in _rows(paths, "reason", "repo", "path", "record", "detail", "kept", "similarity"):
        mine = examples[row["reason"]]
        if len(mine) < MOST_EXAMPLES and not row["reason"].startswith("removal."):
            mine.append(tag("div", tag("code", row["record"]), _evidence(row)))
    rows = [(reason, tag("div", *examples[reason], cls="wrap")) for reason in dropped if examples[reason]]
    title = f"The first documents that each reason dropped, at most {MOST_EXAMPLES}"
    return join(tag("h3", title), table(("Reason", "Documents, and the evidence"), rows))


def _losses(paths: Sequence[Path]) -> list[Html]:
    """List what each repository lost, file by file; those removed on request are not named again."""
    columns = ("reason", "repo", "source", "path", "record", "detail", "kept", "similarity")
    rows = [row for row in _rows(paths, *columns) if not row["reason"].startswith("removal.")]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows[:MOST_LOSSES]:
        why = join(tag("div", row["reason"]), _evidence(row))
        groups[row["repo"] or row["source"]].append((tag("code", row["path"] or row["record"]), why))
    shown = [
        tag(
            "details",
            tag("summary", f"{repository} ({len(lost):,})", cls="note"),
            table(("File", "Reason, and the evidence"), lost),
        )
        for repository, lost in groups.items()
    ]
    more = f", the first {MOST_LOSSES:,} of {len(rows):,} files" if len(rows) > MOST_LOSSES else ""
    return [tag("h3", f"What each repository lost{more}"), *shown]


def _evidence(row: Mapping[str, Any]) -> Html:
    same_as = "" if row["kept"] is None else join("kept instead: ", tag("code", row["kept"]))
    similarity = "" if row["similarity"] is None else f"similarity {row['similarity']:.3f}"
    said = [part for part in (row["detail"] or "", same_as, similarity) if part]
    parts = (join(", " if number else "", part) for number, part in enumerate(said))
    return tag("div", *parts, cls="soft") if said else join()


def _license_drops(paths: Sequence[Path]) -> list[Html]:
    """Show the evidence: metadata by package, headers file by file."""
    groups: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    headers: list[Row] = []

    def shown(where: str, detail: str) -> Html:
        return tag("div", tag("code", where), tag("div", detail, cls="soft"), cls="wrap")

    for row in _rows(paths, "reason", "repo", "source", "path", "record", "detail"):
        package, where, detail = row["repo"] or row["source"], row["path"] or row["record"], row["detail"] or ""
        if row["reason"] == DropReason.LICENSE_HEADER:
            headers.append((package, shown(where, detail)))
        elif row["reason"].startswith("license."):
            groups[package, row["reason"], detail] += 1
            examples.setdefault((package, row["reason"], detail), where)
    by_package = [(key[0], join(key[1], shown(examples[key], key[2])), count) for key, count in groups.most_common()]
    return [
        tag("h3", "License drops by metadata, grouped by package"),
        table(("Package", "Reason, first file, evidence", "Files"), by_package, right=(2,)),
        tag("h3", "License drops by a header in the file itself, whatever the metadata says"),
        table(("Package", "File, and the words in it"), headers),
    ]
