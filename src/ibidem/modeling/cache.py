"""Keys and values of the tokens so far, and the forward pass that continues after them."""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ibidem.modeling.attention import attend
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder, Rotation


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


def hidden(model: Decoder, ids_BT: Tensor, cache: KVCache) -> Tensor:
    """Continue after the cache's tokens, and append these; return the normalized last hidden states, (B, T, D)."""
    T = ids_BT.shape[1]
    x_BTD = embedding(ids_BT, model.embedding.weight_VD)
    places = slice(cache.length, cache.length + T)
    rotation = Rotation(model.rope.cos_TK[places, None], model.rope.sin_TK[places, None])
    visible_BHTS = cache.visible(T)[:, None]
    for layer, block in enumerate(model.blocks):
        q_BTHK, k_BTGK, v_BTGK = block.attention.project(block.attention_norm(x_BTD), rotation)
        k_BSGK, v_BSGK = cache.append(layer, k_BTGK, v_BTGK)
        x_BTD = x_BTD + block.attention.out(attend(q_BTHK, k_BSGK, v_BSGK, visible_BHTS).flatten(-2))
        x_BTD = x_BTD + block.ffn(block.ffn_norm(x_BTD))
    cache.length += T
    return model.norm(x_BTD)  # type: ignore[no-any-return]
