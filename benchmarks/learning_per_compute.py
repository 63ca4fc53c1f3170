"""CPU-seconds until the demo's recipe knows as much as Hugging Face's model at the end of its own training.

Both train the demo's shape on the demo's corpus with its tokenizer: the same windows in the same order, one thread,
float32. The peer is `Qwen3ForCausalLM` (Hugging Face's form of this architecture) in a plain loop with its usual
settings: fused AdamW, betas 0.9 and 0.95, weight decay 0.1, gradient clipping at 1, warm-up and a cosine down to a
tenth, documents of a window not separated. Its peak learning rate and warm-up are swept first. Ours is the demo's
recipe, its schedule planned to end at SHARE of the peer's CPU-seconds. Wanted: at its end, ours is at or below the
peer's final bits per byte for every seed. Only steps count as time, measuring does not.

    export OMP_NUM_THREADS=1
    python benchmarks/learning_per_compute.py artifacts/demo benchmarks/results/learning_per_compute.json

Each finished run is added to the JSON at once, and is not repeated: stop and start again at will.
"""

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from ibidem.config import shipped
from ibidem.demo import BATCH, HELD_OUT_SHARE, OPTIM, WARM_UP_SHARE, WINDOW
from ibidem.modeling.attention import Documents
from ibidem.modeling.config import read_model_config
from ibidem.modeling.loss import IGNORE
from ibidem.modeling.modeling_custom import Decoder
from ibidem.records import DOCUMENTS_FILE
from ibidem.training.config import OptimConfig
from ibidem.training.optim import learning_rate, make_optimizer, set_learning_rate
from ibidem.training.permutation import item_at
from ibidem.training.tokenize import tokenized
from ibidem.training.tokens import Windows

BUDGET_S, SWEEP_BUDGET_S, SHARE = 200.0, 90.0, 0.3
"""CPU-seconds of the peer, of each run of its sweep, and our share of the first."""
SEEDS = (0, 1, 2)
PEER_SETTINGS = ((1e-3, 0.1), (2e-3, 0.1), (4e-3, 0.1), (8e-3, 0.1), (3e-3, 0.1), (4e-3, 0.02))
"""Peak learning rates, and warm-ups as shares of the steps."""
MEASURED = (0.8, 1.0)
"""When ours is measured, as shares of its CPU-seconds."""
PLACES = 10_000
"""Steps of the schedules, which are stretched over the CPU-seconds."""
SHAPE = read_model_config(shipped("model/demo.py"))
EVALUATE_AT_ONCE = 16

NllOf = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Recipe:
    """How a system trains: its model, optimizer, loss and learning rate."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: OptimConfig
    nll_of: NllOf
    """Returns the summed loss of inputs and targets, in nats."""


class Corpus:
    """The demo's tokens."""

    def __init__(self, demo: Path) -> None:
        self.tokens, self.tokenizer = tokenized(
            demo / "data", demo / "tokenizer", demo / "tokens-of-benchmark", held_out_share=HELD_OUT_SHARE
        )
        self.train = Windows(self.tokens, "train", WINDOW)
        self.held_out = Windows(self.tokens, "validation", WINDOW)

    def batch(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step; the same for both systems."""
        places = range(step * BATCH, (step + 1) * BATCH)
        return _split(np.stack([self.train[item_at(place, self.train.number, seed)[1]] for place in places]))

    def bits_per_byte(self, recipe: Recipe) -> float:
        """Measure all windows of the held-out documents."""
        bytes_of_V = torch.from_numpy(self.tokenizer.bytes_of_V)
        nll, num_bytes = 0.0, 0
        recipe.model.eval()
        with torch.no_grad():
            for start in range(0, self.held_out.number, EVALUATE_AT_ONCE):
                rows = range(start, min(start + EVALUATE_AT_ONCE, self.held_out.number))
                inputs, targets = _split(np.stack([self.held_out[row] for row in rows]))
                sizes = bytes_of_V[targets]
                nll += float(recipe.nll_of(inputs, targets.masked_fill(sizes == 0, IGNORE)))
                num_bytes += int(sizes.sum())
        recipe.model.train()
        return nll / math.log(2) / num_bytes

    def held_out_hashes(self) -> list[str]:
        """Return the sha256 of every held-out document."""
        files = self.tokens.path.rglob(DOCUMENTS_FILE)
        rows = [row for file in files for row in pq.read_table(file, columns=["sha256", "split"]).to_pylist()]
        return sorted(row["sha256"] for row in rows if row["split"] == "validation")


def _split(ids: "np.ndarray[Any, Any]") -> tuple[Tensor, Tensor]:
    return torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])


def ours(corpus: Corpus, seed: int) -> Recipe:
    """Return the demo's recipe."""
    model = Decoder(SHAPE)
    model.init_weights(seed)
    config = OptimConfig(**OPTIM, warmup_steps=round(WARM_UP_SHARE * PLACES))
    document = corpus.tokenizer.document_id
    return Recipe(model, make_optimizer(model, config), config, lambda x, y: model(x, y, Documents.of(x == document)))


def peers(seed: int, lr: float, warm_up: float) -> Recipe:
    """Return Hugging Face's model of the same shape, with fused AdamW."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    shape = Qwen3Config(
        vocab_size=SHAPE.vocab_size, hidden_size=SHAPE.width, num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads, num_key_value_heads=SHAPE.num_kv_heads, head_dim=SHAPE.head_width,
        intermediate_size=SHAPE.ffn_hidden, max_position_embeddings=SHAPE.context, tie_word_embeddings=SHAPE.tied,
        rms_norm_eps=SHAPE.norm_eps, rope_parameters={"rope_type": "default", "rope_theta": SHAPE.rope_theta},
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == SHAPE.parameters
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    config = OptimConfig(lr=lr, warmup_steps=round(warm_up * PLACES), floor=0.1)

    def nll_of(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(input_ids=inputs, use_cache=False).logits
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )

    return Recipe(model, optimizer, config, nll_of)


def train(recipe: Recipe, corpus: Corpus, *, budget: float, seed: int, measured: Sequence[float]) -> dict[str, Any]:
    """Train until so many CPU-seconds are used up; measure at shares of them.

    The learning rate follows from the share that is used up, so that the schedule ends with the budget.
    """
    curve: list[tuple[int, float, float]] = []
    used, step, left = 0.0, 0, list(measured)
    recipe.model.train()
    while left:
        started = time.process_time()
        lr = learning_rate(round(used / budget * PLACES), PLACES, recipe.config)
        set_learning_rate(recipe.optimizer.param_groups, lr)
        inputs, targets = corpus.batch(step, seed)
        (recipe.nll_of(inputs, targets) / targets.numel()).backward()
        nn.utils.clip_grad_norm_(recipe.model.parameters(), recipe.config.clip)
        recipe.optimizer.step()
        recipe.optimizer.zero_grad(set_to_none=True)
        used += time.process_time() - started
        step += 1
        if used >= left[0] * budget:
            left.pop(0)
            curve.append((step, round(used, 2), round(corpus.bits_per_byte(recipe), 4)))
            print(curve[-1], flush=True)
    return {
        "bits_per_byte": curve[-1][2],
        "cpu_s": round(used, 2),
        "steps": step,
        "tokens": step * BATCH * WINDOW,
        "curve": curve,
    }


def main() -> None:
    torch.set_num_threads(1)
    demo, path = map(Path, sys.argv[1:3])
    corpus = Corpus(demo)
    results = Results(path, corpus)

    def peer_run(lr: float, warm_up: float, seed: int, budget: float) -> dict[str, Any]:
        key = f"peer lr {lr:g} warm-up {warm_up:g} budget {budget:g} seed {seed}"
        return results.run(
            key, lambda: train(peers(seed, lr, warm_up), corpus, budget=budget, seed=seed, measured=(1.0,))
        )

    def own_run(seed: int, budget: float) -> dict[str, Any]:
        key = f"ours budget {budget:g} seed {seed}"
        return results.run(key, lambda: train(ours(corpus, seed), corpus, budget=budget, seed=seed, measured=MEASURED))

    swept = {setting: peer_run(*setting, SEEDS[0], SWEEP_BUDGET_S) for setting in PEER_SETTINGS}
    best = min(swept, key=lambda setting: swept[setting]["bits_per_byte"])
    pairs = []
    for seed in SEEDS:
        peer = peer_run(*best, seed, BUDGET_S)
        mine = own_run(seed, SHARE * BUDGET_S)
        pairs.append((mine, peer))
    results.finish(best, pairs)


class Results:
    """The JSON file, which grows run by run."""

    def __init__(self, path: Path, corpus: Corpus) -> None:
        self.path = path
        self.tree: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}}
        self.tree |= {
            "command": f"OMP_NUM_THREADS=1 python benchmarks/learning_per_compute.py artifacts/demo {path.as_posix()}",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "parameters": SHAPE.parameters,
            "batch_windows": BATCH,
            "window": WINDOW,
            "ours": OPTIM | {"warm_up_share": WARM_UP_SHARE},
            "peer": "Qwen3ForCausalLM, AdamW fused, betas 0.9 and 0.95, weight decay 0.1, clipping 1, warm-up, cosine",
            "held_out_bytes": corpus.tokens.counts["bytes"]["validation"],
            "held_out_sha256": corpus.held_out_hashes(),
        }

    def run(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a run's result, from the file if it is there."""
        if key not in self.tree["runs"]:
            self.tree["runs"][key] = work()
            self._write()
        print(key, self.tree["runs"][key], flush=True)
        return dict(self.tree["runs"][key])

    def finish(self, best: tuple[float, float], pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Compare the pairs of runs, and write the summary."""
        rows = [
            {
                "peer_bits_per_byte": peer["bits_per_byte"],
                "ours_bits_per_byte": mine["bits_per_byte"],
                "peer_cpu_s": peer["cpu_s"],
                "ours_cpu_s": mine["cpu_s"],
                "ratio_at_end": round(mine["cpu_s"] / peer["cpu_s"], 3),
                "ratio_when_reached": reached(mine, peer),
            }
            for mine, peer in pairs
        ]
        self.tree["summary"] = {
            "peer_best": {"lr": best[0], "warm_up_share": best[1], "swept_at_cpu_s": SWEEP_BUDGET_S},
            "by_seed": rows,
            "ours_is_at_or_below_at_its_end": all(r["ours_bits_per_byte"] <= r["peer_bits_per_byte"] for r in rows),
        }
        self._write()
        print(json.dumps(self.tree["summary"], indent=1))

    def _write(self) -> None:
        self.path.write_text(json.dumps(self.tree, indent=1) + "\n", encoding="utf-8")


def reached(mine: dict[str, Any], peer: dict[str, Any]) -> float | None:
    """Return our CPU-seconds at the first measurement that is as good as the peer's end, as a share of the peer's."""
    times = [used for _, used, bits in mine["curve"] if bits <= peer["bits_per_byte"]]
    return round(times[0] / peer["cpu_s"], 3) if times else None


if __name__ == "__main__":
    main()
