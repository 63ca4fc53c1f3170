"""`ibidem init DIR`: copies of the configurations that ship with the program, to edit."""

import shutil
from pathlib import Path
from typing import Annotated

from ibidem.config import POSITIONAL, WRITTEN, configuration, shipped
from ibidem.errors import ConfigError


@configuration
class InitConfig:
    """Choose where to begin."""

    path: Annotated[Path, POSITIONAL, WRITTEN]
    """The folder to create, such as `configs`; an existing one is left alone."""


def init(config: InitConfig) -> str:
    """Copy the configurations; return what there is and what to do first.

    Raises:
        ConfigError: something is at `path` already.
    """
    if config.path.exists():
        raise ConfigError(f"{config.path} exists; choose another folder")
    shutil.copytree(shipped(""), config.path, ignore=shutil.ignore_patterns("__pycache__"))
    names = sorted(path.relative_to(config.path).as_posix() for path in config.path.rglob("*") if path.is_file())
    first = f"ibidem plan --config {config.path}/training/base.yaml"
    return "\n".join([*(f"{config.path}/{name}" for name in names), "", f"first: {first}"])
