"""Which texts a foreign tokenizer changes: found by encoding and decoding texts of many kinds, and counted.

    "unnormalized Unicode"   "e" U+0301     ->  U+00E9                changed, by NFC
    "blanks"                 "  x"          ->  "  x"                 comes back

Our own tokenizers change none. An imported one may, and then every stage that reads its texts works with what comes
back; so the numbers are kept with it, and said.
"""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ibidem.tokenization.utf8 import MARK

SEED, DRAWN = 0, 150
"""Of random texts of each kind that has some."""

SPELLED = "names of special tokens"
"""Kind of the texts that spell special tokens, which here are texts."""

_BLANKS = (" ", "  ", "    ", "\t", "\n", "\r\n", "\n\n", "\xa0", "\u3000", "\u200b")
_WORDS = ("def", "add(", "value", "x", "=", "1", "return", "Hello", "World", "naive", "it's", "12345", "({[", "#")


class Fidelity(NamedTuple):
    """How many texts were tried, and how many of each kind came back changed."""

    texts: int
    changed: dict[str, int]

    @property
    def num_changed(self) -> int:
        """Number of texts that came back changed."""
        return sum(self.changed.values())


def probes(names: Sequence[str]) -> dict[str, list[str]]:
    """Return texts by kind; `names` are those of special tokens, which are texts here."""
    rng = random.Random(SEED)
    words = [" ".join(rng.choices(_WORDS, k=rng.randint(1, 12))) for _ in range(DRAWN)]
    return {
        "words": words,
        "blanks": [text for blank in _BLANKS for text in (blank, f"{blank}x", f"x{blank}", f"x{blank}x{2 * blank}y")],
        "capitals": [word.upper() for word in words[:20]] + [word.title() for word in words[:20]],
        "control characters": [f"a{chr(code)}b" for code in (*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF)],
        "unnormalized Unicode": ["e\u0301", "n\u0303o", "\u212b", "\u1e9b\u0323", "\uac00\u11a8", "q\u0307\u0323"],
        "compatible Unicode": ["\ufb01", "\uff46\uff55\uff4c\uff4c", "\xb2", "\u2460", "\u2026", "\xbd", "\u2122"],
        "U+2581": ["\u2581", "a\u2581b", "\u2581\u2581x", "x \u2581 y"],
        "any characters": ["".join(_any(rng) for _ in range(rng.randint(1, 20))) for _ in range(DRAWN)],
        SPELLED: [text for name in names for text in (name, f"a {name} b")],
        "names of bytes": ["<0x0A>", "a<0xE2>b", "<0x41><0x42>", MARK],
    }


def _any(rng: random.Random) -> str:
    """Return a character that texts may have; surrogates are none."""
    code = rng.choice([rng.randrange(0x20, 0x7F), rng.randrange(0xA0, 0x3000), rng.randrange(0x3000, 0x10FFF0)])
    return chr(code) if not 0xD800 <= code < 0xE000 else "\u6f22"


def compare(texts: Mapping[str, Sequence[str]], back: Mapping[str, Sequence[str]]) -> Fidelity:
    """Count the texts that came back changed, by kind.

    >>> compare({"words": ["a", "b"], "blanks": [" "]}, {"words": ["a", "b"], "blanks": [""]})
    Fidelity(texts=3, changed={'blanks': 1})
    """
    counts = {kind: sum(a != b for a, b in zip(texts[kind], back[kind], strict=True)) for kind in texts}
    return Fidelity(sum(map(len, texts.values())), {kind: number for kind, number in counts.items() if number})
