"""The report's section about evaluations: each figure with its interval, and what it was measured on."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibidem import artifacts, jsonl
from ibidem.attribution.places import longest_by_documents, variety
from ibidem.config import flattened
from ibidem.errors import ConfigError, DataError
from ibidem.figures import MARGIN, between, percent
from ibidem.page import Html, Row, join, loss, table, tag
from ibidem.records import DASHBOARD_FILE, ITEMS_FILE, RESULTS_FILE
from ibidem.serving.report_corpus import intact
from ibidem.statistics import lower_bound, upper_bound

EXACT = "95 %: exact bounds (Clopper and Pearson), each with 95 % confidence; below them, the items behind the figure."
MEASURED_ASIDE = ("contamination", "calibration")
EXAMPLES = "examples"
MOST = 3
NO_SHARES = ("alpha.", "unrated.")
_PERPLEXITY = {"perplexity", "bits_per_byte", "documents", "tokens", "bytes"}
_DASHBOARD = _PERPLEXITY | {"checkpoint", "checkpoint_digest", "data", "aspect", "value"}

Record = dict[str, Any]


def read_result(path: Path) -> Record:
    """Read a result that `ibidem evaluate` wrote: of perplexity, of a benchmark, or a dashboard (its `rows`).

    Raises:
        ConfigError: it does not exist.
        ArtifactError: it is inside an artifact that is not an evaluation.
        DataError: it is something else, or was edited.
    """
    names = (RESULTS_FILE, DASHBOARD_FILE)
    file = next((path / name for name in names if (path / name).exists()), path / RESULTS_FILE)
    file = file if path.is_dir() else path
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"evaluation {file}: {error.strerror}; give the JSON file or the folder that ibidem evaluate wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"evaluation {file}: not JSON: {error}") from None
    if isinstance(result, list) and result and all(map(_is_dashboard, result)):
        return {"task": "dashboard", "rows": result}
    if not isinstance(result, dict) or not _is_result(result):
        raise DataError(
            f"evaluation {file}: not a result of ibidem evaluate; give the JSON of perplexity, {RESULTS_FILE} or "
            f"{DASHBOARD_FILE}"
        )
    if not (file.parent / artifacts.MANIFEST).exists():
        return result
    artifact = artifacts.load(file.parent, kind="evaluation")
    if not intact(artifact, file.name):
        raise DataError(f"evaluation {file}: it differs from the manifest beside it; evaluate again")
    return result | {EXAMPLES: _examples(intact(artifact, ITEMS_FILE))}


def _examples(items: Path | None) -> list[jsonl.Row]:
    """Return some programs that passed and some that failed, or the completions that repeat most; otherwise none."""
    rows = jsonl.read(items, "items") if items else []
    repeating = sorted((row for row in rows if row.get("spans")), key=lambda row: -variety(row["spans"]))
    passed, failed = ([row for row in rows if row.get("passed") is whether][:MOST] for whether in (True, False))
    return [*passed, *failed, *repeating[:MOST]]


def _is_dashboard(row: object) -> bool:
    return isinstance(row, dict) and row.keys() >= _DASHBOARD and type(row["documents"]) is int


def _is_result(result: Record) -> bool:
    if not isinstance(result.get("task"), str) or "checkpoint_digest" not in result:
        return False
    return result.keys() >= _PERPLEXITY if result["task"] == "perplexity" else type(result.get("items")) is int


def evaluation(results: Sequence[Record], names: Mapping[str, str]) -> Html:
    """Show the figures of every result, and which checkpoint they are of.

    Args:
        results: what was measured.
        names: the checkpoint by digest, then those that it was trained from.
    """
    if not results:
        return tag("p", None, " No result of ibidem evaluate was given.")
    return join(*(_dashboard(each, names) if "rows" in each else _result(each, names) for each in results))


def losses_by_language(results: Sequence[Record], names: Mapping[str, str]) -> Html:
    """Show the bits per byte of each language that a dashboard measured with the newest of these checkpoints."""
    every = [row for each in results for row in each.get("rows", ())]
    rows = [row for row in _of_newest(every, names) if row["aspect"] == "language"]
    is_held_out = all(row.get("held_out_share") not in {None, 1} for row in rows)
    where = "on documents held out of training" if is_held_out else "on documents that the training may have read"
    heading = tag("h3", "Loss by language", f", {where}" if rows else "")
    if not rows:
        how = (" ", tag("code", "ibidem evaluate dashboard"), " measures it; give its folder to ")
        return join(heading, tag("p", None, *how, tag("code", "--evaluation"), "."))
    by_size = sorted(rows, key=lambda row: (-row["documents"], row["value"]))
    return join(heading, _losses("Language", by_size))


def _of_newest(rows: Sequence[Record], names: Mapping[str, str]) -> list[Record]:
    """Return the rows of the first of these checkpoints that has any."""
    measured = {row["checkpoint_digest"] for row in rows}
    newest = next((digest for digest in names if digest in measured), None)
    return [row for row in rows if row["checkpoint_digest"] == newest]


def _result(result: Record, names: Mapping[str, str]) -> Html:
    if result["task"] == "perplexity":
        metrics = {*_PERPLEXITY, "nll", "bits_per_byte_error"}
        figures = _losses("Of", [{"value": "all", **result}])
    else:
        metrics = set(metrics_of(result))
        rows = [_figure(result, name) for name in metrics_of(result)]
        if "contamination" in result:
            searched = result["contamination"]
            overlap = searched.get("problems") if isinstance(searched, dict) else None
            rows.append(("problems that occur in the training data", overlap, ""))
        figures = join(table(("Figure", "Result", "95 %"), rows, right=(1, 2)), tag("p", EXACT, cls="note"))
    others = {*metrics, "task", "trials", EXAMPLES}
    notes = flattened({key: value for key, value in result.items() if key not in others})
    shown = [(key, _setting(key, value)) for key, value in notes.items()]
    how = tag("details", tag("summary", "How it was measured", cls="note"), table(("Setting", "Value"), shown))
    examples = result.get(EXAMPLES, [])
    shown_aside = join(_programs(examples), _repeating(examples), how)
    return join(tag("h3", result["task"]), _is_of(result["checkpoint_digest"], names), figures, shown_aside)


def metrics_of(result: Record) -> list[str]:
    """Return the names of the figures of a benchmark's result, which precede the number of items."""
    return [name for name in list(result)[: list(result).index("items")] if name not in {"checkpoint_digest", "task"}]


def _programs(rows: Sequence[jsonl.Row]) -> Html:
    """Show some completions with what the judge said of them."""
    programs = [row for row in rows if "passed" in row]
    if not programs:
        return join()
    shown = []
    for row in programs:
        verdict = tag("span", "passed", cls="good") if row["passed"] else tag("span", row["kind"], cls="bad")
        said = join(verdict, tag("div", tag("code", row["detail"]))) if row["detail"] else verdict
        code = (
            tag("pre", row["completion"]) if row["completion"].strip() else tag("p", "Nothing but blanks.", cls="note")
        )
        shown.append((row["task_id"], said, code))
    title = f"Programs, at most {MOST} that passed and {MOST} that failed"
    return tag("details", tag("summary", title, cls="note"), table(("Problem", "Verdict", "Completion"), shown))


def _repeating(rows: Sequence[jsonl.Row]) -> Html:
    """Show the completions that repeat most, with the documents of their longest spans."""
    completions = [row for row in rows if "spans" in row]
    if not completions:
        return join()
    shown: list[Row] = []
    for row in completions:
        spans = [
            tag("div", f"{span['end'] - span['start']} tokens: {places}")
            for places, span in longest_by_documents(row["spans"]).items()
        ][:MOST]
        shown.append((f"{row['id']}, temperature {row['temperature']:g}", join(*spans), tag("pre", row["completion"])))
    title = f"The {len(completions)} completions that repeat most words of training documents"
    return tag("details", tag("summary", title, cls="note"), table(("Prompt", "Documents", "Completion"), shown))


def _setting(key: str, value: object) -> Html:
    if value is None and key in MEASURED_ASIDE:
        return join(None)
    return tag("code", "none" if value is None or value == [] else value)


def _figure(result: Record, name: str) -> Row:
    """Return a figure, its exact bounds, and what it was counted over."""
    value, trials, chance = result[name], _trials(result).get(name), result.get("chance")
    if not isinstance(value, int | float) or name.startswith(NO_SHARES):
        return name, value, ""
    shown = percent(value, digits=1)
    if isinstance(chance, float):
        shown = join(shown, tag("div", f"guessing: {percent(chance, digits=0)}", cls="soft"))
    bounds = bounds_of(result, name)
    if bounds is None or trials is None:
        return name, shown, None
    passed = value * trials
    of = f"{round(passed):,} of {trials:,}" if abs(passed - round(passed)) < 1e-6 else f"mean of {trials:,}"
    return name, shown, join(between(bounds), tag("div", of, cls="soft"))


def bounds_of(result: Record, name: str) -> tuple[float, float] | None:
    """Return the exact bounds of a figure, each with 95 % confidence; None if it is no share of a known number."""
    value, trials = result[name], _trials(result).get(name)
    if not isinstance(value, int | float) or name.startswith(NO_SHARES):
        return None
    if not isinstance(trials, int) or trials < 1 or not 0 <= value <= 1:
        return None
    passed = value * trials
    return lower_bound(math.floor(passed + 1e-6), trials), upper_bound(math.ceil(passed - 1e-6), trials)


def _trials(result: Record) -> Mapping[str, Any]:
    """Return how many trials each figure is the mean of; where that was not recorded, of the figures over all items."""
    recorded = result.get("trials")
    if isinstance(recorded, dict):
        return recorded
    return {"pass@1": result.get("problems"), "accuracy": result["items"]}


def _dashboard(result: Record, names: Mapping[str, str]) -> Html:
    last = result["rows"][-1]["checkpoint_digest"]
    rows = _of_newest(result["rows"], {**names, last: ""})
    wider = [row for row in rows if row["aspect"] != "language"]
    parts = [row if row["aspect"] == "all" else row | {"value": f"{row['aspect']} {row['value']}"} for row in wider]
    return join(
        tag("h3", "dashboard"),
        _is_of(rows[0]["checkpoint_digest"], names),
        _losses("Of", parts),
        tag("p", "By language: in the section on the corpus.", cls="note"),
    )


def _losses(of: str, rows: Sequence[Record]) -> Html:
    """Show the loss on parts of a text, with the margin over the documents."""
    several = len({row.get("data") for row in rows}) > 1
    texts = [tag("div", Path(row["data"]).name, cls="soft") if several else "" for row in rows]
    shown = [
        (join(row["value"], text), loss(row), row["documents"], row["perplexity"])
        for row, text in zip(rows, texts, strict=True)
    ]
    heads = (of, "Bits per byte", "Documents", "Perplexity")
    return join(table(heads, shown, right=range(1, 4)), tag("p", MARGIN, cls="note"))


def _is_of(measured: object, names: Mapping[str, str]) -> Html:
    if measured is None:
        return tag("p", "Measured on this checkpoint: ", None)
    if measured == next(iter(names)):
        return tag("p", "Measured on this checkpoint: yes.")
    if measured in names:
        return tag("p", f"Measured on this checkpoint: no, on {names[str(measured)]}, from which it was trained.")
    return tag("p", "Measured on this checkpoint: ", tag("span", "no, on another", cls="bad"), ".")
