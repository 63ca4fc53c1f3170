"""Answers are looked up in the training's index while they are written: marked, or ended before what is blocked."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from random import Random

import httpx
import pytest
from tests.serving.server.running import Script, running

from ibidem.attribution.config import Action, BuildConfig, PolicyConfig
from ibidem.attribution.index import build
from ibidem.attribution.lookup import Attribution, Repetition, Source
from ibidem.attribution.policy import decide
from ibidem.data import shards
from ibidem.readers import Readers
from ibidem.serving.server.sources import attributed
from ibidem.serving.server.speech import Cited, Delta, Ended
from ibidem.training.tokenize import tokenized

LEAST = 20
OWN = 'fn carry_on() { while let Some(x) = queue.pop() { println!("{x:?}"); } }  // of no training document\n' * 3
FACTS = dict.fromkeys(("record", "source", "revision", "repo", "path", "url", "license", "language", "swhid"))


@pytest.fixture(scope="module")
def index(dataset: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Attribution:
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(dataset, folder / "data")
    tokens, _ = tokenized(folder / "data", tokenizer_dir, folder / "tokens", held_out_share=0.1)
    build(BuildConfig(tokens=tokens.path, output_dir=folder / "index"))
    return Attribution(folder / "index", least_tokens=LEAST, common_documents=10**6)


@pytest.fixture(scope="module")
def copied(index: Attribution, dataset: Path) -> str:
    """A text that one training document contains."""
    for path in shards.shard_paths(dataset):
        for row in shards.read_rows(path, ["text"]):
            if len(row["text"]) > 600 and [each for each in index.of_text(row["text"]) if each.num_tokens > 200]:
                return str(row["text"])
    raise AssertionError("no document is long enough")


def policy(action: Action) -> PolicyConfig:
    return PolicyConfig(on_permitted=action, on_other=action, on_common=action, least_tokens=LEAST)


def said(texts: Iterable[str]) -> AsyncGenerator[Delta | Ended]:
    async def pieces() -> AsyncGenerator[Delta | Ended]:
        for text in texts:
            yield Delta(text)
        yield Ended("stop", 5, 7)

    return pieces()


def sent(index: Attribution, action: Action, texts: Iterable[str]) -> list[Delta | Ended]:
    async def collect() -> list[Delta | Ended]:
        async with aclosing(attributed(said(texts), index, policy(action))) as pieces:
            return [piece async for piece in pieces]

    return asyncio.run(collect())


@contextmanager
def asking(state: Path, script: Script, index: Attribution, action: Action) -> Iterator[httpx.Client]:
    with running(state, script, attribution=index, policy=policy(action)) as server, server.client() as client:
        yield client


def text_of(pieces: Sequence[Delta | Ended]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_spans_are_those_of_the_whole_text_and_are_announced_behind_their_end(
    index: Attribution, copied: str, size: int
) -> None:
    answer = OWN + copied[:600] + "\n" + OWN
    pieces = sent(index, "mark", (answer[at : at + size] for at in range(0, len(answer), size)))
    assert text_of(pieces) == answer
    assert pieces[-1] == Ended("stop", 5, 7)
    whole = max(index.of_text(answer), key=lambda each: each.num_tokens)
    found = [each for piece in pieces if isinstance(piece, Delta) for each in piece.repeated]
    longest = max(found, key=lambda each: each.num_tokens)
    assert (longest.start, longest.end, longest.num_tokens) == (whole.start, whole.end, whole.num_tokens)
    assert longest.sources[0]["path"] == whole.sources[0].facts["path"]
    assert len(found) <= len(index.of_text(answer)) + 2
    before = ""
    for piece in pieces[:-1]:
        assert isinstance(piece, Delta)
        assert all(each.end <= len(before) for each in piece.repeated)
        before += piece.text
    if size < 10_000:  # announced while the answer goes on
        place = next(at for at, piece in enumerate(pieces) if isinstance(piece, Delta) and longest in piece.repeated)
        assert place < len(pieces) - 2


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_nothing_of_a_blocked_span_is_sent(index: Attribution, copied: str, size: int) -> None:
    answer = OWN + copied[:600] + "\n" + OWN
    pieces = sent(index, "block", (answer[at : at + size] for at in range(0, len(answer), size)))
    last = pieces[-1]
    assert isinstance(last, Ended)
    assert last.finish == "content_filter"
    shown = text_of(pieces)
    assert OWN.startswith(shown[: len(OWN)])
    assert len(OWN) // 2 < len(shown) <= len(OWN) + 3
    assert not [each for piece in pieces if isinstance(piece, Delta) for each in piece.repeated]


def answers(copied: str, number: int) -> Iterator[tuple[str, list[str]]]:
    """Yield answers that repeat a part of a document between other words, and the pieces in which they are said."""
    rng = Random(0)
    words = ("index", "of the", "(x)", "return", "=", "zq\n", "value,")
    for _ in range(number):
        before, behind = (" ".join(rng.choices(words, k=rng.randrange(90))) for _ in range(2))
        start = rng.randrange(len(copied) - 300)
        repeated = copied[start : start + rng.choice((40, 60, 120, 300))]
        answer = before + rng.choice((" ", "\n", "")) + repeated + " " + behind
        size = rng.choice((1, 3, 7, 20, 10_000))
        yield answer, [answer[at : at + size] for at in range(0, len(answer), size)]


def test_spans_while_an_answer_is_written_are_those_of_the_whole_to_the_character(
    index: Attribution, copied: str
) -> None:
    num_spans = 0
    for answer, texts in answers(copied, 150):
        whole = [(each.start, each.end, each.num_tokens) for each in index.of_text(answer)]
        pieces = sent(index, "mark", texts)
        found = [each for piece in pieces if isinstance(piece, Delta) for each in piece.repeated]
        assert [(each.start, each.end, each.num_tokens) for each in found] == whole
        shown = text_of(blocked := sent(index, "block", texts))
        assert shown == (answer[: whole[0][0]] if whole else answer)
        assert isinstance(blocked[-1], Ended)
        assert blocked[-1].finish == ("content_filter" if whole else "stop")
        num_spans += len(whole)
    assert num_spans > 75


def test_what_is_held_back_is_the_last_word_and_what_a_document_may_go_on_with(index: Attribution) -> None:
    """The text of a span of the least length is some 100 characters."""
    num_said, num_sent, behind = 0, 0, list[int]()

    async def pieces() -> AsyncGenerator[Delta | Ended]:
        nonlocal num_said
        for char in OWN * 3:
            num_said += 1
            yield Delta(char)
        yield Ended("stop", 5, 7)

    async def collect() -> None:
        nonlocal num_sent
        async for piece in attributed(pieces(), index, policy("block")):
            if isinstance(piece, Delta):
                num_sent += len(piece.text)
                behind.append(num_said - num_sent)

    asyncio.run(collect())
    assert num_sent == len(OWN * 3)
    assert max(behind) < 50


def test_an_answer_that_repeats_nothing_is_sent_whole_if_spans_are_blocked(index: Attribution) -> None:
    pieces = sent(index, "block", OWN)
    assert (text_of(pieces), pieces[-1]) == (OWN, Ended("stop", 5, 7))


def test_a_look_begins_where_a_span_may_be_open(index: Attribution, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    of_ids = Attribution.of_ids

    def counted(self: Attribution, ids: Sequence[int]) -> list[Repetition]:
        lengths.append(len(ids))
        return of_ids(self, ids)

    monkeypatch.setattr(Attribution, "of_ids", counted)
    sent(index, "mark", OWN * 20)
    assert len(lengths) > 10
    assert max(lengths) < 400  # of about 5,000 tokens


@pytest.mark.parametrize(
    ("license_", "is_removed", "is_common", "expected"),
    [
        ("MIT", False, False, "mark"),
        ("MIT OR GPL-3.0-only", False, False, "mark"),
        ("MIT", None, False, "mark"),
        ("MIT", True, False, "block"),
        ("GPL-3.0-only", False, False, "block"),
        ("MIT AND GPL-3.0-only", False, False, "block"),
        (None, False, False, "block"),
        ("GPL-3.0-only", False, True, "allow"),
    ],
)
def test_the_policy_goes_by_license_removal_and_number_of_documents(
    license_: str | None, is_removed: bool | None, is_common: bool, expected: str
) -> None:
    permitted = Source("1", FACTS | {"license": "MIT"}, is_removed=False)
    other = Source("2", FACTS | {"license": license_}, is_removed=is_removed)
    assert decide(Repetition(0, 9, 9, 2, 2, is_common, (permitted, other)), PolicyConfig()) == expected


def test_a_client_gets_spans_as_annotations_and_a_block_as_content_filter(
    tmp_path: Path, index: Attribution, copied: str
) -> None:
    answer = OWN + copied[:600] + "\n" + OWN
    script = Script([answer[at : at + 9] for at in range(0, len(answer), 9)])
    asked = {"model": "ibidem", "messages": [{"role": "user", "content": "Hi"}]}
    with (
        running(tmp_path / "mark", script, attribution=index, policy=policy("mark")) as server,
        server.client() as client,
    ):
        whole = client.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]
        streamed = client.post("/v1/chat/completions", json=asked | {"stream": True}).text
        text = client.post("/v1/completions", json={"model": "ibidem", "prompt": "x"}).json()["choices"][0]
    assert whole["content"] == answer
    spans = [each for each in whole["annotations"] if each["type"] == "training_source"]
    assert max(span["num_tokens"] for span in spans) > 100
    assert all(source["swhid"] for span in spans for source in span["sources"])
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    of_stream = [each for event in events for each in event["choices"][0]["delta"].get("annotations", [])]
    assert of_stream == spans == text["annotations"]
    with (
        running(tmp_path / "block", script, attribution=index, policy=policy("block")) as server,
        server.client() as client,
    ):
        choice = client.post("/v1/chat/completions", json=asked).json()["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert len(choice["message"]["content"]) <= len(OWN) + 3
    assert script.open == 0


def test_a_model_with_the_index_of_private_documents_is_for_their_readers(
    tmp_path: Path, index: Attribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attribution, "readers", Readers(frozenset({"somebody-else"}), frozenset()))
    asked = {"model": "ibidem", "messages": [{"role": "user", "content": "Hi"}]}
    with (
        running(tmp_path / "state", Script(), attribution=index, policy=policy("mark")) as server,
        server.client() as client,
    ):
        assert client.post("/v1/chat/completions", json=asked).status_code == 404


def test_citations_stay_at_their_places(index: Attribution) -> None:
    cited = Cited(3, 6, 1, "6f1d", "a.md", ("A",), (0, 9), None, supported=True, score=None)

    async def pieces() -> AsyncGenerator[Delta | Ended]:
        yield Delta("So ")
        yield Delta("[1]", (cited,))
        yield Ended("stop", 1, 1)

    async def collect() -> list[Delta | Ended]:
        return [piece async for piece in attributed(pieces(), index, policy("block"))]

    assert asyncio.run(collect()) == [Delta("So "), Delta("[1]", (cited,)), Ended("stop", 1, 1)]
