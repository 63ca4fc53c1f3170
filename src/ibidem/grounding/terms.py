"""The words of a text, as BM25 counts them.

    "The parseHTTPHeader() calls"   ->  the, parsehttpheader, pars, http, header, call
    snake_case, MAX_ROWS            ->  snake_case, snak, cas, max_rows, max, row
    "1,000 rows since 3.11"         ->  1000, 1, 000, row, sinc, 3.11, 3, 11
    検索する                          ->  検索, 索す, する

Terms are in Unicode's compatibility form (NFKC) and casefolded. An identifier counts as a whole and by its parts, a
number with points also by its groups of digits; words lose the endings of plural, -ing and -ed. Scripts that are
written without blanks are cut into pairs of characters.

An index holds terms as 64-bit hashes under its secret key: nobody can choose words that collide, and a term of 100,000
characters takes as much room as any other.
"""

import re
import unicodedata
from functools import lru_cache
from hashlib import blake2b

VERSION = 1
"""It rises whenever a text would get other terms."""

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+(?!\w)|\w+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+)")
_VOWEL = re.compile("[aeiouy]")
_DOUBLED = ("bb", "dd", "gg", "mm", "nn", "pp", "rr", "tt")
_SINGULAR_S = ("ss", "us", "is")
_ES = ("sses", "shes", "ches", "xes")
_LONGEST_CACHED = 64


def terms(text: str) -> list[str]:
    """Return the terms of a text, in order, with repeats.

    >>> terms("The parseHTTPHeader() calls")
    ['the', 'parsehttpheader', 'pars', 'http', 'header', 'call']
    >>> terms("stopped 1,000 MAX_ROWS")
    ['stop', '1000', '1', '000', 'max_rows', 'max', 'row']
    """
    return [term for token in _tokens(text) for term in _terms_of(token)]


def hashes(text: str, key: bytes) -> list[int]:
    """Return the terms of a text as 64-bit hashes under a key.

    >>> hashes("Calls", b"secret") == hashes("call", b"secret") != hashes("call", b"other")
    True
    """
    found: list[int] = []
    for token in _tokens(text):
        found += _hashes_of(token, key) if len(token) <= _LONGEST_CACHED else _hashes_of.__wrapped__(token, key)
    return found


def hash_of(term: str, key: bytes) -> int:
    """Return the 64-bit hash of a term under a key."""
    digest = blake2b(term.encode(errors="surrogatepass"), digest_size=8, key=key[:64], person=b"term").digest()
    return int.from_bytes(digest, "little")


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text if text.isascii() else unicodedata.normalize("NFKC", text))


@lru_cache(maxsize=1 << 16)
def _hashes_of(token: str, key: bytes) -> tuple[int, ...]:
    return tuple(hash_of(term, key) for term in _terms_of(token))


def _terms_of(token: str) -> list[str]:
    r"""Return the terms of one token: a number, or a run of `\w`."""
    if not token.isascii() and _UNSPACED.search(token):
        pieces = [piece for piece in _UNSPACED.split(token) if piece]
        return [term for piece in pieces for term in (_pairs(piece) if _UNSPACED.match(piece) else _terms_of(piece))]
    if token.isascii() and token.isalpha() and (token.islower() or token.isupper() or token.istitle()):
        return [_stem(token.lower())]
    if "." in token or "," in token:
        whole = token.replace(",", "") if _THOUSANDS.fullmatch(token) else token
        return [whole, *re.split("[.,]", token)]
    parts = _PART.findall(token) if token.isascii() else [part for part in token.split("_") if part]
    stems = [_stem(_folded(part)) for part in parts]
    if len(parts) < 2:
        return stems or [token]
    return [_folded(token), *stems]


def _folded(word: str) -> str:
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word.casefold())


def _pairs(characters: str) -> list[str]:
    return [characters[place : place + 2] for place in range(max(1, len(characters) - 1))]


def _stem(word: str) -> str:
    """Remove the endings of plural, -ing and -ed, a final e, and the doubling of a final consonant.

    >>> [_stem(word) for word in ("policies", "classes", "indexing", "stopped", "make", "status")]
    ['policy', 'class', 'index', 'stop', 'mak', 'status']
    """
    if len(word) < 4 or not word.isascii():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(_ES):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(_SINGULAR_S):
        word = word[:-1]
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2 and _VOWEL.search(stem):
            word = stem
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    return word[:-1] if word.endswith(_DOUBLED) else word
