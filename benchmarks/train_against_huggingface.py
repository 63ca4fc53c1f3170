"""CPU training speed and peak memory, against a plain loop over Hugging Face's LlamaForCausalLM, eager and compiled.

Same shape, same data (a seeded random stream with a Zipf distribution), same optimizer (AdamW, fused), gradients
clipped to a norm of 1 (ours inside the optimizer's step, as `ibidem train` does it), float32, one thread. Each run is a
process of its own, systems take turns, medians of 3: tokens per CPU-second of the steps after the first ones, and the
peak resident memory of the process. Compiled: each system compiles as its users do, we each block, Hugging Face the
whole model; the time of compiling does not count.

    columns     parameters    vocabulary    a step                                        tuned to
    large       39 M          65,536        2 windows of 512                              yes
    other       33 M          32,000        1 window of 1,024, width 512, 6 layers        no
    packed      39 M          65,536        documents of 256 on average in 2,048 tokens;  yes
                                            Hugging Face with a dense mask

In the column `packed` the gradients of both systems, from equal weights, are compared too. Most of a step is matrix
products, which both systems compute and neither can leave out: torch's profiler tells their share of one more step.
`speed_of_products_alone` is the speed that we would have if all the rest cost nothing.

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
from typing import Any, NamedTuple

REPEATS = 3
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "mkl::_mkl_linear", "mkldnn::_linear_pointwise")
SYSTEMS = ("ibidem", "huggingface", "ibidem compiled", "huggingface compiled")


class Column(NamedTuple):
    """Shape and step of one comparison."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    ffn: int
    batch: int
    context: int
    document: int | None = None
    """Mean length of a document; None: each row is one."""
    warm_steps: int = 1
    steps: int = 6
    compiled: bool = False


COLUMNS = {
    "large": Column(65_536, 384, 8, 6, 1024, batch=2, context=512, compiled=True),
    "other": Column(32_000, 512, 6, 8, 1408, batch=1, context=1024),
    "packed": Column(65_536, 384, 8, 6, 1024, batch=1, context=2048, document=256, steps=3),
}


def main() -> None:
    if sys.argv[1] in COLUMNS:
        print(json.dumps(measure(COLUMNS[sys.argv[1]], sys.argv[2])))
        return
    runs: dict[str, dict[str, list[dict[str, float]]]] = {
        name: {system: [] for system in SYSTEMS if column.compiled or "compiled" not in system}
        for name, column in COLUMNS.items()
    }
    for _ in range(REPEATS):
        for name, systems in runs.items():
            for system, results in systems.items():
                results.append(run(name, system))
                print(name, system, results[-1], flush=True)
    write(Path(sys.argv[1]), runs)


def run(column: str, system: str) -> dict[str, float]:
    """Measure in a process of its own, with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, column, system]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(column: Column, system: str) -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    make = own_step if system.startswith("ibidem") else peer_step
    step, model = make(column, compiled="compiled" in system)
    batches = [batch(column, number) for number in range(column.warm_steps + column.steps)]
    losses, seconds = [], 0.0
    for number, (ids, starts) in enumerate(batches):
        started = time.process_time()
        losses.append(step(ids, starts))
        seconds += time.process_time() - started if number >= column.warm_steps else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "share_of_products": share_of_products(lambda: step(*batches[-1])),
        "tokens_per_cpu_s": column.steps * column.batch * column.context / seconds,
        "peak_mb": peak,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        **({"largest_gradient_difference": gradient_difference(column)} if column.document else {}),
    }


def share_of_products(step: Callable[[], float]) -> float:
    """Return the share of a step's CPU time that matrix products take."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    return sum(time for name, time in times.items() if name in PRODUCTS) / sum(times.values())


def batch(column: Column, number: int) -> Any:
    """Return ids, one more than the context, and where documents start."""
    import numpy as np
    import torch

    rng = np.random.default_rng(number)
    shape = (column.batch, column.context + 1)
    ids = np.minimum(rng.zipf(1.3, size=shape), column.vocabulary) - 1
    starts = rng.random(shape) < (1 / column.document if column.document else 0)
    return torch.from_numpy(ids), torch.from_numpy(starts)[:, :-1]


def own_model(column: Column) -> Any:
    from ibidem.modeling.config import ModelConfig
    from ibidem.modeling.modeling_custom import Decoder

    shape = ModelConfig(
        vocab_size=column.vocabulary, width=column.width, layers=column.layers, heads=column.heads,
        ffn_hidden=column.ffn, context=column.context, qk_norm=False,
    )  # fmt: skip
    model = Decoder(shape).train()
    model.init_weights(0)
    return model


def own_loss(column: Column, model: Any, ids: Any, starts: Any) -> Any:
    from ibidem.modeling.attention import Documents

    documents = Documents.of(starts) if column.document else None
    return model(ids[:, :-1], ids[:, 1:], documents) / ids[:, 1:].numel()


def own_step(column: Column, *, compiled: bool) -> tuple[Callable[..., float], Any]:
    from ibidem.training.config import OptimConfig
    from ibidem.training.guard import Guard
    from ibidem.training.loop import gradient_norm
    from ibidem.training.optim import adamw

    model = own_model(column)
    if compiled:
        from ibidem.training.session import compile_blocks

        compile_blocks(model.blocks)
    optimizer = adamw(model, OptimConfig())
    guard = Guard(model.device, clip=1.0, spike_factor=None, scales=False)

    def clip(loss: Any) -> None:
        guard.judge(loss, gradient_norm(model), optimizer)

    return stepper(lambda *batch: own_loss(column, model, *batch), clip, optimizer), model


def peer_model(column: Column) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=column.vocabulary, hidden_size=column.width, num_hidden_layers=column.layers,
        num_attention_heads=column.heads, num_key_value_heads=column.heads, intermediate_size=column.ffn,
        max_position_embeddings=column.context, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )  # fmt: skip
    return LlamaForCausalLM(shape).train()


def peer_loss(column: Column, model: Any, ids: Any, starts: Any) -> Any:
    import torch

    mask = dense_mask(starts) if column.document else None
    logits = model(input_ids=ids[:, :-1], attention_mask=mask, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def dense_mask(starts_BT: Any) -> Any:
    """Return which positions each token sees: earlier ones of its document; bool, (B, 1, T, T)."""
    import torch

    numbers_BT, T = starts_BT.cumsum(dim=1), starts_BT.shape[1]
    same_BTT = numbers_BT[:, :, None] == numbers_BT[:, None, :]
    return (same_BTT & torch.ones(T, T, dtype=torch.bool).tril())[:, None]


def peer_step(column: Column, *, compiled: bool) -> tuple[Callable[..., float], Any]:
    import torch

    model = peer_model(column)
    called = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def clip(_loss: Any) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    return stepper(lambda *batch: peer_loss(column, called, *batch), clip, optimizer), model


def stepper(loss_of: Callable, clip: Callable, optimizer: Any) -> Callable[..., float]:
    def step(*batch: Any) -> float:
        loss = loss_of(*batch)
        loss.backward()
        clip(loss.detach())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def gradient_difference(column: Column) -> float:
    """Return the largest difference between the systems' gradients from equal weights, over the largest gradient."""
    import huggingface_weights
    import torch

    small = column._replace(vocabulary=2048, layers=2)
    ours, theirs = own_model(small), peer_model(small)
    huggingface_weights.copy(ours, theirs)
    ids, starts = batch(small, 0)
    own_loss(small, ours, ids, starts).backward()
    peer_loss(small, theirs, ids, starts).backward()
    return max(
        float((mine.grad - torch.cat([other.grad for other in others])).abs().max() / mine.grad.abs().max())
        for mine, others in huggingface_weights.pairs(ours, theirs)
    )


def write(path: Path, runs: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    from importlib.metadata import version

    median = {
        name: {
            system: {key: statistics.median(run[key] for run in results) for key in results[0]}
            for system, results in systems.items()
        }
        for name, systems in runs.items()
    }
    result = {
        "command": f"python benchmarks/train_against_huggingface.py {path.as_posix()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "ratios": {name: ratios(systems) for name, systems in median.items()},
        "median": median,
        "runs": runs,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["ratios"], indent=1))


def ratios(median: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Compare each of our ways with Hugging Face's same way."""
    compared = {}
    for peer, values in median.items():
        if peer.startswith("huggingface"):
            own = median[peer.replace("huggingface", "ibidem")]
            speed = own["tokens_per_cpu_s"] / values["tokens_per_cpu_s"]
            compared[peer.replace("huggingface", "").strip() or "eager"] = {
                "speed": speed,
                "speed_of_products_alone": speed / own["share_of_products"],
                "peak_memory": own["peak_mb"] / values["peak_mb"],
            }
    return compared


if __name__ == "__main__":
    main()
