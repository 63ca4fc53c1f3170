"""Forget a document: out of every file of the index; artifacts that were made from the index are named."""

from collections.abc import Sequence

from ibidem import artifacts
from ibidem.data.provenance import exposure
from ibidem.errors import NothingFound
from ibidem.figures import counted
from ibidem.grounding.audit.commands import folder_of
from ibidem.grounding.audit.log import AuditLog
from ibidem.grounding.config import GroundForgetConfig
from ibidem.grounding.opening import open_store, user
from ibidem.signatures import secret_key

FORGOTTEN_IN_TABLES = "in the database's tables; its write-ahead log, standbys and backups may still hold the text"


def forget(config: GroundForgetConfig) -> str:
    """Remove a document, or a folder of documents, from every file; name what was made from the index.

    Raises:
        NothingFound: no document is at the path.
    """
    folder, key = folder_of(config.index, config.audit), secret_key(config.key, create=False)
    with open_store(config.index, config.store, key) as (store, _), AuditLog(folder, key) as audit:
        path = audit.keyed(config.path)
        if config.readmit:
            audit.record("forget", path=path, state="to be readmitted", by=user())
            if not store.readmit(config.path):
                raise NothingFound(f"{config.path}: this very path is not forgotten")
            return f"readmitted: the next indexing takes {config.path} again"
        before = artifacts.load(config.index) if config.index else None
        audit.record("forget", path=path, state="begins", by=user(), store=store.digest)
        number = store.forget(config.path)
        audit.record("forget", path=path, state="done", documents=number, store=store.digest)
    if not number:
        raise NothingFound(f"{config.path}: the index holds no document there")
    uses = exposure.made_from(config.artifacts, before) if before else []
    where = FORGOTTEN_IN_TABLES if config.store else "in every file of the index"
    return "\n".join([f"forgotten: {counted(number, 'document')}, {where}", *_named(uses, config)])


def _named(uses: Sequence[exposure.Use], config: GroundForgetConfig) -> list[str]:
    searched, missing = (
        ", ".join(str(path) for path in config.artifacts if path.exists() == exists) for exists in (True, False)
    )
    unsearched = [f"not searched: {missing}: no such folder; name the folders of artifacts with --artifacts"]
    if not uses:
        return [
            *([f"below {searched}, nothing was made from the index"] if searched else []),
            *(unsearched if missing else []),
        ]
    return [
        *(unsearched if missing else []),
        "these were made from the index and may still contain the text; delete or rebuild them:",
        *map(str, uses),
    ]
