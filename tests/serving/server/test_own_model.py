"""A checkpoint speaks to many at once: each hears, as it is said, what `ibidem generate` says to them alone."""

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from ibidem import artifacts, log
from ibidem.conversation import Part, Turn
from ibidem.errors import AccessDenied, ConfigError, DataError
from ibidem.inference.chat import answer
from ibidem.modeling import generate as generating
from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
from ibidem.modeling.generate import Sampling, complete
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.running_batch import Drawn, RunningBatch
from ibidem.readers import KEY, Readers
from ibidem.serving.server.detokenizer import Detokenizer
from ibidem.serving.server.own_model import OwnSpeaker, _PartReader
from ibidem.serving.server.speech import Said, SamplingParams, Spoken
from ibidem.tokenization import special
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.sentencepiece_codec import BLANK, NEWLINE
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.tokens import Fim, fill_in_middle

WITHIN_S = 30
SPELLED = "é€🙂\u2581" + NEWLINE + BLANK
Speech = AsyncGenerator[Said | Spoken]


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.load(checkpoint / TOKENIZER_DIR)


@pytest.fixture(scope="module")
def speaker(checkpoint: Path) -> Iterator[OwnSpeaker]:
    opened = OwnSpeaker(checkpoint, slots=8)
    yield opened
    opened.close()


def sampling(
    max_tokens: int = 12, temperature: float = 0.8, seed: int = 0, stop: tuple[str, ...] = ()
) -> SamplingParams:
    return SamplingParams(max_tokens, temperature, 0.95, seed, stop)


def chat(speaker: OwnSpeaker, text: str, how: SamplingParams, owner: str = "") -> Speech:
    return speaker.speak((Turn.of("user", text),), how, owner=owner, scope=None)


async def heard(speech: Speech) -> tuple[list[Said], Spoken]:
    async with aclosing(speech) as each:
        *said, spoken = [piece async for piece in each]
    assert isinstance(spoken, Spoken)
    return said, spoken


async def all_heard(speeches: Sequence[Speech]) -> list[tuple[list[Said], Spoken]]:
    return list(await asyncio.gather(*map(heard, speeches)))


def joined(said: Sequence[Said]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for kind, text in said:
        if parts and parts[-1].kind == kind == "text":
            parts[-1] = Part("text", parts[-1].text + text)
        else:
            parts.append(Part(kind, text))
    return tuple(parts)


def until(condition: Callable[[], bool]) -> Coroutine[Any, Any, None]:
    async def wait() -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, "it hangs"
            await asyncio.sleep(0.001)

    return wait()


def byte_id(tokenizer: Tokenizer, byte: int) -> int:
    return tokenizer.texts_of_V.index(bytes([byte]))


def some_ids(tokenizer: Tokenizer) -> strategies.SearchStrategy[list[int]]:
    """Ids of any kind: pieces, bytes of characters, whole or not, control tokens, and chat markers."""
    spelled = [[byte_id(tokenizer, byte) for byte in char.encode()] for char in SPELLED]
    markers = [[tokenizer.id_of(name)] for name in special.CONTROL]
    anything = strategies.lists(strategies.integers(0, tokenizer.vocab_size - 1), max_size=8)
    groups = strategies.sampled_from([*spelled, *(ids[:-1] for ids in spelled), *markers]) | anything
    return strategies.lists(groups, max_size=8).map(lambda found: [number for ids in found for number in ids])


def test_pieces_of_text_are_together_what_the_tokenizer_decodes(tokenizer: Tokenizer) -> None:
    seen = set()

    @hypothesis.settings(max_examples=400)
    @hypothesis.given(some_ids(tokenizer))
    def check(ids: list[int]) -> None:
        text = Detokenizer(tokenizer.texts_of_V)
        pieces = [text.add(number) for number in ids] + [text.end()]
        assert "".join(pieces) == tokenizer.decode(ids)
        seen.update("".join(pieces))

    check()
    assert set(SPELLED) <= seen
    assert "\N{REPLACEMENT CHARACTER}" in seen


def test_text_is_said_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    text = Detokenizer(tokenizer.texts_of_V, ["::", "end"])
    ids = [byte_id(tokenizer, byte) for byte in "é:a::b".encode()]
    assert [text.add(number) for number in ids] == ["", "é", "", ":a", "", "", ""]
    assert text.is_stopped
    assert text.end() == ""


def test_a_stop_string_ends_the_text_where_generate_ends_it(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = strategies.lists(strategies.text("abe:\n é€", min_size=1, max_size=4), min_size=1, max_size=3)
    alphabet = [[byte_id(tokenizer, byte) for byte in char.encode()] for char in "abe:\n é€"]
    pieces = [tokenizer.encode(text) for text in ("return", "be", "ab", " a", "::", "\n    ")]
    texts = strategies.lists(strategies.sampled_from(alphabet + pieces), max_size=20)
    found = {"stop": 0, "length": 0}

    @hypothesis.settings(max_examples=300)
    @hypothesis.given(texts.map(lambda groups: [number for ids in groups for number in ids]), stops)
    def check(ids: list[int], stop: list[str]) -> None:
        hypothesis.assume(ids)

        def drawn(*_: object, is_stopped: Callable[[list[int]], bool], **_rest: object) -> list[list[int]]:
            last = next((last for last in range(1, len(ids) + 1) if is_stopped(ids[:last])), len(ids))
            return [ids[:last]]

        monkeypatch.setattr(generating, "generate", drawn)
        (expected,) = complete(None, tokenizer, [""], Sampling(), stop)
        reader = _PartReader(tokenizer, {}, stop)
        said = [piece for number in ids for piece in reader.read([number])] + reader.end()
        assert "".join(text for _, text in said) == expected.text
        assert reader.is_stopped == (expected.finish == "stop")
        assert reader.num_tokens == expected.num_tokens
        found[expected.finish] += 1

    check()
    assert min(found.values()) > 30


def test_parts_of_an_answer_are_those_that_the_chat_template_reads(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(tokenizer)
    kinds = set()

    @hypothesis.settings(max_examples=400)
    @hypothesis.given(some_ids(tokenizer), strategies.integers(1, 5))
    def check(ids: list[int], at_once: int) -> None:
        end = next((place for place, number in enumerate(ids) if number in template.end_ids), len(ids))
        ids = ids[: end + 1]
        reader = _PartReader(tokenizer, template.begins, ())
        said = [piece for at in range(0, len(ids), at_once) for piece in reader.read(ids[at : at + at_once])]
        said += reader.end()
        assert all(text for kind, text in said if kind == "text")
        expected = template.read(ids).parts
        assert joined(said) == joined([Said(*part) for part in expected])
        assert [part for part in said if part.kind != "text"] == [part for part in expected if part.kind != "text"]
        kinds.update(kind for kind, _ in said)

    check()
    assert kinds == {"text", "cite", "tool_call"}


def test_no_part_begins_behind_a_stop_string_that_is_certain_at_its_marker(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(tokenizer)
    (cite,) = (number for number, kind in template.begins.items() if kind == "cite")
    half = byte_id(tokenizer, "é".encode()[0])
    reader = _PartReader(tokenizer, template.begins, ["\N{REPLACEMENT CHARACTER}"])
    assert reader.read([half, cite, *tokenizer.encode("1")]) == []
    assert reader.is_stopped
    assert reader.end() == []
    assert reader.num_tokens == 2


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_each_of_many_hears_what_generate_answers_alone(
    speaker: OwnSpeaker, checkpoint: Path, tokenizer: Tokenizer, temperature: float
) -> None:
    questions = [f"What is {'value ' * (number % 5)}{number}?" for number in range(20)]
    frozen, template = FrozenDecoder(load_model(checkpoint)[0]), ChatTemplate(tokenizer)
    found = asyncio.run(
        all_heard([chat(speaker, text, sampling(temperature=temperature, seed=7)) for text in questions])
    )
    for text, (said, spoken) in zip(questions, found, strict=True):
        turns = (Turn.of("user", text),)
        (expected,) = answer(frozen, template, [turns], Sampling(12, temperature, 0.95, 7))
        assert joined(said) == expected.turn.parts
        finish = "length" if expected.finish == "length" else "stop"
        assert spoken == Spoken(finish, len(template.prompt(turns)), expected.num_tokens)
    assert any(len(said) > 3 for said, _ in found), "it comes in pieces"
    assert speaker.in_use() == 0


@pytest.mark.parametrize("stop", [(), ("e",), ("\n    ", "tur"), ("never said",)])
def test_a_document_is_continued_as_generate_continues_it(
    speaker: OwnSpeaker, checkpoint: Path, tokenizer: Tokenizer, stop: tuple[str, ...]
) -> None:
    prompts = ["import os\n", "def add(value, index):\n    return"]
    how = sampling(24, stop=stop)
    found = asyncio.run(all_heard([speaker.complete(prompt, None, how, owner="", scope=None) for prompt in prompts]))
    frozen = FrozenDecoder(load_model(checkpoint)[0])
    for prompt, (said, spoken) in zip(prompts, found, strict=True):
        (expected,) = complete(frozen, tokenizer, [prompt], Sampling(24, 0.8, 0.95, 0), stop)
        assert "".join(text for _, text in said) == expected.text
        assert spoken.completion_tokens == expected.num_tokens
        assert spoken.finish == ("length" if expected.finish == "length" else "stop")
        assert spoken.prompt_tokens == speaker.context - speaker.room_behind(prompt, None)


def test_what_is_filled_in_is_asked_for_as_it_was_trained(speaker: OwnSpeaker, tokenizer: Tokenizer) -> None:
    names = (special.FIM_PREFIX, special.FIM_MIDDLE, special.FIM_SUFFIX)
    text = "def add(value, index):\n    return value + index\n"
    fim = Fim(tokenizer, tokenizer.document_id, *map(tokenizer.id_of, names), rate=1.0, spm_rate=0.0)
    document = np.array([tokenizer.document_id, *tokenizer.encode(text)])
    windows = (fill_in_middle(document, fim, rng=np.random.default_rng(seed)).tolist() for seed in range(9))
    first, last, between = map(tokenizer.id_of, names)
    trained = next(ids for ids in windows if last in ids and ids[1:3] != [first, between])
    prefix = tokenizer.decode(trained[trained.index(first) : trained.index(between)])
    suffix = tokenizer.decode(trained[trained.index(between) : trained.index(last)])
    assert text.startswith(prefix)
    assert text.endswith(suffix)
    asked = speaker._document(prefix, suffix)
    assert asked == trained[: len(asked)]
    assert asked[-1] == tokenizer.id_of(special.FIM_MIDDLE)
    assert speaker.room_behind(prefix, suffix) == speaker.context - len(asked)


def test_a_closed_generator_frees_its_slot_within_a_step_also_before_anything_was_said(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    permitted = threading.Semaphore(0)
    step = RunningBatch.step

    def gated(batch: RunningBatch) -> dict[int, Drawn]:
        assert permitted.acquire(timeout=WITHIN_S)
        return step(batch)

    async def leave(speaker: OwnSpeaker) -> None:
        how = sampling(40, seed=1)
        speeches = [chat(speaker, text, how) for text in ("a", "waits", "never asked")]
        permitted.release()
        await anext(speeches[0])
        waiting = asyncio.create_task(anext(speeches[1]))
        await until(lambda: speaker.in_use() == 2)
        waiting.cancel()
        await asyncio.wait([waiting])
        await speeches[2].aclose()
        permitted.release()
        await until(lambda: speaker.in_use() == 1)
        await speeches[0].aclose()
        permitted.release()
        await until(lambda: speaker.in_use() == 0)

    monkeypatch.setattr(RunningBatch, "step", gated)
    speaker = OwnSpeaker(checkpoint, slots=1)
    try:
        asyncio.run(leave(speaker))
        assert not speaker._queues
        permitted.release(100)
        assert asyncio.run(heard(chat(speaker, "d", sampling())))[0]
    finally:
        speaker.close()


def test_a_slow_listener_hears_everything_and_holds_up_nobody(speaker: OwnSpeaker) -> None:
    async def listen() -> tuple[list[Said], list[Said]]:
        slow = chat(speaker, "slow", sampling(30, 0.0))
        pieces = [await anext(slow)]
        await heard(chat(speaker, "quick", sampling(30, 0.0)))
        await until(lambda: speaker.in_use() == 0)
        pieces += [piece async for piece in slow if isinstance(piece, Said)]
        alone, _ = await heard(chat(speaker, "slow", sampling(30, 0.0)))
        return pieces, alone

    pieces, alone = asyncio.run(listen())
    assert joined(pieces) == joined(alone)
    assert len(pieces) < len(alone), "what was not taken comes at once"


def test_what_does_not_fit_is_refused_and_room_says_so(speaker: OwnSpeaker) -> None:
    turns = (Turn.of("user", "value " * 40),)
    room = speaker.room(turns)
    assert 0 < room < speaker.context
    said, spoken = asyncio.run(heard(speaker.speak(turns, sampling(room), owner="", scope=None)))
    assert said
    assert spoken.prompt_tokens + room == speaker.context
    with pytest.raises(ConfigError, match="do not fit into the model's context of 64"):
        asyncio.run(heard(speaker.speak(turns, sampling(room + 1), owner="", scope=None)))
    assert speaker.room((Turn.of("user", "value " * 400),)) < 0


def encodings(speaker: OwnSpeaker, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the texts that are encoded."""
    encoded: list[str] = []
    encode = speaker._tokenizer.encode

    def counted(text: str) -> list[int]:
        encoded.append(text)
        return encode(text)

    monkeypatch.setattr(speaker._tokenizer, "encode", counted)
    return encoded


def test_what_never_fits_is_not_encoded(speaker: OwnSpeaker, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encodings(speaker, monkeypatch)
    assert speaker.room((Turn.of("user", "value " * 100_000),)) < 0
    assert speaker.room((Turn.of("user", "value"),) * 100_000) < 0
    assert speaker.room_behind("value " * 50_000, "value " * 50_000) < 0
    assert not encoded


def test_the_longest_text_that_could_fit_is_encoded(speaker: OwnSpeaker, tokenizer: Tokenizer) -> None:
    """A text of nothing but the longest piece has the most characters that fit."""
    (longest,) = sorted((text for text in tokenizer.texts_of_V if isinstance(text, str)), key=len)[-1:]
    count = next(count for count in range(speaker.context, 0, -1) if len(tokenizer.encode(longest * count)) < 60)
    assert speaker.room_behind(longest * count, None) == speaker.context - 1 - len(tokenizer.encode(longest * count))


def test_what_was_encoded_to_know_its_room_is_not_encoded_again(
    speaker: OwnSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = encodings(speaker, monkeypatch)
    asked = [(Turn.of("user", f"value {number}"),) for number in range(4)]

    async def ask() -> None:
        await asyncio.gather(*(asyncio.to_thread(speaker.room, turns) for turns in asked))
        await asyncio.to_thread(speaker.room_behind, "def ", "return")
        before = len(encoded)
        how = sampling(2)
        found = await all_heard([speaker.speak(turns, how, owner="", scope=None) for turns in asked])
        await heard(speaker.complete("def ", "return", how, owner="", scope=None))
        assert len(encoded) == before == 6
        for turns, (_, spoken) in zip(asked, found, strict=True):
            assert spoken.prompt_tokens == speaker.context - speaker.room(turns)

    asyncio.run(ask())


@pytest.mark.parametrize("can_log", [True, False])
def test_a_failure_of_the_model_reaches_everyone_even_if_it_cannot_be_logged(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *, can_log: bool
) -> None:
    def full(*_: object, **_fields: object) -> None:
        raise OSError("no space left")

    speaker = OwnSpeaker(checkpoint, slots=2)
    step = type(speaker._engine._batch).step

    async def fail() -> None:
        tasks = [asyncio.create_task(heard(chat(speaker, text, sampling(40, seed=1)))) for text in "abc"]
        found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WITHIN_S)
        assert [(type(each), str(each)) for each in found] == [
            (DataError, "the model failed; the events of the server say how")
        ] * 3

    def broken(batch: object) -> object:
        if speaker.in_use() == 3:
            raise MemoryError("no memory at /secret/place")
        return step(batch)

    monkeypatch.setattr(type(speaker._engine._batch), "step", broken)
    if not can_log:
        monkeypatch.setattr(log, "event", full)
    try:
        asyncio.run(fail())
        monkeypatch.undo()
        assert asyncio.run(heard(chat(speaker, "later", sampling())))[0]
    finally:
        speaker.close()


def test_a_checkpoint_tuned_on_documents_is_loaded_for_others_only_on_request(checkpoint: Path, tmp_path: Path) -> None:
    private, public = tmp_path / "private", artifacts.load(checkpoint)
    readers = Readers(frozenset(["ada"]), frozenset(["eve"]))
    config = {**public.config, KEY: readers.as_json()}
    with artifacts.create(private, kind=public.kind, config=config, inputs=[]) as draft:
        shutil.copytree(checkpoint, draft.path, dirs_exist_ok=True)
        (draft.path / artifacts.MANIFEST).unlink()
    with pytest.raises(AccessDenied, match="not among their readers"):
        OwnSpeaker(private)
    speaker = OwnSpeaker(private, for_others=True)
    speaker.close()
    assert speaker.readers == readers
