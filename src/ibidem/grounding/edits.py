"""Hallucinations made by hand: edits after which a sentence is no longer supported by its passage.

    passage     The tower was finished in 1889. Its lift was built in 1983 by Otis. It weighs 7,300 tonnes.
    sentence    The tower was finished in 1889.
    edited      The tower was finished in 1983.       year_swapped: the passage has this year, of something else
                The tower was not finished in 1889.   negation_added
                The tower was built in 1983 by Otis.  conflation: the subject of one sentence, the predicate of another

An edit takes a sentence, its passage and a generator of random numbers, and returns the edited sentence; None where it
does not apply. All rules are for English.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from ibidem.grounding.sentences import NUMBER_WORDS, sentence_ends

Edit = Callable[[str, str, random.Random], str | None]

_MONTH_NAMES = "January February March April May June July August September October November December"
MONTHS = _MONTH_NAMES.split()
_NUMBER = re.compile(r"(?<![\w.,$€£–-])\d+(?:[.,]\d+)*(?![\w–-]|[.,]\d)")
_YEAR = re.compile(r"(?<![\w.,$€£–-])(?:1\d{3}|20\d\d)(?![\w%–-]|[.,]\d)")
WORD_NUMBER = re.compile(rf"\b(?:{'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)
_MONTH = re.compile(rf"\b(?:{'|'.join(MONTHS)})\b")
_NAME = re.compile(r"\b[A-Z][\w-]*\w\b(?: (?:(?:of|the|de|von|van|la) )*[A-Z][\w-]*\w\b)*")
_AUXILIARY_WORDS = "is are was were has have had can could will would may might must should does do did"
_AUXILIARY = re.compile(rf"\b({_AUXILIARY_WORDS.replace(' ', '|')})\b(?!n['’]t)(?! not\b)", re.IGNORECASE)
_QUANTITY = rf"(?:\d+(?:[.,]\d+)*|{'|'.join(NUMBER_WORDS)}|hundred|thousand|million|billion)"
_SAID = """
said says wrote writes argued argues claimed claims proposed proposes found finds discovered invented designed suggested
suggests described describes stated states believed believes noted notes reported reports announced concluded developed
founded
"""
_OPENING_WORDS = """
A After All Although An And As At Because Before Both But By Despite During Each For From He Her His How However If In
It Its Later Many Most No On One Other She Since So Some Such That The Their Then There These They This Those Though
Thus To Under Until We What When Where While With You
"""
_NO_NAMES = frozenset(_OPENING_WORDS.split()) | frozenset(MONTHS)

_ANTONYMS = """
large small, big little, high low, long short, early late, old new, strong weak, rich poor, major minor, north south,
east west, northern southern, eastern western, win lose, won lost, success failure, support oppose, supported opposed,
allow forbid, allowed forbidden, allows forbids, include exclude, included excluded, includes excludes, including
excluding, accept reject, accepted rejected, accepts rejects, public private, positive negative, true false, internal
external, upper lower, inside outside, hot cold, warm cool, fast slow, heavy light, difficult easy, common rare, same
different, open closed, begin end, began ended, begins ends, start stop, started stopped, starts stops, create destroy,
created destroyed, buy sell, bought sold, ancient modern, male female, victory defeat, import export, majority minority,
maximum minimum, mutable immutable, required optional, enabled disabled, ascending descending, absolute relative, local
global, increase decrease, increased decreased, increases decreases, increasing decreasing, rise fall, rose fell, rising
falling, gain loss, gained lost, improved worsened, unified divided, legal illegal, possible impossible, known unknown,
direct indirect, active inactive, successful unsuccessful, primary secondary, rural urban, simple complex, add remove,
added removed, adds removes, opening closing, arrived departed, empty full, even odd, wide narrow, deep shallow, thick
thin, wet dry, safe dangerous, cheap expensive, temporary permanent, ordered unordered, signed unsigned, input output
"""
_COMPARATIVES = """
more less, higher lower, larger smaller, greater lesser, better worse, longer shorter, older younger, faster slower,
stronger weaker, above below, fewer more, bigger smaller, wider narrower, at·least at·most, richer poorer, easier
harder, cheaper dearer, heavier lighter, deeper shallower, closer farther, hotter colder
"""
_QUANTIFIERS = """
all some, every no, each no, many few, most few, several all, some all, both neither, few most, half all, majority
minority, entire partial
"""
_FREQUENCIES = """
always sometimes, never always, usually rarely, often seldom, frequently rarely, sometimes always, rarely often,
generally rarely, typically rarely, commonly rarely, occasionally constantly, mostly rarely, normally rarely
"""
_MODALS = """
may must, must may, can must, should may, could had·to, might will, will might, would might, shall may, cannot must
"""
_ORDERS = """
before after, prior·to after, following before, preceded followed, since until, until since, first last, finally first,
later earlier, subsequently previously, previously subsequently, afterwards beforehand, then before·that, while after
"""
_SUPERLATIVES = """
largest smallest, biggest smallest, highest lowest, oldest newest, best worst, longest shortest, earliest latest,
greatest smallest, strongest weakest, richest poorest, fastest slowest, most least, tallest shortest, deepest shallowest
"""
_UNITS = """
kilometers miles, kilometres miles, km miles, meters feet, metres feet, m ft, cm inches, centimeters inches, kilograms
pounds, kg pounds, tons kilograms, tonnes kilograms, hours minutes, minutes hours, days weeks, weeks days, months years,
years months, decades years, centuries decades, seconds minutes, milliseconds seconds, bytes bits, bits bytes, kilobytes
megabytes, megabytes gigabytes, characters lines, lines pages, dollars euros, acres hectares, hectares acres, degrees
radians, feet meters, inches centimeters, points yards, yards points, people families, times percent
"""
_SCALES = "hundred thousand, thousand million, million billion, billion million, trillion billion, dozen hundred"


def pairs_of(table: str) -> dict[str, str]:
    """Return a table of words as a mapping; each row is a word and what it becomes, with · for a blank.

    >>> pairs_of("may must, could had·to")
    {'may': 'must', 'could': 'had to'}
    """
    rows = (row.split() for row in table.split(","))
    return {word.replace("·", " "): other.replace("·", " ") for word, other in rows}


def both_ways(pairs: Mapping[str, str]) -> dict[str, str]:
    """Return pairs in both directions; the first one of a word counts.

    >>> both_ways({"large": "small", "little": "small"})
    {'small': 'large', 'large': 'small', 'little': 'small'}
    """
    back: dict[str, str] = {}
    for word, other in pairs.items():
        back.setdefault(other, word)
    return back | dict(pairs)


def word_edit(pairs: Mapping[str, str], *, before: str = "", after: str = "") -> Edit:
    """Return an edit that replaces one word by its partner.

    Args:
        pairs: words, in lowercase, and what they become.
        before: a pattern that must stand before the word.
        after: a pattern that must follow it.

    >>> word_edit({"may": "must"})("You may go.", "", random.Random(0))
    'You must go.'
    """
    words = "|".join(sorted(map(re.escape, pairs), key=len, reverse=True))
    pattern = re.compile(rf"(?P<before>{before})\b(?P<word>{words})\b(?![-’'])(?={after})", re.IGNORECASE)

    def edit(sentence: str, _passage: str, rng: random.Random) -> str | None:
        found = list(pattern.finditer(sentence))
        if not found:
            return None
        match = rng.choice(found)
        return _put(sentence, match.span("word"), pairs[match["word"].lower()])

    return edit


def number_swapped(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Replace a number by another one of the passage.

    >>> number_swapped("It has 12 rooms.", "It has 12 rooms. The garden has 40 trees.", random.Random(0))
    'It has 40 rooms.'
    """
    found = [span for span in _spans(_NUMBER, sentence) if not _YEAR.fullmatch(sentence[slice(*span)])]
    numbers = [text for text in _texts(_NUMBER, passage) if not _YEAR.fullmatch(text)]
    return _exchanged(sentence, found, numbers, rng)


def number_changed(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Replace a number, in digits or as a word, by one that the passage lacks.

    >>> number_changed("It has twelve rooms.", "", random.Random(0)) != "It has twelve rooms."
    True
    """
    found = [span for span in _spans(_NUMBER, sentence) if not _YEAR.fullmatch(sentence[slice(*span)])]
    found += _spans(WORD_NUMBER, sentence)
    if not found:
        return None
    span = rng.choice(found)
    text = sentence[slice(*span)]
    if text.lower() in NUMBER_WORDS:
        others = [word for word in NUMBER_WORDS if word not in passage.lower() and word != text.lower()]
    else:
        others = [other for other in map(_changed, [text] * 20, [rng] * 20) if other not in passage and other != text]
    return _put(sentence, span, rng.choice(others)) if others else None


def _changed(number: str, rng: random.Random) -> str:
    """Return a number with another digit, which keeps its length and its signs."""
    places = [place for place, char in enumerate(number) if char.isdigit()]
    place = rng.choice(places)
    digits = [digit for digit in "123456789" if digit != number[place]]
    return number[:place] + rng.choice(digits) + number[place + 1 :]


def year_swapped(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Replace a year by another one of the passage.

    >>> year_swapped("Opened in 1889.", "Opened in 1889. The lift is of 1983.", random.Random(0))
    'Opened in 1983.'
    """
    return _exchanged(sentence, _spans(_YEAR, sentence), _texts(_YEAR, passage), rng)


def year_shifted(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Shift a year by up to nine, to one that the passage lacks.

    >>> year_shifted("Opened in 1889.", "", random.Random(0))
    'Opened in 1894.'
    """
    found = _spans(_YEAR, sentence)
    if not found:
        return None
    span = rng.choice(found)
    year = int(sentence[slice(*span)])
    others = [str(year + step) for step in (*range(-9, 0), *range(1, 10)) if str(year + step) not in passage]
    return _put(sentence, span, rng.choice(others)) if others else None


def date_shifted(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Replace a month by another one, of the passage if it has one; never the name May alone.

    >>> date_shifted("On 3 March it opened.", "On 3 March it opened. It closed in June.", random.Random(0))
    'On 3 June it opened.'
    """
    found = [span for span in _spans(_MONTH, sentence) if sentence[slice(*span)] != "May" or _is_date(sentence, span)]
    return _exchanged(sentence, found, _texts(_MONTH, passage), rng) or _exchanged(sentence, found, MONTHS, rng)


def _is_date(sentence: str, span: tuple[int, int]) -> bool:
    return sentence[: span[0]].rstrip()[-1:].isdigit() or sentence[span[1] :].lstrip()[:1].isdigit()


def percent_changed(sentence: str, _passage: str, rng: random.Random) -> str | None:
    """Make a share a number, or a number of things a share of them.

    >>> percent_changed("About 25 % of them left.", "", random.Random(0))
    'About 25 of them left.'
    >>> percent_changed("It has 12 rooms.", "", random.Random(0))
    'It has 12 percent of rooms.'
    """
    shares = list(re.finditer(r"(?<=\d) ?(?:%|percent\b|per cent\b)", sentence))
    if shares:
        return _put(sentence, rng.choice(shares).span(), "")
    counts = list(re.finditer(rf"(?<![\w.,$€£-]){_QUANTITY}(?= [a-z]{{3,}}s\b)", sentence))
    match = rng.choice(counts) if counts else None
    return f"{sentence[: match.end()]} percent of{sentence[match.end() :]}" if match else None


def name_swapped(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Replace a name by another one of the passage.

    >>> name_swapped("It was built by Otis.", "It was built by Otis. Later Schindler came.", random.Random(0))
    'It was built by Schindler.'
    """
    return _exchanged(sentence, names(sentence), _texts_at(passage, names(passage)), rng)


_PLACE = re.compile(r"\b(?:in|at|from|near|to|into|across|of) (?:the )?$")


def place_swapped(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Replace a name behind in, at, from, near or to by another one that stands so in the passage.

    >>> place_swapped("He was born in Rome.", "He was born in Rome. He died in Paris.", random.Random(0))
    'He was born in Paris.'
    """
    found, others = ([span for span in names(text) if _PLACE.search(text[: span[0]])] for text in (sentence, passage))
    return _exchanged(sentence, found, _texts_at(passage, others), rng)


_BY = re.compile(r"\b(?:according to|by) (?:the )?$", re.IGNORECASE)
_SAID_NEXT = re.compile(rf" (?:{'|'.join(_SAID.split())})\b")


def attribution_changed(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Replace the one who said, wrote, found or made something by another name of the passage.

    >>> attribution_changed("Darwin wrote it.", "Darwin wrote it. Years later Wallace read it.", random.Random(0))
    'Wallace wrote it.'
    """
    found = [(a, b) for a, b in names(sentence) if _BY.search(sentence[:a]) or _SAID_NEXT.match(sentence[b:])]
    return _exchanged(sentence, found, _texts_at(passage, names(passage)), rng)


def roles_swapped(sentence: str, _passage: str, rng: random.Random) -> str | None:
    """Exchange two names of the sentence, unless "and" or "or" joins them.

    >>> roles_swapped("Napoleon defeated Melas.", "", random.Random(0))
    'Melas defeated Napoleon.'
    """
    found = names(sentence)
    neighbors = [
        (first, second)
        for first, second in pairwise(found)
        if sentence[slice(*first)] != sentence[slice(*second)]
        and re.search(r"[a-z]{3}", re.sub(r"\b(?:and|the)\b", "", sentence[first[1] : second[0]]))
    ]
    if not neighbors:
        return None
    (a, b), (c, d) = rng.choice(neighbors)
    return f"{sentence[:a]}{sentence[c:d]}{sentence[b:c]}{sentence[a:b]}{sentence[d:]}"


def negation_added(sentence: str, _passage: str, rng: random.Random) -> str | None:
    """Put "not" behind an auxiliary.

    >>> negation_added("It is red.", "", random.Random(0))
    'It is not red.'
    """
    found = list(_AUXILIARY.finditer(sentence))
    match = rng.choice(found) if found else None
    if match is None:
        return None
    word = "cannot" if match[1] == "can" else f"{match[1]} not"
    return f"{sentence[: match.start()]}{word}{sentence[match.end() :]}"


_NEGATIONS = (
    (re.compile(r"\b(ca|wo|sha)n['’]t\b"), lambda match: {"ca": "can", "wo": "will", "sha": "shall"}[match[1]]),
    (re.compile(r"(?<=[a-z])n['’]t\b"), ""),
    (re.compile(r"\b([Cc]an)not\b"), r"\1"),
    (re.compile(r"\bno longer\b"), "still"),
    (re.compile(rf"\b({_AUXILIARY_WORDS.replace(' ', '|')}) not\b"), r"\1"),
    (re.compile(r"\b[Nn]either (.+?) nor\b"), r"both \1 and"),
    (re.compile(r"\bwithout\b"), "with"),
    (re.compile(r"\bnever "), ""),
    (re.compile(r"\bnot "), ""),
    (re.compile(r"\bno (?=[a-z])"), "some "),
)


def negation_removed(sentence: str, _passage: str, _rng: random.Random) -> str | None:
    """Take the first negation away.

    >>> negation_removed("It can't move.", "", random.Random(0)), negation_removed("It moves.", "", random.Random(0))
    ('It can move.', None)
    """
    for pattern, instead in _NEGATIONS:
        edited, count = pattern.subn(instead, sentence, count=1)
        if count:
            return raised(edited) if sentence[0].isupper() else edited
    return None


_ONE_OF = re.compile(r"\bone of the ((?:\w+ )?(?:\w+est|most \w+))\b", re.IGNORECASE)
_ORDINAL_EST = re.compile(r"\b(?:second|third|fourth|fifth)[- ](?=\w+est\b)", re.IGNORECASE)
_opposite_superlative = word_edit(both_ways(pairs_of(_SUPERLATIVES)))


def superlative_changed(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Make one of the best the best, the second-best the best, and the best the worst.

    >>> superlative_changed("It is one of the largest cities.", "", random.Random(0))
    'It is the largest cities.'
    >>> superlative_changed("It is the second-largest city.", "", random.Random(0))
    'It is the largest city.'
    """
    for pattern, instead in ((_ONE_OF, r"the \1"), (_ORDINAL_EST, "")):
        edited, count = pattern.subn(instead, sentence, count=1)
        if count:
            return edited
    return _opposite_superlative(sentence, passage, rng)


_CAUSES = re.compile(
    r"^(?P<a>.+?),? (?P<verb>because|led to|leads to|caused|causes|resulted in|results in|was caused by|so that) "
    r"(?!of\b|the fact\b)(?P<b>[^,;:]+)(?P<end>[.!?])$"
)


def cause_reversed(sentence: str, _passage: str, _rng: random.Random) -> str | None:
    """Exchange cause and effect.

    >>> cause_reversed("The roof fell because the wall was weak.", "", random.Random(0))
    'The wall was weak because the roof fell.'
    """
    match = _CAUSES.match(sentence)
    if match is None:
        return None
    first, second = match["b"], lowered(match["a"])
    return f"{raised(first)} {match['verb']} {second}{match['end']}"


_FIRST_CONDITION = re.compile(r"^(?:If|When|Unless|Except|Once|Provided|As long as|Where)\b[^,]*, (?:then )?(?=\w)")
_LAST_CONDITION = re.compile(
    r",? (?:(?:but )?only (?:if|when)|if|unless|except|provided that|as long as|whenever|when)\b[^.;]*(?=\.$)"
)


def condition_removed(sentence: str, _passage: str, _rng: random.Random) -> str | None:
    """Leave out a condition or an exception.

    >>> condition_removed("If it rains, the match is cancelled.", "", random.Random(0))
    'The match is cancelled.'
    >>> condition_removed("All may vote, except children.", "", random.Random(0))
    'All may vote.'
    """
    edited, count = _FIRST_CONDITION.subn("", sentence, count=1)
    if count:
        return raised(edited)
    edited, count = _LAST_CONDITION.subn("", sentence, count=1)
    return edited if count and len(edited.split()) > 2 else None


_DETAIL = re.compile(
    r"(?: (?:in|at|near|during|until|since|from) (?:the )?(?:[A-Z]\w+|\d{4})(?: [A-Z]\w+)*)(?! of\b)(?=[ ,.;])"
)


def detail_added(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Add a place or a time that the passage says of something else.

    >>> detail_added("He died young.", "He died young. His brother lived in Rome.", random.Random(0))
    'He died young in Rome.'
    """
    details = [text for text in _texts(_DETAIL, passage) if text.split()[-1] not in sentence]
    if not details or not sentence.endswith((".", "!")):
        return None
    return f"{sentence[:-1]}{rng.choice(details)}{sentence[-1]}"


_LIST = re.compile(r"\b(\w+), (\w+)(,?) and (?=\w)")


def list_item_added(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Add to a list what the passage names elsewhere.

    >>> list_item_added("It grows rice, maize and tea.", "Rice, maize, tea. They import Coffee.", random.Random(0))
    'It grows rice, maize, Coffee and tea.'
    """
    match = _LIST.search(sentence)
    others = [text for text in _texts_at(passage, names(passage)) if text.lower() not in sentence.lower()]
    if match is None or not others:
        return None
    return f"{sentence[: match.end(2)]}, {rng.choice(others)}{sentence[match.end(2) :]}"


def conflation(sentence: str, passage: str, rng: random.Random) -> str | None:
    """Join the subject of the sentence with the predicate of another sentence of the passage.

    >>> conflation("The tower is old.", "The tower is old. Its lift was built by Otis.", random.Random(0))
    'The tower was built by Otis.'
    """
    ours = _AUXILIARY.search(sentence)
    if ours is None or not 0 < ours.start() <= 80:
        return None
    others = [
        other[match.start() :]
        for other in sentences(passage)
        if other not in sentence and sentence not in other and (match := _AUXILIARY.search(other))
        and 0 < match.start() <= 80 and other[match.start() :] not in sentence
    ]  # fmt: skip
    return sentence[: ours.start()] + rng.choice(others) if others else None


def exclusivity_changed(sentence: str, _passage: str, rng: random.Random) -> str | None:
    """Take "only" away, or put it behind an auxiliary.

    >>> exclusivity_changed("It is only sold here.", "", random.Random(0))
    'It is sold here.'
    """
    edited, count = re.subn(r"\b(?:only|solely|exclusively) ", "", sentence, count=1)
    if count:
        return edited
    found = list(_AUXILIARY.finditer(sentence))
    match = rng.choice(found) if found else None
    return f"{sentence[: match.end()]} only{sentence[match.end() :]}" if match else None


EDITS: Mapping[str, Edit] = {
    "number_swapped": number_swapped,
    "number_changed": number_changed,
    "year_swapped": year_swapped,
    "year_shifted": year_shifted,
    "date_shifted": date_shifted,
    "unit_changed": word_edit(pairs_of(_UNITS), before=rf"{_QUANTITY}[ -]"),
    "percent_changed": percent_changed,
    "scale_changed": word_edit(pairs_of(_SCALES), before=rf"{_QUANTITY} "),
    "name_swapped": name_swapped,
    "place_swapped": place_swapped,
    "attribution_changed": attribution_changed,
    "roles_swapped": roles_swapped,
    "negation_added": negation_added,
    "negation_removed": negation_removed,
    "antonym": word_edit(both_ways(pairs_of(_ANTONYMS))),
    "comparative": word_edit(both_ways(pairs_of(_COMPARATIVES))),
    "superlative": superlative_changed,
    "quantifier": word_edit(pairs_of(_QUANTIFIERS)),
    "frequency": word_edit(pairs_of(_FREQUENCIES)),
    "modal": word_edit(pairs_of(_MODALS), after=" (?!not )[a-z]"),
    "order_of_events": word_edit(both_ways(pairs_of(_ORDERS))),
    "cause_reversed": cause_reversed,
    "condition_removed": condition_removed,
    "detail_added": detail_added,
    "list_item_added": list_item_added,
    "conflation": conflation,
    "exclusivity": exclusivity_changed,
}
"""The kinds of edits, by name."""


def hallucinations(sentence: str, passage: str, rng: random.Random) -> dict[str, str]:
    """Return the edited sentences, by kind; none that is another sentence of the passage.

    >>> sorted(hallucinations("It opened in 1889.", "It opened in 1889. A lift came in 1983.", random.Random(0)))
    ['detail_added', 'year_shifted', 'year_swapped']
    """
    known = set(map(_folded, sentences(passage)))
    made = {kind: edit(sentence, passage, rng) for kind, edit in EDITS.items()}
    return {kind: text for kind, text in made.items() if text and _folded(text) not in known}


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, as they stand in it."""
    ends = [0, *sentence_ends(text), len(text)]
    return [part for start, end in pairwise(ends) if (part := text[start:end].strip())]


def names(text: str) -> list[tuple[int, int]]:
    """Return the spans of names: words with a capital letter, but not the first word of a sentence unless it looks so.

    >>> [text[a:b] for text in ["However, Mary of Burgundy saw Ghent."] for a, b in names(text)]
    ['Mary of Burgundy', 'Ghent']
    """
    openings = {0, *sentence_ends(text)}
    found = []
    for match in _NAME.finditer(text):
        start, end = match.span()
        while (word := re.match(r"\w+", text[start:end])) and word[0] in _NO_NAMES:
            start += len(word[0]) + 1
        if start < end and not (start in openings and _is_common(text[start:end], text)):
            found.append((start, end))
    return found


_COMMON = re.compile(r"(?:ing|ed|ly|tion|tions|ers|ies|ments?|ness|ity|ous|al|ives?)$")


def _is_common(word: str, text: str) -> bool:
    """Return whether the first word of a sentence is no name, as far as its form tells."""
    return " " not in word and (bool(_COMMON.search(word)) or re.search(rf"\b{word.lower()}\b", text) is not None)


def _spans(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [match.span() for match in pattern.finditer(text)]


def _texts(pattern: re.Pattern[str], text: str) -> list[str]:
    return _texts_at(text, _spans(pattern, text))


def _texts_at(text: str, spans: Iterable[tuple[int, int]]) -> list[str]:
    return list(dict.fromkeys(text[start:end] for start, end in spans))


def _exchanged(
    sentence: str, spans: Sequence[tuple[int, int]], others: Iterable[str], rng: random.Random
) -> str | None:
    """Replace one of the spans by one of the other texts that the sentence lacks."""
    fresh = [other for other in others if _folded(other) not in _folded(sentence)]
    fitting = [
        (span, other) for span in spans for other in fresh if _folded(sentence[slice(*span)]) not in _folded(other)
    ]
    return _put(sentence, *rng.choice(fitting)) if fitting else None


def _put(sentence: str, span: tuple[int, int], text: str) -> str:
    """Replace a span; the capital letter of a sentence's or a word's beginning stays."""
    start, end = span
    return sentence[:start] + (raised(text) if sentence[start].isupper() else text) + sentence[end:]


def raised(text: str) -> str:
    """Return a text with a capital letter at the beginning."""
    return text[:1].upper() + text[1:]


def lowered(sentence: str) -> str:
    """Return a sentence that begins in lowercase, unless it begins with a name."""
    return sentence if names(sentence)[:1] and names(sentence)[0][0] == 0 else sentence[:1].lower() + sentence[1:]


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
