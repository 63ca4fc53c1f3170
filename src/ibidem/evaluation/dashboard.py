"""Perplexity of many checkpoints on many texts, by language and category, as a page: `ibidem evaluate dashboard`.

Figures already in `dashboard.json`, for the same weights and the same text, are not measured again: run it after every
checkpoint, and the curves grow.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.config import settings
from ibidem.data import shards
from ibidem.data.corpus import Corpus, Text
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation.config import DashboardConfig
from ibidem.evaluation.perplexity import Score, figures, score, trained_without
from ibidem.evaluation.tracking import name_of, send
from ibidem.figures import MARGIN, counted
from ibidem.files import write_file
from ibidem.inference import models
from ibidem.inference.model_id import ModelId, identify
from ibidem.page import Html, document, join, line_chart, loss, table, tag
from ibidem.records import DASHBOARD_FILE
from ibidem.runs import folder_of, step_of, steps_of
from ibidem.trackers import check

WHOLE = "all"
SAME_DOCUMENTS = " All checkpoints read the same documents: two of them differ more surely than their margins suggest."
COLUMNS = {"key", "checkpoint", "data", "step", "aspect", "value", "documents", "bytes", "bits_per_byte", "perplexity"}

Row = dict[str, Any]


def dashboard(config: DashboardConfig) -> str:
    """Measure what is missing, write dashboard.json and dashboard.html.

    Raises:
        ConfigError: no checkpoint is named, one is not a model, the output folder has a page of other origin, or a
            tracker is not installed.
        DataError: there is no text to measure.
    """
    check(config.trackers)
    model_ids = [identify(path) for path in _checkpoints(config)]
    path, page = config.output_dir / DASHBOARD_FILE, config.output_dir / "dashboard.html"
    artifacts.check_outside(path)
    if page.exists() and not path.exists():
        raise ConfigError(f"{page} exists without a {DASHBOARD_FILE}; choose another output_dir")
    rows, keys = _read(path), dict[str, ModelId]()
    for model_id in model_ids:
        for data in config.data:
            corpus = Corpus.open(data, config.column)
            share = config.held_out_share or trained_without(model_id.path, data)
            keys[key := _key(config, model_id, corpus, share)] = model_id
            if not any(row["key"] == key for row in rows):
                measured = _measure(config, model_id, corpus, share, key)
                if not measured:
                    raise DataError(f"data {data}: there is no text to measure")
                rows += measured
                write_file(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    write_file(page, document("Perplexity", *sections(rows)))
    _track(config, rows, keys)
    checkpoints = counted(len({row["checkpoint_digest"] for row in rows}), "checkpoint")
    return f"{page}: {checkpoints}, {counted(len(rows), 'figure')}"


def sections(rows: Sequence[Row]) -> Iterator[Html]:
    """Yield the body of the page: a section for each text, with curves over the steps and a table."""
    yield tag("h1", "Perplexity over time")
    yield tag("p", "Bits per byte: lower is better, and comparable across tokenizers.", cls="soft")
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        curves: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in sorted(mine, key=lambda row: row["step"] if row["step"] is not None else math.inf):
            curves[row["aspect"], row["value"]].append(row)
        whole = _curve(WHOLE, WHOLE, curves.pop((WHOLE, WHOLE), []))
        parts = tag("div", *(_curve(*name, points) for name, points in curves.items()), cls="thirds")
        yield tag("section", tag("h2", data), whole, parts, _table(mine))


def _curve(aspect: str, value: str, rows: Sequence[Row]) -> Html:
    points = [
        (float(row["step"]), row["bits_per_byte"])
        for row in rows
        if row["step"] is not None and row["bits_per_byte"] is not None
    ]
    if len(points) < 2:
        return join()
    name = "all documents" if aspect == WHOLE else f"{aspect} {value}"
    documents = counted(max(row["documents"] for row in rows), "document")
    unit = f"bits per byte, {documents}" if aspect == WHOLE else documents
    return line_chart(name, unit, points, marked=True, wide=aspect == WHOLE)


def _table(rows: Sequence[Row]) -> Html:
    heads = ("Checkpoint, and part of the text", "Bits per byte", "Documents", "Perplexity")
    shown = []
    for row in rows:
        part = row["value"] if row["aspect"] == WHOLE else f"{row['aspect']} {row['value']}"
        of = join(row["checkpoint"], tag("div", part, cls="soft"))
        documents = join(row["documents"], tag("div", row["bytes"], " bytes", cls="soft"))
        shown.append((of, loss(row), documents, row["perplexity"]))
    return join(table(heads, shown, right=range(1, 4)), tag("p", MARGIN, SAME_DOCUMENTS, cls="note"))


def _measure(config: DashboardConfig, model_id: ModelId, corpus: Corpus, share: float | None, key: str) -> list[Row]:
    model = models.open_model(model_id.path)
    window = config.window or model.context
    if window > model.context:
        raise ConfigError(f"window {window} is more than the context of {model_id.path}, {model.context}")
    groups: dict[tuple[str, str], list[Score]] = {}
    with log.progress("dashboard", config.max_documents, "documents") as bar:
        for text in islice(_texts(corpus, share), config.max_documents):
            text_score = score(model, text.text[: config.max_chars], window=window, stride=max(1, window // 2))
            for aspect, value in ((WHOLE, WHOLE), ("category", text.category), ("language", text.language)):
                groups.setdefault((aspect, value or "unknown"), []).append(text_score)
            bar.advance()
    about: Row = {
        "key": key,
        "checkpoint": model_id.path.name,
        "checkpoint_digest": model_id.digest,
        "data": str(corpus.path),
        "held_out_share": share,
    }
    about |= {"step": step_of(model_id.path)}
    rows = []
    for (aspect, value), scores in groups.items():
        if any(each.tokens for each in scores):
            measured = figures(scores, has_start=bool(model.start_ids))
            rows.append({**about, "aspect": aspect, "value": value, **measured})
    return rows


def _track(config: DashboardConfig, rows: Sequence[Row], keys: Mapping[str, ModelId]) -> None:
    """Send the figures of this command's checkpoints to the trackers: one curve over the steps for each run."""
    curves: dict[str, dict[int | None, Row]] = defaultdict(dict)
    for row in rows if config.trackers else ():
        if model_id := keys.get(row["key"]):
            name, step = name_of(model_id)
            part = f"{row['data'].strip('/')}/{row['aspect']}/{row['value']}"
            figures = {f"{metric}/{part}": row[metric] for metric in ("bits_per_byte", "perplexity")}
            curves[name].setdefault(step, {}).update(figures)
    for name, points in curves.items():
        ordered = sorted(points.items(), key=lambda point: math.inf if point[0] is None else point[0])
        digests = sorted({each.digest for each in keys.values() if name_of(each)[0] == name})
        about = {"checkpoint_digests": digests, **settings(config)}
        send(config.trackers, config.output_dir, name, "dashboard", about, ordered)


def _texts(corpus: Corpus, share: float | None) -> Iterator[Text]:
    held_out = share if corpus.is_dataset else None
    return (text for text in corpus.texts() if held_out is None or shards.is_held_out(text.sha256, held_out))


def _checkpoints(config: DashboardConfig) -> list[Path]:
    of_run = [folder_of(config.run, step) for step in sorted(steps_of(config.run))] if config.run else []
    if not (checkpoints := [*config.checkpoint, *of_run]):
        raise ConfigError("name a --checkpoint, or a --run that has checkpoints")
    return checkpoints


def _key(config: DashboardConfig, model_id: ModelId, corpus: Corpus, share: float | None) -> str:
    text = corpus.as_input("data", of=config.output_dir).digest
    how = [config.column, config.window, config.max_documents, config.max_chars, share]
    return json.dumps([model_id.digest, text, *how])


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        known = [row for row in rows if set(row) >= COLUMNS] if isinstance(rows, list) else None
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known is None:
        raise ConfigError(f"{path}: not a dashboard; move it away")
    return known
