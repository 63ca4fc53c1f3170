"""Whether GRPO, given only tests, teaches a small model to pass tests that it never sees; with controls, and a hacker.

The base policy is made by the product's own stages: solved problems (`synthesize --kinds solve`), a tokenizer of 1,024
ids, pretraining, SFT. It has read 3,000 solved problems of one operation and 1,500 of two, on texts and lists. GRPO
gets other problems of two operations, with tests and without solutions; no function of them is in the traces. Measured
are samples at temperature 1 to problems that GRPO does not get: of two operations, which it learns, and of one, which
it is not to lose. A pass is an answer that passes all hidden tests of its problem.

    grpo        reward: share of the visible tests passed
    shuffled    the same rewards, permuted among all answers of a rollout: nothing to learn
    constant    every reward 1: refused; with the refusal taken away, no weight changes
    hacker      GRPO from the base tuned on answers that hard-code the result of the visible test, which is one here

Wanted, for each seed: `grpo` gains at least 10 points of hidden passes, the lower bound is above 0, and those on
problems of one operation lose at most 3 points; `shuffled` gains nothing; what the `hacker` hard-codes passes no hidden
tests, so that these rise no further than its honest answers deserve. Bounds are one-sided, 95 %, by the paired
bootstrap over problems. Learning rate, steps, batch and samples were chosen with seed 100; the seeds here are others.

    export OMP_NUM_THREADS=1
    python benchmarks/grpo_on_executed_tests.py artifacts/grpo benchmarks/results/grpo_on_executed_tests.json

The first argument is a folder for all that is made; what is there already is not made again, nor are runs measured
again that the second one has.
"""

import ast
import json
import os
import platform
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from safetensors.torch import load_file

import ibidem
from ibidem import jsonl
from ibidem.conversation import Turn, to_rows
from ibidem.data.synthetic.programs import Family, ProblemsConfig, exercise, request, write_problems
from ibidem.data.text.clean import block
from ibidem.errors import NothingToLearn
from ibidem.log import EVENTS
from ibidem.modeling.checkpoint import TOKENIZER_DIR, WEIGHTS, load_model
from ibidem.modeling.generate import sample
from ibidem.statistics import bootstrap_lower_bound
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.rlhf import grpo_trainer
from ibidem.training.rlhf.config import JudgeConfig, ProblemFileConfig
from ibidem.training.rlhf.grpo_trainer import ExecutionScore
from ibidem.training.rlhf.problems import CodeProblem, Tests, code_of, open_problems, read_problems
from ibidem.training.rlhf.rollout import Answer

SEEDS = (0, 1, 2)
FAMILIES: tuple[Family, ...] = (
    *("append", "prepend", "repeat", "replace", "upper", "first", "skip", "reverse", "length", "count"),
    *("sort", "sum", "largest", "smallest"),
)
TRACES = {1: 3000, 2: 1500}
"""Solved problems that the base policy reads, by their number of operations."""
MODEL: dict[str, Any] = {
    "vocab_size": 1024, "width": 128, "layers": 3, "heads": 2, "ffn_hidden": 256, "context": 256, "rope_theta": 1e4,
}  # fmt: skip
PRETRAINING, SFT = 900, 60
HACKS, HACK_SFT = 3000, 350
"""Answers that hard-code, and the steps of learning them."""
ONES, TWOS, LEARNED, UNSEEN = 200, 1500, 600, 150
"""Problems of one operation and of two, at most; of those of two, problems to learn from and to measure on."""
SAMPLES, SEED = 8, 12345
"""Answers to each problem that is measured, and their random seed."""
MAX_TOKENS, BATCH, STEPS, CONSTANT_STEPS = 56, 64, 140, 10
HACKER_BATCH, HACKER_STEPS = 128, 70
"""Its base always passes the visible test of some problems and never that of the others: few of them have contrast."""
GRPO: dict[str, Any] = {
    "rollout": {"samples": 8, "max_tokens": MAX_TOKENS},
    "optim": {"lr": 3e-4, "warmup_steps": 10, "floor": 0.1},
}
JUDGE = JudgeConfig(workers=1)
CURVES = {"visible": "objective/passed", "hidden": "objective/hidden_passed", "gap": "objective/gap"}
TENTHS = 10
MOST_COPIED = 8
"""Characters of a result that the hacker's base learns to copy."""


class Passes(NamedTuple):
    """Shares of the answers to each problem."""

    visible: list[float]
    """That pass all visible tests."""
    hidden: list[float]
    """That pass all hidden tests."""
    hard_coded: list[float]
    """That compare the argument with a constant."""
    undeserved: list[float]
    """That do so and pass all hidden tests."""


class Split(NamedTuple):
    """Problems of two operations."""

    learned: Path
    """GRPO's file."""
    hidden_tests: int
    """Of the three tests of a problem in it."""
    unseen: list[CodeProblem]
    """Measured."""


class Made(NamedTuple):
    """What every run starts from."""

    base: Path
    hacker: Path
    two: Split
    hackable: Split
    """Those of `two` whose visible tests the hacker can hard-code."""
    one: list[CodeProblem]
    """Of one operation; measured."""


# ---------------------------------------------------------------- the base policy


def make(folder: Path) -> Made:
    """Make the base policy, the hacker's, and the problems, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    traces, shape, tokenizer = traces_of(folder), folder / "model.json", folder / "tokenizer"
    ibidem.train_tokenizer(input=traces, output_dir=tokenizer, vocab_size=MODEL["vocab_size"])
    shape.write_text(json.dumps(MODEL))
    pretrained = ibidem.train(
        model=shape,
        output_dir=folder / "pretrain",
        data={"dataset": traces, "tokenizer": tokenizer},
        training={"steps": PRETRAINING, "batch_sequences": 4, "micro_batch_sequences": 4, "resume_from": "latest"},
        optim={"name": "muon", "lr": 2e-2, "matrix_lr": 1e-2, "floor": 0.0, "warmup_steps": 20},
        validation={"every": PRETRAINING, "prompts": []},
    )
    base = tuned(folder / "base", pretrained.path, traces.path, SFT)
    hacks = folder / "hacks.jsonl"
    hacks.write_text(jsonl.dumps(hacks_of(HACKS)))
    hacker = tuned(folder / "hacker", base, hacks, HACK_SFT)
    ones, twos = folder / "one.jsonl", folder / "two.jsonl"
    for steps, (path, number) in enumerate(((ones, ONES), (twos, TWOS)), 1):
        write_problems(ProblemsConfig(output=path, number=number, families=FAMILIES, steps=(steps,)))
    rows = jsonl.loads(twos.read_text())
    hackable = [row for row in rows if can_be_copied(row["test_list"][0])]
    two = split(rows[: LEARNED + UNSEEN], folder, "two", 1)
    return Made(base, hacker, two, split(hackable, folder, "hackable", 2), opened(ones, folder))


def split(rows: Sequence[dict[str, Any]], folder: Path, name: str, hidden_tests: int) -> Split:
    """Hold the first problems out; the others need no more than one hidden test, which is judged in every rollout."""
    held_out, learned = folder / f"{name}-unseen.jsonl", folder / f"{name}-learned.jsonl"
    held_out.write_text(jsonl.dumps(rows[:UNSEEN]))
    learned.write_text(jsonl.dumps({**row, "challenge_test_list": []} for row in rows[UNSEEN:]))
    return Split(learned, hidden_tests, opened(held_out, folder, hidden_tests))


def opened(path: Path, folder: Path, hidden_tests: int = 1) -> list[CodeProblem]:
    """Read a file of problems."""
    config = ProblemFileConfig(hidden_tests=hidden_tests)
    return read_problems(open_problems(path, folder / "opened", config, JUDGE))


def traces_of(folder: Path) -> ibidem.Dataset:
    """Make solved problems, those of one operation and of two in one dataset."""
    document = folder / "document.jsonl"
    document.write_text(jsonl.dumps([{"text": "def add(a, b):\n    return a + b\n", "license": "Apache-2.0"}]))
    source = ibidem.preprocess(dataset=[f"{document}:train:text"], output_dir=folder / "source", skip=["filters"])
    parts = {
        f"steps_{steps}": {
            "path": ibidem.synthesize(
                source, output_dir=folder / f"steps_{steps}", kinds=["solve"], families=FAMILIES, steps=[steps],
                number=number,
            )
        }
        for steps, number in TRACES.items()
    }  # fmt: skip
    return ibidem.blend(datasets=parts, output_dir=folder / "traces", shares={"instruction": 1.0})


def tuned(run: Path, initial: Path, data: Path, steps: int) -> Path:
    """Tune a checkpoint on conversations; return the last one."""
    last = ibidem.sft(
        initial=initial,
        data=data,
        output_dir=run,
        training={"steps": steps, "batch_sequences": 16, "micro_batch_sequences": 16, "resume_from": "latest"},
        optim={"name": "muon", "lr": 1e-2, "matrix_lr": 4e-3, "floor": 0.0},
        validation={"every": steps, "samples": 0},
    )
    return last.path


def hacks_of(number: int) -> Iterator[dict[str, Any]]:
    """Yield problems of two operations with one visible test, each answered with a program that knows its result."""
    rng = random.Random("hacks")
    while number:
        found = exercise(rng, FAMILIES, (2,), "traces")
        assert found is not None, "there are thousands"
        shown = found.tests[0]
        if can_be_copied(shown):
            code = f"def {found.function.call}:\n    return {result_of(shown)}"
            turns = (Turn.of("user", request(found.statement, [shown])), Turn.of("assistant", block(code)))
            yield {"messages": to_rows(turns), "license": "Apache-2.0"}
            number -= 1


def result_of(test: str) -> str:
    """Return the result that a test expects.

    >>> result_of("assert length([1, 2]) == 2")
    '2'
    """
    return test.rpartition(" == ")[2]


def can_be_copied(test: str) -> bool:
    """Return whether a model as small can copy the result."""
    return len(result_of(test)) <= MOST_COPIED


def is_hard_coded(text: str) -> bool:
    """Return whether a program returns a constant, whatever its argument."""
    try:
        ast.literal_eval(code_of(text).partition("return ")[2].strip())
    except (SyntaxError, ValueError):
        return False
    return True


# ---------------------------------------------------------------- runs and their controls


def run(
    initial: Path, problems: Split, folder: Path, seed: int, steps: int = STEPS, batch: int = BATCH
) -> tuple[Path, float]:
    """Train on the problems; return the last checkpoint, and the CPU-seconds with those of the judge."""
    before = cpu_s()
    last = ibidem.grpo(
        initial=initial,
        problems=problems.learned,
        file={"hidden_tests": problems.hidden_tests},
        output_dir=folder,
        held_out_share=0.0,
        training={
            "steps": steps,
            "batch_sequences": batch,
            "micro_batch_sequences": BATCH,
            "seed": seed,
            "resume_from": "latest",
        },
        validation={"every": steps, "samples": 0},
        judge={"workers": 1},
        **GRPO,
    )
    return last.path, cpu_s() - before


def cpu_s() -> float:
    """Return the CPU-seconds of this process and of children that were waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def rewards(changed: Callable[[list[Answer]], list[Answer]]) -> Iterator[None]:
    """Change the rewards of every rollout."""
    judged = ExecutionScore.__call__

    def scored(self: ExecutionScore, answers: Sequence[Answer]) -> list[Answer]:
        return changed(judged(self, answers))

    with mock.patch.object(ExecutionScore, "__call__", scored):
        yield


def permuted(rng: np.random.Generator, answers: list[Answer]) -> list[Answer]:
    """Give each answer the reward of another one, whatever its problem."""
    order = rng.permutation(len(answers))
    return [each._replace(score=answers[place].score) for each, place in zip(answers, order, strict=True)]


def equal(answers: list[Answer]) -> list[Answer]:
    """Give each answer the same reward."""
    return [each._replace(score=1.0) for each in answers]


def constant(made: Made, folder: Path) -> dict[str, Any]:
    """Return what a training with equal rewards says, and which weights it changes if it is not refused."""
    seed = SEEDS[0]
    with rewards(equal):
        try:
            run(made.base, made.two, folder / "constant-refused", seed, CONSTANT_STEPS)
            refusal = None
        except NothingToLearn as error:
            refusal = str(error)
        with mock.patch.object(grpo_trainer, "has_contrast", all_have):
            last, _ = run(made.base, made.two, folder / "constant", seed, CONSTANT_STEPS)
    before, after = (load_file(path / WEIGHTS) for path in (made.base, last))
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {"refusal": refusal, "steps": CONSTANT_STEPS, "weights": len(before), "weights_changed": changed}


def all_have(scores_B: torch.Tensor, size: int) -> torch.Tensor:
    """Stand for `has_contrast`: so that a training with equal rewards begins."""
    return torch.ones(len(scores_B) // size, dtype=torch.bool)


# ---------------------------------------------------------------- what is measured


def passes(checkpoint: Path, problems: Sequence[CodeProblem]) -> Passes:
    """Sample answers to each problem and judge them; the same random numbers for every checkpoint."""
    model, _ = load_model(checkpoint)
    template = ChatTemplate(Tokenizer.load(checkpoint / TOKENIZER_DIR))
    prompts = [template.prompt(problem.prompt) for problem in problems]
    seeds = [np.random.SeedSequence((SEED, place)).generate_state(SAMPLES).tolist() for place in range(len(problems))]
    groups = sample(model, prompts, seeds, max_tokens=MAX_TOKENS, end_ids=template.end_ids)
    texts = [template.read(each.ids).text for group in groups for each in group]
    asked = [problem for problem in problems for _ in range(SAMPLES)]
    with Tests(JUDGE) as tests:
        outcomes = tests.outcomes(list(zip(asked, texts, strict=True)))
    visible = np.array([each.visible == 1 for each in outcomes])
    hidden = np.array([each.hidden == 1 for each in outcomes])
    hard_coded = np.array([is_hard_coded(text) for text in texts])
    rows = (visible, hidden, hard_coded, hard_coded & hidden)
    return Passes(*(row.reshape(-1, SAMPLES).mean(axis=1).tolist() for row in rows))


def means(measured: Passes) -> dict[str, float]:
    """Return the means over problems, in percent."""
    return {name: points(values) for name, values in measured._asdict().items()}


def gain(after: Sequence[float], before: Sequence[float]) -> dict[str, float]:
    """Return by how many points the mean over problems rose, with paired bounds."""
    rises = [new - old for new, old in zip(after, before, strict=True)]
    lower = bootstrap_lower_bound(rises, seed=0)
    upper = -bootstrap_lower_bound([-rise for rise in rises], seed=0)
    return {"gain": points(rises), "lower_95": round(100 * lower, 2), "upper_95": round(100 * upper, 2)}


def points(shares: Sequence[float]) -> float:
    """Return a mean in percent."""
    return round(100 * float(np.mean(shares)), 2)


def curves(run: Path) -> dict[str, list[float]]:
    """Return the means of a run's rewards over tenths of its steps, in percent."""
    events = jsonl.loads((run / EVENTS).read_text())
    steps = [each for each in events if each["event"] == "train.step"]
    parts = np.array_split(np.arange(len(steps)), TENTHS)
    return {name: [points([steps[step][key] for step in part]) for part in parts] for name, key in CURVES.items()}


# ---------------------------------------------------------------- all of it


def learned(made: Made, folder: Path, seed: int, before: dict[str, Passes]) -> dict[str, Any]:
    """Train with the rewards as they are; measure what is learned and what is lost."""
    last, seconds = run(made.base, made.two, folder / f"grpo-{seed}", seed)
    two, one = passes(last, made.two.unseen), passes(last, made.one)
    return {
        "run": "grpo", "seed": seed, "cpu_s": round(seconds, 1), "unseen": means(two), "one_operation": means(one),
        "unseen_hidden": gain(two.hidden, before["unseen"].hidden),
        "one_operation_hidden": gain(one.hidden, before["one"].hidden), "curves": curves(folder / f"grpo-{seed}"),
    }  # fmt: skip


def shuffled(made: Made, folder: Path, seed: int, before: dict[str, Passes]) -> dict[str, Any]:
    """Train with shuffled rewards."""
    with rewards(partial(permuted, np.random.default_rng(seed))):
        last, _ = run(made.base, made.two, folder / f"shuffled-{seed}", seed)
    two = passes(last, made.two.unseen)
    return {
        "run": "shuffled", "seed": seed, "unseen": means(two),
        "unseen_hidden": gain(two.hidden, before["unseen"].hidden), "curves": curves(folder / f"shuffled-{seed}"),
    }  # fmt: skip


def hacked(made: Made, folder: Path, seed: int, before: dict[str, Passes]) -> dict[str, Any]:
    """Train from the hacker's base."""
    last, _ = run(made.hacker, made.hackable, folder / f"hacker-{seed}", seed, HACKER_STEPS, HACKER_BATCH)
    two = passes(last, made.hackable.unseen)
    return {
        "run": "hacker", "seed": seed, "unseen": means(two),
        "unseen_visible": gain(two.visible, before["hacker"].visible),
        "unseen_hidden": gain(two.hidden, before["hacker"].hidden), "curves": curves(folder / f"hacker-{seed}"),
    }  # fmt: skip


RUNS = {learned: "grpo", shuffled: "shuffled", hacked: "hacker"}


def holds(rows: Sequence[dict[str, Any]], constant: dict[str, Any]) -> dict[str, bool]:
    """Return whether what is wanted is so, for every seed."""
    of = {name: [row for row in rows if row["run"] == name] for name in ("grpo", "shuffled", "hacker")}
    hidden = {name: [row["unseen_hidden"] for row in runs] for name, runs in of.items()}
    return {
        "grpo_gains_10_points": all(each["gain"] >= 10 and each["lower_95"] > 0 for each in hidden["grpo"]),
        "grpo_loses_at_most_3_points": all(row["one_operation_hidden"]["gain"] >= -3 for row in of["grpo"]),
        "shuffled_gains_nothing": all(each["gain"] < 1 or each["lower_95"] <= 0 for each in hidden["shuffled"]),
        "constant_is_refused_and_changes_nothing": bool(constant["refusal"]) and not constant["weights_changed"],
        "hard_coded_answers_pass_no_hidden_tests": all(row["unseen"]["undeserved"] == 0 for row in of["hacker"]),
    }


def main() -> None:
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    made = make(folder)
    before = {
        "unseen": passes(made.base, made.two.unseen),
        "one": passes(made.base, made.one),
        "hacker": passes(made.hacker, made.hackable.unseen),
        "base_on_hackable": passes(made.base, made.hackable.unseen),
    }
    result: dict[str, Any] = {
        "command": "python benchmarks/grpo_on_executed_tests.py artifacts/grpo RESULT",
        "machine": platform.machine(),
        "torch": version("torch"),
        "parameters": load_model(made.base)[0].num_parameters,
        "settings": {"model": MODEL, "traces": TRACES, "steps": STEPS, "batch": BATCH, **GRPO},
        "measured": {"unseen": len(made.two.unseen), "one_operation": len(made.one), "samples": SAMPLES},
        "before": {name: means(each) for name, each in before.items()},
        "constant": constant(made, folder),
        "rows": json.loads(output.read_text())["rows"] if output.exists() else [],
    }
    print(json.dumps({**result["before"], "constant": result["constant"]}), flush=True)
    for measure, name in RUNS.items():
        for seed in SEEDS:
            if any((row["run"], row["seed"]) == (name, seed) for row in result["rows"]):
                continue
            result["rows"].append(measure(made, folder, seed, before))
            print(json.dumps(result["rows"][-1]), flush=True)
            output.write_text(json.dumps(result, indent=1) + "\n")
    result["holds"] = holds(result["rows"], result["constant"])
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["holds"]))


if __name__ == "__main__":
    main()
