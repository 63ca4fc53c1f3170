"""A server elsewhere with OpenAI's API as a speaker: llama.cpp, vLLM, or any other.

    POST {url}/chat/completions, streamed       data: {"choices": [{"delta": {"content": "At nine [1]"}}]}
                                                data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}
                                                data: [DONE]

Its address is given when the server starts, and by nobody later. It is trusted with the passages that it is sent, and
with nothing else: no redirect is followed, no proxy of the environment is used, and whatever is not as above ends the
answer with one error.
"""

import json
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from ibidem import log
from ibidem.conversation import Conversation
from ibidem.errors import ConfigError
from ibidem.readers import Readers
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.speech import Finish, Said, SamplingParams, Spoken

MAX_LINE_BYTES = 1 << 20
MAX_MODELS_BYTES = 1 << 24
"""Of the list of models."""
BYTES_PER_TOKEN = 4096
"""Of an answer, more than any server sends for a token; and as many for 64 tokens more."""
_FINISHES: Mapping[str, Finish] = {"stop": "stop", "length": "length"}


class Patience(NamedTuple):
    """How long an upstream may take, in seconds."""

    connect_s: float = 10.0
    silent_s: float = 120.0
    """Between two pieces, and before the first one."""
    answer_s: float = 1800.0


class UpstreamSpeaker:
    """A model of an upstream server."""

    cites_with_parts = False
    readers: Readers | None = None

    def __init__(self, url: str, model: str, key: str | None, patience: Patience = Patience()) -> None:  # noqa: B008
        """Prepare to ask a model; nothing is sent yet.

        Args:
            url: of the API, such as http://127.0.0.1:8080/v1.
            model: its id there.
            key: sent as a bearer token; None: none.
            patience: how long it may take.

        Raises:
            ConfigError: the address is none of HTTP, or has a password, a query or a fragment.
        """
        self.name = f"{_checked(url)} {model}"
        self._url, self._model, self._patience = f"{url.rstrip('/')}/chat/completions", model, patience
        self._headers = _headers(key)
        self._tls = ssl.create_default_context()

    def room(self, turns: Conversation) -> int | None:  # noqa: ARG002 - only the upstream counts its tokens
        """Return None: nobody here knows."""
        return None

    async def speak(
        self,
        turns: Conversation,
        sampling: SamplingParams,
        *,
        owner: str,  # noqa: ARG002 - nobody waits here
        scope: str | None,  # noqa: ARG002 - nothing is shared here
    ) -> AsyncGenerator[Said | Spoken]:
        """Answer, and yield what the upstream says.

        Raises:
            ApiError: it cannot be reached, is too slow, reports an error, or returns a malformed answer.
        """
        body = _body(self._model, turns, sampling)
        timeout = httpx.Timeout(self._patience.connect_s, read=self._patience.silent_s)
        finish: Finish | None = None
        usage = (0, 0)
        try:
            async with (
                httpx.AsyncClient(follow_redirects=False, trust_env=False, verify=self._tls, timeout=timeout) as client,
                client.stream("POST", self._url, json=body, headers=self._headers) as response,
            ):
                _check(response)
                async with aclosing(self._events(response, sampling.max_tokens)) as events:
                    async for event in events:
                        text, ended, usage = _read(event, usage)
                        finish = ended or finish
                        if text:
                            yield Said("text", text)
        except httpx.TimeoutException:
            raise _refused("it is too slow") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise _refused("it cannot be reached, or broke off", kind=type(error).__name__) from None
        if finish is None:
            raise _refused("its answer has no end")
        yield Spoken(finish, *usage)

    async def _events(self, response: httpx.Response, max_tokens: int) -> AsyncGenerator[dict[str, Any]]:
        """Yield the events of a stream, up to the last one, `[DONE]`."""
        async with aclosing(self._lines(response, (max_tokens + 64) * BYTES_PER_TOKEN)) as lines:
            async for line in lines:
                if not line.startswith(b"data:"):
                    continue  # a comment, or a field of no interest
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                yield _object(data)
        raise _refused("its answer breaks off")

    async def _lines(self, response: httpx.Response, most: int) -> AsyncGenerator[bytes]:
        rest, num_bytes = b"", 0
        until = time.monotonic() + self._patience.answer_s
        async for piece in response.aiter_raw():
            num_bytes += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines) or num_bytes > most:
                raise _refused("its answer is longer than was asked for")
            if time.monotonic() > until:
                raise _refused("it is too slow")
            for line in lines:
                yield line


def open_upstream(url: str, model: str | None, key_file: Path | None) -> UpstreamSpeaker:
    """Prepare to ask an upstream server.

    Args:
        url: of the API, such as http://127.0.0.1:8080/v1.
        model: its id there; None: the first one that it lists.
        key_file: file with the key; None: none is sent.

    Raises:
        ConfigError: the address is no address, the key cannot be read, or the models cannot be listed.
    """
    key = None if key_file is None else _key(key_file)
    return UpstreamSpeaker(url, model or _first_model(_checked(url), key), key)


def _key(file: Path) -> str:
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"upstream-key {file}: {getattr(error, 'strerror', None) or 'no key'}") from None
    if not key.isprintable() or " " in key or not key:
        raise ConfigError(f"upstream-key {file}: one word of printable characters is needed")
    return key


def _checked(url: str) -> str:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        raise ConfigError(f"upstream {url!a}: not an address") from None
    if parts.scheme not in {"http", "https"} or not parts.host or parts.userinfo or parts.query or parts.fragment:
        raise ConfigError(f"upstream {url!a}: give an address such as http://127.0.0.1:8080/v1, and a key in a file")
    return url.rstrip("/")


def _first_model(url: str, key: str | None) -> str:
    """Return the first model that an upstream lists."""
    try:
        with (
            httpx.Client(follow_redirects=False, trust_env=False, timeout=Patience().connect_s) as client,
            client.stream("GET", f"{url}/models", headers=_headers(key)) as response,
        ):
            data = b""
            for piece in response.iter_raw():
                data += piece
                if len(data) > MAX_MODELS_BYTES:
                    break
            listed = json.loads(data)["data"][0]["id"] if response.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, ValueError, LookupError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, str) or not listed.isprintable():
        raise ConfigError(f"upstream {url}: it lists no model; is it running? Else name one with --upstream-model")
    return listed


def _headers(key: str | None) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "ibidem"}
    return headers if key is None else headers | {"Authorization": f"Bearer {key}"}


def _body(model: str, turns: Conversation, sampling: SamplingParams) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": turn.role, "content": turn.text} for turn in turns],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"stop": list(sampling.stop)} if sampling.stop else {}),
    }


def _check(response: httpx.Response) -> None:
    if response.status_code != httpx.codes.OK:
        raise _refused(f"it answers with status {response.status_code}")
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        raise _refused("its answer is no stream of events")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _refused("its answer is compressed, which was not asked for")


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise _refused("its answer is not JSON") from None
    if not isinstance(value, dict):
        raise _refused("its answer is not an object")
    return value


def _read(event: Mapping[str, Any], usage: tuple[int, int]) -> tuple[str, Finish | None, tuple[int, int]]:
    """Return the text of an event, how the answer ends if it does, and how many tokens were used.

    Raises:
        ApiError: it is an error, or no part of an answer in text.
    """
    if event.get("error") is not None:
        raise _refused("it reports an error")
    choices = event.get("choices", [])
    usage = _usage(event.get("usage"), usage)
    if choices == []:
        return "", None, usage
    try:
        delta, finish = choices[0]["delta"], choices[0].get("finish_reason")
        text = delta.get("content")
        is_call = bool(delta.get("tool_calls") or delta.get("function_call"))
    except (LookupError, TypeError, AttributeError):
        raise _refused("its answer has no text") from None
    if is_call:
        raise _refused("it calls a tool")
    if not isinstance(text, str | None) or not isinstance(finish, str | None) or finish not in {None, *_FINISHES}:
        raise _refused("its answer is not text, or ends in a way that is not known")
    return _encodable(text or ""), None if finish is None else _FINISHES[finish], usage


def _usage(found: object, before: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(found, dict):
        return before
    counts = (found.get("prompt_tokens"), found.get("completion_tokens"))
    prompt, completion = (count if type(count) is int and 0 <= count < 1 << 32 else 0 for count in counts)
    return prompt, completion


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused("its answer is not valid Unicode") from None
    return text


def _refused(reason: str, **more: str) -> ApiError:
    """Return the one error of an upstream; nothing that it said is repeated."""
    log.event("serve.upstream", reason=reason, **more)
    return ApiError(502, f"the upstream model failed: {reason}", code="upstream_failed")
