"""Evaluations and decisions as in-toto statements; the commands `ibidem key` and `ibidem sign`.

Both use the predicate Test Result: the subject is the checkpoint, the configuration is what it was tested with.
Source: https://github.com/in-toto/attestation, spec/predicates/test-result.md, version 0.1.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ibidem import artifacts, log
from ibidem.errors import ArtifactError
from ibidem.evaluation import evidence
from ibidem.evaluation.evidence import Evidence
from ibidem.evaluation.gate import tasks
from ibidem.evaluation.gate.config import KeyConfig, SignConfig
from ibidem.files import is_file, write_file
from ibidem.signatures import TEST_RESULT, Envelope, Statement, create_key, digest_set, open_key, sign, statement

PASSED, WARNED, FAILED = "PASSED", "WARNED", "FAILED"


def make_key(config: KeyConfig) -> str:
    """Create a key and return its public half, for `signers` of a policy."""
    return create_key(config.path)


def sign_evaluation(config: SignConfig) -> str:
    """Sign an evaluation, after rehashing it and recounting its figures; other people's signatures are kept.

    Raises:
        ArtifactError: it is not an evaluation, or it is damaged.
        SignatureError: the signature that is there is of something else.
    """
    evaluation = tasks.recounted(evidence.read(config.path))
    file = config.path / artifacts.SIGNATURE
    envelope = sign(about_evaluation(evaluation), open_key(config.key), _earlier(file))
    write_file(file, json.dumps(envelope, indent=1) + "\n")
    log.event("signed", path=str(config.path), digest=evaluation.artifact.digest)
    return f"{file}: signed {evaluation.task} {evaluation.artifact.digest}"


def about_evaluation(evaluation: Evidence) -> Statement:
    """State an evaluation: its items are the tests; by its first figure, they passed with a full score.

    Raises:
        ArtifactError: it names no checkpoint, or its items are malformed.
    """
    checkpoint = evaluation.checkpoint_digest
    if checkpoint is None:
        raise ArtifactError(f"{evaluation.artifact.path}: it names no checkpoint")
    used = [(item.role, item.digest) for item in evaluation.artifact.inputs if item.role != "checkpoint"]
    figures = tasks.measure(evaluation)
    scores = next(filter(None, (tasks.trials(evaluation, name) for name in figures)), {})
    return _test_result(
        {"checkpoint": checkpoint},
        [(evaluation.task, evaluation.artifact.digest), *used],
        passed=(key for key, score in scores.items() if score == 1),
        failed=(key for key, score in scores.items() if score != 1),
    )  # fmt: skip


def about_decision(record: Mapping[str, Any]) -> Statement:
    """State a decision of the gate: its criteria are the tests; an exception is a warning."""
    used = [("policy", record["policy_digest"]), *((key, each["digest"]) for key, each in record["evidence"].items())]
    results = {
        each["criterion"]: PASSED if each["verdict"] == "PASS" else WARNED if each["exception"] else FAILED
        for each in record["criteria"]
    }
    return _test_result(
        {record["checkpoint"]: record["checkpoint_digest"]}, used,
        passed=(name for name, result in results.items() if result == PASSED),
        failed=(name for name, result in results.items() if result == FAILED),
        warned=(name for name, result in results.items() if result == WARNED),
    )  # fmt: skip


def _test_result(
    subject: Mapping[str, str],
    used: Iterable[tuple[str, str]],
    *,
    passed: Iterable[str],
    failed: Iterable[str],
    warned: Iterable[str] = (),
) -> Statement:
    lost, doubted = sorted(failed), sorted(warned)
    return statement(
        subject,
        TEST_RESULT,
        {
            "result": FAILED if lost else WARNED if doubted else PASSED,
            "configuration": [{"name": name, "digest": digest_set(digest)} for name, digest in used],
            "passedTests": sorted(passed),
            "warnedTests": doubted,
            "failedTests": lost,
        },
    )


def _earlier(file: Path) -> Envelope | None:
    if not is_file(file):
        return None
    try:
        envelope = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: cannot be read: {error}; delete it to sign anew") from None
    if not isinstance(envelope, dict):
        raise ArtifactError(f"{file}: not an envelope; delete it to sign anew")
    return envelope
