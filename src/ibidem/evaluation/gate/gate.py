"""The release gate: yes or no, with the evidence: `ibidem gate --evaluate --config configs/evaluation/gate.yaml`.

    PASS            the figure is shown to be good enough: the exact one-sided 95 % bound reaches the target
    FAIL            it is shown not to be: the bound on the other side misses the target
    INSUFFICIENT    neither is shown: too few items, too little agreement, or no evidence
    REFUSED         the evidence is damaged, edited, of another checkpoint, or not what it should be

Weights from outside add a criterion: their license (see `outside`).
All criteria must pass. An exception, signed by name, allows a criterion to be FAIL or INSUFFICIENT; it stays visible,
and it does not apply to evidence that is missing or was refused. `checks` decides which evidence counts: no figure is
taken from results.json. A problem that occurs in the training data counts as failed. What was supplied in a file counts
only with `accept_supplied`.

A seal shows whether evidence was changed, not who made it. With `--evaluate` the gate makes the evidence itself, from
nothing, wherever no people are needed; other evidence counts if someone has signed it whom the policy names. The page,
the card and the decision name the digest of the policy: whoever may change the policy decides what is released.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.config import resolved
from ibidem.errors import ConfigError, GateFailed
from ibidem.evaluation import evidence
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.gate.checks import (
    BENCHMARK,
    Checked,
    Refusal,
    is_supplied,
    open_evidence,
    settings_due,
)
from ibidem.evaluation.gate.config import GateConfig, policy
from ibidem.evaluation.gate.criteria import Finding, Verdict, judge_criterion
from ibidem.evaluation.gate.outside import METRIC, judge_outside
from ibidem.evaluation.gate.page import card, page
from ibidem.evaluation.gate.statements import about_decision
from ibidem.evaluation.published import title
from ibidem.evaluation.task import Task
from ibidem.figures import percent
from ibidem.inference.model_id import ModelId, identify
from ibidem.sandbox.config import SandboxConfig
from ibidem.signatures import Envelope, open_key, sign

KIND = "decision"
RELEASE, BLOCK = "RELEASE", "BLOCK"
DECISION, PAGE, CARD = "gate.json", "gate.html", "MODEL_CARD.md"


def gate(config: GateConfig) -> str:
    """Judge every criterion, write the decision, the page and the model card.

    Raises:
        GateFailed: the checkpoint must not be released.
        CheckpointError: the checkpoint is damaged.
        ArtifactError: something that is not a decision is at `output_dir`.
    """
    artifacts.check_replaceable(config.output_dir, KIND)
    key = open_key(config.sign_with) if config.sign_with else None  # before the work, not after it
    model_id = identify(config.checkpoint)
    artifacts.discard(config.output_dir)  # an earlier decision does not outlive a gate that fails
    ours = evaluate(config) if config.evaluate else {}
    keys = dict.fromkeys(criterion.evidence for criterion in config.criteria.values())
    found = {name: open_evidence(config, name, model_id.digest, ours.get(name)) for name in keys}
    findings = judge_outside(model_id, config)
    with log.progress("gate", len(config.criteria), "criteria") as bar:
        for name, criterion in config.criteria.items():
            findings.append(judge_criterion(name, criterion, found[criterion.evidence], config))
            bar.advance()
    record = _record(config, model_id, findings, found)
    _write(config, model_id, record, found, sign(about_decision(record), key) if key else None)
    log.event("gate.decided", decision=record["decision"], checkpoint=str(model_id.path))
    summary = "\n".join([*map(_line, findings), f"{record['decision']}: {config.output_dir / PAGE}"])
    if record["decision"] == BLOCK:
        raise GateFailed(summary)
    return summary


def evaluate(config: GateConfig) -> dict[str, str]:
    """Evaluate the checkpoint with the policy's settings, from nothing, wherever no people are needed.

    Returns:
        The digests of the evaluations, by key of the evidence.

    Raises:
        ConfigError: a task is unknown, or the policy does not fit it.
    """
    chosen = {key: _tree(config, key, task) for key, task in _to_evaluate(config).items()}  # before the work begins
    digests = {}
    for key, (task, tree) in chosen.items():
        evidence.discard(config.evidence[key])
        log.event("gate.evaluated", evidence=key, said=task(tree))
        digests[key] = artifacts.load(config.evidence[key]).digest
    return digests


def _to_evaluate(config: GateConfig) -> dict[str, Task]:
    task_of_key = {criterion.evidence: criterion.task for criterion in config.criteria.values()}
    if unknown := sorted(set(task_of_key.values()) - set(tasks.TASKS)):
        raise ConfigError(f"the task {unknown[0]!r} of a criterion is unknown; tasks: {', '.join(tasks.TASKS)}")
    found = {key: tasks.TASKS[name] for key, name in task_of_key.items() if key in config.benchmarks}
    return {key: task for key, task in found.items() if task.evaluate is not None}


def _tree(config: GateConfig, key: str, task: Task) -> tuple[Callable[[Mapping[str, Any]], str], dict[str, Any]]:
    """Return the function that evaluates, and its settings: the policy's, and where to read and write."""
    assert task.evaluate is not None
    if key not in config.evidence:
        raise ConfigError(f"evidence.{key} is not set: --evaluate writes the evaluation there")
    try:
        settings = settings_due(config, key, task)
    except Refusal as refusal:
        raise ConfigError(f"settings.{key}: {refusal}") from None
    place = {task.place: config.benchmarks[key], "checkpoint": config.checkpoint}
    sandbox = {field.name: getattr(config, field.name) for field in fields(SandboxConfig)} if task.rejudge else {}
    return task.evaluate, {**settings, **sandbox, **place, "output_dir": config.evidence[key]}


def policy_digest(config: GateConfig) -> str:
    """Return the digest of what every release under this policy must fulfill, without paths."""
    tree = policy(resolved(config))
    places = {name for task in tasks.TASKS.values() for name in task.places}
    for key, settings in tree["settings"].items():
        paths = {*config.pins.get(key, {}), *places}
        tree["settings"][key] = {name: value for name, value in settings.items() if name not in paths}
    for criterion in tree["criteria"].values():
        criterion["baseline"] = (criterion["baseline"] or {}) | {"evidence": None}
    return "sha256:" + hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _record(
    config: GateConfig, model_id: ModelId, findings: Sequence[Finding], found: Mapping[str, Checked | Refusal]
) -> dict[str, Any]:
    released = all(finding.verdict is Verdict.PASS or finding.exception for finding in findings)
    return {
        "decision": RELEASE if released else BLOCK,
        "checkpoint": model_id.path.name,
        "checkpoint_digest": model_id.digest,
        "policy_digest": policy_digest(config),
        "decided": datetime.now(UTC).isoformat(timespec="seconds"),
        "criteria": [asdict(finding) for finding in findings],
        "evidence": {key: _about(config, key, each) for key, each in found.items() if isinstance(each, Checked)},
    }


def _write(
    config: GateConfig,
    model_id: ModelId,
    record: Mapping[str, Any],
    found: Mapping[str, Checked | Refusal],
    signature: Envelope | None,
) -> None:
    """Write the decision, the page, the card and the signature as one artifact: all of them appear, or none."""
    checkpoint: Artifact | None = artifacts.load(model_id.path) if model_id.is_checkpoint else None
    evaluations = {key: each.evaluation for key, each in found.items() if isinstance(each, Checked)}
    texts = {
        DECISION: json.dumps(record, ensure_ascii=False, indent=1) + "\n",
        PAGE: page(record),
        CARD: card(record, checkpoint, evaluations),
        **({artifacts.SIGNATURE: json.dumps(signature, indent=1) + "\n"} if signature else {}),
    }
    inputs: list[Input] = [
        model_id.as_input(of=config.output_dir),
        *(each.artifact.as_input(key, of=config.output_dir) for key, each in evaluations.items()),
    ]
    tree = {"policy": record["policy_digest"]}
    with artifacts.create(config.output_dir, kind=KIND, config=tree, inputs=inputs) as draft:
        for name, text in texts.items():
            (draft.path / name).write_text(text, encoding="utf-8")
        draft.counts = {"decision": record["decision"], "criteria": len(record["criteria"])}


def _about(config: GateConfig, key: str, checked: Checked) -> dict[str, object]:
    """Return what was measured, how, and who vouches for it."""
    task, made_with = tasks.task_of(checked.evaluation), checked.evaluation.artifact.config
    pinned = config.pins[key][BENCHMARK]
    return {
        "task": task.name,
        "digest": checked.evaluation.artifact.digest,
        "benchmark": title(pinned) or Path(config.benchmarks[key]).name,
        "benchmark_digest": pinned,
        "made_by": checked.made_by,
        "answers": "supplied in a file" if is_supplied(checked.evaluation) else "made by the checkpoint",
        "settings": {name: made_with[name] for name in task.settings},
    }


def _line(finding: Finding) -> str:
    excepted = f" [EXCEPTION by {finding.exception}]" if finding.exception else ""
    point = f"{percent(finding.point)}, " if finding.metric != METRIC else ""
    return f"{finding.verdict:<12}  {finding.criterion}: {point}required {finding.target}; {finding.reason}{excepted}"
