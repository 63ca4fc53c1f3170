"""How often a model refuses, on safe and on unsafe prompts: `ibidem evaluate refusals`.

    refused.safe        should be low: a refusal of a harmless prompt is exaggerated safety
    refused.unsafe      should be high
    refused.<label>     likewise for every other label of the prompts

What counts as a refusal is defined in `data.text.refusal`, by how a response begins.
Source: Röttger et al. 2024, XSTest, arXiv:2308.01263.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ibidem.config import build, settings
from ibidem.data.text.refusal import is_refusal
from ibidem.errors import DataError
from ibidem.evaluation import chat, evidence
from ibidem.evaluation.chat import Prompt, read_prompts
from ibidem.evaluation.config import RefusalsConfig
from ibidem.evaluation.task import Settings, Task, Trials, defaults
from ibidem.evaluation.tracking import track
from ibidem.figures import between, percent
from ibidem.inference import models
from ibidem.inference.chat import PROMPT_FORMAT
from ibidem.inference.model_id import identify
from ibidem.jsonl import Row
from ibidem.statistics import mean_bounds
from ibidem.trackers import check

NAME = "refusals"
METRIC = "refused"
_LABEL = re.compile(r"[\w-]+")


def refusals(config: RefusalsConfig) -> str:
    """Let the model respond, and return the rate of refusals by label as a line.

    Raises:
        ConfigError: a tracker is not installed.
        DataError: a row is not a prompt with a label.
    """
    check(config.trackers)
    asked = rows(config.prompts)
    prompts, limited = read_prompts(config.prompts)[: config.limit], evidence.part(config.limit, len(asked))
    model_id = identify(config.checkpoint)
    inputs = [evidence.benchmark_input(asked, config.prompts.name), model_id.as_input(of=config.output_dir)]
    chosen = {key: value for key, value in settings(config).items() if key != "batch"}
    chosen |= {"limit": limited.get("limit"), "prompt_format": PROMPT_FORMAT}
    if not evidence.finished(config.output_dir, NAME, config=chosen, inputs=inputs):
        model = models.open_model(model_id.path, model_id.digest)
        items = [_item(row) for row in chat.respond(model, prompts, config)]
        evidence.write(
            config.output_dir,
            NAME,
            config=chosen,
            inputs=inputs,
            items=items,
            metrics=measure(items),
            notes=limited,
            trials=_trials,
        )
    evaluation = evidence.read(config.output_dir)
    track(evaluation, config.trackers)
    return f"{NAME}: {', '.join(_said(evaluation.items))}; {config.output_dir}"


def rows(path: Path) -> list[Row]:
    """Read prompts with their labels as JSON rows, sorted by id.

    Raises:
        DataError: a row is not a prompt, or has no label.
    """
    return [
        {"id": each.id, "turns": list(each.turns), "label": _label(each, path)}
        for each in sorted(read_prompts(path), key=lambda prompt: prompt.id)
    ]


def measure(items: Sequence[Row]) -> evidence.Metrics:
    """Return the share of refusals for each label."""
    labels = sorted({item["label"] for item in items})
    return {
        f"{METRIC}.{label}": evidence.mean([float(item["refused"]) for item in items if item["label"] == label])
        for label in labels
    }


def _label(prompt: Prompt, path: Path) -> str:
    label = prompt.more.get("label")
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise DataError(f"prompts {path}: the prompt {prompt.id!r} needs a label, one word such as safe or unsafe")
    return label


def _item(row: Row) -> dict[str, Any]:
    """Judge the last response."""
    response = row["responses"][-1]
    return {"id": row["id"], "label": row["label"], "response": response, "refused": is_refusal(response)}


def _said(items: Sequence[Row]) -> list[str]:
    said = []
    for metric in measure(items):
        scores = list((_trials(items, metric) or {}).values())
        bounds = between(mean_bounds(scores))
        said.append(f"{metric} {percent(evidence.mean(scores))} of {len(scores):,} ({bounds} with 95 % confidence)")
    return said


def _trials(items: Sequence[Row], metric: str) -> Trials | None:
    measured, _, label = metric.partition(".")
    found = {item["id"]: float(item["refused"]) for item in items if item["label"] == label}
    return found if measured == METRIC and found else None


def _differs(evaluation: evidence.Evidence, asked: Sequence[Row], _settings: Settings) -> str | None:
    if evaluation.artifact.config.get("prompt_format") != PROMPT_FORMAT:
        return "its prompts were given in another format than this version's"
    due = {row["id"]: row["label"] for row in asked}
    found = {item["id"]: item["label"] for item in evaluation.items}
    key = next((key for key in sorted(due.keys() | found.keys()) if due.get(key) != found.get(key)), None)
    return None if key is None else f"the prompt {key} is missing, or has another label in the benchmark"


TASK = Task(
    name=NAME,
    key=("id",),
    measure=lambda evaluation: measure(evaluation.items),
    trials=_trials,
    benchmark=lambda file: rows(Path(file)),
    asks=lambda row: row["turns"],
    settings=defaults(RefusalsConfig, "max_tokens", "temperature", "top_p", "seed"),
    evaluate=lambda tree: refusals(build(RefusalsConfig, tree)),
    place="prompts",
    follows=lambda item, _config: item["refused"] is is_refusal(item["response"]),
    differs=_differs,
)
