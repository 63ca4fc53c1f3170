"""Which language a file is written in, by its name."""

from pathlib import PurePosixPath

from ibidem.records import Category

PROSE = {
    ".md": "Markdown",
    ".markdown": "Markdown",
    ".rst": "reStructuredText",
    ".txt": "Text",
    ".adoc": "AsciiDoc",
    ".tex": "TeX",
}
CODE = {
    ".py": "Python",
    ".pyi": "Python",
    ".pyx": "Cython",
    ".pxd": "Cython",
    ".c": "C",
    ".h": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".cxx": "C++",
    ".hh": "C++",
    ".hpp": "C++",
    ".cu": "CUDA",
    ".cuh": "CUDA",
    ".m": "Objective-C",
    ".rs": "Rust",
    ".go": "Go",
    ".java": "Java",
    ".kt": "Kotlin",
    ".scala": "Scala",
    ".cs": "C#",
    ".fs": "F#",
    ".swift": "Swift",
    ".js": "JavaScript",
    ".mjs": "JavaScript",
    ".cjs": "JavaScript",
    ".jsx": "JavaScript",
    ".ts": "TypeScript",
    ".tsx": "TypeScript",
    ".vue": "Vue",
    ".html": "HTML",
    ".css": "CSS",
    ".scss": "SCSS",
    ".sh": "Shell",
    ".bash": "Shell",
    ".zsh": "Shell",
    ".ps1": "PowerShell",
    ".bat": "Batchfile",
    ".rb": "Ruby",
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
    ".lisp": "Common Lisp",
    ".el": "Emacs Lisp",
    ".scm": "Scheme",
    ".f90": "Fortran",
    ".f": "Fortran",
    ".asm": "Assembly",
    ".s": "Assembly",
    ".sql": "SQL",
    ".proto": "Protocol Buffer",
    ".cmake": "CMake",
    ".mk": "Makefile",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".toml": "TOML",
    ".ini": "INI",
    ".cfg": "INI",
    ".json": "JSON",
    ".xml": "XML",
    ".tcl": "Tcl",
    ".vim": "Vim Script",
    ".zig": "Zig",
    ".dart": "Dart",
}
NAMES = {"Makefile": "Makefile", "Dockerfile": "Dockerfile", "CMakeLists.txt": "CMake", "README": "Text"}


def by_name(path: str) -> str | None:
    """Name the language of a file.

    >>> by_name("src/Makefile"), by_name("a/b.py"), by_name("logo.png")
    ('Makefile', 'Python', None)
    """
    name = PurePosixPath(path)
    suffix = name.suffix.lower()
    return NAMES.get(name.name) or CODE.get(suffix) or PROSE.get(suffix)


def category(language: str | None) -> Category:
    """Tell code from text.

    >>> category("Python"), category("Markdown"), category(None)
    ('code', 'text', 'text')
    """
    return "text" if language is None or language in PROSE.values() else "code"
