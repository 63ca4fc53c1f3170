"""Low-rank adapters: a frozen matrix W computes as W + scale * B A, and only A and B are trained.

    norm(x)  ->  W          -> +   qkv, gate_up: A reads norm(x) as W does, and norm(x) is not kept
             ->  A  ->  B  ->
    gate, up ->  W          -> +   down: A reads silu(gate) * up, which is not kept either
             ->  A  ->  B  ->

A decoder's norms and its feed-forward read the weight of the matrix behind them (`operations`), so what replaces the
`forward` of a matrix is never called. An adapter goes through the same operations instead: A is one more matrix behind
the norm. Kept for the backward pass are R values a token and adapter, and what the block keeps anyway; dropout keeps
the adapter's input too.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.

Shapes: O outputs and D inputs of the matrix, R rank.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, silu

from ibidem.modeling.operations import rms_norm, rms_norm_linear, swiglu_linear


class Adapter(nn.Module):
    """What is added to a matrix: scale * B A."""

    def __init__(self, a_RD: Tensor, b_OR: Tensor, *, scale: float, dropout: float = 0.0) -> None:
        """Take the initial A and B.

        Args:
            a_RD: A; it becomes a parameter.
            b_OR: B; it becomes a parameter.
            scale: what B A is multiplied by.
            dropout: probability that a value of the adapter's input is dropped, in training.
        """
        super().__init__()
        self.a_RD, self.b_OR = nn.Parameter(a_RD), nn.Parameter(b_OR)
        self.scale, self.dropout = scale, dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added for the input x of the matrix."""
        return self._widen(linear(self._dropped(x), self.a_RD.to(x.dtype)))

    def behind_norm(self, x: Tensor, norm_weight: Tensor, eps: float) -> Tensor:
        """Return what is added for the input rms_norm(x)."""
        if self._drops:
            return self(rms_norm(x, norm_weight, eps))  # type: ignore[no-any-return]
        return self._widen(rms_norm_linear(x, norm_weight, self.a_RD.to(x.dtype), eps))

    def behind_swiglu(self, gate_up: Tensor) -> Tensor:
        """Return what is added for the input silu(gate) * up."""
        if self._drops:
            gate, up = gate_up.chunk(2, dim=-1)
            return self(silu(gate) * up)  # type: ignore[no-any-return]
        return self._widen(swiglu_linear(gate_up, self.a_RD.to(gate_up.dtype)))

    def update(self) -> Tensor:
        """Return scale * B A, (O, D)."""
        return (self.scale * self.b_OR) @ self.a_RD

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, training=self.training)

    def _widen(self, narrow_BTR: Tensor) -> Tensor:
        return linear(narrow_BTR * self.scale, self.b_OR.to(narrow_BTR.dtype))


def is_of_adapter(name: str) -> bool:
    """Return whether a weight of a model is one of an adapter.

    >>> is_of_adapter("blocks.0.ffn.down.adapter.a_RD"), is_of_adapter("blocks.0.ffn.down.weight")
    (True, False)
    """
    return ".adapter." in name


def merged(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model with its adapters added to their matrices, under the names that it has without."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if not is_of_adapter(name)}
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Adapter):
                matrix = name.removesuffix("adapter") + "weight"
                weights[matrix] = weights[matrix] + module.update()
    return weights
