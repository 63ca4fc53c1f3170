import gzip
import json
import sys
from pathlib import Path

import pytest
from tests.conftest import SHARED_DATA

from ibidem import artifacts
from ibidem.cli import main
from ibidem.errors import ConfigError, DataError
from ibidem.evaluation import coding, evidence
from ibidem.evaluation.config import HumanEvalConfig, MbppConfig
from ibidem.evaluation.human_eval import human_eval
from ibidem.evaluation.mbpp import mbpp
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.problems import _human_eval, inputs_of
from ibidem.sandbox.problems import human_eval as read_human_eval
from ibidem.sandbox.problems import mbpp as read_mbpp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")

ADD = {
    "task_id": "T/0",
    "prompt": 'def helper(x):\n    return x\n\n\ndef add(a, b):\n    """Add."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(2, 3) == helper(5)\n    assert candidate(-1, 1) == 0\n",
}
DOUBLE = {
    "task_id": "T/1",
    "prompt": 'def double(xs):\n    """Double."""\n',
    "entry_point": "double",
    "canonical_solution": "    return [2 * x for x in xs]\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n",
}


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return lines(tmp_path / "problems.jsonl", [ADD, DOUBLE])


def test_samples_become_results_and_items(problems: Path, tmp_path: Path) -> None:
    samples = lines(
        tmp_path / "samples.jsonl",
        [
            {"task_id": "T/0", "completion": "    return a + b\n"},
            {"task_id": "T/0", "completion": "    return a - b\n"},
            {"task_id": "T/1", "completion": "    return xs + xs\n"},
            {"task_id": "T/1", "completion": "    return None\n"},
        ],
    )
    command = ["evaluate", "human-eval", "--samples", str(samples), "--problems", str(problems)]
    assert main([*command, "--k", "1", "2", "5", "--output-dir", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["pass@1"] == 0.25
    assert results["pass@2"] == 0.5
    assert results["trials"] == {"pass@1": 2}
    assert "pass@5" not in results
    assert results["kinds"] == {"failed": 3, "passed": 1}
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert [(item["task_id"], item["sample"], item["passed"]) for item in items] == [
        ("T/0", 0, True), ("T/0", 1, False), ("T/1", 0, False), ("T/1", 1, False),
    ]  # fmt: skip
    assert items[1]["detail"] == "assert candidate(2, 3) == helper(5)"
    assert artifacts.verify(tmp_path / "out", kind="evaluation")


def test_a_helper_of_the_prompt_cannot_be_rewritten_by_the_completion(problems: Path, tmp_path: Path) -> None:
    rows = [
        {"task_id": "T/0", "completion": "    return 0\ndef helper(x):\n    return 0\n"},
        {"task_id": "T/1", "completion": "    return 0\n"},
    ]
    human_eval(
        HumanEvalConfig(
            samples=lines(tmp_path / "s.jsonl", rows), problems=str(problems), output_dir=tmp_path / "o", k=(1,)
        )
    )
    assert evidence.read(tmp_path / "o").results["pass@1"] == 0


def test_an_interrupted_run_goes_on_and_ends_the_same(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = lines(
        tmp_path / "s.jsonl", [{"task_id": f"T/{n % 2}", "completion": f"    return {n}\n"} for n in range(8)]
    )

    def config(name: str) -> HumanEvalConfig:
        return HumanEvalConfig(samples=samples, problems=str(problems), output_dir=tmp_path / name)

    human_eval(config("whole"))
    judged = []
    original = Judge.judge

    def dies(self: Judge, program: object) -> object:
        judged.append(program)
        if len(judged) == 5:
            raise KeyboardInterrupt
        return original(self, program)

    monkeypatch.setattr(Judge, "judge", dies)
    with pytest.raises(KeyboardInterrupt):
        human_eval(config("cut"))
    assert not (tmp_path / "cut").exists()
    before = len(judged)
    human_eval(config("cut"))
    assert len(judged) - before < 8
    assert (tmp_path / "cut" / "items.jsonl").read_bytes() == (tmp_path / "whole" / "items.jsonl").read_bytes()
    assert artifacts.load(tmp_path / "cut").digest == artifacts.load(tmp_path / "whole").digest


def test_the_official_evaluator_is_run_beside_and_fooled(tmp_path: Path) -> None:
    forged = (
        "    import sys\n    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals['check'] = lambda *a: None\n        frame = frame.f_back\n    return None\n"
        "check = None\nraise_ = [].append\n"
        "class _Check:\n    pass\n"
        "import sys as _sys\n"
        "_frame = _sys._getframe(1)\n"
        "_frame.f_locals['result'].append('passed')\n"
        "import os\nos._exit(0) if False else None\n"
    )
    problems = read_human_eval("human-eval")[:1]
    row = {"task_id": problems[0].task_id, "completion": forged}
    config = HumanEvalConfig(
        samples=lines(tmp_path / "s.jsonl", [row]),
        output_dir=tmp_path / "out",
        evaluator="official",
        ignore_incomplete=True,
    )
    said = human_eval(config)
    assert "1 disagreement;" in said
    (found,) = [json.loads(line) for line in (tmp_path / "out.official.jsonl").read_text().splitlines()]
    assert found["official"] == "passed"
    assert found["judge"] != "passed"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"task_id": "T/9", "completion": ""}], "'T/9' is not a problem"),
        ([{"task_id": "T/0", "completion": ""}], "no sample for 1 problem, the first is T/1"),
        ([{"task_id": "T/0"}], "row 1 needs task_id and completion"),
        ([{"task_id": "T/0", "completion": 5}], "row 1 needs task_id and completion"),
    ],
)
def test_samples_that_do_not_fit_are_one_line(rows: list[dict], said: str, problems: Path, tmp_path: Path) -> None:
    config = HumanEvalConfig(
        samples=lines(tmp_path / "s.jsonl", rows), problems=str(problems), output_dir=tmp_path / "o"
    )
    with pytest.raises(DataError, match=said):
        human_eval(config)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("ignore_incomplete", [False, True])
def test_samples_of_no_problem_within_the_limit_are_told_with_the_remedy(
    ignore_incomplete: bool, problems: Path, tmp_path: Path
) -> None:
    config = HumanEvalConfig(
        samples=lines(tmp_path / "s.jsonl", [{"task_id": "T/1", "completion": ""}]),
        problems=str(problems),
        output_dir=tmp_path / "o",
        limit=1,
        ignore_incomplete=ignore_incomplete,
    )
    with pytest.raises(DataError, match="no sample is of the problems within the limit of 1;") as told:
        human_eval(config)
    assert "raise --limit" in str(told.value)
    assert "--ignore-incomplete" not in str(told.value)


def test_either_a_model_or_samples(problems: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --checkpoint"):
        human_eval(HumanEvalConfig(problems=str(problems), output_dir=tmp_path / "o"))


@pytest.mark.parametrize("name", ["own", "hf"])
def test_a_model_completes_the_problems_and_again_the_same(
    name: str, checkpoint: Path, hf_model: Path, problems: Path, tmp_path: Path
) -> None:
    model = {"own": checkpoint, "hf": hf_model}[name]

    def run(output: str, batch: int) -> evidence.Evidence:
        config = HumanEvalConfig(
            checkpoint=model, problems=str(problems), output_dir=tmp_path / output, n=3, max_tokens=8, temperature=1.0,
            batch=batch, k=(1, 3),
        )  # fmt: skip
        human_eval(config)
        return evidence.read(tmp_path / output)

    first, second = run("a", 4), run("b", 1)
    assert [item["completion"] for item in first.items] == [item["completion"] for item in second.items]
    assert len({item["completion"] for item in first.items}) > 1
    assert first.checkpoint_digest is not None
    assert first.artifact.digest == second.artifact.digest
    if name == "own":
        assert first.results["contamination"]["documents"] > 0
        assert first.results["contamination"]["problems"] == 0


def test_problems_in_the_training_data_are_found(checkpoint: Path, dataset: Path, tmp_path: Path) -> None:
    from ibidem.data.corpus import Corpus

    text = next(text for _, text in Corpus.open(dataset, "text").documents() if text.count("\n") > 20)
    leaked = {**ADD, "prompt": f'def add(a, b):\n    """{text.replace(chr(34), "")}"""\n'}
    config = HumanEvalConfig(
        checkpoint=checkpoint,
        problems=str(lines(tmp_path / "p.jsonl", [leaked, DOUBLE])),
        output_dir=tmp_path / "o",
        max_tokens=4,
    )
    human_eval(config)
    assert set(evidence.read(tmp_path / "o").results["contamination"]["found"]) == {"T/0"}


def test_plus_files_are_judged_by_the_reference_on_all_their_inputs(tmp_path: Path) -> None:
    plus = {**{key: ADD[key] for key in ("task_id", "prompt", "entry_point", "canonical_solution")}}
    plus |= {"base_input": [[1, 2]], "plus_input": [[10**6, 1], [0.1, 0.2], ["a", 1]], "atol": 0}
    path = tmp_path / "plus.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(plus).encode()))
    (problem,) = read_human_eval(str(path))
    with Judge(workers=1) as judge:
        right = judge.judge(problem.program("    return a + b\n"))
        wrong = judge.judge(problem.program("    return a + b if a < 1000 else 0\n"))
        near = judge.judge(problem.program("    return b + a\n"))
        cheat = judge.judge(problem.program("    return a + b - 1\n_reference = add\n"))
    assert (right.passed, wrong.passed, near.passed, cheat.passed) == (True, False, True, False)


def plus(solution: str, inputs: list) -> coding.Problem:
    row = {"task_id": "P/0", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": solution}
    return _human_eval({**row, "base_input": inputs, "plus_input": [], "atol": 0})


@pytest.mark.parametrize(
    ("solution", "inputs", "completion", "passes"),
    [
        ("    return x * 10.0\n", [[1e308], [1.0]], "    return 5.0 if x > 1 else 10.0\n", False),
        ("    return x * 10.0\n", [[1e308], [1.0]], "    return 10 * x\n", True),
        ("    return [x * 10.0]\n", [[1e308]], "    return [-5.0]\n", False),
        ("    return {x: 1}[x]\n", [[[1, 2]]], "    return 1 if type(x) is tuple else 0\n", True),
        ("    return 1.0 / 3\n", [[1]], "    return 0.3333333333\n", True),
        ("    return 1 / 3\n", [[1]], "    return 0.33\n", False),
    ],
)
def test_plus_files_compare_numbers_as_they_should(solution: str, inputs: list, completion: str, passes: bool) -> None:
    with Judge(workers=1) as judge:
        assert judge.judge(plus(solution, inputs).program(completion)).passed is passes


def test_half_characters_in_what_a_program_says_are_kept(problems: Path, tmp_path: Path) -> None:
    rows = [
        {"task_id": "T/0", "completion": "    raise ValueError('\\ud800')\n"},
        {"task_id": "T/1", "completion": "    return '\ud800'\n"},
    ]
    config = HumanEvalConfig(
        samples=lines(tmp_path / "s.jsonl", rows), problems=str(problems), output_dir=tmp_path / "o"
    )
    human_eval(config)
    assert [item["completion"] for item in evidence.read(tmp_path / "o").items] == [row["completion"] for row in rows]


def test_helpers_of_the_reference_that_judge_an_answer_are_the_benchmarks(tmp_path: Path) -> None:
    code = "def same(a, b):\n    return a == b\ndef f(x):\n    return 2 * x\n"
    row = {"task_id": 11, "text": "Double.", "code": code, "test_list": ["assert same(f(2), 4)"]}
    (problem,) = read_mbpp(str(lines(tmp_path / "m.jsonl", [row])), "all")
    with Judge(workers=1) as judge:
        assert judge.judge(problem.program(code)).passed
        lie = "def same(a, b):\n    return True\ndef f(x):\n    return 0\n"
        assert not judge.judge(problem.program(lie)).passed


def test_plus_files_of_the_hub_bring_their_tests(tmp_path: Path) -> None:
    test = (
        "import numpy as np\n\ndef assertion(out, exp, atol):\n    assert np.allclose(out, exp, atol=atol)\n\n"
        "def check(candidate):\n    for inp, exp in zip([[[1.0, 2.0]]], [[2.0, 4.0]]):\n"
        "        assertion(candidate(*inp), exp, 1e-6)\n"
    )
    (problem,) = read_human_eval(str(lines(tmp_path / "p.jsonl", [{**DOUBLE, "test": test}])))
    with Judge(workers=1) as judge:
        assert judge.judge(problem.program(problem.reference)).passed
        assert not judge.judge(problem.program("    return xs\n")).passed


MBPP = [
    {
        "task_id": number,
        "text": "Write a function to add.",
        "code": "class Pair:\n    def __init__(self, a):\n        self.a = a\ndef add(p, n):\n    return p.a + n\n",
        "test_setup_code": "base = Pair(1)",
        "test_list": ["assert add(base, 2) == 3", "assert add(Pair(2), 2) == 4"],
    }
    for number in (2, 3, 4, 11, 600)
]


def test_mbpp_runs_code_then_setup_then_tests(tmp_path: Path) -> None:
    path = lines(tmp_path / "mbpp.jsonl", MBPP)
    samples = lines(tmp_path / "s.jsonl", [{"task_id": 11, "completion": MBPP[0]["code"]}])
    mbpp(MbppConfig(problems=path, samples=samples, output_dir=tmp_path / "o"))
    found = evidence.read(tmp_path / "o")
    assert found.results["pass@1"] == 1
    assert found.results["split"] == "test"
    assert found.results["shots"] == 3


def test_problems_that_are_none_of_the_split_or_have_no_tests_are_one_line(tmp_path: Path) -> None:
    path = lines(tmp_path / "mbpp.jsonl", MBPP[-1:])
    samples = lines(tmp_path / "s.jsonl", [{"task_id": 600, "completion": ""}])
    with pytest.raises(ConfigError, match="no problem is in the split test"):
        mbpp(MbppConfig(problems=path, samples=samples, split="test", output_dir=tmp_path / "o"))
    for tests in ("assert add(1, 2) == 3", []):
        path = lines(tmp_path / "mbpp.jsonl", [{**MBPP[3], "test_list": tests}])
        with pytest.raises(ConfigError, match="test_list is not a list of tests"):
            read_mbpp(str(path), "test")


def test_an_evaluation_of_another_task_is_not_replaced(tmp_path: Path) -> None:
    path = lines(tmp_path / "mbpp.jsonl", MBPP)
    samples = lines(tmp_path / "s.jsonl", [{"task_id": 11, "completion": MBPP[0]["code"]}])
    mbpp(MbppConfig(problems=path, samples=samples, output_dir=tmp_path / "o"))
    other = lines(tmp_path / "h.jsonl", [{"task_id": "HumanEval/0", "completion": ""}])
    with pytest.raises(ConfigError, match="holds an evaluation of mbpp"):
        human_eval(HumanEvalConfig(samples=other, ignore_incomplete=True, output_dir=tmp_path / "o"))


def test_mbpp_prompts_with_the_three_examples_of_the_paper(tmp_path: Path) -> None:
    path = lines(tmp_path / "mbpp.jsonl", MBPP)
    (problem,) = read_mbpp(str(path), "test")
    assert problem.prompt.count("[BEGIN]") == 4
    assert problem.prompt.count("[DONE]") == 3
    assert problem.prompt.endswith("assert add(Pair(2), 2) == 4\n[BEGIN]\n")
    assert len(read_mbpp(str(path), "all")) == 5


def test_what_tests_take_from_a_program_is_the_benchmarks_word() -> None:
    from ibidem.sandbox.problems import _names_taken

    assert _names_taken("assert sum(add(1), 2) == 3", "def add(x): return x", "") == ("add",)
    assert _names_taken("assert sum(1, 2) == 3", "def sum(a, b): return a + b", "") == ("sum",)
    assert _names_taken("import math\nassert math.isclose(f(x), 2)", "def f(n): pass", "x = 1") == ("f", "x")


def test_the_problems_of_mbpp_have_the_known_counts() -> None:
    path = SHARED_DATA / "mbpp" / "mbpp.jsonl"
    if not path.exists():
        pytest.skip("mbpp/mbpp.jsonl is not here")
    assert (len(read_mbpp(str(path), "all")), len(read_mbpp(str(path), "test"))) == (974, 500)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("{}", "row 1 is not a problem"),
        ("[1]", "not a JSON object"),
        ("no", "line 1 is not JSON"),
        ('{"task_id": 1, "prompt": "x x", "entry_point": "f", "test": ""}', "the prompt is not Python"),
    ],
)
def test_problems_that_are_none_are_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises((ConfigError, DataError), match=said):
        read_human_eval(str(tmp_path / "p.jsonl"))


ADD_PLUS = {
    **ADD,
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "base_input": [[1, 2]],
    "plus_input": [[1, 2], [10**6, 1]],
    "atol": 0,
}
RIGHT_ON_BASE = "    return a + b if a < 1000 else 0\n"


@pytest.mark.parametrize(("row", "inputs", "share"), [(ADD, "base", 1.0), (ADD_PLUS, "plus", 0.5)])
def test_plus_inputs_count_also_where_the_row_has_the_test_of_human_eval(
    row: dict, inputs: str, share: float, tmp_path: Path
) -> None:
    rows = [{"task_id": "T/0", "completion": text} for text in ("    return a + b\n", RIGHT_ON_BASE)]
    config = HumanEvalConfig(
        samples=lines(tmp_path / "s.jsonl", rows),
        problems=str(lines(tmp_path / "p.jsonl", [row])),
        output_dir=tmp_path / "o",
    )
    said = human_eval(config)
    results = evidence.read(tmp_path / "o").results
    assert (results["pass@1"], results["inputs"]) == (share, inputs)
    assert said.startswith(f"human-eval ({inputs} inputs): pass@1")


def test_problems_say_which_inputs_they_are_tested_on(tmp_path: Path) -> None:
    written_out = "def assertion(out, exp, atol):\n    assert out == exp\n\n" + ADD["test"]
    of_the_hub = {**MBPP[0], "test": "def assertion(out, exp, atol):\n    pass\nassertion(add(base, 2), 3, 0)\n"}
    assert inputs_of([_human_eval(ADD)]) == "base"
    assert inputs_of([_human_eval({**ADD, "test": written_out})]) == "plus"
    assert inputs_of([_human_eval(ADD), _human_eval(ADD_PLUS)]) == "mixed"
    assert inputs_of(read_mbpp(str(lines(tmp_path / "m.jsonl", MBPP)), "all")) == "base"
    assert inputs_of(read_mbpp(str(lines(tmp_path / "m.jsonl", [of_the_hub])), "all")) == "plus"


def test_a_k_beyond_the_completions_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    asked = HumanEvalConfig(checkpoint=checkpoint, k=(5,), n=3, output_dir=tmp_path / "o")
    with pytest.raises(ConfigError, match="pass@5 needs as many completions of each problem: --n 5"):
        human_eval(asked)
