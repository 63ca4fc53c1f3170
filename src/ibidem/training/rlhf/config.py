"""Configurations of alignment. Imports no torch, so that flags are parsed at once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ibidem.config import configuration
from ibidem.data.sources.conversations import Trees
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
class AlignConfig(SessionConfig):
    """What every alignment has in common."""

    initial: Path
    """Start from this checkpoint, or from a run's newest one: its weights, shape and tokenizer."""
    data: Path
    """A preprocessed dataset, or a file of JSON lines, Parquet or Arrow, which is preprocessed first: without quality
    filters, and removing only exact duplicates."""
    column: str | None = None
    """Column of a file that has the conversation; by default the first of chosen, messages, conversations, prompt,
    instruction and question that it has."""
    reply_trees: Trees = "best_path"
    """What a file's tree of replies becomes: its best ranked path, every path, or pairs of ranked replies."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the prompts held out of training, for validation. By default 0.02, or as much as holds out 8 prompts of
    a small dataset, at most a tenth of them."""
    training: AlignLoopConfig
    validation: AlignValidationConfig = Field(default_factory=AlignValidationConfig)


@configuration
class SftConfig(AlignConfig):
    """Teach a checkpoint to answer, from conversations."""


@configuration
class DpoLossConfig:
    """The loss of a pair."""

    loss: Literal["sigmoid", "sigmoid_norm"] = "sigmoid"
    """sigmoid: of the answers' log-ratios; sigmoid_norm: of their means over tokens, so that length alone is no
    reward."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """How much a log-ratio is worth: a small one lets the policy go far from the reference. By default 0.1, with
    sigmoid_norm 5."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that are assumed to be swapped."""

    @property
    def strength(self) -> float:
        """Beta, resolved."""
        return self.beta or {"sigmoid": 0.1, "sigmoid_norm": 5.0}[self.loss]


@configuration
class DpoOptimConfig(OptimConfig):
    """The optimizer."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of matrices; norms have none."""


@configuration
class DpoConfig(AlignConfig):
    """Train a checkpoint on preferences, by direct preference optimization."""

    reply_trees: Trees = "ranked_pairs"
    """What a file's tree of replies becomes: its best ranked path, every path, or pairs of ranked replies."""
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

    reply_trees: Trees = "ranked_pairs"
    """What a file's tree of replies becomes: its best ranked path, every path, or pairs of ranked replies."""
    reward: RewardScaleConfig = Field(default_factory=RewardScaleConfig)

    @model_validator(mode="after")
    def _generates_nothing(self) -> "RewardConfig":
        if self.validation.prompts:
            raise ValueError("validation.prompts: a reward model generates no text")
        if self.optim.z_loss:
            raise ValueError("optim.z_loss is a setting of next-token prediction")
        return self
