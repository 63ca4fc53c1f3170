"""Kernels for GPUs: what cannot run here is refused in one line, and what is asked for is what a step computes with."""

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.training.test_resume import Settings, bits_per_byte, changed, losses, train
from torch import Tensor

from ibidem.config import build, settings
from ibidem.errors import ConfigError
from ibidem.modeling import float8
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.loss import IGNORE
from ibidem.modeling.modeling_custom import Decoder, Linear
from ibidem.training import kernels
from ibidem.training.config import TrainConfig, TrainLoopConfig

PACKAGES = {"loss": ("liger", "liger_kernel", "liger-kernel"), "float8": ("rowwise", "torchao", "torchao")}


@pytest.mark.parametrize("setting", PACKAGES)
def test_a_kernel_is_refused_in_one_line_without_its_package_and_without_a_gpu(
    setting: str, train_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, module, package = PACKAGES[setting]
    asked = changed(train_settings, **{f"training__{setting}": value, "training__mixed_precision": "bf16"})
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training__loss": "liger", "training__mixed_precision": "fp16"}, "loss liger would overflow in fp16"),
        ({"training__float8": "rowwise"}, "float8 is for products whose results are bf16: give mixed_precision bf16"),
    ],
)
def test_kernels_are_refused_in_a_precision_that_they_are_not_for(
    changes: dict[str, str], said: str, train_settings: Settings
) -> None:
    with pytest.raises(ConfigError, match=said):
        build(TrainConfig, changed(train_settings, **changes))


@pytest.mark.parametrize(
    ("shape", "context", "said"),
    [
        ({"ffn_hidden": 40}, 32, "ffn_hidden 40 is not a multiple of 16"),
        ({"heads": 2, "kv_heads": 1, "head_dim": 24}, 32, "kv_heads x their width 24 is not"),
        ({}, 20, "tokens of a micro batch 20 is not"),
    ],
)
def test_sizes_that_float8_does_not_multiply_are_refused(shape: dict[str, int], context: int, said: str) -> None:
    model = ModelConfig(**{"vocab_size": 97, "width": 48, "layers": 1, "heads": 3, "ffn_hidden": 64} | shape)
    training = TrainLoopConfig(steps=1, batch_sequences=1, float8="tensorwise")
    with pytest.raises(ConfigError, match=f"^training.float8 tensorwise: {said}"):
        kernels.check_sizes(training, model, context=context)


def test_a_gpu_that_does_not_multiply_in_float8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_check_package", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    training = TrainLoopConfig(steps=1, batch_sequences=1, float8="rowwise")
    with pytest.raises(ConfigError, match="needs a GPU of compute capability 8.9, and this one has 8.0; leave it out"):
        kernels.check(training)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # what torch's compiler does itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_matrices_with_a_product_of_their_own_compute_the_same_block(qk_norm: bool, compiled: bool) -> None:
    shape = ModelConfig(vocab_size=97, width=32, layers=1, heads=4, kv_heads=2, ffn_hidden=48, qk_norm=qk_norm)
    ids = torch.randint(97, (2, 17), generator=torch.Generator().manual_seed(1))
    found = []
    for product in (None, torch.nn.functional.linear):
        model = Decoder(shape).train()
        model.init_weights(0)
        for module in model.blocks.modules():
            if isinstance(module, Linear):
                module.product = product
        if compiled:
            torch.compiler.reset()
            model.blocks[0].compile(backend="eager", fullgraph=True)
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for own, usual in zip(*found, strict=True):
        torch.testing.assert_close(own, usual, atol=1e-6, rtol=1e-5)


def test_float8_multiplies_in_steps_by_all_matrices_of_the_blocks_and_in_no_measurement(
    train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    products: list[tuple[int, ...]] = []

    def multiplied(x: Tensor, weight: Tensor) -> Tensor:
        products.append(tuple(weight.shape))
        return torch.nn.functional.linear(x, weight)

    monkeypatch.setattr(kernels, "check", lambda *_, **__: None)
    monkeypatch.setattr(float8, "product", lambda _recipe, **_: multiplied)
    asked = changed(train_settings, training__steps=3, validation__every=1, training__mixed_precision="bf16")
    train(asked, output_dir=tmp_path / "usual")
    train(asked, output_dir=tmp_path / "float8", training__float8="tensorwise")
    blocks, micro_batches = 2, 2
    assert Counter(products) == dict.fromkeys([(96, 32), (32, 32), (128, 32), (32, 64)], 3 * blocks * micro_batches)
    assert losses(tmp_path / "float8") == pytest.approx(losses(tmp_path / "usual"), rel=1e-5)


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
