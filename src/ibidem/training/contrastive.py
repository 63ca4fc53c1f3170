"""Contrastive learning of a grounding head: InfoNCE over the rows of cloze questions.

A frozen encoder reads the texts for `ibidem train-head` (`training.head`). Beside a language-model loss the policy that
is trained reads them itself: `Contrast`, for `ibidem sft` and `ibidem raft`.

Shapes: R rows, N questions of Q tokens, M passages of P tokens, T tokens.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ibidem.errors import ConfigError
from ibidem.grounding.alignment import Frequencies
from ibidem.grounding.head import LATE, token_span, token_weights
from ibidem.modeling.attention import Documents
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.grounded_decoder import GroundedDecoder, Unread
from ibidem.modeling.info_nce import info_nce
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import sharding
from ibidem.training.cloze_rows import Material, Rows
from ibidem.training.config import ContrastConfig, LoopConfig
from ibidem.training.order import Order
from ibidem.training.processes import compute_dtype

FIGURES = ("contrast/loss", "contrast/wins")
"""Figures of a step: mean InfoNCE in nats, and the share of questions whose right span is above all wrong ones."""


def unread(
    rows: Rows, tokens_of: Callable[[str], NDArray[np.int64]], known: Frequencies, *, opening: int = 0
) -> Unread:
    """Locate the spans of a batch among the tokens of its texts: those of the questions first, then the passages'.

    Args:
        rows: the batch.
        tokens_of: returns the tokens of a text as spans in characters, [T, 2].
        known: weights the questions' words.
        opening: tokens before each text that stand for none of it.
    """
    questions, passages = ([tokens_of(text) for text in texts] for texts in (rows.questions, rows.passages))
    weights = [token_weights(text, tokens, known) for text, tokens in zip(rows.questions, questions, strict=True)]
    spans, sentences = (
        [
            token_span(passages[place], (start, end))
            for place, (start, end) in zip(rows.passage_of_R.tolist(), places_R2.tolist(), strict=True)
        ]
        for places_R2 in (rows.spans_R2, rows.sentences_R2)
    )
    places = _places([len(tokens) for tokens in (*questions, *passages)], opening)
    return Unread(
        question_places_NQ=pad_sequence(places[: len(questions)], batch_first=True),
        question_weights_NQ=pad_sequence(weights, batch_first=True),
        passage_places_MP=pad_sequence(places[len(questions) :], batch_first=True),
        passage_lengths_M=torch.tensor([len(tokens) for tokens in passages]),
        question_of_R=torch.from_numpy(rows.question_of_R),
        passage_of_R=torch.from_numpy(rows.passage_of_R),
        spans_R2=torch.tensor(spans).view(-1, 2),
        sentences_R2=torch.tensor(sentences).view(-1, 2),
        features_RF=torch.from_numpy(rows.features_RF),
    )


def _places(counts: Sequence[int], opening: int) -> list[Tensor]:
    """Return the places of the tokens of each text in a row of all texts.

    >>> [places.tolist() for places in _places([2, 1], opening=1)]
    [[1, 2], [4]]
    """
    starts = np.cumsum([opening, *(count + opening for count in counts)])
    return [torch.arange(start, start + count) for start, count in zip(starts[:-1].tolist(), counts, strict=True)]


def losses_of(scores_R: Tensor, rows: Rows, temperature: Tensor | float) -> Tensor:
    """Return InfoNCE of each question of a batch, on the device of the scores, (N,)."""
    return info_nce(scores_R, *_columns(rows, scores_R.device), temperature)


def wins_of(scores_R: Tensor, rows: Rows) -> Tensor:
    """Return whether the right row of each question has a higher score than all its wrong ones; bool, (N,)."""
    question_R, is_right_R, is_masked_R = _columns(rows, scores_R.device)
    right_N = scores_R[is_right_R]
    wrong_R = scores_R.masked_fill(is_right_R | is_masked_R, -torch.inf)
    return right_N > torch.full_like(right_N, -torch.inf).scatter_reduce(0, question_R, wrong_R, "amax")


def _columns(rows: Rows, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    question_R, is_right_R, is_masked_R = map(torch.from_numpy, (rows.question_of_R, rows.is_right_R, rows.is_masked_R))
    return question_R.to(device), is_right_R.to(device), is_masked_R.to(device)


def new_grounded_decoder(shape: ModelConfig, training: LoopConfig) -> GroundedDecoder:
    """Return a decoder with random weights, which the seed decides, and an untrained grounding head.

    The head begins with late interaction, so that gradients reach the states from the first step on.
    """
    model = GroundedDecoder(
        shape, LATE, gradient_checkpointing=training.gradient_checkpointing, compute_dtype=compute_dtype(training)
    )
    model.init_weights(training.seed)
    return model


class Contrast:
    """Contrastive batches beside a language-model loss: what `sft` and `raft` add to theirs.

        contrast = Contrast(passages, tokenizer, shape.context, config.contrast, config.training, accelerator,
                            of="the index")
        contrast.check()                                                in the objective's `check`
        build=partial(new_grounded_decoder, shape, config.training)     to `session.run`, for `session.new_decoder`
        contrast.begin()                                                in its `begin`
        loss = loss + num_targets * contrast.loss(model, step, micro)   in its `loss`, which returns `loss, num_targets`
        {..., **contrast.figures()}                                     in its `figures`

    The policy reads questions and passages itself, and the gradients of its states go into it: that is what the batches
    are for: a head on frozen states is trained by `train-head`. The head that is trained along is an aid, as the value
    head of PPO is.

    A step has as many questions as sequences; the step, the micro batch and the process decide which.
    """

    def __init__(
        self,
        passages: Sequence[str],
        tokenizer: Tokenizer,
        context: int,
        config: ContrastConfig,
        training: LoopConfig,
        accelerator: Accelerator,
        *,
        of: str,
    ) -> None:
        """Make the questions.

        Args:
            passages: texts to ask about; what exceeds the context is not read.
            tokenizer: the policy's.
            context: the policy's, in tokens.
            config: the weight of the loss.
            training: the batches, and the seed.
            accelerator: the processes.
            of: where the passages are from, for messages.
        """
        self.material, self._of = Material(passages, training.seed), of
        self._tokenizer, self._context, self._weight = tokenizer, context, config.weight
        self._batch, self._accelerator = training.batch_sequences, accelerator
        processes, process = accelerator.num_processes, accelerator.process_index
        self._order = Order(max(len(self.material), 1), training, processes, process)
        self.begin()

    def check(self) -> None:
        """Fail before anything is built if there is nothing to contrast.

        Raises:
            DataError: no passage can be asked about.
            ConfigError: the weights would be sharded.
        """
        self.material.check(self._of)
        if sharding.is_requested():
            raise ConfigError("contrast.weight: a head is not sharded; start without FSDP, or leave it 0")

    def begin(self) -> None:
        """Forget the figures of the step before."""
        self._sums = torch.zeros(len(FIGURES), dtype=torch.float64, device=self._accelerator.device)

    def items(self, step: int, micro: int) -> list[int]:
        """Return this process's questions of a micro batch."""
        return self._order.of_micro_batch(step, micro)

    def loss(self, model: nn.Module, step: int, micro: int) -> Tensor:
        """Return this process's part of the step's mean loss, times its weight."""
        rows = self.material.rows(self.items(step, micro))
        ids = {text: self._tokenizer.encode(text)[: self._context - 1] for text in (*rows.questions, *rows.passages)}

        def tokens_of(text: str) -> NDArray[np.int64]:
            return self._tokenizer.spans(text, ids[text])

        row_1T, documents = self._row([ids[text] for text in (*rows.questions, *rows.passages)])
        located = unread(rows, tokens_of, self.material.known, opening=1)
        device = self._accelerator.device
        scores_R = model(row_1T.to(device), None, documents.to(device), unread=located.to(device))
        losses_N = losses_of(scores_R, rows, 1.0)  # the model has divided by the temperature
        figures = torch.stack([losses_N.detach().double().sum(), wins_of(scores_R.detach(), rows).double().sum()])
        self._sums += figures
        self._temperature = self._accelerator.unwrap_model(model).grounding.temperature.detach()
        return losses_N.sum() * (self._weight / self._batch)

    def figures(self) -> dict[str, Tensor]:
        """Return the means of the step and the temperature; on all processes, at once."""
        means = self._accelerator.reduce(self._sums, "sum") / self._batch
        return {**dict(zip(FIGURES, means.unbind(), strict=True)), "contrast/temperature": self._temperature}

    def _row(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Documents]:
        """Put texts one behind the other into a row, each a document that begins as a document does."""
        opened = [[self._tokenizer.document_id, *ids] for ids in texts]
        starts = torch.zeros(sum(map(len, opened)), dtype=torch.bool)
        starts[np.cumsum([0, *(len(ids) for ids in opened[:-1])])] = True
        return torch.tensor([[number for ids in opened for number in ids]]), Documents.of(starts[None])
