r"""The spellings in which people name a file: as a path of another system, percent-encoded, or by its address.

src\caf%C3%A9\a.py, "src/café/a.py", ./src//café/a.py                   src/café/a.py
https://github.com/octo/cat/blob/main/src/a.py#L3                       src/a.py in octo/cat
https://codeberg.org/octo/cat/src/branch/main/src                       src in codeberg.org/octo/cat
app/[id]/page.tsx                                                       this name, or the glob that it is
"""

import posixpath
import re
import unicodedata
from fnmatch import translate
from urllib.parse import unquote

from ibidem.data.text.repository import HOSTS, repository_of

_QUOTES = "\"'`<>"
_SCHEME = re.compile(r"^(?:git\+)?[a-z]+://", re.IGNORECASE)
_REF = r"(?:(?:branch|tag|commit|refs/heads|refs/tags)/)?[^/?#]+(?:/(?P<path>.*))?$"
_KINDS = "(?:blob|tree|raw|blame|edit)"
_KNOWN_HOST = re.compile(rf"^(?P<repo>[^/]+(?:/[^/]+)+?)/(?:-/)?{_KINDS}/{_REF}", re.DOTALL)
_OTHER_HOST = re.compile(
    rf"^(?P<repo>[^/]+(?:/[^/]+)+?)/(?:-/{_KINDS}/|(?:src|raw)/(?=(?:branch|tag|commit)/)){_REF}", re.DOTALL
)
"""Of GitLab and Gitea. On any other one, `tree` may be a folder as good as another."""
_RAW = re.compile(
    r"^(?:https?://)?raw\.githubusercontent\.com/(?P<repo>[^/]+/[^/]+)/(?:refs/(?:heads|tags)/)?[^/]+/(?P<path>.*)$",
    re.DOTALL | re.IGNORECASE,
)
_BEHIND_A_PATH = re.compile(r"[?#].*", re.DOTALL)


def unquoted(value: str) -> str:
    """Return a value without the quotes or brackets around it, its accents composed."""
    return unicodedata.normalize("NFC", value.strip().strip(_QUOTES).strip())


def paths_of(value: str) -> list[str]:
    r"""Return the paths that a value may mean: as it is, and percent-decoded.

    >>> paths_of("'src\\caf%C3%A9//a.py' "), paths_of("./a/../b/")
    (['src/caf%C3%A9/a.py', 'src/café/a.py'], ['b'])
    """
    return list(dict.fromkeys(map(_plain, (unquoted(value), unquoted(unquote(value))))))


def _plain(path: str) -> str:
    plain = posixpath.normpath(path.replace("\\", "/").lstrip("/")) if path else ""
    return "" if plain == "." else plain


def file_at(address: str) -> tuple[str, list[str]] | None:
    """Return the repository of an address in it, in lower case, and the paths there that it may mean.

    Nothing of a path names the whole repository. None: it is the address of no file or folder of a repository.

    >>> file_at("https://github.com/Octo/cat/blob/main/src/a%20b.py#L3")
    ('octo/cat', ['src/a%20b.py#L3', 'src/a b.py#L3', 'src/a%20b.py', 'src/a b.py'])
    >>> file_at("https://github.com/octo/cat/tree/main"), file_at("src/a.py")
    (('octo/cat', ['']), None)
    """
    address = unquoted(address)
    place = _SCHEME.sub("", address)
    is_known = place.lower().removeprefix("www.").startswith(tuple(f"{host}/" for host in HOSTS))
    if not (is_known or _SCHEME.match(address)):
        return None
    raw = _RAW.match(address)
    found = raw or (_KNOWN_HOST if is_known else _OTHER_HOST).match(place)
    repo = repository_of(f"github.com/{raw['repo']}" if raw else found["repo"]) if found else None
    if found is None or repo is None:
        return None
    path = found["path"] or ""
    return repo.lower(), list(dict.fromkeys([*paths_of(path), *paths_of(_BEHIND_A_PATH.sub("", path))]))


def glob_of(path: str) -> str:
    """Return the expression of a path or glob, which matches everything below what it names too.

    >>> [bool(re.match(glob_of("app/[id]"), path)) for path in ("app/[id]/a.py", "app/i", "app/x")]
    [True, True, False]
    """
    expressions = [translate(path), translate(f"{path}/*")]
    return "|".join([*expressions, literal(path)] if "[" in path else expressions)


def literal(path: str) -> str:
    """Return the expression of a path that is no glob, and of everything below it."""
    return rf"(?s:{re.escape(path)}(?:/.*)?)\Z"
