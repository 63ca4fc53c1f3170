"""Rotary positions, and how their frequencies are scaled for longer contexts.

Pair i of a head turns by `position * theta^(-2i/K)`: the first pairs fast, the last ones slowly. A model that was first
trained on short texts reads longer ones if its pairs turn more slowly:

    pair            first (fast)         between             last (slow)
    linear          / factor             / factor            / factor
    llama3, yarn    as it was            a mixture           / factor

Source: Su et al. 2021, arXiv:2104.09864; pairs in the half-split layout of Llama.
"""

import math

import torch
from torch import Tensor, nn

from ibidem.modeling.attention import Documents, Layout
from ibidem.modeling.config import ModelConfig, RopeScaling
from ibidem.modeling.operations import Rotation


class Rope(nn.Module):
    """The rotations of a decoder's positions."""

    cos_TK: Tensor
    signed_sin_TK: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        cos_TK, signed_sin_TK = self.tables()
        self.register_buffer("cos_TK", cos_TK, persistent=False)
        self.register_buffer("signed_sin_TK", signed_sin_TK, persistent=False)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Compute cosine and signed sine of every position up to `context`; float32."""
        K, scaling = self.config.head_width, self.config.rope_scaling
        angles_TK = torch.arange(self.config.context, dtype=torch.float32)[:, None] * frequencies(self.config).repeat(2)
        signs_K = torch.where(torch.arange(K) < K // 2, -1.0, 1.0)
        size = 1.0 if scaling is None else scaling.size
        return angles_TK.cos().mul_(size), (angles_TK.sin() * signs_K).mul_(size)

    def compute(self) -> None:
        """Compute the tables again, where a model that was made without memory has got some."""
        for table, computed in zip((self.cos_TK, self.signed_sin_TK), self.tables(), strict=True):
            table.copy_(computed)

    def first(self, tokens: int) -> Rotation:
        """Return the rotation of positions 0 to `tokens` - 1."""
        return Rotation(self.cos_TK[:tokens, None], self.signed_sin_TK[:tokens, None])

    def of(self, ids_BT: Tensor, documents: Layout | None) -> Rotation:
        """Return the rotation of a batch.

        Positions begin at 0 in each document where they must: with branches, and in rows longer than the context.
        """
        may_use_row = documents is None or isinstance(documents, Documents)
        if may_use_row and ids_BT.shape[1] <= len(self.cos_TK):
            return self.first(ids_BT.shape[1])
        assert documents is not None, f"a row of {ids_BT.shape[1]} tokens exceeds the context"
        assert documents.longest <= len(self.cos_TK), f"a document of {documents.longest} tokens exceeds the context"
        positions_BT = documents.positions.view_as(ids_BT)
        return Rotation(self.cos_TK[positions_BT, None], self.signed_sin_TK[positions_BT, None])


def frequencies(config: ModelConfig) -> Tensor:
    """Return by how many radians each pair turns from one position to the next; float32, (K / 2,)."""
    K = config.head_width
    slowing = config.rope_theta ** (torch.arange(0, K, 2, dtype=torch.float32) / K)
    match config.rope_scaling:
        case None:
            return 1.0 / slowing
        case RopeScaling(kind="linear", factor=factor):
            return 1.0 / slowing / factor
        case RopeScaling(kind="llama3") as scaling:
            return _llama3(1.0 / slowing, scaling)
        case scaling:
            return _yarn(slowing, scaling, config.rope_theta)


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow down the pairs that turn less than `low_frequency` times within the original context.

    Source: Llama 3.1, https://github.com/meta-llama/llama-models, `apply_scaling`.
    """
    assert scaling.original_context is not None
    length, low, high = scaling.original_context, scaling.low_frequency, scaling.high_frequency
    wavelength = 2 * math.pi / plain
    share_kept = (length / wavelength - low) / (high - low)
    between = (1 - share_kept) * plain / scaling.factor + share_kept * plain
    slowed = torch.where(wavelength > length / low, plain / scaling.factor, plain)
    is_between = (wavelength >= length / high) & (wavelength <= length / low)
    return torch.where(is_between, between, slowed)


def _yarn(slowing: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """Keep the pairs that turn more than `fast_turns` times within the original context, slow down the rest.

    Source: Peng et al. 2023, arXiv:2309.00071, section 3.2.
    """
    assert scaling.original_context is not None
    K = 2 * len(slowing)

    def pair_of(turns: float) -> float:
        assert scaling.original_context is not None
        return K * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_of(scaling.fast_turns), pair_of(scaling.slow_turns)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, K - 1)
    last += 0.001 if first == last else 0
    share_kept = 1 - ((torch.arange(K // 2, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    return 1.0 / (scaling.factor * slowing) * (1 - share_kept) + 1.0 / slowing * share_kept
