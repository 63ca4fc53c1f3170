"""Supervised fine-tuning (SFT): next-token prediction on what the assistant says in conversations.

The loss of a step is the mean over all its targets: not a mean of the means of micro batches or processes, which would
weigh a short answer more than a long one.
Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.

With `lora.rank`, adapters are trained instead of all weights (`training.lora`).
With `contrast.weight`, contrastive batches of public passages are trained on beside (`training.contrastive`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ibidem import artifacts
from ibidem.conversation import Conversation
from ibidem.data import shards
from ibidem.modeling.loss import IGNORE
from ibidem.runs import folder_of
from ibidem.training import lora, session
from ibidem.training.contrastive import Contrast, new_grounded_decoder
from ibidem.training.loader import Batch, Loader
from ibidem.training.objective import ObjectiveState
from ibidem.training.order import Order
from ibidem.training.passages import read_passages
from ibidem.training.pretraining import NATS_PER_BIT
from ibidem.training.processes import shared_out
from ibidem.training.rlhf.answers import check_questions, choose_questions, report_answers
from ibidem.training.rlhf.batches import Encoded, encode, pack, spread
from ibidem.training.rlhf.config import AlignConfig, RaftConfig, SftConfig
from ibidem.training.rlhf.examples import prompt_of, read_conversations, report_data, split_checked
from ibidem.training.rlhf.setup import Setup, set_up
from ibidem.training.rlhf.step_means import StepMeans

LM_LOSS = "contrast/lm_loss"
"""Figure of a step with contrastive batches: the mean loss of its targets alone."""


def sft(config: SftConfig) -> str:
    """Fine-tune; say where the last checkpoint is."""
    return session.summary(run(config), config)


def run(config: SftConfig) -> artifacts.Artifact:
    """Read and render the conversations, build or resume, run the loop; return the last checkpoint.

    Raises:
        ConfigError: the checkpoint, data, batch sizes or processes do not fit together, or adapters cannot be trained.
        DataError: there is no conversation to train on.
        CheckpointError: no intact checkpoint to resume from, or it belongs to another run.
    """
    lora.check(config.lora, config.optim)
    setup = set_up(config)
    data = read(config, setup)
    if config.contrast.data is None:
        return train(config, setup, data)
    passages = shards.load_dataset(config.contrast.data)
    inputs = [*setup.made.inputs, passages.as_input("contrast", of=folder_of(config.output_dir, 0))]
    setup = setup._replace(made=replace(setup.made, inputs=inputs))
    return train(config, setup, data, _contrast(config, setup, passages))


def train(
    config: SftConfig | RaftConfig, setup: Setup, data: "Conversations", contrast: Contrast | None = None
) -> artifacts.Artifact:
    """Build or resume, and run the loop on conversations; return the last checkpoint.

    Args:
        config: how long, how fast, what to measure.
        setup: the initial checkpoint and the processes.
        data: the conversations.
        contrast: contrastive batches beside them.
    """
    objective = Sft(config, setup, data, contrast)
    new_model = session.new_decoder if contrast is None else new_grounded_decoder
    last = session.run(
        objective,
        config,
        setup.accelerator,
        setup.made,
        build=partial(new_model, setup.shape, config.training),
        adapt=partial(lora.attach, config.lora, config.training.seed) if config.lora.rank else None,
        tokens_per_step=objective.tokens_per_step,
    )
    return artifacts.load(last)


def _contrast(config: SftConfig, setup: Setup, dataset: artifacts.Artifact) -> Contrast:
    asked, context = config.contrast, setup.shape.context
    texts, of = read_passages(dataset, asked.passage_chars, held_out_share=0.0).train, f"contrast.data {asked.data}"
    return Contrast(texts, setup.tokenizer, context, asked, config.training, setup.accelerator, of=of)


class Conversations(NamedTuple):
    """What is trained on and measured."""

    train: list[Encoded]
    held_out: list[Encoded]
    questions: list[Conversation]
    """What is answered at each measurement."""
    left_out: Counter[str]
    """How many documents are not trained on, by reason."""


def read(config: SftConfig, setup: Setup) -> Conversations:
    """Read and render the conversations of the dataset, and split them by prompt.

    Raises:
        DataError: none can be trained on.
    """
    left_out: Counter[str] = Counter()
    return split_conversations(read_conversations(setup.dataset, left_out), left_out, config, setup, config.data)


def split_conversations(
    conversations: Iterable[Conversation], left_out: Counter[str], config: AlignConfig, setup: Setup, origin: Path
) -> Conversations:
    """Render conversations, and split them by prompt.

    Args:
        conversations: each up to its last answer.
        left_out: how many are left out, by reason; those that are too long are added.
        config: the share to hold out, and what is answered.
        setup: the template and the model's shape.
        origin: what was read, for messages.

    Raises:
        DataError: none can be trained on.
    """
    found: list[tuple[Conversation, Encoded]] = []
    for turns in conversations:
        encoded = encode(setup.template, turns)
        if encoded.num_inputs > setup.shape.context:
            left_out["longer than the context"] += 1
        else:
            found.append((turns, encoded))
    train, held_out = split_checked(found, left_out, config.held_out_share, of=f"data {origin}", noun="conversation")
    questions = choose_questions(config, setup, (prompt_of(turns) for turns, _ in held_out))
    return Conversations([each for _, each in train], [each for _, each in held_out], questions, left_out)


@dataclass
class Sft:
    """Next-token prediction on what the assistant says."""

    config: AlignConfig
    setup: Setup
    data: Conversations
    contrast: Contrast | None = None
    num_targets: int = 0
    """Of the current step, over all processes."""

    def check(self) -> None:
        """Report what is trained on."""
        report_data(self.setup.dataset, "train.conversations", self.data.train, self.data.held_out, self.data.left_out)
        check_questions(self.data.questions, self.config, self.setup)
        if self.contrast is not None:
            self.contrast.check()

    def begin(self, model: nn.Module, step: int) -> None:  # noqa: ARG002 - the protocol's signature
        """Count the targets of the step over all processes, and let the loader prepare its micro batches."""
        self.num_targets = sum(self.data.train[item].num_targets for item in self.order.of_step(step))
        self.loader.begin(step)
        if self.contrast is not None:
            self.contrast.begin()
            self.lm_means.begin(self.num_targets)

    def loss(self, model: nn.Module, step: int, micro: int) -> tuple[Tensor, int]:
        """Return the summed loss of this process's conversations, and the number of targets of the step."""
        batch = self.loader.take(step, micro)
        loss = model(batch.ids_BT, batch.targets_BT, batch.documents, self.config.optim.z_loss, batch.counted_N)
        if self.contrast is not None:
            self.lm_means.add((loss[None],))
            loss = loss + self.num_targets * self.contrast.loss(model, step, micro)
        return loss, self.num_targets

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return loss per target and bits per byte on held-out conversations; answer the questions."""
        report_answers(model, self.data.questions, self.config, self.setup, step=step)
        places = spread(len(self.data.held_out), self.config.validation.windows)
        chosen, accelerator = [self.data.held_out[place] for place in places], self.setup.accelerator
        if not chosen:
            return {}
        sums = torch.zeros(3, dtype=torch.float64, device="cpu")
        for share in shared_out(len(chosen), self.config.training.micro_batch_sequences, accelerator):
            packed = pack([chosen[item] if counts else chosen[item].untrained for item, counts in share])
            batch = packed.to(accelerator.device)
            nll = model(batch.ids_BT, batch.targets_BT, batch.documents, counted_N=batch.counted_N)
            is_target_BT = packed.targets_BT != IGNORE
            targets, before = (each[is_target_BT].numpy() for each in (packed.targets_BT, packed.ids_BT))
            num_bytes = int(self.setup.tokenizer.bytes_of(targets, before).sum())
            sums += torch.tensor([float(nll), len(targets), num_bytes], dtype=torch.float64)
        nll, num_targets, num_bytes = accelerator.reduce(sums.to(accelerator.device), "sum").tolist()
        return {"held_out_loss": nll / num_targets, "bits_per_byte": nll / NATS_PER_BIT / num_bytes}

    def figures(self) -> dict[str, Tensor | float]:
        """Return the number of targets of the step; with contrastive batches their figures, and the targets' loss.

        The loop's own `loss` is the sum of both then, with the weight.
        """
        figures = {} if self.contrast is None else {**self.lm_means.means(), **self.contrast.figures()}
        return {"targets": float(self.num_targets), **figures}

    def state(self) -> ObjectiveState:
        """Return no state: the step determines where the data continue."""
        return ObjectiveState({}, {})

    def restore(self, state: ObjectiveState) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """End the loader's thread."""
        self.loader.close()

    @property
    def tokens_per_step(self) -> int:
        """Mean number of ids that a step reads."""
        mean = sum(each.num_inputs for each in self.data.train) / len(self.data.train)
        return round(mean * self.config.training.batch_sequences)

    @cached_property
    def lm_means(self) -> StepMeans:
        """The mean loss of the step's targets, without that of contrastive batches."""
        return StepMeans((LM_LOSS,), self.setup.accelerator)

    @cached_property
    def order(self) -> Order:
        """Which conversations a step takes."""
        accelerator = self.setup.accelerator
        return Order(len(self.data.train), self.config.training, accelerator.num_processes, accelerator.process_index)

    @cached_property
    def loader(self) -> Loader:
        """The training's micro batches of this process."""
        return self.order.loader(self._packed, self.setup.accelerator.device)

    def _packed(self, items: Sequence[int]) -> Batch:
        return pack([self.data.train[item] for item in items])
