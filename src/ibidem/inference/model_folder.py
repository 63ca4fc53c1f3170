"""The digest of a Hugging Face model folder, which covers every byte that loading the folder reads.

`transformers` opens files by their names below the folder. The digest covers all of them: a link to a file is hashed by
the content that it leads to, as in the snapshots of the Hugging Face cache, and a linked subfolder like any other. What
would be read from elsewhere is refused:

    *.index.json                  a shard whose name leaves the folder
    tokenizer_config.json         `fast_tokenizer_files` elsewhere; a `vocab_file` that exists elsewhere
    config.json and the others    a value that is the path of an existing file or model elsewhere; code of the hub
    adapter_config.json           an adapter: its weights count only if PEFT is installed
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ibidem.errors import ConfigError
from ibidem.files import digest_of_folder, files_below

SETTINGS = ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json")
UNREAD = frozenset(["_name_or_path", "name_or_path", "auto_map", "chat_template", "special_tokens_map_file"])
"""Keys whose values are never opened: transformers sets the paths itself, and code of the folder is not trusted."""
IMPLEMENTATION = frozenset(["_attn_implementation", "attn_implementation", "experts_implementation"])


def digest_of_model_folder(folder: Path) -> str:
    """Hash the names and contents of all files of a model folder.

    Raises:
        ConfigError: loading the folder would read something outside it, or a subfolder cannot be read.
    """
    names = files_below(folder)
    if (adapter := "adapter_config.json") in names:
        raise ConfigError(
            f"{folder / adapter}: an adapter, whose weights count only where PEFT is installed; merge it into its base "
            "model (merge_and_unload), or remove the adapter's files"
        )
    for name in names:
        if name.endswith(".index.json"):
            _check_listed(folder / name, folder, _shards(folder / name), names)
    for name in SETTINGS:
        if name in names:
            _check_settings(folder, folder / name, names)
    return digest_of_folder(folder)


def _check_settings(folder: Path, path: Path, names: Sequence[str]) -> None:
    tree = _json(path)
    if path.name == "tokenizer_config.json" and isinstance(tree, dict):
        listed = tree.get("fast_tokenizer_files") or []
        _check_listed(path, folder, listed if isinstance(listed, list) else [listed], names)
    for key, value in _texts(tree, ""):
        if key in IMPLEMENTATION and "/" in value:
            raise ConfigError(f"{path}: {key} {value!r} is code outside the folder; remove the key")
        if key not in UNREAD and _exists_elsewhere(folder, key, value):
            raise ConfigError(
                f"{path}: {key} {value!r} is outside the folder, so the digest cannot cover it; copy it into the folder"
            )


def _check_listed(path: Path, folder: Path, listed: Iterable[Any], names: Sequence[str]) -> None:
    known = frozenset(names)
    for name in listed:
        # A name with ".." is refused even if it returns to the folder: after a link it leads elsewhere.
        leaves = not isinstance(name, str) or name.startswith("/") or ".." in name.split("/")
        if leaves or (PurePosixPath(name).as_posix() not in known and (folder / name).exists()):
            raise ConfigError(
                f"{path}: names {name!r}, which is not a file of the folder, so the digest cannot cover it; "
                "copy it into the folder and name it there"
            )


def _shards(path: Path) -> list[Any]:
    tree = _json(path)
    shards = tree.get("weight_map") if isinstance(tree, dict) else None
    return list(shards.values()) if isinstance(shards, dict) else []


def _exists_elsewhere(folder: Path, key: str, value: str) -> bool:
    """Return whether a value is the path of a file or model outside the folder: absolute, or relative to anything."""
    if "/" not in value and not key.endswith(("file", "files", "path")):
        return False
    try:
        return any(
            (".." in value.split("/") or not path.absolute().is_relative_to(folder.absolute()))
            and (path.is_file() or (path / "config.json").is_file())
            for path in (Path(value), folder / value)
        )
    except (OSError, ValueError):  # too long, or a null byte
        return False


def _texts(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the texts of a JSON tree, each with the key that it is below."""
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from _texts(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value, key)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {' '.join(str(error).split())}") from None
