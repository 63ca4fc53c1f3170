"""Configurations of trainings. Imports no torch, so that flags are parsed at once."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from ibidem.config import OPTIONAL, REPORTED, Url, configuration
from ibidem.records import FlashAttention, Float8Recipe, LossKernel
from ibidem.trackers import Trackers

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
DEFAULT_PROMPTS = ("def main(args):", "import os", "The function returns")
MEASUREMENTS = 10
MOST_STEPS_UNMEASURED = 1000
MOST_WARMUP_STEPS = 100


def measure_every(steps: int) -> int:
    """Return the default number of steps between two measurements: ten in a run, in a long one every 1,000 steps.

    >>> measure_every(5), measure_every(240), measure_every(25_000)
    (1, 24, 1000)
    """
    return min(math.ceil(steps / MEASUREMENTS), MOST_STEPS_UNMEASURED)


@configuration
class StageConfig:
    """A stage of a training."""

    until: Positive | None = None
    """The step at which the next stage begins; the last stage has none."""
    shares: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Relative numbers of its windows by category, such as code 0.8 and text 0.2, or by language; what is not named is
    left out. By default all windows are taken alike."""
    context: Positive | None = None
    """Tokens in a sequence, which divide a window into several; by default a whole window. A step has the same tokens
    in every stage."""


@configuration
class DataConfig:
    """What to train on."""

    tokenizer: Path
    """A trained tokenizer."""
    dataset: Path | None = None
    """A preprocessed dataset; the training tokenizes it first."""
    tokens: Path | None = None
    """The tokens of a dataset, made by `ibidem tokenize`, so that no GPU waits; if both are given, of that one."""
    cache_dir: Path | None = None
    """Where tokenized datasets are kept; by default OUTPUT_DIR/tokens."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the documents held out of training, for validation. By default 0.02, or as much as holds out 8
    documents of a small dataset, at most half of them."""
    context: Positive | None = None
    """Tokens in a window; by default the model's context."""
    document_mask: bool = True
    """Prevent attention between the documents of a window."""
    fim_rate: Share = 0.0
    """Share of the documents whose middle is moved to the end (fill in the middle)."""
    fim_spm_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of these in which the suffix comes first (SPM); in the others the prefix does (PSM)."""
    stages: Annotated[dict[str, StageConfig], OPTIONAL] = Field(default_factory=dict)
    """Stages of the training, in order; by default it is one."""

    @model_validator(mode="after")
    def _has_data(self) -> "DataConfig":
        if self.dataset is None and self.tokens is None:
            raise ValueError("give a dataset, or its tokens")
        _check_order(self.stages)
        return self


def _check_order(stages: Mapping[str, StageConfig]) -> None:
    for (before, earlier), (name, later) in pairwise(stages.items()):
        if earlier.until is None:
            raise ValueError(
                f"stages.{before}.until: give the step at which {name} begins; only the last stage has none"
            )
        if later.until is not None and later.until <= earlier.until:
            raise ValueError(
                f"stages are out of order: {before} lasts until step {earlier.until}, {name} until {later.until}"
            )
    if stages and stages[last := [*stages][-1]].until is not None:
        raise ValueError(f"stages.{last}.until: the last stage lasts until training.steps; leave it out")


@configuration
class OptimConfig:
    """The optimizer."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw: for all parameters; muon: for the matrices of the blocks, and AdamW for the rest."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate."""
    matrix_lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the matrices that muon updates; by default lr."""
    momentum: Share = 0.95
    """Decay rate of muon's running mean of the gradient."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """cosine: down to the floor over the whole run; wsd: warmup, stable, then a linear decay at the end."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the learning rate rises from 0; by default a tenth of the run, and at most 100."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the steps in which wsd decays."""
    decay_steps: Annotated[Positive | None, OPTIONAL] = None
    """Number of these steps, instead of a share: so that a new run decays from any stable checkpoint of another one.
    From one that has decayed already, it begins at the peak again, and says so."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Final learning rate, as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Weight decay of matrices; norms have none."""
    beta1: Share = 0.9
    """Decay rate of the running mean of the gradient."""
    beta2: Share = 0.95
    """Decay rate of the running mean of the squared gradient."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Maximum norm of the gradient; a larger one is scaled down."""
    spike_factor: Annotated[float, Field(gt=1)] | None = None
    """Skip a step whose gradient norm is more than this many times its running mean. A step whose loss or gradient is
    not finite is always skipped."""
    most_skipped: Positive = 10
    """Stop after so many skipped steps in a row."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared log-sum-exp of the logits, added to the loss in training: it keeps them small (1e-4 in
    PaLM)."""

    @model_validator(mode="after")
    def _check_matrices(self) -> "OptimConfig":
        if self.matrix_lr is not None and self.name != "muon":
            raise ValueError("matrix_lr is a setting of name muon")
        if self.decay_steps is not None and self.schedule != "wsd":
            raise ValueError("decay_steps is a setting of schedule wsd")
        return self


def warmup_steps(config: OptimConfig, steps: int) -> int:
    """Return over how many of a run's steps the learning rate rises.

    >>> warmup_steps(OptimConfig(), 50), warmup_steps(OptimConfig(), 25_000)
    (5, 100)
    """
    return min(steps // 10, MOST_WARMUP_STEPS) if config.warmup_steps is None else config.warmup_steps


def decay_steps(config: OptimConfig, steps: int) -> int:
    """Return over how many of a run's last steps the learning rate of the schedule wsd falls.

    >>> decay_steps(OptimConfig(), 50), decay_steps(OptimConfig(schedule="wsd", decay_steps=5), 50)
    (10, 5)
    """
    return config.decay_steps or max(1, round(config.decay_share * steps))


@configuration
class LoopConfig:
    """Length, batch size and precision of a training."""

    steps: Positive
    """Optimizer steps of the whole run."""
    batch_sequences: Positive
    """Windows in one step, over all processes."""
    micro_batch_sequences: Positive = 1
    """Windows that one process computes at once; gradients are accumulated over the rest."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Precision of matrix products on an accelerator; a CPU always computes in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the blocks: on an accelerator faster and with less memory; on a CPU it takes half a minute first."""
    flash_attention: Annotated[FlashAttention | None, OPTIONAL] = None
    """Attention on a GPU by FlashAttention-3 or 4, whose package is installed; by default by torch's own kernels."""
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    """Random seed of initial weights, data order and dropout."""
    resume_from: Url | Path | None = None
    """Checkpoint to resume from: `latest`; the folder of a checkpoint, or of a run for its newest one; or a URL that
    checkpoints were copied to, for the newest whole one, here or there. Only with `latest`, and with the URL of
    checkpoints.copy_to, a run without a checkpoint starts anew."""
    stop_at_step: Positive | None = None
    """End this run early, as the time limit of a job would; a later run continues with resume_from."""
    num_processes: Positive | None = None
    """Fail unless this many processes run; launchers may silently start fewer than requested."""
    shard_processes: Annotated[Positive | None, REPORTED] = None
    """With FSDP, divide weights and optimizer states over groups of this many processes, such as the GPUs of a machine,
    which then talk to other machines only once a step (HSDP); by default over all processes."""
    timeout_minutes: Annotated[float, Field(gt=0), REPORTED] = 10.0
    """Minutes that processes wait in a step for one that does not answer; one that died is noticed at once. What only
    the main process does first, such as tokenizing, may take longer."""

    @model_validator(mode="after")
    def _check_flash_attention(self) -> "LoopConfig":
        if self.flash_attention is not None and self.mixed_precision == "no":
            raise ValueError("flash_attention computes in 16 bits: give mixed_precision bf16")
        return self

    @model_validator(mode="after")
    def _check_batch(self) -> "LoopConfig":
        if self.batch_sequences % self.micro_batch_sequences:
            raise ValueError(
                f"micro_batch_sequences={self.micro_batch_sequences} does not divide "
                f"batch_sequences={self.batch_sequences}"
            )
        return self


@configuration
class ValidationConfig:
    """What to measure on the way."""

    every: Positive | None = None
    """Steps between two measurements, besides those before the first step and after the last; by default a tenth of
    the run, and at most 1,000."""
    windows: Positive = 64
    """Number of held-out windows."""
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    """Prompts to complete at each measurement; the flag without a value, or an empty list, turns this off."""
    sample_tokens: Positive = 48
    """Maximum length of these completions, in tokens; the default prompts get less if the model's context is short."""


@configuration
class TrainValidationConfig(ValidationConfig):
    """What to measure on the way."""

    group_windows: Annotated[int, Field(ge=0), OPTIONAL] = 0
    """Number of held-out windows for the bits per byte of each category and of each language; 0: they are measured only
    together."""


@configuration
class CheckpointConfig:
    """What to keep."""

    every: Positive = 500
    """Steps between two checkpoints; the last step always saves one."""
    keep_last: Positive = 3
    """Number of checkpoints to keep; older ones are removed."""
    copy_to: Annotated[Url | None, REPORTED] = None
    """Copy each checkpoint to this URL in the background, the newest first: file://, s3:// and others that fsspec
    opens. A store that is gone stops no run."""
    asynchronous: Annotated[bool, REPORTED] = False
    """Write checkpoints while the training goes on, from a copy of weights and optimizer state in host memory."""


@configuration
class SessionConfig:
    """What every training has in common."""

    output_dir: Path
    """The run's folder: checkpoints/step-000040, events.jsonl, tokens."""
    training: LoopConfig
    optim: OptimConfig = Field(default_factory=OptimConfig)
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    checkpoints: CheckpointConfig = Field(default_factory=CheckpointConfig)
    trackers: Trackers = ()
    """Where to send the figures besides events.jsonl; wandb stays offline unless WANDB_MODE says otherwise."""

    @model_validator(mode="after")
    def _check_decay(self) -> "SessionConfig":
        steps, decay = self.training.steps, self.optim.decay_steps
        warmup = warmup_steps(self.optim, steps)
        if decay is not None and decay > steps - warmup:
            raise ValueError(
                f"optim.decay_steps={decay} is longer than the run: training.steps={steps}, of which {warmup} warm up"
            )
        return self

    @property
    def reader(self) -> str | None:
        """Who opens checkpoints that were tuned on documents; None: the user who runs the program."""
        return None


@configuration
class TrainLoopConfig(LoopConfig):
    """Length, batch size and precision of a training."""

    loss: Annotated[LossKernel, OPTIONAL] = "chunked"
    """Whose operation computes the loss of a training step: this program's own, on any device, whose logits are
    float32; or liger-kernel's on a GPU, whose logits have the precision of the matrix products."""
    float8: Annotated[Float8Recipe | None, OPTIONAL] = None
    """Multiply by the matrices of the blocks in float8 in training steps, with torchao's recipe of this name: for GPUs
    of compute capability 8.9 or more, such as H100. Weights and checkpoints are as without."""

    @model_validator(mode="after")
    def _check_kernels(self) -> "TrainLoopConfig":
        if self.loss == "liger" and self.mixed_precision == "fp16":
            raise ValueError("loss liger would overflow in fp16: give mixed_precision bf16")
        if self.float8 is not None and self.mixed_precision != "bf16":
            raise ValueError("float8 is for products whose results are bf16: give mixed_precision bf16")
        return self


@configuration
class TrainConfig(SessionConfig):
    """Pretrain a decoder on a preprocessed dataset."""

    initial: Path | None = None
    """Start from the weights of this checkpoint, or of a run's newest one, instead of random ones; a resumed run uses
    its own checkpoint."""
    model: Path
    """Shape of the model: base, base_12_heads, demo, tiny or wide, a Python file that sets MODEL, such as
    configs/model/base.py, or a JSON file."""
    data: DataConfig
    training: TrainLoopConfig
    validation: TrainValidationConfig = Field(default_factory=TrainValidationConfig)


@configuration
class ContrastConfig:
    """Contrastive batches beside the language-model loss, on states of the model itself."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of their mean loss, which is added to the mean loss of the targets; 0: there are none. Each step has as
    many cloze questions as conversations."""


LoraTarget = Literal["qkv", "out", "gate_up", "down"]


@configuration
class LoraConfig:
    """Low-rank adapters (LoRA), which are trained instead of all weights."""

    rank: Annotated[int, Field(ge=0, le=4096)] = 0
    """Rank of the adapters; 0: there are none, and all weights are trained. Adapters want about ten times the
    optim.lr of all weights."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """An adapter's update is scaled by alpha / rank; by default alpha is 2 x rank."""
    dropout: Share = 0.0
    """Dropout probability of the adapters' inputs, in training."""
    targets: Annotated[tuple[LoraTarget, ...], Field(min_length=1)] = ("qkv", "out", "gate_up", "down")
    """The matrices of each block that have one: queries, keys and values; the attention's output; gate and up, and down
    of the feed-forward."""

    @model_validator(mode="after")
    def _has_a_rank(self) -> "LoraConfig":
        if not self.rank and (self.alpha is not None or self.dropout or len(self.targets) < len(get_args(LoraTarget))):
            raise ValueError("alpha, dropout and targets are settings of adapters: give lora.rank too")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("targets: one is named twice")
        return self

    @property
    def strength(self) -> float:
        """Alpha, resolved."""
        return float(self.alpha or 2 * self.rank)


@configuration
class DatasetContrastConfig(ContrastConfig):
    """Contrastive batches beside the language-model loss, on states of the model itself."""

    data: Path | None = None
    """A preprocessed dataset; its documents are cut into the passages that are asked about."""
    passage_chars: Annotated[int, Field(ge=64)] = 1000
    """Maximum length of a passage, in characters."""

    @model_validator(mode="after")
    def _has_data(self) -> "DatasetContrastConfig":
        if (self.data is None) != (self.weight == 0):
            raise ValueError("weight and data go together: give both, or none")
        return self


@configuration
class HeadLoopConfig(LoopConfig):
    """Length and batch size of the training of a grounding head."""

    batch_sequences: Positive = 16
    """Cloze questions in one step, over all processes."""
    micro_batch_sequences: Positive = 8
    """Cloze questions that one process computes at once; their right answers are each other's wrong ones."""

    @model_validator(mode="after")
    def _is_small(self) -> "HeadLoopConfig":
        if self.compile or self.gradient_checkpointing or self.flash_attention:
            raise ValueError(
                "a grounding head has no blocks: leave compile, gradient_checkpointing and flash_attention out"
            )
        return self


@configuration
class HeadOptimConfig(OptimConfig):
    """The optimizer."""

    lr: Annotated[float, Field(gt=0)] = 3e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 30.0
    """Strength of the pull to the head's prior: the weights of features and interactions stay within about
    1 / weight_decay of it. Questions that texts ask of themselves are not those of people, so a head that is trained
    freely becomes worse than its prior."""

    @model_validator(mode="after")
    def _of_vectors(self) -> "HeadOptimConfig":
        if self.z_loss or self.name == "muon":
            raise ValueError("z_loss and name muon are settings of decoders")
        return self


@configuration
class HeadValidationConfig(ValidationConfig):
    """What to measure on the way."""

    windows: Positive = 400
    """Number of held-out cloze questions."""
    prompts: tuple[str, ...] = ()
    """Must be empty: a grounding head generates no text."""

    @model_validator(mode="after")
    def _generates_nothing(self) -> "HeadValidationConfig":
        if self.prompts:
            raise ValueError("prompts: a grounding head generates no text")
        return self


@configuration
class HeadConfig(SessionConfig):
    """Train a grounding head on cloze questions; its base is read, and not changed."""

    initial: Path
    """The base whose token states the head reads: a checkpoint, a run for its newest one, or the folder of a Hugging
    Face encoder."""
    data: Path
    """A preprocessed dataset, whose documents are cut into passages; or the training set of an `ibidem raft`, whose
    chunks are passages. Each passage is asked about."""
    principal: Annotated[str, Field(min_length=1)] | None = None
    """Who trains, if base or data are made from private documents; by default the user who runs the program."""
    passage_chars: Annotated[int, Field(ge=64)] = 1000
    """Maximum length of a passage, in characters."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the documents held out of training, for measurements and the threshold of claims. By default 0.02, or as
    much as holds out 8 documents of a small dataset, at most half of them."""
    training: HeadLoopConfig
    optim: HeadOptimConfig = Field(default_factory=HeadOptimConfig)
    validation: HeadValidationConfig = Field(default_factory=HeadValidationConfig)

    @property
    def reader(self) -> str | None:
        """Who opens what was made from private documents."""
        return self.principal
