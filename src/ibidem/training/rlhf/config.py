"""Configurations of alignment. Imports no torch, so that flags are parsed at once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ibidem.config import configuration
from ibidem.data.filters.contamination import ContaminationPolicy
from ibidem.data.filters.removals import RemovalPolicy
from ibidem.data.licenses.policy import LicensePolicy
from ibidem.data.scrub.scrubber import ScrubPolicy
from ibidem.data.sources.conversations import Trees
from ibidem.sandbox.config import SandboxConfig
from ibidem.training.config import LoopConfig, OptimConfig, Positive, SessionConfig, ValidationConfig


@configuration
class AlignLoopConfig(LoopConfig):
    """Length, batch size and precision of an alignment."""

    batch_sequences: Positive = 16
    """Conversations, or pairs, in one step, over all processes."""
    micro_batch_sequences: Positive = 4
    """Conversations, or pairs, that one process computes at once; gradients are accumulated over the rest."""

    @model_validator(mode="after")
    def _lengths_differ(self) -> "AlignLoopConfig":
        if self.compile:
            raise ValueError("compile: conversations differ in length, and compiled blocks have one; leave it out")
        return self


@configuration
class AlignValidationConfig(ValidationConfig):
    """What to measure on the way."""

    windows: Positive = 64
    """Number of held-out conversations, or pairs."""
    prompts: tuple[str, ...] = ()
    """Questions to answer at each measurement; by default the first ones of the held-out conversations."""
    samples: Annotated[int, Field(ge=0)] = 3
    """How many held-out conversations to answer if there are no prompts."""


@configuration
class FileConfig:
    """How a file becomes a dataset; a dataset has been made with settings of its own."""

    column: str | None = None
    """Column of the conversations; by default the first of chosen, messages, conversations, prompt, instruction and
    question that the file has."""
    reply_trees: Trees = "best_path"
    """What a tree of replies becomes: its best ranked path, every path, or pairs of ranked replies."""
    licenses: LicensePolicy = Field(default_factory=LicensePolicy)
    """Which licenses may enter."""
    scrub: ScrubPolicy = Field(default_factory=ScrubPolicy)
    """Which secrets and personal data are replaced by placeholders."""
    contamination: ContaminationPolicy = Field(default_factory=ContaminationPolicy)
    """Which evaluation problems must not occur."""
    removals: RemovalPolicy = Field(default_factory=RemovalPolicy)
    """Which requests for removal are honored."""


@configuration
class PairFileConfig(FileConfig):
    """How a file becomes a dataset; a dataset has been made with settings of its own."""

    reply_trees: Trees = "ranked_pairs"
    """What a tree of replies becomes: its best ranked path, every path, or pairs of ranked replies."""


@configuration
class ProblemFileConfig(FileConfig):
    """How a file of programming problems becomes a dataset, and which of their tests are hidden."""

    column: str | None = None
    """Column of the statements; by default text or prompt, whichever the file has."""
    hidden_tests: Annotated[int, Field(ge=0)] = 1
    """How many of the last tests in test_list of each problem are withheld: neither shown nor rewarded, only measured;
    none where no other test would be left. Those in challenge_test_list always are."""


@configuration
class JudgeConfig(SandboxConfig):
    """How programs are run while a model is trained on them."""

    cpu_s: Annotated[int, Field(ge=1, le=3600)] = 2
    """CPU seconds for a program and one test, and as many for the test itself."""


@configuration
class AlignConfig(SessionConfig):
    """What every alignment has in common."""

    initial: Path
    """Start from this checkpoint, or from a run's newest one: its weights, shape and tokenizer."""
    data: Path
    """A preprocessed dataset, or a file of JSON lines, Parquet or Arrow, which is preprocessed first: without quality
    filters, and removing only exact duplicates."""
    file: FileConfig = Field(default_factory=FileConfig)
    held_out_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the prompts held out of training, for validation. By default 0.02, or as much as holds out 8 prompts of
    a small dataset, at most a tenth of them."""
    training: AlignLoopConfig
    validation: AlignValidationConfig = Field(default_factory=AlignValidationConfig)


@configuration
class AlignOptimConfig(OptimConfig):
    """The optimizer."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate; a model of some hundred million parameters wants a tenth of it."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of matrices; norms have none."""


@configuration
class SftConfig(AlignConfig):
    """Teach a checkpoint to answer, from conversations."""

    optim: AlignOptimConfig = Field(default_factory=AlignOptimConfig)


@configuration
class DpoLossConfig:
    """The loss of a pair."""

    loss: Literal["sigmoid", "sigmoid_norm"] = "sigmoid"
    """sigmoid: of the answers' log-ratios; sigmoid_norm: of their means over tokens, so that length alone is no
    reward."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """Strength of the pull to the reference; a smaller one lets the policy move further. By default 0.1, with
    sigmoid_norm 5."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that are assumed to be swapped."""

    @property
    def strength(self) -> float:
        """Beta, resolved."""
        return self.beta or {"sigmoid": 0.1, "sigmoid_norm": 5.0}[self.loss]


@configuration
class DpoOptimConfig(AlignOptimConfig):
    """The optimizer."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate."""


@configuration
class DpoConfig(AlignConfig):
    """Train a checkpoint on preferences, by direct preference optimization."""

    file: PairFileConfig = Field(default_factory=PairFileConfig)
    dpo: DpoLossConfig = Field(default_factory=DpoLossConfig)
    optim: DpoOptimConfig = Field(default_factory=DpoOptimConfig)

    @model_validator(mode="after")
    def _no_z_loss(self) -> "DpoConfig":
        if self.optim.z_loss:
            raise ValueError("optim.z_loss is a setting of next-token prediction")
        return self


@configuration
class RewardScaleConfig:
    """The scale of the rewards."""

    scale_pairs: Positive = 1024
    """Number of training pairs whose rewards get mean 0 and deviation 1 at the end."""


@configuration
class RewardConfig(AlignConfig):
    """Train a reward model on preferences, from the weights of a checkpoint."""

    file: PairFileConfig = Field(default_factory=PairFileConfig)
    optim: AlignOptimConfig = Field(default_factory=AlignOptimConfig)
    reward: RewardScaleConfig = Field(default_factory=RewardScaleConfig)

    @model_validator(mode="after")
    def _generates_nothing(self) -> "RewardConfig":
        if self.validation.prompts:
            raise ValueError("validation.prompts: a reward model generates no text")
        if self.optim.z_loss:
            raise ValueError("optim.z_loss is a setting of next-token prediction")
        return self
