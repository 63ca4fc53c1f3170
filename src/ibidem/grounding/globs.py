"""Patterns of paths: `*` and `?` stay within a folder, `**` stands for any number of folders.

    handbook/**     all below `handbook`, at any depth       *.md        Markdown files of the topmost folder
    **/draft-*.md   drafts in any folder                     team/*/pay  `pay` in each folder of `team`

They match names that begin with a dot too. No path takes long: each part between wildcards is searched once, from the
left, and never again (atomic groups).
"""

import re


def compile_glob(glob: str) -> re.Pattern[str]:
    """Return the regular expression that whole paths match; `**` must be a component of its own.

    >>> [bool(compile_glob("a/**/*.md").fullmatch(path)) for path in ("a/b.md", "a/b/c/d.md", "b.md")]
    [True, True, False]
    """
    first, *others = re.sub(r"(?:\*\*/)+", "**/", glob).split("**/")
    if not others:
        return re.compile(_last(first), re.DOTALL)
    *middle, last = others
    searched = "".join(f"(?>(?:[^/]+/)*?{_components(part)})" for part in middle)
    return re.compile(f"{_components(first)}{searched}(?:[^/]+/)*{_last(last)}", re.DOTALL)


def literal_prefix(glob: str) -> str:
    """Return the text with which each path begins that matches.

    >>> literal_prefix("team/a*/**")
    'team/a'
    """
    return re.split(r"[*?]", glob, maxsplit=1)[0]


def _last(glob: str) -> str:
    if glob == "**" or glob.endswith("/**"):
        return f"{_components(glob.removesuffix('**'))}.+"
    return _components(glob)


def _components(glob: str) -> str:
    return "/".join(map(_component, glob.split("/")))


def _component(glob: str) -> str:
    first, *others = glob.split("*")
    if not others:
        return _literal(first)
    *middle, last = others
    searched = "".join(f"(?>[^/]*?{_literal(part)})" for part in middle if part)
    return f"{_literal(first)}{searched}[^/]*{_literal(last)}"


def _literal(glob: str) -> str:
    return re.escape(glob).replace(r"\?", "[^/]")
