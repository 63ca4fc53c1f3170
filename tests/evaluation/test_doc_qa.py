import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ibidem.cli import main
from ibidem.conversation import Conversation, Part, Turn
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import DocQaConfig
from ibidem.evaluation.doc_qa import (
    TASK,
    Question,
    assess,
    doc_qa,
    f1,
    measure,
    normalize,
    read_questions,
    rows,
)
from ibidem.evaluation.evidence import Evidence
from ibidem.evaluation.task import Demand
from ibidem.grounding.cite import assess_claim, is_abstention, sentences
from ibidem.grounding.support import WordCover
from ibidem.inference.chat import PROMPT_FORMAT
from ibidem.modeling.generate import Sampling

ABSTENTIONS = ("i don't know",)
PASSAGES = {"a": "The tower is 330 metres high.", "b": "It was built in 1889.", "c": "Paris has many parks."}


class Supports:
    """An entailment judge by a table: which sets of passages support every claim."""

    name = "table"

    def __init__(self, *sets: set[str]) -> None:
        self._texts = [{PASSAGES[key] for key in keys} for keys in sets]

    def entails(self, premise: str, claim: str) -> bool:
        return any(texts <= set(premise.split("\n")) for texts in self._texts)


@pytest.mark.parametrize(
    ("sentence", "supports", "supported", "needed"),
    [
        ("It is high [a].", ({"a"},), True, 1),
        ("It is high [c].", ({"a"},), False, 0),
        ("It is high [a][c].", ({"a"},), True, 1),  # c is superfluous
        ("It is high [a][b].", ({"a"}, {"b"}), True, 2),  # either supports alone
        ("It is high [a][b].", ({"a", "b"},), True, 2),  # only both together
        ("It is high [a][b][c].", ({"a", "b"},), True, 2),
        ("It is high.", ({"a"},), False, 0),
        ("It is high [x].", ({"a"},), False, 0),
    ],
)
def test_citations_are_judged_as_alce_does(sentence: str, supports: tuple, supported: bool, needed: int) -> None:
    found = assess_claim(sentence, PASSAGES, Supports(*supports))
    assert (found["supported"], found["needed"]) == (supported, needed)


def test_claims_are_sentences_with_their_citations() -> None:
    assert sentences("It is high. [a] It is old [b]. It is 3.5 m.", PASSAGES) == [
        "It is high. [a]",
        "It is old [b].",
        "It is 3.5 m.",
    ]
    assert sentences(" . ", PASSAGES) == sentences("[a] [b, c].", PASSAGES) == sentences("", PASSAGES) == []
    assert sentences("1. It is high [a].\n\n- It is old.\n[b]\n* It is by Dr. Eiffel.", PASSAGES) == [
        "It is high [a].",
        "It is old. [b]",
        "It is by Dr. Eiffel.",
    ]


def test_one_bracket_may_cite_several_passages() -> None:
    found = assess_claim("It is high [a; b].", PASSAGES, Supports({"a", "b"}))
    assert (found["cited"], found["supported"], found["needed"]) == (["a", "b"], True, 2)
    assert assess_claim("It is high [ a ].", PASSAGES, Supports({"a"}))["supported"]
    assert not assess_claim("It is high [a, d].", PASSAGES, Supports({"a"}))["covered"]


@pytest.mark.parametrize(
    "separator",
    [
        " ", ".", ". ", "! ", '." ', "。", ".\n", "\n", "\r", "\r\n", "\v", "\f", "\u0085", "\u2028", "\n- ", "\n1. ",
        "<br>", "</p><p>",
    ],
)  # fmt: skip
def test_a_citation_supports_only_the_sentence_that_it_stands_in(separator: str) -> None:
    """One that stands behind the full stop counts for the sentence before it, with a blank or without."""
    for answer in (f"The tower is high [a]{separator}Cheese", f"The tower is high.[a]{separator}cheese"):
        if separator not in {" ", "."} or ".[a]" in answer:
            found = [assess_claim(each, PASSAGES, Supports({"a"})) for each in sentences(answer, PASSAGES)]
            assert [claim["covered"] for claim in found] == [True, False], answer


UNSUPPORTED = (
    "The moon is made of green cheese.",
    "The moon is made of green cheese [a].",
    "The moon is made of green cheese [x].",
    "[a] The moon is made of green cheese.",
    "[The moon is made of green cheese]",
    "The tower is 330 metres high [a] [and the moon is made of green cheese].",
    "The tower is 330 metres high [a, the moon is made of green cheese].",
    "The tower is 330 metres high [a][the moon is made of green cheese].",
    "The tower is 330 metres high. [a] [The moon is made of green cheese.] [b]",
    "The tower is 330 metres high [a]. The moon is green cheese",
    "The tower is 330 metres high [a]. the moon is green cheese",
    "The tower is 330 metres high.[a] The moon is green.",
    "The tower is 330 metres high [a].The moon is green.",
    "The tower is 330 metres high. [a]The moon is green.",
    "The tower is 330 metres high [a]\nThe moon is green",
    "The tower is 330 metres high [a]\rThe moon is green",
    "The tower is 330 metres high [a]\u2028The moon is green",
    "The tower is 330 metres high [a]\u0085The moon is green",
    "The tower is 330 metres high [a]\x0bThe moon is green",
    "The tower is 330 metres high [a]<br>The moon is green",
    "The tower is 330 metres high [a]<!-- -->. <p>The moon is green</p>",
    "- The tower is 330 metres high [a]\n- The moon is green",
    "1. The tower is 330 metres high [a]\n2. The moon is green",
    "Two facts: the tower is 330 metres high [a]; the moon is made of green cheese [a].",
    "The tower is 330 metres high [a]: the moon is made of green cheese [a].",
    "```\nThe moon is green\n```\nThe tower is 330 metres high [a].",
    "| The moon | is green |\n|---|---|\n\nThe tower is 330 metres high [a].",
    "“The tower is 330 metres high.” The moon is green [a].",
    "The tower is 330 metres high.) The moon is green [a].",
    "The tower is 330 metres high! [a] The moon is green? [b]",
    "The tower is 330 metres high。The moon is green [a].",
    "The tower is n\u200bot 330 metres high [a].",
    "The tower is _not_ 330 metres high [a].",
    "The tower is n[a]ot 330 metres high [a].",
    "The tower is 33[a]0 metres high, 0 or 33[a].",
    "The tower isn\u02bct 330 metres high [a].",
    "The tower is n\u043et 330 metres high, built in 1889 [a][b].",
    "The tower is 330 metres high \u3010a\u3011.",
    "The tower is 330 metres high (a).",
    "The tower is 330 metres high [\u0430].",
    "The tower is 330 metres high &#91;a&#93;.",
    "The tower is 303 metres high [a].",
    "The tower is 330 metres high [b].",
    "The tower is 330 metres high [a]. The tower is 330 metres high [a]. The tower is 331 metres high [a].",
    "I don't know. But it is green [a].",
    "I don't know, it is green cheese.",
    "I don't know: green cheese",
    "I don't know\ngreen cheese",
    "I don't know - aliens",
    "I don't know\u2014aliens",
    "I don't know (aliens)",
    "I don't know because aliens built it",
    "I don't know if not aliens",
    "I don't knowingly lie: green cheese",
    "I don't know [green cheese]",
    "I don't know. 1999",
    "I don't know. It is high.",
    "I don't know, but it is so.",
    "The tower is 330 metres high [a]. <p the moon is green cheese>",
    "The tower is 330 metres high [a]. <p title='the moon is green cheese'>",
    "331. metres high is the tower [a]",
    "1) 331) metres high is the tower [a]",
    "- 331. metres high is the tower [a]",
    "The tower is three 330 metres high [a].",
    "The tower was 330 metres high [a], the tower was 330 metres high in two years [a].",
    "The tower [a[the moon is green]] is 330 metres high [a].",
    "The tower is 330 metres high [a\nthe moon is green].",
    "The tower is 330 metres high [a] \ue000the moon is green\ue001.",
    "The tower is 330 metres high [a]. \ue000the moon is green\ue001",
    "The tower is 330 metres high\ue000, and the moon is green cheese\ue001 [a].",
    "The tower is 330 metres high [a]. <br/ the moon is green>",
    "The tower is 330 metres high [a]. {the moon is green}",
    "The tower is 330 metres high [a]. <!--the moon is green-->",
    "The tower is 330 metres high [a]. \\[the moon is green\\]",
    "The tower is 330 metres high [a]. [a]: the moon is green",
    "The tower is 330 metres high [a]. [the moon is green](a)",
    "![the moon is green](a)",
    "The tower is 330 metres high [a]. ~~~the moon is green~~~",
    "The tower is 330 metres high [a]. \U0001f31d = \U0001f9c0",
    "\U0001f31d",
    "I don't know; green [a]",
    "I don't know / green",
    "I don't know \u2028green documents",
    "I don't know. The documents say it is green.",
    "I don't know [a] green",
    "[a] I don't know, green.",
    "I don't know \u2022 green",
    "I don't know... yes",
)


@pytest.mark.parametrize("answer", UNSUPPORTED)
def test_unsupported_text_is_neither_supported_nor_an_abstention(answer: str) -> None:
    question = Question("1", "How high is the tower?", PASSAGES, ())
    found = assess(question, answer, WordCover(0.75), ABSTENTIONS)
    assert not found["abstained"]
    assert not all(claim["supported"] for claim in found["claims"])


def test_a_sentence_that_is_repeated_counts_once() -> None:
    question = Question("1", "How high is the tower?", PASSAGES, ())
    answer = "The tower is 330 metres high [a]. The tower is 330 metres HIGH [a]! It is 9 metres high [a]."
    found = assess(question, answer + " The tower is 330 metres high [b].", WordCover(0.75), ABSTENTIONS)
    assert [claim["cited"] for claim in found["claims"]] == [["b"], ["a"]]  # of the repeated ones, the unsupported
    found = assess(question, "The tower is high [b]. The tower is high [a].", WordCover(0.75), ABSTENTIONS)
    assert [claim["cited"] for claim in found["claims"]] == [["b"]]


def test_passages_are_judged_as_paragraphs_of_their_own() -> None:
    passages = {"a": "What the tower is not", "b": "The tower is red."}
    assert assess_claim("The tower is red [a][b].", passages, WordCover(0.75))["supported"]


def test_no_character_hides_a_claim_as_a_citation() -> None:
    assert sentences("\ue000The moon is green\ue001", PASSAGES) == ["The moon is green"]


def test_text_in_brackets_is_text_unless_it_cites() -> None:
    question = Question("1", "When?", PASSAGES, ("1889",))
    found = [assess(question, answer, Supports({"b"}), ABSTENTIONS) for answer in ("1889 [b]", "1889 [or 1888] [b]")]
    assert [each["exact_match"] for each in found] == [1, 0]
    assert [each["claims"][0]["cited"] for each in found] == [["b"], ["or 1888", "b"]]


def test_answers_are_compared_as_squad_does() -> None:
    assert normalize("The  Eiffel, tower!") == "eiffel tower"
    assert f1("the red fox", "a red dog") == 0.5
    assert f1("", "x") == 0
    found = assess(Question("1", "?", PASSAGES, ("1889", "in 1889")), "In 1889. [b]", Supports({"b"}), ABSTENTIONS)
    assert (found["exact_match"], found["f1"]) == (1, 1)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    passages = [{"id": key, "text": text} for key, text in PASSAGES.items()]
    data = [
        {"id": "1", "question": "How high?", "answers": ["330 metres"], "passages": passages},
        {"id": "2", "question": "Who?", "answers": [], "passages": passages},
        {"id": "3", "question": "When?", "answer": "1889", "context": "It was built in 1889."},
    ]
    answers = [
        {"id": "1", "answer": "The tower is 330 metres high [a]. It was built in 1999 [b]. Parks are nice."},
        {"id": "2", "answer": "I don't know."},
        {"id": "3", "answer": ""},
    ]  # fmt: skip
    answers = [{**row, "checkpoint": "sha256:1"} for row in answers]
    for name, table in (("data", data), ("answers", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return tmp_path / "data.jsonl", tmp_path / "answers.jsonl"


def test_a_file_of_answers_is_judged(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, answers = files
    output = tmp_path / "o"
    command = ["evaluate", "doc-qa", "--data", str(data), "--predictions", str(answers), "--output-dir", str(output)]
    assert main(command) == 0
    found = evidence.read(output)
    results = found.results
    assert results["exact_match"] == 0
    assert results["trials"]["exact_match"] == 2
    assert results["answered"] == 0.5
    assert results["abstentions.answerable"] == 0.5
    assert results["abstentions.unanswerable"] == 1
    assert results["citation_coverage"] == pytest.approx((2 / 3 + 0) / 2)
    assert results["citation_recall"] == pytest.approx((1 / 3 + 0) / 2)
    assert results["unsupported_claims"] == pytest.approx(2 / 3)
    assert results["citation_precision"] == pytest.approx(1 / 2)
    assert results["calibration"] is None
    assert found.checkpoint_digest == "sha256:1"


def test_the_entailment_judge_is_held_against_people(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, answers = files
    right = [(f"The tower is 330 metres high{'!' * n}", True) for n in range(9)]
    wrong = [(f"The tower is {n} metres high", False) for n in range(40)]
    labels = [{"premise": PASSAGES["a"], "claim": claim, "supported": told} for claim, told in right + wrong]
    labels += labels[:9]  # which count once
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    doc_qa(
        DocQaConfig(data=data, predictions=answers, output_dir=tmp_path / "o", calibration=tmp_path / "labels.jsonl")
    )
    calibration = evidence.read(tmp_path / "o").results["calibration"]
    assert calibration["labels"] == 49
    assert calibration["supported"] == {"labels": 9, "agreed": 9}
    assert calibration["unsupported"] == {"labels": 40, "agreed": 40}
    assert calibration["kappa"] == 1
    assert calibration["agreement_at_least"] == pytest.approx(0.025 ** (1 / 9))


def item(key: str, *, answerable: bool, claims: str | None = "") -> dict:
    """An item whose claims are supported (s), only covered (c) or neither (n); None is an abstention."""
    rows = [{"cited": ["a"] * (each != "n"), "covered": each != "n", "supported": each == "s", "needed": each == "s"}
        for each in claims or ""]  # fmt: skip
    return {"id": key, "answerable": answerable, "abstained": claims is None} | (
        {} if claims is None else {"claims": rows}
    )


ITEMS = [
    item("answered", answerable=True, claims="sscn"),
    item("abstained", answerable=True, claims=None),
    item("said nothing", answerable=True),
    item("right abstention", answerable=False, claims=None),
    item("invented", answerable=False, claims="cn"),
    item("said nothing of nothing", answerable=False),
]


@pytest.mark.parametrize(
    ("metric", "trials"),
    [
        ("answered", {"answered": 1, "abstained": 0, "said nothing": 0}),
        ("abstentions.answerable", {"answered": 0, "abstained": 1, "said nothing": 0}),
        ("abstentions.unanswerable", {"right abstention": 1, "invented": 0, "said nothing of nothing": 0}),
        (
            "citation_coverage",
            {"answered": 0.75, "abstained": 0, "said nothing": 0, "invented": 0.5, "said nothing of nothing": 0},
        ),
        (
            "citation_recall",
            {"answered": 0.5, "abstained": 0, "said nothing": 0, "invented": 0, "said nothing of nothing": 0},
        ),
        ("citation_precision", {"answered": 2 / 3, "invented": 0}),
        ("unsupported_claims", {"answered": 0.5, "invented": 1}),
        ("exact_match", {"answered": 0, "abstained": 0, "said nothing": 0}),
    ],
)
def test_a_figure_is_the_mean_of_its_trials_over_the_questions_that_it_is_about(metric: str, trials: dict) -> None:
    assert TASK.trials(ITEMS, metric) == pytest.approx(trials)
    assert measure(ITEMS)[metric] == pytest.approx(sum(trials.values()) / len(trials))


def test_who_abstains_everywhere_has_no_good_figure() -> None:
    found = measure([item(str(n), answerable=True, claims=None) for n in range(9)])
    assert found["answered"] == found["citation_coverage"] == found["citation_recall"] == found["f1"] == 0
    assert found["citation_precision"] is found["unsupported_claims"] is found["abstentions.unanswerable"] is None
    assert TASK.trials(ITEMS, "unknown") is None
    assert set(measure([])) == set(found)


def counts(labels: object = 90, agreed: object = 90) -> dict:
    return {"labels": labels, "agreed": agreed}


GOOD = {"labels": 180, "supported": counts(), "unsupported": counts(), "kappa": 1.0, "agreement_at_least": 0.95}


@pytest.mark.parametrize(
    "calibration",
    [
        None,
        [],
        "yes",
        {},
        {"labels": 90, "agreed": 90, "agreement_at_least": 0.97},
        GOOD | {"unsupported": None},
        GOOD | {"unsupported": counts(1, 1)},
        GOOD | {"unsupported": counts(90, 0), "agreement_at_least": 0.97},
        GOOD | {"supported": counts(90, 91)},
        GOOD | {"supported": counts(90, -1)},
        GOOD | {"supported": counts(-90, -90)},
        GOOD | {"supported": counts(0, 0)},
        GOOD | {"supported": counts(True, True)},
        GOOD | {"supported": counts(90.0, 90.0)},
        GOOD | {"supported": counts("90", "90")},
        GOOD | {"supported": counts(10**12, 10**12)},
        GOOD | {"supported": {"labels": 90}},
        GOOD | {"supported": [90, 90]},
    ],
)
def test_a_judge_whose_calibration_is_weak_or_malformed_is_doubted(calibration: object) -> None:
    artifact: Any = None
    for metric in ("unsupported_claims", "citation_coverage", "citation_recall", "citation_precision"):
        doubt = TASK.doubt(
            Evidence(artifact, {"calibration": calibration}, []), Demand(metric, {metric, "f1"}, 0.667, 0.8)
        )
        assert doubt is not None
        assert "80.00 % is required" in doubt


def test_a_judge_that_agrees_with_people_in_both_classes_is_not_doubted() -> None:
    artifact: Any = None
    assert (
        TASK.doubt(
            Evidence(artifact, {"calibration": GOOD}, []),
            Demand("citation_recall", {"citation_recall", "f1"}, 0.667, 0.95),
        )
        is None
    )
    lower = GOOD | {"agreement_at_least": 0.1}  # which is recounted
    assert (
        TASK.doubt(
            Evidence(artifact, {"calibration": lower}, []),
            Demand("citation_recall", {"citation_recall", "f1"}, 0.667, 0.95),
        )
        is None
    )
    assert TASK.doubt(Evidence(artifact, {"calibration": None}, []), Demand("f1", {"f1"}, 0.667, 0.95)) is None


@pytest.mark.parametrize("name", ["own", "hf"])
def test_a_model_answers(
    name: str, long_checkpoint: Path, hf_model: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    model = {"own": long_checkpoint, "hf": hf_model}[name]
    doc_qa(DocQaConfig(data=files[0], checkpoint=model, output_dir=tmp_path / "o", max_tokens=8, batch=2))
    assert [item["id"] for item in evidence.read(tmp_path / "o").items] == ["1", "2", "3"]


def test_a_question_that_does_not_fit_is_refused_before_any_is_answered(
    long_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibidem.inference.models.OwnModel.respond", lambda *_: pytest.fail("it was asked"))
    data = [{"id": str(n), "question": "How?", "answers": ["x"], "context": "It is so. " * 9**n} for n in range(4)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    with pytest.raises(ConfigError, match="max_tokens leaves 448 of the model's context; shorten the prompt"):
        doc_qa(DocQaConfig(data=tmp_path / "d.jsonl", checkpoint=long_checkpoint, output_dir=tmp_path / "o", batch=1))
    assert not (tmp_path / "o").exists()


class Citing:
    """A model that cites by a part of its turn, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Conversation] = []
        self.checked: list[Conversation] = []

    def check_fit(self, conversations: Sequence[Conversation], max_tokens: int) -> None:
        assert max_tokens == 64
        assert not self.asked
        self.checked += conversations

    def respond(self, conversations: Sequence[Conversation], _sampling: Sampling) -> list[Turn]:
        self.asked += conversations
        parts = (Part("text", " The tower is 330 metres high"), Part("cite", "a"), Part("text", ".\n"))
        return [Turn("assistant", parts)] * len(conversations)


def test_passages_are_parts_of_the_prompt_and_generated_citations_count(
    checkpoint: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Citing()
    monkeypatch.setattr("ibidem.inference.models.open_model", lambda *_: model)
    doc_qa(DocQaConfig(data=files[0], checkpoint=checkpoint, output_dir=tmp_path / "o", batch=2))
    (turn,) = model.asked[0]
    assert (turn.role, [part.kind for part in turn.parts]) == ("user", [*["passage"] * len(PASSAGES), "text"])
    assert [part.text for part in turn.parts[:-1]] == [f"[{key}] {text}" for key, text in PASSAGES.items()]
    assert turn.parts[-1].text.endswith("Question: How high?")
    assert len(model.asked) == 3
    assert model.checked == model.asked
    found = evidence.read(tmp_path / "o")
    assert found.items[0]["answer"] == "The tower is 330 metres high [a]."
    assert [claim["cited"] for claim in found.items[0]["claims"]] == [["a"]]
    assert found.items[0]["claims"][0]["supported"]
    assert found.artifact.config["prompt_format"] == PROMPT_FORMAT


def test_evidence_says_in_which_format_its_questions_were_asked(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, answers = files
    doc_qa(DocQaConfig(data=data, predictions=answers, output_dir=tmp_path / "o"))
    found = evidence.read(tmp_path / "o")
    assert found.artifact.config["prompt_format"] is None  # nobody was asked
    due = {**TASK.settings, "entailment": "words"}
    assert TASK.differs(found, rows(data), due) is None
    for other in ({"prompt_format": PROMPT_FORMAT + 1}, {}):
        config = {name: value for name, value in found.artifact.config.items() if name != "prompt_format"} | other
        older = replace(found, artifact=replace(found.artifact, config=config))
        assert "another format" in (TASK.differs(older, rows(data), due) or "")


def test_mistakes_are_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, answers = files
    with pytest.raises(ConfigError, match="either --checkpoint"):
        doc_qa(DocQaConfig(data=data, output_dir=tmp_path / "o"))
    with pytest.raises(ConfigError, match="neither words nor the folder"):
        doc_qa(DocQaConfig(data=data, predictions=answers, output_dir=tmp_path / "o", entailment="magic"))
    answers.write_text('{"id": "1", "answer": "x"}\n')
    with pytest.raises(DataError, match="no answer to the question '2'"):
        doc_qa(DocQaConfig(data=data, predictions=answers, output_dir=tmp_path / "o"))
    for text, said in [('{"question": "x"}\n', "line 1 needs"), ("[]\n", "line 1 is not a JSON object"), ("", "empty")]:
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(DataError, match=said):
            read_questions(tmp_path / "bad.jsonl")


def test_squads_own_answers_are_read_and_strange_ones_refused(tmp_path: Path) -> None:
    row = {"id": "1", "question": "q", "context": "c"}

    def read(answers: object) -> tuple[str, ...]:
        (tmp_path / "d.jsonl").write_text(json.dumps({**row, "answers": answers}) + "\n")
        return read_questions(tmp_path / "d.jsonl")[0].answers

    assert read({"text": ["a", "b"], "answer_start": [1, 2]}) == ("a", "b")
    assert read({"text": [], "answer_start": []}) == read("") == read(None) == ()
    for strange in (5, [5], [["a"]]):
        with pytest.raises(DataError, match="line 1 needs"):
            read(strange)
    for passages in ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], [{"id": "a"}]):
        (tmp_path / "d.jsonl").write_text(json.dumps({"question": "q", "answers": [], "passages": passages}) + "\n")
        with pytest.raises(DataError, match="line 1 needs"):
            read_questions(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("answer", "abstains"),
    [
        ("I don't know", True),
        ("I don’t know.", True),
        ("I don\u2019t kn\u00adow [a].", True),
        ("I don't know the answer.", True),
        ("I don't know how high the tower is.", True),
        ("I don't know. It is not in the documents.", True),
        ("I don't know, based on the passages provided", True),
        ("", True),
        ("\u200b", True),
        ("[a]", True),
        ("I don't know. It is high.", False),
        ("I don't know the dome.", False),
        ("I don't know, it is in 7 documents", False),
        ("I don't knowin documents", False),
        ("I don't know. It is not that.", False),
    ],
)
def test_behind_an_abstention_only_the_documents_and_the_question_may_be_named(answer: str, abstains: bool) -> None:
    question = Question("1", "How high is the tower?", PASSAGES, ())
    assert assess(question, answer, WordCover(0.75), ABSTENTIONS)["abstained"] == abstains


def test_who_says_more_than_that_he_does_not_know_makes_a_claim() -> None:
    phrases = ("i don't know", "")
    assert is_abstention("I don't know from these passages.", phrases)
    assert not is_abstention("I don't know much, but the tower was built in 1889 by aliens.", phrases)
    assert not is_abstention("Paris", phrases)


def test_the_judge_by_words_sees_negations_on_both_sides() -> None:
    cover = WordCover(0.75)
    assert cover.entails("The tower is not red.", "The tower isn't red")
    assert not cover.entails("The tower is not red.", "The tower is red")
    assert not cover.entails("The tower is red.", "The tower is not red")


def test_other_line_ends_inside_of_an_answer_are_kept(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, answers = files
    odd = "a\u2028b\u0085c\u2029d"
    answers.write_text("".join(json.dumps({"id": str(n), "answer": odd}) + "\n" for n in (1, 2, 3)))
    doc_qa(DocQaConfig(data=data, predictions=answers, output_dir=tmp_path / "o"))
    assert {item["answer"] for item in evidence.read(tmp_path / "o").items} == {odd}
