"""A decoder as llama.cpp reads it: one GGUF file of settings, vocabulary and weights.

transformers                                GGUF
model.embed_tokens.weight                   token_embd.weight
model.layers.0.input_layernorm.weight       blk.0.attn_norm.weight
model.layers.0.self_attn.q_proj.weight      blk.0.attn_q.weight; of Llama, the rows of each head in another order
lm_head.weight                              output.weight; a tied model has none

llama.cpp turns neighbors (0, 1), (2, 3), ... of a Llama's head, and halves (0, K/2), (1, K/2 + 1), ... of a Qwen3's, as
transformers does for both. So the rows of a Llama's queries and keys are interleaved:

    0 1 2 | 3 4 5    ->    0 3 1 4 2 5
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibidem.errors import ConfigError
from ibidem.serving.export.gguf_vocabulary import Vocabulary

ARCHITECTURES = {"Qwen3ForCausalLM": "qwen3", "LlamaForCausalLM": "llama"}
"""Names of transformers, and of llama.cpp."""
_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_NAMES_OF_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    *,
    name: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    vocabulary: Vocabulary,
    chat_template: str,
) -> None:
    """Write a model; the same model gives the same bytes.

    Args:
        path: of the file.
        name: of the model.
        config: `config.json` of transformers.
        weights: under their names in transformers.
        dtype: of the matrices; vectors are float32 always.
        vocabulary: its tokenizer.
        chat_template: of its tokenizer, in Jinja.

    Raises:
        ConfigError: llama.cpp has no such rotary positions.
    """
    import gguf

    architecture = ARCHITECTURES[config["architectures"][0]]
    writer = gguf.GGUFWriter(path, architecture)
    try:
        writer.add_name(name)
        _add_shape(writer, config, dtype)
        vocabulary.add_to(writer, chat_template)
        for each, tensor in gguf_weights(weights, config).items():
            _add_tensor(writer, each, tensor, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_shape(writer: Any, config: Mapping[str, Any], dtype: torch.dtype) -> None:
    import gguf

    types = gguf.LlamaFileType
    file_types = {
        torch.float32: types.ALL_F32,
        torch.float16: types.MOSTLY_F16,
        torch.bfloat16: types.MOSTLY_BF16,
    }
    writer.add_file_type(file_types[dtype])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    _add_rope(writer, config["rope_parameters"])


def _add_rope(writer: Any, rope: Mapping[str, Any]) -> None:
    import gguf

    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind in {"linear", "yarn"}:
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind not in {"default", "linear", "yarn", "llama3"}:
        raise ConfigError(f"llama.cpp has no rotary positions of type {kind}; export with --format hf")


def gguf_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights of transformers under their names in llama.cpp."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    is_llama = ARCHITECTURES[config["architectures"][0]] == "llama"
    found = {}
    for name, tensor in weights.items():
        stem = name.removesuffix(".weight")
        heads_of = heads.get(stem.rpartition(".")[2]) if is_llama else None
        found[f"{_name_of(stem)}.weight"] = tensor if heads_of is None else interleaved(tensor, heads_of)
    rope = config["rope_parameters"]
    if rope["rope_type"] == "llama3":
        found["rope_freqs.weight"] = torch.tensor([*llama3_factors(rope, config["head_dim"])], dtype=torch.float32)
    return found


def _name_of(stem: str) -> str:
    if stem in _NAMES:
        return _NAMES[stem]
    number, _, rest = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_NAMES_OF_BLOCK[rest]}"


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Return the rows of each head in the order in which llama.cpp turns them.

    >>> interleaved(torch.tensor([[0], [1], [2], [3]]), 1).flatten().tolist()
    [0, 2, 1, 3]
    """
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(rope: Mapping[str, Any], width: int) -> Iterator[float]:
    """Yield how many times more slowly each pair of a head turns, in Llama 3.

    Source: `_compute_llama3_parameters` of transformers.
    """
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    for pair in range(0, width, 2):
        turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** (-pair / width) / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        yield 1 / ((1 - smooth) / factor + smooth)


def _add_tensor(writer: Any, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Add a tensor; what has one dimension stays float32, as llama.cpp computes with it."""
    import gguf

    values = tensor.detach().to("cpu", torch.float32 if tensor.dim() == 1 else dtype).contiguous()
    if values.dtype == torch.bfloat16:  # numpy has no such type
        raw = values.view(torch.uint8).numpy()
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, np.asarray(values.numpy()))
