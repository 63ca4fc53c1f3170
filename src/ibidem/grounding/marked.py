"""Answers in which citations are marked: their sentences with their places, and the text that people see.

    marked     The tower is 330 m high⟨1⟩. It is red⟨2⟩.        ⟨ and ⟩ are characters that no text keeps
    sentences  [0:27]                       [28:42]
    shown      The tower is 330 m high [1]. It is red [2] (unsupported).

A sentence never goes beyond its line. Citations behind its full stop, or alone on the lines behind it, are its own.
"""

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ibidem.grounding.sentences import plain, sentence_ends

UNSUPPORTED = " (unsupported)"
"""What people see behind a claim that the passages it cites do not support."""
OPEN, CLOSE = "\ue000", "\ue001"
"""Around the number of a citation."""
_BLANK = "\ue002"  # no sentence ends here
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_LINE_ENDS = dict.fromkeys(map(ord, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), "\n")
_CLEAN = _CONTROLS | _LINE_ENDS | dict.fromkeys(map(ord, "\ue000\ue001\ue002\ue003")) | {ord("\t"): "\t"}

MARKED = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")
_CITATIONS = f"(?:{OPEN}[^{CLOSE}]*{CLOSE}[ {_BLANK}]*)+"
_ONLY_CITATIONS, _CITED_HERE = re.compile(_CITATIONS), re.compile(f"{_BLANK}*{OPEN}")
_BEHIND_LINE = re.compile(rf"(\n+)({_CITATIONS})(?=\n|$)")
_BEHIND_END = re.compile(rf"([.!?。！？][\"'”’»)\]*_]*)([ {_BLANK}]*)({_CITATIONS})")
_BLOCK = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|td|th|table|h[1-6]) ?/?>", re.IGNORECASE)  # attributes are text
_LIST_MARK = re.compile(r" ?(?:[-*•+]|(\d{1,3})[.)]) (?=\S)")
_FENCE_OPENS = re.compile(r"```[^`\s]*(?!\S)")
_FENCE_CLOSES = re.compile(r"```[ \t]*")

_UNSEEN = (
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\U000e0000-\U000e0fff]"
)
_GAP = rf"(?:\s|{_UNSEEN})*+"
_NUMBER = rf"\d(?:{_UNSEEN}*+\d)*+"
_BETWEEN = rf"(?:{_GAP}[,;，；]{_GAP}|{_UNSEEN}*+\s{_GAP})"
_LIST = rf"{_GAP}{_NUMBER}(?:{_BETWEEN}{_NUMBER})*+{_GAP}(?:[,;，；]{_GAP})?"
_NUMBERS = re.compile(rf"([\[［])({_LIST})([\]］])")
_DOUBT_LETTERS = f"{_UNSEEN}*+".join("unsupported")
_SPELLED_DOUBT = re.compile(rf"([(（])({_GAP}{_DOUBT_LETTERS}{_GAP})([)）])", re.IGNORECASE)


def _beginning_of(word: str) -> str:
    return f"(?:{word[0]}{_UNSEEN}*+{_beginning_of(word[1:])})?" if word else ""


_UNFINISHED = re.compile(
    rf"(?:[\[［](?:{_GAP}|{_LIST})|[(（]{_GAP}{_beginning_of('unsupported')}{_GAP}|\s++)\Z", re.IGNORECASE
)  # what the next characters may turn into a citation, a doubt or nothing


class Span(NamedTuple):
    """A sentence of a text."""

    start: int
    end: int
    item: int
    """Number of the list's item that it belongs to, or that came last before; 0 before the first one."""
    opens_line: bool
    """Whether what follows is read as a line of its own."""


class Place(NamedTuple):
    """A citation in the text that people see."""

    number: int
    start: int
    end: int


def cleaned(text: str) -> str:
    r"""Return a text without the characters that mark citations, control characters, and overrides of its direction.

    >>> cleaned("a\ue0001\x1b[31m\u202e\r\n")
    'a1[31m\n'
    """
    return text.replace("\r\n", "\n").translate(_CLEAN)


def escape_numbers(text: str) -> str:
    r"""Put a backslash before the brackets around numbers, which people would take for citations, and "unsupported".

    >>> escape_numbers("argv[1] of list[str] (unsupported)")
    'argv\\[1\\] of list[str] \\(unsupported\\)'
    """
    return _SPELLED_DOUBT.sub(r"\\\1\2\\\3", _NUMBERS.sub(r"\\\1\2\\\3", text))


def simplified(marked: str) -> tuple[str, list[int]]:
    r"""Return a text as `plain` does, but character by character, and the place of each; tags of blocks end lines.

    >>> simplified("a \u00a0b…<p>")
    ('a b...\n\n\n', [0, 1, 3, 4, 4, 4, 5, 6, 7])
    """
    chars: list[str] = []
    places: list[int] = []
    for place, char in enumerate(_BLOCK.sub(lambda tag: "\n" * len(tag[0]), marked)):
        for each in char if char > " " and char.isascii() else _plain(char):
            last = chars[-1] if chars else ""
            if each == " " and last in {" ", "\n"}:
                continue
            if each == "\n" and last == " ":
                chars.pop()
                places.pop()
            chars.append(each)
            places.append(place)
    return "".join(chars), places


@lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    return plain(char)


def spans(text: str, *, item: int = 0, opens_line: bool = True) -> Iterator[Span]:
    """Yield the sentences of a plain text that say something, with their citations.

    Args:
        text: as `simplified` or `plain` return it.
        item: number of the list's item before it.
        opens_line: whether it begins a line.
    """
    text = _BEHIND_LINE.sub(lambda found: _BLANK * len(found[1]) + found[2], text)
    cuts = {found.end() for found in _BEHIND_END.finditer(text)}
    text = _BEHIND_END.sub(lambda found: found[1] + _BLANK * len(found[2]) + found[3], text)
    start = 0
    for end in sorted({*cuts, *(found.start() for found in re.finditer("\n", text)), len(text)}):
        first = start
        if opens_line and (mark := _LIST_MARK.match(text, start, end)):
            number = int(mark[1]) if mark[1] else None
            if number in {None, 1, item + 1}:
                first, item = mark.end(), item if number is None else number
        breaks = [first + each for each in sentence_ends(text[first:end], any_case=True)]
        ends = [each for each in breaks if not _CITED_HERE.match(text, each)]
        for one, other in zip([first, *ends], [*ends, end], strict=True):
            part = text[one:other]
            if _says_something(_ONLY_CITATIONS.sub("", part)):
                left, right = len(part) - len(part.lstrip()), len(part.rstrip(f" \n{_BLANK}"))
                yield Span(one + left, one + right, item, other == end and end in cuts)
        start, opens_line = end + (text[end : end + 1] == "\n"), True


def sentences(marked: str, *, item: int = 0, opens_line: bool = True) -> Iterator[Span]:
    """Yield the sentences of a marked text, by their places in it."""
    text, places = simplified(marked)
    for span in spans(text, item=item, opens_line=opens_line):
        yield placed(span, marked, places)


def placed(span: Span, marked: str, places: Sequence[int]) -> Span:
    """Return a span of a simplified text as one of the marked text; invisible characters behind it are its own."""
    behind = places[span.end] if span.end < len(places) else len(marked)
    return span._replace(start=places[span.start], end=len(marked[:behind].rstrip()))


def _says_something(text: str) -> bool:
    return any(char not in string.punctuation and unicodedata.category(char)[0] not in "CPZ" for char in text)


class Shown:
    """The text that people see, made from a marked text, piece by piece: the pieces may be cut anywhere.

    Citations are shown as [1], numbers in brackets that are none have backslashes before them, and blanks at the ends
    of lines are left out. What the next characters may change waits for them.
    """

    def __init__(self) -> None:
        self.length = 0
        """Characters that were returned so far."""
        self._held = ""
        self._line = ""
        self._is_code = self._is_doubt_due = False

    def add(self, marked: str) -> tuple[str, list[Place]]:
        """Add a piece of a marked text; return what people see of it by now, and the citations in that."""
        texts: list[str] = []
        cited: list[Place] = []
        for number, piece in enumerate(MARKED.split(marked)):
            if number % 2 == 0:
                texts += self._lines(piece)
            else:
                before = self._held.rstrip(" \t")
                self._held = ""
                is_first = not before.strip() and not self.length
                texts.append(self._out(before if is_first or before.endswith("\n") else f"{before} "))
                cited.append(Place(int(piece), self.length, self.length + len(piece) + 2))
                texts.append(self._out(f"[{piece}]"))
                self._line += OPEN
        return "".join(texts), cited

    def doubt(self) -> str:
        """Add the mark of an unsupported claim; behind code, not in it."""
        if self._is_code or _FENCE_OPENS.match(self._line):
            self._is_doubt_due = True
            return ""
        return self._doubt()

    def place(self) -> int:
        """Return the place in the text of the next character that is no blank."""
        return self.length + len(_lines_trimmed(self._held if self.length else self._held.lstrip()))

    def stop(self) -> int:
        """Return the place in the text behind the last character that is no blank."""
        return self.length + len(_lines_trimmed(self._held.rstrip()))

    def end(self) -> str:
        """Return the rest of the text."""
        last = self._out(escape_numbers(self._held.rstrip()))
        self._held = ""
        return last + (self._doubt() if self._is_doubt_due else "")

    def _lines(self, text: str) -> Iterator[str]:
        first, *others = text.split("\n")
        yield self._text(first)
        for line in others:
            if self._is_code and _FENCE_CLOSES.fullmatch(self._line):
                self._is_code = False
                if self._is_doubt_due:
                    self._is_doubt_due = False
                    self._held = self._held.rstrip(" \t")
                    yield self._doubt()
            elif _FENCE_OPENS.match(self._line):
                self._is_code = True
            self._line = ""
            yield self._text(f"\n{line}")

    def _text(self, text: str) -> str:
        self._line += text.removeprefix("\n")
        whole = self._held + text
        waiting = _UNFINISHED.search(whole)
        self._held = waiting[0] if waiting else ""
        return self._out(escape_numbers(whole[: len(whole) - len(self._held)]))

    def _doubt(self) -> str:
        before, self._held = escape_numbers(self._held), ""
        return self._out(before + UNSUPPORTED)

    def _out(self, text: str) -> str:
        shown = _lines_trimmed(text if self.length else text.lstrip())
        self.length += len(shown)
        return shown


def shown(marked: str) -> str:
    r"""Return a marked text for people.

    >>> shown("It is red\ue0001\ue001. See a[2] .  \n")
    'It is red [1]. See a\\[2\\] .'
    """
    whole = Shown()
    return whole.add(marked)[0] + whole.end()


def _lines_trimmed(text: str) -> str:
    return re.sub(r"[^\S\n]++(?=\n)", "", text)
