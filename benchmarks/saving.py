"""How long a training stands still while a checkpoint is saved, and how long until it is sealed.

    python benchmarks/saving.py benchmarks/results/saving.json              200 M parameters: 2.4 GB a checkpoint
    python benchmarks/saving.py benchmarks/results/saving.json --width 64   a try

Weights and both moments of AdamW, in float32, on the GPU if there is one. Each way saves ROUNDS checkpoints, the
first of which is left out: it allocates the copies. `bare_s` is the same number of bytes written and flushed with
nothing else done: what the disk costs. Needs an idle machine.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from ibidem import artifacts
from ibidem.modeling.checkpoint import KIND
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder
from ibidem.runs import folder_of
from ibidem.training.config import CheckpointConfig, OptimConfig
from ibidem.training.guard import Guard
from ibidem.training.loop import Learner
from ibidem.training.objective import ObjectiveState
from ibidem.training.optim import make_optimizer
from ibidem.training.saving import Saved, Saver

ROUNDS = 4
CHUNK = 1 << 24


def main() -> None:
    """Measure both ways, and write the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    asked = parser.parse_args()
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    learner = trained(asked.width, accelerator.device)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        ways = {name: saved(learner, accelerator, Path(folder) / name, name == "asynchronous") for name in WAYS}
        size = sum(file.bytes for file in artifacts.load(newest(Path(folder) / WAYS[0])).files.values())
        bare = [written(Path(folder) / "bare", size) for _ in range(ROUNDS)]
    result = {
        "command": "python benchmarks/saving.py benchmarks/results/saving.json",
        "machine": [platform.processor() or platform.machine(), f"{os.cpu_count()} cores", str(accelerator.device)],
        "parameters": sum(parameter.numel() for parameter in learner.model.parameters()),
        "bytes": size,
        "rounds": ROUNDS - 1,
        "bare_s": round(statistics.median(bare), 3),
        **ways,
    }
    asked.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


WAYS = ("synchronous", "asynchronous")


def trained(width: int, device: torch.device) -> Learner:
    """Return a learner of 12 layers with full moments."""
    shape = ModelConfig(
        vocab_size=48 * width, width=width, layers=12, heads=width // 64, ffn_hidden=2 * width, context=64
    )
    model = Decoder(shape)
    model.init_weights(0)
    model.to(device)
    optimizer = make_optimizer(model, OptimConfig(lr=1e-4))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return Learner(model, optimizer, Guard(device, clip=1.0, spike_factor=None, scales=False))


def saved(learner: Learner, accelerator: Accelerator, run: Path, asynchronous: bool) -> dict[str, float]:
    """Save some checkpoints; return the medians of stall and of the time until the checkpoint is sealed."""
    stalls, whole = list[float](), list[float]()
    with Saver(accelerator, run, CheckpointConfig(asynchronous=asynchronous, keep_last=1), 600.0) as saver:
        for step in range(ROUNDS):
            about = Saved(KIND, {}, [], None, step, {}, ObjectiveState({}, {}))
            started = time.perf_counter()
            saver.save(learner, about, is_last=False)
            stalls.append(time.perf_counter() - started)
            while not (folder_of(run, step) / artifacts.MANIFEST).exists():
                time.sleep(0.001)
            whole.append(time.perf_counter() - started)
    return {"stall_s": round(statistics.median(stalls[1:]), 4), "sealed_s": round(statistics.median(whole[1:]), 3)}


def newest(run: Path) -> Path:
    """Return the last checkpoint."""
    return folder_of(run, ROUNDS - 1)


def written(path: Path, size: int) -> float:
    """Write and flush a number of bytes; return the seconds."""
    chunk, started = os.urandom(CHUNK), time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, size, CHUNK):
            file.write(chunk[: min(CHUNK, size - start)])
        file.flush()
        os.fsync(file.fileno())
    took = time.perf_counter() - started
    path.unlink()
    return took


if __name__ == "__main__":
    main()
