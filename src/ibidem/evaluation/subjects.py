"""The questions of MMLU, from its CSV files. Imports nothing heavy.

question, choice A, choice B, choice C, choice D, answer        the answer is a letter, or a number from 0
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ibidem.errors import ConfigError, DataError
from ibidem.jsonl import Row

LETTERS = "ABCD"


class Question(NamedTuple):
    """One question of a subject."""

    subject: str
    number: int
    text: str
    choices: tuple[str, ...]
    answer: int


def find_subjects(folder: Path, wanted: Sequence[str]) -> dict[str, tuple[Path, Path | None]]:
    """Find `<subject>_test.csv`, and `<subject>_dev.csv` for the examples, in a folder or its `test` and `dev`.

    Raises:
        ConfigError: a wanted subject is missing, or there are no subjects.
    """
    tests = {path.name.removesuffix("_test.csv"): path for path in sorted(folder.rglob("*_test.csv"))}
    devs = {path.name.removesuffix("_dev.csv"): path for path in sorted(folder.rglob("*_dev.csv"))}
    if missing := [name for name in wanted if name not in tests]:
        raise ConfigError(f"data {folder}: no {missing[0]}_test.csv there; subjects: {', '.join(tests) or 'none'}")
    if not tests:
        raise ConfigError(f"data {folder}: no <subject>_test.csv there")
    return {name: (path, devs.get(name)) for name, path in tests.items() if not wanted or name in wanted}


def rows(files: Mapping[str, tuple[Path, Path | None]]) -> list[Row]:
    """Read the questions and examples of subjects as JSON rows."""
    parts = (
        (part, question)
        for subject, pair in sorted(files.items())
        for part, path in zip(("test", "dev"), pair, strict=True)
        for question in (read(subject, path) if path is not None else ())
    )
    return [{"part": part, **question._asdict(), "choices": list(question.choices)} for part, question in parts]


def read(subject: str, path: Path) -> list[Question]:
    """Read the questions of a file, with or without a header line.

    Raises:
        DataError: a row is not a question.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if rows and rows[0][0].strip().lower() == "question":
        rows = rows[1:]
    questions = []
    for number, row in enumerate(rows, 1):
        place = row[5].strip() if len(row) == 6 else ""
        index = LETTERS.find(place) if len(place) == 1 and place in LETTERS else int(place) if place.isdecimal() else -1
        if len(row) != 6 or not place or not 0 <= index < len(LETTERS):
            raise DataError(f"{path}: row {number} is not a question with four choices and an answer")
        questions.append(Question(subject, number, row[0].strip(), tuple(row[1:5]), index))
    if not questions:
        raise DataError(f"{path}: there are no questions in it")
    return questions


def part_of(asked: Sequence[Row], subject: str, part: str) -> list[Question]:
    """Return the questions (`test`) or examples (`dev`) of a subject."""
    mine = (row for row in asked if row["subject"] == subject and row["part"] == part)
    return [Question(subject, row["number"], row["text"], tuple(row["choices"]), row["answer"]) for row in mine]
