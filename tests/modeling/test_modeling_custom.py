import importlib.util

import pytest
import torch
from tests.conftest import REPOSITORY

from ibidem.modeling.attention import Documents, causal_attention
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.loss import linear_cross_entropy
from ibidem.modeling.modeling_custom import Decoder

_SPEC = importlib.util.spec_from_file_location(
    "huggingface_weights", REPOSITORY / "benchmarks" / "huggingface_weights.py"
)
huggingface_weights = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(huggingface_weights)


def small(**changes: object) -> ModelConfig:
    shape = {"vocab_size": 97, "width": 48, "layers": 3, "heads": 4, "kv_heads": 2, "ffn_hidden": 80, "context": 64}
    return ModelConfig(**(shape | changes))


def decoder(config: ModelConfig, seed: int = 0) -> Decoder:
    model = Decoder(config)
    model.init_weights(seed)
    with torch.no_grad():  # norms that do something
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.mul_(3)
    return model.eval()


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_logits_equal_hugging_face(qk_norm: bool, tied: bool, kv_heads: int) -> None:
    transformers = pytest.importorskip("transformers")
    model = decoder(small(qk_norm=qk_norm, tied=tied, kv_heads=kv_heads))
    shape = {
        "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 12,
        "num_key_value_heads": kv_heads, "intermediate_size": 80, "max_position_embeddings": 64,
        "rms_norm_eps": model.config.norm_eps, "tie_word_embeddings": tied, "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.config.rope_theta},
    }  # fmt: skip
    kind = "Qwen3" if qk_norm else "Llama"
    peer = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**shape)).eval()
    huggingface_weights.copy(model, peer)
    ids = torch.randint(97, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids), peer(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_and_its_gradients_equal_plain_cross_entropy(tied: bool) -> None:
    model = decoder(small(tied=tied)).double()
    ids = torch.randint(97, (2, 21), generator=torch.Generator().manual_seed(2))
    targets = ids[:, 1:].clone()
    targets[0, 3] = -100
    loss = model(ids[:, :-1], targets)
    loss.backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    plain = torch.nn.functional.cross_entropy(
        model.logits(ids[:, :-1]).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    plain.backward()
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("tile", [(1, 31), (7, 8), (1000, 1000), (23, 5)])
def test_the_loss_does_not_depend_on_the_tiles(
    tile: tuple[int, int], z_loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibidem.modeling import loss

    hidden = torch.randn(23, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(31, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    targets = torch.randint(31, (23,), generator=torch.Generator().manual_seed(5))
    targets[[2, 9]] = loss.IGNORE
    monkeypatch.setitem(loss.TILES, "cpu", loss.Tile(*tile))
    mine = loss.linear_cross_entropy(hidden, weight, targets, z_loss=z_loss)
    logits = hidden @ weight.T
    plain = torch.nn.functional.cross_entropy(logits, targets, ignore_index=loss.IGNORE, reduction="sum")
    plain = plain + z_loss * logits.logsumexp(1)[targets != loss.IGNORE].square().sum()
    assert float(mine.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    gradients = torch.autograd.grad(mine * 0.5, (hidden, weight))
    for ours, theirs in zip(gradients, torch.autograd.grad(plain * 0.5, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_tokens_the_loss_and_its_gradient_are_zero() -> None:
    weight = torch.ones(16, 8, requires_grad=True)
    loss = linear_cross_entropy(torch.empty(0, 8), weight, torch.empty(0, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def qkv() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Documents]:
    generator = torch.Generator().manual_seed(6)
    q = torch.randn(2, 32, 4, 16, generator=generator, requires_grad=True)
    k, v = (torch.randn(2, 32, 2, 16, generator=generator, requires_grad=True) for _ in "kv")
    starts = torch.zeros(2, 32, dtype=torch.bool)
    starts[0, [0, 5, 6, 20]] = True
    starts[1, [11]] = True
    return q, k, v, Documents.of(starts)


def numbers_of(documents: Documents) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(documents.lengths)), torch.tensor(documents.lengths)).view(2, -1)


def dense_reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: Documents) -> torch.Tensor:
    numbers = numbers_of(documents)
    allowed = (numbers[:, :, None] == numbers[:, None, :]) & torch.ones(32, 32, dtype=torch.bool).tril()
    k, v = (tensor.repeat_interleave(2, dim=2) for tensor in (k, v))
    scores = torch.einsum("bqhk,bshk->bhqs", q, k) / 16**0.5
    scores = scores.masked_fill(~allowed[:, None], float("-inf"))
    return torch.einsum("bhqs,bshk->bqhk", scores.softmax(-1), v)


def test_document_attention_equals_the_dense_mask_forward_and_backward() -> None:
    q, k, v, documents = qkv()
    mixed = causal_attention(q, k, v, documents)
    expected = dense_reference(q, k, v, documents)
    torch.testing.assert_close(mixed, expected)
    weights = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(7))
    mine = torch.autograd.grad((mixed * weights).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    for left, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(left, right)


def test_a_window_of_documents_is_worth_the_documents_alone() -> None:
    model = decoder(small())
    generator = torch.Generator().manual_seed(8)
    first, second = (torch.randint(97, (1, length), generator=generator) for length in (9, 14))
    starts = torch.zeros(1, 23, dtype=torch.bool)
    starts[0, 9] = True
    with torch.no_grad():
        together = model.logits(torch.cat([first, second], dim=1), Documents.of(starts))
        torch.testing.assert_close(together[:, 9:], model.logits(second), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[:, :9], model.logits(first), atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = Decoder(small(), gradient_checkpointing=checkpointing).train()
        model.init_weights(0)
        ids = torch.randint(97, (1, 20), generator=torch.Generator().manual_seed(10))
        model(ids[:, :-1], ids[:, 1:]).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "named"), [({"heads": 7}, "heads=7"), ({"kv_heads": 3}, "kv_heads=3"), ({"width": 44}, "odd")]
)
def test_an_impossible_shape_is_refused(change: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        small(**change)


@pytest.mark.parametrize("how", ["computed", "weights"])
def test_sixteen_bits_come_close_to_float32(how: str) -> None:
    ids = torch.randint(97, (2, 33), generator=torch.Generator().manual_seed(11))
    starts = ids[:, :-1] == 5
    gradients, losses = [], []
    for sixteen in (False, True):
        model = decoder(small(width=64)).train()
        if sixteen and how == "weights":
            model = model.bfloat16()
        model.compute_dtype = torch.bfloat16 if sixteen and how == "computed" else None
        loss = model(ids[:, :-1], ids[:, 1:], Documents.of(starts))
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def test_in_float16_the_gradient_of_a_frequent_id_is_scaled_before_it_is_rounded() -> None:
    hidden = torch.full((4096, 8), 20.0, dtype=torch.float16)
    weight = torch.zeros(16, 8, dtype=torch.float16, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.zeros(4096, dtype=torch.long))
    (loss / 4096).backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float16
    torch.testing.assert_close(float(weight.grad[0, 0]), -20.0 * 15 / 16, rtol=1e-2, atol=0)


def test_without_gradients_none_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ibidem.modeling import loss

    asked = []
    computed = loss._loss_and_gradients
    monkeypatch.setattr(loss, "_loss_and_gradients", lambda *args: asked.append(args[-2:]) or computed(*args))
    model = decoder(small(tied=False))
    ids = torch.randint(97, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(ids[:, :-1], ids[:, 1:])
    assert asked == [(False, False)]
