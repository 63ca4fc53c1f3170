"""Where a published benchmark comes from, and whether a copy is the published one: `ibidem data get NAME`.

Nothing is downloaded: the answer names the official home, and a copy is compared with the published digest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from ibidem.config import POSITIONAL, configuration, read_yaml, shipped
from ibidem.data.filters.benchmarks import HUMAN_EVAL, benchmark_files
from ibidem.errors import ConfigError, NothingFound
from ibidem.evaluation.evidence import benchmark_digest
from ibidem.evaluation.published import PUBLISHED, Published, fingerprints
from ibidem.evaluation.subjects import find_subjects, rows
from ibidem.figures import size
from ibidem.jsonl import Row
from ibidem.sandbox.problems import read_rows

FINGERPRINT = slice(7, 15)  # of a digest `sha256:...`


@configuration
class GetConfig:
    """Say where a published benchmark comes from, or check a copy of it; nothing is downloaded."""

    name: Annotated[Literal["human-eval", "mbpp", "mmlu"], POSITIONAL]
    """The benchmark."""
    path: Path | None = None
    """Check this copy: the file of the problems, or its folder."""


def get(config: GetConfig) -> str:
    """Return where the benchmark comes from and belongs; with a path, which version is there.

    Raises:
        NothingFound: the copy is not the published benchmark; the message says what differs.
        ConfigError: there is nothing to read at the path.
        DataError: it cannot be read.
    """
    versions = {digest: each for digest, each in PUBLISHED.items() if each.benchmark == config.name}
    if config.path is not None:
        return identify(config.name, config.path, versions)
    lines = ["Nothing is downloaded. The published versions are:"]
    for each in versions.values():
        amount = f", {size(each.size_bytes)}" if each.size_bytes else ""
        lines += [f"  {each.title}", f"    {each.home}: {each.file}{amount}; license {each.license}"]
    return "\n".join([*lines, *_places(config.name, versions)])


def identify(name: str, path: Path, versions: Mapping[str, Published]) -> str:
    """Return which published version a copy is.

    Args:
        name: the benchmark.
        path: the copy.
        versions: the published versions, by digest.

    Raises:
        NothingFound: it is none of them.
    """
    found = read(name, path, versions)
    digest = benchmark_digest(found)
    if digest in versions:
        return f"{path}: yes, this is {versions[digest].title}, as published ({digest})"
    raise NothingFound(f"{path}: no, this is not a published version of {name} ({digest}); {_difference(found, name)}")


def read(name: str, path: Path, versions: Mapping[str, Published]) -> Sequence[Row]:
    """Read a copy of a benchmark, as `ibidem evaluate NAME` does.

    Raises:
        ConfigError: there is nothing to read.
    """
    if not path.exists():
        raise ConfigError(f"path {path}: there is no such file or folder")
    if name == "mmlu":
        return rows(find_subjects(path, ()))
    if path.is_dir():
        names = dict.fromkeys(Path(each.file).name for each in versions.values())
        there = [path / each for each in names if (path / each).is_file()]
        if len(there) != 1:
            said = "several of" if there else "none of"
            raise ConfigError(f"path {path}: the folder has {said} {', '.join(names)}; give the file itself")
        path = there[0]
    return read_rows(str(path))


def fingerprints_of(problems: Sequence[Row]) -> dict[str, str]:
    """Return a short digest of each problem, by its id.

    >>> fingerprints_of([{"task_id": 11, "text": "Add."}])
    {'11': 'c215101e'}
    """
    return {_id(row): benchmark_digest([row])[FINGERPRINT] for row in problems}


def _id(row: Mapping[str, Any]) -> str:
    if "subject" in row:
        return f"{row['subject']} {row['part']} {row['number']}"
    return str(row.get("task_id"))


def _difference(found: Sequence[Row], name: str) -> str:
    """Say how a copy differs from the published version that it shares most problems with."""
    mine = fingerprints_of(found)
    known = {digest: each for digest, each in fingerprints().items() if PUBLISHED[digest].benchmark == name}
    nearest = max(known, key=lambda digest: len(mine.items() & known[digest].items()))
    theirs = known[nearest]
    same = len(mine.items() & theirs.items())
    if not same:
        return f"none of its {len(found):,} rows is a row of {' or '.join(PUBLISHED[each].name for each in known)}"
    compared = f"{same:,} of its {len(found):,} rows are rows of {PUBLISHED[nearest].name}, which has {len(theirs):,}"
    if len(mine) < len(found):
        return f"{compared}; an id appears twice"
    wrong = next((key for key in [*theirs, *mine] if mine.get(key) != theirs.get(key)), None)
    if wrong is None:
        return f"{compared}, in another order"
    what = "missing here" if wrong not in mine else "not in it" if wrong not in theirs else "another one there"
    return f"{compared}; the first that differs: {wrong} is {what}"


def _places(name: str, versions: Mapping[str, Published]) -> list[str]:
    """Say where the program expects a benchmark, and how to check it."""
    policy = read_yaml(shipped("evaluation/gate.yaml"))
    expected, pinned = policy["benchmarks"][name], policy["pins"][name]["benchmark"]
    if name != HUMAN_EVAL:
        flag = "--data" if name == "mmlu" else "--problems"
        return [
            f"configs/evaluation/gate.yaml expects {versions[pinned].title}, at {expected}; "
            f"`ibidem evaluate {name} {flag}` reads any version from anywhere.",
            f"To check a copy: ibidem data get {name} --path {expected}",
        ]
    try:
        installed = benchmark_files(HUMAN_EVAL)[0]
    except ConfigError as error:
        return [f"HumanEval comes with the package human-eval: {error}"]
    return [f"HumanEval comes with the package human-eval. {identify(name, installed, versions)}"]
