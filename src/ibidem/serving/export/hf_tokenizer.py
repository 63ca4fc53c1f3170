"""The tokenizer of an export, as transformers, vLLM and others open it without code of ours.

                        trained here                           imported
tokenizer.json          `tokenization.unigram_json`            the file that is kept, `tokenization.canonical`
texts are searched      never (`split_special_tokens`)         for the names of special tokens, which no text spells
for special tokens
"""

import json
from typing import NamedTuple

from ibidem.tokenization import special
from ibidem.tokenization.alphabet import Alphabet
from ibidem.tokenization.json_codec import JsonCodec
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.tokenization.unigram_json import CONTROL, NORMAL, UNUSED, Pieces


class Form(NamedTuple):
    """How a tokenizer is exported."""

    pieces: Pieces
    alphabet: Alphabet
    document: str = special.DOCUMENT
    """Name in `tokenizer.json` of the token that begins a document."""
    text: str | None = None
    """`tokenizer.json` of an imported tokenizer."""

    @property
    def is_imported(self) -> bool:
        """Whether the tokenizer was imported."""
        return self.text is not None


def form_of(tokenizer: Tokenizer) -> Form:
    """Return how a tokenizer is exported."""
    codec = tokenizer.codec
    if isinstance(codec, JsonCodec):
        return Form(_imported_pieces(tokenizer), codec.alphabet, codec.document, codec.model_bytes.decode())
    pieces = Pieces.of(codec.model_bytes)
    return Form(pieces, Alphabet.outside(pieces.texts))


def _imported_pieces(tokenizer: Tokenizer) -> Pieces:
    """Return what each id of an imported tokenizer is; its scores decide nothing and are 0."""
    assert isinstance(tokenizer.codec, JsonCodec)
    names = tokenizer.pieces(range(tokenizer.vocab_size))
    controls = {*tokenizer.codec.controls.values()}
    types = [
        CONTROL if number in controls else UNUSED if tokenizer.is_byte(number) else NORMAL
        for number in range(tokenizer.vocab_size)
    ]
    return Pieces(names, [0.0] * len(names), types)


def tokenizer_config(form: Form, *, context: int, chat_template: str) -> str:
    """Return `tokenizer_config.json`."""
    tree = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": form.document,
        "eos_token": form.document,
        **({"pad_token": form.alphabet.marked(special.PAD)} if form.is_imported else _OWN_NAMES),
        "additional_special_tokens": _additional(form),
        "add_bos_token": True,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": not form.is_imported,
        "chat_template": chat_template,
    }
    return json.dumps(tree, indent=2) + "\n"


_OWN_NAMES = {"pad_token": special.PAD, "unk_token": special.UNKNOWN}


def _additional(form: Form) -> list[str]:
    names = [name for name in form.pieces.special if name in special.CONTROL]
    return [form.alphabet.marked(name) for name in names] if form.is_imported else names
