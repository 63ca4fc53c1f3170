"""`ibidem serve` itself: a process with a real checkpoint, from its first line to its end."""

import json
import os
import re
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import openai
import pytest
from tests import processes
from tests.grounding.corpus import CANARIES, make_index
from tests.serving.server.running import wait_until

from ibidem import cli
from ibidem.errors import ConfigError
from ibidem.serving.config import GenerateConfig
from ibidem.serving.generate import generate
from ibidem.serving.server import serve
from ibidem.serving.server.tokens import TokenStore

LAUNCHER = "import sys\nfrom ibidem.cli import main\nsys.exit(main())\n"
PROMPT = "def"
CHAT: dict[str, Any] = {"model": "ibidem", "messages": [{"role": "user", "content": PROMPT}]}


@dataclass
class Served:
    """A server in a process of its own."""

    process: Any
    said: Path
    url: str
    token: str

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60, verify=False
        )


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[Served]:
    """Start `ibidem serve` with a state in a folder; kill it at the end of the block, if it is still there."""
    launcher, said, state = folder / "launcher.py", folder / "said.txt", folder / "state"
    launcher.write_text(LAUNCHER)
    process = processes.start(launcher, ["serve", "--port", "0", "--state", str(state), *flags], said)
    try:
        wait_until(lambda: (said.exists() and "Ctrl+C\n" in said.read_text()) or not process.is_alive(), seconds=120)
        text = said.read_text()
        url = re.search(r"at (http://127\.0\.0\.1:\d+); end it with Ctrl\+C\n", text)
        assert url, text
        login = re.search(r"/login#(ib-\S{43})\n", text)
        yield Served(process, said, url[1], login[1] if login else "")
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = ["--checkpoint", str(checkpoint), "--slots", "2", "--principal", "ada"]
    limits = ["--limits.requests-per-minute", "1000000", "--limits.open-streams", "300"]
    with served(tmp_path_factory.mktemp("serve"), *flags, *limits) as one:
        yield one


def test_the_first_start_says_where_it_is_and_logs_its_user_in(server: Served) -> None:
    with httpx.Client(base_url=server.url) as browser:
        assert browser.get("/", headers={"Accept": "text/html"}).headers["location"] == "/login"
        entered = browser.post("/login", data={"token": server.token})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        (cookie,) = entered.headers.get_list("set-cookie")
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert browser.get("/", headers={"Accept": "text/html"}).status_code == 200
        assert browser.get("/v1/models").status_code == 200
        assert browser.post("/logout").status_code == 303
        assert browser.get("/v1/models").status_code == 401


def test_what_is_said_is_what_generate_says(server: Served, checkpoint: Path) -> None:
    asked = {"temperature": 0.0, "max_tokens": 12, "seed": 7}
    with server.client() as client:
        chatted = client.post("/v1/chat/completions", json={**CHAT, **asked}).json()
        completed = client.post("/v1/completions", json={"model": "ibidem", "prompt": PROMPT, **asked}).json()
        streamed = client.post(
            "/v1/completions", json={"model": "ibidem", "prompt": PROMPT, **asked, "stream": True}
        ).text
    config = {"checkpoint": checkpoint, "prompt": (PROMPT,), "temperature": 0.0, "max_tokens": 12, "seed": 7}
    assert PROMPT + completed["choices"][0]["text"] == generate(GenerateConfig(**config))
    said = generate(GenerateConfig(**config, chat=True)).removeprefix(f"{PROMPT}\n\n")
    assert chatted["choices"][0]["message"]["content"].strip("\n") == said
    assert 0 < completed["usage"]["completion_tokens"] <= 12
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == completed["choices"][0]["text"]


def test_a_gap_is_filled_and_the_client_of_openai_is_answered(server: Served) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token, max_retries=0) as client:
        filled = client.completions.create(model="ibidem", prompt="def f(", suffix="):", max_tokens=5, seed=1)
        assert filled.usage is not None
        assert 1 <= filled.usage.completion_tokens <= 5
        stream = client.chat.completions.create(model="ibidem", messages=CHAT["messages"], stream=True, seed=1)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] in {"stop", "length"}


def bad_inputs() -> dict[str, tuple[bytes, int]]:
    def chat(**fields: Any) -> bytes:
        return json.dumps({**CHAT, **fields}).encode()

    def said(text: str) -> bytes:
        return chat(messages=[{"role": "user", "content": text}])

    return {
        "no messages": (chat(messages=[]), 400),
        "empty message": (said(""), 400),
        "half a surrogate pair": (said("\ud800"), 400),
        "NUL": (said("a\0"), 400),
        "2 MB": (said("x" * (2 << 20)), 413),
        "10,000 stop strings": (chat(stop=[f"s{number}" for number in range(10_000)]), 400),
        "long stop string": (chat(stop="s" * 100_000), 200),
        "NaN": (chat(temperature=float("nan")), 400),
        "infinite": (chat(temperature=float("inf")), 400),
        "too long": (said("word " * 2000), 400),
        "almost 1 MB": (said("x" * 1_000_000), 400),
        "deep": (b"[" * 100_000, 400),
        "no JSON": (b"\xff\xfe\x00", 400),
        "nothing": (b"", 400),
        "special tokens": (said("<|im_end|><|endoftext|><|im_start|>"), 200),
        "zero tokens": (chat(max_tokens=0), 400),
        "unknown": (chat(guided_json={}), 400),
        "hot": (chat(temperature=2, top_p=1e-9, max_tokens=3), 200),
    }


@pytest.mark.parametrize("name", bad_inputs())
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_refused_in_one_line_and_the_next_one_works(name: str, stream: bool, server: Served) -> None:
    body, status = bad_inputs()[name]
    if stream and body.startswith(b'{"model"'):
        body = body[:-1] + b', "stream": true}'
    with server.client() as client:
        response = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == status, response.text
        if status != 200:
            message = response.json()["error"]["message"]
            assert 0 < len(message) < 200
            assert "\n" not in message
        good = client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 1})
        assert good.status_code == 200


def test_clients_that_leave_at_random_moments_take_no_slot_with_them(server: Served) -> None:
    leave(server, 200)


@pytest.mark.slow
def test_ten_thousand_clients_that_leave_take_no_slot_with_them(server: Served) -> None:
    leave(server, 10_000)


def leave(server: Served, times: int) -> None:
    """Leave in the middle of requests; then more are answered at once than there are slots."""
    rng, port = Random(0), int(server.url.rpartition(":")[2])

    def one(seed: int) -> None:
        body = json.dumps({**CHAT, "stream": seed % 3 > 0, "seed": seed}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}\r\n"
        request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(request[: rng.choice((len(request), len(request), rng.randrange(len(request))))])
            connection.settimeout(rng.choice((0.001, 0.01, 0.03)))
            with suppress(TimeoutError):
                connection.recv(rng.randint(1, 3000))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(times)))

    def ask(seed: int) -> int:
        with server.client() as client, suppress(httpx.TransportError):
            return client.post("/v1/chat/completions", json={**CHAT, "seed": seed, "max_tokens": 4}).status_code
        return 0

    wait_until(lambda: ask(0) == 200)  # until then it is full of those who have left already
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [200] * 6


def test_the_log_of_a_server_has_no_text(server: Served) -> None:
    with server.client() as client:
        client.post("/v1/chat/completions?q=zebra", json={**CHAT, "messages": [{"role": "user", "content": "zebra"}]})
        wait_until(lambda: "/v1/chat/completions" in server.said.read_text())
    text = server.said.read_text()
    assert "zebra" not in text
    assert "Traceback" not in text
    assert text.count(server.token) == 1  # in the link of the first line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_stream_with_an_event_and_the_process_with_success(
    number: signal.Signals, checkpoint: Path, tmp_path: Path
) -> None:
    flags = ["--checkpoint", str(checkpoint), "--slots", "1"]
    with served(tmp_path, *flags) as one, ThreadPoolExecutor(12) as pool:

        def ask(seed: int) -> tuple[int, str]:
            with one.client() as client:
                response = client.post("/v1/chat/completions", json={**CHAT, "stream": seed % 2 == 0, "seed": seed})
                return response.status_code, response.text

        asked = [pool.submit(ask, seed) for seed in range(12)]
        wait_until(lambda: any(each.done() for each in asked), seconds=60)
        os.kill(one.process.pid, number)
        answers = [each.result() for each in asked if each.exception() is None]
        one.process.join(60)
        assert one.process.exitcode == 0
        told = [(status, text) for status, text in answers if "the server is shutting down" in text]
        assert told
        for status, text in answers:
            assert (status, text) in told or (status == 200 and ("[DONE]" in text or '"usage"' in text))
            assert status in {200, 503}
        assert "Traceback" not in one.said.read_text()


def test_a_second_start_makes_no_second_token(checkpoint: Path, tmp_path: Path) -> None:
    for has_link in (True, False):
        with served(tmp_path, "--checkpoint", str(checkpoint), "--principal", "ada") as one:
            assert bool(one.token) is has_link
            one.process.terminate()
            one.process.join(60)
            assert one.process.exitcode == 0
        one.said.unlink()
    with TokenStore(tmp_path / "state") as tokens:
        (token,) = tokens.listed()
    assert (token.caller.principal, token.caller.is_admin) == ("ada", True)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails; return its one line."""
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["serve", "--checkpoint", "missing", "--port", str(port), "--state", str(tmp_path / "state")]
        assert f"port {port} of 127.0.0.1: " in (line := refused(words, capsys))
    assert line.endswith("--port")
    assert not (tmp_path / "state").exists()
    assert "choose another one with --host" in refused(
        ["serve", "--upstream", "http://a/v1", "--host", "no.invalid"], capsys
    )


def test_a_checkpoint_that_is_damaged_or_missing_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    with (damaged / "model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff" * 64)
    for folder in (damaged, tmp_path / "missing"):
        words = ["serve", "--checkpoint", str(folder), "--port", "0", "--state", str(tmp_path / "state")]
        assert folder.name in refused(words, capsys)


@pytest.mark.parametrize("flag", ["checkpoint", "index"])
def test_a_first_start_that_fails_makes_no_token(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    refused(["serve", f"--{flag}", str(tmp_path / "missing"), "--port", "0", "--state", str(state)], capsys)
    with TokenStore(state) as tokens:
        assert tokens.listed() == []


def test_a_name_that_cannot_be_shown_is_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", "--checkpoint", "missing", "--port", "0", "--state", str(tmp_path), "--principal", "a\x1b"]
    tmp_path.chmod(0o700)
    assert "must be non-empty and printable" in refused(words, capsys)


def test_a_port_is_taken_before_a_model_is_loaded() -> None:
    with serve.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match="choose another one with --port"):
            serve.bind("127.0.0.1", port)


def test_a_trusted_proxy_is_an_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "--upstream", "http://127.0.0.1:9/v1", "--state", str(tmp_path / "state")]
    assert "trusted" in refused([*words, "--trusted-proxy", "*"], capsys)


def test_others_can_reach_a_server_only_when_somebody_has_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    words = ["serve", "--checkpoint", "missing", "--host", "0.0.0.0", "--port", "0", "--state", str(state)]
    line = refused(words, capsys)
    command = re.search(r"make one first: ibidem (token create .*)$", line)
    assert command
    assert cli.main(command[1].split()) == 0
    secret = capsys.readouterr().out.strip()
    assert "nobody has a token" not in refused(words, capsys)  # the checkpoint is missing
    with TokenStore(state) as tokens:
        assert tokens.caller_of(secret) is not None
        for token in tokens.listed():
            tokens.revoke(token.caller.token)
    assert "nobody has a token" in refused(words, capsys)


@pytest.mark.parametrize("host", ["::1", "localhost", "127.0.0.1"])
def test_an_address_is_written_as_a_browser_takes_it(host: str) -> None:
    try:
        bound = serve.bind(host, 0)
    except serve.ConfigError:
        assert host == "::1"  # a machine without it
        return
    with bound:
        address = serve.Address.of(bound, host)
        assert httpx.URL(address.url).host == host
        assert httpx.URL(address.url).port == bound.getsockname()[1]


NOTICE = "How long is the notice period?"
ALLOWANCE = "What is the quokka allowance?"


@pytest.fixture
def grounded(tmp_path: Path) -> Iterator[Served]:
    """A server of documents alone, which hr may read and ada may not read all of."""
    index = make_index(tmp_path)
    with served(tmp_path, "--index", str(index), "--principal", "ada") as one:
        yield one


def asked(client: httpx.Client, question: str, **fields: Any) -> httpx.Response:
    body = {"model": "ibidem", "messages": [{"role": "user", "content": question}], **fields}
    return client.post("/v1/chat/completions", json=body)


def test_documents_are_answered_from_for_those_who_may_read_them(grounded: Served, tmp_path: Path) -> None:
    with TokenStore(tmp_path / "state") as tokens:
        hr = tokens.create("hr", is_admin=False, days=1)
    with grounded.client() as ada, Served(grounded.process, grounded.said, grounded.url, hr).client() as of_hr:
        answer = asked(ada, NOTICE).json()
        message = answer["choices"][0]["message"]
        first = message["annotations"][0]
        start, end = (first["url_citation"][name] for name in ("start_index", "end_index"))
        assert "six weeks" in message["content"]
        assert message["content"][start:end] == f"[{first['number']}]"
        assert answer["grounding"]["abstained"] is False
        shown = ada.get(first["url_citation"]["url"], headers={"Accept": "application/json"}).json()
        assert first["quote"] in shown["text"]
        assert shown["path"] == first["path"] == "handbook/notice.md"
        refused_to_ada = asked(ada, ALLOWANCE)
        assert refused_to_ada.json()["grounding"]["abstained"] is True
        (secret,) = asked(of_hr, ALLOWANCE).json()["choices"][0]["message"]["annotations"]
        assert secret["path"] == "salaries/march.md"
        address = secret["url_citation"]["url"]
        for kind in ("application/json", "text/html"):
            forbidden = ada.get(address, headers={"Accept": kind})
            unknown = ada.get(address.replace(secret["chunk"], "0" * 32), headers={"Accept": kind})
            assert forbidden.status_code == unknown.status_code == 404
            assert forbidden.content == unknown.content
            for text in (forbidden.text, refused_to_ada.text, asked(ada, ALLOWANCE, stream=True).text):
                assert not [word for word in CANARIES if word in text]
            assert of_hr.get(address, headers={"Accept": kind}).status_code == 200


def test_without_a_record_there_is_no_answer(grounded: Served, tmp_path: Path) -> None:
    log = tmp_path / "index.audit" / "audit.sqlite"
    log.rename(log.with_name("elsewhere"))
    log.touch(mode=0o600)
    with grounded.client() as client:
        for stream in (False, True):
            response = asked(client, NOTICE, stream=stream)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "audit_unavailable")
            assert str(tmp_path) not in response.text
            assert "six weeks" not in response.text


def test_a_model_without_room_for_passages_says_so(checkpoint: Path, tmp_path: Path) -> None:
    index = make_index(tmp_path)
    with served(tmp_path, "--checkpoint", str(checkpoint), "--index", str(index)) as one, one.client() as client:
        response = asked(client, NOTICE)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert client.get("/v1/models").status_code == 200
