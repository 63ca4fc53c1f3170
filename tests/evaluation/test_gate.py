"""The gate: a good bundle passes, and nothing else does."""

import json
import random
import re
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REPOSITORY
from tests.evaluation.bundle import CRITERIA, N, decide, lines, make_bundle, problems, reseal, settings

from ibidem import artifacts
from ibidem.artifacts import Input
from ibidem.cli import main
from ibidem.config import build, parse, read_yaml
from ibidem.errors import ConfigError, IbidemError
from ibidem.evaluation import evidence
from ibidem.evaluation.config import HumanEvalConfig, RatingsConfig
from ibidem.evaluation.gate.config import GateConfig
from ibidem.evaluation.gate.gate import gate
from ibidem.evaluation.human_eval import human_eval
from ibidem.evaluation.ratings import ratings as import_ratings


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), checkpoint)


def test_good_evidence_is_released(bundle: Path, checkpoint: Path) -> None:
    record = decide(bundle, checkpoint)
    assert {each["criterion"]: each["verdict"] for each in record["criteria"]} == dict.fromkeys(CRITERIA, "PASS")
    assert record["decision"] == "RELEASE"
    page = (bundle / "gate" / "gate.html").read_text()
    assert "may be released" in page
    card = (bundle / "gate" / "MODEL_CARD.md").read_text()
    assert record["checkpoint_digest"] in card
    assert "RELEASE" in card
    assert "NOT MEASURED" in card


# Each of these spoils a bundle in one way; a seed decides where.

Spoil = Callable[[Path, random.Random], dict[str, Any] | None]


def any_of(rng: random.Random) -> str:
    return rng.choice(["human-eval", "mmlu", "doc-qa", "chat"])


def missing_evidence(folder: Path, rng: random.Random) -> None:
    shutil.rmtree(folder / any_of(rng))


def missing_file(folder: Path, rng: random.Random) -> None:
    (folder / any_of(rng) / rng.choice(["results.json", "items.jsonl", "manifest.json"])).unlink()


def unnamed_evidence(folder: Path, rng: random.Random) -> dict[str, Any]:
    name = any_of(rng)
    kept = {"human-eval", "mmlu", "doc-qa", "chat"} - {name}
    return {"evidence": {each: folder / each for each in kept}}


def edited_score(folder: Path, rng: random.Random) -> None:
    path = folder / any_of(rng) / "results.json"
    results = json.loads(path.read_text())
    key = rng.choice([key for key, value in results.items() if isinstance(value, float)])
    path.write_text(json.dumps(results | {key: min(1.0, results[key] + 0.01)}))


def edited_item(folder: Path, rng: random.Random) -> None:
    path = folder / any_of(rng) / "items.jsonl"
    rows = path.read_text().splitlines()
    rows.pop(rng.randrange(len(rows)))
    path.write_text("\n".join(rows) + "\n")


def resealed_score(folder: Path, rng: random.Random) -> None:
    name, key = rng.choice([("mmlu", "accuracy.business"), ("chat", "good.helpful"), ("doc-qa", "citation_recall")])
    reseal(folder / name, lambda results, _: results.update({key: results[key] - 0.01}), recount=False)


def resealed_outcome(folder: Path, rng: random.Random) -> None:
    """A program that fails is said to pass: only judging it again shows it."""

    def change(_: dict, items: list[dict]) -> None:
        items[rng.randrange(N)]["completion"] = (
            "    return a\n    # fails\n" if rng.random() < 0.5 else "    return None\n"
        )

    reseal(folder / "human-eval", change, recount=True)


def other_checkpoint(folder: Path, rng: random.Random) -> None:
    wrong = Input("checkpoint", f"sha256:{rng.getrandbits(256):064x}", "x", is_artifact=False)
    name = any_of(rng)
    old = evidence.read(folder / name).artifact.inputs
    inputs = [wrong if each.role == "checkpoint" else each for each in old]
    reseal(folder / name, lambda *_: None, recount=False, inputs=inputs)


def no_checkpoint(folder: Path, rng: random.Random) -> None:
    name = any_of(rng)
    inputs = [each for each in evidence.read(folder / name).artifact.inputs if each.role != "checkpoint"]
    reseal(folder / name, lambda *_: None, recount=False, inputs=inputs)


def too_few(folder: Path, rng: random.Random) -> None:
    name, least = rng.choice([("human-eval", N), ("chat", N), ("mmlu", 30)])

    def change(_: dict, items: list[dict]) -> None:
        del items[rng.randrange(5, least - 1) :]

    reseal(folder / name, change, recount=True)


def doubled_item(folder: Path, rng: random.Random) -> None:
    reseal(folder / any_of(rng), lambda _, items: items.append(dict(rng.choice(items))), recount=True)


def swapped(folder: Path, rng: random.Random) -> dict[str, Any]:
    names = ["human-eval", "mmlu", "doc-qa", "chat"]
    first, second = rng.sample(names, 2)
    places = {name: folder / name for name in names}
    return {"evidence": places | {first: places[second], second: places[first]}}


def low_alpha(folder: Path, rng: random.Random) -> None:
    def change(_: dict, items: list[dict]) -> None:
        for item in items:
            names = list(item["people"])
            item["people"] = {names[0]: 1.0, names[1]: float(rng.random() < 0.8)}
            item["good"] = True

    reseal(folder / "chat", change, recount=True)


def one_voice(folder: Path, rng: random.Random) -> None:
    """All raters give one score to everything."""
    score = rng.choice([1.0, 0.9])

    def change(_: dict, items: list[dict]) -> None:
        for item in items:
            item["people"], item["good"] = dict.fromkeys(item["people"], score), True

    reseal(folder / "chat", change, recount=True)


def one_rater(folder: Path, rng: random.Random) -> None:
    def change(_: dict, items: list[dict]) -> None:
        for item in rng.sample(items, rng.randrange(1, N)):
            item["people"], item["good"] = dict(list(item["people"].items())[:1]), None

    reseal(folder / "chat", change, recount=True)


def one_rater_twice(folder: Path, rng: random.Random) -> None:
    """Ratings in which somebody rates twice are never imported, so there is no evidence."""
    rows = [json.loads(line) for line in (folder / "ratings.jsonl").read_text().splitlines()]
    lines(folder / "ratings.jsonl", [*rows, dict(rng.choice(rows))])
    shutil.rmtree(folder / "chat")
    with pytest.raises(IbidemError, match="the same rater"):
        import_ratings(
            RatingsConfig(
                responses=folder / "responses", ratings=(folder / "ratings.jsonl",), output_dir=folder / "chat"
            )
        )


def no_calibration(folder: Path, rng: random.Random) -> None:
    weak = rng.choice([None, {"labels": 90, "agreed": 60, "agreement_at_least": 0.57}])
    reseal(folder / "doc-qa", lambda results, _: results.update(calibration=weak), recount=False)


def contaminated(folder: Path, rng: random.Random) -> None:
    found = {f"T/{n}": "somewhere" for n in rng.sample(range(N), rng.randrange(1, N))}
    told = rng.choice([None, {"documents": 9, "datasets": {}, "problems": len(found), "found": found}])
    reseal(folder / "human-eval", lambda results, _: results.update(contamination=told), recount=False)


def other_problems(folder: Path, rng: random.Random) -> None:
    path = folder / "problems.jsonl"
    path.write_text(path.read_text().replace(f"== {rng.randrange(2, N)}", "== 0", 1))


def other_questions(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(["data.jsonl", "prompts.jsonl", "subjects/marketing_test.csv"])
    path.write_text(path.read_text().replace("?", "??", 1))


def unnamed_benchmark(folder: Path, rng: random.Random) -> dict[str, Any]:
    named = {"human-eval": "problems.jsonl", "mmlu": "subjects", "doc-qa": "data.jsonl", "chat": "prompts.jsonl"}
    left_out = any_of(rng)
    return {"benchmarks": {key: str(folder / name) for key, name in named.items() if key != left_out}}


def lenient_settings(folder: Path, rng: random.Random) -> dict[str, Any]:
    """The policy demands other settings than those that the evidence was made with."""
    key, name, due = rng.choice(
        [
            ("chat", "good_from", "0.9"),
            ("doc-qa", "abstentions", ["i don't know"]),
            ("human-eval", "n", 10),
            ("human-eval", "seed", 3),
            ("human-eval", "top_p", 0.5),
        ]
    )
    labels = {"calibration": str(folder / "labels.jsonl")}
    return {"settings": {"doc-qa": labels} | {key: {name: due, **(labels if key == "doc-qa" else {})}}}


def supplied_answers(*_: object) -> dict[str, Any]:
    return {"accept_supplied": False}


def wrong_key(folder: Path, rng: random.Random) -> None:
    """Answers that the benchmark does not have, or questions left out, all sealed anew."""

    def change(_: dict, items: list[dict]) -> None:
        if rng.random() < 0.5:
            items[:] = [item for item in items if item["passed"]]
        for item in items:
            item.update(answer=item["chosen"], passed=True)

    reseal(folder / "mmlu", change, recount=True)


def made_up_claims(folder: Path, rng: random.Random) -> None:
    def change(_: dict, items: list[dict]) -> None:
        for item in rng.sample(items, 9):
            item["answer"] = "The moon is made of cheese [a]."

    reseal(folder / "doc-qa", change, recount=True)


def other_limits(_: Path, rng: random.Random) -> dict[str, Any]:
    return rng.choice([{"cpu_s": 9}, {"cpu_s": 11}, {"memory_mb": 256}])


def strange_values(folder: Path, rng: random.Random) -> None:
    value = rng.choice(["true", None, 2, [True], -1])
    key = rng.choice(["passed", "good"])

    def change(_: dict, items: list[dict]) -> None:
        for item in items[: N // 2]:
            item[key] = value

    reseal(folder / ("mmlu" if key == "passed" else "chat"), change)


def forged_rows(folder: Path, rng: random.Random) -> None:
    """Rows and notes of other types than an evaluation writes, sealed anew."""
    name = rng.choice(["human-eval", "mmlu", "chat"])
    key = {"human-eval": "completion", "mmlu": "passed", "chat": "good"}[name]
    value = rng.choice([5, [], {"a": 1}])

    def change(_: dict, items: list[dict]) -> None:
        for item in items:
            item[key] = value

    reseal(folder / name, change, recount=False)


def damaged_bytes(folder: Path, rng: random.Random) -> None:
    path = folder / any_of(rng) / rng.choice(["results.json", "items.jsonl", "manifest.json"])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def extra_file(folder: Path, rng: random.Random) -> None:
    (folder / any_of(rng) / "approved.txt").write_text("approved")


SPOILS: dict[Spoil, str] = {  # each with what is said of it
    missing_evidence: "there is no evaluation at",
    missing_file: "missing",
    unnamed_evidence: "was given; set evidence",
    edited_score: "damaged; its sha256",
    edited_item: "damaged; its sha256",
    resealed_score: "figures do not follow from its items",
    resealed_outcome: "missing or unlike the judge's",
    other_checkpoint: "it is of another checkpoint",
    no_checkpoint: "it is of another checkpoint",
    too_few: "outcomes are missing or unlike|has no ratings by|is missing, or has",
    doubled_item: "appears twice",
    swapped: "it is an evaluation of",
    low_alpha: "Krippendorff's alpha",
    one_voice: "all ratings are the same",
    one_rater: "ratings by two people are missing for|items; 90 are required",
    one_rater_twice: "there is no evaluation at",
    no_calibration: "its calibration is not what",
    contaminated: "NOT MEASURED|in the training data",
    other_problems: "is not the pinned one",
    other_questions: "is not the pinned one",
    unnamed_benchmark: "its benchmark cannot be checked",
    lenient_settings: "it was made with",
    supplied_answers: "only the file claims",
    wrong_key: "is missing, or has another answer",
    made_up_claims: "comes out differently",
    other_limits: "it was made with (cpu_s|memory_mb)",
    strange_values: "does not follow|are not items",
    forged_rows: "malformed|does not follow|are not items|unlike the judge's",
    damaged_bytes: "damaged|cannot be read|not a manifest|was edited|this is a|missing",
    extra_file: "not listed in the manifest",
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_spoiled_bundle_never_passes(spoil: Spoil, seed: int, bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    relink = checkpoint  # inputs name the checkpoint by digest; its place is given to the gate
    more = spoil(folder, random.Random(seed)) or {}
    record = decide(folder, relink, **more)
    assert record["decision"] == "BLOCK"
    reasons = [each["reason"] for each in record["criteria"] if each["verdict"] != "PASS"]
    assert any(re.search(SPOILS[spoil], reason) for reason in reasons), reasons


def test_a_stale_or_damaged_checkpoint_never_passes(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    shutil.copytree(checkpoint, stale)
    found = artifacts.load(stale)
    shutil.rmtree(stale)
    with artifacts.create(stale, kind="checkpoint", config={**found.config, "seed": 99}, inputs=found.inputs) as draft:
        shutil.copytree(checkpoint, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
    record = decide(bundle, stale, output_dir=bundle / "gate")
    assert {each["verdict"] for each in record["criteria"]} == {"REFUSED"}
    with (stale / "model.safetensors").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(IbidemError, match="refused"):
        decide(bundle, stale)


def test_the_bound_decides_and_not_the_figure(bundle: Path, checkpoint: Path) -> None:
    high = {**CRITERIA["code"], "at_least": 0.97}  # 90 of 90 pass, and show 96.7 % at most
    low = {**CRITERIA["helpful"], "at_least": 0.99}
    record = decide(bundle, checkpoint, criteria={"high": high, "low": low})
    verdicts = {each["criterion"]: each for each in record["criteria"]}
    assert verdicts["high"]["verdict"] == "INSUFFICIENT"
    assert verdicts["high"]["point"] == 1
    assert "90 items are too few to show it" in verdicts["high"]["reason"]
    assert verdicts["low"]["verdict"] == "FAIL"


def test_a_baseline_is_compared_problem_by_problem(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    def baseline(name: str, good: int) -> dict[str, Any]:
        samples = [
            {"task_id": f"T/{n}", "completion": f"    return a + {n if n < good else -1}\n", "checkpoint": "sha256:7b"}
            for n in range(N)
        ]
        config = HumanEvalConfig(
            samples=lines(tmp_path / f"{name}.jsonl", samples), problems=str(bundle / "problems.jsonl"),
            output_dir=tmp_path / name,
        )  # fmt: skip
        human_eval(config)
        target = {"name": "Some 7B", "evidence": tmp_path / name, "digest": artifacts.load(tmp_path / name).digest}
        return {**{k: v for k, v in CRITERIA["code"].items() if k != "at_least"}, "baseline": target}

    same = baseline("same", N)
    criteria = {"worse": baseline("worse", 50), "same": same, "nearly": {**same, "margin": 0.05}}
    worse, equal, nearly = decide(bundle, checkpoint, criteria=criteria)["criteria"]
    assert [each["verdict"] for each in (worse, equal, nearly)] == ["PASS"] * 3
    assert (worse["target"], nearly["target"]) == ("at least Some 7B", "at least Some 7B less 5.00 %")
    assert 0 < worse["lower"] < 40 / N < worse["upper"]
    assert (equal["lower"], equal["upper"]) == (0, 0)
    helped = {**CRITERIA["helpful"], "at_least": None, "baseline": same["baseline"]}
    (other,) = decide(bundle, checkpoint, criteria={"helped": helped})["criteria"]
    assert (other["verdict"], other["reason"]) == (
        "REFUSED",
        "the baseline's evidence is of human-eval, not of ratings",
    )


@pytest.mark.parametrize(
    ("published", "margin", "verdict", "target"),
    [
        (0.99, 0.0, "INSUFFICIENT", "at least Some 7B, 99.00 % (a paper)"),
        (0.96, 0.0, "PASS", "at least Some 7B, 96.00 % (a paper)"),
        (0.99, 0.03, "PASS", "at least Some 7B, 99.00 % (a paper) less 3.00 %"),
    ],
)
def test_a_published_figure_is_a_baseline_with_its_source(
    published: float, margin: float, verdict: str, target: str, bundle: Path, checkpoint: Path
) -> None:
    theirs = {"name": "Some 7B", "published": published, "source": "a paper"}
    criterion = {**CRITERIA["code"], "at_least": None, "baseline": theirs, "margin": margin}
    record = decide(bundle, checkpoint, criteria={"published": criterion})
    (found,) = record["criteria"]
    assert (found["verdict"], found["target"]) == (verdict, target)
    assert record["decision"] == ("RELEASE" if verdict == "PASS" else "BLOCK")


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({"benchmarks": {}}, "REFUSED", "set benchmarks.human-eval"),
        (
            {"benchmarks": {"human-eval": "/nowhere"}},
            "REFUSED",
            "benchmarks.human-eval is not a benchmark of human-eval",
        ),
        ({"evidence": {}}, "INSUFFICIENT", "no evidence 'human-eval' was given"),
        ({"evidence": {"human-eval": "/nowhere"}}, "INSUFFICIENT", "there is no evaluation at /nowhere"),
        ({"settings": {"human-eval": {"magic": 1}}}, "REFUSED", "human-eval has no setting magic"),
        ({"settings": {"human-eval": {"n": 2}}}, "REFUSED", "it was made with n 1, not 2"),
        ({"criteria": {"x": {**CRITERIA["code"], "metric": "magic"}}}, "REFUSED", "has no figure magic"),
        ({"criteria": {"x": {**CRITERIA["code"], "task": "mbpp"}}}, "REFUSED", "of human-eval, not of mbpp"),
        ({"accept_supplied": False}, "INSUFFICIENT", "only the file claims"),
        ({"criteria": {"x": {**CRITERIA["code"], "least_items": N + 1}}}, "INSUFFICIENT", "90 items; 91 are required"),
    ],
)
def test_the_reason_is_told(change: dict, verdict: str, reason: str, bundle: Path, checkpoint: Path) -> None:
    record = decide(bundle, checkpoint, **{"criteria": {"code": CRITERIA["code"]}, **change})
    (found,) = record["criteria"]
    assert found["verdict"] == verdict
    assert reason in found["reason"]
    is_counted = verdict == "INSUFFICIENT" and "evidence" not in change
    assert (found["items"], found["evidence"] is not None) == (N if is_counted else 0, bool(record["evidence"]))


@pytest.mark.parametrize("where", ["results", "inputs"])
def test_evidence_is_of_the_checkpoint_by_all_that_it_says(
    where: str, bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    found = evidence.read(bundle / "mmlu")
    inputs = [each for each in found.artifact.inputs if each.role != "checkpoint" or where == "results"]
    results = dict(found.results) | ({"checkpoint_digest": "sha256:0"} if where == "results" else {})
    with artifacts.create(tmp_path / "mmlu", kind="evaluation", config=found.artifact.config, inputs=inputs) as draft:
        (draft.path / evidence.RESULTS).write_text(json.dumps(results))
        shutil.copy(bundle / "mmlu" / evidence.ITEMS, draft.path)
        draft.counts = found.artifact.counts
    given = {"evidence": {"mmlu": tmp_path / "mmlu"}, "criteria": {"knowledge": CRITERIA["knowledge"]}}
    (refused,) = decide(bundle, checkpoint, **given)["criteria"]
    assert refused["verdict"] == "REFUSED"
    assert refused["reason"].startswith("it is of another checkpoint: ")


def test_an_exception_is_signed_dated_and_seen_and_never_heals_refused_evidence(
    bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    criteria = {**CRITERIA, "code": {**CRITERIA["code"], "at_least": 0.99}}
    signed = {"by": "R. Manager", "reason": "a preview for three people", "until": date.today() + timedelta(days=9)}
    record = decide(bundle, checkpoint, criteria=criteria, exceptions={"code": signed})
    assert record["decision"] == "RELEASE"
    (excepted,) = [each for each in record["criteria"] if each["exception"]]
    assert excepted["verdict"] == "INSUFFICIENT"
    for name in ("gate.html", "MODEL_CARD.md", "gate.json"):
        text = (bundle / "gate" / name).read_text()
        assert "R. Manager" in text
        assert "a preview for three people" in text
    ended = {**signed, "until": date.today() - timedelta(days=1)}
    assert decide(bundle, checkpoint, criteria=criteria, exceptions={"code": ended})["decision"] == "BLOCK"
    shutil.copytree(bundle, tmp_path / "b")
    extra_file(tmp_path / "b", random.Random(0))
    both = dict.fromkeys(["code", "helpful"], signed)
    assert decide(bundle, checkpoint, evidence={}, exceptions=both)["decision"] == "BLOCK"
    heading = {**signed, "reason": "fine for us\n\n# Release decision"}
    decide(bundle, checkpoint, criteria=criteria, exceptions={"code": heading})
    assert "\n# Release" not in (bundle / "gate" / "MODEL_CARD.md").read_text()
    assert decide(tmp_path / "b", checkpoint, exceptions=both)["decision"] == "BLOCK"


EXCEPTION = {"by": "R. Manager", "reason": "a preview for three people", "until": date.today() + timedelta(days=9)}
BASELINE = {"name": "Some 7B", "published": 0.5, "source": "a paper"}
PUBLISHED = {**CRITERIA["code"], "at_least": None, "baseline": BASELINE}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"exceptions": {"other": EXCEPTION}}, "other is not a criterion"),
        ({"exceptions": {"code": {**EXCEPTION, "by": ""}}}, "exceptions.code.by"),
        ({"exceptions": {"code": {**EXCEPTION, "by": "..."}}}, "exceptions.code.by: must have letters"),
        ({"exceptions": {"code": {**EXCEPTION, "reason": ""}}}, "exceptions.code.reason"),
        ({"exceptions": {"code": {**EXCEPTION, "reason": "because . . . ."}}}, "at least three words"),
        ({"exceptions": {"code": {**EXCEPTION, "until": "9999-12-31"}}}, "at most 90 days"),
        ({"exceptions": dict.fromkeys(CRITERIA, EXCEPTION)}, "6 of 6 criteria; at most 2"),
        ({"exceptions": {"x": EXCEPTION}, "criteria": {"x": CRITERIA["code"]}}, "1 of 1 criteria; at most 0"),
        ({"criteria": {"x": {**CRITERIA["code"], "at_least": 0}}}, "criteria.x.at_least"),
        ({"criteria": {"x": {**CRITERIA["documents"], "below": 1}}}, "criteria.x.below"),
        ({"criteria": {"x": {**PUBLISHED, "margin": 1.0}}}, "criteria.x.margin"),
        ({"criteria": {"x": {**PUBLISHED, "baseline": {**BASELINE, "name": "..."}}}}, "must have letters"),
        ({"criteria": {"x": {**PUBLISHED, "baseline": {**BASELINE, "published": 0}}}}, "published"),
        ({"criteria": {"x": {**PUBLISHED, "margin": 0.1, "baseline": {**BASELINE, "published": 0.1}}}}, "everything"),
        ({"criteria": {"x": {**PUBLISHED, "baseline": {"name": "Some 7B", "evidence": "there"}}}}, "needs its digest"),
        ({"criteria": {"x": {**CRITERIA["helpful"], "least_agreement": 0}}}, "least_agreement"),
        ({"criteria": {"x": {**CRITERIA["citations"], "least_calibration": 0.5}}}, "least_calibration"),
        ({"signers": {"us": {"key": "ed25519:AAAA", "evidence": ["mmlu"]}}}, "must be a public key"),
        ({"unsigned": ["all"]}, "unsigned: all is not the key of an evidence"),
        ({"pins": {"mmlu": {"benchmark": "sha256:0"}}}, "must be a digest"),
        ({"criteria": {}}, "criteria"),
        ({"criteria": {"x": {"evidence": "abc", "task": "mmlu", "metric": "accuracy"}}}, "needs one of"),
        ({"criteria": {"x": {**CRITERIA["code"], "below": 0.5}}}, "needs one of"),
        ({"criteria": {"x": {**CRITERIA["code"], "at_least": 60}}}, "criteria.x.at_least"),
        ({"criteria": {"x": {**CRITERIA["code"], "margin": 0.1}}}, "a margin needs a baseline"),
    ],
)
def test_a_gate_that_makes_no_sense_is_one_line(change: dict, said: str, bundle: Path, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        build(GateConfig, settings(bundle, checkpoint, **change))


def test_settings_and_figures_of_a_yaml_file_are_numbers(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    import yaml

    labels = {"calibration": str(bundle / "labels.jsonl"), "word_share": 0.75}
    chosen = {"chat": {"good_from": 0.5}, "human-eval": {"n": 1}, "doc-qa": labels}
    told = settings(bundle, checkpoint, settings=chosen)
    plain = json.loads(json.dumps(told, default=str))
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(plain))
    assert "RELEASE" in gate(parse(GateConfig, ["--config", str(tmp_path / "gate.yaml")]))
    page = (bundle / "gate" / "gate.html").read_text()
    assert "supplied in a file" in page
    assert "problems.jsonl" in page


def test_the_blueprints_gate_is_read_and_says_no_with_exit_code_1(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = REPOSITORY / "configs" / "evaluation" / "gate.yaml"
    assert len(parse(GateConfig, ["--config", str(file)]).criteria) == len(read_yaml(file)["criteria"]) >= 11
    words = ["gate", "--config", str(file), "--checkpoint", str(checkpoint), "--output-dir", str(tmp_path / "gate")]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert said.count("INSUFFICIENT") >= 11
    assert "BLOCK" in said
    assert json.loads((tmp_path / "gate" / "gate.json").read_text())["decision"] == "BLOCK"


def test_a_model_is_no_baseline_of_itself_nor_one_of_other_problems(
    bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def against(folder: Path) -> str:
        target = {"name": "Some 7B", "evidence": folder, "digest": artifacts.load(folder).digest}
        criterion = {**{k: v for k, v in CRITERIA["code"].items() if k != "at_least"}, "baseline": target}
        (found,) = decide(bundle, checkpoint, criteria={"code": criterion})["criteria"]
        assert found["verdict"] == "REFUSED"
        return found["reason"]

    assert "the checkpoint itself" in against(bundle / "human-eval")
    other = lines(tmp_path / "p.jsonl", [json.loads(line) for line in problems(tmp_path).read_text().splitlines()][:-1])
    samples = [{"task_id": f"T/{n}", "completion": "", "checkpoint": "sha256:7b"} for n in range(N - 1)]
    given = lines(tmp_path / "s.jsonl", samples)
    human_eval(HumanEvalConfig(samples=given, problems=str(other), output_dir=tmp_path / "o"))
    assert "of another benchmark" in against(tmp_path / "o")


def test_nothing_is_written_into_the_checkpoint(bundle: Path, checkpoint: Path) -> None:
    with pytest.raises(IbidemError, match="inside the artifact"):
        decide(bundle, checkpoint, output_dir=checkpoint / "gate")
