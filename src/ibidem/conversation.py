"""Conversations: turns of a system, a user, an assistant and its tools.

A turn consists of parts, so that passages, citations and tool calls are never confused with text that looks like them:

    user        text "When does it open?", passage "Opening hours: 9 to 17."
    assistant   text "At nine", cite "1", text "."

`ibidem.tokenization.chat` turns a conversation into ids; `plain` renders it for people and for text filters.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

Role = Literal["system", "user", "assistant", "tool"]
PartKind = Literal["text", "passage", "cite", "tool_call"]
ROLES: tuple[Role, ...] = get_args(Role)
PART_KINDS: tuple[PartKind, ...] = get_args(PartKind)
ASSISTANTS_OWN = frozenset({"cite", "tool_call"})
"""Kinds of parts that only an assistant's turn has; the others' turns alone have passages."""

FOLLOWERS: Mapping[Role | None, frozenset[Role]] = {
    None: frozenset({"system", "user"}),
    "system": frozenset({"user"}),
    "user": frozenset({"assistant"}),
    "assistant": frozenset({"user", "tool"}),
    "tool": frozenset({"tool", "assistant"}),
}
"""Roles that may follow a turn of a role; None is the beginning."""


class Part(NamedTuple):
    """A part of a turn; `text` is verbatim."""

    kind: PartKind
    text: str


class Turn(NamedTuple):
    """What one speaker says at once."""

    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, role: Role, text: str) -> "Turn":
        """Return a turn of text alone."""
        return cls(role, (Part("text", text),))

    @property
    def text(self) -> str:
        """Its parts for people: citations as [1], each passage and tool call in a paragraph of its own."""
        return "".join(map(plain_part, self.parts)).strip("\n")

    @property
    def is_blank(self) -> bool:
        """Whether no part has any text."""
        return not any(part.text.strip() for part in self.parts)


Conversation = tuple[Turn, ...]


def plain_part(part: Part) -> str:
    """Return a part for people: a citation as [1], a passage or tool call in a paragraph of its own."""
    match part.kind:
        case "text":
            return part.text
        case "cite":
            return f" [{part.text}]"
        case "passage":
            return f"\n\nPassage:\n{part.text}\n\n"
        case "tool_call":
            return f"\n\nTool call:\n{part.text}\n\n"


def plain(turns: Iterable[Turn], rejected: Iterable[Part] | None = None) -> str:
    r"""Render a conversation as plain text; of a preference pair, the rejected answer stands below the chosen one.

    >>> plain([Turn.of("user", "Hi"), Turn.of("assistant", "Hello")])
    'User:\nHi\n\nAssistant:\nHello\n'
    >>> plain([Turn.of("user", "Hi"), Turn.of("assistant", "Hello")], [Part("text", "Go away")])
    'User:\nHi\n\nAssistant:\nHello\n\nRejected:\nGo away\n'
    """
    said = [(turn.role.capitalize(), turn.text) for turn in turns]
    if rejected is not None:
        said.append(("Rejected", Turn("assistant", tuple(rejected)).text))
    return "\n\n".join(f"{who}:\n{_trimmed(text)}" for who, text in said) + "\n"


def check(turns: Sequence[Turn]) -> None:
    """Refuse what is not a conversation that an assistant can learn from or answer.

    Raises:
        ValueError: a turn is empty, in the wrong place, or has parts of another role; the message names it.
    """
    if all(turn.role != "user" for turn in turns):
        raise ValueError("the conversation has no turn of a user")
    before: Role | None = None
    for number, turn in enumerate(turns, 1):
        if turn.role == before != "tool":
            raise ValueError(f"turns {number - 1} and {number} are both of the {turn.role}")
        if turn.role not in FOLLOWERS[before]:
            place = "come first" if before is None else f"follow a turn of the {before}"
            raise ValueError(f"turn {number}: a turn of the {turn.role} cannot {place}")
        if turn.is_blank and turn.role != "tool":
            raise ValueError(f"turn {number}, of the {turn.role}, is empty")
        for part in turn.parts:
            if part.kind != "text" and (part.kind in ASSISTANTS_OWN) != (turn.role == "assistant"):
                raise ValueError(f"turn {number}: a turn of the {turn.role} has no {part.kind}")
        before = turn.role


def answered(turns: Sequence[Turn]) -> Conversation:
    """Return a conversation up to its last answer; empty if the assistant says nothing.

    >>> answered([Turn.of("user", "Hi"), Turn.of("assistant", "Hello"), Turn.of("user", "Bye")])[-1].role
    'assistant'
    """
    last = max((number for number, turn in enumerate(turns, 1) if turn.role == "assistant"), default=0)
    return tuple(turns[:last])


def is_same(one: Iterable[Part], other: Iterable[Part]) -> bool:
    r"""Check whether two answers are equal, blanks around them aside.

    >>> is_same([Part("text", "Yes")], [Part("text", "Yes\n")])
    True
    """
    return Turn("assistant", tuple(one)).text.strip() == Turn("assistant", tuple(other)).text.strip()


def to_rows(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """Return turns as plain values, for JSON and Parquet."""
    return [{"role": turn.role, "parts": [part._asdict() for part in turn.parts]} for turn in turns]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> Conversation:
    """Return the turns that `to_rows` wrote."""
    return tuple(Turn(row["role"], tuple(Part(part["kind"], part["text"]) for part in row["parts"])) for row in rows)


def _trimmed(text: str) -> str:
    return text.rstrip().lstrip("\r\n")
