"""A decoder as transformers has it: Qwen3 if queries and keys are normalized, else Llama. No code of ours is needed.

ours                                        theirs
embedding.weight_VD                         model.embed_tokens.weight
blocks.0.attention_norm.weight              model.layers.0.input_layernorm.weight
blocks.0.attention.qkv.weight               model.layers.0.self_attn.{q,k,v}_proj.weight, its rows cut in three
blocks.0.attention.{q,k}_norm.weight        model.layers.0.self_attn.{q,k}_norm.weight
blocks.0.attention.out.weight               model.layers.0.self_attn.o_proj.weight
blocks.0.ffn_norm.weight                    model.layers.0.post_attention_layernorm.weight
blocks.0.ffn.gate_up.weight                 model.layers.0.mlp.{gate,up}_proj.weight, its rows cut in two
blocks.0.ffn.down.weight                    model.layers.0.mlp.down_proj.weight
norm.weight                                 model.norm.weight
head.weight_VD                              lm_head.weight; a tied model has none
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ibidem.modeling.checkpoint import weights_of
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import INIT_STD, Decoder
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_OUTSIDE = {
    "embedding.weight_VD": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight_VD": "lm_head.weight",
}
_OF_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}


def dtype_of(checkpoint: Path) -> torch.dtype:
    """Return the dtype of a checkpoint's weights; of several, float32."""
    with weights_of(checkpoint) as weights:
        found = weights.dtypes()
    return _DTYPES.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype, as transformers writes it.

    >>> name_of(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def round_to(decoder: Decoder, dtype: torch.dtype) -> None:
    """Round the weights of a decoder to those of a dtype, in place."""
    for parameter in decoder.parameters():
        parameter.data = parameter.data.to(dtype).to(parameter.dtype)


def save_weights(decoder: Decoder, dtype: torch.dtype, path: Path) -> None:
    """Write the weights under their names in transformers; the same weights give the same bytes."""
    weights = {
        name: tensor.to("cpu", dtype).contiguous().clone()
        for name, tensor in hf_weights(decoder.state_dict(), decoder.config).items()
    }
    save_file(weights, path, metadata={"format": "pt"})


def hf_weights(weights: Mapping[str, Tensor], shape: ModelConfig) -> dict[str, Tensor]:
    """Return weights under their names in transformers, as views."""
    found = {_OUTSIDE[name]: weights[name] for name in _OUTSIDE if name in weights}
    heads = [count * shape.head_width for count in (shape.heads, shape.num_kv_heads, shape.num_kv_heads)]
    for number in range(shape.layers):
        ours, theirs = f"blocks.{number}.", f"model.layers.{number}."
        found |= {theirs + new: weights[ours + old] for old, new in _OF_BLOCK.items() if ours + old in weights}
        parts = torch.split(weights[f"{ours}attention.qkv.weight"], heads)
        found |= {f"{theirs}self_attn.{name}_proj.weight": part for name, part in zip("qkv", parts, strict=True)}
        gate, up = weights[f"{ours}ffn.gate_up.weight"].chunk(2)
        found |= {f"{theirs}mlp.gate_proj.weight": gate, f"{theirs}mlp.up_proj.weight": up}
    return found


def hf_config(shape: ModelConfig, tokenizer: Tokenizer, dtype: torch.dtype) -> str:
    """Return `config.json`."""
    family = "Qwen3" if shape.qk_norm else "Llama"
    tree: dict[str, Any] = {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "dtype": name_of(dtype),
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": INIT_STD,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "use_cache": True,
        **_ids(tokenizer),
        **({} if shape.qk_norm else {"mlp_bias": False}),
    }
    return json.dumps(tree, indent=2) + "\n"


def generation_config(tokenizer: Tokenizer) -> str:
    """Return `generation_config.json`: a text ends with its turn or with the document, as with `ibidem generate`."""
    return json.dumps(_ids(tokenizer), indent=2) + "\n"


def _ids(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.document_id,
        "eos_token_id": sorted(ChatTemplate(tokenizer).end_ids),
        "pad_token_id": tokenizer.pad_id,
    }
