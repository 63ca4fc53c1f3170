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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from ibidem.modeling.checkpoint import weights_of
from ibidem.modeling.config import ModelConfig, RopeScaling
from ibidem.modeling.modeling_custom import INIT_STD, Decoder
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

FACTOR, LENGTH = {"factor": "factor"}, {"original_max_position_embeddings": "original_context"}
ROPE_KEYS: dict[str, dict[str, str]] = {
    "linear": FACTOR,
    "llama3": {**FACTOR, **LENGTH, "low_freq_factor": "low_frequency", "high_freq_factor": "high_frequency"},
    "yarn": {
        **FACTOR,
        **LENGTH,
        "beta_fast": "fast_turns",
        "beta_slow": "slow_turns",
        "truncate": "truncate",
        "attention_factor": "attention_factor",
    },
}
"""For each kind of scaled rotary positions, its keys in transformers, and ours."""
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class Part(NamedTuple):
    """A weight under its name in transformers."""

    name: str
    shape: tuple[int, ...]


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


def layout(shape: ModelConfig) -> Iterator[tuple[str, list[Part]]]:
    """Yield the name of each weight of a decoder, and the parts of transformers that it has, one below the other."""
    V, D, F, K, Q = shape.vocab_size, shape.width, shape.ffn_hidden, shape.head_width, shape.query_width
    G_K = shape.num_kv_heads * K
    yield "embedding.weight_VD", [Part("model.embed_tokens.weight", (V, D))]
    for number in range(shape.layers):
        ours, theirs = f"blocks.{number}.", f"model.layers.{number}."
        rows = {"q": Q, "k": G_K, "v": G_K}
        yield f"{ours}attention_norm.weight", [Part(f"{theirs}input_layernorm.weight", (D,))]
        yield (
            f"{ours}attention.qkv.weight",
            [Part(f"{theirs}self_attn.{name}_proj.weight", (size, D)) for name, size in rows.items()],
        )
        for name in "qk" if shape.qk_norm else "":
            yield f"{ours}attention.{name}_norm.weight", [Part(f"{theirs}self_attn.{name}_norm.weight", (K,))]
        yield f"{ours}attention.out.weight", [Part(f"{theirs}self_attn.o_proj.weight", (D, Q))]
        yield f"{ours}ffn_norm.weight", [Part(f"{theirs}post_attention_layernorm.weight", (D,))]
        yield (
            f"{ours}ffn.gate_up.weight",
            [Part(f"{theirs}mlp.{name}_proj.weight", (F, D)) for name in ("gate", "up")],
        )
        yield f"{ours}ffn.down.weight", [Part(f"{theirs}mlp.down_proj.weight", (D, F))]
    yield "norm.weight", [Part("model.norm.weight", (D,))]
    if not shape.tied:
        yield "head.weight_VD", [Part("lm_head.weight", (V, D))]


def hf_weights(weights: Mapping[str, Tensor], shape: ModelConfig) -> dict[str, Tensor]:
    """Return weights under their names in transformers, as views."""
    found: dict[str, Tensor] = {}
    for name, parts in layout(shape):
        rows = torch.split(weights[name], [part.shape[0] for part in parts])
        found |= {part.name: tensor for part, tensor in zip(parts, rows, strict=True)}
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
        **_rope(shape),
        "tie_word_embeddings": shape.tied,
        "use_cache": True,
        **_ids(tokenizer),
        **({} if shape.qk_norm else {"mlp_bias": False}),
    }
    return json.dumps(tree, indent=2) + "\n"


def _rope(shape: ModelConfig) -> dict[str, Any]:
    """Return the rotary positions as transformers 5 reads them, and as earlier versions and other programs do."""
    base = {"rope_theta": shape.rope_theta}
    if shape.rope_scaling is None:
        return {"rope_parameters": {"rope_type": "default", **base}, **base}
    scaling = {"rope_type": shape.rope_scaling.kind, **_scaling(shape.rope_scaling)}
    return {"rope_parameters": {**scaling, **base}, "rope_scaling": scaling, **base}


def _scaling(scaling: RopeScaling) -> dict[str, Any]:
    values = {theirs: getattr(scaling, ours) for theirs, ours in ROPE_KEYS[scaling.kind].items()}
    return {name: value for name, value in values.items() if value is not None}


def generation_config(tokenizer: Tokenizer) -> str:
    """Return `generation_config.json`: a text ends with its turn or with the document, as with `ibidem generate`."""
    return json.dumps(_ids(tokenizer), indent=2) + "\n"


def _ids(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.document_id,
        "eos_token_id": sorted(ChatTemplate(tokenizer).end_ids),
        "pad_token_id": tokenizer.pad_id,
    }
