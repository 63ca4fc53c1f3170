"""Programming benchmarks, from problems to evidence: complete, judge, estimate pass@k."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibidem import artifacts, jsonl, log
from ibidem.artifacts import Input
from ibidem.config import settings
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import CodingConfig
from ibidem.evaluation.resume import RowLog
from ibidem.evaluation.task import Settings, Task, Trials, defaults
from ibidem.evaluation.tracking import track
from ibidem.figures import between, counted, percent
from ibidem.inference.model_id import ModelId, identify
from ibidem.jsonl import Row
from ibidem.sandbox.config import SandboxConfig, open_judge
from ibidem.sandbox.problems import Problem, by_id, read_rows
from ibidem.statistics import mean_bounds, pass_at_k
from ibidem.trackers import check

SAMPLES = "samples.jsonl"
CHANGES_NO_RESULT = ("workers", "batch")
MOST_TOKENS = 512
"""Maximum length of a completion by default."""
SAMPLING = ("n", "max_tokens", "temperature", "top_p", "seed")
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


@dataclass(frozen=True)
class Sample:
    """One completion of one problem."""

    task_id: str
    number: int
    completion: str


def evaluate(config: CodingConfig, task: str, problems: Sequence[Problem], asked: Input, **notes: Any) -> str:
    """Evaluate, and return the figures as a line; an interrupted run is resumed.

    Args:
        config: the settings.
        task: name of the evaluation.
        problems: the problems to answer.
        asked: the whole benchmark, as an input.
        notes: what results.json says besides the figures; a note that is a setting is the value that was used.

    Raises:
        ConfigError: neither a checkpoint nor samples are given, or a tracker is not installed.
        DataError: the samples do not fit the problems.
        SandboxError: code cannot be run safely here.
    """
    check(config.trackers)
    if min(config.k) > config.n and config.samples is None:
        raise ConfigError(f"pass@{min(config.k)} needs as many completions of each problem: --n {min(config.k)}")
    if config.checkpoint is None and config.samples is None:
        raise ConfigError("give --checkpoint, to complete the problems, or --samples, to judge completions")
    model_id = identify(config.checkpoint) if config.checkpoint else None
    limited = evidence.part(config.limit, len(problems))
    notes |= limited
    supplied = read_samples(config, problems) if config.samples else None
    problems = problems[: config.limit]
    if model_id and supplied and supplied.checkpoint != model_id.digest:
        raise DataError(f"samples {supplied.path}: not all name {model_id.digest} as their checkpoint")
    inputs = [asked, *_model_inputs(config, model_id, supplied)]
    chosen = decisive(config, {"limit": None, **notes})
    if evidence.finished(config.output_dir, task, config=chosen, inputs=inputs):
        return _report(config)
    with artifacts.workspace(config.output_dir, config=chosen, inputs=inputs) as work:
        samples = supplied.samples if supplied else _complete(config, model_id, problems, work / SAMPLES)
        items = _judge(config, by_id(problems), samples, work / evidence.ITEMS)
        contaminated = _contamination(config, model_id, problems)
        metrics = measure(items, config.k)
        notes |= {"kinds": dict(sorted(Counter(item["kind"] for item in items).items())), **contaminated}
        evidence.write(
            config.output_dir,
            task,
            config=chosen,
            inputs=inputs,
            items=items,
            metrics=metrics,
            notes={"problems": len({item["task_id"] for item in items}), **notes},
            trials=_trials,
        )
    return _report(config)


def task(
    name: str,
    problems: Callable[[Sequence[Row], Settings], Sequence[Problem]],
    evaluate: Callable[[Mapping[str, Any]], str],
    **more: Any,
) -> Task:
    """Return the task of a programming benchmark, for the gate.

    Args:
        name: name of the evaluation.
        problems: reads the problems that an evaluation must have answered, from the benchmark's rows and the settings.
        evaluate: evaluates with the given settings.
        more: settings besides those of sampling, with their defaults.
    """
    return Task(
        name=name,
        key=("task_id", "sample"),
        measure=_measure,
        trials=_trials,
        benchmark=read_rows,
        asks=_asks,
        settings={**defaults(CodingConfig, *SAMPLING), **more},
        evaluate=evaluate,
        rejudge=lambda evaluation, rows, chosen, sandbox: _rejudge(evaluation, problems(rows, chosen), sandbox),
        is_published=True,
    )


def benchmark(problems: str, rows: Sequence[Row]) -> Input:
    """Return the problems at a place as an input, identified by what their rows say."""
    return evidence.benchmark_input(rows, Path(problems).name)


def decisive(config: CodingConfig, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide a result; a note that is a setting is the value that was used."""
    return {key: notes.get(key, value) for key, value in settings(config).items() if key not in CHANGES_NO_RESULT}


def _asks(row: Row) -> Any:
    return [row.get(name) for name in ("text", "prompt", "test", "test_list", "base_input")]


def measure(items: Sequence[Row], k: Sequence[int] = (1, 10, 100)) -> evidence.Metrics:
    """Average pass@k over the problems, for each k for which every problem has enough samples."""
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for item in items:
        outcomes[item["task_id"]].append(item["passed"])
    fewest = min(map(len, outcomes.values()), default=0)
    return {
        f"pass@{each}": evidence.mean([pass_at_k(len(passed), sum(passed), each) for passed in outcomes.values()])
        for each in k
        if each <= fewest
    }


@dataclass(frozen=True)
class Given:
    """A file of samples."""

    path: Path
    samples: list[Sample]
    checkpoint: str | None
    """The checkpoint that all rows name as their source."""


def read_samples(config: CodingConfig, problems: Sequence[Problem]) -> Given:
    """Read completions; those of problems beyond the limit are skipped.

    Raises:
        DataError: a row is not a sample, its problem is unknown, or a problem has no sample.
    """
    path = config.samples
    assert path is not None
    known, wanted, numbers, origins = by_id(problems), by_id(problems[: config.limit]), Counter[str](), set()
    samples: list[Sample] = []
    for number, row in enumerate(jsonl.read(path, "samples"), 1):
        task_id, completion = str(row.get("task_id")), row.get("completion")
        if not isinstance(completion, str) or row.get("task_id") is None:
            raise DataError(f"samples {path}: row {number} needs task_id and completion")
        if task_id not in known:
            raise DataError(f"samples {path}: {task_id!r} is not a problem of this benchmark")
        if task_id in wanted:
            samples.append(Sample(task_id, numbers[task_id], completion))
        numbers[task_id] += 1
        origins.add(str(row.get("checkpoint")))
    missing = [task_id for task_id in wanted if task_id not in numbers]
    if not samples:
        raise DataError(
            f"samples {path}: no sample is of the problems within the limit of {len(wanted):,}; raise --limit, or "
            "leave it out"
        )
    if missing and not config.ignore_incomplete:
        raise DataError(
            f"samples {path}: no sample for {counted(len(missing), 'problem')}, the first is {missing[0]}; "
            "--ignore-incomplete leaves them out"
        )
    origin = origins.pop() if len(origins) == 1 else "None"
    return Given(path, samples, None if origin == "None" else origin)


def _model_inputs(config: CodingConfig, model_id: ModelId | None, supplied: Given | None) -> list[Input]:
    inputs = [model_id.as_input(of=config.output_dir)] if model_id else []
    if supplied is not None:
        inputs.append(Input.of_file("samples", supplied.path))
        if model_id is None and supplied.checkpoint is not None:
            inputs.append(Input("checkpoint", supplied.checkpoint, "named by the samples", is_artifact=False))
    return inputs


def _complete(config: CodingConfig, model_id: ModelId | None, problems: Sequence[Problem], path: Path) -> list[Sample]:
    """Complete each problem `n` times; samples already in `path` are reused."""
    recovered = RowLog(path)
    done = [Sample(**row) for row in recovered.rows]
    wanted = [(problem, number) for problem in problems for number in range(config.n)]
    if len(done) == len(wanted):
        return done
    from ibidem.inference.models import open_model, report_truncated
    from ibidem.modeling.generate import Sampling

    assert model_id is not None
    model = open_model(model_id.path, model_id.digest)
    most = config.max_tokens or min(MOST_TOKENS, model.context // 2)
    report_truncated(model, [problem.prompt for problem in problems], most)
    with log.progress("complete", len(wanted), "samples", start=len(done)) as bar:
        while len(done) < len(wanted):
            batch = _same_stop(wanted[len(done) : len(done) + config.batch])
            sampling = Sampling(most, config.temperature, config.top_p, config.seed, first=len(done))
            texts = model.complete([problem.prompt for problem, _ in batch], sampling, batch[0][0].stop)
            made = [Sample(each.task_id, number, text) for (each, number), text in zip(batch, texts, strict=True)]
            recovered.extend(vars(sample) for sample in made)
            done += made
            bar.advance(len(made))
    return done


def _same_stop(batch: list[tuple[Problem, int]]) -> list[tuple[Problem, int]]:
    return [each for each in batch if each[0].stop == batch[0][0].stop]


def _judge(config: CodingConfig, known: Mapping[str, Problem], samples: Sequence[Sample], path: Path) -> list[Row]:
    """Judge each sample; verdicts already in `path` are reused."""
    judged = RowLog(path)
    left = samples[len(judged.rows) :]
    if not left:
        return judged.rows
    passed = sum(1 for each in judged.rows if each["passed"])
    with (
        open_judge(config) as judge,
        log.progress("judge", len(samples), "programs", start=len(judged.rows)) as bar,
    ):
        verdicts = judge.verdicts(known[sample.task_id].program(sample.completion) for sample in left)
        for sample, verdict in zip(left, verdicts, strict=True):
            item: Row = {
                "task_id": sample.task_id,
                "sample": sample.number,
                "passed": verdict.passed,
                "kind": verdict.kind,
                "detail": _ADDRESS.sub("0x", verdict.detail),
                "completion": sample.completion,
            }
            judged.extend([item])
            passed += verdict.passed
            bar.advance(passed=passed)
    return judged.rows


def _measure(evaluation: evidence.Evidence) -> evidence.Metrics:
    sizes = [int(key.removeprefix("pass@")) for key in evaluation.artifact.counts if key.startswith("pass@")]
    return measure(evaluation.items, sizes)


def _trials(items: Sequence[Row], metric: str) -> Trials | None:
    passed: dict[str, list[float]] = defaultdict(list)
    for item in items:
        passed[item["task_id"]].append(float(item["passed"]))
    return {key: sum(each) / len(each) for key, each in passed.items()} if metric == "pass@1" else None


def _rejudge(evaluation: evidence.Evidence, problems: Sequence[Problem], sandbox: SandboxConfig) -> list[str]:
    """Judge every completion of an evaluation again; return the tasks whose outcome differs or is missing.

    Raises:
        SandboxError: code cannot be run safely here.
    """
    known = by_id(problems)
    if unknown := [item["task_id"] for item in evaluation.items if item["task_id"] not in known]:
        return unknown
    with (
        open_judge(sandbox) as judge,
        log.progress("gate.judge", len(evaluation.items), "programs") as bar,
    ):
        wrong = []
        programs = (known[item["task_id"]].program(item["completion"]) for item in evaluation.items)
        for item, verdict in zip(evaluation.items, judge.verdicts(programs), strict=True):
            wrong += [item["task_id"]] if item["passed"] is not verdict.passed else []
            bar.advance()
    return wrong + sorted(set(known) - {item["task_id"] for item in evaluation.items})


def _contamination(config: CodingConfig, model_id: ModelId | None, problems: Sequence[Problem]) -> dict[str, Any]:
    if not config.contamination or model_id is None or not model_id.is_checkpoint:
        return {"contamination": None}
    from ibidem.data.filters.contamination import ProblemText
    from ibidem.evaluation.contamination import look

    texts = [ProblemText(each.task_id, tuple(filter(None, (each.statement, each.reference)))) for each in problems]
    return {"contamination": look(model_id.path, texts)}


def _report(config: CodingConfig) -> str:
    """Read the evidence, send its figures to the trackers, and return them as a line."""
    evaluation = evidence.read(config.output_dir)
    track(evaluation, config.trackers)
    results, scores = evaluation.results, list((_trials(evaluation.items, "pass@1") or {}).values())
    figures = ", ".join(f"{key} {percent(value)}" for key, value in results.items() if key.startswith("pass@"))
    kinds = ", ".join(f"{count} {kind}" for kind, count in results["kinds"].items())
    extent = evidence.extent(results, len(scores), "problem")
    return (
        f"{results['task']} ({results.get('inputs', 'base')} inputs): {figures} on {extent} "
        f"(pass@1 {between(mean_bounds(scores))} with 95 % confidence; {kinds}); {evaluation.artifact.path}"
    )
