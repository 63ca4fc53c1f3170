r"""Personal names: those of a deny list, in any spelling, and others where the words around them introduce a person.

    deny list    Zoë Müller finds ZOE MUELLER, Zoë Müllers, zoe_müller, Ζoё Ｍüller, Müller Zoë, Müller, Zoë,
                 Zo&euml; M&uuml;ller, Zo\u00eb M\u00fcller, and the name wrapped over two lines of a comment
    introduced   my name is ..., Dear Ms. ..., written by ..., Signed-off-by: ...

Names of a deny list are compared as skeletons: compatibility forms (NFKC) are unified, case, accents and characters of
no width are dropped, and letters of other scripts count as the Latin ones that they look like (Unicode Technical
Standard 39, section 4, restricted to Cyrillic and Greek). HTML entities, and escapes of the form \uXXXX, count as the
characters that they stand for.

Not found, though on the list: initials (Z. Müller), a part of a name alone, parts in separate values or string literals
("first": "Zoë", "last": "Müller"), words hyphenated at the end of a line, a name right behind an escape such as \n,
other encodings (Zo%C3%AB). Names that nothing introduces are not found: of 40 names that were written down without
regard to the rules, 19 are.
"""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from html.entities import html5
from pathlib import Path

from ibidem.errors import ConfigError

DENIED, INTRODUCED = "denied-name", "name"
LEAST_LETTERS = 3
LEAST_INFLECTED = 4
"""Shorter words have no inflection but the possessive: `Jan` is not in `Jane`."""

_CYRILLIC = "аесорхуіјѕһԁԛԝкмтАВЕКМНОРСТУХІЈЅҺԀԚԜ", "aecopxyijshdqwkmtabekmhopctyxijshdqw"
_GREEK = "αεικνορτυχγϲΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "aeikvoptuxycabezhikmnoptyx"
_LATIN_LETTERS = "øłđıŋ", "oldin"
_LOOKALIKES = {sign: latin for signs in (_CYRILLIC, _GREEK, _LATIN_LETTERS) for sign, latin in zip(*signs, strict=True)}
_LOOKALIKES |= {"æ": "ae", "œ": "oe", "þ": "th", "ð": "d"}
_TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})
_POSSESSIVE = "['’`´]?s"
_ENDINGS = f"{_POSSESSIVE}|es|n|en|ens|er|ern|e|i|o|is|um|us|ae|am|in|isch|sche[nmrs]?"
_LATIN = {"us": "us|i|o|um|e|orum|os|is", "a": "a|ae|am|as|arum|is|e|en|ens", "ius": "ius|ii|i|io|ium"}
_LINE_BREAK = r"[^\S\n]*\n[^\S\n]*(?:[#/*;%>|!'-]{1,4}[^\S\n]*)?"
"""With the indentation of the next line, and the mark of a comment or quotation."""
_BETWEEN = rf"(?:[\W_]{{0,3}}|{_LINE_BREAK})"
_BETWEEN_REVERSED = rf"(?:[\W_]{{1,3}}|,?{_LINE_BREAK})"
"""Not nothing: `Man Hu` is not in `human`."""
_ENCODED = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,31}[0-9]{0,2});|\\u[0-9a-fA-F]{4}")
_NO_LETTER_BEFORE, _NO_LETTER_AFTER = r"(?<![^\W\d_])", r"(?![^\W\d_])"

_GIVEN = r"[A-ZÀ-ÖØ-ÞŁŚŠŽ][a-zß-öø-ÿłńśšžćčęąő]+(?:['’-][A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]+)?"
_WHOLE = rf"{_GIVEN}(?: [A-Z]\.)?(?: (?:van|von|de|der|den|da|di|la|le|bin|al|el))*(?: {_GIVEN}){{1,2}}"
_INTRODUCTIONS = (
    r"(?i:\bmy name is|\bmy name's|\bi am called|\bich heiße|\bmein name ist|\bje m'appelle) "
    rf"(?P<name>{_GIVEN}(?: {_GIVEN}){{0,2}})",
    rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Herr|Frau|Mme)\.? (?:Dr\. )?(?P<name>{_GIVEN}(?: {_GIVEN}){{0,2}})",
    rf"(?m:^)(?:Dear|Hi|Hello|Hallo|Liebe|Lieber) (?P<name>{_GIVEN}(?: {_GIVEN})?)(?=[,!]|\s*$)",
    rf"(?i:\b(?:regards|sincerely|cheers|grüße|thanks),)\s{{0,4}}(?P<name>{_GIVEN}(?: {_GIVEN}){{0,2}})",
    rf"(?i:\b(?:authors?|maintainer|written by|implemented by|contributed by|signed-off-by|reviewed by|reported by"
    rf"|contact|colleague|patient|customer|employee|assigned to|copyright (?:\(c\)|©)? ?(?:\d{{4}}(?:-\d{{4}})?,?)?))"
    rf"(?:\s?:|)\s(?:\(c\) )?(?P<name>{_WHOLE})",
    rf"(?P<name>{_WHOLE}) <(?:<EMAIL>|[^\s<>@]{{1,64}}@)",
)
_NO_NAMES = frozenset({"All", "The", "This", "There", "World", "Team", "Everyone", "Sir", "Madam", "Name", "Email"})


def skeleton(text: str) -> tuple[str, Sequence[int]]:
    """Return the skeleton of a text, and the place in the text of each of its characters.

    >>> skeleton("Ｚoё")[0]
    'zoe'
    """
    if text.isascii() and not _ENCODED.search(text):
        return text.lower(), range(len(text))
    signs: list[str] = []
    places: list[int] = []
    for place, character in _characters(text):
        folded = _FOLDED[character]
        signs.append(folded)
        places += [place] * len(folded)
    return "".join(signs), places


def _characters(text: str) -> Iterator[tuple[int, str]]:
    """Yield the characters of a text with their places; an entity or escape is the character that it stands for."""
    start = 0
    for match in _ENCODED.finditer(text):
        code = match[0]
        if code.startswith("\\") or code[1] == "#" or code[1:] in html5:
            yield from enumerate(text[start : match.start()], start)
            yield match.start(), chr(int(code[-4:], 16)) if code.startswith("\\") else html.unescape(code)
            start = match.end()
    yield from enumerate(text[start:], start)


class _Folds(dict[str, str]):
    def __missing__(self, character: str) -> str:
        signs = (
            _LOOKALIKES.get(sign, sign).casefold()
            for sign in unicodedata.normalize("NFKD", _LOOKALIKES.get(character, character))
            if unicodedata.category(sign) not in {"Mn", "Me", "Cf"}
        )
        self[character] = folded = "".join(_LOOKALIKES.get(sign, sign) for sign in signs)
        return folded


_FOLDED = _Folds()


def read_names(path: Path) -> list[str]:
    """Read a deny list: a name a line; empty lines and lines that begin with # are skipped.

    Raises:
        ConfigError: the file cannot be read, has no names, or a name is too short.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"scrub.deny {path}: cannot be read: {reason}; give a text file with a name a line") from None
    names: list[str] = []
    for number, line in enumerate(lines, 1):
        if not (name := line.strip()) or name.startswith("#"):
            continue
        if sum(map(str.isalpha, name)) < LEAST_LETTERS:
            raise ConfigError(f"scrub.deny {path}: line {number}: a name needs at least {LEAST_LETTERS} letters")
        names.append(name)
    if not names:
        raise ConfigError(f"scrub.deny {path}: it has no names; give a name a line")
    return names


class Deny:
    """Replaces the names of a deny list."""

    def __init__(self, names: Sequence[str]) -> None:
        forms = sorted({form for name in names for form in _forms(name)}, key=lambda form: (-len(form), form))
        self._pattern = re.compile(f"{_NO_LETTER_BEFORE}(?:{'|'.join(forms)}){_NO_LETTER_AFTER}")

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where names are, from left to right, with the marks that belong to their last letter."""
        folded, places = skeleton(text)
        for match in self._pattern.finditer(folded):
            last, behind = places[match.end() - 1], match.end()
            while behind < len(places) and places[behind] == last:
                behind += 1
            yield places[match.start()], places[behind] if behind < len(places) else len(text)


def introduced(text: str) -> Iterator[tuple[int, int]]:
    """Yield where names are that the words around them introduce, from left to right."""
    found = {match.span("name") for pattern in _PATTERNS for match in pattern.finditer(text) if _is_name(match)}
    end = 0
    for span in sorted(found, key=lambda span: (span[0], -span[1])):
        if span[0] >= end:
            yield span
            end = span[1]


def _is_name(match: re.Match[str]) -> bool:
    return _NO_NAMES.isdisjoint(match["name"].split())


_PATTERNS = tuple(map(re.compile, _INTRODUCTIONS))


def _forms(name: str) -> Iterator[str]:
    for spelling in {name, name.lower(), name.upper(), name.translate(_TRANSCRIBED)}:
        words = [word for word in re.split(r"[\W_]+", skeleton(spelling)[0]) if word]
        patterns = list(map(_inflected, words))
        yield _BETWEEN.join(patterns)
        if len(patterns) > 1:
            yield f"{patterns[-1]}{_BETWEEN_REVERSED}{_BETWEEN.join(patterns[:-1])}"


def _inflected(word: str) -> str:
    if len(word) < LEAST_INFLECTED:
        return f"{re.escape(word)}(?:{_POSSESSIVE})?"
    ending = next((each for each in ("ius", "us", "a") if word.endswith(each)), "")
    latin = f"|{re.escape(word.removesuffix(ending))}(?:{_LATIN[ending]})" if ending else ""
    return f"(?:{re.escape(word)}(?:{_ENDINGS})?{latin})"
