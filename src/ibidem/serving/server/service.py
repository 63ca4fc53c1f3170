"""What a running server consists of; the endpoints are given it."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ibidem.attribution.config import PolicyConfig
from ibidem.conversation import Conversation
from ibidem.grounding.store import Chunk
from ibidem.readers import is_reader
from ibidem.serving.config import LimitsConfig
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.requests import Wanted
from ibidem.serving.server.responses import About, Answer, Form, OpenAnswers, Pieces
from ibidem.serving.server.speech import Delta, Ended, SamplingParams, Speaker
from ibidem.serving.server.tokens import Caller, TokenStore

if TYPE_CHECKING:
    from ibidem.attribution.lookup import Attribution


class Documents(Protocol):
    """An opened index as the endpoints use it: `documents.OpenedDocuments`."""

    def answer(
        self, speaker: Speaker | None, turns: Conversation, sampling: SamplingParams, caller: Caller
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
    hosts: tuple[str, ...] = ()
    """Names under which the server is called besides those of this computer itself."""
    proxies: tuple[str, ...] = ()
    """Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    attribution: "Attribution | None" = None
    """The index of the model's training, in which answers are looked up."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """What happens to the spans of an answer that are in it."""
    answers: OpenAnswers = field(default_factory=OpenAnswers)
    """The answers that are being sent."""

    def may_use(self, caller: Caller) -> bool:
        """Return whether a caller may use the model: one that was made from private documents is for their readers."""
        of_model = None if self.speaker is None else self.speaker.readers
        of_index = None if self.attribution is None else self.attribution.readers
        return all(each is None or is_reader(caller.principal, each) for each in (of_model, of_index))

    def check_model(self, model: str, caller: Caller) -> None:
        """Refuse a model that is not listed for a caller, whether there is one or not.

        Raises:
            ApiError: it is not; the status is 404.
        """
        if model != self.model or not self.may_use(caller):
            message = "no such model; GET /v1/models lists the models"
            raise ApiError(404, message, code="model_not_found", param="model")

    def about(self, prefix: str) -> About:
        """Return what is said of an answer that begins now; its id has this prefix."""
        return About.new(prefix, self.model, self.fingerprint)

    def answer(self, pieces: Pieces, form: Form, wanted: Wanted, caller: Caller) -> Answer:
        """Return an answer that is sent as long as the caller's token and session are valid."""
        if self.attribution is not None:
            from ibidem.serving.server.sources import attributed

            pieces = attributed(pieces, self.attribution, self.policy)
        return Answer(
            pieces,
            form,
            is_streamed=wanted.is_streamed,
            is_permitted=partial(self.tokens.is_valid, caller),
            answers=self.answers,
        )

    @property
    def fingerprint(self) -> str:
        """What answers, in short: OpenAI's `system_fingerprint`."""
        name = self.model if self.speaker is None else self.speaker.name
        return f"fp_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
