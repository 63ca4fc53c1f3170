"""A grounding head in doc-qa: it ranks what is found in an index, or judges claims with the words."""

from pathlib import Path

import pytest
from tests.evaluation.bundle import lines
from tests.grounding.corpus import make_index
from tests.grounding.heads import save_head

from ibidem import artifacts
from ibidem.errors import ConfigError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import DocQaConfig
from ibidem.evaluation.doc_qa import TASK, doc_qa, rows
from ibidem.evaluation.evidence import Evidence
from ibidem.grounding.support import HeadJudge, WordCover, calibrate, digest_of_entailment, open_entailment
from ibidem.runs import folder_of

PASSAGE = "The tower was finished in 1889. Its lift was built in 1983 by the firm Otis, and it weighs 7,300 tonnes."
RIGHT = "The tower was finished in 1889."
SWAPPED = "The tower was finished in 1983."
NEGATED = "The tower was not finished in 1889."
QUESTIONS = [
    {"id": "leave", "question": "How many days of paid leave does an employee have?", "answers": ["30 days"],
     "documents": ["handbook/leave.md"]},
    {"id": "cup", "question": "Who won the world cup in 1954?", "answers": []},
]  # fmt: skip


@pytest.fixture(scope="module")
def head(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_head(tmp_path_factory.mktemp("head") / "head", checkpoint)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return lines(tmp_path / "questions.jsonl", QUESTIONS)


def test_a_head_judges_where_words_cannot_tell(head: Path) -> None:
    judge = open_entailment(str(head), 0.75)
    assert isinstance(judge, HeadJudge)
    assert WordCover(0.75).entails(PASSAGE, SWAPPED)
    assert judge.entails(PASSAGE, RIGHT)
    assert not judge.entails(PASSAGE, SWAPPED)
    assert not judge.entails(PASSAGE, NEGATED)
    assert judge.entails(PASSAGE, "The tower was finished.")


def test_the_threshold_is_the_heads(head: Path, checkpoint: Path, tmp_path: Path) -> None:
    strict = save_head(tmp_path / "strict", checkpoint, calibration=1e6)
    assert not open_entailment(str(strict), 0.75).entails(PASSAGE, RIGHT)
    uncalibrated = save_head(tmp_path / "new", checkpoint, calibration=float("nan"))
    assert open_entailment(str(uncalibrated), 0.75).entails(PASSAGE, RIGHT)
    digests = {digest_of_entailment(str(place)) for place in (head, strict, uncalibrated)}
    assert len(digests) == 3


def test_the_digest_of_a_head_covers_its_base(head: Path, checkpoint: Path) -> None:
    assert digest_of_entailment(str(head)) == artifacts.load(head).digest
    assert artifacts.load(head).digest_of("encoder") == artifacts.load(checkpoint).digest


def test_a_head_is_calibrated_with_peoples_labels(head: Path, tmp_path: Path) -> None:
    pairs = [(RIGHT, True), (SWAPPED, False), (NEGATED, False)]
    labels = lines(
        tmp_path / "labels.jsonl", [{"premise": PASSAGE, "claim": claim, "supported": yes} for claim, yes in pairs]
    )
    found = calibrate(open_entailment(str(head), 0.75), labels)
    assert (found["supported"]["agreed"], found["unsupported"]["agreed"]) == (1, 2)
    assert calibrate(WordCover(0.75), labels)["unsupported"]["agreed"] == 1


def test_claims_are_judged_by_a_head_and_again_by_the_gate(head: Path, tmp_path: Path) -> None:
    question = {"question": "When was it finished?", "answers": ["1889"], "passages": [{"id": "a", "text": PASSAGE}]}
    data = lines(tmp_path / "data.jsonl", [{"id": name, **question} for name in ("right", "swapped")])
    answers = [{"id": "right", "answer": f"{RIGHT[:-1]} [a]."}, {"id": "swapped", "answer": f"{SWAPPED[:-1]} [a]."}]
    config = DocQaConfig(
        data=data, predictions=lines(tmp_path / "answers.jsonl", answers), entailment=str(head),
        output_dir=tmp_path / "out",
    )  # fmt: skip
    doc_qa(config)
    found = evidence.read(tmp_path / "out")
    assert [item["claims"][0]["supported"] for item in found.items] == [True, False]
    assert found.artifact.config["entailment"] == digest_of_entailment(str(head))
    due = {**TASK.settings, "entailment": str(head)}
    assert TASK.differs(found, rows(data), due) is None
    assert "comes out differently" in str(TASK.differs(found, rows(data), {**due, "entailment": "words"}))


def test_a_head_ranks_what_is_found_and_the_gate_finds_it_again(head: Path, questions: Path, tmp_path: Path) -> None:
    index = make_index(tmp_path)
    for name, chosen in (("plain", {}), ("ranked", {"head": head})):
        doc_qa(DocQaConfig(index=index, data=questions, principal="ada", output_dir=tmp_path / name, **chosen))
    plain, ranked = evidence.read(tmp_path / "plain"), evidence.read(tmp_path / "ranked")
    assert plain.artifact.config["head"] is None
    assert ranked.artifact.config["head"] == artifacts.load(head).digest == ranked.artifact.digest_of("head")
    assert ranked.results["recall_at_k"] == 1
    settings = {**TASK.settings, "principal": "ada", "index": str(index)}
    assert TASK.differs(ranked, rows(questions), {**settings, "head": str(head)}) is None
    turned = [{**item, "retrieved": item["retrieved"][::-1]} for item in ranked.items]
    forged = Evidence(ranked.artifact, ranked.results, turned)
    assert "is shown other passages" in str(TASK.differs(forged, rows(questions), {**settings, "head": str(head)}))


def test_an_evaluation_is_bound_to_the_heads_that_were_opened(
    checkpoint: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, as_input = save_head(folder_of(tmp_path, 1), checkpoint), evidence.benchmark_input

    def newer(*arguments: object) -> object:
        save_head(folder_of(tmp_path, 2), checkpoint, calibration=1.0)
        return as_input(*arguments)

    monkeypatch.setattr(evidence, "benchmark_input", newer)
    doc_qa(
        DocQaConfig(
            index=make_index(tmp_path), data=questions, principal="ada", head=tmp_path, entailment=str(tmp_path),
            output_dir=tmp_path / "out",
        )
    )  # fmt: skip
    made = evidence.read(tmp_path / "out").artifact
    digest = artifacts.load(first).digest
    assert [made.digest_of("head"), made.config["head"], made.config["entailment"]] == [digest] * 3


def test_a_head_without_an_index_is_refused(head: Path, questions: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--head ranks what is found in an index"):
        doc_qa(DocQaConfig(data=questions, checkpoint=checkpoint, head=head, output_dir=tmp_path / "out"))


def test_a_head_of_another_base_is_refused(head: Path, long_checkpoint: Path, questions: Path, tmp_path: Path) -> None:
    index = make_index(tmp_path)
    with pytest.raises(ConfigError, match="trained on another encoder"):
        doc_qa(
            DocQaConfig(
                index=index, data=questions, principal="ada", head=head, head_encoder=long_checkpoint,
                output_dir=tmp_path / "out",
            )
        )  # fmt: skip
