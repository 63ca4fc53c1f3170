"""Proximal policy optimization (PPO): a reward model scores what the policy answers, and the policy learns from it.

    rollout      the policy answers prompts; the reward model scores each answer, the reference weighs each token
    advantages   reward of a token = score on the last one - kl * (log pi - log pi_ref); GAE with the value head
    steps        epochs x minibatches over the rollout: clipped ratio, clipped value
    after them   the weight of the KL penalty moves towards its target, if there is one

The value head stands on the policy's own trunk, zero at first. The loss of a step is the mean over its tokens.
Source: Schulman et al. 2017, arXiv:1707.06347; with language models Ziegler et al. 2019, arXiv:1909.08593, and Huang et
al. 2024, arXiv:2403.17031, whose names of figures are used.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ibidem import artifacts
from ibidem.conversation import Conversation
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.heads import RewardModel, ValueDecoder, load_reward_model
from ibidem.modeling.log_probabilities import Scoring
from ibidem.runs import folder_of, newest
from ibidem.training import session
from ibidem.training.config import LoopConfig
from ibidem.training.objective import ObjectiveState
from ibidem.training.processes import compute_dtype
from ibidem.training.rlhf.advantages import KlController, Moments, gae, token_rewards, whitened
from ibidem.training.rlhf.batches import Encoded
from ibidem.training.rlhf.config import PpoConfig
from ibidem.training.rlhf.examples import open_dataset, read_prompts, split_checked
from ibidem.training.rlhf.pairs import pack_whole
from ibidem.training.rlhf.policy import (
    Prompts,
    Questions,
    figures_of,
    frozen,
    held_out_answers,
    new_sampler,
    tokens_of_a_step,
)
from ibidem.training.rlhf.policy_losses import approximate_kl, clipped_policy_loss, clipped_value_loss
from ibidem.training.rlhf.rollout import Answer, Floats, Rollout, Sampler
from ibidem.training.rlhf.setup import Setup, set_up_with
from ibidem.training.rlhf.step_means import StepMeans, with_variance

REWARD = "reward"
"""Role of the reward model among a checkpoint's inputs."""
FIGURES = (
    *("loss/policy_avg", "loss/value_avg", "policy/approxkl_avg", "policy/clipfrac", "val/clipfrac_avg"),
    *("val/ratio", "val/ratio_squared"),
)
"""Figures of a step, each the mean over its tokens."""


def ppo(config: PpoConfig) -> str:
    """Train with a reward model; say where the last checkpoint is."""
    return session.summary(run(config), config)


def run(config: PpoConfig) -> artifacts.Artifact:
    """Read the prompts, load reward model and reference, build or resume, run the loop; return the last checkpoint.

    Raises:
        ConfigError: checkpoint, reward model, prompts, batch sizes or processes do not fit together.
        DataError: there is no prompt to train on.
        CheckpointError: the reward model has another tokenizer or no scale; no intact checkpoint to resume from, or it
            belongs to another run.
    """
    setup = set_up_with(config, lambda _: open_dataset(config.data, config.output_dir, config.file))
    reward, made_by = reward_of(config, setup)
    prompts = read(config, setup, min(setup.shape.context, reward.decoder.config.context))
    score = RewardScore(reward, prompts.ids, config.training.micro_batch_sequences, setup.accelerator.device)
    sampler = new_sampler(config, setup, prompts, score, has_reference=True, has_values=True)
    objective = Ppo(config, sampler, prompts.held_out, Questions(config, setup, prompts, "train.prompts"))
    last = session.run(
        objective,
        config,
        setup.accelerator,
        replace(setup.made, inputs=[*setup.made.inputs, made_by.as_input(REWARD, of=folder_of(config.output_dir, 0))]),
        build=partial(new_policy, replace(setup.shape, dropout=0.0), config.training),
        tokens_per_step=tokens_of_a_step(config, prompts),
    )
    return artifacts.load(last)


def new_policy(shape: ModelConfig, training: LoopConfig) -> ValueDecoder:
    """Return a decoder with a value head, with random weights that the seed decides and values of 0."""
    model = ValueDecoder(
        shape, gradient_checkpointing=training.gradient_checkpointing, compute_dtype=compute_dtype(training)
    )
    model.init_weights(training.seed)
    return model


def reward_of(config: PpoConfig, setup: Setup) -> tuple[RewardModel, artifacts.Artifact]:
    """Load the reward model, frozen; of a run the newest one, chosen on the main process for all.

    Raises:
        CheckpointError: it is damaged, has another tokenizer, or no scale.
    """
    chosen = [newest(config.reward) if setup.accelerator.is_main_process else None]
    folder = broadcast_object_list(chosen)[0]
    model, artifact = load_reward_model(folder, setup.initial.digest_of("tokenizer"))
    return frozen(model, config, setup), artifact


def read(config: PpoConfig, setup: Setup, context: int) -> Prompts:
    """Read and render the prompts of the dataset, and split them; an answer has room behind each.

    Raises:
        DataError: none can be trained on.
    """
    room, left_out = context - config.rollout.max_tokens, Counter[str]()
    found: dict[Conversation, list[int]] = {}
    for turns in read_prompts(setup.dataset, left_out):
        ids = setup.template.prompt(turns)
        if turns in found:
            left_out["asked before"] += 1
        elif len(ids) > room:
            left_out[f"leaves no room for {config.rollout.max_tokens} tokens"] += 1
        else:
            found[turns] = ids
    train, held_out = split_checked(
        list(found.items()), left_out, config.held_out_share, of=f"data {config.data}", noun="prompt"
    )
    asked = [*train, *held_out]
    return Prompts([turns for turns, _ in asked], [ids for _, ids in asked], len(train), left_out)


@dataclass
class RewardScore:
    """Scores answers with a reward model: on each, with its prompt, the reward of the last token."""

    model: RewardModel
    prompts: Sequence[Sequence[int]]
    size: int
    """Answers of a forward pass."""
    device: torch.device

    def __call__(self, answers: Sequence[Answer]) -> list[Answer]:
        """Return the answers with their scaled rewards."""
        found: list[float] = []
        for start in range(0, len(answers), self.size):
            batch = pack_whole([self._whole(each) for each in answers[start : start + self.size]])
            batch = batch.to(self.device)
            assert batch.counted_N is not None
            found += self.model.scaled(self.model(batch.ids_BT, batch.documents, batch.counted_N)).tolist()
        return [each._replace(score=score) for each, score in zip(answers, found, strict=True)]

    def _whole(self, answer: Answer) -> Encoded:
        ids = np.concatenate([np.asarray(self.prompts[answer.prompt], np.int32), answer.ids_L])
        return Encoded(ids, np.zeros(len(ids), np.bool_))


class Signals(NamedTuple):
    """What the answers of a rollout teach."""

    advantages: list[Floats]
    """Of each token, by answer."""
    returns: list[Floats]
    figures: dict[str, float]


@dataclass
class Ppo:
    """Earn more reward, near the reference."""

    config: PpoConfig
    sampler: Sampler
    held_out: Sequence[int]
    """Numbers of the prompts to measure on."""
    questions: Questions
    signals: Signals | None = None
    num_tokens: int = 0
    """Of the current step, over all processes."""
    moments: Moments = field(default_factory=Moments)

    def check(self) -> None:
        """Report what is trained on."""
        self.questions.check()

    def begin(self, model: nn.Module, step: int) -> None:
        """Sample a rollout, if one begins; steer the KL penalty by the one before."""
        before = self.sampler.current
        if self.sampler.begin(model, step):
            if before is not None:
                self.kl.update(float(before.log_ratios().mean()), len(before.answers))
            self.moments.add(self.rollout.scores_B)
            self.signals = None
        if self.signals is None:
            self.signals = self._signals(self.rollout)
        self.num_tokens = sum(len(self.rollout.answers[item].ids_L) for item in self.sampler.plan.minibatch_of(step))
        self.step_means.begin(self.num_tokens)

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return the summed loss of this process's tokens, and the number of tokens of the step."""
        assert self.signals is not None, "begin() computes them"
        values = [each.values_L for each in self.rollout.answers]
        items = self.sampler.plan.micro_batch_of(step, micro)
        batch = self.sampler.batch(items, self.signals.advantages, values, self.signals.returns)
        _, old_N, advantages_N, old_values_N, returns_N = batch.others
        scoring, ppo = Scoring(self.config.rollout.temperature), self.config.ppo
        scores = model(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N, scoring)
        policy = clipped_policy_loss(scores.log_probs_N, old_N, advantages_N, clip_low=ppo.clip, clip_high=ppo.clip)
        value_losses_N, is_value_clipped_N = clipped_value_loss(
            scores.values_N, old_values_N, returns_N, clip=ppo.value_clip
        )
        kl_N, ratios_N = approximate_kl(scores.log_probs_N.detach(), old_N), policy.ratios_N
        rows = (
            *(policy.losses_N.detach(), value_losses_N.detach(), kl_N, policy.is_clipped_N, is_value_clipped_N),
            *(ratios_N, ratios_N.square()),
        )
        self.step_means.add(rows)
        return (policy.losses_N + ppo.value_weight * value_losses_N).sum(), self.num_tokens

    def figures(self) -> dict[str, Tensor | float]:
        """Return what the rollout earned, and the means over the tokens of the step."""
        assert self.signals is not None
        return {**self.signals.figures, **with_variance(self.step_means.means())}

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return score, KL divergence, length and ends of answers to held-out prompts; answer the questions."""
        self.questions.answer(model, step)
        return figures_of(held_out_answers(self.sampler, model, self.held_out, self.config.validation.windows))

    def state(self) -> ObjectiveState:
        """Return the rollout, whose policy is gone, the weight of the KL penalty, and the statistics of the scores."""
        tensors, values = self.sampler.state()
        return ObjectiveState(tensors, {**values, "kl": self.kl.beta, "scores": asdict(self.moments)})

    def restore(self, state: ObjectiveState) -> None:
        """Restore them; a weight that is fixed is that of the settings."""
        self.sampler.restore(state)
        if self.kl.target is not None:
            self.kl.beta = state.values["kl"]
        self.moments, self.signals = Moments(**state.values["scores"]), None

    def close(self) -> None:
        """Nothing runs beside the training."""

    @cached_property
    def step_means(self) -> StepMeans:
        """The figures of the step."""
        return StepMeans(FIGURES, self.sampler.accelerator)

    @cached_property
    def kl(self) -> KlController:
        """The weight of the KL penalty."""
        return KlController(self.config.ppo.kl, self.config.ppo.kl_target, self.config.ppo.kl_horizon)

    @property
    def rollout(self) -> Rollout:
        """The current rollout."""
        assert self.sampler.current is not None, "begin() samples it"
        return self.sampler.current

    def _signals(self, rollout: Rollout) -> Signals:
        ppo, lengths_B = self.config.ppo, rollout.lengths_B
        ended_B = torch.tensor([each.is_ended for each in rollout.answers])
        scores_B = rollout.scores_B / (self.moments.deviation if ppo.scale_scores else 1.0)
        earned_B = scores_B - ppo.no_end_penalty * (~ended_B)
        log_probs_BT, values_BT = rollout.padded("log_probs_L"), rollout.padded("values_L")
        rewards_BT = token_rewards(earned_B, log_probs_BT, rollout.padded("reference_L"), lengths_B, beta=self.kl.beta)
        advantages_BT = gae(rewards_BT, values_BT, gamma=ppo.gamma, lam=ppo.lam)
        is_token_BT = torch.arange(advantages_BT.shape[1]) < lengths_B[:, None]
        returns_N = (advantages_BT + values_BT)[is_token_BT]
        advantages_N = advantages_BT[is_token_BT]
        advantages_N = whitened(advantages_N) if ppo.whiten else advantages_N
        penalty_B, kl_B = self.kl.beta * rollout.log_ratios(), rollout.log_ratios()
        figures = {
            "objective/kl": float(kl_B.mean()),
            "objective/entropy": float(-log_probs_BT.sum(dim=1).mean()),
            "objective/non_score_reward": float(-penalty_B.mean()),
            "objective/scores": float(rollout.scores_B.mean()),
            "objective/rlhf_reward": float((earned_B - penalty_B).mean()),
            "objective/kl_coef": self.kl.beta,
            "val/num_eos_tokens": float(ended_B.sum()),
            "val/length": float(lengths_B.double().mean()),
        }
        lengths: list[int] = lengths_B.tolist()
        advantages, returns = (
            [part.float().numpy() for part in torch.split(each_N, lengths)] for each_N in (advantages_N, returns_N)
        )
        return Signals(advantages, returns, figures)
