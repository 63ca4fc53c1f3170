"""MBPP, its sanitized version and MBPP+: `ibidem evaluate mbpp`."""

from ibidem import jsonl, log
from ibidem.config import build
from ibidem.errors import ConfigError
from ibidem.evaluation import coding
from ibidem.evaluation.config import MbppConfig
from ibidem.sandbox.problems import MBPP_SHOTS, MBPP_STOP, inputs_of, number_in_test, read_rows
from ibidem.sandbox.problems import mbpp as read_problems

NAME = "mbpp"


def mbpp(config: MbppConfig) -> str:
    """Evaluate on MBPP with the paper's three-shot prompt; a program is the code, then the setup, then the tests."""
    split: str = config.split or ("all" if _goes_beyond_the_test_split(config) else "test")
    if split == "all" and config.samples is None:
        split = "unseen"  # the model reads the solutions of the examples in its prompt
    rows = read_rows(str(config.problems))
    problems = read_problems(str(config.problems), split, rows)
    if not problems:
        raise ConfigError(f"problems {config.problems}: no problem is in the split {split}")
    shots = problems[0].prompt.count(f"\n{MBPP_STOP[0]}\n")
    if shots < len(MBPP_SHOTS):
        log.event("evaluate.few_shots", shots=shots, due=len(MBPP_SHOTS), reason=f"{config.problems} lacks 2, 3 or 4")
    notes = {"inputs": inputs_of(problems), "split": split, "shots": shots}
    return coding.evaluate(config, NAME, problems, coding.benchmark(str(config.problems), rows), **notes)


def _goes_beyond_the_test_split(config: MbppConfig) -> bool:
    if config.samples is None:
        return False
    rows = jsonl.read(config.samples, "samples")
    return not all(number_in_test(str(row.get("task_id"))) for row in rows)


TASK = coding.task(
    NAME,
    lambda rows, settings: read_problems("benchmark", str(settings["split"]), rows),
    lambda tree: mbpp(build(MbppConfig, tree)),
    split="test",
)
