"""Follow the includes of a page that states a license, within the corpus and never outside of it.

    docs/license.rst: .. literalinclude:: ../LICENSE.txt         reStructuredText
    docs/license.md:  ```{include} ../LICENSE                     MyST
                      --8<-- "LICENSE"   {!LICENSE!}   {% include-markdown "../LICENSE" %}      MkDocs
    docs/license.adoc: include::../LICENSE[]                      AsciiDoc

A target is looked for in the folder of the page, then in the folders above it up to the root of the corpus: MkDocs
counts from the folder of its configuration.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ibidem.data.licenses.spdx import pattern
from ibidem.files import is_file

_DIRECTIVES = (
    pattern(r"^[ \t]*\.\. (?:literal)?include::[ \t]*(?P<target>\S[^\n]*?)[ \t]*$(?:\n[ \t]+:[\w-]+:[^\n]*)*"),
    pattern(r"^[ \t]*(?:`{3,}|:{3,}|~{3,})\{(?:literal)?include\}[ \t]*(?P<target>\S[^\n]*?)[ \t]*$"),
    pattern(r"^[ \t]*-+8<-+[ \t]+(?P<quote>[\"'])(?P<target>[^\"'\n]+)(?P=quote)[ \t]*$"),
    pattern(r"^[ \t]*-+8<-+[ \t]*\n(?P<target>[^\n]+)\n[ \t]*-+8<-+[ \t]*$"),
    pattern(r"\{!\s*(?P<target>[^!{}\n]+?)\s*!\}"),
    pattern(r"\{%-?\s*include(?:-markdown|_relative)?\s+(?P<target>[^%\s]+)[^%\n]*%\}"),
    pattern(r"^include::(?P<target>[^\[\n]+)\[[^\]\n]*\]"),
)
_DIRECTIVE = tuple(re.compile(one.pattern, one.flags | re.MULTILINE) for one in _DIRECTIVES)
_LINES = re.compile(r"(?::-?\d*){1,2}$")


def targets(text: str) -> list[str]:
    r"""List what a page includes.

    >>> targets('License\n=======\n\n.. include:: ../LICENSE\n'), targets('--8<-- "LICENSE:1:9"')
    (['../LICENSE'], ['LICENSE'])
    """
    return [_LINES.sub("", match["target"].strip().strip("\"'")) for one in _DIRECTIVE for match in one.finditer(text)]


def without(text: str) -> str:
    """Return the page's own words: the text without its includes."""
    for one in _DIRECTIVE:
        text = one.sub("", text)
    return text


def find(target: str, folder: Path, root: Path) -> Path | None:
    """Return the file that a page in a folder includes; None if there is none inside the root, through links or not."""
    inside = root.resolve()
    found = (_resolved(path) for path in _candidates(target, folder, root))
    return next((root / path.relative_to(inside) for path in found if path and path.is_relative_to(inside)), None)


def _candidates(target: str, folder: Path, root: Path) -> Iterator[Path]:
    if "\0" in target or "://" in target:
        return
    relative = target.lstrip("/")
    for above in (folder, *folder.parents):
        yield above / relative
        if above == root:
            return


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve(strict=True) if is_file(path) else None
    except OSError:  # a circle of links
        return None
