"""A server in a thread, with a model that says what a test wants."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ibidem.conversation import Conversation
from ibidem.readers import Readers
from ibidem.serving.config import LimitsConfig
from ibidem.serving.server import serve
from ibidem.serving.server.service import Documents, Service
from ibidem.serving.server.speech import Said, SamplingParams, Spoken
from ibidem.serving.server.tokens import TokenStore

WORDS = ("At ", "nine", " o'clock", ".")
CONTEXT = 1000  # characters, each of which is a token


@dataclass
class Script:
    """A model that says its words, one a token; with a gate, each word waits until the test lets it pass."""

    words: Sequence[str] = WORDS
    readers: Readers | None = None
    gate: threading.Semaphore | None = None
    failure: Exception | None = None
    """Raised behind the words."""
    name: str = "sha256:0123"
    cites_with_parts: bool = True
    asked: list[tuple[Any, SamplingParams, str, str | None]] = field(default_factory=list)
    open: int = 0

    def room(self, turns: Conversation) -> int:
        return CONTEXT - sum(len(turn.text) for turn in turns)

    def room_behind(self, prompt: str, suffix: str | None) -> int:
        return CONTEXT - len(prompt) - len(suffix or "")

    def speak(
        self, turns: Conversation, sampling: SamplingParams, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        return self._said(turns, sampling, owner, scope, sum(len(turn.text) for turn in turns))

    def complete(
        self, prompt: str, suffix: str | None, sampling: SamplingParams, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        return self._said((prompt, suffix), sampling, owner, scope, len(prompt))

    async def _said(
        self, what: Any, sampling: SamplingParams, owner: str, scope: str | None, size: int
    ) -> AsyncGenerator[Said | Spoken]:
        self.asked.append((what, sampling, owner, scope))
        self.open += 1
        try:
            count = 0
            for word in self.words:
                while self.gate is not None and not self.gate.acquire(blocking=False):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                if count == sampling.max_tokens:
                    break
                count += 1
                yield Said("text", word)
            if self.failure is not None:
                raise self.failure
            yield Spoken("stop" if count == len(self.words) else "length", size, count)
        finally:
            self.open -= 1


@dataclass(frozen=True)
class Running:
    """A running server, as a test sees it."""

    url: str
    token: str
    """Of ada, who is no admin."""
    service: Service
    server: serve.Server
    loop: asyncio.AbstractEventLoop

    @property
    def num_tasks(self) -> int:
        """Number of tasks of the event loop that have not ended."""

        async def count() -> int:
            return len(asyncio.all_tasks())

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def client(self, **named: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.bearer, timeout=30, verify=False, **named)


@contextmanager
def running(
    state: Path,
    speaker: Any = None,
    *,
    documents: Documents | None = None,
    limits: LimitsConfig | None = None,
    **named: Any,
) -> Iterator[Running]:
    """Run a server in a thread until the end of the block."""
    bound = serve.bind("127.0.0.1", 0)
    with bound, TokenStore(state) as tokens:
        service = Service(
            model="ibidem",
            speaker=Script() if speaker is None and documents is None else speaker,
            documents=documents,
            tokens=tokens,
            limits=limits or LimitsConfig(),
            state=state,
            **named,
        )
        started: Future[asyncio.AbstractEventLoop] = Future()
        server = serve.server_of(service, lambda: started.set_result(asyncio.get_running_loop()))
        thread = threading.Thread(target=serve.run, args=(server, bound))
        thread.start()
        loop = started.result(30)
        secret = tokens.create("ada", is_admin=False, days=1)
        try:
            yield Running(f"http://127.0.0.1:{bound.getsockname()[1]}", secret, service, server, loop)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something has come true, which must not take longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
