"""Muon: which parameters it updates, and that it does what its definition says."""

import os
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.processes import together
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ibidem.modeling.config import ModelConfig
from ibidem.modeling.heads import ValueDecoder
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training import optim
from ibidem.training.config import OptimConfig
from ibidem.training.optim import Muon, adamw, make_optimizer, muon, orthogonalize, set_learning_rate

SHAPE = ModelConfig(
    vocab_size=40, width=24, layers=2, heads=4, kv_heads=2, ffn_hidden=56, context=16, tied=False, qk_norm=True
)


def decoder(seed: int = 0) -> Decoder:
    model = Decoder(SHAPE)
    model.init_weights(seed)
    return model


def gradients(model: Decoder, seed: int) -> None:
    """Give every parameter a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def groups_of(model: Decoder, config: OptimConfig) -> dict[str, dict]:
    """Map each parameter's name to its group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, config).param_groups
    found = [(names[id(parameter)], group) for group in groups for parameter in group["params"]]
    assert len(found) == len({name for name, _ in found}) == len(names), "each parameter is in exactly one group"
    return dict(found)


def test_muon_updates_the_matrices_of_the_blocks_and_adamw_everything_else() -> None:
    groups = groups_of(decoder(), OptimConfig(name="muon", lr=1e-3, matrix_lr=5e-3, weight_decay=0.3))
    parts = {name: group.get("parts") for name, group in groups.items()}
    matrices = {name for name in groups if ".attention." in name or ".ffn." in name} - {
        name for name in groups if "norm" in name
    }
    assert len(matrices) == 8
    assert {name for name, rows in parts.items() if rows is not None} == matrices
    assert parts["blocks.1.attention.qkv.weight"] == (24, 12, 12)
    assert parts["blocks.1.ffn.gate_up.weight"] == (56, 56)
    assert parts["blocks.1.attention.out.weight"] == parts["blocks.0.ffn.down.weight"] == (24,)
    decays = {name: group["weight_decay"] for name, group in groups.items()}
    assert {name for name, decay in decays.items() if decay == 0.0} == {name for name in groups if "norm" in name}
    assert set(decays.values()) == {0.0, 0.3}


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_value_head_takes_the_steps_of_adamw(name: str) -> None:
    group = groups_of(ValueDecoder(SHAPE), OptimConfig(name=name, weight_decay=0.3))["value_1D"]
    assert "parts" not in group
    assert group["weight_decay"] == 0.3


def test_a_frozen_matrix_is_in_no_group() -> None:
    model = decoder()
    model.blocks[0].ffn.down.weight.requires_grad_(False)
    updated = {id(parameter) for group in muon(model, OptimConfig()).param_groups for parameter in group["params"]}
    assert id(model.blocks[0].ffn.down.weight) not in updated
    assert id(model.blocks[1].ffn.down.weight) in updated


def test_the_schedule_scales_each_group_by_its_own_peak() -> None:
    optimizer = muon(decoder(), OptimConfig(name="muon", lr=1e-3, matrix_lr=5e-3))
    set_learning_rate(optimizer.param_groups, 1e-3 * 0.5)
    rates = {"parts" in group: group["lr"] for group in optimizer.param_groups}
    assert rates == {True: pytest.approx(2.5e-3), False: pytest.approx(5e-4)}


def polynomial(matrix: np.ndarray) -> np.ndarray:
    """Apply the iteration's polynomial to the singular values, in float64."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_orthogonalizing_applies_the_polynomial_to_the_singular_values(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "_matmul_dtype", lambda _device: dtype)
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 20), (20, 6), (12, 12), (6, 20), (1, 5), (12, 12)]
    matrices = [torch.randn(shape, generator=generator) for shape in shapes]
    matrices.append(torch.zeros(6, 20))
    for matrix, result in zip(matrices, orthogonalize(matrices), strict=True):
        expected = polynomial(matrix.double().numpy()) if matrix.any() else np.zeros(matrix.shape)
        assert np.abs(result.double().numpy() - expected).max() < tolerance


def naive_muon(
    weight: np.ndarray, gradients: list[np.ndarray], rows: list[int], *, lr: float, decay: float
) -> np.ndarray:
    """Take Muon's steps on one matrix, part by part, in float64."""
    edges = np.cumsum([0, *rows])
    result = []
    for low, high in pairwise(edges):
        part, mean = weight[low:high], np.zeros_like(weight[low:high])
        for gradient in gradients:
            mean = 0.95 * mean + 0.05 * gradient[low:high]
            ahead = 0.95 * mean + 0.05 * gradient[low:high]
            part = part - lr * decay * part - lr * 0.2 * np.sqrt(max(part.shape)) * polynomial(ahead)
        result.append(part)
    return np.concatenate(result)


def test_three_steps_equal_a_naive_muon_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "_matmul_dtype", lambda _device: torch.float32)
    model = decoder()
    before = {name: parameter.detach().double().numpy().copy() for name, parameter in model.named_parameters()}
    optimizer = muon(model, OptimConfig(name="muon", lr=0.02, weight_decay=0.1))
    seen: dict[str, list[np.ndarray]] = {name: [] for name in before}
    for step in range(3):
        gradients(model, step)
        for name, parameter in model.named_parameters():
            seen[name].append(parameter.grad.double().numpy().copy())
        optimizer.step()
    rows = {"qkv": [24, 12, 12], "gate_up": [56, 56], "out": [24], "down": [24]}
    after = dict(model.named_parameters())
    checked = 0
    for name, weight in before.items():
        if kind := next((kind for kind in rows if f".{kind}.weight" in name), None):
            expected = naive_muon(weight, seen[name], rows[kind], lr=0.02, decay=0.1)
            assert np.abs(after[name].detach().numpy() - expected).max() < 1e-5
            checked += 1
    assert checked == 8


def test_what_muon_does_not_update_takes_the_steps_of_adamw() -> None:
    config = OptimConfig(name="muon", lr=0.01)
    models = [decoder(), decoder()]
    optimizers = [muon(models[0], config), adamw(models[1], config)]
    for step in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            gradients(model, step)
            optimizer.step()
    ours, theirs = (dict(model.named_parameters()) for model in models)
    assert torch.equal(ours["embedding.weight_VD"], theirs["embedding.weight_VD"])
    assert torch.equal(ours["head.weight_VD"], theirs["head.weight_VD"])
    assert torch.equal(ours["blocks.1.attention.q_norm.weight"], theirs["blocks.1.attention.q_norm.weight"])
    assert not torch.equal(ours["blocks.1.attention.out.weight"], theirs["blocks.1.attention.out.weight"])


def test_a_parameter_without_a_gradient_stays() -> None:
    model = decoder()
    optimizer = muon(model, OptimConfig(name="muon", lr=0.01))
    gradients(model, 0)
    still = [model.blocks[0].attention.qkv.weight, model.norm.weight]
    before = [parameter.detach().clone() for parameter in still]
    for parameter in still:
        parameter.grad = None
    moved = model.blocks[1].attention.qkv.weight.detach().clone()
    optimizer.step()
    assert all(torch.equal(parameter, old) for parameter, old in zip(still, before, strict=True))
    assert not torch.equal(model.blocks[1].attention.qkv.weight, moved)


def test_matrices_of_one_shape_are_gathered_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gathered = decoder(), []
    together = optim.orthogonalize
    monkeypatch.setattr(optim, "_whole", lambda tensor: gathered.append(tensor.shape) or tensor)
    counts = []
    monkeypatch.setattr(optim, "orthogonalize", lambda parts: counts.append(len(gathered)) or together(parts))
    gradients(model, 0)
    muon(model, OptimConfig(name="muon", lr=0.01)).step()
    assert counts == [2, 4, 6, 8]
    assert all(len({*gathered[at : at + 2]}) == 1 for at in (0, 2, 4, 6))


def test_a_loaded_state_takes_the_same_steps() -> None:
    config = OptimConfig(name="muon", lr=0.01)
    first, second = decoder(), decoder()
    one = muon(first, config)
    gradients(first, 0)
    one.step()
    second.load_state_dict(first.state_dict())
    two = muon(second, config)
    two.load_state_dict(deepcopy(one.state_dict()))
    for model, optimizer in ((first, one), (second, two)):
        gradients(model, 1)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert isinstance(two, Muon)


def sharded_steps(rank: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    whole, sharded = decoder(), decoder()
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    config = OptimConfig(name="muon", lr=0.01)
    optimizers = [make_optimizer(model, config) for model in (whole, sharded)]
    for step in range(2):
        gradients(whole, step)
        for parameter, shard in zip(whole.parameters(), sharded.parameters(), strict=True):
            assert isinstance(shard, DTensor)
            rows = parameter.grad.chunk(2)[rank]
            shard.grad = DTensor.from_local(rows, mesh, shard.placements)
        for optimizer in optimizers:
            optimizer.step()
    for (name, parameter), shard in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        assert torch.allclose(parameter, shard.full_tensor(), atol=1e-6), name
    dist.barrier()
    dist.destroy_process_group()


def test_sharded_matrices_take_the_steps_of_whole_ones() -> None:
    together(sharded_steps)
