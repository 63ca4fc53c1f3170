"""What a server costs beside the model: tokens per CPU-second of its parts, and of the whole, against the bare batch.

The shape is that of `configs/model/tiny.py`, 6.6 M parameters at 8,192 ids, with random weights and a tokenizer trained
on the standard library of Python. Prompts have 64 tokens and 128 more are generated, 64 at once, greedy and sampled
(temperature 0.8, top-p 0.95), one thread for the matrices. All CPU time counts, that of prompts and of every thread.

    batch     RunningBatch alone, in a loop
    engine    the engine, whose tokens nobody reads
    speaker   the engine and `OwnSpeaker`: text, parts and an event loop, without HTTP

Systems take turns in one process; medians of the runs.

    python benchmarks/serving.py benchmarks/results/serving.json
"""

import asyncio
import json
import os
import platform
import shutil
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from threading import Event
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

SHAPE: dict[str, Any] = {"vocab_size": 8192, "width": 256, "layers": 6, "heads": 4, "ffn_hidden": 640, "context": 512}
STREAMS, PROMPT, NEW, REPEATS = 64, 64, 128, 5
CORPUS_BYTES = 4_000_000
Run = Callable[[float], int]
"""Generates at a temperature, and returns the number of tokens."""


def main() -> None:
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="ibidem-") as scratch:
        checkpoint = make_checkpoint(Path(scratch))
        result = {"in_process": in_process(checkpoint)}
    write(path, result)


def make_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with random weights, and its tokenizer."""
    from safetensors.torch import save_file

    from ibidem import artifacts
    from ibidem.modeling.checkpoint import KIND, TOKENIZER_DIR, WEIGHTS
    from ibidem.modeling.config import ModelConfig
    from ibidem.modeling.modeling_custom import Decoder
    from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer

    (folder / "corpus").mkdir()
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    (folder / "corpus" / "library.txt").write_text(text[:CORPUS_BYTES], encoding="utf-8")
    tokenizer = folder / "tokenizer"
    train_tokenizer(TrainTokenizerConfig(input=folder / "corpus", output_dir=tokenizer, vocab_size=SHAPE["vocab_size"]))
    model = Decoder(ModelConfig(**SHAPE))
    model.init_weights(0)
    path = folder / "step-000000"
    with artifacts.create(path, kind=KIND, config={"model": SHAPE}, inputs=[]) as draft:
        save_file(model.state_dict(), draft.path / WEIGHTS)
        shutil.copytree(tokenizer, draft.path / TOKENIZER_DIR)
    return path


def in_process(checkpoint: Path) -> dict[str, Any]:
    import torch

    from ibidem.serving.server.own_model import OwnSpeaker

    torch.set_num_threads(1)
    speaker = OwnSpeaker(checkpoint, slots=STREAMS)
    model, prompts = speaker._engine._batch._model, texts(speaker)
    systems: dict[str, Run] = {
        "batch": lambda temperature: batch(model, prompts, temperature),
        "engine": lambda temperature: engine(model, prompts, temperature),
        "speaker": lambda temperature: asyncio.run(speak(speaker, prompts, temperature)),
    }
    found = {name: compare(systems, at) for name, at in (("greedy", 0.0), ("sampled", 0.8))}
    speaker.close()
    return found


def compare(systems: dict[str, Run], temperature: float) -> dict[str, Any]:
    runs: dict[str, list[float]] = {name: [] for name in systems}
    for run in systems.values():
        run(temperature)
    for _ in range(REPEATS):
        for name, run in systems.items():
            started = time.process_time()
            count = run(temperature)
            runs[name].append(count / (time.process_time() - started))
    speeds = {name: statistics.median(each) for name, each in runs.items()}
    found = {
        "tokens_per_cpu_s": speeds,
        "share_of_the_batch": {name: speed / speeds["batch"] for name, speed in speeds.items()},
        "cpu_us_a_token_beside_the_batch": {
            name: 1e6 / speed - 1e6 / speeds["batch"] for name, speed in speeds.items() if name != "batch"
        },
        "runs": runs,
    }
    print(json.dumps({key: found[key] for key in found if key != "runs"}, indent=1), flush=True)
    return found


def texts(speaker: Any) -> list[str]:
    """Return prompts that have `PROMPT` tokens with what stands before them."""
    source = Path(os.__file__).read_text(encoding="utf-8")
    tokenizer = speaker._tokenizer
    ids, found = tokenizer.encode(source), []
    place = 0
    while len(found) < STREAMS:
        text = tokenizer.decode(ids[place : place + PROMPT - 1])
        if len(tokenizer.encode(text)) == PROMPT - 1:
            found.append(text)
        place += PROMPT // 2
    return found


def batch(model: Any, prompts: list[str], temperature: float) -> int:
    from ibidem.modeling.running_batch import Request, RunningBatch

    running = RunningBatch(model, slots=STREAMS, size=PROMPT + NEW)
    for seed, ids in enumerate(random_ids(len(prompts))):
        running.admit(Request(ids, temperature, 0.95, [seed]))
    made = [0] * len(prompts)
    while drawn := running.step():
        for number in drawn:
            made[number] += 1
            if made[number] == NEW:
                running.release(number)
    return sum(made)


def engine(model: Any, prompts: list[str], temperature: float) -> int:
    from ibidem.modeling.engine import Ask, Engine

    done = Event()
    count = left = 0

    def deliver(tokens: Any) -> None:
        nonlocal count, left
        count += len(tokens)
        left -= sum(token.is_last for token in tokens)
        if not left:
            done.set()

    left = len(prompts)
    running = Engine(model, deliver=deliver, fail=lambda *_: done.set(), slots=STREAMS)
    for seed, ids in enumerate(random_ids(len(prompts))):
        running.submit(Ask(ids, NEW, temperature, 0.95, seed, ()))
    done.wait()
    running.close()
    return count


async def speak(speaker: Any, prompts: list[str], temperature: float) -> int:
    from ibidem.serving.server.speech import Drawing, Spoken

    async def listen(prompt: str, seed: int) -> int:
        drawing = Drawing(NEW, temperature, 0.95, seed)
        async with aclosing(speaker.complete(prompt, None, drawing, owner=str(seed % 20), scope=None)) as speech:
            async for said in speech:
                if isinstance(said, Spoken):
                    return said.completion_tokens
        raise AssertionError

    return sum(await asyncio.gather(*(listen(prompt, seed) for seed, prompt in enumerate(prompts))))


def random_ids(count: int) -> list[list[int]]:
    import numpy as np

    rows: list[list[int]] = np.random.default_rng(0).integers(SHAPE["vocab_size"], size=(count, PROMPT)).tolist()
    return rows


def write(path: Path, result: dict[str, Any]) -> None:
    from importlib.metadata import version

    whole = {
        "command": f"python benchmarks/serving.py {path.as_posix()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread for the matrices",
        "versions": {name: version(name) for name in ("torch", "starlette", "uvicorn")},
        "shape": SHAPE,
        "streams": STREAMS,
        "prompt_tokens": PROMPT,
        "new_tokens": NEW,
        **result,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
