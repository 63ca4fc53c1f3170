"""`--dry-run`: show what a command would read and write, with which settings, without doing it."""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ibidem import artifacts
from ibidem.commands import Command
from ibidem.config import WRITTEN, flattened, resolved
from ibidem.errors import ArtifactError, ConfigError
from ibidem.figures import size

OUTPUTS = ("output", "cache", "certificate")
"""How the keys of paths that are written begin; others are marked."""
NAMES = ("model", "training.resume_from")
"""Keys of paths that may be names instead: `--model tiny`, `--training.resume-from latest`."""
SEARCHED = ("artifacts",)
"""Keys of folders that are searched if they exist."""
PRIVATE = ("ground-index",)
"""Kinds whose size and digest depend on documents that who asks may not know of."""


def dry_run(config: Any, command: Command) -> str:
    """Return what the command would do.

    Raises:
        ConfigError: a path that would be read does not exist.
    """
    writes, reads = [], []
    for key, path, is_written in paths(config):
        if is_written:
            writes.append(f"writes  {path}  {_at_output(path)}")
        else:
            reads.append(f"reads   {path}  {_at_input(key, path)}")
    places = {str(path) for _, path, _ in paths(config)}
    settings = {key: value for key, value in flattened(resolved(config)).items() if not _is_place(value, places)}
    shown = [f"  {key}: {_shown(value)}" for key, value in settings.items()]
    return "\n".join([*reads, *_preview(config, command), *writes, "settings", *shown, "nothing was written"])


def paths(config: Any, prefix: str = "") -> Iterator[tuple[str, Path, bool]]:
    """Yield every path of a configuration as (key, path, whether the command writes there)."""
    for field in dataclasses.fields(config):
        marked = WRITTEN in config.__pydantic_fields__[field.name].metadata
        for key, path in _paths_of(getattr(config, field.name), f"{prefix}{field.name}"):
            yield key, path, marked or key.rpartition(".")[2].startswith(OUTPUTS)


def _paths_of(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield key, value
    elif dataclasses.is_dataclass(value):
        yield from ((name, path) for name, path, _ in paths(value, f"{key}."))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _paths_of(item, key)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _paths_of(item, f"{key}.{name}")


def _at_input(key: str, path: Path) -> str:
    if not path.exists():
        if key in NAMES and path.name == str(path) and not path.suffix:
            return "a name"
        if key in SEARCHED:
            return "not there"
        raise ConfigError(f"{key} {path}: no such file or folder")
    if path.is_file():
        return f"file, {size(path.stat().st_size)}"
    try:
        found = artifacts.load(path)
    except ArtifactError:
        return "folder"
    if found.kind in PRIVATE:
        return found.kind
    return f"{found.kind}, {size(sum(file.bytes for file in found.files.values()))}, {found.digest[:19]}"


def _at_output(path: Path) -> str:
    artifacts.check_outside(path)
    if not path.exists():
        return "new"
    try:
        found = artifacts.load(path)
    except ArtifactError:
        return "exists"
    return f"{found.kind}, {found.digest[:19]}; kept if inputs and settings are the same, otherwise replaced"


def _is_place(value: Any, places: set[str]) -> bool:
    return value is None or (isinstance(value, str) and value in places) or (isinstance(value, list) and not value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _preview(config: Any, command: Command) -> list[str]:
    module, _, name = command.preview.partition(":")
    return list(getattr(importlib.import_module(module), name)(config)) if module else []
