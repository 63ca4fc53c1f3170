"""CPU generation speed, against `generate` of Hugging Face's LlamaForCausalLM.

Two shapes: 39 M parameters at 65,536 ids (width 384, 8 layers, 6 heads, feed-forward 1024), and the demo's 6.6 M at
8,192 ids. Prompts of 64 tokens, 128 more are generated, for 1 and 16 prompts at once, greedy and sampled (temperature
0.8, top-p 0.95), random weights, one thread. Systems take turns in one process; medians of 3: generated tokens per
CPU-second, prompts included. Random weights make nearly uniform distributions, so the nucleus has most of the ids.
`float32` generates with the weights of the peer, and its greedy tokens are compared with the peer's. Which products are
fast depends on the CPU: there is one result of a CPU with AMX, and one of a CPU that lacks it.

    python benchmarks/generate_against_huggingface.py benchmarks/results/generate_against_huggingface.json
    python benchmarks/generate_against_huggingface.py benchmarks/results/generate_without_amx.json
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

SHAPES: dict[str, dict[str, Any]] = {
    "39M": {"vocab_size": 65_536, "width": 384, "layers": 8, "heads": 6, "ffn_hidden": 1024},
    "6.6M": {"vocab_size": 8192, "width": 256, "layers": 6, "heads": 4, "ffn_hidden": 640},
}
CONTEXT, PROMPT, NEW, REPEATS = 512, 64, 128, 3
BATCHES = (1, 16)
WEIGHTS = ("float32", "bfloat16", "int8")
PEER = "huggingface"
Generate = Callable[[list[list[int]], bool, int], list[list[int]]]


def main() -> None:
    cells = [
        measure(name, systems(shape), batch, is_sampled=sampled, vocab=shape["vocab_size"])
        for name, shape in SHAPES.items()
        for batch in BATCHES
        for sampled in (False, True)
    ]
    write(Path(sys.argv[1]), cells)


def measure(shape: str, generators: dict[str, Generate], batch: int, *, is_sampled: bool, vocab: int) -> dict[str, Any]:
    import numpy as np

    prompts = np.random.default_rng(0).integers(vocab, size=(batch, PROMPT)).tolist()
    speeds: dict[str, list[float]] = {system: [] for system in generators}
    made = {}
    for generate in generators.values():
        generate(prompts, is_sampled, 4)
    for _ in range(REPEATS):
        for system, generate in generators.items():
            started = time.process_time()
            made[system] = generate(prompts, is_sampled, NEW)
            speeds[system].append(batch * NEW / (time.process_time() - started))
            assert all(len(row) == NEW for row in made[system])
    median = {system: statistics.median(runs) for system, runs in speeds.items()}
    cell = {
        "shape": shape,
        "batch": batch,
        "sampled": is_sampled,
        "tokens_per_cpu_s": median,
        "ratio": {system: median[system] / median[PEER] for system in WEIGHTS},
        "runs": speeds,
    }
    if not is_sampled:
        cell["same_tokens"] = sum(a == b for a, b in zip(made["float32"], made[PEER], strict=True))
    print({key: cell[key] for key in ("shape", "batch", "sampled", "ratio", "same_tokens") if key in cell}, flush=True)
    return cell


def systems(shape: dict[str, Any]) -> dict[str, Generate]:
    import huggingface_weights
    import torch

    torch.set_num_threads(1)
    model, peer = own_model(shape), peer_model(shape)
    huggingface_weights.copy(model, peer)
    return {PEER: peer_generate(peer)} | {weights: own_generate(model, weights) for weights in WEIGHTS}


def own_model(shape: dict[str, Any]) -> Any:
    from ibidem.modeling.config import ModelConfig
    from ibidem.modeling.modeling_custom import Decoder

    model = Decoder(ModelConfig(context=CONTEXT, qk_norm=False, **shape)).eval()
    model.init_weights(0)
    return model


def own_generate(model: Any, weights: Any) -> Generate:
    from ibidem.modeling.generate import Sampling, generate
    from ibidem.modeling.matrices import FrozenDecoder

    frozen = FrozenDecoder(model, weights)

    def run(prompts: list[list[int]], is_sampled: bool, new: int) -> list[list[int]]:
        sampling = Sampling(new, 0.8 if is_sampled else 0.0, 0.95)
        return generate(frozen, prompts, sampling, end_ids=(-1,))

    return run


def peer_model(shape: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    config = LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["width"], num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], num_key_value_heads=shape["heads"], intermediate_size=shape["ffn_hidden"],
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=rope,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def peer_generate(model: Any) -> Generate:
    import torch

    def run(prompts: list[list[int]], is_sampled: bool, new: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        drawing: dict[str, Any] = {"do_sample": False}
        if is_sampled:
            drawing = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            done = model.generate(ids, attention_mask=mask, max_new_tokens=new, pad_token_id=0, **drawing)
        rows: list[list[int]] = done[:, PROMPT:].tolist()
        return rows

    return run


def write(path: Path, cells: list[dict[str, Any]]) -> None:
    from importlib.metadata import version

    from ibidem.modeling.matrices import has_amx, has_bfloat16

    result = {
        "command": f"python benchmarks/generate_against_huggingface.py {path.as_posix()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "cpu": {"amx": has_amx(), "bfloat16": has_bfloat16()},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "shapes": SHAPES,
        "cells": cells,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
