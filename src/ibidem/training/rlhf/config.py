"""Configurations of alignment. Imports no torch, so that flags are parsed at once."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from ibidem.config import configuration
from ibidem.training.config import LoopConfig, Positive, SessionConfig, ValidationConfig


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
    held_out_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the prompts held out of training, for validation. By default 0.02, or as much as holds out 8 prompts of
    a small dataset, at most a tenth of them."""
    training: AlignLoopConfig
    validation: AlignValidationConfig = Field(default_factory=AlignValidationConfig)


@configuration
class SftConfig(AlignConfig):
    """Teach a checkpoint to answer, from conversations."""
