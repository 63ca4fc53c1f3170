r"""Replace secrets and personal data by typed placeholders, and count them.

One hyperscan pass over the UTF-8 bytes finds the anchors of all rules; Python looks only at those places. An anchor is
a short, loose pattern whose start is known; the rule's own pattern is matched there, and a validator decides. Of
overlapping finds the longest wins, then the earliest, then that of the first rule. Passes repeat until nothing is
found, so that scrubbing a scrubbed text changes nothing. Names come last, outside of what was replaced.
A file that parses still does: escapes stay whole, and a placeholder in code is quoted (see `positions`).
What is kept on purpose: see `secrets`, `personal` and `health`.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ibidem.config import configuration
from ibidem.data.patterns import database
from ibidem.data.scrub import names
from ibidem.data.scrub.health import HEALTH
from ibidem.data.scrub.personal import PERSONAL
from ibidem.data.scrub.positions import Positions, grammar_of
from ibidem.data.scrub.rules import Rule
from ibidem.data.scrub.secrets import SECRET_KINDS, SECRETS, SIMPLE_PASSWORD

Span = tuple[int, int]
Find = tuple[Span, str]
"""A span, in bytes, and its kind."""


@configuration
class ScrubPolicy:
    """What is replaced by placeholders."""

    secrets: bool = True
    """Keys, tokens, private keys, and passwords: in URLs, random ones in quotes, shorter ones that have a digit."""
    personal: bool = True
    """Email and IP addresses, phone, card and account numbers, US social security numbers."""
    health: bool = True
    """Medical record, insurance and national numbers, diagnoses beside a person, birthdays of patients, implants."""
    names: bool = False
    """Names of people that the words around them introduce, as in `my name is` and `written by`."""
    deny: Path | None = None
    """A file with a name a line; each is replaced wherever it occurs, in other case, inflection and Unicode forms."""


class Scrubber:
    """Replaces secrets and personal data. Build it once per process; threads must not share it."""

    def __init__(self, policy: ScrubPolicy) -> None:
        rules = (
            (SECRETS if policy.secrets else ())
            + (PERSONAL if policy.personal else ())
            + (HEALTH if policy.health else ())
        )
        anchors = list(dict.fromkeys(rule.anchor for rule in rules))
        self._order = {rule: number for number, rule in enumerate(rules)}
        self._patterns = {rule: re.compile(rule.pattern.encode()) for rule in rules}
        self._rules_of = [[rule for rule in rules if rule.anchor == anchor] for anchor in anchors]
        self._database = _compile(anchors) if anchors else None
        finders: list[tuple[str, Callable[[str], Iterable[Span]]]] = []
        if policy.deny is not None:
            finders.append((names.DENIED, names.Deny(names.read_names(policy.deny)).spans))
        if policy.names:
            finders.append((names.INTRODUCED, names.introduced))
        self._finders = finders

    def __call__(self, text: str, language: str | None = None) -> tuple[str, dict[str, int]]:
        """Replace secrets and personal data; return the text and the counts by kind.

        Args:
            text: prose, or a file.
            language: of a file, its programming language by its name in GitHub Linguist.

        Returns:
            the same object and {} if nothing was found.

        >>> Scrubber(ScrubPolicy())("Ask Ann <ann@ibidem.org>.")
        ('Ask Ann <<EMAIL>>.', {'email': 1})
        >>> Scrubber(ScrubPolicy())("phone = 4155552671", "Python")
        ('phone = "<PHONE_NUMBER>"', {'phone-number': 1})
        """
        counts: Counter[str] = Counter()
        data = text.encode("utf-8", "surrogatepass")
        while finds := _written(data, self._find(data), language):
            data = _replace(data, finds)
            counts.update(kind for (_, kind), _ in finds)
        if counts:
            text = data.decode("utf-8", "surrogatepass")
        for kind, find in self._finders:
            if spans := list(find(text)):
                text = _replace_names(text, spans, kind)
                counts[kind] += len(spans)
        return text, dict(counts)

    def _find(self, data: bytes) -> list[Find]:
        """Return disjoint spans (in bytes) and their kinds, in order."""
        hits = array("Q")
        if self._database is not None:
            self._database.scan(data, match_event_handler=_note, context=hits)
        if not hits:
            return []
        finds: set[tuple[Span, Rule]] = set()
        last = -1
        for hit in hits:
            if hit != last:
                finds.update(self._judge(data, hit >> _ANCHOR_BITS, hit & _ANCHOR_MASK))
                last = hit
        ranked = sorted(finds, key=lambda find: (find[0][0] - find[0][1], find[0][0], self._order[find[1]]))
        return _disjoint([(span, rule.kind) for span, rule in ranked], len(data)) if ranked else []

    def _judge(self, data: bytes, start: int, anchor: int) -> Iterable[tuple[Span, Rule]]:
        for rule in self._rules_of[anchor]:
            match = self._patterns[rule].match(data, _walk_back(data, start, rule.before) if rule.before else start)
            if match and (rule.is_genuine is None or rule.is_genuine(match)):
                yield _between_escapes(data, match.span("found" if "found" in match.re.groupindex else 0)), rule


def placeholder(kind: str) -> str:
    """Return the placeholder of a kind, in StarCoder's form.

    Source: Li et al. 2023, arXiv:2305.06161, section 4.

    >>> placeholder("ip-address"), placeholder("key.github")
    ('<IP_ADDRESS>', '<KEY:github>')
    """
    if kind in SECRET_KINDS:
        return f"<KEY:{kind.removeprefix('key.')}>"
    return f"<{kind.upper().replace('-', '_')}>"


_ANCHOR_BITS = 8
_ANCHOR_MASK = (1 << _ANCHOR_BITS) - 1
_FARTHEST_BEFORE = 128
_ESCAPE = re.compile(rb"u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[abfnrtv0]")


def _compile(anchors: Sequence[str]) -> Any:
    import hyperscan

    return database(anchors, hyperscan.HS_FLAG_SOM_LEFTMOST)


# Eight bytes per hit, so that a hostile document of 100 MB cannot fill the memory with tuples.
def _note(anchor: int, start: int, _end: int, _flags: int, hits: "array[int]") -> None:
    hits.append(start << _ANCHOR_BITS | anchor)


def _walk_back(data: bytes, start: int, characters: bytes) -> int:
    window = data[max(0, start - _FARTHEST_BEFORE) : start]
    return start - len(window) + len(window.rstrip(characters))


def _between_escapes(data: bytes, span: Span) -> Span:
    r"""Leave an escape whole that the first or the last character belongs to: `\n` before it, `\"` behind it."""
    start, end = span
    if _is_escaped(data, start) and (escape := _ESCAPE.match(data, start, end - 1)):
        start = escape.end()
    return start, end - _is_escaped(data, end)


def _is_escaped(data: bytes, place: int) -> bool:
    before = data[max(0, place - _FARTHEST_BEFORE) : place]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _written(data: bytes, finds: list[Find], language: str | None) -> list[tuple[Find, bytes]]:
    """Pair each find with what is written in its place; in code, some are none."""
    grammar = grammar_of(language) if finds else None
    if grammar is None:
        return [(find, placeholder(find[1]).encode()) for find in finds]
    positions = Positions(data, grammar)
    pairs = []
    for span, kind in finds:
        written: bytes | None = placeholder(kind).encode()
        if positions.is_code(*span):
            is_name = kind == SIMPLE_PASSWORD and not grammar.has_words
            quotes = positions.quotes_around(span[0])
            written = None if is_name else grammar.write(data, span, placeholder(kind).encode(), quotes)
        if written is not None:
            pairs.append(((span, kind), written))
    return pairs


def _disjoint(ranked: list[Find], size: int) -> list[Find]:
    taken = bytearray(size)
    kept = []
    for (start, end), kind in ranked:
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\1" * (end - start)
            kept.append(((start, end), kind))
    return sorted(kept)


def _replace_names(text: str, spans: list[Span], kind: str) -> str:
    parts, done = [], 0
    for start, end in spans:
        parts += [text[done:start], placeholder(kind)]
        done = end
    return "".join([*parts, text[done:]])


def _replace(data: bytes, finds: list[tuple[Find, bytes]]) -> bytes:
    parts, done = [], 0
    for ((start, end), _), written in finds:
        parts += [data[done:start], written]
        done = end
    return b"".join([*parts, data[done:]])
