"""Adapters compute what whole matrices W + scale * B A compute, forward, backward and in generation."""

from collections.abc import Sequence

import pytest
import torch
from tests.modeling.test_modeling_custom import decoder, small
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from ibidem.modeling.adapters import Adapter, is_of_adapter, merged
from ibidem.modeling.attention import Documents
from ibidem.modeling.generate import Sampling, generate
from ibidem.modeling.modeling_custom import Decoder, Linear

EVERYWHERE = ("qkv", "out", "gate_up", "down")
RANK, SCALE = 3, 1.5
IDS = torch.randint(97, (2, 25), generator=torch.Generator().manual_seed(1))


def matrices(model: Decoder) -> dict[str, Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear)}


def adapted(model: Decoder, targets: Sequence[str] = EVERYWHERE, dropout: float = 0.0) -> Decoder:
    """Freeze a decoder, and give it adapters that do something."""
    generator = torch.Generator().manual_seed(7)
    model.requires_grad_(requires_grad=False)
    for name, matrix in matrices(model).items():
        if name.endswith(tuple(targets)):
            (outputs, inputs), dtype = matrix.weight.shape, matrix.weight.dtype
            a_RD = torch.randn((RANK, inputs), generator=generator).mul(0.3).to(dtype)
            b_OR = torch.randn((outputs, RANK), generator=generator).mul(0.3).to(dtype)
            matrix.adapter = Adapter(a_RD, b_OR, scale=SCALE, dropout=dropout)
    return model.train(model.training)


def naive(model: Decoder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a decoder without adapters, W + scale * B A among them, and the leaves A and B they depend on."""
    named = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    leaves = {name: tensor.requires_grad_() for name, tensor in named.items() if is_of_adapter(name)}
    whole = {name: tensor for name, tensor in named.items() if not is_of_adapter(name)}
    for name, matrix in matrices(model).items():
        if matrix.adapter is not None:
            a_RD, b_OR = leaves[f"{name}.adapter.a_RD"], leaves[f"{name}.adapter.b_OR"]
            whole[f"{name}.weight"] = whole[f"{name}.weight"] + SCALE * b_OR @ a_RD
    return whole, leaves


@pytest.mark.parametrize("targets", [EVERYWHERE, *((each,) for each in EVERYWHERE)])
@pytest.mark.parametrize(("qk_norm", "tied", "checkpointing"), [(True, True, False), (False, False, True)])
def test_loss_and_every_gradient_are_those_of_whole_matrices(
    targets: tuple[str, ...], qk_norm: bool, tied: bool, checkpointing: bool
) -> None:
    model = adapted(decoder(small(qk_norm=qk_norm, tied=tied)).double(), targets).train()
    model.gradient_checkpointing = checkpointing
    whole, leaves = naive(model)
    batch = IDS[:, :-1], IDS[:, 1:], Documents.of(IDS[:, :-1] == 5)
    loss, wanted = model(*batch), functional_call(Decoder(model.config).double(), whole, batch)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-9)
    loss.backward()
    trained = dict(model.named_parameters())
    for name, gradient in zip(leaves, torch.autograd.grad(wanted, list(leaves.values())), strict=True):
        assert float(gradient.abs().max()) > 1e-6
        torch.testing.assert_close(trained[name].grad, gradient, atol=1e-9, rtol=1e-7)
    assert {name for name, each in trained.items() if each.grad is not None} == set(leaves)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_merged_weights_are_the_same_model(qk_norm: bool) -> None:
    model = adapted(decoder(small(qk_norm=qk_norm)).double())
    base, plain = decoder(model.config).double(), Decoder(model.config).double().eval()
    plain.load_state_dict(merged(model))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(IDS), plain.logits(IDS), atol=1e-9, rtol=0)
        assert not torch.allclose(base.logits(IDS), plain.logits(IDS), atol=0.1)
    prompts, sampling = [IDS[0, :9].tolist()], Sampling(12, temperature=0.0)
    adapted_ids, plain_ids, base_ids = (generate(each, prompts, sampling, end_ids=()) for each in (model, plain, base))
    assert adapted_ids == plain_ids
    assert adapted_ids != base_ids


def test_dropout_changes_an_adapter_in_training_alone_and_what_is_dropped_has_no_gradient() -> None:
    plain, dropping = (adapted(decoder(small()).double(), dropout=dropout) for dropout in (0.0, 0.5))
    assert torch.equal(plain.logits(IDS), dropping.logits(IDS))
    torch.manual_seed(0)
    assert not torch.allclose(plain.logits(IDS), dropping.train().logits(IDS))
    whole = adapted(decoder(small()).double(), dropout=1 - 1e-12).train()
    whole(IDS[:, :-1], IDS[:, 1:]).backward()
    assert all(not each.grad.any() for name, each in whole.named_parameters() if is_of_adapter(name))


def test_the_mean_over_masks_of_dropout_is_the_adapter_without() -> None:
    adapter = Adapter(torch.randn(2, 6).double(), torch.randn(5, 2).double(), scale=SCALE, dropout=0.5).train()
    x, norm_weight = torch.randn(1, 1, 6).double(), torch.rand(6).double()
    torch.manual_seed(0)
    sampled = adapter.behind_norm(x.expand(1, 40_000, 6), norm_weight, 1e-5).mean(dim=1)
    torch.testing.assert_close(sampled, adapter.eval().behind_norm(x, norm_weight, 1e-5)[0], atol=0.15, rtol=0)


def test_sixteen_bits_come_close_to_float32() -> None:
    gradients = []
    for dtype in (None, torch.bfloat16):
        model = adapted(decoder(small(width=64))).train()
        for matrix in matrices(model).values():
            matrix.adapter.b_OR.data.mul_(0.3)  # larger ones saturate the attention, whose gradients then are chaotic
        model.compute_dtype = dtype
        model(IDS[:, :-1], IDS[:, 1:]).backward()
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def test_the_gradients_of_frozen_matrices_are_not_computed() -> None:
    counts = []
    for with_adapters in (False, True):
        model = decoder(small(width=64, ffn_hidden=256)).train()
        model = adapted(model) if with_adapters else model
        loss = model(IDS[:, :-1], IDS[:, 1:])
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.7 * counts[0]  # half, and what the adapters take


def test_what_is_kept_for_the_backward_pass_grows_by_the_rank_alone() -> None:
    kept = []
    for with_adapters in (False, True):
        model = decoder(small(width=64, ffn_hidden=256)).train()
        model = adapted(model) if with_adapters else model
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(IDS[:, :-1], IDS[:, 1:])
        parameters = {each.untyped_storage().data_ptr() for each in model.parameters()}
        kept.append(sum(size for place, size in sizes.items() if place not in parameters))
    values = 4 * IDS[:, :-1].numel()
    assert kept[1] <= kept[0] + 3 * len(EVERYWHERE) * (2 * RANK + 4) * values
