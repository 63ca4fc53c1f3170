"""What a running server consists of; the endpoints are given it."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ibidem.conversation import Conversation
from ibidem.grounding.store import Chunk
from ibidem.serving.config import LimitsConfig
from ibidem.serving.server.speech import Delta, Drawing, Ended, Speaker
from ibidem.serving.server.tokens import Caller, TokenStore


class Documents(Protocol):
    """An opened index as the endpoints use it: `documents.OpenedDocuments`."""

    def answer(
        self, speaker: Speaker | None, turns: Conversation, drawing: Drawing, caller: Caller
    ) -> AsyncGenerator[Delta | Ended]:
        """Answer from the documents that the caller's principal may read; quotes answer without a speaker.

        The query and its chunks are recorded before the first delta, the answer before `Ended`.

        Raises:
            AccessDenied: the rules or the index changed meanwhile.
            AuditError: a record cannot be written.
            ConfigError: the conversation does not fit into the model's context.
        """

    async def show(self, chunk: str, principal: str) -> Chunk:
        """Return one chunk, recorded.

        Raises:
            AccessDenied: there is no such chunk, it was deleted, or the principal may not read it: the same message.
            AuditError: the record cannot be written.
        """

    async def readable(self, chunks: Sequence[str], principal: str) -> frozenset[str]:
        """Return which chunks a principal may read; nothing of them is shown, so nothing is recorded."""


@dataclass(frozen=True)
class Service:
    """A server's parts."""

    model: str
    """The id under which the model is listed."""
    speaker: Speaker | None
    """What answers; None: quotes of the documents do."""
    documents: Documents | None
    tokens: TokenStore
    limits: LimitsConfig
    state: Path
    """Folder with the tokens and the ratings."""
    audit: Path | None = None
    """Folder of the audit log."""
    reviews: tuple[Path, ...] = ()
    """Folders of forms, as `ibidem ground review` writes them."""
