"""The operations that compute again what they do not keep: their values and gradients, and what they keep."""

import pytest
import torch
from torch.nn.functional import linear, rms_norm, silu

from ibidem.modeling import operations


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return rms_norm(x, (x.shape[-1],), weight, 1e-5)


def gated(gate_up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return linear(silu(gate) * up, weight)


def rotated(x: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * COS + torch.cat([-right, left], dim=-1) * SIN


def normed_linear(x: torch.Tensor, norm_weight: torch.Tensor, weight: torch.Tensor, *, heads: int) -> torch.Tensor:
    result = linear(normed(x, norm_weight), weight).unflatten(-1, (-1, 4))
    return torch.cat([rotated(result[..., :heads, :]), result[..., heads:, :]], dim=-2).flatten(-2)


ANGLES = torch.rand(5, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).repeat(1, 1, 2)
COS, SIN = ANGLES.cos(), ANGLES.sin()
ROTATION = operations.Rotation(COS, SIN * torch.tensor([-1, -1, 1, 1]))

CASES = {
    "norm": (lambda x, w: operations.rms_norm(x, w, 1e-5), normed, (3, 5, 12), (12,)),
    "norm and matrix": (
        lambda x, n, w: operations.rms_norm_linear(x, n, w, 1e-5),
        lambda x, n, w: linear(normed(x, n), w), (3, 5, 12), (12,), (8, 12),
    ),
    "norm, matrix and rotation": (
        lambda x, n, w: operations.rms_norm_linear(x, n, w, 1e-5, rotation=ROTATION, heads=2),
        lambda x, n, w: normed_linear(x, n, w, heads=2), (3, 5, 12), (12,), (12, 12),
    ),
    "rotation": (ROTATION, rotated, (3, 5, 2, 4)),
    "gate": (operations.swiglu_linear, gated, (3, 5, 16), (6, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_plain_expression(name: str) -> None:
    own, plain, *shapes = CASES[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    torch.testing.assert_close(own(*inputs), plain(*inputs))
    assert torch.autograd.gradcheck(own, inputs)


@pytest.mark.parametrize("name", CASES)
def test_only_inputs_are_kept(name: str) -> None:
    own, _, *shapes = CASES[name]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        own(*inputs)
    tables_too = (*inputs, *ROTATION)
    others = [each for each in kept if all(each.data_ptr() != tensor.data_ptr() for tensor in tables_too)]
    assert sum(each.numel() for each in others) <= 15, "more than a number a row"
