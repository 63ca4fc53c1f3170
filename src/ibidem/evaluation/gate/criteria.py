"""One criterion of the gate: the bound of its figure against the target, and what speaks against the evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from typing import Any

from ibidem.errors import ArtifactError, IbidemError
from ibidem.evaluation import evidence
from ibidem.evaluation.evidence import Evidence
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.gate.checks import (
    NOT_AN_EVALUATION,
    Absence,
    Checked,
    Refusal,
    check_making,
    is_supplied,
)
from ibidem.evaluation.gate.config import Criterion, GateConfig
from ibidem.evaluation.task import Demand
from ibidem.figures import counted, percent
from ibidem.statistics import bootstrap_lower_bound, least_passes, mean_bounds


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


def judge_criterion(name: str, criterion: Criterion, found: Checked | Refusal, config: GateConfig) -> Finding:
    """Judge one criterion by its evidence, or by the reason why none counts; apply its exception."""
    return _except(config, _judge(name, criterion, found, config))


def _judge(name: str, criterion: Criterion, found: Checked | Refusal, config: GateConfig) -> Finding:
    target = _target(criterion)
    if isinstance(found, Refusal):
        verdict = Verdict.INSUFFICIENT if isinstance(found, Absence) else Verdict.REFUSED
        return Finding(name, verdict, str(found), criterion.metric, target)
    evaluation = found.evaluation
    try:
        trials = _trials(criterion, evaluation)
        digest = evaluation.artifact.digest
        about: dict[str, Any] = {
            "metric": criterion.metric,
            "target": target,
            "items": len(trials),
            "evidence": digest,
        }
        if doubt := _doubt(criterion, evaluation, trials, config):
            return Finding(name, Verdict.INSUFFICIENT, doubt, point=evidence.mean(list(trials.values())), **about)
        return _compare(Finding(name, Verdict.INSUFFICIENT, "", **about), criterion, trials, evaluation, config)
    except (Refusal, ArtifactError) as refusal:
        reason = Refusal(str(refusal))
    except IbidemError:
        raise
    except NOT_AN_EVALUATION as error:
        reason = Refusal(f"the evidence is malformed: {error!r}")
    return Finding(name, Verdict.REFUSED, str(reason), criterion.metric, target, evidence=evaluation.artifact.digest)


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
        lower, upper = mean_bounds(scores)
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
    if seen := len(tasks.seen_in_training(evaluation) & trials.keys()):
        reason += f"; {counted(seen, 'item occurs', 'items occur')} in the training data, counted as failed"
    return replace(finding, verdict=verdict, reason=reason, point=point, lower=lower, upper=upper)


def _remedy(criterion: Criterion, scores: Sequence[float], least: float | None) -> str:
    n = len(scores)
    if criterion.baseline is not None and criterion.baseline.evidence is not None:
        return f": {counted(n, 'pair is', 'pairs are')} too few to decide"
    if not set(scores) <= {0, 1}:
        return f": {counted(n, 'item is', 'items are')} too few to decide"
    share = 1 - criterion.below if criterion.below is not None else least or 0.0
    needed = least_passes(n, share)
    return (
        f": {counted(n, 'item is', 'items are')} too few to show it"
        if needed is None
        else f": {needed} of {counted(n, 'item')} must be good"
    )


def _differences(
    criterion: Criterion, trials: Mapping[str, float], evaluation: Evidence, config: GateConfig
) -> list[float]:
    """Subtract the scores of the baseline: the evidence that the policy names by digest, of the same items."""
    assert criterion.baseline is not None
    assert criterion.baseline.evidence is not None
    theirs = tasks.recounted(evidence.read(criterion.baseline.evidence))
    if theirs.artifact.digest != criterion.baseline.digest:
        raise Refusal(f"the baseline's evidence is {theirs.artifact.digest}, not {criterion.baseline.digest}")
    if theirs.checkpoint_digest == evaluation.checkpoint_digest:
        raise Refusal("the baseline's evidence is of the checkpoint itself")
    if theirs.task != evaluation.task:
        raise Refusal(f"the baseline's evidence is of {theirs.task}, not of {evaluation.task}")
    check_making(config, criterion.evidence, theirs)
    scores = tasks.trials(theirs, criterion.metric) or {}
    if not set(trials) <= set(scores):
        raise Refusal(f"the baseline's evidence {criterion.baseline.evidence} is not of the same items")
    return [score - scores[key] for key, score in trials.items()]


def _trials(criterion: Criterion, evaluation: Evidence) -> dict[str, float]:
    """Return the scores by item; items that occur in the training data have the worst score."""
    trials = tasks.trials(evaluation, criterion.metric)
    if trials is None:
        raise Refusal(
            f"this evaluation has no figure {criterion.metric}; it has {', '.join(tasks.measure(evaluation))}"
        )
    if not all(0 <= score <= 1 for score in trials.values()):
        raise Refusal("its scores are not between 0 and 1")
    worst = 0.0 if criterion.below is None else 1.0
    seen = tasks.seen_in_training(evaluation)
    return {key: worst if key in seen else score for key, score in trials.items()}


def _doubt(criterion: Criterion, evaluation: Evidence, trials: Mapping[str, float], config: GateConfig) -> str | None:
    """Return why figures do not count although the evidence is intact."""
    if not config.accept_supplied and is_supplied(evaluation):
        return "its answers were supplied in a file: only the file claims that this checkpoint wrote them"
    if len(trials) < criterion.least_items:
        return f"{counted(len(trials), 'item')}; {criterion.least_items} are required"
    if tasks.task_of(evaluation).is_published and not evaluation.results.get("contamination"):
        return "whether the model was trained on the problems is NOT MEASURED"
    judged = {each.metric for each in config.criteria.values() if each.evidence == criterion.evidence}
    demand = Demand(criterion.metric, judged, criterion.least_agreement, criterion.least_calibration)
    return tasks.task_of(evaluation).doubt(evaluation, demand)


def _except(config: GateConfig, finding: Finding) -> Finding:
    signed = config.exceptions.get(finding.criterion)
    if signed is None or finding.evidence is None or finding.verdict in {Verdict.PASS, Verdict.REFUSED}:
        return finding
    if signed.until < date.today():  # noqa: DTZ011 - a day of the person who signed
        return replace(finding, reason=f"{finding.reason}; the exception by {signed.by} ended on {signed.until}")
    return replace(finding, exception=f"{signed.by}, until {signed.until}: {signed.reason}")


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
