"""Small random models as Hugging Face has them: config.json, safetensors, a byte-level tokenizer, a license."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tests.conftest import python_file

IDS = 320
"""Ids of the tokenizer, its two special tokens included."""
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {
        "hidden_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    },
    "Qwen3": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
    },
}  # fmt: skip


def make_model(folder: Path, kind: str, *, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """Write a model with random weights; return it as transformers has it, in float32."""
    import transformers

    shape = {
        "vocab_size": IDS, "intermediate_size": 72, "num_hidden_layers": 2, "max_position_embeddings": 128,
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, **KINDS[kind],
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**shape | more)
    torch.manual_seed(3)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))  # large enough for varied answers
    model.save_pretrained(folder, max_shard_size="60KB" if more.get("tie_word_embeddings") else "1GB")
    write_tokenizer(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Model\n")
    return model.float()


@cache
def tokenizer_text() -> str:
    """Return a byte-level BPE as `tokenizer.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=IDS,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(python_file, range(20)), trainer)
    assert tokenizer.get_vocab_size() == IDS
    return str(tokenizer.to_str())


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    (folder / "tokenizer.json").write_text(tokenizer_text())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; ... removes one."""
    path = folder / "config.json"
    tree = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in tree.items() if value is not ...}))
