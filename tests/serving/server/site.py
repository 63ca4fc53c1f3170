"""A server for the tests of its pages: the real pages, documents with rights, and a model that says what it is told."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ibidem.errors import AccessDenied, AuditError
from ibidem.grounding.config import GroundReviewConfig
from ibidem.grounding.encoder import ENCODER
from ibidem.grounding.review import HEAD, INDEX, PROMPTS, _write
from ibidem.grounding.store import Chunk
from ibidem.serving.config import LimitsConfig
from ibidem.serving.server import pages
from ibidem.serving.server.guard import POLICY
from ibidem.serving.server.service import Documents, Service
from ibidem.serving.server.speech import Delta, Ended
from ibidem.serving.server.tokens import Caller, TokenStore

TOKEN = "ib-" + "a" * 43
NOTICE = Chunk(
    "5b1f6f0f1f0b4a5a9a8e9b1f6f0f1f0b", "handbook/notice.md", ("Employment", "Notice"), 120, 284,
    "The notice period is six weeks to the end of a quarter. During probation it is two weeks.\n\nNotice is given in "
    "writing, to the head of the department and to the office.",
)  # fmt: skip
LEAVE = Chunk(
    "0aa41c7be9d24f0a8f7d3c5e6b1a2d90", "handbook/leave.md", ("Employment", "Leave"), 9, 130,
    "Every employee has 30 days of paid leave a year. Leave that is not taken by 31 March lapses.",
)  # fmt: skip
SALARY = Chunk("c" * 32, "salaries/march.md", ("Salaries",), 0, 40, "The quokka allowance is 9137 shillings.")
UNKNOWN = "d" * 32


@dataclass
class FakeDocuments:
    """Documents with readers by principal; what is shown is recorded."""

    chunks: Sequence[Chunk] = (NOTICE, LEAVE, SALARY)
    hidden: dict[str, set[str]] = field(default_factory=lambda: {"ada": {SALARY.id}, "bob": {SALARY.id}})
    recorded: list[tuple[str, str]] = field(default_factory=list)
    says: Sequence[Delta | Ended] = ()
    is_full: bool = False
    """Whether nothing can be recorded."""

    async def show(self, chunk: str, principal: str) -> Chunk:
        if self.is_full:
            raise AuditError("audit log /var/secret/audit.sqlite: no space left")
        if chunk not in await self.readable([chunk], principal):
            raise AccessDenied(f"no chunk {chunk} for {principal}")
        self.recorded.append((principal, chunk))
        return next(each for each in self.chunks if each.id == chunk)

    async def readable(self, chunks: Sequence[str], principal: str) -> frozenset[str]:
        known = {each.id for each in self.chunks} - self.hidden.get(principal, set())
        return frozenset(chunks) & known

    async def answer(self, *_: object) -> AsyncGenerator[Delta | Ended]:
        for each in self.says:
            yield each


class FakeTokens:
    """One token, and the sessions that it began."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()

    def new_session(self, secret: str) -> str | None:
        if secret != TOKEN:
            return None
        self.sessions.add(session := f"session-{len(self.sessions)}")
        return session

    def end_session(self, value: str) -> None:
        self.sessions.discard(value)


class Site:
    """A service, who calls it, and what its model says."""

    def __init__(self, state: Path, *, audit: Path | None = None, reviews: Sequence[Path] = ()) -> None:
        self.documents = FakeDocuments()
        self.tokens = FakeTokens()
        self.caller = Caller("3f9a61c2", "ada", is_admin=False)
        self.service = Service(
            "ibidem", None, cast("Documents", self.documents), cast("TokenStore", self.tokens), LimitsConfig(), state,
            audit, tuple(reviews),
        )  # fmt: skip
        self.says: list[dict[str, Any]] = []
        self.refuses: tuple[int, str] | None = None
        self.asked: list[dict[str, Any]] = []
        self.waits = False
        """Whether the answer goes on and on."""
        self.is_cut = False
        """Whether the answer ends without an end."""
        self.stopped = threading.Event()
        self.headers = {"content-security-policy": POLICY}

    def app(self) -> Starlette:
        async def known(request: Request, call_next: Any) -> Response:
            request.state.caller = self.caller
            response = await call_next(request)
            response.headers.update(self.headers)
            return response

        app = Starlette(
            routes=[*pages.routes(self.service), Route("/v1/chat/completions", self._chat, methods=["POST"])]
        )
        app.add_middleware(BaseHTTPMiddleware, dispatch=known)
        return app

    async def _chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        if self.refuses:
            status, message = self.refuses
            return JSONResponse({"error": {"message": message}}, status)
        return StreamingResponse(self._said(), media_type="text/event-stream")

    async def _said(self) -> AsyncGenerator[bytes]:
        try:
            for chunk in self.says:
                yield b"data: %s\n\n" % json.dumps(chunk).encode()
                await asyncio.sleep(0)
            while self.waits:
                yield b": still here\n\n"
                await asyncio.sleep(0.02)
            if not self.is_cut:
                yield b"data: [DONE]\n\n"
        finally:
            self.stopped.set()

    @contextmanager
    def running(self) -> Generator[str]:
        """Listen on a free port, and return the address."""
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(self.app(), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            listener.close()


def delta(content: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk of an answer, as OpenAI's clients read it."""
    return {"choices": [{"index": 0, "delta": {"content": content, "annotations": list(annotations)}}]}


def ended(finish: str = "stop", **grounding: Any) -> dict[str, Any]:
    """Return the last chunk of an answer."""
    told = {"abstained": False, "removed": 0, "left_out": 0, "unsupported": [], **grounding}
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "grounding": told}


def citation(
    start: int,
    chunk: Chunk,
    number: int,
    *,
    quote: str | None = None,
    supported: bool = True,
    score: float | None = 0.83,
) -> dict[str, Any]:
    """Return the annotation of `[number]` at a place of the answer."""
    first = chunk.text.index(quote) if quote else 0
    span = [chunk.start + first, chunk.start + first + len(quote or chunk.text)]
    title = " > ".join(chunk.title)
    place = {"start_index": start, "end_index": start + len(f"[{number}]"), "title": title, "url": "http://x/y"}
    about = {"chunk": chunk.id, "number": number, "path": chunk.path, "title_path": list(chunk.title), "span": span}
    return {
        "type": "url_citation",
        "url_citation": place,
        **about,
        "quote": quote,
        "supported": supported,
        "score": score,
    }


def sealed_form(folder: Path, chunks: Sequence[Chunk], name: str = "form") -> Path:
    """Seal a review of passages, as `ibidem ground review` writes it; return its folder."""
    rows = [
        {
            "id": f"q{number}",
            "turns": [f"Question: Question {number}?\n\nSource:\n{chunk.text}"],
            "responses": [f"Statement 1: {chunk.text.split('.')[0]}.\n\nStatement 2: It is not so {number}."],
            "criteria": ["downranked"],
            "chunk": chunk.id,
            "path": chunk.path,
            "question": f"Question {number}?",
            "statements": [f"{chunk.text.split('.')[0]}.", f"It is not so {number}."],
        }
        for number, chunk in enumerate(chunks)
    ]
    order = [{"id": row["id"], "preferred": 1 + number % 2, "supported": 1} for number, row in enumerate(rows)]
    from ibidem.artifacts import Input

    roles = (HEAD, ENCODER, INDEX, PROMPTS, "checkpoint")
    inputs = [Input(role, f"sha256:{role}", role, is_artifact=False) for role in roles]
    config = GroundReviewConfig(
        head=Path("head"), questions=Path("q.jsonl"), output_dir=folder / name, principal="ada", index=Path("index")
    )
    _write(config, rows, order, inputs)
    return folder / name
