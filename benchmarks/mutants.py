"""Mutation test: of 200 small faults in the judge, the gate, the dedup and the removals, how many do the tests notice?

    python benchmarks/mutants.py benchmarks/results/mutants.json

A fixed seed draws the mutants from all that the operators below make of the files in TESTS. Each is put into a copy of
the repository, and the tests that cover its file, which pass without it, run there, the cheapest first, until one
fails; if one step does not end within TIMEOUT_S, the mutant counts as killed. The faults of NAMED come first: each has
to be killed by a test that is no doctest.
Docstrings, annotations, messages of errors, other text, log events and what only changes the speed are not mutated.

What is done already stands in a work file beside the result, one JSON line a mutant, so an interrupted run goes on;
`--again` runs the survivors anew, after tests were added. `--number 10 --only data/dedup.py` is a quick check.
"""

import argparse
import ast
import importlib
import importlib.util
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = "src/ibidem/"
SEED, NUMBER, TIMEOUT_S = 20260101, 200, 240

JUDGE = (
    "tests/sandbox/test_judge.py -k 'not mbpp and not limits'",
    "tests/sandbox/test_adversarial.py -k 'not somebody'",
    "tests/sandbox/test_judge.py -k limits",
)
MBPP = "tests/sandbox/test_judge.py -k mbpp"
REFEREE = ("tests/sandbox/test_referee.py", *JUDGE, MBPP)
VALUES = ("tests/sandbox/test_values.py", *JUDGE, MBPP, "src/ibidem/sandbox/values.py")
GATE = (
    "tests/evaluation/test_gate.py -k 'not spoiled'",
    "tests/evaluation/test_gate.py -k spoiled",
    "src/ibidem/evaluation/gate",
)
DEDUP = ("tests/data/test_dedup.py", "tests/data/test_takedown.py")
REMOVALS = ("tests/data/test_takedown.py", "src/ibidem/data/filters/removals.py")
TAKEDOWN = ("tests/data/test_takedown.py", "tests/data/test_card.py")
TESTS: dict[str, tuple[str, ...]] = {
    **{f"sandbox/{name}.py": JUDGE for name in ("judge", "candidate")},
    "sandbox/referee.py": REFEREE,
    "sandbox/values.py": VALUES,
    **{f"evaluation/{name}.py": GATE for name in ("gate/gate", "gate/tasks", "task")},
    "data/dedup.py": DEDUP,
    "data/filters/removals.py": REMOVALS,
    **{f"data/provenance/{name}.py": TAKEDOWN for name in ("takedown", "plan", "certificate", "exposure")},
}
"""The tests that cover each file, in steps, the cheapest first and doctests last."""
IMPORTED_ONCE = ("numba", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "sentencepiece", "torch", "yaml")
"""What most tests import, and takes its time."""
NOT_MUTATED = {"_SETS_IN_MEMORY", "GROWN_KB", "LONGEST_DETAIL", "LONGEST_MESSAGE"}
"""Figures of speed, and lengths of messages."""
NOT_MUTATED_ARGUMENTS = {"strict", "processes", "bufsize", "check_circular", "indent", "ensure_ascii", "timeout"}
"""What changes the speed or the layout, or asserts what cannot be otherwise."""


class Mutant(NamedTuple):
    """A fault: in a file, bytes `start` to `end` become `after`."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str

    @property
    def key(self) -> str:
        return f"{self.file}:{self.line}:{self.start}: {self.before} -> {self.after}"


class Named(NamedTuple):
    """A fault that somebody thought of."""

    name: str
    file: str
    before: str
    after: str
    tests: str


NAMED = (
    Named(
        "weight decay on norms too",
        "training/optim.py",
        '"weight_decay": 0.0}',
        '"weight_decay": config.weight_decay}',
        "tests/training/test_parts.py -k decay",
    ),
    Named(
        "the mask of documents is ignored",
        "modeling/attention.py",
        "    if documents is None:\n",
        "    documents = None\n    if documents is None:\n",
        "tests/modeling",
    ),
    Named(
        "90 % for the exact bound",
        "statistics.py",
        "def lower_bound(passed: int, n: int, confidence: float = CONFIDENCE)",
        "def lower_bound(passed: int, n: int, confidence: float = 0.9)",
        "tests/test_statistics.py",
    ),
    Named(
        "90 % for the bootstrap",
        "statistics.py",
        "resamples: int = 10_000, confidence: float = CONFIDENCE",
        "resamples: int = 10_000, confidence: float = 0.9",
        "tests/test_statistics.py",
    ),
    Named(
        "every citation is needed",
        "evaluation/doc_qa.py",
        "        is_supported and (supports([key]) or not supports([other for other in known if other != key]))"
        " for key in known\n",
        "        True for key in known\n",
        "tests/evaluation/test_doc_qa.py",
    ),
    Named(
        "one pass of the scrubber",
        "data/scrub/scrubber.py",
        "            finds = self._find(data)\n        return",
        "            finds = []\n        return",
        "tests/data/test_scrub.py",
    ),
    Named(
        "overlapping windows count twice",
        "evaluation/perplexity.py",
        "        yield start, end, counted\n",
        "        yield start, end, start + 1\n",
        "tests/evaluation/test_perplexity.py -k scored",
    ),
    Named(
        "no fill-in-the-middle",
        "training/tokens.py",
        "if len(body) < 3 or rng.random() >= rate:",
        "if True:",
        "tests/training/test_parts.py -k middle",
    ),
    Named(
        "attributes of a page are not escaped",
        "page.py",
        """f' {key}="{show(value)}"'""",
        """f' {key}="{value}"'""",
        "tests/serving/test_report.py",
    ),
    Named(
        "no text is tidy",
        "data/text/clean.py",
        '    return text.endswith(b"\\n") and b" " < text[-2:-1] < b"\\x7f"',
        "    return False",
        "tests/data/test_clean.py tests/data/test_preprocess.py",
    ),
    Named(
        "top_p is ignored",
        "modeling/generate.py",
        "    if top_p < 1:\n",
        "    if False:\n",
        "tests/modeling",
    ),
    Named(
        "SimHash proposes nothing",
        "data/dedup.py",
        "(len(shingles.SIMHASH_MASKS) if simhash else 0)",
        "0",
        "tests/data/test_dedup.py",
    ),
    Named(
        "a broken pipe exits with 2",
        "cli.py",
        "        _discard_output()\n        return 0",
        "        _discard_output()\n        return 2",
        "tests/test_cli.py",
    ),
)


def main() -> None:
    """Run what is not done yet, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--number", type=int, default=NUMBER, help="mutants to draw")
    parser.add_argument("--only", default="", help="draw from the files whose path ends so; no named mutants")
    parser.add_argument("--again", action="store_true", help="run the survivors of the work file anew")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was begun is ended and the copy deleted
    work = Work(options.result.with_suffix(".jsonl"), forget_survivors=options.again)
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        named = [] if options.only else [(each.name, located(each), (each.tests,)) for each in NAMED]
        drawn = [(each.key, each, TESTS[each.file]) for each in draw(options.number, options.only)]
        print(f"{len(named)} named, {len(drawn)} drawn", flush=True)
        for step in dict.fromkeys(step for *_, tests in (*named, *drawn) for step in tests):
            work.check(step, copy)
        for key, mutant, tests in (*named, *drawn):
            if key not in work.done:
                work.add(key, judged(mutant, tests, copy))
    options.result.write_text(json.dumps(result_of(named, drawn, work.done), indent=1, ensure_ascii=False) + "\n")


def draw(number: int, only: str) -> list[Mutant]:
    """Draw mutants of all files, or of those whose path ends with `only`."""
    files = [file for file in TESTS if file.endswith(only)]
    mutants = [mutant for file in files for mutant in mutants_of(file, (REPOSITORY / SOURCE / file).read_bytes())]
    chosen = random.Random(SEED).sample(mutants, min(number, len(mutants)))
    return sorted(chosen, key=lambda mutant: (files.index(mutant.file), mutant.start, mutant.after))


def located(named: Named) -> Mutant:
    """Find the one place of a named mutant."""
    source = (REPOSITORY / SOURCE / named.file).read_bytes()
    before = named.before.encode()
    assert source.count(before) == 1, named
    start = source.index(before)
    return Mutant(named.file, source.count(b"\n", 0, start) + 1, start, start + len(before), named.before, named.after)


# Operators: what may become of a node, as source text.

OPPOSITES: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Give every mutant of a file, in the order of the syntax tree."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in mutable(ast.parse(source)):
        for place, after in replacements(node):
            start, end = (
                starts[place.lineno - 1] + place.col_offset,
                starts[place.end_lineno - 1] + place.end_col_offset,
            )
            yield Mutant(file, place.lineno, start, end, source[start:end].decode(), after)


def mutable(node: ast.AST) -> Iterator[ast.AST]:
    """Walk through what is mutated, and around what is not."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "pattern"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not is_left_alone(child):
                yield child
                yield from mutable(child)


def is_left_alone(node: ast.AST) -> bool:
    """Tell whether a node is text, a type, an assertion or a figure of speed, or only writes a log."""
    match node:
        case ast.JoinedStr() | ast.Assert() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Subscript(value=ast.Name(id="Callable")):
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in NOT_MUTATED
        case ast.keyword(arg=name):
            return name in NOT_MUTATED_ARGUMENTS
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "bar")))):
            return True
        case ast.withitem(context_expr=ast.Call(func=ast.Attribute(value=ast.Name(id="log")))):
            return True
    return False


def replacements(node: Any) -> Iterator[tuple[Any, str]]:
    """Give what may become of a node, or of a part of it, as source text."""
    match node:
        case ast.Constant(value=bool()):
            yield node, repr(not node.value)
        case ast.Constant(value=int() | float()):
            yield node, repr(node.value + 1)
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                ops = [*node.ops[:place], OPPOSITES[type(operator)](), *node.ops[place + 1 :]]
                yield node, f"({ast.unparse(ast.Compare(node.left, ops, node.comparators))})"
        case ast.BoolOp():
            yield node, f"({ast.unparse(ast.BoolOp(OPPOSITES[type(node.op)](), node.values))})"
        case ast.BinOp() if type(node.op) in OPPOSITES and not (is_no_number(node.left) or is_no_number(node.right)):
            yield node, f"({ast.unparse(ast.BinOp(node.left, OPPOSITES[type(node.op)](), node.right))})"
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node, f"({ast.unparse(node.operand)})"
        case _:
            yield from other_replacements(node)


def is_no_number(node: ast.AST) -> bool:
    """Tell whether an operand is a text, a list, a type or a file: another operator would only raise TypeError."""
    match node:
        case (
            ast.Constant(value=str() | None)
            | ast.JoinedStr()
            | ast.List()
            | ast.ListComp()
            | ast.Dict()
            | ast.DictComp()
        ):
            return True
        case ast.Attribute(value=ast.Name(id="numpy" | "shards")):
            return True
        case ast.Name(id="int" | "float" | "str" | "list" | "name") | ast.Attribute(attr="name" | "path"):
            return True
        case ast.BinOp():
            return is_no_number(node.left) or is_no_number(node.right)
    return False


def other_replacements(node: Any) -> Iterator[tuple[Any, str]]:
    """Give what may become of a condition or a statement."""
    match node:
        case ast.If() | ast.While() | ast.IfExp():
            yield from negated(node.test)
        case ast.comprehension():
            for condition in node.ifs:
                yield from negated(condition)
        case ast.stmt():
            yield from without(node)


def negated(condition: Any) -> Iterator[tuple[Any, str]]:
    """Negate a condition, unless a mutant of its operator does so."""
    match condition:
        case ast.UnaryOp(op=ast.Not()):
            return
        case ast.Compare(ops=[ast.Eq() | ast.NotEq() | ast.Is() | ast.IsNot() | ast.In() | ast.NotIn()]):
            return
    yield condition, f"(not {ast.unparse(condition)})" if is_atom(condition) else f"(not ({ast.unparse(condition)}))"


def is_atom(node: ast.AST) -> bool:
    return isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript | ast.NamedExpr)


def without(statement: Any) -> Iterator[tuple[Any, str]]:
    """Leave out a statement, or the value that it returns."""
    match statement:
        case ast.Return(value=None | ast.Constant(value=None)):
            return
        case ast.Return():
            yield statement, "return None"
        case ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break() | ast.Delete():
            yield statement, "pass"
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            yield statement, "pass"
        case ast.Expr(value=ast.YieldFrom()):
            yield statement, "yield from ()"


# Running.


def copied(folder: Path) -> Path:
    """Copy the repository, and link to the data beside it that tests read."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    copy = folder / "repository"
    for name in listed.stdout.decode().rstrip("\0").split("\0"):
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, copy / name)
    if (data := REPOSITORY.parent / "shared").exists():
        (folder / "shared").symlink_to(data)
    folder.chmod(0o755)  # a test becomes a user without rights
    return copy


def judged(mutant: Mutant, tests: Sequence[str], copy: Path) -> dict[str, Any]:
    """Run the tests of a mutant until one fails, and tell what killed it, if anything did."""
    path = copy / SOURCE / mutant.file
    source, started, killer = path.read_bytes(), time.monotonic(), None
    try:
        put(path, source[: mutant.start] + mutant.after.encode() + source[mutant.end :])
        for step in tests:
            killer = killer_of(step, copy)
            if killer:
                break
    finally:
        put(path, source)
    return {
        "file": mutant.file,
        "line": mutant.line,
        "before": mutant.before,
        "after": mutant.after,
        "killed_by": killer,
        "s": round(time.monotonic() - started, 1),
    }


def put(path: Path, source: bytes) -> None:
    path.write_bytes(source)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)  # it goes by seconds


def killer_of(tests: str, copy: Path) -> str | None:
    """Give the first test that fails, or what else showed the fault."""
    with tempfile.TemporaryFile("w+") as told:
        process = multiprocessing.get_context("fork").Process(target=run_pytest, args=(tests, copy, told.fileno()))
        process.start()
        try:
            process.join(TIMEOUT_S)
            if process.exitcode is None:
                return "time limit"
        finally:
            if process.is_alive():
                os.killpg(process.pid, signal.SIGKILL)
                process.join()
        told.seek(0)
        found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", told.read(), re.MULTILINE)
    if process.exitcode == 0:
        return None
    return found[1] if found else f"pytest ended with code {process.exitcode}"


def run_pytest(tests: str, copy: Path, told: int) -> None:
    """Become a pytest in the copy. What is imported here already need not be imported for every mutant."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "src")
    sys.path[:0] = [str(copy / "src"), str(copy)]
    for descriptor in (1, 2):
        os.dup2(told, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0)  # noqa: SIM115 - to the end of the process
    options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-rfE"]
    code = pytest.main([*options, *shlex.split(tests)])
    sys.stdout.flush()
    os._exit(code)


class Work:
    """The work file: what is done, one JSON line a mutant."""

    def __init__(self, path: Path, *, forget_survivors: bool) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.done: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}
        if forget_survivors:
            self.done = {key: row for key, row in self.done.items() if row["killed_by"]}

    def check(self, step: str, copy: Path) -> None:
        """See that tests pass without a mutant; once for each work file."""
        key = f"no mutant: {step}"
        if key not in self.done:
            started = time.monotonic()
            if killer := killer_of(step, copy):
                raise SystemExit(f"{killer} fails without a mutant")
            self.add(key, {"killed_by": "no mutant", "s": round(time.monotonic() - started, 1)})

    def add(self, key: str, row: dict[str, Any]) -> None:
        self.done[key] = {"key": key, **row}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.done[key], ensure_ascii=False) + "\n")
        print(f"{row['s']:6.1f} s  {row['killed_by'] or 'SURVIVED'}  {key}", flush=True)


Planned = Sequence[tuple[str, Mutant, Sequence[str]]]


def result_of(named: Planned, drawn: Planned, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Sum up by file, and list what survived."""
    rows = [done[key] for key, *_ in drawn]
    killed, survived = (
        Counter(row["file"] for row in rows if bool(row["killed_by"]) is is_killed) for is_killed in (True, False)
    )
    places = ("file", "line", "before", "after")
    return {
        "command": f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}",
        "seed": SEED,
        "mutants": len(rows),
        "killed": sum(killed.values()),
        "share_killed": round(sum(killed.values()) / max(1, len(rows)), 3),
        "files": {
            file: {"killed": killed[file], "survived": survived[file]}
            for file in TESTS
            if killed[file] + survived[file]
        },
        "survivors": [{place: row[place] for place in places} for row in rows if not row["killed_by"]],
        "named": [{"name": key, "file": done[key]["file"], "killed_by": done[key]["killed_by"]} for key, *_ in named],
    }


if __name__ == "__main__":
    main()
