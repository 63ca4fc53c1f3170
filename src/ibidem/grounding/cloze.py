"""Cloze questions: a sentence of a passage with a span taken out, to be told from other spans of its kind.

    passage     The tower was built in 1889. It is 330 m high and weighs 10,100 tons.
    answer      330, a number; the other number of the passage, 10,100, is a wrong answer of the same kind
    question    how many m tower high                words of the sentence, some left out; the question word of its kind

    paraphrased: the question is from another passage that names the same answer among some of the same rare words
    "The Eiffel Tower reaches 330 m above Paris."                      how many m Eiffel Tower reaches above Paris

Nobody labels anything: a passage says itself which of its numbers is where. People do not ask in the words of a text,
so a question keeps only some of its sentence's words; where texts repeat one another, the question and the passage are
two wordings of one fact.
Sources: Lewis et al. 2019, arXiv:1906.04980 (unsupervised question answering by cloze translation); Li et al. 2020,
arXiv:2005.02925 (questions from another text that gives the same answer).
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Literal, NamedTuple

from ibidem.grounding.sentences import sentence_ends
from ibidem.grounding.sentences import words as words_of
from ibidem.grounding.terms import terms

Kind = Literal["year", "number", "name", "other"]

LONGEST_NAME, LONGEST_PHRASE = 6, 4
"""Words of a candidate."""
KEPT = (0.35, 0.9)
"""Share of the words of a sentence that a question keeps; drawn for each question."""
FEWEST_WORDS = 2
"""Content words that a question has at least."""
REACH = 14
"""Words on each side of the answer that a question may take."""
MOST_WRONG = 12
"""Wrong answers of a question."""
MOST_PASSAGES, MOST_PARAPHRASES = 40, 3
"""Passages of an answer above which it tells nothing, and paraphrased questions on one answer."""
LEAST_SHARED, LEAST_WEIGHT = 2, 9.0
"""Content words that two sentences about one answer share, and the sum of their weights."""
_FOCUS_SHARE = 0.5
_NUMBER_WORDS = """
two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion half dozen first second
third fourth fifth sixth seventh eighth ninth tenth
"""
_NUMBERS = frozenset(_NUMBER_WORDS.split())
_SMALL_WORDS = """
a about above according after again against all also although always am an and another any are as at be because become
been before being below between both but by can cannot could did do does doing done down during each either else even
ever every few for from further had has have having he her here hers him his how however i if in into is it its itself
just less like made make makes many may me might mine more most much must my neither never no nor not now of off often
on once one only onto or other others our out over own per rather same shall she should since so some such than that the
their them then there therefore these they this those through thus to too under until up upon us use used uses using
very via was we well were what when where whether which while who whom whose why will with within without would yet you
your
"""
SMALL = frozenset(_SMALL_WORDS.split())
"""Words that are no answer, and neither begin nor end one."""
_WORD = re.compile(r"\d+(?:[.,]\d+)+\w*|\w+(?:[.'’_-]\w+)*")
_YEAR = re.compile(r"(?:1\d{3}|20\d{2})s?")
_BLANK = re.compile(r"[ \t]+")
_OF = frozenset(["of", "de", "van", "von", "du"])
_ASKS: dict[Kind, tuple[str, ...]] = {
    "year": ("when", "in what year", "what year"),
    "number": ("how many", "how much", "what number of"),
    "name": ("who", "what", "which", "where"),
    "other": ("what", "which", "how", "what kind of"),
}


class Candidate(NamedTuple):
    """A span of a passage that may be an answer, in characters."""

    start: int
    end: int
    kind: Kind


class Cloze(NamedTuple):
    """A question that a passage answers with one of its spans."""

    question: str
    passage: int
    """Its place among the passages."""
    answer: Candidate
    wrong: tuple[Candidate, ...]
    """Other spans of the same kind in the same passage, whose text is another."""


class _Word(NamedTuple):
    start: int
    end: int
    text: str
    sentence: int


def kind_of(text: str) -> Kind:
    """Return the kind of an answer, by its form.

    >>> [kind_of(text) for text in ("1889", "1,000 tons", "four", "Gustave Eiffel", "wrought iron")]
    ['year', 'number', 'number', 'name', 'other']
    """
    words = _WORD.findall(text)
    if not words:
        return "other"
    if len(words) == 1 and _YEAR.fullmatch(words[0]):
        return "year"
    if words[0].lower() in _NUMBERS or any(each[0].isdigit() for each in words):
        return "number"
    return "name" if words[0][0].isupper() else "other"


def candidates(passage: str) -> list[Candidate]:
    """Return the spans of a passage that may be answers, in order: years, numbers, names and short phrases.

    >>> text = "In 1889 Gustave Eiffel used 7,300 tons of wrought iron."
    >>> [text[each.start : each.end] for each in candidates(text)]
    ['1889', 'Gustave Eiffel', '7,300', 'tons', 'wrought iron']
    """
    found: list[Candidate] = []
    run: list[_Word] = []
    words = _words(passage)
    for word in words:
        if run and not _continues(passage, run, word):
            found += _of_run(run)
            run = []
        run.append(word)
    return [*found, *_of_run(run)]


def cloze_questions(passages: Sequence[str], seed: int, per_passage: int = 4) -> Iterator[Cloze]:
    """Yield questions on passages, at most so many on each, in their order; the seed and the passage decide.

    A passage without two spans of one kind has no question.
    """
    for place, passage in enumerate(passages):
        draw = random.Random(f"{seed} {place} {len(passage)}")
        by_kind: dict[Kind, list[Candidate]] = {}
        for each in candidates(passage):
            by_kind.setdefault(each.kind, []).append(each)
        words = _words(passage)
        rivals = [(each, _rivals(passage, each, by_kind[each.kind])) for alike in by_kind.values() for each in alike]
        answerable = [(each, wrong) for each, wrong in rivals if wrong]
        draw.shuffle(answerable)
        for answer, wrong in answerable[:per_passage]:
            question = _question(words, answer, draw)
            if question:
                chosen = draw.sample(wrong, min(len(wrong), MOST_WRONG))
                yield Cloze(question, place, answer, tuple(sorted(chosen)))


def paraphrased_questions(passages: Sequence[str], seed: int, idf: Callable[[str], float]) -> Iterator[Cloze]:
    """Yield questions whose words are those of another passage: two sentences with one answer and rare words in common.

    Args:
        passages: the texts.
        seed: decides which words a question keeps.
        idf: weight of a term.
    """
    draw = random.Random(seed)
    found = [_Places(passage) for passage in passages]
    of_text: dict[tuple[Kind, str], list[tuple[int, Candidate]]] = {}
    for place, each in enumerate(found):
        for answer in each.candidates:
            text = passages[place][answer.start : answer.end].casefold()
            if answer.kind != "other" or " " in text:
                of_text.setdefault((answer.kind, text), []).append((place, answer))
    for places in of_text.values():
        if 2 <= len(places) <= MOST_PASSAGES:
            for (asking, asked), (answering, answer) in _paraphrases(found, places, idf):
                wrong = _rivals(passages[answering], answer, found[answering].of_kind(answer.kind))
                question = _question(found[asking].words, asked, draw)
                if wrong and question:
                    chosen = draw.sample(wrong, min(len(wrong), MOST_WRONG))
                    yield Cloze(question, answering, answer, tuple(sorted(chosen)))


class _Places:
    """A passage read once: its words and candidates."""

    def __init__(self, passage: str) -> None:
        self.words, self.candidates = _words(passage), candidates(passage)

    def of_kind(self, kind: Kind) -> list[Candidate]:
        return [each for each in self.candidates if each.kind == kind]

    def beside(self, answer: Candidate) -> frozenset[str]:
        """Return the terms of the answer's sentence, without its own."""
        sentence = next(word.sentence for word in self.words if word.end > answer.start)
        near = [word for word in self.words if word.sentence == sentence]
        kept = [word.text for word in near if word.end <= answer.start or word.start >= answer.end]
        return frozenset(term for text in kept if text.lower() not in SMALL for term in terms(text))


_Place = tuple[int, Candidate]


def _paraphrases(
    found: Sequence[_Places], places: Sequence[_Place], idf: Callable[[str], float]
) -> list[tuple[_Place, _Place]]:
    """Return pairs of places that say the same of one answer, those with most in common first."""
    beside = [found[place].beside(answer) for place, answer in places]
    pairs = []
    for one, other in permutations(range(len(places)), 2):
        shared = beside[one] & beside[other]
        weight = sum(map(idf, shared))
        if places[one][0] != places[other][0] and len(shared) >= LEAST_SHARED and weight >= LEAST_WEIGHT:
            pairs.append((-weight, one, other))
    return [(places[one], places[other]) for _, one, other in sorted(pairs)[:MOST_PARAPHRASES]]


def is_same(one: str, other: str) -> bool:
    """Return whether two answers are alike, or one contains the other: neither is a wrong answer of the other.

    >>> is_same("The Eiffel Tower", "eiffel tower"), is_same("30", "300"), is_same("three", "3")
    (True, False, True)
    """
    mine, theirs = (f" {' '.join(words_of(text))} " for text in (one, other))
    return mine in theirs or theirs in mine


def _rivals(passage: str, answer: Candidate, alike: Sequence[Candidate]) -> list[Candidate]:
    text = passage[answer.start : answer.end]
    return [each for each in alike if each != answer and not is_same(passage[each.start : each.end], text)]


def _question(words: Sequence[_Word], answer: Candidate, draw: random.Random) -> str:
    """Return a question in words of the answer's sentence; empty if too few are left."""
    inside = [number for number, word in enumerate(words) if word.end > answer.start and word.start < answer.end]
    first, last, sentence = inside[0], inside[-1], words[inside[0]].sentence
    near = [
        word
        for number, word in enumerate(words)
        if word.sentence == sentence and (first - REACH <= number < first or last < number <= last + REACH)
    ]
    share = draw.uniform(*KEPT)
    kept = [word for word in near if draw.random() < share]
    if sum(word.text.lower() not in SMALL for word in kept) < FEWEST_WORDS:
        return ""
    asked = _focus(words, first, last, sentence, answer.kind) if draw.random() < _FOCUS_SHARE else []
    rest = [word.text for word in kept if word not in asked]
    return " ".join([draw.choice(_ASKS[answer.kind]), *(word.text for word in asked), *rest])


def _focus(words: Sequence[_Word], first: int, last: int, sentence: int, kind: Kind) -> list[_Word]:
    """Return the word that says what an answer is: behind a number its unit, before a name what it names."""
    place = last + 1 if kind in ("number", "year") else first - 1
    if not 0 <= place < len(words) or words[place].sentence != sentence or words[place].text.lower() in SMALL:
        return []
    return [words[place]]


def _words(passage: str) -> list[_Word]:
    ends = [*sentence_ends(passage), len(passage)]
    words, sentence = [], 0
    for match in _WORD.finditer(passage):
        while match.start() >= ends[sentence]:
            sentence += 1
        words.append(_Word(match.start(), match.end(), match[0], sentence))
    return words


def _class_of(word: str) -> str:
    if word[0].isdigit() or word.lower() in _NUMBERS:
        return "number"
    if word.lower() in SMALL:
        return "small"
    return "name" if word[0].isupper() else "phrase"


def _continues(passage: str, run: Sequence[_Word], word: _Word) -> bool:
    """Return whether a word belongs to the candidate that is being read."""
    last = run[-1]
    if not _BLANK.fullmatch(passage[last.end : word.start]) or last.sentence != word.sentence:
        return False
    mine, theirs = _class_of(run[0].text), _class_of(word.text)
    if mine == "name":
        return theirs == "name" or (word.text in _OF)
    return mine == theirs == "phrase"


def _of_run(run: Sequence[_Word]) -> list[Candidate]:
    """Return the candidate that a run of words is; none if it is small words, or too long."""
    while run and (run[-1].text.lower() in SMALL):
        run = run[:-1]
    while run and (run[0].text.lower() in SMALL):
        run = run[1:]
    if not run:
        return []
    text_class = _class_of(run[0].text)
    if len(run) > (LONGEST_NAME if text_class == "name" else LONGEST_PHRASE):
        return []
    if text_class == "number":
        kind: Kind = "year" if _YEAR.fullmatch(run[0].text) else "number"
    else:
        kind = "name" if text_class == "name" else "other"
    return [Candidate(run[0].start, run[-1].end, kind)]
