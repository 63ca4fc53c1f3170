"""Read Debian's machine-readable copyright files, DEP-5: the license of each file of a package.

Some Python packages have such a file as the field `License` of their METADATA, where all lines but the first are
indented, of old setuptools with a `|`:

    License: Files: *              Files: *
            License: BSD-3   ->    License: BSD-3
            <blank>                <blank>
            File: a.py             File: a.py

Source: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
"""

import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ibidem.data.licenses.globs import STAR_AND_MARK, compiled

_IS_DEP5 = re.compile(r"^(?:License: )?Files?:[^\n]*\S.*^License:", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_BAR = re.compile(r"[ \t]*\|")
_FIELD = re.compile(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)


class Stanza(NamedTuple):
    """Globs of files, and their license."""

    globs: tuple[str, ...]
    license: str


def unfolded(text: str) -> str:
    r"""Remove the indentation that the field of a METADATA file gives to all lines but the first.

    >>> unfolded("Files: *\n        License: MIT\n"), unfolded("MIT\n        |Permission is")
    ('Files: *\nLicense: MIT\n', 'MIT\nPermission is')
    """
    first, newline, rest = text.partition("\n")
    lines = rest.split("\n")
    filled = [line for line in lines if line.strip()]
    if filled and all(map(_BAR.match, filled)):
        return first + newline + "\n".join(_BAR.sub("", line, count=1) for line in lines)
    return first + newline + textwrap.dedent(rest)


def is_dep5(text: str) -> bool:
    """Check whether a text is a copyright file with stanzas of files."""
    return "File" in text and _IS_DEP5.search(text) is not None


def is_whole(text: str) -> bool:
    r"""Check whether a text is a copyright file in which every stanza of files has globs and a license.

    >>> is_whole("Files:\n src/*\nLicense: MIT\n"), is_whole("Files: *\nLicense: MIT\n\nFiles: a\nLicence: GPL\n")
    (True, False)
    """
    num_listed = sum(not {"files", "file"}.isdisjoint(fields) for fields in _paragraphs(text))
    return num_listed > 0 and num_listed == sum(bool(stanza.globs) for stanza in _stanzas(text))


def licenses_of(text: str, path: str | None) -> tuple[list[str], str | None]:
    r"""Return the license of one file and the glob that matched it; the last matching stanza counts.

    Without a path, or if no glob matches it, return the licenses of all stanzas and None.

    >>> licenses_of("Files: *\nLicense: GPL-2+\n\nFiles: lib/*.c doc\nLicense: Expat\n", "lib/a/b.c")
    (['Expat'], 'lib/*.c')
    """
    stanzas = _stanzas(text)
    for stanza in reversed(stanzas) if path else ():
        for glob in stanza.globs:
            if compiled(glob, STAR_AND_MARK).fullmatch((path or "").removeprefix("./")):
                return [stanza.license], glob
    return list(dict.fromkeys(stanza.license for stanza in stanzas)), None


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    for paragraph in re.split(r"\n[ \t]*\n", text.removeprefix("License: ").replace("\r\n", "\n")):
        yield {name.lower(): value for name, value in _FIELD.findall(paragraph)}


@lru_cache(maxsize=64)
def _stanzas(text: str) -> tuple[Stanza, ...]:
    stanzas = []
    for fields in _paragraphs(text):
        globs = fields.get("files") or fields.get("file")  # scikit-image writes both
        if globs and "license" in fields:
            name, _, body = fields["license"].partition("\n")
            stanzas.append(Stanza(tuple(globs.split()), name.strip() or body))
    return tuple(stanzas)
