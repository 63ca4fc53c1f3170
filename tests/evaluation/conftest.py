"""A tiny Hugging Face model that speaks single characters."""

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
