"""Log-probabilities of tokens and the entropy of their distributions, without keeping the logits.

The logits of N tokens are N x V numbers, and softmax and gradient as many again. Here they are computed in chunks of
tokens, as tiles of the vocabulary (`ibidem.modeling.loss`), and once more in the backward pass: preference and policy
losses are not sums over tokens, so the gradient of one token depends on all of them.

    kept between the passes     hidden states (N x D), the output matrix, the targets
    in memory at a time         one chunk of logits

With z = logits / temperature and p = softmax(z), the gradients with respect to z_v are

    log p_t         1[v = t] - p_v
    entropy H       -p_v (log p_v + H)
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ibidem.modeling.loss import DEFAULT_TILE, TILES, Softmax, Tile, wide_dtype


@dataclass(frozen=True)
class Scoring:
    """What is computed of each target's distribution."""

    temperature: float = 1.0
    """Logits are divided by it."""
    entropy: bool = False
    """Whether to return entropies too."""


class TokenScores(NamedTuple):
    """What a model says of N targets; in at least float32."""

    log_probs_N: Tensor
    """Log-probability of each target, in nats."""
    entropies_N: Tensor | None
    """Entropy of each target's distribution, in nats, if asked for."""
    values_N: Tensor | None = None
    """Estimated reward to come where each target is predicted, if the model has a value head."""


def token_scores(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, scoring: Scoring = Scoring()) -> TokenScores:
    """Return the log-probabilities of targets under softmax(hidden @ weight.T / temperature).

    Args:
        hidden_ND: hidden states that predict the targets.
        weight_VD: output matrix, of the same dtype.
        targets_N: ids; int64.
        scoring: temperature, and whether entropies are wanted.

    Source: recomputed as in Chen et al. 2016, arXiv:1604.06174; chunked as in Hsu et al. 2024, arXiv:2410.10989
    (Liger), section 3.2.

    >>> token_scores(torch.zeros(1, 2), torch.ones(4, 2), torch.tensor([3]), Scoring(entropy=True))
    TokenScores(log_probs_N=tensor([-1.3863]), entropies_N=tensor([1.3863]), values_N=None)
    """
    if not torch.is_grad_enabled():  # a parameter asks for its gradient even then
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
    log_probs_N, entropies_N = _TokenScores.apply(hidden_ND, weight_VD, targets_N, scoring)  # type: ignore[no-untyped-call]
    return TokenScores(log_probs_N, entropies_N if scoring.entropy else None)


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        log_probs_N, entropies_N = _scores(hidden_ND, weight_VD, targets_N, scoring.temperature, scoring.entropy)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, entropies_N)
        ctx.temperature = scoring.temperature
        ctx.set_materialize_grads(False)
        return log_probs_N, entropies_N

    @staticmethod
    def backward(
        ctx: Any, grad_log_probs_N: Tensor | None, grad_entropies_N: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_ND, weight_VD, targets_N, entropies_N = ctx.saved_tensors
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        if grad_log_probs_N is None:
            grad_log_probs_N = hidden_ND.new_zeros(len(hidden_ND), dtype=wide_dtype(hidden_ND))
        grad_hidden_ND, grad_weight_VD = _gradients(
            hidden_ND, weight_VD, targets_N, entropies_N, grad_log_probs_N, grad_entropies_N,
            ctx.temperature, needs_hidden, needs_weight,
        )  # fmt: skip
        return grad_hidden_ND if needs_hidden else None, grad_weight_VD if needs_weight else None, None, None


@torch.library.custom_op("ibidem::token_scores", mutates_args=())
def _scores(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor]:
    wide = wide_dtype(hidden_ND)
    log_probs_N = hidden_ND.new_empty(len(hidden_ND), dtype=wide)
    entropies_N = hidden_ND.new_empty(len(hidden_ND) if entropy else 0, dtype=wide)
    tile, memory = _memory(hidden_ND, weight_VD)
    for start in range(0, len(hidden_ND), tile.tokens):
        rows = slice(start, start + tile.tokens)
        softmax = Softmax(hidden_ND[rows], weight_VD, tile.ids, memory, temperature)
        logits_C = (hidden_ND[rows] * weight_VD[targets_N[rows]].to(wide)).sum(dim=1) / temperature
        log_probs_N[rows] = logits_C - softmax.lse_C1[:, 0]
        if entropy:
            entropies_N[rows] = softmax.entropies()
    return log_probs_N, entropies_N


@_scores.register_fake
def _(
    hidden_ND: Tensor, _weight: Tensor, _targets: Tensor, _temperature: float, entropy: bool
) -> tuple[Tensor, Tensor]:
    N, wide = len(hidden_ND), wide_dtype(hidden_ND)
    return hidden_ND.new_empty(N, dtype=wide), hidden_ND.new_empty(N if entropy else 0, dtype=wide)


@torch.library.custom_op("ibidem::token_scores_backward", mutates_args=())
def _gradients(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    entropies_N: Tensor,
    grad_log_probs_N: Tensor,
    grad_entropies_N: Tensor | None,
    temperature: float,
    needs_hidden: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of hidden states and output matrix; one that is not needed is empty."""
    wide = wide_dtype(weight_VD)
    grad_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else hidden_ND.new_empty(0)
    sums_VD = weight_VD.new_zeros(weight_VD.shape if needs_weight else (0,), dtype=wide)
    tile, memory = _memory(hidden_ND, weight_VD)
    for start in range(0, len(hidden_ND), tile.tokens):
        rows = slice(start, start + tile.tokens)
        hidden_CD, index_C = hidden_ND[rows], targets_N[rows]
        softmax = Softmax(hidden_CD, weight_VD, tile.ids, memory, temperature)
        scale_C1 = grad_log_probs_N[rows, None] / temperature
        inner_C1 = scale_C1
        if grad_entropies_N is not None:
            softmax.weigh(scale_C1, grad_entropies_N[rows, None] / temperature, entropies_N[rows, None])
            inner_C1 = torch.ones_like(scale_C1)
        if needs_hidden:
            grad_hidden_ND[rows] = weight_VD[index_C] * scale_C1 - softmax.times(weight_VD) * inner_C1
        if needs_weight:
            softmax.add_transposed_times(hidden_CD * -inner_C1, sums_VD)
            sums_VD.index_add_(0, index_C, hidden_CD * scale_C1)
    return grad_hidden_ND, sums_VD.to(weight_VD.dtype)


@_gradients.register_fake
def _(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    _targets: Tensor,
    _entropies: Tensor,
    _grad_log_probs: Tensor,
    _grad_entropies: Tensor | None,
    _temperature: float,
    needs_hidden: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        hidden_ND.new_empty(hidden_ND.shape if needs_hidden else (0,)),
        weight_VD.new_empty(weight_VD.shape if needs_weight else (0,)),
    )


def _memory(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tile, Tensor]:
    tile = TILES.get(hidden_ND.device.type, DEFAULT_TILE)
    size = min(tile.tokens, len(hidden_ND)) * len(weight_VD)
    return tile, weight_VD.new_empty(size, dtype=wide_dtype(weight_VD))
