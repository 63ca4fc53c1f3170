"""The decoder: rotary positions, RMS norms, gated feed-forward, grouped-query attention, tied embeddings.

With `qk_norm` its arithmetic is Qwen3's, without it Llama's, in float32 up to the order of summation.

Shapes: B batch, T tokens, S cached tokens, D width, H heads, G key-value heads, K head width, F feed-forward,
V vocabulary, N = B * T.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu
from torch.utils.checkpoint import checkpoint

from ibidem.modeling.attention import Documents, cached_attention, causal_attention
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.loss import SharedGradient, embed, linear_cross_entropy

INIT_STD = 0.02


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight, computed in at least float32.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        normed = rms_norm(x.to(dtype), self.normalized_shape, self.weight.to(dtype), self.eps)
        return normed.to(torch.promote_types(x.dtype, self.weight.dtype))


class Rope(nn.Module):
    """Rotary positions: pairs (i, i + K/2) of a head are rotated by position * theta^(-2i/K).

    Source: Su et al. 2021, arXiv:2104.09864; pairs in the half-split layout of Llama.
    """

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        cos_TK, sin_TK = self.tables()
        self.register_buffer("cos_TK", cos_TK, persistent=False)
        self.register_buffer("sin_TK", sin_TK, persistent=False)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Compute cosine and sine of every position up to `context`; float32."""
        K = self.config.head_width
        frequencies = 1.0 / self.config.rope_theta ** (torch.arange(0, K, 2, dtype=torch.float32) / K)
        angles_TK = torch.arange(self.config.context, dtype=torch.float32)[:, None] * frequencies.repeat(2)
        return angles_TK.cos(), angles_TK.sin()

    def forward(self, x_BTHK: Tensor, start: int) -> Tensor:
        """Rotate queries or keys at positions start, start + 1, ..."""
        T, K = x_BTHK.shape[1], x_BTHK.shape[-1]
        cos_T1K = self.cos_TK[start : start + T, None].to(x_BTHK.dtype)
        sin_T1K = self.sin_TK[start : start + T, None].to(x_BTHK.dtype)
        rotated_BTHK = torch.cat([-x_BTHK[..., K // 2 :], x_BTHK[..., : K // 2]], dim=-1)
        return x_BTHK * cos_T1K + rotated_BTHK * sin_T1K


class KVCache:
    """Keys and values of the tokens so far; the rows of a batch are padded on the left, to end at the same position."""

    def __init__(self, config: ModelConfig, pads_B: Tensor, size: int, dtype: torch.dtype) -> None:
        """Reserve `size` positions; the first `pads_B` of each row are padding that nothing attends to."""
        shape = (config.layers, 2, len(pads_B), size, config.num_kv_heads, config.head_width)
        self._memory = torch.empty(shape, dtype=dtype, device=pads_B.device)
        self._pads_B = pads_B
        self.length = 0

    def append(self, layer: int, k_BTGK: Tensor, v_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer; return all of them so far."""
        end = self.length + k_BTGK.shape[1]
        self._memory[layer, 0, :, self.length : end] = k_BTGK
        self._memory[layer, 1, :, self.length : end] = v_BTGK
        k_BSGK, v_BSGK = self._memory[layer, :, :, :end]
        return k_BSGK, v_BSGK

    def visible(self, num_tokens: int) -> Tensor:
        """Return which of the S positions each of the next tokens may see: bool, (B, T, S). A pad sees only itself."""
        queries_T1 = torch.arange(self.length, self.length + num_tokens, device=self._pads_B.device)[:, None]
        keys_S = torch.arange(self.length + num_tokens, device=self._pads_B.device)
        return (keys_S <= queries_T1) & ((keys_S >= self._pads_B[:, None, None]) | (keys_S == queries_T1))


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.split = [config.heads, config.num_kv_heads, config.num_kv_heads]
        self.head_width = config.head_width
        self.qkv = nn.Linear(config.width, sum(self.split) * config.head_width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.q_norm = RMSNorm(config.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, x_BTD: Tensor, rope: Rope, documents: Documents | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        """Mix each token with the earlier ones it may see."""
        heads_BTXK = self.qkv(x_BTD).unflatten(-1, (-1, self.head_width))
        q_BTHK, k_BTGK, v_BTGK = heads_BTXK.split(self.split, dim=2)
        start = 0 if cache is None else cache.length
        q_BTHK = rope(self.q_norm(q_BTHK), start).to(v_BTGK.dtype)
        k_BTGK = rope(self.k_norm(k_BTGK), start).to(v_BTGK.dtype)
        if cache is None:
            mixed_BTHK = causal_attention(q_BTHK, k_BTGK, v_BTGK, documents)
        else:
            k_BSGK, v_BSGK = cache.append(layer, k_BTGK, v_BTGK)
            mixed_BTHK = cached_attention(q_BTHK, k_BSGK, v_BSGK, cache.visible(x_BTD.shape[1]))
        return self.out(mixed_BTHK.flatten(-2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). Source: Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_hidden, bias=False)
        self.down = nn.Linear(config.ffn_hidden, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each token independently."""
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        return self.down(silu(gate_BTF) * up_BTF)  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BTD: Tensor, rope: Rope, documents: Documents | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        """Apply the block."""
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), rope, documents, cache, layer))
        return x_BTD + self.dropout(self.ffn(self.ffn_norm(x_BTD)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A decoder-only language model."""

    def __init__(self, config: ModelConfig, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        self.embedding_VD = nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.rope = Rope(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.output_VD = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.width))
        assert self.num_parameters == config.parameters, f"{self.num_parameters} != {config.parameters}"

    @property
    def num_parameters(self) -> int:
        """Count the parameters; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def head_VD(self) -> Tensor:  # noqa: N802 - the shape
        """The output matrix."""
        return self.embedding_VD if self.output_VD is None else self.output_VD

    def init_weights(self, seed: int) -> None:
        """Draw normal weights; matrices that write to the residual stream are scaled by 1 / sqrt(2 * layers).

        Source: Radford et al. 2019 (GPT-2), section 2.3.
        """
        generator = torch.Generator().manual_seed(seed)
        residual_std = INIT_STD / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.ones_(parameter)
            else:
                std = residual_std if name.endswith(("out.weight", "down.weight")) else INIT_STD
                nn.init.normal_(parameter, std=std, generator=generator)

    def hidden(
        self,
        ids_BT: Tensor,
        documents: Documents | None = None,
        cache: KVCache | None = None,
        shared: SharedGradient | None = None,
    ) -> Tensor:
        """Return the normalized last hidden states, (B, T, D).

        Args:
            ids_BT: token ids; int64.
            documents: keeps the documents of a window apart.
            cache: continue after its tokens, and append these; excludes `documents`.
            shared: set if the loss uses the embedding matrix too.
        """
        assert documents is None or cache is None
        x_BTD = embed(ids_BT, self.embedding_VD, shared)
        for layer, block in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training:
                x_BTD = checkpoint(block, x_BTD, self.rope, documents, cache, layer, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, self.rope, documents, cache, layer)
        if cache is not None:
            cache.length += ids_BT.shape[1]
        return self.norm(x_BTD)  # type: ignore[no-any-return]

    def logits(self, ids_BT: Tensor, documents: Documents | None = None, cache: KVCache | None = None) -> Tensor:
        """Return the logits of every position, (B, T, V)."""
        return linear(self.hidden(ids_BT, documents, cache), self.head_VD)

    def forward(self, ids_BT: Tensor, targets_BT: Tensor, documents: Documents | None = None) -> Tensor:
        """Sum the negative log-likelihoods of the targets, in nats; `loss.IGNORE` does not count. float32 scalar."""
        shared = SharedGradient() if self.config.tied and torch.is_grad_enabled() else None
        hidden_BTD = self.hidden(ids_BT, documents, shared=shared)
        return linear_cross_entropy(hidden_BTD.flatten(0, 1), self.head_VD, targets_BT.flatten(), shared)
