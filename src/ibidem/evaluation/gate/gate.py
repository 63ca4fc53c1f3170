"""The release gate: yes or no, with the evidence: `ibidem gate --config configs/evaluation/gate.yaml`.

    PASS            the figure is shown to be good enough: the exact one-sided 95 % bound reaches the target
    FAIL            it is shown not to be: the bound on the other side misses the target
    INSUFFICIENT    neither is shown: too few items, too little agreement, or no evidence
    REFUSED         the evidence is damaged, edited, of another checkpoint, or not what it should be

All criteria must pass. An exception, signed by name, allows a criterion to be FAIL or INSUFFICIENT; it stays visible,
and it does not apply to evidence that is missing or was refused. No figure is taken from results.json: it is recomputed
from the items, programs are judged again, and choices are compared with the benchmark's answers. Each evaluation must
cover the exact benchmark that the gate names, in full, and use the exact settings.

A seal shows whether evidence was changed, not who made it: whoever can forge a whole bundle can also invent what a
model chose. If that is a risk, run the evaluations on the gate's own machine. What was supplied in a file counts only
with `accept_supplied`. The gate does not check which problems occur in the training data, or how often the entailment
judge agreed with people; it relies on the evaluation for both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from enum import StrEnum

from ibidem import artifacts, log
from ibidem.artifacts import Artifact
from ibidem.errors import ArtifactError, GateFailed, IbidemError
from ibidem.evaluation import evidence
from ibidem.evaluation.evidence import Evidence
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.gate.config import Criterion, GateConfig
from ibidem.evaluation.gate.page import card, page
from ibidem.evaluation.task import Demand
from ibidem.figures import percent
from ibidem.files import write_file
from ibidem.inference.model_id import ModelId, identify
from ibidem.statistics import bootstrap_lower_bound, least_passes, mean_lower_bound

RELEASE, BLOCK = "RELEASE", "BLOCK"
BENCHMARK_ROLES = {"benchmark", "prompts"}
NOT_SETTINGS = {"task", "output_dir", "checkpoint", "samples", "predictions", "problems", "data", "responses"}
SUPPLIED_ROLES = {"samples", "predictions"}
NOT_AN_EVALUATION = (KeyError, TypeError, ValueError, AttributeError)  # what reading a forged row raises


class Verdict(StrEnum):
    """The gate's decision on a criterion."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INSUFFICIENT = "INSUFFICIENT"
    REFUSED = "REFUSED"


@dataclass(frozen=True)
class Finding:
    """The verdict on one criterion, and its basis."""

    criterion: str
    verdict: Verdict
    reason: str
    metric: str
    target: str
    point: float | None = None
    """The figure itself; the bounds decide, not this."""
    lower: float | None = None
    upper: float | None = None
    items: int = 0
    evidence: str | None = None
    """Digest of the evaluation."""
    exception: str | None = None
    """Who is responsible for it, and why."""


@dataclass(frozen=True)
class Missing:
    """Why there is no evidence that counts."""

    verdict: Verdict
    reason: str


class Refusal(Exception):  # noqa: N818 - it is not an error of the program
    """The evidence does not count."""


def gate(config: GateConfig) -> str:
    """Judge every criterion, write the decision, the page and the model card.

    Raises:
        GateFailed: the checkpoint must not be released.
        CheckpointError: the checkpoint is damaged.
    """
    artifacts.check_outside(config.output_dir / "gate.json")
    model_id = identify(config.checkpoint)
    evaluations = {
        key: _open(config, key, model_id.digest) for key in dict.fromkeys(c.evidence for c in config.criteria.values())
    }
    findings = []
    with log.progress("gate", len(config.criteria), "criteria") as bar:
        for name, criterion in config.criteria.items():
            findings.append(_except(config, judge_criterion(name, criterion, evaluations[criterion.evidence], config)))
            bar.advance()
    counted = {key: each for key, each in evaluations.items() if isinstance(each, Evidence)}
    decision = RELEASE if all(finding.verdict is Verdict.PASS or finding.exception for finding in findings) else BLOCK
    record = {
        "decision": decision,
        "checkpoint": config.checkpoint.name,
        "checkpoint_digest": model_id.digest,
        "decided": datetime.now(UTC).isoformat(timespec="seconds"),
        "criteria": [asdict(finding) for finding in findings],
        "evidence": {key: _about(config, key, each) for key, each in counted.items()},
    }
    _write(config, model_id, record, counted)
    log.event("gate.decided", decision=decision, checkpoint=str(config.checkpoint))
    summary = "\n".join([*map(_line, findings), f"{decision}: {config.output_dir / 'gate.html'}"])
    if decision is BLOCK:
        raise GateFailed(summary)
    return summary


def judge_criterion(name: str, criterion: Criterion, evaluation: Evidence | Missing, config: GateConfig) -> Finding:
    """Judge one criterion by its evidence, or by the reason why there is none."""
    target = _target(criterion)
    if isinstance(evaluation, Missing):
        return Finding(name, evaluation.verdict, evaluation.reason, criterion.metric, target)
    try:
        trials = _trials(criterion, evaluation)
        digest = evaluation.artifact.digest
        about = {"metric": criterion.metric, "target": target, "items": len(trials), "evidence": digest}
        if doubt := _doubt(criterion, evaluation, trials, config):
            return Finding(name, Verdict.INSUFFICIENT, doubt, point=evidence.mean(list(trials.values())), **about)  # type: ignore[arg-type]
        return _compare(Finding(name, Verdict.INSUFFICIENT, "", **about), criterion, trials, evaluation, config)  # type: ignore[arg-type]
    except (Refusal, ArtifactError) as refusal:
        reason = str(refusal)
    except IbidemError:
        raise
    except NOT_AN_EVALUATION as error:
        reason = f"the evidence is malformed: {error!r}"
    return Finding(name, Verdict.REFUSED, reason, criterion.metric, target, evidence=evaluation.artifact.digest)


def _compare(
    finding: Finding, criterion: Criterion, trials: Mapping[str, float], evaluation: Evidence, config: GateConfig
) -> Finding:
    """Compare the bounds of the figure, or of its difference from the baseline's, with the target."""
    scores, least, what, seed = list(trials.values()), criterion.at_least, "", config.seed
    point = evidence.mean(scores)
    if criterion.baseline is not None and criterion.baseline.evidence is not None:
        scores = _differences(criterion, trials, evaluation, config)
        lower, upper = bootstrap_lower_bound(scores, seed=seed), -bootstrap_lower_bound([-s for s in scores], seed=seed)
        least, what = -criterion.margin, f" better than {criterion.baseline.name}"
    else:
        lower, upper = mean_lower_bound(scores), 1 - mean_lower_bound([1 - s for s in scores])
        if criterion.baseline is not None and criterion.baseline.published is not None:
            least = criterion.baseline.published - criterion.margin
    if criterion.below is not None:
        shown, refuted = upper < criterion.below, lower >= criterion.below
        bound = f"at least {percent(lower)}" if refuted else f"at most {percent(upper)}"
    else:
        assert least is not None
        shown, refuted = lower >= least, upper < least
        bound = f"at most {percent(upper)}" if refuted else f"at least {percent(lower)}"
    reason = f"{bound}{what}, with 95 % confidence"
    verdict = Verdict.PASS if shown else Verdict.FAIL if refuted else Verdict.INSUFFICIENT
    if verdict is Verdict.INSUFFICIENT:
        reason += _remedy(criterion, scores, least)
    return replace(finding, verdict=verdict, reason=reason, point=point, lower=lower, upper=upper)


def _remedy(criterion: Criterion, scores: Sequence[float], least: float | None) -> str:
    n = len(scores)
    if criterion.baseline is not None and criterion.baseline.evidence is not None:
        return f": {n} pairs are too few to decide"
    if not set(scores) <= {0, 1}:
        return f": {n} items are too few to decide"
    share = 1 - criterion.below if criterion.below is not None else least or 0.0
    needed = least_passes(n, share)
    return f": {n} items are too few to show it" if needed is None else f": {needed} of {n} items must be good"


def _differences(
    criterion: Criterion, trials: Mapping[str, float], evaluation: Evidence, config: GateConfig
) -> list[float]:
    """Subtract the baseline's scores; its evidence must pass the same checks, for another model on the same items."""
    assert criterion.baseline is not None
    assert criterion.baseline.evidence is not None
    theirs = _recounted(evidence.read(criterion.baseline.evidence))
    if theirs.checkpoint_digest == evaluation.checkpoint_digest:
        raise Refusal("the baseline's evidence is of the checkpoint itself")
    if theirs.task != evaluation.task:
        raise Refusal(f"the baseline's evidence is of {theirs.task}, not of {evaluation.task}")
    _check_making(config, criterion.evidence, theirs)
    scores = tasks.trials(theirs, criterion.metric) or {}
    if not set(trials) <= set(scores):
        raise Refusal(f"the baseline's evidence {criterion.baseline.evidence} is not of the same items")
    return [score - scores[key] for key, score in trials.items()]


def _open(config: GateConfig, key: str, digest: str) -> Evidence | Missing:
    """Read evidence and check it, or return why it does not count."""
    if key not in config.evidence:
        return Missing(Verdict.INSUFFICIENT, f"no evidence {key!r} was given; set evidence.{key}")
    if not config.evidence[key].exists():
        return Missing(Verdict.INSUFFICIENT, f"there is no evaluation at {config.evidence[key]}")
    try:
        return _checked(config, key, digest)
    except (Refusal, ArtifactError) as refusal:
        return Missing(Verdict.REFUSED, str(refusal))
    except IbidemError:
        raise
    except NOT_AN_EVALUATION as error:
        return Missing(Verdict.REFUSED, f"the evidence is malformed: {error!r}")


def _checked(config: GateConfig, key: str, digest: str) -> Evidence:
    evaluation = _recounted(evidence.read(config.evidence[key]))
    if evaluation.checkpoint_digest != digest or evaluation.results.get("checkpoint_digest") != digest:
        raise Refusal(f"it is of another checkpoint: {evaluation.checkpoint_digest or 'none is named'}")
    _check_making(config, key, evaluation)
    return evaluation


def _recounted(evaluation: Evidence) -> Evidence:
    """Recompute every figure from the items."""
    counted = tasks.measure(evaluation)
    figures = set(evaluation.artifact.counts) - {"items"}
    if any(key not in counted or not _same(evaluation.results.get(key), counted[key]) for key in figures):
        raise Refusal("its figures do not follow from its items: it was edited")
    return evaluation


def _check_making(config: GateConfig, key: str, evaluation: Evidence) -> None:
    """Check that an evaluation covers the benchmark and has the settings that the gate names; judge programs again."""
    if key not in config.benchmarks:
        raise Refusal(f"its benchmark cannot be checked: set benchmarks.{key}")
    task, place = tasks.task_of(evaluation), config.benchmarks[key]
    try:
        due = {item.digest for item in task.benchmark(place)}
    except (OSError, IbidemError) as error:
        raise Refusal(f"benchmarks.{key} is not a benchmark of {evaluation.task}: {error}") from None
    used = {item.digest for item in evaluation.artifact.inputs if item.role in BENCHMARK_ROLES}
    if used != due:
        raise Refusal(f"it is of another benchmark than {place}, or only of a part of it")
    if differs := task.differs(evaluation, place):
        raise Refusal(f"{differs} is missing, or differs from {place}")
    limits = {"cpu_s": config.cpu_s, "memory_mb": config.memory_mb} if task.rejudge else {}
    for name, value in {**config.settings.get(key, {}), **limits}.items():
        if name not in evaluation.artifact.config:
            raise Refusal(f"{evaluation.task} has no setting {name}")
        if not _is_setting(made_with := evaluation.artifact.config[name], value):
            raise Refusal(f"it was made with {name} {made_with!r}, not {value!r}")
    if task.rejudge and (wrong := task.rejudge(evaluation, place, config)):
        raise Refusal(f"{len(wrong)} outcomes are missing or differ from the judge's, the first of them {wrong[0]}")


def _is_setting(made_with: object, due: object) -> bool:
    """Return whether a setting has the required value, which a YAML file holds as text.

    >>> _is_setting(0.5, "0.5"), _is_setting(["a"], ["a"]), _is_setting(5, "4")
    (True, True, False)
    """
    if isinstance(due, str) and not isinstance(made_with, str):
        try:
            due = json.loads(due)
        except ValueError:
            return False
    return made_with == due and isinstance(made_with, bool) == isinstance(due, bool)


def _trials(criterion: Criterion, evaluation: Evidence) -> dict[str, float]:
    if evaluation.task != criterion.task:
        raise Refusal(f"it is an evaluation of {evaluation.task}, not of {criterion.task}")
    trials = tasks.trials(evaluation, criterion.metric)
    if trials is None:
        raise Refusal(
            f"this evaluation has no figure {criterion.metric}; it has {', '.join(tasks.measure(evaluation))}"
        )
    if not all(0 <= score <= 1 for score in trials.values()):
        raise Refusal("its scores are not between 0 and 1")
    return trials


def _doubt(criterion: Criterion, evaluation: Evidence, trials: Mapping[str, float], config: GateConfig) -> str | None:
    """Return why figures do not count although the evidence is intact."""
    if not config.accept_supplied and _is_supplied(evaluation):
        return "its answers were supplied in a file: only the file claims that this checkpoint wrote them"
    if len(trials) < criterion.least_items:
        return f"{len(trials)} items; {criterion.least_items} are required"
    if tasks.task_of(evaluation).is_published and not evaluation.results.get("contamination"):
        return "whether the model was trained on the problems is NOT MEASURED"
    return tasks.task_of(evaluation).doubt(
        evaluation, Demand(criterion.metric, criterion.least_agreement, criterion.least_calibration)
    )


def _except(config: GateConfig, finding: Finding) -> Finding:
    signed = config.exceptions.get(finding.criterion)
    if signed is None or finding.evidence is None or finding.verdict in {Verdict.PASS, Verdict.REFUSED}:
        return finding
    if signed.until < date.today():  # noqa: DTZ011 - a day of the person who signed
        return replace(finding, reason=f"{finding.reason}; the exception by {signed.by} ended on {signed.until}")
    return replace(finding, exception=f"{signed.by}, until {signed.until}: {signed.reason}")


def _write(
    config: GateConfig, model_id: ModelId, record: Mapping[str, object], evaluations: Mapping[str, Evidence]
) -> None:
    checkpoint: Artifact | None = artifacts.load(model_id.path) if model_id.is_checkpoint else None
    text = json.dumps(record, ensure_ascii=False, indent=1)
    write_file(config.output_dir / "gate.json", text + "\n")
    write_file(config.output_dir / "gate.html", page(record))
    write_file(config.output_dir / "MODEL_CARD.md", card(record, checkpoint, evaluations))


def _target(criterion: Criterion) -> str:
    if criterion.at_least is not None:
        return f"at least {percent(criterion.at_least)}"
    if criterion.below is not None:
        return f"below {percent(criterion.below)}"
    assert criterion.baseline is not None
    published = criterion.baseline.published
    figure = f", {percent(published)} ({criterion.baseline.source})" if published is not None else ""
    margin = f" less {percent(criterion.margin)}" if criterion.margin else ""
    return f"at least {criterion.baseline.name}{figure}{margin}"


def _about(config: GateConfig, key: str, evaluation: Evidence) -> dict[str, object]:
    """Return what was measured, and how."""
    settled = {name: value for name, value in evaluation.artifact.config.items() if name not in NOT_SETTINGS}
    return {
        "task": evaluation.task,
        "digest": evaluation.artifact.digest,
        "benchmark": config.benchmarks[key],
        "answers": "supplied in a file" if _is_supplied(evaluation) else "made by the checkpoint",
        "settings": settled,
    }


def _is_supplied(evaluation: Evidence) -> bool:
    return any(item.role in SUPPLIED_ROLES for item in evaluation.artifact.inputs)


def _line(finding: Finding) -> str:
    excepted = f" [EXCEPTION by {finding.exception}]" if finding.exception else ""
    point = percent(finding.point)
    return f"{finding.verdict:<12}  {finding.criterion}: {point}, required {finding.target}; {finding.reason}{excepted}"


def _same(claimed: object, counted: float | None) -> bool:
    if counted is None or isinstance(claimed, bool) or not isinstance(claimed, int | float):
        return claimed is None and counted is None
    return abs(claimed - counted) <= 1e-9
