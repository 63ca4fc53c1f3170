"""Configurations of the evaluations. Imports no torch, so that flags are understood at once."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ibidem.config import configuration

Positive = Annotated[int, Field(ge=1)]


@configuration
class PerplexityConfig:
    """Measure how well a model predicts text: perplexity, and bits per byte, which compares across tokenizers."""

    checkpoint: Path
    """A checkpoint of `ibidem train`, or the folder of any Hugging Face causal language model."""
    data: Path
    """A .parquet, .jsonl or text file, a folder of them, or a preprocessed dataset."""
    column: str = "text"
    """The column that holds the text."""
    window: Positive | None = None
    """Tokens that the model sees at once; its context if none."""
    stride: Positive | None = None
    """Tokens between two windows; half a window if none. Smaller is slower and gives each token more context."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of a preprocessed dataset, read only what a training with this share has held out."""
    max_documents: Positive | None = None
    """Read at most so many documents."""
    output: Path | None = None
    """Write the result to this JSON file."""
