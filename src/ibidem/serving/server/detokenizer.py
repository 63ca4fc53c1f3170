r"""The text of ids, piece by piece, up to a stop string.

    ids     ["Hel", "lo", <C3>, <A9>, "\nUs", "er", ":"]           stop "\nUser:"
    text    "Hel"  "lo"   ""    "é"   ""        ""    stopped

A character that is spelled in bytes is held back until its last byte, and whatever could become a stop string until it
does not. The pieces together are what `tokenizer.decode` returns for all ids.
"""

from collections.abc import Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Text of ids that arrive one by one."""

    def __init__(self, texts_of_V: Sequence[str | int], stop: Sequence[str] = ()) -> None:
        """Begin a text.

        Args:
            texts_of_V: the tokenizer's text of each id, or the byte that it stands for.
            stop: the text ends before the first of these strings.
        """
        self._texts_of_V = texts_of_V
        self._stop = tuple(stop)
        self._bytes = bytearray()
        self._held = ""
        self.is_stopped = False
        """Whether a stop string was found; nothing is returned from there on."""

    def add(self, number: int) -> str:
        """Return the text that is certain once an id is known."""
        text = self._texts_of_V[number]
        if isinstance(text, int):
            self._bytes.append(text)
            text = self._spelled(is_end=False)
        elif self._bytes:
            text = self._spelled(is_end=True) + text
        return self._before_stop(text) if self._stop else text

    def end(self) -> str:
        """Return what was held back, and begin another text."""
        text = self._before_stop(self._spelled(is_end=True))
        if not self.is_stopped:
            text, self._held = text + self._held, ""
        return text

    def _spelled(self, *, is_end: bool) -> str:
        """Return the characters that the bytes spell so far: as sentencepiece does, a mark for each invalid byte."""
        text = ""
        while self._bytes:
            try:
                text += self._bytes.decode()
                self._bytes.clear()
            except UnicodeDecodeError as error:
                text += self._bytes[: error.start].decode()
                del self._bytes[: error.start]
                if error.reason == "unexpected end of data" and not is_end:
                    break
                text += _REPLACEMENT
                del self._bytes[0]
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
