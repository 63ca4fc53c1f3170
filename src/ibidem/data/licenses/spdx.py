"""Convert whatever a source calls a license to one SPDX expression.

Every raw form (SPDX, classifier, free text, full text, npm, DEP-5, a list) becomes one SPDX expression or None.
If several readings are possible, the strictest is taken: licenses listed side by side all apply (AND).
"""

import json
import re
from collections.abc import Collection, Mapping
from email.message import Message
from functools import cache, lru_cache
from importlib.metadata import PackageMetadata
from typing import Any, NamedTuple

from license_expression import ExpressionError, LicenseWithExceptionSymbol, get_spdx_licensing

from ibidem.data.licenses import choices
from ibidem.errors import LicenseError

GNU_FAMILIES = ("GPL", "AGPL", "LGPL")
UNKNOWN = "LicenseRef-scancode-unknown-license-reference"
MAX_EXPRESSION_CHARS, MAX_TEXT_CHARS = 4000, 20_000
MAX_NESTING = 100
MISSING_WORDS = {"", "nan", "none", "null", "<na>", "nat"}

# Names other than loosely written SPDX ids; word order, punctuation and "the ... license version" are ignored.
ALIASES = {
    "0BSD": "zero clause bsd",
    "AAL": "attribution assurance",
    "AFL-3.0": "afl | academic free | academic free 3.0",
    "APSL-2.0": "apple public source",
    "Aladdin": "aladdin free public",
    "Apache-1.1": "apache software 1.1",
    "Apache-2.0": "apache | apache software | apache software 2.0 | asl 2.0 | asl | al 2.0 | apache-2.0 apache",
    "Artistic-1.0": "artistic",
    "Artistic-2.0": "artistic perl 2.0",
    "BSD-2-Clause": "bsdl | 2-clause bsdl | simplified bsd | freebsd | bsd 2-clause simplified | bsd-2-clause-netbsd"
    " | bsd-2-clause-freebsd | two clause bsd",
    "BSD-3-Clause": "bsd | new bsd | modified bsd | revised bsd | bsd 3-clause new or revised | bsd new or revised"
    " | three clause bsd | bsd-3 | bsd 3 clause new | bsd 3 clause revised | bsd 3 clause modified",
    "BSD-4-Clause": "original bsd | four clause bsd | bsd 4-clause original",
    "BSL-1.0": "boost | boost software | boost software 1.0 | bsl",
    "BlueOak-1.0.0": "blue oak model | blue oak model 1.0.0 | blueoak",
    "CC0-1.0": "cc0 | cc0 1.0 universal | cc0 1.0 universal public domain dedication | creative commons zero",
    "CDDL-1.0": "cddl | common development and distribution 1.0 | common development and distribution",
    "CECILL-2.1": "cecill | cea cnrs inria logiciel libre 2.1",
    "CECILL-B": "cecill-b free software agreement",
    "CECILL-C": "cecill-c free software agreement",
    "CNRI-Python": "python cnri",
    "CPL-1.0": "common public | common public 1.0",
    "ECL-2.0": "educational community | educational community 2.0",
    "EFL-2.0": "eiffel forum | eiffel forum 2.0",
    "EPL-1.0": "epl | eclipse public | eclipse public 1.0",
    "EPL-2.0": "eclipse public 2.0",
    "EUPL-1.0": "european union public | european union public 1.0",
    "EUPL-1.1": "european union public 1.1",
    "EUPL-1.2": "european union public 1.2",
    "GFDL-1.1-or-later": "fdl | gfdl | gnu free documentation",
    "GFDL-1.2-or-later": "gfdl 1.2 | gnu free documentation 1.2",
    "GFDL-1.3-or-later": "gfdl 1.3 | gnu free documentation 1.3",
    "HPND": "historical permission notice and disclaimer",
    "IPL-1.0": "ibm public | ibm public 1.0",
    "ISC": "iscl | internet systems consortium",
    "Intel": "intel open source",
    "LicenseRef-scancode-public-domain": "public domain | pd",
    "MIT": "expat | mit/x11 | mit expat | x11/mit",
    "MIT-0": "mit no attribution",
    "MPL-1.0": "mpl | mozilla public 1.0 | mozilla public",
    "MPL-1.1": "mozilla public 1.1",
    "MPL-2.0": "mozilla public 2.0",
    "MulanPSL-2.0": "mulan permissive software 2.0 | mulan psl 2.0",
    "NASA-1.3": "nasa open source agreement 1.3",
    "NCSA": "university of illinois/ncsa open source | illinois/ncsa open source",
    "NGPL": "nethack general public",
    "NOSL": "netizen open source",
    "NPL-1.1": "netscape public",
    "Nokia": "nokia open source",
    "OFL-1.1": "ofl | sil open font | sil open font 1.1 | open font",
    "OGTSL": "open group test suite",
    "OLDAP-2.8": "openldap | openldap public | openldap 2.8",
    "OSL-3.0": "open software 3.0",
    "OpenSSL": "openssl/ssleay",
    "PHP-3.01": "php | php 3.01",
    "PSF-2.0": "psf | psfl | python software foundation | python software foundation 2.0 | python",
    "PostgreSQL": "postgres",
    "QPL-1.0": "qpl | qt public",
    "RSCPL": "ricoh source code public",
    "Ruby": "ruby distribution | ruby's",
    "SISSL": "sun industry standards source",
    "SPL-1.0": "sun public",
    "TCL": "tcl/tk",
    "UPL-1.0": "upl | universal permissive | universal permissive 1.0",
    "Unlicense": "unlicense public domain",
    "VSL-1.0": "vovida software 1.0",
    "W3C": "w3c software",
    "WTFPL": "do what the fuck you want to public | do what the f*ck you want to public",
    "X11": "x11 distribution",
    "Xnet": "x.net",
    "ZPL-2.1": "zpl | zope public | zope public 2.1",
    "Zend-2.0": "zend-engine-2.00",
    "Zlib": "zlib/libpng",
}

# Names that stand for a choice.
NAMED_CHOICES = dict.fromkeys(("perl", "perl 5", "same as perl", "same as perl itself", "perl itself"), choices.PERL)

# Sentences that occur only in the text or the grant of one license, in lower case with single spaces.
_ISC = r"permission to use, copy, modify, and(?:/or)? distribute this software for any purpose with or without fee is "
_HISTORICAL = (
    r"permission to use, copy, modify,?(?: and)? distribute,?(?: and sell)? this software and its documentation "
    r"(?:is hereby granted )?for any purpose(?: is hereby granted|,? and without fee| without fee)"
)
TEXTS = {
    "MIT": r"permission is hereby granted, free of charge, to any person obtaining a copy",
    "Apache-2.0": r"apache license,? version 2\.0, january 2004"
    r"|licen[sc](?:ed|es this (?:file|work|code|software) to you) under the apache license, version 2",
    "ISC": _ISC
    + r"hereby granted, provided|"
    + _ISC.replace("with or without", "without")
    + "hereby granted, provided",
    "0BSD": _ISC + r"hereby granted\.",
    "BSD-4-Clause": r"redistribution and use in source and binary forms(?=.*all advertising materials)",
    "BSD-3-Clause": r"redistribution and use in source and binary forms(?!.*all advertising materials)"
    r"(?=.*(?:neither the name|names? of .{0,100}may not be used to endorse)|(?!.*this software is provided))",
    "BSD-2-Clause": r"redistribution and use in source and binary forms(?!.*all advertising materials)"
    r"(?!.*(?:neither the name|names? of .{0,100}may not be used to endorse))(?=.*this software is provided)",
    "MPL-2.0": r"mozilla public license,? v(?:ersion|\.) 2\.0",
    "MPL-1.1": r"mozilla public license,? v(?:ersion|\.) 1\.1",
    "Unlicense": r"this is free and unencumbered software released into the public domain",
    "Zlib": r"altered source versions must be plainly marked as such",
    "BSL-1.0": r"boost software license\W+version 1\.0",
    "PSF-2.0": r"python software foundation license version 2",
    "WTFPL": r"do what the fuck you want to public license",
    "CC0-1.0": r"cc0 1\.0 universal|(?:dedicated|waived) all copyright and related (?:and|or) neighboring rights",
    "HPND": _HISTORICAL,
    "PostgreSQL": r"this software and its documentation for any purpose, without fee, and without a written agreement "
    r"is hereby granted",
}


def pattern(text: str) -> re.Pattern[str]:
    """Compile a case-insensitive pattern."""
    return re.compile(text, re.IGNORECASE)


_WORDS_OF_TEXTS = ("permission ", "redistribution ", "version", "public", "license", "altered source", "neighboring")

# The name of a GNU license, unless it is part of a path, a file name or a remark on compatibility.
GNU = (
    r"(?P<name>(?<![\w/.-])(?<!\bnot )(?<!\bnot the )(?<!\bnon )(?<!\bno )(?:gnu[ /-]*)?"
    r"(?:(?:affero|lesser|library)(?: or (?:lesser|library)| \(library\))? (?:gnu )?)?"
    r"(?:general public licen[sc]es?|[al]?-?gpl(?=\b|_|v? ?\d|s\b))(?!\.[a-z]{2,4}\b)(?![\w.]*[ -](?:in)?compatib))"
)
GNU_NAME = pattern(GNU)
GNU_TITLE = pattern(GNU + r" version \d(?:\.\d)?, (?:\d\d? )?(?:june|february|november) \d{4}")
_VERSION = pattern(r"(?:^[\s,(\x01-]*v?|\bversions? |\bv\.? ?|\bver\.? |>= ?)(\d(?:\.\d)?)(?!\.?\d)")
_VERSION_BEFORE = pattern(r"version (\d(?:\.\d)?)(?P<later>[ ,(]+or [^.]{0,25}later\)?)?,? of (?:the )?$")
_LATER = pattern(
    r"[ ,(]+(?:or|and),? \(?(?:\(?at your (?:option|choice)\W+)?(?:any )?"
    r"(?:later|newer|above|greater|higher)(?: versions?)?\b\)?"
)
_SENTENCE_END = re.compile(r"\.\s+(?=[A-Z])|https?://")
_LOWEST = {"GPL": "GPL-1.0-or-later", "AGPL": "AGPL-1.0-or-later", "LGPL": "LGPL-2.0-or-later"}

# Patterns in free text, and how each is rewritten before the text is split at its operators.
_FIELD = pattern(r"^\s*(?:(?:DEP-5 )?licen[sc]e(?:-expression)?: |licen[sc]e ::(?:.*::)?)")
_REWRITES = (
    (pattern(r"https?://(?:www\.)?apache\.org/licenses/license-"), "Apache-"),
    (pattern(r"https?://(?:www\.)?(?:opensource|spdx|gnu)\.org/licen[sc]es?/(?:old-licenses/)?"), " "),
    (pattern(r"(?<=\w)\.(?:html|txt|php)$|\+ *file licen[sc]e|(?<=gnu)/"), " "),
    (pattern(r"(?<=library) or lesser|(?:library|lesser) or (?=lesser|library)"), " "),
    (pattern(r",\s*(and|or)\s"), r" \1 "),
    (pattern(r",\s*(?=v(?:ersion|er)?\.?\s*\d)"), " "),
    (_LATER, "+"),
)
_REMARK = pattern(r"(?<=[\w.+\"'])(?<!\band)(?<!\bor)(?<!\bwith)\s*\(([^()]*)\)")
_RESTRICTS = pattern(
    r"\([^()]*\b(?:non[ -]?commercial|no(?:t for)? commercial|commons[ -]clause|"
    r"(?:research|academic|education\w*|evaluation|personal|private|internal)\b)[^()]*\)"
)
"""A remark that takes permissions back; `MIT (non-commercial)` is not MIT."""
_CLOSED_REMARK = re.compile("\x01[^\x02]*\x02")
_OPERATOR = pattern(r"((?<![\w.-])(?:and|or)(?![\w.-])|[()]|[,;]+|&+|\|+)")
_OPERATORS = {"and": "AND", "&": "AND", "or": "OR", "|": "OR", "(": "((", ")": "))", ",": ") AND (", ";": ") AND ("}
_NOT_A_LICENSE = re.compile(r"^LicenseRef-scancode-(?!.*gpl).*(?:proprietary|commercial|unknown|eula)")
_STOP_WORDS = {"the", "a", "license", "licence", "licenses", "licences", "licensed", "under", "terms", "of", "version"}


GRANT = pattern(
    r"\b(?<!\bother software that is )(?<!\bmaterial that was previously )"  # Python's license on other software
    r"(?:free software|you (?:can|may)|permission is|licen[sc]ed|released|(?:re)?distributed|distributable|available|"
    r"provided|published|covered|protected|governed)\b"
    r"[^.]{0,200}?\b(?:under|by|with|according to|subject to|terms of)\b[^.:]{0,60}?"
    r"(?:\beither: (?:[a1]\) )?(?:the )?)?" + GNU
)


def is_denied(
    expression: str,
    denied: Collection[str],
    *,
    allowed: Collection[str] = (),
    allowed_exceptions: Collection[str] = (),
) -> bool:
    """Check whether every choice of an SPDX expression contains a denied license.

    A license is denied if it belongs to a denied family, or if `allowed` is not empty and does not list it; with an
    allowed exception it is never denied.

    Raises:
        LicenseError: not an SPDX expression.
    >>> is_denied("MIT OR GPL-2.0-only", ["GPL"]), is_denied("MIT AND GPL-2.0-only", ["GPL"])
    (False, True)
    """
    return _is_denied(expression, _Terms(*map(_folded, (denied, allowed, allowed_exceptions))))


def is_family(name: str) -> bool:
    """Check whether any known license belongs to a family.

    >>> is_family("GPL"), is_family("GPL,LGPL")
    (True, False)
    """
    return any(_in_family(key, name.lower()) for key in _identifiers().values())


def identifiers(*, exceptions: bool = False) -> list[str]:
    """List the current SPDX identifiers of all known licenses, or of all exceptions.

    >>> "GPL-2.0-only" in identifiers(), "GPL-2.0" in identifiers(), "Bison-exception-2.2" in identifiers()
    (True, False, False)
    """
    return sorted({symbol.key for symbol in _licensing().known_symbols.values() if symbol.is_exception == exceptions})


def licenses_in(expression: str) -> frozenset[str]:
    """List the licenses of an SPDX expression, however they are combined.

    >>> sorted(licenses_in("MIT OR (ISC AND MIT)"))
    ['ISC', 'MIT']
    """
    return frozenset(_licensing().license_keys(_parse(expression)))


def normalize(raw: object) -> str | None:
    """Convert any raw license to an SPDX expression; None if it cannot be resolved.

    A GPL-family license among unknown ones is kept in the expression, so that it is denied.

    >>> normalize("BSD (3-clause), Apache License, Version 2.0")
    'BSD-3-Clause AND Apache-2.0'
    """
    parts = texts(raw)
    return _resolve(parts) if parts else None


def package_license(metadata: Message | PackageMetadata) -> str | None:
    """Return the raw license of an installed distribution: its expression, else its classifiers, else its field."""
    expressions = metadata.get_all("License-Expression") or []
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    specific = [c for c in classifiers if c != "License :: OSI Approved"]
    fields = [f for f in metadata.get_all("License") or [] if f.strip().upper() not in {"", "UNKNOWN", "NONE"}]
    stated = expressions[:1] or specific or fields[:1] or classifiers
    return " | ".join(map(str, stated)) or None


# Expressions


@cache
def _licensing() -> Any:
    return get_spdx_licensing()


def _parse(expression: str) -> Any:
    try:
        if _is_well_formed(expression):
            return _licensing().parse(expression, validate=True, strict=True)
    except (ExpressionError, RecursionError) as error:
        raise LicenseError(f"not an SPDX expression: {expression[:200]!r}") from error
    raise LicenseError(f"not an SPDX expression: {expression[:200]!r}")


def _is_well_formed(expression: str) -> bool:
    """Check that operators and parentheses reduce to one leaf; on other input the parser fails in many ways."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    shape = "".join("&" if t.lower() in {"and", "or", "with"} else t if t in "()" else "x" for t in tokens)
    for _ in range(MAX_NESTING):
        shape, num_reduced = re.subn(r"\(x\)|x&x", "x", shape)
        if not num_reduced:
            break
    return shape == "x"


class _Terms(NamedTuple):
    """Denied families, and allowed licenses and exceptions; in lower case."""

    denied: tuple[str, ...]
    allowed: tuple[str, ...]
    allowed_exceptions: tuple[str, ...]


def _folded(names: Collection[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


@lru_cache(maxsize=8192)
def _is_denied(expression: str, terms: _Terms) -> bool:
    return _has_no_way_out(_parse(expression), terms)


def _has_no_way_out(node: Any, terms: _Terms) -> bool:
    if isinstance(node, LicenseWithExceptionSymbol):
        if node.exception_symbol.key.lower() in terms.allowed_exceptions:
            return False
        node = node.license_symbol
    if hasattr(node, "key"):
        unlisted = bool(terms.allowed) and node.key.lower() not in terms.allowed
        return unlisted or any(_in_family(node.key, family) for family in terms.denied)
    branches = (_has_no_way_out(branch, terms) for branch in node.args)
    return all(branches) if isinstance(node, _licensing().OR) else any(branches)


def _in_family(key: str, family: str) -> bool:
    key = key.lower()
    if key.startswith("licenseref-scancode-") and family.upper() in GNU_FAMILIES:
        return family in key
    return f"-{key}-".startswith(f"-{family}-") or (family == "lgpl" and key in {"llgpl", "lgpllr"})


def render(expression: str) -> str | None:
    """Normalize an expression and remove repeats; None if a part is unknown, unless a GNU family denies it anyway."""
    parsed = _parse(expression)
    flat = parsed.flatten() if hasattr(parsed, "flatten") else parsed
    rendered: str = _licensing().dedup(flat).render()
    return None if UNKNOWN in rendered and not is_denied(rendered, GNU_FAMILIES) else rendered


# Names and texts


def gnu_id(found: re.Match[str]) -> str:
    """Return the SPDX id of the GNU license in a match; its version is searched up to the end of the sentence."""
    name, text = found["name"].lower(), found.string
    before, after = text[max(0, found.start("name") - 60) : found.start("name")], text[found.end("name") :]
    window = _SENTENCE_END.split(after[:180])[0]
    kind = "AGPL" if "affero" in name or re.search("a-?gpl", name) else "GPL"
    kind = "LGPL" if re.search("lesser|library|l-?gpl", name) else kind
    version = _VERSION_BEFORE.search(before) or _VERSION.search(window)
    if version is None:
        return _LOWEST[kind]
    open_ended = "+" in window[version.end() :][:1] or ">=" in window or _LATER.search(window)
    later = version.groupdict().get("later") or (version.string is window and open_ended)
    identifier = f"{kind}-{version[1]}{'' if '.' in version[1] else '.0'}-{'or-later' if later else 'only'}"
    return identifier if identifier in _licensing().known_symbols else _LOWEST[kind]


def texts_of(flat: str) -> list[str]:
    """List the licenses whose text or grant occurs in a lower-case text with single spaces."""
    if not any(word in flat for word in _WORDS_OF_TEXTS):
        return []
    return [expression for expression, sentence in TEXTS.items() if re.search(sentence, flat)]


def _gnu_texts_of(flat: str) -> list[str]:
    same = choices.same_terms(flat, normalize)
    rest = flat if same is None else flat[: same[1].start()] + flat[same[1].end() :]
    if matches := list(GNU_TITLE.finditer(rest)):
        found = list(map(gnu_id, matches))
    else:
        found = choices.with_sides(((match, gnu_id(match)) for match in GRANT.finditer(rest)), normalize)
    if same is not None:
        found = [same[0], *(() if choices.explains(same[1], found) else found)]
    return list(dict.fromkeys(f"({expression})" if " OR " in expression else expression for expression in found))


# Raw forms


def _plain(raw: object) -> Any:
    """Convert numpy, Arrow and byte values to plain Python; missing values become None."""
    for method in ("as_py", "tolist"):
        if hasattr(raw, method):
            return _plain(getattr(raw, method)())
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "replace")
    if isinstance(raw, Mapping):
        return {str(key): _plain(value) for key, value in raw.items()}
    if isinstance(raw, list | tuple | set | frozenset):
        return [_plain(item) for item in (raw if isinstance(raw, list | tuple) else sorted(raw, key=str))]
    return raw if isinstance(raw, str) else None if str(raw).lower() in MISSING_WORDS else str(raw)


def serialize(raw: object) -> str | None:
    """Serialize a raw license for the column `license_raw`: text unchanged, lists and mappings as JSON."""
    plain = raw if isinstance(raw, str) else _plain(raw)
    return plain if plain is None or isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def texts(raw: object) -> tuple[str, ...]:
    """List the license texts in a raw value; all of them apply."""
    plain = raw if isinstance(raw, str) else _plain(raw)
    if isinstance(plain, list):
        return tuple(text for item in plain for text in texts(item))
    if isinstance(plain, dict):
        named = next((plain[key] for key in ("type", "license", "name", "spdx", "text") if plain.get(key)), None)
        return texts(named) if named else (json.dumps(plain),)
    text = (plain or "").strip()
    if text[:1] in {"[", "{"} and len(text) <= MAX_EXPRESSION_CHARS:
        try:
            return texts(json.loads(text))
        except (ValueError, RecursionError):
            return (text,)
    return () if text.lower() in MISSING_WORDS else tuple(text.split(" | ") if "::" in text else (text,))


@lru_cache(maxsize=8192)
def _resolve(parts: tuple[str, ...]) -> str | None:
    parts = tuple(_resolve_text(text) or UNKNOWN for text in parts)
    try:
        return render(" AND ".join(f"({part})" for part in parts))
    except LicenseError:  # nested too deep
        return None


def _resolve_text(text: str) -> str | None:
    flat = re.sub(r"\s+", " ", _FIELD.sub("", text[:MAX_TEXT_CHARS])).strip()
    is_text = len(flat) > 150 or "same terms" in flat.lower()
    if is_text and (known := texts_of(flat.lower()) + _gnu_texts_of(flat)):
        return " AND ".join(known)
    if len(flat) > MAX_EXPRESSION_CHARS:
        return None
    gnu = GNU_NAME.search(flat)
    if _RESTRICTS.search(flat):
        return f"{gnu_id(gnu)} AND {UNKNOWN}" if gnu else None
    if whole := _loose(flat) or (None if gnu else _loose(re.sub(r"\([^()]*\)", "", flat))):
        return whole
    try:
        return render(_expression(flat))
    except LicenseError:
        return gnu and f"{gnu_id(gnu)} AND {UNKNOWN}"


def _expression(flat: str) -> str:
    """Rewrite free text as an expression whose leaves are SPDX ids or UNKNOWN; commas bind weakest.

    >>> _expression("MIT or GPLv2, odd")
    '((MIT OR GPL-2.0-only ) AND ( LicenseRef-scancode-unknown-license-reference))'
    """
    for pattern, replacement in _REWRITES:
        flat = pattern.sub(replacement, flat)
    flat = _REMARK.sub(lambda remark: " \x01" + re.sub(r"[^\w.+>=-]+|\b(?:and|or)\b", " ", remark[1]) + "\x02", flat)
    words = [piece.strip() for piece in _OPERATOR.split(flat) if piece.strip()]
    return f"(({' '.join(_operator(word) or _leaf(word) for word in words)}))"


def _operator(word: str) -> str | None:
    return _OPERATORS.get(word.lower()) or _OPERATORS.get(word[0])


def _leaf(text: str) -> str:
    """Resolve one name; a license named in a remark counts only if it is a GNU license."""
    if base := re.match(r"(.+?) with (.+)$", text, re.IGNORECASE):
        return _with_exception(_leaf(base[1]), base[2])
    if identifier := _symbol(text) or _loose(text):
        return identifier
    if "/" in text and "://" not in text:
        return f"({' OR '.join(_leaf(side.strip()) for side in text.split('/'))})"
    if gnu := GNU_NAME.search(text):
        return gnu_id(gnu)
    return _loose(_CLOSED_REMARK.sub("", text)) or UNKNOWN


def _with_exception(base: str, exception: str) -> str:
    name = re.sub(r"[ -]exception\b.*", "", exception.strip().lower()).replace(" ", "-")
    known = _exceptions()
    identifier = known.get(exception.strip().lower()) or known.get(name) or known.get(f"{name}-exception")
    if identifier:
        return f"{base} WITH {identifier}"
    return base if base != UNKNOWN and is_denied(base, GNU_FAMILIES) else UNKNOWN


@cache
def _exceptions() -> dict[str, str]:
    return {key.lower(): key for key, symbol in _licensing().known_symbols.items() if symbol.is_exception}


@cache
def _identifiers() -> dict[str, str]:
    symbols = [symbol for symbol in _licensing().known_symbols.values() if not symbol.is_exception]
    return {name.lower(): symbol.key for symbol in symbols for name in (*symbol.aliases, symbol.key)}


def _symbol(text: str) -> str | None:
    identifier = _identifiers().get(text.lower())
    return UNKNOWN if identifier and _NOT_A_LICENSE.search(identifier) else identifier


@cache
def _names() -> dict[str, str]:
    names: dict[str, str] = {}
    for expression in _identifiers().values():
        key = _key(expression)
        if not expression.startswith("LicenseRef-"):
            names[key] = expression if names.get(key, expression) == expression else UNKNOWN
    aliases = {_key(name): spdx for spdx, listed in ALIASES.items() for name in listed.split(" | ")}
    aliases |= {_key(name): f"({choice})" for name, choice in NAMED_CHOICES.items()}
    return {key: spdx for key, spdx in (names | aliases).items() if key and spdx != UNKNOWN}


def _loose(text: str) -> str | None:
    return _names().get(_key(text)) if len(text) <= 150 else None


def _key(name: str) -> str:
    """Reduce a name to its sorted words.

    >>> _key("The Apache License, Version 2.0") == _key("apache v2")
    True
    """
    name = re.sub(r"(?:version|ver\.?|(?<![a-z])v\.?|(?<=[a-z])v)\s*(?=\d)", " ", name.lower())
    words = re.findall(r"[^\W\d_]+|\d+(?:\.\d+)*", name)
    kept = {re.sub(r"(?:\.0)+$", "", word) for word in words} - _STOP_WORDS
    return " ".join(sorted(kept))
