"""`ibidem report`: one self-contained HTML page about a run, for a reader who decides whether to trust the model.

The page fetches and executes nothing: it has no external link and no script, and its own content security policy
forbids both. Every value goes through `show`, which escapes it; None is shown as NOT MEASURED.
"""

import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ibidem import artifacts
from ibidem.artifacts import Artifact, Input
from ibidem.data import shards
from ibidem.data.blend import is_blend, num_documents
from ibidem.errors import ConfigError
from ibidem.figures import counted, duration
from ibidem.files import write_file
from ibidem.page import (
    Html,
    Row,
    bars,
    document,
    is_page,
    join,
    share,
    spread,
    table,
    tag,
)
from ibidem.serving.config import ReportConfig
from ibidem.serving.report_corpus import corpora, intact
from ibidem.serving.report_documents import documents, read_answer
from ibidem.serving.report_evaluation import evaluation, losses_by_language, read_result
from ibidem.serving.report_grounding import grounding, read_kinds
from ibidem.serving.report_training import key_figure, training
from ibidem.serving.run_history import History, Run, open_run

MOST_SAMPLES = 6  # of a prompt
MOST_PIECES = 36
MOST_BLANKS = 20  # at the end of a completion
READABLE = str.maketrans({"\U0010fffc": "⏎", "\u2581": "·", "\U0010fffd": "\u2581"})  # as the tokenizer writes them


def report(config: ReportConfig) -> str:
    """Write the page; return a line with its path.

    Raises:
        ArtifactError: the run's folder has no events or no intact checkpoint.
        ConfigError: the output cannot be written there, or a result of an evaluation does not exist.
        DataError: a result is not one that `ibidem evaluate` wrote.
    """
    _check_output(config.output)
    results = [read_result(path) for path in config.evaluation]
    answers = [read_answer(path) for path in config.answers]
    kinds = read_kinds(config.head) if config.head else []
    run = open_run(config.run)
    stages = [*run.stages_before, run]
    names = {each.checkpoint.digest: f"{each.checkpoint.path.name} of {each.name}" for each in reversed(stages)}
    sections = {
        "Corpus": join(corpora(_datasets(stages)), losses_by_language(results, names)),
        "Tokenizer": tokenizer(run.find("tokenizer")),
        "Training": in_stages([(each, training(each)) for each in stages]),
        "Samples": in_stages([(each, samples(each.history)) for each in stages]),
        "Evaluation": evaluation(results, names),
        **({"Documents": documents(answers)} if answers else {}),
        **({"Grounding": grounding(kinds)} if kinds else {}),
        "Lineage": lineage(run),
        "Time": bars(run.stages, duration),
    }
    body = [tag("section", tag("h2", name), content, id=name.lower()) for name, content in sections.items()]
    write_file(config.output, document(config.title, heading(config.title, run, list(sections)), *body))
    return f"{config.output}: the report of {run.checkpoint.path}"


def _datasets(stages: Sequence[Run]) -> list[Artifact]:
    """Return the datasets of a chain of runs, each once: those of the first run come first."""
    found = {dataset.digest: dataset for each in stages for dataset in each.find_all(shards.KIND)}
    return list(found.values())


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"output {path}: this is a folder; name a file, such as {path / 'report.html'}")
    if sealed := next((folder for folder in path.parents if (folder / artifacts.MANIFEST).exists()), None):
        raise ConfigError(
            f"output {path}: {sealed} is an artifact, which another file would damage; choose another path"
        )
    if path.exists() and not is_page(path):
        raise ConfigError(f"output {path}: exists and is not a report; choose another path")


# The sections


def heading(title: str, run: Run, sections: Sequence[str]) -> Html:
    """Name the checkpoint and show the key figures."""
    stages = [*run.stages_before, run]
    datasets, tuned_on = stages[0].find_all(shards.KIND), run.tuned_on
    counts = datasets[0].counts if datasets else {}
    sources = [dataset.counts for dataset in datasets if not is_blend(dataset)]
    read = sum(each["read"] for each in sources) if all("read" in each for each in sources) else None
    blended = bool(datasets) and is_blend(datasets[0])
    reading = [each for each in stages if not each.history.curve("train.step", "objective/scores")]  # others sample
    tokens = [curve[-1] for each in reading if (curve := each.history.curve("train.step", "tokens"))]
    created = run.checkpoint.volatile.get("created")
    saved = f", saved {datetime.fromtimestamp(created, UTC):%Y-%m-%d %H:%M} UTC" if created else ""
    figures: list[Row] = [
        (
            "Documents kept",
            num_documents(datasets[0]) if datasets else None,
            join("of ", read, " read"),
        ),
        *([("Rows of the blend", counts.get("kept"), "repeats included, as in all that follows")] if blended else []),
        ("Bytes of text kept", counts.get("bytes"), join(counts.get("chars"), " characters")),
        *([_tuned_on(tuned_on)] if tuned_on else []),
        ("Parameters", run.history.parameters, ""),
        *(_key_figure(each, is_only=len(stages) == 1) for each in stages),
        (
            "Tokens trained",
            int(sum(count for _, count in tokens)) if tokens else None,
            f"{sum(step for step, _ in tokens):,} steps" if tokens else "",
        ),
        ("Total time", duration(sum(run.stages.values())), "by stage below"),
    ]
    shown = [tag("div", tag("dt", name), tag("dd", value, tag("small", note))) for name, value, note in figures]
    where = tag("p", f"Checkpoint {run.checkpoint.path.name}{saved} ", tag("code", run.checkpoint.digest), cls="soft")
    links = tag("nav", *(tag("a", name, href=f"#{name.lower()}") for name in sections))
    return tag("header", tag("h1", title), where, tag("dl", *shown, cls="figures"), links)


def _key_figure(run: Run, *, is_only: bool) -> Row:
    name, value, remark = key_figure(run)
    return name if is_only else f"{name}, {run.name}", value, remark


def _tuned_on(data: Artifact) -> Row:
    if data.kind == shards.KIND:
        return "Tuned on", num_documents(data), "conversations, pairs or prompts"
    return "Tuned on", data.counts.get("kept"), data.kind


def in_stages(shown: Sequence[tuple[Run, Html]]) -> Html:
    """Show a section of several runs one after the other, each under its name."""
    if len(shown) == 1:
        return shown[0][1]
    return join(*(join(tag("h3", "Run ", tag("code", run.name)), content) for run, content in shown))


def tokenizer(artifact: Artifact | None) -> Html:
    """Show the size and quality of the tokenizer."""
    if artifact is None:
        return tag("p", None, " The tokenizer is not where the checkpoint says, or was changed since.")
    counts = artifact.counts
    if "markers_added" in counts:
        return _imported_tokenizer(counts)
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
    vocabulary = intact(artifact, "tokenizer.vocab")
    pieces = _longest_pieces(vocabulary.read_bytes().decode(errors="replace")) if vocabulary else [None]
    return join(
        table(("Figure", "Value"), rows, right=(1,)),
        tag("h3", "Longest learned pieces"),
        tag("p", *(join(tag("code", piece), " ") for piece in pieces), cls="pieces"),
        tag("p", "⏎ is a newline, · a blank. Runs of one or two characters are left out.", cls="note"),
    )


def _imported_tokenizer(counts: Mapping[str, int]) -> Html:
    rows = [
        ("Ids", counts["vocab_size"]),
        ("Markers added to those it had", counts["markers_added"]),
        ("Trial texts", counts["texts"]),
        ("of these, not decoded byte for byte", counts["texts_changed"]),
    ]
    return join(tag("p", "The tokenizer was imported."), table(("Figure", "Value"), rows, right=(1,)))


def _longest_pieces(vocabulary: str) -> list[str]:
    lines = (line.rpartition("\t") for line in vocabulary.split("\n"))
    learned = [piece for piece, _, score in lines if score.startswith("-") and len(set(piece)) > 2]
    return [piece.translate(READABLE) for piece in sorted(learned, key=len, reverse=True)[:MOST_PIECES]]


def samples(history: History) -> Html:
    """Show how the completion of each prompt changes over training."""
    if not history.prompts:
        why = "no prompt was set (validation.prompts)" if history.no_samples is None else history.no_samples
        return tag("p", None, f" No prompt was completed: {why}.")
    return join(*(_completions(prompt, history.completions(prompt)) for prompt in history.prompts))


def _completions(prompt: str, completions: Mapping[int, str]) -> Html:
    """Show some completions of a prompt; one of several lines is shown once, above them."""
    steps = spread(list(completions), MOST_SAMPLES)
    left_out = f", {len(steps)} of {len(completions)} completions" if len(steps) < len(completions) else ""
    is_long = "\n" in prompt.strip()
    before = "" if is_long else tag("b", prompt)
    texts = {step: tag("pre", before, _legible(completions[step])) for step in steps}
    rows = [tag("div", tag("span", "step ", step), text, cls="completion") for step, text in texts.items()]
    name = "" if is_long else tag("code", repr(prompt))
    above = [tag("div", tag("span"), tag("pre", tag("b", prompt.strip())), cls="completion")] if is_long else []
    return tag("div", tag("h3", "Prompt ", name, left_out), *above, *rows)


def _legible(completion: str) -> Html:
    """Name what would look like nothing: an empty completion, and many blanks at the end."""
    text = completion.rstrip()
    blanks = len(completion) - len(text)
    if text and blanks <= MOST_BLANKS:
        return join(completion)
    return join(
        text,
        tag(
            "i",
            f" {counted(blanks, 'blank or newline', 'blanks and newlines')}" if blanks else " the end of the document",
        ),
    )


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
        table(("What, and its state", "Where, and its digest", "Files", "Bytes"), rows, right=(2, 3)),
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
    shown = tag("div", state, cls="bad" if state in {"missing", "changed"} else "soft")
    what = tag("div", name, shown, style=f"padding-left:{depth * 0.9:.1f}em")
    where = node.name if isinstance(node, Input) else os.path.relpath(node.path.resolve(), folder.resolve())
    place = tag("div", where, tag("div", _short(node.digest), cls="soft"), cls="wrap")
    if isinstance(node, Input):
        return what, place, "", ""
    return what, place, len(node.files), sum(file.bytes for file in node.files.values())


def _short(value: object) -> object:
    """Return text as code, with digests shortened; other values unchanged."""
    if not isinstance(value, str):
        return value
    return tag("code", value[7:19] if value.startswith("sha256:") else value, title=value)
