"""Does evidence count? It is read, its figures are recounted, and its making is checked against the policy.

who made it          this gate, a signer of the policy, or nobody knows, where the policy accepts that
of what              this checkpoint, and the whole benchmark whose digest the policy names
how                  with exactly the policy's settings
with which outcome   counted again from the items; programs and claims are judged again
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ibidem import artifacts
from ibidem.errors import ArtifactError, IbidemError, SignatureError
from ibidem.evaluation import evidence
from ibidem.evaluation.evidence import Evidence, benchmark_digest
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.gate.config import GateConfig
from ibidem.evaluation.gate.statements import about_evaluation
from ibidem.evaluation.published import PUBLISHED
from ibidem.evaluation.task import Task
from ibidem.figures import counted
from ibidem.files import is_file
from ibidem.jsonl import Row
from ibidem.signatures import verify

BENCHMARK = "benchmark"
BENCHMARK_ROLES = {BENCHMARK, "prompts"}
SUPPLIED_ROLES = {"samples", "predictions"}
LONGEST_REASON = 400
NOT_AN_EVALUATION = (KeyError, TypeError, ValueError, AttributeError)  # what reading a forged row raises


class Refusal(Exception):  # noqa: N818 - it is not an error of the program
    """The evidence does not count; the reason is one printable line, whatever the evidence says."""

    def __init__(self, reason: str) -> None:
        line = "".join(char for char in " ".join(reason.split()) if char.isprintable())
        super().__init__(line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}...")


class Absence(Refusal):
    """There is no evidence."""


@dataclass(frozen=True)
class Checked:
    """Evidence that counts."""

    evaluation: Evidence
    made_by: str
    """Who vouches for it."""


def open_evidence(config: GateConfig, key: str, digest: str, ours: str | None) -> Checked | Refusal:
    """Read evidence of the checkpoint with a digest and check it, or return why it does not count.

    Args:
        config: the gate's configuration.
        key: key of the evidence.
        digest: digest of the checkpoint.
        ours: digest of the evaluation that this gate has made just now, if it has.
    """
    if key not in config.evidence:
        return Absence(f"no evidence {key!r} was given; set evidence.{key}")
    if not config.evidence[key].exists():
        return Absence(f"there is no evaluation at {config.evidence[key]}")
    try:
        evaluation = tasks.recounted(evidence.read(config.evidence[key]))
        if evaluation.checkpoint_digest != digest or evaluation.results.get("checkpoint_digest") != digest:
            return Refusal(f"it is of another checkpoint: {evaluation.checkpoint_digest or 'none is named'}")
        task = next(each.task for each in config.criteria.values() if each.evidence == key)
        if evaluation.task != task:
            return Refusal(f"it is an evaluation of {evaluation.task}, not of {task}")
        made_by = "this gate" if evaluation.artifact.digest == ours else _signed_by(config, key, evaluation)
        check_making(config, key, evaluation)
        return Checked(evaluation, made_by)
    except Refusal as refusal:
        return refusal
    except ArtifactError as error:
        return Refusal(str(error))
    except IbidemError:
        raise
    except NOT_AN_EVALUATION as error:
        return Refusal(f"the evidence is malformed: {error!r}")


def check_making(config: GateConfig, key: str, evaluation: Evidence) -> None:
    """Check that evidence covers the pinned benchmark with the policy's settings; judge programs and claims again.

    Raises:
        Refusal: it does not.
    """
    if key not in config.benchmarks:
        raise Refusal(f"its benchmark cannot be checked: set benchmarks.{key}")
    task, place = tasks.task_of(evaluation), config.benchmarks[key]
    due = settings_due(config, key, task)
    rows = _pinned_rows(config, key, task, due)
    used = {item.digest for item in evaluation.artifact.inputs if item.role in BENCHMARK_ROLES}
    if used != {config.pins[key][BENCHMARK]}:
        raise Refusal(f"it is of another benchmark than {place}, or only of a part of it")
    if (limit := evaluation.artifact.config.get("limit")) is not None:
        raise Refusal(f"it was made with --limit {limit}: only the whole benchmark counts")
    _check_settings(config, key, task, due, evaluation.artifact.config)
    if differs := task.differs(evaluation, rows, due):
        raise Refusal(differs)
    if task.rejudge and (wrong := task.rejudge(evaluation, rows, due, config)):
        raise Refusal(f"{counted(len(wrong), 'outcome is', 'outcomes are')} missing or unlike the judge's: {wrong[0]}")


def settings_due(config: GateConfig, key: str, task: Task) -> dict[str, Any]:
    """Return the settings that evidence must be made with: those of the policy, and the defaults of all others.

    Raises:
        Refusal: the evaluation has no such setting.
    """
    named = config.settings.get(key, {})
    known = {**task.settings, **task.places}
    if unknown := sorted(set(named) - set(known)):
        raise Refusal(f"{task.name} has no setting {unknown[0]}; it has {', '.join(known)}")
    return {**known, **{name: _typed(value, known[name]) for name, value in named.items()}}


def pins_due(rows: Sequence[Row], task: Task, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of a benchmark's rows and of the files that the settings name.

    Raises:
        Refusal: the benchmark asks the same twice, and is not a published one; or a setting is no name of a file.
        IbidemError: a file cannot be read.
    """
    digest = benchmark_digest(rows)
    asked = Counter(" ".join(json.dumps(task.asks(row), sort_keys=True).casefold().split()) for row in rows)
    repeated = next((text for text, count in asked.items() if count > 1), None)
    if repeated is not None and digest not in PUBLISHED:
        raise Refusal(f"the benchmark asks the same more than once: {repeated[:80]}")
    files = {name: settings[name] for name in task.digests if settings[name] != task.settings[name]}
    if wrong := next((name for name, value in files.items() if not isinstance(value, str)), None):
        raise Refusal(f"the setting {wrong} must name a file or folder, not {files[wrong]!r}")
    return {BENCHMARK: digest, **{name: task.digests[name](value) for name, value in files.items()}}


def is_supplied(evaluation: Evidence) -> bool:
    """Return whether the answers came in a file."""
    return any(item.role in SUPPLIED_ROLES for item in evaluation.artifact.inputs)


def _pinned_rows(config: GateConfig, key: str, task: Task, settings: Mapping[str, Any]) -> Sequence[Row]:
    """Read the benchmark once, check its pins, and return its rows."""
    place = config.benchmarks[key]
    try:
        rows = task.benchmark(place)
        due = pins_due(rows, task, settings)
    except (OSError, IbidemError) as error:
        raise Refusal(f"benchmarks.{key} is not a benchmark of {task.name}: {error}") from None
    pinned = config.pins.get(key, {})
    if unused := sorted(set(pinned) - set(due)):
        raise Refusal(f"pins.{key}.{unused[0]} is set, but settings.{key}.{unused[0]} is not")
    for name, digest in due.items():
        if name not in pinned:
            raise Refusal(f"its {name} is not pinned: ibidem gate pin --policy FILE writes pins.{key}")
        if pinned[name] != digest:
            raise Refusal(f"the {name} at hand is not the pinned one: {digest}, not {pinned[name]}")
    return rows


def _check_settings(
    config: GateConfig, key: str, task: Task, due: Mapping[str, Any], made_with: Mapping[str, Any]
) -> None:
    judged = {name: due[name] for name in task.settings}
    files = {name: config.pins[key].get(name, due[name]) for name in task.digests}
    limits = {"cpu_s": config.cpu_s, "memory_mb": config.memory_mb} if task.rejudge else {}
    for name, value in {**judged, **files, **limits}.items():
        if name not in made_with or not _equal(made_with[name], value):
            raise Refusal(f"it was made with {name} {made_with.get(name)!r}, not {value!r}")


def _signed_by(config: GateConfig, key: str, evaluation: Evidence) -> str:
    """Return who vouches for evidence that this gate has not made.

    Raises:
        Refusal: nobody who may, and the policy does not accept that.
    """
    file = evaluation.artifact.path / artifacts.SIGNATURE
    names = {signer.key: name for name, signer in config.signers.items() if key in signer.evidence}
    is_signed = is_file(file)
    if is_signed and names:
        try:
            statement, keys = verify(json.loads(file.read_text(encoding="utf-8")), names)
        except (OSError, ValueError, RecursionError, AttributeError, SignatureError) as error:
            raise Refusal(f"its signature does not count: {error}") from None
        if statement != about_evaluation(evaluation):
            raise Refusal("its signature is of another evaluation")
        return ", ".join(names[each] for each in keys)
    if key in config.unsigned:
        return "unsigned"
    if is_signed:
        raise Refusal("it is signed, but no signer of the policy may sign it")
    raise Refusal(
        f"it is unsigned: use --evaluate, have one of signers sign it (ibidem sign), or name {key} in unsigned"
    )


def _typed(value: object, default: object) -> Any:
    """Return a setting of a YAML file, which is text, as the type of its default.

    >>> _typed("0.5", 0.75), _typed("letter", "text"), _typed(["a"], ["b"]), _typed(["0", "0.8"], [1.0])
    (0.5, 'letter', ['a'], [0, 0.8])
    """
    if isinstance(value, str) and not isinstance(default, str | None):
        try:
            return json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list | tuple):
        return [_typed(each, default[0] if isinstance(default, list) and default else "") for each in value]
    return value


def _equal(made_with: object, due: object) -> bool:
    return made_with == due and isinstance(made_with, bool) == isinstance(due, bool)
