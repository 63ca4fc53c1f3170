"""May weights from outside be released? Only under a license that the policy lists.

    a checkpoint that was trained here              nothing is asked
    imported, or trained from what was imported     its license, as `ibidem import` recorded it
    a folder of Hugging Face                        its license, as the folder states it

Exceptions are for criteria of the policy; there is none for a license.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ibidem import artifacts
from ibidem.artifacts import Artifact
from ibidem.data.licenses.policy import LicensePolicy
from ibidem.evaluation.gate.config import GateConfig
from ibidem.evaluation.gate.criteria import Finding, Verdict
from ibidem.inference.model_id import ModelId
from ibidem.inference.weights_license import UNKNOWN, license_of
from ibidem.lineage import walk
from ibidem.modeling.checkpoint import IMPORTED

CRITERION, METRIC = "license of the weights", "license"


class Outside(NamedTuple):
    """Weights that were not trained here."""

    name: str
    license: str
    source: str
    """Who says so."""


def judge_outside(model_id: ModelId, config: GateConfig) -> list[Finding]:
    """Judge the licenses of all weights from outside that a model has; nothing if it has none."""
    found = list(dict.fromkeys(_outside(model_id)))
    if not found:
        return []
    policy = LicensePolicy(denied=(), allowed=config.weight_licenses)
    refused = [each for each in found if each.license == UNKNOWN or policy.refuses(each.license)]
    verdict = Verdict.FAIL if refused else Verdict.PASS
    reason = "; ".join(map(_told, refused or found))
    return [Finding(CRITERION, verdict, reason, METRIC, f"one of {', '.join(config.weight_licenses)}")]


def _told(weights: Outside) -> str:
    if weights.license == UNKNOWN:
        return f"the license of {weights.name} is unknown ({weights.source}); import it with --license if you know it"
    return f"{weights.name} is under {weights.license} ({weights.source})"


def _outside(model_id: ModelId) -> Iterator[Outside]:
    if not model_id.is_checkpoint:
        stated = license_of(model_id.path)
        yield Outside(model_id.path.resolve().name, stated.expression, stated.source)
        return
    yield from _imported(artifacts.load(model_id.path).config)
    for _, _, node in walk(model_id.path):
        if isinstance(node, Artifact):
            yield from _imported(node.config)


def _imported(config: Mapping[str, Any]) -> Iterator[Outside]:
    if about := config.get(IMPORTED):
        yield Outside(about["name"], about["license"], about["license_source"])
