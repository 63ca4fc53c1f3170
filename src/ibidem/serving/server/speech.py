"""What a model says, piece by piece, and what of it is sent.

    speaker    Said("text", "At nine "), Said("cite", "1 6f1d"), Said("text", "."), Spoken("stop", 212, 9)
    sent       Delta("At nine "), Delta("[1]", (citation,)), Delta("."), Ended(...)

A speaker is a checkpoint of ours or a server elsewhere. Between the two stands what checks citations, if documents are
served; else the text is sent as it is said.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from ibidem.conversation import Conversation, PartKind
from ibidem.readers import Readers

Finish = Literal["stop", "length", "content_filter"]
"""Why an answer ended, in OpenAI's words: by itself or at a stop string, at the maximum length, or before a span of
training documents that the policy blocks."""


class Said(NamedTuple):
    """A piece of an answer: more text, or a whole part of another kind, as the model wrote it."""

    kind: PartKind
    text: str


class Spoken(NamedTuple):
    """The end of an answer."""

    finish: Finish
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class SamplingParams:
    """How an answer is drawn."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()


class Speaker(Protocol):
    """A model that answers."""

    name: str
    """In the audit log, and as a fingerprint: the digest of a checkpoint, or the address of an upstream's model."""
    cites_with_parts: bool
    """Whether its citations are parts of the chat template; else they are text in brackets."""
    readers: Readers | None
    """Who may use it; None: everyone."""

    def room(self, turns: Conversation) -> int | None:
        """Return how many tokens fit behind a conversation, negative if it is too long; None if nobody knows."""

    def speak(
        self, turns: Conversation, sampling: SamplingParams, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        """Answer, and yield what is said as it is said; `Spoken` comes last.

        Closing the generator stops the model within a step, also before it has said anything.

        Args:
            turns: the conversation.
            sampling: how the answer is drawn.
            owner: whose turn it is when many wait: the id of the caller's token.
            scope: answers of one scope may share what was computed of a common beginning; None: share nothing.

        Raises:
            ConfigError: the conversation does not fit into the context.
        """


class Cited(NamedTuple):
    """A checked citation at a place of the answer's text."""

    start: int
    end: int
    """The citation is `text[start:end]` of all that was sent, in characters."""
    number: int
    chunk: str
    path: str
    title: tuple[str, ...]
    span: tuple[int, int]
    """The cited text is `text[start:end]` of the document."""
    quote: str | None
    """What the claim has from it word for word."""
    supported: bool
    score: float | None
    """What a grounding head says of the claim, from 0 to 1; None without one."""


class Repeated(NamedTuple):
    """A span of the answer's text that training documents contain."""

    start: int
    end: int
    """The span is `text[start:end]` of all that was sent, in characters."""
    num_tokens: int
    num_documents: int
    is_common: bool
    sources: tuple[dict[str, Any], ...]
    """Documents that contain it: repo, path, license, swhid, is_removed and more."""


class Delta(NamedTuple):
    """More text, the citations in it, and spans of all text so far that training documents contain."""

    text: str
    citations: tuple[Cited, ...] = ()
    repeated: tuple[Repeated, ...] = ()


class Ended(NamedTuple):
    """What is known at the end of an answer."""

    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    grounding: dict[str, Any] | None = None
    """With documents: abstained, removed, unsupported (claims with their places in the text), left_out."""
