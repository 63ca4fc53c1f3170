"""Train a grounding head: InfoNCE on cloze questions, over the states of an encoder that is never changed.

    dataset -> passages -> cloze questions -> rows -> states of the frozen encoder -> head -> InfoNCE
                           held out: share won against all wrong answers, beside untrained proximity; then the threshold

Only the head is trained and saved; the encoder is an input, by digest. At the last step the head is calibrated: of the
claims that held-out questions make with their right and with a wrong answer, the threshold of the margin that
classifies most claims correctly is kept with the weights.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from ibidem import artifacts, log
from ibidem.artifacts import MANIFEST, Input
from ibidem.config import configuration, settings
from ibidem.data import shards
from ibidem.errors import ConfigError, DataError
from ibidem.grounding import training_set
from ibidem.grounding.alignment import FEATURES, proximity
from ibidem.grounding.cloze import Kind
from ibidem.grounding.encoder import ENCODER, TextEncoder, TokenStates, open_encoder
from ibidem.grounding.head import LATE, NEAR, collate, new_head, read
from ibidem.modeling.heads import HEAD_KIND, GroundingHead
from ibidem.readers import check_reader
from ibidem.runs import folder_of
from ibidem.statistics import lower_bound, upper_bound
from ibidem.training import session, sharding
from ibidem.training.cloze_rows import Material, Rows
from ibidem.training.config import HeadConfig
from ibidem.training.contrastive import losses_of, unread, wins_of
from ibidem.training.objective import ObjectiveState
from ibidem.training.order import Order
from ibidem.training.passages import Passages, read_chunk_passages, read_passages
from ibidem.training.processes import check_processes, start_accelerator
from ibidem.training.rlhf.batches import spread
from ibidem.training.rlhf.pairs import measured
from ibidem.training.rlhf.step_means import StepMeans

FIGURES = ("wins",)
"""Figures of a step: the share of its questions whose right span is above all wrong ones of the batch."""
BOTH_SIDES = 0.975
"""Confidence of each bound of an interval of 95 %."""
PRIOR_QUESTIONS = 200
"""Questions of the training that choose the weights before it."""
CLEARLY = 0.02
"""Share of the wrong spans by which proximity has to be better to be chosen."""
REMEMBERED_BYTES = 1 << 29
"""Memory for states of texts that were read."""
_TOKENS_OF_TEXT = 256


@configuration
class HeadShape:
    """The shape of a head, which a manifest keeps."""

    width: int
    """Of the encoder's states."""
    features: tuple[str, ...] = FEATURES
    """What it reads beside the states."""

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in new_head(self.width).parameters())


def train_head(config: HeadConfig) -> str:
    """Train; say where the last head is."""
    return session.summary(run(config), config)


def run(config: HeadConfig) -> artifacts.Artifact:
    """Read the passages, build or resume, run the loop; return the last head.

    Raises:
        ConfigError: the base is no encoder, or batch sizes and processes do not fit together.
        DataError: no passage can be asked about.
        CheckpointError: no intact head to resume from, or it belongs to another base or other data.
    """
    setup = set_up(config)
    objective = HeadTraining(config, setup)
    last = session.run(
        objective,
        config,
        setup.accelerator,
        setup.made,
        build=objective.new_model,
        rebuild=partial(new_head, setup.encoder.width),
        tokens_per_step=objective.tokens_per_step,
    )
    return artifacts.load(last)


class Setup(NamedTuple):
    """What the training of a head works with."""

    encoder: TextEncoder
    train: Material
    held_out: Material
    accelerator: Accelerator
    made: session.Provenance


def set_up(config: HeadConfig) -> Setup:
    """Check the run, open the base, and read the passages.

    Raises:
        AccessDenied: base or data are made from private documents, of which the principal is no reader.
        ConfigError: the base is no encoder, or the launcher asks for FSDP.
        CheckpointError: a new run would replace old heads.
    """
    session.check(config, HEAD_KIND)
    if sharding.is_requested():
        raise ConfigError("a grounding head is too small to be sharded; start it without FSDP")
    accelerator = start_accelerator(config)
    check_processes(config, accelerator)
    base, place = session.agreed_newest(config.initial, accelerator), folder_of(config.output_dir, 0)
    encoder = open_encoder(base, config.reader)
    data, passages = _read(config)
    train = Material(passages.train, config.training.seed)
    held_out = Material(passages.held_out, config.training.seed, train.known)
    made = session.Provenance(
        inputs=[data.as_input("data", of=place), _as_input(base, encoder, place)],
        tokenizer_dir=None,
        shape=HeadShape(width=encoder.width),
        settings=settings(config),
        kind=HEAD_KIND,
    )
    return Setup(encoder, train, held_out, accelerator, made)


def _read(config: HeadConfig) -> tuple[artifacts.Artifact, Passages]:
    """Open a dataset, or a training set of private documents, and read its passages."""
    data = artifacts.load(config.data)
    if data.kind != training_set.KIND:
        dataset = shards.load_dataset(config.data)
        return dataset, read_passages(dataset, config.passage_chars, config.held_out_share)
    check_reader(data, config.reader)
    return artifacts.verify(config.data), read_chunk_passages(data, config.held_out_share)


def _as_input(base: Path, encoder: TextEncoder, place: Path) -> Input:
    """Return the base as an input of the head that will be at `place`; its name says where it is from there."""
    name = os.path.relpath(base.resolve(), place.resolve())
    return Input(ENCODER, encoder.digest, name, is_artifact=(base / MANIFEST).exists())


@dataclass
class HeadTraining:
    """Score the right span of a passage above the wrong ones."""

    config: HeadConfig
    setup: Setup

    def check(self) -> None:
        """Report what is trained on.

        Raises:
            DataError: no passage can be asked about, on one of the two sides.
        """
        train, held_out = self.setup.train, self.setup.held_out
        train.check(f"data {self.config.data}")
        if not held_out:
            raise DataError(
                f"data {self.config.data}: no held-out passage can be asked about, so a head could not be measured; "
                "give more documents, or a larger --held-out-share"
            )
        passages = {"passages": len(train.passages), "held_out_passages": len(held_out.passages)}
        log.event("train.questions", train=len(train), held_out=len(held_out), **passages)

    def new_model(self) -> GroundingHead:
        """Return an untrained head, with late interaction as its prior unless proximity clearly wins more questions.

        It is the training's own questions that decide. They are made of words of passages, and so favor proximity.
        """
        items = spread(len(self.setup.train), PRIOR_QUESTIONS)
        near, late = (sum(self._shares_won(prior, items)) / len(items) for prior in (NEAR, LATE))
        log.event("train.prior", questions=len(items), near=round(near, 4), late=round(late, 4))
        return new_head(self.setup.encoder.width, NEAR if near > late + CLEARLY else LATE)

    def _shares_won(self, prior_I: Sequence[float], items: Sequence[int]) -> Iterator[float]:
        """Yield the share of the wrong spans in its passage that an untrained head ranks below the right one."""
        head = new_head(self.setup.encoder.width, prior_I).eval()
        for item in items:
            asked = read(*self.setup.train.own_rows(item), self.setup.train.known, self.states)
            with torch.inference_mode():
                right, *wrong = head(collate([asked])).tolist()
            yield sum(right > each for each in wrong) / len(wrong)

    def begin(self, model: nn.Module, step: int) -> None:  # noqa: ARG002 - the protocol's signature
        """Forget the figures of the step before and the threshold: that of a run which goes on is of other weights."""
        self.setup.accelerator.unwrap_model(model).calibration.fill_(torch.nan)
        self.step_means.begin(self.config.training.batch_sequences)

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return the summed loss of this process's questions, and the number of questions of the step."""
        rows = self.setup.train.rows(self.order.of_micro_batch(step, micro))
        scores_R = self._scores(model, rows)
        self.step_means.add((wins_of(scores_R.detach(), rows),))
        losses_N = losses_of(scores_R, rows, self.setup.accelerator.unwrap_model(model).temperature)
        return losses_N.sum(), self.config.training.batch_sequences

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the loss, and the share of held-out questions whose right span beats all wrong ones of its passage.

        Beside it is that of untrained proximity, each with its lower bound. After the last step, set the threshold.
        """
        chosen, training = self.chosen, self.config.training
        claims = measured(
            len(chosen),
            len(Claims._fields),
            self.setup.accelerator,
            lambda places: self._claims(model, [chosen[place] for place in places]),
            training.micro_batch_sequences,
        )
        found = Claims(*claims.unbind(dim=1))
        wins, temperature = int((found.right > 0).sum()), self.setup.accelerator.unwrap_model(model).temperature
        if step == training.steps:
            self._report_kinds((found.right > 0).tolist())
        return {
            "held_out_loss": float(found.loss.mean()),
            **_share("wins", wins, len(chosen)),
            **_share("proximity_wins", sum(self.proximity_wins), len(chosen)),
            "temperature": float(temperature),
            **(self._calibrate(model, found) if step == training.steps else {}),
        }

    def figures(self) -> dict[str, Tensor]:
        """Return the means over the questions of the step."""
        return self.step_means.means()

    def state(self) -> ObjectiveState:
        """Return no state: the step determines where the data continue, and the threshold is kept with the weights."""
        return ObjectiveState({}, {})

    def restore(self, state: ObjectiveState) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Nothing to end."""

    @property
    def tokens_per_step(self) -> int:
        """Mean number of words of the questions and passages of a step: for the speed that is shown."""
        words = [len(text.split()) for text in self.setup.train.passages]
        return round(sum(words) / max(len(words), 1) * self.config.training.batch_sequences)

    @cached_property
    def step_means(self) -> StepMeans:
        """The figures of the step."""
        return StepMeans(FIGURES, self.setup.accelerator)

    @cached_property
    def order(self) -> Order:
        """Which questions a step takes."""
        accelerator = self.setup.accelerator
        return Order(len(self.setup.train), self.config.training, accelerator.num_processes, accelerator.process_index)

    @cached_property
    def chosen(self) -> list[int]:
        """The held-out questions that are measured."""
        return spread(len(self.setup.held_out), self.config.validation.windows)

    @cached_property
    def proximity_wins(self) -> list[bool]:
        """Which of the measured questions untrained proximity wins."""
        wins = []
        for item in self.chosen:
            right, *wrong = proximity(*self.setup.held_out.own_rows(item), self.setup.train.known).tolist()
            wins.append(right > max(wrong))
        return wins

    def _report_kinds(self, wins: Sequence[bool]) -> None:
        """Log for each kind of answer how many of the measured questions are won, with the exact 95 % interval."""
        kinds = [self.setup.held_out.questions[item].answer.kind for item in self.chosen]
        for kind in get_args(Kind):
            mine = [place for place, each in enumerate(kinds) if each == kind]
            if not mine:
                continue
            won, number = sum(wins[place] for place in mine), len(mine)
            log.event(
                "head.kind",
                kind=kind,
                questions=number,
                wins=won / number,
                wins_at_least=lower_bound(won, number, BOTH_SIDES),
                wins_at_most=upper_bound(won, number, BOTH_SIDES),
                proximity_wins=sum(self.proximity_wins[place] for place in mine) / number,
            )

    @cached_property
    def states(self) -> Callable[[str], TokenStates]:
        """Returns the encoder's states of a text; those of the last texts are kept."""
        size_bytes = 4 * self.setup.encoder.width * _TOKENS_OF_TEXT
        return lru_cache(maxsize=max(1, REMEMBERED_BYTES // size_bytes))(self.setup.encoder.states)

    def _scores(self, model: nn.Module, rows: Rows) -> Tensor:
        texts = (*rows.questions, *rows.passages)
        states = {text: self.states(text) for text in texts}
        located = unread(rows, lambda text: states[text].spans_T2, self.setup.train.known)
        flat_TD, device = torch.cat([states[text].states_TD for text in texts]), self.setup.accelerator.device
        return model(located.to(device).read(flat_TD.to(device)))  # type: ignore[no-any-return]

    def _claims(self, model: nn.Module, items: Sequence[int]) -> Tensor:
        """Return the values of `Claims` of some held-out questions, (N, 3)."""
        rows = self.setup.held_out.rows(items)
        scores_R = self._scores(model, rows)
        losses_N = losses_of(scores_R, rows, self.setup.accelerator.unwrap_model(model).temperature)
        values = []
        for place, item in enumerate(items):
            number = len(self.setup.held_out.questions[item].wrong)
            right, *wrong = scores_R[torch.from_numpy(rows.question_of_R == place)][: 1 + number].tolist()
            drawn = random.Random(f"{self.config.training.seed} {item}").randrange(number)
            others = [right, *wrong[:drawn], *wrong[drawn + 1 :]]
            values.append([float(losses_N[place]), right - max(wrong), wrong[drawn] - max(others)])
        return torch.tensor(values, dtype=torch.float64)

    def _calibrate(self, model: nn.Module, found: "Claims") -> dict[str, float]:
        """Set the threshold of margins; return it, and the share of the claims that it tells apart."""
        threshold = best_threshold(found.right.numpy(), found.wrong.numpy())
        self.setup.accelerator.unwrap_model(model).calibration.fill_(threshold)
        told = int((found.right >= threshold).sum()) + int((found.wrong < threshold).sum())
        return {"threshold": threshold, "told_apart": told / (2 * len(found.right))}


class Claims(NamedTuple):
    """What is measured of each held-out question; the values of all."""

    loss: Tensor
    right: Tensor
    """Margin of the claim that its right answer makes: over the best wrong one."""
    wrong: Tensor
    """Margin of a claim with a wrong answer, drawn from those of the passage: over the best other one."""


def best_threshold(supported: NDArray[np.float64], unsupported: NDArray[np.float64]) -> float:
    """Return the threshold of margins that tells most claims apart; of equal ones that in the middle of the widest gap.

    >>> best_threshold(np.array([1.0, 4.0]), np.array([-3.0, 0.0]))
    0.5
    """
    values = np.unique(np.concatenate([supported, unsupported]))
    if len(values) == 1:
        return float(values[0])
    middles, gaps = (values[:-1] + values[1:]) / 2, np.diff(values)
    right = [int((supported >= middle).sum() + (unsupported < middle).sum()) for middle in middles]
    return float(middles[max(range(len(middles)), key=lambda place: (right[place], gaps[place]))])


def _share(name: str, count: int, number: int) -> dict[str, float]:
    return {name: count / number, f"{name}_at_least": lower_bound(count, number)}
