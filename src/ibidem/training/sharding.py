"""FSDP: weights, gradients and optimizer states are divided over the processes.

    group             gathered for its forward pass    gathered again for its backward pass
    each block        yes, and freed after it          yes, and freed after it
    all else          yes, and kept                    no: embedding, last norm and output matrix are needed at once

`accelerate launch --config_file configs/accelerate/fsdp.yaml` starts the processes and asks for this. It computes what
one process computes: parameters in `compute_dtype`, gradients reduced and accumulated in float32.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.parallel import DistributedDataParallel

from ibidem.modeling.checkpoint import is_of_head
from ibidem.modeling.heads import RewardModel
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.tensor_files import Part

FLAG = "ACCELERATE_USE_FSDP"
"""What `accelerate launch` sets in the environment."""


def is_requested() -> bool:
    """Return whether the launcher asked for FSDP, and there are several processes."""
    return os.environ.get(FLAG) == "true" and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def hidden_from_accelerate() -> Iterator[None]:
    """Let accelerate start its processes without a sharding of its own."""
    asked = os.environ.pop(FLAG, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[FLAG] = asked


def shard(model: Decoder | RewardModel, device: torch.device) -> None:
    """Divide a model over all processes, on their devices, each block a group of its own."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=model.compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def reduces_when(model: nn.Module, *, is_last: bool) -> None:
    """Reduce gradients over the processes in the backward pass of the last micro batch only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)


def whole(model: nn.Module) -> Decoder:
    """Return a decoder with all current weights of a model that is trained, to sample from, on every process.

    All processes must call it. With FSDP it is another decoder, on the model's device, in float32, without value head
    and without gradients; otherwise it is the model itself, without its wrapper.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(model, Decoder)
    if not isinstance(model, FSDPModule):
        return model
    found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    weights = {name: tensor for name, tensor in found.items() if not is_of_head(name)}
    with torch.device("meta"):
        decoder = Decoder(model.config, compute_dtype=model.compute_dtype)
    decoder.rope = model.rope  # its tables are not among the weights
    decoder.load_state_dict(weights, assign=True)
    return decoder.requires_grad_(requires_grad=False).eval()


def part_of(name: str, tensor: Tensor) -> Part:
    """Return the rows of a tensor that this process holds; all of it unless it is divided."""
    if not isinstance(tensor, DTensor):
        return Part(name, tensor)
    assert all(placement.is_shard(0) for placement in tensor.placements), "divided by rows, as `shard` does"
    _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Part(name, tensor.to_local(), offsets[0], tensor.shape[0])
