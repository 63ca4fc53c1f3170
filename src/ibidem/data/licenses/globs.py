"""Compile the globs in which license annotations name files.

A star before another one that matches as much takes as little as it can and gives nothing back, as in
`fnmatch.translate`; of the others there may be few. So no glob of a hostile repository takes long.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise

STAR_AND_MARK = (("*", ".*?"), ("?", "."))
"""Of DEP-5: both match slashes too."""
STARS = (("**/", ".*?"), ("**", ".*?"), ("*", "[^/]*?"))
"""Of REUSE.toml: only two stars match slashes, and with a slash behind them nothing too: `a/**/b` names `a/b`."""
MOST_RETRIED = 2
"""Stars that match slashes before one that does not: each of them is tried at every place."""


@lru_cache(maxsize=4096)
def compiled(glob: str, wild: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    r"""Compile a glob; a backslash escapes what follows.

    Raises:
        ValueError: it has more stars than can be tried.

    Args:
        glob: such as `src/*.c`.
        wild: what matches more than itself, the longest first, and its lazy expression.

    >>> bool(compiled("a/**/c*", STARS).fullmatch("a/b/b/c.c")), bool(compiled("a/*", STARS).fullmatch("a/b/c"))
    (True, False)
    >>> bool(compiled(r"a\*?", STAR_AND_MARK).fullmatch("a*b"))
    True
    """
    names = "|".join(re.escape(name) for name, _ in wild)
    pieces = re.findall(rf"\\.|{names}|.", glob, re.DOTALL)
    return re.compile("".join(_expressions(pieces, dict(wild))), re.DOTALL)


def _expressions(pieces: list[str], wild: Mapping[str, str]) -> Iterator[str]:
    """Enclose stars, with the plain text up to the next one, in atomic groups where this changes nothing."""
    parts: list[list[str]] = [[]]
    for piece in pieces:
        if wild.get(piece, "").endswith("?"):
            parts.append([wild[piece]])
        else:
            parts[-1].append(wild.get(piece) or re.escape(piece[-1]))
    retried = 0
    for part, after in pairwise([*parts, []]):
        is_atomic = after and part and part[0] in (after[0], "[^/]*?")
        retried += bool(after) and not is_atomic and part[:1] == [".*?"]
        yield f"(?>{''.join(part)})" if is_atomic else "".join(part)
    if retried > MOST_RETRIED:
        raise ValueError("a glob of too many stars")
