import csv
import json
import random
from pathlib import Path

import pytest
from tests.conftest import SHARED_DATA

from ibidem import artifacts
from ibidem.errors import DataError
from ibidem.evaluation import evidence
from ibidem.evaluation.chat import benchmark, chat, digest_of, read_prompts, read_responses
from ibidem.evaluation.config import ChatConfig, RatingsConfig
from ibidem.evaluation.ratings import ratings
from ibidem.lineage import walk

PROMPTS = [{"id": f"p{n}", "prompt": f"How do I do thing {n}?", "label": "safe"} for n in range(60)]


@pytest.fixture(scope="module")
def responses(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    config = ChatConfig(
        checkpoint=checkpoint, prompts=folder / "prompts.jsonl", output_dir=folder / "responses", max_tokens=4
    )
    chat(config)
    return folder / "responses"


def rate(responses: Path, path: Path, rows: list[tuple], **over: str) -> Path:
    """Write ratings as (id, rater, criterion, score, rater_kind)."""
    artifact, _ = read_responses(responses)
    names = ("id", "rater", "criterion", "score", "rater_kind")
    bound = {"model_digest": digest_of(artifact, "checkpoint"), "prompts_digest": digest_of(artifact, "prompts")} | over
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, *bound])
        writer.writeheader()
        writer.writerows({**dict(zip(names, row, strict=True)), **bound} for row in rows)
    return path


def people(score: object = 1, raters: int = 2, criterion: str = "helpful") -> list[tuple]:
    return [(f"p{n}", f"Rater {r}", criterion, score, "human") for n in range(60) for r in range(raters)]


def run(responses: Path, path: Path, output: Path, **more: object) -> evidence.Evidence:
    ratings(RatingsConfig(responses=responses, ratings=(path,), output_dir=output, **more))
    return evidence.read(output)


def test_responses_come_with_a_form_that_names_the_model_and_the_prompts(responses: Path, checkpoint: Path) -> None:
    artifact, rows = read_responses(responses)
    assert [row["id"] for row in rows] == [row["id"] for row in PROMPTS]
    assert all(len(row["responses"]) == 1 and row["label"] == "safe" for row in rows)
    with (responses / "ratings.csv").open(newline="") as file:
        form = list(csv.DictReader(file))
    assert {row["model_digest"] for row in form} == {artifacts.load(checkpoint).digest}
    assert {row["prompts_digest"] for row in form} == {digest_of(artifact, "prompts")}


def test_turns_are_answered_one_after_the_other(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"turns": ["a", "b"]}\n{"turns": ["c"]}\n')
    chat(ChatConfig(checkpoint=checkpoint, prompts=tmp_path / "p.jsonl", output_dir=tmp_path / "o", max_tokens=3))
    assert [len(row["responses"]) for row in read_responses(tmp_path / "o")[1]] == [2, 1]


def test_the_digest_of_prompts_knows_neither_order_nor_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "1", "prompt": "x"}\n{"id": "2", "turns": ["y"]}\n')
    (tmp_path / "b.csv").write_text("prompt,id,label\ny,2,safe\nx,1,safe\n")
    (tmp_path / "c.csv").write_text("prompt,id\ny,2\nX,1\n")
    a, b, c = (benchmark(tmp_path / name).digest for name in ("a.jsonl", "b.csv", "c.csv"))
    assert a == b != c


def test_xstest_is_read() -> None:
    path = SHARED_DATA / "xstest" / "xstest_prompts.csv"
    if not path.exists():
        pytest.skip("xstest is not here")
    prompts = read_prompts(path)
    assert len(prompts) == 450
    assert sum(prompt.more["label"] == "safe" for prompt in prompts) == 250


def test_ratings_become_figures_with_the_raters_agreement(responses: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [
        (f"p{n}", f"Rater {r}", "helpful", int((n % 5 != 0) != (rng.random() < 0.05)), "human")
        for n in range(60)
        for r in range(3)
    ]
    found = run(responses, rate(responses, tmp_path / "r.csv", rows), tmp_path / "o")
    assert found.results["good.helpful"] == pytest.approx(0.8, abs=0.05)
    assert 0.6 < found.results["alpha.helpful"] < 1
    assert found.results["unrated.helpful"] == 0
    assert found.results["raters"] == 3
    assert "Rater" not in (tmp_path / "o" / "items.jsonl").read_text()
    assert {name for item in found.items for name in item["people"]} == {"human-1", "human-2", "human-3"}
    states = [state for _, state, _ in walk(tmp_path / "o")]
    assert "missing" not in states
    assert "changed" not in states


def test_a_response_that_one_person_has_rated_is_unrated(responses: Path, tmp_path: Path) -> None:
    rows = people()[:-1]
    found = run(responses, rate(responses, tmp_path / "r.csv", rows), tmp_path / "o")
    assert found.results["unrated.helpful"] == 1


@pytest.mark.parametrize(
    ("rows", "over", "said"),
    [
        (people()[:3] + people()[:1], {}, "row 4: the same rater has already rated 'p0'"),
        ([*people()[:1], ("p0", " rater 0", "helpful", 0, "human")], {}, "row 2: the same rater"),
        ([("p99", "a", "helpful", 1, "human")], {}, "no response 'p99'"),
        ([("p0", "a", "helpful", 7, "human")], {}, "score '7' is not between"),
        ([("p0", "a", "helpful", "yes", "human")], {}, "score 'yes' is not between"),
        ([("p0", "a", "helpful", "nan", "human")], {}, "score 'nan' is not between"),
        ([("p0", "", "helpful", 1, "human")], {}, "row 1 lacks rater"),
        ([("p0", "a", "helpful", 1, "robot")], {}, "rater_kind must be human or model"),
        (people(), {"model_digest": "sha256:0"}, "row 1 is of another model"),
        (people(), {"prompts_digest": "sha256:0"}, "row 1 is of other prompts"),
    ],
)
def test_ratings_that_do_not_count_are_one_line(
    rows: list, over: dict, said: str, responses: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        run(responses, rate(responses, tmp_path / "r.csv", rows, **over), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def mixed(judge_errs: float) -> list[tuple]:
    """Two people rate fifty responses; a judge model rates all sixty."""
    rng = random.Random(1)
    rows = [row for row in people() if int(row[0][1:]) < 50]
    rows = [(key, rater, criterion, int(int(key[1:]) % 3 > 0), kind) for key, rater, criterion, _, kind in rows]
    judge = [
        (f"p{n}", "big-model", "helpful", int((n % 3 > 0) != (rng.random() < judge_errs)), "model") for n in range(60)
    ]
    return rows + judge


def test_a_judge_model_counts_only_if_it_agrees_with_people(responses: Path, tmp_path: Path) -> None:
    good = run(responses, rate(responses, tmp_path / "good.csv", mixed(0.02)), tmp_path / "good")
    bad = run(responses, rate(responses, tmp_path / "bad.csv", mixed(0.4)), tmp_path / "bad")
    few = run(responses, rate(responses, tmp_path / "few.csv", mixed(0.02)), tmp_path / "few", least_calibration=51)
    assert (good.results["unrated.helpful"], good.results["judges_refused"]) == (0, [])
    for refused in (bad, few):
        assert refused.results["unrated.helpful"] == 10
        assert len(refused.results["judges_refused"]) == 1
