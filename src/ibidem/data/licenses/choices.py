"""Read choices between licenses in sentences: "either the GPL or the Artistic License", "same terms as Perl itself".

    under the terms of either the GNU General Public License or the Artistic License
                                  └── the grant of a GNU license ┘    └── another side ┘

A side counts only if its name is known and "or" is all that stands between; with "and" there is no choice, and a second
grant of a GNU license holds beside the first.
"""

import re
from collections.abc import Callable, Iterable, Iterator

Resolve = Callable[[str], str | None]
"""Convert the name of a license to an SPDX expression; None if it is unknown."""

PERL = "Artistic-1.0-Perl OR GPL-1.0-or-later"
RUBY = "Ruby"
MAX_NAME_WORDS = 12
PERL_FORMULA_CHARS = 1000
"""Where the license file of a Perl distribution states its choice, before the texts of both licenses."""
_HINTS = ("same terms", "same licen", "same conditions", "conditions below", "language system itself")
_OF_PERL = {"GPL-1.0-only", "GPL-1.0-or-later"}

_LATER = r"(?:,? ?\bor,? \(?(?:at your (?:option|choice)\)?,? )?(?:any )?later(?: versions?)?\b)"
_FILLER = (
    rf"(?:{_LATER}|[\s,;:()\"'`+-]|\b(?:either|versions?|v|licen[sc]es?|of the licen[sc]e|a?l?gpl(?:v?\d[\d.]*)?|"
    r"v?\d+(?:\.\d+)*|as published by the free software foundation)\b)*"
)
_DETERMINERS = (
    r"(?:\(?at your (?:option|choice)\)?,? )?(?:under )?(?:(?:the )?terms (?:and conditions )?of )?(?:[ab12]\)\.? )?"
)
_OR_AFTER = re.compile(rf"{_FILLER}\bor,? {_DETERMINERS}", re.IGNORECASE)
_OR_BEFORE = re.compile(rf",? \bor,? {_DETERMINERS}(?:the )?[\"'`]?$", re.IGNORECASE)
_SIDE_ENDS = re.compile(r"[.;](?:\s|$)|\s--|\bhttps?:", re.IGNORECASE)
# Words after or before a name that make it less than a side of its own.
NARROWS = re.compile(
    r"[\s,)\"'`]*(?:and|&|with|plus|except|but|for|on|in|when|if|unless|only|like|style|compatible|modified)\b",
    re.IGNORECASE,
)
_DENIES = re.compile(
    r"\b(?:not|never|no|nor|neither|than|and|without|unless|if)\b[\s,]*(?:\w+\W+){0,3}$", re.IGNORECASE
)
_GRANTS = r"\b(?:(?:re-?)?distribut\w*|modif\w*|licen[sc]ed|released|available|copied|copy|used)\b[^.]{0,160}?"
_PERL_SYSTEM = r"perl(?: ?5)?(?:\.\d+)*(?: programming language)?(?: system)?(?: distribution)?"
_SAME_TERMS = re.compile(
    rf"{_GRANTS}\b(?:under|by|on|with)\b[^.]{{0,20}}?\bsame (?:terms(?: and conditions)?|licen[sc]e|conditions) "
    rf"(?:as|of) (?:the )?(?:(?P<perl>{_PERL_SYSTEM})|ruby)(?: itself)?\b"
    r"(?!'s|[ -]\w+(?: [a-z]+)? (?:module|gem|library))",
    re.IGNORECASE,
)
_PERL_FORMULA = re.compile(
    r"terms of (?:the )?perl programming language system itself[: ]+a\) the gnu general public licen[sc]e[^\"]{0,140}"
    r"\bor b\) the \"?artistic licen[sc]e",
    re.IGNORECASE,
)
_RUBY_COPYING = re.compile(
    r"you can redistribute it and/or modify it under either the terms of the (?P<side>[^()]{1,60}?) "
    r"\(see the file \w+\), or the conditions below",
    re.IGNORECASE,
)


def with_sides(grants: Iterable[tuple[re.Match[str], str]], resolve: Resolve) -> list[str]:
    """Return the expression of each grant of a GNU license, with the other sides of its choice.

    Args:
        grants: matches with a group `name`, the name of the license, and the expression of each; in one text.
        resolve: converts the name of a license.
    """
    return [" OR ".join([expression, *_sides(match, resolve)]) for match, expression in grants]


def same_terms(flat: str, resolve: Resolve) -> tuple[str, re.Match[str]] | None:
    """Return the expression of "the same terms as Perl itself", or of Ruby's own license, and the words.

    >>> same_terms("You may redistribute it under the same terms as Perl itself.", str)[0]
    'Artistic-1.0-Perl OR GPL-1.0-or-later'
    """
    lowered = flat.lower()
    if not any(hint in lowered for hint in _HINTS):
        return None
    if match := _RUBY_COPYING.search(flat):
        side = resolve(match["side"])
        return (f"{RUBY} OR {side}" if side else RUBY), match
    match = _PERL_FORMULA.search(flat, 0, PERL_FORMULA_CHARS)
    if match:
        return PERL, match
    match = _SAME_TERMS.search(flat)
    if match is None or _DENIES.search(flat[max(0, match.start() - 40) : match.start()]) or " not " in match[0].lower():
        return None
    return PERL if match["perl"] else RUBY, match


def explains(match: re.Match[str], gnu: Iterable[str]) -> bool:
    """Check whether the choice of Perl explains the GNU licenses whose texts follow it."""
    return match.re is _PERL_FORMULA and set(gnu) <= _OF_PERL


def _sides(match: re.Match[str], resolve: Resolve) -> list[str]:
    text = match.string
    before = text[max(0, match.start("name") - 160) : match.start("name")]
    sides = (_side_after(text[match.end("name") :][:260], resolve), _side_before(before, resolve))
    return [f"({side})" for side in sides if side]


def _side_after(text: str, resolve: Resolve) -> str | None:
    match = _OR_AFTER.match(text)
    if match is None:
        return None
    words = _SIDE_ENDS.split(text[match.end() :])[0].split(" ")[:MAX_NAME_WORDS]
    for count in range(len(words), 0, -1):
        if side := resolve(" ".join(words[:count]).strip(" ,:()\"'`")):
            return None if NARROWS.match(text[match.end() + len(" ".join(words[:count])) :]) else side
    return None


def _side_before(text: str, resolve: Resolve) -> str | None:
    match = _OR_BEFORE.search(text)
    if match is None:
        return None
    words = re.split(r"[.;:](?= )", text[: match.start()])[-1].split(" ")[-MAX_NAME_WORDS:]
    return next(_resolved_ends(words, resolve), None)


def _resolved_ends(words: list[str], resolve: Resolve) -> Iterator[str]:
    for start in range(len(words)):
        side = resolve(" ".join(words[start:]).strip(" ,:()\"'`-"))
        if side is not None:
            if not _DENIES.search(" ".join(words[:start]) + " "):
                yield side
            return
