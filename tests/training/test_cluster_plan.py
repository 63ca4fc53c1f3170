from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.training.test_plan import BASE, base_settings
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from ibidem.config import build
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training import sharding
from ibidem.training.cluster import ClusterConfig, Estimate, Work, estimate
from ibidem.training.memory import Setting
from ibidem.training.plan import PlanConfig, plan

SHAPE = ModelConfig(vocab_size=512, width=64, layers=3, heads=4, kv_heads=2, ffn_hidden=128, context=64, qk_norm=False)
GPUS = 8


def estimated(gpus: int, *, shape: ModelConfig = SHAPE, value_bytes: int = 4, **cluster: Any) -> Estimate:
    work = Work(
        shape=shape,
        setting=Setting(tokens=0, value_bytes=value_bytes),
        context=shape.context,
        flops_per_token=shape.flops_per_token(shape.context, causal=False),
        batch=64,
        micro_batch=2,
        steps=1000,
        flops_per_gpu=4e14,
        price=2.5,
    )
    return estimate(work, gpus, ClusterConfig(**cluster))


class Sent(TorchDispatchMode):
    """Counts what the collectives of a process gather and reduce."""

    gathered = reduced = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d._allgather_base_.default:
            self.gathered += args[0].nbytes
        if func is torch.ops.c10d._reduce_scatter_base_.default:
            self.reduced += args[1].nbytes
        return func(*args, **kwargs or {})


@pytest.fixture
def eight_processes() -> Iterator[None]:
    """One process of eight; the others are not there, and nothing is sent."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=GPUS)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("eight_processes")
def test_the_bytes_of_a_step_are_those_that_fsdp_sends() -> None:
    model = Decoder(SHAPE)
    model.init_weights(0)
    sharding.shard(model, torch.device("cpu"))
    ids_BT = torch.zeros(2, SHAPE.context, dtype=torch.long)
    planned = estimated(GPUS)
    micro_batches = planned.batch // GPUS // planned.micro_batch
    with Sent() as sent:
        for number in range(micro_batches):
            sharding.reduces_when(model, is_last=number == micro_batches - 1)
            model(ids_BT, ids_BT).sum().backward()
    others = (GPUS - 1) / GPUS
    assert planned.inside == pytest.approx(others * (sent.gathered + sent.reduced), rel=1e-3)


def test_one_gpu_sends_nothing() -> None:
    assert (estimated(1).inside, estimated(1).between) == (0, 0)


def test_only_gradients_travel_between_machines() -> None:
    one, two = estimated(8), estimated(16)
    assert one.between == 0
    assert two.between == 4 * SHAPE.parameters / 8  # a ring of two: half a shard's sums, there and back


@pytest.mark.parametrize("gpus", [1, 8, 64, 512])
def test_the_tokens_of_a_training_do_not_depend_on_the_gpus(gpus: int) -> None:
    found = estimated(gpus)
    assert found.steps * found.step_tokens == 64 * 64 * 1000
    assert found.batch == max(64, gpus)


def test_the_interval_of_checkpoints_loses_least_time() -> None:
    best = estimated(512)
    between_s = 50_000 * 3600 / 512
    for factor in (0.5, 2.0):
        other = best.interval_s * factor
        assert best.stall_s / other + (other / 2 + 15 * 60) / between_s > best.lost


def test_more_gpus_take_less_memory_each_and_fail_more_often() -> None:
    one, many = (estimated(gpus, shape=BASE, value_bytes=2) for gpus in (1, 8))
    assert many.memory < one.memory
    assert many.failures == pytest.approx(one.failures, rel=0.01)  # the same GPU-hours


def test_a_slow_network_is_not_hidden() -> None:
    base = BASE
    fast, slow = (estimated(64, shape=base, value_bytes=2, network_gb_per_s=each) for each in (50, 0.1))
    assert fast.hidden_s < fast.shown_s < slow.hidden_s


def test_a_plan_compares_clusters_and_says_what_it_assumes() -> None:
    settings = base_settings()
    config = build(PlanConfig, settings | {"compare": [1, 8, 64, 512]})
    lines = plan(config).splitlines()
    assert lines[0].split() == ["GPUs", "1", "8", "64", "512"]
    assert [word for word in lines if word.startswith("cost")]
    assert "396 TFLOP/s" in lines[-1]
    assert "70 % of 450 GB/s" in lines[-1]
