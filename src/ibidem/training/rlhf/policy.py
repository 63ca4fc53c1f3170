"""What trainings on sampled answers share: prompts, the frozen models beside the policy, and what is measured.

Beside the policy and its optimizer there are only frozen models: the reference, and for PPO the reward model. They have
no gradients and no optimizer, and on a GPU 16 bits.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from accelerate.utils import gather_object
from torch import nn

from ibidem.conversation import Conversation
from ibidem.modeling.checkpoint import load_weights
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training import session
from ibidem.training.processes import compute_dtype, shared_out
from ibidem.training.rlhf.answers import check_questions, choose_questions, report_answers
from ibidem.training.rlhf.batches import spread
from ibidem.training.rlhf.config import AlignConfig, PolicyConfig
from ibidem.training.rlhf.examples import report_data
from ibidem.training.rlhf.rollout import Answer, Plan, Sampler, Score
from ibidem.training.rlhf.setup import Setup

HELD_OUT = 1 << 32
"""Stands where a rollout's number stands in the seeds of held-out answers; no run has so many rollouts."""

Model = TypeVar("Model", bound=nn.Module)


class Prompts(NamedTuple):
    """What is asked, those of the training first; a prompt and `max_tokens` fit into the context."""

    turns: list[Conversation]
    ids: list[list[int]]
    train: int
    """Number of those of the training."""
    left_out: Counter[str]
    """How many documents are not used, by reason."""

    @property
    def held_out(self) -> range:
        """Numbers of those held out."""
        return range(self.train, len(self.ids))


@dataclass
class Questions:
    """What a training says at its beginning, and answers at each measurement, for people to read."""

    config: PolicyConfig
    setup: Setup
    prompts: Prompts
    event: str
    """Name of the event that counts the prompts."""

    def check(self) -> None:
        """Report what is trained on; refuse questions that do not fit.

        Raises:
            ConfigError: a question is too long.
        """
        train, held_out = range(self.prompts.train), self.prompts.held_out
        report_data(self.setup.dataset, self.event, train, held_out, self.prompts.left_out)
        check_questions(self.asked, self.config, self.setup)

    def answer(self, model: nn.Module, step: int) -> None:
        """Answer the questions greedily, and log the answers."""
        report_answers(model, self.asked, self.config, self.setup, step=step)

    @cached_property
    def asked(self) -> list[Conversation]:
        """The questions."""
        held_out = self.prompts.turns[self.prompts.train :]
        return choose_questions(self.config, self.setup, held_out)


def frozen(model: Model, config: AlignConfig, setup: Setup) -> Model:
    """Return a model for inference alone, on this process's device, its parameters in the precision of the training."""
    dtype = compute_dtype(config.training)
    model.requires_grad_(requires_grad=False)
    for parameter in model.parameters():  # not the buffers, which are few and exact
        parameter.data = parameter.data.to(setup.accelerator.device, dtype)
    return model.to(setup.accelerator.device).eval()


def reference_of(config: PolicyConfig, setup: Setup) -> Decoder:
    """Return the initial checkpoint, frozen."""
    model = session.new_decoder(setup.shape, config.training)
    load_weights(model, setup.initial.path)
    return frozen(model, config, setup)


def new_sampler(
    config: PolicyConfig,
    setup: Setup,
    prompts: Prompts,
    score: Score,
    *,
    has_reference: bool,
    has_values: bool = False,
) -> Sampler:
    """Return the sampler of a training's rollouts.

    Raises:
        ConfigError: the prompts of a rollout cannot be shared out over the processes.
    """
    processes, process = setup.accelerator.num_processes, setup.accelerator.process_index
    plan = Plan(config.rollout, config.training, prompts.train, processes, process)
    plan.check()
    reference = reference_of(config, setup) if has_reference else None
    precision, ends = compute_dtype(config.training), setup.template.end_ids
    return Sampler(plan, prompts.ids, ends, score, setup.accelerator, reference, has_values, precision)


def tokens_of_a_step(config: PolicyConfig, prompts: Prompts) -> int:
    """Return how many ids a step learns from if all answers are as long as they may be: for the speed that is shown."""
    mean_ids = sum(map(len, prompts.ids[: prompts.train])) / prompts.train
    return round((mean_ids + config.rollout.max_tokens) * config.training.batch_sequences)


def held_out_answers(sampler: Sampler, model: nn.Module, prompts: Sequence[int], most: int) -> list[Answer]:
    """Sample one answer to each of some prompts, the same random numbers every time; on all processes.

    Args:
        sampler: the training's.
        model: the policy, as it is trained.
        prompts: numbers of the prompts.
        most: maximum number of prompts, evenly spaced.
    """
    chosen = [prompts[place] for place in spread(len(prompts), most)]
    if not chosen:
        return []
    plan, accelerator = sampler.plan, sampler.accelerator
    own: list[tuple[int, Answer]] = []
    for share in shared_out(len(chosen), math.ceil(len(chosen) / plan.processes), accelerator):
        numbers = [chosen[place] for place, _ in share]
        seeds = [_seeds(plan.training.seed, number) for number in numbers]
        answers = sampler.sampled(model, numbers, seeds)
        own += [(place, answer) for (place, counts), answer in zip(share, answers, strict=True) if counts]
    gathered: list[tuple[int, Answer]] = gather_object(own) if plan.processes > 1 else own
    return [answer for _, answer in sorted(gathered, key=lambda pair: pair[0])]


def figures_of(answers: Iterable[Answer]) -> dict[str, float]:
    """Return the mean score, length and KL divergence of answers, and the share that ended; empty without answers."""
    answers = list(answers)
    if not answers:
        return {}
    ratios = [
        float((each.log_probs_L.astype(np.float64) - each.reference_L).sum()) for each in answers if has_reference(each)
    ]
    return {
        "score": mean(each.score for each in answers),
        **({"kl": mean(ratios)} if ratios else {}),
        "length": mean(len(each.ids_L) for each in answers),
        "ended": mean(each.is_ended for each in answers),
    }


def has_reference(answer: Answer) -> bool:
    """Return whether the reference's log-probabilities of an answer are known."""
    return len(answer.reference_L) > 0


def mean(values: Iterable[float]) -> float:
    """Return the mean of at least one value."""
    values = list(values)
    return sum(values) / len(values)


def _seeds(seed: int, number: int) -> list[int]:
    sequence = np.random.SeedSequence((seed, HELD_OUT, number))
    return [int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))]
