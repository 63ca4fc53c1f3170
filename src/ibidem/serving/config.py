"""Configurations of the serving commands. Imports no torch, so that flags are parsed at once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ibidem.config import configuration

DEFAULT_TOKENS = 128


@configuration
class GenerateConfig:
    """Complete prompts with a checkpoint."""

    checkpoint: Path
    """A checkpoint, such as artifacts/checkpoints/step-025000; or the folder of a run, for its newest one."""
    prompt: Annotated[tuple[str, ...], Field(min_length=1)]
    """Start of a document, or with --chat a question; repeat the flag for a batch."""
    chat: bool = False
    """Ask each prompt as a user, for checkpoints of `ibidem sft` and later ones, instead of continuing it."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tokens to generate; by default 128, or as many as fit into the model's context."""
    temperature: Annotated[float, Field(ge=0)] = 0.8
    """Sampling temperature; 0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling: draw from the most likely tokens that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Random seed; same seed, same text."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """End the text before the first of these strings."""
    weights: Literal["float32", "bfloat16", "int8"] | None = None
    """Precision of the matrices; by default float32, on a GPU bfloat16. int8, for CPUs, is fastest."""
    output: Path | None = None
    """Write JSON lines to this file instead of showing the text."""

    @model_validator(mode="after")
    def _answers_end_by_themselves(self) -> "GenerateConfig":
        if self.chat and self.stop:
            raise ValueError("stop: with chat an answer ends where the model ends it; leave one of them out")
        return self


@configuration
class ReportConfig:
    """Write one self-contained HTML page about a run: its data, tokenizer, training, samples and lineage."""

    run: Path
    """The run's folder, as `ibidem train` wrote it."""
    output: Path
    """The HTML file to write."""
    evaluation: tuple[Path, ...] = ()
    """Results of `ibidem evaluate` to include: JSON files, or folders with results.json or dashboard.json."""
    answers: tuple[Path, ...] = ()
    """Answers to include that `ibidem ground ask --json` printed, of one principal or several: whoever reads the page
    reads them."""
    head: Path | None = None
    """Folder of a run of `ibidem train-head`, whose held-out questions are shown."""
    title: str = "ibidem report"
    """Heading of the page."""
