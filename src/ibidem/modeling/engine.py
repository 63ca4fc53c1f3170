"""The engine of a server: one thread continues the prompts of many callers in one batch.

    caller's thread                         the engine's thread
    stream = engine.submit(ask)   ------>   reads the prompt between the steps of the others
                                            deliver([Token(stream, 5, False), Token(another, 9, True), ...])
    stream.cancel()               ------>   its slot is free before the next step

Every step hands over the tokens of all streams at once; only then are the slots of those that ended freed. What is
asked for waits in a queue, which is read between two steps: at most one more token of a stream is drawn once it is
canceled. The tokens of a stream are those that `generate` draws for the same prompt and seed, up to rounding, whoever
else is there. Whatever fails in the thread ends all streams, and the thread goes on with an empty batch.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Literal, NamedTuple

from ibidem.errors import ConfigError
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.running_batch import PREFIX_BYTES, Request, RunningBatch

PACE = 256
"""Number of tokens of prompts that a step reads at most: a longer prompt holds up the others no longer than this."""


class Ask(NamedTuple):
    """A prompt, and how it is continued."""

    ids: Sequence[int]
    max_tokens: int
    temperature: float
    """0 takes the most likely token."""
    top_p: float
    seed: int
    """Of the random generator of its draws."""
    end_ids: Collection[int]
    """Generation ends with the first of them."""
    owner: str = ""
    """Slots are given in turn to owners."""
    scope: Hashable | None = None
    """Prompts of one scope share what was read of a common beginning; None: share nothing."""


@dataclass(eq=False)
class Stream:
    """A prompt that is continued, or waits for it."""

    ask: Ask
    commands: "SimpleQueue[_Command]"
    """Of the engine that it belongs to."""
    number: int = -1
    """Of its row; for the engine's thread."""
    num_drawn: int = 0
    """For the engine's thread."""

    def cancel(self) -> None:
        """End it, and free its slot before the next step; do nothing if it has ended. Any thread may call this."""
        self.commands.put(("cancel", self))


class Token(NamedTuple):
    """What was drawn for a stream."""

    stream: Stream
    id: int
    is_last: bool
    """Whether the stream ended with it, by an end id or its maximum length."""


_Command = tuple[Literal["submit", "cancel"], Stream] | None
"""None: end the thread."""


class Engine:
    """A batch, and the thread that runs it."""

    def __init__(
        self,
        model: FrozenDecoder,
        *,
        deliver: Callable[[Sequence[Token]], None],
        fail: Callable[[Sequence[Stream], Exception], None],
        slots: int = 64,
        pace: int = PACE,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        """Start the thread.

        Args:
            model: the weights.
            deliver: called by the thread after each step with the tokens of the step, none if prompts alone were read.
            fail: called by the thread if anything fails, with all streams and what was raised: they have ended.
            slots: maximum number of streams that are continued at the same time; others wait.
            pace: maximum number of tokens of prompts in one step.
            prefix_bytes: size of the keys and values that are kept for later prompts of the same scope.
        """
        self.context = model.config.context
        self._new_batch = partial(RunningBatch, model, slots=slots, pace=pace, prefix_bytes=prefix_bytes)
        self._batch = self._new_batch()
        self._deliver, self._fail = deliver, fail
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._open: dict[Stream, None] = {}
        self._by_number: dict[int, Stream] = {}
        self._thread = Thread(target=self._run, name="ibidem-engine", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask) -> Stream:
        """Continue a prompt as soon as there is a slot; return at once. Any thread may call this.

        Raises:
            ConfigError: the prompt and `max_tokens` do not fit into the context.
        """
        if not 0 < len(ask.ids) <= self.context - ask.max_tokens:
            raise ConfigError(
                f"a prompt of {len(ask.ids):,} tokens and max_tokens {ask.max_tokens:,} do not fit into the model's "
                f"context of {self.context:,}; shorten the prompt, or give fewer max_tokens"
            )
        stream = Stream(ask, self._commands)
        self._open[stream] = None
        self._commands.put(("submit", stream))
        return stream

    def close(self) -> None:
        """End the thread after the step that it is in; nothing is delivered afterwards."""
        self._commands.put(None)
        self._thread.join()

    @property
    def num_open(self) -> int:
        """Number of streams that have not ended, those that wait included."""
        return len(self._open)

    @property
    def tokens_read(self) -> int:
        """Number of tokens that went through the model so far."""
        return self._batch.tokens_read

    def _run(self) -> None:
        failure: Exception | None = None
        while True:
            try:
                if failure is not None:
                    error, failure = failure, None
                    self._restart(error)
                if not self._take_commands():
                    return
                self._advance()
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for a token must be told
                failure = error

    def _take_commands(self) -> bool:
        """Do what was asked for meanwhile, or wait for it if nothing is to be generated; return whether to go on."""
        while not self._by_number or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            verb, stream = command
            if stream not in self._open:
                continue  # it has ended
            if verb == "submit":
                self._admit(stream)
            else:
                self._forget(stream)
                self._batch.release(stream.number)
        return True

    def _admit(self, stream: Stream) -> None:
        ask = stream.ask
        request = Request(ask.ids, ask.temperature, ask.top_p, [ask.seed], owner=ask.owner, scope=ask.scope)
        (stream.number,) = self._batch.admit(request)
        self._by_number[stream.number] = stream

    def _advance(self) -> None:
        """Draw the next tokens, hand them over, and only then free the slots of the streams that ended."""
        tokens = self._step()
        ended = [token.stream for token in tokens if token.is_last]
        for stream in ended:
            self._forget(stream)
        try:
            self._deliver(tokens)
        except Exception:
            self._open.update(dict.fromkeys(ended))  # they wait for the token that was not delivered
            raise
        for stream in ended:
            self._batch.release(stream.number)

    def _step(self) -> list[Token]:
        tokens = []
        for number, (next_id, _) in self._batch.step().items():
            stream = self._by_number[number]
            stream.num_drawn += 1
            is_last = next_id in stream.ask.end_ids or stream.num_drawn == stream.ask.max_tokens
            tokens.append(Token(stream, next_id, is_last))
        return tokens

    def _forget(self, stream: Stream) -> None:
        del self._by_number[stream.number], self._open[stream]

    def _restart(self, error: Exception) -> None:
        """End all streams, those that wait included, and go on with an empty batch; again, if this fails."""
        ended = list(self._open)
        for stream in ended:
            del self._open[stream]
        self._by_number.clear()
        if ended:
            self._fail(ended, error)
        self._batch = self._new_batch()
