"""Problems become a dataset and tests; their reward is what executed tests say, and nothing that a program says."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import SHARED_DATA

from ibidem import artifacts
from ibidem.cli import main
from ibidem.conversation import Turn, from_rows
from ibidem.data import shards
from ibidem.data.filters.removals import RemovalPolicy
from ibidem.data.provenance.exposure import uses
from ibidem.errors import ArtifactError, ConfigError, DataError, SandboxError
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.problems import Tested, read_rows
from ibidem.sandbox.program import Kind, Program, Verdict
from ibidem.sandbox.supervisor import RENEW_AFTER
from ibidem.training.rlhf import problems
from ibidem.training.rlhf.config import JudgeConfig, ProblemFileConfig
from ibidem.training.rlhf.problems import CodeProblem, LeftOut, Outcome, Tests, code_of, open_problems, read_problems

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")

JUDGE = JudgeConfig(workers=1)
DOUBLE = {
    "task_id": 1,
    "text": "Write a function to double the height of a shelf.",
    "code": "def double(x):\n    return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(5) == 10", "assert double(7) == 14"],
    "test_setup_code": "",
    "challenge_test_list": ["assert double(-3) == -6"],
}
TRIPLE = {
    "task_id": 2,
    "text": "Write a function to triple the length of a rope.",
    "test_list": ["assert triple(2) == 6", "assert triple(5) == 15", "assert triple(7) == 21"],
}
WRONG = {
    "task_id": 3,
    "text": "Write a function to halve a cake.",
    "code": "def halve(x):\n    return x // 3",
    "test_list": ["assert halve(2) == 1", "assert halve(8) == 4"],
}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(path: Path, run: Path, **settings: Any) -> artifacts.Artifact:
    return open_problems(path, run, ProblemFileConfig(**settings), JUDGE)


def dataset_of(made: artifacts.Artifact) -> artifacts.Artifact:
    (found,) = (item for item in made.inputs if item.role == "dataset")
    return shards.load_dataset((made.path.resolve() / found.name).resolve())


def rows_of(dataset: artifacts.Artifact) -> list[dict[str, Any]]:
    return [row for path in shards.shard_paths(dataset.path) for row in pq.read_table(path).to_pylist()]


# ---------------------------------------------------------------- from a file to problems


def test_a_file_becomes_a_dataset_and_its_problems_with_the_last_test_hidden(tmp_path: Path) -> None:
    made = opened(write(tmp_path / "p.jsonl", [DOUBLE, TRIPLE]), tmp_path / "run")
    double, triple = read_problems(made)
    asked = "Write a function to double the height of a shelf.\n\nTests:\nassert double(2) == 4\nassert double(5) == 10"
    assert double.prompt == (Turn.of("user", asked),)
    assert [test.source for test in double.hidden] == ["assert double(7) == 14", "assert double(-3) == -6"]
    assert [test.source for test in triple.hidden] == ["assert triple(7) == 21"]
    assert made.path.parent == tmp_path / "run" / "problems"
    dataset = dataset_of(made)
    assert dataset.path.parent == (tmp_path / "run" / "data").resolve()
    said = [[turn.text for turn in from_rows(row["messages"])] for row in rows_of(dataset)]
    assert said == [[DOUBLE["text"], f"```python\n{DOUBLE['code']}\n```"], [TRIPLE["text"]]]
    assert made.counts == {"read": 2, "kept": 2, "quarantined": 0, "dropped": {}}
    assert artifacts.verify(made.path, kind=problems.KIND).digest == made.digest


@pytest.mark.parametrize(("hidden_tests", "shown"), [(0, 3), (1, 2), (2, 1), (3, 1), (9, 1)])
def test_as_many_tests_are_hidden_as_asked_for_but_one_is_shown(hidden_tests: int, shown: int) -> None:
    visible, hidden = problems._split(DOUBLE, DOUBLE["text"], hidden_tests)
    assert visible == DOUBLE["test_list"][:shown]
    assert hidden == [*DOUBLE["test_list"][shown:], *DOUBLE["challenge_test_list"]]


@pytest.mark.parametrize(
    "told",
    [
        "assert (f(1)) == 2",
        "assert 2 == f(1)",
        "assert f(1) == 2, 'wrong'",
        "assert f(3) == 4",
        "assert f(5) == 'a b'",
        "assert 7 == f(6)",
        "assert f([8, 9]) == [9, 10]",
    ],
)
def test_a_test_that_is_shown_is_not_hidden_too(told: str) -> None:
    statement = (
        "Add 1, so that f( 3)==4. For example:\n>>> f(6)\n7\n\n"
        "Also f([8,9])==[9,10] and\n\n    assert \"a b\" == f(5), 'text too'"
    )
    row = {"test_list": ["assert f(1) == 2", "assert f(2)  == 3"], "challenge_test_list": [told, "assert f(3) == 41"]}
    assert problems._split(row, statement, 1) == (["assert f(1) == 2"], ["assert f(2)  == 3", "assert f(3) == 41"])


def test_what_cannot_judge_or_must_not_is_left_out_by_reason(tmp_path: Path) -> None:
    bad = {
        LeftOut.NO_TESTS: {"text": "Write a function to paint a fence.", "test_list": []},
        LeftOut.NOT_PYTHON: {"text": "Write a function to mow a lawn.", "test_list": ["assert mow(3) == = 1"]},
        LeftOut.NOTHING_CALLED: {"text": "Write a function to water a tree.", "test_list": ["assert 1 == 1"]},
        LeftOut.UNCLEAR: {"text": "Write a function to weigh a stone.", "test_list": ["assert near(weigh(3), 4)"]},
        LeftOut.PERSONAL: {"text": "Write a function to greet.", "test_list": ["assert greet('ann@ibidem.org') == 1"]},
        LeftOut.EMPTY: {"text": "Write a function to fill a jar.", "test_list": ["assert fill(3) or True"] * 2},
        LeftOut.UNRUNNABLE: {"text": "Write a function to rig a boat.", "test_list": ["assert rig(object()) == 1"]},
        LeftOut.NOT_A_LIST: {"text": "Write a function to tie a knot.", "test_list": [], "challenge_test_list": 5},
        LeftOut.DUPLICATE: {**DOUBLE, "text": "Write a function to make a shelf twice as high.", "code": ""},
        LeftOut.WRONG: WRONG,
    }
    junk = ['{"text": "Write a function to sing.", "test_list": "assert sing()"}', "no JSON", '{"text": null}']
    path = write(tmp_path / "p.jsonl", [DOUBLE, DOUBLE, *bad.values()])
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in junk))
    made = opened(path, tmp_path / "run")
    counts = made.counts
    assert {name: count for name, count in counts["dropped"].items() if count} == {
        "duplicate.exact": 1,
        **{str(reason): 1 for reason in bad},
    }
    assert (counts["quarantined"], counts["kept"]) == (len(junk), 1)
    assert counts["read"] == counts["kept"] + counts["quarantined"] + sum(counts["dropped"].values())
    reasons = [each.reason for each in shards.read_quarantine(dataset_of(made))]
    assert any("test_list is str, not a list" in reason for reason in reasons)
    assert [each.task_id for each in read_problems(made)] == ["1"]


@pytest.mark.parametrize("value", [5, True, "assert sing(1) == 2", {"a": 1}])
@pytest.mark.parametrize("name", ["test_list", "challenge_test_list"])
def test_tests_that_are_no_list_leave_a_problem_out_whatever_column_has_the_statement(
    name: str, value: object, tmp_path: Path
) -> None:
    rows = [{"question": row["text"], "test_list": row["test_list"]} for row in (DOUBLE, TRIPLE)]
    made = opened(write(tmp_path / "p.jsonl", [rows[0], {**rows[1], name: value}]), tmp_path / "run", column="question")
    assert {name: count for name, count in made.counts["dropped"].items() if count} == {str(LeftOut.NOT_A_LIST): 1}


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "ann@ibidem.org"},
        {
            "code": "OWNER = 'ann@ibidem.org'\ndef halve(x):\n    return x / 2\ndef near(a, b):\n    return a == b",
            "test_list": ["assert near(halve(4), 2)", "assert near(halve(8), 4)"],
        },
    ],
    ids=["task_id", "preamble"],
)
def test_personal_data_do_not_reach_the_artifact(change: Mapping[str, Any], tmp_path: Path) -> None:
    made = opened(write(tmp_path / "p.jsonl", [DOUBLE, {**TRIPLE, **change}]), tmp_path / "run")
    assert "ann@" not in (made.path / "problems.jsonl").read_text()
    assert {name: count for name, count in made.counts["dropped"].items() if count} == {str(LeftOut.PERSONAL): 1}


def test_a_solution_with_personal_data_is_not_kept_but_its_problem_is(tmp_path: Path) -> None:
    row = {**DOUBLE, "code": f"# by ann@ibidem.org\n{DOUBLE['code']}"}
    double, triple = read_problems(opened(write(tmp_path / "p.jsonl", [row, TRIPLE]), tmp_path / "run"))
    assert (double.solution, triple.solution) == ("", "")
    (double,) = read_problems(opened(write(tmp_path / "q.jsonl", [DOUBLE]), tmp_path / "run"))
    assert double.solution == DOUBLE["code"]


def test_what_tests_import_or_name_themselves_is_not_asked_for(tmp_path: Path) -> None:
    tests = [
        "from math import isclose\nassert isclose(weigh(2), 4)",
        "assert list(map(lambda stone: weigh(stone), [1])) == [2]",
        "def all_of(stones, *more, **named):\n    found = [weigh(each) for each in stones]\n    return found\n"
        "assert all_of([1]) == [2]",
        "try:\n    assert weigh(3) == 6\nexcept KeyError as error:\n    raise error",
    ]
    row = {"text": "Write a function to weigh a stone.", "test_list": tests}
    (problem,) = read_problems(opened(write(tmp_path / "p.jsonl", [row]), tmp_path / "run"))
    assert {test.names for test in (*problem.visible, *problem.hidden)} == {("weigh",)}


def test_nothing_left_is_one_line_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 1 problems is left to learn from \(its own solution fails a te"):
        opened(write(tmp_path / "w.jsonl", [WRONG]), tmp_path / "run")
    with pytest.raises(DataError, match=r"none of its 1 problems .*\(no tests: 1\)"):
        opened(write(tmp_path / "n.jsonl", [{"text": "Write a function to paint a fence."}]), tmp_path / "run")
    with pytest.raises(ConfigError, match="no column text or prompt"):
        opened(write(tmp_path / "c.jsonl", [{"test_list": ["assert f(1)"]}]), tmp_path / "run")
    assert not (tmp_path / "run" / "problems").exists()


def test_a_resume_judges_no_solution_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "p.jsonl", [DOUBLE, WRONG])
    first = opened(path, tmp_path / "run")
    monkeypatch.setattr(problems, "open_judge", lambda _: pytest.fail("judged again"))
    again = open_problems(path, tmp_path / "run", ProblemFileConfig(), JudgeConfig(workers=2))
    assert (again.path, again.digest) == (first.path, first.digest)
    assert open_problems(first.path, tmp_path / "other", ProblemFileConfig(), JUDGE).digest == first.digest
    with pytest.raises(ConfigError, match="these are settings of a file"):
        opened(first.path, tmp_path / "other", hidden_tests=2)
    with pytest.raises(ArtifactError, match="this is a dataset"):
        opened(dataset_of(first).path, tmp_path / "other")


def test_a_removal_removes_a_problem_with_its_tests_and_takedown_and_trace_find_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = write(tmp_path / "p.jsonl", [DOUBLE, TRIPLE]), tmp_path / "run"
    made = opened(path, run)
    dataset = dataset_of(made)
    (gone,) = (row["sha256"] for row in rows_of(dataset) if "rope" in row["text"])
    (use,) = uses([run], [gone], dataset=dataset)
    assert (use.artifact.digest, use.state, use.spans) == (made.digest, "holds", [{"row": 1, "sha256": gone}])
    assert main(["trace", "p.jsonl:2", "--artifacts", str(run)]) == 0
    assert f"problems {made.path}: row 1" in capsys.readouterr().out
    requests = write(tmp_path / "requests.jsonl", [{"kind": "record", "value": "p.jsonl:2"}])
    flags = ["--dataset", str(dataset.path), "--artifacts", str(run)]
    assert main(["takedown", "apply", str(requests), *flags]) == 0
    left = opened(path, run, removals=RemovalPolicy(requests=(requests,)))
    assert [each.task_id for each in read_problems(left)] == ["1"]
    assert left.counts["dropped"] == {"removal.requested": 1}
    assert "rope" not in "".join(file.read_text(errors="replace") for file in left.path.iterdir())


def test_licenses_hold_for_problems(tmp_path: Path) -> None:
    rows = [{**DOUBLE, "license": "GPL-3.0"}, {**TRIPLE, "license": "MIT"}]
    made = opened(write(tmp_path / "p.jsonl", rows), tmp_path / "run")
    assert [each.task_id for each in read_problems(made)] == ["2"]
    assert made.counts["dropped"] == {"license.denied": 1}


def test_parquet_in_the_sanitized_schema_is_read_too(tmp_path: Path) -> None:
    row = {"prompt": DOUBLE["text"], "test_imports": ["import math"], **{k: DOUBLE[k] for k in ("code", "test_list")}}
    row["test_list"] = ["assert math.isclose(double(1.5), 3.0)", "assert double(2) == 4"]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    (problem,) = read_problems(opened(tmp_path / "p.parquet", tmp_path / "run"))
    assert problem.task_id == "p.parquet:1"
    assert problem.visible[0].setup == "import math"
    with Tests(JUDGE) as tests:
        assert tests.outcomes([(problem, row["code"])]) == [Outcome(1.0, 1.0)]


MBPP = SHARED_DATA / "mbpp" / "mbpp.jsonl"


@pytest.mark.skipif(not MBPP.exists(), reason="no MBPP here")
def test_problems_of_benchmarks_are_no_reward_whatever_they_are_called(tmp_path: Path) -> None:
    found = {row["task_id"]: row for row in read_rows(str(MBPP))}
    taken = [found[number] for number in (11, 300, 510)]
    for row in taken[:2]:
        tests = [re.sub(r"assert \w+", "assert g", test) for test in row["test_list"]]
        taken.append({"text": f"Do number {len(taken)}.", "test_list": ["\n".join(tests)]})
    of_human_eval = read_rows("human-eval")[7]
    taken.append(
        {"text": of_human_eval["prompt"], "test_list": [f"{of_human_eval['test']}\ncheck(filter_by_substring)"]}
    )
    free = [found[number] for number in (2, 10, 511, 974)]
    rows = [{**row, "task_id": number, "code": ""} for number, row in enumerate(taken)] + free
    path = write(tmp_path / "mine.jsonl", rows)
    made = opened(path, tmp_path / "run")
    assert [each.task_id for each in read_problems(made)] == ["2", "10", "511", "974"]
    assert {name: count for name, count in made.counts["dropped"].items() if count} == {
        str(LeftOut.RESERVED_MBPP): 5,
        str(LeftOut.RESERVED_HUMAN_EVAL): 1,
    }
    with pytest.raises(DataError, match=r"none of its 6 .*evaluation, HumanEval: 1, reserved for evaluation, MBPP's t"):
        opened(write(tmp_path / "all.jsonl", rows[:6]), tmp_path / "run")


@pytest.mark.skipif(not MBPP.exists(), reason="no MBPP here")
@pytest.mark.parametrize(
    ("column", "of_text"),
    [
        ("question", lambda text: text),
        ("prompt", lambda text: [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]),
    ],
    ids=["another column", "messages"],
)
def test_a_statement_of_a_benchmark_is_recognized_in_any_column_and_form(
    column: str, of_text: Callable[[str], object], tmp_path: Path
) -> None:
    row = next(row for row in read_rows(str(MBPP)) if row["task_id"] == 11)
    taken = {"test_list": ["assert mine('abc') == 'b'", "assert mine('xyz') == 'y'"], column: of_text(row["text"])}
    free = {"test_list": TRIPLE["test_list"], column: of_text(str(TRIPLE["text"]))}
    made = opened(write(tmp_path / "p.jsonl", [taken, free]), tmp_path / "run", column=column)
    assert {name: count for name, count in made.counts["dropped"].items() if count} == {str(LeftOut.RESERVED_MBPP): 1}


def sealed(folder: Path, rows: Sequence[Mapping[str, Any]], **settings: Any) -> Path:
    with artifacts.create(folder, kind=problems.KIND, config=settings, inputs=[]) as draft:
        write(draft.path / "problems.jsonl", rows)
        draft.rows["problems.jsonl"] = len(rows)
    return folder


def test_a_folder_of_problems_made_with_another_list_of_reserved_ones_is_refused(tmp_path: Path) -> None:
    made = opened(write(tmp_path / "p.jsonl", [DOUBLE]), tmp_path / "run")
    rows = [json.loads(line) for line in (made.path / "problems.jsonl").read_text().splitlines()]
    other = sealed(tmp_path / "other", rows, **{**made.config, "reserved": "0" * 64})
    with pytest.raises(ConfigError, match=r"other: made with another list of reserved problems; give the file again$"):
        opened(other, tmp_path / "again")


@pytest.mark.skipif(not MBPP.exists(), reason="no MBPP here")
def test_a_folder_that_has_a_reserved_problem_is_refused(tmp_path: Path) -> None:
    made = opened(write(tmp_path / "p.jsonl", [DOUBLE]), tmp_path / "run")
    (row,) = (json.loads(line) for line in (made.path / "problems.jsonl").read_text().splitlines())
    text = next(row["text"] for row in read_rows(str(MBPP)) if row["task_id"] == 11)
    prompt = json.loads(json.dumps(row["prompt"]).replace(str(DOUBLE["text"]), text))
    with pytest.raises(ConfigError, match=r"in: problem 1 is reserved for evaluation, MBPP's test split"):
        opened(sealed(tmp_path / "in", [{**row, "prompt": prompt}], **made.config), tmp_path / "again")


@pytest.mark.slow
@pytest.mark.skipif(not MBPP.exists(), reason="no MBPP here")
def test_of_mbpp_all_but_the_test_split_its_duplicates_and_personal_data_is_left(tmp_path: Path) -> None:
    made = opened(MBPP, tmp_path / "run")
    assert (made.counts["read"], made.counts["kept"]) == (974, 459)
    assert made.counts["dropped"] == {str(LeftOut.RESERVED_MBPP): 512, str(LeftOut.PERSONAL): 3}


# ---------------------------------------------------------------- the reward


@pytest.fixture(scope="module")
def tests() -> Iterator[Tests]:
    with Tests(JudgeConfig(workers=2)) as tests:
        yield tests


def problem_of(visible: Sequence[str], hidden: Sequence[str], name: str = "double") -> CodeProblem:
    made = [tuple(Tested(source, "", (name,), "") for source in sources) for sources in (visible, hidden)]
    return CodeProblem("t", (Turn.of("user", "Double it."),), *made)


PROBLEM = problem_of(
    ["assert double(2) == 4", "assert double(5) == 10"], ["assert double(7) == 14", "assert double(-3) == -6"]
)
_, *PARTS = re.split(r"### (.+)\n", Path(__file__).with_name("hacks.txt").read_text())
HACKS = dict(zip(PARTS[::2], PARTS[1::2], strict=True))


def test_what_hacks_the_reward_earns_nothing(tests: Tests) -> None:
    outcomes = tests.outcomes([(PROBLEM, code) for code in HACKS.values()])
    assert len(HACKS) > 20
    assert {name: each for name, each in zip(HACKS, outcomes, strict=True) if each != Outcome(0.0, 0.0)} == {}


NAIVE = """
import sys
names, count = {}, 0
exec(sys.stdin.read(), names)
for tests in sys.argv[1:]:
    try:
        exec(tests, names)
    except Exception:
        continue
    count += 1
sys.exit(count == 0)
"""
"""A judge that runs program and tests in one process, and believes how it ends."""
BEAT_IT = (
    "equals everything", "an equal number", "is an object that equals everything", "walks frames",
    "reads its arguments", "searches the heap", "exits", "exits at once", "exits hard", "exits hard at once",
    "replaces itself in its caller", "counts its calls",
)  # fmt: skip


@pytest.mark.parametrize("name", BEAT_IT)
def test_what_earns_nothing_here_passes_a_judge_of_one_process(name: str) -> None:
    asked = [test.source for test in (*PROBLEM.visible, *PROBLEM.hidden)]
    command = [sys.executable, "-I", "-c", NAIVE, *asked]
    assert subprocess.run(command, input=HACKS[name], text=True, check=False, capture_output=True).returncode == 0
    for honest in ("def double(x): return 3", "def double(x): raise ValueError"):
        assert subprocess.run(command, input=honest, text=True, check=False, capture_output=True).returncode == 1


def test_hard_coding_what_is_shown_earns_on_hidden_tests_only_what_is_shown_there_too(tests: Tests) -> None:
    table = "def double(x): return {2: 4, 5: 10}.get(x)"
    again = problem_of(
        [test.source for test in PROBLEM.visible], ["assert 4 == double(1 + 1)", "assert double(9) == 18"]
    )
    assert tests.outcomes([(PROBLEM, table), (again, table)]) == [Outcome(1.0, 0.0), Outcome(1.0, 0.5)]


def test_the_reward_is_the_share_of_visible_tests_and_each_answer_keeps_its_place(tests: Tests) -> None:
    due = {
        "def double(x): return 2 * x": Outcome(1.0, 1.0),
        "def double(x): return 4": Outcome(0.5, 0.0),
        "def double(x): return 2 * x if x > 5 else 4": Outcome(0.5, 0.5),
        "def double(x): return 2 * x if x in (5, 7) else sleep(x)": Outcome(0.5, 0.5),
        "def double(x) return 2": Outcome(0.0, 0.0),
        "": Outcome(0.0, 0.0),
    }
    answers = [(PROBLEM, f"Here it is:\n```python\n{code}\n```\nAs you see.") for code in due]
    assert tests.outcomes(answers) == list(due.values())
    assert tests.outcomes(answers[::-1]) == list(due.values())[::-1]
    assert tests.outcomes([(problem_of(["assert double(2) == 4"], []), next(iter(due)))]) == [Outcome(1.0, None)]


class Counted:
    """A judge that counts what it is asked."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.programs = judge, list[Program]()

    def verdicts(self, programs: Iterator[Program]) -> Iterator[Verdict]:
        asked = list(programs)
        self.programs += asked
        return self.judge.verdicts(asked)


def test_equal_programs_are_judged_once_and_what_is_not_python_with_one_test(
    tests: Tests, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(tests._judge)
    monkeypatch.setattr(tests, "_judge", counted)
    right, broken = "def double(x): return x + x", "def double(x: return"
    tests.outcomes([(PROBLEM, right), (PROBLEM, f"```\n{right}\n```\n"), (PROBLEM, broken)])
    assert len(counted.programs) == 4 + 4 + 1
    tests.outcomes([(PROBLEM, broken), (PROBLEM, right)] * 3)
    assert len(counted.programs) == 9
    monkeypatch.setattr(problems, "MOST_KNOWN", 1)
    assert tests.outcomes([(PROBLEM, right), (PROBLEM, broken)]) == [Outcome(1.0, 1.0), Outcome(0.0, 0.0)]
    assert len(tests._known) == 1
    tests.outcomes([(PROBLEM, right)])
    assert len(counted.programs) > 9


def test_a_judge_that_fails_stops_and_is_never_an_outcome() -> None:
    with Tests(JUDGE) as own:
        os.kill(own._judge._supervisors[0]._process.pid, signal.SIGKILL)
        with pytest.raises(SandboxError):
            own.outcomes([(PROBLEM, "def double(x): return 2 * x")])
        assert not own._known
        assert own.outcomes([(PROBLEM, "def double(x): return 2 * x")]) == [Outcome(1.0, 1.0)]


class Scripted:
    """A judge whose verdicts are given beforehand, by program, one after the other."""

    def __init__(self, **kinds: Sequence[Verdict]) -> None:
        self.kinds = {code: list(verdicts) for code, verdicts in kinds.items()}

    def verdicts(self, programs: Iterator[Program]) -> list[Verdict]:
        return [self.kinds[program.sources[0]].pop(0) for program in programs]


def verdict(kind: Kind, detail: str = "") -> Verdict:
    return Verdict(kind, detail, 1, 0.0, 0)


DIED, KILLED = verdict(Kind.TESTS, "ended by SIGKILL"), verdict(Kind.CRASH, "ended by SIGKILL")
PASSED, FAILED = verdict(Kind.PASSED), verdict(Kind.FAILED)
ONE = problem_of(["assert double(2) == 4"], [])._replace(solution="own")


@pytest.mark.parametrize(
    ("of_answer", "of_solution", "share"),
    [
        ([DIED, PASSED], [], 1.0),
        ([KILLED, PASSED], [], 1.0),
        ([DIED, FAILED], [], 0.0),
        ([KILLED, KILLED], [], 0.0),
        ([verdict(Kind.CRASH, "ended with code 1")], [], 0.0),
        ([DIED, DIED], [PASSED], 0.0),
        ([DIED, DIED], [DIED], None),
    ],
)
def test_a_verdict_that_may_be_a_fault_of_the_judge_is_judged_again_and_is_no_outcome_if_it_is_one(
    of_answer: Sequence[Verdict],
    of_solution: Sequence[Verdict],
    share: float | None,
    tests: Tests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted = Scripted(answer=of_answer, own=of_solution)
    monkeypatch.setattr(tests, "_judge", scripted)
    monkeypatch.setattr(tests, "_known", {})
    if share is None:
        with pytest.raises(SandboxError, match=r"^t: the tests cannot be run: ended by SIGKILL$"):
            tests.of_programs([(ONE, "answer")])
        assert not tests._known
    else:
        assert tests.of_programs([(ONE, "answer")]) == [Outcome(share, None)]
    assert scripted.kinds == {"answer": [], "own": []}


@pytest.mark.parametrize("solution", ["", "def double(x): return 2 * x"])
@pytest.mark.parametrize(
    ("answer", "test"),
    [
        ("def double(x): return 10 ** 5000", "assert {4: True}[double(2)]"),
        ("import re\ndef double(x): return re.match('a', 'a')", "assert double(double(2)) == 8"),
    ],
    ids=["the referee dies of it", "it cannot be sent back"],
)
def test_an_answer_whose_value_breaks_the_tests_has_failed_them_and_ends_no_run(
    answer: str, test: str, solution: str, tests: Tests
) -> None:
    problem = problem_of([test], [])._replace(solution=solution)
    (program,) = (each.program(answer) for each in problem.visible)
    assert tests._judge.judge(program).kind is Kind.TESTS
    assert tests.of_programs([(problem, answer)]) == [Outcome(0.0, None)]


def referee_of(supervisor: int) -> int:
    """The process that runs tests: the child of a supervisor with the longest CPU time."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    hard = {int(pid): Path(f"/proc/{pid}/limits").read_text().split("Max cpu time")[1].split()[1] for pid in children}
    (found,) = (pid for pid, cpu_s in hard.items() if cpu_s == str(RENEW_AFTER * JUDGE.cpu_s))
    return found


def test_a_referee_that_is_killed_during_a_job_costs_no_answer_its_reward() -> None:
    busy = "import time\ndef double(x):\n    end = time.process_time() + 1\n    while time.process_time() < end: pass\n"
    with Tests(JUDGE) as own, ThreadPoolExecutor(1) as thread:
        due = thread.submit(own.of_programs, [(ONE, f"{busy}    return 2 * x")])
        time.sleep(0.5)
        os.kill(referee_of(own._judge._supervisors[0]._process.pid), signal.SIGKILL)
        assert due.result() == [Outcome(1.0, None)]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("Sure.\n```python\nx = 1\n```\nor\n```python\nx = 2\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```bash\npip install x\n```\n```Python\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("````py\nx = '''\n```\n'''\n````\n", "x = '''\n```\n'''\n"),
        ("```json\n{}\n```", "```json\n{}\n```"),
    ],
)
def test_the_program_is_the_first_fenced_block_or_all_of_it(answer: str, code: str) -> None:
    assert code_of(answer) == code


def test_verdicts_other_than_passed_are_no_pass(monkeypatch: pytest.MonkeyPatch, tests: Tests) -> None:
    def verdicts(programs: Iterator[Program]) -> list[Verdict]:
        kinds = [Kind.PASSED, *(kind for kind in Kind if kind not in {Kind.PASSED, Kind.TESTS})]
        return [Verdict(kinds[number % len(kinds)], "", 1, 0.0, 0) for number, _ in enumerate(programs)]

    monkeypatch.setattr(tests, "_judge", type("Fixed", (), {"verdicts": staticmethod(verdicts)}))
    many = problem_of(["assert double(2) == 4"], [f"assert double({number}) == 0" for number in range(len(Kind) - 1)])
    (outcome,) = tests.outcomes([(many, "pass # unlike any other")])
    assert outcome == Outcome(1.0, 1 / (len(Kind) - 1))
