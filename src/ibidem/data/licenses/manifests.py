"""Read the license that the manifest of a package states for the folder around it.

| manifest | where |
|---|---|
| package.json | `license`: an expression, an object with `type`, or `SEE LICENSE IN <file>`; `licenses` |
| composer.json | `license`: an expression, or a list of choices |
| META.json | `license`: a list of Perl's names, such as `perl_5` |
| Cargo.toml | `license` or `license-file` of the package or of its workspace |
| pyproject.toml | `project.license`: an expression (PEP 639), or `text` or `file`; classifiers; Poetry's `license` |
| *.gemspec | `license` or `licenses`: all apply |
| PKG-INFO, METADATA | expression, classifiers or field |

Source: docs.npmjs.com, getcomposer.org, doc.rust-lang.org/cargo, packaging.python.org, guides.rubygems.org,
CPAN::Meta::Spec.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from email import message_from_string
from typing import Any, NamedTuple

from ibidem.data.licenses.dep5 import unfolded
from ibidem.data.licenses.spdx import package_license, pattern

MAX_BYTES = 1 << 20
_SEE = pattern(r"\s*see licen[sc]e in (?P<file>\S.*?)\s*")
_GEMSPEC = re.compile(r"^\s*\w+\.licen[sc]es?\s*=\s*(?P<value>.*)$", re.MULTILINE)
_QUOTED = re.compile(r"[\"']([^\"'\n]+)[\"']")


class Claim(NamedTuple):
    """What a manifest states: a raw license, or the file that has it."""

    raw: object = None
    file: str | None = None


def claim_of(name: str, text: str) -> Claim | None:
    """Return what a file states if it is a manifest that states a license; None otherwise, also if it is damaged.

    >>> claim_of("package.json", '{"license": "SEE LICENSE IN legal/TERMS.txt"}')
    Claim(raw=None, file='legal/TERMS.txt')
    """
    reader = _READERS.get("*.gemspec" if name.endswith(".gemspec") else name)
    if reader is None:
        return None
    try:
        claim = reader(text)
    except (ValueError, RecursionError):
        return None
    return claim if claim.raw or claim.file else None


def is_manifest(name: str) -> bool:
    """Check whether a file may state the license of its package."""
    return name in _READERS or name.endswith(".gemspec")


def _package_json(text: str) -> Claim:
    about = _table(json.loads(text))
    raw = about.get("license") or about.get("licenses")
    see = _SEE.fullmatch(raw) if isinstance(raw, str) else None
    return Claim(file=see["file"]) if see else Claim(raw)


def _composer_json(text: str) -> Claim:
    raw = _table(json.loads(text)).get("license")
    return Claim(" OR ".join(f"({one})" for one in raw) if isinstance(raw, list) else raw)


def _meta_json(text: str) -> Claim:
    raw = _table(json.loads(text)).get("license")
    listed = raw if isinstance(raw, list) else [raw]
    return Claim([one for one in listed if one and one != "unknown"])


def _cargo_toml(text: str) -> Claim:
    about = tomllib.loads(text)
    tables = [_table(about.get("package")), _table(_table(about.get("workspace")).get("package"))]
    named = next((raw for table in tables if isinstance(raw := table.get("license"), str)), None)
    files = (file for table in tables if isinstance(file := table.get("license-file"), str))
    return Claim(named, None if named else next(files, None))


def _pyproject_toml(text: str) -> Claim:
    about = tomllib.loads(text)
    project, poetry = _table(about.get("project")), _table(_table(about.get("tool")).get("poetry"))
    stated = project.get("license") or poetry.get("license")
    if isinstance(stated, Mapping):
        file = stated.get("file")
        return Claim(stated.get("text"), file if isinstance(file, str) else None)
    classifiers = project.get("classifiers")
    listed = [one for one in classifiers if str(one).startswith("License ::")] if isinstance(classifiers, list) else []
    return Claim(stated or listed)


def _gemspec(text: str) -> Claim:
    values = [match["value"] for match in _GEMSPEC.finditer(text)]
    return Claim([name for value in values for name in _QUOTED.findall(value.split("#")[0])])


def _pkg_info(text: str) -> Claim:
    raw = package_license(message_from_string(text))
    return Claim(unfolded(raw) if raw else None)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


_READERS: dict[str, Callable[[str], Claim]] = {
    "package.json": _package_json,
    "composer.json": _composer_json,
    "META.json": _meta_json,
    "Cargo.toml": _cargo_toml,
    "pyproject.toml": _pyproject_toml,
    "*.gemspec": _gemspec,
    "PKG-INFO": _pkg_info,
    "METADATA": _pkg_info,
}
