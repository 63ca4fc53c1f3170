"""Connections: how long a client may take, before anything is known of it.

    connect --> head, at most head_s --> body, at most head_s --> response; nothing taken for stalled_s: disconnected

h11 parses; what it finds malformed is answered like any other refusal.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ibidem.serving.config import LimitsConfig
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.guard import SECURITY_HEADERS
from ibidem.serving.server.responses import dumps

MALFORMED = ApiError(400, "the request is not HTTP/1.1 as it should be")


class Connection(H11Protocol):
    """A connection that is closed when its client stalls."""

    def __init__(self, *arguments: Any, limits: LimitsConfig, **named: Any) -> None:
        """Prepare a connection, as uvicorn does, within limits."""
        super().__init__(*arguments, **named)
        self._limits = limits
        self._sending: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._awaited: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, unless there are too many."""
        if len(self.connections) >= self._limits.connections:
            transport.abort()
            return
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # whatever the system does not take is noticed
        self._watch_sender()

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        if self.transport is None:
            return
        super().data_received(data)
        self._watch_sender()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch_sender()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        for timer in (self._sending, self._stalled):
            if timer is not None:
                timer.cancel()
        if self.transport is not None:
            super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Notice that the client does not take what is sent."""
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Notice that the client has taken everything."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """Refuse what is malformed, in one line that repeats nothing of it."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers = {**SECURITY_HEADERS, "content-type": "application/json", "connection": "close"}
            body = dumps(MALFORMED.body())
            for event in (
                h11.Response(status_code=MALFORMED.status, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch_sender(self) -> None:
        """Limit the time for the head, then for the body."""
        state = self.conn.their_state
        if state is self._awaited:
            return
        self._awaited = state
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if state in {h11.IDLE, h11.SEND_BODY}:
            self._sending = self.loop.call_later(self._limits.head_s, self.transport.abort)

    def _await_reader(self, size: int) -> None:
        self._stalled = self.loop.call_later(self._limits.stalled_s, self._check_reader, size)

    def _check_reader(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        else:
            self._await_reader(left)


def within(limits: LimitsConfig) -> type[asyncio.Protocol]:
    """Return the protocol of connections within limits, as uvicorn asks for one."""

    def connection(**named: Any) -> Connection:
        return Connection(limits=limits, **named)

    return cast("type[asyncio.Protocol]", cast("Callable[..., asyncio.Protocol]", connection))
