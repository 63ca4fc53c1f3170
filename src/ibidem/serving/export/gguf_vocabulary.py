r"""A tokenizer as llama.cpp has it, by its kind.

byte-level BPE of Llama 3, Qwen and GPT-2     "gpt2", and the name of the pre-tokenizer; from `tokenizer.json`
unigram with byte pieces, as trained here     refused: llama.cpp has no tokenizer with its ids

llama.cpp has two that add up scores. Both read the file, and each differs:

    t5          characters without a piece become one <unk>: "漢字" is 1 id there, 6 bytes here
    plamo2      of equal scores the longest first piece is taken, not the longest last; U+FEFF before a text is lost
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ibidem.errors import ConfigError
from ibidem.tokenization.piece_texts import BYTES
from ibidem.tokenization.unigram_json import Pieces

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""Types of a token, in sentencepiece as in llama.cpp."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {_WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe", _WORDS + r"\p{N}" + _REST: "qwen2", None: "gpt-2"}
"""Names of llama.cpp by the pattern of a pre-tokenizer; None is ByteLevel's own."""
NO_UNIGRAM = (
    "llama.cpp has no tokenizer with the ids of a unigram with byte pieces: its t5 makes one <unk> of characters "
    "without a piece, its plamo2 takes other pieces of equal score; export with --format hf"
)


class Vocabulary(NamedTuple):
    """A tokenizer of llama.cpp."""

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    document_id: int
    turn_end_id: int
    pad_id: int

    def add_to(self, writer: Any, chat_template: str) -> None:
        """Write it into a GGUF file."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        writer.add_bos_token_id(self.document_id)
        writer.add_eos_token_id(self.document_id)
        writer.add_eot_token_id(self.turn_end_id)
        writer.add_pad_token_id(self.pad_id)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(False)
        writer.add_chat_template(chat_template)

    @property
    def pieces(self) -> Pieces:
        """The texts of its tokens, to make hostile texts of; a part of a character is unused."""
        texts = [
            text_of(token) if kind == NORMAL else token for token, kind in zip(self.tokens, self.types, strict=True)
        ]
        types = [UNUSED if text is None else kind for text, kind in zip(texts, self.types, strict=True)]
        return Pieces([text or "" for text in texts], [0.0] * len(texts), types)


def vocabulary_of(
    tree: Mapping[str, Any] | None, *, where: Path | None, rows: int, document_id: int, turn_end_id: int, pad_id: int
) -> Vocabulary:
    """Return a tokenizer as llama.cpp has it.

    Args:
        tree: `tokenizer.json`; None for a unigram that was trained here.
        where: its path.
        rows: number of rows of the model's embedding; those without a token are unused.
        document_id: id that begins a document, and ends the one before.
        turn_end_id: id that ends a turn.
        pad_id: id that fills up a batch.

    Raises:
        ConfigError: llama.cpp has no such tokenizer.
    """
    model = (tree or {"model": {"type": "Unigram"}})["model"]
    if tree is None or model["type"] == "Unigram":
        raise ConfigError(NO_UNIGRAM)
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ConfigError(f"{where}: llama.cpp has no tokenizer for its model; export with --format hf")
    pre = _pre_tokenizer(tree, where)
    tokens = [f"[unused {number}]" for number in range(rows)]
    types = [UNUSED] * rows
    for name, number in model["vocab"].items():
        tokens[number], types[number] = name, NORMAL
    for token in tree["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Vocabulary("gpt2", pre, tokens, types, merges, document_id, turn_end_id, pad_id)


def _pre_tokenizer(tree: Mapping[str, Any], where: Path | None) -> str:
    """Return the name that llama.cpp has for a pre-tokenizer of bytes."""
    steps = list(_steps(tree.get("pre_tokenizer")))
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    if len(steps) == len(patterns) + len(levels) and len(levels) == 1 and not levels[0].get("add_prefix_space"):
        own = [None] if levels[0].get("use_regex", True) else []
        found = [PRE_TOKENIZERS[pattern] for pattern in [*patterns, *own] if pattern in PRE_TOKENIZERS]
        if len(found) == len(patterns) + len(own) == 1:
            return found[0]
    raise ConfigError(f"{where}: its pre-tokenizer is none of those that llama.cpp knows; export with --format hf")


def _steps(tree: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if tree is not None:
        yield from tree["pretokenizers"] if tree["type"] == "Sequence" else [tree]


def text_of(token: str) -> str | None:
    """Return the text of a token of byte-level BPE; None for a part of a character.

    >>> text_of("Ġdef"), text_of("Ã")
    (' def', None)
    """
    try:
        return bytes(BYTES[char] for char in token).decode()
    except (KeyError, UnicodeDecodeError):
        return None
