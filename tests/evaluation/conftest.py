"""A tiny Hugging Face model that speaks single characters, and a checkpoint that can read passages."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def hf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama of random weights."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("hf") / "model"
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {"<s>": 0, "<unk>": 1} | {char: place for place, char in enumerate(characters, 2)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hf_model_with_bos(hf_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a tokenizer that puts BOS before a text by itself, and EOS behind it."""
    import transformers
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("hf_bos") / "model"
    shutil.copytree(hf_model, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A <unk>", None, [("<s>", 0), ("<unk>", 1)])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def long_checkpoint(
    dataset: Path, tokenizer_dir: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint after one step, with a context of 512."""
    from ibidem.config import build
    from ibidem.training.config import TrainConfig
    from ibidem.training.train import train

    folder = tmp_path_factory.mktemp("long")
    (folder / "long.py").write_text(model_file.read_text().replace("context=64", "context=512"))
    settings = {
        "model": folder / "long.py",
        "output_dir": folder / "run",
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 64},
        "training": {"steps": 1, "batch_sequences": 2, "mixed_precision": "no"},
        "optim": {"lr": 1e-2, "warmup_steps": 1},
        "validation": {"every": 1, "windows": 2},
    }
    train(build(TrainConfig, settings))
    return folder / "run" / "checkpoints" / "step-000001"
