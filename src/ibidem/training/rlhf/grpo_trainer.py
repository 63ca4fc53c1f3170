"""Group relative policy optimization (GRPO) on executed tests: the policy learns from running the code that it writes.

    rollout      the policy answers each problem several times; the judge runs the tests of each answer, one by one
    reward       share of the visible tests passed (- kl * log-ratio to the reference)
    advantage    reward minus the mean of the group: no value head, no division by the deviation
    steps        clipped ratio of each token, of the answer (GSPO), or a clipped weight (CISPO)

The loss of a step is a sum over tokens divided by a constant, answers times `max_tokens`, so that a token counts alike
in short and long answers. Hidden tests are judged too, and never rewarded: where visible passes rise alone, the policy
has learned the tests and not the task. The judge's own failure ends the run; it is never a reward of 0.
Source: Shao et al. 2024, arXiv:2402.03300; without deviations and lengths Liu et al. 2025, arXiv:2503.20783 (Dr. GRPO).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ibidem import artifacts
from ibidem.conversation import Conversation
from ibidem.errors import NothingToLearn
from ibidem.figures import percent
from ibidem.modeling.log_probabilities import Scoring
from ibidem.tokenization.chat import ChatTemplate
from ibidem.training import session
from ibidem.training.objective import ObjectiveState
from ibidem.training.rlhf.advantages import group_advantages, has_contrast
from ibidem.training.rlhf.config import GrpoConfig
from ibidem.training.rlhf.examples import split_checked
from ibidem.training.rlhf.policy import (
    Prompts,
    Questions,
    figures_of,
    held_out_answers,
    mean,
    new_sampler,
    tokens_of_a_step,
)
from ibidem.training.rlhf.policy_losses import (
    PolicyLoss,
    approximate_kl,
    cispo_loss,
    clipped_policy_loss,
    gspo_loss,
    sequence_kl_loss,
)
from ibidem.training.rlhf.problems import CodeProblem, Tests, open_problems, read_problems
from ibidem.training.rlhf.rollout import Answer, Floats, Rollout, Sampler
from ibidem.training.rlhf.setup import Setup, set_up_with
from ibidem.training.rlhf.step_means import StepMeans, with_variance

FIGURES = ("loss/policy_avg", "policy/approxkl_avg", "policy/clipfrac", "val/ratio", "val/ratio_squared")
"""Figures of a step, each the mean over its tokens."""


def grpo(config: GrpoConfig) -> str:
    """Train on executed tests; say where the last checkpoint is."""
    return session.summary(run(config), config)


def run(config: GrpoConfig) -> artifacts.Artifact:
    """Read the problems, start the judge, build or resume, run the loop; return the last checkpoint.

    Raises:
        ConfigError: the checkpoint, problems, batch sizes or processes do not fit together.
        DataError: there is no problem to train on.
        CheckpointError: no intact checkpoint to resume from, or it belongs to another run.
        SandboxError: code cannot be run safely here, or the judge failed.
        NothingToLearn: no answer of the first rollout earned more than the others to its problem.
    """
    setup = set_up_with(config, lambda _: open_problems(config.problems, config.output_dir, config.file, config.judge))
    problems, prompts = read(config, setup)
    has_reference = config.grpo.kl > 0
    with Tests(config.judge) as tests:
        score = ExecutionScore(tests, problems, setup.template)
        sampler = new_sampler(config, setup, prompts, score, has_reference=has_reference)
        objective = Grpo(config, sampler, prompts.held_out, Questions(config, setup, prompts, "train.problems"))
        last = session.run(
            objective,
            config,
            setup.accelerator,
            setup.made,
            build=partial(session.new_decoder, replace(setup.shape, dropout=0.0), config.training),
            tokens_per_step=tokens_of_a_step(config, prompts),
        )
    return artifacts.load(last)


def read(config: GrpoConfig, setup: Setup) -> tuple[list[CodeProblem], Prompts]:
    """Read the problems and render their prompts, those of the training first; an answer has room behind each.

    Raises:
        DataError: none can be trained on.
    """
    room, left_out = setup.shape.context - config.rollout.max_tokens, Counter[str]()
    found: list[tuple[Conversation, tuple[CodeProblem, list[int]]]] = []
    for problem in read_problems(setup.dataset):
        ids = setup.template.prompt(problem.prompt)
        if len(ids) > room:
            left_out[f"leaves no room for {config.rollout.max_tokens} tokens"] += 1
        else:
            found.append((problem.prompt, (problem, ids)))
    train, held_out = split_checked(
        found, left_out, config.held_out_share, of=f"problems {config.problems}", noun="problem"
    )
    asked = [each for _, each in (*train, *held_out)]
    problems = [problem for problem, _ in asked]
    prompts = [problem.prompt for problem in problems]
    return problems, Prompts(prompts, [ids for _, ids in asked], len(train), left_out)


@dataclass
class ExecutionScore:
    """Scores answers by running their tests: the share of the visible ones that pass."""

    tests: Tests
    problems: Sequence[CodeProblem]
    template: ChatTemplate

    def __call__(self, answers: Sequence[Answer]) -> list[Answer]:
        """Return the answers with their scores."""
        texts = [self.template.read(each.ids_L.tolist()).text for each in answers]
        programs = [(self.problems[each.prompt], text) for each, text in zip(answers, texts, strict=True)]
        outcomes = self.tests.outcomes(programs)
        return [
            each._replace(score=outcome.visible, hidden=math.nan if outcome.hidden is None else outcome.hidden)
            for each, outcome in zip(answers, outcomes, strict=True)
        ]


class Signals(NamedTuple):
    """What the answers of a rollout teach."""

    advantages: list[Floats]
    """Of each token, by answer."""
    figures: dict[str, float]


@dataclass
class Grpo:
    """Pass more tests than the other answers to the same problem."""

    config: GrpoConfig
    sampler: Sampler
    held_out: Sequence[int]
    """Numbers of the prompts to measure on."""
    questions: Questions
    signals: Signals | None = None
    num_tokens: int = 0
    """Of the current step, over all processes."""

    def check(self) -> None:
        """Report what is trained on."""
        self.questions.check()

    def begin(self, model: nn.Module, step: int) -> None:
        """Sample a rollout, if one begins.

        Raises:
            NothingToLearn: no group of the first rollout has answers of different rewards.
        """
        if self.sampler.begin(model, step):
            self.signals = None
        if self.signals is None:
            self.signals = self._signals(self.rollout)
        if step == 0 and not self.signals.figures["objective/contrast"]:
            raise NothingToLearn(_nothing_to_learn(self.rollout, self.config.rollout.samples))
        self.num_tokens = sum(len(self.rollout.answers[item].ids_L) for item in self.sampler.plan.minibatch_of(step))
        self.step_means.begin(self.num_tokens)

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return the summed loss of this process's answers, and the constant that all of the step are divided by."""
        assert self.signals is not None, "begin() computes them"
        grpo, items = self.config.grpo, self.sampler.plan.micro_batch_of(step, micro)
        references = [[each.reference_L for each in self.rollout.answers]] if self.sampler.reference else []
        batch = self.sampler.batch(items, self.signals.advantages, *references)
        answer_of_N, old_N, advantages_N, *reference = batch.others
        scoring = Scoring(self.config.rollout.temperature)
        scores = model(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N, scoring)
        lengths_B = self.rollout.lengths_B[items].to(answer_of_N.device)
        policy = self._policy_loss(scores.log_probs_N, old_N, advantages_N, answer_of_N, lengths_B)
        is_mean = grpo.loss == "gspo"  # the ratio is one of the whole answer, so its loss is too
        loss = (policy.losses_N / lengths_B[answer_of_N] if is_mean else policy.losses_N).sum()
        if grpo.kl and grpo.kl_as == "loss":
            kl_B = sequence_kl_loss(scores.log_probs_N, reference[0], answer_of_N, len(items))
            loss = loss + grpo.kl * (kl_B / lengths_B if is_mean else kl_B).sum()
        kl_N = approximate_kl(scores.log_probs_N.detach(), old_N)
        rows = (policy.losses_N.detach(), kl_N, policy.is_clipped_N, policy.ratios_N, policy.ratios_N.square())
        self.step_means.add(rows)
        return loss, self.config.training.batch_sequences * (1 if is_mean else self.config.rollout.max_tokens)

    def figures(self) -> dict[str, Tensor | float]:
        """Return what the rollout earned, and the means over the tokens of the step."""
        assert self.signals is not None
        return {**self.signals.figures, **with_variance(self.step_means.means())}

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return rewards and passes on held-out problems, one answer to each; answer some for people to read."""
        self.questions.answer(model, step)
        answers = held_out_answers(self.sampler, model, self.held_out, self.config.validation.windows)
        return {**figures_of(answers), **passes(answers)}

    def state(self) -> ObjectiveState:
        """Return the rollout, whose policy is gone."""
        return self.sampler.state()

    def restore(self, state: ObjectiveState) -> None:
        """Restore it."""
        self.sampler.restore(state)
        self.signals = None

    def close(self) -> None:
        """Nothing runs beside the training; the judge is closed by who opened it."""

    @cached_property
    def step_means(self) -> StepMeans:
        """The figures of the step."""
        return StepMeans(FIGURES, self.sampler.accelerator)

    @property
    def rollout(self) -> Rollout:
        """The current rollout."""
        assert self.sampler.current is not None, "begin() samples it"
        return self.sampler.current

    def _policy_loss(
        self, log_probs_N: Tensor, old_N: Tensor, advantages_N: Tensor, answer_of_N: Tensor, lengths_B: Tensor
    ) -> PolicyLoss:
        low, high = self.config.grpo.clips
        match self.config.grpo.loss:
            case "grpo":
                return clipped_policy_loss(log_probs_N, old_N, advantages_N, clip_low=low, clip_high=high)
            case "gspo":
                bounds = {"clip_low": low, "clip_high": high}
                return gspo_loss(log_probs_N, old_N, advantages_N, answer_of_N, lengths_B, **bounds)
            case "cispo":
                return cispo_loss(log_probs_N, old_N, advantages_N, clip_high=high)

    def _signals(self, rollout: Rollout) -> Signals:
        grpo, size = self.config.grpo, self.config.rollout.samples
        ended_B = torch.tensor([each.is_ended for each in rollout.answers])
        rewards_B = rollout.scores_B - grpo.no_end_penalty * (~ended_B)
        contrast = has_contrast(rewards_B, size).double()
        kl: dict[str, float] = {}
        if self.sampler.reference is not None:
            ratios_B = rollout.log_ratios()
            kl = {"objective/kl": float(ratios_B.mean())}
            if grpo.kl_as == "reward":
                rewards_B = rewards_B - grpo.kl * ratios_B
        advantages_B = group_advantages(rewards_B, size)
        answers = rollout.answers
        figures = {
            "objective/scores": float(rollout.scores_B.mean()),
            **{f"objective/{name}": value for name, value in passes(answers).items()},
            "objective/contrast": float(contrast.mean()),
            **kl,
            "objective/entropy": -mean(float(each.log_probs_L.sum()) for each in answers),
            "val/num_eos_tokens": float(ended_B.sum()),
            "val/length": mean(len(each.ids_L) for each in answers),
        }
        advantages = [
            np.full(len(each.ids_L), value, np.float32)
            for each, value in zip(answers, advantages_B.tolist(), strict=True)
        ]
        return Signals(advantages, figures)


def passes(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the share of answers that pass all visible tests; and hidden ones, and how far the visible are ahead.

    >>> one, other = (Answer(0, np.zeros(1), np.zeros(1), True, score=1.0, hidden=hidden) for hidden in (1.0, 0.5))
    >>> passes([one, other])
    {'passed': 1.0, 'hidden_passed': 0.5, 'gap': 0.5}
    """
    if not answers:
        return {}
    found = {"passed": mean(each.score == 1 for each in answers)}
    if both := [each for each in answers if not math.isnan(each.hidden)]:
        hidden = mean(each.hidden == 1 for each in both)
        found |= {"hidden_passed": hidden, "gap": mean(each.score == 1 for each in both) - hidden}
    return found


def _nothing_to_learn(rollout: Rollout, samples: int) -> str:
    passed = mean(each.score == 1 for each in rollout.answers)
    remedy = "give problems of which the checkpoint solves some" if passed < 1 else "give harder problems"
    return (
        f"in each of the {len(rollout.answers) // samples} groups of the first rollout, all {samples} answers earn the "
        f"same, so there is nothing to learn: {percent(passed)} pass all tests, the mean reward is "
        f"{float(rollout.scores_B.mean()):.3g}; {remedy}, or more rollout.samples"
    )
