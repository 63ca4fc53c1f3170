"""Whether SFT teaches a checkpoint to follow instructions that it has not seen, beside shuffled answers as a control.

An instruction names three operations on a list of numbers (which to keep, how to change them, what to return), and its
answer is the function. Of 210 combinations 42 are held out of training; every operation occurs in training, in other
combinations. The functions that the checkpoint writes for the held-out instructions are executed by the judge, before
and after. In the control the answers of the training data are shuffled. Wanted: from 0 to at least 60 %, 3 seeds; the
control gains nothing.

    export OMP_NUM_THREADS=1
    python benchmarks/sft_on_unseen_instructions.py artifacts/demo benchmarks/results/sft_on_unseen_instructions.json
"""

import itertools
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ibidem.config import build
from ibidem.conversation import Turn
from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
from ibidem.modeling.generate import Sampling, generate
from ibidem.runs import newest
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.program import Program
from ibidem.statistics import lower_bound
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.rlhf.config import SftConfig
from ibidem.training.rlhf.sft_pipeline import run

SEEDS = (0, 1, 2)
STEPS, BATCH = 100, 16
OPTIM: dict[str, Any] = {"name": "muon", "lr": 1e-2, "matrix_lr": 4e-3, "floor": 0.0}
HELD_OUT = 42
KEEP = {
    "all numbers": "numbers",
    "the even numbers": "[n for n in numbers if n % 2 == 0]",
    "the odd numbers": "[n for n in numbers if n % 2 == 1]",
    "the positive numbers": "[n for n in numbers if n > 0]",
    "the negative numbers": "[n for n in numbers if n < 0]",
    "the numbers above ten": "[n for n in numbers if n > 10]",
    "the first three numbers": "numbers[:3]",
}
CHANGE = {
    "doubles them": "n * 2",
    "squares them": "n * n",
    "negates them": "-n",
    "adds one to them": "n + 1",
    "halves them": "n / 2",
    "takes their absolute values": "abs(n)",
}
RETURN = {
    "their sum": "sum(changed)",
    "the list": "changed",
    "how many there are": "len(changed)",
    "them in reverse": "changed[::-1]",
    "them sorted": "sorted(changed)",
}
WORDINGS = (
    "Write a function that keeps {keep}, {change} and returns {back}.",
    "I need a function which keeps {keep}, then {change} and finally returns {back}.",
    "Please write Python code: it keeps {keep}, {change}, and returns {back}.",
)
INPUTS = ([1, 2, 3, 4], [12, -7, 30, 5, 11], [-2, -4, 6], [], [15, 8, -1, 22, 0, 13])


class Task(NamedTuple):
    """A combination of operations."""

    keep: str
    change: str
    back: str

    @property
    def answer(self) -> str:
        """Return the function."""
        return (
            f"def solve(numbers):\n    kept = {KEEP[self.keep]}\n"
            f"    changed = [{CHANGE[self.change]} for n in kept]\n    return {RETURN[self.back]}\n"
        )

    def asked(self, wording: int) -> str:
        """Return the instruction."""
        return WORDINGS[wording].format(keep=self.keep, change=self.change, back=self.back)

    def program(self, code: str) -> Program:
        """Return what the judge executes: the answer must do what the task's own function does."""
        space: dict[str, Any] = {}
        exec(self.answer, space)  # noqa: S102 - our own text
        tests = "\n".join(f"assert solve({numbers}) == {space['solve'](list(numbers))!r}" for numbers in INPUTS)
        return Program((code,), tests, ("solve",))


def passes(folder: Path, tasks: Sequence[Task]) -> int:
    """Return how many of the tasks a checkpoint solves, greedily."""
    model, _ = load_model(newest(folder))
    template = ChatTemplate(Tokenizer.load(newest(folder) / TOKENIZER_DIR))
    prompts = [template.prompt([Turn.of("user", task.asked(number % 3))]) for number, task in enumerate(tasks)]
    ids = generate(model, prompts, Sampling(96, temperature=0.0), end_ids=template.end_ids)
    answers = [template.read(each).text for each in ids]
    with Judge(workers=2) as judge:
        programs = [task.program(code) for task, code in zip(tasks, answers, strict=True)]
        return sum(verdict.passed for verdict in judge.verdicts(programs))


def tune(initial: Path, tasks: Sequence[Task], folder: Path, seed: int, *, shuffled: bool) -> float:
    """Train on the tasks, each in every wording; return the CPU-seconds."""
    answers = [task.answer for task in tasks]
    if shuffled:
        random.Random(seed).shuffle(answers)
    rows = [
        {"messages": [{"role": "user", "content": task.asked(wording)}, {"role": "assistant", "content": answer}]}
        for task, answer in zip(tasks, answers, strict=True)
        for wording in range(len(WORDINGS))
    ]
    folder.mkdir(parents=True)
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "initial": initial, "data": data, "output_dir": folder / "run",
        "training": {"steps": STEPS, "batch_sequences": BATCH, "micro_batch_sequences": BATCH, "seed": seed},
        "optim": OPTIM, "validation": {"every": STEPS, "samples": 0},
    }  # fmt: skip
    before = time.process_time()
    run(build(SftConfig, settings))
    return time.process_time() - before


def main() -> None:
    initial, output = Path(sys.argv[1]), Path(sys.argv[2])
    initial = next(iter(sorted(initial.glob("pretrain-*"))), initial)
    rows = []
    for seed in SEEDS:
        tasks = [Task(*each) for each in itertools.product(KEEP, CHANGE, RETURN)]
        random.Random(seed).shuffle(tasks)
        unseen, seen = tasks[:HELD_OUT], tasks[HELD_OUT:]
        before = passes(initial, unseen)
        for shuffled in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                cpu_s = tune(initial, seen, Path(folder) / "sft", seed, shuffled=shuffled)
                after = passes(Path(folder) / "sft" / "run", unseen)
            row = {
                "seed": seed, "answers": "shuffled" if shuffled else "right", "of": HELD_OUT, "before": before,
                "after": after, "share": round(after / HELD_OUT, 3),
                "lower_95": round(lower_bound(after, HELD_OUT), 3), "cpu_s": round(cpu_s, 1),
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
    command = "python benchmarks/sft_on_unseen_instructions.py artifacts/demo RESULT"
    settings = {
        "steps": STEPS,
        "batch": BATCH,
        "optim": OPTIM,
        "parameters": load_model(newest(initial))[0].num_parameters,
    }
    made = {"command": command, "machine": platform.machine(), "torch": version("torch"), **settings, "rows": rows}
    output.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
