"""Answers as they are sent: whole, or as server-sent events.

    Delta("At nine "), Delta("[1]", (citation,)), Ended(...)
        whole      {"choices": [{"message": {"content": "At nine [1]", "annotations": [...]}, ...}], "usage": ...}
        streamed   data: {"choices": [{"delta": {"content": "At nine "}, ...}]}  ...  data: [DONE]

Until the first piece is there, an error has a status of its own; behind it, it is the last event. An answer ends at
once when its reader leaves, when the token is revoked or the session ends, and when the server shuts down: also while
the model is silent.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import chain
from typing import Any, NamedTuple, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ibidem.serving.server.errors import ApiError, refusal_of, shutting_down
from ibidem.serving.server.speech import Delta, Ended, Repeated, Said, Spoken

HEAD_AFTER_S = 10.0
"""After this time without a first piece, the head of a streamed answer is sent, so that nobody takes it for dead."""
WATCH_S = 0.1
"""How often it is checked, while nothing is said, whether the caller may still listen."""
DONE = b"data: [DONE]\n\n"
Pieces = AsyncGenerator[Delta | Ended]


class Form(Protocol):
    """How the pieces of an answer are written for an endpoint."""

    def opening(self) -> bytes:
        """Return what comes before the first event with text."""

    def event(self, delta: Delta) -> bytes:
        """Return the event of a piece."""

    def closing(self, ended: Ended) -> bytes:
        """Return the last events."""

    def whole(self, whole: Delta, ended: Ended) -> dict[str, Any]:
        """Return an answer that is not streamed."""


class About(NamedTuple):
    """What all parts of an answer say of it."""

    id: str
    created: int
    model: str
    fingerprint: str

    @classmethod
    def new(cls, prefix: str, model: str, fingerprint: str) -> "About":
        """Return what is said of an answer that begins now."""
        return cls(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), model, fingerprint)

    def head(self, kind: str) -> dict[str, Any]:
        """Return the first keys of a response of this kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class OpenAnswers:
    """The answers that are being made; one task looks after all of them, and a shutdown ends them all."""

    def __init__(self) -> None:
        self._permissions: dict[asyncio.Task[None], Callable[[], bool]] = {}
        self._watch: asyncio.Task[None] | None = None
        self.is_closing = False

    def __len__(self) -> int:
        return len(self._permissions)

    def end_all(self) -> None:
        """End all answers, and let no other begin."""
        self.is_closing = True
        for task in self._permissions:
            task.cancel()

    async def run(self, work: Coroutine[Any, Any, None], receive: Receive, is_permitted: Callable[[], bool]) -> None:
        """Make an answer, until its reader leaves or may not listen any more.

        Raises:
            ApiError: the server is shutting down; or as the work.
        """
        if self.is_closing:
            work.close()
            raise shutting_down()
        has_begun = asyncio.Event()
        task = asyncio.create_task(_begun(work, has_begun))
        self._permissions[task] = is_permitted
        if self._watch is None:
            self._watch = asyncio.create_task(self._end_forbidden())
        tasks = (task, asyncio.create_task(_left(receive)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            del self._permissions[task]
        if not has_begun.is_set():
            work.close()
            if tasks[1].cancelled():  # the reader is still there
                raise shutting_down() if self.is_closing else _revoked()
        with suppress(asyncio.CancelledError):
            task.result()

    async def _end_forbidden(self) -> None:
        """End the answers whose callers may not listen any more, as long as there are answers."""
        while self._permissions:  # another process can revoke, which sets no event
            await asyncio.sleep(WATCH_S)
            for task, is_permitted in self._permissions.items():
                if not task.cancelling() and _is_forbidden(is_permitted):  # a refusal is sent once
                    task.cancel()
        self._watch = None


class Answer(Response):
    """An answer that is sent while it is made."""

    def __init__(
        self,
        pieces: Pieces,
        form: Form,
        *,
        is_streamed: bool,
        is_permitted: Callable[[], bool],
        answers: OpenAnswers,
    ) -> None:
        """Prepare to send an answer.

        Args:
            pieces: closed when nobody reads them any more.
            form: how they are written.
            is_streamed: whether as events.
            is_permitted: whether the caller's token is still valid; asked before each piece is sent, and in between.
            answers: those that are being made.
        """
        self._pieces, self._form, self._answers = pieces, form, answers
        self._is_streamed, self._is_permitted = is_streamed, is_permitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answers.run(self._send(scope, send), receive, self._is_permitted)

    async def _send(self, scope: Scope, send: Send) -> None:
        async with aclosing(self._pieces):
            await (self._stream if self._is_streamed else self._send_whole)(scope, send)

    async def _send_whole(self, scope: Scope, send: Send) -> None:
        deltas: list[Delta] = []
        try:
            async for piece in self._pieces:
                self._check_permitted()
                if isinstance(piece, Ended):
                    _count(scope, piece)
                    body = dumps(self._form.whole(_joined(deltas), piece))
                    break
                deltas.append(piece)
        except asyncio.CancelledError:
            if (refusal := self._why_ended()) is not None:
                raise refusal from None
            raise
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, scope: Scope, send: Send) -> None:
        head = _Head(send, self._form.opening())
        try:
            await self._send_events(scope, send, head)
        except asyncio.CancelledError:
            if (refusal := self._why_ended()) is None:
                raise
            await head.refuse(refusal)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader gets one line
            await head.refuse(refusal_of(error))

    async def _send_events(self, scope: Scope, send: Send, head: "_Head") -> None:
        waiting = asyncio.create_task(head.send_late())
        try:
            piece = await anext(self._pieces)
        finally:
            waiting.cancel()
            await asyncio.wait((waiting,))  # so that the head is sent by one of the two
        self._check_permitted()
        await head.send()
        while not isinstance(piece, Ended):
            await send({"type": "http.response.body", "body": self._form.event(piece), "more_body": True})
            piece = await anext(self._pieces)
            self._check_permitted()
        _count(scope, piece)
        await send({"type": "http.response.body", "body": self._form.closing(piece) + DONE})

    def _check_permitted(self) -> None:
        if not self._is_permitted():
            raise _revoked()

    def _why_ended(self) -> ApiError | None:
        """Return why this answer is canceled; None: its reader left."""
        if self._answers.is_closing:
            return shutting_down()
        return None if self._is_permitted() else _revoked()


class _Head:
    """The head of a streamed answer, and its first event, which are sent once."""

    def __init__(self, send: Send, opening: bytes) -> None:
        self._send, self._opening = send, opening
        self.is_sent = self._is_opened = False

    async def send(self) -> None:
        """Send what has not been sent: whoever did it before can have been canceled in between."""
        if not self.is_sent:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            self.is_sent = True
        if not self._is_opened:
            await self._send({"type": "http.response.body", "body": self._opening, "more_body": True})
            self._is_opened = True

    async def send_late(self) -> None:
        await asyncio.sleep(HEAD_AFTER_S)
        await self.send()

    async def refuse(self, refusal: ApiError) -> None:
        """Tell the reader: as a response of its own, or as the last event.

        Raises:
            ApiError: nothing has been sent.
        """
        if not self.is_sent:
            raise refusal
        await self._send({"type": "http.response.body", "body": sse(refusal.body())})


def _joined(deltas: Sequence[Delta]) -> Delta:
    citations = tuple(chain.from_iterable(each.citations for each in deltas))
    repeated = tuple(chain.from_iterable(each.repeated for each in deltas))
    return Delta("".join(each.text for each in deltas), citations, repeated)


async def unchecked(said: AsyncGenerator[Said | Spoken]) -> Pieces:
    """Yield what a model says as it says it; citations of nothing are text in brackets."""
    async with aclosing(said):
        async for piece in said:
            match piece:
                case Said("text", text):
                    yield Delta(text)
                case Said(_, text):
                    yield Delta(f" [{text}]")
                case Spoken():
                    yield Ended(*piece)


def refused(refusal: ApiError) -> Response:
    """Return a refusal as a response."""
    headers = {} if refusal.retry_s is None else {"retry-after": str(refusal.retry_s)}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(dumps(refusal.body()), refusal.status, headers, "application/json")


def usage(ended: Ended) -> dict[str, int]:
    """Return how many tokens an answer took.

    >>> usage(Ended("stop", 12, 3))["total_tokens"]
    15
    """
    prompt, completion = ended.prompt_tokens, ended.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def repetitions(repeated: Sequence[Repeated]) -> list[dict[str, Any]]:
    """Return spans that training documents contain as annotations, beside those of citations."""
    return [
        {"type": "training_source", "start_index": each.start, "end_index": each.end}
        | {name: getattr(each, name) for name in ("num_tokens", "num_documents", "is_common", "sources")}
        for each in repeated
    ]


def dumps(value: Any) -> bytes:
    r"""Write a value as JSON on one line, in ASCII.

    >>> dumps({"text": "naïve"})
    b'{"text":"na\\u00efve"}'
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def sse(value: Mapping[str, Any]) -> bytes:
    r"""Write a value as a server-sent event.

    >>> sse({"a": 1})
    b'data: {"a":1}\n\n'
    """
    return b"data: %b\n\n" % dumps(value)


def around(event: Mapping[str, Any], mark: str) -> tuple[bytes, bytes]:
    r"""Return what stands before and behind a value in an event, so that only the value is written for each one.

    >>> around({"text": "TEXT", "n": 1}, "TEXT")
    (b'data: {"text":', b',"n":1}\n\n')
    """
    before, _, behind = sse(event).partition(dumps(mark))
    return before, behind


async def _begun(work: Coroutine[Any, Any, None], has_begun: asyncio.Event) -> None:
    has_begun.set()  # a task that is canceled before its first step never runs, and answers nothing
    await work


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_forbidden(is_permitted: Callable[[], bool]) -> bool:
    try:
        return not is_permitted()
    except Exception:  # noqa: BLE001 - nobody can tell: the answer ends, and meets the same error
        return True


def _revoked() -> ApiError:
    return ApiError(401, "the token has expired or was revoked, or its session has ended", code="invalid_api_key")


def _count(scope: Scope, ended: Ended) -> None:
    scope["state"]["tokens"] = ended.completion_tokens
