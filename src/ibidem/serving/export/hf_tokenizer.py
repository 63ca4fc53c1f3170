r"""Our tokenizer as a `tokenizer.json` that transformers, vLLM and others open without code of ours.

Its model is `tokenizers.Unigram` with our pieces and scores. Inside it a piece is the text that it stands for, so that
newlines and U+2581 need no carriers. Two things have to be kept apart that both look like `<|user|>`: a text that
spells it, and the marker of a role. All vocabulary is searched in the text, special tokens and byte pieces included, so
inside the model a `<` of a text is always followed by ESCAPE:

    text                      normalized                            ids
    "a <|user|> b"            "a <ESCAPE|user|> b"                  pieces of text, as ours
    LEAD "|user|>Hi"          "<|user|>" "Hi"                       the marker, then text: only the template writes this
    LEAD "||>"                nothing                               texts on both sides are encoded separately
    "<" ESCAPE, LEAD ESCAPE   "<" ESCAPE, LEAD                      how the template writes "<" and LEAD in a text

LEAD and ESCAPE are two characters that are in no piece, chosen from the end of Unicode's private plane 16. With
`split_special_tokens` no text is searched for special tokens, and where a program switches that off, the chat template
still protects what it renders. What remains is a text that has these characters in just these places.
"""

import json
import re
from typing import Any, NamedTuple

from sentencepiece import sentencepiece_model_pb2 as model_pb2

from ibidem.tokenization import special
from ibidem.tokenization.tokenizer import readable

TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
LAST_CHARACTER, FIRST_CHARACTER = 0x10FFFF, 0x100000
"""Of private plane 16, whose last two are no characters at all."""
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of a SentencePiece."""
MARKER_NAMES = tuple(name.strip("<|>") for name in (special.DOCUMENT, *special.CONTROL))
"""user, end, /cite and so on: what stands between <| and |>."""

_RESERVED = r"<\|reserved_[0-9]+\|>"
"""Ids without a learned piece, which may be most of a vocabulary. Decoding drops them; they are no special tokens of
transformers, which with tens of thousands takes 13 seconds to load instead of one."""


class Pieces(NamedTuple):
    """A trained model: what each id is."""

    texts: list[str]
    """The text of a learned piece; else its name, such as <0x0A> or <|user|>."""
    scores: list[float]
    types: list[int]

    @classmethod
    def of(cls, model: bytes) -> "Pieces":
        """Read a sentencepiece model."""
        proto = model_pb2.ModelProto()  # type: ignore[attr-defined]
        proto.ParseFromString(model)
        texts = [readable(each.piece) if each.type == NORMAL else each.piece for each in proto.pieces]
        return cls(texts, [each.score for each in proto.pieces], [each.type for each in proto.pieces])

    @property
    def special(self) -> list[str]:
        """Names of the ids that no text encodes to, in the order of their ids."""
        return [text for text, kind in zip(self.texts, self.types, strict=True) if kind in {UNKNOWN, CONTROL}]


class Alphabet(NamedTuple):
    """Two characters that are in no piece."""

    lead: str
    """Begins a marker."""
    escape: str
    """Says that the character before it is text."""

    @classmethod
    def outside(cls, pieces: Pieces) -> "Alphabet":
        """Choose the last two characters of Unicode that are in no piece."""
        used = set("".join(pieces.texts))
        free = (chr(number) for number in range(LAST_CHARACTER, FIRST_CHARACTER, -1) if chr(number) not in used)
        return cls(next(free), next(free))


def tokenizer_json(pieces: Pieces, alphabet: Alphabet) -> str:
    """Return the tokenizer as `tokenizers` reads it; the same tokenizer gives the same text."""
    from tokenizers import AddedToken, Regex, Tokenizer
    from tokenizers.decoders import ByteFallback, Fuse
    from tokenizers.decoders import Replace as Restore
    from tokenizers.decoders import Sequence as Decoders
    from tokenizers.models import Unigram
    from tokenizers.processors import TemplateProcessing

    escaped = f"<{alphabet.escape}"
    names = [
        text.replace("<", escaped) if kind == NORMAL else text
        for text, kind in zip(pieces.texts, pieces.types, strict=True)
    ]
    unknown = pieces.types.index(UNKNOWN)
    built = Tokenizer(Unigram(list(zip(names, pieces.scores, strict=True)), unk_id=unknown, byte_fallback=True))
    built.normalizer = _normalizer(alphabet)
    built.pre_tokenizer = _pre_tokenizer()
    built.decoder = Decoders([Restore(Regex(_RESERVED), ""), ByteFallback(), Restore(escaped, "<"), Fuse()])
    start = [(special.DOCUMENT, pieces.texts.index(special.DOCUMENT))]
    built.post_processor = TemplateProcessing(
        single=f"{special.DOCUMENT}:0 $A:0",
        pair=f"{special.DOCUMENT}:0 $A:0 {special.DOCUMENT}:1 $B:1",
        special_tokens=start,
    )
    named = [name for name in pieces.special if not re.fullmatch(_RESERVED, name)]
    built.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in named])
    return str(built.to_str(pretty=True)) + "\n"


def _normalizer(alphabet: Alphabet) -> Any:
    """Escape every `<`, write markers without an escape, and take the escape of LEAD away."""
    from tokenizers import Regex
    from tokenizers.normalizers import Replace, Sequence

    lead, escape = alphabet
    marker = "|".join(MARKER_NAMES)
    return Sequence(
        [
            Replace(Regex(f"<(?!{escape})"), f"<{escape}"),
            Replace(Regex(rf"{lead}(?=\|(?:{marker})?\|>)"), "<"),
            Replace(lead + escape, lead),
        ]
    )


def _pre_tokenizer() -> Any:
    """Cut at markers, each of which becomes one id; `<||>` is a cut alone."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Sequence, Split

    return Sequence([Split("<||>", "removed"), Split(Regex(r"<\|[^|]+\|>"), "isolated")])


def tokenizer_config(pieces: Pieces, *, context: int, chat_template: str) -> str:
    """Return `tokenizer_config.json`."""
    tree = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": special.DOCUMENT,
        "eos_token": special.DOCUMENT,
        "pad_token": special.PAD,
        "unk_token": special.UNKNOWN,
        "additional_special_tokens": [name for name in pieces.special if name in special.CONTROL],
        "add_bos_token": True,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "chat_template": chat_template,
    }
    return json.dumps(tree, indent=2) + "\n"
