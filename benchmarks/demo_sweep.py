"""Bits per byte after a fixed number of CPU-seconds: shapes, vocabularies, batches and optimizers for the demo.

A candidate trains on the demo's corpus with one thread. Its learning rate follows from the share of the CPU-seconds
that is used up, so that every schedule ends with the budget; time spent measuring does not count. The score is bits per
byte over all windows of the held-out documents, whose bytes are the same for every vocabulary. The demo leaves `data`
behind; tokenizers are trained into WORK.

    OMP_NUM_THREADS=1 python benchmarks/demo_sweep.py artifacts/demo WORK benchmarks/results/demo_sweep.json

More arguments: the CPU-seconds (60), then the candidates, by name or as JSON (all that are named below).

Results are added to the JSON as they come, and drawn beside it as .svg.
"""

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ibidem.modeling.attention import Documents
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.loss import IGNORE
from ibidem.modeling.modeling_custom import Decoder
from ibidem.page import Axis, join, tag, ticks
from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from ibidem.training.config import OptimConfig
from ibidem.training.optim import learning_rate, make_optimizer, set_learning_rate
from ibidem.training.permutation import item_at
from ibidem.training.tokenize import tokenized
from ibidem.training.tokens import Windows

HELD_OUT_SHARE = 0.02
PLACES = 10_000
"""Steps of the schedules, which are stretched over the CPU-seconds."""
SEED = 0
END = {"text-anchor": "end"}
TINY = {"width": 256, "layers": 6, "heads": 4, "ffn_hidden": 640}
TODAY: dict[str, Any] = {
    "vocab_size": 8192,
    "shape": TINY,
    "batch": 16,
    "window": 256,
    "warmup": 0.05,
    "optim": {"lr": 3e-3},
}
"""The recipe that the candidates are compared with: 6.6 M parameters, AdamW."""
SMALL = {"width": 128, "layers": 4, "heads": 2, "ffn_hidden": 384}
MUON = {"name": "muon", "floor": 0.0}
BASE: dict[str, Any] = {"vocab_size": 4096, "shape": SMALL, "batch": 8, "optim": MUON | {"lr": 3e-2, "matrix_lr": 6e-3}}


def varied(**changes: Any) -> dict[str, Any]:
    """Return BASE with other settings of the recipe or of its optimizer."""
    inner = {key: value for key, value in changes.items() if key not in BASE and key not in TODAY}
    outer = {key: value for key, value in changes.items() if key not in inner}
    return BASE | outer | {"optim": BASE["optim"] | inner}


CANDIDATES: dict[str, dict[str, Any]] = {
    "6.6 M, 8192 ids, AdamW": {},
    "6.6 M, 8192 ids, Muon": {"optim": {"name": "muon"}},
    "AdamW, lr 3e-3": varied(name="adamw", lr=3e-3),
    "AdamW, lr 6e-3": varied(name="adamw", lr=6e-3),
    "one lr for all, 6e-3": varied(lr=6e-3),
    "embedding 1.5e-2, matrices 3e-3": varied(lr=1.5e-2, matrix_lr=3e-3),
    "embedding 3e-2, matrices 6e-3": varied(),
    "embedding 6e-2, matrices 6e-3": varied(lr=6e-2),
    "embedding 3e-2, matrices 1e-2": varied(matrix_lr=1e-2),
    "2048 ids": varied(vocab_size=2048),
    "8192 ids": varied(vocab_size=8192),
    "width 96": varied(shape={"width": 96, "layers": 4, "heads": 2, "ffn_hidden": 256}),
    "width 192": varied(shape={"width": 192, "layers": 4, "heads": 3, "ffn_hidden": 512}),
    "3 layers": varied(shape=SMALL | {"layers": 3}),
    "6 layers": varied(shape=SMALL | {"layers": 6}),
    "batch 4": varied(batch=4),
    "batch 16": varied(batch=16),
    "window 512, batch 4": varied(window=512, batch=4),
    "no QK-norm": varied(shape=SMALL | {"qk_norm": False}),
    "warm-up 1 %": varied(warmup=0.01),
    "linear decay": varied(schedule="wsd", decay_share=0.95),
    "constant, then linear decay over half": varied(schedule="wsd", decay_share=0.5),
    "beta2 0.99": varied(beta2=0.99),
    "weight decay 0": varied(weight_decay=0.0),
    "momentum 0.9": varied(momentum=0.9),
}


class Corpus:
    """The demo's corpus in the tokens of one vocabulary."""

    def __init__(self, demo: Path, work: Path, vocab_size: int) -> None:
        folder = work / f"tokenizer-{vocab_size}"
        train_tokenizer(
            TrainTokenizerConfig(
                input=demo / "data",
                output_dir=folder,
                vocab_size=vocab_size,
                max_corpus_bytes=10_000_000,
                held_out_share=HELD_OUT_SHARE,
            )
        )
        self.tokens, self.tokenizer = tokenized(demo / "data", folder, work / "tokens", held_out_share=HELD_OUT_SHARE)

    def batch(self, windows: Windows, places: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of some positions of the training order."""
        ids = np.stack([windows[item_at(place, windows.number, SEED)[1]] for place in places])
        return torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])

    def documents(self, ids_BT: torch.Tensor) -> Documents:
        return Documents.of(ids_BT == self.tokenizer.document_id)

    def bits_per_byte(self, nll_of: Callable[..., torch.Tensor], window: int) -> float:
        """Measure all windows of the held-out documents; `nll_of` sums the loss of ids, targets and documents."""
        windows = Windows(self.tokens, "validation", window)
        bytes_of_V = torch.from_numpy(self.tokenizer.bytes_of_V)
        nll, num_bytes = 0.0, 0
        with torch.no_grad():
            for start in range(0, windows.number, 16):
                ids = np.stack([windows[index] for index in range(start, min(start + 16, windows.number))])
                inputs, targets = torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])
                sizes = bytes_of_V[targets]
                nll += float(nll_of(inputs, targets.masked_fill(sizes == 0, IGNORE), self.documents(inputs)))
                num_bytes += int(sizes.sum())
        return nll / math.log(2) / num_bytes


def merged(candidate: dict[str, Any]) -> dict[str, Any]:
    """Return a whole recipe: today's with the candidate's changes."""
    return TODAY | candidate | {key: TODAY[key] | candidate.get(key, {}) for key in ("shape", "optim")}


def train(recipe: dict[str, Any], corpus: Corpus, budget: float) -> dict[str, Any]:
    """Train a recipe until so many CPU-seconds are used up; return what came of it."""
    shape = ModelConfig(vocab_size=recipe["vocab_size"], context=512, **recipe["shape"])
    model = Decoder(shape).train()
    model.init_weights(SEED)
    config = OptimConfig(warmup_steps=round(recipe["warmup"] * PLACES), **recipe["optim"])
    optimizer = make_optimizer(model, config)
    windows = Windows(corpus.tokens, "train", recipe["window"])
    used, step, losses = 0.0, 0, []
    while used < budget:
        started = time.process_time()
        set_learning_rate(optimizer.param_groups, learning_rate(round(used / budget * PLACES), PLACES, config))
        inputs, targets = corpus.batch(windows, range(step * recipe["batch"], (step + 1) * recipe["batch"]))
        loss = model(inputs, targets, corpus.documents(inputs)) / targets.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        used += time.process_time() - started
        step += 1
    tokens = step * recipe["batch"] * recipe["window"]
    return {
        "bits_per_byte": round(corpus.bits_per_byte(model.eval(), recipe["window"]), 4),
        "parameters": shape.parameters,
        "steps": step,
        "tokens": tokens,
        "cpu_s": round(used, 1),
        "tokens_per_cpu_s": round(tokens / used),
        "last_loss": round(float(np.mean(losses[-20:])), 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    demo, work, path = map(Path, sys.argv[1:4])
    budget = float(sys.argv[4]) if len(sys.argv) > 4 else 60.0
    for name in sys.argv[5:] or list(CANDIDATES):
        candidate = CANDIDATES[name] if name in CANDIDATES else json.loads(name)
        recipe = merged(candidate)
        result = train(recipe, Corpus(demo, work, recipe["vocab_size"]), budget)
        row = {"name": name, "budget_cpu_s": budget, **result, "recipe": recipe}
        print(json.dumps(row), flush=True)
        save(path, row)


def save(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the JSON, and draw all of them."""
    rows = [*(json.loads(path.read_text())["runs"] if path.exists() else []), row]
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/demo_sweep.py artifacts/demo WORK " + path.as_posix(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "torch": torch.__version__,
        "runs": rows,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".svg").write_text(drawn(rows), encoding="utf-8")


def drawn(rows: Sequence[dict[str, Any]]) -> str:
    """Return an SVG: a dot per run at its bits per byte, the best first, shorter runs below longer ones."""
    rows = sorted(rows, key=lambda row: (-row["budget_cpu_s"], row["bits_per_byte"]))
    bits = [row["bits_per_byte"] for row in rows]
    x = Axis(ticks([min(bits), max(bits)]), 330, 730)
    height = 44 + 20 * len(rows)
    lines = [
        join(
            tag("text", f"{row['name']} ({row['budget_cpu_s']:g} CPU-s)", x=320, y=40 + 20 * place, **END),
            tag("circle", cx=x.at(row["bits_per_byte"]), cy=36 + 20 * place, r=4, fill="#2563eb"),
            tag("text", f"{row['bits_per_byte']:.3f}", x=x.at(row["bits_per_byte"]) + 8, y=40 + 20 * place),
        )
        for place, row in enumerate(rows)
    ]
    grid = [
        join(
            tag("line", x1=x.at(tick), x2=x.at(tick), y1=24, y2=height - 12, stroke="#ddd"),
            tag("text", tick, x=x.at(tick), y=16, **{"text-anchor": "middle"}),
        )
        for tick in x.ticks
    ]
    style = {"font-family": "sans-serif", "font-size": 12, "xmlns": "http://www.w3.org/2000/svg"}
    title = tag("title", "Bits per byte of the held-out documents after a fixed number of CPU-seconds")
    return str(tag("svg", title, *grid, *lines, viewBox=f"0 0 790 {height}", **style)) + "\n"


if __name__ == "__main__":
    main()
