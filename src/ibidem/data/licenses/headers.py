"""Find the license stated at the head of a file: an SPDX tag, a GNU grant, a license line or a license text."""

import re
from functools import lru_cache

from ibidem.data.licenses import choices, sentences
from ibidem.data.licenses.spdx import GNU, GNU_NAME, GNU_TITLE, GRANT, gnu_id, normalize, pattern, render, texts_of

HEAD_CHARS, HEAD_LINES = 8192, 100
_HEADER_WORDS = (
    "licen",
    "gpl",
    "permi",
    "redistribution",
    "public domain",
    "same terms",
)  # every header contains one of these

_SPDX_TAG = pattern(r"[\s#*/;%!.@<{(|-]*(?:\\\" |dnl |rem |c )?\s*(SPDX-License-Identifier:\s*([\w.+() -]+))")
_LICENSE_LINE = pattern(
    r"[@:.\s]{0,4}(?:(?<=@)licen[sc]e\s|(?:licen[sc]e|copying)[\s*_`'\"]{0,4}(?:[:=]| is ))[\W_]{0,4}(\w.{1,150})$"
)
_RECEIVED = pattern(r"should have received a copy of (?:the )?(?:\w+ )?" + GNU)
_NOTICE_LINE = pattern(r"(?:the )?" + GNU + r"[ ,]+v.{0,30}(?:see |https?:)")
_DUAL = pattern(r"\bdual(?:ly)?[ -](?:licen[sc]ed? )?(?:under |with )?(?:the )?([\w./ -]{3,60}?) licen[sc]e")
_ALTERNATIVE = pattern(
    r"\balternatively\b|\bdual(?:ly)?[ -]|\beither of the following|\bat your (?:option|choice), (?!any)"
)
_EXCEPTION = pattern(r"\b(?:special|following|additional|linking|runtime library) (?:exception|permission)")
# Words that identify the exception of a grant, and its SPDX identifier; the first match counts.
_EXCEPTIONS = (
    (pattern(r"bison (?:parser|output)|parser skeleton"), "Bison-exception-2.2"),
    (pattern(r"\blibtool\b"), "Libtool-exception"),
    (pattern(r"\bautoconf\b|configur(?:e|ation) script"), "Autoconf-exception-generic"),
    (pattern(r"gcc runtime library exception"), "GCC-exception-3.1"),
    (pattern(r"classpath|independent modules"), "Classpath-exception-2.0"),
    (pattern(r"compile[ds]? .{0,40}with gcc|unlimited permission to link"), "GCC-exception-2.0"),
)
_MARKUP = re.compile(r"<[^<>]{1,200}>|[^\w\s,.<>]+")
_BLOCKS = {"/*": "*/", "<!--": "-->", '"""': '"""', "'''": "'''", "(*": "*)", "{-": "-}", "--[[": "]]", "{#": "#}"}
_OPENER = pattern(r"(?:__license__ = )?[rub]?(" + "|".join(map(re.escape, _BLOCKS)) + ")")
_COMMENT_OR_PREAMBLE = pattern(
    r"#|//|--|;|%|!|\*|@|\.\.|[.']\\\"|\"(?= )|(?:dnl|rem)\b|::|c(?= [^=])|<\?|<!doctype|"
    r"(?:package|module|import|from|use|using)\b|require|[\"']use strict|\\input|__\w+__\s*=|[\W_]*$"
)
_LEADER = pattern(
    r"^(?:[#*;%!|\"'/<{\s-]+|\(\*|@(?=\s)|\.\.|\.\\\"|dnl\b|@c\b|rem\b)+\s*|\s{0,9}(?:\*{1,80}/|-->|\*\)|[#*|]{1,80})$"
)
# Comment leaders of most lines consist of these signs; the rare ones need the pattern.
_SIGNS = "#*;%!|\"'/<{ \t-"
_RARE_LEADERS = ("(*", "@", "..", '.\\"', "dnl", "DNL", "Dnl", "rem", "REM", "Rem")
_CLOSERS = ("/", ">", ")", "#", "*", "|")


def header_license(text: str) -> tuple[str, str] | None:
    """Find the license stated at the head of a file, as (SPDX expression, the words that state it).

    A file that is the text of a GNU license has that license. Otherwise an SPDX tag wins, but cannot hide a grant of a
    GNU license that it does not name. If the words name a GNU license and the expression contains none, the result is
    None.

    >>> header_license("# SPDX-License-Identifier: GPL-2.0 OR MIT")
    ('GPL-2.0-only OR MIT', 'SPDX-License-Identifier: GPL-2.0 OR MIT')
    """
    head = text[:HEAD_CHARS].removeprefix("\ufeff")
    lowered = head.lower()
    if not any(word in lowered for word in _HEADER_WORDS):
        return None
    if "general public" in lowered[:1000] and (gnu_text := _gnu_text(head)):
        return gnu_text
    comment = _leading_comment(head)
    tagged = _spdx_tags(head.splitlines()[:HEAD_LINES]) if "spdx" in lowered else None
    words = " ".join(" ".join(comment).split())
    folded = words.lower()
    names_gnu = "gpl" in folded or "general public" in folded
    granted = _gnu_header(words, comment) if names_gnu and (not tagged or "GPL" not in tagged[0]) else None
    if tagged and granted:
        tagged = render(f"({tagged[0]}) AND ({granted[0]})") or granted[0], granted[1]
    stated = tagged or granted or _license_line(comment) or _same_terms(words) or _other_header(folded, comment)
    if stated is None or (names_gnu and "GPL" not in stated[0] and GNU_NAME.search(words)):
        return None
    return stated[0], stated[1].strip()[:200]


def license_sentence(text: str) -> tuple[str, str] | None:
    """Find the license that sentences at the head of a file state, as (SPDX expression, the words that state it).

    >>> license_sentence("/* CC0 (Public domain) - see ccan/licenses/CC0 file for details */")[0]
    'CC0-1.0'
    """
    head = text[:HEAD_CHARS].removeprefix("\ufeff")
    lowered = head.lower()
    if not any(hint in lowered for hint in sentences.HINTS):
        return None
    return sentences.of_header(_leading_comment(head))


def _gnu_text(head: str) -> tuple[str, str] | None:
    title = GNU_TITLE.match(" ".join(_MARKUP.sub(" ", head[:1000]).split()))
    return (gnu_id(title), title[0]) if title else None


@lru_cache(maxsize=1)  # a head is asked for a header, then for a sentence
def _leading_comment(head: str) -> list[str]:
    """Return the lines of the leading comments and docstring, without their comment signs."""
    comment: list[str] = []
    closer = ""
    for line in head.splitlines()[:HEAD_LINES]:
        bare = line.strip()
        if closer:
            closer = "" if closer in bare else closer
        elif opener := _OPENER.match(bare):
            closer = _BLOCKS[opener[1]]
            closer = "" if closer in bare[opener.end() :] else closer
        elif not _COMMENT_OR_PREAMBLE.match(bare):
            break
        comment.append(_without_signs(bare))
    return comment


def _without_signs(line: str) -> str:
    words = line.lstrip(_SIGNS)
    if words.startswith(_RARE_LEADERS) or line.endswith(_CLOSERS):
        return _LEADER.sub("", line)
    return words


def _spdx_tags(lines: list[str]) -> tuple[str, str] | None:
    tags = [tag for tag in map(_SPDX_TAG.match, lines) if tag]
    expression = normalize([tag[2].strip(" -") for tag in tags])
    return (expression, tags[0][1].rstrip(" -")) if expression else None


def _license_line(comment: list[str]) -> tuple[str, str] | None:
    for line in comment:
        match = _LICENSE_LINE.match(line)
        if match and (expression := normalize(match[1])):
            return expression, line
    return None


def _gnu_header(flat: str, comment: list[str]) -> tuple[str, str] | None:
    first = GRANT.search(flat) or _RECEIVED.search(flat) or next(filter(None, map(_NOTICE_LINE.match, comment)), None)
    if first is None:
        return None
    grant = gnu_id(first)
    if _EXCEPTION.search(flat) and (exception := next((e for about, e in _EXCEPTIONS if about.search(flat)), None)):
        grant = f"{grant} WITH {exception}"
    others = _other_choices(flat) if _ALTERNATIVE.search(flat) else []
    expression = " OR ".join([grant, *others]) if others else _with_sides(first, grant, flat)
    return render(expression) or grant, first[0]


def _with_sides(first: re.Match[str], grant: str, flat: str) -> str:
    more = ((match, gnu_id(match)) for match in GRANT.finditer(flat, first.end()))
    expressions = choices.with_sides([(first, grant), *more], normalize)
    return " AND ".join(f"({one})" for one in expressions) if " OR " in expressions[0] else grant


def _other_choices(flat: str) -> list[str]:
    dual = _DUAL.search(flat)
    named = dual and normalize(re.sub(r"\band\b", "or", dual[1]))
    return [f"({named})"] if named else texts_of(flat.lower())


def _other_header(folded: str, comment: list[str]) -> tuple[str, str] | None:
    known = texts_of(folded)
    return (" AND ".join(known), next(line for line in comment if line)) if known else None


def _same_terms(words: str) -> tuple[str, str] | None:
    same = choices.same_terms(words, normalize)
    if same is None:
        return None
    expression = " AND ".join([f"({same[0]})", *texts_of(words.lower())])
    return render(expression) or expression, same[1][0]
