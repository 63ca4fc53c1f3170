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

All documents of a batch are one operation, which computes nothing outside the triangles: on CUDA one kernel of variable
lengths, elsewhere one causal attention per document. It is opaque to `torch.compile`, so that one compiled graph serves
batches with any number of documents.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

KERNEL_DTYPES = (torch.bfloat16, torch.float16)
"""What CUDA's kernel of variable lengths computes in."""
CAUSAL = [-1, 0]
"""The kernel's window: everything before, nothing after."""


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch begin and end, its rows joined to one of N = B * T tokens.

    Both tensors have the same size for every batch of a shape, as a compiled graph requires. It is no tuple: DDP and
    FSDP would move the tensors of a tuple to the device, which would then have to be waited for.
    """

    edges: Tensor
    """Each document's start, then N up to the end; int32, (N + 1,), on the device of the batch."""
    layout: Tensor
    """Number of documents and length of the longest, then the edges; int32, (N + 3,), on the CPU."""

    @classmethod
    def of(cls, starts_BT: Tensor) -> "Documents":
        """Locate the documents of a batch; a row always starts one.

        Args:
            starts_BT: True where a token starts a document; bool. On the CPU, or the device waits for it.

        >>> Documents.of(torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]]).bool()).lengths
        [3, 1, 2, 2]
        """
        starts_BT = starts_BT.cpu().clone()
        starts_BT[:, 0] = True
        N = starts_BT.numel()
        found = starts_BT.flatten().nonzero().flatten()
        edges = pad(found, (0, N + 1 - len(found)), value=N)
        sizes = torch.stack([torch.tensor(len(found)), edges.diff().max()])
        layout = torch.cat([sizes, edges]).int()
        return cls(layout[2:], layout)

    def pinned(self) -> "Documents":
        """Copy it to pinned memory, from which a GPU copies while the host goes on."""
        layout = self.layout.pin_memory()
        return Documents(layout[2:], layout)

    def to(self, device: torch.device) -> "Documents":
        """Copy the edges to a device, without waiting for it if they are pinned."""
        return Documents(self.edges.to(device, non_blocking=True), self.layout)

    @property
    def lengths(self) -> list[int]:
        """Lengths of the documents, row by row of the batch."""
        return [place.stop - place.start for place in _places(self.layout)]

    @property
    def longest(self) -> int:
        """Length of the longest document."""
        return int(self.layout[1])

    @property
    def positions(self) -> Tensor:
        """Position of each token in its document, (N,), on the device of the edges, which is not waited for.

        >>> Documents.of(torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]]).bool()).positions.tolist()
        [0, 1, 2, 0, 0, 1, 0, 1]
        """
        index_N = torch.arange(len(self.edges) - 1, dtype=self.edges.dtype, device=self.edges.device)
        return index_N - self.edges[torch.searchsorted(self.edges, index_N, right=True) - 1]


MASKED_TOKENS = 512
"""A group of up to so many tokens is one attention with a mask. In a larger one each branch is one of its own, which
computes nothing outside of what it sees."""


class Group(NamedTuple):
    """Lengths of a stem and of the branches that continue it."""

    stem: int
    branches: tuple[int, ...]


@dataclass(frozen=True)
class Branches:
    """Documents with a common beginning, which is computed once: a stem, and branches that do not see one another.

    With a stem of 3 tokens and branches of 2 and 1 the mask is

        a . . . . .
        a a . . . .
        a a a . . .
        a a a b . .
        a a a b b .
        a a a . . c

    The groups of a batch stand one behind the other in its only row.
    """

    groups: tuple[Group, ...]
    positions: Tensor
    """Position of each token in its document, (N,); int64, on the device of the batch."""

    @classmethod
    def of(cls, groups: Iterable[Group]) -> "Branches":
        """Lay out groups.

        >>> Branches.of([Group(3, (2, 1)), Group(0, (2,))]).positions.tolist()
        [0, 1, 2, 3, 4, 3, 0, 1]
        """
        groups = tuple(groups)
        parts = [
            part
            for stem, branches in groups
            for part in (torch.arange(stem), *(torch.arange(stem, stem + length) for length in branches))
        ]
        return cls(groups, torch.cat(parts))

    def pinned(self) -> "Branches":
        """Copy it to pinned memory, from which a GPU copies while the host goes on."""
        return Branches(self.groups, self.positions.pin_memory())

    def to(self, device: torch.device) -> "Branches":
        """Copy the positions to a device."""
        return Branches(self.groups, self.positions.to(device, non_blocking=True))

    @property
    def longest(self) -> int:
        """Length of the longest document."""
        return max(stem + max(branches) for stem, branches in self.groups)


Layout = Documents | Branches
"""What tells a batch's tokens apart."""


def causal_attention(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, documents: Layout | None) -> Tensor:
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
        return attend(q_BTHK, k_BTGK, v_BTGK)
    if isinstance(documents, Branches):
        return _attend_by_branch(q_BTHK, k_BTGK, v_BTGK, documents.groups)
    q_NHK, k_NGK, v_NGK = (tensor.flatten(0, 1) for tensor in (q_BTHK, k_BTGK, v_BTGK))
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        # a custom operation would import torch's compiler: 2 s and 100 MB
        return _attended(q_NHK, k_NGK, v_NGK, documents.edges, documents.layout)[0].view_as(q_BTHK)
    mixed_NHK: Tensor = _ByDocument.apply(q_NHK, k_NGK, v_NGK, documents.edges, documents.layout)  # type: ignore[no-untyped-call]
    return mixed_NHK.view_as(q_BTHK)


def attend(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, mask_BHTS: Tensor | None = None) -> Tensor:
    """Attend to the positions that a mask allows (bool), or without one to the earlier positions; (B, T, H, K)."""
    mixed_BHTK = scaled_dot_product_attention(
        q_BTHK.transpose(1, 2),
        k_BSGK.transpose(1, 2),
        v_BSGK.transpose(1, 2),
        attn_mask=mask_BHTS,
        is_causal=mask_BHTS is None,
        enable_gqa=q_BTHK.shape[2] != k_BSGK.shape[2],
    )
    return mixed_BHTK.transpose(1, 2)


def _attend_by_branch(q_1NHK: Tensor, k_1NGK: Tensor, v_1NGK: Tensor, groups: Sequence[Group]) -> Tensor:
    sizes = [group.stem + sum(group.branches) for group in groups]
    parts = zip(groups, *(torch.split(whole, sizes, dim=1) for whole in (q_1NHK, k_1NGK, v_1NGK)), strict=True)
    return torch.cat([_attend_group(*part) for part in parts], dim=1)


def _attend_group(group: Group, q_1NHK: Tensor, k_1NGK: Tensor, v_1NGK: Tensor) -> Tensor:
    if q_1NHK.shape[1] <= MASKED_TOKENS:
        return attend(q_1NHK, k_1NGK, v_1NGK, _mask(group, q_1NHK.device))
    stem, mixed, start = group.stem, [], group.stem
    if stem:
        mixed.append(attend(q_1NHK[:, :stem], k_1NGK[:, :stem], v_1NGK[:, :stem]))
    for length in group.branches:
        own = slice(start, start + length)
        start += length
        k, v = (torch.cat([whole[:, :stem], whole[:, own]], dim=1) for whole in (k_1NGK, v_1NGK))
        mask = torch.ones(length, stem + length, dtype=torch.bool, device=k.device).tril(stem)
        mixed.append(attend(q_1NHK[:, own], k, v, mask))
    return torch.cat(mixed, dim=1)


@lru_cache(maxsize=64)
def _mask(group: Group, device: torch.device) -> Tensor:
    """Return what each token of a group sees, (N, N); the same for all blocks."""
    lengths = torch.tensor([group.stem, *group.branches])
    branch_N = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    sees_NN = (branch_N[:, None] == branch_N) | (branch_N == 0)
    return sees_NN.tril().to(device)


class _ByDocument(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, edges: Tensor, layout: Tensor) -> Tensor:
        mixed_NHK, lse_HN = _forward(q_NHK, k_NGK, v_NGK, edges, layout)
        ctx.save_for_backward(q_NHK, k_NGK, v_NGK, mixed_NHK, lse_HN, edges, layout)
        return mixed_NHK  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad_NHK: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(grad_NHK, *ctx.saved_tensors), None, None)


def _attended(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, edges: Tensor, layout: Tensor) -> tuple[Tensor, Tensor]:
    if _has_kernel(q_NHK):
        edges, longest = _sizes(edges, layout)
        mixed_NHK, lse_HN, _ = torch.ops.torch_attn._varlen_attn(  # noqa: SLF001 - what `varlen_attn` calls
            q_NHK, k_NGK, v_NGK, edges, edges, longest, longest, True, None, CAUSAL, q_NHK.shape != k_NGK.shape
        )
        return mixed_NHK, lse_HN
    mixed_NHK, lse_HN = _results_like(q_NHK)
    for place in _places(layout):
        mixed_1HTK, lse_1HT = _attend_alone(*_parts(place, q_NHK, k_NGK, v_NGK))
        mixed_NHK[place], lse_HN[:, place] = mixed_1HTK[0].transpose(0, 1), lse_1HT[0]
    return mixed_NHK, lse_HN


_forward = torch.library.custom_op("ibidem::attention_by_document", mutates_args=())(_attended)


@torch.library.custom_op("ibidem::attention_by_document_backward", mutates_args=())
def _backward(
    grad_NHK: Tensor,
    q_NHK: Tensor,
    k_NGK: Tensor,
    v_NGK: Tensor,
    mixed_NHK: Tensor,
    lse_HN: Tensor,
    edges: Tensor,
    layout: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if _has_kernel(q_NHK):
        edges, longest = _sizes(edges, layout)
        random = torch.zeros(2, dtype=torch.uint64, device=q_NHK.device)  # of dropout, which there is none of
        grad_NHK = grad_NHK.contiguous()
        grads: tuple[Tensor, Tensor, Tensor] = torch.ops.torch_attn._varlen_attn_backward(  # noqa: SLF001 - as above
            grad_NHK, q_NHK, k_NGK, v_NGK, mixed_NHK, lse_HN, edges, edges, longest, longest, True, random, None, CAUSAL
        )
        return grads
    grads = _gradients_like(q_NHK, k_NGK, v_NGK)
    for place in _places(layout):
        grad, q, k, v, mixed = _parts(place, grad_NHK, q_NHK, k_NGK, v_NGK, mixed_NHK)
        alone = _attend_alone_backward(grad, q, k, v, mixed, lse_HN[None, :, place])
        for whole, part_1HTK in zip(grads, alone, strict=True):
            whole[place] = (
                part_1HTK[0].transpose(0, 1).reshape(len(part_1HTK[0, 0]), whole.shape[1], -1, whole.shape[2]).sum(2)
            )
    return grads


@_forward.register_fake
def _(q_NHK: Tensor, *_others: Tensor) -> tuple[Tensor, Tensor]:
    return _results_like(q_NHK)


@_backward.register_fake
def _(_grad: Tensor, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, *_others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(q_NHK, k_NGK, v_NGK)


def _has_kernel(tensor: Tensor) -> bool:
    return tensor.is_cuda and tensor.dtype in KERNEL_DTYPES


def _sizes(edges: Tensor, layout: Tensor) -> tuple[Tensor, int]:
    count, longest = layout[:2].tolist()
    return edges[: count + 1], longest


def _places(layout: Tensor) -> list[slice]:
    count = int(layout[0])
    return [slice(*pair) for pair in pairwise(layout[2 : count + 3].tolist())]


def _parts(place: slice, q_NHK: Tensor, *others: Tensor) -> list[Tensor]:
    """Cut a document out of each tensor, and repeat the heads of those that have fewer; (1, H, T, K)."""
    H = q_NHK.shape[1]
    cut = [tensor[None, place].transpose(1, 2) for tensor in (q_NHK, *others)]
    return [tensor if tensor.shape[1] == H else tensor.repeat_interleave(H // tensor.shape[1], 1) for tensor in cut]


def _results_like(q_NHK: Tensor) -> tuple[Tensor, Tensor]:
    N, H, _ = q_NHK.shape
    wide = torch.promote_types(q_NHK.dtype, torch.float32)
    return q_NHK.new_empty(q_NHK.shape), q_NHK.new_empty((H, N), dtype=wide)


def _gradients_like(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (tensor.new_empty(tensor.shape) for tensor in tensors)
    return q, k, v


def _attend_alone(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if q.is_cpu:
        mixed, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)  # noqa: SLF001 - the operation behind scaled_dot_product_attention
        return mixed, lse
    return scaled_dot_product_attention(q, k, v, is_causal=True), q.new_zeros(q.shape[:3])


def _attend_alone_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, lse: Tensor
) -> tuple[Tensor, ...]:
    if q.is_cpu:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001 - its gradient
        return tuple(backward(grad, q, k, v, mixed, lse, 0.0, True))
    with torch.enable_grad():
        q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
        return torch.autograd.grad(scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), grad)
