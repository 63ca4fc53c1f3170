"""How much of what a model writes stands in its training documents, word for word: `ibidem evaluate verbatim`.

    verbatim.0      share of the tokens at temperature 0 that are in a span of a training document, by response
    common.0        share of those in spans that many documents have, such as the text of a license; not among the above
    removed.0       share of the responses with a span of a document that was removed from the dataset since
    verbatim.0.8    likewise at temperature 0.8

Source of the measure: Carlini et al. 2023, "Quantifying memorization across neural language models", arXiv:2202.07646.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ibidem import artifacts, log
from ibidem.attribution.index import KIND as INDEX_KIND
from ibidem.attribution.lookup import Attribution, Repetition
from ibidem.attribution.places import longest_by_documents, place_of
from ibidem.config import build, settings
from ibidem.conversation import Turn
from ibidem.errors import DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.chat import read_prompts
from ibidem.evaluation.config import VerbatimConfig
from ibidem.evaluation.task import Settings, Task, Trials, defaults
from ibidem.evaluation.tracking import track
from ibidem.figures import between, counted, percent, terminal_text, visible
from ibidem.inference import models
from ibidem.inference.chat import PROMPT_FORMAT
from ibidem.inference.model_id import identify
from ibidem.jsonl import Row
from ibidem.modeling.generate import Sampling
from ibidem.statistics import mean_bounds
from ibidem.trackers import check

NAME = "verbatim"
FACTS = ("repo", "path", "url", "record", "license", "swhid")
MOST_SOURCES = 3
"""Documents that an item names for a span."""


def verbatim(config: VerbatimConfig) -> str:
    """Let the model write, look everything up in the index of its training, and return the shares as lines.

    Raises:
        AccessDenied: the index is of private documents, and the user is not among their readers.
        ArtifactError: the index or the model is missing or damaged.
        ConfigError: a tracker is not installed, or a prompt does not fit into the model's context.
        DataError: a row is not a prompt, or has several turns.
    """
    check(config.trackers)
    asked = rows(config.prompts)
    prompts, limited = asked[: config.limit], evidence.part(config.limit, len(asked))
    model_id = identify(config.checkpoint)
    index = Attribution(config.index, least_tokens=config.least_tokens, common_documents=config.common_documents)
    inputs = [
        evidence.benchmark_input(asked, config.prompts.name),
        model_id.as_input(of=config.output_dir),
        artifacts.load(config.index).as_input("index", of=config.output_dir),
    ]
    chosen = {key: value for key, value in settings(config).items() if key != "batch"}
    chosen |= {"limit": limited.get("limit"), "index": index.digest, "prompt_format": PROMPT_FORMAT}
    if not evidence.finished(config.output_dir, NAME, config=chosen, inputs=inputs):
        items = list(_items(models.open_model(model_id.path, model_id.digest), index, prompts, config))
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
    return "\n".join(
        [f"{NAME}: {'; '.join(_said(evaluation.items))}; {config.output_dir}", *_longest(evaluation.items)]
    )


def rows(path: Path) -> list[Row]:
    """Read prompts as JSON rows, sorted by id.

    Raises:
        DataError: a row is not a prompt, or has several turns.
    """
    prompts = sorted(read_prompts(path), key=lambda prompt: prompt.id)
    if several := next((each for each in prompts if len(each.turns) > 1), None):
        raise DataError(f"prompts {path}: the prompt {several.id!r} has several turns; give one")
    return [{"id": each.id, "prompt": each.turns[0]} for each in prompts]


def measure(items: Sequence[Row]) -> evidence.Metrics:
    """Return the mean share of each kind at each temperature."""
    temperatures = sorted({item["temperature"] for item in items})
    names = (f"{kind}.{temperature:g}" for temperature in temperatures for kind in ("verbatim", "common", "removed"))
    return {name: evidence.mean(list((_trials(items, name) or {}).values())) for name in names}


def described(item: Row) -> str:
    """Return a response, and the documents of its spans: of each set of documents the longest span alone."""
    lines = [
        f"{counted(span['end'] - span['start'], 'token')} in {counted(span['num_documents'], 'document')}"
        f"{', common' if span['is_common'] else ''}: {places}"
        for places, span in longest_by_documents(item["spans"]).items()
    ]
    few, many = (percent(item[kind] / max(1, item["tokens"]), 0) for kind in ("verbatim", "common"))
    head = f"{few} of the tokens stand in few training documents, {many} in many; temperature {item['temperature']:g}:"
    return "\n".join([head, terminal_text(item["response"].strip("\n")), *(f"  {line}" for line in lines)])


def _items(
    model: models.LanguageModel, index: Attribution, prompts: Sequence[Row], config: VerbatimConfig
) -> Iterator[Row]:
    """Yield an item for each prompt and temperature."""
    asked = [row["prompt"] for row in prompts]
    if config.as_conversation:
        model.check_fit([(Turn.of("user", text),) for text in asked], config.max_tokens)
    else:
        models.report_truncated(model, asked, config.max_tokens)
    with log.progress("respond", len(prompts) * len(config.temperatures), "responses") as bar:
        for temperature in config.temperatures:
            for start in range(0, len(prompts), config.batch):
                batch = prompts[start : start + config.batch]
                sampling = Sampling(config.max_tokens, temperature, config.top_p, config.seed, first=start)
                for row, response in zip(batch, _written(model, batch, sampling, config), strict=True):
                    yield {"id": row["id"], "temperature": temperature, **_looked_up(index, response)}
                bar.advance(len(batch))


def _written(
    model: models.LanguageModel, batch: Sequence[Row], sampling: Sampling, config: VerbatimConfig
) -> list[str]:
    if not config.as_conversation:
        return model.complete([row["prompt"] for row in batch], sampling, ())
    return [turn.text for turn in model.respond([(Turn.of("user", row["prompt"]),) for row in batch], sampling)]


def _looked_up(index: Attribution, response: str) -> Row:
    ids = index.tokenizer.encode(response)
    places_T2 = index.tokenizer.spans(response, ids)
    spans = [_span(each, response[places_T2[each.start, 0] : places_T2[each.end - 1, 1]]) for each in index.of_ids(ids)]
    counts = {"verbatim": _covered(spans, is_common=False), "common": _covered(spans, is_common=True)}
    return {"response": response, "tokens": len(ids), **counts, "spans": spans}


def _span(found: Repetition, text: str) -> Row:
    sources = [
        {"sha256": each.sha256, "is_removed": each.is_removed, **{name: each.facts[name] for name in FACTS}}
        for each in found.sources[:MOST_SOURCES]
    ]
    about = {"num_documents": found.num_documents, "is_common": found.is_common}
    return {"start": found.start, "end": found.end, "text": text, **about, "sources": sources}


def _covered(spans: Sequence[Row], *, is_common: bool) -> int:
    """Return the number of tokens in spans of a kind; what is in a span of few documents is not common."""
    own = {place for span in spans if not span["is_common"] for place in range(span["start"], span["end"])}
    if not is_common:
        return len(own)
    return len({place for span in spans if span["is_common"] for place in range(span["start"], span["end"])} - own)


def _is_removed(item: Row) -> bool:
    return any(source["is_removed"] for span in item["spans"] for source in span["sources"])


def _trials(items: Sequence[Row], metric: str) -> Trials | None:
    kind, _, temperature = metric.partition(".")
    chosen = [item for item in items if f"{item['temperature']:g}" == temperature]
    if not chosen or kind not in {"verbatim", "common", "removed"}:
        return None
    if kind == "removed":
        return {item["id"]: float(_is_removed(item)) for item in chosen}
    return {item["id"]: item[kind] / item["tokens"] if item["tokens"] else 0.0 for item in chosen}


def _said(items: Sequence[Row]) -> Iterator[str]:
    for metric in measure(items):
        scores = list((_trials(items, metric) or {}).values())
        what = "of the responses" if metric.startswith("removed") else "of the tokens"
        bounds = between(mean_bounds(scores))
        yield f"{metric} {percent(evidence.mean(scores))} {what}, {bounds} with 95 % confidence"


def _longest(items: Sequence[Row], most: int = 3) -> Iterator[str]:
    """Describe the longest spans that are not common."""
    spans = [(span["end"] - span["start"], item["id"], span) for item in items for span in item["spans"]]
    own = sorted((each for each in spans if not each[2]["is_common"]), key=lambda each: (-each[0], each[1]))
    for length, key, span in own[:most]:
        yield f"  {counted(length, 'token')} in {visible(key)}: {place_of(span['sources'][0])}"


def _follows(item: Row, _settings: Settings) -> bool:
    counts = (_covered(item["spans"], is_common=False), _covered(item["spans"], is_common=True))
    fits = all(
        0 <= span["start"] < span["end"] <= item["tokens"] and span["text"] in item["response"]
        for span in item["spans"]
    )
    return fits and (item["verbatim"], item["common"]) == counts


def _differs(evaluation: evidence.Evidence, asked: Sequence[Row], chosen: Settings) -> str | None:
    if evaluation.artifact.config.get("prompt_format") != PROMPT_FORMAT:
        return "its prompts were given in another format than this version's"
    due = {(row["id"], float(temperature)) for row in asked for temperature in chosen["temperatures"]}
    found = {(item["id"], float(item["temperature"])) for item in evaluation.items}
    key = next(iter(sorted(due ^ found)), None)
    return None if key is None else f"the prompt {key[0]} at temperature {key[1]:g} is missing, or is too much"


TASK = Task(
    name=NAME,
    key=("id", "temperature"),
    measure=lambda evaluation: measure(evaluation.items),
    trials=_trials,
    benchmark=lambda file: rows(Path(file)),
    asks=lambda row: row["prompt"],
    settings={
        "index": None,
        **defaults(VerbatimConfig, "temperatures", "max_tokens", "top_p", "seed"),
        **defaults(VerbatimConfig, "least_tokens", "common_documents", "as_conversation"),
    },
    digests={"index": lambda place: artifacts.load(Path(place), kind=INDEX_KIND).digest},
    evaluate=lambda tree: verbatim(build(VerbatimConfig, tree)),
    place="prompts",
    follows=_follows,
    differs=_differs,
)
