"""Torch's switch between implementations of flash attention: set once at the start of a stage, or refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.training.test_resume import Settings, train
from torch.nn.attention import (
    _registry,
    current_flash_attention_impl,
    register_flash_attention_impl,
    restore_flash_attention_impl,
)

from ibidem.errors import ConfigError
from ibidem.modeling import flash_attention
from ibidem.serving.config import GenerateConfig
from ibidem.serving.generate import generate

CPU = torch.device("cpu")


class Fake:
    """An implementation that only counts how often it is switched on and off."""

    def __init__(self) -> None:
        self.on = self.off = 0

    def register(self) -> "Fake":
        self.on += 1
        return self

    def remove(self) -> None:
        self.off += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(_registry, "_FLASH_ATTENTION_IMPLS", dict(_registry._FLASH_ATTENTION_IMPLS))
    monkeypatch.setattr(flash_attention, "DEVICE", "cpu")
    found = Fake()
    register_flash_attention_impl("FA3", register_fn=found.register)
    yield found
    restore_flash_attention_impl(_raise_warn=False)


def test_a_training_switches_to_the_implementation_once(fake: Fake, train_settings: Settings, tmp_path: Path) -> None:
    train(train_settings, training__steps=2, training__flash_attention="FA3", training__mixed_precision="bf16")
    assert current_flash_attention_impl() == "FA3"
    assert (fake.on, fake.off) == (1, 0)
    train(train_settings, training__steps=2, output_dir=tmp_path / "another")
    assert current_flash_attention_impl() is None, "a stage that does not ask for it has torch's own"
    assert (fake.on, fake.off) == (1, 1)


def test_generation_switches_to_the_implementation_once(fake: Fake, checkpoint: Path) -> None:
    asked = {"checkpoint": checkpoint, "prompt": ("def ", "import "), "max_tokens": 2}
    text = generate(GenerateConfig(**asked, flash_attention="FA3"))
    assert current_flash_attention_impl() == "FA3"
    assert fake.on == 1
    assert generate(GenerateConfig(**asked)) == text
    assert current_flash_attention_impl() is None


def test_what_is_not_installed_is_refused_in_one_line_with_what_torch_says(
    train_settings: Settings, checkpoint: Path
) -> None:
    said = "FA3: No module named 'flash_attn_interface'; install it for this GPU, or leave it out"
    with pytest.raises(ConfigError) as refused:
        train(train_settings, training__flash_attention="FA3", training__mixed_precision="bf16")
    assert str(refused.value) == f"training.flash_attention {said}"
    with pytest.raises(ConfigError) as refused:
        generate(GenerateConfig(checkpoint=checkpoint, prompt=("def ",), flash_attention="FA3"))
    assert str(refused.value) == f"flash_attention {said}"


def test_an_implementation_that_is_installed_is_refused_without_a_gpu_and_in_32_bits(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, train_settings: Settings, checkpoint: Path
) -> None:
    monkeypatch.setattr(flash_attention, "DEVICE", "cuda")
    with pytest.raises(ConfigError, match="^flash_attention FA3: torch finds no GPU; install it"):
        flash_attention.use("FA3", "flash_attention", CPU)
    assert current_flash_attention_impl() is None
    assert fake.off == 1
    with pytest.raises(ValueError, match="computes in 16 bits: give mixed_precision bf16"):
        train(train_settings, training__flash_attention="FA3", training__mixed_precision="no")
    with pytest.raises(ValueError, match="computes in 16 bits: give weights bfloat16"):
        GenerateConfig(checkpoint=checkpoint, prompt=("def ",), flash_attention="FA3", weights="float32")


def test_what_does_not_fit_the_gpu_is_refused_at_the_start_and_switched_off(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("FA3 flash_attention forward unsupported: FA3 requires compute capability 9.0\nat line 430")

    monkeypatch.setattr(flash_attention, "causal_attention", refuse)
    with pytest.raises(ConfigError, match="^flash_attention FA3: .* requires compute capability 9.0; install it"):
        flash_attention.use("FA3", "flash_attention", CPU)
    assert current_flash_attention_impl() is None
    assert (fake.on, fake.off) == (1, 1)
