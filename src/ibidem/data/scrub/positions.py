r"""Where a file is code, and where it is a string or a comment: a placeholder in code has to be a literal.

    Python      phone = 4155552671  # call +49 30 901820      ->  phone = "<PHONE_NUMBER>"  # call <PHONE_NUMBER>
    Shell       ping -c 1 93.184.41.34                       ->  ping -c 1 "<IP_ADDRESS>"    (bare, `<` would redirect)
    TSX         <p>ann@ibidem.org</p>                         ->  <p>{"<EMAIL>"}</p>          (bare, it would be a tag)

One pattern for each family of languages finds strings and comments. No parser is used, because a file may be broken,
or written for another version. A mistake costs the quotes of one placeholder and never hides a find, except in Python,
where the pattern is exact (but for quotes nested in f-strings) and `X@W.it` is a product of matrices.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

Span = tuple[int, int]

_DOUBLE, _SINGLE = rb'"(?:[^"\\\n]|\\.)*+"?', rb"'(?:[^'\\\n]|\\.)*+'?"
_LONG_DOUBLE = rb'"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?'
_LONG_SINGLE = rb"'''(?:[^'\\]|\\.|'(?!''))*+(?:''')?"
_C_COMMENT = rb"//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/)?"
_HASH = rb"#[^\n]*+"
_REGEX = rb"(?:[=(,:\[!&|?;]|return)\s*+/(?![*/])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*+\])++/[a-z]*+"
_HERE = (
    rb"<<-?[ \t]*+(?P<quote>['\"]?)(?P<end>\w+)(?P=quote)[^\n]*+\n"
    rb"(?:(?!\s*+(?P=end)\s)[^\n]*+\n){0,500}+(?=\s*+(?P=end)(?:\s|\Z))"
)
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
    _any_of(rb"\\.", _HERE, rb"'[^']*+'?", _SHELL_COMMENT, rb'["()]'),
    re.compile(rb'(?:[^"\\$]|\\.|\$(?!\())*+(?:"|\$\(|\Z)', re.DOTALL),
    quote=b'"',
    opens=b"$(",
    closes=b")",
)


def _flat(pattern: re.Pattern[bytes], data: bytes) -> Iterator[Span]:
    return (match.span() for match in pattern.finditer(data))


def _nested(nesting: Nesting, data: bytes) -> Iterator[Span]:
    depth = at = 0
    outer: list[int] = []
    while token := nesting.code.search(data, at):
        start, at = token.span()
        if token[0] == nesting.opens[-1:]:
            depth += 1
        elif token[0] == nesting.closes and depth not in outer[-1:]:
            depth -= 1
        elif token[0] not in {nesting.quote, nesting.closes}:
            yield start, at
        else:
            outer = outer[:-1] if token[0] == nesting.closes else outer
            chunk = nesting.chunk.match(data, at)
            at = chunk.end() if chunk else len(data)
            yield start, at
            if data.endswith(nesting.opens, 0, at):
                outer.append(depth)


class Grammar(NamedTuple):
    """How a language is divided, and what a placeholder is in its code."""

    literals: Callable[[bytes], Iterator[Span]]
    """Yields strings and comments, ascending."""
    write: Callable[[bytes, Span, bytes], bytes | None]
    """Takes the text, a find in code and its placeholder; returns what is written; None: it is code, not a find."""
    has_words: bool = False
    """Whether a bare word is a value, as in shells."""


_PRODUCT = re.compile(rb"[\w.]+@[\w.]+")
_MARKUP_BEFORE = re.compile(rb">[^<>{}=;()]*\Z")


def _quoted(_data: bytes, _span: Span, placeholder: bytes) -> bytes | None:
    return b'"%b"' % placeholder


def _in_python(data: bytes, span: Span, placeholder: bytes) -> bytes | None:
    return None if _PRODUCT.fullmatch(data, *span) else b'"%b"' % placeholder


def _in_script(data: bytes, span: Span, placeholder: bytes) -> bytes | None:
    is_markup = _MARKUP_BEFORE.search(data, max(0, span[0] - 256), span[0])
    return b'{"%b"}' % placeholder if is_markup else b'"%b"' % placeholder


_FAMILIES = (
    (
        "python cython starlark",
        Grammar(partial(_flat, _any_of(_LONG_DOUBLE, _LONG_SINGLE, _DOUBLE, _SINGLE, _HASH)), _in_python),
    ),
    ("javascript typescript tsx jsx", Grammar(partial(_nested, _SCRIPT), _in_script)),
    ("shell bash zsh", Grammar(partial(_nested, _SHELL), _quoted, has_words=True)),
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
        self._spans = list(grammar.literals(data))
        self._starts = [start for start, _ in self._spans]

    def is_code(self, start: int, end: int) -> bool:
        """Check that a span touches no string and no comment."""
        place = bisect_right(self._starts, start)
        before, after = self._spans[place - 1 : place] if place else [], self._spans[place : place + 1]
        return all(start >= stop for _, stop in before) and all(end <= begin for begin, _ in after)
