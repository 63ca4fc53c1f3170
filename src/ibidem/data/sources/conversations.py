r"""Render conversations and instructions in the columns of a dataset as plain text.

| COLUMN | as in |
|---|---|
| a list of messages: `role` and `content`, `from` and `value`, or `role` and `text` | UltraChat, ShareGPT |
| the root of a tree of replies; the best ranked reply is followed | `prompt` of OpenAssistant's trees |
| `instruction`, `prompt` or `question`, with its answer in another column | Alpaca, Dolly, Self-Instruct |

Each turn is a line with the speaker, followed by the text; turns are separated by a blank line:

    User:
    What is the capital of Haiti?

    Assistant:
    Port-au-Prince
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

ASKED = ("instruction", "prompt", "question")
CONTEXT = ("input", "context")
ANSWER = ("output", "response", "completion", "answer", "instances")
ROLE = ("role", "from")
CONTENT = ("content", "value", "text")
SPEAKERS = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
REPLIES = "replies"

Turn = tuple[str, str]


def conversation(value: object) -> str | None:
    r"""Render a list of messages or a tree of replies; return None if the value is neither.

    >>> conversation([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}])
    'User:\nHi\n\nAssistant:\nHello\n'

    Raises:
        ValueError: a message has no role or no text.
    """
    if isinstance(value, Mapping) and REPLIES in value:
        return _render(_turns(_best_path(value)))
    if isinstance(value, list) and value and all(isinstance(message, Mapping) for message in value):
        return _render(_turns(value))
    return None


def pair(asked: str, context: object, answer: object) -> str:
    r"""Render an instruction and its answer, or its answers for several inputs (`instances` of Self-Instruct).

    >>> pair("Add.", "1 + 1", "2")
    'User:\nAdd.\n\n1 + 1\n\nAssistant:\n2\n'

    Raises:
        ValueError: there is no answer, or it is not text.
    """
    instances = answer if isinstance(answer, list) and answer else [{"input": context, "output": answer}]
    return _render(turn for instance in instances for turn in _asked_and_answered(asked, instance))


def _asked_and_answered(asked: str, instance: object) -> Iterator[Turn]:
    answer = instance.get("output") if isinstance(instance, Mapping) else None
    if not isinstance(answer, str):
        raise ValueError("the instruction has no answer in text")  # noqa: TRY004 - a fact about the data
    context = instance.get("input") if isinstance(instance, Mapping) else None
    yield "user", "\n\n".join(part for part in (asked, context) if isinstance(part, str) and part.strip())
    yield "assistant", answer


def _turns(messages: Iterable[Mapping[str, Any]]) -> Iterator[Turn]:
    for number, message in enumerate(messages, start=1):
        role = next((message[name] for name in ROLE if message.get(name)), None)
        if not isinstance(role, str) or not re.fullmatch(r"\w[\w -]{0,30}", role):
            raise ValueError(f"message {number} has no role")
        content = _text(next((message[name] for name in CONTENT if message.get(name) is not None), None))
        if content is None:
            raise ValueError(f"message {number} has no text")
        yield SPEAKERS.get(role.lower(), role), content


def _text(content: object) -> str | None:
    """Return a text, or the joined text of parts that are all text (`{"type": "text", "text": ...}`)."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "\n".join(texts) if texts and len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _best_path(root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    message: Mapping[str, Any] | None = root
    while message is not None:
        yield message
        replies = [reply for reply in message.get(REPLIES) or () if isinstance(reply, Mapping)]
        message = min((reply for reply in replies if not reply.get("deleted")), key=_rank, default=None)


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) and not math.isnan(rank) else math.inf


def _render(turns: Iterable[Turn]) -> str:
    said = ((who.capitalize(), text.rstrip().lstrip("\r\n")) for who, text in turns)
    return "\n\n".join(f"{who}:\n{text}" for who, text in said) + "\n"
