"""How much of what a model writes stands in its training data, word for word: `ibidem evaluate verbatim`.

    completion       def merge(a, b): ... return out ...      120 tokens
    spans            [------ 74 tokens ------]                tools/merge.py, MIT
    verbatim.0       0.617 for this completion at temperature 0; the figure is the mean over the prompts
    unlicensed.0     1 if a span is of a document whose license is not permitted, or unknown

Common spans, such as the text of a license, are counted apart and are in neither figure. Each completion is looked up
alone, without its prompt: what the prompt itself repeats does not count.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.attribution.index import KIND, TOKENS
from ibidem.attribution.lookup import Attribution, Repetition
from ibidem.attribution.places import longest_by_documents
from ibidem.config import build, settings
from ibidem.errors import DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.chat import read_prompts
from ibidem.evaluation.config import VerbatimConfig
from ibidem.evaluation.resume import RowLog
from ibidem.evaluation.task import Demand, Settings, Task, Trials, defaults
from ibidem.evaluation.tracking import track
from ibidem.figures import between, counted, percent, terminal_text
from ibidem.inference.model_id import ModelId, identify
from ibidem.jsonl import Row
from ibidem.lineage import walk
from ibidem.statistics import mean_bounds
from ibidem.trackers import check

NAME = "verbatim"
SHARE, UNLICENSED = "verbatim", "unlicensed"
OF_TRAINING = "index_of_training"
SHOWN_CHARACTERS = 400


def verbatim(config: VerbatimConfig) -> str:
    """Let the model complete the prompts, look each completion up, and return the shares as a line.

    Raises:
        AccessDenied: the index is of private documents, and the user is not among their readers.
        ArtifactError: the index, or what it was made from, is missing or damaged.
        ConfigError: the tokens have changed since they were indexed, or a tracker is not installed.
        DataError: a row is not a prompt of one turn.
    """
    check(config.trackers)
    asked = rows(config.prompts)
    prompts, limited = asked[: config.limit], evidence.part(config.limit, len(asked))
    index, model_id = artifacts.load(config.index, kind=KIND), identify(config.checkpoint)
    inputs = [
        evidence.benchmark_input(asked, config.prompts.name),
        model_id.as_input(of=config.output_dir),
        index.as_input("index", of=config.output_dir),
    ]
    chosen = {key: value for key, value in settings(config).items() if key not in {"batch", "index"}}
    chosen |= {"limit": limited.get("limit")}
    if not evidence.finished(config.output_dir, NAME, config=chosen, inputs=inputs):
        with artifacts.workspace(config.output_dir, config=chosen, inputs=inputs) as work:
            work.chmod(0o700)  # the completions may repeat private documents
            items = _look_up(config, _complete(config, model_id, prompts, work / "completions.jsonl"))
        _write(config, chosen, inputs, items, {OF_TRAINING: _is_of_training(model_id, index), **limited})
    evaluation = evidence.read(config.output_dir)
    track(evaluation, config.trackers)
    return f"{NAME}: {', '.join(_said(evaluation.items))}; {config.output_dir}"


def rows(path: Path) -> list[Row]:
    """Read prompts of one turn as JSON rows, sorted by id.

    Raises:
        DataError: a row is not a prompt, or has several turns.
    """
    prompts = sorted(read_prompts(path), key=lambda prompt: prompt.id)
    if several := next((each.id for each in prompts if len(each.turns) != 1), None):
        raise DataError(f"prompts {path}: the prompt {several!r} has several turns; a text to complete has one")
    return [{"id": each.id, "prompt": each.turns[0]} for each in prompts]


def measure(items: Sequence[Row]) -> evidence.Metrics:
    """Return the shares for each temperature."""
    temperatures = sorted({item["temperature"] for item in items})
    names = [f"{share}.{temperature:g}" for share in (SHARE, UNLICENSED) for temperature in temperatures]
    return {name: evidence.mean(list((_trials(items, name) or {}).values())) for name in names}


def described(item: Row) -> str:
    """Return a completion, and the documents of its spans: of each set of documents the longest span alone."""
    lines = [
        f"{counted(span['end'] - span['start'], 'token')} in {counted(span['num_documents'], 'document')}"
        f"{', common' if span['is_common'] else ''}: {places}"
        for places, span in longest_by_documents(item["spans"]).items()
    ]
    few, many = (percent(item[kind] / max(1, item["tokens"]), 0) for kind in ("verbatim", "common"))
    head = f"{few} of the tokens stand in few training documents, {many} in many; temperature {item['temperature']:g}:"
    return "\n".join([head, terminal_text(item["completion"].strip("\n")), *(f"  {line}" for line in lines)])


def _complete(config: VerbatimConfig, model_id: ModelId, prompts: Sequence[Row], path: Path) -> list[Row]:
    """Complete each prompt at each temperature; completions already in `path` are reused."""
    from ibidem.inference.models import open_model, report_truncated
    from ibidem.modeling.generate import Sampling

    done = RowLog(path)
    wanted = [(temperature, row) for temperature in config.temperatures for row in prompts]
    if len(done.rows) == len(wanted):
        return done.rows
    model = open_model(model_id.path, model_id.digest)
    report_truncated(model, [row["prompt"] for row in prompts], config.max_tokens)
    with log.progress("complete", len(wanted), "completions", start=len(done.rows)) as bar:
        while (start := len(done.rows)) < len(wanted):
            temperature = wanted[start][0]
            batch = [row for each, row in wanted[start : start + config.batch] if each == temperature]
            sampling = Sampling(config.max_tokens, temperature, config.top_p, config.seed, first=start)
            texts = model.complete([row["prompt"] for row in batch], sampling, ())
            done.extend(
                {"id": row["id"], "temperature": temperature, "completion": text}
                for row, text in zip(batch, texts, strict=True)
            )
            bar.advance(len(batch))
    return done.rows


def _look_up(config: VerbatimConfig, completions: Sequence[Row]) -> list[Row]:
    index = Attribution(config.index, least_tokens=config.least_tokens, common_documents=config.common_documents)
    return [_item(index, row, config.permitted) for row in completions]


def _item(index: Attribution, row: Row, permitted: Sequence[str]) -> Row:
    text = row["completion"]
    ids = index.tokenizer.encode(text)
    places_T2 = index.tokenizer.spans(text, ids)
    spans = [
        _span(each, text[int(places_T2[each.start, 0]) : int(places_T2[each.end - 1, 1])], permitted)
        for each in index.of_ids(ids)
    ]
    return {**row, "tokens": len(ids), "spans": spans, **_counts(spans)}


def _span(repetition: Repetition, text: str, permitted: Sequence[str]) -> dict[str, Any]:
    """Return a span as a row; it is permitted if all documents that are named have a permitted license."""
    sources = [{"sha256": each.sha256, "is_removed": each.is_removed, **each.facts} for each in repetition.sources]
    return {
        "start": repetition.start,
        "end": repetition.end,
        "num_tokens": repetition.num_tokens,
        "num_documents": repetition.num_documents,
        "is_common": repetition.is_common,
        "is_permitted": _is_permitted(sources, permitted),
        "text": text[:SHOWN_CHARACTERS],
        "sources": sources,
    }


def _is_permitted(sources: Sequence[Mapping[str, Any]], permitted: Sequence[str]) -> bool:
    return all(source["license"] in permitted for source in sources)


def _own(spans: Sequence[Row]) -> list[Row]:
    return [span for span in spans if not span["is_common"]]


def _counts(spans: Sequence[Row]) -> dict[str, Any]:
    """Count the tokens in spans, each once; those in a common span apart."""
    own = {place for span in _own(spans) for place in range(span["start"], span["end"])}
    common = {place for span in spans if span["is_common"] for place in range(span["start"], span["end"])}
    return {
        "verbatim": len(own),
        "common": len(common - own),
        "unlicensed": not all(span["is_permitted"] for span in _own(spans)),
    }


def _write(
    config: VerbatimConfig,
    chosen: Mapping[str, Any],
    inputs: Sequence[Input],
    items: Sequence[Row],
    notes: Mapping[str, Any],
) -> None:
    tokens = max(1, sum(item["tokens"] for item in items))
    common = sum(item["common"] for item in items) / tokens
    evidence.write(
        config.output_dir,
        NAME,
        config=chosen,
        inputs=inputs,
        items=items,
        metrics=measure(items),
        notes={**notes, "common": common},
        trials=_trials,
    )


def _is_of_training(model_id: ModelId, index: Artifact) -> bool:
    """Return whether the index is of tokens that the checkpoint, or one before it, was trained on."""
    if not model_id.is_checkpoint:
        return False
    digest = index.digest_of(TOKENS)
    return any(isinstance(node, Artifact) and node.digest == digest for _, _, node in walk(model_id.path))


def _said(items: Sequence[Row]) -> list[str]:
    said = []
    for metric in measure(items):
        scores = list((_trials(items, metric) or {}).values())
        said.append(f"{metric} {percent(evidence.mean(scores))} ({between(mean_bounds(scores))} with 95 % confidence)")
    return said


def _trials(items: Sequence[Row], metric: str) -> Trials | None:
    """Return the score of each prompt at a temperature."""
    share, _, temperature = metric.partition(".")
    chosen = [item for item in items if f"{item['temperature']:g}" == temperature]
    if not chosen or share not in {SHARE, UNLICENSED}:
        return None
    if share == UNLICENSED:
        return {item["id"]: float(item["unlicensed"]) for item in chosen}
    return {item["id"]: item["verbatim"] / item["tokens"] if item["tokens"] else 0.0 for item in chosen}


def _follows(item: Row, config: Settings) -> bool:
    """Return whether the counts of an item follow from its spans, and these from the settings."""
    return all(item[name] == count for name, count in _counts(item["spans"]).items()) and all(
        0 <= span["start"] < span["end"] <= item["tokens"]
        and span["num_tokens"] == span["end"] - span["start"] >= config["least_tokens"]
        and span["is_common"] is (span["num_documents"] > config["common_documents"])
        and span["is_permitted"] is _is_permitted(span["sources"], config["permitted"])
        for span in item["spans"]
    )


def _differs(evaluation: evidence.Evidence, asked: Sequence[Row], due: Settings) -> str | None:
    wanted = {(row["id"], temperature) for row in asked for temperature in due["temperatures"]}
    found = {(item["id"], item["temperature"]) for item in evaluation.items}
    if wanted == found:
        return None
    key, temperature = min(wanted ^ found)
    return f"the prompt {key} at temperature {temperature:g} is missing, or not in the benchmark"


def _doubt(evaluation: evidence.Evidence, _demand: Demand) -> str | None:
    if evaluation.results.get(OF_TRAINING) is not True:
        return "its index is not of the tokens that the checkpoint was trained on"
    return None


TASK = Task(
    name=NAME,
    key=("id", "temperature"),
    measure=lambda evaluation: measure(evaluation.items),
    trials=_trials,
    benchmark=lambda file: rows(Path(file)),
    asks=lambda row: row["prompt"],
    settings=defaults(
        VerbatimConfig,
        *("temperatures", "max_tokens", "top_p", "seed", "least_tokens", "common_documents", "permitted"),
    ),
    places=defaults(VerbatimConfig, "index"),
    evaluate=lambda tree: verbatim(build(VerbatimConfig, tree)),
    place="prompts",
    follows=_follows,
    differs=_differs,
    doubt=_doubt,
)
