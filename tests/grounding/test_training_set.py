"""Training sets: made as a principal, on record, in the words of `ground ask`, and refused in one line."""

import json
import random
import sqlite3
import stat
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.grounding.corpus import ACL, CANARIES, DOCUMENTS, make_index

from ibidem import artifacts
from ibidem.conversation import Conversation, Part
from ibidem.errors import AccessDenied, AuditError, ConfigError, DataError
from ibidem.grounding.ask import prompt
from ibidem.grounding.audit.log import FILE, AuditLog
from ibidem.grounding.cite import check, is_abstention
from ibidem.grounding.config import ABSTENTIONS, ExamplesConfig, GroundForgetConfig, IndexChoice
from ibidem.grounding.forgetting import forget
from ibidem.grounding.opening import opened
from ibidem.grounding.retrieve import Retriever
from ibidem.grounding.sentences import words
from ibidem.grounding.store import Chunk, Hit
from ibidem.grounding.support import WordCover
from ibidem.grounding.training_set import (
    CHUNKS,
    EXAMPLES,
    KIND,
    Asked,
    Example,
    Recipe,
    compose,
    make,
    open_training_set,
    read_chunks,
    read_conversations,
)
from ibidem.readers import readers_of
from ibidem.signatures import secret_key

QUESTIONS: list[dict[str, Any]] = [
    {"question": "How long is the notice period?", "answers": ["six weeks"], "documents": ["handbook/notice.md"]},
    {"question": "How many days of paid leave are there?", "answers": ["30 days"]},
    {"question": "Who approves flights?", "answers": ["the boss of it"], "documents": ["handbook/travel.md"]},
    {"question": "Which class are trains in?", "answers": ["second class"], "context": DOCUMENTS["handbook/travel.md"]},
    {"question": "How much is the quokka allowance of the team?", "answers": ["9137"]},
    {"question": "Who won the notice of the world cup?", "answers": []},
]  # fmt: skip


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make_index(tmp_path)


def always(_: Conversation) -> bool:
    return True


def recipe(
    principal: str = "ada",
    questions: Path | None = None,
    *,
    fits: Callable[[Conversation], bool] = always,
    seed: int = 0,
    **examples: Any,
) -> Recipe:
    return Recipe(principal, questions, ExamplesConfig(**examples), seed, fits, 512, "sha256:tokenizer")


def made(index: Path, wanted: Recipe, *, resumes: bool = False, acl: Path | None = None) -> artifacts.Artifact:
    choice = IndexChoice(index=index, acl=str(acl) if acl else None)
    return open_training_set(choice, wanted, index.parent / "run" / "training-set", resumes=resumes)


def file_of(folder: Path, rows: Sequence[dict[str, Any]] = QUESTIONS) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(training_set: artifacts.Artifact, name: str = EXAMPLES) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (training_set.path / name).read_text().splitlines()]


def events(index: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(f"{index}.audit/{FILE}") as database:
        return [json.loads(row) for (row,) in database.execute("SELECT event FROM events ORDER BY number")]


def holds(chunk: Chunk, answer: str) -> bool:
    return " ".join(words(answer)) in " ".join(words(chunk.text))


def test_nothing_that_the_principal_may_not_read_is_in_the_set(index: Path) -> None:
    of_ada, of_hr = made(index, recipe()), None
    text = "".join((of_ada.path / name).read_text() for name in (*of_ada.files, artifacts.MANIFEST))
    assert not any(word in text for word in CANARIES)
    assert {chunk.path.split("/")[0] for chunk in read_chunks(of_ada)} == {"handbook"}
    of_hr = made(index, recipe("hr"))
    assert any(word in (of_hr.path / EXAMPLES).read_text() for word in CANARIES)


def test_the_set_is_that_of_an_index_without_the_forbidden_documents(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    whole, own = make_index(tmp_path), make_index(tmp_path / "own", without="salaries/march.md")
    of_whole, of_own = made(whole, recipe()), made(own, recipe())
    for name in (EXAMPLES, CHUNKS):
        assert (of_whole.path / name).read_bytes() == (of_own.path / name).read_bytes()
    assert of_whole.counts == of_own.counts


def test_the_record_names_every_chunk_rules_and_store_before_the_set_is_there(index: Path) -> None:
    training_set = made(index, recipe())
    first, *queries, last = events(index)
    assert (first["kind"], first["state"], first["principal"]) == ("training_set", "begins", "ada")
    assert {event["kind"] for event in queries} == {"query"}
    assert last["kind"] == "training_set"
    assert last["chunks"] == sorted(chunk.id for chunk in read_chunks(training_set))
    assert last["chunks"] == sorted({id_ for row in rows(training_set) for id_ in row["chunks"]})
    with AuditLog(Path(f"{index}.audit"), secret_key(None)) as log:
        assert last["rules"] == log.keyed(training_set.config["rules"])
    assert last["store"] == training_set.digest_of("index") == artifacts.load(index).digest
    made(index, recipe())
    assert events(index)[-1]["state"] == "opened"


@pytest.mark.parametrize("state", ["begins", "made"])
def test_without_the_record_there_is_no_training_set(index: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    whole = AuditLog.record

    def record(self: AuditLog, kind: Any, principal: str | None = None, **fields: Any) -> int:
        if fields.get("state") == state:
            raise AuditError("no space left")
        return whole(self, kind, principal, **fields)

    monkeypatch.setattr(AuditLog, "record", record)
    with pytest.raises(AuditError, match="no space left"):
        made(index, recipe())
    assert not (index.parent / "run" / "training-set").exists()


def test_a_model_is_trained_on_the_conversation_in_which_it_will_be_asked(index: Path) -> None:
    training_set = made(index, recipe())
    chunks = {chunk.id: chunk for chunk in read_chunks(training_set)}
    for row, turns in zip(rows(training_set), read_conversations(training_set), strict=True):
        passages = [chunks[id_] for id_ in row["chunks"]]
        assert turns[:-1] == prompt(row["question"], passages, is_ours=True)
        for number, (part, chunk) in enumerate(zip(turns[0].parts, passages, strict=False), 1):
            assert part.text.startswith(f"{number} {chunk.id[:4]}\n")


def test_an_answer_quotes_its_passage_and_its_citations_lead_back_to_it(index: Path) -> None:
    training_set = made(index, recipe(oracle_share=1.0))
    chunks = {chunk.id: chunk for chunk in read_chunks(training_set)}
    for row, turns in zip(rows(training_set), read_conversations(training_set), strict=True):
        passages = [chunks[id_] for id_ in row["chunks"]]
        found = check(turns[-1].parts, passages, WordCover(0.75))
        assert {citation.number for citation in found.citations} == {row["oracle"]}
        assert found.removed == 0
        assert set(found.unsupported) <= set(row["answers"])  # a word of "is not taken" alone
        quoted = [citation.quote for citation in found.citations if citation.quote]
        assert quoted
        assert all(quote in passages[row["oracle"] - 1].text for quote in quoted)
        assert any(row["answers"][0] in quote for quote in quoted)


def test_what_is_shown_without_the_oracle_answers_nothing_and_is_to_be_abstained_from(index: Path) -> None:
    training_set = made(index, recipe(oracle_share=0.3))
    chunks = {chunk.id: chunk for chunk in read_chunks(training_set)}
    without = 0
    for row, turns in zip(rows(training_set), read_conversations(training_set), strict=True):
        others = [chunks[id_] for number, id_ in enumerate(row["chunks"], 1) if number != row["oracle"]]
        assert not any(holds(chunk, row["answers"][0]) for chunk in others)
        if row["oracle"] is None:
            without += 1
            assert is_abstention(turns[-1].text, ABSTENTIONS)
    assert 0 < without < len(rows(training_set))
    assert training_set.counts["with_oracle"] == len(rows(training_set)) - without


def chunk_of(number: int) -> Chunk:
    return Chunk(f"{number:032x}", f"{number}.md", (), 0, 40, f"The code of engine {number} is {1000 + number}.")


def composed(seed: int, *, fits: Callable[[Conversation], bool] = always, **examples: Any) -> Example | str:
    hits = [Hit(chunk_of(number), 1 / (number + 1)) for number in range(12)]
    asked = Asked("What is the code of engine 3?", ("1003",))
    return compose(asked, hits, recipe(fits=fits, **examples), random.Random(seed))


def test_share_of_oracles_and_their_place_are_random() -> None:
    examples = [composed(seed, oracle_share=0.8) for seed in range(1000)]
    places = [example.oracle for example in examples if isinstance(example, Example)]
    assert 0.76 < sum(place is not None for place in places) / 1000 < 0.84
    counts = [places.count(number) for number in range(1, 6)]
    assert sum(counts) + places.count(None) == 1000
    assert all(110 < count < 215 for count in counts)
    assert {len(example.passages) for example in examples if isinstance(example, Example)} == {5}


def test_distractors_give_way_to_the_context_and_the_oracle_does_not() -> None:
    for room in range(1, 6):
        example = composed(0, fits=lambda turns, room=room: len(turns[0].parts) - 1 <= room, oracle_share=1.0)
        assert isinstance(example, Example)
        assert len(example.passages) == room
        assert example.oracle
        assert example.passages[example.oracle - 1] == chunk_of(3)
    assert composed(0, fits=lambda _: False) == "longer than the context"


def test_without_distractors_the_oracle_is_alone_and_always_there() -> None:
    for seed in range(20):
        example = composed(seed, distractors=0, oracle_share=0.5)
        assert isinstance(example, Example)
        assert (example.passages, example.oracle) == ((chunk_of(3),), 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "“The code of engine 3 is 1003.” [1 0000]\n1003 [1 0000]"),
        ({"quote": False}, "1003 [1 0000]"),
        ({"cite": "number"}, "“The code of engine 3 is 1003.” [1]\n1003 [1]"),
        ({"cite": "nothing"}, "“The code of engine 3 is 1003.”\n1003"),
        ({"quote": False, "cite": "nothing"}, "1003"),
    ],
)
def test_quotes_and_citations_can_be_left_out(settings: dict[str, Any], expected: str) -> None:
    example = composed(0, distractors=0, **settings)
    assert isinstance(example, Example)
    assert example.turns[-1].text == expected
    kinds = [part.kind for part in example.turns[-1].parts]
    assert ("text", "text") not in pairwise(kinds)


def test_a_file_of_questions_is_answered_from_what_may_be_read(index: Path) -> None:
    training_set = made(index, recipe(questions=file_of(index.parent), oracle_share=1.0))
    found = {row["question"]: row for row in rows(training_set)}
    chunks = {chunk.id: chunk for chunk in read_chunks(training_set)}

    def oracle(question: str) -> str:
        row = found[question]
        return chunks[row["chunks"][row["oracle"] - 1]].text

    assert "six weeks" in oracle("How long is the notice period?")
    assert "30 days" in oracle("How many days of paid leave are there?")
    assert "Flights" in oracle("Who approves flights?")  # its answer is in other words, but the document is named
    assert "second class" in oracle("Which class are trains in?")
    assert found["Who won the notice of the world cup?"]["oracle"] is None
    assert "How much is the quokka allowance of the team?" not in found
    assert training_set.counts["dropped"] == {"no passage that may be read answers it": 1}


def test_the_same_makes_the_same_and_another_seed_another(index: Path) -> None:
    one = made(index, recipe())
    before = one.digest, len(events(index))
    assert made(index, recipe()).digest == before[0]
    assert len(events(index)) == before[1] + 2  # opened, not made again
    other = made(index, recipe(seed=1))
    assert other.digest != before[0]
    assert made(index, recipe()).digest == before[0]


def test_only_its_owner_may_open_it(index: Path) -> None:
    assert stat.S_IMODE(made(index, recipe()).path.stat().st_mode) == 0o700


def test_forgetting_a_document_names_the_training_set(index: Path) -> None:
    training_set = made(index, recipe())
    said = forget(GroundForgetConfig(index=index, path="handbook/leave.md", artifacts=(index.parent,)))
    assert f"training-set {training_set.path}" in said
    assert "saw them" in said


def test_its_readers_are_those_of_all_its_documents(index: Path) -> None:
    assert readers_of(made(index, recipe()).config).as_json() == {"read": ["everyone"], "deny": ["engineering"]}
    of_dev = readers_of(made(index, recipe("dev-1")).config)
    assert of_dev.as_json() == {"read": ["dev-1", "dev-2"], "deny": ["engineering"]}
    of_hr = readers_of(made(index, recipe("hr")).config)
    assert of_hr.as_json() == {"read": ["hr"], "deny": ["contractor-1", "engineering"]}


def changed_rules(index: Path, old: str, new: str) -> None:
    (index.parent / "acl.yaml").write_text(ACL.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("read: [everyone]", "read: [everyone], deny: [dev-2]"),
        ("read: [engineering]", "read: [engineering, ada]"),
        ("[dev-1, dev-2]", "[dev-2]"),
    ],
)
def test_a_training_does_not_go_on_with_other_permissions(index: Path, old: str, new: str) -> None:
    before = made(index, recipe("dev-1"))
    changed_rules(index, old, new)
    with pytest.raises(ConfigError, match="the index has other permissions than the training set was made with"):
        made(index, recipe("dev-1"), resumes=True)
    assert artifacts.verify(before.path).digest == before.digest


def test_a_training_that_goes_on_as_another_principal_is_told_so(index: Path) -> None:
    made(index, recipe("dev-1"))
    with pytest.raises(ConfigError, match="the training set was made as the principal dev-1, not as dev-2"):
        made(index, recipe("dev-2"), resumes=True)


def test_a_training_goes_on_if_rules_of_other_documents_change(index: Path) -> None:
    before = made(index, recipe())
    changed_rules(index, "read: [hr]", "read: [hr, ada-2]")
    assert made(index, recipe(), resumes=True).digest == before.digest


def test_a_training_does_not_go_on_with_other_documents_settings_or_questions(index: Path) -> None:
    made(index, recipe())
    for other in (recipe(seed=1), recipe(distractors=2), recipe(questions=file_of(index.parent))):
        with pytest.raises(ConfigError, match="made with other questions or settings, so the training cannot go on"):
            made(index, other, resumes=True)
    forget(GroundForgetConfig(index=index, path="salaries", artifacts=()))
    with pytest.raises(ConfigError, match="the index is another one"):
        made(index, recipe(), resumes=True)


def test_rules_that_change_while_it_is_made_leave_none(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_and_change(retriever: Retriever, wanted: Recipe, found: Sequence[Chunk]) -> Any:
        examples = make(retriever, wanted, found)
        changed_rules(index, "read: [everyone]", "read: [hr]")
        return examples

    monkeypatch.setattr("ibidem.grounding.training_set.make", make_and_change)
    with pytest.raises(AccessDenied, match="changed"):
        made(index, recipe())
    assert not (index.parent / "run" / "training-set").exists()
    assert events(index)[-1]["kind"] == "denied"


@pytest.mark.parametrize("principal", ["nobody", "Dev-1", "everyone", "engineering"])
def test_who_may_read_nothing_learns_nothing(tmp_path: Path, principal: str) -> None:
    acl = ACL.replace("read: [everyone]", "read: [engineering]") + "principals: [dev-1, dev-2, hr, contractor-1]\n"
    with pytest.raises(ConfigError, match=f"no passage that {principal} may read; check --principal"):
        made(make_index(tmp_path, acl=acl), recipe(principal))


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        ([{"question": "Who?", "answers": []}], "none of them has an answer"),
        ([{"question": "Who?", "answers": ["Ada"], "passages": [{"id": "1", "text": "  "}]}], "are empty"),
        ([{"question": "Who?", "answers": ["Ada"]}], "no question to learn from .1 with no passage that may be read"),
        ([{"question": "Who?"}], "line 1 needs question, answers"),
        ([], "the file is empty"),
    ],
)
def test_questions_that_teach_nothing_are_refused(index: Path, questions: list[dict[str, Any]], expected: str) -> None:
    with pytest.raises(DataError, match=expected) as found:
        made(index, recipe(questions=file_of(index.parent, questions)))
    assert "questions.jsonl" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_context_without_room_for_one_passage_is_refused(index: Path) -> None:
    with pytest.raises(ConfigError, match="not even one passage fits into the model's context of 512 tokens"):
        made(index, recipe(fits=lambda _: False))


def test_passages_of_which_nothing_can_be_asked_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.grounding.corpus.DOCUMENTS", {"handbook/empty.md": "# Empty\n\n---\n\n- - -"})
    with pytest.raises(DataError, match="no question to learn from; are the passages empty"):
        made(make_index(tmp_path), recipe())


def test_a_log_that_cannot_be_written_leaves_none(index: Path) -> None:
    Path(f"{index}.audit").write_text("no folder")
    with pytest.raises(AuditError, match="index.audit"):
        made(index, recipe())
    assert not (index.parent / "run").exists()


@pytest.mark.parametrize(
    ("cited", "numbers", "removed"),
    [
        ("2", [2], 0),
        ("2 5b1f6f0f", [2], 0),
        ("5b1f6f0f", [2], 0),
        ("5b1f6f0f1f0b4a5a", [2], 0),
        ("1 5b1f6f0f", [], 1),
        ("1, 2 5b1f6f0f", [1, 2], 0),
        ("7 5b1f6f0f", [], 1),
        ("2 deadbeef", [], 1),
        ("deadbeef", [], 1),
        ("1234", [1], 0),
        ("2 5b1", [2], 1),
    ],
)
def test_numbers_and_ids_are_mapped_back_and_must_agree(cited: str, numbers: list[int], removed: int) -> None:
    chunks = [
        Chunk("12345678" * 4, "a.md", (), 0, 13, "Leave is long"),
        Chunk("5b1f6f0f1f0b4a5a9a8e9b1f6f0f1f0b", "b.md", (), 0, 13, "Leave is long"),
    ]
    found = check([Part("text", "Leave is long"), Part("cite", cited)], chunks, WordCover(0.75))
    assert sorted({citation.number for citation in found.citations}) == numbers
    assert found.removed == removed


def test_the_retriever_alone_decides_on_the_distractors(index: Path) -> None:
    training_set = made(index, recipe(oracle_share=1.0, distractors=2))
    row = rows(training_set)[0]
    with opened(IndexChoice(index=index)) as retriever:
        hits = [hit.chunk for hit in retriever.search(row["question"], "ada", 40)]
    others = [id_ for number, id_ in enumerate(row["chunks"], 1) if number != row["oracle"]]
    assert set(others) <= {chunk.id for chunk in hits}
    assert artifacts.load(training_set.path, kind=KIND).counts["examples"] == len(rows(training_set))
