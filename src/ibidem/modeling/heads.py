r"""Heads: on the decoder, a hidden state times one row of weights; on any encoder, a span against a question.

    document 0          document 1
    [p p p a a a END]   [p p a END]     one row of a batch
                 *            *         RewardModel: how good an answer is, at its last token
         * * * *        * *             ValueDecoder: the reward to come, at each token that predicts one of an answer

A reward model's artifact is of a kind of its own, so that nothing generates from it or releases it. A decoder with a
value head is saved as a checkpoint like any other; whoever loads a plain decoder from it leaves the head out.

    question   states  q q q q        each question token takes the passage token that is most like it, the less the
                       | \  \         farther that one is from the span: late interaction (Khattab and Zaharia 2020,
    passage    states  p p p[S S]p p  arXiv:2004.12832), at several reaches; beside it features that need no model

A grounding head reads frozen states: the encoder that made them is the same with the head as without it.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ibidem import artifacts
from ibidem.errors import CheckpointError
from ibidem.modeling.attention import Documents
from ibidem.modeling.checkpoint import best_device, load_weights, model_config, verified
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.initialization import fill
from ibidem.modeling.log_probabilities import Scoring, TokenScores
from ibidem.modeling.loss import wide_dtype
from ibidem.modeling.modeling_custom import Block, Decoder
from ibidem.runs import newest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KIND = "reward-model"
"""Kind of the artifact of a reward model."""
HEAD_KIND = "grounding-head"
"""Kind of the artifact of a grounding head."""
TEMPERATURES = (0.01, 1.0)
"""Bounds of the temperature of a grounding head."""
_LOG_TEMPERATURES = tuple(map(math.log, TEMPERATURES))
INTERACTIONS = ("late_5", "late_15", "late_40", "late_sentence", "late_span")
"""late_N: each question token takes the passage token that is most like it, by the cosine of their states, times
exp(-distance / N), where N is trained; weighted mean over the question. late_sentence, late_span: the same among the
tokens of the span's sentence, or among its own."""
_REACHES = (5.0, 15.0, 40.0)
_HIDDEN = 32
_SCALE = 12.0


def load_reward_model(folder: Path, tokenizer_digest: str | None = None) -> "tuple[RewardModel, artifacts.Artifact]":
    """Verify a reward model and load it, in float32, on the best device, in evaluation mode.

    Args:
        folder: its folder, or that of its run.
        tokenizer_digest: digest of the tokenizer that made the ids it will read; None: any.

    Raises:
        CheckpointError: it is damaged, of another kind or tokenizer, or its training is not finished.
    """
    artifact = verified(newest(folder), kind=KIND)
    if tokenizer_digest is not None and artifact.digest_of("tokenizer") != tokenizer_digest:
        raise CheckpointError(
            f"{artifact.path}: this reward model was trained with another tokenizer; train one from a checkpoint that "
            "has the policy's"
        )
    model = RewardModel(Decoder(model_config(artifact)))
    load_weights(model, artifact.path)
    if not model.is_scaled:
        raise CheckpointError(
            f"{artifact.path}: the training of this reward model is not finished, so its rewards have no scale; "
            "go on with --training.resume-from latest"
        )
    return model.to(best_device()).eval(), artifact


class RewardModel(nn.Module):
    """A decoder whose hidden states are turned into one number.

    The output matrix of a decoder that is not tied is kept as it is, and not trained.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, decoder: Decoder) -> None:
        """Add a row of zeros: at first every reward is 0, and every pair a draw."""
        super().__init__()
        self.decoder = decoder
        if decoder.head is not None:
            decoder.head.requires_grad_(requires_grad=False)
        self.weight_1D = nn.Parameter(torch.zeros(1, decoder.config.width))
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("deviation", torch.zeros((), dtype=torch.float64))

    @property
    def blocks(self) -> "Iterable[Block]":
        """The decoder's blocks."""
        return self.decoder.blocks  # type: ignore[return-value]

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """The decoder's precision."""
        return self.decoder.compute_dtype

    def init_weights(self, seed: int) -> None:
        """Draw the weights of the decoder; the row is zero, and there is no scale."""
        self.decoder.init_weights(seed)
        fill(self.weight_1D, 0.0)
        self.set_scale(0.0, 0.0)

    @property
    def is_scaled(self) -> bool:
        """Whether the mean and the deviation of its raw rewards were measured."""
        return bool(self.deviation > 0)

    def forward(self, ids_BT: Tensor, documents: Documents | None, positions_M: Tensor) -> Tensor:
        """Return the raw rewards at some positions; at least float32, (M,).

        Args:
            ids_BT: token ids; int64.
            documents: keeps the documents of a row apart.
            positions_M: positions in the joined rows, on the device of the batch: the last token of each document.
        """
        hidden_BTD, _ = self.decoder.hidden(ids_BT, documents)
        return _scalars(hidden_BTD.flatten(0, 1).index_select(0, positions_M), self.weight_1D)

    def set_scale(self, mean: float, deviation: float) -> None:
        """Set what `scaled` subtracts and divides by; a deviation of 0 means that nothing was measured."""
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    def scaled(self, raw_M: Tensor) -> Tensor:
        """Return rewards that have mean 0 and deviation 1 on the answers it was trained on."""
        assert self.is_scaled, "the training of this reward model is not finished"
        return ((raw_M - self.mean) / self.deviation).to(raw_M.dtype)


class ValueDecoder(Decoder):
    """A decoder that also estimates the reward to come: policy and value function of PPO on one trunk."""

    def __init__(
        self, config: ModelConfig, *, gradient_checkpointing: bool = False, compute_dtype: torch.dtype | None = None
    ) -> None:
        """Add a row of zeros: at first every value is 0."""
        super().__init__(config, gradient_checkpointing=gradient_checkpointing, compute_dtype=compute_dtype)
        self.value_1D = nn.Parameter(torch.zeros(1, config.width))

    def init_weights(self, seed: int) -> None:
        """Draw the weights of the decoder as without the head, which is zero."""
        super().init_weights(seed)
        fill(self.value_1D, 0.0)

    def _scores(self, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, scoring: Scoring) -> TokenScores:
        scores = super()._scores(hidden_ND, head_VD, targets_N, scoring)
        return scores._replace(values_N=_scalars(hidden_ND, self.value_1D))


class Spans(NamedTuple):
    """R spans of M passages, each as the answer to one of N questions."""

    question_states_NQD: Tensor
    """Of the questions' tokens; float32, padded."""
    question_weights_NQ: Tensor
    """Of the questions' tokens, with sum 1; 0 where there is none."""
    passage_states_MPD: Tensor
    """Of the passages' tokens; float32, padded."""
    passage_lengths_M: Tensor
    """Tokens of each passage."""
    question_of_R: Tensor
    passage_of_R: Tensor
    spans_R2: Tensor
    """First token, and the one behind the last."""
    sentences_R2: Tensor
    """The same of the sentence that the span is in."""
    features_RF: Tensor
    """What the encoder does not know, float32: `grounding.alignment.FEATURES`."""


class GroundingHead(nn.Module):
    """Scores spans of passages as answers to questions; trained without labels, on states that it does not change.

    A score is a weighted sum of the features and of `INTERACTIONS`, to which a small network adds. The weights begin
    with a prior that works untrained, and weight decay pulls them back to it: with AdamW the weights of features
    and interactions stay within about 1 / weight_decay of it.
    """

    calibration: Tensor
    prior_1I: Tensor
    blocks: "tuple[Block, ...]" = ()
    compute_dtype: torch.dtype | None = None

    def __init__(self, width: int, num_features: int) -> None:
        """Make a head without a prior, whose scores are 0.

        Args:
            width: of the encoder's states.
            num_features: number of features.
        """
        super().__init__()
        inputs = num_features + len(INTERACTIONS)
        self.stretch_1D = nn.Parameter(torch.zeros(1, width))
        self.log_reaches = nn.Parameter(torch.tensor(_REACHES).log())
        self.change_1I = nn.Parameter(torch.zeros(1, inputs))
        self.hidden = nn.Linear(inputs, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, 1, bias=False)
        nn.init.zeros_(self.out.weight)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.register_buffer("prior_1I", torch.zeros(1, inputs))
        self.register_buffer("calibration", torch.full((), torch.nan, dtype=torch.float64))

    def set_prior(self, weights: "Sequence[float]") -> None:
        """Set the weights, of features and interactions, before training."""
        self.prior_1I.copy_(torch.tensor(weights).unsqueeze(0))

    @property
    def temperature(self) -> Tensor:
        """What scores are divided by in training, within `TEMPERATURES`."""
        return self.log_temperature.clamp(*_LOG_TEMPERATURES).exp()

    def forward(self, spans: Spans) -> Tensor:
        """Return the score of each span, not divided by the temperature; float32, (R,).

        In training a temperature that a step has led out of its bounds is set back to them: beyond them it would have
        no gradient, and stay there.
        """
        if self.training:
            with torch.no_grad():
                self.log_temperature.clamp_(*_LOG_TEMPERATURES)
        inputs_RI = torch.cat([spans.features_RF, self._interaction(spans)], dim=1)
        added_R1 = self.out(nn.functional.gelu(self.hidden(inputs_RI)))
        return _SCALE * (inputs_RI @ (self.prior_1I + self.change_1I).T + added_R1).squeeze(1)  # type: ignore[no-any-return]

    def _interaction(self, spans: Spans) -> Tensor:
        """Return `INTERACTIONS` of each span, (R, 5)."""
        scale_1D = 1 + self.stretch_1D
        question_NQD = nn.functional.normalize(spans.question_states_NQD * scale_1D, dim=-1)
        passage_MPD = nn.functional.normalize(spans.passage_states_MPD * scale_1D, dim=-1)
        number = len(passage_MPD)
        pairs_K, pair_of_R = torch.unique(spans.question_of_R * number + spans.passage_of_R, return_inverse=True)
        questions_KQD, passages_KPD = question_NQD[pairs_K // number], passage_MPD[pairs_K % number]
        likeness_RQP = (questions_KQD @ passages_KPD.transpose(1, 2)).clamp(min=0)[pair_of_R]
        places_P = torch.arange(passage_MPD.shape[1], device=passage_MPD.device)
        first_R1, behind_R1 = spans.spans_R2[:, :1], spans.spans_R2[:, 1:]
        is_inside_RP = (places_P >= first_R1) & (places_P < behind_R1)
        is_sentence_RP = (places_P >= spans.sentences_R2[:, :1]) & (places_P < spans.sentences_R2[:, 1:])
        is_text_RP = places_P < spans.passage_lengths_M[spans.passage_of_R].unsqueeze(1)
        is_near_RP = is_text_RP & ~is_inside_RP
        distances_RP = torch.maximum(first_R1 - places_P, places_P - behind_R1 + 1).clamp(min=0)
        nearness = [is_near_RP * torch.exp(-distances_RP / log_reach.exp()) for log_reach in self.log_reaches]
        weights_RQ = spans.question_weights_NQ[spans.question_of_R]
        found = [
            (weights_RQ * (likeness_RQP * weight_RP.unsqueeze(1)).amax(dim=2)).sum(1)
            for weight_RP in (*nearness, is_near_RP & is_sentence_RP, is_inside_RP)
        ]
        return torch.stack(found, dim=1)


def _scalars(hidden_ND: Tensor, weight_1D: Tensor) -> Tensor:
    """Return hidden @ weight for each hidden state, in at least float32, (N,)."""
    wide = wide_dtype(hidden_ND)
    return (hidden_ND.to(wide) * weight_1D.to(wide)).sum(dim=-1)
