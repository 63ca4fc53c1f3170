"""Read the license that a sentence names: "This file is released under the MIT License", "BSD 3-Clause, see LICENSE".

    Copyright 2013 someone. This file is part of it and released under the MIT License.
                            └ subject: this file ──────┘ └ verb ──────┘ └ name: the longest that is known

A sentence is weaker than a license text. It speaks of the file only if nothing in front of the verb makes it speak of
something else ("based on", "portions", "not"), and if nothing behind the name narrows it ("and", "with", "only"). Who
uses it decides what it may override.
"""

import re

from ibidem.data.licenses import choices
from ibidem.data.licenses.spdx import GNU_NAME, normalize, pattern

PUBLIC_DOMAIN = "LicenseRef-scancode-public-domain"
MAX_NAME_WORDS = 10
HINTS = ("licen", "public domain")

_STATES = pattern(
    r"\b(?:(?:licen[sc]ed|released|(?:re)?distributed|available|offered|published|provided)\b"
    r"(?:\s(?:freely|also|to you|as open source|and (?:distributed|released|licen[sc]ed)))?,?\sunder"
    r"|(?:covered|governed)\sby|subject\sto)\s"
    r"(?:the\s)?(?:terms\s(?:and\sconditions\s)?of\s)?(?:the\s|an?\s)?(?:version\s(?P<version>\d[\d.]*)\sof\sthe\s)?"
)
_SENTENCE_START = re.compile(r"[.!?;|]\s+|\n\s*\n|\n(?=[\W_]*[A-Z@:(])")
_SENTENCE_END = re.compile(r"[.;](?=\s|$)|\n\s*\n|\s--|https?:", re.IGNORECASE)
# In front of the verb: what makes a sentence speak of another thing, or deny what it names.
_OF_OTHERS = pattern(
    r"\b(?:not|n't|never|no|neither|nor|none|portions?|parts|(?<!is\s)part|some|most|based|derived|from|originally|"
    r"previously|formerly|was|were|adapted|ported|copied|taken|borrowed|includes?|including|contains?|uses?|using|"
    r"bundled|if|unless|would|could|can|may|might|must|should|example|e\.g|which|that|whose|where|who|when|while|until|"
    r"before|after|than|like|changed?|switched|moved)\b|n't\b"
)
_OF_THIS = pattern(
    r"\b(?:this|these)\b|\bthe\s(?:files?|code|sources?|software|module|program|library|package|project|script)\b|"
    r"\bcopyright\b|\(c\)|©|\ball\srights\sreserved\b"
)
_NAME_ENDS = pattern(r"[\s)\"'`]*(?:$|[.,;:()\[]|licen[sc]es?\b|\(?see\b|https?:|-)")
_PUBLIC_DOMAIN = pattern(
    r"\b(?:this|the)\s(?:\w+[\s-]){1,4}?(?:(?:is|has\sbeen|was)\s(?:hereby\s|here\s)?"
    r"(?:(?:placed|put|released|dedicated)\s)?(?:in|into|to)\sthe|is)\spublic\sdomain\b"
    r"|(?:^|[.!?;|]\s+|\n)[\W_]*(?:placed|put|released|dedicated)\s(?:in|into|to)\sthe\spublic\sdomain\b"
)
_SEE = pattern(
    r"(?:.*\b(?:copyright|\(c\)|©)[^.]*\.\s)?(?P<name>[^.:]{2,60}?|[^:]{2,60}?\d\.\d[^.:]{0,30}?)[\s,;(-]+"
    r"see\s(?=.*(?:licen|copying|file|https?:)).*"
)
_LINK = re.compile(r"\[([^\]\n]*)\]\s?(?:\([^)\n]*\)|\[[^\]\n]*\])|`([^`<\n]*?)\s*<[^>\n]*>`_*")
_EMPHASIS = re.compile(r"[*`_\"“”]+(?=\w)|(?<=\w)[*`\"“”]+|(?<=[\w.])`?_+(?=[\s,.)]|$)")


def of_header(lines: list[str]) -> tuple[str, str] | None:
    """Return the license that the sentences of a leading comment state of their file, and the words.

    >>> of_header(["Copyright someone 2013. BSD 3-Clause license, see LICENSE file."])[0]
    'BSD-3-Clause'
    >>> of_header(["Based on a program that is released under the MIT License."]) is None
    True
    """
    text = _plain("\n".join(lines))
    if GNU_NAME.search(text):
        return None
    found = [named for match in _STATES.finditer(text) if _is_of_this(text, match) and (named := _name(match))]
    for line in text.split("\n"):
        if match := _SEE.fullmatch(line.strip()):
            found += [(name, line.strip()) for name in [normalize(match["name"].strip(" -,;("))] if name]
    found += [(PUBLIC_DOMAIN, match[0].strip(" .!?;|\n")) for match in _PUBLIC_DOMAIN.finditer(text)]
    if not found:
        return None
    expression = normalize([name for name, _ in found])
    return (expression, " ".join(found[0][1].split())) if expression else None


def of_page(text: str) -> str | None:
    """Return the license that all sentences of a license page state together; None if one of them is not understood.

    >>> of_page("*attrs* is licensed under the [MIT](https://choosealicense.com/licenses/mit/) license.")
    'MIT'
    """
    text = _plain(text)
    if GNU_NAME.search(text):
        return None
    matches = list(_STATES.finditer(text))
    names = [None if _OF_OTHERS.search(_before(text, match)) else _name(match) for match in matches]
    known = [name[0] for name in names if name is not None]
    return normalize(known) if known and len(known) == len(names) else None


def _plain(text: str) -> str:
    """Remove links and emphasis from Markdown and reStructuredText."""
    return _EMPHASIS.sub("", _LINK.sub(lambda link: link[1] or link[2] or "", text))


def _before(text: str, match: re.Match[str]) -> str:
    """Return the words of the sentence in front of its verb."""
    upto = text[max(0, match.start() - 400) : match.start() + 1]  # with the first letter: it may begin a sentence
    return _SENTENCE_START.split(upto)[-1][:-1]


def _is_of_this(text: str, match: re.Match[str]) -> bool:
    before = _before(text, match)
    if _OF_OTHERS.search(before):
        return False
    return not re.search(r"\w", before) or _OF_THIS.search(before) is not None


def _name(match: re.Match[str]) -> tuple[str, str] | None:
    """Return the license named behind the verb, and the words from the verb to the name."""
    behind = match.string[match.end() : match.end() + 200]
    sentence = _SENTENCE_END.split(behind)[0]
    ends = [word.end() for word in re.finditer(r"\S+", sentence)][:MAX_NAME_WORDS]
    version = f" {match['version']}" if match["version"] else ""
    for end in reversed(ends):
        name = " ".join(behind[:end].split()).strip(" ,:()'")
        if (known := normalize(name + version)) is not None:
            rest = behind[end:]
            is_whole = behind[end - 1] in ",.):" or "licen" in name.lower() or _NAME_ENDS.match(rest)
            return (known, match[0] + behind[:end]) if is_whole and not choices.NARROWS.match(rest) else None
    return None
