r"""Two characters that no piece of a tokenizer has, which keep markers and texts apart in a `tokenizer.json`.

A text may spell `<|user|>`, so a marker has another name there: LEAD instead of `<`.

    <|user|>  ->  LEAD|user|>          <s>  ->  LEADs>          [INST]  ->  LEAD LEAD[INST]

Whoever renders texts beside markers writes LEAD ESCAPE for a LEAD in a text.
"""

from collections.abc import Iterable
from typing import NamedTuple

LAST_CHARACTER, FIRST_CHARACTER = 0x10FFFF, 0x100000
"""Of private plane 16, whose last two are no characters at all."""


class Alphabet(NamedTuple):
    """Two characters that are in no piece."""

    lead: str
    """Begins a marker."""
    escape: str
    """Says that the character before it is text."""

    @classmethod
    def outside(cls, texts: Iterable[str]) -> "Alphabet":
        """Choose the last two characters of Unicode that are in no piece."""
        used = set("".join(texts))
        free = (chr(number) for number in range(LAST_CHARACTER, FIRST_CHARACTER, -1) if chr(number) not in used)
        return cls(next(free), next(free))

    def marked(self, name: str) -> str:
        """Return the name that a special token has in a `tokenizer.json`."""
        return self.lead + name[1:] if name.startswith("<") else 2 * self.lead + name

    def plain(self, marked: str) -> str | None:
        """Return the name of a special token; None if `marked` is none.

        >>> alphabet = Alphabet("^", "~")
        >>> alphabet.marked("<s>"), alphabet.plain("^s>"), alphabet.plain(alphabet.marked("[INST]"))
        ('^s>', '<s>', '[INST]')
        """
        if not marked.startswith(self.lead):
            return None
        name = marked.removeprefix(self.lead)
        return name.removeprefix(self.lead) if name.startswith(self.lead) else "<" + name
