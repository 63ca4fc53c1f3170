"""Causal attention in which no token sees another document.

Windows of training text hold several documents; with T = 8 and two documents of 5 and 3 tokens the mask is

    a . . . . . . .
    a a . . . . . .
    a a a . . . . .
    a a a a . . . .
    a a a a a . . .
    . . . . . b . .
    . . . . . b b .
    . . . . . b b b

One interface, two implementations: on CUDA one block-sparse kernel (flex attention), elsewhere one dense causal
attention per document, which computes nothing outside the triangles.
"""

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention


class Documents:
    """Which document each token of a batch belongs to; a row always starts a document."""

    def __init__(self, starts_BT: Tensor) -> None:
        """Store the document starts: True where a token starts a document; bool, on the device of the batch."""
        self.starts_BT = starts_BT.clone()
        self.starts_BT[:, 0] = True

    @cached_property
    def lengths(self) -> list[int]:
        """Lengths of the documents, row by row of the batch.

        >>> Documents(torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]]).bool()).lengths
        [3, 1, 2, 2]
        """
        flat = self.starts_BT.flatten()
        edges = torch.cat([flat.nonzero().flatten(), torch.tensor([flat.numel()], device=flat.device)])
        return [int(length) for length in edges.diff()]

    @cached_property
    def numbers_BT(self) -> Tensor:  # noqa: N802 - the shape
        """Number of each token's document within its row; int64."""
        return self.starts_BT.long().cumsum(dim=1)

    @cached_property
    def block_mask(self) -> BlockMask:
        """The document mask for flex attention."""
        numbers_BT = self.numbers_BT

        def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:  # noqa: ARG001 - flex attention's signature
            return (q >= k) & (numbers_BT[b, q] == numbers_BT[b, k])

        B, T = numbers_BT.shape
        return create_block_mask(visible, B, None, T, T, device=numbers_BT.device.type)


def causal_attention(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, documents: Documents | None) -> Tensor:
    """Attend to earlier tokens of the same document.

    Args:
        q_BTHK: queries, positions applied.
        k_BTGK: keys; G divides H.
        v_BTGK: values.
        documents: None if each row is one document.
    Returns:
        mixed_BTHK.
    """
    if documents is None:
        return _attend(q_BTHK, k_BTGK, v_BTGK)
    if q_BTHK.is_cuda:
        return _flex(q_BTHK, k_BTGK, v_BTGK, documents.block_mask)
    return _by_document(q_BTHK, k_BTGK, v_BTGK, documents.lengths)


def cached_attention(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, visible_BTS: Tensor) -> Tensor:
    """Attend to the S positions of a cache that `visible_BTS` (bool) allows."""
    return _attend(q_BTHK, k_BSGK, v_BSGK, mask_BHTS=visible_BTS[:, None])


def _attend(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, mask_BHTS: Tensor | None = None) -> Tensor:
    mixed_BHTK = scaled_dot_product_attention(
        q_BTHK.transpose(1, 2),
        k_BTGK.transpose(1, 2),
        v_BTGK.transpose(1, 2),
        attn_mask=mask_BHTS,
        is_causal=mask_BHTS is None,
        enable_gqa=q_BTHK.shape[2] != k_BTGK.shape[2],
    )
    return mixed_BHTK.transpose(1, 2)


def _by_document(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, lengths: list[int]) -> Tensor:
    pieces = (torch.split(tensor.flatten(0, 1), lengths) for tensor in (q_BTHK, k_BTGK, v_BTGK))
    mixed = [_attend(q[None], k[None], v[None])[0] for q, k, v in zip(*pieces, strict=True)]
    return torch.cat(mixed).view_as(q_BTHK)


def _flex(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, block_mask: BlockMask) -> Tensor:
    mixed_BHTK = _compiled_flex()(
        q_BTHK.transpose(1, 2),
        k_BTGK.transpose(1, 2),
        v_BTGK.transpose(1, 2),
        block_mask=block_mask,
        enable_gqa=q_BTHK.shape[2] != k_BTGK.shape[2],
    )
    return mixed_BHTK.transpose(1, 2)  # type: ignore[no-any-return]


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)
