"""Which parameters of a Hugging Face Llama or Qwen3 are joined in which of ours."""

from collections.abc import Iterator
from typing import Any


def pairs(ours: Any, theirs: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield each of our parameters with those of Hugging Face that it joins."""
    yield ours.embedding.weight_VD, [theirs.model.embed_tokens.weight]
    yield ours.norm.weight, [theirs.model.norm.weight]
    if ours.head is not None:
        yield ours.head.weight_VD, [theirs.lm_head.weight]
    for block, layer in zip(ours.blocks, theirs.model.layers, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        yield block.attention.qkv.weight, [projection.weight for projection in projections]
        yield block.attention.out.weight, [attention.o_proj.weight]
        yield block.ffn.gate_up.weight, [mlp.gate_proj.weight, mlp.up_proj.weight]
        yield block.ffn.down.weight, [mlp.down_proj.weight]
        yield block.attention_norm.weight, [layer.input_layernorm.weight]
        yield block.ffn_norm.weight, [layer.post_attention_layernorm.weight]
        if ours.config.qk_norm:
            yield block.attention.q_norm.weight, [attention.q_norm.weight]
            yield block.attention.k_norm.weight, [attention.k_norm.weight]


def copy(ours: Any, theirs: Any) -> None:
    """Give Hugging Face's model the weights of ours; every parameter of both takes part."""
    import torch

    found = list(pairs(ours, theirs))
    assert {id(mine) for mine, _ in found} == {id(parameter) for parameter in ours.parameters()}
    assert {id(other) for _, others in found for other in others} == {id(other) for other in theirs.parameters()}
    with torch.no_grad():
        for mine, others in found:
            for part, other in zip(mine.split([len(other) for other in others]), others, strict=True):
                other.copy_(part)
