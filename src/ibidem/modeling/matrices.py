"""A decoder's weights, laid out for generation: the same arithmetic with fewer bytes and fewer operations a token.

A step of generation multiplies each matrix by one vector per row of the batch. With few rows reading the weights takes
all the time, with many rows the arithmetic; libraries are tuned for neither. On a CPU the product is chosen by the
number of rows, and by what the CPU can do:

    rows       float32                               int8
    1 to 3     the usual product; with AMX           the kernel for weights in int8
               W @ x.T with 2 columns or 3
    4 to 64    weights packed once: by oneDNN;       the same integers packed in bfloat16; on a CPU without
               without AMX the transpose, if it      bfloat16 the kernel up to 8 rows, then as float32
               fits into the cache
    more       as many rows as a prompt has: the usual product, or the packed one if it is there

On a CPU with AMX, MKL multiplied matrix and vector at half of the memory's speed. On one without, it did so at full
speed, took twice as long for W @ x.T, and with a transposed matrix was up to a third faster than oneDNN. A CPU without
instructions for bfloat16 multiplies it at a third of the speed of float32: there weights in bfloat16 are rounded, and
kept in float32.

Packed weights are made when they are first used, and take memory beside the weights: as much again, and of integers two
bytes a weight in bfloat16 or four in float32. On a GPU the usual
product is the fast one. A frozen decoder reads its weights when it is made: after an optimizer's step make another.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, pad

from ibidem.errors import ConfigError

if TYPE_CHECKING:
    from ibidem.modeling.config import ModelConfig
    from ibidem.modeling.modeling_custom import Block, Decoder, RMSNorm

Weights = Literal["float32", "bfloat16", "int8"]
"""Precision of the matrices in generation."""
ByWeight = Callable[[Tensor], Tensor]
"""Returns x @ weight.T of a certain weight."""
FEW_ROWS, MANY_ROWS = 3, 64
KERNEL_ROWS = 8
"""Up to so many rows torch's kernel for int8 is faster than a product in float32."""
PACKED_FOR = 16
"""Number of rows that packed weights are laid out for; 4 to 64 rows are about as fast."""
SMALL = 1 << 21
"""A matrix of fewer weights fits into a core's cache, or nearly."""
ROW_STEPS = ((4, 4), (64, 8), (512, 32), (2048, 64), (math.inf, 256))
"""Up to so many rows a packed product computes a multiple of so many."""
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Names of the instructions for products in bfloat16; the last is Arm's."""
INT8_MAX = 127
INT8_STEP = 16
"""Number of inputs that torch's kernel reads at once: behind the end of a row, unless it is a multiple of that."""


class Matrix(Protocol):
    """A matrix of N outputs and K inputs."""

    def __call__(self, x_BK: Tensor) -> Tensor:
        """Return x @ weight.T, (B, N), in the dtype of x."""

    def rows(self, ids_B: Tensor) -> Tensor:
        """Return some of the N rows, (B, K)."""


def has_amx() -> bool:
    """Return whether the CPU has Intel's units for products of matrices."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def has_bfloat16() -> bool:
    """Return whether the CPU has instructions for products in bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in BFLOAT16)


class PlainMatrix:
    """The usual product, in the dtype of the matrix."""

    def __init__(self, weight_NK: Tensor) -> None:
        self._weight_NK = weight_NK

    def __call__(self, x_BK: Tensor) -> Tensor:
        return linear(x_BK, self._weight_NK)

    def rows(self, ids_B: Tensor) -> Tensor:
        return embedding(ids_B, self._weight_NK)


class PackedMatrix:
    """A matrix on a CPU, multiplied as the number of rows requires."""

    def __init__(self, weight_NK: Tensor) -> None:
        self._weight_NK = weight_NK
        self._packed: ByWeight | None = None

    def __call__(self, x_BK: Tensor) -> Tensor:
        B, dtype = len(x_BK), self._weight_NK.dtype
        if B <= FEW_ROWS and dtype is torch.float32:
            if not has_amx():
                return linear(x_BK, self._weight_NK)
            x_XK = x_BK if B > 1 else x_BK.expand(2, -1).contiguous()
            return (self._weight_NK @ x_XK.t()).t()[:B].contiguous()
        if B <= MANY_ROWS and self._packed is None:
            self._packed = packed(self._weight_NK)
        multiply = self._packed or partial(linear, weight=self._weight_NK)
        return multiply(x_BK.to(dtype)).to(x_BK.dtype)

    def rows(self, ids_B: Tensor) -> Tensor:
        return embedding(ids_B, self._weight_NK)


class Int8Matrix:
    """A matrix in whole numbers from -127 to 127, with a scale for each row, on a CPU; inputs are read in bfloat16.

    >>> matrix = Int8Matrix(torch.tensor([[0.5, -1.0], [0.25, 2.0]]))
    >>> matrix.rows(torch.tensor([0]))
    tensor([[ 0.5039, -1.0000]])
    """

    def __init__(self, weight_NK: Tensor) -> None:
        scale_N = weight_NK.abs().amax(dim=1).clamp_(min=1e-12).float() / INT8_MAX
        self._missing = -weight_NK.shape[1] % INT8_STEP
        self._int8_NK = pad((weight_NK / scale_N[:, None]).round_().to(torch.int8), (0, self._missing))
        self._scale_N = scale_N
        self._ones_N = torch.ones_like(scale_N, dtype=torch.bfloat16)
        self._kernel_rows, self._dtype = (FEW_ROWS, torch.bfloat16) if has_bfloat16() else (KERNEL_ROWS, torch.float32)
        self._packed: ByWeight | None = None

    def __call__(self, x_BK: Tensor) -> Tensor:
        if self._missing:
            x_BK = pad(x_BK, (0, self._missing))
        if len(x_BK) <= self._kernel_rows:
            product_BN = torch._weight_int8pack_mm(x_BK.bfloat16(), self._int8_NK, self._ones_N)  # noqa: SLF001 - the kernel has no public name
        else:
            if self._packed is None:
                self._packed = packed(self._int8_NK.to(self._dtype))
            product_BN = self._packed(x_BK.bfloat16().to(self._dtype))
        return product_BN.to(x_BK.dtype).mul_(self._scale_N)

    def rows(self, ids_B: Tensor) -> Tensor:
        rows_BK = embedding(ids_B, self._int8_NK).float().mul_(self._scale_N[ids_B, None])
        return rows_BK[:, : rows_BK.shape[1] - self._missing]


def packed(weight_NK: Tensor) -> ByWeight:
    """Return a function of x that multiplies x @ weight.T, from a copy of the matrix that is laid out for it."""
    if weight_NK.dtype is torch.float32 and weight_NK.numel() < SMALL and not has_amx():
        return partial(torch.matmul, other=weight_NK.t().contiguous())
    packed_NK = torch.ops.mkldnn._reorder_linear_weight(weight_NK, PACKED_FOR)  # noqa: SLF001 - what compiled models call
    return partial(onednn_product, packed_NK=packed_NK)


def onednn_product(x_BK: Tensor, packed_NK: Tensor) -> Tensor:
    """Return x @ weight.T for a weight in oneDNN's own layout.

    oneDNN compiles a program for each number of rows, and keeps it: half a megabyte, and milliseconds. Rows of zeros
    make the numbers few; else the programs of a server would take more memory than its model.
    """
    B = len(x_BK)
    x_XK = pad(x_BK, (0, 0, 0, rows_computed(B) - B)) if rows_computed(B) > B else x_BK
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x_XK, packed_NK, None, "none", [], "")  # noqa: SLF001 - as above
    return result[:B]


def rows_computed(rows: int) -> int:
    """Return the number of rows to compute for some: a multiple of a step that is small beside it.

    >>> [rows_computed(rows) for rows in (4, 8, 61, 65, 300, 2049)]
    [4, 8, 64, 96, 320, 2304]
    """
    step = next(step for most, step in ROW_STEPS if rows <= most)
    return -(-rows // step) * step


class FrozenBlock(NamedTuple):
    """The weights of a block; vectors are float32 or in the dtype of the activations."""

    attention_norm_D: Tensor
    qkv: Matrix
    qk_norm_XK: Tensor | None
    """Weights of the norms of queries and keys, a row for each of their H + G heads."""
    out: Matrix
    ffn_norm_D: Tensor
    gate_up: Matrix
    down: Matrix


class FrozenDecoder:
    """The weights of a decoder at one moment, for generation."""

    def __init__(
        self,
        model: "Decoder",
        weights: Weights | None = None,
        *,
        num_ids: int | None = None,
        uses_graphs: bool = False,
    ) -> None:
        """Lay out the weights of a decoder.

        Args:
            model: the decoder; it may have its parameters in float32 or in 16 bits.
            weights: precision of the matrices; by default that of the parameters, and on a GPU bfloat16.
            num_ids: number of ids of the tokenizer; rows behind it, which some models have, are never generated.
            uses_graphs: compute the steps of batches whose memory is reserved at once as CUDA graphs.

        Raises:
            ConfigError: int8 on a GPU, or graphs without one.
        """
        if uses_graphs and model.device.type != "cuda":
            raise ConfigError("CUDA graphs need a GPU, and torch finds none; leave cuda_graphs out")
        if weights == "int8" and model.device.type != "cpu":
            raise ConfigError("weights in int8 are for CPUs; a GPU generates with bfloat16")
        self.config: ModelConfig = model.config
        self.device = model.device
        self.uses_graphs = uses_graphs
        self._weights = weights or _default(model)
        self._is_onednn = self.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self.dtype = torch.bfloat16 if self._weights == "bfloat16" and not self._is_onednn else torch.float32
        """Dtype of activations, keys and values."""
        self.embedding = self._matrix(model.embedding.weight_VD[:num_ids])
        self.head = self.embedding if model.head is None else self._matrix(model.head.weight_VD[:num_ids])
        self.norm_D = self._vector(model.norm)
        self.blocks = [self._block(block) for block in model.blocks]  # type: ignore[arg-type]
        self.cos_TK = model.rope.cos_TK.to(self.dtype)
        self.signed_sin_TK = model.rope.signed_sin_TK.to(self.dtype)

    def _block(self, block: "Block") -> FrozenBlock:
        attention, ffn = block.attention, block.ffn
        qk_norm_XK = None
        if self.config.qk_norm:
            norms = ((attention.q_norm, self.config.heads), (attention.k_norm, self.config.num_kv_heads))
            qk_norm_XK = torch.cat([self._vector(norm).expand(count, -1) for norm, count in norms])  # type: ignore[arg-type]
        return FrozenBlock(
            self._vector(block.attention_norm),
            self._matrix(attention.qkv.whole),
            qk_norm_XK,
            self._matrix(attention.out.whole),
            self._vector(block.ffn_norm),
            self._matrix(ffn.gate_up.whole),
            self._matrix(ffn.down.whole),
        )

    def _vector(self, norm: "RMSNorm") -> Tensor:
        return norm.weight.detach().to(self.dtype)

    def _matrix(self, weight_NK: Tensor) -> Matrix:
        weight_NK = weight_NK.detach()
        if self._weights == "int8":
            return Int8Matrix(weight_NK)
        weight_NK = weight_NK.to(torch.bfloat16 if self._weights == "bfloat16" else torch.float32)
        if not self._is_onednn:
            return PlainMatrix(weight_NK)
        return PackedMatrix(weight_NK if has_bfloat16() else weight_NK.float())


def _default(model: "Decoder") -> Weights:
    if model.device.type == "cuda" and torch.cuda.is_bf16_supported():
        return "bfloat16"
    return "bfloat16" if model.head_VD.dtype is torch.bfloat16 else "float32"
