"""Configuration of the release gate: which evidence, which criteria, which exceptions."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from ibidem.config import configuration
from ibidem.errors import ConfigError
from ibidem.evaluation.config import SandboxConfig

Share = Annotated[float, Field(ge=0, le=1)]
Words = Annotated[str, Field(min_length=1), AfterValidator(lambda text: " ".join(text.split()))]


@configuration
class Baseline:
    """The model that ours is compared with."""

    name: Words
    """Name of the baseline model."""
    evidence: Path | None = None
    """Its own evaluation on the same problems, compared problem by problem."""
    published: Share | None = None
    """Its published figure, if its outcomes on the problems are not available."""
    source: str = ""
    """Where the figure was published."""

    @model_validator(mode="after")
    def _one_figure(self) -> "Baseline":
        if (self.evidence is None) == (self.published is None):
            raise ValueError("a baseline needs either evidence or published")
        if self.published is not None and not self.source:
            raise ValueError("a published figure needs its source")
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
    below: Share | None = None
    """The upper bound of the figure must be below this."""
    baseline: Baseline | None = None
    """The lower bound of the figure must be at least the baseline's figure, less the margin."""
    margin: Share = 0.0
    """Non-inferiority margin: how far below the baseline still passes."""
    least_items: Annotated[int, Field(ge=1)] = 1
    """Minimum number of items in the evidence, so that a part of a benchmark does not pass for all of it."""
    least_agreement: Share = 0.667
    """For ratings: minimum agreement of the raters, Krippendorff's alpha."""
    least_calibration: Share = 0.8
    """For citations: minimum agreement of the entailment judge with people, with 95 % confidence."""

    @model_validator(mode="after")
    def _one_target(self) -> "Criterion":
        if sum(target is not None for target in (self.at_least, self.below, self.baseline)) != 1:
            raise ValueError("a criterion needs one of at_least, below, baseline")
        if self.margin and self.baseline is None:
            raise ValueError("a margin needs a baseline")
        return self


@configuration
class ReleaseException:
    """Permission to release although a criterion is not met, and the person responsible for it."""

    by: Annotated[Words, Field(min_length=3)]
    """Name of the responsible person."""
    reason: Annotated[Words, Field(min_length=10)]
    """Reason for the exception."""
    until: date
    """The last day on which it is valid."""


@configuration
class GateConfig(SandboxConfig):
    """Decide whether a checkpoint may be released."""

    checkpoint: Path
    """The checkpoint to release."""
    output_dir: Path
    """Folder of gate.json, gate.html and MODEL_CARD.md."""
    evidence: dict[str, Path] = Field(default_factory=dict)
    """Folders of evaluations, by the keys that the criteria use."""
    benchmarks: dict[str, str] = Field(default_factory=lambda: {"human-eval": "human-eval"})
    """Paths of the problems, questions or prompts that each evidence must be based on, by key of the evidence. Programs
    are judged again."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings that each evidence must have been made with, by key of the evidence: shots, scoring, good_from, ..."""
    criteria: Annotated[dict[str, Criterion], Field(min_length=1)]
    """What must be shown, by name."""
    accept_supplied: bool = False
    """Accept completions and answers from a file, although only the file claims that the checkpoint wrote them."""
    exceptions: dict[str, ReleaseException] = Field(default_factory=dict)
    """Exceptions by the name of the criterion. They do not apply to evidence that is missing or was refused."""
    seed: int = 0
    """Seed of the bootstrap."""

    @model_validator(mode="after")
    def _known_names(self) -> "GateConfig":
        if unknown := sorted(set(self.exceptions) - set(self.criteria)):
            raise ConfigError(f"exceptions: {unknown[0]} is not a criterion; criteria: {', '.join(self.criteria)}")
        return self
