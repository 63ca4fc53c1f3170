"""Determine the license of files from the LICENSE or COPYING files of their folder.

The nearest folder with license files counts; all of them apply, with those in its folder LICENSES
(https://reuse.software). A file that cannot be read, or that has a plain name (`COPYING.txt`) and an unrecognized text,
makes the license unknown. Other files count if their text is recognized (`LICENSE-MIT`), or if they stand alone with a
name in capitals (`COPYING.gz`): `license.svg` does not count, nor does `LICENSE-THIRD-PARTY` beside LICENSE.

In a folder with annotations (see `reuse`), a file has the license that they state for it. Those that cannot be read
make the license of each file below unknown, unless license files, annotations or a note nearer to it say otherwise. Of
annotations in several folders, one that overrides counts alone, the one closest to the root; otherwise the closest one
to the file, or the note beside it (`a.c.license`), counts with those that aggregate. A license that a file states
itself outranks them, as it outranks license files, unless they override or aggregate; a note beside the file stands for
the file's own head: what it states outranks license files and manifests too.

What a page includes belongs to it. A page below the root that only says where the license is, as documentation does,
counts for nothing. A manifest (`package.json`) states a license beside them, which applies too.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ibidem.data.licenses import includes, manifests, reuse, sentences
from ibidem.data.licenses.headers import header_license
from ibidem.data.licenses.precedence import AGGREGATE, CLOSEST, OVERRIDE
from ibidem.data.licenses.spdx import GNU_NAME, MAX_TEXT_CHARS, UNKNOWN, licenses_in, normalize, pattern
from ibidem.data.text import language
from ibidem.files import is_file, printable
from ibidem.records import Precedence

NAMES = re.compile(r"(?P<before>[\w.+]+[-_])?(?P<stem>(?:un)?licen[sc]es?|copying)(?P<more>[-_.\d ].*)?", re.IGNORECASE)
REUSE = "LICENSES"
_PLAIN = ("", ".txt", ".md", ".rst")
_PAGES = (".html", ".htm")
MAX_INCLUDES = 8
"""Pages that include one another, at most."""
MAX_SILENT_WORDS = 60
# Words of terms, and names of licenses: a page with any of these says more than where the license is.
_SAYS = pattern(
    r"\b(?:may|must|shall|can|permi\w+|grant\w*|hereby|prohibit\w*|forbid\w*|restrict\w*|proprietary|confidential|"
    r"reserved|warrant\w*|agree\w*|not|only|without|free\w*|allow\w*|right\w*|commercial|eula|public|domain|gnu|"
    r"[al]?gpl\w*|fdl|apache|asl|mit|x11|\w*bsd\w*|isc|mozilla|mpl\w*|cc0?|cc-by\S*|creative|artistic|perl|ruby|psf|"
    r"python|eclipse|epl\w*|eupl\w*|cddl\w*|cecill\S*|zlib|unlicense|boost|bsl|wtfpl|ofl|sil|osl|php|zend|w3c)\b"
)
_LINK = re.compile(r"\]\([^)\s]*\)|<[^>\s]*>|https?://\S+|[-=~^#*_`]{3,}|^[ \t]+:[\w-]+:.*$", re.MULTILINE)


@dataclass(frozen=True)
class Stated:
    """What the license files of one folder state."""

    expression: str
    evidence: str
    files: tuple[Path, ...]
    precedence: Precedence = CLOSEST
    """How they relate to what the file's own head states."""

    @property
    def fields(self) -> dict[str, str]:
        """Return these facts as fields of a document."""
        facts = {"license_raw": self.expression, "license_evidence": self.evidence}
        return facts if self.precedence == CLOSEST else facts | {"license_precedence": self.precedence}


class _File(NamedTuple):
    path: Path
    license: str | None
    is_open: bool
    """Whether it makes the license unknown, whatever the other files state."""
    included: tuple[Path, ...] = ()


class _Note(NamedTuple):
    """What annotations state for one file."""

    file: _File
    precedence: Precedence


class _Around(NamedTuple):
    """What stands around the files of a folder."""

    home: Path
    """Folder of the nearest license files; the root if there are none."""
    joined: Stated | None
    claims: tuple[Stated, ...] = ()
    """What manifests claim, from there down to the folder."""


class LicenseFiles:
    """The license files below a folder; each folder is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_folder: dict[Path, _Around] = {}
        self._annotations: dict[Path, reuse.Annotations | None] = {}
        self._texts: dict[Path, Stated] = {}

    def of(self, path: Path) -> Stated | None:
        """Return what the nearest license files state for a file below the root, None if there are none."""
        around = self._below(path.parent)
        if path in self._texts:
            return self._texts[path]  # a choice of a manifest opens no text of a license
        return self._annotated(path, around) or around.joined

    def _below(self, folder: Path) -> "_Around":
        if folder not in self._by_folder:
            stated = self._stated(list(_files(folder, self._root)))
            if stated is not None:
                self._texts |= dict.fromkeys((path for path in stated.files if path.parent == folder), stated)
            is_top = stated is not None or folder == self._root
            above = _Around(folder, stated) if is_top else self._below(folder.parent)
            claims = self._stated(list(_claims(folder, self._root)))
            joined = _joined(above.joined, claims, beside=stated is not None)
            self._by_folder[folder] = _Around(above.home, joined, (*above.claims, *([claims] if claims else [])))
        return self._by_folder[folder]

    def _annotated(self, path: Path, around: _Around) -> Stated | None:
        """Return what annotations and the note beside a file state for it; None if they do not name it.

        A note that states a license counts alone, as the file's own head does, or with annotations that aggregate.
        Beside annotations manifests apply too, unless an annotation overrides them; so does what the license files
        state, unless an annotation beside them names the file.
        """
        named = {folder: note for folder in _up_to(path.parent, self._root) if (note := self._note_on(path, folder))}
        if overriding := [note.file for note in named.values() if note.precedence == OVERRIDE]:
            return self._stated(overriding[-1:], OVERRIDE)
        own = list(_own_note(path))
        near = [note.file for folder, note in named.items() if folder.is_relative_to(around.home)]
        closest = [note.file for note in named.values() if note.precedence == CLOSEST and note.file in near]
        aggregated = [note.file for note in named.values() if note.precedence == AGGREGATE]
        notes = [*(own or closest[:1]), *aggregated]
        is_unknown = around.joined is not None and around.joined.expression == UNKNOWN
        if not notes or (is_unknown and not own and not any(file in near for file in notes)):
            return None  # what stands above license files that are not recognized does not explain them
        is_head = any(note.license is not None for note in own)
        if is_head and not aggregated:
            return self._stated(own, OVERRIDE)
        stated = self._stated(notes, OVERRIDE if is_head else AGGREGATE if aggregated else CLOSEST)
        for claims in around.claims if around.home in named else [around.joined]:
            stated = _joined(stated, claims, beside=False)
        return stated

    def _note_on(self, path: Path, folder: Path) -> "_Note | None":
        if folder not in self._annotations:
            self._annotations[folder] = reuse.annotations(folder)
        notes = self._annotations[folder]
        found = notes.of(path.relative_to(folder).as_posix()) if notes else None
        if notes is None or found is None:
            return None
        expression = normalize(found.licenses)
        return _Note(_File(notes.path, expression, is_open=expression is None), found.precedence)

    def _stated(self, files: list[_File], precedence: Precedence = CLOSEST) -> Stated | None:
        if not files:
            return None
        known = [file.license for file in files if file.license is not None]
        expression = None if any(file.is_open for file in files) else normalize(known)
        paths = dict.fromkeys(path for file in files for path in (file.path, *file.included))
        names = ", ".join(printable(path.relative_to(self._root).as_posix()) for path in paths)
        readable = tuple(path for path in paths if is_file(path))
        return Stated(expression or UNKNOWN, f"license-file: {names}", readable, precedence)


def _up_to(folder: Path, root: Path) -> list[Path]:
    """List a folder and those above it, up to the root."""
    return [each for each in (folder, *folder.parents) if each.is_relative_to(root)]


def _own_note(path: Path) -> Iterator[_File]:
    """Yield what a file `a.png.license` states for `a.png`."""
    note = path.with_name(f"{path.name}.license")
    if reuse.is_present(note):
        found = header_license(_text(note) or "")
        yield _File(note, found[0] if found else None, is_open=found is None)


def _joined(stated: Stated | None, claims: Stated | None, *, beside: bool) -> Stated | None:
    """Join what license files state with what the manifests of a folder claim: a claim lifts nothing.

    Beside license files of the same licenses, the claim says how they combine: "MIT OR Apache-2.0". One that is not
    recognized says nothing where there are license files.
    """
    if stated is None or claims is None:
        return stated or claims
    if UNKNOWN in {claims.expression, stated.expression}:
        return stated
    same = beside and _texts_in(stated.expression) == _texts_in(claims.expression)
    expression = claims.expression if same else normalize([stated.expression, claims.expression])
    evidence = f"{stated.evidence}, {claims.evidence.removeprefix('license-file: ')}"
    return Stated(expression or UNKNOWN, evidence, (*stated.files, *claims.files), stated.precedence)


def _texts_in(expression: str) -> set[str]:
    """List the licenses of an expression by their texts, which are the same for `-only` and `-or-later`."""
    return {re.sub("-(?:only|or-later)$", "", name) for name in licenses_in(expression)}


def _claims(folder: Path, root: Path) -> Iterator[_File]:
    for path in sorted(folder.iterdir()):
        if manifests.is_manifest(path.name) and is_file(path) and (claim := manifests.claim_of(path.name, _head(path))):
            file = None if claim.file is None else includes.find(claim.file, folder, root)
            page = _read(file, root) if file else _Page(normalize(claim.raw))
            yield _File(path, page.license, page.license is None, (file, *page.included) if file else ())


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(manifests.MAX_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def _files(folder: Path, root: Path) -> Iterator[_File]:
    for path in sorted(folder.iterdir()):
        if path.name == REUSE and _is_folder(path):
            yield from _reuse_files(path)
        elif named := NAMES.fullmatch(path.name):
            is_program = language.category(language.by_name(path.name)) == "code" and path.suffix.lower() not in _PAGES
            if not is_program and not _is_folder(path):
                page = _read(path, root)
                more = (named["more"] or "").lower()
                is_plain = not named["before"] and more in _PLAIN
                if page.is_silent and is_plain and more and folder != root:
                    continue
                if page.license is not None or is_plain or named["stem"].isupper():
                    is_open = page.license is None and (is_plain or not page.is_readable)
                    yield _File(path, page.license, is_open, page.included)


class _Page(NamedTuple):
    license: str | None
    is_readable: bool = True
    is_silent: bool = False
    """Whether it states no terms and names no license: a heading, or a reference to the license file."""
    names_gnu: bool = False
    included: tuple[Path, ...] = ()


def _read(path: Path, root: Path, around: tuple[Path, ...] = ()) -> _Page:
    """Read a license file with all that it includes.

    An include that cannot be followed leaves the license open, unless the words of the page itself state one: the
    license file of a whole repository includes a header that its package does not have.
    """
    text = _text(path)
    if text is None or len(around) > MAX_INCLUDES:
        return _Page(None, is_readable=False)
    around = (*around, path.resolve())
    found = [includes.find(target, path.parent, root) for target in includes.targets(text)]
    inner = dict.fromkeys(one for one in found if one is not None and one.resolve() not in around)
    own = _of_text(includes.without(text))
    pages = [own, *(_read(one, root, around) for one in inner)]
    known = [page.license for page in pages if page.license is not None]
    is_readable = own.license is not None or (None not in found and all(page.is_readable for page in pages))
    hides_gnu = any(page.names_gnu and page.license is None for page in pages)
    return _Page(
        normalize(known) if is_readable and not hides_gnu else None,
        is_readable,
        is_silent=is_readable and all(page.is_silent for page in pages),
        names_gnu=hides_gnu,
        included=tuple(dict.fromkeys((*inner, *(one for page in pages for one in page.included)))),
    )


def _of_text(text: str) -> _Page:
    license_id = normalize(text) or sentences.of_page(text)
    words = _LINK.sub(" ", text).split()
    is_silent = license_id is None and 0 < len(words) <= MAX_SILENT_WORDS and not _SAYS.search(" ".join(words))
    return _Page(license_id, is_silent=is_silent, names_gnu=GNU_NAME.search(text) is not None)


def _reuse_files(folder: Path) -> Iterator[_File]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        yield _File(folder, None, is_open=True)
        return
    for path in paths:
        if _is_folder(path):
            yield from _reuse_files(path)
        else:
            expression = normalize(_text(path)) or normalize(path.stem)
            yield _File(path, expression, expression is None)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link into a folder that we may not read
        return False


def _text(path: Path) -> str | None:
    """Read the head of a license file; None if it cannot be read as text."""
    if not is_file(path):
        return None
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_CHARS)
    except OSError:
        return None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_wide else "utf-8-sig", errors="replace")
    return None if "\0" in text else text
