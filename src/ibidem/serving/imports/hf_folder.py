"""A model folder of Hugging Face: which of its files are read, and what they are called together.

Everything that is read lies in the folder: a link may lead to another file of it, or of a snapshot in the cache of the
hub to that cache's blobs, and nowhere else.

    models--org--name/snapshots/2f1c.../config.json  ->  ../../blobs/9ab3...
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ibidem import artifacts
from ibidem.data.licenses.files import LicenseFiles
from ibidem.errors import ArtifactError, ConfigError, DataError
from ibidem.files import is_file, on_each, sha256_of
from ibidem.modeling.checkpoint import KIND as CHECKPOINT
from ibidem.readers import check_outside_private

SNAPSHOTS, BLOBS, CACHED = "snapshots", "blobs", "models--"
"""Names of the cache of the hub."""
README = "README.md"


def check_folder(folder: Path) -> None:
    """Refuse what is no folder of Hugging Face, a link that leads out of it, and an adapter.

    Raises:
        AccessDenied: it is the export of a checkpoint that was tuned on private documents.
        ConfigError: it is no such folder.
        DataError: a link leads out of it, or its weights are those of an adapter.
    """
    if not folder.is_dir():
        raise ConfigError(f"from {folder}: no such folder")
    if _kind_of(folder) == CHECKPOINT:
        raise ConfigError(f"from {folder}: it is a checkpoint of ibidem; use it as it is")
    check_outside_private([folder / README])
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _check_link(folder, Path(place, name))
    if is_file(folder / "adapter_config.json"):
        raise DataError(f"from {folder}: an adapter; merge it into its base model first (merge_and_unload of PEFT)")


def file_in(folder: Path, name: str, why: str) -> Path:
    """Return the path of a file of a folder.

    Raises:
        DataError: there is no such file; the message says why it is needed.
    """
    if not is_file(folder / name):
        raise DataError(f"from {folder}: {name} is missing; {why}")
    return folder / name


def name_of(folder: Path) -> str:
    """Return the name of a model: of its folder, or of a snapshot in the cache of the hub that of its repository.

    >>> name_of(Path("hub/models--org--small/snapshots/2f1c")), name_of(Path("models/small"))
    ('org/small', 'small')
    """
    whole = folder.absolute()
    if whole.parent.name == SNAPSHOTS and whole.parent.parent.name.startswith(CACHED):
        return whole.parent.parent.name.removeprefix(CACHED).replace("--", "/")
    return folder.resolve().name


def hashed(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the files that an import reads, and of those that say what the license is."""
    stated = LicenseFiles(folder).of(folder / README)
    beside = [path.relative_to(folder).as_posix() for path in (stated.files if stated else ())]
    found = sorted({*names, *beside, *([README] if is_file(folder / README) else [])})
    return dict(zip(found, on_each(sha256_of, [folder / name for name in found]), strict=True))


def digest_of(files: Mapping[str, str]) -> str:
    """Return the digest of files: of their names and contents."""
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
    return f"sha256:{hashlib.sha256(lines.encode(errors='surrogateescape')).hexdigest()}"


def _kind_of(folder: Path) -> str | None:
    try:
        return artifacts.load(folder).kind
    except ArtifactError:
        return None


def _check_link(folder: Path, path: Path) -> None:
    if not path.is_symlink():
        return
    whole = folder.resolve()
    allowed = [whole]
    if whole.parent.name == SNAPSHOTS:
        allowed.append(whole.parent.parent / BLOBS)
    if not any(path.resolve().is_relative_to(place) for place in allowed):
        raise DataError(f"{path}: a link that leads out of the folder; copy what it leads to into the folder")
