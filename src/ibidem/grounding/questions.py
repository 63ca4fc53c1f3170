"""Files of questions about documents, in the schema of `ibidem evaluate doc-qa`: JSON lines.

{"id": "1", "question": "How long is leave?", "answers": ["30 days"], "documents": ["handbook/leave.md"]}
{"id": "2", "question": "Who won?", "answers": []}                                    nothing answers it
{"id": "3", "question": "...", "answers": {"text": ["..."]}, "context": "..."}        passages that come with it
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ibidem import jsonl
from ibidem.errors import DataError
from ibidem.jsonl import Row


@dataclass(frozen=True)
class Question:
    """A question, the passages that were retrieved for it, and the correct answers."""

    id: str
    text: str
    passages: Mapping[str, str]
    answers: tuple[str, ...]
    """Empty if the passages do not contain an answer."""
    documents: tuple[str, ...] = ()
    """Paths of documents in an index that answer it."""


def read_questions(path: Path, what: str = "data") -> list[Question]:
    """Read questions.

    Args:
        path: the file.
        what: the flag that named it, for messages.

    Raises:
        DataError: a row is not a question, or an id appears twice.
    """
    return parse_questions(jsonl.read(path, what), f"{what} {path}")


def parse_questions(rows: Iterable[Row], where: str) -> list[Question]:
    """Return the questions of JSON rows.

    Args:
        rows: the lines of a file, in order.
        where: the file, for messages.

    Raises:
        DataError: a row is not a question, or an id appears twice.
    """
    questions: dict[str, Question] = {}
    for number, row in enumerate(rows, 1):
        text, answers, passages, documents = row.get("question"), _answers(row), _passages(row), _documents(row)
        if not isinstance(text, str) or answers is None or passages is None or documents is None:
            raise DataError(f"{where}: line {number} needs question, answers, and context or passages with ids")
        key = str(row.get("id", number))
        if key in questions:
            raise DataError(f"{where}: line {number}: id {key!r} appears twice")
        questions[key] = Question(key, text, passages, answers, documents)
    return list(questions.values())


def _answers(row: Row) -> tuple[str, ...] | None:
    """Read answers as a text, a list, or in SQuAD's form; None if they are malformed."""
    answers = row.get("answers", row.get("answer"))
    answers = answers.get("text") if isinstance(answers, dict) else answers
    answers = [answers] if isinstance(answers, str) else [] if answers is None else answers
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        return None
    return tuple(each for each in answers if each.strip())


def _documents(row: Row) -> tuple[str, ...] | None:
    """Read the paths of documents that answer; None if they are malformed."""
    paths = row.get("documents", [])
    return tuple(paths) if isinstance(paths, list) and all(isinstance(path, str) for path in paths) else None


def _passages(row: Row) -> dict[str, str] | None:
    """Read passages by their ids; None if there are none though the row says so, one has no text, or an id is twice."""
    if isinstance(context := row.get("context"), str):
        return {"1": context}
    if "passages" not in row and "context" not in row:  # they may be retrieved
        return {} if {"answers", "answer", "documents"} & row.keys() else None
    passages = row.get("passages", context)
    texts: dict[str, str] = {}
    for number, each in enumerate(passages if isinstance(passages, list) else (), 1):
        key, text = (each.get("id", number), each.get("text")) if isinstance(each, dict) else (number, each)
        if not isinstance(text, str) or str(key) in texts:
            return None
        texts[str(key)] = text
    return texts or None
