"""Operations of a block that keep only their inputs for the backward pass, and compute the rest again.

Autograd keeps every factor of an expression. Here a norm keeps its input and one number a row, and the second half of a
feed-forward its input alone; what is computed again is elementwise, and cheap beside the matrices. In 16 bits norms
compute in float32. `torch.compile` traces through both.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) * weight over the last axis, in the dtype of x.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
    """
    return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-any-return, no-untyped-call]


def swiglu_linear(gate_up: Tensor, weight_DF: Tensor) -> Tensor:
    """Return (silu(gate) * up) @ weight.T for the two halves of the last axis.

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    return _SwiGLULinear.apply(gate_up, weight_DF)  # type: ignore[no-any-return, no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = _wide(x)
        scale = wide.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight.to(wide.dtype)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed, grad = _wide(x) * scale, _wide(grad)
        grad_weight = (grad * normed).flatten(0, -2).sum(dim=0)
        inner = grad * weight.to(grad.dtype)
        inward = (inner * normed).mean(dim=-1, keepdim=True)
        return inner.sub_(normed.mul_(inward)).mul_(scale).to(x.dtype), grad_weight.to(weight.dtype), None


class _SwiGLULinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, weight_DF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up, weight_DF)
        gate, up = gate_up.chunk(2, dim=-1)
        return linear(silu(gate).mul_(up), weight_DF)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate_up, weight_DF = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        active = silu(gate)
        grad_weight = grad.flatten(0, -2).T @ (active * up).flatten(0, -2)
        grad_product = grad @ weight_DF
        grad_gate = torch.ops.aten.silu_backward(grad_product * up, gate)
        return torch.cat([grad_gate, active.mul_(grad_product)], dim=-1), grad_weight


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
