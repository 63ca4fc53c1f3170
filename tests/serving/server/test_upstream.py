import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.grounding.corpus import make_index
from tests.serving.server.speakers import DRAWING, answered, citations_of, events, opened_documents, text_of

from ibidem.conversation import Part, Turn
from ibidem.errors import ConfigError
from ibidem.serving.server import upstream
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.speech import Ended, Said, Spoken
from ibidem.serving.server.upstream import Patience, UpstreamSpeaker, open_upstream

TURNS = (Turn.of("user", "Hi"),)


def event(content: object = None, finish: object = None, **more: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': finish}], **more})}\n\n".encode()


DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3}}\n\n'


class FakeUpstream:
    """A server with OpenAI's API that sends what a test wants."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.respond: Callable[[], Response] | None = None
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.has_ended = threading.Event()
        self.models: Any = {"data": [{"id": "first"}, {"id": "second"}]}
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/{path:path}", self._other, methods=["GET", "POST"]),
        ]
        self.app = Starlette(routes=routes)
        self.url = ""

    def sends(self, *pieces: bytes) -> None:
        self.pieces, self.respond = list(pieces), None

    async def _chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        if self.respond is not None:
            return self.respond()
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                if piece == b"wait":
                    await asyncio.Event().wait()
                yield piece
                await asyncio.sleep(0)
        finally:
            self.has_ended.set()

    async def _models(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return JSONResponse(self.models)

    async def _other(self, request: Request) -> Response:
        self.paths.append(request.url.path)
        return JSONResponse({})


@pytest.fixture(scope="module")
def serving() -> Iterator[FakeUpstream]:
    fake = FakeUpstream()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(fake.app, log_level="critical", timeout_graceful_shutdown=1, ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    fake.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    yield fake
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture
def fake(serving: FakeUpstream) -> FakeUpstream:
    serving.__dict__.update(asked=[], headers=[], paths=[], has_ended=threading.Event())
    serving.models = {"data": [{"id": "first"}, {"id": "second"}]}
    return serving


async def said_by(speaker: UpstreamSpeaker, into: list[Said | Spoken] | None = None) -> list[Said | Spoken]:
    said = [] if into is None else into
    async for each in speaker.speak(TURNS, DRAWING, owner="me", scope=None):
        said.append(each)
    return said


def test_what_the_upstream_says_is_passed_on_piece_by_piece(fake: FakeUpstream) -> None:
    fake.sends(event(""), b": comment\n\n", event("At "), event("nine"), event(finish="stop"), USAGE, DONE, event("no"))
    said = asyncio.run(said_by(UpstreamSpeaker(fake.url, "small", "secret")))
    assert said == [Said("text", "At "), Said("text", "nine"), Spoken("stop", 11, 3)]
    (asked,), (headers,) = fake.asked, fake.headers
    assert asked["messages"] == [{"role": "user", "content": "Hi"}]
    assert (asked["model"], asked["stream"], asked["max_tokens"], asked["seed"]) == ("small", True, 64, 0)
    assert headers["authorization"] == "Bearer secret"


def test_lines_may_be_cut_anywhere(fake: FakeUpstream) -> None:
    whole = event("At nïne").replace(b"\n", b"\r\n") + event(finish="length") + DONE
    fake.sends(*(whole[place : place + 1] for place in range(len(whole))))
    assert asyncio.run(said_by(UpstreamSpeaker(fake.url, "m", None))) == [
        Said("text", "At nïne"),
        Spoken("length", 0, 0),
    ]


BROKEN = {
    "no JSON": (b"data: {nonsense\n\n",),
    "deep JSON": (b"data: " + b"[" * 100_000 + b"\n\n",),
    "no object": (b"data: [1]\n\n",),
    "an error": (event("At"), b'data: {"error": {"message": "secret of the upstream"}}\n\n'),
    "no end": (event("At nine"), event(finish="stop")),
    "no end of the model": (event("At nine"), DONE),
    "a cut event": (event("At nine"), b'data: {"choices": [{"delta": {"con'),
    "a huge line": (b": " + b"x" * (2 << 20) + b"\n\n", event(finish="stop"), DONE),
    "an endless answer": (*(event("x" * 1000),) * 700, event(finish="stop"), DONE),
    "another end": (event("At", "content_filter"), DONE),
    "an end that is a list": (event("At", ["stop"]), DONE),
    "a tool call": (b'data: {"choices": [{"delta": {"tool_calls": [{"id": "1"}]}}]}\n\n', event(finish="stop"), DONE),
    "text that is a number": (event(7), event(finish="stop"), DONE),
    "half a character": (b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n', event(finish="stop"), DONE),
    "bytes that are no text": (b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n', event(finish="stop"), DONE),
    "no choices": (b'data: {"choices": null}\n\n', DONE),
    "no delta": (b'data: {"choices": [{}]}\n\n', DONE),
    "a delta that is text": (b'data: {"choices": [{"delta": "At"}]}\n\n', DONE),
}


@pytest.mark.parametrize("pieces", BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_one_error_that_repeats_nothing(fake: FakeUpstream, pieces: tuple[bytes, ...]) -> None:
    fake.sends(*pieces)
    said: list[Said | Spoken] = []
    with pytest.raises(ApiError, match="the upstream model failed: it") as refused:
        asyncio.run(said_by(UpstreamSpeaker(fake.url, "m", None), said))
    assert refused.value.status == 502
    assert "secret" not in str(refused.value)
    assert not any(isinstance(each, Spoken) for each in said)


@pytest.mark.parametrize(
    "respond",
    [
        lambda: JSONResponse({"error": {"message": "secret"}}, 500),
        lambda: JSONResponse({"error": {"message": "secret"}}, 401),
        lambda: JSONResponse({"choices": []}),
        lambda: Response(DONE, media_type="text/html"),
        lambda: Response(DONE, media_type="text/event-stream", headers={"Content-Encoding": "gzip"}),
        lambda: RedirectResponse("/v1/elsewhere"),
        lambda: RedirectResponse("http://169.254.169.254/latest"),
    ],
)
def test_a_response_that_is_no_stream_is_one_error_and_no_redirect_is_followed(
    fake: FakeUpstream, respond: Callable[[], Response]
) -> None:
    fake.respond = respond
    with pytest.raises(ApiError) as refused:
        asyncio.run(said_by(UpstreamSpeaker(fake.url, "m", "key")))
    assert (refused.value.status, "secret" in str(refused.value)) == (502, False)
    assert fake.paths == []
    assert len(fake.asked) == 1


def test_a_silent_upstream_is_left(fake: FakeUpstream) -> None:
    fake.sends(event("At"), b"wait")
    said: list[Said | Spoken] = []
    with pytest.raises(ApiError, match="too slow"):
        asyncio.run(said_by(UpstreamSpeaker(fake.url, "m", None, Patience(silent_s=0.2)), said))
    assert said == [Said("text", "At")]
    assert fake.has_ended.wait(60)


def test_an_upstream_that_sends_for_ever_is_left(fake: FakeUpstream) -> None:
    fake.sends(*(event("x"),) * 50, event(finish="stop"), DONE)
    with pytest.raises(ApiError, match="too slow"):
        asyncio.run(said_by(UpstreamSpeaker(fake.url, "m", None, Patience(answer_s=-1.0))))


def test_an_upstream_that_is_not_there_is_one_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        speaker = UpstreamSpeaker(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", "m", None)
        with pytest.raises(ApiError, match="cannot be reached") as refused:
            asyncio.run(said_by(speaker))
    assert refused.value.status == 502


def test_proxies_of_the_environment_are_not_used(fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    fake.sends(event("Yes"), event(finish="stop"), DONE)
    assert asyncio.run(said_by(UpstreamSpeaker(fake.url, "m", None)))[0] == Said("text", "Yes")
    assert open_upstream(fake.url, None, None).name == f"{fake.url} first"


def test_leaving_an_answer_ends_it_at_the_upstream(fake: FakeUpstream) -> None:
    fake.sends(event("At"), b"wait")

    async def leave() -> None:
        speaking = UpstreamSpeaker(fake.url, "m", None).speak(TURNS, DRAWING, owner="me", scope=None)
        assert await anext(speaking) == Said("text", "At")
        await speaking.aclose()

    asyncio.run(leave())
    assert fake.has_ended.wait(60)


def test_passages_are_sent_as_text_and_the_key_is_in_no_name(fake: FakeUpstream) -> None:
    fake.sends(event("Yes"), event(finish="stop"), DONE)
    speaker = UpstreamSpeaker(fake.url, "m", "secret")
    turns = (Turn("user", (Part("passage", "[1] Text"), Part("text", "Why?"))),)

    async def ask() -> None:
        async for _ in speaker.speak(turns, DRAWING, owner="me", scope=None):
            pass

    asyncio.run(ask())
    assert fake.asked[0]["messages"] == [{"role": "user", "content": "Passage:\n[1] Text\n\nWhy?"}]
    assert "secret" not in speaker.name
    assert (speaker.room(turns), speaker.readers, speaker.cites_with_parts) == (None, None, False)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8080",
        "file:///etc/passwd",
        "http://",
        "http://user:pw@h/v1",
        "http://h/v1?key=1",
        "http://h/v1#a",
        "",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="upstream"):
        UpstreamSpeaker(url, "m", None)
    with pytest.raises(ConfigError, match="upstream"):
        open_upstream(url, None, None)


@pytest.mark.parametrize("models", [{}, {"data": []}, {"data": [{"id": 7}]}, [], "x", {"data": [{"id": "a\nb"}]}])
def test_an_upstream_without_models_is_an_error_at_the_start(fake: FakeUpstream, models: object) -> None:
    fake.models = models
    with pytest.raises(ConfigError, match="lists no model"):
        open_upstream(fake.url, None, None)


def test_the_key_is_read_from_a_file(fake: FakeUpstream, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret-key\n")
    assert open_upstream(fake.url, None, tmp_path / "key").name.endswith(" first")
    assert fake.headers[-1]["authorization"] == "Bearer secret-key"
    for content in ("", "two words", "a\nb", "ключ"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(ConfigError, match="upstream-key"):
            open_upstream(fake.url, None, tmp_path / "key")
    with pytest.raises(ConfigError, match="No such file"):
        open_upstream(fake.url, None, tmp_path / "none")


def test_a_lying_upstream_sends_no_citation_that_was_not_checked(fake: FakeUpstream, tmp_path: Path) -> None:
    index = make_index(tmp_path)
    documents = opened_documents(index)
    speaker = UpstreamSpeaker(fake.url, "m", None)
    said = "The notice period is six weeks to the end of a quarter [1][99]. It is nine years [0] [1]. Use a\\[1\\] [x]."
    fake.sends(*(event(char) for char in said), event(finish="stop"), DONE)
    sent = asyncio.run(answered(documents, speaker, "How long is the notice period?"))
    assert text_of(sent) == (
        "The notice period is six weeks to the end of a quarter [1]. It is nine years [1] (unsupported). "
        "Use a\\[1\\] [x] (unsupported)."
    )
    assert [(each.number, each.supported) for each in citations_of(sent)] == [(1, True), (1, False)]
    assert sent[-1].grounding["removed"] == 2

    fake.sends(event("The notice period is [1"), b"data: nonsense\n\n")
    got: list[Any] = []
    with pytest.raises(ApiError, match="not JSON"):
        asyncio.run(_into(documents, speaker, got))
    assert (text_of(got), any(isinstance(each, Ended) for each in got)) == ("The notice period is", False)
    documents.close()
    assert (events(index)[-1]["kind"], events(index)[-1]["cut"]) == ("answer", 1)


async def _into(documents: Any, speaker: UpstreamSpeaker, got: list[Any]) -> None:
    from tests.serving.server.speakers import caller, listen, user

    await listen(documents.answer(speaker, user("How long is the notice period?"), DRAWING, caller("ada")), got)


def test_the_longest_wait_is_finite() -> None:
    assert all(0 < seconds < 3601 for seconds in upstream.Patience())
