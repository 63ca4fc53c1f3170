"""`--limit N` evaluates the first N problems, says so, and is never taken for the whole benchmark."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.bundle import N, decide, lines, make_bundle, reseal

from ibidem.evaluation import evidence
from ibidem.evaluation.chat import chat, read_responses
from ibidem.evaluation.config import ChatConfig, DocQaConfig, HumanEvalConfig, MbppConfig, MmluConfig, RatingsConfig
from ibidem.evaluation.doc_qa import doc_qa
from ibidem.evaluation.human_eval import human_eval
from ibidem.evaluation.mbpp import mbpp
from ibidem.evaluation.mmlu import mmlu
from ibidem.evaluation.ratings import ratings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")

LIMIT = 4


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), checkpoint)


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "bundle")
    return tmp_path / "bundle"


def limited_code(folder: Path, checkpoint: Path, limit: int) -> str:
    config: dict[str, Any] = {"checkpoint": checkpoint, "problems": str(folder / "problems.jsonl")}
    return human_eval(
        HumanEvalConfig(**config, samples=folder / "samples.jsonl", output_dir=folder / "human-eval", limit=limit)
    )


def limited_knowledge(folder: Path, checkpoint: Path, limit: int) -> str:
    return mmlu(
        MmluConfig(checkpoint=checkpoint, data=folder / "subjects", output_dir=folder / "mmlu", shots=1, limit=limit)
    )


def limited_documents(folder: Path, _: Path, limit: int) -> str:
    return doc_qa(
        DocQaConfig(
            data=folder / "data.jsonl",
            predictions=folder / "answers.jsonl",
            calibration=folder / "labels.jsonl",
            output_dir=folder / "doc-qa",
            limit=limit,
        )
    )


EVALUATIONS: dict[str, tuple[Callable[[Path, Path, int], str], str, dict[str, int], str]] = {
    "human-eval": (
        limited_code, f"on the first {LIMIT} of {N} problems", {"limit": LIMIT, "of": N}, "outcomes are missing"
    ),
    "mmlu": (
        limited_knowledge, f"on the first {LIMIT} questions of each subject, 12 of {3 * N}",
        {"limit": LIMIT, "of": 3 * N}, "is missing, or has another answer",
    ),
    "doc-qa": (
        limited_documents, f"on the first {LIMIT} of {N} questions", {"limit": LIMIT, "of": N},
        "is only in the benchmark",
    ),
}  # fmt: skip


def reason_of(record: dict[str, Any], name: str) -> str:
    key = {"human-eval": "code", "mmlu": "knowledge", "doc-qa": "answers", "chat": "helpful"}[name]
    (found,) = [each for each in record["criteria"] if each["criterion"] == key]
    assert found["verdict"] == "REFUSED"
    return found["reason"]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_limited_result_says_so_and_the_gate_refuses_it(name: str, bundle: Path, checkpoint: Path) -> None:
    run, said, notes, _ = EVALUATIONS[name]
    assert said in run(bundle, checkpoint, LIMIT)
    results = json.loads((bundle / name / "results.json").read_text())
    assert notes.items() <= results.items()
    assert results["items"] == (3 * LIMIT if name == "mmlu" else LIMIT)
    record = decide(bundle, checkpoint)
    assert record["decision"] == "BLOCK"
    assert reason_of(record, name) == f"it was made with --limit {LIMIT}: only the whole benchmark counts"


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_limit_that_is_sealed_away_does_not_help(name: str, bundle: Path, checkpoint: Path) -> None:
    run, _, _, said = EVALUATIONS[name]
    run(bundle, checkpoint, LIMIT)

    def change(results: dict[str, Any], _: list[dict[str, Any]]) -> None:
        del results["limit"], results["of"]

    reseal(bundle / name, change, config={"limit": None})
    more = {"settings": {"mmlu": {"shots": 1}, "doc-qa": {"calibration": str(bundle / "labels.jsonl")}}}
    assert said in reason_of(decide(bundle, checkpoint, **more), name)


@pytest.mark.parametrize("name", ["human-eval", "doc-qa"])
def test_a_limit_beyond_the_benchmark_is_no_limit(name: str, bundle: Path, checkpoint: Path) -> None:
    run, *_ = EVALUATIONS[name]
    assert f"on {N} " in run(bundle, checkpoint, N + 1)
    assert "limit" not in json.loads((bundle / name / "results.json").read_text())
    assert decide(bundle, checkpoint)["decision"] == "RELEASE"


def test_another_limit_is_another_result(bundle: Path, checkpoint: Path) -> None:
    for limit in (LIMIT, LIMIT + 1):
        limited_documents(bundle, checkpoint, limit)
        assert evidence.read(bundle / "doc-qa").results["items"] == limit


def test_mbpp_is_limited_within_its_split(tmp_path: Path) -> None:
    rows = [
        {"task_id": n, "text": f"Add {n}.", "code": f"def f(x):\n    return x + {n}", "test_setup_code": "",
         "test_list": [f"assert f(1) == {n + 1}"]}
        for n in (2, 3, 4, 11, 12, 13)
    ]  # fmt: skip
    samples = [{"task_id": n, "completion": f"def f(x):\n    return x + {n}"} for n in (11, 12, 13)]
    said = mbpp(
        MbppConfig(
            problems=lines(tmp_path / "p.jsonl", rows),
            samples=lines(tmp_path / "s.jsonl", samples),
            output_dir=tmp_path / "o",
            limit=2,
        )
    )
    assert "pass@1 100.00 % on the first 2 of 3 problems" in said
    assert [item["task_id"] for item in evidence.read(tmp_path / "o").items] == ["11", "12"]


def test_ratings_of_the_first_responses_do_not_count_as_ratings_of_all(bundle: Path, checkpoint: Path) -> None:
    shutil.rmtree(bundle / "responses")
    place = {"prompts": bundle / "prompts.jsonl", "output_dir": bundle / "responses"}
    config = ChatConfig(checkpoint=checkpoint, max_tokens=2, limit=LIMIT, **place)
    assert f"{LIMIT} responses (to the first {LIMIT} of {N} prompts)" in chat(config)
    assert [row["id"] for row in read_responses(bundle / "responses")[1]] == [f"p{n}" for n in range(LIMIT)]
    rows = [json.loads(line) for line in (bundle / "ratings.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["id"] in {f"p{n}" for n in range(LIMIT)}]
    file = lines(bundle / "few.jsonl", kept)
    ratings(RatingsConfig(responses=bundle / "responses", ratings=(file,), output_dir=bundle / "chat"))
    assert "has no ratings by helpful, or is not in the benchmark" in reason_of(decide(bundle, checkpoint), "chat")
