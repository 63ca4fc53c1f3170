"""Cross-entropy over a large vocabulary without keeping its logits, and an embedding that shares the output matrix.

At 8k context and 65,536 ids the logits of one sequence and their gradient are 4.3 GB in float32. Here the output
matrix and the loss are one operation over chunks of tokens and, on a CPU, tiles of the vocabulary:

              tile of ids
            +------+------+------+
    chunk   | E    | E    | E    |    E = exp(logits - maximum of the row in the tile), made once, while in the cache
    of      +------+------+------+
    tokens  |      |      |      |    gradients of hidden states and matrix: products with E, scaled by row and tile
            +------+------+------+

The logits become, in place, exponentials, and the exponentials are all that both gradients need. Nothing is computed
twice.

On a GPU liger-kernel's kernels may compute the same in their place. They round the logits, and what becomes of them, to
the precision of the model, and the host waits once a micro batch, for the number of targets.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ibidem.records import LossKernel

IGNORE = -100
"""A target that does not count."""


class Tile(NamedTuple):
    """How many logits are computed at once."""

    tokens: int
    ids: int


TILES = {"cpu": Tile(tokens=256, ids=2048)}
"""By device. On a CPU, 2 MB in float32: it stays in a core's cache."""
DEFAULT_TILE = Tile(tokens=2048, ids=1 << 30)
"""All ids on an accelerator, 512 MB at 65,536: the matrix is read once per chunk, so chunks must be large."""


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, z_loss: float = 0.0, kernel: LossKernel = "chunked"
) -> Tensor:
    """Sum the negative log-likelihoods of targets under softmax(hidden @ weight.T).

    Args:
        hidden_ND: last hidden states.
        weight_VD: output matrix, of the same dtype.
        targets_N: ids, or IGNORE; int64.
        z_loss: weight of the squared log-sum-exp of the logits, which keeps them small.
        kernel: whose operation computes it. With liger there is at least one token.
    Returns:
        The sum over all targets that count, in nats; float32 scalar.
    Source: the chunked form of Hsu et al. 2024, arXiv:2410.10989 (Liger), section 3.2; the rescaled tiles of Milakov
    and Gimelshein 2018, arXiv:1805.02867; the z-loss of Chowdhery et al. 2022, arXiv:2204.02311, section 5.
    """
    if not torch.is_grad_enabled():  # a parameter asks for its gradient even then
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N, z_loss, kernel)  # type: ignore[no-any-return, no-untyped-call]


def counted(targets_BT: Tensor) -> Tensor:
    """Return the positions in the joined rows whose targets count; int64, on the device of the targets.

    >>> counted(torch.tensor([[IGNORE, 7], [8, IGNORE]]))
    tensor([1, 2])
    """
    return (targets_BT.flatten() != IGNORE).nonzero().flatten()


def embed(ids_BT: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """Look up rows of a matrix that is the output matrix too; return them, (B, T, D), and the matrix for the loss.

    Autograd would allocate a V x D gradient for each use and add them. Through here both come to one operation, which
    adds the few rows of the embedding to the gradient of the loss.
    """
    return _Embed.apply(ids_BT, weight_VD)  # type: ignore[no-any-return, no-untyped-call]


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids_BT: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids_BT)
        ctx.shape = weight_VD.shape
        ctx.set_materialize_grads(False)
        return embedding(ids_BT, weight_VD), weight_VD.view_as(weight_VD)

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor | None, grad_VD: Tensor | None) -> tuple[None, Tensor | None]:
        if grad_BTD is None:
            return None, grad_VD
        if grad_VD is None:  # the loss did not use the matrix
            grad_VD = grad_BTD.new_zeros(ctx.shape)
        (ids_BT,) = ctx.saved_tensors
        if grad_VD.dtype == wide_dtype(grad_VD):
            return None, grad_VD.index_add_(0, ids_BT.flatten(), grad_BTD.flatten(0, 1).to(grad_VD.dtype))
        # in 16 bits each of the many occurrences of an id would be rounded; this adds them up in float32
        rows_VD = torch.ops.aten.embedding_dense_backward(grad_BTD.to(grad_VD.dtype), ids_BT, len(grad_VD), -1, False)
        return None, grad_VD.add_(rows_VD)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float, kernel: LossKernel
    ) -> Tensor:
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        compute = _of_liger if kernel == "liger" else _loss_and_gradients
        total, grad_hidden_ND, grad_weight_VD = compute(
            hidden_ND, weight_VD, targets_N, z_loss, needs_hidden, needs_weight
        )
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        return total  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        hidden_ND, weight_VD = ctx.saved_tensors
        scaled = (
            hidden_ND.mul_(grad) if needs_hidden else None,
            weight_VD.mul_(grad).to(ctx.weight_dtype) if needs_weight else None,
        )
        return *scaled, None, None, None


@torch.library.custom_op("ibidem::linear_cross_entropy", mutates_args=())
def _loss_and_gradients(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float, needs_hidden: bool, needs_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and its gradients; a gradient that is not needed is empty."""
    total = hidden_ND.new_zeros((), dtype=torch.float32)
    grad_hidden_ND = torch.empty_like(hidden_ND) if needs_hidden else hidden_ND.new_empty(0)
    make = weight_VD.new_empty if len(hidden_ND) else weight_VD.new_zeros  # the first chunk writes it
    sums_VD = make(weight_VD.shape if needs_weight else (0,), dtype=wide_dtype(weight_VD))
    tile = TILES.get(hidden_ND.device.type, DEFAULT_TILE)
    memory = sums_VD.new_empty(min(tile.tokens, len(hidden_ND)) * len(weight_VD))
    for start in range(0, len(hidden_ND), tile.tokens):
        rows = slice(start, start + tile.tokens)
        hidden_CD, index_C = hidden_ND[rows], targets_N[rows].clamp(min=0)
        counts_C1 = (targets_N[rows] != IGNORE)[:, None].to(memory.dtype)
        softmax = Softmax(hidden_CD, weight_VD, tile.ids, memory)
        target_CD = weight_VD[index_C]
        logit_C1 = (hidden_CD * target_CD.to(memory.dtype)).sum(dim=1, keepdim=True)
        total += ((softmax.lse_C1 - logit_C1 + z_loss * softmax.lse_C1.square()) * counts_C1).sum()
        scale_C1 = (1 + 2 * z_loss * softmax.lse_C1) * counts_C1
        if needs_hidden:
            grad_hidden_ND[rows] = softmax.times(weight_VD) * scale_C1 - target_CD * counts_C1
        if needs_weight:
            softmax.add_transposed_times(hidden_CD * scale_C1, sums_VD, keep=start > 0)
            sums_VD.index_add_(0, index_C, hidden_CD * -counts_C1)
    return total, grad_hidden_ND, sums_VD.to(_sums_dtype(weight_VD))


@torch.library.custom_op("ibidem::linear_cross_entropy_of_liger", mutates_args=())
def _of_liger(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float, needs_hidden: bool, needs_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_loss_and_gradients` does; the matrix's gradient is added up in float32."""
    from liger_kernel.ops.fused_linear_cross_entropy import fused_linear_cross_entropy_forward

    with torch.no_grad():  # it writes products in place only then
        total, _, _, _, grad_hidden_ND, grad_weight_VD, _ = fused_linear_cross_entropy_forward(
            hidden_ND,
            weight_VD,
            targets_N,
            ignore_index=IGNORE,
            lse_square_scale=z_loss,
            reduction="sum",
            accum_dtype=torch.float32,
            compute_gradients=needs_hidden or needs_weight,
            weight_requires_grad=needs_weight,
        )
    return (
        total,
        grad_hidden_ND if needs_hidden else hidden_ND.new_empty(0),
        weight_VD.new_empty(0) if grad_weight_VD is None else grad_weight_VD,
    )


@_loss_and_gradients.register_fake
@_of_liger.register_fake
def _(
    hidden_ND: Tensor, weight_VD: Tensor, _targets: Tensor, _z_loss: float, needs_hidden: bool, needs_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        hidden_ND.new_empty((), dtype=torch.float32),
        hidden_ND.new_empty(hidden_ND.shape if needs_hidden else (0,)),
        weight_VD.new_empty(weight_VD.shape if needs_weight else (0,), dtype=_sums_dtype(weight_VD)),
    )


class Softmax:
    """softmax(hidden @ weight.T / temperature) of a chunk of C tokens, as tiles of U ids.

    A tile holds exponentials; a factor for each of its rows makes them probabilities.
    """

    def __init__(
        self, hidden_CD: Tensor, weight_VD: Tensor, ids: int, memory: Tensor, temperature: float = 1.0
    ) -> None:
        """Compute the tiles in `memory`; logits are divided by the temperature."""
        self._ids, self._dtype = ids, hidden_CD.dtype
        C, V = len(hidden_CD), len(weight_VD)
        self._tiles_CU = [part.view(C, -1) for part in torch.split(memory[: C * V], C * ids)]
        maxima, sums = [], []
        for tile_CU, weight_UD in zip(self._tiles_CU, torch.split(weight_VD, ids), strict=True):
            _matmul(hidden_CD, weight_UD.T, out=tile_CU)
            if temperature != 1:
                tile_CU.div_(temperature)
            maxima.append(tile_CU.amax(dim=1, keepdim=True))
            sums.append(tile_CU.sub_(maxima[-1]).exp_().sum(dim=1, keepdim=True))
        maxima_CX, sums_CX = torch.cat(maxima, dim=1), torch.cat(sums, dim=1)
        self.lse_C1 = torch.logsumexp(maxima_CX + sums_CX.log(), dim=1, keepdim=True)
        self._logs_CX = maxima_CX - self.lse_C1
        self._factors_CX = self._logs_CX.exp()

    def times(self, weight_VD: Tensor) -> Tensor:
        """Return softmax @ weight, (C, D), in at least float32."""
        total_CD = self.lse_C1.new_zeros((len(self.lse_C1), weight_VD.shape[1]))
        for tile_CU, factor_C1, weight_UD in self._with(weight_VD):
            total_CD += (tile_CU.to(self._dtype) @ weight_UD) * factor_C1
        return total_CD

    def add_transposed_times(self, rows_CD: Tensor, sums_VD: Tensor, *, keep: bool = True) -> None:
        """Add softmax.T @ rows to sums, or write it there."""
        for tile_CU, factor_C1, sums_UD in self._with(sums_VD):
            _add_matmul(sums_UD, tile_CU.to(self._dtype).T, (rows_CD * factor_C1).to(self._dtype), keep=keep)

    def entropies(self) -> Tensor:
        """Return -sum p log p of each row, (C,)."""
        total_C1 = torch.zeros_like(self.lse_C1)
        for tile_CU, log_C1, factor_C1 in self._by_tile():
            logs_C1 = torch.xlogy(tile_CU, tile_CU).sum(dim=1, keepdim=True)
            total_C1 -= (logs_C1 + log_C1 * tile_CU.sum(dim=1, keepdim=True)) * factor_C1
        return total_C1[:, 0]

    def weigh(self, scale_C1: Tensor, entropy_scale_C1: Tensor, entropies_C1: Tensor) -> None:
        """Multiply each p, in place, by scale + entropy_scale * (log p + entropy)."""
        for tile_CU, log_C1, _ in self._by_tile():
            logs_CU = torch.xlogy(tile_CU, tile_CU).mul_(entropy_scale_C1)
            tile_CU.mul_(scale_C1 + entropy_scale_C1 * (log_C1 + entropies_C1)).add_(logs_CU)

    def _by_tile(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        columns = (torch.split(each, 1, dim=1) for each in (self._logs_CX, self._factors_CX))
        return zip(self._tiles_CU, *columns, strict=True)

    def _with(self, matrix_VD: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        factors = torch.split(self._factors_CX, 1, dim=1)
        return zip(self._tiles_CU, factors, torch.split(matrix_VD, self._ids), strict=True)


def _sums_dtype(weight_VD: Tensor) -> torch.dtype:
    """Return the dtype of the matrix's gradient before it is scaled: a sum over many tokens overflows float16."""
    return torch.float32 if weight_VD.dtype == torch.float16 else weight_VD.dtype


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which a tensor's numbers are added up: at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _matmul(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    elif left.is_cuda:
        torch.mm(left, right, out_dtype=out.dtype, out=out)
    else:
        out.copy_(left @ right)


def _add_matmul(total: Tensor, left: Tensor, right: Tensor, *, keep: bool) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=int(keep))
    elif keep:
        total += left @ right
    else:
        total.copy_(left @ right)
