"""Direct preference optimization (DPO): raise the chosen answers above the rejected ones, measured from a reference.

    reward(answer) = beta * (log pi(answer | prompt) - log pi_ref(answer | prompt))
    loss(pair)     = -log sigmoid(reward(chosen) - reward(rejected))

The reference is the initial checkpoint; its log-probabilities are computed once (`reference`). The loss of a step is
the mean over its pairs. Dropout is off, as in the reference: it would be noise in the difference.
Source: Rafailov et al. 2023, arXiv:2305.18290, section 4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ibidem import artifacts
from ibidem.conversation import Conversation
from ibidem.training import session
from ibidem.training.loader import Batch, Loader
from ibidem.training.objective import ObjectiveState
from ibidem.training.order import Order
from ibidem.training.rlhf.answers import check_questions, choose_questions, report_answers
from ibidem.training.rlhf.batches import pack, spread
from ibidem.training.rlhf.config import DpoConfig, DpoLossConfig
from ibidem.training.rlhf.examples import report_data
from ibidem.training.rlhf.pairs import Pairs, answer_of_targets, measured, read
from ibidem.training.rlhf.preferences import dpo_loss, length_normalized_dpo_loss
from ibidem.training.rlhf.reference import log_probs, reference_of
from ibidem.training.rlhf.setup import Setup, set_up
from ibidem.training.rlhf.step_means import StepMeans

FIGURES = (
    *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"),
    *("logps/chosen", "logps/rejected"),
)
"""Figures of a step, each the mean over its pairs."""


def dpo(config: DpoConfig) -> str:
    """Train on preferences; say where the last checkpoint is."""
    return session.summary(run(config), config)


def run(config: DpoConfig) -> artifacts.Artifact:
    """Read and render the pairs, build or resume, run the loop; return the last checkpoint.

    Raises:
        ConfigError: the checkpoint, data, batch sizes or processes do not fit together.
        DataError: there is no pair to train on.
        CheckpointError: no intact checkpoint to resume from, or it belongs to another run.
    """
    setup = set_up(config)
    objective = Dpo(config, setup, read(config, setup))
    last = session.run(
        objective,
        config,
        setup.accelerator,
        setup.made,
        build=partial(session.new_decoder, replace(setup.shape, dropout=0.0), config.training),
        tokens_per_step=round(objective.pairs.mean_ids * config.training.batch_sequences),
    )
    return artifacts.load(last)


class Preferences(NamedTuple):
    """What a model thinks of P pairs, beside the reference; float64."""

    losses_P: Tensor
    rewards_P2: Tensor
    """Of the chosen and the rejected answer: beta times the log-ratio, or its mean over tokens if that is the loss."""
    log_probs_P2: Tensor

    @property
    def figures(self) -> tuple[Tensor, ...]:
        """Of each pair, in the order of `FIGURES`."""
        chosen_P, rejected_P = self.rewards_P2.unbind(dim=1)
        return (chosen_P, rejected_P, chosen_P > rejected_P, chosen_P - rejected_P, *self.log_probs_P2.T)


def judge(config: DpoLossConfig, log_probs_P2: Tensor, reference_P2: Tensor, lengths_P2: Tensor) -> Preferences:
    """Compare chosen and rejected answers by the loss that was asked for.

    Args:
        config: the loss.
        log_probs_P2: summed log-probabilities of the chosen and the rejected answers.
        reference_P2: the same under the reference.
        lengths_P2: numbers of tokens of the answers.
    """
    beta, (chosen_P, rejected_P) = config.strength, (log_probs_P2 - reference_P2).unbind(dim=1)
    if config.loss == "sigmoid_norm":
        losses_P = length_normalized_dpo_loss(
            chosen_P, rejected_P, *lengths_P2.unbind(dim=1), beta=beta, label_smoothing=config.label_smoothing
        )
        ratios_P2 = (log_probs_P2 - reference_P2) / lengths_P2
    else:
        losses_P = dpo_loss(chosen_P, rejected_P, beta=beta, label_smoothing=config.label_smoothing)
        ratios_P2 = log_probs_P2 - reference_P2
    return Preferences(losses_P, beta * ratios_P2.detach(), log_probs_P2.detach())


@dataclass
class Dpo:
    """Prefer the chosen answers."""

    config: DpoConfig
    setup: Setup
    pairs: Pairs
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    """Log-probabilities of the pairs under the reference, (P, 2), by side."""

    def check(self) -> None:
        """Report what is trained on; compute the reference if it is not there."""
        report_data(self.setup.dataset, "train.pairs", self.pairs.train, self.pairs.held_out, self.pairs.left_out)
        check_questions(self.questions, self.config, self.setup)
        self.reference = reference_of(self.config, self.setup, self.pairs)

    def begin(self, model: nn.Module, step: int) -> None:  # noqa: ARG002 - the protocol's signature
        """Forget the figures of the step before; let the loader prepare the micro batches."""
        self.step_means.begin(self.config.training.batch_sequences)
        self.loader.begin(step)

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return the summed loss of this process's pairs, and the number of pairs of the step."""
        judged = self._judged(model, self.loader.take(step, micro))
        self.step_means.add(judged.figures)
        return judged.losses_P.sum().float(), self.config.training.batch_sequences

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return loss, accuracy and margin on held-out pairs; answer the questions."""
        report_answers(model, self.questions, self.config, self.setup, step=step)
        chosen = spread(len(self.pairs.held_out), self.config.validation.windows)
        if not chosen:
            return {}
        accelerator = self.setup.accelerator

        def of(places: Sequence[int]) -> Tensor:
            batch = self._packed("held_out", [chosen[place] for place in places])
            judged = self._judged(model, batch.to(accelerator.device))
            margins_P = judged.rewards_P2[:, 0] - judged.rewards_P2[:, 1]
            won_P = (margins_P > 0).double() + (margins_P == 0).double() / 2
            return torch.stack([judged.losses_P, won_P, margins_P], dim=1)

        means = measured(len(chosen), 3, accelerator, of, self.config.training.micro_batch_sequences).mean(dim=0)
        return dict(zip(("held_out_loss", "accuracy", "margin"), means.tolist(), strict=True))

    def figures(self) -> dict[str, Tensor]:
        """Return the means over the pairs of the step."""
        return self.step_means.means()

    def state(self) -> ObjectiveState:
        """Return no state: the step determines where the data continue."""
        return ObjectiveState({}, {})

    def restore(self, state: ObjectiveState) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """End the loader's thread."""
        self.loader.close()

    @cached_property
    def step_means(self) -> StepMeans:
        """The figures of the step."""
        return StepMeans(FIGURES, self.setup.accelerator)

    @cached_property
    def questions(self) -> list[Conversation]:
        """What is answered at each measurement."""
        return choose_questions(self.config, self.setup, self.pairs.prompts)

    @cached_property
    def order(self) -> Order:
        """Which pairs a step takes."""
        accelerator = self.setup.accelerator
        return Order(len(self.pairs.train), self.config.training, accelerator.num_processes, accelerator.process_index)

    @cached_property
    def loader(self) -> Loader:
        """The training's micro batches of this process."""
        return self.order.loader(lambda items: self._packed("train", items), self.setup.accelerator.device)

    def _packed(self, side: str, items: Sequence[int]) -> Batch:
        """Pack pairs; `others` are the answer of each target, the reference and the answers' lengths."""
        answers = [each for item in items for each in self.pairs.sides[side][item].both]
        lengths_P2 = torch.tensor([each.num_targets for each in answers], dtype=torch.float64).view(-1, 2)
        others = (answer_of_targets(answers), self.reference[side][list(items)], lengths_P2)
        return pack(answers)._replace(others=others)

    def _judged(self, model: nn.Module, batch: Batch) -> Preferences:
        answer_of_N, reference_P2, lengths_P2 = batch.others
        log_probs_P2 = log_probs(model, batch, answer_of_N, lengths_P2.numel()).view(-1, 2)
        return judge(self.config.dpo, log_probs_P2, reference_P2, lengths_P2)
