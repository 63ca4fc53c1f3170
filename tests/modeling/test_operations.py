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


CASES = {
    "norm": (lambda x, w: operations.rms_norm(x, w, 1e-5), normed, (3, 5, 12), (12,)),
    "gate": (operations.swiglu_linear, gated, (3, 5, 16), (6, 8)),
}


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
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        own(*inputs)
    others = [each for each in kept if all(each.data_ptr() != tensor.data_ptr() for tensor in inputs)]
    assert sum(each.numel() for each in others) <= 15, "more than a number a row"
