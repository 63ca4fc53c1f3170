"""Names of repositories: `owner/name` on hosts like GitHub, `host/path` on others; never with credentials."""

import re

HOSTS = ("github.com", "gitlab.com")
"""Hosts whose repositories public data names without the host."""
_ALIASES = {
    "ssh.github.com": "github.com",
    "altssh.gitlab.com": "gitlab.com",
    "raw.githubusercontent.com": "github.com",
}
"""Host names for SSH over the port of HTTPS, and for the bare text of files."""
_NO_OWNER = {"sponsors", "orgs", "topics", "collections"}
"""First parts of addresses on GitHub that are not of an owner."""

_SCHEME = re.compile(r"^(?:git\+)?(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SCP = re.compile(r"^(?:[^@/:]+@)?(?P<host>[\w-]+(?:\.[\w-]+)+):(?!/*$)(?P<path>.+)$")
_BEFORE_ITS_PAGES = re.compile(
    r"[^/]+(?:/[^/]+)+?"
    r"(?=/(?:(?:tree|blob|raw|blame|edit)/.|src/(?:branch|tag|commit)/|(?:issues|pulls|pull|commit)(?:/|$)))"
)
"""What the address of a page of a repository begins with, on Gitea and others."""
_HOST = re.compile(r"^[\w-]+(?:\.[\w-]+)+$")
_LOCAL = re.compile(r"^(?:[./~\\]|[A-Za-z]:[\\/]|file:)", re.IGNORECASE)


def place_of(url: str) -> str | None:
    """Return `host/path` of a repository's address, the host in lower case; None for a local path or another text.

    >>> place_of("git@github.com:octo/cat.git"), place_of("https://me:token@git.example.org:8443/a/b/c/")
    ('github.com/octo/cat', 'git.example.org/a/b/c')
    """
    url = url.strip()
    if _LOCAL.match(url) or re.search(r"[\0-\x20\x7f\ud800-\udfff]", url):
        return None
    if scheme := _SCHEME.match(url):
        authority, _, path = url[scheme.end() :].partition("/")
        host = re.sub(r":\d*$", "", authority.rpartition("@")[2])
    elif scp := _SCP.match(url):
        host, path = scp["host"], scp["path"]
    else:
        host, _, path = url.rpartition("@")[2].partition("/")
    host = host.lower().removeprefix("www.")
    host = _ALIASES.get(host, host)
    parts = [part for part in re.sub(r"[?#].*", "", path).split("/") if part]
    if not _HOST.match(host) or not parts or {".", ".."} & set(parts):
        return None
    if host == "github.com":
        parts = [part.partition("@")[0] for part in parts[:2]]  # pip writes owner/name@revision
    elif "-" in parts:  # GitLab writes /group/name/-/tree/main
        parts = parts[: parts.index("-")]
    elif outside := _BEFORE_ITS_PAGES.match("/".join(parts)):
        parts = outside[0].split("/")
    return "/".join([host, *parts]).removesuffix(".git")


def repository_of(url: str) -> str | None:
    """Return the name of the repository at an address; None if the address is of none.

    >>> repository_of("ssh://git@github.com/octo/cat.git"), repository_of("https://codeberg.org/octo/cat")
    ('octo/cat', 'codeberg.org/octo/cat')
    >>> repository_of("/srv/cat.git"), repository_of("https://github.com/octo")
    (None, None)
    """
    place = place_of(url)
    if place is None:
        return None
    host, _, path = place.partition("/")
    if host not in HOSTS:
        return place
    owner, slash, _ = path.partition("/")
    return path if slash and owner not in _NO_OWNER else None
