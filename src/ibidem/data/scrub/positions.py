r"""Where a file is code, and where it is a string or a comment: a placeholder in code has to be a literal.

    Python      phone = 4155552671  # call +49 30 901820      ->  phone = "<PHONE_NUMBER>"  # call <PHONE_NUMBER>
    Python      f"call {4155552671}"                         ->  f"call {'<PHONE_NUMBER>'}"
    Shell       ping -c 1 93.184.41.34                       ->  ping -c 1 "<IP_ADDRESS>"    (bare, `<` would redirect)
    TSX         <p>ann@ibidem.org</p>                         ->  <p>{"<EMAIL>"}</p>          (bare, it would be a tag)

One pattern for each family of languages finds strings and comments. No parser is used, because a file may be broken,
or written for another version. A mistake costs the quotes of one placeholder and never hides a find, except in Python,
where the patterns are exact and `X@W.it` is a product of matrices. In an f-string whose fields leave no kind of quotes
to Python 3.11 (`f"{f'{4155552671}'}"`), a find stays. Recipes and `$(shell)` are the code of a Makefile.
"""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

Span = tuple[int, int]
Quotes = frozenset[bytes]
"""Of the strings around a piece of code, in which a literal cannot use them again."""
Literal = tuple[int, int, Quotes]
"""Start and end of a string, a part of one, or a comment, and the quotes around the code behind it."""

_NONE: Quotes = frozenset()

_DOUBLE, _SINGLE = rb'"(?:[^"\\\n]|\\.)*+"?', rb"'(?:[^'\\\n]|\\.)*+'?"
_LONG_DOUBLE = rb'"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?'
_LONG_SINGLE = rb"'''(?:[^'\\]|\\.|'(?!''))*+(?:''')?"
_C_COMMENT = rb"//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/)?"
_HASH = rb"#[^\n]*+"
_REGEX = rb"(?:[=(,:\[!&|?;]|return)\s*+/(?![*/])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*+\])++/[a-z]*+"
_HERE = rb"""(?P<here>(?<!<)<<(?P<tabs>-?)[ \t]*+(?P<quote>['"]?)\\?(?P<end>[\w.!+-]++)(?P=quote))"""
_LINE_OF_ONE_WORD = re.compile(rb"^(?P<tabs>\t*+)(?P<end>[\w.!+-]++)\r?$", re.MULTILINE)
_SHELL_COMMENT = rb"(?<![^\s;(])#[^\n]*+"


def _any_of(*patterns: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"|".join(patterns), re.DOTALL)


class Nesting(NamedTuple):
    """Strings that contain code, which contains such strings: ``{`${}`}`` in scripts, `$("$()")` in shells."""

    code: re.Pattern[bytes]
    """Matches strings and comments in code, the quote, and both brackets."""
    chunk: re.Pattern[bytes]
    """Matches the string up to its end, or to where code begins in it."""
    quote: bytes
    opens: bytes
    """What begins code in the string; it ends with the opening bracket."""
    closes: bytes


_SCRIPT = Nesting(
    _any_of(_C_COMMENT, _DOUBLE, _SINGLE, _REGEX, rb"[`{}]"),
    re.compile(rb"(?:[^`\\$]|\\.|\$(?!\{))*+(?:`|\$\{|\Z)", re.DOTALL),
    quote=b"`",
    opens=b"${",
    closes=b"}",
)
_SHELL = Nesting(
    _any_of(rb"\\.", _HERE, rb"'[^']*+'?", _SHELL_COMMENT, rb'["()\n]'),
    re.compile(rb'(?:[^"\\$]|\\.|\$(?!\())*+(?:"|\$\(|\Z)', re.DOTALL),
    quote=b'"',
    opens=b"$(",
    closes=b")",
)
_RECIPE = re.compile(
    rb"(?<!\\\n)^\t(?![ \t]*+(?:export[ \t]++)?[\w.-]++[ \t]++(?:[:+?!]|::)?=)(?:\\.|[^\\\n])*+"
    rb"|\$\(shell[ \t](?:[^()]|\([^()]*+\))*+\)",
    re.MULTILINE | re.DOTALL,
)
"""A line behind a tab that assigns no variable, with those that continue it; or what runs in a shell elsewhere."""


class Inside(NamedTuple):
    """How an f-string goes on, by its quotes. Each pattern ends at the quote, or where a field opens or closes."""

    text: re.Pattern[bytes]
    form: re.Pattern[bytes]
    """Matches the format behind the colon of a field."""


def _inside(quote: bytes) -> Inside:
    first, ends = quote[:1], quote[:1] if quote[1:] else quote + b"\\n"
    alone = rb"%b(?!%b)|" % (first, quote[1:]) if quote[1:] else b""
    text = rb"(?:%b[^%b\\{]|\\N\{[\w -]*+\}|\\[^{]|\\(?=\{)|\{\{)*+" % (alone, ends)
    return Inside(
        _any_of(rb"%b(?:(?P<opens>\{)|%b)?+" % (text, quote)),
        _any_of(rb"(?:%b[^%b{}])*+(?:(?P<opens>\{)|(?P<closes>\})|%b)?+" % (alone, ends, quote)),
    )


_INSIDE = {quote: _inside(quote) for quote in (b'"', b"'", b'"""', b"'''")}
_OPENS = rb"""(?<!\w)(?:[fF][rR]?|[rR][fF])(?P<quote>"{3}|'{3}|["'])"""
_PYTHON = _OPENS, _LONG_DOUBLE, _LONG_SINGLE, _DOUBLE, _SINGLE, _HASH
_PYTHON_CODE, _FIELD_CODE = _any_of(*_PYTHON), _any_of(*_PYTHON, rb"[\[\](){}:]")
_DEPTHS = {b"(": 1, b"[": 1, b"{": 1, b")": -1, b"]": -1, b"}": -1, b":": 0}


class Field(NamedTuple):
    """A pair of braces in an f-string: `{code}` or `{code:format}`."""

    quote: bytes
    rest: re.Pattern[bytes]
    """Matches what is behind the field."""
    depth: int
    """Brackets open in the code around the string."""
    quotes: Quotes


def _flat(pattern: re.Pattern[bytes], data: bytes) -> Iterator[Literal]:
    return ((*match.span(), _NONE) for match in pattern.finditer(data))


def _python(data: bytes) -> Iterator[Literal]:
    at = depth = 0
    fields: list[Field] = []
    while token := (_FIELD_CODE if fields else _PYTHON_CODE).search(data, at):
        start, at = token.span()
        if token[0] in _DEPTHS and (depth or _DEPTHS[token[0]] > 0):
            depth += _DEPTHS[token[0]]
            continue
        quote, rest = token["quote"], None
        if quote:
            rest = _INSIDE[quote].text
        elif token[0] == b"}":
            quote, rest, depth, _ = fields.pop()
        elif token[0] == b":":
            quote, rest = fields[-1].quote, _INSIDE[fields[-1].quote].form
        while rest and (part := rest.match(data, at)):
            at = part.end()
            if part["opens"]:
                fields.append(Field(quote, rest, depth, _quotes(fields) | {quote}))
                depth, rest = 0, None
            elif "closes" in rest.groupindex:
                quote, rest, depth, _ = fields.pop()
                rest = rest if part["closes"] else None
            else:
                rest = None
        yield start, at, _quotes(fields)


def _quotes(fields: Sequence[Field]) -> Quotes:
    return fields[-1].quotes if fields else _NONE


def _recipes(data: bytes) -> Iterator[Literal]:
    done = 0
    for recipe in _RECIPE.finditer(data):
        yield done, recipe.start(), _NONE
        for start, end, quotes in _nested(_SHELL, recipe[0]):
            yield recipe.start() + start, recipe.start() + end, quotes
        done = recipe.end()
    yield done, len(data), _NONE


def _lines_of_one_word(data: bytes) -> dict[tuple[bool, bytes], list[Span]]:
    """Return the lines that may end a here-document: by whether tabs may precede the word, and the word."""
    lines = defaultdict(list)
    for line in _LINE_OF_ONE_WORD.finditer(data):
        lines[True, line["end"]].append(line.span())
        if not line["tabs"]:
            lines[False, line["end"]].append(line.span())
    return lines


def _nested(nesting: Nesting, data: bytes) -> Iterator[Literal]:
    depth = at = 0
    outer: list[int] = []
    ends: dict[tuple[bool, bytes], list[Span]] | None = None
    awaited: list[tuple[bool, bytes]] = []
    while token := nesting.code.search(data, at):
        start, at = token.span()
        if token.lastgroup == "here":
            ends = _lines_of_one_word(data) if ends is None else ends
            awaited.append((token["tabs"] == b"-", token["end"]))
        elif token[0] == b"\n":
            for end in awaited:
                lines = (ends or {}).get(end, [])
                place = bisect_left(lines, (at,))
                for first, last in lines[place : place + 1]:
                    yield at, first, _NONE
                    at = last
            awaited.clear()
        elif token[0] == nesting.opens[-1:]:
            depth += 1
        elif token[0] == nesting.closes and depth not in outer[-1:]:
            depth -= 1
        elif token[0] not in {nesting.quote, nesting.closes}:
            yield start, at, _NONE
        else:
            outer = outer[:-1] if token[0] == nesting.closes else outer
            chunk = nesting.chunk.match(data, at)
            at = chunk.end() if chunk else len(data)
            yield start, at, _NONE
            if data.endswith(nesting.opens, 0, at):
                outer.append(depth)


class Grammar(NamedTuple):
    """How a language is divided, and what a placeholder is in its code."""

    literals: Callable[[bytes], Iterator[Literal]]
    """Yields strings and comments, ascending."""
    write: Callable[[bytes, Span, bytes, Quotes], bytes | None]
    """Takes the text, a find in code, its placeholder and the quotes around it; returns what is written, or None."""
    has_words: bool = False
    """Whether a bare word is a value, as in shells."""


_PRODUCT = re.compile(rb"[\w.]+@[\w.]+")
_MARKUP_BEFORE = re.compile(rb">[^<>{}=;()]*\Z")


def _quoted(_data: bytes, _span: Span, placeholder: bytes, _quotes: Quotes) -> bytes | None:
    return b'"%b"' % placeholder


def _in_python(data: bytes, span: Span, placeholder: bytes, quotes: Quotes) -> bytes | None:
    free = [quote for quote in (b'"', b"'") if quote not in quotes]
    if not free or _PRODUCT.fullmatch(data, *span):
        return None
    quote = min(free, key=lambda quote: quote * 3 in quotes)
    return quote + placeholder + quote


def _in_script(data: bytes, span: Span, placeholder: bytes, _quotes: Quotes) -> bytes | None:
    is_markup = _MARKUP_BEFORE.search(data, max(0, span[0] - 256), span[0])
    return b'{"%b"}' % placeholder if is_markup else b'"%b"' % placeholder


_FAMILIES = (
    ("python cython starlark", Grammar(_python, _in_python)),
    ("javascript typescript tsx jsx", Grammar(partial(_nested, _SCRIPT), _in_script)),
    ("shell bash zsh", Grammar(partial(_nested, _SHELL), _quoted, has_words=True)),
    ("makefile", Grammar(_recipes, _quoted, has_words=True)),
    ("json json5 jsonld", Grammar(partial(_flat, _any_of(_DOUBLE, _C_COMMENT)), _quoted)),
    ("toml", Grammar(partial(_flat, _any_of(_LONG_DOUBLE, _LONG_SINGLE, _DOUBLE, rb"'[^'\n]*+'?", _HASH)), _quoted)),
    (
        "c c++ c# go java kotlin rust scala swift",
        Grammar(partial(_flat, _any_of(_LONG_DOUBLE, _DOUBLE, _SINGLE, rb"`[^`]*+`?", _C_COMMENT)), _quoted),
    ),
)
_GRAMMARS = {name: grammar for names, grammar in _FAMILIES for name in names.split()}


def grammar_of(language: str | None) -> Grammar | None:
    """Return the grammar of a language by its name in Linguist; None if nothing is known, or any text is a value."""
    return _GRAMMARS.get((language or "").lower())


class Positions:
    """Strings and comments of one text.

    >>> positions = Positions(b"x = 'a b'  # c", grammar_of("Python"))
    >>> positions.is_code(0, 1), positions.is_code(5, 6), positions.is_code(13, 14)
    (True, False, False)
    """

    def __init__(self, data: bytes, grammar: Grammar) -> None:
        self._literals = list(grammar.literals(data))
        self._starts = [start for start, _, _ in self._literals]

    def is_code(self, start: int, end: int) -> bool:
        """Check that a span touches no string and no comment."""
        place = bisect_right(self._starts, start)
        before, after = self._literals[place - 1 : place] if place else [], self._literals[place : place + 1]
        return all(start >= stop for _, stop, _ in before) and all(end <= begin for begin, _, _ in after)

    def quotes_around(self, start: int) -> Quotes:
        """Return the quotes of the strings whose code contains a place."""
        place = bisect_right(self._starts, start)
        return self._literals[place - 1][2] if place else _NONE
