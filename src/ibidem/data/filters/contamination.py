"""Keep evaluation problems out of the training data.

    quoted      a document contains half of the 10-word runs of a problem's statement or solution
    rewritten   a short document as a whole resembles a problem: Jaccard similarity of the 5-word shingles of 0.5

Runs that several problems share ("write a function to", license texts) are no evidence and do not count.
Sources: Brown et al. 2020, arXiv:2005.14165, appendix C (13-grams); Li et al. 2023, arXiv:2305.06161, section 3 (files
that contain a docstring or a solution of HumanEval or MBPP are removed); Touvron et al. 2023, arXiv:2307.09288,
appendix A.6 (share of a sample's tokens in runs of 10).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from ibidem import jsonl
from ibidem.artifacts import Input
from ibidem.config import configuration
from ibidem.data.filters.benchmarks import HUMAN_EVAL, benchmark_files
from ibidem.errors import ConfigError
from ibidem.records import Drop, DropReason

STATEMENT_COLUMNS = ("prompt", "text", "question")
SOLUTION_COLUMNS = ("canonical_solution", "code", "solution", "answer")
TURNS_COLUMN = "turns"
ID_COLUMNS = ("task_id", "id", "name")
MOST_SHARING = 2  # a run shared by more problems is boilerplate
LEAST_RUNS = 3

Hashes = NDArray[np.uint64]
Share = Annotated[float, Field(gt=0, le=1)]


@configuration
class ContaminationPolicy:
    """Which evaluation problems must not occur in the data."""

    benchmarks: tuple[str, ...] = ()
    """human-eval for the problems of the installed human_eval package; prompts for the shipped support and red-team
    prompts; or the path of a JSON-lines or Parquet file, or of a folder of them, with problems in columns prompt, text,
    question, canonical_solution, code, solution, or turns of a user in a list."""
    run_words: Annotated[int, Field(ge=5)] = 10
    """Words of a run (Llama 2: 10; GPT-3: 13)."""
    quoted: Share = 0.5
    """Share of the runs of a statement or a solution from which a document is dropped (ours: half)."""
    rewritten: Share = 0.5
    """Jaccard similarity to a problem from which a document is dropped (ours; 0.8 is a near duplicate)."""


@dataclass(frozen=True)
class ProblemText:
    """One problem of a benchmark."""

    name: str
    texts: tuple[str, ...]
    """Statement and solution."""


class Guard:
    """Finds evaluation problems in documents."""

    def __init__(self, policy: ContaminationPolicy, problems: Sequence[ProblemText] | None = None) -> None:
        from ibidem.data.text import shingles

        problems = load_problems(policy) if problems is None else problems
        self._policy, self._shingles = policy, shingles
        parts = [(problem.name, text) for problem in problems for text in problem.texts]
        wholes = [(problem.name, "\n".join(problem.texts)) for problem in problems]
        self._quoted = _Index(parts, policy.run_words, MOST_SHARING)
        self._rewritten = _Index(wholes, shingles.SHINGLE_WORDS, len(wholes))
        self._most_words = 2 * max((len(shingles.word_hashes(text.encode())) for _, text in wholes), default=0)

    def __call__(self, text: bytes) -> Drop | None:
        """Return a drop that names a problem contained in a UTF-8 text; None if there is none."""
        return next((drop for _, drop in self.hits(text)), None)

    def unchecked(self) -> set[str]:
        """Return the names of problems that cannot be detected: too short, or similar to too many others."""
        parts = [*self._quoted.parts, *self._rewritten.parts]
        return {part.name for part in parts} - {part.name for part in parts if part.size}

    def hits(self, text: bytes) -> Iterator[tuple[str, Drop]]:
        """Yield (name, drop) of every problem contained in a UTF-8 text, once if quoted and once if rewritten."""
        words = self._shingles.word_hashes(text)
        for part, shared in self._quoted.shared(words):
            if shared >= min(LEAST_RUNS, part.size) and shared / part.size >= self._policy.quoted:
                detail = f"{part.name}: {shared} of {part.size} runs of {self._policy.run_words} words"
                yield part.name, Drop(DropReason.CONTAMINATED, detail, similarity=shared / part.size)
        if len(words) <= self._most_words:
            parts = self._rewritten.shared(words)
            likely = [(part, shared) for part, shared in parts if shared / part.size >= self._policy.rewritten]
            size = len(self._shingles.shingle_set(text)) if likely else 0
            for part, shared in likely:
                similarity = shared / (part.size + size - shared)
                if similarity >= self._policy.rewritten:
                    detail = f"{part.name}: rewritten"
                    yield part.name, Drop(DropReason.CONTAMINATED, detail, similarity=similarity)


def as_inputs(policy: ContaminationPolicy) -> list[Input]:
    """Describe the benchmarks as inputs, with digests of their content."""
    return [
        replace(Input.of_file("benchmark", path), name=f"{name}: {path.name}")
        for name in policy.benchmarks
        for path in benchmark_files(name)
    ]


def load_problems(policy: ContaminationPolicy) -> list[ProblemText]:
    """Read the problems of all benchmarks.

    Raises:
        ConfigError: a benchmark does not exist, or contains no problems.
        DataError: its file is not JSON lines.
    """
    return [problem for name in policy.benchmarks for problem in _problems(name)]


@dataclass(frozen=True)
class _Part:
    name: str
    size: int


class _Index:
    """Runs of words of several texts; finds those of a document, and the texts that they come from."""

    def __init__(self, texts: Sequence[tuple[str, str]], run_words: int, most_sharing: int) -> None:
        from ibidem.data.text import shingles

        self._run_words, self._runs = run_words, shingles.runs
        words = [shingles.word_hashes(text.encode()) for _, text in texts]
        runs = [np.unique(self._runs(own, run_words)) if len(own) >= run_words else own[:0] for own in words]
        owners: dict[int, set[int]] = {}
        for number, own in enumerate(runs):
            for run in own.tolist():
                owners.setdefault(run, set()).add(number)
        self._owners = {run: own for run, own in owners.items() if len({texts[n][0] for n in own}) <= most_sharing}
        sizes = Counter(number for own in self._owners.values() for number in own)
        self.parts = [_Part(name, sizes[number]) for number, (name, _) in enumerate(texts)]
        self._known = shingles.HashSet(np.fromiter(self._owners, np.uint64, len(self._owners)))

    def shared(self, words: Hashes) -> list[tuple[_Part, int]]:
        """Return each text that shares runs with a document, and the number of shared runs."""
        if len(words) < self._run_words:
            return []
        runs = self._runs(words, self._run_words)
        known = set(runs[self._known.has(runs)].tolist())
        counts = Counter(number for run in known for number in self._owners[run])
        return [(self.parts[number], count) for number, count in sorted(counts.items())]


def _problems(name: str) -> Iterator[ProblemText]:
    for path in benchmark_files(name):
        count = 0
        for number, row in enumerate(_rows(path), start=1):
            columns = [*STATEMENT_COLUMNS, *SOLUTION_COLUMNS]
            turns = row.get(TURNS_COLUMN)
            said = [*(row.get(column) for column in columns), *(turns if isinstance(turns, list) else [])]
            texts = tuple(text for text in said if isinstance(text, str) and text.strip())
            if texts:
                key = next((row[column] for column in ID_COLUMNS if row.get(column) is not None), number)
                count += 1
                yield ProblemText(f"{path.stem if name != HUMAN_EVAL else name} {key}", texts)
        if not count:
            wanted = ", ".join((*STATEMENT_COLUMNS, *SOLUTION_COLUMNS, TURNS_COLUMN))
            raise ConfigError(f"contamination: {path} contains no problems; expected one of the columns {wanted}")


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if not path.name.endswith(".parquet"):
        return jsonl.read(path, "contamination:", allow_nan=True)
    try:
        return list(pq.read_table(path).to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"contamination: {path} cannot be read: {' '.join(str(error).split())[:160]}") from None
