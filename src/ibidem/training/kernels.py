"""Kernels for GPUs that a training may ask for: of other packages, which the extra `cuda` brings.

What is measured during a training uses none of them, so that figures of all trainings compare.
"""

from importlib.util import find_spec

import torch

from ibidem.errors import ConfigError
from ibidem.modeling import float8
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder, Linear
from ibidem.training.config import TrainLoopConfig


def check(training: TrainLoopConfig) -> None:
    """Fail if a kernel is asked for that cannot run here.

    Raises:
        ConfigError: its package is not installed, or there is no GPU that has it.
    """
    if training.loss == "liger":
        _check_package("training.loss liger", "liger_kernel", "liger-kernel")
    if training.float8 is not None:
        setting = f"training.float8 {training.float8}"
        _check_package(setting, "torchao", "torchao")
        _check_capability(setting)


def use(model: Decoder, training: TrainLoopConfig, *, emulate: bool = False) -> Decoder:
    """Let a decoder compute its training steps with the kernels that a training asks for; return it.

    Args:
        model: the decoder.
        training: what asks for them.
        emulate: multiply what is rounded to float8 in float32, on any device.
    """
    model.loss_kernel = training.loss
    if training.float8 is not None:
        product = float8.product(training.float8, emulate=emulate)
        for module in model.blocks.modules():
            if isinstance(module, Linear):
                module.product = product
    return model


def _check_package(setting: str, module: str, package: str) -> None:
    if find_spec(module) is None:
        raise ConfigError(f"{setting} needs {package}: pip install 'ibidem[cuda]'")
    if not torch.cuda.is_available():
        raise ConfigError(f"{setting} needs a GPU, and torch finds none; leave it out")


def _check_capability(setting: str) -> None:
    if (found := torch.cuda.get_device_capability()) < float8.CAPABILITY:
        needed, has = (".".join(map(str, each)) for each in (float8.CAPABILITY, found))
        raise ConfigError(f"{setting} needs a GPU of compute capability {needed}, and this one has {has}; leave it out")


def check_sizes(training: TrainLoopConfig, shape: ModelConfig, *, context: int) -> None:
    """Fail if the sizes of a model are not those of the operands of a kernel that is asked for.

    Raises:
        ConfigError: they are not.
    """
    if training.float8 is None:
        return
    sizes = {
        "width": shape.width,
        "ffn_hidden": shape.ffn_hidden,
        "heads x their width": shape.query_width,
        "kv_heads x their width": shape.num_kv_heads * shape.head_width,
        "tokens of a micro batch": training.micro_batch_sequences * context,
    }
    if wrong := next((name for name, size in sizes.items() if size % float8.MULTIPLE), None):
        found = f"{wrong} {sizes[wrong]} is not a multiple of {float8.MULTIPLE}"
        raise ConfigError(f"training.float8 {training.float8}: {found}; leave it out")
