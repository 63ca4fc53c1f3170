r"""Our tokenizer as a `tokenizer.json` that transformers, vLLM and others open without code of ours.

Its model is `tokenizers.Unigram` with our pieces and scores. Inside it a piece is the text that it stands for, so that
newlines and U+2581 need no carriers. Two things have to be kept apart that both look like `<|user|>`: a text that
spells it, and the marker of a role. All vocabulary is searched in the text, special tokens and byte pieces included, so
inside the model a `<` of a text is always followed by ESCAPE:

    text                      normalized                            ids
    "a <|user|> b"            "a <ESCAPE|user|> b"                  pieces of text, as ours
    LEAD "|user|>Hi"          "<|user|>" "Hi"                       the marker, then text: only the template writes this
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
from ibidem.tokenization.alphabet import Alphabet
from ibidem.tokenization.json_file import Tree, components
from ibidem.tokenization.sentencepiece_codec import readable

NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6
"""Types of a SentencePiece."""
MARKER_NAMES = tuple(name.strip("<|>") for name in (special.DOCUMENT, *special.CONTROL))
"""user, end, /cite and so on: what stands between <| and |>."""

_COMPARED = ("added_tokens", "decoder", "model")
_BYTE = re.compile("<0x[0-9A-F]{2}>")
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


def exported_pieces(tree: Tree) -> Pieces | None:
    """Return the pieces of an export of a tokenizer of ours; None if a `tokenizer.json` is no such export.

    It is one if an export of these pieces has the same model, special tokens and decoder.
    """
    escape = _escape(tree)
    if tree["model"]["type"] != "Unigram" or escape is None:
        return None
    texts, types = list[str](), list[int]()
    for number, (name, _) in enumerate(tree["model"]["vocab"]):
        is_learned = not name.startswith("<") or name.startswith("<" + escape)
        known = UNKNOWN if number == tree["model"]["unk_id"] else BYTE if _BYTE.fullmatch(name) else CONTROL
        types.append(NORMAL if is_learned else known)
        texts.append(name.replace("<" + escape, "<") if is_learned else name)
    pieces = Pieces(texts, [score for _, score in tree["model"]["vocab"]], types)
    if not {special.DOCUMENT, special.UNKNOWN} <= {*texts} or UNKNOWN not in types:
        return None
    again = json.loads(tokenizer_json(pieces, Alphabet.outside(texts)))
    return pieces if all(tree.get(name) == again[name] for name in _COMPARED) else None


def _escape(tree: Tree) -> str | None:
    """Return the character with which a normalizer of ours escapes a `<`."""
    content = next(components(tree.get("normalizer")), {}).get("content")
    return content[1] if isinstance(content, str) and len(content) == 2 and content[0] == "<" else None


def _normalizer(alphabet: Alphabet) -> Any:
    """Escape every `<`, write markers without an escape, and take the escape of LEAD away."""
    from tokenizers import Regex
    from tokenizers.normalizers import Replace, Sequence

    lead, escape = alphabet
    marker = "|".join(MARKER_NAMES)
    return Sequence(
        [
            Replace(Regex(f"<(?!{escape})"), f"<{escape}"),
            Replace(Regex(rf"{lead}(?=\|(?:{marker})\|>)"), "<"),
            Replace(lead + escape, lead),
        ]
    )


def _pre_tokenizer() -> Any:
    """Cut at markers, each of which becomes one id."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    return Split(Regex(r"<\|[^|]+\|>"), "isolated")
