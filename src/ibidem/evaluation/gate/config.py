"""Configuration of the release gate: which evidence, which criteria, which exceptions. Senseless values are refused."""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from ibidem.attribution.config import OPEN_LICENSES
from ibidem.config import POSITIONAL, WRITTEN, configuration
from ibidem.data.licenses.policy import LicensePolicy
from ibidem.errors import ConfigError
from ibidem.sandbox.config import SandboxConfig
from ibidem.signatures import is_public_key

MOST_MARGIN = 0.1
"""A model that is ten points worse is not as good."""
MOST_EXCEPTIONS = 2
LONGEST_EXCEPTION_DAYS = 90
_LETTERS = re.compile(r"[^\W\d_]")


def _is_word(text: str) -> str:
    words = " ".join(text.split())
    if not _LETTERS.search(words):
        raise ValueError("must have letters")
    return words


def _is_name(text: str) -> str:
    words = _is_word(text)
    if len(_LETTERS.findall(words)) < 2:
        raise ValueError("must be a name")
    return words


def _is_reason(text: str) -> str:
    words = _is_word(text)
    if len([word for word in words.split() if _LETTERS.search(word)]) < 3:
        raise ValueError("must give a reason in at least three words")
    return words


def _is_digest(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise ValueError("must be a digest, sha256: and 64 hexadecimal digits")
    return text


def _are_licenses(names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return LicensePolicy(denied=(), allowed=names).allowed
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _is_key(text: str) -> str:
    if not is_public_key(text):
        raise ValueError("must be a public key as ibidem key prints it, ed25519:...")
    return text


Share = Annotated[float, Field(gt=0, le=1)]
Words = Annotated[str, AfterValidator(_is_word)]
Name = Annotated[str, AfterValidator(_is_name)]
Reason = Annotated[str, AfterValidator(_is_reason)]
Digest = Annotated[str, AfterValidator(_is_digest)]
Pins = Annotated[dict[str, dict[str, Digest]], BeforeValidator(lambda given: given or {})]
PublicKey = Annotated[str, AfterValidator(_is_key)]


@configuration
class Baseline:
    """The model that ours is compared with."""

    name: Name
    """Name of the baseline model."""
    evidence: Path | None = None
    """Its own evaluation on the same problems, compared problem by problem."""
    digest: Digest | None = None
    """Digest of that evaluation, as its manifest has it."""
    published: Share | None = None
    """Its published figure, if its outcomes on the problems are not available."""
    source: str = ""
    """Where the figure was published."""

    @model_validator(mode="after")
    def _one_figure(self) -> "Baseline":
        if (self.evidence is None) == (self.published is None):
            raise ValueError("a baseline needs either evidence or published")
        if (self.evidence is None) != (self.digest is None):
            raise ValueError("the evidence of a baseline needs its digest, and only evidence has one")
        if self.published is not None:
            _is_name(self.source)
        return self


@configuration
class Criterion:
    """What must be shown, with 95 % confidence."""

    evidence: Words
    """Key of the evidence that shows it."""
    task: Words
    """Task of the evidence: a name of `ibidem evaluate` that writes evidence, such as human-eval, mmlu or ratings."""
    metric: Words
    """The figure: pass@1, accuracy.business, unsupported_claims, good.helpful, ..."""
    at_least: Share | None = None
    """The lower bound of the figure must be at least this."""
    below: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The upper bound of the figure must be below this."""
    baseline: Baseline | None = None
    """The lower bound of the figure must be at least the baseline's figure, less the margin."""
    margin: Annotated[float, Field(ge=0, le=MOST_MARGIN)] = 0.0
    """Non-inferiority margin: how far below the baseline still passes; at most 0.1."""
    least_items: Annotated[int, Field(ge=1)] = 1
    """Minimum number of items in the evidence, so that a part of a benchmark does not pass for all of it."""
    least_agreement: Annotated[float, Field(ge=0.5, le=1)] = 0.667
    """For ratings: minimum agreement of the raters, Krippendorff's alpha; at least 0.5."""
    least_calibration: Annotated[float, Field(gt=0.5, le=1)] = 0.8
    """For citations: minimum agreement of the entailment judge with people, on supported and on unsupported claims
    alike, with 95 % confidence; more than 0.5, which is chance."""

    @model_validator(mode="after")
    def _one_target(self) -> "Criterion":
        if sum(target is not None for target in (self.at_least, self.below, self.baseline)) != 1:
            raise ValueError("a criterion needs one of at_least, below, baseline")
        if self.margin and self.baseline is None:
            raise ValueError("a margin needs a baseline")
        if self.baseline and self.baseline.published is not None and self.baseline.published <= self.margin:
            raise ValueError("the margin is as large as the published figure, so everything would pass")
        return self


@configuration
class ReleaseException:
    """Permission to release although a criterion is not met, and the person responsible for it."""

    by: Annotated[Name, Field(min_length=3)]
    """Name of the responsible person."""
    reason: Annotated[Reason, Field(min_length=10)]
    """Reason for the exception: at least three words and ten characters."""
    until: date
    """The last day on which it is valid, at most 90 days ahead."""

    @model_validator(mode="after")
    def _is_limited(self) -> "ReleaseException":
        if (self.until - datetime.now(UTC).date()).days > LONGEST_EXCEPTION_DAYS:
            raise ValueError(f"an exception lasts at most {LONGEST_EXCEPTION_DAYS} days, not until {self.until}")
        return self


@configuration
class Signer:
    """Someone whose signature counts."""

    key: PublicKey
    """Public key, as `ibidem key` prints it."""
    evidence: Annotated[tuple[Words, ...], Field(min_length=1)]
    """Keys of the evidence that this signer may sign."""


@configuration
class GateConfig(SandboxConfig):
    """Decide whether a checkpoint may be released."""

    checkpoint: Path
    """The checkpoint to release."""
    output_dir: Path
    """Folder of gate.json, gate.html and MODEL_CARD.md."""
    evaluate: bool = False
    """Evaluate the checkpoint from nothing, into the folders of `evidence`, wherever no people are needed."""
    evidence: dict[str, Path] = Field(default_factory=dict)
    """Folders of evaluations, by the keys that the criteria use."""
    benchmarks: dict[str, str] = Field(default_factory=lambda: {"human-eval": "human-eval"})
    """Paths of the problems, questions or prompts that each evidence must be based on, by key of the evidence. Programs
    are judged again."""
    pins: Pins = Field(default_factory=dict)
    """Digests of the benchmarks, and of files that the settings name, by key of the evidence; `ibidem gate pin` writes
    them."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings that each evidence must have been made with, by key of the evidence: shots, scoring, good_from, ... What
    is not named must be the default."""
    criteria: Annotated[dict[str, Criterion], Field(min_length=1)]
    """What must be shown, by name."""
    signers: dict[str, Signer] = Field(default_factory=dict)
    """Whose signatures count, by name."""
    unsigned: tuple[str, ...] = ()
    """Keys of evidence that may be unsigned, although anyone who can write it could have invented it. What
    `--evaluate` makes needs no signature."""
    accept_supplied: bool = False
    """Accept completions and answers from a file, although only the file claims that the checkpoint wrote them."""
    weight_licenses: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_are_licenses)] = OPEN_LICENSES
    """SPDX identifiers of the licenses that weights from outside may have: imported ones, and all that is trained from
    them. Unknown is none of them."""
    exceptions: dict[str, ReleaseException] = Field(default_factory=dict)
    """Exceptions by the name of the criterion: at most two, and never for all criteria. They do not apply to evidence
    that is missing or was refused."""
    seed: int = 0
    """Seed of the bootstrap."""
    sign_with: Path | None = None
    """Sign the decision with this private key, made by `ibidem key`."""

    @model_validator(mode="after")
    def _known_names(self) -> "GateConfig":
        tasks = {(criterion.evidence, criterion.task) for criterion in self.criteria.values()}
        keys = {key for key, _ in tasks}
        if twofold := sorted(key for key in keys if sum(key == other for other, _ in tasks) > 1):
            raise ConfigError(f"criteria: the evidence {twofold[0]} is of two tasks")
        _check_names("exceptions", self.exceptions, self.criteria, "a criterion; criteria")
        for field in ("pins", "settings", "unsigned"):
            _check_names(field, getattr(self, field), keys, "the key of an evidence; keys")
        for name, signer in self.signers.items():
            _check_names(f"signers.{name}.evidence", signer.evidence, keys, "the key of an evidence; keys")
        most = min(MOST_EXCEPTIONS, len(self.criteria) - 1)
        if len(self.exceptions) > most:
            raise ConfigError(f"exceptions: {len(self.exceptions)} of {len(self.criteria)} criteria; at most {most}")
        return self


@configuration
class KeyConfig:
    """Make a key that signs evidence and decisions."""

    path: Annotated[Path, POSITIONAL, WRITTEN]
    """File of the private key; only you may read it."""


@configuration
class SignConfig:
    """Sign an evaluation."""

    path: Annotated[Path, POSITIONAL, WRITTEN]
    """Folder of the evaluation."""
    key: Path
    """File of the private key, made by `ibidem key`."""


@configuration
class PinConfig:
    """Pin the benchmarks of a policy."""

    policy: Annotated[Path, WRITTEN]
    """The YAML file of the gate; its `pins` are replaced, everything else stays."""


def _check_names(field: str, names: Any, known: Any, what: str) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise ConfigError(f"{field}: {unknown[0]} is not {what}: {', '.join(sorted(known))}")


PER_RELEASE = (
    "checkpoint", "output_dir", "evaluate", "evidence", "benchmarks", "exceptions", "sign_with", "workers",
)  # fmt: skip
"""What differs from release to release under one policy; the benchmarks are in the policy by their digests."""


def policy(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy of a resolved configuration: what every release must fulfill."""
    return {name: value for name, value in tree.items() if name not in PER_RELEASE}
