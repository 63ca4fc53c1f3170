"""Open the source that a spec names: files here or at a store, installed packages, or the Hugging Face hub."""

from pathlib import Path

from ibidem.data.engine import Engine
from ibidem.data.sources.conversations import Trees
from ibidem.data.sources.hub import HubDataset
from ibidem.data.sources.installed import InstalledPackages
from ibidem.data.sources.local import LocalFiles
from ibidem.data.sources.readers import DATA_SUFFIXES
from ibidem.data.sources.spec import Source, Spec
from ibidem.data.sources.stored import StoredFiles
from ibidem.errors import ConfigError
from ibidem.places import is_url

INSTALLED = "installed-packages"


def open_source(
    spec: Spec,
    *,
    package_cap_bytes: int,
    trees: Trees = "best_path",
    engine: Engine | None = None,
    most: int | None = None,
) -> Source:
    """Open the source of a spec; data files are looked through on the engine, which fetches what is on the hub, too.

    Args:
        spec: which.
        package_cap_bytes: maximum to read from each of the installed packages.
        trees: what becomes of a tree of replies.
        engine: runs the tasks; None: they run here.
        most: number of documents to fetch from the hub; None for all.

    Raises:
        ConfigError: there is no such file or folder, and it cannot be the name of a hub dataset.
    """
    if spec.name == INSTALLED:
        return InstalledPackages(spec, cap_bytes=package_cap_bytes)
    if is_url(spec.name):
        return StoredFiles(spec, trees, engine)
    if Path(spec.name).exists():
        return LocalFiles(spec, trees, engine)
    if spec.name.startswith((".", "/", "~")) or spec.name.endswith(DATA_SUFFIXES) or spec.name.count("/") > 1:
        raise ConfigError(f"dataset {spec.name!r}: no such file or folder")
    return HubDataset(spec, trees, engine, most)
