"""Open the source that a spec names: local files, installed packages, or the Hugging Face hub."""

from pathlib import Path

from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.hub import HubDataset
from ibidem.data.sources.installed import InstalledPackages
from ibidem.data.sources.local import DATA_SUFFIXES, LocalFiles
from ibidem.data.sources.spec import Source, Spec
from ibidem.errors import ConfigError

INSTALLED = "installed-packages"


def open_source(spec: Spec, *, package_cap_bytes: int, trees: Trees = "best_path") -> Source:
    """Open the source of a spec.

    Raises:
        ConfigError: there is no such file or folder, and it cannot be the name of a hub dataset.
    """
    if spec.name == INSTALLED:
        return InstalledPackages(spec, cap_bytes=package_cap_bytes)
    if Path(spec.name).exists():
        return LocalFiles(spec, trees)
    if spec.name.startswith((".", "/", "~")) or spec.name.endswith(DATA_SUFFIXES) or spec.name.count("/") > 1:
        raise ConfigError(f"dataset {spec.name!r}: no such file or folder")
    return HubDataset(spec, trees)
