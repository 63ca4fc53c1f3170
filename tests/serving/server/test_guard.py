"""The guard: who calls, from where and how much; each promise is broken by taking one defence away."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.serving.server.running import Running, Script, running, wait_until

from ibidem import log
from ibidem.serving.config import LimitsConfig
from ibidem.serving.server import app, guard
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.guard import COOKIE, SECURITY_HEADERS, Rates

HI = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "ibidem", "messages": HI}
HTML = {"Accept": "text/html"}
AS_JSON = {"Content-Type": "application/json"}


async def _broken(_: Request) -> Response:
    raise RuntimeError("the secret question at /srv/docs")


async def _login(_: Request) -> Response:
    return PlainTextResponse("login", headers={"Cache-Control": "public", "Server": "x"})


def _pages(_: Any) -> list[Route]:
    return [
        Route("/", _login),
        Route("/broken", _broken),
        Route("/login", _login, methods=["GET", "POST"]),
        Route("/login/{file}", _login),
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with limits that a test reaches."""
    limits = LimitsConfig(body_bytes=4096, head_s=0.3, stalled_s=0.3, connections=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.pages, "routes", _pages)
        with running(
            tmp_path_factory.mktemp("guard") / "state", limits=limits, hosts=("assistant.example.com",)
        ) as one:
            yield one


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def raw(server: Running, request: bytes) -> bytes:
    """Send bytes and return all that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as file:
            try:
                return file.read()
            except ConnectionResetError:
                return b""


def paths(server: Running) -> list[tuple[str, str]]:
    service = server.service
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.pages, "routes", _pages)
        routes = app.application(service).routes
    return [
        (method, route.path) for route in routes if isinstance(route, Route) for method in sorted(route.methods or ())
    ]


def test_every_address_but_the_login_needs_a_token(server: Running) -> None:
    found = paths(server)
    assert len(found) > 8
    with httpx.Client(base_url=server.url) as stranger:
        for method, path in [
            *found,
            ("GET", "/no-such"),
            ("GET", "/login.html"),
            ("GET", "/loginx"),
            ("PUT", "/v1/models"),
        ]:
            for headers in ({}, HTML):
                response = stranger.request(
                    method, path.replace("{file}", "a").replace("{id:path}", "ibidem"), headers=headers
                )
                if path in {"/login", "/login/{file}"}:
                    assert response.status_code == 200
                elif headers and method in {"GET", "HEAD"} and not path.startswith("/v1/"):
                    assert (response.status_code, response.headers["location"]) == (303, "/login")
                else:
                    assert response.status_code == 401
                    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ib-wrong", "Basic {}", "{}", "Bearer {}x", "Token {}", "Bearer Bearer {}"],
)
def test_only_a_valid_bearer_token_is_one(value: str, server: Running) -> None:
    headers = {"Authorization": value.format(server.token)}
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 401


def test_a_session_is_as_good_as_its_token_and_no_better_than_a_wrong_one(server: Running) -> None:
    session = server.service.tokens.new_session(server.token)
    cookie = {"Cookie": f"theme=dark; {COOKIE}={session}"}
    assert httpx.get(f"{server.url}/v1/models", headers=cookie).status_code == 200
    wrong = {**cookie, "Authorization": "Bearer ib-wrong"}
    assert httpx.get(f"{server.url}/v1/models", headers=wrong).status_code == 401
    assert httpx.get(f"{server.url}/v1/models", headers={"Cookie": f"{COOKIE}={server.token}"}).status_code == 401
    assert httpx.get(f"{server.url}/v1/models", headers={"Cookie": f'{COOKIE}="x; ]=[ä'.encode()}).status_code == 401


def test_the_principal_is_that_of_the_token_whatever_a_request_says(server: Running, client: httpx.Client) -> None:
    told = {"X-Forwarded-User": "root", "X-Remote-User": "root", "X-Principal": "root", "Cookie": "principal=root"}
    response = client.post(
        "/v1/chat/completions?principal=root",
        json={**CHAT, "user": "root", "metadata": {"principal": "root"}, "safety_identifier": "root"},
        headers=told,
    )
    assert response.status_code == 200
    assert isinstance(server.service.speaker, Script)
    assert server.service.speaker.asked[-1][3] == "ada"
    assert client.post("/v1/chat/completions", json={**CHAT, "principal": "root"}).status_code == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(
            (host, 200)
            for host in ("127.0.0.1", "localhost:{}", "LOCALHOST", "[::1]:{}", "[::1]", "assistant.example.com")
        ),
        *(
            (host, 421)
            for host in ("evil.example", "127.0.0.1.evil.example", "127.0.0.1:{}.evil.example", "10.0.0.1:{}")
        ),
        *(
            (host, 421)
            for host in ("evil.example:127.0.0.1", "", "localhost:", "0.0.0.0:{}", "[::1]evil", "a@localhost")
        ),
    ],
)
def test_a_name_that_somebody_lets_point_here_is_refused(host: str, status: int, server: Running) -> None:
    headers = {**server.bearer, "Host": host.format(server.port)}
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == status


def test_the_login_too_has_only_its_names(server: Running) -> None:
    assert httpx.get(f"{server.url}/login", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        *(("http://127.0.0.1:{}", 200), ("https://127.0.0.1:{}", 200)),
        *((origin, 403) for origin in ("http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:{}0", "")),
        *(
            (origin, 403)
            for origin in ("http://localhost:{}", "http://127.0.0.1:{}@evil.example", "ftp://127.0.0.1:{}")
        ),
    ],
)
def test_pages_of_other_origins_call_nothing(origin: str, status: int, server: Running) -> None:
    origin = origin.format(server.port)
    session = server.service.tokens.new_session(server.token)
    for headers in (server.bearer, {"Cookie": f"{COOKIE}={session}"}):
        response = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, headers={**headers, "Origin": origin})
        assert response.status_code == status
    response = httpx.post(f"{server.url}/login", headers={"Origin": origin})
    assert response.status_code == status


def test_no_response_lets_other_origins_read_it(server: Running, client: httpx.Client) -> None:
    asked = {"Origin": server.url, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "*"}
    for response in (
        client.options("/v1/chat/completions", headers=asked),
        client.get("/v1/models", headers={"Origin": server.url}),
        client.get("/v1/models", headers={"Origin": "http://evil.example"}),
    ):
        assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_loads_nothing_with_our_cookie(site: str, server: Running) -> None:
    session = server.service.tokens.new_session(server.token)
    cookie = {"Cookie": f"{COOKIE}={session}", "Sec-Fetch-Site": site}
    assert httpx.get(f"{server.url}/v1/models", headers={**cookie, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert httpx.get(f"{server.url}/", headers={**cookie, "Sec-Fetch-Mode": "navigate"}).status_code == 200
    post = {**cookie, "Sec-Fetch-Mode": "navigate"}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, headers=post).status_code == 403
    own = {**cookie, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert httpx.get(f"{server.url}/v1/models", headers=own).status_code == 200


def check_headers(response: httpx.Response) -> None:
    for name, value in SECURITY_HEADERS.items():
        assert response.headers.get_list(name) == [value], name
    assert "server" not in response.headers
    assert not re.search(r"uvicorn|starlette|python|h11|/\d+\.\d+", str(response.headers), re.IGNORECASE)


def test_every_response_has_the_headers_of_safety_and_no_name_of_software(
    server: Running, client: httpx.Client
) -> None:
    statuses = set()
    for response in (
        client.get("/v1/models"),
        client.get("/no-such"),
        client.put("/v1/models"),
        client.get("/broken"),
        client.get("/login"),
        client.post("/v1/chat/completions", json=CHAT),
        client.post("/v1/chat/completions", json={**CHAT, "stream": True}),
        client.post("/v1/chat/completions", json={**CHAT, "n": 2}),
        client.post("/v1/chat/completions", content=b"x" * 5000),
        httpx.get(f"{server.url}/v1/models"),
        httpx.get(f"{server.url}/", headers=HTML),
        httpx.get(f"{server.url}/", headers={"Host": "evil.example"}),
        httpx.get(f"{server.url}/", headers={"Origin": "http://evil.example"}),
    ):
        statuses.add(response.status_code)
        check_headers(response)
    assert statuses == {200, 303, 400, 401, 403, 404, 405, 413, 421, 500}
    malformed = raw(server, b"NO HTTP AT ALL\r\n\r\n")
    assert malformed.startswith(b"HTTP/1.1 400 ")
    for name, value in SECURITY_HEADERS.items():
        assert f"{name}: {value}".encode() in malformed
    assert b"AT ALL" not in malformed


def test_the_policy_lets_a_page_load_and_be_framed_by_nothing_else() -> None:
    directives = dict(each.strip().split(" ", 1) for each in guard.POLICY.split(";"))
    assert directives["default-src"] == directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert {
        value for name, value in directives.items() if name not in {"default-src", "frame-ancestors", "base-uri"}
    } == {"'self'"}


def test_an_error_of_ours_is_one_line_and_a_place_in_the_log(client: httpx.Client) -> None:
    records: list[dict[str, Any]] = []
    with log.showing(records.append):
        response = client.get("/broken")
        wait_until(lambda: any(record["event"] == "serve.request" for record in records))
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "srv" not in response.text + str(records)
    assert "secret" not in response.text + str(records)
    (failed,) = (record for record in records if record["event"] == "serve.failed")
    assert failed["error"] == "RuntimeError"
    assert failed["place"].startswith("test_guard.py:")


def test_the_log_has_no_text(client: httpx.Client, server: Running) -> None:
    records: list[dict[str, Any]] = []
    with log.showing(records.append):
        client.post("/v1/chat/completions?q=secret", json={**CHAT, "messages": [{"role": "user", "content": "secret"}]})
        client.post("/v1/chat/completions", json={**CHAT, "secret": 1})
        client.get("/secret", headers={"User-Agent": "secret", "Referer": "secret"})
        client.get("/v1/models/secret")
        httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer secret"})
        wait_until(lambda: len(records) == 5)
    text = json.dumps(records)
    assert "secret" not in text
    assert server.token not in text
    assert "nine" not in text
    known = [token.caller.token for token in server.service.tokens.listed()]
    assert {(each["route"], each["status"], each["token"] in known, each["tokens"]) for each in records} == {
        ("/v1/chat/completions", 200, True, 4),
        ("/v1/chat/completions", 400, True, None),
        (None, 404, True, None),
        ("/v1/models/{id:path}", 404, True, None),
        (None, 401, False, None),
    }


def test_a_large_body_is_refused_stated_or_in_chunks(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * 1000

    for content in (b"x" * 4097, b"x" * (2 << 20), chunks()):
        response = client.post("/v1/chat/completions", content=content, headers=AS_JSON)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert client.post("/login", content=b"x" * 4097).status_code == 413
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: application/json\r\n"
)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0",
        b"HEAD+Content-Length: 100\r\n\r\n{",
        b"HEAD+Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: 127",
    ],
)
def test_a_client_that_sends_too_slowly_is_disconnected(begun: bytes, server: Running) -> None:
    start = time.monotonic()
    raw(server, begun.replace(b"HEAD+", HEAD % server.token.encode()))  # returns only when the server closes
    assert time.monotonic() - start >= 0.25
    wait_until(lambda: not server.server.server_state.connections)


def test_a_client_that_trickles_is_disconnected(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nX: ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(3000):  # less than h11 takes
                connection.sendall(b"a")
                time.sleep(0.01)


def test_a_head_without_end_is_refused(server: Running) -> None:
    assert raw(server, b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000)[:13] in {b"", b"HTTP/1.1 400 "}


def test_no_more_connections_than_the_limit_are_held(server: Running) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(80)]
    wait_until(lambda: len(server.server.server_state.connections) > 0)
    assert len(server.server.server_state.connections) <= 40
    for connection in held:
        connection.close()
    wait_until(lambda: not server.server.server_state.connections)
    assert httpx.get(f"{server.url}/v1/models", headers=server.bearer).status_code == 200


def test_a_reader_that_takes_nothing_is_disconnected(tmp_path: Path) -> None:
    script = Script(words=["x" * 100_000] * 2000)
    with running(tmp_path / "state", script, limits=LimitsConfig(stalled_s=0.3)) as server:
        body = json.dumps({**CHAT, "stream": True, "max_tokens": 2000}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(HEAD % server.token.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: script.open == 1)
            wait_until(lambda: script.open == 0 and not len(server.service.answers))


def test_a_reader_that_takes_slowly_is_not_disconnected(tmp_path: Path) -> None:
    script = Script(words=["x" * 12_000_000])  # which no buffer of the system holds
    with running(tmp_path / "state", script, limits=LimitsConfig(stalled_s=0.3)) as server:
        body = json.dumps({**CHAT, "stream": True, "max_tokens": 2000}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(HEAD % server.token.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            size, tail = 0, b""
            while b"[DONE]" not in tail:
                part = connection.recv(1 << 17)
                assert part
                size, tail = size + len(part), (tail + part)[-20:]
                time.sleep(0.01)
    assert size > 12_000_000


def test_a_token_has_so_many_open_requests(tmp_path: Path) -> None:
    script = Script(gate=threading.Semaphore(0))
    with running(tmp_path / "state", script, limits=LimitsConfig(open_streams=2)) as server, server.client() as client:
        other = server.service.tokens.create("bob", is_admin=False, days=1)
        with open_two(server):
            wait_until(lambda: script.open == 2)
            refused = client.post("/v1/chat/completions", json=CHAT)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            of_bob = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {other}"})
            assert of_bob.status_code == 200
        wait_until(lambda: script.open == 0)
        wait_until(lambda: client.get("/v1/models").status_code == 200)


@contextmanager
def open_two(server: Running) -> Iterator[None]:
    body = json.dumps(CHAT).encode()
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            connection.sendall(HEAD % server.token.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        yield


def test_a_token_has_so_many_requests_a_minute(tmp_path: Path) -> None:
    with running(tmp_path / "state", limits=LimitsConfig(requests_per_minute=3)) as server, server.client() as client:
        session = server.service.tokens.new_session(server.token)
        assert [client.get("/v1/models").status_code for _ in range(3)] == [200] * 3
        refused = client.get("/v1/models")
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 20
        cookie = {"Cookie": f"{COOKIE}={session}"}
        assert httpx.get(f"{server.url}/v1/models", headers=cookie).status_code == 429, "a session is its token"
        other = server.service.tokens.create("bob", is_admin=False, days=1)
        assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {other}"}).status_code == 200


def test_an_address_has_so_many_logins_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.pages, "routes", _pages)
    with running(tmp_path / "state") as server, httpx.Client(base_url=server.url) as stranger:
        statuses = [stranger.post("/login").status_code for _ in range(guard.LOGINS_PER_MINUTE + 1)]
        assert statuses == [200] * guard.LOGINS_PER_MINUTE + [429]
        assert stranger.get("/login").status_code == 200


def test_a_rate_refills_with_time() -> None:
    rates = Rates(60)
    for _ in range(60):
        rates.take("ada", now=0.0)
    with pytest.raises(ApiError, match="try again in 1 s"):
        rates.take("ada", now=0.5)
    rates.take("bob", now=0.5)
    rates.take("ada", now=1.0)
    with pytest.raises(ApiError):
        rates.take("ada", now=1.0)
    for _ in range(60):
        rates.take("ada", now=10_000.0)
    with pytest.raises(ApiError):
        rates.take("ada", now=10_000.0)


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_only_the_rates_used_last_are_remembered(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_RATES", 10)
    rates = Rates(600)
    for number in range(100):
        rates.take("often", now=number * seconds)
        rates.take(str(number), now=number * seconds)
    assert set(rates._left) == {"often", *map(str, range(91, 100))}


@pytest.mark.parametrize(("proxies", "status"), [((), 429), (("10.0.0.0/8",), 429), (("127.0.0.1",), 200)])
def test_only_a_trusted_proxy_says_from_where_a_request_comes(
    proxies: tuple[str, ...], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.pages, "routes", _pages)
    monkeypatch.setattr(guard, "LOGINS_PER_MINUTE", 3)
    with running(tmp_path / "state", proxies=proxies) as server, httpx.Client(base_url=server.url) as stranger:
        statuses = [
            stranger.post("/login", headers={"X-Forwarded-For": f"192.0.2.{number}"}).status_code for number in range(4)
        ]
    assert statuses == [200, 200, 200, status]


def test_the_body_must_be_called_json(client: httpx.Client) -> None:
    body = json.dumps(CHAT).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = client.post("/v1/chat/completions", content=body, headers={"Content-Type": kind})
        assert response.status_code == 415
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        assert client.post("/v1/chat/completions", content=body, headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/models\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_malformed_is_refused_and_the_next_request_works(request_line: bytes, server: Running) -> None:
    answer = raw(server, request_line)
    assert not answer or re.match(rb"HTTP/1\.1 (4\d\d) ", answer), answer
    assert httpx.get(f"{server.url}/v1/models", headers=server.bearer).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Origin: http://HOST\r\nOrigin: http://evil.example",
        "Authorization: Bearer no\r\nAuthorization: Bearer TOKEN",
    ],
)
def test_a_head_that_says_two_things_is_refused_and_the_connection_closed(fields: str, server: Running) -> None:
    behind = "GET /v1/models HTTP/1.1\r\nHost: HOST\r\n\r\n"
    both = f"POST /v1/models HTTP/1.1\r\nHost: HOST\r\n{fields}\r\n\r\n0\r\n\r\n{behind}"
    answer = raw(server, both.replace("HOST", f"127.0.0.1:{server.port}").replace("TOKEN", server.token).encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
