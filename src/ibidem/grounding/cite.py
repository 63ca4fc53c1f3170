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

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ibidem.conversation import Part
from ibidem.grounding.sentences import plain, split_sentences, words
from ibidem.grounding.store import Chunk
from ibidem.grounding.support import Entailment

UNSUPPORTED = " (unsupported)"
"""What people see behind a claim that the passages it cites do not support."""
MOST_WORDS_BEHIND = 6  # an abstention may state a reason; a longer answer makes a claim
ID_CHARS = 4
"""Characters of a chunk's id that a citation has; more are accepted."""
SHORTEST_QUOTE = 3  # words; fewer occur anywhere
_CITATION = re.compile(r"\[([^\[\]]{1,200})\]")
_OPEN, _CLOSE, _BLANK, _DOUBT = "\ue000", "\ue001", "\ue002", "\ue003"  # mark citations while an answer is split
_MARKS = dict.fromkeys(map(ord, _OPEN + _CLOSE + _BLANK + _DOUBT))
_CITATIONS = f"(?:{_OPEN}[^{_CLOSE}]*{_CLOSE} ?)+"
_MARKED = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}")
_BEHIND_END = re.compile(rf"([.!?。！？][\"'”’»)*_]*) ?({_CITATIONS})")
_BEHIND_LINE = re.compile(rf"\n+({_CITATIONS})(?=\n|$)")
_BLOCK = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|td|th|table|h[1-6]) ?/?>", re.IGNORECASE)  # attributes are text
_LIST_MARK = re.compile(r" ?(?:[-*•+]|(\d{1,3})[.)]) (?=\S)")
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
_CITED = r"(?<!\\)\[(?P<cited>\s*+[0-9]{1,9}+(?:(?:\s*+[,;]\s*+|\s++)[0-9]{1,9}+)*+\s*+(?:[,;]\s*+)?)\]"
_CODE_OR_CITED = re.compile(f"{_CODE}|{_CITED}", re.DOTALL)
_NUMBERS = re.compile(r"\[(\s*\d+(?:\s*[,;]\s*\d+)*\s*)\]")
_SPELLED_DOUBT = re.compile(r"\((\s*unsupported\s*)\)", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“«`]([^\"“”«»`]+)[\"”»`]")
_FIRST_QUOTE = re.compile(r"\s*“[^“”]*”\s*(?=\S)")
_BEFORE_SIGN = re.compile(r" (?=[.,;:!?](?:\s|$))")  # the blank before a citation that was taken out
_FENCE = re.compile(r"^```.*?^```[ \t]*$", re.MULTILINE | re.DOTALL)
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
    marked, removed = _mark(answer, chunks)
    passages = {str(number): passage_text(chunk) for number, chunk in enumerate(chunks, 1)}
    found: dict[tuple[int, tuple[int, int]], Citation] = {}
    doubted, judged = [], []
    for sentence in _split(marked):
        numbers = list(dict.fromkeys(_MARKED.findall(sentence)))
        said = " ".join(_MARKED.sub(" ", sentence).split())
        is_supported, _ = _judge(said, numbers, passages, judge)
        claim = Claim(_BEFORE_SIGN.sub("", said), tuple(map(int, numbers)), is_supported)
        judged.append(claim)
        if not is_supported:
            doubted.append(sentence)
        for number in claim.numbers:
            cited = _citation(number, claim.text, chunks[number - 1], supported=is_supported)
            before = found.get((number, cited.span), cited)
            both = cited.supported and before.supported
            found[number, cited.span] = cited._replace(quote=cited.quote or before.quote, supported=both)
    text, citations = _shown(_with_doubts(marked, doubted)), tuple(found[key] for key in sorted(found))
    unsupported = tuple(claim.text for claim in judged if not claim.supported)
    return Checked(text, _shown(marked), citations, removed, unsupported, tuple(judged))


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


def escape_numbers(text: str) -> str:
    r"""Put a backslash before the brackets around numbers, which people would take for citations, and "unsupported".

    >>> escape_numbers("argv[1] of list[str] (unsupported)")
    'argv\\[1\\] of list[str] \\(unsupported\\)'
    """
    return _SPELLED_DOUBT.sub(r"\\(\1\\)", _NUMBERS.sub(r"\\[\1\\]", text))


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
        parts.append(Part("text", _ESCAPED.sub(r"\1", text[start : match.start()])))
        parts.extend(Part("cite", number) for number in re.findall("[0-9]+", match["cited"]))
        start = match.end()
    parts.append(Part("text", _ESCAPED.sub(r"\1", text[start:])))
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
    text = plain(_BLOCK.sub("\n", answer.translate(_MARKS)))
    text = _CITATION.sub(lambda match: f"{_OPEN}{match[1]}{_CLOSE}" if _cited(match[1], ids) else match[0], text)
    shown = str.maketrans({_OPEN: "[", _CLOSE: "]"})
    return [part.translate(shown) for part in _split_plain(text)]


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
        return bool(keys) and judge.entails("\n\n".join(passages[key] for key in keys), claim)

    is_supported = supports(cited)
    needed = [
        is_supported and (supports([key]) or not supports([other for other in cited if other != key])) for key in cited
    ]
    return is_supported, sum(needed)


def _mark(answer: Iterable[Part], chunks: Sequence[Chunk]) -> tuple[str, int]:
    """Return an answer with its citations marked, and how many cite no passage and are left out."""
    texts, removed = [], 0
    for part in answer:
        if part.kind != "cite":
            texts.append(part.text.translate(_MARKS))
            continue
        for number in _cited_passages(part.text, chunks):
            if number:
                texts.append(f"{_OPEN}{number}{_CLOSE}")
            else:
                removed += 1
                texts[-1:] = [text.rstrip(" \t") for text in texts[-1:]]
    return "".join(texts), removed


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


def _split(marked: str) -> list[str]:
    return _split_plain(plain(_BLOCK.sub("\n", marked)))


def _split_plain(text: str) -> list[str]:
    """Split a plain text with marked citations into the sentences that say something."""
    text = _BEHIND_END.sub(rf"\1{_BLANK}\2\n", _BEHIND_LINE.sub(rf"{_BLANK}\1", text))
    parts = [part for line in _without_list_marks(text.split("\n")) for part in split_sentences(line, any_case=True)]
    return [part.replace(_BLANK, " ").strip() for part in parts if _says_something(re.sub(_CITATIONS, "", part))]


def _without_list_marks(lines: Sequence[str]) -> list[str]:
    """Remove the marks of lists; a number is one only if the items are numbered from 1, else it is text.

    >>> _without_list_marks(["1. red", "2. new", "330. m"])
    ['red', 'new', '330. m']
    """
    found, count = [], 0
    for line in lines:
        mark = _LIST_MARK.match(line)
        number = int(mark[1]) if mark and mark[1] else None
        is_mark = mark is not None and number in {None, 1, count + 1}
        count = number if is_mark and number is not None else count
        found.append(line[mark.end() :] if mark and is_mark else line)
    return found


def _says_something(text: str) -> bool:
    return any(char not in string.punctuation and unicodedata.category(char)[0] not in "CPZ" for char in text)


def _citation(number: int, claim: str, chunk: Chunk, *, supported: bool) -> Citation:
    """Return what a claim cites: the longest text that it has word for word from the chunk, or the whole chunk."""
    texts = [claim, claim.rstrip(".!?"), claim.strip("“”"), *sorted(_QUOTED.findall(claim), key=len, reverse=True)]
    longer = [text for text in texts if len(text.split()) >= SHORTEST_QUOTE]
    place = next((found for text in longer if (found := find_quote(text, chunk.text))), None)
    if place is None:
        return Citation(number, (chunk.start, chunk.end), None, supported)
    start, end = place
    return Citation(number, (chunk.start + start, chunk.start + end), chunk.text[start:end], supported)


@lru_cache(maxsize=256)
def _skeleton(text: str) -> tuple[str, list[int]]:
    """Return the visible characters of a text in Unicode's compatibility form, and where each stands.

    What is between the marks of a citation does not count.
    """
    chars: list[str] = []
    places: list[int] = []
    is_citation = False
    for place, char in enumerate(text):
        is_citation = char == _OPEN or (is_citation and char != _CLOSE)
        if is_citation or char == _CLOSE:
            continue
        for each in char if char.isascii() else unicodedata.normalize("NFKD", plain(char)):
            if each > " " and (each.isascii() or unicodedata.category(each) not in _IGNORED):
                chars.append(each)
                places.append(place)
    return "".join(chars), places


def _with_doubts(marked: str, sentences_: Sequence[str]) -> str:
    """Put a mark behind each of these sentences, which follow one another in the text; behind code, not in it."""
    hay, places = _skeleton(marked)
    after = 0
    ends = []
    for sentence in sentences_:
        needle, _ = _skeleton(sentence)
        at = hay.find(needle, after)
        if at >= 0 and needle:
            after = at + len(needle)
            ends.append(places[after - 1] + 1)
        else:  # a tag within it was removed
            ends.append(len(marked))
    fences = [match.span() for match in _FENCE.finditer(marked)]
    behind_code = {next((last for first, last in fences if first < end <= last), end) for end in ends}
    for end in sorted(behind_code, reverse=True):
        behind = re.compile(rf"(?:[ \t]*{_OPEN}[^{_CLOSE}]*{_CLOSE})*").match(marked, end)
        stop = behind.end() if behind else end
        stop -= marked[:stop].endswith((".", "!", "?"))
        marked = f"{marked[:stop]}{_DOUBT}{marked[stop:]}"
    return marked


def _shown(marked: str) -> str:
    """Return a marked text for people."""
    text = re.sub(rf"[ \t]*{_OPEN}", f" {_OPEN}", escape_numbers(marked)).replace(f"\n {_OPEN}", f"\n{_OPEN}")
    for mark, shown in ((_OPEN, "["), (_CLOSE, "]"), (_DOUBT, UNSUPPORTED)):
        text = text.replace(mark, shown)
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n")).strip()
