"""The API over HTTP: whole and streamed answers, errors with their status, and answers that end when they must."""

import asyncio
import json
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from tests.serving.server.running import CONTEXT, WORDS, Running, Script, running, wait_until

from ibidem.conversation import Conversation
from ibidem.errors import AccessDenied, AuditError, ConfigError, NoRoom
from ibidem.grounding.store import Chunk
from ibidem.readers import Readers
from ibidem.serving.config import LimitsConfig
from ibidem.serving.server import responses
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.guard import COOKIE
from ibidem.serving.server.speech import Cited, Delta, Ended, Said, SamplingParams, Speaker
from ibidem.serving.server.tokens import Caller

TEXT = "".join(WORDS)
HI = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "ibidem", "messages": HI}
CITED = Cited(
    3, 6, 1, "6f1d", "handbook/leave.md", ("Leave", "Notice"), (120, 260), "six weeks", supported=True, score=0.5
)
GROUNDING = {"abstained": False, "removed": 0, "left_out": 2, "unsupported": [[0, 2]]}


class Handbook:
    """Documents that say the same to everybody."""

    def __init__(self, failure: Exception | None = None, pieces: int = 1) -> None:
        self.failure, self.pieces = failure, pieces
        self.asked: list[tuple[Speaker | None, Conversation, SamplingParams, Caller]] = []

    async def answer(
        self, speaker: Speaker | None, turns: Conversation, sampling: SamplingParams, caller: Caller
    ) -> AsyncGenerator[Delta | Ended]:
        self.asked.append((speaker, turns, sampling, caller))
        for _ in range(self.pieces):
            yield Delta("So ")
        if self.failure is not None:
            raise self.failure
        yield Delta("[1]", (CITED,))
        yield Ended("stop", 12, 3, GROUNDING)

    async def show(self, chunk: str, principal: str) -> Chunk:
        raise AccessDenied(chunk)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a model alone."""
    with running(tmp_path_factory.mktemp("api") / "state") as server:
        yield server


def events(text: str) -> list[Any]:
    """Return the data of server-sent events."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def test_an_answer_is_the_same_whole_and_streamed(plain: Running) -> None:
    with plain.client() as client:
        whole = client.post("/v1/chat/completions", json={**CHAT, "seed": 7}).json()
        response = client.post("/v1/chat/completions", json={**CHAT, "seed": 7, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", *WORDS, None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(WORDS) + 1) + ["stop"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        (chunks[0]["id"], "chat.completion.chunk", "ibidem")
    }
    assert "usage" not in chunks[0]
    (choice,) = whole["choices"]
    assert choice["message"] == {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []}
    assert (choice["finish_reason"], whole["object"], whole["model"]) == ("stop", "chat.completion", "ibidem")
    assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert whole["system_fingerprint"] == chunks[0]["system_fingerprint"] == plain.service.fingerprint
    assert "grounding" not in whole


def test_usage_is_streamed_where_it_is_asked_for(plain: Running) -> None:
    with plain.client() as client:
        for path, body in (("chat/completions", CHAT), ("completions", {"model": "ibidem", "prompt": "Hi"})):
            streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
            *chunks, last, _ = events(client.post(f"/v1/{path}", json=streamed).text)
            assert {json.dumps(chunk["usage"]) for chunk in chunks} == {"null"}
            assert last["choices"] == []
            assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


def test_a_text_is_continued_whole_and_streamed(plain: Running) -> None:
    body = {"model": "ibidem", "prompt": "def f(", "suffix": "return 1", "max_tokens": 2}
    with plain.client() as client:
        whole = client.post("/v1/completions", json=body).json()
        *chunks, _ = events(client.post("/v1/completions", json={**body, "stream": True}).text)
    assert (whole["object"], whole["choices"][0]["text"]) == ("text_completion", "At nine")
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["At ", "nine", ""]
    assert whole["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert plain.service.speaker.asked[-1][0] == ("def f(", "return 1")  # type: ignore[union-attr]


def test_every_text_survives_its_event(tmp_path: Path) -> None:
    words = ('"quoted"\\', "\n\n", "data: x\n\n", "ü€😀", "\u2028\x1b", "</script>")
    with running(tmp_path / "state", Script(words)) as server, server.client() as client:
        for path, body in (("chat/completions", CHAT), ("completions", {"model": "ibidem", "prompt": "Hi"})):
            *chunks, _ = events(client.post(f"/v1/{path}", json={**body, "stream": True}).text)
            texts = [
                chunk["choices"][0].get("text", chunk["choices"][0].get("delta", {}).get("content")) for chunk in chunks
            ]
            assert [text for text in texts if text] == list(words)
            whole = client.post(f"/v1/{path}", json=body).json()["choices"][0]
            assert "".join(words) in {whole.get("text"), whole.get("message", {}).get("content")}


def test_the_model_is_told_who_asks_and_what(plain: Running) -> None:
    speaker = plain.service.speaker
    assert isinstance(speaker, Script)
    (ada,) = [token.caller for token in plain.service.tokens.listed()]
    with plain.client() as client:
        client.post("/v1/chat/completions", json={**CHAT, "user": "eve", "temperature": 0.5, "stop": ["x"]})
    turns, sampling, owner, scope = speaker.asked[-1]
    assert (turns[0].text, owner, scope) == ("Hi", ada.token, "ada")
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop) == (0.5, 0.95, 512, ("x",))


def test_the_models_are_listed(plain: Running) -> None:
    with plain.client() as client:
        (model,) = client.get("/v1/models").json()["data"]
        assert model["id"] == "ibidem"
        assert client.get("/v1/models/ibidem").json() == model
        assert client.get("/v1/models/other").status_code == 404


def test_a_model_of_private_documents_is_not_there_for_others(tmp_path: Path) -> None:
    bodies = {"/v1/chat/completions": CHAT, "/v1/completions": {"model": "ibidem", "prompt": "a"}}
    answers: dict[str, list[tuple[int, bytes]]] = {}
    for name, readers in (
        ("hr", Readers(frozenset(["hr"]), frozenset())),
        ("ada", Readers(frozenset(["ada"]), frozenset())),
    ):
        with running(tmp_path / name, Script(readers=readers)) as server, server.client() as client:
            there = [client.post(path, json=body) for path, body in bodies.items()]
            unknown = [client.post(path, json={**body, "model": "gpt-5"}) for path, body in bodies.items()]
            there.append(client.get("/v1/models/ibidem"))
            unknown.append(client.get("/v1/models/gpt-5"))
            listed = client.get("/v1/models").json()["data"]
        answers[name] = [(each.status_code, each.content) for each in there]
        if name == "hr":
            assert answers[name] == [(each.status_code, each.content) for each in unknown]
            assert [status for status, _ in answers[name]] == [404] * 3
            assert listed == []
        else:
            assert [status for status, _ in answers[name]] == [200] * 3
            assert len(listed) == 1


def test_answers_from_documents_have_their_citations(tmp_path: Path) -> None:
    handbook = Handbook()
    with running(tmp_path / "state", documents=handbook) as server, server.client() as client:
        whole = client.post("/v1/chat/completions", json=CHAT).json()
        *chunks, _ = events(client.post("/v1/chat/completions", json={**CHAT, "stream": True}).text)
        assert (
            client.post("/v1/completions", json={"model": "ibidem", "prompt": "a"}).json()["error"]["param"] == "model"
        )
    annotation = {
        "type": "url_citation",
        "url_citation": {
            "start_index": 3,
            "end_index": 6,
            "title": "Leave > Notice",
            "url": f"{server.url}/passages/6f1d",
        },
        "chunk": "6f1d",
        "number": 1,
        "path": "handbook/leave.md",
        "title_path": ["Leave", "Notice"],
        "span": [120, 260],
        "quote": "six weeks",
        "supported": True,
        "score": 0.5,
    }
    message = whole["choices"][0]["message"]
    assert message["content"][3:6] == "[1]"
    assert message["annotations"] == [annotation]
    assert whole["grounding"] == chunks[-1]["grounding"] == GROUNDING
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "So "},
        {"content": "[1]", "annotations": [annotation]},
        {},
    ]
    speaker, turns, sampling, caller = handbook.asked[-1]
    assert speaker is None
    assert (turns[0].text, sampling.temperature, caller.principal) == ("Hi", 0.0, "ada")


def test_a_chat_model_alone_continues_no_text(tmp_path: Path) -> None:
    class Chatting:
        name, cites_with_parts, readers = "http://upstream", False, None

        def room(self, turns: Conversation) -> None:
            return None

        def speak(self, *_: Any, **__: Any) -> Any:
            return Script().speak((), SamplingParams(9, 0, 1, 0), owner="", scope=None)

    with running(tmp_path / "state", Chatting()) as server, server.client() as client:
        refused = client.post("/v1/completions", json={"model": "ibidem", "prompt": "a"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
        assert client.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ApiError(418, "told"), 418),
        (AccessDenied("/srv/acl.yaml has changed"), 403),
        (AuditError("audit log /srv/a: full"), 503),
        (NoRoom("not even one passage fits"), 400),
        (ConfigError("acl /srv/acl.yaml: gone"), 500),
        (RuntimeError("boom at /srv, the secret question"), 500),
    ],
)
def test_an_error_before_the_first_piece_has_its_status_and_one_line(
    failure: Exception, status: int, stream: bool, tmp_path: Path
) -> None:
    with running(tmp_path / "state", documents=Handbook(failure, pieces=0)) as server, server.client() as client:
        response = client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        for word in ("srv", "secret", "boom", "Traceback", "ibidem/"):
            assert word not in response.text
        assert "\n" not in response.json()["error"]["message"]


def test_an_error_behind_the_first_piece_is_the_last_event(tmp_path: Path) -> None:
    with running(tmp_path / "state", documents=Handbook(RuntimeError("the secret question"))) as server:
        with server.client() as client:
            text = client.post("/v1/chat/completions", json={**CHAT, "stream": True}).text
            whole = client.post("/v1/chat/completions", json=CHAT)
        *_, piece, error = events(text)
        assert piece["choices"][0]["delta"] == {"content": "So "}
        assert error["error"]["type"] == "server_error"
        assert "[DONE]" not in text
        assert "secret" not in text
        assert whole.status_code == 500


def test_a_prompt_that_is_too_long_is_refused_before_the_first_byte(plain: Running) -> None:
    long = "x" * (CONTEXT + 9)
    with plain.client() as client:
        for path, body, param in (
            ("chat/completions", {"messages": [{"role": "user", "content": long}]}, "messages"),
            ("completions", {"prompt": long}, "prompt"),
        ):
            for stream in (False, True):
                response = client.post(f"/v1/{path}", json={"model": "ibidem", "stream": stream, **body})
                error = response.json()["error"]
                assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
                assert "by at least 10 tokens" in error["message"]


def begin(server: Running, *, stream: bool, by: str = "") -> socket.socket:
    """Send a request and return its connection.

    Args:
        server: whose API it is.
        stream: whether the answer is streamed.
        by: the header that says who calls; by default ada's token.
    """
    by = by or f"Authorization: Bearer {server.token}"
    body = json.dumps({**CHAT, "stream": stream}).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{by}\r\n"
    connection.sendall(
        f"{head}Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", [0, 2])
def test_an_answer_ends_when_its_reader_leaves(stream: bool, said: int, tmp_path: Path) -> None:
    script = Script(gate=threading.Semaphore(said))
    with running(tmp_path / "state", script) as server:
        with begin(server, stream=stream) as connection:
            wait_until(lambda: script.open == 1)
            if stream and said:
                connection.recv(1)
        wait_until(lambda: script.open == 0 and not len(server.service.answers))


def test_readers_that_leave_at_random_moments_lose_no_slot(tmp_path: Path) -> None:
    leave_at_random(tmp_path, 200)


@pytest.mark.slow
def test_ten_thousand_readers_that_leave_lose_no_slot(tmp_path: Path) -> None:
    leave_at_random(tmp_path, 10_000)


def leave_at_random(folder: Path, times: int) -> None:
    rng, script = Random(0), Script(words=["x"] * 50, gate=threading.Semaphore(10**9))
    with running(folder / "state", script, limits=LimitsConfig(requests_per_minute=10**6)) as server:
        tasks_before = server.num_tasks
        for _ in range(times):
            with begin(server, stream=rng.random() < 0.7) as connection:
                time.sleep(rng.choice((0, 0.001, 0.003)))
                if rng.random() < 0.5:
                    connection.setblocking(False)
                    with suppress(BlockingIOError):
                        connection.recv(rng.randint(1, 2000))
        wait_until(lambda: script.open == 0 and not len(server.service.answers))
        with server.client() as client:
            assert client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 1}).status_code == 200
        wait_until(lambda: server.num_tasks == tasks_before)


@pytest.mark.parametrize("stream", [False, True])
def test_a_revoked_token_ends_what_is_being_sent(stream: bool, tmp_path: Path) -> None:
    script = Script(gate=threading.Semaphore(1))
    with running(tmp_path / "state", script) as server, begin(server, stream=stream) as connection:
        wait_until(lambda: script.gate._value == 0)  # type: ignore[union-attr]
        begun = connection.recv(1) if stream else b""
        server.service.tokens.revoke(server.service.tokens.listed()[0].caller.token)
        assert script.gate is not None
        script.gate.release(9)
        with connection.makefile("rb") as file:
            text = begun + file.read()
        assert text.startswith(b"HTTP/1.1 200 " if stream else b"HTTP/1.1 401 ")
        assert (b"At " in text) == stream
        assert b"was revoked" in text
        assert b"nine" not in text
        assert b"[DONE]" not in text
        wait_until(lambda: script.open == 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", [0, 1])
def test_a_revoked_token_ends_an_answer_while_the_model_is_silent(stream: bool, said: int, tmp_path: Path) -> None:
    script = Script(gate=threading.Semaphore(said))
    with running(tmp_path / "state", script) as server, begin(server, stream=stream) as connection:
        wait_until(lambda: script.open == 1 and not script.gate._value)  # type: ignore[union-attr]
        begun = connection.recv(1) if stream and said else b""
        server.service.tokens.revoke(server.service.tokens.listed()[0].caller.token)
        wait_until(lambda: script.open == 0)
        with connection.makefile("rb") as file:
            text = begun + file.read()
        assert text.startswith(b"HTTP/1.1 200 " if stream and said else b"HTTP/1.1 401 ")
        assert b"was revoked" in text
        assert b"[DONE]" not in text


def test_logging_out_ends_what_is_sent_to_this_session_alone(tmp_path: Path) -> None:
    script = Script(gate=threading.Semaphore(0))
    with running(tmp_path / "state", script) as server:
        one, other = (f"{COOKIE}={server.service.tokens.new_session(server.token)}" for _ in range(2))
        with (
            begin(server, stream=True, by=f"Cookie: {one}") as ended,
            begin(server, stream=True, by=f"Cookie: {other}") as kept,
        ):
            wait_until(lambda: script.open == 2)
            assert httpx.post(f"{server.url}/logout", headers={"Cookie": one}).status_code == 303
            with ended.makefile("rb") as file:
                assert b"session has ended" in file.read()
            wait_until(lambda: script.open == 1)
            assert script.gate is not None
            script.gate.release(9)
            with kept.makefile("rb") as file:
                assert b"[DONE]" in file.read()


def test_others_are_answered_while_a_login_waits_for_the_database(tmp_path: Path) -> None:
    with (
        running(tmp_path / "state") as server,
        closing(sqlite3.connect(server.service.tokens.file, isolation_level=None)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("BEGIN IMMEDIATE")
        entering = pool.submit(httpx.post, f"{server.url}/login", data={"token": server.token})
        wait_until(server.service.tokens._writing.locked)
        assert httpx.get(f"{server.url}/v1/models", headers=server.bearer).status_code == 200
        assert not entering.done()
        other.execute("COMMIT")
        assert entering.result().status_code == 303


def test_a_prompt_is_measured_beside_the_event_loop(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []

    class Measuring(Script):
        def room(self, turns: Conversation) -> int:
            threads.append(threading.current_thread())
            return super().room(turns)

        def room_behind(self, prompt: str, suffix: str | None) -> int:
            threads.append(threading.current_thread())
            return super().room_behind(prompt, suffix)

        def _said(self, *given: Any) -> AsyncGenerator[Any]:
            loops.append(threading.current_thread())
            return super()._said(*given)

    loops: list[threading.Thread] = []
    script = Measuring()
    with running(tmp_path / "state", script) as server, server.client() as client:
        client.post("/v1/chat/completions", json=CHAT)
        client.post("/v1/completions", json={"model": "ibidem", "prompt": "a"})
    assert len(threads) == len(loops) == 2
    assert not set(threads) & set(loops)


@pytest.mark.parametrize("sent", [0, 1])
def test_a_head_that_was_canceled_is_sent_whole_and_once(sent: int) -> None:
    messages: list[str] = []

    async def send(message: Any) -> None:
        if len(messages) == sent and not free.is_set():
            await asyncio.sleep(30)  # until it is canceled
        messages.append(message["type"])

    async def interrupted() -> None:
        head = responses._Head(send, b"data: first")
        late = asyncio.create_task(head.send())
        await asyncio.sleep(0)
        late.cancel()
        await asyncio.wait((late,))
        free.set()
        await head.send()
        await head.send()

    free = threading.Event()
    asyncio.run(interrupted())
    assert messages == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("said", [0, 2])
def test_a_shutdown_tells_every_reader(said: int, tmp_path: Path) -> None:
    script = Script(gate=threading.Semaphore(said))
    with running(tmp_path / "state", script) as server:
        connections = [begin(server, stream=stream) for stream in (True, False)]
        wait_until(lambda: script.open == 2 and not script.gate._value)  # type: ignore[union-attr]
        asyncio_stop(server)
        texts = []
        for connection in connections:
            with connection, connection.makefile("rb") as file:
                texts.append(file.read())
    streamed, whole = texts
    assert whole.startswith(b"HTTP/1.1 503 ")
    assert streamed.startswith(b"HTTP/1.1 503 ") or b"200 OK" in streamed
    for text in texts:
        assert b'"message":"the server is shutting down"' in text
        assert b"[DONE]" not in text
    assert script.open == 0


def asyncio_stop(server: Running) -> None:
    """Stop a server as its signal handler does, in its own thread."""
    loop = next(iter(server.service.answers._permissions)).get_loop()
    loop.call_soon_threadsafe(server.server.stop)


def test_no_answer_begins_while_the_server_shuts_down() -> None:
    async def left() -> dict[str, Any]:
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def work() -> None:
        raise AssertionError

    async def ask() -> None:
        answers = responses.OpenAnswers()
        answers.end_all()
        with pytest.raises(ApiError, match="shutting down"):
            await answers.run(work(), left, lambda: True)

    asyncio.run(ask())


def test_answers_end_if_nobody_can_tell_whether_their_callers_may_listen() -> None:
    class UnreadableError(Exception):
        pass

    def is_permitted() -> bool:
        raise UnreadableError

    async def forever() -> Any:
        await asyncio.Event().wait()

    async def ask() -> None:
        answers = responses.OpenAnswers()
        for _ in range(2):  # the second one is looked after too, once none was left
            await asyncio.gather(*(answers.run(forever(), forever, is_permitted) for _ in range(3)))
            assert len(answers) == 0
            await asyncio.sleep(2 * responses.WATCH_S)
            assert answers._watch is None

    asyncio.run(ask())


def test_a_streamed_answer_that_waits_long_sends_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "HEAD_AFTER_S", 0.01)
    script = Script(gate=threading.Semaphore(0))
    with (
        running(tmp_path / "state", script) as server,
        server.client() as client,
        client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response,
    ):
        assert response.status_code == 200  # though nothing has been said
        assert script.gate is not None
        script.gate.release(9)
        assert len(events("".join(response.iter_text()))) == len(WORDS) + 3


def test_parts_of_citations_without_documents_are_text() -> None:
    async def said() -> AsyncGenerator[Any]:
        yield Said("text", "At nine")
        yield Said("cite", "1")

    async def collected() -> list[Any]:
        return [piece async for piece in responses.unchecked(said())]

    assert asyncio.run(collected()) == [Delta("At nine"), Delta(" [1]")]


@pytest.mark.parametrize(("is_closing", "status"), [(True, 503), (False, 401)])
def test_an_answer_that_is_ended_before_its_first_step_is_refused(is_closing: bool, status: int) -> None:
    async def listening() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def ended() -> ApiError:
        answers = responses.OpenAnswers()
        work = asyncio.create_task(answers.run(asyncio.sleep(9), listening, lambda: True))
        await asyncio.sleep(0)  # the task of the answer is made, and has not begun
        answers.end_all()
        answers.is_closing = is_closing
        with pytest.raises(ApiError) as refusal:
            await work
        return refusal.value

    assert asyncio.run(ended()).status == status
