"""Citations: which passages a text cites, whether they support it, and where it is a quote of them.

    answer of a model        The tower is 330 m high [1]. It is red [7].
    split into claims        "The tower is 330 m high", which cites passage 1;  "It is red", which cites nothing: 7 of 1
    checked                  passage 1 contains the first one, at characters 10 to 34; nothing supports the second one
    for people               The tower is 330 m high [1]. It is red (unsupported).

A claim is a sentence of an answer. It cites passages as [passage id] or [id, id]; any other text in brackets is text.
A model of ours cites with parts of the chat template, which no text can spell: by the passage's number, the beginning
of its chunk's id, or both, as they precede the passage. For foreign models each bracket of a
document has a backslash before it, so that a document cannot spell a citation either; for people only brackets around
numbers have one.
Source: Gao et al. 2023, arXiv:2305.14627, section 4 (ALCE: citation recall and precision).
"""

import copy
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ibidem.conversation import Part
from ibidem.grounding.marked import (
    CLOSE,
    MARKED,
    OPEN,
    UNSUPPORTED,
    Place,
    Shown,
    cleaned,
    placed,
    simplified,
    spans,
)
from ibidem.grounding.sentences import plain, words
from ibidem.grounding.store import Chunk
from ibidem.grounding.support import Entailment

MOST_WORDS_BEHIND = 6  # an abstention may state a reason; a longer answer makes a claim
_UNSURE_WORDS = 2  # by which more text may lower the number of words
ID_CHARS = 4
"""Characters of a chunk's id that a citation has; more are accepted."""
SHORTEST_QUOTE = 3  # words; fewer occur anywhere
_CITATION = re.compile(r"\[([^\[\]]{1,200})\]")
_SAME_SENTENCE = re.compile(r"(?: \w[\w'-]*)*\W*")
_SOURCE_WORDS = """
answer answers article context data document documents evidence information passage passages question source sources
text texts
"""
_REASON_WORDS = """
a about an any anything as available based be because by can contain contained contains covered covers do does enough
exact exactly find for found from given here how i in is it me mention mentioned mentions my no not of on or provide
provided retrieved said say says sorry specified specify state stated states such sure tell that the there these they
this those to what when where whether which who whom whose why with within
"""
_SOURCES = frozenset(_SOURCE_WORDS.split())
_REASONS = _SOURCES | frozenset(_REASON_WORDS.split())

_CHUNK_ID = re.compile(f"[0-9a-f]{{{ID_CHARS},64}}")
_BRACKET = re.compile(r"[\[\]]")
_ESCAPED = re.compile(r"\\([\[\]])")
_CODE = r"```.*?(?:```|\Z)|``[^\n]*?``|`[^`\n]*`|(?<=[A-Za-z0-9_])\[[^\[\]\n]*\](?:\[[^\[\]\n]*\])*"
CITED = r"(?<!\\)\[(?P<cited>\s*+[0-9]{1,9}+(?:(?:\s*+[,;]\s*+|\s++)[0-9]{1,9}+)*+\s*+(?:[,;]\s*+)?)\]"
_CODE_OR_CITED = re.compile(f"{_CODE}|{CITED}", re.DOTALL)
_QUOTED = re.compile(r"[\"“«`]([^\"“”«»`]+)[\"”»`]")
_FIRST_QUOTE = re.compile(r"\s*“[^“”]*”\s*(?=\S)")
_BEFORE_SIGN = re.compile(r" (?=[.,;:!?](?:\s|$))")  # the blank before a citation that was taken out
_ENDS = re.compile(
    rf"[.!?]+[\"'”’»)\]*_]*(?=\s|{OPEN}|\Z)|[。！？][\"'”’»)\]*_]*|\n|{OPEN}"
)  # where a sentence may end, or a citation begins
_SETTLED = re.compile(
    rf"\s*(?:{OPEN}[^{CLOSE}]*{CLOSE} ?)*[^\s{OPEN}](?:\S*\s|\S{{19}})"
)  # behind a possible end: a whole word, by which `sentence_ends` decides
_UNFINISHED_TAG = re.compile(r"</?(?:[a-z]{0,5}|h[1-6]) ?/?\Z", re.IGNORECASE)
_PLAIN_PIECE = re.compile(r"[\w ,;:'\"()\[\]{}/+*=&%$#@^~|>`-]*")  # ends nothing
LONG = 400
"""Characters from which on a sentence without an end is looked at ever more rarely, so that its cost stays linear."""
_IGNORED = frozenset(["Cf", "Cc", "Zs", "Zl", "Zp"])


class Citation(NamedTuple):
    """What an answer cites."""

    number: int
    """The passage, from 1."""
    span: tuple[int, int]
    """Of the quote in the document's text, in characters; of the whole chunk if nothing is quoted verbatim."""
    quote: str | None
    """The document's own text, if the claim repeats it word for word."""
    supported: bool
    """Whether every claim that cites this is supported by the passages that it cites together."""


class Claim(NamedTuple):
    """A sentence of an answer."""

    text: str
    """Without its citations."""
    numbers: tuple[int, ...]
    """The passages that it cites, from 1."""
    supported: bool


class Checked(NamedTuple):
    """An answer whose citations were checked."""

    text: str
    """For people: citations as [1], and a mark behind each unsupported claim."""
    said: str
    """The same without these marks; empty if it abstains."""
    citations: tuple[Citation, ...]
    removed: int
    """Citations of passages that do not exist; they are not in the text."""
    unsupported: tuple[str, ...]
    """Claims that the passages they cite do not support, or that cite nothing."""
    claims: tuple[Claim, ...] = ()
    """All of them, in order."""


def check(answer: Iterable[Part], chunks: Sequence[Chunk], judge: Entailment) -> Checked:
    """Check an answer's citations against the passages that it was given, numbered from 1.

    >>> from ibidem.grounding.support import WordCover
    >>> tower = Chunk("c", "tower.md", ("Tower",), 10, 41, "The tower is 330 m high. Go up.")
    >>> parts = read_citations("The tower is 330 m high [1]. It is red [7].")
    >>> check(parts, [tower], WordCover(0.75))  # doctest: +NORMALIZE_WHITESPACE
    Checked(text='The tower is 330 m high [1]. It is red (unsupported).',
            said='The tower is 330 m high [1]. It is red.',
            citations=(Citation(number=1, span=(10, 34), quote='The tower is 330 m high.', supported=True),),
            removed=1, unsupported=('It is red.',),
            claims=(Claim(text='The tower is 330 m high.', numbers=(1,), supported=True),
                    Claim(text='It is red.', numbers=(), supported=False)))
    """
    checking = Checking(chunks, judge)
    text = "".join([*(checking.add(part).text for part in answer), checking.end().text])
    found: dict[tuple[int, tuple[int, int]], Citation] = {}
    for claim in checking.claims:
        for number in claim.numbers:
            cited = citation_of(number, claim, chunks)
            before = found.get((number, cited.span), cited)
            both = cited.supported and before.supported
            found[number, cited.span] = cited._replace(quote=cited.quote or before.quote, supported=both)
    citations = tuple(found[key] for key in sorted(found))
    unsupported = tuple(claim.text for claim in checking.claims if not claim.supported)
    said = text.replace(UNSUPPORTED, "")
    return Checked(text, said, citations, checking.removed, unsupported, tuple(checking.claims))


class Seen(NamedTuple):
    """What people see of a piece of an answer."""

    text: str
    citations: tuple[tuple[Place, Claim | None], ...]
    """Each with the claim that it belongs to; None if it stands where nothing is claimed."""


class Checking:
    """Checks an answer piece by piece: its text and citations are the same, wherever the pieces are cut.

        added    The tower is 330 |m high|⟨1⟩      |. It is |red. |        (the end)
        seen     The tower is 330 |m high|         | [1].   | It is red    | (unsupported).

    Text is seen at once. Its sentence's end, and citations, wait until the sentence is judged: until the word behind it
    is complete, by which `sentence_ends` decides.
    """

    def __init__(self, chunks: Sequence[Chunk], judge: Entailment) -> None:
        self.claims: list[Claim] = []
        self.unsupported: list[tuple[int, int]] = []
        """Places of the claims in the text that people see, without the marks behind them."""
        self.removed = 0
        """Citations of passages that do not exist."""
        self._chunks, self._judge = chunks, judge
        self._passages = {str(number): passage_text(chunk) for number, chunk in enumerate(chunks, 1)}
        self._tail = ""  # marked text since the last sentence that was judged
        self._num_sent = 0  # characters of the tail that are seen
        self._num_settled = 0  # possible ends in the tail that are decided
        self._next_look = 0  # length of the tail from which on it is looked at again
        self._is_open = True  # whether nothing in the tail waits
        self._is_behind_return = False  # whether a line feed belongs to the line's end that was added
        self._item, self._opens_line = 0, True
        self._shown, self._at_tail = Shown(), Shown()
        self._texts: list[str] = []
        self._cited: list[tuple[Place, Claim | None]] = []

    def add(self, part: Part) -> Seen:
        """Add more text, or a whole citation; return what is seen now."""
        if part.kind != "cite":
            text = part.text.removeprefix("\n") if self._is_behind_return else part.text
            if part.text:
                self._is_behind_return = part.text.endswith("\r")
            return self._added(cleaned(text))
        self._is_behind_return = False
        for number in _cited_passages(part.text, self._chunks):
            if number:
                self._tail += f"{OPEN}{number}{CLOSE}"
            else:
                self.removed += 1
                self._tail = self._tail.rstrip(" \t")
        return self._added("")

    def end(self) -> Seen:
        """Return the rest of the answer, whose last sentence ends here."""
        self._judge_sentences(self._tail, *simplified(self._tail), is_end=True)
        self._send(self._tail[self._num_sent :], None)
        self._texts.append(self._shown.end())
        return self._seen()

    def _added(self, text: str) -> Seen:
        self._tail += text
        if text and self._is_open and _PLAIN_PIECE.fullmatch(text):
            self._send_until(len(self._tail.rstrip()))
        elif len(self._tail) >= self._next_look:
            self._advance()
            self._next_look = len(self._tail) + max(len(self._tail) - LONG, 0) // 8
        else:
            self._is_open = False
        return self._seen()

    def _advance(self) -> None:
        whole = _UNFINISHED_TAG.sub("", self._tail)
        text, places = simplified(whole)
        ends = [
            (places[found.start()], found[0] != OPEN and _SETTLED.match(text, found.end()) is not None)
            for found in _ENDS.finditer(text)
        ]
        judged = 0
        if (num_settled := sum(is_settled for _, is_settled in ends)) > self._num_settled:
            self._num_settled = num_settled
            judged = self._judge_sentences(whole, text, places)
        seen = len(text.rstrip())  # invisible characters behind that belong to what follows
        visible = max(places[seen - 1] + 1 - judged, 0) if seen else 0
        waiting = [place - judged for place, is_settled in ends if place >= judged and not is_settled]
        stop = min([visible, *waiting])
        self._is_open = not waiting and not self._tail[visible:].strip()
        self._send_until(len(self._tail[:stop].rstrip()))

    def _send_until(self, stop: int) -> None:
        if stop > self._num_sent:
            self._send(self._tail[self._num_sent : stop], None)
            self._num_sent = stop

    def _judge_sentences(self, whole: str, text: str, places: Sequence[int], *, is_end: bool = False) -> int:
        """Judge the sentences of the tail that have ended, and cut them off; return the length of what was cut off."""
        start = 0
        for span in spans(text, item=self._item, opens_line=self._opens_line):
            if not is_end and not _SETTLED.match(text, span.end):
                break
            place = placed(span, whole, places)
            self._judge_sentence(whole[start : place.start], whole[place.start : place.end])
            self._num_sent = max(self._num_sent - (place.end - start), 0)
            self._item, self._opens_line, start = span.item, span.opens_line, place.end
            self._at_tail, self._num_settled = copy.copy(self._shown), 0
        self._tail = self._tail[start:]
        return start

    def _judge_sentence(self, before: str, sentence: str) -> None:
        """Judge a sentence, and show what is not seen yet of it and of the blanks and signs before it."""
        claim = self._claim(plain(sentence))
        self.claims.append(claim)
        self._send(before[self._num_sent :], None)
        num_sent = max(self._num_sent - len(before), 0)
        if claim.supported:
            self._send(sentence[num_sent:], claim)
            return
        stop = len(sentence) - sentence.endswith((".", "!", "?"))
        self._send(sentence[num_sent:stop], claim)
        self._at_tail.add(before)
        cited = MARKED.match(sentence)  # a blank may be shown before it
        start = self._at_tail.add(cited[0])[1][0].start if cited else self._at_tail.place()
        self.unsupported.append((start, self._shown.stop()))
        self._texts.append(self._shown.doubt())
        self._send(sentence[stop:], claim)

    def _claim(self, sentence: str) -> Claim:
        numbers = list(dict.fromkeys(MARKED.findall(sentence)))
        said = " ".join(MARKED.sub(" ", sentence).split())
        is_supported = _supports(numbers, said, self._passages, self._judge)
        return Claim(_BEFORE_SIGN.sub("", said), tuple(map(int, numbers)), is_supported)

    def _send(self, marked: str, claim: Claim | None) -> None:
        text, cited = self._shown.add(marked)
        self._texts.append(text)
        self._cited += [(place, claim) for place in cited]

    def _seen(self) -> Seen:
        seen = Seen("".join(self._texts), tuple(self._cited))
        self._texts, self._cited = [], []
        return seen


def passage_text(chunk: Chunk) -> str:
    """Return a chunk as a model reads it, and as claims are held against it: its headings, then its text."""
    return "\n\n".join([*([" > ".join(chunk.title)] if chunk.title else []), chunk.text])


def label(number: int, chunk: Chunk) -> str:
    """Return what a passage is cited by: its number, and the beginning of its chunk's id.

    >>> label(2, Chunk("5b1f6f0f1f0b4a5a9a8e9b1f6f0f1f0b", "tower.md", (), 0, 4, "Text"))
    '2 5b1f'
    """
    return f"{number} {chunk.id[:ID_CHARS]}"


def escape(text: str) -> str:
    r"""Put a backslash before each bracket, so that the text cannot spell a citation.

    >>> escape("argv[1]")
    'argv\\[1\\]'
    """
    return _BRACKET.sub(r"\\\g<0>", text)


def unescaped(text: str) -> str:
    r"""Return a text without the backslashes that `escape` put there.

    >>> unescaped("argv\\[1\\]")
    'argv[1]'
    """
    return _ESCAPED.sub(r"\1", text)


def read_citations(text: str) -> tuple[Part, ...]:
    r"""Return the parts of an answer that a foreign model wrote: citations as parts, and brackets without backslashes.

    >>> read_citations("Use argv\\[1\\] [2, 3].")  # doctest: +NORMALIZE_WHITESPACE
    (Part(kind='text', text='Use argv[1] '), Part(kind='cite', text='2'), Part(kind='cite', text='3'),
     Part(kind='text', text='.'))
    """
    parts: list[Part] = []
    start = 0
    for match in _CODE_OR_CITED.finditer(text):
        if match["cited"] is None:
            continue
        parts.append(Part("text", unescaped(text[start : match.start()])))
        parts.extend(Part("cite", number) for number in re.findall("[0-9]+", match["cited"]))
        start = match.end()
    parts.append(Part("text", unescaped(text[start:])))
    return tuple(part for part in parts if part.text)


def find_quote(text: str, passage: str) -> tuple[int, int] | None:
    """Return where a passage has a text word for word; blanks and the form of characters may differ.

    >>> find_quote("is  330 m", "The tower is 330\u00a0m high")
    (10, 18)
    """
    needle, _ = _skeleton(text)
    hay, places = _skeleton(passage)
    at = hay.find(needle) if needle else -1
    return None if at < 0 else (places[at], places[at + len(needle) - 1] + 1)


def claims(answer: str, passages: Mapping[str, str], judge: Entailment) -> list[dict[str, Any]]:
    """Judge the claims of an answer; of a sentence that is repeated, one that is not supported counts."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for sentence in sentences(answer, passages):
        claim = assess_claim(sentence, passages, judge)
        key = words(without_citations(sentence, passages))
        if key not in found or not claim["supported"]:
            found[key] = claim
    return list(found.values())


def assess_claim(sentence: str, passages: Mapping[str, str], judge: Entailment) -> dict[str, Any]:
    """Judge one sentence and its citations (ALCE, section 4)."""
    ids = _readable(passages)
    found = [(body, _cited(body, ids)) for body in _CITATION.findall(sentence)]
    cited = list(dict.fromkeys(key for body, keys in found for key in keys or [body]))
    known = list(dict.fromkeys(key for _, keys in found for key in keys))
    claim = without_citations(sentence, passages).strip()
    is_supported, needed = _judge(claim, known, passages, judge)
    return {"cited": cited, "covered": bool(known), "supported": is_supported, "needed": needed}


def behind_quote(answer: str) -> str:
    """Return what an answer says behind the quotation that it begins with; the whole of it if that is all it says.

    >>> behind_quote("“The tower is 330 m high.” 330 m"), behind_quote("“The tower is 330 m high.”")
    ('330 m', '“The tower is 330 m high.”')
    """
    return _FIRST_QUOTE.sub("", answer) or answer


def without_citations(text: str, passages: Iterable[str]) -> str:
    """Return a text with a blank instead of each citation of the passages with these ids."""
    ids = _readable(passages)
    return _CITATION.sub(lambda match: " " if _cited(match[1], ids) else match[0], text)


def sentences(answer: str, passages: Iterable[str]) -> list[str]:
    """Split an answer into claims; citations after a full stop belong to the sentence before it.

    Args:
        answer: an answer.
        passages: the ids that it may cite.

    >>> sentences("It is red. [a] It is new [b]. [It is old.]", ["a", "b"])
    ['It is red. [a]', 'It is new [b].', '[It is old.]']
    """
    ids = _readable(passages)
    text = _CITATION.sub(
        lambda match: f"{OPEN}{match[1]}{CLOSE}" if _cited(match[1], ids) else match[0], plain(cleaned(answer))
    )
    shown = str.maketrans({OPEN: "[", CLOSE: "]", "\n": " "})
    whole, _ = simplified(text)
    return [" ".join(whole[span.start : span.end].translate(shown).split()) for span in spans(whole)]


def is_abstention(answer: str, abstentions: Sequence[str], question: str = "") -> bool:
    """Return whether an answer is empty or an abstention.

    Behind the phrase there may be a few words about the documents or, in the same sentence, the words of the question.

    >>> is_abstention("I don't know.", ["i don't know"]), is_abstention("Paris", ["i don't know"])
    (True, False)
    >>> is_abstention("I don't know. It is Paris.", ["i don't know"])
    False
    """
    said = plain(answer).casefold().strip()
    phrases = [plain(phrase).casefold().strip() for phrase in abstentions]
    behind = [said[len(phrase) :] for phrase in phrases if phrase and said.startswith(phrase)]
    return not said or any(_is_reason(rest, question) for rest in behind)


def may_be_abstention(beginning: str, abstentions: Sequence[str]) -> bool:
    """Return whether an answer that begins like this may turn out to be an abstention.

    >>> [may_be_abstention(text, ["i don't know"]) for text in ("I don", "I don't know why", "I do know")]
    [True, True, False]
    """
    said = plain(beginning).casefold().strip()
    phrases = [plain(phrase).casefold().strip() for phrase in abstentions]
    behind = [said[len(phrase) :] for phrase in phrases if phrase and said.startswith(phrase)]
    is_begun = any(phrase.startswith(said) for phrase in phrases)
    return is_begun or any(len(words(rest)) <= MOST_WORDS_BEHIND + _UNSURE_WORDS for rest in behind)


def _is_reason(text: str, question: str) -> bool:
    found = words(text)
    if text[:1].isalnum() or len(found) > MOST_WORDS_BEHIND:  # the phrase ends within a word, or more is said
        return False
    if _SAME_SENTENCE.fullmatch(text):
        return (_REASONS | set(words(question))).issuperset(found)
    return _REASONS.issuperset(found) and not _SOURCES.isdisjoint(found)


def _readable(ids: Iterable[str]) -> dict[str, str]:
    """Return the ids of passages by the form in which an answer shows them."""
    return {plain(key).strip(): key for key in ids}


def _cited(body: str, ids: Mapping[str, str]) -> list[str]:
    """Return the passages that a text in brackets cites; none if it is anything but their ids."""
    whole = plain(body).strip()
    parts = [whole] if whole in ids else [part.strip() for part in re.split("[,;]", whole)]
    return [ids[part] for part in parts] if all(part in ids for part in parts) else []


def _judge(claim: str, cited: Sequence[str], passages: Mapping[str, str], judge: Entailment) -> tuple[bool, int]:
    """Return whether the cited passages together support a claim, and how many of them are needed for that."""

    def supports(keys: Sequence[str]) -> bool:
        return _supports(keys, claim, passages, judge)

    is_supported = supports(cited)
    needed = [
        is_supported and (supports([key]) or not supports([other for other in cited if other != key])) for key in cited
    ]
    return is_supported, sum(needed)


def _supports(cited: Sequence[str], claim: str, passages: Mapping[str, str], judge: Entailment) -> bool:
    return bool(cited) and judge.entails("\n\n".join(passages[key] for key in cited), claim)


def _cited_passages(cited: str, chunks: Sequence[Chunk]) -> list[int]:
    """Return the numbers of the passages that a citation names; 0 for one that does not exist.

    A passage is named by its number, by the beginning of its chunk's id, or by both with a blank between them, which
    must agree then.

    >>> chunks = [Chunk(id * 32, "a.md", (), 0, 1, "a") for id in "ab"]
    >>> _cited_passages("1, 2 bbbb, aaaaaa", chunks), _cited_passages("1 bbbb", chunks)
    ([1, 2, 1], [0])
    >>> _cited_passages("1, bbbb", chunks)
    [1, 2]
    """
    found: list[int] = []
    expects_id = False
    for word in re.findall(r"[,;]|[^,;\s]+", cited):
        if word in {",", ";"}:
            expects_id = False
            continue
        if not _CHUNK_ID.fullmatch(word):
            is_number = word.isascii() and word.isdigit() and len(word) < ID_CHARS and 1 <= int(word) <= len(chunks)
            found.append(int(word) if is_number else 0)
            expects_id = True
            continue
        named = [number for number, chunk in enumerate(chunks, 1) if chunk.id.startswith(word)]
        if expects_id:
            found[-1] = found[-1] if found[-1] in named else 0
        else:
            found.append(named[0] if len(named) == 1 else 0)
        expects_id = False
    return found or [0]


def citation_of(number: int, claim: Claim, chunks: Sequence[Chunk]) -> Citation:
    """Return what a claim cites: the longest text that it has word for word from the chunk, or the whole chunk."""
    said, chunk, supported = claim.text, chunks[number - 1], claim.supported
    texts = [said, said.rstrip(".!?"), said.strip("“”"), *sorted(_QUOTED.findall(said), key=len, reverse=True)]
    longer = [text for text in texts if len(text.split()) >= SHORTEST_QUOTE]
    place = next((found for text in longer if (found := find_quote(text, chunk.text))), None)
    if place is None:
        return Citation(number, (chunk.start, chunk.end), None, supported)
    start, end = place
    return Citation(number, (chunk.start + start, chunk.start + end), chunk.text[start:end], supported)


@lru_cache(maxsize=256)
def _skeleton(text: str) -> tuple[str, list[int]]:
    """Return the visible characters of a text in Unicode's compatibility form, and where each stands."""
    chars: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        for each in char if char.isascii() else unicodedata.normalize("NFKD", plain(char)):
            if each > " " and (each.isascii() or unicodedata.category(each) not in _IGNORED):
                chars.append(each)
                places.append(place)
    return "".join(chars), places
