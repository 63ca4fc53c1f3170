"""Answers from an opened index: retrieved as the caller's principal, checked while they are written, recorded.

    event loop    answer --+            +-- speaker speaks -- checked -- sent          +-- the rest is sent -- Ended
    one thread             +- retrieve -+       (claims are scored, with a head)  record
                              record

The index, the access rules, the audit log and the head are used in one thread of their own, so that the event loop
waits neither for a disk nor for a search. Long conversations are counted and shortened in threads beside it, so that
nobody waits for those of others. An index that is replaced is opened again; while there is none, questions are
refused.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ibidem import log
from ibidem.conversation import Conversation
from ibidem.errors import AccessDenied, ArtifactError, AuditError, ConfigError, NoRoom, NotAReader, RulesError
from ibidem.grounding import quotes
from ibidem.grounding.ask import NO_ANSWER, QUOTES, Retrieved, prompt, quote_lines, retrieve, score
from ibidem.grounding.audit.commands import folder_of
from ibidem.grounding.audit.log import AuditLog
from ibidem.grounding.cite import Claim
from ibidem.grounding.config import WORD_SHARE
from ibidem.grounding.index import Index
from ibidem.grounding.opening import open_store, opened
from ibidem.grounding.retrieve import PRIVATE_SEARCH, Retriever
from ibidem.grounding.store import Chunk
from ibidem.grounding.support import WordCover
from ibidem.serving.config import ServeConfig
from ibidem.serving.server.citations import CitedAnswer, Sent, cited_at, grounding
from ibidem.serving.server.errors import ApiError, shutting_down
from ibidem.serving.server.speech import Delta, Ended, SamplingParams, Speaker, Spoken
from ibidem.serving.server.tokens import Caller
from ibidem.signatures import secret_key

UNREADABLE = "the documents cannot be read at the moment; ask again later"
LEAST_ROOM = 256
"""Tokens that passages and earlier turns leave for an answer; fewer, if the caller asks for fewer."""
MOST_CHARS = 8000
"""Of a question: a search takes as long as it has different words, and all others wait for it."""
_SETTINGS = ("acl", "encoder", "model", "terms")

T = TypeVar("T")


class _Given(NamedTuple):
    """What a caller asks."""

    speaker: Speaker | None
    turns: Conversation
    sampling: SamplingParams

    @property
    def question(self) -> str:
        return self.turns[-1].text

    @property
    def least(self) -> int:
        """Return how many tokens of an answer must have room."""
        return min(self.sampling.max_tokens, LEAST_ROOM)

    def check_question(self) -> None:
        if not self.turns or self.turns[-1].role != "user":
            raise ApiError(400, "messages: the last one must be the user's question", param="messages")
        if len(self.question) > MOST_CHARS:
            message = f"messages: the question is longer than {MOST_CHARS:,} characters; shorten it"
            raise ApiError(400, message, code="context_length_exceeded", param="messages")

    def check_room(self) -> None:
        """Refuse what fits with no passage, as `fits` is asked in the thread of the documents."""
        if not self.fits(()):
            raise NoRoom(
                "the question and the system's turn do not fit into the model's context; shorten them, or give fewer "
                "max_tokens"
            )

    def fits(self, chunks: Sequence[Chunk]) -> bool:
        """Return whether the question fits with passages, the system's turn and the shortest answer."""
        system = tuple(turn for turn in self.turns[:1] if turn.role == "system")
        turns = (*system, *self.prompt(chunks))
        return self.speaker is None or _room(self.speaker, turns, self.least) >= self.least

    def prompt(self, chunks: Sequence[Chunk]) -> Conversation:
        return prompt(self.question, chunks, is_ours=self.speaker is None or self.speaker.cites_with_parts)


class _Asked(NamedTuple):
    """A question with its passages, whose record is on disk."""

    question: str
    principal: str
    retriever: Retriever
    about: Retrieved
    turns: Conversation
    """What the speaker is asked."""
    sampling: SamplingParams
    scope: str


class OpenedDocuments:
    """An opened index: `service.Documents`."""

    def __init__(self, config: ServeConfig) -> None:
        """Open an index, its audit log and its head.

        Raises:
            ArtifactError: there is no index, or it was made with another key.
            AuditError: its log cannot be opened.
            ConfigError: the model of its vectors is not where it was.
        """
        self._config, self._judge = config, WordCover(WORD_SHARE)
        self._index = ExitStack()
        self._retriever: Retriever | None = None
        self._settings: dict[str, Any] = {}
        key = secret_key(config.key, create=False)
        with open_store(config.index, config.store, key):
            self._audit = AuditLog(folder_of(config.index, config.audit), key)
        self._thread = ThreadPoolExecutor(1, "documents")
        try:
            self._thread.submit(self._opened).result()
        except BaseException:
            self.close()
            raise

    async def answer(
        self, speaker: Speaker | None, turns: Conversation, sampling: SamplingParams, caller: Caller
    ) -> AsyncGenerator[Delta | Ended]:
        """Answer the last turn of the user, as `service.Documents` says."""
        given = _Given(speaker, turns, sampling)
        given.check_question()
        await asyncio.to_thread(given.check_room)
        asked = await self._run(self._ask, given, caller.principal)
        if speaker is None or not asked.about.passages:
            answering = self._quoted(asked, QUOTES if speaker is None else speaker.name)
        else:
            asked = await asyncio.to_thread(_fitted, asked, speaker, given.least)
            answering = self._spoken(asked, speaker, caller)
        async with aclosing(answering):
            async for each in answering:
                yield each

    async def show(self, chunk: str, principal: str) -> Chunk:
        """Return one chunk, recorded, as `service.Documents` says."""
        return await self._run(lambda: self._current().show(chunk, principal))

    async def readable(self, chunks: Sequence[str], principal: str) -> frozenset[str]:
        """Return which chunks a principal may read, as `service.Documents` says."""
        return await self._run(lambda: self._current().readable(chunks, principal))

    def close(self) -> None:
        """Finish queued work, then stop the thread, and close index and log."""
        with suppress(RuntimeError):  # it is closed
            self._thread.submit(self._index.close)
        self._thread.shutdown()
        self._audit.close()

    def _opened(self) -> Retriever:
        """Return the index, opened again if it was replaced by one with other settings, or could not be read."""
        known = self._retriever
        if known is None or _settings(known) != self._settings:
            self._retriever = None
            self._index.close()
            known = self._index.enter_context(opened(self._config, for_others=True, audit=self._audit))
            self._retriever, self._settings = known, _settings(known)
        return known

    def _current(self) -> Retriever:
        """Return the index as it is now.

        Raises:
            ApiError: it cannot be opened again.
        """
        try:
            return self._opened()
        except ConfigError as error:
            raise _unreadable(error) from None

    def _ask(self, given: _Given, principal: str) -> _Asked:
        retriever = self._current()
        # before the search: what changes in between is in another scope than what is computed from now on
        state = f"{principal}\n{retriever.permissions.current().version}\n{retriever.store.digest}"
        about = retrieve(retriever, given.question, principal, self._config.k, given.fits)
        turns = (*given.turns[:-1], *given.prompt(about.passages))
        return _Asked(given.question, principal, retriever, about, turns, given.sampling, self._audit.keyed(state))

    async def _quoted(self, asked: _Asked, name: str) -> AsyncGenerator[Delta | Ended]:
        deltas = await self._run(partial(_quotes, asked))
        text = "".join(delta.text for delta in deltas)
        await self._run(partial(asked.retriever.answered, text, asked.principal, name, asked.about.found))
        for delta in deltas:
            yield delta
        yield Ended("stop", 0, 0, grounding(abstained=text == NO_ANSWER, left_out=asked.about.left_out))

    async def _spoken(self, asked: _Asked, speaker: Speaker, caller: Caller) -> AsyncGenerator[Delta | Ended]:
        passages = asked.about.passages
        answer = CitedAnswer(asked.question, passages, self._judge, cites_with_parts=speaker.cites_with_parts)
        sent, is_left_to_thread = "", False
        spoken: Spoken | None = None
        saying = speaker.speak(asked.turns, asked.sampling, owner=caller.token, scope=asked.scope)
        try:
            async with aclosing(saying):
                async for said in saying:
                    if isinstance(said, Spoken):
                        spoken = said
                    elif (ready := answer.say(said)).text:
                        delta = await self._scored(asked, ready)
                        sent += delta.text
                        yield delta
            assert spoken is not None, "the last thing that a speaker says"
            last = await self._scored(asked, answer.end())
            recording = self._given(_record, asked, sent, last.text, speaker.name)
            is_left_to_thread = True
            await asyncio.shield(asyncio.wrap_future(recording))
        finally:
            if not is_left_to_thread:
                self._break_off(asked, sent, speaker.name)
        if last.text:
            yield last
        yield Ended(*spoken, grounding=answer.grounding(asked.about.left_out))

    def _break_off(self, asked: _Asked, sent: str, name: str) -> None:
        """Record what was sent of an answer, without waiting for it."""

        def record() -> None:
            try:
                asked.retriever.broken_off(sent, asked.principal, name)
            except AuditError as error:
                log.event("serve.unrecorded", reason=str(error))

        try:
            self._given(record)
        except ApiError as error:
            log.event("serve.unrecorded", reason=str(error))

    async def _scored(self, asked: _Asked, ready: Sent) -> Delta:
        """Return what is sent, with what the head says of the claims."""
        claims = [claim for claim in dict.fromkeys(ready.claims) if claim is not None]
        if asked.retriever.head is None or not claims:
            return Delta(ready.text, ready.citations)
        scores = await self._run(partial(_scores, asked, claims))
        cited = zip(ready.citations, ready.claims, strict=True)
        return Delta(ready.text, tuple(each._replace(score=scores[claim] if claim else None) for each, claim in cited))

    async def _run(self, function: Callable[..., T], *given: Any) -> T:
        return await asyncio.wrap_future(self._given(function, *given))

    def _given(self, function: Callable[..., T], *given: Any) -> "Future[T]":
        try:
            return self._thread.submit(self._explained, function, *given)
        except RuntimeError:
            raise shutting_down() from None

    def _explained(self, function: Callable[..., T], *given: Any) -> T:
        """Call a function; what the caller did wrong is raised as it is, and what the server cannot read as a 503."""
        try:
            return function(*given)
        except NotAReader:
            raise ApiError(403, f"{PRIVATE_SEARCH}, not all of which you may read") from None
        except AccessDenied:
            raise
        except AuditError as error:
            log.event("serve.unrecorded", reason=str(error))
            raise
        except RulesError as error:
            raise _unreadable(error) from None
        except (ArtifactError, OSError) as error:
            self._retriever = None
            raise _unreadable(error) from None


def _unreadable(error: Exception) -> ApiError:
    log.event("serve.unreadable", reason=str(error))
    return ApiError(503, UNREADABLE)


def _record(asked: _Asked, sent: str, last: str, name: str) -> None:
    """Record an answer before its last text is sent; if it must not end, record what was sent of it."""
    try:
        asked.retriever.answered(sent + last, asked.principal, name, asked.about.found)
    except BaseException:
        asked.retriever.broken_off(sent, asked.principal, name)
        raise


def _settings(retriever: Retriever) -> dict[str, Any]:
    """Return the settings that an index was made with; those of a database cannot change."""
    config = retriever.store.artifact.config if isinstance(retriever.store, Index) else {}
    return {name: config.get(name) for name in _SETTINGS}


def _room(speaker: Speaker, turns: Conversation, unknown: int) -> int:
    room = speaker.room(turns)
    return unknown if room is None else room


def _fitted(asked: _Asked, speaker: Speaker, least: int) -> _Asked:
    """Leave out the oldest turns that do not fit, and shorten the answer to the room that there is."""
    from ibidem.inference.chat import shortened

    turns = shortened(asked.turns, lambda some: _room(speaker, some, least) >= least)
    most = asked.sampling.max_tokens
    sampling = replace(asked.sampling, max_tokens=min(most, _room(speaker, turns, most)))
    return asked._replace(turns=turns, sampling=sampling)


def _quotes(asked: _Asked) -> list[Delta]:
    """Return the best quotes as an answer, each with its citation."""
    passages, found = asked.about.passages, asked.about.found
    return list(_placed(asked, quotes.quotes(asked.question, passages, found))) or [Delta(NO_ANSWER)]


def _placed(asked: _Asked, found: Sequence[quotes.Quote]) -> Iterator[Delta]:
    start = 0
    for line in quote_lines(found, asked.about.passages):
        text = f"\n\n{line.text}" if start else line.text
        start += len(text)
        chunk = asked.about.passages[line.citation.number - 1]
        cited = cited_at(start - len(f"[{line.citation.number}]"), start, line.citation, chunk)
        scored = score(asked.retriever, asked.principal, line.claim, asked.about.passages)
        yield Delta(text, (cited._replace(score=scored),))


def _scores(asked: _Asked, claims: Sequence[Claim]) -> dict[Claim, float | None]:
    return {claim: score(asked.retriever, asked.principal, claim, asked.about.passages) for claim in claims}
