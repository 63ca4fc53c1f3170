"""Small foreign tokenizers, trained on the spot, with the schema of the files of well-known models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import python_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    *(python_file(seed) for seed in range(60)),
    "".join(map(chr, range(32, 127))) + "\nHello World, <s> is a <tag|>.\n",
    "".join(map(chr, range(0x1F600, 0x1F620))) * 3,
    "Der naïve Käufer zahlt 1234567890 € für 漢字 und \U0001f600.\r\n\tEnde.  \n" * 3,
]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>")
QWEN_WORDS = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<think>")
"""Added tokens that the file of Qwen3 calls not special."""

Tree = dict[str, Any]


def byte_level(pattern: str, size: int = 500) -> Tree:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
    )
    return json.loads(built.to_str())


def with_added(tree: Tree, special: tuple[str, ...], words: tuple[str, ...] = ()) -> Tree:
    built = Tokenizer.from_str(json.dumps(tree))
    built.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    built.add_tokens([AddedToken(name, normalized=False, special=False) for name in words])
    return json.loads(built.to_str())


def template_of(name: str, number: int) -> Tree:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    marker = {"SpecialToken": {"id": name, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [marker, text],
        "pair": [marker, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }


def qwen3() -> Tree:
    tree = with_added(byte_level(QWEN), QWEN_TOKENS, QWEN_WORDS)
    tree["normalizer"] = {"type": "NFC"}
    tree["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return tree


def llama3() -> Tree:
    tree = with_added(byte_level(LLAMA_3), ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"))
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    template = template_of("<|begin_of_text|>", tree["added_tokens"][0]["id"])
    tree["post_processor"] = {"type": "Sequence", "processors": [level, template]}
    tree["model"]["ignore_merges"] = True
    return tree


def gpt2() -> Tree:
    """The oldest schema: no type of the model, merges as one string, the special token within the vocabulary."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, show_progress=False, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"]
    )
    built.train_from_iterator(TEXTS, trainer)
    tree = json.loads(built.to_str())
    tree["model"]["merges"] = [" ".join(merge) for merge in tree["model"]["merges"]]
    del tree["model"]["type"]
    tree["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    tree["added_tokens"][0]["normalized"] = True
    return tree


LLAMA_2_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def byte_fallback() -> Tree:
    built = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    built.normalizer = normalizers.Replace(" ", "\u2581")
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    lines = [line for text in TEXTS for line in text.splitlines(keepends=True)]
    built.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=600, show_progress=False, special_tokens=names, limit_alphabet=120)
    )
    tree = json.loads(built.to_str())
    tree["added_tokens"] = tree["added_tokens"][:3]
    tree["post_processor"] = template_of("<s>", 1)
    tree["decoder"] = LLAMA_2_DECODER
    return tree


def llama2() -> Tree:
    """A blank before every text, which decoding takes away; and merges that spell a special token."""
    tree = byte_fallback()
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    tree["normalizer"] = {"type": "Sequence", "normalizers": [prepend, tree["normalizer"]]}
    model = tree["model"]
    vocab = model["vocab"]
    vocab["s>"] = len(vocab)
    model["merges"] += [["s", ">"], ["<", "s>"]]
    return tree


def mistral() -> Tree:
    """The blank comes from the pre-tokenizer, only before what is first."""
    tree = byte_fallback()
    blank = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    return tree | {"normalizer": None, "pre_tokenizer": blank}


def unigram() -> Tree:
    """As converters write those of sentencepiece: special tokens have scores, and are in the vocabulary."""
    built = Tokenizer(models.Unigram())
    built.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "always")
    built.decoder = decoders.Metaspace("\u2581", "always")
    names = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=400, show_progress=False, special_tokens=names, unk_token="<unk>", max_piece_length=8
    )
    built.train_from_iterator(TEXTS, trainer)
    return json.loads(built.to_str())


KINDS: dict[str, Callable[[], Tree]] = {
    "qwen3": qwen3, "llama3": llama3, "gpt2": gpt2, "llama2": llama2, "mistral": mistral, "unigram": unigram,
}  # fmt: skip
CONFIGS: dict[str, Tree] = {
    "qwen3": {"bos_token": None, "eos_token": "<|im_end|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama2": {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": {"content": "</s>"}},
}


def write(folder: Path, tree: Tree, config: Tree | None = None) -> Path:
    """Write a folder of Hugging Face."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
