"""The implementation of flash attention that torch calls in this process: its own, or a package's for certain GPUs.

Torch's switch is for the whole process, so whoever starts a stage sets it once, also back to torch's own.
"""

import torch
from torch.nn.attention import (
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
)

from ibidem.errors import ConfigError
from ibidem.modeling.attention import Documents, causal_attention
from ibidem.records import FlashAttention

DEVICE = "cuda"
"""Type of the devices that it is for."""


def use(implementation: FlashAttention | None, setting: str, device: torch.device) -> None:
    """Switch to an implementation, and compute a small attention with it; None: torch's own.

    Args:
        implementation: its name.
        setting: the key that asks for it, for the message.
        device: where it will compute.

    Raises:
        ConfigError: it is not installed, or not for this device: what torch says.
    """
    if implementation is None:
        if current_flash_attention_impl() is not None:
            restore_flash_attention_impl()
        return
    try:
        activate_flash_attention_impl(implementation)
        _try_out(device)
    except (ImportError, RuntimeError, ValueError) as error:
        restore_flash_attention_impl(_raise_warn=False)
        said = str(error).partition("\n")[0]
        raise ConfigError(f"{setting} {implementation}: {said}; install it for this GPU, or leave it out") from None


def _try_out(device: torch.device) -> None:
    """Attend from one token to itself and back: what does not fit the device is found by the first call alone."""
    if device.type != DEVICE:
        raise ValueError("torch finds no GPU")
    q, k, v = (torch.ones(1, 1, 1, 64, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in "qkv")
    documents = Documents.of(torch.ones(1, 1, dtype=torch.bool)).to(device)
    causal_attention(q, k, v, documents).sum().backward()  # type: ignore[no-untyped-call]
