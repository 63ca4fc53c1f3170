"""Filter documents by the heuristics of the literature on code and web data, each cited with its source.

    language       a programming language, or prose in a natural language, that was not asked for
    generated      the head of the file says that a program wrote it; lock files; what a bundler put together
    minified       minified scripts and styles
    lines          lines or files longer than people write
    symbols        data: too few letters, long runs of numbers or base64, markup with hardly any text
    repetition     the same lines or n-grams over and over
    profanity      hate speech or profanity, by the word list or a custom scorer

Sources of the thresholds: Codex (arXiv:2107.03374, section 3.1), Gopher (arXiv:2112.11446, table A1), StarCoder
(arXiv:2305.06161, section 3.1), StarCoder2 (arXiv:2402.19173, section 2.1), Linguist (GitHub's `generated.rb`). "Ours"
was set by reading what is dropped from 384 MB of packages: hand-written code must survive.

Gopher's rules were made for text extracted from web pages. So repetition in prose is measured on what the reader of a
page sees: code blocks, tags of HTML and of templates, targets of links and addresses do not count, nor do lines
without a letter or a digit, such as the rules of tables. Of a conversation, the lines that name the speaker do not
count either, nor does the rejected answer of a pair, which may well repeat the chosen one.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, field_validator

from ibidem.config import configuration, suggest
from ibidem.data.patterns import database
from ibidem.data.text import clean, language
from ibidem.errors import ConfigError, DataError
from ibidem.records import Document, Drop, DropReason

if TYPE_CHECKING:
    from ibidem.data.filters.statistics import Statistics

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

PROFANITY = Path(__file__).with_name("profanity.txt")
HEAD_BYTES, HEAD_LINES = 2000, 5
SHOWN_BYTES = 80
SCRIPTS = frozenset({"javascript", "typescript"})
SCRIPTS_AND_STYLES = SCRIPTS | {"css", "scss", "less", "vue", "svelte"}
MARKUP = frozenset({"html"})
DATA = frozenset(
    {"json", "json5", "jsonld", "yaml", "xml", "svg", "csv", "tsv", "web ontology language", "graphviz (dot)"}
)
WRITTEN_DATA = frozenset({"yaml", "xml"})
LONG_LINED = DATA | {"html", "markdown", "roff", "roff manpage", "smt", "tex", "text"}

# The first 5 lines are searched for StarCoder2's words, the rest of the head for statements about the file itself.
_IN_FIRST_LINES = (
    r"(auto-?generated|automatically generated|generated automatically)\W*?"
    r"($|\b(by|from|using|with|via|on|at|for|but|file|code|source|header|module|bindings|do|don't|please)\b)"
    r"|this file is generated|do not edit"
)
_IN_HEAD = (
    r"@generated\b",
    r"\bgenerated\b[^\n]{0,200}\n?[^\n]{0,80}\bdo(n't| not) (edit|modify|change)",
    r"\bdo(n't| not) (edit|modify|change)[^\n]{0,80}\n?[^\n]{0,80}\bgenerated\b",
    (
        r"^\W*(this (file|code|module|script|header|class|document) )?((is|was|has been) )?"
        r"((auto-?|automatically )?generated) (by|from|with|using|on)\b"
    ),
)
_STATEMENT = re.compile(rb"(?i)generated|do(?:n't| not) (?:edit|modify|change)")
_NO_STATEMENT = re.compile(
    rb"(?i)\w[^\n]*[\"'`](?:(?!//|/\*|(?<![\"'`])(?:#|<!--))[^\n])*\Z"  # in a string
    rb"|^[ \t]*\*[ \t]+(?://|#)"  # an example in a comment
)
_SIGNS = b" \t#/*;%!<>|-"
_OF_A_SECTION = re.compile(rb"(?i)(?:edit|modify|change) (?:this|the) (?:section|block|table|list|toc)")
_TRIPLE_QUOTE = re.compile(rb"\"\"\"|'''")
_ARGUMENT = re.compile(rb"[=(\[,+][ \t\n\\]*[A-Za-z]{0,2}\Z")
_STRING_ALONE = re.compile(rb"[ \t]*[A-Za-z]{0,2}([\"'])(?!\1)[^\n]*\1[\]),;+\\. \t]*\Z")
_IS_VALUE = re.compile(rb"@generated[ \t]*(?:[=)\]&|?+<>-]|\.\w)")
_VERB = re.compile(rb"(?i)[\W_]*(?:(?:is|was|are|were|has|have|been|be)\b[ \t]*)*\Z")
_NAMES_FILE = re.compile(rb"(?i)\b(?:file|code|module|script|header|class|source|document)[ \t]*\n[^\w\n]*\Z")
_RUNS_ON = re.compile(rb"[\w,(`-][ \t]*\n[^\w\n]*\Z")
_NOTHING = r"\b\B"  # matches nowhere
_LOCK_FILE = re.compile(
    r"(?:^|/)((?:package-lock|npm-shrinkwrap|packages\.lock)\.json|pnpm-lock\.yaml|go\.sum|bun\.lockb?"
    r"|(?:yarn|poetry|pdm|uv|pixi|Cargo|Gemfile|Pipfile|composer|mix|Podfile|flake|gradle|pubspec)\.(?:lock|lockfile))$"
)
PROGRAMS_IN_XML = frozenset({"xslt", "xproc"})
_CHANGES = re.compile(r"(?i)(?:^|/)(?:release[-_ ]?notes|change(?:s|log)|news|history)[\w.-]*$")
_COMMENT_IN_JSON = re.compile(rb"(?m)^[ \t]*(?://|/\*)")
_MANIFEST = re.compile(
    r"(?i)(?:^|/)(?:[\w.-]+\.xsd|(?:pom|build|phpunit|androidmanifest)\.xml|(?:package|composer|bower|lerna|deno)\.json"
    r"|(?:ts|js)config[\w.-]*\.json|[\w.-]+\.(?:cs|vcx|fs|vb)proj|(?:docker-)?compose[\w.-]*\.ya?ml|mkdocs\.ya?ml"
    r"|pubspec\.ya?ml|\.[\w-]+\.(?:ya?ml|json|xml))$"
)
"""Names of manifests, settings and schemas: of a package, of a build, of a tool."""
_BUNDLED = (
    r"^[/* \t]*function __webpack_require__\(|^\(function webpackUniversalModuleDefinition\(|^/\*{6}/ \("
    r"|^var __commonJS = |^// (\.\./)*node_modules/|^parcelRequire ?="
)
_WRAPPED = (
    r"typeof exports ?={2,3} ?[\"']object[\"'] ?&& ?typeof module ?!={1,2} ?[\"']undefined[\"'] ?\? ?"
    r"(module\.exports|factory\()"
)
_BUILT_PATH = re.compile(r"(?:^|/)(?:dist|build|umd|bundles?|fesm\d*)/(?!.*\.d\.[cm]?ts$)")
_MINIFIED_NAME = re.compile(r"[.-]min\.(?:m?js|css)$")


@configuration
class FilterPolicy:
    """Which documents are good enough to learn from."""

    generated: bool = True
    """Drop files whose head says that a program wrote them, lock files, and scripts that a bundler put together
    (StarCoder2, Linguist)."""
    bundle_lines: Count = 1500
    """Maximum number of lines of a script in a folder of built files, such as `dist`, or wrapped for every loader of
    modules (ours: a bundle has more)."""
    minified_mean_line: Count = 110
    """Mean line length from which scripts and styles are minified if they have hardly any blanks (Linguist: 110)."""
    minified_blanks: Share = 0.06
    """Share of blanks below which they are (ours: minified ones have at most 0.05, others at least 0.07)."""
    minified_any_mean_line: Count = 500
    """Mean line length from which scripts and styles are minified however many blanks they have (ours)."""
    max_line: Count = 1000
    """Characters from which a line of code is long (Codex, StarCoder2: 1000)."""
    max_long_lines: Share = 0.6
    """Maximum share of the characters of code in long lines (ours: a table in one line of an ordinary file stays)."""
    max_longest_line: Count = 10_000
    """Maximum characters in a line of code, however few lines are long (ours: exports of a bundle, embedded files)."""
    max_mean_line: Count = 100
    """Maximum mean line length of code, in characters; not of scripts and styles (Codex, StarCoder2: 100)."""
    max_mean_spaced_line: Count = 160
    """The same of code with more blanks than `minified_blanks` (ours: tests with long literals reach 157)."""
    mean_line_min_chars: Count = 500
    """Shorter files are not judged by their mean line (ours: settings of two lines)."""
    max_line_of_text: Count = 100_000
    """Maximum characters in any line (StarCoder2: 100,000)."""
    max_lines: Count = 100_000
    """Maximum number of lines that are not blank (StarCoder2: 100,000)."""
    data_chars: tuple[Count, Count] = (50, 5000)
    """Minimum and maximum characters of a data file such as JSON (StarCoder: 50 and 5,000)."""
    data_written_chars: Count = 20_000
    """Maximum characters of YAML, XML and JSON with comments, which people write more often than JSON (ours)."""
    data_max_lines: Count = 512
    """Maximum number of lines of a data file (StarCoder2: 512)."""
    data_min_letters: Share = 0.5
    """Minimum share of letters in a data file, without blanks (StarCoder: 0.5)."""
    xml_min_text: Share = 0.4
    """Share of visible text from which an XML file is prose rather than data (ours: a manual, a list of changes)."""
    code_min_letters: Share = 0.22
    """Minimum share of letters in code, without blanks, so that indentation does not count against it (ours: tests of
    types and numbers have 0.23; StarCoder, StarCoder2: 0.25)."""
    prose_min_letters: Share = 0.5
    """Minimum share of letters in prose, without blanks (ours; Codex requires 0.25 of code)."""
    letters_min_chars: Count = 100
    """Shorter texts, counted without blanks, are not judged by their share of letters (ours: `x = 1` is not data)."""
    max_encoded_run: Count = 1024
    """Maximum characters in a run of base64 (StarCoder2: 1024)."""
    max_encoded_run_share: Share = 0.2
    """Share of the file up to which a run of base64 may be eight times as long: a certificate in a test (ours)."""
    max_data_share: Share = 0.5
    """Maximum share of the file in runs of base64 (StarCoder2: 0.5)."""
    data_share_min_chars: Count = 512
    """Fewer characters in such runs are no data, whatever their share: a checksum in settings (ours)."""
    max_number_share: Share = 0.7
    """Maximum share of the file in runs of numbers (ours: tests of numeric functions reach 0.69; StarCoder2: 0.5)."""
    html_min_text: Share = 0.2
    """Minimum share of visible text in an HTML page (StarCoder, StarCoder2: 0.2). Scripts, styles and pictures do not
    count (ours: the page of an error is mostly its style)."""
    html_max_long_lines: Share = 0.8
    """Share of the characters of a page in long lines from which its scripts, styles and pictures count (ours)."""
    html_min_text_chars: Count = 100
    """Minimum characters of visible text in an HTML page (StarCoder, StarCoder2: 100)."""
    html_min_chars: Count = 2000
    """Shorter pages, counted without blanks, are not judged by their text (ours: a part or the frame of a page)."""
    code_max_repeated: Share = 0.88
    """Maximum share of the characters of code in lines that already occurred (ours: hand-written overloads and
    documented records reach 0.78, tests 0.85)."""
    prose_max_repeated_lines: Share = 0.3
    """Maximum share of lines of prose that already occurred (Gopher: 0.30)."""
    prose_max_repeated: Share = 0.2
    """Maximum share of the characters of prose in such lines (Gopher: 0.20)."""
    prose_max_top_ngram: tuple[Share, Share, Share] = (0.2, 0.18, 0.16)
    """Maximum share of prose covered by the most frequent 2-gram, 3-gram and 4-gram (Gopher: 0.20, 0.18, 0.16)."""
    prose_of_manuals: Annotated[float, Field(ge=1)] = 1.75
    """Factor by which prose with markup, such as Markdown, and lists of changes may repeat more and have fewer letters
    (ours: manuals repeat signatures, headings and remarks and have formulas and tables, pages of the web do not)."""
    prose_min_chars: Count = 250
    """Shorter prose, counted without blanks, is not judged by its repetitions (Gopher requires 50 words)."""
    profanity: bool = True
    """Drop texts by the word list."""
    profanity_min_words: Annotated[int, Field(ge=1)] = 3
    """Minimum number of profane words before a text can be dropped (ours; C4, arXiv:1910.10683, drops at the first one
    and loses harmless text: Dodge et al., arXiv:2104.08758)."""
    profanity_per_10k: Annotated[float, Field(ge=0)] = 5.0
    """Maximum profane words in 10,000 characters that are not blank (ours)."""
    profanity_words: Path | None = None
    """Another word list, one word a line; a single word marked with `!` is enough to drop a text."""
    languages: tuple[str, ...] = ()
    """Programming languages to keep, by their names in GitHub Linguist; if empty, all."""
    natural_languages: tuple[str, ...] = ()
    """Natural languages of prose to keep, as ISO 639-1 codes; if empty, all. Prose too short to classify is kept."""
    scorer: str | None = None
    """Custom scorer of hate speech, `package.module:function`: maps a text to a probability."""
    scorer_threshold: Share = 0.5
    """Texts with at least this probability are dropped."""

    @field_validator("languages")
    @classmethod
    def _languages_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {name.lower() for name in language.known()}
        if unknown := [name for name in names if name.lower() not in known]:
            meant = language.by_name(f"a.{unknown[0]}")
            hint = f"; did you mean {meant}?" if meant else suggest(unknown[0], language.known())
            raise ValueError(f"{unknown[0]!r} is not a programming language, such as Python or C++{hint}")
        return names

    @field_validator("natural_languages")
    @classmethod
    def _codes_are_codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [code for code in codes if code not in language.NATURAL]:
            hint = suggest(wrong[0].lower()[:2], language.NATURAL)
            raise ValueError(f"{wrong[0]!r} is not a language code, such as en or zh{hint}")
        return codes


class Filters:
    """The filters of one worker process, with the compiled word list and the loaded scorer.

    Raises:
        ConfigError: the word list or the scorer cannot be loaded.
    """

    def __init__(self, policy: FilterPolicy) -> None:
        self._policy = policy
        from ibidem.data.filters.statistics import statistics

        self._statistics = statistics
        self._heads = GeneratedHeads() if policy.generated else None
        self._bundled = Scanner([_BUNDLED, _WRAPPED]) if policy.generated else None
        self._languages = {name.lower() for name in policy.languages}
        self._words = WordList.read(policy.profanity_words or PROFANITY) if policy.profanity else None
        self._scorer = _load(policy.scorer) if policy.scorer else None

    def __call__(self, document: Document) -> Drop | None:
        """Return the first reason to drop a document, with the deciding figure; None to keep it.

        Raises:
            DataError: the scorer fails or does not return a probability.
        """
        name = (document.language or "").lower()
        if document.category == "code" and self._languages and name not in self._languages:
            return Drop(DropReason.FILTER_LANGUAGE, document.language or "unknown")
        data = document.encoded
        if (what := self._find_generator(document, name)) is not None:
            return Drop(DropReason.FILTER_GENERATED, what)
        counted = self._statistics(data, long_line=self._policy.max_line)
        judge = _judge_code if document.category == "code" else _judge_prose
        return (
            judge(self._policy, document, counted)
            or self._judge_words(data, counted.chars)
            or self._judge_natural_language(document)
            or self._judge_score(document.text)
        )

    def _find_generator(self, document: Document, name: str) -> str | None:
        """Return what says that a program wrote the file; None if nothing does."""
        if self._heads is None or self._bundled is None:
            return None
        path, data = document.path or "", document.encoded
        if lock := _LOCK_FILE.search(path):
            return f"name: {lock[1]}"
        is_filled_in = path.lower().endswith((*language.TEMPLATES, *language.FILLED_IN))  # it speaks of what it becomes
        if not is_filled_in and (line := self._heads.find(data, is_code=document.category == "code")):
            return line
        if name not in SCRIPTS:
            return None
        lines, marks = data.count(b"\n"), self._bundled.find(data)
        if marks and marks[0][0] == 0:
            return f"bundle: {_line_at(data, marks[0][1])}"
        is_built = lines > self._policy.bundle_lines and (marks or _BUILT_PATH.search(path))
        return f"lines of a built file: {lines}, at most {self._policy.bundle_lines}" if is_built else None

    def _judge_words(self, data: bytes, chars: int) -> Drop | None:
        if self._words is None:
            return None
        profane, slurs = self._words.count(data)
        if slurs:
            return Drop(DropReason.FILTER_PROFANITY, f"slurs: {slurs}")
        policy = self._policy
        if profane >= policy.profanity_min_words and profane * 10_000 > policy.profanity_per_10k * chars:
            density = _figure(profane * 10_000 / max(chars, 1), policy.profanity_per_10k, digits=1)
            most = f"at most {_limit(policy.profanity_per_10k)}"
            return Drop(
                DropReason.FILTER_PROFANITY,
                f"profane words: {profane}, in 10,000 characters: {density}, {most}",
            )
        return None

    def _judge_natural_language(self, document: Document) -> Drop | None:
        if document.category == "code" or not self._policy.natural_languages:
            return None
        code = document.natural_language
        wanted = code is None or code in self._policy.natural_languages
        return None if wanted else Drop(DropReason.FILTER_LANGUAGE, code)

    def _judge_score(self, text: str) -> Drop | None:
        if self._scorer is None:
            return None
        try:
            score = self._scorer(text)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise DataError(f"scorer {self._policy.scorer}: {reason}") from error
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise DataError(f"scorer {self._policy.scorer}: returned {score!r}, not a probability from 0 to 1")
        hateful = score >= self._policy.scorer_threshold
        figure = _figure(score, self._policy.scorer_threshold, digits=3)
        return (
            Drop(DropReason.FILTER_PROFANITY, f"score: {figure}, limit {_limit(self._policy.scorer_threshold)}")
            if hateful
            else None
        )


class Scanner:
    """Case-insensitive patterns, all matched in one scan over UTF-8 bytes."""

    def __init__(self, patterns: Sequence[str]) -> None:
        import hyperscan

        flags = hyperscan.HS_FLAG_CASELESS | hyperscan.HS_FLAG_MULTILINE
        if not all(pattern.isascii() for pattern in patterns):
            flags |= hyperscan.HS_FLAG_UTF8 | hyperscan.HS_FLAG_UCP
        self._database = database(patterns, flags)

    def find(self, text: bytes) -> list[tuple[int, int]]:
        """Return (number of the pattern, end) of each match, sorted.

        >>> Scanner(["b+", "ab"]).find(b"Abc")
        [(0, 2), (1, 2)]
        """
        matches: list[tuple[int, int]] = []
        self._database.scan(text, match_event_handler=lambda number, _start, end, *_: matches.append((number, end)))
        return sorted(matches)


class GeneratedHeads:
    r"""Detects heads of files that say that a program wrote the file.

    Source: StarCoder2 (arXiv:2402.19173), section 2.1, and GitHub Linguist's `generated.rb`.

    >>> GeneratedHeads().find(b"# Generated by Django 4.2 on 2024-01-01\n")
    '# Generated by Django 4.2 on 2024-01-01'
    >>> GeneratedHeads().find(b"def generated(by): ...\n") is None
    True
    """

    def __init__(self) -> None:
        self._scanner = Scanner([_IN_FIRST_LINES, *_IN_HEAD])

    def find(self, text: bytes, *, is_code: bool = True) -> str | None:
        """Return the line that says so, None if there is none; prose may speak of generated things."""
        head = text[:HEAD_BYTES]
        for number, end in self._scanner.find(head):
            is_weak = number in {_FIRST_LINES, _LINE_ALONE}
            if (is_weak and not is_code) or not _is_statement(head, end):
                continue
            if number != _FIRST_LINES or head.count(b"\n", 0, end) < HEAD_LINES:
                return _line_at(head, end)
        return None


def _line_at(text: bytes, end: int) -> str:
    """Return the line in which a match ends, or the part of it that shows the match."""
    start = max(text.rfind(b"\n", 0, end) + 1, end - SHOWN_BYTES)
    line = text[start : start + 2 * SHOWN_BYTES].split(b"\n", 1)[0]
    return line.decode(errors="replace").strip()[:SHOWN_BYTES]


_FIRST_LINES, _LINE_ALONE = 0, 4
"""Numbers of the patterns that only words about code follow."""


def _is_statement(head: bytes, end: int) -> bool:
    """Check that a line speaks of its file: not a string, an example, a section, or the middle of a sentence."""
    start = head.rfind(b"\n", 0, end) + 1
    line = head[start:].split(b"\n", 1)[0]
    match = _STATEMENT.search(line)
    before = line[: match.start()] if match else line
    if _NO_STATEMENT.search(before) or _OF_A_SECTION.search(line) or _IS_VALUE.search(line):
        return False
    if _STRING_ALONE.match(line) or _is_in_string(head[: start + len(before)]):
        return False
    if b"<!--" in before and not head.lstrip().startswith(b"<"):
        return False
    runs_on = match is not None and match[0].islower() and _VERB.fullmatch(before) is not None
    lead = head[: start + len(before) - len(before.lstrip(_SIGNS))]
    return not (runs_on and _RUNS_ON.search(lead) and not _NAMES_FILE.search(lead))


def _is_in_string(before: bytes) -> bool:
    """Check whether a triple quote is open that is assigned or passed, as what a program writes is."""
    opened = None
    for quote in _TRIPLE_QUOTE.finditer(before):
        if opened is None:
            opened = quote
        elif quote[0] == opened[0]:
            opened = None
    return opened is not None and _ARGUMENT.search(before, 0, opened.start()) is not None


class WordList:
    """Profane words and slurs, matched as whole words."""

    def __init__(self, words: Sequence[str], slurs: Sequence[str]) -> None:
        self._scanner = Scanner([_any_of(words), _any_of(slurs)])

    @classmethod
    def read(cls, path: Path) -> "WordList":
        """Read a word list: one word a line, `!` before a slur, `#` before a comment.

        Raises:
            ConfigError: it cannot be read, or contains no words.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"profanity_words {path}: cannot be read: {error}") from None
        words = [line for line in lines if line and not line.startswith("#")]
        if not any(word.strip("! ") for word in words):
            raise ConfigError(f"profanity_words {path}: contains no words")
        slurs = [word[1:].strip() for word in words if word.startswith("!")]
        return cls([word for word in words if not word.startswith("!")], slurs)

    def count(self, text: bytes) -> tuple[int, int]:
        """Count the profane words and the slurs of a UTF-8 text.

        >>> WordList(["darn"], ["zounds"]).count(b"Darn, darn_it, darned! ZOUNDS")
        (2, 1)
        """
        matches = self._scanner.find(text)
        slurs = sum(number for number, _ in matches)
        return len(matches) - slurs, slurs


def _judge_code(policy: FilterPolicy, document: Document, counted: "Statistics") -> Drop | None:
    name = (document.language or "").lower()
    if name in DATA or (document.encoded.startswith(b"<?xml") and name not in MARKUP | PROGRAMS_IN_XML):
        return _judge_data(policy, document, counted, name or "xml")
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
    least = policy.prose_min_letters / (policy.prose_of_manuals if _is_manual(document) else 1)
    drop = (
        _judge_length(policy, counted, "text")
        or _judge_letters(policy, round(least, 4), counted)
        or _judge_runs(policy, len(document.encoded), counted)
    )
    if drop is not None:
        return drop
    from ibidem.data.filters.statistics import statistics, top_ngram_shares

    prose = clean.visible(_without_speakers(document)).encode()
    counted = statistics(prose, words_only=True)
    if counted.chars < policy.prose_min_chars:
        return None
    most_lines, most_chars, *limits = _limits_of_prose(policy, document)
    repeated = _judge_repeated(most_lines, most_chars, counted)
    if repeated is not None:
        return repeated
    two, three, four = limits
    for n, share, limit in zip((2, 3, 4), top_ngram_shares(prose, (two, three, four)), limits, strict=True):
        if share > limit:
            return _above(DropReason.FILTER_REPETITION, f"top {n}-gram", share, limit)
    return None


def _limits_of_prose(policy: FilterPolicy, document: Document) -> list[float]:
    """Return the largest shares of repeated lines, of characters in them, and of the top 2-, 3- and 4-gram."""
    limits = [policy.prose_max_repeated_lines, policy.prose_max_repeated, *policy.prose_max_top_ngram]
    is_manual = _is_manual(document)
    return [min(1.0, round(limit * policy.prose_of_manuals, 4)) if is_manual else limit for limit in limits]


def _is_manual(document: Document) -> bool:
    """Check for prose with markup, or a list of changes, which no page of the web is."""
    has_markup = document.language not in {None, "Text"} or _CHANGES.search(document.path or "") is not None
    return has_markup and document.messages is None


def _without_speakers(document: Document) -> str:
    """Return the text, of a conversation without the lines that name the speaker, and without a rejected answer."""
    return document.text if document.messages is None else "\n\n".join(turn.text for turn in document.messages)


def _judge_data(policy: FilterPolicy, document: Document, counted: "Statistics", name: str) -> Drop | None:
    least, most = policy.data_chars
    if counted.line_chars < least:
        return _below(DropReason.FILTER_LINES, "characters of data", counted.line_chars, least, digits=0)
    if _MANIFEST.search(document.path or "") or (name == "xml" and _is_prose(policy, document.encoded, counted)):
        return _judge_length(policy, counted, name) or _judge_letters(policy, policy.code_min_letters, counted)
    is_written = name in WRITTEN_DATA or (name == "json" and _COMMENT_IN_JSON.search(document.encoded) is not None)
    most = max(most, policy.data_written_chars) if is_written else most
    if counted.line_chars > most:
        return _above(DropReason.FILTER_LINES, "characters of data", counted.line_chars, most, digits=0)
    if counted.lines > policy.data_max_lines:
        return _above(DropReason.FILTER_LINES, "lines of data", counted.lines, policy.data_max_lines, digits=0)
    return _judge_length(policy, counted, name) or _judge_letters(policy, policy.data_min_letters, counted)


def _is_prose(policy: FilterPolicy, data: bytes, counted: "Statistics") -> bool:
    from ibidem.data.filters.statistics import visible_chars

    return visible_chars(data) >= policy.xml_min_text * counted.chars


def _judge_markup(policy: FilterPolicy, data: bytes, counted: "Statistics") -> Drop | None:
    if counted.chars < policy.html_min_chars:
        return None
    from ibidem.data.filters.statistics import page_chars

    seen, apart = page_chars(data)
    if counted.long_chars > policy.html_max_long_lines * counted.line_chars:
        apart = 0  # nobody wrote them
    if seen < policy.html_min_text_chars:
        least = policy.html_min_text_chars
        return _below(DropReason.FILTER_SYMBOLS, "characters of text in the page", seen, least, digits=0)
    if seen < policy.html_min_text * (counted.chars - apart):
        share = seen / max(counted.chars - apart, 1)
        return _below(DropReason.FILTER_SYMBOLS, "text in the page", share, policy.html_min_text)
    return None


def _judge_minified(policy: FilterPolicy, path: str | None, counted: "Statistics", name: str) -> Drop | None:
    if name not in SCRIPTS_AND_STYLES:
        return None
    mean = counted.line_chars / max(counted.lines, 1)
    is_dense = counted.chars > (1 - policy.minified_blanks) * counted.line_chars
    most = policy.minified_mean_line if is_dense else policy.minified_any_mean_line
    if mean > most:
        return _above(DropReason.FILTER_MINIFIED, "mean line", mean, most, digits=0)
    if path and (name_ends := _MINIFIED_NAME.search(path)):
        return Drop(DropReason.FILTER_MINIFIED, f"name: {name_ends[0]}")
    return None


def _judge_length(policy: FilterPolicy, counted: "Statistics", name: str) -> Drop | None:
    if counted.longest_line > policy.max_line_of_text:
        most = policy.max_line_of_text
        return _above(DropReason.FILTER_LINES, "longest line", counted.longest_line, most, digits=0)
    if name not in LONG_LINED and (drop := _judge_lines_of_code(policy, counted, name)):
        return drop
    if counted.lines > policy.max_lines:
        return _above(DropReason.FILTER_LINES, "lines", counted.lines, policy.max_lines, digits=0)
    return None


def _judge_lines_of_code(policy: FilterPolicy, counted: "Statistics", name: str) -> Drop | None:
    if counted.longest_line > policy.max_longest_line:
        most = policy.max_longest_line
        return _above(DropReason.FILTER_LINES, "longest line", counted.longest_line, most, digits=0)
    if counted.long_chars > policy.max_long_lines * counted.line_chars:
        share = counted.long_chars / counted.line_chars
        return _above(DropReason.FILTER_LINES, "characters in long lines", share, policy.max_long_lines)
    mean = counted.line_chars / max(counted.lines, 1)
    is_spaced = counted.chars <= (1 - policy.minified_blanks) * counted.line_chars
    most = max(policy.max_mean_line, policy.max_mean_spaced_line) if is_spaced else policy.max_mean_line
    if name not in SCRIPTS_AND_STYLES and counted.line_chars >= policy.mean_line_min_chars and mean > most:
        return _above(DropReason.FILTER_LINES, "mean line", mean, most, digits=0)
    return None


def _judge_letters(policy: FilterPolicy, least: float, counted: "Statistics") -> Drop | None:
    if counted.chars < policy.letters_min_chars:
        return None
    share = counted.letters / max(counted.chars, 1)
    return _below(DropReason.FILTER_SYMBOLS, "letters", share, least) if share < least else None


def _judge_runs(policy: FilterPolicy, size: int, counted: "Statistics") -> Drop | None:
    is_part = counted.longest_encoded <= min(8 * policy.max_encoded_run, policy.max_encoded_run_share * size)
    if counted.longest_encoded > policy.max_encoded_run and not is_part:
        most = policy.max_encoded_run
        return _above(DropReason.FILTER_SYMBOLS, "encoded run", counted.longest_encoded, most, digits=0)
    for name, count, share in (
        ("encoded", counted.encoded_bytes, policy.max_data_share),
        ("numbers", counted.number_bytes, policy.max_number_share),
    ):
        if count > share * size and (name != "encoded" or count >= policy.data_share_min_chars):
            return _above(DropReason.FILTER_SYMBOLS, name, count / size, share)
    return None


def _judge_repeated(most_lines: float, most_chars: float, counted: "Statistics") -> Drop | None:
    lines = counted.duplicate_lines / max(counted.lines, 1)
    if lines > most_lines:
        return _above(DropReason.FILTER_REPETITION, "repeated lines", lines, most_lines)
    chars = counted.duplicate_chars / max(counted.chars, 1)
    if chars > most_chars:
        return _above(DropReason.FILTER_REPETITION, "characters in repeated lines", chars, most_chars)
    return None


def _above(reason: DropReason, what: str, value: float, limit: float, *, digits: int = 2) -> Drop:
    return Drop(reason, f"{what}: {_figure(value, limit, digits=digits)}, at most {_limit(limit)}")


def _below(reason: DropReason, what: str, value: float, limit: float, *, digits: int = 2) -> Drop:
    return Drop(reason, f"{what}: {_figure(value, limit, digits=digits)}, at least {_limit(limit)}")


def _limit(limit: float) -> str:
    return str(limit).removesuffix(".0")


def _figure(value: float, limit: float, *, digits: int = 2) -> str:
    """Format a figure with as many more digits as it needs to be on its own side of a limit."""
    for more in range(digits, 17):
        shown = float(f"{value:.{more}f}")
        if (shown < limit, shown > limit) == (value < limit, value > limit):
            return f"{value:.{more}f}"
    return repr(value)


def _any_of(words: Sequence[str]) -> str:
    if not words:
        return _NOTHING
    return r"(?:^|\W|_)(?:" + "|".join(re.escape(word) for word in words) + r")(?:\W|_|\z)"


def _load(name: str) -> Callable[[str], Any]:
    module, colon, function = name.partition(":")
    try:
        scorer = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"scorer {name}: {error}") from None
    if not callable(scorer):
        raise ConfigError(f"scorer {name}: not a function; give it as package.module:function")
    return cast("Callable[[str], Any]", scorer)
