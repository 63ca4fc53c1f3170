"""A grounding head in search and answers: it orders what a principal may read, scores claims, and is recorded."""

import json
import re
import shutil
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.grounding.corpus import make_index
from tests.grounding.heads import RuleHead, save_head
from tests.grounding.naive_store import NaiveStore
from tests.grounding.test_frequencies import KEY, Counting
from tests.grounding.worlds import PRINCIPALS, Bag, Observation, World, _Fixed, _NoLog, judge, random_world

from ibidem.cli import main
from ibidem.conversation import Part
from ibidem.errors import AccessDenied, CheckpointError
from ibidem.grounding import ask as asking
from ibidem.grounding.alignment import FEATURES, Frequencies
from ibidem.grounding.ask import Answerer, as_json, reply, reply_to
from ibidem.grounding.audit.log import FILE
from ibidem.grounding.config import GroundAskConfig, GroundSearchConfig, HeadChoice
from ibidem.grounding.head import open_head
from ibidem.grounding.index import Index
from ibidem.grounding.opening import opened
from ibidem.grounding.rerank import reranked, share_of, support
from ibidem.grounding.retrieve import Retriever
from ibidem.grounding.search import found
from ibidem.grounding.store import Chunk, Hit, Rules, Store
from ibidem.grounding.support import WordCover
from ibidem.modeling.generate import Sampling
from ibidem.runs import folder_of

SEARCH_KEYS = {"chunks", "kind", "number", "principal", "query", "rules", "store", "time"}
ANSWER_KEYS = {"answer", "kind", "model", "number", "principal", "time"}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make_index(tmp_path)


@pytest.fixture(scope="module")
def head(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_head(tmp_path_factory.mktemp("head") / "head", checkpoint)


def events(index: Path) -> list[dict]:
    with sqlite3.connect(f"{index}.audit/{FILE}") as database:
        return [json.loads(row) for (row,) in database.execute("SELECT event FROM events ORDER BY number")]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["ground", *words]) == 0
    return capsys.readouterr().out


def hit(number: int, text: str) -> Hit:
    return Hit(Chunk(str(number), f"{number}.md", (), 0, len(text), text), 10.0 - number)


def test_hits_are_ordered_by_their_ranks_in_the_store_and_with_the_head() -> None:
    hits = [hit(1, "the plan"), hit(2, "the salary"), hit(3, "salary and merger")]
    known = Frequencies({"salary": 2, "merger": 1, "the": 2}, 3)
    ordered = reranked("salary of the merger", hits, RuleHead(), known)
    assert [each.chunk.id for each in ordered] == ["1", "3", "2"]  # of equal ones the store's first
    assert [each.score for each in ordered] == sorted((1 / 61 + 1 / 63, 1 / 62 + 1 / 62, 1 / 63 + 1 / 61), reverse=True)
    assert reranked("salary", [], RuleHead(), known) == []


def test_what_contradicts_is_below_what_does_not_whatever_the_words() -> None:
    known, passage = Frequencies({}, 3), "The tower is 330 m high."
    right, wrong = (support(RuleHead(), claim, passage, known) for claim in ("330 m", "The tower is 300 m high."))
    assert right > wrong
    assert share_of(float("-inf"), 0.0) == 0.0
    assert share_of(-1e6, 0.0) == 0.0


GOLDEN = """[
 {
  "chunk": "ID",
  "path": "handbook/notice.md",
  "title": [
   "Notice"
  ],
  "span": [
   10,
   99
  ],
  "score": 3.112536659411014,
  "text": "The notice period is six weeks to the end of a quarter. During probation it is two weeks."
 }
]
"""


def test_without_a_head_nothing_is_other_than_it_was(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--index", str(index), "--principal", "ada", "--json")
    assert re.sub("[0-9a-f]{32}", "ID", said(capsys, "search", *at, "--query", "notice period")) == GOLDEN
    answered = json.loads(said(capsys, "ask", *at, "--question", "How long is the notice period during probation?"))
    assert list(answered) == ["question", "principal", "answer", "citations", "removed", "unsupported", "left_out"]
    query, asked, answer = events(index)[-3:]
    assert set(query) == set(asked) == SEARCH_KEYS
    assert set(answer) == ANSWER_KEYS


def test_a_head_ranks_more_than_is_shown_and_the_record_names_it(
    index: Path, head: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, at = "days of special leave for a wedding", ("--index", str(index), "--principal", "ada", "--json")
    rows = json.loads(said(capsys, "search", *at, "--query", query, "--k", "1", "--head", str(head)))
    assert len(rows) == 1
    assert "wedding" in rows[0]["text"]
    assert rows[0]["score"] <= 2 / 61
    assert events(index)[-1]["head"] == json.loads((head / "manifest.json").read_text())["digest"]
    more = found(
        GroundSearchConfig(index=index, principal="ada", query=query, k=40, head=head, head_encoder=checkpoint)
    )
    assert [each.chunk.id for each in more][:1] == [rows[0]["chunk"]]


def test_claims_are_scored_in_the_json_and_the_record_of_the_answer_names_the_head(index: Path, head: Path) -> None:
    question = "How long is the notice period during probation?"
    config = GroundAskConfig(index=index, principal="ada", question=question, head=head)
    answered = json.loads(as_json(config, reply_to(config)))
    assert [list(claim) for claim in answered["claims"]] == [["claim", "cited", "supported", "score"]] * 2
    assert [claim["cited"] for claim in answered["claims"]] == [[1], [1]]
    assert all(claim["score"] is None or 0 <= claim["score"] <= 1 for claim in answered["claims"])
    assert [event["head"] for event in events(index)[-2:]] == [
        json.loads((head / "manifest.json").read_text())["digest"]
    ] * 2


def test_a_head_of_private_documents_is_for_their_readers_alone(
    index: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = save_head(tmp_path / "private", checkpoint, readers={"read": ["hr"], "deny": []})
    at = ("--index", str(index), "--head", str(private), "--principal")
    for words in (("search", "--query", "leave"), ("ask", "--question", "How long is leave?")):
        assert main(["ground", words[0], *at, "ada", *words[1:]]) == 2
        assert "ada is not among their readers" in capsys.readouterr().err
        assert main(["ground", words[0], *at, "hr", *words[1:]]) == 0
    choice = HeadChoice(index=index, head=private)
    with opened(choice, for_others=True) as retriever:  # whoever runs the program, each who asks is checked
        assert retriever.search("leave", "hr", 3)
        with pytest.raises(AccessDenied, match="ada is not among their readers"):
            retriever.search("leave", "ada", 3)
    assert events(index)[-1]["kind"] == "denied"


def test_a_head_whose_encoder_is_not_there_names_the_flag(
    index: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint, tmp_path / "base")
    moved = save_head(tmp_path / "head", tmp_path / "base")
    shutil.rmtree(tmp_path / "base")
    words = ["ground", "search", "--index", str(index), "--principal", "ada", "--query", "leave", "--head", str(moved)]
    assert main(words) == 2
    assert "give it with --head-encoder" in capsys.readouterr().err
    assert main([*words, "--head-encoder", str(checkpoint)]) == 0
    shutil.copytree(checkpoint, folder_of(tmp_path / "run", 40))
    assert main([*words, "--head-encoder", str(tmp_path / "run")]) == 0


def test_a_head_that_reads_other_features_is_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    other = save_head(tmp_path / "head", checkpoint, features=FEATURES[::-1])
    with pytest.raises(CheckpointError, match="of another version of ibidem; train the head again") as error:
        open_head(other)
    assert "\n" not in str(error.value)


class Model:
    """A model that says what it is told."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts

    def respond(self, conversations: Sequence[object], sampling: Sampling) -> list[object]:
        from ibidem.conversation import Turn

        return [Turn("assistant", self._parts)] * len(conversations)

    def check_fit(self, conversations: Sequence[object], max_tokens: int) -> None:
        pass


def test_a_claim_is_scored_by_what_it_cites() -> None:
    chunk = Chunk("c", "tower.md", (), 0, 24, "The tower is 330 m high.")
    parts = (Part("text", "It is 330 m high "), Part("cite", "1"), Part("text", ". It has 4 legs "), Part("cite", "1"))
    checked = Answerer(WordCover(0.75), 1, 64, Model(*parts, Part("text", ". It is red.")), True).answer(
        "?", [chunk], []
    )
    retriever = Retriever(Counting(None), _Fixed(None), _NoLog(), head=RuleHead())
    scores = [asking.score(retriever, "ann", claim, [chunk]) for claim in checked.claims]
    assert scores[0] == share_of(1.0, 0.0)
    assert scores[1:] == [0.0, None]


def observe(store: Store, world: World, principal: str, rules: Rules, _ids: Sequence[str]) -> Observation:
    """Return all that a principal is told who asks with a head."""
    retriever = Retriever(store, _Fixed(rules), _NoLog(), Bag() if world.has_vectors else None, RuleHead())
    answerer = Answerer(WordCover(0.75), 3, 64)
    seen: Observation = []
    for query, _ in world.queries:
        replied = reply(retriever, answerer, query.text, principal)
        hits = retriever.search(query.text, principal, 40)
        seen += [[(each.chunk, each.score.hex()) for each in hits], replied.rows(), replied.scores]
    return seen


def test_the_order_of_a_head_cannot_be_told_from_that_over_the_permitted_documents_alone(tmp_path: Path) -> None:
    numbers = iter(range(1 << 20))

    def local(encoder: Bag | None) -> Index:
        return Index(tmp_path / str(next(numbers)), KEY, encoder=encoder)

    for seed in range(3):
        assert judge(random_world(seed), local, PRINCIPALS[:2], lambda _: None, look=observe)[1:] == (0, 0, ()), seed


def test_an_order_by_frequencies_of_all_documents_is_noticed() -> None:
    worlds = [random_world(seed) for seed in range(80)]
    leaking = partial(Counting, of_all=True)
    assert issubclass(Counting, NaiveStore)
    assert any(judge(world, leaking, PRINCIPALS, lambda _: None, look=observe).differences for world in worlds)
