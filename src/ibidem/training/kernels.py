"""Kernels for GPUs that a training may ask for: of other packages, which the extra `cuda` brings."""

from importlib.util import find_spec

import torch

from ibidem.errors import ConfigError
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training.config import TrainLoopConfig


def check(training: TrainLoopConfig) -> None:
    """Fail if a kernel is asked for that cannot run here.

    Raises:
        ConfigError: its package is not installed, or there is no GPU.
    """
    if training.loss == "liger":
        _check_package("training.loss liger", "liger_kernel", "liger-kernel")


def use(model: Decoder, training: TrainLoopConfig) -> Decoder:
    """Let a decoder compute with the kernels that a training asks for; return it."""
    model.loss_kernel = training.loss
    return model


def _check_package(setting: str, module: str, package: str) -> None:
    if find_spec(module) is None:
        raise ConfigError(f"{setting} needs {package}: pip install 'ibidem[cuda]'")
    if not torch.cuda.is_available():
        raise ConfigError(f"{setting} needs a GPU, and torch finds none; leave it out")
