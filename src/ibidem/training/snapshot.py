"""What a checkpoint holds of a learner and of this process: named tensors and plain values, taken and put back.

    weights        the model's state                       model.safetensors, or model/, a file for each process
    optimizer      PARAMETER/exp_avg and so on             optimizer.safetensors, or optimizer/
    random states  of Python, numpy, torch, each device    random_states_<process>.json

Names do not depend on how the training is divided, so what one kind of run saved, another goes on from: one process,
DDP, or FSDP on any number of processes. The optimizer's settings are those of the run that goes on.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ibidem.errors import CheckpointError
from ibidem.modeling.tensor_files import Part, Tensors, part_of
from ibidem.training import sharding
from ibidem.training.loop import Learner


class Snapshot(NamedTuple):
    """What this process adds to a checkpoint."""

    weights: list[Part]
    optimizer: list[Part]
    adapters: list[Part]
    """None but of a run that trains adapters."""
    random_states: dict[str, Any]
    shards: int
    """Number of processes that hold different rows, each of which writes a file; 1: nothing is divided."""


def take(learner: Learner, *, is_main: bool) -> Snapshot:
    """Return what this process has to save; tensors are those of the training, not copies.

    Args:
        learner: model and optimizer.
        is_main: whether this is the main process, which saves what all processes hold alike.
    """
    module, adapters = _unwrapped(learner.model), learner.adapters
    state = module.state_dict() if adapters is None else adapters.merged()  # with FSDP, this divides the model again
    return Snapshot(
        _parts(state.items(), is_main=is_main),
        _parts(_optimizer_states(learner), is_main=is_main),
        [] if adapters is None else _parts(adapters.tensors().items(), is_main=is_main),
        random_states(),
        sharding.shards_of(module),
    )


def restore_weights(learner: Learner, saved: Tensors) -> None:
    """Put the weights back, on each process the rows that it holds.

    Raises:
        CheckpointError: the model has other weights.
    """
    own = _unwrapped(learner.model).state_dict()
    if differing := sorted(own.keys() ^ set(saved)):
        raise CheckpointError(f"{differing[0]} is in only one of them")
    with torch.no_grad():
        for name, tensor in own.items():
            saved.fill(tensor, name)


def restore_optimizer(learner: Learner, saved: Tensors) -> None:
    """Put the optimizer's states back, on each process the rows that it holds.

    Raises:
        CheckpointError: there are states of weights that are not trained here.
    """
    optimizer, left = _inner(learner.optimizer), set(saved)
    with torch.no_grad():
        for name, parameter in _named(learner):
            optimizer.state.pop(parameter, None)
            for key in [each for each in left if each.rpartition("/")[0] == name]:
                value = _like(parameter, saved.shape(key))
                saved.fill(value, key)
                optimizer.state[parameter][key.rpartition("/")[2]] = value
                left.discard(key)
    if left:
        raise CheckpointError(f"{min(left)}: there is no such parameter here")


def random_states() -> dict[str, Any]:
    """Return the random states of this process, as JSON values.

    >>> sorted(random_states())
    ['devices', 'numpy', 'python', 'torch']
    """
    name, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - what libraries draw from
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), place, has_gauss, gauss],
        "torch": _as_hex(torch.get_rng_state()),
        "devices": [_as_hex(state) for state in devices],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set the random states of this process."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(states["numpy"]))  # noqa: NPY002
    torch.set_rng_state(_from_hex(states["torch"]))
    if torch.cuda.is_available() and len(states["devices"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_from_hex(state) for state in states["devices"]])


def optimizer_name(learner: Learner) -> str:
    """Return what kind of optimizer it is; one cannot go on from the states of another."""
    return type(_inner(learner.optimizer)).__name__


def _parts(tensors: Iterable[tuple[str, Tensor]], *, is_main: bool) -> list[Part]:
    return [part_of(name, tensor) for name, tensor in tensors if sharding.is_saved_here(tensor, is_main=is_main)]


def _optimizer_states(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    optimizer = _inner(learner.optimizer)
    for name, parameter in _named(learner):
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}/{key}", value


def _named(learner: Learner) -> Iterator[tuple[str, nn.Parameter]]:
    names = {parameter: name for name, parameter in _unwrapped(learner.model).named_parameters()}
    for group in _inner(learner.optimizer).param_groups:
        for parameter in group["params"]:
            yield names[parameter], parameter


def _like(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros((), device=parameter.device) if not shape else torch.zeros_like(parameter)


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def _inner(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return an optimizer without accelerate's wrapper."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def _as_hex(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _from_hex(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
