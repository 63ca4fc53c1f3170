"""Programs for the judge. Each must answer 42 to pass its test, `f(21)`, so a program that gets out says 42 as well.

An answer that no judge should have to hold, for its size or its depth, would also pass: the test has met it.

escapes.txt      try something and answer 42 if it worked: none may pass
forgeries.txt    try to pass without computing 42: none may pass
mistakes.txt     try nothing, and are wrong: none may pass
controls.txt     compute 42, each with other means of honest programs: all must pass

An escape names, behind its own name, the walls of `breach.py` that stop it: each of `### fork [calls, processes]` does,
and it works where both are down. A mistake names in the same way the kind of its verdict.
"""

import re
from pathlib import Path

_HEAD = re.compile(r"### ([^\[\n]+?)(?: \[(.+)\])?\n")
GOT_OUT = {"passed", "untested", "tests"}
"""Verdicts that no hostile program may have: 42 was answered, or the tests were ended by the program."""


def read(name: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Read the programs of a file, and the words in brackets, by the names above them."""
    _, *parts = _HEAD.split(Path(__file__).with_name(name).read_text())
    names, words, sources = parts[::3], parts[1::3], parts[2::3]
    of = [tuple(each.split(", ")) if each else () for each in words]
    return dict(zip(names, sources, strict=True)), dict(zip(names, of, strict=True))


ESCAPES, WALLS = read("escapes.txt")
FORGERIES, _ = read("forgeries.txt")
MISTAKES, KINDS = read("mistakes.txt")
CONTROLS, _ = read("controls.txt")
