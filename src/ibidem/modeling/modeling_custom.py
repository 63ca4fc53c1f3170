"""The decoder: rotary positions, RMS norms, gated feed-forward, grouped-query attention, tied embeddings.

With `qk_norm` its arithmetic is Qwen3's, without it Llama's, in float32 up to the order of summation.

Precision is one policy, whoever launches the training: parameters are kept in float32 and computed with in
`compute_dtype`, which is the dtype of the residual stream and of everything that a block keeps. Norms, rotations,
softmax and the loss compute in at least float32. With FSDP the parameters arrive in `compute_dtype` already.

Shapes: B batch, T tokens, D width, H heads, G key-value heads, K head width, F feed-forward, V vocabulary, N = B * T.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from torch.utils.checkpoint import checkpoint

from ibidem.modeling.adapters import Adapter
from ibidem.modeling.attention import Layout, causal_attention
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.float8 import Product
from ibidem.modeling.initialization import draw, fill
from ibidem.modeling.log_probabilities import Scoring, TokenScores, token_scores
from ibidem.modeling.loss import embed, linear_cross_entropy
from ibidem.modeling.operations import Rotation, rms_norm, rms_norm_linear, swiglu_linear
from ibidem.modeling.rope import Rope
from ibidem.records import LossKernel

INIT_STD = 0.02


class Linear(nn.Linear):
    """A matrix without bias, in the dtype of its input; perhaps with an adapter, or with a product of its own."""

    adapter: Adapter | None
    product: Product | None
    """Computes x @ weight.T in training. None: `operations` do, together with what comes before, and keep less."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.adapter = self.product = None

    @property
    def has_own_product(self) -> bool:
        """Whether `product` computes."""
        return self.product is not None and self.training

    @property
    def whole(self) -> Tensor:
        """The matrix that is multiplied by: the weight, and its adapter's update."""
        return self.weight if self.adapter is None else self.weight + self.adapter.update()

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ whole.T."""
        multiply = self.product if self.product is not None and self.training else linear
        result = multiply(x, self.weight.to(x.dtype))
        return result if self.adapter is None else result + self.adapter(x)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight, computed in at least float32, in the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis."""
        assert self.eps is not None
        return rms_norm(x, self.weight.to(x.dtype), self.eps)

    def then(self, matrix: Linear, x: Tensor, *, rotation: Rotation | None = None, heads: int = 0) -> Tensor:
        """Return matrix(norm(x)), its first heads rotated, without keeping norm(x)."""
        assert self.eps is not None
        if matrix.has_own_product:
            assert not heads, "they would not be rotated"
            return matrix(self(x))  # type: ignore[no-any-return]
        weights = self.weight.to(x.dtype), matrix.weight.to(x.dtype)
        result = rms_norm_linear(x, *weights, self.eps, rotation=rotation, heads=heads)
        if matrix.adapter is None:
            return result
        assert not heads, "the adapter's part would not be rotated"
        return result + matrix.adapter.behind_norm(x, weights[0], self.eps)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.split = [config.heads, config.num_kv_heads, config.num_kv_heads]
        self.head_width = config.head_width
        self.has_norms = config.qk_norm
        self.qkv = Linear(config.width, sum(self.split) * config.head_width)
        self.out = Linear(config.query_width, config.width)
        self.q_norm = RMSNorm(config.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()

    def project(self, x_BTD: Tensor, norm: RMSNorm, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of norm(x), normalized and rotated: (B, T, H, K) and twice (B, T, G, K)."""
        is_alone = self.qkv.adapter is None and not self.qkv.has_own_product
        heads = sum(self.split[:2]) if is_alone and not self.has_norms else 0
        joined = norm.then(self.qkv, x_BTD, rotation=rotation, heads=heads)
        heads_BTXK = joined.view(*joined.shape[:-1], -1, self.head_width)
        q_BTHK, k_BTGK, v_BTGK = torch.split(heads_BTXK, self.split, dim=2)
        if self.has_norms:
            q_BTHK, k_BTGK = rotation(self.q_norm(q_BTHK)), rotation(self.k_norm(k_BTGK))
        elif not heads:
            q_BTHK, k_BTGK = rotation(q_BTHK), rotation(k_BTGK)
        return q_BTHK, k_BTGK, v_BTGK

    def forward(self, x_BTD: Tensor, norm: RMSNorm, rotation: Rotation, documents: Layout | None) -> Tensor:
        """Mix each token of norm(x) with the earlier ones it may see."""
        mixed_BTHK = causal_attention(*self.project(x_BTD, norm, rotation), documents)
        return self.out(mixed_BTHK.flatten(-2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). Source: Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.width, 2 * config.ffn_hidden)
        self.down = Linear(config.ffn_hidden, config.width)

    def forward(self, x_BTD: Tensor, norm: RMSNorm) -> Tensor:
        """Transform norm(x), each token independently."""
        gate_up_BTF = norm.then(self.gate_up, x_BTD)
        if self.down.has_own_product:
            gate_BTF, up_BTF = gate_up_BTF.chunk(2, dim=-1)
            return self.down(silu(gate_BTF) * up_BTF)  # type: ignore[no-any-return]
        result_BTD = swiglu_linear(gate_up_BTF, self.down.weight.to(x_BTD.dtype))
        return result_BTD if self.down.adapter is None else result_BTD + self.down.adapter.behind_swiglu(gate_up_BTF)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, rotation: Rotation, documents: Layout | None) -> Tensor:
        """Apply the block."""
        x_BTD = x_BTD + self.dropout(self.attention(x_BTD, self.attention_norm, rotation, documents))
        return x_BTD + self.dropout(self.ffn(x_BTD, self.ffn_norm))  # type: ignore[no-any-return]


class Matrix(nn.Module):
    """The embedding or the output matrix: a row for each id."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight_VD = nn.Parameter(torch.empty(config.vocab_size, config.width))


class Decoder(nn.Module):
    """A decoder-only language model."""

    def __init__(
        self, config: ModelConfig, *, gradient_checkpointing: bool = False, compute_dtype: torch.dtype | None = None
    ) -> None:
        """Make a decoder whose weights are to be drawn or loaded.

        Args:
            config: its shape.
            gradient_checkpointing: compute a block's activations again in the backward pass instead of keeping them.
            compute_dtype: precision of blocks and matrices; by default that of the parameters.
        """
        super().__init__()
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        self.compute_dtype = compute_dtype
        self.loss_kernel: LossKernel = "chunked"
        """Which operation computes the loss of a training step. Measurements always use the chunked one."""
        self.embedding = Matrix(config)
        self.rope = Rope(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head = None if config.tied else Matrix(config)
        assert self.num_parameters == config.parameters, f"{self.num_parameters} != {config.parameters}"

    @property
    def num_parameters(self) -> int:
        """Count the parameters; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def head_VD(self) -> Tensor:  # noqa: N802 - the shape
        """The output matrix."""
        return self.embedding.weight_VD if self.head is None else self.head.weight_VD

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.embedding.weight_VD.device

    def init_weights(self, seed: int) -> None:
        """Draw normal weights; matrices that write to the residual stream are scaled by 1 / sqrt(2 * layers).

        A model that is divided over processes draws on each of them the rows that it holds; one without memory, none.
        Those of a head that a subclass adds are not among them.

        Source: Radford et al. 2019 (GPT-2), section 2.3.
        """
        residual_std = INIT_STD / math.sqrt(2 * self.config.layers)
        for name, parameter in self._own_parameters():
            if parameter.is_meta:
                continue
            if parameter.dim() < 2:
                fill(parameter, 1.0)
            else:
                std = residual_std if name.endswith(("out.weight", "down.weight")) else INIT_STD
                draw(parameter, name, std=std, seed=seed)

    def _own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part in ("embedding", "blocks", "norm", "head"):
            if (module := getattr(self, part)) is not None:
                yield from module.named_parameters(prefix=part)

    def hidden(self, ids_BT: Tensor, documents: Layout | None = None) -> tuple[Tensor, Tensor]:
        """Return the normalized last hidden states, (B, T, D), and the output matrix, (V, D).

        Args:
            ids_BT: token ids; int64.
            documents: keeps the documents of a window apart. With them a row may be longer than the context, and no
                document may.
        """
        x_BTD, embedding_VD = embed(ids_BT, self._computed(self.embedding.weight_VD))
        rotation = self.rope.of(ids_BT, documents)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x_BTD = checkpoint(block, x_BTD, rotation, documents, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, rotation, documents)
        return self.norm(x_BTD), embedding_VD if self.head is None else self._computed(self.head.weight_VD)

    def logits(self, ids_BT: Tensor, documents: Layout | None = None) -> Tensor:
        """Return the logits of every position, (B, T, V), in at least float32."""
        hidden_BTD, head_VD = self.hidden(ids_BT, documents)
        return linear(hidden_BTD, head_VD).to(torch.promote_types(hidden_BTD.dtype, torch.float32))

    def forward(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor,
        documents: Layout | None = None,
        z_loss: float = 0.0,
        counted_N: Tensor | None = None,
        scoring: Scoring | None = None,
    ) -> Tensor | TokenScores:
        """Sum the negative log-likelihoods of the targets, or score each of them.

        Args:
            ids_BT: token ids; int64.
            targets_BT: ids that follow, or `loss.IGNORE`, which does not count; int64.
            documents: keeps the documents of a window apart.
            z_loss: weight of the squared log-sum-exp of the logits.
            counted_N: positions in the joined rows whose targets count, on the device of the batch; only they reach the
                output matrix. None: all do. `loss.counted` finds them on the CPU, so that a device is not waited for.
            scoring: asks for `TokenScores` of the targets at `counted_N` instead of a sum.

        Returns:
            The sum in nats, a float32 scalar; or the scores.
        """
        hidden_BTD, head_VD = self.hidden(ids_BT, documents)
        hidden_ND, targets_N = hidden_BTD.flatten(0, 1), targets_BT.flatten()
        if counted_N is not None:
            hidden_ND, targets_N = hidden_ND.index_select(0, counted_N), targets_N.index_select(0, counted_N)
        if scoring is not None:
            return self._scores(hidden_ND, head_VD, targets_N, scoring)
        kernel = self.loss_kernel if self.training else "chunked"
        return linear_cross_entropy(hidden_ND, head_VD, targets_N, z_loss=z_loss, kernel=kernel)

    def _scores(self, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, scoring: Scoring) -> TokenScores:
        return token_scores(hidden_ND, head_VD, targets_N, scoring)

    def _computed(self, weight_VD: Tensor) -> Tensor:
        return weight_VD.to(self.compute_dtype or weight_VD.dtype)
