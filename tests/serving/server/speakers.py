"""Speakers that say what a test wants, and what is collected of an answer."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ibidem.conversation import Conversation, Part, Turn
from ibidem.grounding.audit.log import FILE
from ibidem.readers import Readers
from ibidem.serving.config import ServeConfig
from ibidem.serving.server.documents import OpenedDocuments
from ibidem.serving.server.speech import Cited, Delta, Ended, Said, SamplingParams, Speaker, Spoken
from ibidem.serving.server.tokens import Caller

DRAWING = SamplingParams(max_tokens=64, temperature=0.0, top_p=1.0, seed=0)


class FakeSpeaker:
    """Says what a function of the conversation returns, one piece at a time."""

    name = "fake"
    readers: Readers | None = None

    def __init__(
        self,
        say: Callable[[Conversation], Iterable[Said]],
        *,
        cites_with_parts: bool = True,
        room: Callable[[Conversation], int] | None = None,
    ) -> None:
        self.cites_with_parts = cites_with_parts
        self.asked: list[tuple[Conversation, SamplingParams, str, str | None]] = []
        self._say, self._room = say, room

    def room(self, turns: Conversation) -> int | None:
        return None if self._room is None else self._room(turns)

    async def speak(
        self, turns: Conversation, sampling: SamplingParams, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        self.asked.append((turns, sampling, owner, scope))
        for said in self._say(turns):
            await asyncio.sleep(0)
            yield said
        yield Spoken("stop", 100, 20)


def saying(*pieces: Said | str, cites_with_parts: bool = True) -> FakeSpeaker:
    """Return a speaker that says these pieces; of a string, one character at a time."""
    said = [each for piece in pieces for each in ([piece] if isinstance(piece, Said) else map(text, piece))]
    return FakeSpeaker(lambda _: said, cites_with_parts=cites_with_parts)


def text(said: str) -> Said:
    return Said("text", said)


def cite(said: str) -> Said:
    return Said("cite", said)


def passages(turns: Conversation) -> list[Part]:
    """Return the passages that a speaker is asked with."""
    return [part for part in turns[-1].parts if part.kind == "passage"]


def user(question: str) -> Conversation:
    return (Turn.of("user", question),)


def caller(principal: str) -> Caller:
    return Caller(f"token of {principal}", principal, is_admin=False)


def opened_documents(index: Path, **more: Any) -> OpenedDocuments:
    return OpenedDocuments(ServeConfig(index=index, **more))


async def answered(
    documents: OpenedDocuments,
    speaker: Speaker | None,
    asked: str | Conversation,
    principal: str = "ada",
    sampling: SamplingParams = DRAWING,
) -> list[Delta | Ended]:
    """Return all that is sent."""
    turns = user(asked) if isinstance(asked, str) else asked
    return [each async for each in documents.answer(speaker, turns, sampling, caller(principal))]


async def listen(answer: AsyncGenerator[Delta | Ended], sent: list[Any], *, names: bool = False) -> None:
    """Add what is sent, or the names of its classes, to a list that keeps what came before an error."""
    async with aclosing(answer):
        async for each in answer:
            sent.append(type(each).__name__ if names else each)  # noqa: PERF401


def text_of(sent: Sequence[Delta | Ended]) -> str:
    return "".join(each.text for each in sent if isinstance(each, Delta))


def citations_of(sent: Sequence[Delta | Ended]) -> list[Cited]:
    """Return the citations, each of which stands at its place in the text."""
    found = [cited for each in sent if isinstance(each, Delta) for cited in each.citations]
    whole = text_of(sent)
    assert all(whole[each.start : each.end] == f"[{each.number}]" for each in found)
    return found


def events(index: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(f"{index}.audit/{FILE}") as database:
        found = [json.loads(row) for (row,) in database.execute("SELECT event FROM events ORDER BY number")]
    database.close()
    return found
