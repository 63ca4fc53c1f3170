"""OpenAI's own client, unmodified, against a server."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.serving.server.running import WORDS, Running, Script, running, wait_until
from tests.serving.server.test_api import CITED, GROUNDING, Handbook

from ibidem.serving.config import LimitsConfig

TEXT = "".join(WORDS)
HI: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("openai") / "state") as one:
        yield one


def client_of(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0, timeout=30)


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with client_of(server) as opened:
        yield opened


def test_a_conversation_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="ibidem", messages=HI, seed=7, temperature=0.0, max_tokens=99, user="x"
    )
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (TEXT, "assistant", "stop")
    assert choice.message.annotations == []
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 4, 6)
    again = [*HI, choice.message, {"role": "user", "content": "And today?"}]
    assert client.chat.completions.create(model="ibidem", messages=again).choices[0].message.content == TEXT


def test_a_conversation_is_streamed(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="ibidem", messages=HI, stream=True, stream_options={"include_usage": True}, stop=["###"]
        )
    )
    assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["", *WORDS, None]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6


def test_the_streaming_helper_of_the_client_reads_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="ibidem", messages=HI) as stream:
        assert "".join(event.delta for event in stream if event.type == "content.delta") == TEXT
        assert stream.get_final_completion().choices[0].message.content == TEXT


def test_many_conversations_are_answered_at_once(server: Running) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as client:

            async def one() -> str:
                stream = await client.chat.completions.create(model="ibidem", messages=HI, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one() for _ in range(20)))

    assert asyncio.run(ask()) == [TEXT] * 20


def test_a_text_is_continued(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="ibidem", prompt="def f(", suffix="return", max_tokens=2, echo=False, n=1)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("At nine", "length")
    streamed = client.completions.create(model="ibidem", prompt="def f(", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == TEXT


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["ibidem"]
    assert client.models.retrieve("ibidem").owned_by == "ibidem"


def test_errors_are_those_of_the_client(server: Running, client: openai.OpenAI) -> None:
    def ask(**fields: Any) -> Any:
        return client.chat.completions.create(**{"model": "ibidem", "messages": HI, **fields})

    tools = [{"type": "function", "function": {"name": "f"}}]
    for fields, kind, param in (
        ({"tools": tools}, openai.BadRequestError, "tools"),
        ({"n": 2}, openai.BadRequestError, "n"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        ({"model": "gpt-5"}, openai.NotFoundError, "model"),
        ({"extra_body": {"top_k": 5}}, openai.BadRequestError, "top_k"),
        ({"messages": [{"role": "user", "content": "x" * 2000}], "stream": True}, openai.BadRequestError, "messages"),
    ):
        with pytest.raises(kind) as caught:
            ask(**fields)
        assert caught.value.param == param
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="ib-wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError, match="a valid token is needed"):
        stranger.models.list()


def test_the_client_waits_as_long_as_a_rate_asks_it_to(tmp_path: Path) -> None:
    with (
        running(tmp_path / "state", limits=LimitsConfig(requests_per_minute=60)) as server,
        client_of(server) as client,
    ):
        for _ in range(60):
            client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            [client.models.list() for _ in range(60)]
        assert caught.value.response.headers["retry-after"] == "1"
        assert len(client.with_options(max_retries=3).models.list().data) == 1


def test_an_error_inside_a_stream_is_raised(tmp_path: Path) -> None:
    handbook = Handbook(RuntimeError("boom"))
    with running(tmp_path / "state", documents=handbook) as server, client_of(server) as client:
        stream = client.chat.completions.create(model="ibidem", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="the server failed"):
            list(stream)


def test_citations_are_annotations(tmp_path: Path) -> None:
    with running(tmp_path / "state", documents=Handbook()) as server, client_of(server) as client:
        answer = client.chat.completions.create(model="ibidem", messages=HI)
        message = answer.choices[0].message
        assert message.annotations is not None
        (annotation,) = message.annotations
        cited = annotation.url_citation
        assert message.content is not None
        assert message.content[cited.start_index : cited.end_index] == "[1]"
        assert (cited.title, cited.url) == ("Leave > Notice", f"{server.url}/passages/6f1d")
        assert annotation.model_extra is not None
        assert annotation.model_extra["quote"] == CITED.quote
        assert answer.model_extra == {"grounding": GROUNDING}
        chunks = list(client.chat.completions.create(model="ibidem", messages=HI, stream=True))
        deltas = [chunk.choices[0].delta.model_extra or {} for chunk in chunks]
        assert [len(extra.get("annotations", [])) for extra in deltas] == [0, 0, 1, 0]


@pytest.mark.parametrize("said", [0, 1])
def test_a_stream_that_the_client_closes_frees_its_place(said: int, tmp_path: Path) -> None:
    script = Script(gate=threading.Semaphore(said))

    async def ask(server: Running) -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as client:
            asking = asyncio.create_task(client.chat.completions.create(model="ibidem", messages=HI, stream=True))
            while script.open == 0 or (said and not asking.done()):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if said:
                await (await asking).close()
            else:
                asking.cancel()

    with running(tmp_path / "state", script) as server:
        asyncio.run(ask(server))
        wait_until(lambda: script.open == 0 and not len(server.service.answers))
