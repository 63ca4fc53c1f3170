"""Cross-entropy over a large vocabulary without keeping its logits.

At 8k context and 65,536 ids the logits of one sequence and their gradient are 4.3 GB in float32. Here the output
matrix and the loss are one operation over chunks of tokens: a chunk's logits become, in place, their gradient, which is
propagated to the hidden states and the matrix before the next chunk is computed. Nothing is computed twice.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

IGNORE = -100
"""A target that does not count."""

CHUNK_LOGITS = {"cpu": 1 << 23}
"""Logits of one chunk, by device: 32 MB in float32 on a CPU."""
DEFAULT_CHUNK_LOGITS = 1 << 27
"""512 MB on an accelerator: the output matrix is read once per chunk, so chunks must be large."""


class SharedGradient:
    """The single gradient of a matrix that is used twice: by `embed` and by `linear_cross_entropy`.

    Autograd would allocate a V x D gradient for each use and add them. Here the loss, whose backward pass always runs
    first, leaves its gradient in this object, and the embedding adds its few rows to it.
    """

    def __init__(self) -> None:
        self.grad_VD: Tensor | None = None

    def take(self) -> Tensor | None:
        """Remove and return the gradient that the loss left."""
        grad_VD, self.grad_VD = self.grad_VD, None
        return grad_VD


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, shared: SharedGradient | None = None
) -> Tensor:
    """Sum the negative log-likelihoods of targets under softmax(hidden @ weight.T).

    Args:
        hidden_ND: last hidden states.
        weight_VD: output matrix.
        targets_N: ids, or IGNORE; int64.
        shared: the object with which `embed` read the same matrix in this forward pass, if it did.
    Returns:
        The sum over all targets that count, in nats; float32 scalar.
    Source: the chunked form of Hsu et al. 2024, arXiv:2410.10989 (Liger), section 3.2.
    """
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N, shared)  # type: ignore[no-any-return, no-untyped-call]


def embed(ids_BT: Tensor, weight_VD: Tensor, shared: SharedGradient | None) -> Tensor:
    """Look up rows of a matrix, (B, T, D); with `shared`, the gradient is added to the loss's."""
    if shared is None:
        return embedding(ids_BT, weight_VD)
    return _SharedEmbedding.apply(ids_BT, weight_VD, shared)  # type: ignore[no-any-return, no-untyped-call]


class _SharedEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids_BT: Tensor, weight_VD: Tensor, shared: SharedGradient) -> Tensor:
        ctx.save_for_backward(ids_BT)
        ctx.shared, ctx.shape = shared, weight_VD.shape
        return embedding(ids_BT, weight_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[None, Tensor, None]:
        (ids_BT,) = ctx.saved_tensors
        grad_VD = ctx.shared.take()
        if grad_VD is None:  # the loss was not part of this backward pass
            grad_VD = grad_BTD.new_zeros(ctx.shape)
        return None, grad_VD.index_add_(0, ids_BT.flatten(), grad_BTD.flatten(0, 1).to(grad_VD.dtype)), None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, shared: SharedGradient | None
    ) -> Tensor:
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        ctx.shared = shared
        weight = weight_VD.to(_matmul_dtype(hidden_ND))
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        sums = torch.promote_types(weight.dtype, torch.float32)  # accumulate in at least float32
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=sums) if needs_weight else None
        total = hidden_ND.new_zeros((), dtype=torch.float32)
        N, V = hidden_ND.shape[0], weight_VD.shape[0]
        size = min(N, max(1, CHUNK_LOGITS.get(hidden_ND.device.type, DEFAULT_CHUNK_LOGITS) // V))
        logits_CV = hidden_ND.new_empty((size, V), dtype=sums)
        for start in range(0, N, size):
            chunk = slice(start, min(start + size, N))
            logits_CV = logits_CV[: chunk.stop - start]
            hidden_CD = hidden_ND[chunk].to(weight.dtype)
            _matmul(hidden_CD, weight.T, out=logits_CV)
            nll, scale_C1 = _softmax_gradient(logits_CV, targets_N[chunk])
            total += nll
            gradient_CV = logits_CV.to(weight.dtype)
            if grad_hidden_ND is not None:
                grad_hidden_ND[chunk] = (gradient_CV @ weight) * scale_C1
            if grad_weight_VD is not None:
                _add_matmul(grad_weight_VD, gradient_CV.T, hidden_CD * scale_C1.to(weight.dtype))
        ctx.weight_dtype = weight_VD.dtype
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_ND, weight_VD = (_scaled(tensor, grad) for tensor in ctx.saved_tensors)
        weight_VD = None if weight_VD is None else weight_VD.to(ctx.weight_dtype)
        if ctx.shared is None:
            return hidden_ND, weight_VD, None, None
        ctx.shared.grad_VD = weight_VD
        return hidden_ND, None, None, None


def _softmax_gradient(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into the gradient of the loss, in place, up to a factor per row that is cheaper to apply elsewhere.

    Returns:
        The summed loss, and the factor: 1 / sum of the exponentials, or 0 where the target does not count; (C, 1).
    """
    counts_C1 = (targets_C != IGNORE)[:, None]
    index_C1 = targets_C.clamp(min=0)[:, None]
    logits_CV.sub_(logits_CV.amax(dim=1, keepdim=True))
    picked_C1 = logits_CV.gather(1, index_C1)
    sums_C1 = logits_CV.exp_().sum(dim=1, keepdim=True)
    nll = ((sums_C1.log() - picked_C1) * counts_C1).sum()
    logits_CV.scatter_add_(1, index_C1, -sums_C1)
    return nll, counts_C1 / sums_C1


def _matmul(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _add_matmul(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _matmul_dtype(hidden_ND: Tensor) -> torch.dtype:
    kind = hidden_ND.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_ND.dtype


def _scaled(tensor: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.mul_(factor)
