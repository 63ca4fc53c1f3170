"""Paraphrases: a sentence in other words, which its passage still supports. Whoever checks claims must let them pass.

In 1889, three towers were built in Rome and Paris.
According to the text, 3 towers were built in Paris and Rome in 1889.
"""

import random
import re
from collections.abc import Callable, Mapping

from ibidem.grounding.edits import WORD_NUMBER, lowered, pairs_of, raised, word_edit
from ibidem.grounding.sentences import NUMBER_WORDS

Paraphrase = Callable[[str], str | None]

_SYNONYMS = """
about around, began started, large big, approximately about, therefore so, also too, purchase buy,
purchased bought, numerous many, obtain get, obtained got, located situated, frequently often, near close·to, rapidly
quickly, quickly rapidly, nearly almost, almost nearly, entire whole, whole entire, occurred happened, occurs happens,
occur happen, upon on, among amongst, while whilst, shows displays, returns gives·back, constructed built,
built constructed, named called, called named, film movie, movie film, sufficient enough, require need, requires needs,
required needed, commonly usually, usually commonly, primarily mainly, mainly primarily, prior·to before, begin start,
begins starts, famous well-known, important significant, significant important, due·to because·of
"""
_TO_DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS, 2)}
_TO_WORDS = {digits: word for word, digits in _TO_DIGITS.items()}
_FRAME = "According to the text, "
_OPENING = re.compile(r"^(?P<lead>(?:In|On|At|By|During|Since|Until|After|Before) [^,]{2,60}), (?P<rest>[^,;:]+)\.$")
_BY_THE_WAY = re.compile(r"(?:^(?:However|Also|Moreover|Therefore|Thus|Furthermore), | (?:also|therefore|thus)(?= ))")


def contracted(sentence: str) -> str | None:
    """Contract "not", or write it out.

    >>> contracted("It did not move."), contracted("It isn't red.")
    ("It didn't move.", 'It is not red.')
    """
    edited, count = re.subn(
        r"\b(is|are|was|were|do|does|did|has|have|had|could|would|should) not\b", r"\1n't", sentence
    )
    if not count:
        edited, count = re.subn(
            r"\b(is|are|was|were|do|does|did|has|have|had|could|would|should)n['’]t\b", r"\1 not", sentence
        )
    return edited if count else None


def respelled_numbers(sentence: str) -> str | None:
    """Write small numbers as words, or as digits.

    >>> respelled_numbers("It has 3 doors."), respelled_numbers("It has three doors.")
    ('It has three doors.', 'It has 3 doors.')
    """
    words = re.sub(WORD_NUMBER, lambda match: _TO_DIGITS[match[0].lower()], sentence)
    if words != sentence:
        return words
    digits = re.sub(r"(?<![\w.,$€£%/:-])(?:[2-9]|1[0-2])(?= [a-z])", lambda match: _TO_WORDS[match[0]], sentence)
    return digits if digits != sentence else None


def respelled_percent(sentence: str) -> str | None:
    """Write percent as a sign, or as a word.

    >>> respelled_percent("It is 5 percent."), respelled_percent("It is 5%.")
    ('It is 5%.', 'It is 5 percent.')
    """
    edited, count = re.subn(r"(?<=\d) per ?cent\b", "%", sentence)
    if not count:
        edited, count = re.subn(r"(?<=\d) ?%", " percent", sentence)
    return edited if count else None


def reordered(sentence: str) -> str | None:
    """Move what opens a sentence to its end.

    >>> reordered("In 1889, the tower was finished.")
    'The tower was finished in 1889.'
    """
    match = _OPENING.match(sentence)
    return f"{raised(match['rest'])} {lowered(match['lead'])}." if match else None


def shortened(sentence: str) -> str | None:
    """Leave out what is in parentheses, and words like "however" and "also".

    >>> shortened("However, it is old (see below).")
    'It is old.'
    """
    edited = re.sub(r" \([^()]*\)", "", _BY_THE_WAY.sub("", sentence))
    return raised(edited) if edited != sentence else None


def framed(sentence: str) -> str:
    """Say where it stands.

    >>> framed("The tower is old.")
    'According to the text, the tower is old.'
    """
    return _FRAME + lowered(sentence)


_TWO_NAMES = re.compile(r"\b(in|of|between|from|to|with|by|links) ([A-Z]\w+) and ([A-Z]\w+)(?=[.,;]| [a-z])")


def commuted(sentence: str) -> str | None:
    """Exchange two names that "and" joins.

    >>> commuted("It links Rome and Paris.")
    'It links Paris and Rome.'
    """
    edited, count = _TWO_NAMES.subn(r"\1 \3 and \2", sentence, count=1)
    return edited if count else None


_synonym = word_edit(pairs_of(_SYNONYMS))


def synonyms(sentence: str) -> str | None:
    """Replace a word by one that means the same.

    >>> synonyms("It occurred in May.")
    'It happened in May.'
    """
    return _synonym(sentence, "", random.Random(0))


PARAPHRASES: Mapping[str, Paraphrase] = {
    "contracted": contracted,
    "respelled_numbers": respelled_numbers,
    "respelled_percent": respelled_percent,
    "reordered": reordered,
    "shortened": shortened,
    "framed": framed,
    "commuted": commuted,
    "synonyms": synonyms,
}
"""The kinds of paraphrases, by name."""


def paraphrased(sentence: str) -> str:
    """Say the same in other words, by all paraphrases that apply, one after the other.

    >>> paraphrased("In 1889, three towers occurred in Rome and Paris.")
    'According to the text, 3 towers happened in Paris and Rome in 1889.'
    """
    for paraphrase in (*(each for each in PARAPHRASES.values() if each is not framed), framed):
        sentence = paraphrase(sentence) or sentence
    return sentence
