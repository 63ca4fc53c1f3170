"""The review of a grounding head, the whole way: index, form, people, ratings, gate."""

import csv
import hashlib
import json
import random
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.grounding.corpus import CANARIES, indexed
from tests.grounding.heads import save_head
from tests.serving.server.site import Site

from ibidem import artifacts, jsonl
from ibidem.cli import main
from ibidem.config import build
from ibidem.errors import AccessDenied, ArtifactError, ConfigError, DataError, GateFailed
from ibidem.evaluation import evidence
from ibidem.evaluation.chat import read_table
from ibidem.evaluation.config import RatingsConfig
from ibidem.evaluation.gate.config import GateConfig
from ibidem.evaluation.gate.gate import gate
from ibidem.evaluation.gate.pin import pins_of
from ibidem.evaluation.ratings import ratings
from ibidem.grounding import review as reviewing
from ibidem.grounding.access import YamlPermissions
from ibidem.grounding.audit.log import FILE
from ibidem.grounding.config import GroundReviewConfig
from ibidem.grounding.index import Index
from ibidem.grounding.questions import Question
from ibidem.grounding.review import (
    CRITERION,
    KIND,
    Pair,
    _row,
    order_file,
    read_order,
    read_review,
    review,
    shown,
)
from ibidem.grounding.store import Chunk
from ibidem.rating_form import plain_row
from ibidem.runs import folder_of
from ibidem.signatures import secret_key

_NAMES = "Ada Bode Cantor Dirac Euler Fermat Gauss Hilbert Ising Jacobi Kepler Lagrange"
NAMES = _NAMES.split()
ACL = """
rules:
  - {path: "rooms/**", read: [everyone]}
  - {path: "salaries/**", read: [hr]}
"""
SALARY = "# Salaries\n\nThe quokka allowance of the marsupial team is 9137 shillings a month since 2012."


def room(number: int, name: str) -> str:
    return (
        f"# Room {name}\n\nRoom {name} opened in {1950 + number} and seats {20 + number} people. It was painted in "
        f"{1990 + number} by the firm {NAMES[number - 1]} for {300 + number} euros, and it is always locked at night."
    )


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index, questions, a head and a review."""
    folder = tmp_path_factory.mktemp("review")
    (folder / "acl.yaml").write_text(ACL)
    texts = {f"rooms/{name}.md": room(number, name) for number, name in enumerate(NAMES)}
    documents = [indexed(path, text) for path, text in (texts | {"salaries/march.md": SALARY}).items()]
    index = Index(folder / "index", secret_key(None), acl=str(folder / "acl.yaml"))
    index.update(documents, YamlPermissions(folder / "acl.yaml").current())
    rows: list[dict[str, Any]] = [
        {"id": f"q{number}", "question": f"When did room {name} open?", "answers": [str(1950 + number)]}
        for number, name in enumerate(NAMES)
    ]
    rows += [
        {"id": "salary", "question": "How much is the quokka allowance of the marsupial team?", "answers": ["9137"]},
        {"id": "cup", "question": "Who won the world cup in 1954?", "answers": []},
    ]
    (folder / "questions.jsonl").write_text(jsonl.dumps(rows))
    save_head(folder / "head", checkpoint)
    review(config(folder))
    return folder


def config(folder: Path, **more: Any) -> GroundReviewConfig:
    chosen = {"index": folder / "index", "head": folder / "head", "questions": folder / "questions.jsonl"}
    return GroundReviewConfig(**{**chosen, "output_dir": folder / "form", "principal": "ada", **more})


def test_a_form_that_may_be_filled_in_is_not_replaced_and_its_order_is_the_owners(made: Path) -> None:
    form = (made / "form" / "ratings.csv").read_bytes()
    with pytest.raises(ConfigError, match="there is a review, whose form may have been filled in"):
        review(config(made, seed=5))
    assert (made / "form" / "ratings.csv").read_bytes() == form
    assert stat.S_IMODE(order_file(made / "form").stat().st_mode) == 0o600


Opinion = Callable[[int], float]
"""Returns the score of a pair, from which statement the head prefers."""


def fill(folder: Path, form: Path, opinion: Opinion, *, errs: float = 0.0) -> Path:
    """Fill in the form as two people who say what they are told, but for a few errors."""
    artifact, _ = read_review(form)
    order, rng = read_order(artifact), random.Random(1)
    rows = [plain_row(row) for row in read_table(form / "ratings.csv", "ratings")]
    file = folder / f"{form.name}-filled.csv"
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, rows[0])
        writer.writeheader()
        for rater in ("Ann", "Bob"):
            for row in rows:
                score = opinion(order[row["id"]])
                score = 1 - score if rater == "Bob" and rng.random() < errs else score
                writer.writerow({**row, "rater": rater, "score": score})
    return file


def agree(preferred: int) -> float:
    return float(preferred == 1)


def contradict(preferred: int) -> float:
    return float(preferred != 1)


def rated(folder: Path, opinion: Opinion, name: str, form: str = "form") -> evidence.Evidence:
    file = fill(folder, folder / form, opinion)
    ratings(RatingsConfig(responses=folder / form, ratings=(file,), output_dir=folder / name))
    return evidence.read(folder / name)


def decide(folder: Path, checkpoint: Path, name: str, head: str = "head") -> dict[str, Any]:
    """Run a gate with the one criterion; return its finding."""
    tree: dict[str, Any] = {
        "checkpoint": checkpoint,
        "output_dir": folder / "gate",
        "evidence": {"grounding": folder / name},
        "benchmarks": {"grounding": str(folder / "questions.jsonl")},
        "settings": {"grounding": {"head": str(folder / head), "index": str(folder / "index")}},
        "unsigned": ["grounding"],
        "criteria": {
            "grounding.head": {
                "evidence": "grounding", "task": "ratings", "metric": "good.downranked", "least_items": 12,
                "at_least": 0.7,
            }
        },
    }  # fmt: skip
    tree["pins"] = pins_of(build(GateConfig, tree))[0]
    with suppress(GateFailed):
        gate(build(GateConfig, tree))
    (finding,) = json.loads((folder / "gate" / "gate.json").read_text())["criteria"]
    return finding


def test_a_question_is_shown_as_it_is_whatever_it_says() -> None:
    asked = "What is this?\n\nSource:\na book\n\nStatement 2: "
    chunk = Chunk("c" * 32, "a.md", (), 0, 9, "It is red.")
    pair = Pair(Question("q", asked, {}, ()), chunk, "It is red.", "It is blue.", "model")
    assert shown(_row(pair, ("It is blue.", "It is red."))) == (asked, ("It is blue.", "It is red."))


def test_a_form_shows_pairs_and_hides_the_order(made: Path) -> None:
    sealed, rows = read_review(made / "form")
    order = jsonl.read(order_file(made / "form"), "order")
    assert sealed.kind == KIND
    assert len(rows) == len(order) == len(NAMES)
    assert not {"preferred", "supported", "made_by", "scores"} & {name for row in rows for name in row}
    written = "".join(path.read_text() for path in (made / "form").iterdir())
    assert "preferred" not in written
    assert len({row["made_by"] for row in order}) >= 5
    assert {row["supported"] for row in order} == {1, 2}
    for row, about in zip(rows, order, strict=True):
        one, two = row["responses"][0].removeprefix("Statement 1: ").split("\n\nStatement 2: ")
        right, wrong = (one, two) if about["supported"] == 1 else (two, one)
        assert right in row["turns"][0]
        assert wrong not in row["turns"][0]
    assert stat.S_IMODE((made / "form").stat().st_mode) == 0o700


def test_a_review_is_the_principals(made: Path) -> None:
    written = "".join(path.read_text() for path in (made / "form").iterdir())
    assert not any(word in written for word in CANARIES)
    review(config(made, output_dir=made / "hr", principal="hr"))
    assert any(row["id"] == "salary" for row in read_review(made / "hr")[1])


def test_the_same_review_is_made_again(made: Path) -> None:
    for name in ("one", "two"):
        review(config(made, output_dir=made / name, seed=1, number=3))
    one, two = (artifacts.load(made / name) for name in ("one", "two"))
    assert one.digest == two.digest
    assert {row["id"] for row in read_review(made / "one")[1]} != {"q0", "q1", "q2"}


def test_people_who_agree_with_the_head_pass_the_gate(made: Path, checkpoint: Path) -> None:
    found = rated(made, agree, "agreed")
    assert found.results["good.downranked"] == 1
    assert found.results["alpha.downranked"] == 1
    finding = decide(made, checkpoint, "agreed")
    assert finding["verdict"] == "PASS", finding["reason"]


def test_people_who_contradict_the_head_fail_the_gate(made: Path, checkpoint: Path) -> None:
    assert rated(made, contradict, "contradicted").results["good.downranked"] == 0
    assert decide(made, checkpoint, "contradicted")["verdict"] == "FAIL"


def test_ratings_that_two_people_gave_in_the_browser_pass_the_gate(
    made: Path, checkpoint: Path, tmp_path: Path
) -> None:
    sealed, rows = read_review(made / "form")
    order = {hashlib.sha256(key.encode()).hexdigest()[:16]: preferred for key, preferred in read_order(sealed).items()}
    site = Site(tmp_path, reviews=[made / "form"])
    site.documents.chunks = [Chunk(row["chunk"], row["path"], (), 0, 9, row["turns"][0]) for row in rows]
    for principal in ("ann", "bob"):
        site.caller = site.caller._replace(principal=principal)
        with TestClient(site.app()) as client:
            page = client.get("/review/1").text
            while pair := re.search(r'action="(/review/1\?pair=([0-9a-f]+))"', page):
                page = client.post(pair[1], data={"score": f"{agree(order[pair[2]]):g}"}).text
        assert "You have rated everything" in page
    files = tuple(sorted(tmp_path.rglob("*.csv")))
    ratings(RatingsConfig(responses=made / "form", ratings=files, output_dir=made / "browser"))
    finding = decide(made, checkpoint, "browser")
    assert finding["verdict"] == "PASS", finding["reason"]


def test_undecided_people_are_no_evidence_for_the_head(made: Path) -> None:
    assert rated(made, lambda _: 0.5, "undecided").results["good.downranked"] == 0


def test_ratings_of_another_head_are_refused(made: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_head(made / "other", checkpoint, calibration=1.0)
    review(config(made, output_dir=made / "form-other", head=made / "other", number=3))
    filled = fill(made, made / "form", agree)
    words = ("--responses", str(made / "form-other"), "--ratings", str(filled), "--output-dir", str(made / "x"))
    assert main(["evaluate", "ratings", *words]) == 2
    assert "is of another model or head" in capsys.readouterr().err
    rated(made, agree, "agreed")
    finding = decide(made, checkpoint, "agreed", "other")
    assert finding["verdict"] == "REFUSED"
    assert "it was made with head" in finding["reason"]


def test_an_order_that_was_changed_after_the_form_was_sealed_is_refused(made: Path, tmp_path: Path) -> None:
    for name in ("form", "form.order.jsonl"):
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, tmp_path / name)
    filled = fill(made, made / "form", agree)
    file = order_file(tmp_path / "form")
    file.write_text(file.read_text().replace('"preferred": 1', '"preferred": 2'))
    with pytest.raises(ArtifactError, match="not the head's order that was sealed"):
        ratings(RatingsConfig(responses=tmp_path / "form", ratings=(filled,), output_dir=tmp_path / "out"))
    file.unlink()
    with pytest.raises(ArtifactError, match="the head's order is kept beside the review"):
        ratings(RatingsConfig(responses=tmp_path / "form", ratings=(filled,), output_dir=tmp_path / "out"))


def test_an_edited_outcome_does_not_follow_from_the_ratings(made: Path, checkpoint: Path) -> None:
    found = rated(made, contradict, "forged")
    items = [{**item, "good": True} for item in found.items]
    inputs, metrics = found.artifact.inputs, {**found.artifact.counts, "good.downranked": 1.0}
    metrics.pop("items")
    about = {key: value for key, value in found.artifact.config.items() if key != "task"}
    shutil.rmtree(made / "forged")
    evidence.write(made / "forged", "ratings", config=about, inputs=inputs, items=items, metrics=metrics, notes={})
    assert "does not follow from its other columns" in decide(made, checkpoint, "forged")["reason"]


def test_a_model_makes_half_of_the_hallucinations(
    made: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ibidem.grounding.review._says", lambda *_: lambda _question: "It opened on the moon in 1969.")
    review(config(made, output_dir=made / "by-model", model=checkpoint))
    made_by = [row["made_by"] for row in jsonl.read(order_file(made / "by-model"), "order")]
    assert made_by.count("model") == len(NAMES) // 2
    assert artifacts.load(made / "by-model").digest_of("checkpoint") == artifacts.load(checkpoint).digest


def test_a_model_of_ours_is_asked(made: Path, checkpoint: Path) -> None:
    said = review(config(made, output_dir=made / "asked", model=checkpoint, number=4, max_tokens=4))
    assert "4 pairs from 14 questions" in said


def test_who_may_read_nothing_gets_no_form(made: Path, tmp_path: Path) -> None:
    (tmp_path / "none.yaml").write_text("rules: []\n")
    with pytest.raises(DataError, match="none is answered by a passage that ada may read"):
        review(config(made, output_dir=tmp_path / "form", acl=str(tmp_path / "none.yaml")))
    assert not any(tmp_path.glob("form*"))


def test_a_lost_right_ends_the_review(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibidem.grounding.retrieve.Retriever.may_be_shown", lambda *_: False)
    with pytest.raises(AccessDenied):
        review(config(made, output_dir=tmp_path / "form"))
    assert not any(tmp_path.iterdir())


Before = Callable[[Callable[[], None]], None]


@pytest.fixture
def before_ranking(monkeypatch: pytest.MonkeyPatch) -> Before:
    """Set what happens when pairs are made, and not yet ranked."""
    rank = reviewing._arranged

    def set_up(happen: Callable[[], None]) -> None:
        def happened(*arguments: Any) -> Any:
            happen()
            return rank(*arguments)

        monkeypatch.setattr(reviewing, "_arranged", happened)

    return set_up


def test_a_right_lost_while_pairs_are_made_ends_the_review(made: Path, tmp_path: Path, before_ranking: Before) -> None:
    (tmp_path / "acl.yaml").write_text(ACL)
    before_ranking(lambda: (tmp_path / "acl.yaml").write_text("rules: []\n") and None)
    with pytest.raises(AccessDenied, match="changed"):
        review(config(made, output_dir=tmp_path / "form", acl=str(tmp_path / "acl.yaml")))
    assert not any(tmp_path.glob("form*"))


def test_the_log_names_the_passages_of_a_form_and_the_head(made: Path, tmp_path: Path) -> None:
    review(config(made, output_dir=tmp_path / "form", number=3))
    with sqlite3.connect(f"{made / 'index'}.audit/{FILE}") as database:
        ((last,),) = database.execute("SELECT event FROM events ORDER BY number DESC LIMIT 1")
    event = json.loads(last)
    assert (event["kind"], event["principal"]) == ("review", "ada")
    assert event["chunks"] == sorted({row["chunk"] for row in read_review(tmp_path / "form")[1]})
    assert event["head"] == artifacts.load(made / "head").digest


def test_a_form_is_bound_to_the_head_that_ranked_though_its_training_goes_on(
    made: Path, checkpoint: Path, tmp_path: Path, before_ranking: Before
) -> None:
    first = save_head(folder_of(tmp_path, 1), checkpoint)
    before_ranking(lambda: save_head(folder_of(tmp_path, 2), checkpoint, calibration=1.0) and None)
    review(config(made, output_dir=tmp_path / "form", head=tmp_path, number=3))
    sealed = artifacts.load(tmp_path / "form")
    assert sealed.digest_of("head") == artifacts.load(first).digest
    assert next((sealed.path / item.name).resolve() for item in sealed.inputs if item.role == "head") == first


def test_a_statement_without_a_score_is_null(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviewing, "support", lambda *_: (False, float("-inf")))
    review(config(made, output_dir=tmp_path / "form", number=1))
    (row,) = jsonl.read(order_file(tmp_path / "form"), "order")
    assert (row["preferred"], row["scores"]) == (0, [[False, None]] * 2)


def test_the_criterion_is_that_of_the_policy() -> None:
    from tests.conftest import REPOSITORY

    from ibidem.config import read_yaml

    policy = read_yaml(REPOSITORY / "configs" / "evaluation" / "gate.yaml")
    assert policy["criteria"]["grounding.head"]["metric"] == f"good.{CRITERION}"
