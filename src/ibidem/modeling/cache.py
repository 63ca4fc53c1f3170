"""Keys and values of sequences of different lengths, and the two forward passes that fill them.

The first `rows` slots are in use; each holds one sequence of its own length, without padding in front. Below, `k` is a
position with keys and values, and the next token of each row goes to its first `.`:

    slot 0   k k k k k k k . . .   length 7
    slot 1   k k k . . . . . . .   length 3
    slot 2   k k k k k . . . . .   length 5
    slot 3   . . . . . . . . . .   free

`read_prompts` computes prompts of any lengths as one sequence of N tokens, kept apart by the attention by document, so
that no padding is computed. `read_tokens` computes one more token of each row: there attention takes the time of
reading keys and values. In float32 it is two products of matrix and vector, which a CPU does fastest if a sum runs
along memory: keys are stored position by position, values dimension by dimension.
"""

from collections.abc import Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from ibidem.modeling.attention import Documents, causal_attention
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.matrices import FrozenBlock, FrozenDecoder


class KVCache:
    """Slots for the keys and values of sequences; the first `rows` of them are in use."""

    def __init__(self, config: ModelConfig, slots: int, size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        """Reserve slots of `size` positions."""
        shape = (slots, config.num_kv_heads, size, config.head_width)
        is_turned = dtype is torch.float32
        self._layers = [
            tuple(_zeros(shape, dtype, device, is_turned=turned) for turned in (False, is_turned))
            for _ in range(config.layers)
        ]
        self.slots = slots
        self.size = size
        self.lengths: list[int] = []

    @property
    def rows(self) -> int:
        """Number of slots in use."""
        return len(self.lengths)

    def write(self, layer: int, slots_N: Tensor, positions_N: Tensor, kv_N2GK: Tensor) -> None:
        """Store keys and values of a layer, each at a position of a slot."""
        for whole_BGSK, part_NGK in zip(self._layers[layer], kv_N2GK.unbind(1), strict=True):
            whole_BGSK[slots_N, :, positions_N] = part_NGK

    def write_at(self, layer: int, position: int, kv_B2GK: Tensor) -> None:
        """Store keys and values of a layer, of every row in use at the same position."""
        for whole_BGSK, part_BGK in zip(self._layers[layer], kv_B2GK.unbind(1), strict=True):
            whole_BGSK[: len(part_BGK), :, position] = part_BGK

    def read(self, layer: int, size: int) -> tuple[Tensor, Tensor]:
        """Return views of the first positions of the rows in use: keys and values of a layer, (B, G, S, K)."""
        k_BGSK, v_BGSK = (whole[: self.rows, :, :size] for whole in self._layers[layer])
        return k_BGSK, v_BGSK

    def copied(self, slot: int) -> list[Tensor]:
        """Return copies of the keys and values of a slot: two for each layer, (G, S, K)."""
        return [whole_BGSK[slot, :, : self.lengths[slot]].clone() for whole_BGSK in chain.from_iterable(self._layers)]

    def add(self, copies: Sequence[Tensor], rows: int) -> None:
        """Add rows that begin with copied keys and values."""
        slots, length = slice(self.rows, self.rows + rows), copies[0].shape[1]
        for whole_BGSK, copy_GSK in zip(chain.from_iterable(self._layers), copies, strict=True):
            whole_BGSK[slots, :, :length] = copy_GSK
        self.lengths += [length] * rows

    def release(self, slot: int) -> None:
        """Free a slot: the last row in use moves there."""
        last, length = self.rows - 1, self.lengths[-1]
        if slot != last:
            for whole_BGSK in chain.from_iterable(self._layers):
                whole_BGSK[slot, :, :length] = whole_BGSK[last, :, :length]
        self.lengths[slot] = length
        self.lengths.pop()


def read_prompts(model: FrozenDecoder, cache: KVCache, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Add a row for each prompt; return the normalized hidden state of each last token, (B, D)."""
    lengths = [len(prompt) for prompt in prompts]
    ends = list(accumulate(lengths))
    sizes_B = torch.tensor(lengths)
    starts_N = torch.zeros(ends[-1], dtype=torch.bool)
    starts_N[[0, *ends[:-1]]] = True
    documents = Documents.of(starts_N[None]).to(model.device)
    first_slot = cache.rows
    slots_N = torch.arange(first_slot, first_slot + len(prompts)).repeat_interleave(sizes_B).to(model.device)
    positions_N = torch.cat([torch.arange(length) for length in lengths]).to(model.device)
    cache.lengths += lengths
    ids_N = torch.tensor([number for ids in prompts for number in ids], device=model.device)
    x_ND = model.embedding.rows(ids_N).to(model.dtype)
    rotation = _rotation(model, positions_N)
    for layer, block in enumerate(model.blocks):
        q_NHK, kv_N2GK = _project(model, block, x_ND, rotation)
        cache.write(layer, slots_N, positions_N, kv_N2GK)
        k_NGK, v_NGK = kv_N2GK.unbind(1)
        mixed_NHK = causal_attention(q_NHK[None], k_NGK[None], v_NGK[None], documents)[0]
        x_ND = _finish(model, block, x_ND, mixed_NHK.flatten(1))
    last_BD = x_ND[torch.tensor(ends, device=model.device) - 1]
    return _norm(model, last_BD, model.norm_D)


def read_tokens(model: FrozenDecoder, cache: KVCache, ids_B: Tensor) -> Tensor:
    """Add one token to each row; return the normalized hidden states, (B, D)."""
    size = max(cache.lengths) + 1
    is_level = min(cache.lengths) + 1 == size
    positions_B = torch.tensor(cache.lengths, device=model.device)
    slots_B = torch.arange(cache.rows, device=model.device)
    visible_BS = None if is_level else torch.arange(size, device=model.device) <= positions_B[:, None]
    rotation = _rotation(model, positions_B)
    x_BD = model.embedding.rows(ids_B).to(model.dtype)
    for layer, block in enumerate(model.blocks):
        q_BHK, kv_B2GK = _project(model, block, x_BD, rotation)
        if is_level:
            cache.write_at(layer, size - 1, kv_B2GK)
        else:
            cache.write(layer, slots_B, positions_B, kv_B2GK)
        x_BD = _finish(model, block, x_BD, _attend(q_BHK, *cache.read(layer, size), visible_BS))
    cache.lengths = [length + 1 for length in cache.lengths]
    return _norm(model, x_BD, model.norm_D)


def _attend(q_BHK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, visible_BS: Tensor | None) -> Tensor:
    """Attend with one query per head to the positions that are visible; (B, D).

    The heads of a group are the queries of one key-value head, so that nothing is repeated.
    """
    B, G, S, K = k_BGSK.shape
    q_BGRK = q_BHK.reshape(B, G, -1, K)
    if q_BHK.dtype is not torch.float32:  # scores and their softmax are not to be rounded to 16 bits
        mask = None if visible_BS is None else visible_BS[:, None, None]
        return scaled_dot_product_attention(q_BGRK, k_BGSK, v_BGSK, attn_mask=mask).flatten(1)
    k_XSK, v_XSK, q_XRK = k_BGSK.flatten(0, 1), v_BGSK.flatten(0, 1), q_BGRK.flatten(0, 1)
    scores_XSR = torch.bmm(k_XSK, q_XRK.mul(K**-0.5).mT)
    if visible_BS is not None:
        scores_XSR.view(B, G, S, -1).masked_fill_(~visible_BS[:, None, :, None], -torch.inf)
    return torch.bmm(v_XSK.mT, scores_XSR.mT.softmax(dim=-1).mT).mT.reshape(B, -1)


def _rotation(model: FrozenDecoder, positions_N: Tensor) -> tuple[Tensor, Tensor]:
    return model.cos_TK[positions_N, None], model.signed_sin_TK[positions_N, None]


def _project(
    model: FrozenDecoder, block: FrozenBlock, x_ND: Tensor, rotation: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the queries, (N, H, K), and keys and values, (N, 2, G, K), of a block."""
    H, G, K = model.config.heads, model.config.num_kv_heads, model.config.head_width
    heads_NXK = block.qkv(_norm(model, x_ND, block.attention_norm_D)).view(len(x_ND), H + 2 * G, K)
    turned_NXK = heads_NXK[:, : H + G]  # queries and keys at once
    if block.qk_norm_XK is not None:
        turned_NXK = rms_norm(turned_NXK, (K,), eps=model.config.norm_eps).mul_(block.qk_norm_XK)
    cos_N1K, signed_sin_N1K = rotation
    swapped_NXK = turned_NXK.roll(K // 2, -1)
    torch.addcmul(turned_NXK * cos_N1K, swapped_NXK, signed_sin_N1K, out=heads_NXK[:, : H + G])
    return heads_NXK[:, :H], heads_NXK[:, H:].view(len(x_ND), 2, G, K)


def _finish(model: FrozenDecoder, block: FrozenBlock, x_ND: Tensor, mixed_ND: Tensor) -> Tensor:
    """Add the attention's output and the feed-forward's to the residual stream, in place."""
    x_ND += block.out(mixed_ND)
    gate_NF, up_NF = block.gate_up(_norm(model, x_ND, block.ffn_norm_D)).chunk(2, dim=-1)
    x_ND += block.down(silu(gate_NF).mul_(up_NF))
    return x_ND


def _norm(model: FrozenDecoder, x_ND: Tensor, weight_D: Tensor) -> Tensor:
    return rms_norm(x_ND, weight_D.shape, weight_D, model.config.norm_eps)


def _zeros(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, *, is_turned: bool) -> Tensor:
    """Return zeros, (B, G, S, K), in memory as (B, G, K, S) if they are to be turned.

    A masked position counts 0 times its value, which must not be NaN.
    """
    B, G, S, K = shape
    if is_turned:
        return torch.zeros((B, G, K, S), dtype=dtype, device=device).mT
    return torch.zeros(shape, dtype=dtype, device=device)
