"""A checkpoint of ours as a speaker: the bridge between the engine's thread and the event loop.

    engine's thread     step, step, step ...                 one call to the event loop a step
    event loop          ids of all streams                   -> the text, or the whole part, that each id completes
    a generator         Said("text", "At nine "), ...        wakes up when there is something to say

A slow reader of a generator makes nobody wait: what it did not take yet comes at once when it does.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ibidem import log
from ibidem.conversation import Conversation, PartKind
from ibidem.errors import DataError
from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
from ibidem.modeling.engine import Ask, Engine, Stream, Token
from ibidem.modeling.generate import SEED_STRIDE
from ibidem.modeling.matrices import FrozenDecoder, Weights
from ibidem.readers import readers_of
from ibidem.runs import newest
from ibidem.serving.server.detokenizer import Detokenizer
from ibidem.serving.server.speech import Said, SamplingParams, Spoken
from ibidem.tokenization import special
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

MOST_REMEMBERED = 64
"""Number of prompts whose ids are remembered between `room` and `speak`."""


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
        self._end_ids = self._tokenizer.end_ids
        self._queues: dict[Stream, _TokenQueue] = {}
        self._prompts = _Prompts(self._tokenizer, self.context)
        self._loop: asyncio.AbstractEventLoop | None = None
        frozen = FrozenDecoder(model, weights, num_ids=self._tokenizer.vocab_size)
        self._engine = Engine(frozen, deliver=self._deliver, fail=self._fail, slots=slots)

    def room(self, turns: Conversation) -> int:
        """Return how many tokens fit behind a conversation, negative if it is too long; any thread may call this."""
        chars = sum(len(part.text) for turn in turns for part in turn.parts)
        return self._prompts.room(turns, chars, lambda: self._template.prompt(turns))

    def speak(
        self, turns: Conversation, sampling: SamplingParams, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        """Answer a conversation, as `Speaker.speak` describes; a stop string ends the text within one part."""
        reader = _PartReader(self._tokenizer, self._template.begins, sampling.stop)
        ids = self._prompts.taken(turns, lambda: self._template.prompt(turns))
        return self._said(ids, reader, sampling, owner, scope)

    def room_behind(self, prompt: str, suffix: str | None) -> int:
        """Return how many tokens fit behind a prompt of `complete`, as `room` does."""
        chars = len(prompt) + len(suffix or "")
        return self._prompts.room((prompt, suffix), chars, lambda: self._document(prompt, suffix))

    def complete(
        self, prompt: str, suffix: str | None, sampling: SamplingParams, *, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        """Continue the start of a document, or fill in what is missing between a prompt and a suffix.

        The rest is as in `Speaker.speak`. What is filled in is asked for in the order that pretraining has:
        `<|endoftext|><|fim_prefix|>prefix<|fim_suffix|>suffix<|fim_middle|>`.

        Raises:
            ConfigError: the prompt and `max_tokens` do not fit into the context.
        """
        reader = _PartReader(self._tokenizer, {}, sampling.stop, is_continued=suffix is None)
        ids = self._prompts.taken((prompt, suffix), lambda: self._document(prompt, suffix))
        return self._said(ids, reader, sampling, owner, scope)

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
        self, ids: Sequence[int], reader: "_PartReader", sampling: SamplingParams, owner: str, scope: str | None
    ) -> AsyncGenerator[Said | Spoken]:
        self._loop = asyncio.get_running_loop()
        seed = sampling.seed * SEED_STRIDE
        stream = self._engine.submit(
            Ask(ids, sampling.max_tokens, sampling.temperature, sampling.top_p, seed, self._end_ids, owner, scope)
        )
        queue = self._queues[stream] = _TokenQueue(self._loop)
        try:
            last_id = None
            while not (queue.is_whole and queue.is_empty) and not reader.is_stopped:
                new_ids = await queue.take()
                last_id = new_ids[-1]
                for said in reader.read(new_ids):
                    yield said
            for said in reader.end():
                yield said
        finally:
            del self._queues[stream]
            stream.cancel()
        is_ended = reader.is_stopped or last_id in self._end_ids
        yield Spoken("stop" if is_ended else "length", len(ids), reader.num_tokens)

    def _deliver(self, tokens: Sequence[Token]) -> None:
        """Hand the tokens of a step to the event loop; the engine's thread calls this."""
        if tokens:
            self._call(self._hear, tokens)

    def _fail(self, streams: Sequence[Stream], error: Exception) -> None:
        self._call(self._end_failed, streams)  # first, since writing to the log may fail too
        log.event("serve.model_failed", error=type(error).__name__, reason=str(error))

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _hear(self, tokens: Sequence[Token]) -> None:
        queues = self._queues
        for stream, number, is_last in tokens:
            if (queue := queues.get(stream)) is not None:
                queue.add(number, is_last=is_last)

    def _end_failed(self, streams: Iterable[Stream]) -> None:
        for stream in streams:
            if (queue := self._queues.get(stream)) is not None:
                queue.end(DataError("the model failed; the events of the server say how"))


class _Prompts:
    """Ids of prompts, remembered between `room` and `speak`; for any thread."""

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        self._context = context
        self._longest = max(map(len, tokenizer.texts_of_V))
        self._known: dict[Hashable, list[int]] = {}
        self._lock = threading.Lock()

    def room(self, prompt: Hashable, chars: int, encode: Callable[[], list[int]]) -> int:
        """Return how many tokens fit behind a prompt; at least as many as do if it has too many characters to fit."""
        at_least = -(-chars // self._longest)
        if at_least > self._context:
            return self._context - at_least
        ids = encode()
        if len(ids) < self._context:
            with self._lock:
                self._known[prompt] = ids
                if len(self._known) > MOST_REMEMBERED:
                    del self._known[next(iter(self._known))]
        return self._context - len(ids)

    def taken(self, prompt: Hashable, encode: Callable[[], list[int]]) -> list[int]:
        """Return the ids of a prompt, and forget them."""
        with self._lock:
            ids = self._known.pop(prompt, None)
        return encode() if ids is None else ids


class _TokenQueue:
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
        """Raise an error from where the stream is listened to, unless it ended before."""
        if not self.is_whole:
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


class _PartReader:
    """Reads an answer id by id: text as soon as it is certain, other parts when they are whole."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        begins: Mapping[int, PartKind],
        stop: Sequence[str],
        *,
        is_continued: bool = False,
    ) -> None:
        self._tokenizer, self._begins = tokenizer, begins
        self._text = Detokenizer(tokenizer.texts_of_V, stop, {} if is_continued else tokenizer.first_texts)
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
                text = ""
                if not self.is_stopped:
                    self._kind = kind
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
