"""Read Debian's machine-readable copyright files, DEP-5: the license of each file of a package.

Source: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
"""

import re
from functools import lru_cache
from typing import NamedTuple

_IS_DEP5 = re.compile(r"^Files:[^\n]*\S.*^License:", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_FIELD = re.compile(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)


class Stanza(NamedTuple):
    """Globs of files, and their license."""

    globs: tuple[str, ...]
    license: str


def is_dep5(text: str) -> bool:
    """Check whether a text is a copyright file with stanzas of files."""
    return "Files:" in text and _IS_DEP5.search(text) is not None


def licenses_of(text: str, path: str | None) -> tuple[list[str], str | None]:
    r"""Return the license of one file and the glob that matched it; the last matching stanza counts.

    Without a path, or if no glob matches it, return the licenses of all stanzas and None.

    >>> licenses_of("Files: *\nLicense: GPL-2+\n\nFiles: lib/*.c doc\nLicense: Expat\n", "lib/a/b.c")
    (['Expat'], 'lib/*.c')
    """
    stanzas = _stanzas(text)
    for stanza in reversed(stanzas) if path else ():
        for glob in stanza.globs:
            if _compiled(glob).fullmatch((path or "").removeprefix("./")):
                return [stanza.license], glob
    return list(dict.fromkeys(stanza.license for stanza in stanzas)), None


@lru_cache(maxsize=64)
def _stanzas(text: str) -> tuple[Stanza, ...]:
    stanzas = []
    for paragraph in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        fields = {name.lower(): value for name, value in _FIELD.findall(paragraph)}
        if "files" in fields and "license" in fields:
            name, _, body = fields["license"].partition("\n")
            stanzas.append(Stanza(tuple(fields["files"].split()), name.strip() or body))
    return tuple(stanzas)


@lru_cache(maxsize=4096)
def _compiled(glob: str) -> re.Pattern[str]:
    """Compile a glob: `*` and `?` match slashes too; a backslash escapes them and itself."""
    pieces = re.findall(r"\\.|.", glob, re.DOTALL)
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(piece) or re.escape(piece[-1]) for piece in pieces), re.DOTALL)
