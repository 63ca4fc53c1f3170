"""Texts and conversations on which tokenizers err: what an export is tested with before it is written."""

import random
from collections.abc import Iterator, Sequence

from ibidem.conversation import PART_KINDS, ROLES, Conversation, Part, Turn
from ibidem.tokenization.alphabet import Alphabet
from ibidem.tokenization.sentencepiece_codec import BLANK, NEWLINE
from ibidem.tokenization.unigram_json import NORMAL, Pieces

LONGEST = 40
"""Maximum number of items of a text."""
BLANKS = ("\n", "\r\n", "\r", "\t", " ", "  ", "\0", "\x0b", "\x0c", "\x1c", "\x7f", "\x85", "\xa0", "\u2028", "\u3000")
UNICODE = (
    *("\u2581", NEWLINE, BLANK, "\ufeff", "\u200b", "\u202e", "\ufffd", "\ufdd0", "é", "e\u0301", "ﬁ", "Å", "\u212b"),
    *(
        "漢字",
        "ｆｕｌｌ",
        "\U0001f600",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f1e9\U0001f1ea",
        "नमस्ते",
        "한글",
    ),
)
CODE = (
    "<",
    ">",
    "|",
    "<|",
    "|>",
    "<0x0A>",
    "<0x",
    "</s>",
    "[INST]",
    "{{ x }}",
    "{% raw %}",
    "\\n",
    "_",
    "0",
    "1234567890",
)
PLANES = ((0x0, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x2FFFF), (0xE0000, 0x10FFFD))
"""Code points that a text may have; surrogates are none."""


def texts(pieces: Pieces, alphabet: Alphabet, number: int, seed: int = 0) -> Iterator[str]:
    """Yield hostile texts: the vocabulary's own pieces, look-alikes of special tokens, blanks, runs, random Unicode.

    LEAD and ESCAPE stand between blanks, where they are text like any other.
    """
    rng = random.Random(seed)
    learned = [text for text, kind in zip(pieces.texts, pieces.types, strict=True) if kind == NORMAL]
    families = [BLANKS, UNICODE, [*CODE, *pieces.special], [f" {each} " for each in alphabet], learned]
    for _ in range(number):
        chosen = rng.sample(families, rng.randint(1, len(families)))
        yield "".join(_item(rng, chosen) for _ in range(rng.randint(0, LONGEST)))


def _item(rng: random.Random, families: Sequence[Sequence[str]]) -> str:
    if rng.random() < 0.1:
        return chr(rng.randint(*rng.choice(PLANES)))
    item = rng.choice(rng.choice(families))
    return item * rng.randint(2, 20) if len(item) == 1 and rng.random() < 0.1 else item


def conversations(pieces: Pieces, alphabet: Alphabet, number: int, seed: int = 0) -> Iterator[Conversation]:
    """Yield conversations of hostile texts: any role after any other, parts of every kind, LEAD and ESCAPE anywhere.

    A text is cut in two parts that follow each other, and are one text.
    """
    rng = random.Random(seed)
    source = texts(pieces, alphabet, 20 * number, seed + 1)

    def text() -> str:
        return next(source)[:LONGEST] + "".join(rng.choices([*alphabet, "<", "|user|>", "|>", ""], k=rng.randint(0, 6)))

    def parts() -> Iterator[Part]:
        for _ in range(rng.randint(0, 3)):
            kind, words = rng.choice(PART_KINDS), text()
            place = rng.randint(0, len(words)) if kind == "text" else 0
            if place:
                yield Part(kind, words[:place])
            yield Part(kind, words[place:])

    for _ in range(number):
        yield tuple(Turn(rng.choice(ROLES), tuple(parts())) for _ in range(rng.randint(1, 4)))


def messages(turns: Sequence[Turn]) -> list[dict[str, object]]:
    """Return turns as messages of transformers."""
    return [
        {"role": turn.role, "content": [{"type": part.kind, "text": part.text} for part in turn.parts]}
        for turn in turns
    ]
