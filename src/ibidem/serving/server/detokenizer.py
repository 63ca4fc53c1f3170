r"""The text of ids, piece by piece, up to a stop string.

    ids     ["Hel", "lo", <C3>, <A9>, "\nUs", "er", ":"]           stop "\nUser:"
    text    "Hel"  "lo"   ""    "é"   ""        ""    stopped

A piece may be a part of a character: it is held back until the last byte, and whatever could become a stop string until
it does not. The pieces together are what `tokenizer.decode` returns for all ids.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ibidem.tokenization.utf8 import split

_NOTHING: Mapping[int, str | bytes] = MappingProxyType({})


class Detokenizer:
    """Text of ids that arrive one by one."""

    def __init__(
        self,
        texts_of_V: Sequence[str | bytes],
        stop: Sequence[str] = (),
        first_texts: Mapping[int, str | bytes] = _NOTHING,
    ) -> None:
        """Begin a text.

        Args:
            texts_of_V: the tokenizer's text of each id, or the bytes that it stands for.
            stop: the text ends before the first of these strings.
            first_texts: what an id stands for where it begins a text, if that is something else. None of it, if the
                text continues another.
        """
        self._texts_of_V, self._first_texts = texts_of_V, first_texts
        self._stop = tuple(stop)
        self._is_first = True
        self._bytes = b""
        self._held = ""
        self.is_stopped = False
        """Whether a stop string was found; nothing is returned from there on."""

    def add(self, number: int) -> str:
        """Return the text that is certain once an id is known."""
        text = self._text_of(number)
        if isinstance(text, bytes):
            text, self._bytes = split(self._bytes + text, is_end=False)
        elif self._bytes:
            text = self._rest() + text
        return self._before_stop(text) if self._stop else text

    def end(self) -> str:
        """Return what was held back, and begin another text."""
        text = self._before_stop(self._rest())
        if not self.is_stopped:
            text, self._held = text + self._held, ""
        self._is_first = True
        return text

    def _text_of(self, number: int) -> str | bytes:
        """Return what an id adds; one beyond the vocabulary, which a matrix may have, adds nothing."""
        text = self._texts_of_V[number] if number < len(self._texts_of_V) else ""
        if self._is_first and text:
            self._is_first = False
            return self._first_texts.get(number, text)
        return text

    def _rest(self) -> str:
        text, self._bytes = split(self._bytes, is_end=True)
        return text

    def _before_stop(self, text: str) -> str:
        """Return the text up to a stop string, or up to what could become one."""
        if self.is_stopped:
            return ""
        self._held += text
        places = [place for word in self._stop if (place := self._held.find(word)) >= 0]
        self.is_stopped = bool(places)
        end = min(places or [len(self._held), *(_start_of(word, self._held) for word in self._stop)])
        text, self._held = self._held[:end], self._held[end:]
        return text


def _start_of(word: str, text: str) -> int:
    """Return where the end of a text could be the start of a word; the length of the text if nowhere.

    >>> _start_of("User:", "a U Us"), _start_of("User:", "User"), _start_of("User:", "Use ")
    (4, 0, 4)
    """
    place = text.find(word[0], max(0, len(text) - len(word) + 1))
    while place >= 0 and not word.startswith(text[place:]):
        place = text.find(word[0], place + 1)
    return place if place >= 0 else len(text)
