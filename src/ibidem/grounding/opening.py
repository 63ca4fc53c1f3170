"""An index opened: its store, the access rules as they are now, and the audit log."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibidem.errors import ConfigError
from ibidem.grounding import terms
from ibidem.grounding.access import YamlPermissions
from ibidem.grounding.audit.commands import folder_of
from ibidem.grounding.audit.log import AuditLog
from ibidem.grounding.config import HeadChoice, IndexChoice, RulesChoice
from ibidem.grounding.encoder import TextEncoder, open_encoder
from ibidem.grounding.index import Index
from ibidem.grounding.posix import PosixPermissions
from ibidem.grounding.retrieve import Retriever
from ibidem.grounding.store import Permissions, Store
from ibidem.runs import newest
from ibidem.signatures import secret_key

if TYPE_CHECKING:
    from ibidem.grounding.head import Head

POSIX = "posix"


@contextmanager
def opened(
    choice: RulesChoice, principal: str | None = None, *, for_others: bool = False, audit: AuditLog | None = None
) -> Iterator[Retriever]:
    """Open an index for queries: its store, the rules as they are now, and the audit log.

    Args:
        choice: the index, and where its rules, key and log are; to search texts an `IndexChoice`, as an index with
            vectors needs their encoder then; a `HeadChoice` may name a head.
        principal: who opens it, if it is one who asks; an encoder or a head that was tuned on documents has readers.
        for_others: check nobody here; the retriever checks each principal who asks.
        audit: an audit log, which stays open; None: that of the index.

    Raises:
        AccessDenied: the principal, or else the user, is not among the readers of the encoder.
        ConfigError: the model that made the vectors of the index is not where it was, or another one is given.
        ArtifactError: there is no index, or it was made with another key.
    """
    folder, key = folder_of(choice.index, choice.audit), secret_key(choice.key, create=False)
    with open_store(choice.index, choice.store, key) as (store, about):
        encoder = None
        if isinstance(choice, IndexChoice):
            if about["terms"] != terms.VERSION:
                raise ConfigError("the index was made by another version of this program; index the documents again")
            encoder = _encoder(choice.encoder, about, principal, for_others=for_others)
        head = _head(choice, principal, for_others=for_others) if isinstance(choice, HeadChoice) else None
        found = (each.readers for each in (encoder, head) if for_others and each is not None)
        readers = tuple(each for each in found if each is not None)
        with AuditLog(folder, key) if audit is None else nullcontext(audit) as log:
            yield Retriever(store, _permissions(choice.acl, str(about["acl"])), log, encoder, head, readers)


@contextmanager
def open_store(folder: Path | None, address: str | None, key: bytes) -> Iterator[tuple[Store, Mapping[str, Any]]]:
    """Open the store of an index, with the settings that it was made with; close it at the end.

    Raises:
        ConfigError: not exactly one of the two is given.
        ArtifactError: there is no index, or it was made with another key.
    """
    if (folder is None) == (address is None):
        raise ConfigError("give either --index, a folder, or --store, a database")
    if address is not None:
        from ibidem.grounding.postgres import PostgresStore

        with closing(PostgresStore.open(address, key)) as database:
            yield database, database.config
        return
    assert folder is not None
    with closing(Index.open(folder, key)) as local:
        yield local, local.artifact.config


def permissions_at(place: str) -> Permissions:
    """Return the access rules at a place: a YAML file, or `posix:` and the documents' folder."""
    kind, _, folder = place.partition(":")
    return PosixPermissions(Path(folder)) if kind == POSIX else YamlPermissions(Path(place))


def user() -> str:
    """Return who runs the program, for the audit log."""
    return f"uid:{os.getuid()}"


def _encoder(
    given: Path | None, about: Mapping[str, Any], principal: str | None, *, for_others: bool
) -> TextEncoder | None:
    """Open the model that made the vectors of an index; by default where it was then."""
    if about["encoder"] is None:
        if given is not None:
            raise ConfigError("the index has no vectors; leave --encoder out")
        return None
    place = newest(given) if given else Path(about["model"])
    if not place.is_dir():
        raise ConfigError(f"the model that made the vectors of the index is not at {place}; give it with --encoder")
    encoder = open_encoder(place, principal, for_others=for_others)
    if encoder.digest != about["encoder"]:
        raise ConfigError(f"encoder {place}: the vectors of the index are of another model; give that one")
    return encoder


def _head(choice: HeadChoice, principal: str | None, *, for_others: bool) -> "Head | None":
    if choice.head is None:
        return None
    from ibidem.grounding.head import open_head

    return open_head(choice.head, choice.head_encoder, principal, for_others=for_others)


def _permissions(acl: str | None, recorded: str) -> Permissions:
    if acl is None or (acl == POSIX and recorded.startswith(f"{POSIX}:")):
        return permissions_at(recorded)
    if acl == POSIX:
        raise ConfigError(f"--acl {POSIX}: the index was made with rules of a file; give a file")
    return permissions_at(str(Path(acl).resolve()))
