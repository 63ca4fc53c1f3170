"""The guard before all routes: who calls, from where, how much, and what every response says.

    Host --> Origin --> size --> token or session --> rate, open requests --> the routes
    421      403        413      401, or the login    429

A request is authenticated unless it is for the login. The caller is known from the token alone. Every response has the
same headers for browsers, and an error is one line without a path, a version or a stack trace.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ibidem import log
from ibidem.serving.config import LimitsConfig
from ibidem.serving.server.errors import ApiError, refusal_of
from ibidem.serving.server.responses import refused
from ibidem.serving.server.tokens import Caller, TokenStore

COOKIE = "ibidem_session"
OWN_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with none at all, browsers send forms without their origin
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}
ONCE = (b"host", b"origin", b"authorization", b"cookie", b"content-length", b"content-type")
"""Fields that a head has once, at most."""
LOGINS_PER_MINUTE = 20
"""Of an address."""
MOST_RATES = 10_000
"""Rates that are remembered at once: those that were used last."""
CLIENT_LEFT = 499
"""What the log says of a request whose client left before there was a response."""
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_NOT_OURS = {name.encode() for name in SECURITY_HEADERS} | {b"server"}


class Guard:
    """What stands before the routes of a server."""

    def __init__(self, app: ASGIApp, *, tokens: TokenStore, limits: LimitsConfig, hosts: Iterable[str]) -> None:
        """Guard an application.

        Args:
            app: the routes.
            tokens: whose bearers may call.
            limits: what a request and a token may cost.
            hosts: names under which the server is called, besides those of this computer itself.
        """
        self._app, self._tokens, self._limits = app, tokens, limits
        self._hosts = OWN_HOSTS | {host.lower() for host in hosts}
        self._rates = Rates(limits.requests_per_minute)
        self._logins = Rates(LOGINS_PER_MINUTE)
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), CLIENT_LEFT

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _with_security(message.get("headers", []))}
            await send(message)

        try:
            await self._pass_on(scope, receive, sent)
        except ClientDisconnect:
            pass
        except Exception as error:
            if status != CLIENT_LEFT:
                raise
            response = refused(refusal_of(error))
            if isinstance(error, Ambiguous):  # where this request ends is as doubtful (RFC 9112, 6.1)
                response.headers["connection"] = "close"
            await response(scope, receive, sent)
        finally:
            _log(scope, status, time.perf_counter() - start)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_head([name for name, _ in scope["headers"]])
        headers = Headers(scope=scope)
        check_host(headers, self._hosts)
        check_origin(headers)
        receive = self._bounded(headers, receive)
        if is_public(scope["path"]):
            if scope["method"] == "POST":
                address = scope["client"][0] if scope.get("client") else ""
                self._logins.take(address)
            await self._app(scope, receive, send)
            return
        caller = self._caller(scope, headers)
        if caller is None:
            await _unknown(scope, headers)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        with self._counted(caller):
            await self._app(scope, receive, send)

    def _caller(self, scope: Scope, headers: Headers) -> Caller | None:
        if "authorization" in headers:
            kind, _, secret = headers["authorization"].partition(" ")
            return self._tokens.caller_of(secret.strip()) if kind.lower() == "bearer" else None
        caller = self._tokens.caller_of_session(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))
        if caller is not None:
            check_site(headers, scope["method"])
        return caller

    @contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        if self._open[caller.token] >= self._limits.open_streams:
            most = self._limits.open_streams
            message = f"more than {most} requests of this token at the same time; wait for one to end"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_s=1)
        self._rates.take(caller.token)
        self._open[caller.token] += 1
        try:
            yield
        finally:
            self._open[caller.token] -= 1
            if not self._open[caller.token]:
                del self._open[caller.token]

    def _bounded(self, headers: Headers, receive: Receive) -> Receive:
        most, size = self._limits.body_bytes, 0
        stated = headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated[:20]) > most:
            raise _too_large(most)

        async def received() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise _too_large(most)
            return message

        return received


class Rates:
    """How often each of many may do something in a minute; what is not used is saved up for a minute."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, whose: str, now: float | None = None) -> None:
        """Count one time.

        Args:
            whose: who does it.
            now: seconds; None: of the clock.

        Raises:
            ApiError: it is once too often.
        """
        now = time.monotonic() if now is None else now
        left = min(self._per_minute, self._now_left(whose, now))
        if left < 1:
            wait_s = math.ceil((1 - left) * 60 / self._per_minute)
            message = f"more than {self._per_minute} requests in a minute; try again in {wait_s} s"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_s=wait_s)
        self._left[whose] = left - 1, now
        self._left.move_to_end(whose)
        if len(self._left) > MOST_RATES:
            self._left.popitem(last=False)

    def _now_left(self, whose: str, now: float) -> float:
        left, before = self._left.get(whose, (self._per_minute, now))
        return left + (now - before) * self._per_minute / 60


class Ambiguous(ApiError):  # noqa: N818 - a finding
    """A head that says two things about its request."""


def check_head(names: Sequence[bytes]) -> None:
    """Refuse a head that two programs could read in two ways.

    Args:
        names: those of its fields, in lower case.

    Raises:
        Ambiguous: a field occurs twice, or there are two ways to tell where the body ends.
    """
    if any(names.count(name) > 1 for name in ONCE) or {b"content-length", b"transfer-encoding"}.issubset(names):
        raise Ambiguous(400, "the head of the request says two things about it")


def check_host(headers: Headers, hosts: Iterable[str]) -> None:
    """Refuse a request that was meant for another server: a name that somebody else lets point here.

    Raises:
        ApiError: the name is none of ours.
    """
    name, colon, port = headers.get("host", "").lower().rpartition(":")
    if not colon or not port.isdecimal():
        name = headers.get("host", "").lower()
    if name not in hosts:
        raise ApiError(421, "unknown Host name; allow it with --allowed-host")


def check_origin(headers: Headers) -> None:
    """Refuse what a page of another site sends.

    Raises:
        ApiError: the origin is another one.
    """
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in {
        f"{kind}://{headers['host'].lower()}" for kind in ("http", "https")
    }:
        raise ApiError(403, "pages of other sites may not call this server")


def check_site(headers: Headers, method: str) -> None:
    """Refuse what a page of another site lets a browser load with our cookie; it may link here.

    Raises:
        ApiError: it is another site, or another port of this computer.
    """
    is_link = headers.get("sec-fetch-mode") == "navigate" and method in {"GET", "HEAD"}
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not is_link:
        raise ApiError(403, "pages of other sites may not call this server")


def is_public(path: str) -> bool:
    """Return whether an address is part of the login, the only one that needs no token.

    >>> is_public("/login"), is_public("/login/login.js"), is_public("/login.html"), is_public("/v1/models")
    (True, True, False, False)
    """
    return path == "/login" or path.startswith("/login/")


def _unknown(scope: Scope, headers: Headers) -> ASGIApp:
    is_page = scope["method"] in {"GET", "HEAD"} and "text/html" in headers.get("accept", "")
    if is_page and not scope["path"].startswith("/v1/"):
        return RedirectResponse("/login", 303)
    message = "a valid token is needed: Authorization: Bearer TOKEN"
    return refused(ApiError(401, message, code="invalid_api_key"))


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most:,} bytes", code="body_too_large")


def _with_security(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [*(pair for pair in headers if pair[0].lower() not in _NOT_OURS), *_RAW_HEADERS]


def _log(scope: Scope, status: int, seconds: float) -> None:
    route, state = scope.get("route"), scope.get("state", {})
    caller = state.get("caller")
    log.event(
        "serve.request",
        route=getattr(route, "path", None),
        method=scope["method"],
        status=status,
        seconds=round(seconds, 3),
        tokens=state.get("tokens"),
        token=None if caller is None else caller.token,
    )
