"""The shape in a `config.json` of Hugging Face: Llama's or Qwen3's, or a refusal that names what is different.

    hidden_size                                      width
    num_hidden_layers                                layers
    num_attention_heads, num_key_value_heads         heads, kv_heads
    head_dim                                         head_dim
    intermediate_size                                ffn_hidden
    max_position_embeddings                          context
    rms_norm_eps                                     norm_eps
    rope_parameters, or rope_scaling and rope_theta  rope_theta, rope_scaling
    tie_word_embeddings                              tied

Keys of the arithmetic that Llama and Qwen3 do not share with our decoder must be as they are without them: no bias, no
sliding window, SiLU, all of a head rotated. Other keys do not change what these models compute.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ibidem.config import build
from ibidem.errors import DataError
from ibidem.modeling.config import ModelConfig
from ibidem.serving.export.hf_model import ROPE_KEYS

FAMILIES = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3"}
"""Architectures that are imported, and their `model_type`."""
QWEN3 = "Qwen3ForCausalLM"
DEFAULT_THETA = 10_000.0
"""Of transformers, if no key says it."""
MOST_POSITIONS = 1 << 24
"""Up to here float32 tells a position from the next one."""
PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "quantization_config": (),
    "use_sliding_window": (False,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "auto_map": (),
    "is_causal": (True,),
    "use_bidirectional_attention": (False,),
    "pretraining_tp": (1,),
}
"""Keys with the only values that our decoder computes; null is none, and a key may be missing."""
LENGTH = "original_max_position_embeddings"
_NUMBERS = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn_hidden",
    "max_position_embeddings": "context",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "norm_eps",
}

Tree = Mapping[str, Any]


class Foreign(NamedTuple):
    """What a `config.json` says."""

    architecture: str
    shape: ModelConfig


def read_config(path: Path) -> Foreign:
    """Read the shape of a model.

    Raises:
        DataError: the file cannot be read, or the model is not one that our decoder computes exactly.
    """
    tree = read_json(path)
    architecture = _architecture(path, tree)
    for key, computed in PLAIN.items():
        if key in tree and tree[key] is not None and not _is_one_of(tree[key], computed):
            raise _refused(path, key, tree[key])
    _check_windows(path, tree, architecture)
    values = {ours: _number(path, tree, theirs) for theirs, ours in _NUMBERS.items()}
    values |= _heads(path, tree, architecture) | _rope(path, tree, values["context"])
    tied = tree.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise _refused(path, "tie_word_embeddings", tied)
    if values["context"] > MOST_POSITIONS:
        raise _refused(path, "max_position_embeddings", values["context"])
    values |= {"qk_norm": architecture == QWEN3, "tied": tied}
    return Foreign(architecture, build(ModelConfig, values, origin=f"{path}: "))


def read_json(path: Path) -> Tree:
    """Read a JSON object.

    Raises:
        DataError: the file has none.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: not a JSON object")
    return tree


def _architecture(path: Path, tree: Tree) -> str:
    listed = tree.get("architectures")
    name = listed[0] if isinstance(listed, list) and len(listed) == 1 else listed
    if not isinstance(name, str) or name not in FAMILIES:
        raise DataError(f"{path}: the architecture {_shown(name)} is none of {', '.join(FAMILIES)}")
    if tree.get("model_type", FAMILIES[name]) != FAMILIES[name]:
        raise _refused(path, "model_type", tree["model_type"])
    return name


def _check_windows(path: Path, tree: Tree, architecture: str) -> None:
    """Refuse layers that see a window; in a Qwen3 without `use_sliding_window` the size of one has no effect."""
    if architecture != QWEN3 and tree.get("sliding_window") is not None:
        raise _refused(path, "sliding_window", tree["sliding_window"])
    types = tree.get("layer_types") or []
    if not isinstance(types, list):
        raise _refused(path, "layer_types", types)
    if other := next((each for each in types if each != "full_attention"), None):
        raise _refused(path, "layer_types", other)


def _heads(path: Path, tree: Tree, architecture: str) -> dict[str, Any]:
    heads, width = _number(path, tree, "num_attention_heads"), _number(path, tree, "hidden_size")
    if architecture == QWEN3:  # the defaults of transformers fit no other model than the one they are taken from
        own, shared = _number(path, tree, "head_dim"), _number(path, tree, "num_key_value_heads")
    else:
        own, shared = (
            None if tree.get(key) is None else _number(path, tree, key) for key in ("head_dim", "num_key_value_heads")
        )
    return {"head_dim": None if own is None or own * heads == width else own, "kv_heads": shared or heads}


def _rope(path: Path, tree: Tree, context: int) -> dict[str, Any]:
    """Read the rotary positions, as transformers 5 writes them and as earlier versions did."""
    found = dict(_merged(path, [tree.get("rope_parameters"), tree.get("rope_scaling")]))
    theta = found.pop("rope_theta", tree.get("rope_theta", DEFAULT_THETA))
    if theta != tree.get("rope_theta", theta):
        raise DataError(f"{path}: rope_theta is {theta} in one place and {_shown(tree['rope_theta'])} in another")
    if not _is_one_of(found.pop("partial_rotary_factor", 1), (1, None)):
        raise _refused(path, "partial_rotary_factor", "other than 1")
    kinds = [each for each in (found.pop("rope_type", None), found.pop("type", None)) if each is not None]
    kind = kinds[0] if kinds else "default"
    if kinds != [kind] * len(kinds) or kind not in ("default", *ROPE_KEYS):
        raise _refused(path, "rope_type", kind)
    if kind == "default":
        return {"rope_theta": theta}
    if LENGTH in ROPE_KEYS[kind]:
        found = {LENGTH: context, **found} | ({LENGTH: tree[LENGTH]} if LENGTH in tree else {})
        found["factor"] = found.get("factor") or context / _number(path, found, LENGTH)
    return {"rope_theta": theta, "rope_scaling": {"kind": kind, **_scaling(path, found, kind)}}


def _scaling(path: Path, found: Tree, kind: str) -> dict[str, Any]:
    """Return a scaling under our names."""
    given, names = {key: value for key, value in found.items() if value is not None}, ROPE_KEYS[kind]
    if strange := sorted(given.keys() - names.keys()):
        raise _refused(path, f"{strange[0]} of rope_parameters", given[strange[0]])
    required = names.keys() if kind == "llama3" else {"factor"}
    if missing := sorted(required - given.keys()):
        raise DataError(f"{path}: {missing[0]} of rope_parameters is missing")
    return {names[key]: value if key == "truncate" else _number(path, given, key) for key, value in given.items()}


def _merged(path: Path, trees: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys of what describes the positions; a key that is there twice must say the same."""
    seen: dict[str, Any] = {}
    for tree in trees:
        if tree is not None and not isinstance(tree, dict):
            raise _refused(path, "rope_parameters", tree)
        for key, value in (tree or {}).items():
            if isinstance(value, dict):
                raise _refused(path, "rope_parameters", f"by layers ({key})")
            if seen.setdefault(key, value) != value:
                raise DataError(f"{path}: {key} is {seen[key]} in rope_parameters and {value} in rope_scaling")
            yield key, value


def _number(path: Path, tree: Tree, key: str) -> Any:
    value = tree.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise DataError(f"{path}: {key} must be a number above 0, not {_shown(value)}")
    return value


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


def _refused(path: Path, key: str, value: Any) -> DataError:
    return DataError(f"{path}: {key} {_shown(value)} is not imported: our decoder does not compute it")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
