"""A checkpoint of ours as a speaker: the bridge between the engine's thread and the event loop.

    engine's thread     step, step, step ...                 one call to the event loop a step
    event loop          ids of all streams                   -> the text, or the whole part, that each id completes
    a generator         Said("text", "At nine "), ...        wakes up when there is something to say

A slow reader of a generator makes nobody wait: what it did not take yet comes at once when it does.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ibidem import log
from ibidem.conversation import Conversation, PartKind
from ibidem.errors import DataError
from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
from ibidem.modeling.engine import Ask, Engine, Stream, Token
from ibidem.modeling.matrices import FrozenDecoder, Weights
from ibidem.readers import readers_of
from ibidem.runs import newest
from ibidem.serving.server.detokenizer import Detokenizer
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.speech import Drawing, Said, Spoken
from ibidem.tokenization import special
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

SEEDS = 1_000_003
"""The draws of an answer have this times the seed of its `Drawing`, as those of `generate` have."""


class OwnSpeaker:
    """A checkpoint that answers many callers at once."""

    cites_with_parts = True

    def __init__(
        self, folder: Path, *, slots: int = 64, weights: Weights | None = None, for_others: bool = False
    ) -> None:
        """Load a checkpoint, and start its engine.

        Args:
            folder: a checkpoint, or the folder of a run, for its newest one.
            slots: maximum number of answers that are generated at the same time; others wait.
            weights: precision of the matrices.
            for_others: whether others than the user who runs the program will ask. Then nobody is checked here, and
                the endpoints refuse whoever is not among `readers`, at each request.

        Raises:
            AccessDenied: it was tuned on documents, and the user who runs the program is not among their readers.
            CheckpointError: it is missing or damaged.
        """
        model, self.checkpoint = load_model(newest(folder), for_others=for_others)
        self.name = self.checkpoint.digest
        self.readers = readers_of(self.checkpoint.config)
        self.context = model.config.context
        self._tokenizer = Tokenizer.load(self.checkpoint.path / TOKENIZER_DIR)
        self._template = ChatTemplate(self._tokenizer)
        self._end_ids = frozenset({self._tokenizer.document_id, self._tokenizer.turn_end_id})
        self._heard: dict[Stream, _Heard] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ending = False
        self._engine = Engine(FrozenDecoder(model, weights), deliver=self._deliver, fail=self._fail, slots=slots)

    def room(self, turns: Conversation) -> int:
        """Return how many tokens fit behind a conversation; negative if it is too long."""
        return self.context - len(self._template.prompt(turns))

    def speak(
        self, turns: Conversation, drawing: Drawing, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        """Answer a conversation, as `Speaker.speak` describes; a stop string ends the text within one part."""
        voice = _Voice(self._tokenizer, self._template.begins, drawing.stop)
        return self._said(self._template.prompt(turns), voice, drawing, owner, scope)

    def room_behind(self, prompt: str, suffix: str | None) -> int:
        """Return how many tokens fit behind a prompt of `complete`; negative if it is too long."""
        return self.context - len(self._document(prompt, suffix))

    def complete(
        self, prompt: str, suffix: str | None, drawing: Drawing, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        """Continue the start of a document, or fill in what is missing between a prompt and a suffix.

        The rest is as in `Speaker.speak`. What is filled in is asked for in the order that pretraining has:
        `<|endoftext|><|fim_prefix|>prefix<|fim_suffix|>suffix<|fim_middle|>`.

        Raises:
            ConfigError: the prompt and `max_tokens` do not fit into the context.
        """
        voice = _Voice(self._tokenizer, {}, drawing.stop)
        return self._said(self._document(prompt, suffix), voice, drawing, owner, scope)

    def end_all(self) -> None:
        """End all answers, and those that are asked for later: the server shuts down."""
        self._is_ending = True
        for heard in self._heard.values():
            heard.end(_shutting_down())

    def close(self) -> None:
        """End the engine's thread."""
        self._engine.close()

    def in_use(self) -> int:
        """Return the number of answers that are generated or wait for a slot."""
        return self._engine.num_open

    def _document(self, prompt: str, suffix: str | None) -> list[int]:
        tokenizer = self._tokenizer
        if suffix is None:
            return [tokenizer.document_id, *tokenizer.encode(prompt)]
        before, behind, middle = map(tokenizer.id_of, (special.FIM_PREFIX, special.FIM_SUFFIX, special.FIM_MIDDLE))
        given = [before, *tokenizer.encode(prompt), behind, *tokenizer.encode(suffix), middle]
        return [tokenizer.document_id, *given]

    async def _said(
        self, ids: Sequence[int], voice: "_Voice", drawing: Drawing, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        if self._is_ending:
            raise _shutting_down()
        self._loop = asyncio.get_running_loop()
        seed = drawing.seed * SEEDS
        stream = self._engine.submit(
            Ask(ids, drawing.max_tokens, drawing.temperature, drawing.top_p, seed, self._end_ids, owner, scope)
        )
        heard = self._heard[stream] = _Heard(self._loop)
        try:
            last_id = None
            while not (heard.is_whole and heard.is_empty) and not voice.is_stopped:
                found = await heard.take()
                last_id = found[-1]
                for said in voice.read(found):
                    yield said
            for said in voice.end():
                yield said
        finally:
            del self._heard[stream]
            stream.cancel()
        is_ended = voice.is_stopped or last_id in self._end_ids
        yield Spoken("stop" if is_ended else "length", len(ids), voice.num_tokens)

    def _deliver(self, tokens: Sequence[Token]) -> None:
        """Hand the tokens of a step to the event loop; the engine's thread calls this."""
        if tokens:
            self._call(self._hear, tokens)

    def _fail(self, streams: Sequence[Stream], error: Exception) -> None:
        log.event("serve.model_failed", error=type(error).__name__, reason=str(error))
        self._call(self._end_failed, streams)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _hear(self, tokens: Sequence[Token]) -> None:
        heard_by_stream = self._heard
        for stream, number, is_last in tokens:
            if (heard := heard_by_stream.get(stream)) is not None:
                heard.add(number, is_last=is_last)

    def _end_failed(self, streams: Iterable[Stream]) -> None:
        for stream in streams:
            if (heard := self._heard.get(stream)) is not None:
                heard.end(DataError("the model failed; the events of the server say how"))


class _Heard:
    """Ids of a stream that no one has taken yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ids: list[int] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self.is_whole = False
        """Whether the stream has ended."""

    @property
    def is_empty(self) -> bool:
        return not self._ids

    def add(self, number: int, *, is_last: bool) -> None:
        self._ids.append(number)
        self.is_whole = is_last
        self._wake()

    def end(self, error: Exception) -> None:
        self._error = error
        self._wake()

    async def take(self) -> list[int]:
        """Wait for ids, and return all that there are; raise what ended the stream otherwise."""
        if not self._ids and self._error is None:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        ids, self._ids = self._ids, []
        return ids

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Voice:
    """Reads an answer id by id: text as soon as it is certain, other parts when they are whole."""

    def __init__(self, tokenizer: Tokenizer, begins: Mapping[int, PartKind], stop: Sequence[str]) -> None:
        self._tokenizer, self._begins = tokenizer, begins
        self._text = Detokenizer(tokenizer.texts_of_V, stop)
        self._kind: PartKind = "text"
        self._part: list[int] = []
        self.num_tokens = 0

    @property
    def is_stopped(self) -> bool:
        return self._text.is_stopped

    def read(self, ids: Iterable[int]) -> list[Said]:
        """Return what more is said with these ids, up to a stop string."""
        said: list[Said] = []
        text = ""
        for number in ids:
            if self._text.is_stopped:
                break
            self.num_tokens += 1
            if (kind := self._begins.get(number)) is not None:
                said += [Said("text", text), *self.end()]
                self._kind, text = kind, ""
            elif self._kind == "text":
                text += self._text.add(number)
            else:
                self._part.append(number)
        return [each for each in (*said, Said("text", text)) if each.text or each.kind != "text"]

    def end(self) -> list[Said]:
        """Return what was held back of the part that ends."""
        if self._kind == "text":
            text = self._text.end()
            return [Said("text", text)] if text else []
        said = Said(self._kind, self._tokenizer.decode(self._part))
        self._kind, self._part = "text", []
        return [said]


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down")
