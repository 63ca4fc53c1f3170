"""Rollouts: answers that the policy samples, and from which some steps learn.

    step       0    1    2    3    4    5    6    7    8  ...
    rollout    0 --------------   1 --------------   2
    epoch      0    0    1    1   0    0    1    1            2 minibatches, 2 epochs
    minibatch  0    1    0    1   0    1    0    1

Everything follows from the step: prompts, seeds of the samples, and which answers a minibatch has. The policy that
sampled a rollout is gone after its first step, so the rollout is part of the checkpoint. Sampled ids are never decoded
and encoded again.

The ratio of the first minibatch is 1 up to rounding: a training in float32 takes the log-probabilities of the sampler,
which are those of the very distributions that the ids were drawn from, and one in 16 bits those of its own forward
pass, since the sampler rounds otherwise.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, chain, groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from ibidem import log
from ibidem.errors import ConfigError, IbidemError, SandboxError
from ibidem.modeling.attention import Branches, Documents, Group, Layout
from ibidem.modeling.generate import Sample, sample
from ibidem.modeling.log_probabilities import Scoring, TokenScores
from ibidem.modeling.loss import IGNORE, counted
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.training import sharding
from ibidem.training.config import LoopConfig
from ibidem.training.loader import Batch
from ibidem.training.objective import ObjectiveState
from ibidem.training.permutation import items_at
from ibidem.training.rlhf.config import RolloutConfig

Floats = NDArray[np.float32]
NONE = np.zeros(0, np.float32)


class Answer(NamedTuple):
    """A sampled answer, and what is known of it when it was sampled."""

    prompt: int
    """Number of its prompt."""
    ids_L: NDArray[np.int32]
    """The sampled ids, with the end if there is one."""
    log_probs_L: Floats
    """Under the distributions that they were drawn from."""
    is_ended: bool
    score: float = 0.0
    """Of the whole answer."""
    hidden: float = math.nan
    """Share of the hidden tests that it passes, which is measured and never rewarded; NaN without such tests."""
    reference_L: Floats = NONE
    """Log-probabilities under the reference, if there is one."""
    values_L: Floats = NONE
    """Values before each id, if there is a value head."""


ARRAYS = ("log_probs_L", "reference_L", "values_L")

Score = Callable[[Sequence[Answer]], Sequence[Answer]]
"""Returns answers with their scores; called on each process with its own."""


class Rollout(NamedTuple):
    """The answers of a rollout, equal on all processes; the answers to one prompt are neighbors."""

    number: int
    answers: list[Answer]

    @property
    def lengths_B(self) -> Tensor:  # noqa: N802 - the shape
        """Numbers of ids; int64."""
        return torch.tensor([len(each.ids_L) for each in self.answers])

    @property
    def scores_B(self) -> Tensor:  # noqa: N802 - the shape
        """Scores; float64."""
        return torch.tensor([each.score for each in self.answers], dtype=torch.float64)

    def padded(self, name: str) -> Tensor:
        """Return an array of each answer as rows, zeros behind its end; (B, T), float64."""
        rows = [torch.from_numpy(getattr(each, name)).double() for each in self.answers]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def log_ratios(self) -> Tensor:
        """Return log pi - log pi_ref of each answer; (B,), float64: on average its KL divergence."""
        return (self.padded("log_probs_L") - self.padded("reference_L")).sum(dim=1)

    def to_state(self) -> dict[str, Tensor]:
        """Return its tensors, from which `of_state` restores it."""
        joined = {name: np.concatenate([getattr(each, name) for each in self.answers]) for name in ("ids_L", *ARRAYS)}
        facts = [[each.prompt, len(each.ids_L), each.is_ended] for each in self.answers]
        tensors = {name: torch.from_numpy(array) for name, array in joined.items()}
        scores = torch.tensor([[each.score, each.hidden] for each in self.answers], dtype=torch.float64)
        return {**tensors, "facts": torch.tensor(facts), "scores": scores, "number": torch.tensor(self.number)}

    @classmethod
    def of_state(cls, tensors: "Any") -> "Rollout":
        """Restore a rollout."""
        facts, scores = tensors["facts"].tolist(), tensors["scores"].tolist()
        ends = np.cumsum([length for _, length, _ in facts])[:-1]
        split = {name: np.split(tensors[name].numpy(), ends) for name in ("ids_L", *ARRAYS) if len(tensors[name])}
        answers = [
            Answer(
                prompt,
                is_ended=bool(is_ended),
                score=score,
                hidden=hidden,
                **{name: split[name][place] for name in split},
            )
            for place, ((prompt, _, is_ended), (score, hidden)) in enumerate(zip(facts, scores, strict=True))
        ]
        return cls(int(tensors["number"]), answers)


@dataclass(frozen=True)
class Plan:
    """Which prompts a rollout has, and which of its answers a micro batch."""

    config: RolloutConfig
    training: LoopConfig
    prompts: int
    """How many there are."""
    processes: int = 1
    process: int = 0

    @property
    def answers(self) -> int:
        """Of a rollout."""
        return self.training.batch_sequences * self.config.minibatches

    def check(self) -> None:
        """Fail if a rollout cannot be shared out.

        Raises:
            ConfigError: the prompts of a rollout are not a multiple of the processes.
        """
        groups = self.answers // self.config.samples
        if groups % self.processes:
            raise ConfigError(
                f"a rollout has {groups} prompts ({self.answers} answers, {self.config.samples} to each), which "
                f"{self.processes} processes cannot share out evenly"
            )

    def key(self, prompts: Sequence[Sequence[int]], *, has_reference: bool) -> str:
        """Return a digest of all that a rollout depends on besides the policy: another one cannot go on from it."""
        rollout = [self.config.max_tokens, self.config.temperature, self.config.samples, self.config.minibatches]
        settings = [*rollout, self.config.epochs, self.training.batch_sequences, self.training.seed, has_reference]
        return sha256(json.dumps([settings, [list(map(int, each)) for each in prompts]]).encode()).hexdigest()

    def rollout_of(self, step: int) -> int:
        """Return the number of a step's rollout."""
        return step // self.config.steps

    def prompts_of(self, rollout: int) -> list[int]:
        """Return the prompts of a rollout; each epoch over all prompts has an order of its own."""
        count = self.answers // self.config.samples
        places = range(rollout * count, (rollout + 1) * count)
        return list(map(int, items_at(places, self.prompts, self.training.seed)[1]))

    def seeds_of(self, rollout: int, group: int) -> list[int]:
        """Return the random seeds of the answers to one of a rollout's prompts."""
        sequence = np.random.SeedSequence((self.training.seed, rollout, group))
        return [int(seed) for seed in sequence.generate_state(self.config.samples, np.uint64) >> np.uint64(1)]

    def minibatch_of(self, step: int) -> list[int]:
        """Return the answers of a step, over all processes; those to one prompt are neighbors, to share its reading."""
        epoch, minibatch = divmod(step % self.config.steps, self.config.minibatches)
        rng = np.random.default_rng((self.training.seed, self.rollout_of(step), epoch))
        size = self.training.batch_sequences
        chosen = rng.permutation(self.answers)[minibatch * size : (minibatch + 1) * size]
        return sorted(int(each) for each in chosen)

    def micro_batch_of(self, step: int, micro: int) -> list[int]:
        """Return this process's answers of a micro batch."""
        size = self.training.micro_batch_sequences
        first = (micro * self.processes + self.process) * size
        return self.minibatch_of(step)[first : first + size]


@dataclass
class Sampler:
    """Samples rollouts from the policy, and keeps the current one."""

    plan: Plan
    prompts: Sequence[Sequence[int]]
    """As ids."""
    end_ids: frozenset[int]
    score: Score
    accelerator: Accelerator
    reference: nn.Module | None = None
    """A frozen decoder; None: no log-probabilities of a reference are wanted."""
    has_values: bool = False
    """Whether the policy has a value head."""
    precision: torch.dtype = torch.float32
    """What the training computes in."""
    current: Rollout | None = field(default=None, init=False)

    def begin(self, model: nn.Module, step: int) -> bool:
        """Sample the step's rollout, unless it is the current one; return whether it is new."""
        number = self.plan.rollout_of(step)
        if self.current is not None and self.current.number == number:
            return False
        numbers = self.plan.prompts_of(number)
        groups = range(self.plan.process, len(numbers), self.plan.processes)
        seeds = [self.plan.seeds_of(number, group) for group in groups]
        own = self.sampled(model, [numbers[group] for group in groups], seeds)
        self.current = Rollout(number, self._gathered(own))
        return True

    def sampled(self, model: nn.Module, prompts: Sequence[int], seeds: Sequence[Sequence[int]]) -> list[Answer]:
        """Answer some prompts on this process; return the answers with all that is known of them.

        Args:
            model: the policy, as it is trained.
            prompts: numbers of the prompts.
            seeds: for each of them a random seed for each of its answers.
        """
        was_training = model.training
        model.eval()
        with torch.no_grad():
            groups = sample(
                self._frozen(model),
                [self.prompts[number] for number in prompts],
                seeds,
                max_tokens=self.plan.config.max_tokens,
                temperature=self.plan.config.temperature,
                end_ids=self.end_ids,
            )
            answers = [
                self._answer(number, each) for number, group in zip(prompts, groups, strict=True) for each in group
            ]
            answers = self._with_policy(model, self._with_reference(self._scored(answers)))
        model.train(was_training)
        return answers

    def batch(self, items: Sequence[int], *others: Sequence[Floats]) -> Batch:
        """Pack answers of the current rollout behind their prompts, on the device.

        Args:
            items: numbers of the answers.
            others: for each array of the whole rollout a list with one of each answer: joined like the targets.

        Returns:
            A batch whose `others` are the answer of each target, log-probabilities when it was sampled, and `others`.
        """
        assert self.current is not None, "begin() samples it"
        answers = [self.current.answers[item] for item in items]
        joined = [np.concatenate([each[item] for item in items]).astype(np.float32) for each in others]
        old = np.concatenate([each.log_probs_L for each in answers])
        packed = pack_answers(self.prompts, answers)
        packed = packed._replace(others=(*packed.others, *map(torch.from_numpy, [old, *joined])))
        return packed.to(self.accelerator.device)

    def state(self) -> ObjectiveState:
        """Return the current rollout, and what it depends on."""
        return ObjectiveState({} if self.current is None else self.current.to_state(), {"rollout_of": self._key})

    def restore(self, state: ObjectiveState) -> None:
        """Restore the current rollout, unless it was sampled with other settings or prompts."""
        self.current = Rollout.of_state(state.tensors) if state.tensors else None
        if self.current is not None and state.values.get("rollout_of") != self._key:
            reason = "it was sampled with other settings or prompts; the next step samples another one"
            log.event("train.rollout_dropped", rollout=self.current.number, reason=reason)
            self.current = None

    @cached_property
    def _key(self) -> str:
        return self.plan.key(self.prompts, has_reference=self.reference is not None)

    def _frozen(self, model: nn.Module) -> FrozenDecoder:
        whole = sharding.whole(self.accelerator.unwrap_model(model))
        return FrozenDecoder(whole, "float32" if self.precision == torch.float32 else None)

    def _scored(self, answers: list[Answer]) -> list[Answer]:
        """Score this process's answers; what fails on one process is raised on all of them.

        Raises:
            IbidemError: no score could be given.
        """
        scored: list[Answer] = []
        failure: IbidemError | None = None
        try:
            scored = list(self.score(answers))
        except IbidemError as error:
            failure = error
        if self.plan.processes > 1:
            said = [each for each in gather_object([failure and str(failure)]) if each]
            failure = failure or (SandboxError(said[0]) if said else None)
        if failure is not None:
            raise failure
        return scored

    def _with_reference(self, answers: list[Answer]) -> list[Answer]:
        if self.reference is None:
            return answers
        found = self._scores(self.reference, answers)
        return [
            each._replace(reference_L=_array(scores.log_probs_N)) for each, scores in zip(answers, found, strict=True)
        ]

    def _with_policy(self, model: nn.Module, answers: list[Answer]) -> list[Answer]:
        """Add the values, and in 16 bits the trainer's own log-probabilities."""
        is_exact = self.precision == torch.float32
        if is_exact and not self.has_values:
            return answers
        known = []
        for each, scores in zip(answers, self._scores(model, answers), strict=True):
            values = each.values_L if scores.values_N is None else _array(scores.values_N)
            log_probs = each.log_probs_L if is_exact else _array(scores.log_probs_N)
            known.append(each._replace(values_L=values, log_probs_L=log_probs))
        return known

    def _answer(self, prompt: int, sampled: Sample) -> Answer:
        ids = np.array(sampled.ids, np.int32)
        return Answer(prompt, ids, np.array(sampled.log_probs, np.float32), int(ids[-1]) in self.end_ids)

    def _scores(self, model: nn.Module, answers: Sequence[Answer]) -> Iterator[TokenScores]:
        """Yield what a model says of each answer's ids; on all processes in equally many forward passes."""
        size = self.plan.training.micro_batch_sequences
        for start in range(0, len(answers), size):
            some = answers[start : start + size]
            batch = pack_answers(self.prompts, some).to(self.accelerator.device)
            scoring = Scoring(self.plan.config.temperature)
            scores = model(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N, scoring)
            lengths = [len(each.ids_L) for each in some]
            columns = [[None] * len(lengths) if each is None else each.split(lengths) for each in scores]
            yield from map(TokenScores._make, zip(*columns, strict=True))

    def _gathered(self, own: list[Answer]) -> list[Answer]:
        """Return the answers of all processes, in the order of the rollout's prompts."""
        if self.plan.processes == 1:
            return own
        size = self.plan.config.samples
        groups = [own[start : start + size] for start in range(0, len(own), size)]
        shares: list[list[list[Answer]]] = gather_object([groups])
        return [each for place in zip(*shares, strict=True) for group in place for each in group]


def pack_answers(prompts: Sequence[Sequence[int]], answers: Sequence[Answer]) -> Batch:
    """Put answers behind their prompts into one row; a prompt is there once for answers to it that are neighbors.

        stem         answer 0    answer 1    stem ...
        [p p p p]    [P a a]     [P b]       [q q]        the inputs; P is the last id of the prompt
         . . . .      a a END     b END       . .         the targets

    Returns:
        A batch whose `others` are the answer of each target.
    """
    ids: list[int] = []
    targets: list[int] = []
    groups = []
    for number, same in groupby(answers, key=attrgetter("prompt")):
        *stem, last = prompts[number]
        branches = [each.ids_L.tolist() for each in same]
        ids += chain(stem, *([last, *branch[:-1]] for branch in branches))
        targets += chain([IGNORE] * len(stem), *branches)
        groups.append(Group(len(stem), tuple(map(len, branches))))
    lengths = torch.tensor([len(each.ids_L) for each in answers])
    answer_of_N = torch.repeat_interleave(torch.arange(len(answers)), lengths)
    targets_1N = torch.tensor(targets)[None]
    return Batch(torch.tensor(ids)[None], targets_1N, _layout(groups), counted(targets_1N), (answer_of_N,))


def _layout(groups: Sequence[Group]) -> Layout:
    """Return documents if no two answers share a prompt, for which attention has one operation; else branches."""
    if any(len(group.branches) > 1 for group in groups):
        return Branches.of(groups)
    sizes = [stem + length for stem, (length,) in groups]
    starts_N = torch.zeros(sum(sizes), dtype=torch.bool)
    starts_N[list(accumulate([0, *sizes[:-1]]))] = True
    return Documents.of(starts_N[None])


def _array(values_N: Tensor) -> Floats:
    values: Floats = values_N.float().cpu().numpy()
    return values
