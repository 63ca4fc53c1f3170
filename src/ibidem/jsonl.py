r"""JSON lines: one JSON value a line.

Lines end at U+000A alone: texts may hold U+2028 and other line ends. Half a character (a lone surrogate), which UTF-8
cannot hold, is written as its JSON escape, `\ud800` to `\udfff`.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ibidem.errors import DataError

Row = Mapping[str, Any]


def dumps(rows: Iterable[Any], *, sort_keys: bool = False) -> str:
    r"""Return values as JSON lines.

    >>> dumps([{"a": "é\udcff"}])
    '{"a": "é\\udcff"}\n'

    Raises:
        ValueError: a number is not finite.
    """
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace").decode()


def loads(text: str) -> list[Any]:
    r"""Return the values of a text that `dumps` wrote.

    >>> loads('{"a": "\u2028"}\n')
    [{'a': '\u2028'}]
    """
    return [json.loads(line) for line in text.split("\n") if line]


def digest(values: Iterable[Any]) -> str:
    """Return the digest of JSON values, whatever kind of file has them.

    >>> digest([{"a": 1, "b": 2}]) == digest([{"b": 2, "a": 1}])
    True
    """
    found = hashlib.sha256()
    for value in values:
        found.update(json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return f"sha256:{found.hexdigest()}"


def read(path: Path, what: str, *, allow_nan: bool = False) -> list[Row]:
    """Read a file of JSON objects, plain or compressed (`.gz`), that a user supplies.

    Args:
        path: the file.
        what: the flag or role that named it, for the message.
        allow_nan: accept NaN and Infinity, which JSON does not have but Python writes.

    Raises:
        DataError: the file cannot be read, is empty, or a line is not a JSON object; names the line.
    """
    rows = [row for _, row in read_numbered(path, what, allow_nan=allow_nan)]
    if not rows:
        raise DataError(f"{what} {path}: the file is empty")
    return rows


def read_numbered(path: Path, what: str, *, allow_nan: bool = False) -> list[tuple[int, Row]]:
    """Read a file of JSON objects as (line number from 1, object); blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    rows: list[tuple[int, Row]] = []
    for number, line in enumerate(read_text(path, what).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=None if allow_nan else _refuse_constant)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{what} {path}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{what} {path}: line {number} is not a JSON object")
        rows.append((number, row))
    return rows


def read_text(path: Path, what: str) -> str:
    """Read a text file, plain or compressed (`.gz`), that a user supplies; a byte order mark is dropped.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            return file.read().decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from None


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number in JSON")
