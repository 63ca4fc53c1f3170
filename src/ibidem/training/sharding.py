"""FSDP: weights, gradients and optimizer states are divided over the processes.

    group             gathered for its forward pass    gathered again for its backward pass
    each block        yes, and freed after it          yes, and freed after it
    all else          yes, and kept                    no: embedding, last norm and output matrix are needed at once

    processes 0 1 2 3, training.shard_processes 2: the weights are divided over 0 1, and again over 2 3 (HSDP)

`accelerate launch --config_file configs/accelerate/fsdp.yaml` starts the processes and asks for this, and so does
`deepspeed-zero3.yaml`, whose third stage divides the same. It computes what one process computes: parameters in
`compute_dtype`, gradients reduced and accumulated in float32. A model is made without memory, and gets its weights when
it is divided: no process ever holds all of them.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ibidem.errors import ConfigError
from ibidem.modeling.checkpoint import is_of_head
from ibidem.modeling.heads import RewardModel
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.rope import Rope
from ibidem.training.config import LoopConfig

FLAG, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
"""What `accelerate launch` sets in the environment."""
REFUSED = {
    "FSDP_OFFLOAD_PARAMS": ("true", "fsdp_offload_params"),
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": ("012", "zero_stage"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": (("cpu", "nvme"), "offload_optimizer_device"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": (("cpu", "nvme"), "offload_param_device"),
    "ACCELERATE_USE_MEGATRON_LM": ("true", "megatron_lm_config"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("true", "parallelism_config"),
}
"""Of what `accelerate launch` may ask for, what would not be done: values of variables, and the keys of its file."""


def is_requested() -> bool:
    """Return whether the launcher asked for FSDP or ZeRO's third stage, and there are several processes."""
    return "true" in map(os.environ.get, (FLAG, DEEPSPEED)) and int(os.environ.get("WORLD_SIZE", "1")) > 1


def check(shard_processes: int | None) -> None:
    """Refuse what the launcher asks for if it cannot be done.

    Args:
        shard_processes: over how many processes the weights are to be divided; None: all.

    Raises:
        ConfigError: it is something else than FSDP or ZeRO's third stage, or the mesh does not divide the processes.
    """
    for variable, (values, key) in REFUSED.items():
        if (value := os.environ.get(variable, "")) and value in values:
            raise ConfigError(f"{key}: {value}: this is not done here; use configs/accelerate/fsdp.yaml or ddp.yaml")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % (shard_processes or world):
        raise ConfigError(
            f"training.shard_processes={shard_processes} does not divide the {world} processes; give a divisor, "
            "such as the number of GPUs of a machine"
        )


@contextmanager
def hidden_from_accelerate() -> Iterator[None]:
    """Let accelerate start its processes without a sharding of its own."""
    asked = {name: os.environ.pop(name) for name in (FLAG, DEEPSPEED) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(asked)


def without_memory() -> AbstractContextManager[object]:
    """Make models without memory for their weights, if they will be divided."""
    return torch.device("meta") if is_requested() else nullcontext()


def divide(model: Decoder | RewardModel, device: torch.device, training: LoopConfig) -> None:
    """Divide a model that was made without memory; each process draws the initial weights that it holds."""
    shard(model, device, training.shard_processes)
    model.to_empty(device=device)
    for module in model.modules():
        if isinstance(module, Rope):
            module.compute()
    model.init_weights(training.seed)


def shard(model: Decoder | RewardModel, device: torch.device, processes: int | None = None) -> None:
    """Divide a model over groups of processes, by default one of all, on their devices.

    Each block is gathered on its own. A group is of processes that follow on one another, as those of a machine do.
    """
    world = dist.get_world_size()
    size = processes or world
    shape, names = ((world,), ("shard",)) if size == world else ((world // size, size), ("replicate", "shard"))
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
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


def shards_of(model: nn.Module) -> int:
    """Return over how many processes the weights are divided; 1 if they are not."""
    meshes = {each.device_mesh for each in model.parameters() if isinstance(each, DTensor)}
    return meshes.pop().size(-1) if meshes else 1


def is_saved_here(tensor: Tensor, *, is_main: bool) -> bool:
    """Return whether this process saves its rows of a tensor: the first one of those that hold the same."""
    if not isinstance(tensor, DTensor):
        return is_main
    place = tensor.device_mesh.get_coordinate()
    assert place is not None
    return not any(number for number, kind in zip(place, tensor.placements, strict=True) if kind.is_replicate())


def check_wrapper(model: nn.Module) -> str:
    """Return how the processes share a model: FSDP, DDP or one process.

    Raises:
        ConfigError: not as the launcher asked; each process would train a model of its own.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    asked = "one process" if world == 1 else "FSDP" if is_requested() else "DDP"
    wrapper = {"FSDP": FSDPModule, "DDP": DistributedDataParallel}.get(asked)
    if not isinstance(model, wrapper or nn.Module) or (wrapper is None and hasattr(model, "module")):
        raise ConfigError(
            f"{asked} was asked for, but the model is a {type(model).__name__}: start it as docs/cluster.md says"
        )
    return asked
