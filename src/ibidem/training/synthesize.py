"""Conversations made from a dataset's own functions, for the blend and for SFT: the wiring of the stage.

    functions of a dataset's Python documents     explained, completed, documented, debugged, run, looked up
    the judge                                     tells a mutant from the original, and what calls return
    no document                                   calculations, refusals, harmless requests that sound unsafe, and
                                                  small programming problems, solved
    a model, if there is one                      instructions after seed tasks, and their answers (self-instruct)

The traces are the source of a dataset like any other: `preprocess` resolves their licenses, filters, scrubs, looks for
evaluation problems and duplicates, honors removals, and counts. A trace has the license, repository and path of its
document, and its record names the document's hash, the wordings, the seed and the fault. What a model writes follows
seed tasks and what the model was trained on: it has no license unless one is stated, and its record names the model.
"""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import Field

from ibidem import artifacts, jsonl, log
from ibidem.artifacts import Input
from ibidem.config import configuration, settings
from ibidem.conversation import to_rows
from ibidem.data import shards
from ibidem.data.dedup import DedupPolicy
from ibidem.data.engine import EngineConfig
from ibidem.data.filters.benchmarks import PROMPTS
from ibidem.data.filters.contamination import ContaminationPolicy, Guard
from ibidem.data.filters.quality import FilterPolicy
from ibidem.data.filters.removals import RemovalPolicy
from ibidem.data.licenses.policy import LicensePolicy
from ibidem.data.licenses.spdx import normalize
from ibidem.data.preprocess import Opened, PreprocessConfig, make, summary
from ibidem.data.scrub.scrubber import ScrubPolicy
from ibidem.data.sources.readers import Piece
from ibidem.data.sources.spec import Spec
from ibidem.data.synthetic import dialogues, programs, refusals, self_instruct, tools
from ibidem.data.synthetic.calls import Case
from ibidem.data.synthetic.functions import Function, Source, functions
from ibidem.data.synthetic.trace import KINDS, OWN_LICENSE, Kind, Trace
from ibidem.errors import ConfigError, DataError
from ibidem.figures import counted
from ibidem.files import write_file
from ibidem.readers import check_outside_private
from ibidem.sandbox import faults
from ibidem.sandbox.isolation import Limits
from ibidem.sandbox.judge import Judge

T = TypeVar("T")

SOURCE = "synthesized"
STATED, UNSTATED, MADE = "traces.jsonl", "unlicensed.jsonl", "made.json"
SHARES: Mapping[Kind, int] = {
    "explain": 12, "steps": 9, "complete": 10, "write": 13, "docstring": 8, "question": 8, "fix": 12, "run": 6,
    "search": 6, "calculate": 6, "refuse": 5, "near_miss": 5, "solve": 6,
    "instruct": 0,
}  # fmt: skip
"""Shares of the kinds among the traces that no model writes."""
JUDGED: frozenset[Kind] = frozenset({"fix", "run"})
FUNCTIONS_PER_TRACE = 1
"""Functions to look for, for each trace: of those that are called, one in four has a fault that a test finds."""
DOCUMENTS_AT_ONCE = 256
FUNCTIONS_AT_ONCE = 32
JUDGE_CPU_S = 1
CONTAMINATED = "contaminated"
ATTEMPTS = 4
"""How often a request or a task is drawn, for each one that is wanted."""
TASKS_AT_ONCE = 8


@configuration
class SynthesizeConfig(EngineConfig):
    """Make conversations from a dataset's functions: explanations, completions, bugs to fix, tool calls, refusals."""

    from_: Path
    """A preprocessed dataset with Python documents."""
    output_dir: Path
    """Folder of the resulting dataset; one artifact, replaced as a whole."""
    number: Annotated[int, Field(ge=1)] = 1000
    """Traces to make, before duplicates and others are dropped; fewer if the functions run out."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of functions, wordings, faults and calls."""
    kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "instruct")
    """Kinds of traces. fix and run need the sandbox; instruct needs a model."""
    families: tuple[programs.Family, ...] = programs.FAMILIES
    """Families of operations in the problems of solve: each has only operations of these."""
    steps: programs.Steps = (1, 2)
    """How many operations a problem of solve has: 1, 2 or either."""
    model: Path | None = None
    """A checkpoint that writes instructions after seed tasks, and their answers; none are written without one."""
    instructions: Annotated[int, Field(ge=1)] = 100
    """Instructions that the model shall write, besides the other traces."""
    seeds: Path | None = None
    """Seed tasks, JSON lines with instruction and answer; by default the 36 that ship with the program."""
    instructions_license: str | None = None
    """License of what the model writes, as SPDX expression; by default none is stated, whatever the seed tasks have."""
    max_tokens: Annotated[int, Field(ge=8)] = 160
    """Maximum length of what the model writes, in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Temperature of the model."""
    deny: Path | None = None
    """A file with a name a line; each is replaced wherever it occurs, in other case, inflection and Unicode forms."""
    names: bool = True
    """Replace names of people that the words around them introduce; other names are not found."""
    licenses: LicensePolicy = Field(default_factory=LicensePolicy)
    """Which licenses may enter."""
    contamination: ContaminationPolicy = Field(default_factory=lambda: ContaminationPolicy(benchmarks=(PROMPTS,)))
    """Which evaluation problems must not occur."""
    dedup: DedupPolicy = Field(default_factory=DedupPolicy)
    """Which traces are duplicates."""
    removals: RemovalPolicy = Field(default_factory=RemovalPolicy)
    """Which requests for removal are honored."""
    sandbox: Literal["namespaces", "docker"] = "namespaces"
    """Where functions run: Linux namespaces, or Docker containers where namespaces are not available."""
    sandbox_image: str = "python:3.11-slim"
    """With docker: a local image. Nothing is pulled."""
    shard_size: Annotated[int, Field(ge=1)] = 2000
    """Number of traces that one shard spans."""


def synthesize(config: SynthesizeConfig) -> str:
    """Make traces, and a dataset of them; return a summary.

    Raises:
        ConfigError: a kind lacks what it needs.
        DataError: nothing could be made, or nothing is left.
        SandboxError: functions cannot be run safely here.
    """
    _check(config)
    dataset = shards.load_dataset(config.from_)
    model = _model_input(config)
    origins = [dataset.as_input("dataset", of=config.output_dir), *model]
    origins += [Input.of_file("seeds", config.seeds)] if config.seeds is not None and model else []
    made = make(_pipeline(config), origins, lambda folder: _open(config, dataset, folder), more=_more(config))
    counts = made.counts["synthetic"]
    short = config.number - sum(count for kind, count in counts["made"].items() if kind != "instruct")
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in counts["rejected"].items()) or "none"
    missing = f"; {short:,} fewer than asked for: the functions of {dataset.path} ran out" if short > 0 else ""
    return f"{summary(made)}; refusals: {counts['refusals']:,}; rejected before: {rejected}{missing}"


def _check(config: SynthesizeConfig) -> None:
    if "instruct" in config.kinds and config.model is None:
        raise ConfigError("kinds: instruct needs a model; give --model CHECKPOINT")
    if not set(config.kinds) & SHARES.keys():
        raise ConfigError(f"kinds: give at least one of {', '.join(KINDS)}")
    if "solve" in config.kinds:
        programs.check(config.families, config.steps)
    if config.instructions_license is not None and normalize(config.instructions_license) is None:
        raise ConfigError(
            f"instructions_license {config.instructions_license!r}: not a known license; give an SPDX expression"
        )
    if config.output_dir.resolve() == config.from_.resolve():
        raise ConfigError(f"output_dir {config.output_dir} is also the dataset that is read")
    if config.seeds is not None:
        check_outside_private([config.seeds])


def _model_input(config: SynthesizeConfig) -> list[Input]:
    if config.model is None:
        return []
    from ibidem.inference.model_id import identify

    return [identify(config.model).as_input(of=config.output_dir)]


def _pipeline(config: SynthesizeConfig) -> PreprocessConfig:
    """Return how the traces become a dataset; code that was good enough once is not filtered again."""
    engine = {name: getattr(config, name) for name in EngineConfig.__dataclass_fields__}
    return PreprocessConfig(
        dataset=(f"{SOURCE}:train:messages",),
        output_dir=config.output_dir,
        shard_size=config.shard_size,
        licenses=config.licenses,
        filters=FilterPolicy(),
        scrub=ScrubPolicy(names=config.names, deny=config.deny),
        contamination=config.contamination,
        dedup=config.dedup,
        removals=config.removals,
        skip=("filters",),
        **engine,
    )


def _more(config: SynthesizeConfig) -> dict[str, Any]:
    """Return the settings that decide which traces are made; what the model decides only where there is one."""
    of_model = {"instructions", "instructions_license", "max_tokens", "temperature"}
    of_solve = {"families", "steps"}
    ours = {"number", "seed", "kinds", "sandbox"} | (of_model if config.model is not None else set())
    ours |= of_solve if "solve" in config.kinds else set()
    return {"synthesize": {name: value for name, value in settings(config).items() if name in ours}}


# ---------------------------------------------------------------- the source


@dataclass
class Traces:
    """Traces in the work folder, as a source: those with a license, then those whose document or model states none."""

    folder: Path
    spec: Spec = field(default_factory=lambda: Spec(SOURCE, None, "train", "messages"))
    skipped: Counter[str] = field(default_factory=Counter)

    def as_input(self) -> Input:
        return Input.of_file("source", self.folder / STATED)

    def pieces(self, spool: Path) -> Iterator[Piece]:  # noqa: ARG002 - they are here
        first = 0
        for name in (STATED, UNSTATED):
            count = (self.folder / name).read_bytes().count(b"\n")
            if count:
                yield Piece(
                    path=str(self.folder / name),
                    name=name,
                    first=first,
                    count=count,
                    source=SOURCE,
                    column=self.spec.column,
                    license_stated=name == STATED,
                )
            first += count


def _open(config: SynthesizeConfig, dataset: artifacts.Artifact, folder: Path) -> Opened:
    """Make the traces, unless an interrupted run has made them; the file of the counts comes last."""
    if not (folder / MADE).exists():
        traces, rejected = _traces(config, dataset)
        rows = [_row(trace, config) for trace in traces]
        for name in (STATED, UNSTATED):
            write_file(folder / name, jsonl.dumps(row for row in rows if ("license" in row) == (name == STATED)))
        kinds = Counter(trace.kind for trace in traces)
        made = {"made": dict(sorted(kinds.items())), "rejected": dict(sorted(rejected.items()))}
        write_file(folder / MADE, json.dumps({**made, "refusals": kinds["refuse"]}))
    return Opened([Traces(folder)], {"synthetic": json.loads((folder / MADE).read_text())}, must_keep=True)


def _row(trace: Trace, config: SynthesizeConfig) -> dict[str, Any]:
    source = trace.source or Source("", "", config.instructions_license if trace.model else OWN_LICENSE)
    facts = {"license": source.license, "repo": source.repo, "path": source.path, "url": source.url}
    facts |= {"revision": source.revision, "id": trace.record(config.seed)}
    return {"messages": to_rows(trace.turns), **{name: value for name, value in facts.items() if value is not None}}


# ---------------------------------------------------------------- the traces


def _traces(config: SynthesizeConfig, dataset: artifacts.Artifact) -> tuple[list[Trace], Counter[str]]:
    quotas = quotas_of(config.number, config.kinds)
    rejected: Counter[str] = Counter()
    needing = [kind for kind in quotas if kind not in OWN]
    found = _functions(dataset, config, FUNCTIONS_PER_TRACE * config.number) if needing else []
    if needing and not found and len(needing) == len(quotas):
        raise DataError(
            f"from {dataset.path}: no documented, self-contained Python function in it; give a dataset with Python "
            f"code, or --kinds {' '.join(OWN)}"
        )
    makers = [_of_functions, *([_judged] if JUDGED & quotas.keys() and found else []), _own]
    traces = [trace for maker in makers for trace in maker(config, quotas, found, rejected)]
    if config.model is not None:
        traces += _instructed(config, rejected)
    return _unlike_evaluations(traces, config.contamination, rejected), rejected


def quotas_of(number: int, kinds: Sequence[Kind]) -> dict[Kind, int]:
    """Divide a number of traces among kinds by their shares, by largest remainders.

    >>> quotas_of(10, ["refuse", "near_miss"])
    {'refuse': 5, 'near_miss': 5}
    """
    shares = {kind: SHARES[kind] for kind in SHARES if kind in kinds and SHARES[kind]}
    total = sum(shares.values())
    exact = {kind: number * share / total for kind, share in shares.items()}
    quotas = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: quotas[kind] - exact[kind])
    for kind in by_remainder[: number - sum(quotas.values())]:
        quotas[kind] += 1
    return {kind: quota for kind, quota in quotas.items() if quota}


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _rng(config: SynthesizeConfig, *what: object) -> random.Random:
    return random.Random(":".join(map(str, (config.seed, *what))))


def _place(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _functions(dataset: artifacts.Artifact, config: SynthesizeConfig, wanted: int) -> list[Function]:
    """Read functions, from documents in an order that the seed decides, until there are enough."""
    paths = shards.checked_shards(dataset)
    rows = [
        (_place(config.seed, row["sha256"]), number, place)
        for number, path in enumerate(paths)
        for place, row in enumerate(shards.read_rows(path, ["sha256", "language"]))
        if row["language"] == "Python"
    ]
    found: list[Function] = []
    with log.progress("synthesize.read", len(rows), "documents") as bar:
        for chosen in _batches(sorted(rows), DOCUMENTS_AT_ONCE):
            places = [(number, place) for _, number, place in chosen]
            texts = _documents(paths, places)
            found += [each for place in places for each in functions(*texts[place])]
            bar.advance(len(chosen), functions=len(found))
            if len(found) >= wanted:
                break
    unique = {function.code: function for function in reversed(found)}
    return sorted(unique.values(), key=lambda function: _place(config.seed, function.key))


def _documents(paths: Sequence[Path], places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, Source]]:
    found = {}
    columns = ["text", *Source._fields]
    for number in sorted({number for number, _ in places}):
        wanted = {place for shard, place in places if shard == number}
        for place, row in enumerate(shards.read_rows(paths[number], columns)):
            if place in wanted:
                found[number, place] = (row.pop("text"), Source(**row))
    return found


Quotas = Mapping[Kind, int]


def _of_functions(
    config: SynthesizeConfig, quotas: Quotas, found: Sequence[Function], _rejected: Counter[str]
) -> Iterator[Trace]:
    """Yield traces that need no more than a function; each kind begins with other functions."""
    siblings: dict[str, list[Function]] = {}
    for function in found:
        siblings.setdefault(function.source.sha256, []).append(function)

    def search(function: Function, rng: random.Random) -> Trace | None:
        others = [each for each in siblings[function.source.sha256] if each.name != function.name]
        return dialogues.search(function, rng.sample(others, min(2, len(others))), rng)

    makers: dict[Kind, dialogues.Maker] = {**dialogues.MAKERS, "search": search}
    for number, (kind, maker) in enumerate(makers.items()):
        left = quotas.get(kind, 0)
        for function in _rotated(found, number / len(makers)):
            if left == 0:
                break
            trace = maker(function, _rng(config, kind, function.key))
            if trace is not None:
                left -= 1
                yield trace


def _rotated(found: Sequence[Function], share: float) -> list[Function]:
    first = int(share * len(found))
    return [*found[first:], *found[:first]]


class _Outcome(NamedTuple):
    """What the judge says of a function."""

    function: Function
    case: Case | None
    """A call to run."""
    fault: faults.Fault | faults.Unfit | None


def _judged(
    config: SynthesizeConfig, quotas: Quotas, found: Sequence[Function], rejected: Counter[str]
) -> Iterator[Trace]:
    """Yield traces of bugs to fix and of functions that are run."""
    fixes, runs = quotas.get("fix", 0), quotas.get("run", 0)
    workers = config.workers or os.cpu_count() or 1
    limits = Limits(cpu_s=JUDGE_CPU_S)
    with (
        Judge(workers, limits, sandbox=config.sandbox, image=config.sandbox_image) as judge,
        ThreadPoolExecutor(workers) as pool,
        log.progress("synthesize.judge", fixes + runs, "traces") as bar,
    ):

        def judged(function: Function, *, needs_case: bool, needs_fault: bool) -> _Outcome:
            rng = _rng(config, "fix", function.key)
            tests = faults.cases(judge, function, rng)
            fault = faults.fault(judge, function, tests, rng) if needs_fault else None
            return _Outcome(function, faults.stable_case(judge, function, tests, rng) if needs_case else None, fault)

        for some in _batches(found, FUNCTIONS_AT_ONCE):
            judge_some = partial(judged, needs_case=runs > 0, needs_fault=fixes > 0)
            for function, case, fault in pool.map(judge_some, some):
                if runs and case is not None:
                    runs -= 1
                    yield dialogues.run(function, case, _rng(config, "run", function.key))
                    bar.advance()
                if fixes and isinstance(fault, faults.Fault):
                    fixes -= 1
                    yield dialogues.fix(function, *fault, _rng(config, "wording", function.key))
                    bar.advance()
                elif fixes and isinstance(fault, faults.Unfit):
                    rejected[fault] += 1
            if not fixes and not runs:
                return


Maker = Callable[[random.Random], Trace | None]
OWN: Mapping[Kind, Maker] = {
    "calculate": tools.calculate,
    "refuse": refusals.refuse,
    "near_miss": refusals.near_miss,
    "solve": programs.solve,
}
"""Makers of traces that no document goes into."""


def _own(
    config: SynthesizeConfig, quotas: Quotas, _found: Sequence[Function], _rejected: Counter[str]
) -> Iterator[Trace]:
    """Yield traces that no document goes into, each request once."""
    makers: dict[Kind, Maker] = {**OWN}
    makers["solve"] = partial(programs.solve, families=config.families, steps=config.steps)
    for kind, maker in makers.items():
        wanted, asked = quotas.get(kind, 0), set[str]()
        for number in range(ATTEMPTS * wanted):
            trace = maker(_rng(config, kind, number))
            if trace is None:
                continue
            request = next(turn.text for turn in trace.turns if turn.role == "user")
            if len(asked) < wanted and request not in asked:
                asked.add(request)
                yield trace._replace(draw=number)


def _instructed(config: SynthesizeConfig, rejected: Counter[str]) -> list[Trace]:
    """Return tasks that the model writes and answers."""
    from ibidem.inference.model_id import identify
    from ibidem.inference.models import open_model
    from ibidem.modeling.generate import Sampling

    assert config.model is not None
    model_id = identify(config.model)
    model, seeds = open_model(model_id.path, model_id.digest), self_instruct.read_seeds(config.seeds)
    sieve = self_instruct.Sieve(seeds)
    made: list[self_instruct.Task] = []
    with log.progress("synthesize.instruct", config.instructions, "instructions") as bar:
        for first in range(0, ATTEMPTS * config.instructions, TASKS_AT_ONCE):
            count = min(TASKS_AT_ONCE, config.instructions - len(made))
            if count <= 0:
                break
            rngs = [_rng(config, "instruct", first + number) for number in range(count)]
            asked = [self_instruct.ask_for_task(seeds, made, rng) for rng in rngs]
            sampling = Sampling(config.max_tokens, config.temperature, seed=config.seed, first=first)
            written = [turn.text.strip() for turn in model.respond(asked, sampling)]
            passed = [instruction for instruction in written if sieve.passes(instruction)]
            answers = model.respond(list(map(self_instruct.ask_for_answer, passed)), sampling) if passed else []
            answered = zip(passed, (turn.text.strip() for turn in answers), strict=True)
            tasks = [self_instruct.Task(*pair) for pair in answered if sieve.answers(*pair)]
            made += tasks
            bar.advance(len(tasks))
    rejected.update(sieve.rejected)
    return [self_instruct.trace(task, number, model_id.digest) for number, task in enumerate(made)]


def _unlike_evaluations(traces: Sequence[Trace], policy: ContaminationPolicy, rejected: Counter[str]) -> list[Trace]:
    """Leave out traces in which a user asks what an evaluation asks: short prompts are no quotation of a whole text."""
    if not policy.benchmarks:
        return list(traces)
    guard = Guard(policy)
    kept = [
        trace
        for trace in traces
        if not any(turn.role == "user" and guard(turn.text.encode()) is not None for turn in trace.turns)
    ]
    if len(kept) < len(traces):
        rejected[CONTAMINATED] += len(traces) - len(kept)
    return kept


def preview(config: SynthesizeConfig) -> list[str]:
    """Say how many traces of each kind would be made."""
    _check(config)
    quotas = quotas_of(config.number, config.kinds)
    shares = ", ".join(f"{kind} {quota:,}" for kind, quota in quotas.items())
    more = [f"asks the model for {counted(config.instructions, 'instruction')}"] if config.model is not None else []
    return [f"makes   {shares}", *more]
