"""Kernels for GPUs: what cannot run here is refused in one line, and what is asked for is what a step computes with."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.training.test_resume import Settings, bits_per_byte, changed, losses, train
from torch import Tensor

from ibidem.config import build, settings
from ibidem.errors import ConfigError
from ibidem.modeling.loss import IGNORE
from ibidem.training import kernels
from ibidem.training.config import TrainConfig

PACKAGES = {"loss": ("liger", "liger_kernel", "liger-kernel")}


@pytest.mark.parametrize("setting", PACKAGES)
def test_a_kernel_is_refused_in_one_line_without_its_package_and_without_a_gpu(
    setting: str, train_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, module, package = PACKAGES[setting]
    asked = changed(train_settings, **{f"training__{setting}": value})
    monkeypatch.setattr(kernels, "find_spec", lambda name: None if name == module else ...)
    with pytest.raises(
        ConfigError, match=rf"^training.{setting} {value} needs {package}: pip install 'ibidem\[cuda\]'$"
    ):
        train(asked)
    monkeypatch.setattr(kernels, "find_spec", lambda _: ...)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"^training.{setting} {value} needs a GPU, and torch finds none"):
        train(asked)
    assert not Path(asked["output_dir"]).exists()


def test_manifests_of_runs_without_kernels_do_not_name_them(train_settings: Settings) -> None:
    named = settings(build(TrainConfig, train_settings))["training"]
    assert not named.keys() & PACKAGES.keys()


def test_the_loss_of_liger_is_refused_in_fp16(train_settings: Settings) -> None:
    with pytest.raises(ConfigError, match="loss liger would overflow in fp16: give mixed_precision bf16"):
        build(TrainConfig, changed(train_settings, training__loss="liger", training__mixed_precision="fp16"))


def test_a_step_computes_the_loss_of_liger_and_a_measurement_the_chunked_one(
    train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def stand_in(hidden: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor | None, ...]:
        calls.append(options)
        counts = (targets != IGNORE)[:, None].float()
        logits, z_loss = hidden @ weight.T, options["lse_square_scale"]
        lse = logits.logsumexp(1, keepdim=True)
        right = torch.nn.functional.one_hot(targets.clamp(min=0), len(weight)).float()
        loss = ((lse - (logits * right).sum(1, keepdim=True) + z_loss * lse.square()) * counts).sum()
        gradient = (logits.softmax(1) * (1 + 2 * z_loss * lse) - right) * counts
        return loss, None, None, None, gradient @ weight, gradient.T @ hidden, None

    liger = ModuleType("liger_kernel.ops.fused_linear_cross_entropy")
    liger.fused_linear_cross_entropy_forward = stand_in  # type: ignore[attr-defined]
    for name in ("liger_kernel", "liger_kernel.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, liger.__name__, liger)
    monkeypatch.setattr(kernels, "_check_package", lambda *_: None)
    asked = changed(train_settings, training__steps=3, validation__every=1, optim__z_loss=1e-3)
    train(asked, output_dir=tmp_path / "chunked")
    train(asked, output_dir=tmp_path / "liger", training__loss="liger")
    micro_batches = asked["training"]["batch_sequences"] // asked["training"].get("micro_batch_sequences", 1)
    assert len(calls) == 3 * micro_batches
    assert {each["accum_dtype"] for each in calls} == {torch.float32}
    assert {(each["ignore_index"], each["reduction"]) for each in calls} == {(IGNORE, "sum")}
    assert losses(tmp_path / "liger") == pytest.approx(losses(tmp_path / "chunked"), rel=1e-5)
    assert bits_per_byte(tmp_path / "liger") == pytest.approx(bits_per_byte(tmp_path / "chunked"), rel=1e-5)
