"""Programming problems whose executed tests are the reward: from a file in MBPP's schema to the share of tests passed.

| column | holds |
|---|---|
| text or prompt | the statement |
| test_list | tests: the last `hidden_tests` are hidden, the others, and at least one, are shown and rewarded |
| challenge_test_list | more hidden tests |
| code | a solution, if there is one |
| test_setup_code, test_imports | what runs before the tests |

    <output_dir>/data/<key>/                       statements and solutions: a dataset like that of any file
    <output_dir>/problems/<key>/problems.jsonl     its problems, with their tests

Tests are no part of a conversation, so they do not stand in the dataset: they are an artifact of their own, made from
the dataset and the file. It has a row for each document that the dataset kept, with the document's hash: license,
scrubbing, contamination and duplicates decide about a problem as about any document, a removal from the dataset removes
its tests when the run is started again, and `takedown` and `trace` find it. It is enough without the file.

Two with the same statement and solution are duplicates, whatever their tests.
A problem is left out, with a reason, if it is one of MBPP's test split or of HumanEval (`ibidem.sandbox.reserved`), if
its tests cannot judge, or if its own solution fails them. Without a solution, it is left out if a function that returns
None passes its visible tests. That is found out once, when the artifact is made.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow.parquet as pq

from ibidem import artifacts, conversation, jsonl, log
from ibidem.artifacts import Input
from ibidem.config import settings
from ibidem.conversation import Conversation, Turn
from ibidem.data import shards
from ibidem.data.scrub.scrubber import Scrubber
from ibidem.data.sources.readers import lines, open_arrow
from ibidem.data.synthetic.programs import request
from ibidem.data.text.clean import code_blocks
from ibidem.errors import ConfigError, DataError, SandboxError
from ibidem.files import sha256_of
from ibidem.jsonl import Row
from ibidem.records import PROBLEMS_FILE
from ibidem.sandbox import reserved
from ibidem.sandbox.config import open_judge
from ibidem.sandbox.judge import may_be_ours
from ibidem.sandbox.problems import Tested, as_tested, reference_of
from ibidem.sandbox.program import Kind, Program, Verdict
from ibidem.training.rlhf.config import FileConfig, JudgeConfig, ProblemFileConfig
from ibidem.training.rlhf.examples import open_dataset

KIND = "problems"
COLUMNS = ("text", "prompt")
"""Columns that may have the statement."""
CHANGES_NO_VERDICT = "workers"
MOST_KNOWN = 1 << 15
"""Number of programs whose outcome is remembered, the newest ones."""
PROBLEMS_AT_ONCE = 64
_TEST_COLUMNS = ("test_list", "challenge_test_list")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_ANY_QUOTE = dict.fromkeys(("'", '"'), "['\"]")
_PYTHON = (None, "python", "python3", "py")
"""Languages of a fenced block that holds a program."""


class LeftOut(StrEnum):
    """Why a problem is not learned from."""

    RESERVED_MBPP = f"reserved for evaluation, {reserved.MBPP}"
    RESERVED_HUMAN_EVAL = f"reserved for evaluation, {reserved.HUMAN_EVAL}"
    NOT_A_LIST = "test_list or challenge_test_list is not a list"
    NO_TESTS = "no tests"
    NOT_PYTHON = "a test or the solution is not Python"
    NOTHING_CALLED = "a test calls nothing"
    UNCLEAR = "a test calls several functions, and no solution says which are asked for"
    PERSONAL = "personal data or a secret in a test"
    DUPLICATE = "the tests of another problem"
    UNRUNNABLE = "a test cannot be run"
    EMPTY = "a function that returns None passes all visible tests"
    WRONG = "its own solution fails a test"


class CodeProblem(NamedTuple):
    """A problem, as a model reads it and as its answers are judged."""

    task_id: str
    prompt: Conversation
    """The user's turn: the statement, and the tests that are rewarded."""
    visible: tuple[Tested, ...]
    """Rewarded; judged one by one."""
    hidden: tuple[Tested, ...]
    """Never shown and never rewarded; only measured."""
    solution: str = ""
    """The file's own; empty if there is none, or if it has personal data or a secret."""


class Outcome(NamedTuple):
    """What became of an answer."""

    visible: float
    """Share of the visible tests that it passes."""
    hidden: float | None
    """Share of the hidden tests that it passes; None if there are none."""


class _Found(NamedTuple):
    """A problem on its way into the artifact."""

    sha256: str
    """Of its document."""
    record: str
    problem: CodeProblem
    solution: str


def open_problems(path: Path, work_dir: Path, config: ProblemFileConfig, judge: JudgeConfig) -> artifacts.Artifact:
    """Load problems, or make them from a file, unless they are there already.

    Its `counts` have what a dataset's have: kept, quarantined, and dropped by reason, from the file on.

    Args:
        path: a file in MBPP's schema, or the folder of an artifact of problems.
        work_dir: folder of the run.
        config: how the file becomes a dataset, and which tests are hidden.
        judge: how solutions are judged.

    Raises:
        ConfigError: it is neither, or no column is known.
        DataError: no problem is left.
        SandboxError: programs cannot be run safely here.
    """
    if path.is_dir():
        if config != ProblemFileConfig():
            raise ConfigError(f"file: {path} is a folder, and these are settings of a file; leave them out")
        return _checked(artifacts.verify(path, kind=KIND))
    if not path.exists():
        raise ConfigError(f"problems {path}: no such file or folder")
    of_file = {field.name: getattr(config, field.name) for field in fields(FileConfig)}
    dataset = open_dataset(path, work_dir, FileConfig(**{**of_file, "reply_trees": "best_path"}), among=COLUMNS)
    chosen = {
        "hidden_tests": config.hidden_tests,
        "judge": {name: value for name, value in settings(judge).items() if name != CHANGES_NO_VERDICT},
        "reserved": sha256_of(reserved.PATH),
    }
    key = sha256(f"{dataset.path.name} {json.dumps(chosen, sort_keys=True)}".encode()).hexdigest()[:16]
    output = work_dir / KIND / key
    inputs = [dataset.as_input("dataset", of=output), Input.of_file("source", path)]
    made = artifacts.finished(output, kind=KIND, config=chosen, inputs=inputs)
    if made is None:
        left_out: Counter[str] = Counter()
        found = list(_judged(list(_unlike(_problems(path, dataset, config, left_out), left_out)), judge, left_out))
        counts = _counts(dataset, len(found), left_out)
        _check_left(path, counts)
        with artifacts.create(output, kind=KIND, config=chosen, inputs=inputs) as draft:
            text = jsonl.dumps(map(_row, found))
            (draft.path / PROBLEMS_FILE).write_text(text, encoding="utf-8", newline="")
            draft.rows[PROBLEMS_FILE] = len(found)
            draft.counts |= counts
        made = artifacts.load(output, kind=KIND)
    return made


def read_problems(problems: artifacts.Artifact) -> list[CodeProblem]:
    """Read the problems of an artifact.

    Raises:
        DigestMismatch: its file is damaged.
    """
    artifacts.check(problems, [PROBLEMS_FILE])
    rows = jsonl.loads((problems.path / PROBLEMS_FILE).read_text(encoding="utf-8"))
    return [
        CodeProblem(
            row["task_id"],
            conversation.from_rows(row["prompt"]),
            tuple(map(_tested, row["visible"])),
            tuple(map(_tested, row["hidden"])),
            row.get("solution", ""),
        )
        for row in rows
    ]


def code_of(answer: str) -> str:
    r"""Return the program in an answer: its first fenced block of Python, or of no language; else all of it.

    >>> code_of("Sure:\n```python\nx = 1\n```\n"), code_of("x = 1")
    ('x = 1\n', 'x = 1')
    """
    blocks = (block for block in code_blocks(answer) if (block[2] and block[2].lower()) in _PYTHON)
    start, end, _ = next(blocks, (0, len(answer), None))
    return answer[start:end]


class Tests:
    """Judges answers test by test; use it as a context manager.

    Each program is judged once, however often it is the answer to a problem.

    Raises:
        SandboxError: programs cannot be run safely here. It is never an outcome.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self._judge = open_judge(config)
        self._known: dict[tuple[CodeProblem, str], Outcome] = {}

    def __enter__(self) -> Self:
        self._judge.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._judge.__exit__(*error)

    def outcomes(self, answers: Sequence[tuple[CodeProblem, str]]) -> list[Outcome]:
        """Return the outcome of each answer.

        Args:
            answers: a problem, and the text that the assistant answered.

        Raises:
            SandboxError: the judge failed, so there is no outcome.
        """
        return self.of_programs([(problem, code_of(answer)) for problem, answer in answers])

    def of_programs(self, programs: Sequence[tuple[CodeProblem, str]]) -> list[Outcome]:
        """Return the outcome of each program.

        Args:
            programs: a problem, and a program for it.

        Raises:
            SandboxError: the judge failed, so there is no outcome.
        """
        new = [each for each in dict.fromkeys(programs) if each not in self._known]
        self._known |= zip(new, self._outcomes(new), strict=True)
        outcomes = [self._known[each] for each in programs]
        for each in list(islice(self._known, max(0, len(self._known) - MOST_KNOWN))):
            del self._known[each]
        return outcomes

    def _outcomes(self, programs: Sequence[tuple[CodeProblem, str]]) -> list[Outcome]:
        """Judge each program with the first test, and with the others if it is Python at all."""
        first = self._verdicts([(problem, problem.visible[0], code) for problem, code in programs])
        others = [
            (number, (problem, test, code))
            for number, (problem, code) in enumerate(programs)
            for test in (*problem.visible[1:], *problem.hidden)
            if first[number].kind is not Kind.SYNTAX
        ]
        passed = [[each.passed] for each in first]
        for (number, _), verdict in zip(others, self._verdicts([asked for _, asked in others]), strict=True):
            passed[number].append(verdict.passed)
        return [_outcome(problem, each) for (problem, _), each in zip(programs, passed, strict=True)]

    def _verdicts(self, asked: Sequence[tuple[CodeProblem, Tested, str]]) -> list[Verdict]:
        """Judge programs with a test each.

        An answer can break tests, by a value that they cannot send or compare. Then it has failed. Whether it is that,
        or the judge, the problem's own solution says, or a function that returns None.

        Raises:
            SandboxError: the test cannot be run with the solution either.
        """
        verdicts = self._twice([test.program(code) for _, test, code in asked])
        for (problem, test, _), verdict in zip(asked, verdicts, strict=True):
            if verdict.kind is Kind.TESTS:
                (other,) = self._judge.verdicts([test.program(problem.solution or _stub(test.names))])
                if other.kind is Kind.TESTS:
                    raise SandboxError(f"{problem.task_id}: the tests cannot be run: {verdict.detail}")
        return verdicts

    def _twice(self, programs: Sequence[Program]) -> list[Verdict]:
        """Judge programs, and those again whose verdict may be a fault of the judge."""
        verdicts = list(self._judge.verdicts(programs))
        doubtful = [number for number, verdict in enumerate(verdicts) if may_be_ours(verdict)]
        for number, verdict in zip(doubtful, self._judge.verdicts(programs[each] for each in doubtful), strict=True):
            verdicts[number] = verdict
        return verdicts

    def unfit(self, problems: Sequence[tuple[CodeProblem, str]]) -> list[LeftOut | None]:
        """Return why each problem cannot be learned from; None if it can.

        Its own solution must pass all tests. Without one, a function that returns None must fail a visible test.

        Args:
            problems: a problem, and its solution; empty if there is none.

        Raises:
            SandboxError: the judge failed.
        """
        asked = [
            (number, test.program(solution or _stub(test.names)))
            for number, (problem, solution) in enumerate(problems)
            for test in (*problem.visible, *problem.hidden)
        ]
        verdicts: list[list[Verdict]] = [[] for _ in problems]
        for (number, _), verdict in zip(asked, self._twice([program for _, program in asked]), strict=True):
            verdicts[number].append(verdict)
            if verdict.kind is Kind.TESTS:
                self._check_health(verdict)
        return [_unfit(problem, solution, each) for (problem, solution), each in zip(problems, verdicts, strict=True)]

    def _check_health(self, seen: Verdict) -> None:
        (verdict,) = self._judge.verdicts([_HEALTHY])
        if not verdict.passed:
            raise SandboxError(f"the tests cannot be run: {seen.detail}")


_HEALTHY = Program(("def answer(x):\n    return 2 * x\n",), "assert answer(21) == 42", ("answer",))
"""A program that passes."""


def _stub(names: Sequence[str]) -> str:
    """Return a program whose functions return None."""
    return "".join(f"def {name}(*arguments, **named):\n    return None\n" for name in names)


def _unfit(problem: CodeProblem, solution: str, verdicts: Sequence[Verdict]) -> LeftOut | None:
    if any(verdict.kind is Kind.TESTS for verdict in verdicts):
        return LeftOut.UNRUNNABLE
    if solution:
        return None if all(verdict.passed for verdict in verdicts) else LeftOut.WRONG
    return LeftOut.EMPTY if all(verdict.passed for verdict in verdicts[: len(problem.visible)]) else None


def _outcome(problem: CodeProblem, passed: Sequence[bool]) -> Outcome:
    """Count passed tests; those that were not judged, because the program is not Python, have failed."""
    count = len(problem.visible)
    hidden = sum(passed[count:]) / len(problem.hidden) if problem.hidden else None
    return Outcome(sum(passed[:count]) / count, hidden)


# ---------------------------------------------------------------- the artifact


def _problems(
    path: Path, dataset: artifacts.Artifact, config: ProblemFileConfig, left_out: Counter[str]
) -> Iterator[_Found]:
    """Yield the problems of the documents that a dataset kept; count those that cannot be judged, or must not be."""
    rows, scrubber = _rows_of(path), Scrubber(config.scrub)
    for shard in shards.shard_paths(dataset.path):
        for document in shards.read_rows(shard, ["sha256", "position", "record", "messages", "text"]):
            row = rows[document["position"]]
            if document["messages"] is not None:
                statement = next(
                    turn.text for turn in conversation.from_rows(document["messages"]) if turn.role == "user"
                )
            else:
                statement = document["text"].strip()
            found = _problem(row, statement, document, config.hidden_tests, scrubber)
            if isinstance(found, LeftOut):
                left_out[found] += 1
            else:
                yield found


def _problem(
    row: Row, statement: str, document: Mapping[str, Any], hidden_tests: int, scrubber: Scrubber
) -> _Found | LeftOut:
    if any(not isinstance(row.get(name), list | None) for name in _TEST_COLUMNS):
        return LeftOut.NOT_A_LIST
    shown, hidden = _split(row, statement, hidden_tests)
    forms = [statement, *(text for name in COLUMNS if isinstance(text := row.get(name), str))]
    sources = [test for name in _TEST_COLUMNS for test in _texts(row, name)]
    benchmark = _benchmark(forms, [*sources, *(text for text in [row.get("test")] if isinstance(text, str))])
    if benchmark is not None:
        return LeftOut.RESERVED_MBPP if benchmark == reserved.MBPP else LeftOut.RESERVED_HUMAN_EVAL
    if not shown:
        return LeftOut.NO_TESTS
    try:
        tests = [as_tested(row, test) for test in (*shown, *hidden)]
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError, AttributeError):
        return LeftOut.NOT_PYTHON
    solution = reference_of(row)
    if not all(test.names for test in tests):
        return LeftOut.NOTHING_CALLED
    if not solution and any(len(test.names) > 1 for test in tests):
        return LeftOut.UNCLEAR
    task_id = str(row["task_id"]) if row.get("task_id") is not None else str(document["record"])
    kept = {task_id, tests[0].setup, *(text for test in tests for text in (test.source, test.preamble))}
    if any(scrubber(text)[1] for text in kept):
        return LeftOut.PERSONAL
    prompt = (Turn.of("user", request(statement, shown)),)
    own = "" if scrubber(solution)[1] else solution
    problem = CodeProblem(task_id, prompt, tuple(tests[: len(shown)]), tuple(tests[len(shown) :]), own)
    return _Found(document["sha256"], document["record"], problem, solution)


def _benchmark(statements: Sequence[str], tests: Sequence[str]) -> str | None:
    """Return the benchmark that a problem is of; None if it is of none."""
    return reserved.reserved().benchmark_of([form for text in statements for form in reserved.of_prompt(text)], tests)


def _checked(made: artifacts.Artifact) -> artifacts.Artifact:
    """Return an artifact of problems that someone else may have made.

    Raises:
        ConfigError: one of its problems is reserved for evaluation, or may be.
    """
    if made.config.get("reserved") != sha256_of(reserved.PATH):
        raise ConfigError(f"problems {made.path}: made with another list of reserved problems; give the file again")
    for problem in read_problems(made):
        shown = "\n".join(turn.text for turn in problem.prompt)
        statement = shown.removesuffix(request("", [test.source for test in problem.visible]))
        tests = [test.source for test in (*problem.visible, *problem.hidden)]
        benchmark, called = _benchmark([shown, statement], tests), f"problem {problem.task_id}"
        if benchmark is not None:
            raise ConfigError(f"problems {made.path}: {called} is reserved for evaluation, {benchmark}")
    return made


def _texts(row: Row, name: str) -> list[str]:
    return [test.strip() for test in row.get(name) or () if isinstance(test, str) and test.strip()]


def _split(row: Row, statement: str, hidden_tests: int) -> tuple[list[str], list[str]]:
    """Return the tests of a row that are shown, and those that are hidden; what the statement says is not hidden."""
    listed, challenges = (_texts(row, name) for name in _TEST_COLUMNS)
    count = max(1, len(listed) - hidden_tests)
    shown = {_key(test): test for test in listed[:count]}
    hidden = {_key(test): test for test in (*listed[count:], *challenges)}
    told = _Told(statement)
    return list(shown.values()), [test for key, test in hidden.items() if key not in shown and key not in told]


class _Told:
    """The tests that a statement contains: as a line, as an example of a session, or inside of a sentence."""

    def __init__(self, statement: str) -> None:
        lines = (line.strip().strip("`") for line in statement.splitlines())
        asserted = [line for line in lines if line.startswith("assert")]
        self._keys = set(map(_key, [*asserted, *reserved.examples_of(statement)]))
        self._statement = statement

    def __contains__(self, key: str) -> bool:
        if key in self._keys:
            return True
        tokens = _TOKEN.findall(key.removeprefix("assert "))
        if sum(map(len, tokens)) > len(self._statement):
            return False
        said = r"\s*".join(_ANY_QUOTE.get(each, re.escape(each)) for each in tokens)
        return re.search(rf"(?<!\w){said}(?!\w|\.\d)", self._statement) is not None


_key = reserved.normal_form


def _unlike(found: Iterator[_Found], left_out: Counter[str]) -> Iterator[_Found]:
    """Leave out a problem with the tests of another one: one of both could be held out, and the other be learned."""
    seen: set[tuple[str, ...]] = set()
    for each in found:
        tests = tuple(sorted(_key(test.source) for test in (*each.problem.visible, *each.problem.hidden)))
        if tests in seen:
            left_out[LeftOut.DUPLICATE] += 1
        else:
            seen.add(tests)
            yield each


def _judged(found: Sequence[_Found], config: JudgeConfig, left_out: Counter[str]) -> Iterator[_Found]:
    """Yield the problems that can be learned from, as the judge finds."""
    if not found:
        return
    with Tests(config) as tests, log.progress("problems.judge", len(found), "problems") as bar:
        for start in range(0, len(found), PROBLEMS_AT_ONCE):
            some = found[start : start + PROBLEMS_AT_ONCE]
            reasons = tests.unfit([(each.problem, each.solution) for each in some])
            for each, reason in zip(some, reasons, strict=True):
                if reason is None:
                    yield each
                else:
                    left_out[reason] += 1
            bar.advance(len(some))


def _counts(dataset: artifacts.Artifact, kept: int, left_out: Mapping[str, int]) -> dict[str, Any]:
    before = dataset.counts
    dropped = {**before["dropped"], **{str(reason): count for reason, count in sorted(left_out.items())}}
    return {"read": before["read"], "kept": kept, "quarantined": before["quarantined"], "dropped": dropped}


def _check_left(path: Path, counts: Mapping[str, Any]) -> None:
    if counts["kept"]:
        return
    reasons = {**counts["dropped"], "not readable": counts["quarantined"]}
    said = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items() if count) or "it is empty"
    raise DataError(f"problems {path}: none of its {counts['read']:,} problems is left to learn from ({said})")


def _row(found: _Found) -> dict[str, Any]:
    problem = found.problem
    return {
        "task_id": problem.task_id,
        "sha256": found.sha256,
        "record": found.record,
        "prompt": conversation.to_rows(problem.prompt),
        "visible": [each._asdict() for each in problem.visible],
        "hidden": [each._asdict() for each in problem.hidden],
        "solution": problem.solution,
    }


def _tested(row: Mapping[str, Any]) -> Tested:
    return Tested(row["source"], row["setup"], tuple(row["names"]), row["preamble"])


def _rows_of(path: Path) -> dict[int, Row]:
    """Return the rows of a file by their positions; those that cannot be read are no documents either."""
    if path.suffix == ".parquet":
        return dict(enumerate(pq.read_table(path).to_pylist()))
    if path.suffix == ".arrow":
        with open_arrow(path) as (_, batches):
            return dict(enumerate(row for batch in batches for row in batch.to_pylist()))
    rows = {}
    for position, line in enumerate(lines(path)):
        try:
            rows[position] = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            continue
    return rows
