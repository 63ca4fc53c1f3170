"""CPU training speed and peak memory, against a plain loop over Hugging Face's LlamaForCausalLM.

Same shape (39 M parameters at 65,536 ids: width 384, 8 layers, 6 heads, feed-forward 1024), same data (a seeded random
stream with a Zipf distribution, batch 2 of 512), same optimizer (AdamW, fused), float32, one thread. Each run is a
process of its own, systems take turns, medians of 3: tokens per CPU-second of the steps after the first two, and the
peak resident memory of the process.

    python benchmarks/train_against_huggingface.py benchmarks/results/train_against_huggingface.json
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCAB, WIDTH, LAYERS, HEADS, FFN = 65_536, 384, 8, 6, 1024
BATCH, CONTEXT = 2, 512
WARM_STEPS, STEPS, REPEATS = 2, 12, 3
SYSTEMS = ("ibidem", "huggingface")


def main() -> None:
    if sys.argv[1] in SYSTEMS:
        print(json.dumps(measure(sys.argv[1])))
        return
    runs: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
    for _ in range(REPEATS):
        for system in SYSTEMS:
            environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            command = [sys.executable, __file__, system]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            runs[system].append(json.loads(done.stdout.splitlines()[-1]))
            print(system, runs[system][-1])
    write(Path(sys.argv[1]), runs)


def measure(system: str) -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    step, parameters = (own_step if system == "ibidem" else peer_step)()
    losses = []
    for number in range(WARM_STEPS + STEPS):
        if number == WARM_STEPS:
            started = time.process_time()
        losses.append(step(batch(number)))
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    speed = STEPS * BATCH * CONTEXT / seconds
    return {
        "tokens_per_cpu_s": speed,
        "peak_mb": peak,
        "parameters": parameters,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def batch(number: int) -> Any:
    import numpy as np
    import torch

    rng = np.random.default_rng(number)
    ids = np.minimum(rng.zipf(1.3, size=(BATCH, CONTEXT + 1)), VOCAB) - 1
    return torch.from_numpy(ids)


def own_step() -> tuple[Callable[..., float], int]:
    from ibidem.modeling.config import ModelConfig
    from ibidem.modeling.modeling_custom import Decoder
    from ibidem.training.config import OptimConfig
    from ibidem.training.optim import adamw

    shape = ModelConfig(
        vocab_size=VOCAB, width=WIDTH, layers=LAYERS, heads=HEADS, ffn_hidden=FFN, context=CONTEXT, qk_norm=False
    )
    model = Decoder(shape).train()
    model.init_weights(0)
    return stepper(lambda ids: model(ids[:, :-1], ids[:, 1:]) / (BATCH * CONTEXT), adamw(model, OptimConfig()), model)


def peer_step() -> tuple[Callable[..., float], int]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, intermediate_size=FFN, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def loss(ids: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return stepper(loss, optimizer, model)


def stepper(loss_of: Callable, optimizer: Any, model: Any) -> tuple[Callable[..., float], int]:
    import torch

    def step(ids: torch.Tensor) -> float:
        loss = loss_of(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step, sum(parameter.numel() for parameter in model.parameters())


def write(path: Path, runs: dict[str, list[dict[str, float]]]) -> None:
    from importlib.metadata import version

    median = {
        system: {key: statistics.median(run[key] for run in runs[system]) for key in runs[system][0]}
        for system in SYSTEMS
    }
    ours, peer = median["ibidem"], median["huggingface"]
    result = {
        "command": f"python benchmarks/train_against_huggingface.py {path.as_posix()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "median": median,
        "speed_ratio": ours["tokens_per_cpu_s"] / peer["tokens_per_cpu_s"],
        "peak_memory_ratio": ours["peak_mb"] / peer["peak_mb"],
        "runs": runs,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("speed_ratio", "peak_memory_ratio")}))


if __name__ == "__main__":
    main()
