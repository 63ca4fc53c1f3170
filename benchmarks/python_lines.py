"""Share of the lines that a checkpoint writes which Python's tokenizer accepts.

Prompts are completed at temperature 0.6; a line is completed if it ends in a newline, and counts unless it is blank.
Each is tokenized alone, without its indentation: an open bracket or triple quote at the end of a line is no error, an
unterminated string or an impossible character is. The stricter share is that of the lines which parse as a statement.
Both are measured on held-out documents too.

    python benchmarks/python_lines.py DATA_DIR benchmarks/results/python_lines.json CHECKPOINT...
"""

import ast
import io
import json
import sys
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ibidem.data import shards
from ibidem.demo import HELD_OUT_SHARE, PROMPTS
from ibidem.inference.models import open_model
from ibidem.modeling.generate import Sampling

SEEDS, TOKENS, TEMPERATURE = range(16), 160, 0.6
OPEN = ("EOF in multi-line statement", "EOF in multi-line string", "unterminated triple-quoted")
"""Errors of a line that the next one may cure."""


def main() -> None:
    data, path, *checkpoints = map(Path, sys.argv[1:])
    result = {
        "command": f"python benchmarks/python_lines.py artifacts/demo/data {path.as_posix()} CHECKPOINT...",
        "prompts": PROMPTS,
        "seeds": len(SEEDS),
        "tokens": TOKENS,
        "temperature": TEMPERATURE,
        "held_out_documents": measured(line for text in held_out(data) for line in text.splitlines()),
        "checkpoints": [
            {"checkpoint": "/".join(folder.parts[-3:]), **measured(written(folder))} for folder in checkpoints
        ],
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def measured(lines: Iterable[str]) -> dict[str, Any]:
    """Count the lines that are not blank; return the shares of them that tokenize, and that are whole statements."""
    whole = [line for line in lines if line.strip()]
    return {
        "lines": len(whole),
        "share_that_tokenizes": round(sum(map(tokenizes, whole)) / len(whole), 4),
        "share_that_parses": round(sum(map(parses, whole)) / len(whole), 4),
    }


def tokenizes(line: str) -> bool:
    """Return whether Python's tokenizer accepts a line.

    >>> [tokenizes(line) for line in ("def f(x,", "return 'a", '\"\"\"Text.', "a ? b")]
    [True, False, True, False]
    """
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line.strip() + "\n").readline))
    except tokenize.TokenError as error:
        return any(each in str(error) for each in OPEN)
    return all(token.type != tokenize.ERRORTOKEN and token.string not in {"?", "$", "!"} for token in tokens)


def parses(line: str) -> bool:
    """Return whether a line is a statement, or the head of a compound one.

    >>> [parses(line) for line in ("x = f(1)", "if x:", "else:", "def f(x,", "the name of")]
    [True, True, False, False, False]
    """
    for code in (line.strip(), line.strip() + "\n    pass"):
        with suppress(SyntaxError, ValueError), warnings.catch_warnings(action="ignore"):
            ast.parse(code)
            return True
    return False


def written(checkpoint: Path) -> Iterator[str]:
    """Yield the completed lines of every prompt and seed, without the prompt's own beginning."""
    model = open_model(checkpoint)
    for seed in SEEDS:
        sampling = Sampling(max_tokens=TOKENS, temperature=TEMPERATURE, seed=seed)
        for prompt, text in zip(PROMPTS, model.complete(PROMPTS, sampling, ()), strict=True):
            *lines, _ = (prompt.rpartition("\n")[2] + text).split("\n")
            yield from lines


def held_out(data: Path) -> Iterator[str]:
    """Yield the texts of the held-out documents."""
    for path in shards.shard_paths(data):
        for row in shards.read_rows(path, ["text", "sha256"]):
            if shards.is_held_out(row["sha256"], HELD_OUT_SHARE):
                yield row["text"]


if __name__ == "__main__":
    main()
