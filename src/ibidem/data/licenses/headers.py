"""Which license the head of a file states: an SPDX tag, a grant of a GNU license, a line, the text of a license."""

import re

from ibidem.data.licenses.spdx import GNU, GNU_NAME, GRANT, gnu_id, normalize, pattern, render, texts_of

HEAD_CHARS, HEAD_LINES = 8192, 100
_TELLING = "licen", "gpl", "permi", "redistribution", "public domain"  # no header is without one of these

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
# What a grant with an exception is about, and the exception's SPDX identifier; the first that is named counts.
_EXCEPTIONS = (
    (pattern(r"bison (?:parser|output)|parser skeleton"), "Bison-exception-2.2"),
    (pattern(r"\blibtool\b"), "Libtool-exception"),
    (pattern(r"\bautoconf\b|configur(?:e|ation) script"), "Autoconf-exception-generic"),
    (pattern(r"gcc runtime library exception"), "GCC-exception-3.1"),
    (pattern(r"classpath|independent modules"), "Classpath-exception-2.0"),
    (pattern(r"compile[ds]? .{0,40}with gcc|unlimited permission to link"), "GCC-exception-2.0"),
)
_BLOCKS = {"/*": "*/", "<!--": "-->", '"""': '"""', "'''": "'''", "(*": "*)", "{-": "-}", "--[[": "]]", "{#": "#}"}
_OPENER = pattern(r"(?:__license__ = )?[rub]?(" + "|".join(map(re.escape, _BLOCKS)) + ")")
_COMMENT_OR_PREAMBLE = pattern(
    r"#|//|--|;|%|!|\*|@|\.\.|[.']\\\"|\"(?= )|(?:dnl|rem)\b|::|c(?= [^=])|<\?|<!doctype|"
    r"(?:package|module|import|from|use|using)\b|require|[\"']use strict|\\input|__\w+__\s*=|[\W_]*$"
)
_LEADER = pattern(
    r"^(?:[#*;%!|\"'/<{\s-]+|\(\*|@(?=\s)|\.\.|\.\\\"|dnl\b|@c\b|rem\b)+\s*|\s{0,9}(?:\*{1,80}/|-->|\*\)|[#*|]{1,80})$"
)
# What the leader of most lines is made of, and what needs the pattern.
_SIGNS = "#*;%!|\"'/<{ \t-"
_RARE_LEADERS = ("(*", "@", "..", '.\\"', "dnl", "DNL", "Dnl", "rem", "REM", "Rem")
_CLOSERS = ("/", ">", ")", "#", "*", "|")


def header_license(text: str) -> tuple[str, str] | None:
    """Find the license that the head of a file states: (SPDX expression, the words that state it).

    An SPDX tag wins, except that it cannot hide a grant of a GNU license that it does not name. Where the words speak
    of a GNU license that the expression does not hold, the file is taken to state nothing.

    >>> header_license("# SPDX-License-Identifier: GPL-2.0 OR MIT")
    ('GPL-2.0-only OR MIT', 'SPDX-License-Identifier: GPL-2.0 OR MIT')
    """
    head = text[:HEAD_CHARS].removeprefix("\ufeff")
    lowered = head.lower()
    if not any(word in lowered for word in _TELLING):
        return None
    lines = head.splitlines()[:HEAD_LINES]
    comment = _leading_comment(lines)
    tagged = _spdx_tags(lines) if "spdx" in lowered else None
    words = " ".join(" ".join(comment).split())
    folded = words.lower()
    names_gnu = "gpl" in folded or "general public" in folded
    granted = _gnu_header(words, comment) if names_gnu and (not tagged or "GPL" not in tagged[0]) else None
    if tagged and granted:
        tagged = render(f"({tagged[0]}) AND ({granted[0]})") or granted[0], granted[1]
    found = tagged or granted or _license_line(comment) or _other_header(folded, comment)
    if found is None or (names_gnu and "GPL" not in found[0] and GNU_NAME.search(words)):
        return None
    return found[0], found[1].strip()[:200]


def _leading_comment(lines: list[str]) -> list[str]:
    """List the lines of the leading comments and docstring, without their comment signs."""
    comment: list[str] = []
    closer = ""
    for line in lines:
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
        found = _LICENSE_LINE.match(line)
        if found and (expression := normalize(found[1])):
            return expression, line
    return None


def _gnu_header(flat: str, comment: list[str]) -> tuple[str, str] | None:
    found = GRANT.search(flat) or _RECEIVED.search(flat) or next(filter(None, map(_NOTICE_LINE.match, comment)), None)
    if found is None:
        return None
    choices = _other_choices(flat) if _ALTERNATIVE.search(flat) else []
    grant = gnu_id(found)
    if _EXCEPTION.search(flat) and (exception := next((e for about, e in _EXCEPTIONS if about.search(flat)), None)):
        grant = f"{grant} WITH {exception}"
    return render(" OR ".join([grant, *choices])) or grant, found[0]


def _other_choices(flat: str) -> list[str]:
    dual = _DUAL.search(flat)
    named = dual and normalize(re.sub(r"\band\b", "or", dual[1]))
    return [f"({named})"] if named else texts_of(flat.lower())


def _other_header(folded: str, comment: list[str]) -> tuple[str, str] | None:
    known = texts_of(folded)
    return (" AND ".join(known), next(line for line in comment if line)) if known else None
