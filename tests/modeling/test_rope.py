"""Heads of any width and scaled positions: the arithmetic is transformers', in training and in generation."""

from typing import Any

import pytest
import torch
from tests.modeling.test_modeling_custom import decoder, huggingface_weights, small

from ibidem.config import build, resolved
from ibidem.errors import ConfigError
from ibidem.modeling.config import ModelConfig, RopeScaling
from ibidem.modeling.generate import Sampling, generate
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.rope import Rope

LENGTH = {"original_max_position_embeddings": 128}
SCALINGS: dict[str, tuple[RopeScaling | None, dict[str, Any]]] = {
    "none": (None, {"rope_type": "default"}),
    "linear": (RopeScaling(kind="linear", factor=4), {"rope_type": "linear", "factor": 4.0}),
    "llama3": (
        RopeScaling(kind="llama3", factor=32, original_context=128),
        {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **LENGTH},
    ),
    "yarn": (
        RopeScaling(kind="yarn", factor=4, original_context=128),
        {"rope_type": "yarn", "factor": 4.0, **LENGTH},
    ),
    "yarn with limits": (
        RopeScaling(
            kind="yarn", factor=4, original_context=128, fast_turns=20, slow_turns=2, truncate=False,
            attention_factor=1.3,
        ),
        {
            "rope_type": "yarn", "factor": 4.0, "beta_fast": 20, "beta_slow": 2, "truncate": False,
            "attention_factor": 1.3, **LENGTH,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_positions_are_those_of_transformers_to_the_bit(name: str) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    ours, theirs = SCALINGS[name]
    peer = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=128, num_attention_heads=4, head_dim=64, max_position_embeddings=512,
            rope_parameters={**theirs, "rope_theta": 10_000.0},
        )
    )  # fmt: skip
    cos, sin = peer(torch.zeros(1), torch.arange(512)[None])
    rope = Rope(small(width=128, head_dim=64, context=512, rope_theta=10_000.0, rope_scaling=ours))
    half = rope.signed_sin_TK.clone()
    half[:, :32] *= -1
    assert torch.equal(rope.cos_TK, cos[0])
    assert torch.equal(half, sin[0])
    if ours is not None:
        assert not torch.equal(rope.cos_TK, Rope(small(width=128, head_dim=64, context=512, rope_theta=1e4)).cos_TK)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_logits_gradients_and_greedy_answers_of_any_shape_are_those_of_transformers(name: str, qk_norm: bool) -> None:
    import transformers

    ours, theirs = SCALINGS[name]
    model = decoder(small(qk_norm=qk_norm, tied=False, head_dim=20, context=256, rope_scaling=ours))
    kind = "Qwen3" if qk_norm else "Llama"
    shape = {
        "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 20,
        "num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 256, "attention_bias": False,
        "rms_norm_eps": model.config.norm_eps, "tie_word_embeddings": False, "eos_token_id": None,
        "rope_parameters": {**theirs, "rope_theta": model.config.rope_theta},
    }  # fmt: skip
    peer = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**shape)).eval()
    huggingface_weights.copy(model, peer)
    ids = torch.randint(97, (2, 200), generator=torch.Generator().manual_seed(1))
    mine, its = model.logits(ids), peer(ids).logits
    torch.testing.assert_close(mine, its, atol=1e-5, rtol=0)
    for logits in (mine, its):
        logits.square().mean().backward()
    theirs_out = peer.model.layers[0].self_attn.o_proj.weight.grad
    torch.testing.assert_close(model.blocks[0].attention.out.weight.grad, theirs_out, atol=1e-5, rtol=1e-3)
    prompts = [ids[0, :30].tolist(), ids[1, :7].tolist()]
    answers = generate(model, prompts, Sampling(max_tokens=20, temperature=0), end_ids=())
    for prompt, answer in zip(prompts, answers, strict=True):
        row = torch.tensor([prompt])
        done = peer.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=20, do_sample=False)
        assert done[0, len(prompt) :].tolist() == answer


def test_parameters_operations_and_memory_follow_the_width_of_the_heads() -> None:
    shape = small(head_dim=20, tied=False)
    assert Decoder(shape).num_parameters == shape.parameters
    plain = small(tied=False)
    assert shape.query_width == 80
    more_in_matrices = 3 * 48 * (20 - 12) * (4 + 2 + 2 + 4)  # of queries, keys, values and outputs
    more_in_attention = 12 * 3 * (80 - 48) * 64 // 2
    assert shape.flops_per_token(64) - plain.flops_per_token(64) == 6 * more_in_matrices + more_in_attention
    assert shape.kv_cache_bytes(1) == 2 * 3 * 2 * 20 * 2


def test_a_shape_without_them_is_written_as_before() -> None:
    plain = small()
    assert list(resolved(plain)) == [
        "vocab_size", "width", "layers", "heads", "kv_heads", "ffn_hidden", "context", "rope_theta", "norm_eps",
        "qk_norm", "tied", "dropout",
    ]  # fmt: skip
    rare = small(head_dim=20, rope_scaling=SCALINGS["llama3"][0])
    assert build(ModelConfig, resolved(rare)) == rare


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head_dim": 7}, "head width 7 is odd"),
        ({"rope_scaling": {"kind": "dynamic", "factor": 2}}, "rope_scaling.kind"),
        ({"rope_scaling": {"kind": "llama3", "factor": 2}}, "original_context is missing; llama3 needs it"),
        ({"rope_scaling": {"kind": "linear", "factor": 0}}, "greater than 0"),
        ({"norm_eps": 0}, "greater than 0"),
    ],
)
def test_a_shape_that_cannot_be_is_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(ModelConfig, resolved(small()) | change)
