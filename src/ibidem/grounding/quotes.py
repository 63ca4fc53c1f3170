"""The best quotes: an answer without a model, and the choice of the passages that a model reads.

    question     How do I set the maximum depth of the interpreter stack?
    its words    set 1.9, maximum 3.1, depth 4.0, interpreter 1.5, stack 2.9      rarer in the chunks found, heavier
    units        sentences, list items, table rows and pieces of code of each chunk
    score        what share of the words' weight a unit has itself, in its headings, and in the units around it
    quotes       the best units, each with what it introduces; none if the best chunk lacks most of the weight

Everything follows from the question and the chunks that were found, so that nothing else can change an answer.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from ibidem.grounding.fusion import fused
from ibidem.grounding.sentences import sentence_ends
from ibidem.grounding.store import Chunk, Hit
from ibidem.grounding.terms import terms

POOL = 40
"""Chunks to look at for each question."""
MOST_QUOTES = 3
LONGEST_QUOTE = 480
"""Characters; a longer unit is cut at the end of a line."""
LONGEST_NAME = 160
"""Characters of the line that names what the next one defines."""
LEAST_COVER = 0.45
"""Share of the question's weight that a chunk with its headings must have to answer it, and score that a unit must."""
LEAST_WORDS = 2
"""Words of the question that such a chunk must have; all, if there are fewer."""
RELATED = 0.8
"""Weight of a word that occurs in another form: approves, approval."""
IN_HEADINGS, BESIDE, IN_CHUNK = 0.7, 0.35, 0.15
"""Weight of a word that does not occur in the unit itself, but in the headings, the units beside it, or the chunk."""
FIRST, NUMBER, ABOUT = 0.03, 0.05, 0.25
"""Bonus of a unit that is the first of its chunk, that has a number that is asked for, or whose heading or defined word
is the question."""
LATER = 0.01
"""Penalty per preceding chunk."""
CODE = 0.8
"""Weight of code and tables, where sentences have 1."""
LIGHT, LONGEST_LIGHT = 0.1, 5
"""Share of its weight that a small word of a question in another language than English has, and its longest one."""
LEAST_LETTERS = 0.7
"""Share of letters and digits below which a unit is a list of signs."""
MOST_SIGNS = 0.06
"""Share of brackets and quotation marks above which a unit is a list of signs."""
SAME = 0.7
"""Share of the terms from which on two texts say the same."""
CLOSE = 0.8
"""Share of the best quote's score that a further quote needs."""
_QUESTION_WORDS = """
a about all am an and any anyone are as at be been being between but by can could did do does doing done each either for
from get give gets got had has have having he her his how i if in into is it its kind like many may me mean means might
more most much must my need of on one or our out please say says she should so some something such tell than that the
their them there these they thing this those to up use used using want was way ways we were what when where whether
which while who whom whose why will with would you your
"""
_EMPTY = frozenset(term for word in _QUESTION_WORDS.split() for term in terms(word))
_GRAMMAR = re.compile("[\u3040-\u309f\u4f55\u8ab0]")  # Hiragana, and the first characters of Japanese question words
_ROW = re.compile(r"[^|\n]*\S \| \S")  # of a table of a web page
_RULE = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)*")  # below a header row
_NO_SIGN = re.compile(r'"{3}|\[\^?\w{1,3}\]')  # of a docstring or a footnote
_PLAIN_WORD = re.compile(r"[^\W_]+[.,;:!]?")
_LINE_END = re.compile("\n")
_BLOCK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*•+]|\d{1,3}[.)])[ \t])|\n(?=[ \t]*\|)|\n(?=>>> )")
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t][^\n]*\n(?=.)", re.DOTALL)  # with a text in the line below it
_NO_NAME = re.compile(r"\s*(?:[-*•+|`~$>]|\d{1,3}[.)])")  # an item of a list, a row, code
_DIRECTIVE = re.compile(r"\s*\.\. [\w-]+::")  # of reStructuredText
_HOW = re.compile(r"(?i)\bhow (?:many|much|long|large|high|old|often|far|fast|big|deep|tall|heavy|soon)\b")
_ASKS_NUMBER = re.compile(rf"{_HOW.pattern}|\b(?:when|what year)\b")
_ASKS_YES_NO = re.compile(r"(?i)\s*(?:is|are|was|were|do|does|did|can|could|may|must|should|has|have|will)\b")
_NUMBER = re.compile(r"(?i)\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|hundred|thousand|million)\b")


class Quote(NamedTuple):
    """A part of a chunk that answers a question."""

    place: int
    """Of its chunk among those given."""
    start: int
    end: int
    """It is `chunk.text[start:end]`."""
    score: float


class _Unit(NamedTuple):
    start: int
    end: int
    terms: frozenset[str]
    name: tuple[int, int] | None
    """Span of the unit before, if that is a name, as a signature or a defined word is, or a question."""
    header: frozenset[str] | None
    """Terms of the header row, if it is a row of a table; None if it is the header row itself."""


def choose(question: str, hits: Sequence[Hit], k: int) -> list[Hit]:
    """Return the k hits whose best unit fits the question best, where the store's order counts as much.

    Of chunks that say the same only the first is returned.
    """
    ranking = {place: rank for rank, place in enumerate(_by_unit(question, [hit.chunk for hit in hits]), 1)}
    order = sorted(range(len(hits)), key=lambda place: (-fused(ranking[place], place + 1), place))
    chosen: list[Hit] = []
    for place in order:
        if len(chosen) == k:
            break
        held = _terms_of(hits[place].chunk)
        if not any(_is_same(held, _terms_of(other.chunk)) for other in chosen):
            chosen.append(hits[place])
    return chosen


def quotes(question: str, chunks: Sequence[Chunk], among: Sequence[Chunk]) -> list[Quote]:
    """Return the parts of the chunks that answer a question best, best first; none if they do not answer it.

    Args:
        question: the question.
        chunks: those to quote.
        among: all that were found, by which the question's words are weighted.
    """
    weights = _weights(question, among)
    scored = sorted(_scored(question, chunks, weights), key=lambda quote: (-quote.score, quote.place, quote.start))
    if not scored:
        return []
    chosen: list[Quote] = []
    for quote in scored:
        if len(chosen) == MOST_QUOTES or quote.score < CLOSE * scored[0].score:
            break
        if not any(_repeats(quote, other, chunks) for other in chosen):
            chosen.append(quote)
    return [_extended(quote, chunks[quote.place]) for quote in chosen]


def _by_unit(question: str, chunks: Sequence[Chunk]) -> list[int]:
    """Return the places of chunks in the order of their best units."""
    best = dict.fromkeys(range(len(chunks)), 0.0)
    for quote in _scored(question, chunks, _weights(question, chunks), least=0.0):
        best[quote.place] = max(best[quote.place], quote.score)
    return sorted(best, key=lambda place: (-best[place], place))


def _weights(question: str, chunks: Sequence[Chunk]) -> dict[str, float]:
    """Return the weight of each content word of a question: the rarer among the chunks, the heavier."""
    words = dict.fromkeys(term for term in terms(_HOW.sub("", question)) if term not in _EMPTY)
    held = [_terms_of(chunk) for chunk in chunks]
    counts = {word: sum(word in each for each in held) for word in words}
    light = _light(question, words)
    return {
        word: (LIGHT if word in light else 1) * (1 + math.log1p((len(chunks) - count + 0.5) / (count + 0.5)))
        for word, count in counts.items()
    }


def _light(question: str, words: Collection[str]) -> frozenset[str]:
    """Return the words of a question that say little, if it is in another language than English.

    These are its first word, which asks, and short words in lowercase; none if nothing else is left.

    >>> question = "Wie lange ist die K\u00fcndigungsfrist?"
    >>> sorted(_light(question, terms(question)))
    ['die', 'ist', 'lang', 'wie']
    """
    if not question.rstrip().endswith(("?", "\uff1f", "\u304b", "\u3002")) or not _EMPTY.isdisjoint(terms(question)):
        return frozenset()
    first, *others = re.findall(r"\w+", question) or [""]
    small = [word for word in others if len(word) <= LONGEST_LIGHT and word.islower()]
    light = {term for word in (*([first] if others else []), *small) for term in terms(word)}
    light.update(word for word in words if _GRAMMAR.search(word))
    return frozenset() if light.issuperset(words) else frozenset(light)


def _scored(
    question: str, chunks: Sequence[Chunk], weights: Mapping[str, float], least: float = LEAST_COVER
) -> Iterator[Quote]:
    """Yield each unit of the chunks that answer, with its score from 0 to 1 and a little more."""
    whole = sum(weights.values())
    if not whole:  # nothing is asked for
        return
    enough = min(LEAST_WORDS, sum(weight >= 1 for weight in weights.values())) if least else 0
    is_number, is_yes_no = _ASKS_NUMBER.search(question) is not None, _ASKS_YES_NO.match(question) is not None
    for place, chunk in enumerate(chunks):
        held = _terms_of(chunk)
        if _cover(weights, held) < least * whole or _num_held(weights, held) < enough:
            continue
        above, whole_title, within = _headings(chunk)
        about = _about(weights, " ".join(chunk.title[-1:])) / whole
        units = _units(chunk.text)
        for number, unit in enumerate(units):
            if unit.header is None:
                continue
            is_below = unit.start >= within
            headings = whole_title if is_below else above
            text = chunk.text[unit.start : unit.end]
            around = [] if unit.header else units[max(0, number - 1) : number + 2]  # other rows are about others
            beside = frozenset[str]().union(*(other.terms for other in around))
            name = "" if unit.name is None else chunk.text[slice(*unit.name)]
            named = frozenset(terms(name)) - headings  # what the headings say counts as a heading
            score = _score(weights, unit.terms | named, headings | (unit.header or frozenset()), beside, held)
            score = (score + (_about(weights, name) if named else 0.0)) / whole
            score += (FIRST + (about if is_below else 0.0)) / (1 + number) + (
                NUMBER if is_number and _NUMBER.search(text) else 0.0
            )
            score *= _worth(text, unit.terms, headings, weights, is_yes_no=is_yes_no, is_row=bool(unit.header))
            if score >= least:
                yield Quote(place, unit.start, unit.end, score * (1 - LATER * place))


def _headings(chunk: Chunk) -> tuple[frozenset[str], frozenset[str], int]:
    """Return the terms of all headings of a chunk but the last, those of all, and where the last stands in it, or 0."""
    last = re.escape(" ".join(chunk.title[-1:]))
    found = re.search(rf"(?m)^[ #*=]*{last}[ #*]*$", chunk.text) if last else None
    above, whole = (frozenset(terms(" ".join(title))) for title in (chunk.title[:-1], chunk.title))
    return above, whole, found.start() if found else 0


def _num_held(weights: Mapping[str, float], held: frozenset[str]) -> int:
    """Return how many words of a question are held, without those that weigh little."""
    return sum(weight >= 1 and _likeness(word, held) > 0 for word, weight in weights.items())


def _about(weights: Mapping[str, float], heading: str) -> float:
    """Return how much of a question a heading or a defined word is, if it is nothing else."""
    words = frozenset(terms(heading)) - _EMPTY
    return ABOUT * _cover(weights, words) if words and words <= weights.keys() else 0.0


def _score(
    weights: Mapping[str, float],
    own: frozenset[str],
    headings: frozenset[str],
    beside: frozenset[str],
    chunk: frozenset[str],
) -> float:
    places = ((own, 1.0), (headings, IN_HEADINGS), (beside, BESIDE), (chunk, IN_CHUNK))
    return sum(
        weight * max(share * _likeness(word, held) for held, share in places) for word, weight in weights.items()
    )


def _cover(weights: Mapping[str, float], held: frozenset[str]) -> float:
    return sum(weight * _likeness(word, held) for word, weight in weights.items())


@lru_cache(maxsize=1 << 14)
def _likeness(word: str, held: frozenset[str]) -> float:
    """Return whether a word is held, or another form of it.

    >>> [_likeness("approv", frozenset([term])) for term in ("approv", "approval", "approach")]
    [1.0, 0.8, 0.0]
    """
    if word in held:
        return 1.0
    beginning = word[: max(6, len(word) - 1)]
    is_related = len(word) >= 5 and any(
        term.startswith(beginning) or (len(term) >= 5 and word.startswith(term[: max(6, len(term) - 1)]))
        for term in held
    )
    return RELATED if is_related else 0.0


def _worth(
    text: str,
    own: frozenset[str],
    headings: frozenset[str],
    weights: Mapping[str, float],
    *,
    is_yes_no: bool,
    is_row: bool,
) -> float:
    """Return what a unit is worth as an answer, from 0 to 1.

    A question is worth little; so is what says no more than the question or its headings, and a list of signs.
    """
    shown = "".join(_NO_SIGN.sub("", text).replace("|", "" if is_row else "|").split())
    if _is_question(text) or own <= headings or _DIRECTIVE.match(text):
        return 0.2
    letters, signs = sum(map(str.isalnum, shown)), sum(map(shown.count, '[]{}"'))
    if letters < LEAST_LETTERS * len(shown) or (signs > MOST_SIGNS * len(shown) and not _is_sentence(text)):
        return 0.3
    more = sum(1 for term in own if term not in weights and term not in _EMPTY)
    if is_row and more:  # a cell is an answer
        return 1.0
    return (1.0 if is_yes_no or more > 1 else 0.4 + 0.3 * more) * (1.0 if _is_prose(text) else CODE)


def _repeats(quote: Quote, other: Quote, chunks: Sequence[Chunk]) -> bool:
    """Return whether two quotes overlap, or say nearly the same."""
    one, two = chunks[quote.place], chunks[other.place]
    if one.path == two.path:
        first, second = one.start + quote.start, two.start + other.start
        if first < two.start + other.end and second < one.start + quote.end:
            return True
    ours = set(terms(one.text[quote.start : quote.end]))
    theirs = set(terms(two.text[other.start : other.end]))
    return len(ours & theirs) >= SAME * min(len(ours), len(theirs))


def _is_same(ours: frozenset[str], theirs: frozenset[str]) -> bool:
    return len(ours & theirs) >= SAME * len(ours | theirs)


def _extended(quote: Quote, chunk: Chunk) -> Quote:
    """Add to a quote what it introduces, behind a colon; and what introduces it, as a signature or a defined word."""
    units = _units(chunk.text)
    name = next((unit.name for unit in units if unit.start == quote.start), None)
    is_heading = name is not None and set(terms(chunk.text[slice(*name)])).issubset(terms(" ".join(chunk.title)))
    if name is not None and not is_heading:
        quote = quote._replace(start=name[0])
    text = chunk.text[quote.start : quote.end].rstrip()
    following = next((unit for unit in units if unit.start >= quote.end), None)
    is_open = not text.endswith((".", "!", "?", "。", "```")) and not _is_table(text)
    if following is not None and is_open and following.end - quote.start <= LONGEST_QUOTE:
        return quote._replace(end=following.end)
    return quote


def _is_sentence(text: str) -> bool:
    """Return whether a text is mostly words and ends with a full stop, whatever is quoted in it."""
    pieces = text.split()
    return text.endswith((".", "!")) and sum(
        bool(_PLAIN_WORD.fullmatch(piece)) for piece in pieces
    ) >= LEAST_LETTERS * len(pieces)


def _is_question(text: str) -> bool:
    return text.rstrip().rstrip("\"'*_`)\u201d\u2019").endswith(("?", "\uff1f"))


def _is_name(text: str) -> bool:
    is_line = len(text) <= LONGEST_NAME and "\n" not in text
    is_open = not text.rstrip().endswith((".", "!", "?", ":", "。")) and not _NO_NAME.match(text)
    return is_line and not _is_table(text) and (is_open or _is_question(text))


@lru_cache(maxsize=256)
def _terms_of(chunk: Chunk) -> frozenset[str]:
    return frozenset(terms(" ".join([*chunk.title, chunk.text])))


@lru_cache(maxsize=256)
def _units(text: str) -> tuple[_Unit, ...]:
    """Divide a chunk into sentences, list items, table rows and pieces of code."""
    spans = unit_spans(text)
    names = [span if _is_name(text[slice(*span)]) else None for span in spans]
    headers = _headers([text[slice(*span)] for span in spans])
    return tuple(
        _Unit(start, end, frozenset(terms(text[start:end])), name, header)
        for (start, end), name, header in zip(spans, [None, *names], headers, strict=False)
    )


def _headers(units: Sequence[str]) -> Iterator[frozenset[str] | None]:
    """Yield the terms of the header row above each unit; without a rule, the first row may be one too."""
    header: frozenset[str] = frozenset()
    for unit, following in zip(units, [*units[1:], ""], strict=True):
        if not _is_table(unit):
            header = frozenset()
            yield header
        elif _RULE.fullmatch(following):
            header = frozenset(terms(unit))
            yield None
        else:
            yield header
            header = header or frozenset(terms(unit))


def unit_spans(text: str) -> list[tuple[int, int]]:
    r"""Return the spans of the units of a text.

    >>> [("It is. No!\n- one\n- two")[start:end] for start, end in unit_spans("It is. No!\n- one\n- two")]
    ['It is.', 'No!', '- one', '- two']
    """
    spans: list[tuple[int, int]] = []
    for start, end in _blocks(text):
        if _is_table(text[start:end]):
            spans += _between(text, _LINE_END, start, end)
        elif _is_prose(text[start:end]):
            ends = [start + cut for cut in sentence_ends(text[start:end])]
            spans += zip([start, *ends], [*ends, end], strict=True)
        else:
            spans.append((start, end))
    return [piece for start, end in spans for piece in _cut(text, start, end)]


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    r"""Yield the spans of paragraphs, items, rows and headings.

    >>> [("# Leave\nIt is long.\n\nIt ends.")[start:end] for start, end in _blocks("# Leave\nIt is long.\n\nIt ends.")]
    ['# Leave', 'It is long.', 'It ends.']
    """
    for start, end in _between(text, _BLOCK, 0, len(text)):
        heading = _HEADING.match(text, start, end)
        if heading:
            yield start, heading.end() - 1
        yield heading.end() if heading else start, end


def _is_prose(block: str) -> bool:
    """Return whether a block is text in sentences, not code or a table."""
    lines = block.strip("\n").split("\n")
    is_indented = len(lines) > 1 and all(line.startswith(("    ", "\t")) for line in lines if line.strip())
    return not is_indented and not block.lstrip().startswith((">>>", "```", "~~~", "|", "$ ")) and not _is_table(block)


def _is_table(text: str) -> bool:
    """Return whether a text is one row of a table or several."""
    return text.lstrip().startswith("|") or all(map(_ROW.match, text.strip("\n").split("\n")))


def _between(text: str, pattern: re.Pattern[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text, start, end):
        yield start, match.start()
        start = match.end()
    yield start, end


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a span without the blanks around it, in pieces of whole lines if it is too long."""
    while start < end:
        stop = end
        if end - start > LONGEST_QUOTE:
            stop = max(text.rfind("\n", start, start + LONGEST_QUOTE), text.rfind(" ", start, start + LONGEST_QUOTE))
            stop = end if stop <= start else stop
        piece = text[start:stop]
        left = len(piece) - len(piece.lstrip("\n"))
        if piece.strip():
            yield start + left, start + len(piece.rstrip())
        start = stop + (stop < end)
