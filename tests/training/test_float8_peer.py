"""Training with torchao's products in float8, whose rounded numbers are multiplied in float32 on a CPU.

torchao is part of the extra `cuda`: `pip install --target DIR --no-deps -c constraints.txt torchao`, and DIR at the end
of PYTHONPATH.
"""

import json
import os
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch._inductor.config
import torch.distributed as dist
from tests.processes import together
from tests.training.test_resume import Settings, bits_per_byte, changed, losses, train, weights
from tests.training.test_sharding import SHAPE, accumulated
from torch import Tensor

from ibidem import artifacts
from ibidem.modeling import float8, tensor_files
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder, Linear
from ibidem.records import Float8Recipe
from ibidem.training import kernels, session, sharding

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of torchao, and of torch's compiler
]
RECIPES: tuple[Float8Recipe, ...] = ("tensorwise", "rowwise", "rowwise_with_gw_hp")
GRADIENTS = 0.1
"""Bound of the difference of all gradients together from those of bfloat16, relative to their norm. Numbers have a
relative precision of 2**-4 in e4m3 and of 2**-3 in e5m2."""


def multiplying(model: Decoder, recipe: Float8Recipe) -> Decoder:
    product = float8.product(recipe, emulate=True)
    for module in model.blocks.modules():
        if isinstance(module, Linear):
            module.product = product
    return model


def gradients(recipe: Float8Recipe | None, shape: ModelConfig, *, compiled: bool = False) -> tuple[float, Tensor]:
    model = Decoder(shape, compute_dtype=torch.bfloat16).train()
    model.init_weights(0)
    if recipe is not None:
        multiplying(model, recipe)
    if compiled:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        session.compile_blocks(model.blocks)
    ids = torch.randint(97, (2, 33), generator=torch.Generator().manual_seed(4))
    loss = model(ids[:, :-1], ids[:, 1:])
    loss.backward()
    if compiled:
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    return float(loss.detach()), torch.cat([each.grad.flatten() for each in model.parameters()])


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_gradients_are_near_those_of_bfloat16_also_compiled(
    qk_norm: bool, recipe: Float8Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "COMPILER", "aot_eager")
    shape = ModelConfig(vocab_size=97, width=64, layers=2, heads=4, kv_heads=2, ffn_hidden=96, qk_norm=qk_norm)
    loss, expected = gradients(None, shape)
    eager, compiled = gradients(recipe, shape), gradients(recipe, shape, compiled=True)
    assert eager[0] == pytest.approx(loss, rel=1e-3)
    assert 1e-3 < error(eager[1], expected) < GRADIENTS
    assert error(compiled[1], eager[1]) < 1e-2
    assert compiled[0] == pytest.approx(eager[0], rel=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torchao is not compiled: g++ is not installed")
def test_gradients_that_inductor_computes_are_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ModelConfig(vocab_size=97, width=64, layers=2, heads=4, kv_heads=2, ffn_hidden=96)
    (_, expected), (_, eager) = gradients(None, shape), gradients("tensorwise", shape)
    assert 1e-3 < error(gradients("tensorwise", shape, compiled=True)[1], expected) < GRADIENTS
    monkeypatch.setattr(torch._inductor.config, "emulate_precision_casts", True)  # round where eager operations do
    assert error(gradients("tensorwise", shape, compiled=True)[1], eager) < 1e-6


def sharded_step(rank: int, port: int, out: Path, recipe: Float8Recipe) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = multiplying(Decoder(SHAPE, compute_dtype=torch.bfloat16), recipe)
    model.init_weights(0)
    sharding.shard(model, torch.device("cpu"))
    accumulated(model, [rank, rank + 2], scale=2)
    gradients = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
    if rank == 0:
        torch.save(gradients, out)
    dist.destroy_process_group()


@pytest.mark.parametrize("recipe", RECIPES)
def test_sharded_gradients_are_those_of_one_process(recipe: Float8Recipe, tmp_path: Path) -> None:
    together(sharded_step, tmp_path / "gradients.pt", recipe)
    sharded = torch.load(tmp_path / "gradients.pt", weights_only=True)
    model = multiplying(Decoder(SHAPE, compute_dtype=torch.bfloat16), recipe)
    model.init_weights(0)
    accumulated(model, [0, 1, 2, 3], scale=1)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(sharded[name], parameter.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_learns_resumes_to_the_bit_and_leaves_checkpoints_as_they_are(
    recipe: Float8Recipe, train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for check in ("check", "check_sizes"):
        monkeypatch.setattr(kernels, check, lambda *_, **__: None)
    monkeypatch.setattr(kernels, "use", partial(kernels.use, emulate=True))
    asked = changed(train_settings, training__mixed_precision="bf16", checkpoints__every=40)
    train(asked, output_dir=tmp_path / "usual")
    train(asked, output_dir=tmp_path / "whole", training__float8=recipe)
    for more in ({"training__stop_at_step": 20}, {"training__resume_from": "latest"}):
        train(asked, output_dir=tmp_path / "parts", training__float8=recipe, **more)
    usual, whole = losses(tmp_path / "usual"), losses(tmp_path / "whole")
    assert whole != usual
    assert whole[40] < whole[1] - 0.8 * (usual[1] - usual[40]), "it learns as it does without"
    assert bits_per_byte(tmp_path / "whole")[-1] == pytest.approx(bits_per_byte(tmp_path / "usual")[-1], rel=0.05)
    assert weights(tmp_path / "parts", 40) == weights(tmp_path / "whole", 40)
    assert described(tmp_path / "whole") == described(tmp_path / "usual")
    manifests = [artifacts.load(tmp_path / run / "checkpoints" / "step-000040").config for run in ("usual", "whole")]
    named = [json.loads(json.dumps(each["train"]["training"])) for each in manifests]
    assert named[1] == named[0] | {"float8": recipe}


def described(run: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of each weight of the last checkpoint, by its name."""
    from safetensors.torch import load_file

    files = tensor_files.files_of(run / "checkpoints" / "step-000040", "model")
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
