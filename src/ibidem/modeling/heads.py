"""Scalar heads on the decoder: a hidden state times one row of weights.

    document 0          document 1
    [p p p a a a END]   [p p a END]     one row of a batch
                 *            *         RewardModel: how good an answer is, at its last token
         * * * *        * *             ValueDecoder: the reward to come, at each token that predicts one of an answer

A reward model's artifact is of a kind of its own, so that nothing generates from it or releases it. A decoder with a
value head is saved as a checkpoint like any other; whoever loads a plain decoder from it leaves the head out.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ibidem import artifacts
from ibidem.errors import CheckpointError
from ibidem.modeling.attention import Documents
from ibidem.modeling.checkpoint import best_device, load_weights, model_config, verified
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.log_probabilities import Scoring, TokenScores
from ibidem.modeling.loss import wide_dtype
from ibidem.modeling.modeling_custom import Block, Decoder
from ibidem.runs import newest

if TYPE_CHECKING:
    from collections.abc import Iterable

KIND = "reward-model"
"""Kind of the artifact."""


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
        head_1D = self.value_1D
        del self.value_1D
        super().init_weights(seed)
        self.value_1D = nn.Parameter(torch.zeros_like(head_1D))

    def _scores(self, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, scoring: Scoring) -> TokenScores:
        scores = super()._scores(hidden_ND, head_VD, targets_N, scoring)
        return scores._replace(values_N=_scalars(hidden_ND, self.value_1D))


def _scalars(hidden_ND: Tensor, weight_1D: Tensor) -> Tensor:
    """Return hidden @ weight for each hidden state, in at least float32, (N,)."""
    wide = wide_dtype(hidden_ND)
    return (hidden_ND.to(wide) * weight_1D.to(wide)).sum(dim=-1)
