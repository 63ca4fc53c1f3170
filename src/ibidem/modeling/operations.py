"""Operations of a block that keep only their inputs for the backward pass, and compute the rest again.

Autograd keeps every factor of an expression. Here a norm keeps its input and one number a row, also together with the
matrix behind it; the second half of a feed-forward keeps its input alone, and a rotation nothing. What is computed
again is elementwise, and cheap beside the matrices. In 16 bits norms and rotations compute in float32. `torch.compile`
traces through all of them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, silu


class Rotation(NamedTuple):
    """Cosines and signed sines of the positions of T tokens; float32, (T, 1, K), or (B, T, 1, K) if the rows differ.

    The sines of the first half are negative: x * cos + roll(x, K / 2) * signed_sin rotates pairs (i, i + K/2).
    """

    cos: Tensor
    signed_sin: Tensor

    def __call__(self, x_BTHK: Tensor) -> Tensor:
        """Rotate queries or keys, in float32; the result has the dtype of the input."""
        return _Rotate.apply(x_BTHK, *self)  # type: ignore[no-any-return, no-untyped-call]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) * weight over the last axis, in the dtype of x.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
    """
    return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-any-return, no-untyped-call]


def rms_norm_linear(
    x: Tensor, norm_weight: Tensor, weight: Tensor, eps: float, *, rotation: Rotation | None = None, heads: int = 0
) -> Tensor:
    """Return rms_norm(x) @ weight.T, and rotate the first heads of the result, in place.

    Args:
        x: (B, T, D).
        norm_weight: of the norm.
        weight: (O, D).
        eps: of the norm.
        rotation: of the T positions; its K divides O.
        heads: how many times K values to rotate.
    """
    tables = rotation if rotation is not None and heads else (None, None)
    return _RMSNormLinear.apply(x, norm_weight, weight, eps, *tables, heads)  # type: ignore[no-any-return, no-untyped-call]


def swiglu_linear(gate_up: Tensor, weight_DF: Tensor) -> Tensor:
    """Return (silu(gate) * up) @ weight.T for the two halves of the last axis.

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    return _SwiGLULinear.apply(gate_up, weight_DF)  # type: ignore[no-any-return, no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return _normed(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        return *_norm_gradients(grad, x, weight, scale), None


class _RMSNormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        weight: Tensor,
        eps: float,
        cos: Tensor | None,
        signed_sin: Tensor | None,
        heads: int,
    ) -> Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, norm_weight, weight, scale, cos, signed_sin)
        ctx.heads = heads
        result = linear(_normed(x, norm_weight, scale), weight)
        if cos is not None and signed_sin is not None:
            _rotate_first(result, heads, cos, signed_sin)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, weight, scale, cos, signed_sin = ctx.saved_tensors
        if cos is not None:
            grad = grad.clone(memory_format=torch.contiguous_format)
            _rotate_first(grad, ctx.heads, cos, -signed_sin)
        grad_weight = None
        if ctx.needs_input_grad[2]:  # a frozen matrix has none
            grad_weight = grad.flatten(0, -2).T @ _normed(x, norm_weight, scale).flatten(0, -2)
        return *_norm_gradients(grad @ weight, x, norm_weight, scale), grad_weight, None, None, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, signed_sin)
        return _rotated(x, cos, signed_sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, signed_sin = ctx.saved_tensors
        return _rotated(grad, cos, -signed_sin), None, None


class _SwiGLULinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, weight_DF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up, weight_DF)
        gate, up = gate_up.chunk(2, dim=-1)
        return linear(silu(gate).mul_(up), weight_DF)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        gate_up, weight_DF = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        active = silu(gate)
        grad_weight = grad.flatten(0, -2).T @ (active * up).flatten(0, -2) if ctx.needs_input_grad[1] else None
        grad_product = grad @ weight_DF
        grad_up = active.mul_(grad_product)
        grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(up), gate)
        return torch.cat([grad_gate, grad_up], dim=-1), grad_weight


def _scale(x: Tensor, eps: float) -> Tensor:
    return _wide(x).square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()


def _normed(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return (_wide(x) * scale).mul_(weight.to(scale.dtype)).to(x.dtype)


def _norm_gradients(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a norm's input and weight."""
    normed, grad = _wide(x) * scale, _wide(grad)
    product, weight_D = grad * normed, weight.to(grad.dtype)
    inward = (product @ weight_D).div_(len(weight_D)).unsqueeze(-1)
    inner = (grad * weight_D).addcmul_(normed, inward, value=-1).mul_(scale)
    return inner.to(x.dtype), product.flatten(0, -2).sum(dim=0).to(weight.dtype)


def _rotated(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    wide = _wide(x)
    return (wide * cos).addcmul_(wide.roll(wide.shape[-1] // 2, -1), signed_sin).to(x.dtype)


def _rotate_first(x_BTO: Tensor, heads: int, cos: Tensor, signed_sin: Tensor) -> None:
    """Rotate the first heads of a contiguous tensor in place."""
    K = cos.shape[-1]
    part_BTHK = x_BTO.view(*x_BTO.shape[:-1], -1, K)[..., :heads, :]
    wide_BTHK = _wide(part_BTHK)
    swapped_BTHK = wide_BTHK.roll(K // 2, -1)
    part_BTHK.copy_(wide_BTHK.mul_(cos).addcmul_(swapped_BTHK, signed_sin))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
