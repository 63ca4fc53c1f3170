"""Compare the loss of liger-kernel with the chunked one, by triton's interpreter; print relative errors as JSON.

TRITON_INTERPRET=1 must be set before triton is imported.
"""

import json
import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ibidem.modeling.attention import Documents
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.loss import IGNORE, LossKernel, linear_cross_entropy
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training import sharding

N, D, V = 61, 24, 97
KERNELS: tuple[LossKernel, ...] = ("chunked", "liger")
SHAPE = ModelConfig(vocab_size=97, width=32, layers=2, heads=2, ffn_hidden=40, context=32)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).double().norm() / expected.double().norm())


def compared(compute: Callable[[LossKernel], list[Tensor]]) -> list[float]:
    """Return the error of the loss, and the largest one of its gradients."""
    chunked, liger = map(compute, KERNELS)
    errors = [error(*pair) for pair in zip(liger, chunked, strict=True)]
    return [errors[0], max(errors[1:])]


def operation(dtype: torch.dtype, z_loss: float, *, compiled: bool = False, frozen: str = "") -> list[float]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(N, D, generator=generator).to(dtype)
    weight = torch.randn(V, D, generator=generator).to(dtype) * 0.3
    targets = torch.randint(V, (N,), generator=generator)
    targets[[2, 9]] = IGNORE
    wanted = [tensor.requires_grad_() for name, tensor in (("hidden", hidden), ("weight", weight)) if name != frozen]

    def compute(kernel: LossKernel) -> list[Tensor]:
        def of(hidden: Tensor, weight: Tensor) -> Tensor:
            return linear_cross_entropy(hidden, weight, targets, z_loss=z_loss, kernel=kernel)

        torch.compiler.reset()
        run = torch.compile(of, backend="aot_eager", fullgraph=True) if compiled else of
        loss = run(hidden, weight)
        gradients = torch.autograd.grad(loss * 0.5, wanted)
        assert [each.dtype for each in gradients] == [dtype] * len(wanted)
        return [loss.detach(), *gradients]

    return compared(compute)


def batch() -> tuple[Tensor, Tensor, Documents]:
    ids = torch.randint(97, (2, 33), generator=torch.Generator().manual_seed(4))
    targets = ids[:, 1:].clone()
    targets[0, 5:9] = IGNORE
    starts = torch.zeros(2, 32, dtype=torch.bool)
    starts[0, 11] = True
    return ids[:, :-1], targets, Documents.of(starts)


def model(*, tied: bool, dtype: torch.dtype) -> list[float]:
    def compute(kernel: LossKernel) -> list[Tensor]:
        shape = ModelConfig(vocab_size=97, width=32, layers=2, heads=2, ffn_hidden=40, context=32, tied=tied)
        decoder = Decoder(shape, compute_dtype=dtype).train()
        decoder.init_weights(0)
        decoder.loss_kernel = kernel
        loss = decoder(*batch(), 1e-3)
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in decoder.parameters())]

    return compared(compute)


def measured() -> list[float]:
    """Return the loss of an evaluation, which must be the chunked one's to the bit."""
    decoder = Decoder(SHAPE, compute_dtype=torch.bfloat16).eval()
    decoder.init_weights(0)
    with torch.no_grad():
        chunked = decoder(*batch())
        decoder.loss_kernel = "liger"
        return [float(decoder(*batch()) - chunked)]


def divided(meeting: str, kind: str) -> list[float]:
    """Return the errors of a model that two processes share: one computes both rows of a batch, each another one."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    ids, targets, _ = batch()

    def compute(kernel: LossKernel) -> list[Tensor]:
        decoder = Decoder(SHAPE, compute_dtype=torch.bfloat16).train()
        decoder.init_weights(0)
        decoder.loss_kernel = kernel
        if kind == "FSDP":
            sharding.shard(decoder, torch.device("cpu"))
        shared = decoder if kind == "FSDP" else DistributedDataParallel(decoder)
        loss = shared(ids[rank, None], targets[rank, None], None, 1e-3)
        loss.backward()
        gradients = [parameter.grad for parameter in decoder.parameters()]
        whole = [each.full_tensor() if kind == "FSDP" else each for each in gradients]
        return [loss.detach(), *whole]

    found = compared(compute)
    dist.destroy_process_group()
    return found


def main() -> None:
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(divided(*sys.argv[1:])))
        return
    bf16, fp32 = torch.bfloat16, torch.float32
    found = {
        "float32": operation(fp32, 0.0),
        "float32 z-loss": operation(fp32, 1e-2),
        "float32 frozen matrix": operation(fp32, 1e-2, frozen="weight"),
        "float32 frozen states": operation(fp32, 1e-2, frozen="hidden"),
        "float32 compiled": operation(fp32, 1e-2, compiled=True),
        "bfloat16 z-loss": operation(bf16, 1e-2),
        "float32 tied": model(tied=True, dtype=fp32),
        "float32 untied": model(tied=False, dtype=fp32),
        "bfloat16 tied": model(tied=True, dtype=bf16),
        "measured": measured(),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
