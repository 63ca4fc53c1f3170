"""A reward model: it gives the chosen answer of a pair more than the rejected one.

    P(chosen over rejected) = sigmoid(reward(chosen) - reward(rejected))
    loss(pair)              = -log sigmoid(reward(chosen) - reward(rejected) - margin)

Only differences are trained, so the level and the scale of the rewards are arbitrary: at the end they are set so that
the answers of the training data have mean 0 and deviation 1, and kept with the weights. The loss of a step is the mean
over its pairs.
Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5; the margin is that of Touvron et al. 2023, arXiv:2307.09288
(Llama 2), section 3.2.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ibidem import artifacts, log
from ibidem.errors import TrainingError
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.heads import KIND, RewardModel
from ibidem.statistics import lower_bound
from ibidem.training import session
from ibidem.training.config import LoopConfig
from ibidem.training.loader import Batch, Loader
from ibidem.training.objective import ObjectiveState
from ibidem.training.order import Order
from ibidem.training.rlhf.batches import spread
from ibidem.training.rlhf.config import RewardConfig
from ibidem.training.rlhf.examples import report_data
from ibidem.training.rlhf.pairs import EncodedPair, Pairs, measured, pack_whole, read
from ibidem.training.rlhf.preferences import bradley_terry_loss, expected_calibration_error, reliability
from ibidem.training.rlhf.setup import Setup, set_up
from ibidem.training.rlhf.step_means import StepMeans

FIGURES = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
"""Figures of a step, each the mean over its pairs; before scaling."""


def reward(config: RewardConfig) -> str:
    """Train a reward model; say where the last one is."""
    return session.summary(run(config), config)


def run(config: RewardConfig) -> artifacts.Artifact:
    """Read and render the pairs, build or resume, run the loop; return the last reward model.

    Raises:
        ConfigError: the checkpoint, data, batch sizes or processes do not fit together.
        DataError: there is no pair to train on.
        CheckpointError: no intact reward model to resume from, or it belongs to another run.
    """
    setup = set_up(config, KIND)
    objective = Reward(config, setup, read(config, setup))
    last = session.run(
        objective,
        config,
        setup.accelerator,
        setup.made,
        build=partial(new_reward_model, setup.shape, config.training),
        tokens_per_step=round(objective.pairs.mean_ids * config.training.batch_sequences),
    )
    return artifacts.load(last)


def new_reward_model(shape: ModelConfig, training: LoopConfig) -> RewardModel:
    """Return a reward model whose decoder has random weights; both answers of a pair are read without dropout."""
    return RewardModel(session.new_decoder(replace(shape, dropout=0.0), training))


@dataclass
class Reward:
    """Score chosen answers above rejected ones."""

    config: RewardConfig
    setup: Setup
    pairs: Pairs

    def check(self) -> None:
        """Report what is trained on."""
        report_data(self.setup.dataset, "train.pairs", self.pairs.train, self.pairs.held_out, self.pairs.left_out)

    def begin(self, model: nn.Module, step: int) -> None:
        """Forget the figures of the step before and the scale; let the loader prepare the micro batches."""
        self.setup.accelerator.unwrap_model(model).set_scale(
            0.0, 0.0
        )  # that of a run which goes on is of other weights
        self.step_means.begin(self.config.training.batch_sequences)
        self.loader.begin(step)

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return the summed loss of this process's pairs, and the number of pairs of the step."""
        batch = self.loader.take(step, micro)
        chosen_P, rejected_P = self._rewards(model, batch).unbind(dim=1)
        (margins_P,) = batch.others
        losses_P = bradley_terry_loss(chosen_P, rejected_P, margins_P)
        self.step_means.add((chosen_P, rejected_P, chosen_P > rejected_P, chosen_P - rejected_P))
        return losses_P.sum(), self.config.training.batch_sequences

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return loss, accuracy with its bound, and calibration on held-out pairs; after the last step, set the scale.

        Beside them is what length alone predicts: the share of the pairs whose shorter answer is the chosen one.
        """
        found = {}
        chosen = spread(len(self.pairs.held_out), self.config.validation.windows)
        if held_out := [self.pairs.held_out[item] for item in chosen]:
            found = self._quality(held_out, self._all_rewards(model, held_out), step)
        if step == self.config.training.steps:
            found |= self._scale(model)
        return found

    def figures(self) -> dict[str, Tensor]:
        """Return the means over the pairs of the step."""
        return self.step_means.means()

    def state(self) -> ObjectiveState:
        """Return no state: the step determines where the data continue, and the scale is kept with the weights."""
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
    def order(self) -> Order:
        """Which pairs a step takes."""
        accelerator = self.setup.accelerator
        return Order(len(self.pairs.train), self.config.training, accelerator.num_processes, accelerator.process_index)

    @cached_property
    def loader(self) -> Loader:
        """The training's micro batches of this process."""
        return self.order.loader(
            lambda items: packed([self.pairs.train[item] for item in items]), self.setup.accelerator.device
        )

    def _rewards(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.ids_BT, batch.documents, batch.counted_N).view(-1, 2)  # type: ignore[no-any-return]

    def _all_rewards(self, model: nn.Module, pairs: Sequence[EncodedPair]) -> Tensor:
        def of(items: Sequence[int]) -> Tensor:
            batch = packed([pairs[item] for item in items])
            return self._rewards(model, batch.to(self.setup.accelerator.device))

        return measured(len(pairs), 2, self.setup.accelerator, of, self.config.training.micro_batch_sequences)

    def _quality(self, pairs: Sequence[EncodedPair], rewards_P2: Tensor, step: int) -> dict[str, float]:
        margins_P = torch.tensor([pair.margin for pair in pairs], dtype=torch.float64)
        differences_P = rewards_P2[:, 0] - rewards_P2[:, 1]
        right, number = int((differences_P > 0).sum()), len(pairs)
        if step == self.config.training.steps:
            for each in reliability(differences_P.tolist()):
                log.event("reward.reliability", **each._asdict())
        return {
            "held_out_loss": float(bradley_terry_loss(rewards_P2[:, 0], rewards_P2[:, 1], margins_P).mean()),
            "accuracy": (right + int((differences_P == 0).sum()) / 2) / number,
            "accuracy_at_least": lower_bound(right, number),
            "calibration_error": expected_calibration_error(differences_P.tolist()),
            "shorter_is_chosen": sum(map(is_chosen_shorter, pairs)) / number,
        }

    def _scale(self, model: nn.Module) -> dict[str, float]:
        chosen = spread(len(self.pairs.train), self.config.reward.scale_pairs)
        pairs = [self.pairs.train[item] for item in chosen]
        rewards = self._all_rewards(model, pairs).flatten()
        mean, deviation = float(rewards.mean()), float(rewards.std(correction=0))
        if deviation == 0:
            raise TrainingError(f"all rewards are {mean:.6g}: nothing was learned; raise optim.lr, or look at the data")
        self.setup.accelerator.unwrap_model(model).set_scale(mean, deviation)
        return {"reward_mean": mean, "reward_deviation": deviation}


def packed(pairs: Sequence[EncodedPair]) -> Batch:
    """Put both answers of pairs into one row; `others` are the margins."""
    margins_P = torch.tensor([pair.margin for pair in pairs])
    return pack_whole([each for pair in pairs for each in pair.both])._replace(others=(margins_P,))


def is_chosen_shorter(pair: EncodedPair) -> float:
    """Return 1 if the chosen answer has fewer ids, 0 if it has more, and one half if both are equally long."""
    chosen, rejected = (each.num_targets for each in pair.both)
    return 0.5 if chosen == rejected else float(chosen < rejected)
