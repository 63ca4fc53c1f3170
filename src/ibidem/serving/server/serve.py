"""`ibidem serve`: a model, and documents, for OpenAI's clients, an editor and a browser.

    socket --> tokens --> speaker, documents --> routes behind their guard --> uvicorn, until SIGTERM or Ctrl+C

The address is taken first, so that a taken port is known before a model is loaded: clients that come earlier wait. The
first token is made last, so that a start that fails leaves none that nobody has seen.
"""

import asyncio
import ipaddress
import resource
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import uvicorn

from ibidem import accounts
from ibidem.errors import ConfigError
from ibidem.serving.config import STATE, ServeConfig
from ibidem.serving.server import app, connections
from ibidem.serving.server.service import Documents, Service
from ibidem.serving.server.speech import Speaker
from ibidem.serving.server.tokens import TokenStore, check_principal

if TYPE_CHECKING:
    from ibidem.attribution.lookup import Attribution

OTHER_FILES = 256
"""Open files that are no connections, and a margin for those that wait to be refused."""
TOKEN_DAYS = 90
"""Of the token that the first start makes."""
FAREWELL_S = 3.0
"""How long the clients have to take the last event of their answers, when the server shuts down."""
BACKLOG = 2048
"""Connections that the system accepts before the server does."""


def serve(config: ServeConfig) -> None:
    """Serve until a signal ends it."""
    with ExitStack() as stack:
        bound = stack.enter_context(closing(bind(config.host, config.port)))
        limits = replace(config.limits, connections=min(config.limits.connections, num_connections()))
        address = Address.of(bound, config.host)
        tokens = stack.enter_context(TokenStore(config.state))
        _check_reachable(tokens, config)
        speaker = _speaker(config, stack)
        service = Service(
            model=config.name,
            speaker=speaker,
            documents=_documents(config, stack),
            tokens=tokens,
            limits=limits,
            state=config.state,
            audit=_audit(config),
            attribution=_attribution(config),
            policy=config.attribution,
            reviews=config.review,
            hosts=(address.host, *config.allowed_host),
            proxies=config.trusted_proxy,
        )
        line = f"ibidem serves {config.name} at {address.url}; end it with Ctrl+C"
        run(server_of(service, on_ready=lambda: _say([line, *_first_login(tokens, config, address)])), bound)


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    """As in a URL: an IPv6 address has brackets."""
    port: int

    @classmethod
    def of(cls, bound: socket.socket, host: str) -> "Address":
        """Return the address of a bound socket."""
        return cls(f"[{host}]" if ":" in host else host, bound.getsockname()[1])

    @property
    def url(self) -> str:
        """The address for a browser."""
        return f"http://{self.host}:{self.port}"


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address: one that is only bound does not keep others from it.

    Raises:
        ConfigError: the address is taken, or none of this computer.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"host {host!a}: {error.strerror}; choose another one with --host") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise ConfigError(f"port {port} of {host}: {error.strerror}; choose another one with --port") from None
    return bound


def num_connections() -> int:
    """Let the process open as many files as the system permits; return how many of them may be connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return max(1, most - OTHER_FILES)


def is_loopback(host: str) -> bool:
    """Return whether only programs of this computer reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("example.com")
    (True, True, False, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(uvicorn.Server):
    """uvicorn's server; a signal ends its answers with a last event, and the process with success."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        """Prepare a server; `on_ready` is called when it listens."""
        super().__init__(config)
        self._service, self._on_ready = service, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._on_ready()

    def stop(self) -> None:
        """End all answers, then the server; the second time, without waiting for clients."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._service.answers.end_all()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for each in signals:
            loop.add_signal_handler(each, self.stop)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)


def server_of(service: Service, on_ready: Callable[[], None]) -> Server:
    """Return the server of a service."""
    config = uvicorn.Config(
        app.application(service),
        http=connections.within(service.limits),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # its words quote requests; the guard logs each of them
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        proxy_headers=bool(service.proxies),
        forwarded_allow_ips=list(service.proxies),
        timeout_graceful_shutdown=int(FAREWELL_S),
    )
    return Server(config, service, on_ready)


def run(server: Server, bound: socket.socket) -> None:
    """Run a server on a bound socket, until it is stopped."""
    asyncio.run(server.serve(sockets=[bound]))


def _check_reachable(tokens: TokenStore, config: ServeConfig) -> None:
    """Refuse to start where others can reach the server and nobody has a token, or where none can be made."""
    if _has_valid(tokens):
        return
    check_principal(principal := _first_principal(config))
    if not is_loopback(config.host):
        state = "" if config.state == STATE else f" --state {shlex.quote(str(config.state))}"
        command = f"ibidem token create --principal {shlex.quote(principal)} --admin{state}"
        raise ConfigError(f"host {config.host}: others can reach it, and nobody has a token; make one first: {command}")


def _first_login(tokens: TokenStore, config: ServeConfig, address: Address) -> list[str]:
    """Return a line with a link to log in, if nobody has a token."""
    if _has_valid(tokens):
        return []
    principal = _first_principal(config)
    secret = tokens.create(principal, is_admin=True, days=TOKEN_DAYS)
    return [f"log in as {principal}, this first time: {address.url}/login#{secret}"]


def _first_principal(config: ServeConfig) -> str:
    return config.principal or accounts.this_user()


def _has_valid(tokens: TokenStore) -> bool:
    return any(token.expires > time.time() for token in tokens.listed())


def _speaker(config: ServeConfig, stack: ExitStack) -> Speaker | None:
    if config.checkpoint is not None:
        from ibidem.serving.server.own_model import OwnSpeaker

        return stack.enter_context(
            closing(OwnSpeaker(config.checkpoint, slots=config.slots, weights=config.weights, for_others=True))
        )
    if config.upstream is not None:
        from ibidem.serving.server.upstream import open_upstream

        return open_upstream(config.upstream, config.upstream_model, config.upstream_key)
    return None


def _documents(config: ServeConfig, stack: ExitStack) -> Documents | None:
    if config.index is None and config.store is None:
        return None
    from ibidem.serving.server.documents import OpenedDocuments

    return stack.enter_context(closing(OpenedDocuments(config)))


def _attribution(config: ServeConfig) -> "Attribution | None":
    policy = config.attribution
    if policy.index is None:
        return None
    from ibidem.attribution.lookup import Attribution

    return Attribution(policy.index, least_tokens=policy.least_tokens, common_documents=policy.common_documents)


def _audit(config: ServeConfig) -> Path | None:
    from ibidem.grounding.audit.log import folder_beside

    return config.audit or (folder_beside(config.index) if config.index else None)


def _say(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
