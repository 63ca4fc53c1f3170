"""The report's section about private documents: questions, what each principal is shown, and what that cites."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ibidem.errors import ConfigError, DataError
from ibidem.figures import counted
from ibidem.page import Html, join, table, tag

Answer = dict[str, Any]
_KINDS = {"question": str, "principal": str, "answer": str, "citations": list, "removed": int, "unsupported": list}
_CITED = {"number": int, "chunk": str, "path": str, "title": list, "span": list, "supported": bool}


def read_answer(path: Path) -> Answer:
    """Read what `ibidem ground ask --json` printed.

    Raises:
        ConfigError: it does not exist.
        DataError: it is something else.
    """
    try:
        answer = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"answers {path}: {error.strerror}; give what ibidem ground ask --json printed") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"answers {path}: not JSON: {error}") from None
    if not _has(answer, _KINDS) or not all(_has(row, _CITED) for row in answer["citations"]) or not _has_claims(answer):
        raise DataError(f"answers {path}: not what ibidem ground ask --json prints")
    return dict(answer)


def _has(value: object, kinds: dict[str, type]) -> bool:
    return isinstance(value, dict) and all(type(value.get(name)) is kind for name, kind in kinds.items())


def _has_claims(answer: Answer) -> bool:
    """Return whether the claims that a head scored are well formed, if there are any."""
    claims = answer.get("claims", [])
    return isinstance(claims, list) and all(
        isinstance(claim, dict)
        and isinstance(claim.get("claim"), str)
        and (claim.get("score") is None or type(claim["score"]) is float)
        for claim in claims
    )


def documents(answers: Sequence[Answer]) -> Html:
    """Show each question once, and below it what each principal is shown."""
    questions = dict.fromkeys(answer["question"] for answer in answers)
    note = "As printed by ibidem ground ask."
    asked = [
        join(tag("h3", question), *(_answer(answer) for answer in answers if answer["question"] == question))
        for question in questions
    ]
    return join(tag("p", note, cls="note"), *asked)


def _answer(answer: Answer) -> Html:
    rows = [
        (
            f"[{row['number']}]",
            join(row["path"], tag("div", " > ".join(map(str, row["title"])), cls="soft")),
            tag("pre", row["quote"]) if row.get("quote") else "no verbatim quote",
            tag("span", "supported", cls="good") if row["supported"] else tag("span", "not supported", cls="bad"),
        )
        for row in answer["citations"]
    ]
    cited = table(("", "Document", "Quote", "Checked"), rows) if rows else join()
    claims = [claim for claim in answer.get("claims", ()) if claim.get("score") is not None]
    scored = [(claim["claim"], f"{claim['score']:.2f}") for claim in claims]
    removed, unsupported = answer["removed"], len(answer["unsupported"])
    notes = [
        f"{counted(removed, 'citation')} of passages that do not exist removed" if removed else "",
        f"{counted(unsupported, 'claim')} unsupported" if unsupported else "",
    ]
    said = "; ".join(filter(None, notes))
    return join(
        tag("h4", f"Shown to {answer['principal']}"),
        tag("pre", answer["answer"]),
        cited,
        table(("Claim", "The head's score, 0 to 1"), scored) if scored else join(),
        tag("p", said, cls="note") if said else join(),
    )
