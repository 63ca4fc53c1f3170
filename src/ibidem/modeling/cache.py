"""Keys and values of sequences of different lengths, and the two forward passes that fill them.

The first `rows` slots are in use; each holds one sequence of its own length, without padding in front. Below, `k` is a
position with keys and values, and the next token of each row goes to its first `.`:

    slot 0   k k k k k k k . . .   length 7
    slot 1   k k k . . . . . . .   length 3
    slot 2   k k k k k . . . . .   length 5
    slot 3   . . . . . . . . . .   free

A prompt is read into keys and values of its own, whole or piece by piece, and then added as a row. `read_prompts`
computes the next pieces of any prompts as one sequence of N tokens, kept apart by the attention, so that no padding is
computed. `read_tokens` computes one more token of each row: there attention takes the time of reading keys and values.
In float32 on a CPU with AMX it is two products of matrix and vector, which are fastest if a sum runs along memory:
there values are stored dimension by dimension. On a CPU without AMX these products took three times as long as
attention as torch computes it, which is therefore used.

Beside the letters of a model's shape: L layers, S positions, N tokens of all prompts, and 2 for keys and values.
"""

import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from ibidem.modeling.attention import Documents, attend, causal_attention
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.matrices import FrozenBlock, FrozenDecoder, has_amx

FIRST_ROWS, FIRST_SIZE = 4, 256
"""Slots and positions that a cache has at least once anything is in it."""
MORE_ROWS, MORE_SIZE = 4, 1.25
"""How many times as many it has when it grows: what is reserved of positions takes memory, of rows hardly any."""
PAGES_FROM = 1 << 20
"""Size in bytes from which keys and values have pages of their own."""
SPARE = 16
"""How many times the memory of the rows in use it has before it shrinks: more than when it grew for them."""


@dataclass(eq=False)
class Reading:
    """A prompt, and the keys and values of what was read of it."""

    ids: Sequence[int]
    kv_L2GSK: Tensor
    """With a position for each id."""
    length: int = 0
    """Number of ids that were read."""

    @classmethod
    def of(cls, model: FrozenDecoder, ids: Sequence[int]) -> "Reading":
        """Return a prompt of which nothing was read."""
        shape = (model.config.layers, 2, model.config.num_kv_heads, len(ids), model.config.head_width)
        return cls(ids, _pages(shape, model.dtype, model.device))

    @property
    def unread(self) -> int:
        """Number of ids that were not read yet."""
        return len(self.ids) - self.length

    def begin_with(self, kv_L2GSK: Tensor, length: int) -> None:
        """Copy keys and values of another sequence that begins with the same `length` ids."""
        self.kv_L2GSK[:, :, :, :length] = kv_L2GSK[:, :, :, :length]
        self.length = length


class KVCache:
    """Slots for the keys and values of sequences; the first `rows` of them are in use."""

    def __init__(self, config: ModelConfig, slots: int, size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        """Describe slots of at most `size` positions, whose memory grows with what is in them."""
        self._heads, self._dtype, self._device = (config.num_kv_heads, config.head_width), dtype, device
        self._layers = [[self._zeros(0, 0, which) for which in (0, 1)] for _ in range(config.layers)]
        self._reserved = (0, 0)
        self.slots = slots
        self.size = size
        self.lengths: list[int] = []

    @property
    def rows(self) -> int:
        """Number of slots in use."""
        return len(self.lengths)

    @property
    def is_reserved(self) -> bool:
        """Whether there is memory for all slots and positions, which then stays where it is."""
        return self._reserved == (self.slots, self.size)

    @property
    def bytes_per_position(self) -> int:
        """Size of the keys and values of one position."""
        heads, width = self._heads
        return len(self._layers) * 2 * heads * width * self._dtype.itemsize

    def reserve(self, rows: int, size: int) -> None:
        """Reserve memory for `rows` rows of `size` positions, or for some times what there was: it seldom grows."""
        assert rows <= self.slots
        assert size <= self.size
        have_rows, have_size = self._reserved
        if rows > have_rows:
            have_rows = min(self.slots, max(rows, MORE_ROWS * have_rows, FIRST_ROWS))
        if size > have_size:
            have_size = min(self.size, max(size, int(MORE_SIZE * have_size), FIRST_SIZE))
        self._resize(have_rows, have_size)

    def shrink(self) -> None:
        """Free memory if no row is in use, or if much less would do."""
        rows = min(self.slots, max(self.rows, FIRST_ROWS))
        size = min(self.size, max(0, *self.lengths, FIRST_SIZE))
        have_rows, have_size = self._reserved
        if not self.rows or have_rows * have_size >= SPARE * rows * size:
            self._resize(rows, size)

    def _resize(self, rows: int, size: int) -> None:
        """Move the rows in use to memory of another size."""
        kept = min(size, self._reserved[1])
        if (rows, size) != self._reserved:
            for layer in self._layers:
                for which, whole_BGSK in enumerate(layer):
                    layer[which] = self._zeros(rows, size, which)
                    layer[which][: self.rows, :, :kept] = whole_BGSK[: self.rows, :, :kept]
        self._reserved = (rows, size)

    def write(self, layer: int, slots_N: Tensor, positions_N: Tensor, kv_N2GK: Tensor) -> None:
        """Store keys and values of a layer, each at a position of a slot."""
        for whole_BGSK, part_NGK in zip(self._layers[layer], kv_N2GK.unbind(1), strict=True):
            whole_BGSK[slots_N, :, positions_N] = part_NGK

    def write_at(self, layer: int, position: int, kv_B2GK: Tensor) -> None:
        """Store keys and values of a layer, of every row in use at the same position."""
        for whole_BGSK, part_BGK in zip(self._layers[layer], kv_B2GK.unbind(1), strict=True):
            whole_BGSK[: len(part_BGK), :, position] = part_BGK

    def read(self, layer: int, rows: int, size: int) -> tuple[Tensor, Tensor]:
        """Return views of the first positions of the first slots: keys and values of a layer, (B, G, S, K)."""
        k_BGSK, v_BGSK = (whole[:rows, :, :size] for whole in self._layers[layer])
        return k_BGSK, v_BGSK

    def copied(self, slot: int) -> Tensor:
        """Return a copy of the keys and values of a slot, (L, 2, G, S, K)."""
        length = self.lengths[slot]
        parts = [whole_BGSK[slot, :, :length] for whole_BGSK in chain.from_iterable(self._layers)]
        copy = _pages((len(parts), *parts[0].shape), self._dtype, self._device)
        return torch.stack(parts, out=copy).view(-1, 2, *parts[0].shape)

    def add(self, kv_L2GSK: Tensor, rows: int) -> None:
        """Add rows that begin with the same keys and values."""
        slots, length = slice(self.rows, self.rows + rows), kv_L2GSK.shape[3]
        self.reserve(slots.stop, length)
        for whole_BGSK, part_GSK in zip(chain.from_iterable(self._layers), kv_L2GSK.flatten(0, 1), strict=True):
            whole_BGSK[slots, :, :length] = part_GSK
        self.lengths += [length] * rows

    def release(self, slot: int) -> None:
        """Free a slot: the last row in use moves there."""
        last, length = self.rows - 1, self.lengths[-1]
        if slot != last:
            for whole_BGSK in chain.from_iterable(self._layers):
                whole_BGSK[slot, :, :length] = whole_BGSK[last, :, :length]
        self.lengths[slot] = length
        self.lengths.pop()

    def _zeros(self, rows: int, size: int, which: int) -> Tensor:
        """Return zeros, (B, G, S, K), for keys (0) or values (1), which may be (B, G, K, S) in memory.

        A masked position counts 0 times its value, which must not be NaN.
        """
        G, K = self._heads
        if which == 1 and _is_by_products(self._dtype, self._device):
            return _pages((rows, G, K, size), self._dtype, self._device).mT
        return _pages((rows, G, size, K), self._dtype, self._device)


def _pages(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; on a CPU a page takes memory once it is written to, and gives it back when the tensor is freed.

    What is freed on the heap would stay there in pieces: a fifth of the memory of 64 rows.
    """
    size_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size_bytes < PAGES_FROM:
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def read_prompts(model: FrozenDecoder, readings: Sequence[Reading], sizes: Sequence[int]) -> Tensor:
    """Read so many of the next ids of each prompt; return the normalized hidden states of the last ones, (B, D)."""
    spans = [(reading.length, reading.length + size) for reading, size in zip(readings, sizes, strict=True)]
    parts = [reading.ids[start:end] for reading, (start, end) in zip(readings, spans, strict=True)]
    ids_N = torch.tensor(list(chain.from_iterable(parts)), device=model.device)
    rotation = _rotation(model, torch.cat([torch.arange(*span) for span in spans]).to(model.device))
    mix = _whole(model, sizes) if all(start == 0 for start, _ in spans) else _continued(model, readings, spans)
    x_ND = model.embedding.rows(ids_N).to(model.dtype)
    for layer, block in enumerate(model.blocks):
        q_NHK, kv_N2GK = _project(model, block, x_ND, rotation)
        for reading, (start, end), part_S2GK in zip(readings, spans, torch.split(kv_N2GK, list(sizes)), strict=True):
            reading.kv_L2GSK[layer, :, :, start:end] = part_S2GK.permute(1, 2, 0, 3)
        x_ND = _finish(model, block, x_ND, mix(layer, q_NHK, kv_N2GK).flatten(1))
    for reading, (_, end) in zip(readings, spans, strict=True):
        reading.length = end
    last_BD = x_ND[torch.tensor(list(accumulate(sizes)), device=model.device) - 1]
    return _norm(model, last_BD, model.norm_D)


Mix = Callable[[int, Tensor, Tensor], Tensor]
"""Attention of a layer: its number, queries (N, H, K), keys and values of the same tokens, (N, 2, G, K)."""


def _whole(model: FrozenDecoder, sizes: Sequence[int]) -> Mix:
    """Attend within prompts of which nothing was read before."""
    starts_N = torch.zeros(sum(sizes), dtype=torch.bool)
    starts_N[[0, *list(accumulate(sizes))[:-1]]] = True
    documents = Documents.of(starts_N[None]).to(model.device)

    def mix(_: int, q_NHK: Tensor, kv_N2GK: Tensor) -> Tensor:
        k_NGK, v_NGK = kv_N2GK.unbind(1)
        return causal_attention(q_NHK[None], k_NGK[None], v_NGK[None], documents)[0]

    return mix


def _continued(model: FrozenDecoder, readings: Sequence[Reading], spans: Sequence[tuple[int, int]]) -> Mix:
    """Attend, prompt by prompt, to what was read of each, in this pass and before."""
    sizes = [end - start for start, end in spans]
    masks = [torch.ones(end - start, end, dtype=torch.bool, device=model.device).tril(start) for start, end in spans]

    def mix(layer: int, q_NHK: Tensor, _: Tensor) -> Tensor:
        mixed = []
        for reading, mask_NS, q_part in zip(readings, masks, torch.split(q_NHK, sizes), strict=True):
            k_SGK, v_SGK = reading.kv_L2GSK[layer, :, :, : mask_NS.shape[1]].transpose(1, 2)
            mixed.append(attend(q_part[None], k_SGK[None], v_SGK[None], mask_NS)[0])
        return torch.cat(mixed)

    return mix


def read_tokens(model: FrozenDecoder, cache: KVCache, ids_B: Tensor) -> Tensor:
    """Add one token to each row; return the normalized hidden states, (B, D)."""
    size = max(cache.lengths) + 1
    cache.reserve(cache.rows, size)
    positions_B = torch.tensor(cache.lengths, device=model.device)
    hidden_BD = token_states(model, cache, ids_B, positions_B, size, is_level=min(cache.lengths) + 1 == size)
    cache.lengths = [length + 1 for length in cache.lengths]
    return hidden_BD


def token_states(
    model: FrozenDecoder, cache: KVCache, ids_B: Tensor, positions_B: Tensor, size: int, *, is_level: bool = False
) -> Tensor:
    """Store and attend to one more token in each of the first B slots; return the normalized hidden states, (B, D).

    Of what it computes with, only B, `size` and `is_level` are numbers of the host.

    Args:
        model: the weights.
        cache: with memory for B rows of `size` positions; the lengths of its rows are neither read nor changed.
        ids_B: the tokens; int64.
        positions_B: where each is stored; int64. A row attends to what is stored there and before.
        size: number of positions that are read; more than each of theirs.
        is_level: whether all positions are the last one.
    """
    B = len(ids_B)
    slots_B = torch.arange(B, device=model.device)
    visible_BS = None if is_level else torch.arange(size, device=model.device) <= positions_B[:, None]
    rotation = _rotation(model, positions_B)
    x_BD = model.embedding.rows(ids_B).to(model.dtype)
    for layer, block in enumerate(model.blocks):
        q_BHK, kv_B2GK = _project(model, block, x_BD, rotation)
        if is_level:
            cache.write_at(layer, size - 1, kv_B2GK)
        else:
            cache.write(layer, slots_B, positions_B, kv_B2GK)
        x_BD = _finish(model, block, x_BD, _attend(q_BHK, *cache.read(layer, B, size), visible_BS))
    return _norm(model, x_BD, model.norm_D)


def _attend(q_BHK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, visible_BS: Tensor | None) -> Tensor:
    """Attend with one query per head to the positions that are visible; (B, H * K).

    The heads of a group are the queries of one key-value head, so that nothing is repeated.
    """
    B, G, S, K = k_BGSK.shape
    q_BGRK = q_BHK.reshape(B, G, -1, K)
    if not _is_by_products(q_BHK.dtype, q_BHK.device):
        mask = None if visible_BS is None else visible_BS[:, None, None]
        return scaled_dot_product_attention(q_BGRK, k_BGSK, v_BGSK, attn_mask=mask).flatten(1)
    k_XSK, v_XSK, q_XRK = k_BGSK.flatten(0, 1), v_BGSK.flatten(0, 1), q_BGRK.flatten(0, 1)
    scores_XSR = torch.bmm(k_XSK, q_XRK.mul(K**-0.5).mT)
    if visible_BS is not None:
        scores_XSR.view(B, G, S, -1).masked_fill_(~visible_BS[:, None, :, None], -torch.inf)
    return torch.bmm(v_XSK.mT, scores_XSR.mT.softmax(dim=-1).mT).mT.reshape(B, -1)


def _is_by_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether attention is two products; in 16 bits its scores and their softmax would be rounded."""
    return device.type == "cpu" and dtype is torch.float32 and has_amx()


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


def _finish(model: FrozenDecoder, block: FrozenBlock, x_ND: Tensor, mixed_NX: Tensor) -> Tensor:
    """Add the output of the attention, whose heads gave (N, H * K), and the feed-forward's to x_ND, in place."""
    x_ND += block.out(mixed_NX)
    gate_NF, up_NF = block.gate_up(_norm(model, x_ND, block.ffn_norm_D)).chunk(2, dim=-1)
    x_ND += block.down(silu(gate_NF).mul_(up_NF))
    return x_ND


def _norm(model: FrozenDecoder, x_ND: Tensor, weight_D: Tensor) -> Tensor:
    return rms_norm(x_ND, weight_D.shape, weight_D, model.config.norm_eps)
