"""Configurations of alignment. Imports no torch, so that flags are parsed at once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ibidem.config import OPTIONAL, configuration
from ibidem.data.filters.contamination import ContaminationPolicy
from ibidem.data.filters.removals import RemovalPolicy
from ibidem.data.licenses.policy import LicensePolicy
from ibidem.data.scrub.scrubber import ScrubPolicy
from ibidem.data.sources.conversations import Trees
from ibidem.grounding.config import ExamplesConfig
from ibidem.sandbox.config import SandboxConfig
from ibidem.training.config import (
    ContrastConfig,
    DatasetContrastConfig,
    LoopConfig,
    LoraConfig,
    OptimConfig,
    Positive,
    SessionConfig,
    ValidationConfig,
)


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
    """How many of the last tests in test_list of each problem are withheld: neither shown nor rewarded, only measured.
    The first test is always shown. Those in challenge_test_list are always withheld."""


@configuration
class JudgeConfig(SandboxConfig):
    """How programs are run while a model is trained on them."""

    cpu_s: Annotated[int, Field(ge=1, le=3600)] = 2
    """CPU seconds for a program and one test, and as many for the test itself."""


@configuration
class AlignConfig(SessionConfig):
    """What every alignment has in common."""

    initial: Path = Field()  # required, unlike that of a session
    """Start from this checkpoint, or from a run's newest one: its weights, shape and tokenizer."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the prompts held out of training, for validation. By default 0.02, or as much as holds out 8 prompts of
    a small dataset, at most a tenth of them."""
    training: AlignLoopConfig
    validation: AlignValidationConfig = Field(default_factory=AlignValidationConfig)


@configuration
class DatasetConfig(AlignConfig):
    """An alignment with conversations or pairs."""

    data: Path
    """A preprocessed dataset, or a file of JSON lines, Parquet or Arrow, which is preprocessed first: without quality
    filters, and removing only exact duplicates."""
    file: FileConfig = Field(default_factory=FileConfig)


@configuration
class AlignOptimConfig(OptimConfig):
    """The optimizer."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate; a model of some hundred million parameters wants a tenth of it."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of matrices; norms have none."""


@configuration
class SftConfig(DatasetConfig):
    """Teach a checkpoint to answer, from conversations."""

    contrast: DatasetContrastConfig = Field(default_factory=DatasetContrastConfig)
    lora: Annotated[LoraConfig, OPTIONAL] = Field(default_factory=LoraConfig)
    optim: AlignOptimConfig = Field(default_factory=AlignOptimConfig)


@configuration
class RaftConfig(AlignConfig):
    """Teach a checkpoint to answer from documents: as one principal, from what they may read."""

    index: Path
    """Folder of an index of `ibidem ground index`."""
    principal: str = Field(min_length=1)
    """Who learns: only what they may read is used. Only those who may read all of it may open the checkpoints."""
    questions: Path | None = None
    """Questions, as for `ibidem evaluate doc-qa`: JSON lines with question, answers, and perhaps documents or passages;
    by default cloze questions on the passages themselves."""
    acl: str | None = None
    """Where the access rules are now; by default where they were when the documents were indexed."""
    audit: Path | None = None
    """Folder of the audit log; by default the index's folder with `.audit` behind its name."""
    key: Path | None = None
    """File with the secret key of chunk ids and of the audit log; by default this user's own."""
    encoder: Path | None = None
    """The model that made the vectors of the index, if it has any; by default where it was then."""
    examples: ExamplesConfig = Field(default_factory=ExamplesConfig)
    """How questions, passages and answers are put together."""
    contrast: ContrastConfig = Field(default_factory=ContrastConfig)
    lora: Annotated[LoraConfig, OPTIONAL] = Field(default_factory=LoraConfig)
    optim: AlignOptimConfig = Field(default_factory=AlignOptimConfig)

    @property
    def reader(self) -> str:
        """Who opens checkpoints that were tuned on documents."""
        return self.principal


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
class DpoConfig(DatasetConfig):
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
class RewardConfig(DatasetConfig):
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


@configuration
class RolloutConfig:
    """How answers are sampled."""

    max_tokens: Positive = 128
    """Maximum length of an answer, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of sampling, and of the log-probabilities of policy and reference."""
    samples: Positive = 1
    """Answers to each prompt."""
    minibatches: Positive = 1
    """Steps of an epoch; a rollout has training.batch_sequences times so many answers."""
    epochs: Positive = 1
    """Passes over the answers of a rollout."""

    @property
    def steps(self) -> int:
        """Optimizer steps of a rollout."""
        return self.minibatches * self.epochs


@configuration
class PpoRolloutConfig(RolloutConfig):
    """How answers are sampled."""

    epochs: Positive = 4
    """Passes over the answers of a rollout."""


@configuration
class GroupConfig(RolloutConfig):
    """How answers are sampled."""

    samples: Annotated[int, Field(ge=2)] = 8
    """Answers to each prompt: a group, whose mean is the baseline."""


@configuration
class PolicyLoopConfig(AlignLoopConfig):
    """Length, batch size and precision of a training on sampled answers."""

    batch_sequences: Positive = 64
    """Answers in one step, over all processes."""
    micro_batch_sequences: Positive = 8
    """Answers that one process computes at once; those to one prompt share its reading."""


@configuration
class PolicyValidationConfig(AlignValidationConfig):
    """What to measure on the way."""

    windows: Positive = 64
    """Number of held-out prompts, or problems; one answer to each is sampled."""
    prompts: tuple[str, ...] = ()
    """Questions to answer at each measurement; by default the first held-out prompts."""
    samples: Annotated[int, Field(ge=0)] = 3
    """How many held-out prompts to answer if there are no prompts."""


@configuration
class PolicyConfig(AlignConfig):
    """What every training on sampled answers has in common."""

    training: PolicyLoopConfig
    validation: PolicyValidationConfig = Field(default_factory=PolicyValidationConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)

    @model_validator(mode="after")
    def _samples_answers(self) -> "PolicyConfig":
        if self.optim.z_loss:
            raise ValueError("optim.z_loss is a setting of next-token prediction")
        answers = self.training.batch_sequences * self.rollout.minibatches
        if answers % self.rollout.samples:
            raise ValueError(
                f"rollout.samples={self.rollout.samples} does not divide the {answers} answers of a rollout "
                "(training.batch_sequences x rollout.minibatches)"
            )
        return self


@configuration
class PolicyOptimConfig(AlignOptimConfig):
    """The optimizer."""

    lr: Annotated[float, Field(gt=0)] = 3e-6
    """Peak learning rate; a small model takes a larger one."""


@configuration
class PpoLossConfig:
    """Rewards, advantages and losses."""

    kl: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the KL penalty, which is part of the reward of each token; with a target, the weight to start with."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """KL divergence of a whole answer from the reference, in nats, to which the weight is steered; by default it is
    fixed."""
    kl_horizon: Positive = 10_000
    """Answers over which the weight adapts to the target: the larger, the slower. A tenth of the run's answers is a
    start."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Discount of a token."""
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Weight of long returns in generalized advantage estimation."""
    clip: Annotated[float, Field(gt=0)] = 0.2
    """How far the ratio of a token may move from 1 before its gradient ends."""
    value_clip: Annotated[float, Field(gt=0)] = 0.2
    """How far a value may move from the one of the rollout before its gradient ends."""
    value_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the loss of the values."""
    whiten: bool = True
    """Whiten the advantages of a rollout: mean 0 and deviation 1."""
    scale_scores: bool = False
    """Divide scores by their deviation so far."""
    no_end_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Subtracted from the score of an answer that did not end within rollout.max_tokens."""

    @model_validator(mode="after")
    def _kl_can_adapt(self) -> "PpoLossConfig":
        if self.kl_target is not None and self.kl == 0:
            raise ValueError("kl: a weight of 0 never changes; give kl_target a weight to start with")
        return self


@configuration
class PpoConfig(PolicyConfig):
    """Train a checkpoint with a reward model, by proximal policy optimization."""

    data: Path
    """Prompts: a preprocessed dataset, or a file, which is preprocessed first; answers in it are not used."""
    file: FileConfig = Field(default_factory=FileConfig)

    reward: Path
    """A reward model of the same tokenizer, or its run."""
    rollout: PpoRolloutConfig = Field(default_factory=PpoRolloutConfig)
    ppo: PpoLossConfig = Field(default_factory=PpoLossConfig)
    optim: PolicyOptimConfig = Field(default_factory=PolicyOptimConfig)


@configuration
class GrpoLossConfig:
    """Rewards and losses."""

    loss: Literal["grpo", "gspo", "cispo"] = "grpo"
    """grpo: a ratio for each token, clipped; gspo: one for the answer, clipped; cispo: a weight for each token, none of
    which loses its gradient."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] | None = None
    """How far a ratio may fall below 1 before its gradient ends; by default 0.2, with gspo 3e-4."""
    clip_high: Annotated[float, Field(gt=0)] | None = None
    """How far a ratio may rise above 1; by default 0.28, with gspo 4e-4, with cispo 1."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL divergence from the initial checkpoint; with 0 no reference is kept."""
    kl_as: Literal["reward", "loss"] = "reward"
    """reward: the log-ratio of the sampled answer is subtracted from its reward; loss: half its square is added."""
    no_end_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Subtracted from the reward of an answer that did not end within rollout.max_tokens."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> "GrpoLossConfig":
        if self.loss == "cispo" and self.clip_low is not None:
            raise ValueError("clip_low: cispo bounds weights from above alone; leave it out")
        if self.kl_as == "loss" and not self.kl:
            raise ValueError("kl_as: without a weight, kl, nothing is added; give one")
        return self

    @property
    def clips(self) -> tuple[float, float]:
        """Both bounds, resolved."""
        low, high = {"grpo": (0.2, 0.28), "gspo": (3e-4, 4e-4), "cispo": (0.2, 1.0)}[self.loss]
        return self.clip_low or low, self.clip_high or high


@configuration
class GrpoConfig(PolicyConfig):
    """Train a checkpoint on executed tests, by group relative policy optimization."""

    problems: Path
    """Problems in MBPP's schema, JSON lines: text, test_list, and if there are any code, test_setup_code and
    challenge_test_list; or a folder that an earlier run made of such a file."""
    file: ProblemFileConfig = Field(default_factory=ProblemFileConfig)
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    rollout: GroupConfig = Field(default_factory=GroupConfig)
    grpo: GrpoLossConfig = Field(default_factory=GrpoLossConfig)
    optim: PolicyOptimConfig = Field(default_factory=PolicyOptimConfig)
