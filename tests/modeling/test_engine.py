"""Streams of an engine have the tokens that `generate` draws alone; nobody waits for a hoarder, and none hears another.

Whatever happens in a test happens after a step of the engine, in its thread, so that steps are counted and not timed.
"""

import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from tests.modeling.test_modeling_custom import decoder, small

from ibidem.errors import ConfigError, DataError
from ibidem.modeling.cache import FIRST_ROWS, FIRST_SIZE, KVCache
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.engine import Ask, Engine, Stream, Token
from ibidem.modeling.generate import SEED_STRIDE, Sampling, generate
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.running_batch import RunningBatch

NEVER = 97
"""An id that is not drawn."""
TINY = ModelConfig(vocab_size=8192, width=256, layers=6, heads=4, ffn_hidden=640, context=512)
WITHIN_S = 300


class Watched:
    """An engine whose steps are counted; `at[n]` is called after its nth step."""

    def __init__(self, model: FrozenDecoder, at: dict[int, Callable[["Watched"], None]], **settings: int) -> None:
        self.at = at
        self.steps = 0
        self.ids: dict[Stream, list[int]] = defaultdict(list)
        self.first_step: dict[Stream, int] = {}
        self.num_open: list[int] = []
        self.failed: list[tuple[Sequence[Stream], Exception]] = []
        self.raised: list[BaseException] = []
        self.engine = Engine(model, deliver=self._deliver, fail=self._fail, **settings)

    def _deliver(self, tokens: Sequence[Token]) -> None:
        self.steps += 1
        self.num_open.append(self.engine.num_open)
        for stream, number, is_last in tokens:
            self.first_step.setdefault(stream, self.steps)
            self.ids[stream].append(number)
            ended = number in stream.ask.end_ids or len(self.ids[stream]) == stream.ask.max_tokens
            assert is_last == ended
        if self.steps in self.at:
            self.at[self.steps](self)

    def _fail(self, streams: Sequence[Stream], error: Exception) -> None:
        self.failed.append((streams, error))

    def wait(self, condition: Callable[[], bool] | None = None) -> None:
        """Wait until the engine is idle, or until something else holds."""
        condition = condition or (lambda: self.engine.num_open == 0)
        deadline = time.monotonic() + WITHIN_S
        while not condition() and not self.failed:
            assert self.engine._thread.is_alive(), "the engine's thread died"
            assert time.monotonic() < deadline, "the engine hangs"
            time.sleep(0.001)


@contextmanager
def watched(
    model: FrozenDecoder, at: dict[int, Callable[[Watched], None]] | None = None, **settings: int
) -> Iterator[Watched]:
    found = Watched(model, at or {}, **settings)
    try:
        yield found
    finally:
        found.engine.close()
    for _, error in found.failed:
        raise error


def ask(ids: Sequence[int], max_tokens: int = 8, temperature: float = 0.0, seed: int = 0, **rest: object) -> Ask:
    return Ask(ids, max_tokens, temperature, 0.9, seed * SEED_STRIDE, (NEVER,), **rest)


@pytest.fixture(scope="module")
def frozen() -> FrozenDecoder:
    return FrozenDecoder(decoder(small(context=512)))


class Scene(NamedTuple):
    """An ask, the step after which it comes, and the one after which it is canceled, if it is."""

    ask: Ask
    joins: int
    leaves: int | None


def scenes(count: int, vocabulary: int, rng: random.Random) -> list[Scene]:
    """Mix short and long prompts, some of which begin alike within a scope, and callers who leave."""
    beginnings = {scope: [rng.randrange(vocabulary) for _ in range(80)] for scope in "abc"}
    made = []
    for number in range(count):
        size = rng.choice([1, 3, 12, 40, 150, 300])
        ids = [rng.randrange(vocabulary) for _ in range(size)]
        scope = rng.choice([None, *beginnings])
        if scope is not None:
            ids = beginnings[scope][: rng.choice([20, 80])] + ids
        temperature = rng.choice([0.0, 0.8])
        own = Ask(ids, rng.randrange(1, 40), temperature, 0.9, number * SEED_STRIDE, (5, 6), rng.choice("xyz"), scope)
        joins = rng.randrange(1, 2 * count)
        made.append(Scene(own, joins, joins + rng.randrange(30) if rng.random() < 0.2 else None))
    return made


def run(model: FrozenDecoder, chosen: Sequence[Scene]) -> tuple[list[list[int]], int]:
    """Return the ids of every scene, and the number of tokens that were read."""
    streams: dict[int, Stream] = {}

    def act(engine: Watched) -> None:
        for number, scene in enumerate(chosen):
            if scene.joins == engine.steps:
                streams[number] = engine.engine.submit(scene.ask)
            if scene.leaves == engine.steps:
                streams[number].cancel()

    last = max(max(scene.joins, scene.leaves or 0) for scene in chosen)
    with watched(model, dict.fromkeys(range(1, last + 1), act), slots=6, pace=64) as found:
        found.engine.submit(ask([1], max_tokens=last + 1))  # keeps it running until all have come
        found.wait()
        return [found.ids[streams[number]] for number in range(len(chosen))], found.engine.tokens_read


def check_equal_alone(model: Decoder, frozen: FrozenDecoder, scene: Scene, ids: list[int]) -> None:
    """Refuse ids that differ from those of `generate`, unless the two logits are equal up to rounding."""
    own = scene.ask
    sampling = Sampling(own.max_tokens, own.temperature, own.top_p, own.seed // SEED_STRIDE)
    (alone,) = generate(frozen, [own.ids], sampling, end_ids=own.end_ids)
    assert scene.leaves is not None or len(ids) == len(alone) or ids != alone[: len(ids)]
    place = next((at for at, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), None)
    if place is not None:
        with torch.no_grad():
            logits_V = model.logits(torch.tensor([[*own.ids, *alone[:place]]]))[0, -1]
        assert abs(float(logits_V[ids[place]] - logits_V[alone[place]])) <= 1e-5, f"prompt of {len(own.ids)} ids"


@pytest.mark.parametrize(
    ("count", "shape"),
    [(40, small(context=512)), pytest.param(200, TINY, marks=pytest.mark.slow)],
    ids=["40", "200"],
)
def test_streams_have_the_ids_that_generate_draws_alone(count: int, shape: ModelConfig) -> None:
    model = decoder(shape)
    frozen = FrozenDecoder(model)
    chosen = scenes(count, shape.vocab_size, random.Random(count))
    found, tokens_read = run(frozen, chosen)
    for scene, ids in zip(chosen, found, strict=True):
        check_equal_alone(model, frozen, scene, ids)
    assert sum(len(ids) > 0 for ids in found) > 0.7 * count
    in_full = sum(len(scene.ask.ids) for scene, ids in zip(chosen, found, strict=True) if ids)
    assert tokens_read < in_full + sum(map(len, found)), "beginnings are shared"


def test_a_newcomer_is_served_before_the_25th_request_of_another(frozen: FrozenDecoder) -> None:
    hoarded: list[Stream] = []
    newcomers: list[Stream] = []

    def hoard(engine: Watched) -> None:
        hoarded.extend(engine.engine.submit(ask([number], max_tokens=5, owner="hoarder")) for number in range(90))

    def come(engine: Watched) -> None:
        newcomers.append(engine.engine.submit(ask([1, 2], owner="newcomer")))

    with watched(frozen, {1: hoard, 8: come}, slots=4) as found:
        found.engine.submit(ask([1], max_tokens=2))
        found.wait()
    before = sum(found.first_step[each] < found.first_step[newcomers[0]] for each in hoarded)
    assert before < 25
    assert before >= 4, "they were there before"


def test_slots_go_in_turn_to_owners_and_in_order_to_the_requests_of_one(frozen: FrozenDecoder) -> None:
    streams: list[Stream] = []

    def come(engine: Watched) -> None:
        streams.extend(engine.engine.submit(ask([1], max_tokens=2, owner=owner)) for owner in "aaaaabbc")

    with watched(frozen, {1: come}, slots=1) as found:
        found.engine.submit(ask([1], max_tokens=1))
        found.wait()
    order = sorted(streams, key=found.first_step.__getitem__)
    assert "".join(each.ask.owner for each in order) == "abcabaaa"
    assert [each for each in order if each.ask.owner == "a"] == streams[:5]


def test_a_long_prompt_holds_up_no_stream_by_more_than_a_piece(frozen: FrozenDecoder) -> None:
    added: list[Stream] = []
    read: list[int] = []

    def come(engine: Watched) -> None:
        added.append(engine.engine.submit(ask([3] * 300)))

    def count(engine: Watched) -> None:
        read.append(engine.engine.tokens_read)

    with watched(frozen, {2: come} | dict.fromkeys(range(3, 14), count), slots=4, pace=32) as found:
        first = found.engine.submit(ask([1, 2], max_tokens=20))
        found.wait()
    assert [b - a for a, b in pairwise(read)][:8] == [33] * 8, "a piece, and a token of the stream"
    assert found.first_step[added[0]] == 2 + 10
    assert len(found.ids[first]) == 20


def test_a_canceled_stream_frees_its_slot_before_the_next_step_whatever_it_does(frozen: FrozenDecoder) -> None:
    """With two slots: one decodes, one reads a long prompt, two wait; one of each leaves after step 5."""
    streams: dict[str, Stream] = {}

    def come(engine: Watched) -> None:
        streams["decodes"] = engine.engine.submit(ask([1], max_tokens=50))
        streams["reads"] = engine.engine.submit(ask([2] * 200, max_tokens=50))
        streams["waits"] = engine.engine.submit(ask([3], max_tokens=50))
        streams["next"] = engine.engine.submit(ask([4], max_tokens=3))
        streams["after"] = engine.engine.submit(ask([5], max_tokens=3))

    def leave(engine: Watched) -> None:
        assert engine.engine.num_open == 5
        for name in ("waits", "reads", "decodes"):
            streams[name].cancel()
            streams[name].cancel()

    with watched(frozen, {1: come, 5: leave}, slots=2, pace=16) as found:
        found.engine.submit(ask([9], max_tokens=1))
        found.wait()
    assert found.num_open[5] == 2, "in the sixth step the three are gone"
    assert len(found.ids[streams["decodes"]]) == 4
    assert streams["reads"] not in found.ids
    assert streams["waits"] not in found.ids
    assert found.first_step[streams["next"]] == found.first_step[streams["after"]] == 6
    streams["next"].cancel()  # it has ended


@pytest.mark.parametrize("state", ["waits", "reads", "decodes"])
def test_whoever_waits_gets_the_slot_of_a_canceled_stream_in_the_next_step(frozen: FrozenDecoder, state: str) -> None:
    streams: list[Stream] = []
    slots = 2 if state == "waits" else 1

    def come(engine: Watched) -> None:
        size = 100 if state == "reads" else 1
        streams.extend(engine.engine.submit(ask([1] * size, max_tokens=40)) for _ in range(slots))
        streams.extend(engine.engine.submit(ask([number], max_tokens=2)) for number in range(3))

    def leave(_: Watched) -> None:
        streams[0].cancel()
        if state == "waits":
            streams[slots].cancel()

    with watched(frozen, {1: come, 3: leave}, slots=slots, pace=16) as found:
        found.engine.submit(ask([9], max_tokens=1))
        found.wait()
    assert found.first_step[streams[slots + (state == "waits")]] == 4


def test_streams_of_one_scope_read_what_they_have_in_common_once_and_others_read_all(frozen: FrozenDecoder) -> None:
    common = list(range(40))
    turns: list[tuple[list[int], str | None, int]] = [
        ([*common, 1], "ada", 41),
        ([*common, 2, 3], "ada", 2),
        ([*common, 1], "bob", 41),
        ([*common, 1], None, 41),
        ([*common, 1], None, 41),
        ([*common, 4], "bob", 1),
        (common[:20], "ada", 1),
    ]
    before = 0
    with watched(frozen, slots=2) as found:
        for ids, scope, expected in turns:
            stream = found.engine.submit(ask(ids, max_tokens=1, scope=scope))
            found.wait()
            assert found.engine.tokens_read - before == expected, (ids, scope)
            before = found.engine.tokens_read
            assert found.ids[stream] == generate(frozen, [ids], Sampling(1, 0.0), end_ids=(NEVER,))[0]


def test_the_next_turn_reads_neither_the_conversation_nor_its_own_answer_again(frozen: FrozenDecoder) -> None:
    question = list(range(30))
    with watched(frozen, slots=2) as found:
        first = found.engine.submit(ask(question, max_tokens=10, scope="ada"))
        found.wait()
        answer = found.ids[first]
        before = found.engine.tokens_read
        longer = [*question, *answer, 50, 51]
        second = found.engine.submit(ask(longer, max_tokens=10, scope="ada"))
        found.wait()
        assert found.engine.tokens_read - before == 3 + 9, "the last id of the answer was never read"
    assert found.ids[second] == generate(frozen, [longer], Sampling(10, 0.0), end_ids=(NEVER,))[0]


def test_what_was_used_last_is_kept_up_to_a_number_of_bytes(frozen: FrozenDecoder) -> None:
    bytes_per_id = 3 * 2 * 2 * 12 * 4
    with watched(frozen, slots=1, prefix_bytes=100 * bytes_per_id) as found:

        def read(first: int) -> int:
            before = found.engine.tokens_read
            found.engine.submit(ask([first] * 40, max_tokens=1, scope="ada"))
            found.wait()
            return found.engine.tokens_read - before

        assert [read(1), read(2), read(1), read(3), read(1), read(2)] == [40, 40, 1, 40, 1, 40]
        assert found.engine._batch._prefixes.size_bytes <= 100 * bytes_per_id


def test_a_prompt_that_does_not_fit_is_refused(frozen: FrozenDecoder) -> None:
    with watched(frozen) as found:
        with pytest.raises(
            ConfigError, match=r"505 tokens and max_tokens 8 do not fit into the model's context of 512"
        ):
            found.engine.submit(ask([1] * 505))
        found.engine.submit(ask([1] * 504))
        found.wait()


def test_closing_ends_the_thread_and_nothing_is_delivered_afterwards(frozen: FrozenDecoder) -> None:
    with watched(frozen, slots=1) as found:
        found.engine.submit(ask([1], max_tokens=400))
        found.engine.submit(ask([1], max_tokens=400))
        found.wait(lambda: found.steps > 3)
        found.engine.close()
        assert not found.engine._thread.is_alive()
        steps = found.steps
    assert found.steps == steps < 400


def test_a_failure_of_the_model_reaches_every_stream_and_the_next_ones_are_served() -> None:
    frozen = FrozenDecoder(decoder(small()))
    weights_D = frozen.norm_D.clone()
    streams: list[Stream] = []

    def come(engine: Watched) -> None:
        streams.extend(engine.engine.submit(ask([number], max_tokens=40)) for number in range(4))

    def damage(_: Watched) -> None:
        frozen.norm_D.fill_(float("nan"))

    found = Watched(frozen, {1: come, 4: damage}, slots=2)
    try:
        streams.append(found.engine.submit(ask([9], max_tokens=40)))
        found.wait(lambda: False)
        ((ended, error),) = found.failed
        assert set(ended) == set(streams)
        assert isinstance(error, DataError)
        assert found.engine.num_open == 0
        frozen.norm_D.copy_(weights_D)
        found.failed.clear()
        later = found.engine.submit(ask([1, 2]))
        found.wait()
        assert found.ids[later] == generate(frozen, [[1, 2]], Sampling(8, 0.0), end_ids=(NEVER,))[0]
    finally:
        found.engine.close()


def no_memory(*_: object) -> None:
    raise MemoryError("no memory")


def hear_at_most(found: Watched) -> None:
    """Wait for a failure, and forget it, so that the engine can be waited for again."""
    found.wait(lambda: False)
    found.failed.clear()


@pytest.mark.parametrize("broken", [(RunningBatch, "admit"), (KVCache, "copied")], ids=["joins", "leaves"])
def test_a_failure_while_streams_join_or_leave_reaches_every_stream_and_the_next_ones_are_served(
    frozen: FrozenDecoder, monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str]
) -> None:
    streams: list[Stream] = []

    def come(engine: Watched) -> None:
        streams.extend(engine.engine.submit(ask([number], max_tokens=400, scope="ada")) for number in range(4))

    def damage(engine: Watched) -> None:
        monkeypatch.setattr(*broken, no_memory)
        streams[0].cancel()
        streams.append(engine.engine.submit(ask([9], max_tokens=400)))

    with watched(frozen, {1: come, 4: damage}, slots=2) as found:
        streams.append(found.engine.submit(ask([8], max_tokens=400, scope="ada")))
        found.wait(lambda: False)
        ((ended, error),) = found.failed
        assert isinstance(error, MemoryError)
        assert set(ended) | {streams[0]} == set(streams)
        assert found.engine.num_open == 0
        found.failed.clear()
        monkeypatch.undo()
        later = found.engine.submit(ask([1, 2], scope="ada"))
        found.wait()
        assert found.ids[later] == generate(frozen, [[1, 2]], Sampling(8, 0.0), end_ids=(NEVER,))[0]


def test_a_failure_to_tell_of_a_failure_does_not_end_the_thread(
    frozen: FrozenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Watched, streams: Sequence[Stream], error: Exception) -> None:
        self.failed.append((streams, error))
        raise OSError("no space for the log")

    monkeypatch.setattr(Watched, "_fail", fail)
    with watched(frozen) as found:
        with monkeypatch.context() as patch:
            patch.setattr(RunningBatch, "step", no_memory)
            found.engine.submit(ask([1]))
            hear_at_most(found)
        later = found.engine.submit(ask([1, 2]))
        found.wait()
        assert len(found.ids[later]) == 8


def test_a_stream_that_ended_was_heard_though_the_slot_of_another_cannot_be_freed(
    frozen: FrozenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KVCache, "copied", no_memory)
    streams: dict[str, Stream] = {}

    def come(engine: Watched) -> None:
        for name, scope, max_tokens in (("first", None, 5), ("second", "ada", 5), ("goes on", None, 50)):
            streams[name] = engine.engine.submit(ask([1, 2], max_tokens, owner=name, scope=scope))

    with watched(frozen, {1: come}) as found:
        found.engine.submit(ask([9], max_tokens=1))
        found.wait(lambda: False)
        ((ended, _),) = found.failed
        found.failed.clear()
    assert ended == [streams["goes on"]], "the others have heard their last token"
    assert [len(found.ids[streams[name]]) for name in streams] == [5, 5, 5]


def test_what_cannot_be_kept_is_not_copied_and_displaces_nothing(
    frozen: FrozenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_per_id = 3 * 2 * 2 * 12 * 4
    copied: list[int] = []
    copy = KVCache.copied

    def counted(cache: KVCache, slot: int) -> torch.Tensor:
        copied.append(cache.lengths[slot])
        return copy(cache, slot)

    monkeypatch.setattr(KVCache, "copied", counted)
    with watched(frozen, slots=1, prefix_bytes=100 * bytes_per_id) as found:

        def read(ids: list[int], scope: str = "ada") -> int:
            before = found.engine.tokens_read
            found.engine.submit(ask(ids, max_tokens=2, scope=scope))
            found.wait()
            return found.engine.tokens_read - before - 1

        assert [read([1] * 40), read([2] * 120), read([3] * 120, "bob"), read([1] * 40)] == [40, 120, 120, 1]
    assert copied == [41], "the second of two equal answers is kept already"


def size_of(cache: KVCache) -> int:
    return sum(part.nbytes for layer in cache._layers for part in layer)


def test_memory_of_long_and_many_streams_is_given_back_while_another_goes_on_and_when_none_is_left(
    frozen: FrozenDecoder,
) -> None:
    sizes: list[int] = []

    def come(engine: Watched) -> None:
        for number in range(63):
            engine.engine.submit(ask([number] * 480, max_tokens=4))

    def measure(engine: Watched) -> None:
        sizes.append(size_of(engine.engine._batch._cache))

    with watched(frozen, {1: come} | dict.fromkeys(range(2, 100), measure), slots=64, pace=8192) as found:
        stays = found.engine.submit(ask([1, 2], max_tokens=100))
        found.wait()
        found.engine.close()
        left = size_of(found.engine._batch._cache)
    first = FIRST_ROWS * FIRST_SIZE * 3 * 2 * 2 * 12 * 4
    assert max(sizes) == 64 * 512 / (FIRST_ROWS * FIRST_SIZE) * first
    assert sizes[-1] <= max(sizes) / 16, "it has room for the longest of the last rows that left"
    assert left == first
    assert found.ids[stays] == generate(frozen, [[1, 2]], Sampling(100, 0.0), end_ids=(NEVER,))[0]


STEP = """
import sys
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.running_batch import Request, RunningBatch

model = Decoder(ModelConfig(vocab_size=97, width=48, layers=1, heads=4, ffn_hidden=80, context=64))
model.init_weights(0)
batch = RunningBatch(FrozenDecoder(model), slots=4)
batch.admit(Request([1, 2], 0.8, 0.95, [1, 2, 3, 4]))
assert len(batch.step()) == len(batch.step()) == 4
assert "torch._dynamo" not in sys.modules
"""


def test_a_first_step_imports_no_compiler() -> None:
    subprocess.run([sys.executable, "-c", STEP], check=True, timeout=WITHIN_S)
