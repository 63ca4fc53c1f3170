"""Citations of an answer that is sent while it is written: none leaves before it is checked.

    a checkpoint says   "At nine", cite "1 6f1d", ". And"                a part of the chat template: no text spells it
    an upstream says    "At nine [", "1]. And"                           text, which is read as `read_citations` does
    sent                "At nine", " [1]." with its `Cited`, " And"      or " [1] (unsupported).", or without it

What may be an abstention waits until it is one, or none.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ibidem.conversation import Part, Turn
from ibidem.grounding.ask import NO_ANSWER, abstains, may_abstain
from ibidem.grounding.cite import CITED, Checking, Citation, Claim, Seen, citation_of, unescaped
from ibidem.grounding.store import Chunk
from ibidem.grounding.support import Entailment
from ibidem.serving.server.speech import Cited, Said

_SIGN = re.compile(r"[`\[\\]")
_CITED = re.compile(CITED)
_NUMBER = re.compile("[0-9]+")
_BEGUN = re.compile(r"\[\s*+(?:[0-9]{1,9}+(?:\s*+[,;]\s*+|\s++)?+)*+\Z")  # perhaps a citation
_INDEXED = re.compile(r"(?:\[[^\[\]\n]*\])+")
_INDEX_BEGUN = re.compile(r"(?:\[[^\[\]\n]*)?\Z")
_WORD = re.compile(r"[A-Za-z0-9_]")
_ONE_TICK, _TWO_TICKS = re.compile(r"`[^`\n]*`"), re.compile(r"``[^\n]*?``")
_CODE_END = re.compile(r"(?:`{1,2}|\\)\Z")
_FENCE = "```"


class Sent(NamedTuple):
    """What is sent of an answer."""

    text: str
    citations: tuple[Cited, ...] = ()
    claims: tuple[Claim | None, ...] = ()
    """What each citation belongs to; None if it stands where nothing is claimed."""


class CitedAnswer:
    """Checks what a model says, piece by piece."""

    def __init__(self, question: str, chunks: Sequence[Chunk], judge: Entailment, *, cites_with_parts: bool) -> None:
        """Begin an answer.

        Args:
            question: the question, by whose words an abstention is recognized.
            chunks: the passages that it may cite, numbered from 1.
            judge: decides whether passages support a claim.
            cites_with_parts: whether the model cites with parts; else with numbers in brackets.
        """
        self._question, self._chunks = question, chunks
        self._checking = Checking(chunks, judge)
        self._reader = None if cites_with_parts else BracketReader()
        self._opening: list[Part] | None = []
        self._abstains = False

    def say(self, said: Said) -> Sent:
        """Add what the model said; return what is sent now."""
        if self._reader is None or said.kind != "text":
            return self._added([Part(said.kind, said.text)])
        return self._added(self._reader.add(said.text))

    def end(self) -> Sent:
        """Return the rest of the answer."""
        rest = [] if self._reader is None else self._reader.end()
        if self._opening is not None:
            rest = [*self._opening, *rest]
            if abstains(_text(rest), self._question):
                self._abstains = True
                return Sent(NO_ANSWER)
        return self._sent([*map(self._checking.add, rest), self._checking.end()])

    def grounding(self, left_out: int) -> dict[str, Any]:
        """Return what is known of the whole answer.

        Args:
            left_out: passages that do not fit into the model's context.
        """
        return grounding(
            abstained=self._abstains,
            removed=self._checking.removed,
            left_out=left_out,
            unsupported=self._checking.unsupported,
        )

    def _added(self, parts: Sequence[Part]) -> Sent:
        if self._opening is not None:
            self._opening += parts
            if may_abstain(_text(self._opening)):
                return Sent("")
            parts, self._opening = self._opening, None
        return self._sent([self._checking.add(part) for part in parts])

    def _sent(self, seen: Sequence[Seen]) -> Sent:
        placed = [found for each in seen for found in each.citations]
        cited = []
        for place, claim in placed:
            chunk = self._chunks[place.number - 1]
            about = citation_of(place.number, claim, self._chunks) if claim else _of_no_claim(place.number, chunk)
            cited.append(cited_at(place.start, place.end, about, chunk))
        return Sent("".join(each.text for each in seen), tuple(cited), tuple(claim for _, claim in placed))


class BracketReader:
    r"""Reads the citations of an answer that arrives in pieces: its parts are those of `read_citations`.

    >>> reader = BracketReader()
    >>> [[part.text for part in reader.add(text)] for text in ("At nine [", "1", "] or argv\\[", "1\\]")]
    [['At nine '], [], ['1', ' or argv['], ['1]']]
    """

    def __init__(self) -> None:
        self._rest = ""  # what is not decided
        self._before = ""  # the character before it
        self._is_code = False

    def add(self, text: str) -> list[Part]:
        """Return the parts that are decided now; a text may continue in the next ones."""
        self._rest += text
        return self._decided(is_end=False)

    def end(self) -> list[Part]:
        """Return the rest."""
        return self._decided(is_end=True)

    def _decided(self, *, is_end: bool) -> list[Part]:
        parts: list[Part] = []
        texts: list[str] = []
        while self._rest and (token := self._token(is_end=is_end)):
            self._rest, self._before = self._rest[len(token.text) :], token.text[-1]
            if token.kind == "cite":
                parts += [Part("text", "".join(texts)), *(Part("cite", each) for each in _NUMBER.findall(token.text))]
                texts = []
            else:
                texts.append(unescaped(token.text))
                self._is_code ^= token.text.endswith(_FENCE)
        return [part for part in (*parts, Part("text", "".join(texts))) if part.text]

    def _token(self, *, is_end: bool) -> Part | None:
        """Return a text, a piece of code or a whole citation; None if that depends on what follows."""
        if not self._is_code and self._rest.startswith("["):
            return self._bracket(is_end=is_end)
        text = self._in_code(is_end=is_end) if self._is_code else self._text(is_end=is_end)
        return Part("text", text) if text else None

    def _in_code(self, *, is_end: bool) -> str:
        """Return code up to its end, as far as it is there; empty if that depends on what follows."""
        end = self._rest.find(_FENCE)
        if end >= 0:
            return self._rest[: end + len(_FENCE)]
        return self._rest if is_end else _CODE_END.sub("", self._rest)

    def _text(self, *, is_end: bool) -> str:
        rest = self._rest
        if rest.startswith("`"):
            return self._ticks(is_end=is_end)
        if rest.startswith("\\"):
            return "" if len(rest) == 1 and not is_end else rest[: 1 + rest[1:].startswith(("[", "]"))]
        sign = _SIGN.search(rest)
        return rest[: sign.start()] if sign else rest

    def _ticks(self, *, is_end: bool) -> str:
        rest = self._rest
        if rest.startswith(_FENCE):
            return _FENCE
        if len(rest) < len(_FENCE) and not rest.strip("`") and not is_end:
            return ""
        opening, pattern = ("``", _TWO_TICKS) if rest.startswith("``") else ("`", _ONE_TICK)
        if match := pattern.match(rest):
            return match[0]
        return opening if is_end or "\n" in rest else ""

    def _bracket(self, *, is_end: bool) -> Part | None:
        rest = self._rest
        if _WORD.match(self._before):
            indexed = _INDEXED.match(rest)
            if not is_end and _INDEX_BEGUN.match(rest, indexed.end() if indexed else 0):
                return None
            if indexed:
                return Part("text", indexed[0])
        if cited := _CITED.match(rest):
            return Part("cite", cited[0])
        return None if _BEGUN.match(rest) and not is_end else Part("text", "[")


def cited_at(start: int, end: int, citation: Citation, chunk: Chunk) -> Cited:
    """Return a citation at a place of what is sent."""
    about = citation.quote, citation.supported
    return Cited(start, end, citation.number, chunk.id, chunk.path, chunk.title, citation.span, *about, score=None)


def grounding(
    *, abstained: bool, removed: int = 0, left_out: int = 0, unsupported: Sequence[tuple[int, int]] = ()
) -> dict[str, Any]:
    """Return what is said of a whole answer at its end."""
    return {
        "abstained": abstained,
        "removed": removed,
        "left_out": left_out,
        "unsupported": [list(place) for place in unsupported],
    }


def _of_no_claim(number: int, chunk: Chunk) -> Citation:
    return Citation(number, (chunk.start, chunk.end), None, supported=False)


def _text(parts: Sequence[Part]) -> str:
    return Turn("assistant", tuple(parts)).text
