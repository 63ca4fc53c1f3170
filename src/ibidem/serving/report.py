"""`ibidem report`: one self-contained HTML page about a run, for a reader who decides whether to trust the model.

The page fetches and executes nothing: it has no external link and no script, and its own content security policy
forbids both. Every value goes through `show`, which escapes it; None is shown as NOT MEASURED.
"""

import ast
import inspect
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ibidem import artifacts
from ibidem.artifacts import Artifact, Input
from ibidem.config import flattened
from ibidem.data import shards
from ibidem.data.blend import is_blend, num_documents, size_of
from ibidem.errors import ConfigError, DataError
from ibidem.figures import duration, percent
from ibidem.files import sha256_of, write_file
from ibidem.page import (
    Html,
    Point,
    Row,
    bars,
    document,
    is_page,
    join,
    line_chart,
    share,
    spread,
    table,
    tag,
    top,
)
from ibidem.records import RESULTS_FILE, DropReason
from ibidem.serving.config import ReportConfig
from ibidem.serving.run_history import History, Record, Run, open_run

MOST_SAMPLES = 6  # of a prompt
MOST_PIECES = 36
READABLE = str.maketrans({"\U0010fffc": "⏎", "\u2581": "·", "\U0010fffd": "\u2581"})  # as the tokenizer writes them


def report(config: ReportConfig) -> str:
    """Write the page; return a line with its path.

    Raises:
        ArtifactError: the run's folder has no events or no intact checkpoint.
        ConfigError: the output cannot be written there, or a result of an evaluation does not exist.
        DataError: a result of an evaluation is not a JSON object.
    """
    _check_output(config.output)
    results = [_read_result(path) for path in config.evaluation]
    run = open_run(config.run)
    sections = {
        "Corpus": corpora(run.find_all(shards.KIND)),
        "Tokenizer": tokenizer(run.find("tokenizer")),
        "Training": training(run),
        "Samples": samples(run.history),
        "Evaluation": evaluation(results, run.checkpoint.digest),
        "Lineage": lineage(run),
        "Time": bars(run.stages, duration),
    }
    body = [tag("section", tag("h2", name), content, id=name.lower()) for name, content in sections.items()]
    write_file(config.output, document(config.title, heading(config.title, run, list(sections)), *body))
    return f"{config.output}: the report of {run.checkpoint.path}"


def _read_result(path: Path) -> Record:
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"evaluation {path}: {error.strerror}; give the JSON file or the folder that ibidem evaluate wrote"
        ) from None
    except ValueError as error:
        raise DataError(f"evaluation {path}: not JSON: {error}") from None
    if not isinstance(result, dict):
        raise DataError(f"evaluation {path}: not a JSON object")
    return flattened(result)


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"output {path}: this is a folder; name a file, such as {path / 'report.html'}")
    if sealed := next((folder for folder in path.parents if (folder / artifacts.MANIFEST).exists()), None):
        raise ConfigError(
            f"output {path}: {sealed} is an artifact, which another file would damage; choose another path"
        )
    if path.exists() and not is_page(path):
        raise ConfigError(f"output {path}: exists and is not a report; choose another path")


def _intact(artifact: Artifact, name: str) -> Path | None:
    """Return the path of an artifact's file if it still has the manifest's digest."""
    path = artifact.path / name
    is_whole = name in artifact.files and path.is_file() and sha256_of(path) == artifact.files[name].sha256
    return path if is_whole else None


# The sections


def heading(title: str, run: Run, sections: Sequence[str]) -> Html:
    """Name the checkpoint and show the key figures."""
    datasets, history = run.find_all(shards.KIND), run.history
    counts = datasets[0].counts if datasets else {}
    read = sum(dataset.counts.get("read", 0) for dataset in datasets if not is_blend(dataset))
    blended = bool(datasets) and is_blend(datasets[0])
    tokens = history.curve("train.step", "tokens")
    created = run.checkpoint.volatile.get("created")
    saved = f", saved {datetime.fromtimestamp(created, UTC):%Y-%m-%d %H:%M} UTC" if created else ""
    figures: list[Row] = [
        ("Documents kept", num_documents(datasets[0]) if datasets else None, join("of ", read, " read")),
        *([("Rows of the blend", counts.get("kept"), "repeats included, as in all that follows")] if blended else []),
        ("Bytes of text kept", counts.get("bytes"), join(counts.get("chars"), " characters")),
        ("Parameters", history.parameters, ""),
        ("Held-out bits per byte", *_first_to_last(history.curve("train.measured", "bits_per_byte"))),
        ("Tokens trained", int(tokens[-1][1]) if tokens else None, f"{tokens[-1][0]:,} steps" if tokens else ""),
        ("Total time", duration(sum(run.stages.values())), "by stage below"),
    ]
    shown = [tag("div", tag("dt", name), tag("dd", value, tag("small", note))) for name, value, note in figures]
    where = tag("p", f"Checkpoint {run.checkpoint.path.name}{saved} ", tag("code", run.checkpoint.digest), cls="soft")
    links = tag("nav", *(tag("a", name, href=f"#{name.lower()}") for name in sections))
    return tag("header", tag("h1", title), where, tag("dl", *shown, cls="figures"), links)


def _first_to_last(points: Sequence[Point]) -> tuple[str | None, str]:
    if not points:
        return None, ""
    (_, first), (step, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{last:.3f}", f"measured once, at step {step:,}"
    return f"{first:.3f} → {last:.3f}", f"{share(last, first)} of the first"


def corpora(datasets: Sequence[Artifact]) -> Html:
    """Show each dataset behind the checkpoint: first what it was trained on, then what that was made from."""
    if not datasets:
        return tag("p", None, " The dataset is not where the checkpoint says.")
    return join(*(blend(dataset) if is_blend(dataset) else corpus(dataset) for dataset in datasets))


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
    )


def corpus(dataset: Artifact) -> Html:
    """Show what was kept, what was dropped and why."""
    counts = dataset.counts
    dropped, meaning = counts.get("dropped", {}), explanations()
    named = {reason: join(reason, tag("div", meaning.get(reason, ""), cls="soft")) for reason in dropped}
    rows = [(named[reason], number, share(number, counts.get("read"))) for reason, number in dropped.items()]
    outside = {"quarantined: unreadable, each listed in quarantine.jsonl": counts.get("quarantined")}
    outside |= {f"skipped files: {why}": n for why, n in counts.get("skipped_files", {}).items()}
    kept = {
        aspect: tag("div", tag("h3", f"Kept by {aspect}"), bars(top(counts.get(aspect, {}))))
        for aspect in ("license", "language", "natural_language", "category", "source")
    }
    duplicates = counts.get("clusters", {})
    name = dataset.path.name
    total = (counts.get("kept"), " kept + ", sum(dropped.values()), " dropped + ", counts.get("quarantined"))
    return join(
        tag("h3", f"What was read into {name}"),
        tag("p", *total, " quarantined = ", counts.get("read"), " documents read."),
        tag("p", "Kept without any stated license: ", counts.get("license_unstated"), "."),
        kept["license"],
        tag(
            "div",
            kept["language"],
            tag("div", kept["category"], kept["source"], kept["natural_language"]),
            cls="columns",
        ),
        tag("h3", "Kept by length, in characters up to"),
        bars({f"{int(bound):,}": count for bound, count in counts.get("lengths", {}).items()}),
        tag("h3", "Clusters of duplicates"),
        table(
            ("Clusters", "Documents in them, kept or dropped", "Largest"),
            [(duplicates.get("clusters"), duplicates.get("documents"), duplicates.get("largest"))],
            right=(0, 1, 2),
        ),
        tag("h3", "Secrets and personal data replaced by placeholders"),
        table(("Kind", "Count"), list(counts.get("scrubbed", {}).items()), right=(1,)),
        tag("h3", "Dropped, and why"),
        table(("Reason", "Documents", "Of read"), rows, right=(1, 2)),
        *_license_drops(_intact(dataset, shards.DROPPED)),
        tag("h3", "Never became documents"),
        table(("What", "Count"), list(outside.items()), right=(1,)),
    )


def explanations() -> dict[str, str]:
    """Read the meaning of each drop reason from its docstring in the enum."""
    (enum,) = ast.parse(inspect.getsource(DropReason)).body
    assert isinstance(enum, ast.ClassDef)
    return {
        str(DropReason[ast.unparse(member.targets[0])]): " ".join(ast.literal_eval(text.value).split())
        for member, text in zip(enum.body, enum.body[1:], strict=False)
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr)
    }


def _license_drops(dropped: Path | None) -> list[Html]:
    """Show the evidence: metadata by package, headers file by file."""
    if dropped is None:
        why = f" {shards.DROPPED} is missing, or differs from the manifest."
        return [tag("h3", "License drops by package"), tag("p", None, why)]
    groups: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    headers: list[Row] = []
    for row in shards.read_rows(dropped, ["reason", "repo", "source", "path", "record", "detail"]):
        package, where, detail = row["repo"] or row["source"], row["path"] or row["record"], row["detail"] or ""
        if row["reason"] == DropReason.LICENSE_HEADER:
            headers.append((package, tag("code", where), detail))
        elif row["reason"].startswith("license."):
            groups[package, row["reason"], detail] += 1
            examples.setdefault((package, row["reason"], detail), where)
    by_package = [(*key, count, tag("code", examples[key])) for key, count in groups.most_common()]
    return [
        tag("h3", "License drops by metadata, grouped by package"),
        table(("Package", "Reason", "Evidence", "Files", "Example"), by_package, right=(3,)),
        tag("h3", "License drops by a header in the file itself, whatever the metadata says"),
        table(("Package", "File", "Words in the file"), headers),
    ]


def tokenizer(artifact: Artifact | None) -> Html:
    """Show the size and quality of the tokenizer."""
    if artifact is None:
        return tag("p", None, " The tokenizer is not where the checkpoint says.")
    counts = artifact.counts
    rows = [
        ("Ids", counts.get("vocab_size")),
        ("Learned pieces", counts.get("learned")),
        ("Reserved ids, without a learned piece", counts.get("reserved")),
        ("Bytes of text it was trained on", counts.get("trained_bytes")),
        ("Bytes per token, on held-out documents", counts.get("bytes_per_token")),
        ("Byte pieces among the tokens", share(counts.get("byte_pieces_share"), 1, digits=3)),
        ("Held-out documents", counts.get("held_out")),
        ("of these, decoded byte for byte", counts.get("round_trips")),
    ]
    vocabulary = _intact(artifact, "tokenizer.vocab")
    pieces = _longest_pieces(vocabulary.read_bytes().decode(errors="replace")) if vocabulary else [None]
    return join(
        table(("Figure", "Value"), rows, right=(1,)),
        tag("h3", "Longest learned pieces"),
        tag("p", *(join(tag("code", piece), " ") for piece in pieces), cls="pieces"),
        tag("p", "⏎ is a newline, · a blank. Runs of one or two characters are left out.", cls="note"),
    )


def _longest_pieces(vocabulary: str) -> list[str]:
    lines = (line.rpartition("\t") for line in vocabulary.split("\n"))
    learned = [piece for piece, _, score in lines if score.startswith("-") and len(set(piece)) > 2]
    return [piece.translate(READABLE) for piece in sorted(learned, key=len, reverse=True)[:MOST_PIECES]]


def training(run: Run) -> Html:
    """Show the curves, the problems of the run, and the settings."""
    history = run.history
    notes = [join("Sessions of training, resumes included: ", history.sessions, ".")]
    notes += [join("Refused at step ", row.get("step"), ": ", row.get("reason"), ".") for row in history.refused]
    notes += [join("Torn lines of events.jsonl, left out: ", run.torn, ".")] if run.torn else []
    held_out = history.curve("train.measured", "bits_per_byte")
    small = [("Learning rate", "", "lr"), ("Gradient norm", "before clipping", "grad_norm")]
    small += [("Speed", "tokens per second", "tokens_per_s")]
    settings = [(key, "none" if value is None else value) for key, value in flattened(run.checkpoint.config).items()]
    return join(
        line_chart("Loss", "nats per token, on the training text", history.curve("train.step", "loss"), wide=True),
        line_chart("Held-out bits per byte", "never trained on; lower is better", held_out, wide=True, marked=True),
        tag("div", *(line_chart(t, unit, history.curve("train.step", key)) for t, unit, key in small), cls="thirds"),
        *(tag("p", note, cls="note") for note in notes),
        tag("details", tag("summary", "All settings", cls="note"), table(("Setting", "Value"), settings)),
    )


def samples(history: History) -> Html:
    """Show how the completion of each prompt changes over training."""
    if not history.prompts:
        return tag("p", None, " No prompt was set (validation.prompts).")
    blocks = []
    for prompt in history.prompts:
        completions = history.completions(prompt)
        steps = spread(list(completions), MOST_SAMPLES)
        left_out = f", {len(steps)} of {len(completions)} completions" if len(steps) < len(completions) else ""
        texts = {step: tag("pre", tag("b", prompt), completions[step]) for step in steps}
        rows = [tag("div", tag("span", "step ", step), text, cls="completion") for step, text in texts.items()]
        blocks.append(tag("div", tag("h3", "Prompt ", tag("code", repr(prompt)), left_out), *rows))
    return join(*blocks)


def evaluation(results: Sequence[Record], digest: str) -> Html:
    """Show every figure of every result, one column per result."""
    if not results:
        return tag("p", None, " No result of ibidem evaluate was given.")
    keys = dict.fromkeys(key for result in results for key in result if key != "task")
    heads = [result.get("task", f"result {number}") for number, result in enumerate(results, 1)]
    verdicts = {None: None, digest: "yes"}
    other = tag("span", "no, on another", cls="bad")
    mine = [verdicts.get(result.get("checkpoint_digest"), other) for result in results]
    rows: list[Row] = [("measured on this checkpoint", *mine)]
    rows += [(key, *(_short(result.get(key)) for result in results)) for key in keys]
    return table(("Figure", *heads), rows, right=range(1, len(results) + 1))


def lineage(run: Run) -> Html:
    """Show the tree from the checkpoint back to the sources, each artifact's own inputs once."""
    rows: list[Row] = []
    seen: set[str] = set()
    folded: float = math.inf
    for depth, state, node in run.lineage:
        if depth > folded:
            continue
        is_repeated = isinstance(node, Artifact) and node.digest in seen
        folded = depth if is_repeated else math.inf
        seen.add(node.digest)
        rows.append(_node(run.folder, depth, f"{state}, see above" if is_repeated else state, node))
    return join(
        table(("What", "State", "Where", "Digest", "Files", "Bytes"), rows, right=(4, 5)),
        tag(
            "p",
            "The state compares digests of manifests; ",
            tag("code", "ibidem verify"),
            " hashes every file.",
            cls="note",
        ),
        tag("p", "Paths are relative to the run's folder.", cls="note"),
    )


def _node(folder: Path, depth: int, state: str, node: Input | Artifact) -> Row:
    name = node.role if isinstance(node, Input) else node.kind
    what = tag("span", f"└ {name}" if depth else name, cls="keep", style=f"padding-left:{max(depth - 1, 0) * 1.1}em")
    shown = tag("span", state, cls="keep bad" if state in {"missing", "changed"} else "keep")
    if isinstance(node, Input):
        return what, shown, node.name, _short(node.digest), "", ""
    where = os.path.relpath(node.path.resolve(), folder.resolve())
    total = sum(file.bytes for file in node.files.values())
    return what, shown, where, _short(node.digest), len(node.files), total


def _short(value: object) -> object:
    """Return text as code, with digests shortened; other values unchanged."""
    if not isinstance(value, str):
        return value
    return tag("code", value[7:19] if value.startswith("sha256:") else value, title=value)
