from pathlib import Path

import pytest
import torch
import yaml
from tests.conftest import REPOSITORY

from ibidem.config import build
from ibidem.modeling.attention import Documents
from ibidem.modeling.config import ModelConfig, read_model_config
from ibidem.modeling.loss import DEFAULT_TILE
from ibidem.modeling.modeling_custom import Block, Decoder
from ibidem.modeling.rope import Rope
from ibidem.training import memory
from ibidem.training.config import OptimConfig
from ibidem.training.memory import Setting, kept_by_block, need
from ibidem.training.optim import make_optimizer
from ibidem.training.plan import CARDS, RESERVED, PlanConfig, plan

BASE = read_model_config(REPOSITORY / "configs" / "model" / "base.py")
T = 128


def base_settings() -> dict:
    settings = yaml.safe_load((REPOSITORY / "configs" / "training" / "base.yaml").read_text())
    settings["optim"]["lr"] = float(settings["optim"]["lr"])
    return settings | {"model": str(REPOSITORY / settings["model"])}


def planned(**changes: object) -> dict[str, str]:
    """Return the rows of the plan of base.yaml."""
    settings = base_settings()
    training = changes.pop("training", {})
    config = build(PlanConfig, settings | changes | {"training": settings["training"] | training})
    return {name.strip(): value.strip() for name, _, value in (row.partition("  ") for row in _rows(plan(config)))}


def _rows(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


SHAPES = {
    "norms": ModelConfig(vocab_size=64, width=96, layers=1, heads=4, ffn_hidden=256, context=T),
    "grouped": ModelConfig(vocab_size=64, width=96, layers=1, heads=4, kv_heads=2, ffn_hidden=160, context=T),
    "plain": ModelConfig(vocab_size=64, width=64, layers=1, heads=2, ffn_hidden=256, context=T, qk_norm=False),
    "dropout": ModelConfig(vocab_size=64, width=96, layers=1, heads=4, ffn_hidden=192, context=T, dropout=0.1),
    "wide heads": ModelConfig(vocab_size=64, width=64, layers=1, heads=4, kv_heads=2, head_dim=32, ffn_hidden=160),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about its own compiler
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPES)
def test_what_a_block_keeps_is_what_autograd_keeps(name: str, dtype: torch.dtype, compiled: bool) -> None:
    shape = SHAPES[name]
    torch.compiler.reset()
    block, rope = Block(shape), Rope(shape)
    if compiled:  # inductor's choice of what to keep, without its compiler
        block.compile(backend="aot_eager_decomp_partition", dynamic=False, fullgraph=True)
    starts = torch.zeros(1, T, dtype=torch.bool)
    starts[:, 50] = True
    documents = Documents.of(starts)
    excluded = {t.untyped_storage().data_ptr() for t in (*block.parameters(), *rope.buffers(), documents.layout)}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            storages[storage.data_ptr()] = storage
        return tensor

    x_BTD = torch.randn(1, T, shape.width, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block(x_BTD, rope.first(T), documents)
    measured = sum(storage.nbytes() for storage in storages.values())
    setting = Setting(tokens=T, value_bytes=dtype.itemsize, compiled=compiled)
    casts = 2 * shape.block_parameters if dtype.itemsize == 2 else 0
    assert memory.activation_bytes(shape, setting) + casts == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_states_of_a_plan_are_those_of_the_optimizer(name: str) -> None:
    shape = ModelConfig(vocab_size=640, width=96, layers=2, heads=4, kv_heads=2, ffn_hidden=160, context=T)
    model = Decoder(shape)
    model.init_weights(0)
    optimizer = make_optimizer(model, OptimConfig(name=name))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    measured = sum(each.nbytes for each in [*model.parameters(), *model.parameters(), *states])
    assert memory.learner_bytes(shape, Setting(tokens=T, optimizer=name)) == measured


def test_a_plan_names_its_optimizer() -> None:
    settings = base_settings()["optim"]
    adamw, muon = (planned(gpus=1, optim=settings | {"name": name}) for name in ("adamw", "muon"))
    assert adamw["weights, gradients, AdamW, 32 bit"] == "10.67 GB"
    assert float(muon["weights, gradients, Muon, 32 bit"].split()[0]) == pytest.approx(10.67 - 4 * 0.566, abs=0.02)


def test_checkpointing_keeps_less() -> None:
    kept, checkpointed = (memory.activation_bytes(BASE, Setting(tokens=8192, checkpointing=on)) for on in (False, True))
    assert checkpointed < kept / 6


def test_the_chunk_of_logits_is_that_of_the_loss() -> None:
    assert DEFAULT_TILE.tokens == memory.CHUNK_TOKENS


def test_a_plan_names_each_part_of_the_memory_eager_and_compiled() -> None:
    rows = planned(gpus=1)
    states, casts = rows["weights, gradients, AdamW, 32 bit"], rows["weights cast to 16 bit"]
    assert (states, casts) == ("10.67 GB", "1.33 GB")
    per_token = sum(part.bytes_of(2) for part in kept_by_block(BASE, compiled=False, value_bytes=2))
    kept = f"{24 * 32_768 * per_token / 1e9:.2f} GB"
    assert rows["activations of 32,768 tokens"].startswith(f"eager {kept}, compiled ")
    assert "with checkpointing" in rows["activations of 32,768 tokens"]
    assert "loss: gradients, and logits of 2,048 tokens" in rows


def test_the_base_configuration_fits_one_card_of_80_gb_compiled_or_not() -> None:
    assert planned(gpus=1)["fits on H100 80 GB"] == "eager fits, compiled fits"


@pytest.mark.parametrize(("card", "said"), [("A100 40 GB", "does not fit"), ("L4 24 GB", "does not fit")])
def test_the_base_configuration_does_not_fit_a_small_card(card: str, said: str) -> None:
    assert planned(gpus=1)[f"fits on {card}"] == f"eager {said}, compiled {said}"


def test_a_card_fits_up_to_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    total = need(BASE, Setting(tokens=32_768)).total
    for num_bytes, said in ((total / (1 - RESERVED) + 1e6, "eager fits"), (total / (1 - RESERVED) - 1e6, "eager does")):
        monkeypatch.setitem(CARDS, "A100 40 GB", num_bytes)
        assert planned(gpus=1)["fits on A100 40 GB"].startswith(said)


def test_sharding_divides_the_states_and_gathers_two_blocks() -> None:
    alone, sharded = (need(BASE, Setting(tokens=8192, sharded_over=gpus, accumulates=False)) for gpus in (None, 8))
    assert sharded.states == pytest.approx(alone.states / 8)
    assert (alone.gathered, sharded.casts) == (0, 0)
    root = BASE.parameters - BASE.layers * BASE.block_parameters
    assert sharded.gathered == 2 * (2 * BASE.block_parameters + root) + 6 * BASE.block_parameters


def test_accumulated_gradients_are_not_sharded() -> None:
    once, accumulated = (need(BASE, Setting(tokens=8192, sharded_over=8, accumulates=on)) for on in (False, True))
    assert accumulated.total - once.total == 4 * BASE.parameters


def test_several_cards_show_both_ways_to_use_them() -> None:
    rows = planned(gpus=8)
    assert rows["total on each GPU, FSDP over 8"].startswith("eager ")
    assert rows["fits on RTX 4090 24 GB"].startswith("eager does not fit, compiled does not fit; sharded: eager ")


def test_mfu_counts_full_attention_as_everyone_publishes_it() -> None:
    """nanochat's 49 % on eight H100: PaLM's appendix B counts what the causal mask skips."""
    rows = planned(gpus=8, mfu=0.49)
    full, causal = BASE.flops_per_token(8192, causal=False), BASE.flops_per_token(8192, causal=True)
    assert full / causal == pytest.approx(1.312, rel=1e-3)
    assert rows["speed on 8 GPUs at 49 % MFU"] == f"{8 * 989e12 * 0.49 / full:,.0f} tokens/s"


def test_a_plan_prints_both_conventions_of_mfu() -> None:
    rows = planned(gpus=1, mfu=0.55)
    full, causal = BASE.flops_per_token(8192, causal=False), BASE.flops_per_token(8192, causal=True)
    assert rows["FLOP per token, forward and backward"] == "7.63 G with full attention, 5.81 G with its causal half"
    share = f"{100 * 0.55 * causal / full:.0f} %"
    assert rows["speed on 1 GPU at 55 % MFU"].endswith("tokens/s")
    assert rows["MFU with the causal half counted"] == share


def test_float32_takes_more_and_casts_nothing() -> None:
    rows = planned(gpus=1, training={"mixed_precision": "no"})
    assert "weights cast to 16 bit" not in rows
    wide, narrow = (need(BASE, Setting(tokens=8192, value_bytes=size)) for size in (4, 2))
    assert wide.activations > 1.9 * narrow.activations


def test_the_twin_with_heads_of_128_has_the_parameters_of_base_but_for_the_norms_of_its_heads() -> None:
    twin = read_model_config(Path("base_12_heads"))
    assert (twin.heads, twin.head_width, twin.parameters) == (12, 128, 666_975_744)
    assert twin.parameters - BASE.parameters == 24 * 2 * (128 - 96)
    assert twin.flops_per_token(8192) == BASE.flops_per_token(8192)
