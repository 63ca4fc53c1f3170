"""Self-instruct: tasks that a model writes after examples of tasks, and the filters that its tasks must pass.

Source: Wang et al. 2023, arXiv:2212.10560: prompts of 6 seed tasks and 2 generated ones (section 2.2); a task is
kept if its ROUGE-L with every earlier one is below 0.7, and it names nothing that a language model cannot process
(section 2.2.4). Length, refusals and empty answers are filtered as well.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from ibidem import jsonl
from ibidem.conversation import Conversation, Turn
from ibidem.data.synthetic.trace import Trace
from ibidem.data.text.refusal import is_refusal
from ibidem.errors import DataError

SHIPPED = "seeds.jsonl"
SEEDS = 6
GENERATED = 2
MOST_SIMILAR = 0.7
INSTRUCTION_WORDS = (3, 150)
LEAST_ANSWER_CHARS = 2
ASK = "Write another task."
_UNFIT = re.compile(
    r"\b(?:images?|pictures?|graphs?|photos?|files?|maps?|draw|plot|go to|video|audio|music)\b", re.IGNORECASE
)
"""Wang et al.'s list of what a language model cannot process."""
_WORD = re.compile(r"\w+")


class Task(NamedTuple):
    """An instruction with an answer."""

    instruction: str
    answer: str


def read_seeds(path: Path | None) -> list[Task]:
    """Read seed tasks, JSON lines of `instruction` and `answer` or Self-Instruct's `instances`; None: the shipped.

    Raises:
        DataError: a row is not a task, or there are too few.
    """
    if path is None:
        shipped = files("ibidem.data.synthetic").joinpath(SHIPPED).read_text(encoding="utf-8")
        return [Task(**json.loads(line)) for line in shipped.splitlines()]
    tasks = [_task(row, f"seeds {path}: row {number}") for number, row in enumerate(jsonl.read(path, "seeds"), 1)]
    if len(tasks) < SEEDS:
        raise DataError(f"seeds {path}: {len(tasks)} tasks; give at least {SEEDS}")
    return tasks


def _task(row: jsonl.Row, where: str) -> Task:
    instruction, answer = row.get("instruction"), row.get("answer", row.get("output"))
    instances = row.get("instances")
    if answer is None and isinstance(instances, list) and instances and isinstance(instances[0], dict):
        given, answer = instances[0].get("input"), instances[0].get("output")
        instruction = f"{instruction}\n\n{given}" if given else instruction
    if not (isinstance(instruction, str) and isinstance(answer, str) and instruction.strip() and answer.strip()):
        raise DataError(f"{where} needs instruction and answer")
    return Task(instruction.strip(), answer.strip())


def ask_for_task(seeds: Sequence[Task], made: Sequence[Task], rng: random.Random) -> Conversation:
    """Return the conversation after which a model writes an instruction: examples as earlier answers."""
    shown = rng.sample(list(seeds), SEEDS) + (rng.sample(list(made), GENERATED) if len(made) >= GENERATED else [])
    rng.shuffle(shown)
    turns = [turn for task in shown for turn in (Turn.of("user", ASK), Turn.of("assistant", task.instruction))]
    return (*turns, Turn.of("user", ASK))


def ask_for_answer(instruction: str) -> Conversation:
    """Return the conversation after which a model answers an instruction."""
    return (Turn.of("user", instruction),)


class Sieve:
    """Keeps instructions that are fit and unlike every earlier one, and counts why others are not."""

    def __init__(self, seeds: Sequence[Task]) -> None:
        self._words = [_words(task.instruction) for task in seeds]
        self.rejected: Counter[str] = Counter()

    def passes(self, instruction: str) -> bool:
        """Check an instruction; if it passes, later ones must differ from it too."""
        words = _words(instruction)
        reason = self._reason(instruction, words)
        if reason is None:
            self._words.append(words)
        else:
            self.rejected[reason] += 1
        return reason is None

    def answers(self, instruction: str, answer: str) -> bool:
        """Check the answer to an instruction that passed."""
        reason = _answer_reason(instruction, answer)
        if reason is not None:
            self.rejected[reason] += 1
        return reason is None

    def _reason(self, instruction: str, words: Sequence[str]) -> str | None:
        shortest, longest = INSTRUCTION_WORDS
        if not shortest <= len(words) <= longest:
            return "instruct.length"
        if not instruction[0].isalnum() or not instruction[0].isascii() or _UNFIT.search(instruction):
            return "instruct.unfit"
        if len(set(words)) < len(words) / 3:
            return "instruct.repetition"
        if any(rouge_l(words, earlier) >= MOST_SIMILAR for earlier in self._words):
            return "instruct.similar"
        return None


def _answer_reason(instruction: str, answer: str) -> str | None:
    if len(answer.strip()) < LEAST_ANSWER_CHARS:
        return "instruct.empty"
    if is_refusal(answer):
        return "instruct.refused"
    words = _words(answer)
    if len(words) >= 20 and len(set(words)) < len(words) / 5:
        return "instruct.repetition"
    return "instruct.echo" if words == _words(instruction) else None


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """Return ROUGE-L of two word sequences: the F1 score of their longest common subsequence.

    Source: Lin 2004 "ROUGE: a package for automatic evaluation of summaries", section 3.
    >>> rouge_l("a b c d".split(), "a c x y".split())
    0.5
    """
    if not one or not other:
        return 0.0
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, against in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if word == against else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(one) + len(other))


def trace(task: Task, number: int, model: str) -> Trace:
    """Return a task as a trace; `model` is the digest of the model that wrote it."""
    turns = (Turn.of("user", task.instruction), Turn.of("assistant", task.answer))
    return Trace("instruct", turns, "0", draw=number, model=model)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
