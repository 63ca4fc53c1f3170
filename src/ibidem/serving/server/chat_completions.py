"""/v1/chat/completions: a conversation is answered, from the documents if any are served."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ibidem.serving.server import requests
from ibidem.serving.server.requests import ChatAsked
from ibidem.serving.server.responses import About, Pieces, around, repetitions, sse, unchecked, usage
from ibidem.serving.server.service import Service
from ibidem.serving.server.speech import Cited, Delta, Ended
from ibidem.serving.server.tokens import Caller

CHUNK = "chat.completion.chunk"
MARK = "\n"  # the text of an event, where the rest of it is written once
GROUNDED_TEMPERATURE = 0.0


def endpoint(service: Service) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint."""

    async def chat_completions(request: Request) -> Response:
        asked = requests.chat(await requests.body_of(request), service.limits)
        caller: Caller = request.state.caller
        service.check_model(asked.wanted.model, caller)
        form = ChatForm(service.about("chatcmpl"), str(request.base_url), with_usage=asked.wanted.with_usage)
        return service.answer(await answered(service, asked, caller), form, asked.wanted, caller)

    return chat_completions


async def answered(service: Service, asked: ChatAsked, caller: Caller) -> Pieces:
    """Answer a conversation: from the documents that the caller may read, if any are served.

    Raises:
        ApiError: the conversation is too long.
    """
    most, speaker = service.limits.max_tokens, service.speaker
    if service.documents is not None:
        sampling = requests.sampling(asked.wanted, room=None, most=most, temperature=GROUNDED_TEMPERATURE)
        return service.documents.answer(speaker, asked.turns, sampling, caller)
    assert speaker is not None
    room = await asyncio.to_thread(speaker.room, asked.turns)  # a long conversation takes long to encode
    sampling = requests.sampling(asked.wanted, room=room, most=most)
    return unchecked(speaker.speak(asked.turns, sampling, owner=caller.token, scope=caller.principal))


class ChatForm:
    """How an answer is written for OpenAI's chat clients; citations are annotations."""

    def __init__(self, about: About, base_url: str, *, with_usage: bool) -> None:
        """Prepare what all events have in common.

        Args:
            about: what all of them say of the answer.
            base_url: address of this server, with a slash behind it.
            with_usage: whether the number of tokens is sent at the end of a stream.
        """
        self._about, self._base_url, self._with_usage = about, base_url, with_usage
        self._before, self._behind = around(self._chunk({"content": MARK}), MARK)

    def opening(self) -> bytes:
        return sse(self._chunk({"role": "assistant", "content": ""}))

    def event(self, delta: Delta) -> bytes:
        if not delta.citations and not delta.repeated:
            return b"".join((self._before, json.dumps(delta.text).encode(), self._behind))
        annotations = self._annotations(delta.citations) + repetitions(delta.repeated)
        return sse(self._chunk({"content": delta.text, "annotations": annotations}))

    def closing(self, ended: Ended) -> bytes:
        last = self._chunk({}, ended.finish) | _grounding(ended)
        if not self._with_usage:
            return sse(last)
        return sse(last) + sse({**self._about.head(CHUNK), "choices": [], "usage": usage(ended)})

    def whole(self, whole: Delta, ended: Ended) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": whole.text,
            "refusal": None,
            "annotations": self._annotations(whole.citations) + repetitions(whole.repeated),
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended.finish}
        return {**self._about.head("chat.completion"), "choices": [choice], "usage": usage(ended), **_grounding(ended)}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._about.head(CHUNK), "choices": [choice], **({"usage": None} if self._with_usage else {})}

    def _annotations(self, citations: Sequence[Cited]) -> list[dict[str, Any]]:
        return [_annotation(cited, self._base_url) for cited in citations]


def _annotation(cited: Cited, base_url: str) -> dict[str, Any]:
    """Return a citation as OpenAI's clients know it, and below it what more is known."""
    citation = {
        "start_index": cited.start,
        "end_index": cited.end,
        "title": " > ".join(cited.title) or cited.path,
        "url": f"{base_url}passages/{cited.chunk}",
    }
    return {
        "type": "url_citation",
        "url_citation": citation,
        **{name: getattr(cited, name) for name in ("chunk", "number", "path", "span", "quote", "supported", "score")},
        "title_path": cited.title,
    }


def _grounding(ended: Ended) -> dict[str, Any]:
    return {} if ended.grounding is None else {"grounding": ended.grounding}
