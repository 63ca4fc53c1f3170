"""Questions that are answered from an index, as a principal."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.grounding.corpus import ACL, CANARIES, make_index

from ibidem import artifacts
from ibidem.cli import main
from ibidem.config import build
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import DocQaConfig
from ibidem.evaluation.doc_qa import TASK, doc_qa, rows
from ibidem.evaluation.evidence import Evidence, benchmark_digest
from ibidem.evaluation.gate.checks import settings_due
from ibidem.evaluation.gate.config import GateConfig
from ibidem.grounding.access import YamlPermissions
from ibidem.grounding.encoder import open_encoder
from ibidem.runs import folder_of

QUESTIONS = [
    {"id": "leave", "question": "How many days of paid leave does an employee have?", "answers": ["30 days"],
     "documents": ["handbook/leave.md"]},
    {"id": "flights", "question": "Whose approval do flights need?", "answers": ["the head of department"],
     "documents": ["handbook/travel.md", "handbook/flights.md"]},
    {"id": "allowance", "question": "How much is the quokka allowance of the marsupial team?", "answers": ["9137"],
     "documents": ["salaries/march.md"]},
    {"id": "cup", "question": "Who won the world cup in 1954?", "answers": []},
]  # fmt: skip


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make_index(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return tmp_path / "questions.jsonl"


def evaluated(index: Path, data: Path, principal: str, name: str = "o", **chosen: object) -> Evidence:
    output = index.parent / name
    doc_qa(DocQaConfig(index=index, data=data, principal=principal, output_dir=output, **chosen))
    return evidence.read(output)


def test_retrieval_and_answers_are_measured_as_a_principal(index: Path, data: Path) -> None:
    results = evaluated(index, data, "hr").results
    assert (results["recall_at_k"], results["reciprocal_rank"]) == (1, 1)
    assert results["abstentions.unanswerable"] == 1
    assert results["abstentions.answerable"] == 0
    assert (results["citation_coverage"], results["unsupported_claims"]) == (1, 0)
    assert results["trials"]["recall_at_k"] == 3
    assert results["f1"] > 0


def test_what_a_principal_may_not_read_is_not_found_and_not_in_the_evidence(index: Path, data: Path) -> None:
    found = evaluated(index, data, "ada")
    assert found.results["recall_at_k"] == pytest.approx(2 / 3)
    item = next(item for item in found.items if item["id"] == "allowance")
    assert item["abstained"]
    assert item["reciprocal_rank"] == 0
    written = (found.artifact.path / "items.jsonl").read_text()
    assert not any(word in written for word in CANARIES)


def test_answers_from_private_documents_are_their_owners_alone(index: Path, data: Path) -> None:
    evaluated(index, data, "hr")
    assert (index.parent / "o").stat().st_mode & 0o077 == 0


def test_a_checkpoint_is_no_entailment_judge(index: Path, data: Path, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="this is a checkpoint; expected a grounding head"):
        evaluated(index, data, "hr", entailment=str(checkpoint))


def test_the_evidence_names_the_index_the_rules_and_the_principal(index: Path, data: Path) -> None:
    found = evaluated(index, data, "ada")
    assert found.artifact.digest_of("index") == artifacts.load(index).digest
    assert found.artifact.config["index"] == artifacts.load(index).digest
    assert found.artifact.config["principal"] == "ada"
    assert found.results["rules"] == YamlPermissions(index.parent / "acl.yaml").current().version


SETTINGS = {**TASK.settings, "principal": "hr"}


def judged_again(found: Evidence, index: Path, data: Path, items: Sequence[dict] | None = None) -> str | None:
    again = Evidence(found.artifact, found.results, list(items or found.items))
    return TASK.differs(again, rows(data), {**SETTINGS, "index": str(index)})


def test_the_gate_retrieves_and_judges_again(index: Path, data: Path) -> None:
    found = evaluated(index, data, "hr")
    assert judged_again(found, index, data) is None
    other = [{**item, "retrieved": item["retrieved"][::-1]} for item in found.items]
    assert "is shown other passages" in str(judged_again(found, index, data, other))
    forged = [{**item, "recall_at_k": 1.0, "reciprocal_rank": 1.0} for item in found.items]
    assert "comes out differently" in str(judged_again(found, index, data, forged))
    forged = [{**item, "answer": "30 days of paid leave [1]."} for item in found.items]
    assert "comes out differently" in str(judged_again(found, index, data, forged))


def test_the_gate_judges_an_index_with_vectors_and_a_key_of_its_own_again(
    long_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    key, moved = tmp_path / "index.key", tmp_path / "moved"
    index = make_index(tmp_path, key=key, encoder=open_encoder(long_checkpoint), model=str(tmp_path / "elsewhere"))
    shutil.copytree(long_checkpoint, folder_of(moved, 40))
    places = {"key": key, "encoder": moved, "audit": tmp_path / "audit"}
    found = evaluated(index, data, "hr", **places)
    named = {"index": str(index), "principal": "hr", **{name: str(place) for name, place in places.items()}}
    criterion = {"task": "doc-qa", "evidence": "doc", "metric": "f1", "at_least": 0.1}
    tree = {"checkpoint": ".", "output_dir": ".", "criteria": {"f1": criterion}, "settings": {"doc": named}}
    due = settings_due(build(GateConfig, tree), "doc", TASK)
    assert TASK.differs(found, rows(data), due) is None
    assert not Path(f"{index}.audit").exists()


def test_the_gate_refuses_evidence_of_other_rules(index: Path, data: Path) -> None:
    found = evaluated(index, data, "hr")
    (index.parent / "acl.yaml").write_text(ACL.replace("dev-2", "dev-3"))
    assert "the access rules are no longer" in str(judged_again(found, index, data))


def test_index_and_rules_are_pinned_by_digest(index: Path) -> None:
    assert TASK.digests["index"](str(index)) == artifacts.load(index).digest
    acl = index.parent / "acl.yaml"
    assert TASK.digests["acl"](str(acl)) == YamlPermissions(acl).current().version
    with pytest.raises(ConfigError, match="cannot be pinned"):
        TASK.digests["acl"]("posix")


def test_an_answer_is_that_of_ground_ask(index: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = evaluated(index, data, "ada").items
    for row, item in zip(QUESTIONS, items, strict=True):
        words = ["ground", "ask", "--index", str(index), "--principal", "ada", "--question", row["question"], "--json"]
        assert main(words) == 0
        said = json.loads(capsys.readouterr().out)
        assert item["answer"] == ("" if not said["citations"] else said["answer"])


@pytest.mark.parametrize("name", ["own", "hf"])
def test_a_model_answers_from_the_index(
    name: str, long_checkpoint: Path, hf_model: Path, index: Path, data: Path
) -> None:
    model = {"own": long_checkpoint, "hf": hf_model}[name]
    found = evaluated(index, data, "ada", checkpoint=model, max_tokens=8, k=1)
    assert [item["id"] for item in found.items] == [row["id"] for row in QUESTIONS]
    assert all(len(item["retrieved"]) <= 1 for item in found.items)
    again = {**SETTINGS, "principal": "ada", "k": 1, "max_tokens": 8, "index": str(index)}
    assert TASK.differs(found, rows(data), again) is None


def test_questions_without_passages_need_an_index(data: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("")
    config = DocQaConfig(data=data, predictions=tmp_path / "answers.jsonl", output_dir=tmp_path / "o")
    with pytest.raises(DataError, match="the question leave needs context or passages with ids, or an --index"):
        doc_qa(config)


def test_an_index_needs_a_principal_and_takes_no_predictions(index: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--index needs --principal"):
        doc_qa(DocQaConfig(data=data, index=index, output_dir=tmp_path / "o"))
    with pytest.raises(ConfigError, match="which passages the predictions cite is unknown"):
        doc_qa(DocQaConfig(data=data, index=index, principal="a", predictions=data, output_dir=tmp_path / "o"))


def test_documents_do_not_change_the_digest_of_other_questions(tmp_path: Path) -> None:
    """Benchmarks that were pinned before there were documents keep their pins."""
    row = {"id": "1", "question": "How?", "answers": ["x"], "context": "It is so."}
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    assert rows(tmp_path / "d.jsonl") == [
        {"id": "1", "question": "How?", "passages": [["1", "It is so."]], "answers": ["x"]}
    ]
    pinned = "sha256:04c317364282857ebe12a62e32626e3a22a00aa3bb3933c0e97ea17c36f7752a"
    assert benchmark_digest(rows(tmp_path / "d.jsonl")) == pinned


@pytest.mark.parametrize("documents", ["a.md", [1], {"a": 1}])
def test_malformed_documents_are_refused(documents: object, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"question": "q", "answers": [], "documents": documents}) + "\n")
    with pytest.raises(DataError, match="line 1 needs"):
        rows(tmp_path / "d.jsonl")
