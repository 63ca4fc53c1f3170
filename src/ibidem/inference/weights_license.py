"""The license of weights from outside, as their folder states it.

    --license Apache-2.0                   who imports them says so
    README.md      license: apache-2.0     the front matter of the Hugging Face hub
    config.json    "license": "mit"
    LICENSE        its text

Whatever is stated applies, all of it. One statement that is not understood makes the license unknown, and an unknown
license is recorded as unknown: never as the one that is usual.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ibidem.config import suggest
from ibidem.data.licenses.files import LicenseFiles
from ibidem.data.licenses.spdx import UNKNOWN as NOT_UNDERSTOOD
from ibidem.data.licenses.spdx import identifiers, normalize
from ibidem.errors import ConfigError
from ibidem.files import is_file

UNKNOWN = "unknown"
HUB_NAMES = {
    "llama2": "LicenseRef-scancode-llama-2-license-2023",
    "llama3.1": "LicenseRef-scancode-llama-3.1-license-2024",
    "llama3.2": "LicenseRef-scancode-llama-3.2-license-2024",
    "llama3.3": "LicenseRef-scancode-llama-3.3-license-2024",
    "bigcode-openrail-m": "LicenseRef-scancode-bigcode-open-rail-m-v1",
}
"""Names of the hub that are no names elsewhere."""
_SHOWN = 60
_LIMITS = re.compile(r"non[- ]?commercial|research|academic|personal|evaluation", re.IGNORECASE)
"""Words beside the name of a license that take away what it grants: `MIT (non-commercial)`."""
_FRONT = re.compile(r"[\ufeff\s]*---[^\S\n]*\n(.*?)\n---", re.DOTALL)


class WeightsLicense(NamedTuple):
    """The license of weights, and who says so."""

    expression: str
    """As SPDX has it, or `unknown`."""
    source: str
    """What was read, such as `README.md: apache-2.0`."""


class _Statement(NamedTuple):
    source: str
    expression: str | None


def license_of(folder: Path, given: str | None = None) -> WeightsLicense:
    """Return the license of the weights in a folder.

    Args:
        folder: of Hugging Face.
        given: the license that the user states, which counts instead of what the folder states.

    Raises:
        ConfigError: the given license is not a known one.
    """
    stated = list(_stated(folder))
    sources = [statement.source for statement in stated]
    if given is not None:
        return WeightsLicense(_known(given), "; ".join(["--license", *sources]))
    if not stated:
        return WeightsLicense(UNKNOWN, "neither README.md nor config.json nor a license file states it")
    known = [statement.expression for statement in stated if statement.expression is not None]
    expression = normalize(known) if len(known) == len(stated) else None
    return WeightsLicense(expression or UNKNOWN, "; ".join(sources))


def _known(given: str) -> str:
    expression = HUB_NAMES.get(given.strip().lower()) or normalize(given)
    if expression is None or NOT_UNDERSTOOD in expression:
        meant = suggest(given, identifiers())
        raise ConfigError(f"license {given!r}: no SPDX expression of known licenses, such as Apache-2.0{meant}")
    return expression


def _stated(folder: Path) -> Iterator[_Statement]:
    for name, tree in (("README.md", _front_matter(folder / "README.md")), ("config.json", _json(folder))):
        listed = tree.get("license")
        for word in listed if isinstance(listed, list) else [listed]:
            if word is not None:
                yield _named(name, word, tree)
    if files := LicenseFiles(folder).of(folder / "config.json"):
        names = files.evidence.removeprefix("license-file: ")
        yield _Statement(names, None if NOT_UNDERSTOOD in files.expression else files.expression)


def _named(file: str, word: object, tree: dict[str, Any]) -> _Statement:
    """Return a license that is stated by a name; `other` has its name in another key."""
    is_other = isinstance(word, str) and word.strip().lower() == "other"
    name = (tree.get("license_name") or word) if is_other else word
    if not isinstance(name, str):
        return _Statement(f"{file}: a license that is no name", None)
    shown = " ".join(name.split())[:_SHOWN]
    understood = None if _LIMITS.search(name) else normalize(name)
    return _Statement(f"{file}: {shown}", HUB_NAMES.get(name.strip().lower()) or understood)


def _front_matter(path: Path) -> dict[str, Any]:
    """Return the YAML between the first two lines of dashes; empty if there is none.

    The hub reads it behind blank lines too, and with blanks behind the dashes.
    """
    if not is_file(path):
        return {}
    found = _FRONT.match(path.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        return {}
    try:
        tree = yaml.load(found[1], Loader=yaml.BaseLoader)  # noqa: S506 - text only
    except (yaml.YAMLError, RecursionError):
        return {"license": "front matter that is no YAML"}
    return tree if isinstance(tree, dict) else {}


def _json(folder: Path) -> dict[str, Any]:
    try:
        tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}
