"""Programs for the judge. The tests of each are `assert f(21) == 42`, so a program that gets out says 42 as well.

escapes.txt      try something and answer 42 if it worked: none may pass
forgeries.txt    try to pass without computing 42: none may pass
controls.txt     compute 42, each with other means of honest programs: all must pass
"""

from pathlib import Path


def read(name: str) -> dict[str, str]:
    """Read the programs of a file, by the names above them."""
    parts = Path(__file__).with_name(name).read_text().split("### ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


ESCAPES, FORGERIES, CONTROLS = read("escapes.txt"), read("forgeries.txt"), read("controls.txt")
