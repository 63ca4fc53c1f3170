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
    """The model that ours is held against."""

    name: Words
    """Its name: a gate does not compare with nobody."""
    evidence: Path | None = None
    """Its own evaluation on the same problems: compared problem by problem."""
    published: Share | None = None
    """Its published figure, where its outcomes on the problems are not at hand."""
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
    """The evaluation that the evidence must be: human-eval, mbpp, mmlu, doc-qa, ratings."""
    metric: Words
    """The figure: pass@1, accuracy.business, unsupported_claims, good.helpful, ..."""
    at_least: Share | None = None
    """The lower bound of the figure must be this or more."""
    below: Share | None = None
    """The upper bound of the figure must be less."""
    baseline: Baseline | None = None
    """The lower bound of the figure must be the baseline's or more."""
    margin: Share = 0.0
    """How far below the baseline is still as good."""
    least_items: Annotated[int, Field(ge=1)] = 1
    """Items that the evidence must have: a benchmark is not judged by a part of it."""
    least_agreement: Share = 0.667
    """Of ratings: Krippendorff's alpha that the raters must reach."""
    least_calibration: Share = 0.8
    """Of citations: how often the entailment judge must agree with people, at least, with 95 % confidence."""

    @model_validator(mode="after")
    def _one_target(self) -> "Criterion":
        if sum(target is not None for target in (self.at_least, self.below, self.baseline)) != 1:
            raise ValueError("a criterion needs one of at_least, below, baseline")
        if self.margin and self.baseline is None:
            raise ValueError("a margin is one to a baseline")
        return self


@configuration
class ReleaseException:
    """A criterion that does not hold, and the person who answers for releasing all the same."""

    by: Annotated[Words, Field(min_length=3)]
    """Name of the person."""
    reason: Annotated[Words, Field(min_length=10)]
    """Why."""
    until: date
    """The last day on which it counts."""


@configuration
class GateConfig(SandboxConfig):
    """Decide whether a checkpoint may be released."""

    checkpoint: Path
    """What is to be released."""
    output_dir: Path
    """Folder of gate.json, gate.html and MODEL_CARD.md."""
    evidence: dict[str, Path] = Field(default_factory=dict)
    """Folders of evaluations, by the keys that the criteria use."""
    benchmarks: dict[str, str] = Field(default_factory=lambda: {"human-eval": "human-eval"})
    """By evidence, where the problems, questions or prompts stand that it must be of. Programs are judged again."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By evidence, settings that it must have been made with: shots, scoring, good_from, abstentions, ..."""
    criteria: Annotated[dict[str, Criterion], Field(min_length=1)]
    """What must be shown, by name."""
    accept_supplied: bool = False
    """Count completions and answers that came in a file: that the checkpoint wrote them is the file's own word."""
    exceptions: dict[str, ReleaseException] = Field(default_factory=dict)
    """Criteria that somebody answers for, by name. They never heal evidence that is missing or was refused."""
    seed: int = 0
    """Of the bootstrap."""

    @model_validator(mode="after")
    def _known_names(self) -> "GateConfig":
        if unknown := sorted(set(self.exceptions) - set(self.criteria)):
            raise ConfigError(f"exceptions: {unknown[0]} is no criterion; criteria: {', '.join(self.criteria)}")
        return self
