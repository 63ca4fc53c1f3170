"""What one H200 does with the model and the training, in at most nine minutes; the most telling stages come first.

Each stage is a process of its own with a time limit: one that hangs or fails is reported, and the next one starts. The
result is written after each stage. Without CUDA, and with --toy, every stage runs at toy size on the CPU; such a result
says "toy": true, and no bar is judged.

    python benchmarks/h200.py benchmarks/results/h200.json
    python benchmarks/h200.py --toy toy.json
"""

import json
import operator
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

BUDGET_S = 540
BATCHES = 64
"""Different ones of the comparison with Hugging Face; both systems see them in the same order."""
NOT_INSTALLED = "not installed"
PEAK_FLOPS = 989e12
"""Dense bf16 of an H100 and an H200."""


TOY_PATIENCE = 3
"""By how much the limits of stages are longer at toy size: a CPU compiles more slowly than it computes."""


class Stage(NamedTuple):
    """A stage and its time limit on a GPU, in seconds."""

    name: str
    limit_s: float


STAGES = (
    Stage("correctness", 40),
    Stage("step_compiled", 85),
    Stage("step_kernels", 60),
    Stage("step_float8", 70),
    Stage("step_eager", 40),
    Stage("alignment", 55),
    Stage("attention", 35),
    Stage("loss", 25),
    Stage("decode", 45),
    Stage("against_huggingface", 85),
)
BARS: dict[tuple[str, str], tuple[str, float]] = {
    ("step_compiled", "tokens_per_s"): (">=", 71_000),
    ("step_compiled", "peak_gb"): ("<", 60),
    ("step_compiled", "synchronizations_per_step"): ("<=", 0),
    ("step_compiled", "compiled_graphs"): ("<=", 1),
    ("alignment", "sft_synchronizations_per_step"): ("<=", 0),
    ("alignment", "dpo_synchronizations_per_step"): ("<=", 0),
    ("alignment", "reward_synchronizations_per_step"): ("<=", 0),
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<": operator.lt, "<=": operator.le}


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--toy"]
    toy = "--toy" in sys.argv or not has_cuda()
    if arguments[0] == "--stage":
        if toy:
            os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
        print(json.dumps(measure(arguments[1], toy=toy)))
    else:
        run(STAGES, Path(arguments[0]), partial(command_of, toy=toy), toy=toy)


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def command_of(name: str, *, toy: bool) -> list[str]:
    return [sys.executable, __file__, "--stage", name, *(["--toy"] if toy else [])]


def run(
    stages: Sequence[Stage],
    path: Path,
    command: Callable[[str], Sequence[str]],
    *,
    toy: bool,
    budget_s: float = BUDGET_S,
) -> dict[str, Any]:
    """Run the stages one after another, and write the result after each."""
    end = time.monotonic() + budget_s
    result: dict[str, Any] = {"toy": toy, "stages": {}}
    for stage in stages:
        limit_s = min(stage.limit_s * (TOY_PATIENCE if toy else 1), end - time.monotonic())
        late = {"error": "not started: no time is left"}
        done = run_alone(command(stage.name), limit_s) if limit_s > 0 else late
        result["stages"][stage.name] = done
        result["bars"] = [] if toy else judged(result["stages"])
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(stage.name, json.dumps(done), flush=True)
    for row in result["bars"]:
        print(*(f"{key} {value}" for key, value in row.items()), sep=", ")
    return result


def run_alone(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run a command, and kill it with all its processes at the limit; return its last line, which is JSON."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"error": f"killed after {limit_s:.0f} s", "seconds": round(time.monotonic() - started, 1)}
    seconds = round(time.monotonic() - started, 1)
    if process.returncode:
        return {"error": f"exit {process.returncode}: {err.strip()[-1000:]}", "seconds": seconds}
    return json.loads(out.splitlines()[-1]) | {"seconds": seconds}


def judged(stages: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the figures with their bars; what was not measured has no verdict."""
    rows = []
    for (stage, name), (sign, bar) in BARS.items():
        figure = stages.get(stage, {}).get(name)
        holds = None if figure is None else COMPARISONS[sign](figure, bar)
        rows.append({"stage": stage, "figure": name, "is": figure, "bar": f"{sign} {bar:g}", "holds": holds})
    return rows


def measure(name: str, *, toy: bool) -> dict[str, Any]:
    """Measure one stage in this process."""
    import torch

    device = torch.device("cpu" if toy else "cuda")
    if toy:
        torch.set_num_threads(1)
    measures: dict[str, Callable[..., dict[str, Any]]] = {
        "correctness": correctness,
        "step_compiled": partial(training_step, compiled=True),
        "step_kernels": step_kernels,
        "step_float8": step_float8,
        "step_eager": partial(training_step, compiled=False),
        "alignment": alignment,
        "attention": attention_table,
        "loss": loss_table,
        "decode": decode,
        "against_huggingface": against_huggingface,
    }
    kind = "CPU" if toy else torch.cuda.get_device_name()
    return {"device": kind, "torch": torch.__version__, **measures[name](device, toy=toy)}


def shape_of(*, toy: bool, base: str = "base") -> Any:
    from ibidem.modeling.config import ModelConfig, read_model_config

    if not toy:
        return read_model_config(Path(base))
    return ModelConfig(vocab_size=512, width=64, layers=2, heads=2, ffn_hidden=128, context=128)


def documents_of(shape: Sequence[int], length: int) -> Any:
    """Return documents of about `length` tokens each, on the CPU."""
    import torch

    from ibidem.modeling.attention import Documents

    starts = torch.zeros(tuple(shape), dtype=torch.bool)
    starts[:, ::length] = True
    return Documents.of(starts)


def batch_of(vocab_size: int, rows: int, context: int, seed: int) -> Any:
    """Return a batch that can be learned: each id has eight successors; a document has about 1,000 tokens."""
    import numpy as np
    import torch

    from ibidem.training.loader import Batch

    rng = np.random.default_rng(seed)
    choices = rng.integers(0, 8, size=(rows, context + 1))
    ids = np.empty((rows, context + 1), dtype=np.int64)
    ids[:, 0] = rng.integers(0, vocab_size, size=rows)
    for place in range(1, context + 1):
        ids[:, place] = (ids[:, place - 1] * 31 + choices[:, place] * 7_919 + 17) % vocab_size
    return Batch.of_windows(torch.from_numpy(ids), documents_of((rows, context), min(context, 1024)))


def seconds_of(work: Callable[[], Any], device: Any, *, repeats: int) -> float:
    """Return the seconds of one call, after two that do not count."""
    import torch

    for _ in range(2):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def correctness(device: Any, *, toy: bool) -> dict[str, Any]:
    """Compare bf16 on the device with float32 on a CPU: loss, gradients, attention by document."""
    import torch

    from ibidem.modeling.config import ModelConfig
    from ibidem.modeling.modeling_custom import Decoder

    shape = shape_of(toy=True) if toy else ModelConfig(
        vocab_size=4096, width=384, layers=4, heads=4, ffn_hidden=768, context=1024
    )  # fmt: skip
    batch = batch_of(shape.vocab_size, 2, shape.context, 0)

    def trained(place: Any, dtype: Any) -> tuple[float, Any]:
        model = Decoder(shape, compute_dtype=dtype).train()
        model.init_weights(0)
        model.to(place)
        moved = batch.to(place)
        loss = model(moved.ids_BT, moved.targets_BT, moved.documents)
        loss.backward()
        return float(loss), torch.cat([p.grad.float().flatten().cpu() for p in model.parameters()])

    expected, gradient = trained(torch.device("cpu"), torch.float32)
    found: dict[str, Any] = {}
    for dtype in (torch.bfloat16, torch.float32):
        loss, other = trained(device, dtype)
        kind = str(dtype).removeprefix("torch.")
        found[f"loss_error_{kind}"] = abs(loss - expected) / expected
        found[f"gradient_error_{kind}"] = relative_error(other, gradient)
    return found | attention_error(device, toy=toy)


def relative_error(found: Any, expected: Any) -> float:
    return float((found - expected).norm() / expected.norm())


def attention_error(device: Any, *, toy: bool) -> dict[str, float]:
    import torch

    from ibidem.modeling.attention import causal_attention

    T = 128 if toy else 2048
    documents = documents_of((2, T), 48 if toy else 700)
    torch.manual_seed(0)
    inputs = [torch.randn(2, T, heads, 96) for heads in (4, 2, 2)]

    def attended(place: Any, dtype: Any) -> list[Any]:
        qkv = [tensor.to(place, dtype).requires_grad_() for tensor in inputs]
        mixed = causal_attention(*qkv, documents.to(place))
        mixed.float().square().sum().backward()
        return [tensor.detach().float().cpu() for tensor in (mixed, *(each.grad for each in qkv))]

    pairs = zip(attended(device, torch.bfloat16), attended(torch.device("cpu"), torch.float32), strict=True)
    names = ("output", "queries", "keys", "values")
    return {f"attention_error_{name}": relative_error(*pair) for name, pair in zip(names, pairs, strict=True)}


def training_step(device: Any, *, toy: bool, compiled: bool) -> dict[str, Any]:
    """Time the project's own training step: loader, two micro batches, clipping, AdamW."""
    measured, close = timed_step(own_model(shape_of(toy=toy), device), device, toy=toy, compiled=compiled)
    found = measured()
    close()
    return found


def step_kernels(device: Any, *, toy: bool) -> dict[str, Any]:
    """Time the same compiled step with the loss of liger-kernel, and then with FlashAttention-3.

    Neither is part of a compiled graph, so nothing is compiled again between the two.
    """
    model = own_model(shape_of(toy=toy), device)
    measured, close = timed_step(model, device, toy=toy, compiled=True)
    rows: list[dict[str, Any]] = [{"loss": "liger"}, {"flash_attention": "FA3"}]
    for row in rows:
        if (kernel := row.get("loss", "chunked")) == "liger" and not has_liger():
            row["said"] = NOT_INSTALLED
        elif (said := flash_attention_said(row.get("flash_attention"), device)) is not None:
            row["said"] = said
        else:
            model.loss_kernel = kernel
            row.update(measured())
    close()
    return {"rows": rows}


def step_float8(device: Any, *, toy: bool) -> dict[str, Any]:
    """Time the compiled step with products in float8."""
    from ibidem.training.config import TrainLoopConfig
    from ibidem.training.kernels import use

    if find_spec("torchao") is None:
        return {"said": NOT_INSTALLED}
    training = TrainLoopConfig(steps=1, batch_sequences=1, float8="tensorwise")
    model = use(own_model(shape_of(toy=toy), device), training, emulate=toy)
    measured, close = timed_step(model, device, toy=toy, compiled=True)
    found = measured()
    close()
    return {"float8": training.float8, **found}


def timed_step(
    model: Any, device: Any, *, toy: bool, compiled: bool
) -> tuple[Callable[[], dict[str, Any]], Callable[[], None]]:
    """Return the function that times a training step of a model, and the one that ends its loader."""
    import torch

    shape = model.config
    rows, micro_batches, steps = (2, 2, 1) if toy else (4, 2, 10)
    step, close = own_step(model, device, rows=rows, micro_batches=micro_batches, compiled=compiled)
    numbers = iter(range(1_000_000))

    def measured() -> dict[str, Any]:
        if device.type == "cuda":
            for _ in range(2):
                step(next(numbers))
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(lambda: step(next(numbers)), device, repeats=steps)
        speed = rows * micro_batches * shape.context / seconds
        found = {
            "micro_batch": f"{rows} x {shape.context}",
            "tokens_per_s": round(speed),
            "compiled_graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
        }
        if device.type == "cuda":
            for name, causal in (("mfu_full_attention", False), ("mfu_causal_half", True)):
                found[name] = speed * shape.flops_per_token(shape.context, causal=causal) / PEAK_FLOPS
            found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            found["synchronizations_per_step"] = synchronizations(lambda: step(next(numbers)))
        return found

    return measured, close


def has_liger() -> bool:
    return find_spec("liger_kernel") is not None and find_spec("triton") is not None


def flash_attention_said(name: Any, device: Any) -> str | None:
    """Switch to an implementation of flash attention; return why it is not to be had, or None."""
    from ibidem.errors import ConfigError
    from ibidem.modeling import flash_attention

    try:
        flash_attention.use(name, "flash_attention", device)
    except ConfigError as error:
        return NOT_INSTALLED if "No module named" in str(error) else str(error)
    return None


def synchronizations(work: Callable[[], Any]) -> int:
    """Count how often the host waits for the GPU."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as noticed:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(each.message) for each in noticed)


def own_step(
    model: Any, device: Any, *, rows: int, micro_batches: int, compiled: bool, batches: int = 4
) -> tuple[Callable[[int], Any], Callable[[], None]]:
    """Return the function that takes a step of the project's loop, and the one that ends its loader."""
    from ibidem.training import session
    from ibidem.training.loader import Loader

    shape = model.config
    if compiled:
        session.compile_blocks(model.blocks)
    pool = [batch_of(shape.vocab_size, rows, shape.context, seed) for seed in range(batches)]
    loader = Loader(
        lambda step, micro: pool[(step * micro_batches + micro) % len(pool)],
        micro_batches=micro_batches,
        stop=1_000_000,
        device=device,
    )
    objective = Synthetic(loader, rows * micro_batches * shape.context)
    return stepper(objective, model, accelerator_of(device), micro_batches=micro_batches), loader.close


def own_model(shape: Any, device: Any) -> Any:
    import torch

    from ibidem.modeling.modeling_custom import Decoder

    model = Decoder(shape, compute_dtype=torch.float32 if device.type == "cpu" else torch.bfloat16)
    model.init_weights(0)
    return model


def accelerator_of(device: Any) -> Any:
    from accelerate import Accelerator

    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")


def stepper(objective: Any, model: Any, accelerator: Any, *, micro_batches: int) -> Callable[[int], Any]:
    """Return the function that takes a step of the project's loop."""
    from ibidem.training import loop
    from ibidem.training.config import OptimConfig
    from ibidem.training.guard import Guard
    from ibidem.training.optim import adamw

    device = accelerator.device
    prepared = accelerator.prepare(model, adamw(model.to(device), OptimConfig()))
    learner = loop.Learner(*prepared, Guard(device, clip=1.0, spike_factor=None, scales=False))
    schedule = loop.Schedule(
        start=0, stop=1_000_000, total_steps=1_000_000, micro_batches=micro_batches, seed=0,
        tokens_per_step=1, most_skipped=10, measure_every=1_000_000, save_every=1_000_000,
    )  # fmt: skip

    def step(number: int) -> Any:
        objective.begin(learner.model, number)
        return loop.update(schedule, objective, learner, accelerator, step=number, lr=1e-3)

    return step


def alignment(device: Any, *, toy: bool) -> dict[str, Any]:
    """Time steps of SFT, DPO and a reward model on random ids, and count how often the host waits for the GPU."""
    import torch

    shape, accelerator = shape_of(toy=toy), accelerator_of(device)
    found: dict[str, Any] = {}
    for name in ("sft", "dpo", "reward"):
        objective, model, tokens = alignment_of(name, shape, accelerator, toy=toy)
        step, numbers = stepper(objective, model, accelerator, micro_batches=2), iter(range(1000))

        def work(objective: Any = objective, step: Any = step, numbers: Any = numbers) -> None:
            step(next(numbers))
            objective.figures()

        found[f"{name}_tokens_per_s"] = round(tokens / seconds_of(work, device, repeats=2 if toy else 8))
        if device.type == "cuda":
            found[f"{name}_synchronizations_per_step"] = synchronizations(work)
            torch.cuda.empty_cache()
        objective.close()
    return found


def alignment_of(name: str, shape: Any, accelerator: Any, *, toy: bool) -> tuple[Any, Any, int]:
    """Return an objective of the project, its model, and the number of ids of a step of two micro batches."""
    from collections import Counter

    import numpy as np
    import torch

    from ibidem.config import build
    from ibidem.modeling.heads import RewardModel
    from ibidem.training.rlhf import config, dpo_trainer, reward_model, sft_pipeline
    from ibidem.training.rlhf.batches import Encoded
    from ibidem.training.rlhf.pairs import EncodedPair, Pairs
    from ibidem.training.rlhf.setup import Setup

    size, length, here = 8, 32 if toy else 1024, Path()
    rng = np.random.default_rng(0)
    ids_XS = rng.integers(0, shape.vocab_size, (4 * size, length), dtype=np.int32)
    answers = [Encoded(ids_S, np.arange(length) >= length // 2) for ids_S in ids_XS]
    pairs = [EncodedPair(*both, 0.0) for both in zip(answers[::2], answers[1::2], strict=True)]
    training = {"steps": 1000, "batch_sequences": size, "micro_batch_sequences": size // 2}
    tree = {"initial": here, "data": here, "output_dir": here, "training": training}
    setup = Setup(None, shape, None, None, None, accelerator, None)  # a step reads no more of it
    model, data = own_model(shape, accelerator.device), Pairs(pairs, [], [], Counter())
    if name == "sft":
        talks = sft_pipeline.Conversations(answers, [], [], Counter())
        return sft_pipeline.Sft(build(config.SftConfig, tree), setup, talks), model, size * length
    if name == "dpo":
        reference = {"train": torch.zeros(len(pairs), 2, dtype=torch.float64)}
        return dpo_trainer.Dpo(build(config.DpoConfig, tree), setup, data, reference), model, 2 * size * length
    return reward_model.Reward(build(config.RewardConfig, tree), setup, data), RewardModel(model), 2 * size * length


class Synthetic:
    """An objective on batches that need no files."""

    def __init__(self, loader: Any, num_targets: int) -> None:
        self.loader, self.num_targets = loader, num_targets

    def begin(self, _model: Any, step: int) -> None:
        self.loader.begin(step)

    def loss(self, model: Any, step: int, micro: int) -> tuple[Any, int]:
        batch = self.loader.take(step, micro)
        return model(batch.ids_BT, batch.targets_BT, batch.documents), self.num_targets


def attention_table(device: Any, *, toy: bool) -> dict[str, Any]:
    """Time attention by document, forward and backward, at both head widths of base.py's size."""
    import torch

    from ibidem.modeling.attention import causal_attention

    T, lengths = (128, (32, 128)) if toy else (8192, (256, 1024, 8192))
    dtype = torch.float32 if toy else torch.bfloat16
    rows = []
    for implementation in (None, "FA3", "FA4"):
        if (said := flash_attention_said(implementation, device)) is not None:
            rows.append({"implementation": implementation, "said": said})
            continue
        for heads, width in ((2, 16),) if toy else ((16, 96), (12, 128)):
            shape = (1 if toy else 4, T, heads, width)
            inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
            for length in lengths:
                documents = documents_of(shape[:2], length).to(device)
                work = partial(forward_backward, causal_attention, inputs, documents)
                seconds = seconds_of(work, device, repeats=2 if toy else 10)
                flops = 12 * heads * width * length / 2 * shape[0] * T  # the causal half, forward and backward
                rows.append({
                    "implementation": implementation or "torch", "heads": f"{heads} x {width}", "document": length,
                    "ms": 1e3 * seconds, "tflops": flops / seconds / 1e12,
                })  # fmt: skip
    return {"rows": rows}


def forward_backward(function: Callable[..., Any], inputs: Sequence[Any], *others: Any) -> None:
    result = function(*inputs, *others)
    result.float().sum().backward()
    for tensor in inputs:
        tensor.grad = None


def loss_table(device: Any, *, toy: bool) -> dict[str, Any]:
    """Time the loss, forward and backward, by tokens in a chunk, and liger-kernel's if it is installed."""
    import torch

    from ibidem.modeling import loss

    N, D, V = (256, 64, 512) if toy else (32_768, 1536, 65_536)
    dtype = torch.float32 if toy else torch.bfloat16
    hidden = torch.randn(N, D, device=device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(V, D, device=device) * 0.02).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (N,), device=device)
    rows = []
    for tokens in (64, 128) if toy else (1024, 2048, 4096, 8192):
        loss.TILES[device.type] = loss.Tile(tokens=tokens, ids=1 << 30)
        work = partial(forward_backward, loss.linear_cross_entropy, [hidden, weight], targets)
        rows.append({"loss": f"ibidem, {tokens} tokens at once", **timed(work, device, repeats=2 if toy else 5)})
    if has_liger():
        fused = partial(loss.linear_cross_entropy, kernel="liger")
        work = partial(forward_backward, fused, [hidden, weight], targets)
        rows.append({"loss": "liger-kernel", **timed(work, device, repeats=2 if toy else 5)})
    else:
        rows.append({"loss": "liger-kernel", "said": NOT_INSTALLED})
    return {"shape": f"{N} x {D} x {V}", "rows": rows}


def timed(work: Callable[[], Any], device: Any, *, repeats: int) -> dict[str, float]:
    import torch

    if device.type != "cuda":
        return {"ms": 1e3 * seconds_of(work, device, repeats=repeats)}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = seconds_of(work, device, repeats=repeats)
    return {"ms": 1e3 * seconds, "more_gb": (torch.cuda.max_memory_allocated() - before) / 1e9}


def decode(device: Any, *, toy: bool) -> dict[str, Any]:
    """Time `generate` with a prompt of 512 tokens, at batch 1 and 64: each step computed anew, and as a CUDA graph."""
    import torch

    from ibidem.modeling.generate import Sampling, generate
    from ibidem.modeling.matrices import FrozenDecoder
    from ibidem.modeling.modeling_custom import Decoder

    shape = shape_of(toy=toy)
    model = Decoder(shape)
    model.init_weights(0)
    model = model.to(device, torch.float32 if toy else torch.bfloat16)
    prompt = list(range(1, 17 if toy else 513))
    sampling = Sampling(max_tokens=8 if toy else 128)
    rows: list[dict[str, Any]] = []
    for batch in (1, 2) if toy else (1, 64):
        for graphs in (False, True):
            row = {"batch": batch, "cuda_graphs": graphs}
            if graphs and device.type != "cuda":
                rows.append(row | {"said": "a CPU has none"})
                continue
            frozen = FrozenDecoder(model, uses_graphs=graphs)
            tokens: list[int] = []

            def work(frozen: Any = frozen, batch: int = batch, tokens: list[int] = tokens) -> None:
                tokens.append(sum(map(len, generate(frozen, [prompt] * batch, sampling, end_ids=(0,)))))

            seconds = seconds_of(work, device, repeats=1)
            rows.append(row | {"tokens_per_s": tokens[-1] / seconds})
    return {"rows": rows}


def against_huggingface(device: Any, *, toy: bool) -> dict[str, Any]:
    """Train a model of 68 M parameters and Hugging Face's Llama of that shape, on the same batches, for the same time.

    The loss that the slower one reaches at the end is the target; the figure is when each reached it.
    """
    from ibidem.modeling.config import ModelConfig

    small = {"vocab_size": 32_768, "width": 768, "layers": 6, "heads": 8, "ffn_hidden": 2048, "context": 1024}
    shape = shape_of(toy=True) if toy else ModelConfig(**small, qk_norm=False)
    rows, limit_s = (2, 2.0) if toy else (16, 25.0)
    model = own_model(shape, device)
    step, close = own_step(model, device, rows=rows, micro_batches=1, compiled=True, batches=BATCHES)
    curves = {"ibidem": curve(lambda number: step(number)["loss"], limit_s)}
    close()
    curves["huggingface"] = curve(huggingface_step(shape, device, rows), limit_s)
    target = max(losses[-1][1] for losses in curves.values())
    found: dict[str, Any] = {"parameters": shape.parameters, "target_loss": target}
    for name, losses in curves.items():
        found[name] = {
            "steps": len(losses),
            "last_loss": losses[-1][1],
            "seconds_to_target": next(seconds for seconds, loss in losses if loss <= target),
        }
    return found


def curve(step: Callable[[int], Any], limit_s: float) -> list[tuple[float, float]]:
    """Return seconds and smoothed loss after each step; the first two steps compile, and their time does not count."""
    smoothed = [float(step(number)) for number in range(2)][-1]
    points: list[tuple[float, float]] = []
    started, number = time.perf_counter(), 2
    while not points or points[-1][0] < limit_s:
        smoothed = 0.9 * smoothed + 0.1 * float(step(number))
        points.append((time.perf_counter() - started, smoothed))
        number += 1
    return points


def huggingface_step(shape: Any, device: Any, rows: int) -> Callable[[int], float]:
    """Return the step of a plain loop: autocast, scaled_dot_product_attention, fused AdamW, gradients clipped."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.num_kv_heads, intermediate_size=shape.ffn_hidden,
        max_position_embeddings=shape.context, tie_word_embeddings=True,
    )).to(device).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    pool = [batch_of(shape.vocab_size, rows, shape.context, seed).to(device) for seed in range(BATCHES)]

    def step(number: int) -> float:
        batch = pool[number % len(pool)]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=batch.ids_BT, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.targets_BT.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()
