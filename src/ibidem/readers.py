"""Readers: who may open what was made from private documents.

A checkpoint that was tuned on documents can repeat them, so it is a document too. Its manifest has the readers that all
of them have in common, and so has the manifest of whatever is trained from it:

    handbook/leave.md     read: everyone
    salaries/march.md     read: ada, hr        deny: eve
    the checkpoint        "config": {"readers": {"read": ["ada", "hr"], "deny": ["eve"]}, ...}

Names are those of principals, as the groups were when the documents were read; `everyone` stays a name, unless the
rules list all principals. The modes of files shut out groups of accounts, and all without one (see `accounts`).
Whoever opens an artifact is the principal of the command, or the user who runs the program.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import accounts, artifacts
from ibidem.artifacts import Artifact, Input
from ibidem.errors import AccessDenied, ArtifactError, StoreError
from ibidem.places import joined

EVERYONE = "everyone"
"""The group of all principals, known or not."""
KEY = "readers"
"""In the config of a manifest; null if what could be private was looked at, and is not."""
MODELS = frozenset({"initial", "encoder", "checkpoint"})
"""Roles of the inputs that may be tuned on documents."""


class Readers(NamedTuple):
    """Names of principals; those who are denied are no readers, whatever `read` says."""

    read: frozenset[str]
    deny: frozenset[str]

    def as_json(self) -> dict[str, list[str]]:
        """Return them as a manifest has them."""
        return {"read": sorted(self.read), "deny": sorted(self.deny)}


def common(found: Iterable[Readers]) -> Readers:
    """Return the readers that several documents have in common; everyone, if there are no documents.

    >>> common([Readers(frozenset(["everyone"]), frozenset(["eve"])), Readers(frozenset(["ada", "eve"]), frozenset())])
    Readers(read=frozenset({'ada'}), deny=frozenset({'eve'}))
    """
    read, deny = frozenset([EVERYONE]), frozenset[str]()
    for each in found:
        deny |= each.deny
        if EVERYONE not in each.read:
            read = each.read if EVERYONE in read else read & each.read
    return Readers(read - deny, deny)


def readers_of(config: Mapping[str, Any]) -> Readers | None:
    """Return the readers in the config of a manifest; None if the artifact was made from no private documents."""
    found = config.get(KEY)
    return None if found is None else Readers(frozenset(found["read"]), frozenset(found["deny"]))


def inherited(inputs: Iterable[Input], of: Path) -> Readers | None:
    """Return the readers that what is made from these inputs must have; None if none of them has any.

    An input without readers of its own has those of what it was made from, as far as that is still there; what a store
    does not hand out is not. A trained model that is gone must not have had any, by the manifest of what was made from
    it.

    Args:
        inputs: as the manifest of the artifact lists them.
        of: its folder.

    Raises:
        ArtifactError: a model is gone, or another one is there, and nothing says that it had no readers.
        StoreError: a store does not hand out such a model.
    """
    waiting = [(of, item, False) for item in inputs if item.is_artifact]
    found, seen = [], set[tuple[Path, bool]]()
    while waiting:
        place, item, is_public = waiting.pop()
        path = joined(place, item.name).resolve()
        artifact = _at(path, is_needed=item.role in MODELS and not is_public)
        is_it = artifact is not None and artifact.digest == item.digest
        if item.role in MODELS and not is_public and not is_it:
            raise ArtifactError(
                f"{path}: the {item.role} that {place} was made from is not there, so that its readers are unknown; "
                f"bring it back, or make {place.name} again"
            )
        if artifact is None or (path, is_public) in seen:
            continue
        seen.add((path, is_public))
        if (readers := readers_of(artifact.config)) is not None:
            found.append(readers)
        else:
            is_public |= is_it and _says_of_its_readers(artifact)
            waiting += [(path, each, is_public) for each in artifact.inputs if each.is_artifact]
    return common(found) if found else None


def _at(path: Path, *, is_needed: bool = True) -> Artifact | None:
    try:
        return artifacts.load(path)
    except ArtifactError:
        return None
    except StoreError:
        if is_needed:
            raise
        return None


def _says_of_its_readers(artifact: Artifact) -> bool:
    """Return whether a manifest would name readers, if there were any: that of a trained model always would."""
    return KEY in artifact.config or {"model", "train"} <= artifact.config.keys()


def recorded(inputs: Sequence[Input], of: Path) -> dict[str, Any]:
    """Return what a manifest's config says of the readers of what is made from these inputs.

    Args:
        inputs: as the manifest of the artifact lists them.
        of: its folder.

    Raises:
        ArtifactError, StoreError: as `inherited`.
    """
    if (found := inherited(inputs, of)) is not None:
        return {KEY: found.as_json()}
    return {KEY: None} if any(item.is_artifact and item.role in MODELS for item in inputs) else {}


def check_outside_private(paths: Iterable[Path]) -> None:
    """Refuse files of an artifact that has readers: read as mere files, they would have none.

    Raises:
        AccessDenied: one is such a file.
    """
    around = {path.parent: path for path in paths}
    inside = {folder: path for path in around.values() for folder in path.resolve().parents}
    for folder, path in inside.items():
        artifact = _at(folder) if artifacts.has_manifest(folder) else None
        if artifact is not None and readers_of(artifact.config) is not None:
            raise AccessDenied(
                f"{path}: it is part of {artifacts.with_article(artifact.kind)} made from private documents; what is "
                "made from such a file would have no readers"
            )


def is_reader(principal: str, readers: Readers) -> bool:
    """Return whether a principal is among the readers; one whose name differs from a known one in case is not.

    >>> hr = Readers(frozenset(["ada", "hr"]), frozenset(["eve"]))
    >>> [is_reader(name, hr) for name in ("ada", "Ada", "eve", "bob")]
    [True, False, False, False]
    """
    name = unicodedata.normalize("NFC", principal)
    spelled = {known.casefold(): known for known in readers.read | readers.deny}
    if name in {"", EVERYONE} or spelled.get(name.casefold(), name) != name:
        return False
    if not readers.deny.isdisjoint({name, EVERYONE}):
        return False
    shut_out = [each for each in readers.deny if accounts.is_outside_group(each)]
    if shut_out:
        known = accounts.person(name)
        if known is None or any(accounts.is_outside(known, each) for each in shut_out):
            return False
    return not readers.read.isdisjoint({name, EVERYONE})


def check_reader(artifact: Artifact, principal: str | None = None) -> None:
    """Refuse whoever is not among the readers of an artifact.

    Args:
        artifact: what is opened.
        principal: who opens it; None: the user who runs the program.

    Raises:
        AccessDenied: they are not among its readers.
    """
    readers = readers_of(artifact.config)
    if readers is None or is_reader(accounts.this_user() if principal is None else principal, readers):
        return
    who = f"{accounts.this_user()}, who runs this program," if principal is None else principal or "nobody"
    raise AccessDenied(
        f"{artifact.path}: this {artifact.kind} was made from private documents, and {who} is not among their readers"
    )
