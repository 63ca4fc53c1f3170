"""Programming problems of HumanEval, HumanEval+, MBPP and MBPP+, from files in their own schemas, and their tests.

| file | columns |
|---|---|
| HumanEval, HumanEval+ of the Hub | task_id, prompt, entry_point, canonical_solution, test |
| HumanEval+, MBPP+ of EvalPlus | task_id, prompt, entry_point, canonical_solution, base_input, plus_input, atol |
| MBPP | task_id, text, code, test_setup_code, test_list |
| MBPP sanitized, MBPP+ of the Hub | task_id, prompt, code, test_imports, test_list, (test) |

A `test` beside `plus_input` is that of HumanEval: the answers for all inputs are compared instead.

Sources: Chen et al. 2021, arXiv:2107.03374; Austin et al. 2021, arXiv:2108.07732; Liu et al. 2023, arXiv:2305.01210.
"""

import ast
import builtins
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ibidem import jsonl
from ibidem.data.filters.benchmarks import HUMAN_EVAL, benchmark_files
from ibidem.errors import ConfigError, DataError
from ibidem.jsonl import Row
from ibidem.sandbox.program import Program

HUMAN_EVAL_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Source: Codex, section 2.1."""
MBPP_STOP = ("[DONE]",)
BASE, PLUS, MIXED = "base", "plus", "mixed"
_OF_EVALPLUS = re.compile(r"^def (assertion|_poly)\(", re.MULTILINE)
"""What the tests define in which EvalPlus has written out its inputs, as on the Hub."""
MBPP_SHOTS = (2, 3, 4)
MBPP_TEST = range(11, 511)
"""Source: Austin et al., section 2.1: 2-4 are few-shot examples, 11-510 the test."""

# Answers of these functions are compared in a special way, as EvalPlus does.
_ANY_BUT_NONE = {"check_str", "text_match_three", "text_starta_endb"}
_AS_SETS = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum", "intersection_array",
    "find_dissimilar", "Diff",
}  # fmt: skip
_SECOND_READING = {"digit_distance_nums", "surface_Area"}
_FORMS = {
    "tuples": "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
    "lists of tuples": "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
    "tuples of tuples": "259 401 445",
    "tuple of mixed": "278",
    "all tuples": "580 615 791",
    "first a list of tuples": "75 413 444 753",
    "first a tuple": "250 307 405 446 617 720 763 808",
    "second a tuple": "106 750",
    "first a dictionary of tuples": "722",
    "list of sets": "115",
    "float and complex": "124",
    "complex": "252",
}
"""What the inputs of MBPP+ are that JSON cannot write, by the numbers of the problems."""
_PLUS_TESTS = """
import copy, json, math
def _floats(x):
    return isinstance(x, float) or (isinstance(x, (list, tuple)) and bool(x) and all(isinstance(i, float) for i in x))
def _close(x, y, atol):
    if isinstance(y, (list, tuple)):
        return type(x) is type(y) and len(x) == len(y) and all(_close(i, j, atol) for i, j in zip(x, y))
    return x == y or (math.isfinite(x) and math.isfinite(y) and abs(x - y) <= atol + 1e-7 * abs(y))
def _told(x):
    return x if isinstance(x, bool) else x is not None
def _same(x, y, atol):
    if HOW == "any but none":
        return _told(x) == _told(y)
    if HOW == "as sets":
        return set(x) == set(y)
    return x == y or bool(atol or _floats(y)) and _close(x, y, atol or 1e-6)
_ALSO_RIGHT = {
    "digit_distance_nums": lambda a, b: sum(
        abs(int(x) - int(y)) for x, y in zip(*(str(n).zfill(max(len(str(a)), len(str(b)))) for n in (a, b)))
    ),
    "surface_Area": lambda edge, height: round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2)),
}
def _also(x, arguments):
    return HOW in _ALSO_RIGHT and x == _ALSO_RIGHT[HOW](*arguments)
def _tuples(x):
    return tuple(map(_tuples, x)) if isinstance(x, list) else x
_READ_AS = {
    "": lambda given: given,
    "tuples": lambda given: [tuple(a) for a in given],
    "lists of tuples": lambda given: [[tuple(i) for i in a] for a in given],
    "tuples of tuples": lambda given: [tuple(tuple(i) for i in a) for a in given],
    "tuple of mixed": lambda given: [tuple(tuple(i) if isinstance(i, list) else i for i in given[0])],
    "all tuples": lambda given: [_tuples(a) for a in given],
    "first a list of tuples": lambda given: [[tuple(i) for i in given[0]], *given[1:]],
    "first a tuple": lambda given: [tuple(given[0]), *given[1:]],
    "second a tuple": lambda given: [given[0], tuple(given[1])],
    "first a dictionary of tuples": lambda given: [{k: tuple(v) for k, v in given[0].items()}, *given[1:]],
    "list of sets": lambda given: [[set(i) if isinstance(i, list) and i else {} for i in given[0]]],
    "float and complex": lambda given: [float(given[0]), complex(given[1])],
    "complex": lambda given: [complex(given[0])],
}
def _forms(given):
    arguments = _READ_AS[FORM](given)
    yield arguments
    yield [[_tuples(i) for i in a] if isinstance(a, list) else a for a in arguments]
    yield [_tuples(a) for a in arguments]
for _given in json.loads(INPUTS):  # JSON has no tuples: the first form that the reference takes is meant
    for _arguments in _forms(_given):
        try:
            _expected = _reference(*copy.deepcopy(_arguments))
            break
        except Exception:
            pass
    else:
        continue  # outside of what the problem asks
    _answer = candidate(*copy.deepcopy(_arguments))
    if HOW == "root":
        assert abs(poly(*_arguments, _answer)) <= ATOL
    else:
        _right = _same(_answer, _expected, ATOL) or _also(_answer, _arguments)
        assert _right, "the answer for one of the inputs differs from the reference's"
"""


@dataclass(frozen=True)
class Problem:
    """One problem: what a model reads, and how its answer is judged."""

    task_id: str
    statement: str
    """The problem as the benchmark states it, without few-shot examples."""
    prompt: str
    """The text that the model continues."""
    lead: str
    """The text before a completion in the program: HumanEval's prompt; empty for MBPP."""
    reference: str
    """The benchmark's own solution as a completion; empty if the file has none."""
    setup: str
    tests: str
    names: tuple[str, ...]
    preamble: str
    stop: tuple[str, ...]
    inputs: str
    """`base`: the benchmark's own tests; `plus`: EvalPlus's additional inputs too."""

    def program(self, completion: str) -> Program:
        """Return the program that the judge runs for a completion."""
        sources = (self.lead + completion, *([self.setup] if self.setup else []))
        return Program(sources, self.tests, self.names, self.preamble)


class Tested(NamedTuple):
    """Tests, and what they need to judge a program."""

    source: str
    """The tests."""
    setup: str
    """Run in the program's jail, after it."""
    names: tuple[str, ...]
    """What they take from the program."""
    preamble: str
    """Run before them, in their own jail."""

    def program(self, code: str) -> Program:
        """Return what the judge runs for a program."""
        return Program((code, *([self.setup] if self.setup else [])), self.source, self.names, self.preamble)


def human_eval(source: str, rows: Sequence[Row] | None = None) -> list[Problem]:
    """Read HumanEval or HumanEval+: `human-eval` for the installed package's problems, or a file.

    Args:
        source: where the problems are.
        rows: its rows, if they are read already.

    Raises:
        ConfigError: there are no problems, or a row is not a problem.
        DataError: the file cannot be read.
    """
    return _parsed(source, _human_eval, read_rows(source) if rows is None else rows)


def mbpp(source: str, split: str, rows: Sequence[Row] | None = None) -> list[Problem]:
    """Read MBPP or MBPP+; the split `test` is the problems 11 to 510, `unseen` all but the examples of the prompt.

    Args:
        source: where the problems are.
        split: which of them are returned.
        rows: its rows, if they are read already.

    Raises:
        ConfigError: there are no problems, or a row is not a problem.
        DataError: the file cannot be read.
    """
    rows = read_rows(source) if rows is None else rows
    shots = {_number(row): row for row in rows if _number(row) in MBPP_SHOTS}
    try:
        lead = "".join(_mbpp_prompt(row) + reference_of(row) + "\n[DONE]\n\n" for _, row in sorted(shots.items()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"problems {source}: the examples 2 to 4 are not problems: {error!r}") from None
    problems = _parsed(source, lambda row: _mbpp(row, lead), rows)
    if split == "unseen":
        return [each for each in problems if _number_of(each.task_id) not in MBPP_SHOTS]
    return problems if split == "all" else [each for each in problems if number_in_test(each.task_id)]


def number_in_test(task_id: str) -> bool:
    """Return whether an MBPP problem is in the test split."""
    return _number_of(task_id) in MBPP_TEST


def _parsed(source: str, parse: Any, rows: Sequence[Row]) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for number, row in enumerate(rows, 1):
        try:
            problem = parse(row)
        except (KeyError, TypeError, ValueError, AttributeError, SyntaxError) as error:
            raise ConfigError(
                f"problems {source}: row {number} is not a problem: {type(error).__name__} {error}"
            ) from None
        if problem.task_id in problems:
            raise ConfigError(f"problems {source}: {problem.task_id} appears twice")
        problems[problem.task_id] = problem
    return list(problems.values())


def _human_eval(row: Row) -> Problem:
    prompt, name, solution = row["prompt"], row["entry_point"], row.get("canonical_solution") or ""
    plus = "plus_input" in row or "test" not in row
    tests = _plus_tests(row) if plus else f"{row['test']}\ncheck({name})\n"
    helpers = _helpers(prompt, solution)
    preamble = f"{helpers}\n_reference = {name}\n" if plus else helpers if _uses(tests, helpers, but=name) else ""
    names = ("candidate",) if plus else (name,)
    return Problem(
        task_id=str(row["task_id"]),
        statement=prompt,
        prompt=prompt,
        lead=prompt,
        reference=solution,
        setup=f"candidate = {name}" if plus else "",
        tests=tests,
        names=names,
        preamble=preamble,
        stop=HUMAN_EVAL_STOP,
        inputs=_inputs_of(row),
    )


def _helpers(prompt: str, solution: str) -> str:
    """Return the prompt as a module, with the helpers that it defines: tests may call them, and trust them."""
    for completion in (solution, "    pass\n", ""):
        try:
            _tree(prompt + completion)
        except SyntaxError:
            continue
        return prompt + completion
    raise ValueError("the prompt is not Python")


def _uses(tests: str, helpers: str, *, but: str) -> bool:
    """Return whether tests name anything that the prompt defines or imports, besides the requested function."""
    tree = _tree(helpers)
    return bool(
        ({node.id for node in ast.walk(_tree(tests)) if isinstance(node, ast.Name)} - {but})
        & (_defined(tree) | _imported(tree))
    )


def _inputs_of(row: Row) -> str:
    return PLUS if "plus_input" in row or _OF_EVALPLUS.search(row.get("test") or "") else BASE


def _plus_tests(row: Row) -> str:
    name = row["entry_point"]
    how = "any but none" if name in _ANY_BUT_NONE else "as sets" if name in _AS_SETS else ""
    how = "root" if name == "find_zero" else name if name in _SECOND_READING else how
    inputs = json.dumps([*row["base_input"], *(row.get("plus_input") or [])])
    atol, form = float(row.get("atol") or 0), _form_of(row)
    return f"HOW, ATOL, FORM = {how!r}, {atol!r}, {form!r}\nINPUTS = {inputs!r}\n{_PLUS_TESTS}"


def _form_of(row: Row) -> str:
    """Return how EvalPlus reads the inputs of a problem of MBPP+; empty if they are as JSON has them."""
    name, _, number = str(row["task_id"]).rpartition("/")
    return next((form for form, numbers in _FORMS.items() if name == "Mbpp" and number in numbers.split()), "")


def _mbpp(row: Row, shots: str) -> Problem:
    code = reference_of(row)
    if "base_input" in row:
        imports, name = "\n".join(row.get("test_imports") or []), row["entry_point"]
        setup, preamble = f"{imports}\ncandidate = {name}".strip(), f"{code}\n_reference = {name}\n"
        judged = Tested(_plus_tests(row), setup, ("candidate",), preamble)
    else:
        if not row.get("test") and not (isinstance(row["test_list"], list) and row["test_list"]):
            raise ValueError("test_list is not a list of tests")
        judged = as_tested(row, row["test"] if row.get("test") else "\n".join(row["test_list"]))
    return Problem(
        task_id=str(row["task_id"]),
        statement=row.get("text") or row["prompt"],
        prompt=shots + _mbpp_prompt(row),
        lead="",
        reference=code,
        setup=judged.setup,
        tests=judged.source,
        names=judged.names,
        preamble=judged.preamble,
        stop=MBPP_STOP,
        inputs=_inputs_of(row),
    )


def as_tested(row: Row, tests: str) -> Tested:
    """Return tests of an MBPP problem, as they are judged; one of its tests alone, or all of them.

    Raises:
        SyntaxError: they, or the reference, are not Python.
    """
    code = reference_of(row)
    setup = row.get("test_setup_code") or ""
    imports = "\n".join(row.get("test_imports") or [])
    names = _names_taken(tests, code, f"{imports}\n{setup}")
    lines = [imports, _imports_of(setup, tests), _imports_of(code, tests)]
    if helpers := _helpers_called(tests, code, names):
        names, lines = tuple(name for name in names if name not in helpers), [code, *lines]
    return Tested(tests, f"{imports}\n{setup}".strip(), names, "\n".join(filter(None, lines)))


def _mbpp_prompt(row: Row) -> str:
    """Return a problem in the paper's format (section 3.1); in an example the reference and [DONE] follow."""
    tests = "\n".join(row.get("test_list") or [str(row.get("assertion", ""))]).strip()
    text = row.get("text") or row["prompt"]
    ask = f"You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:"
    return f"{ask}\n\n{tests}\n[BEGIN]\n"


def reference_of(row: Row) -> str:
    """Return the solution of a problem; empty if it has none."""
    return (row.get("code") or row.get("canonical_solution") or "").replace("\r\n", "\n")


def _names_taken(tests: str, code: str, setup: str) -> tuple[str, ...]:
    r"""Return the names that the tests take from a program; only the benchmark decides them, not the program.

    >>> _names_taken("assert sum(add(1), 2) == 3", "def add(x): return x", "")
    ('add',)
    >>> _names_taken("from math import isclose\nassert isclose(add(1), 2)", "", "")
    ('add',)
    """
    tree = _tree(tests)
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    own = _defined(tree)
    stated = _defined(_tree(code)) | _defined(_tree(setup))
    offered = stated if code else loaded - set(dir(builtins)) - _imported(_tree(setup)) - _imported(tree) - _local(tree)
    return tuple(sorted((loaded & offered) - own))


def _tree(source: str) -> ast.Module:
    """Parse a benchmark's code without warnings about deprecated escapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(source)


def _helpers_called(tests: str, code: str, names: Sequence[str]) -> set[str]:
    """Return the reference's functions that tests pass answers to: they judge, so the benchmark's own are used."""
    functions = {node.name for node in _tree(code).body if isinstance(node, ast.FunctionDef)} & set(names)

    def called(node: ast.AST) -> set[str]:
        calls = (each for each in ast.walk(node) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name))
        return {each.func.id for each in calls if isinstance(each.func, ast.Name)} & functions

    calls = [each for each in ast.walk(_tree(tests)) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)]
    consuming = (each for each in calls if any(called(argument) for argument in each.args))
    return {each.func.id for each in consuming if isinstance(each.func, ast.Name)} & functions


def _imported(tree: ast.Module) -> set[str]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return {(name.asname or name.name).partition(".")[0] for node in nodes for name in node.names}


def _defined(tree: ast.AST) -> set[str]:
    """Return the names that a module binds, also under `if`, `for` and `try`, but not inside functions and classes."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            names |= _defined(node)
    return names


def _local(tree: ast.Module) -> set[str]:
    """Return the names that tests bind anywhere: parameters, variables of functions, caught exceptions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def _imports_of(source: str, tests: str) -> str:
    """Return the import lines of a trusted source whose names the tests use."""
    used = {node.id for node in ast.walk(_tree(tests)) if isinstance(node, ast.Name)}
    imports = [node for node in _tree(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    bound = {node: {(name.asname or name.name).partition(".")[0] for name in node.names} for node in imports}
    return "\n".join(ast.unparse(node) for node, names in bound.items() if names & (used | {"*"}))


def _number(row: Row) -> int:
    return _number_of(str(row.get("task_id")))


def _number_of(task_id: str) -> int:
    """Read the number in `Mbpp/11` or `11`."""
    word = task_id.rpartition("/")[2]
    return int(word) if word.isdecimal() else -1


def _rows_of(source: str) -> Iterator[Row]:
    for path in benchmark_files(source) if source == HUMAN_EVAL else [Path(source)]:
        yield from _rows(path)


def _rows(path: Path) -> Sequence[Row]:
    """Read JSON lines, or one JSON array of objects."""
    text = jsonl.read_text(path, "problems")
    if not text.lstrip().startswith("["):
        return jsonl.read(path, "problems", allow_nan=True)
    try:
        rows: list[Row] = json.loads(text)
    except ValueError as error:
        raise DataError(f"problems {path}: cannot be read: {' '.join(str(error).split())[:160]}") from None
    if wrong := next((row for row in rows if not isinstance(row, dict)), None):
        raise DataError(f"problems {path}: {str(wrong)[:40]!r} is not a JSON object")
    return rows


def read_rows(source: str) -> list[Row]:
    """Read the rows of a benchmark as its files have them: `human-eval`, or a file.

    Raises:
        ConfigError: there are none.
        DataError: the file cannot be read.
    """
    rows = list(_rows_of(source))
    if not rows:
        raise ConfigError(f"problems {source}: there are no problems in it")
    return rows


def inputs_of(problems: Sequence[Problem]) -> str:
    """Return whether problems are tested on `base` inputs, on `plus` inputs too, or `mixed`: some of them on each."""
    found = {problem.inputs for problem in problems}
    return found.pop() if len(found) == 1 else MIXED


def by_id(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Return problems by their task ids."""
    return {problem.task_id: problem for problem in problems}
