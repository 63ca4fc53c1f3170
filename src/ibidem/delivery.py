"""Deliver a folder to a store, which renames nothing: parts first, the manifest last.

    URL/.delivery.json                names of all parts that are or were there: of what is delivered, and of what it
                                      replaces; while this file is there without a manifest, nothing is
    URL/train/shard-00000.parquet     each part is hashed on its way
    URL/manifest.json                 last, and only if there is none; deleted again if a part is another run's by then

A manifest that is replaced is deleted before the first part is sent, and nothing takes its place until the last one is
there. Parts that a killed run left, or that the new manifest does not list, are deleted before it is written.
"""

import json
import uuid
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ibidem.errors import ArtifactError, StoreError
from ibidem.files import Engine, on_each
from ibidem.places import Listing, StorePath, send
from ibidem.places import put as _put
from ibidem.places import remove as _remove

MARKER = ".delivery.json"
_PROBE = ".probe"


class Part(NamedTuple):
    """What was delivered of one file."""

    name: str
    sha256: str
    size: int


def left_behind(place: StorePath) -> tuple[str, list[str]] | None:
    """Return kind and names of what a run that was killed was delivering; None if there was none."""
    try:
        said = json.loads((place / MARKER).read_bytes())
        return str(said["kind"]), list(map(str, said["names"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{place / MARKER}: cannot be read; delete it") from None


def check_writable(place: StorePath) -> None:
    """Write a file and delete it, before any work is done.

    Raises:
        StoreError: the store cannot be reached, the bucket is not there, or we may not write to it.
    """
    probe = place / f"{_PROBE}-{uuid.uuid4().hex}"
    _put(probe, b"")
    _remove(probe)


def is_probe(name: str) -> bool:
    """Check whether a killed run left the file behind when it tried to write."""
    return name.startswith(f"{_PROBE}-")


def deliver(
    here: Mapping[str, Path],
    elsewhere: Mapping[str, Path],
    place: StorePath,
    *,
    kind: str,
    known: Iterable[str],
    engine: Engine | None,
) -> "Delivery":
    """Send files; the tasks read and hash them, wherever they run.

    Args:
        here: files by name that threads of this process send.
        elsewhere: files by name that tasks send.
        place: where they are to be.
        kind: of the artifact.
        known: names of the files of what is replaced.
        engine: runs the tasks; None: threads do.
    """
    before, names = left_behind(place), {*here, *elsewhere}
    old = {*known, *(before[1] if before else ())}
    token = uuid.uuid4().hex
    _put(place / MARKER, json.dumps({"kind": kind, "token": token, "names": sorted({*old, *names})}).encode())
    _delete(place, [name for name in ("manifest.json", "signature.json") if (place / name).is_file()])
    sent = {part.name: part for part in on_each(partial(_send, place), [*here.items()])}
    sent |= {part.name: part for part in on_each(partial(_send, place), [*elsewhere.items()], engine)}
    listing = place.listing()
    _delete(place, [name for name in listing if name in old - sent.keys() or is_probe(name)])
    for name, part in sent.items():
        if name not in listing or listing[name].size != part.size:
            raise StoreError(f"{place / name}: it is not what was sent; another run may write there")
    return Delivery(place, token, sent, {name: listing[name] for name in sent})


class Delivery(NamedTuple):
    """Parts that are at a store, without their manifest."""

    place: StorePath
    token: str
    parts: dict[str, Part]
    listing: Listing

    def seal(self, name: str, text: str) -> None:
        """Write the manifest, unless another run has taken the place meanwhile; look again once it is written.

        Raises:
            StoreError: it has; the manifest is deleted again.
        """
        other = StoreError(f"{self.place}: another run writes there; wait for it, or choose another place")
        if not self._is_ours():
            raise other
        try:
            _put(self.place / name, text.encode(), mode="create")
        except FileExistsError:
            raise other from None
        listing = self.place.listing()
        if not self._is_ours() or any(listing.get(part) != held for part, held in self.listing.items()):
            if _content_of(self.place / name) == text.encode():  # that of the other one stays
                _remove(self.place / name)
            raise other
        _delete(self.place, [MARKER])

    def _is_ours(self) -> bool:
        try:
            return bool(json.loads((self.place / MARKER).read_bytes())["token"] == self.token)
        except (FileNotFoundError, ValueError):
            return False


def _content_of(path: StorePath) -> bytes | None:
    try:
        return bytes(path.read_bytes())
    except FileNotFoundError:
        return None


def _send(place: StorePath, file: tuple[str, Path]) -> Part:
    name, source = file
    return Part(name, send(source, place / name), source.stat().st_size)


def _delete(place: StorePath, names: Collection[str]) -> None:
    for name in names:
        _remove(place / name)
