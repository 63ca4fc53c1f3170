"""Sentences and words of a text, as the word judge compares them."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\ufe00-\ufe0f\uffa0]")  # invisible, and not of category Cf
_BESIDE_DIGIT = re.compile("(?<=\\d)(?=[²³¹¼-¾⁰-⁹₀-₉⅐-⅞])")  # else 10² would become 102
_LINE_ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_SIMPLE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc\u2032", "'") | dict.fromkeys(_LINE_ENDS, "\n") | {"\u2212": "-"}
)
_BLANKS = re.compile(r"[^\S\n]+")

_CLOSING = r"[\"'”’»)\]]*"
_BREAK = re.compile(rf"(?<=[.!?]){_CLOSING}\s+|(?<=[。！？]){_CLOSING}\s*|\n\n+|\n(?=(?:[-*•]|\d{{1,3}}[.)]) )")
_SHORTENED = re.compile(r"^[A-Z][b-df-hj-np-tv-xz]+\.$|str\.$")  # before a number, as in Bldg. 4 and Torstr. 5
_LOOK_BACK = 20
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘«]+$")
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
_TITLE_WORDS = "capt col dr fr gen gov hon lt mr mrs ms mt prof rep rev sen sgt st"
_TITLES = frozenset(_TITLE_WORDS.split())
_SHORT_WORDS = """
al approx apr art assn aug ave blvd ca cf ch co corp dec dept ed eds eg eq est etc feb fig figs hrs ie inc incl jan jr
jul jun ltd max mar min mins nos nov nr oct op p pp pt ref refs resp sec sect sep sept sr tab univ viz vol vols vs
"""
_ABBREVIATIONS = frozenset(_SHORT_WORDS.split())
_FIRST_WORDS = """
a after all although an and as at before but by during each either for from he her his how however i if in it its many
most neither no nor not on once one other our she since so some such that the their then there these they this those
thus to two under until we what when where while who with
"""
_OPENING = frozenset(_FIRST_WORDS.split())

_EMPHASIS = re.compile(r"(?<=[^\W\d_])[*_`~]+(?=[^\W\d_])")
_AUXILIARIES = "ai are ca could did do does had has have is might must need sha should was were wo would"
_NOT = re.compile(rf"\b({'|'.join(_AUXILIARIES.split())})nt\b")
_WHOLE = {"ca": "can", "wo": "will", "sha": "shall"}
_NUMERO = re.compile(r"\bno\.\s*(?=\d)")
_WORD = re.compile(r"(?:(?<![^\s(])-)?\d+(?:[.,]\d+)*[^\W_]*|[^\W_]+|[<>=≤≥≠±]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

_SMALL_NUMBERS = "two three four five six seven eight nine ten eleven twelve"
NUMBER_WORDS = _SMALL_NUMBERS.split()
"""From two to twelve."""
_NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS, 2)}  # "one" is a pronoun too


def plain(text: str) -> str:
    """Return the text as it looks: without invisible characters, in Unicode's compatibility form, with single blanks.

    >>> plain("do\u00adn\u2019t"), plain("\uff4eot  6½")
    ("don't", 'not 6 1⁄2')
    """
    simple = text.replace("\r\n", "\n").translate(_SIMPLE)
    shown = unicodedata.normalize("NFKC", _BESIDE_DIGIT.sub(" ", simple))
    seen = _UNSEEN.sub("", "".join(char for char in shown if unicodedata.category(char) != "Cf"))
    return re.sub(" ?\n ?", "\n", _BLANKS.sub(" ", seen))


def split_sentences(text: str, *, any_case: bool = False) -> list[str]:
    """Split a plain text into sentences; neither an abbreviation nor the end of a line in a paragraph ends one.

    Args:
        text: what `plain` returned.
        any_case: whether a lowercase letter may open a sentence.

    >>> split_sentences("Dr. No lives in the U.S. in J. Doe's house. It is old!")
    ["Dr. No lives in the U.S. in J. Doe's house.", 'It is old!']
    """
    parts, start = [], 0
    for end in sentence_ends(text, any_case=any_case):
        parts.append(text[start:end].strip())
        start = end
    return [part for part in (*parts, text[start:].strip()) if part]


def sentence_ends(text: str, *, any_case: bool = False) -> Iterator[int]:
    """Yield where sentences end, behind the blanks that follow them; the end of the text is not among them.

    Args:
        text: any text.
        any_case: whether a lowercase letter may open a sentence.

    >>> list(sentence_ends("It is old. It stands in the U.S. of old."))
    [11]
    """
    start = 0
    for match in _BREAK.finditer(text):
        before = text[max(start, match.start() - _LOOK_BACK) : match.start()]
        if _ends(before, match[0], text[match.end() : match.end() + 20], any_case=any_case):
            yield match.end()
            start = match.end()


def _ends(before: str, between: str, after: str, *, any_case: bool) -> bool:
    """Return whether a possible break ends a sentence."""
    if not before.endswith((".", "!", "?")) or "\n\n" in between:
        return True
    if after[:1].islower() and not any_case:
        return False
    word = _LAST_WORD.search(before)
    if word is None or not word[0].endswith("."):
        return True
    last, following = word[0].rstrip(".").casefold(), after.split()[:1]
    if last in _TITLES or (last == "no" and after[:1].isdigit()):
        return False
    is_short = (
        last in _ABBREVIATIONS or _INITIALS.fullmatch(last) or (after[:1].isdigit() and _SHORTENED.search(word[0]))
    )
    return not is_short or (bool(following) and after[:1].isupper() and following[0].casefold() in _OPENING)


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Return the words, numbers and signs of comparison in lowercase; each contraction of "not" as two words.

    >>> words("It can't weigh “1,000.5 kg”; two < -3")
    ('it', 'can', 'not', 'weigh', '1000.5', 'kg', '2', '<', '-3')
    """
    shown = _EMPHASIS.sub("", plain(text).casefold())
    shown = _NOT.sub(r"\1n't", _NUMERO.sub("number ", shown)).replace("cannot", "can not")
    shown = re.sub(r"\b(ca|wo|sha)(?=n't)", lambda match: _WHOLE[match[0]], shown).replace("n't", " not")
    return tuple(_NUMBERS.get(word, _THOUSANDS.sub("", word)) for word in _WORD.findall(shown))
