"""/v1/completions: a text is continued, or a gap between two texts is filled: the editor's door."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from starlette.requests import Request
from starlette.responses import Response

from ibidem.serving.server import requests
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.requests import CompletionAsked
from ibidem.serving.server.responses import About, Pieces, around, repetitions, sse, unchecked, usage
from ibidem.serving.server.service import Service
from ibidem.serving.server.speech import Delta, Ended, Repeated, Said, SamplingParams, Spoken
from ibidem.serving.server.tokens import Caller

OBJECT = "text_completion"
MARK = "\n"  # the text of an event, where the rest of it is written once


@runtime_checkable
class Completer(Protocol):
    """A model that continues texts too."""

    def room_behind(self, prompt: str, suffix: str | None) -> int:
        """Return how many tokens fit behind a prompt, negative if it is too long."""

    def complete(
        self, prompt: str, suffix: str | None, sampling: SamplingParams, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        """Continue a text, or fill the gap before a suffix; as `Speaker.speak`."""


def endpoint(service: Service) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint."""

    async def completions(request: Request) -> Response:
        asked = requests.completion(await requests.body_of(request), service.limits)
        caller: Caller = request.state.caller
        service.check_model(asked.wanted.model, caller)
        form = _TextForm(service.about("cmpl"), with_usage=asked.wanted.with_usage)
        return service.answer(await _completed(service, asked, caller), form, asked.wanted, caller)

    return completions


async def _completed(service: Service, asked: CompletionAsked, caller: Caller) -> Pieces:
    speaker = service.speaker
    if not isinstance(speaker, Completer):
        message = "model: it only answers conversations; use /v1/chat/completions"
        raise ApiError(400, message, code="unsupported_model", param="model")
    room = await asyncio.to_thread(speaker.room_behind, asked.prompt, asked.suffix)  # a long text takes long to encode
    sampling = requests.sampling(asked.wanted, room=room, most=service.limits.max_tokens, param="prompt")
    said = speaker.complete(asked.prompt, asked.suffix, sampling, owner=caller.token, scope=caller.principal)
    return unchecked(said)


class _TextForm:
    def __init__(self, about: About, *, with_usage: bool) -> None:
        self._about, self._with_usage = about, with_usage
        self._before, self._behind = around(self._chunk(MARK), MARK)

    def opening(self) -> bytes:
        return b""

    def event(self, delta: Delta) -> bytes:
        if delta.repeated:
            return sse(self._chunk(delta.text, repeated=delta.repeated))
        return b"".join((self._before, json.dumps(delta.text).encode(), self._behind))

    def closing(self, ended: Ended) -> bytes:
        last = sse(self._chunk("", ended.finish))
        return (
            last + sse({**self._about.head(OBJECT), "choices": [], "usage": usage(ended)}) if self._with_usage else last
        )

    def whole(self, whole: Delta, ended: Ended) -> dict[str, Any]:
        assert not whole.citations
        choice = _choice(whole.text, ended.finish, whole.repeated)
        return {**self._about.head(OBJECT), "choices": [choice], "usage": usage(ended)}

    def _chunk(self, text: str, finish: str | None = None, repeated: Sequence[Repeated] = ()) -> dict[str, Any]:
        usage_to_come = {"usage": None} if self._with_usage else {}
        return {**self._about.head(OBJECT), "choices": [_choice(text, finish, repeated)], **usage_to_come}


def _choice(text: str, finish: str | None, repeated: Sequence[Repeated]) -> dict[str, Any]:
    annotations = {"annotations": repetitions(repeated)} if repeated else {}
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, **annotations}
