"""What still contains documents after their removal: named on the screen with a remedy, and caches deleted if asked.

    other datasets       made again
    copies               ibidem takedown copy
    caches               tokens, attribution indexes: their command writes the changed shards, or they are deleted

Checkpoints contain no documents; what they learned stays, and the certificate says so.
"""

import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ibidem import artifacts
from ibidem.data import shards
from ibidem.data.provenance.export_data import KIND as COPY
from ibidem.data.provenance.exposure import Use
from ibidem.figures import counted

CACHES = {"tokens": "ibidem tokenize", "attribution-index": "ibidem attribute build"}
"""Kinds of the artifacts that a command makes again from a dataset, and the command."""
REMEDIES = {
    shards.KIND: "these datasets still contain removed documents, make them again",
    COPY: "these copies still contain removed documents, use ibidem takedown copy",
    "tokens": "these tokens still contain removed documents, run {command} again or delete them with --caches",
    "attribution-index": "these indexes still name removed documents, run {command} again or delete them with --caches",
}


def still_held(used: Iterable[Use]) -> str:
    """Return what contains removed documents, with remedies; empty if nothing does."""
    places: dict[str, set[str]] = {}
    for use in used:
        if use.spans:
            places.setdefault(use.artifact.kind, set()).add(str(use.artifact.path))
    return "".join(
        f"; {remedy.format(command=CACHES.get(kind))}: {', '.join(sorted(places[kind]))}"
        for kind, remedy in REMEDIES.items()
        if kind in places
    )


def delete_caches(used: Sequence[Use], below: Collection[Path]) -> str:
    """Delete the tokens and attribution indexes below some folders that contain removed documents; return how many.

    The manifest goes first: a folder without one does not exist for any stage.

    Raises:
        ArtifactError: a command is writing one of them.
    """
    roots = [root.resolve() for root in below]
    doomed = sorted({use.artifact.path.resolve() for use in used if use.spans and use.artifact.kind in CACHES})
    deleted = [path for path in doomed if any(path.is_relative_to(root) for root in roots)]
    for path in deleted:
        with artifacts.writing(path):
            (path / artifacts.MANIFEST).unlink()
            shutil.rmtree(path)
    return f"; {counted(len(deleted), 'cache')} deleted" if deleted else ""
