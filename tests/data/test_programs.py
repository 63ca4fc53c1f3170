"""Problems made from templates: each solution passes its tests, and nothing simpler does."""

import ast
import json
import random
from pathlib import Path
from typing import Any

import pytest

from ibidem import jsonl
from ibidem.cli import main
from ibidem.data.synthetic import programs
from ibidem.data.synthetic.programs import FAMILIES, ProblemsConfig, write_problems
from ibidem.errors import ConfigError


def made(path: Path, **settings: Any) -> list[dict[str, Any]]:
    write_problems(ProblemsConfig(output=path, **settings))
    return jsonl.loads(path.read_text())


def passed(code: str, tests: list[str]) -> list[bool]:
    names: dict[str, Any] = {}
    exec(code, names)

    def passes(test: str) -> bool:
        try:
            exec(test, names)
        except (AssertionError, TypeError, ValueError, KeyError, AttributeError):
            return False
        return True

    return [passes(test) for test in tests]


def case(test: str) -> tuple[str, Any]:
    """Return the arguments of a test, as text, and its result."""
    (assertion,) = ast.parse(test).body
    assert isinstance(assertion, ast.Assert)
    assert isinstance(assertion.test, ast.Compare)
    assert isinstance(assertion.test.left, ast.Call)
    arguments = tuple(map(ast.literal_eval, assertion.test.left.args))
    return repr(arguments), ast.literal_eval(assertion.test.comparators[0])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return made(tmp_path_factory.mktemp("problems") / "p.jsonl", number=400, seed=3)


def test_each_solution_passes_its_tests_and_constants_arguments_and_tables_pass_none_that_is_hidden(
    rows: list[dict[str, Any]],
) -> None:
    assert len(rows) == 400
    for row in rows:
        tests = [*row["test_list"], *row["challenge_test_list"]]
        assert (len(row["test_list"]), len(row["challenge_test_list"])) == (3, 3)
        assert all(passed(row["code"], tests)), row
        head, _ = row["code"].split("\n")
        arguments = head.partition("(")[2].partition(")")[0]
        shown = dict(map(case, tests[:2]))
        table = f"{head}\n    return {shown}[repr(({arguments},))]"
        assert passed(table, tests[:2]) == [True, True], table
        guesses = [*(f"{head}\n    return {value!r}" for value in shown.values()), table]
        guesses += [f"{head}\n    return {argument}" for argument in arguments.split(",")]
        assert not any(any(passed(guess, tests[2:])) for guess in guesses), row


def test_one_step_of_two_passes_no_test() -> None:
    rng = random.Random(5)
    two = [each for _ in range(150) if (each := programs.exercise(rng, FAMILIES, (2,), "problems"))]
    assert len(two) > 140
    for each in two:
        for step in each.function.steps:
            alone = programs.Function((step,))
            if alone.arguments == each.function.arguments:
                code = alone.code.replace(f"def {alone.name}(", f"def {each.function.name}(")
                assert not any(passed(code, list(each.tests))), each


def test_the_same_seed_gives_the_same_file_and_each_function_once(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert made(tmp_path / "again.jsonl", number=400, seed=3) == rows
    assert len({row["task_id"] for row in rows}) == len(rows)
    other = {row["text"] for row in made(tmp_path / "other.jsonl", number=400, seed=4)}
    assert len(other & {row["text"] for row in rows}) < 100


def test_problems_are_many_and_short(rows: list[dict[str, Any]]) -> None:
    assert sum(len(row["code"]) < 60 for row in rows) > 0.7 * len(rows)
    asked = [programs.request(row["text"], row["test_list"][:2]) for row in rows]
    assert sum(map(len, asked)) / len(asked) < 200
    assert len({row["text"].partition(" ")[0] for row in rows}) >= 4
    assert {family for row in rows for family in row["families"]} >= set(FAMILIES) - {"count"}


def test_traces_and_files_have_no_function_in_common_whatever_the_seed(rows: list[dict[str, Any]]) -> None:
    in_files = {row["task_id"] for row in rows}
    for seed in (0, 3):
        rng = random.Random(seed)
        in_traces = {
            each.function.name for _ in range(300) if (each := programs.exercise(rng, FAMILIES, (1, 2), "traces"))
        }
        assert len(in_traces) > 200
        assert not in_traces & in_files


def test_families_and_steps_are_picked(tmp_path: Path) -> None:
    rows = made(tmp_path / "a.jsonl", number=30, families=("add", "multiply"), steps=(2,))
    assert all(sorted(row["families"]) == ["add", "multiply"] for row in rows)
    rows = made(tmp_path / "b.jsonl", number=30, families=("subtract", "sort"), steps=(1,))
    assert {family for row in rows for family in row["families"]} <= {"subtract", "sort"}


def test_mistakes_are_one_line_and_a_shortage_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no two of them can follow one another"):
        made(tmp_path / "a.jsonl", families=("add", "sort"), steps=(2,))
    with pytest.raises(ConfigError, match="families: give at least one"):
        made(tmp_path / "a.jsonl", families=())
    flags = ["--families", "divide", "--number", "50", "--output", str(tmp_path / "a.jsonl")]
    assert main(["problems", *flags, "--steps", "1"]) == 0
    assert "fewer than asked for: the families have no more" in capsys.readouterr().out
    assert 0 < len(jsonl.loads((tmp_path / "a.jsonl").read_text())) < 9
    assert main(["problems", *flags, "--steps", "3"]) == 2
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["license"] == "Apache-2.0"
