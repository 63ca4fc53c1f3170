"""A decoder with a grounding head on its own states: what contrastive batches beside a language-model loss train.

    questions and passages, one behind the other in one row      [q q q][q q][p p p p p p][p p p p]
    their hidden states, cut apart and padded                    what a grounding head reads (`heads.Spans`)

Unlike a head on a frozen encoder, this one sends its gradients into the decoder. Its weights are in the checkpoint, so
that a run resumes to the bit; whoever loads a plain decoder from it leaves them out.

Shapes: R spans, N questions of Q tokens, M passages of P tokens, T tokens in all, D width, I features and
interactions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ibidem.modeling.attention import Layout
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.heads import INTERACTIONS, GroundingHead, Spans
from ibidem.modeling.log_probabilities import Scoring, TokenScores
from ibidem.modeling.modeling_custom import Decoder


class Unread(NamedTuple):
    """Spans of passages as answers to questions, whose texts no model has read yet: `heads.Spans` without states."""

    question_places_NQ: Tensor
    """Of the questions' tokens among all T; int64, padded with 0."""
    question_weights_NQ: Tensor
    passage_places_MP: Tensor
    passage_lengths_M: Tensor
    question_of_R: Tensor
    passage_of_R: Tensor
    spans_R2: Tensor
    sentences_R2: Tensor
    features_RF: Tensor

    def read(self, states_TD: Tensor) -> Spans:
        """Return the spans with the states of their texts."""
        questions, passages = (states_TD[places] for places in (self.question_places_NQ, self.passage_places_MP))
        return Spans(questions.float(), self.question_weights_NQ, passages.float(), *self[3:])

    def to(self, device: torch.device) -> "Unread":
        """Copy it to a device."""
        return Unread(*(each.to(device) for each in self))


class GroundedDecoder(Decoder):
    """A decoder that also scores spans, by a grounding head on its own states."""

    def __init__(
        self,
        config: ModelConfig,
        prior_I: Sequence[float],
        *,
        gradient_checkpointing: bool = False,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        """Add a head, with the prior weights of its features and interactions."""
        super().__init__(config, gradient_checkpointing=gradient_checkpointing, compute_dtype=compute_dtype)
        self.grounding = GroundingHead(config.width, len(prior_I) - len(INTERACTIONS))
        self.grounding.set_prior(prior_I)

    def forward(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor | None,
        documents: Layout | None = None,
        z_loss: float = 0.0,
        counted_N: Tensor | None = None,
        scoring: Scoring | None = None,
        unread: Unread | None = None,
    ) -> Tensor | TokenScores:
        """Do what a decoder does with targets; without them, score spans.

        Args:
            ids_BT: token ids; int64.
            targets_BT: ids that follow; None: `unread` is given.
            documents: keeps the texts of a row apart.
            z_loss: see `Decoder.forward`.
            counted_N: see there.
            scoring: see there.
            unread: spans of the texts in the row.

        Returns:
            What `Decoder.forward` does; or the score of each span, divided by the temperature, float32, (R,).
        """
        if unread is None:
            assert targets_BT is not None
            return super().forward(ids_BT, targets_BT, documents, z_loss, counted_N, scoring)
        hidden_BTD, _ = self.hidden(ids_BT, documents)
        scores_R: Tensor = self.grounding(unread.read(hidden_BTD.flatten(0, 1)))
        return scores_R / self.grounding.temperature
