"""Which documents are worth learning from: the heuristics of the code and web literature, each named with its source.

    language       a programming language that was not asked for; prose in a natural language that was not asked for
    generated      the head of the file says that a program wrote it
    minified       scripts and styles squeezed for a browser
    lines          lines longer than people write, files longer than people write
    symbols        data: too few letters, long runs of numbers or base64, markup with hardly any text
    repetition     the same lines or n-grams over and over
    profanity      hate speech or profanity, by the word list or by one's own scorer

Sources, by the name that the thresholds carry: Codex (arXiv:2107.03374, section 3.1), Gopher (arXiv:2112.11446, table
A1), StarCoder (arXiv:2305.06161, section 3.1), StarCoder2 (arXiv:2402.19173, section 2.1), Linguist (GitHub's
`generated.rb`). "Ours" was set by reading what is dropped from 384 MB of packages: hand-written code must survive.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, field_validator

from ibidem.config import configuration, suggest
from ibidem.data.text import language
from ibidem.errors import ConfigError, DataError
from ibidem.records import Document, Drop, DropReason

if TYPE_CHECKING:
    from ibidem.data.filters.statistics import Statistics

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

PROFANITY = Path(__file__).with_name("profanity.txt")
HEAD_BYTES, HEAD_LINES = 2000, 5
SCRIPTS_AND_STYLES = frozenset({"javascript", "typescript", "css", "scss", "less", "vue"})
MARKUP = frozenset({"html"})
DATA = frozenset(
    {"json", "json5", "jsonld", "yaml", "xml", "svg", "csv", "tsv", "web ontology language", "graphviz (dot)"}
)
LONG_LINED = DATA | {"html", "markdown", "roff", "roff manpage", "smt", "tex", "text"}

# In the first 5 lines, StarCoder2's words; after a license header, only a statement about the file itself.
_IN_FIRST_LINES = r"auto-?generated|automatically generated|generated automatically|this file is generated|do not edit"
_IN_HEAD = (
    r"@generated\b",
    r"\bgenerated\b[^\n]{0,200}\n?[^\n]{0,80}\bdo(n't| not) (edit|modify|change)",
    r"\bdo(n't| not) (edit|modify|change)[^\n]{0,80}\n?[^\n]{0,80}\bgenerated\b",
    (
        r"^\W*(this (file|code|module|script|header|class|document) )?((is|was|has been) )?"
        r"((auto-?|automatically )?generated) (by|from|with|using|on)\b"
    ),
)
_NOTHING = r"\b\B"  # matches nowhere
_MINIFIED_NAME = re.compile(r"[.-]min\.(?:m?js|css)$")


@configuration
class FilterPolicy:
    """Which documents are worth learning from."""

    generated: bool = True
    """Drop files whose head says that a program wrote them (StarCoder2, Linguist)."""
    minified_mean_line: Count = 110
    """Scripts and styles with longer lines on average are minified (Linguist: 110)."""
    max_line: Count = 1000
    """Characters of the longest line of code (Codex, StarCoder2: 1000)."""
    max_mean_line: Count = 100
    """Characters of a line of code on average (Codex, StarCoder2: 100)."""
    max_line_of_text: Count = 100_000
    """Characters of the longest line of prose, markup and data (StarCoder2: 100,000)."""
    max_lines: Count = 100_000
    """Lines that are not blank (StarCoder2: 100,000)."""
    data_chars: tuple[Count, Count] = (50, 5000)
    """Least and most characters of a data file such as JSON and YAML (StarCoder: 50 and 5,000)."""
    data_max_lines: Count = 512
    """Lines of a data file (StarCoder2: 512)."""
    data_min_letters: Share = 0.5
    """Share of letters in a data file (StarCoder: 0.5), of the characters that are not blank."""
    code_min_letters: Share = 0.25
    """Share of letters in code (StarCoder, StarCoder2: 0.25), of the characters that are not blank, for with the blanks
    counted the rule drops code for its indentation."""
    prose_min_letters: Share = 0.5
    """Share of letters in prose, of the characters that are not blank (ours; Codex asks for 0.25 of code)."""
    letters_min_chars: Count = 100
    """Shorter texts are not judged by their share of letters (ours: `x = 1` is no data)."""
    max_encoded_run: Count = 1024
    """Characters of the longest run of base64 (StarCoder2: 1024)."""
    max_data_share: Share = 0.5
    """Share of the file in runs of base64, or of numbers (StarCoder2: 0.5)."""
    html_min_text: Share = 0.2
    """Share of an HTML page that a reader sees (StarCoder, StarCoder2: 0.2)."""
    html_min_text_chars: Count = 100
    """Characters of an HTML page that a reader sees (StarCoder, StarCoder2: 100)."""
    code_max_repeated: Share = 0.8
    """Share of the characters of code in lines that stand there before (ours: overloads and documented records that
    people wrote reach 0.78)."""
    prose_max_repeated_lines: Share = 0.3
    """Share of lines of prose that stand there before (Gopher: 0.30)."""
    prose_max_repeated: Share = 0.2
    """Share of the characters of prose in such lines (Gopher: 0.20)."""
    prose_max_top_ngram: tuple[Share, Share, Share] = (0.2, 0.18, 0.16)
    """Share of prose that the most frequent 2-gram, 3-gram and 4-gram covers (Gopher: 0.20, 0.18, 0.16)."""
    prose_min_chars: Count = 250
    """Shorter prose is not judged by its repetitions (Gopher asks for 50 words at least)."""
    profanity: bool = True
    """Drop texts by the list of words."""
    profanity_min_words: Annotated[int, Field(ge=1)] = 3
    """Profane words that a text may always hold, less one (ours; C4, arXiv:1910.10683, drops at the first, and lost
    harmless text by it: Dodge et al., arXiv:2104.08758)."""
    profanity_per_10k: Annotated[float, Field(ge=0)] = 5.0
    """Profane words in 10,000 characters that are not blank (ours)."""
    profanity_words: Path | None = None
    """Another list of words, one a line, `!` before those of which one is enough."""
    languages: tuple[str, ...] = ()
    """Programming languages to keep, by the names that the documents carry (those of GitHub Linguist); empty: all."""
    natural_languages: tuple[str, ...] = ()
    """Natural languages of prose to keep, as ISO 639-1 codes; empty: all. Prose too short to tell is kept."""
    scorer: str | None = None
    """One's own judge of hate speech, `package.module:function`: from a text to a probability."""
    scorer_threshold: Share = 0.5
    """Probability from which a text is dropped."""

    @field_validator("languages")
    @classmethod
    def _languages_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {name.lower() for name in language.known()}
        if unknown := [name for name in names if name.lower() not in known]:
            meant = language.by_name(f"a.{unknown[0]}")
            hint = f"; did you mean {meant}?" if meant else suggest(unknown[0], language.known())
            raise ValueError(f"{unknown[0]!r} is no language, as Python or C++{hint}")
        return names

    @field_validator("natural_languages")
    @classmethod
    def _codes_are_codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [code for code in codes if code not in language.NATURAL]:
            hint = suggest(wrong[0].lower()[:2], language.NATURAL)
            raise ValueError(f"{wrong[0]!r} is no code of a language, as en or zh{hint}")
        return codes


class Filters:
    """The judge of one worker process: the compiled word list and the loaded scorer.

    Raises:
        ConfigError: the word list or the scorer cannot be loaded.
    """

    def __init__(self, policy: FilterPolicy) -> None:
        self._policy = policy
        from ibidem.data.filters.statistics import statistics

        self._statistics = statistics
        self._heads = GeneratedHeads() if policy.generated else None
        self._languages = {name.lower() for name in policy.languages}
        self._words = WordList.read(policy.profanity_words or PROFANITY) if policy.profanity else None
        self._scorer = _load(policy.scorer) if policy.scorer else None

    def __call__(self, document: Document) -> Drop | None:
        """Give the first reason against a document, with the figure that decided.

        Raises:
            DataError: the scorer gives something that is no probability.
        """
        name = (document.language or "").lower()
        if document.category == "code" and self._languages and name not in self._languages:
            return Drop(DropReason.FILTER_LANGUAGE, document.language or "unknown")
        data = document.encoded
        if self._heads is not None and (line := self._heads.find(data)):
            return Drop(DropReason.FILTER_GENERATED, line)
        counted = self._statistics(data)
        judge = _judge_code if document.category == "code" else _judge_prose
        return (
            judge(self._policy, document, counted)
            or self._judge_words(data, counted.chars)
            or self._judge_natural_language(document)
            or self._judge_score(document.text)
        )

    def _judge_words(self, data: bytes, chars: int) -> Drop | None:
        if self._words is None:
            return None
        profane, slurs = self._words.count(data)
        if slurs:
            return Drop(DropReason.FILTER_PROFANITY, f"slurs: {slurs}")
        policy = self._policy
        if profane >= policy.profanity_min_words and profane * 10_000 > policy.profanity_per_10k * chars:
            return Drop(DropReason.FILTER_PROFANITY, f"profane words: {profane}")
        return None

    def _judge_natural_language(self, document: Document) -> Drop | None:
        if document.category == "code" or not self._policy.natural_languages:
            return None
        found = document.natural_language
        wanted = found is None or found in self._policy.natural_languages
        return None if wanted else Drop(DropReason.FILTER_LANGUAGE, found)

    def _judge_score(self, text: str) -> Drop | None:
        if self._scorer is None:
            return None
        try:
            score = self._scorer(text)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise DataError(f"scorer {self._policy.scorer}: {reason}") from error
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise DataError(f"scorer {self._policy.scorer}: gave {score!r}; want a probability from 0 to 1")
        hateful = score >= self._policy.scorer_threshold
        return Drop(DropReason.FILTER_PROFANITY, f"score: {score:.3f}") if hateful else None


class Scanner:
    """Patterns, all found in one scan over UTF-8 bytes, in any case."""

    def __init__(self, patterns: Sequence[str]) -> None:
        import hyperscan

        flags = hyperscan.HS_FLAG_CASELESS | hyperscan.HS_FLAG_MULTILINE
        if not all(pattern.isascii() for pattern in patterns):
            flags |= hyperscan.HS_FLAG_UTF8 | hyperscan.HS_FLAG_UCP
        self._database = hyperscan.Database()
        expressions = [pattern.encode() for pattern in patterns]
        self._database.compile(expressions=expressions, ids=range(len(patterns)), flags=[flags] * len(patterns))

    def find(self, text: bytes) -> list[tuple[int, int]]:
        """Give the number of the pattern and the end of each match.

        >>> Scanner(["b+", "ab"]).find(b"Abc")
        [(0, 2), (1, 2)]
        """
        found: list[tuple[int, int]] = []
        self._database.scan(text, match_event_handler=lambda number, _start, end, *_: found.append((number, end)))
        return sorted(found)


class GeneratedHeads:
    r"""Tells by the head of a file whether it says that a program wrote it.

    Source: StarCoder2 (arXiv:2402.19173), section 2.1, and GitHub Linguist's `generated.rb`.

    >>> GeneratedHeads().find(b"# Generated by Django 4.2 on 2024-01-01\n")
    '# Generated by Django 4.2 on 2024-01-01'
    >>> GeneratedHeads().find(b"def generated(by): ...\n") is None
    True
    """

    def __init__(self) -> None:
        self._scanner = Scanner([_IN_FIRST_LINES, *_IN_HEAD])

    def find(self, text: bytes) -> str | None:
        """Give the line that says so."""
        head = text[:HEAD_BYTES]
        for number, end in self._scanner.find(head):
            if number > 0 or head.count(b"\n", 0, end) < HEAD_LINES:
                line = head[head.rfind(b"\n", 0, end) + 1 :].split(b"\n", 1)[0]
                return line.decode(errors="replace").strip()[:80]
        return None


class WordList:
    """Whole words, the profane ones and the slurs."""

    def __init__(self, words: Sequence[str], slurs: Sequence[str]) -> None:
        self._scanner = Scanner([_any_of(words), _any_of(slurs)])

    @classmethod
    def read(cls, path: Path) -> "WordList":
        """Read a list of words: one a line, `!` before a slur, `#` before a comment.

        Raises:
            ConfigError: it cannot be read, or holds no word.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"profanity_words {path}: cannot be read: {error}") from None
        words = [line for line in lines if line and not line.startswith("#")]
        if not any(word.strip("! ") for word in words):
            raise ConfigError(f"profanity_words {path}: holds no word")
        slurs = [word[1:].strip() for word in words if word.startswith("!")]
        return cls([word for word in words if not word.startswith("!")], slurs)

    def count(self, text: bytes) -> tuple[int, int]:
        """Count the profane words and the slurs of a UTF-8 text.

        >>> WordList(["darn"], ["zounds"]).count(b"Darn, darn_it, darned! ZOUNDS")
        (2, 1)
        """
        found = self._scanner.find(text)
        slurs = sum(number for number, _ in found)
        return len(found) - slurs, slurs


def _judge_code(policy: FilterPolicy, document: Document, counted: "Statistics") -> Drop | None:
    name = (document.language or "").lower()
    if name in DATA or (document.encoded.startswith(b"<?xml") and name not in MARKUP):
        return _judge_data(policy, counted, name)
    if name in MARKUP:
        return _judge_length(policy, counted, name) or _judge_markup(policy, document.encoded, counted)
    return (
        _judge_minified(policy, document.path, counted, name)
        or _judge_length(policy, counted, name)
        or _judge_letters(policy, policy.code_min_letters, counted)
        or _judge_runs(policy, len(document.encoded), counted)
        or _judge_repeated(1.0, policy.code_max_repeated, counted)
    )


def _judge_prose(policy: FilterPolicy, document: Document, counted: "Statistics") -> Drop | None:
    drop = (
        _judge_length(policy, counted, "text")
        or _judge_letters(policy, policy.prose_min_letters, counted)
        or _judge_runs(policy, len(document.encoded), counted)
    )
    if drop is not None:
        return drop
    from ibidem.data.filters.statistics import statistics, top_ngram_shares

    prose = _outside(document).encode()
    counted = statistics(prose) if document.code_blocks else counted
    if counted.chars < policy.prose_min_chars:
        return None
    repeated = _judge_repeated(policy.prose_max_repeated_lines, policy.prose_max_repeated, counted)
    if repeated is not None:
        return repeated
    limits = policy.prose_max_top_ngram
    for n, share, limit in zip((2, 3, 4), top_ngram_shares(prose, limits), limits, strict=True):
        if share > limit:
            return Drop(DropReason.FILTER_REPETITION, f"top {n}-gram: {share:.2f}")
    return None


def _outside(document: Document) -> str:
    """Leave out the fenced code blocks: code repeats itself, and prose is judged."""
    pieces, position = [], 0
    for start, end, _ in document.code_blocks:
        pieces.append(document.text[position:start])
        position = end
    return "".join([*pieces, document.text[position:]])


def _judge_data(policy: FilterPolicy, counted: "Statistics", name: str) -> Drop | None:
    least, most = policy.data_chars
    if not least <= counted.line_chars <= most:
        return Drop(DropReason.FILTER_LINES, f"characters of data: {counted.line_chars}")
    if counted.lines > policy.data_max_lines:
        return Drop(DropReason.FILTER_LINES, f"lines of data: {counted.lines}")
    return _judge_length(policy, counted, name or "xml") or _judge_letters(policy, policy.data_min_letters, counted)


def _judge_markup(policy: FilterPolicy, data: bytes, counted: "Statistics") -> Drop | None:
    from ibidem.data.filters.statistics import visible_chars

    seen = visible_chars(data)
    if seen < policy.html_min_text_chars or seen < policy.html_min_text * counted.chars:
        return Drop(DropReason.FILTER_SYMBOLS, f"text in the page: {seen / max(counted.chars, 1):.2f}")
    return None


def _judge_minified(policy: FilterPolicy, path: str | None, counted: "Statistics", name: str) -> Drop | None:
    if name not in SCRIPTS_AND_STYLES:
        return None
    mean = counted.line_chars / max(counted.lines, 1)
    if mean > policy.minified_mean_line or (path and _MINIFIED_NAME.search(path)):
        return Drop(DropReason.FILTER_MINIFIED, f"mean line: {mean:.0f}")
    return None


def _judge_length(policy: FilterPolicy, counted: "Statistics", name: str) -> Drop | None:
    longest = policy.max_line_of_text if name in LONG_LINED else policy.max_line
    if counted.longest_line > longest:
        return Drop(DropReason.FILTER_LINES, f"longest line: {counted.longest_line}")
    mean = counted.line_chars / max(counted.lines, 1)
    if name not in LONG_LINED and mean > policy.max_mean_line:
        return Drop(DropReason.FILTER_LINES, f"mean line: {mean:.0f}")
    if counted.lines > policy.max_lines:
        return Drop(DropReason.FILTER_LINES, f"lines: {counted.lines}")
    return None


def _judge_letters(policy: FilterPolicy, least: float, counted: "Statistics") -> Drop | None:
    if counted.chars < policy.letters_min_chars:
        return None
    share = counted.letters / max(counted.chars, 1)
    return Drop(DropReason.FILTER_SYMBOLS, f"letters: {share:.2f}") if share < least else None


def _judge_runs(policy: FilterPolicy, size: int, counted: "Statistics") -> Drop | None:
    if counted.longest_encoded > policy.max_encoded_run:
        return Drop(DropReason.FILTER_SYMBOLS, f"encoded run: {counted.longest_encoded}")
    for name, count in (("encoded", counted.encoded_bytes), ("numbers", counted.number_bytes)):
        if count > policy.max_data_share * size:
            return Drop(DropReason.FILTER_SYMBOLS, f"{name}: {count / size:.2f}")
    return None


def _judge_repeated(most_lines: float, most_chars: float, counted: "Statistics") -> Drop | None:
    lines = counted.duplicate_lines / max(counted.lines, 1)
    if lines > most_lines:
        return Drop(DropReason.FILTER_REPETITION, f"repeated lines: {lines:.2f}")
    chars = counted.duplicate_chars / max(counted.chars, 1)
    if chars > most_chars:
        return Drop(DropReason.FILTER_REPETITION, f"characters in repeated lines: {chars:.2f}")
    return None


def _any_of(words: Sequence[str]) -> str:
    if not words:
        return _NOTHING
    return r"(?:^|\W|_)(?:" + "|".join(re.escape(word) for word in words) + r")(?:\W|_|\z)"


def _load(name: str) -> Callable[[str], Any]:
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"scorer {name}: {error}") from None
    if not callable(found):
        raise ConfigError(f"scorer {name}: name a function as package.module:function")
    return cast("Callable[[str], Any]", found)
