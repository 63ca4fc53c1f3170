r"""Read conversations, instructions and preference pairs from the columns of a dataset.

| COLUMN | as in |
|---|---|
| a list of messages: `role` and `content`, `from` and `value`, or `role` and `text`; tool calls as OpenAI has them | UltraChat, ShareGPT |
| a tree of replies: its best ranked path, all paths, or pairs of ranked replies | `prompt` of OpenAssistant's trees |
| `instruction`, `prompt` or `question`, with its answer in another column | Alpaca, Dolly, Self-Instruct |
| `prompt` or `chosen`, with answers in `chosen` and `rejected`: texts, or lists of messages | UltraFeedback, TRL |
| `chosen`, with a dialogue of `\n\nHuman: ...\n\nAssistant: ...` there and in `rejected` | HH-RLHF |

A list of messages may be the only value of a mapping: `{"messages": [...]}`. A message may have `parts` instead of a
content, as `ibidem.conversation.to_rows` writes them.
"""  # noqa: E501 - a table

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ibidem.conversation import PART_KINDS, Conversation, Part, Role, Turn, check, is_same, plain

ASKED = ("instruction", "prompt", "question")
CONTEXT = ("input", "context")
ANSWER = ("output", "response", "completion", "answer", "instances")
CHOSEN, REJECTED, MARGIN = "chosen", "rejected", "margin"
SCORE_CHOSEN, SCORE_REJECTED = "score_chosen", "score_rejected"
ROLE = ("role", "from")
CONTENT = ("content", "value", "text")
LISTS = ("messages", "conversations")
SPEAKERS: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
REPLIES = "replies"
_DIALOGUE = re.compile(r"(?:\A\n*|\n\n)(Human|Assistant):")

Trees = Literal["best_path", "all_paths", "ranked_pairs"]
Message = Mapping[str, Any]


class Said(NamedTuple):
    """A conversation, or a preference pair: a conversation that ends with the chosen answer, and a rejected one."""

    turns: Conversation
    rejected: tuple[Part, ...] | None = None
    margin: float | None = None

    @property
    def text(self) -> str:
        """Its plain rendering."""
        return plain(self.turns, self.rejected)


class Ranked(NamedTuple):
    """Two paths of a tree that differ in their last reply, of which `chosen` is ranked better."""

    chosen: Sequence[Message]
    rejected: Sequence[Message]


def expand(value: object, trees: Trees) -> list[object]:
    """Return what becomes of a value: of a tree of replies its paths or pairs, otherwise the value itself.

    >>> tree = {"replies": [{"rank": 0, "replies": []}, {"rank": 1, "replies": []}]}
    >>> [len(path) for path in expand(tree, "all_paths")], len(expand(tree, "ranked_pairs"))
    ([2, 2], 1)
    """
    if not isinstance(value, Mapping) or REPLIES not in value:
        return [value]
    match trees:
        case "best_path":
            return [_best_path(value)]
        case "all_paths":
            return list(_paths(value))
        case "ranked_pairs":
            return list(_ranked(value)) or [Ranked((), ())]


def conversation(value: object, completion: object = None) -> Said | None:
    r"""Read a list of messages, or a pair of ranked replies; return None if the value is neither.

    A completion is a list of the messages that follow; whatever else it is, it is none.

    >>> conversation([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]).text
    'User:\nHi\n\nAssistant:\nHello\n'

    Raises:
        ValueError: it is not a conversation that an assistant can learn from or answer.
    """
    if isinstance(value, Ranked):
        if not value.chosen:
            raise ValueError("the tree has no two ranked replies to one prompt")
        return pair(None, value.chosen, value.rejected)
    if isinstance(value, Mapping) and len(value) == 1:
        value = next((value[name] for name in LISTS if name in value), value)
    messages = _messages(value)
    return None if messages is None else Said(_checked(_turns([*messages, *(_messages(completion) or ())])))


def instruction(asked: str, context: object, answer: object) -> Said:
    r"""Read an instruction and its answer, or its answers for several inputs (`instances` of Self-Instruct).

    >>> instruction("Add.", "1 + 1", "2").text
    'User:\nAdd.\n\n1 + 1\n\nAssistant:\n2\n'

    Raises:
        ValueError: there is no answer, or it is not text.
    """
    instances = answer if isinstance(answer, list) and answer else [{"input": context, "output": answer}]
    return Said(_checked(turn for instance in instances for turn in _asked_and_answered(asked, instance)))


def pair(asked: object, chosen: object, rejected: object, margin: float | None = None) -> Said:
    """Read a preference pair; without a prompt, the answers contain it.

    Raises:
        ValueError: an answer is missing, both are equal, or they answer different prompts.
    """
    better, worse = _answered(asked, chosen, CHOSEN), _answered(asked, rejected, REJECTED)
    if better[:-1] != worse[:-1]:
        raise ValueError("chosen and rejected answer different prompts")
    if is_same(better[-1].parts, worse[-1].parts):
        raise ValueError("chosen equals rejected")
    return Said(better, worse[-1].parts, margin)


def margin_of(margin: object, score_chosen: object, score_rejected: object) -> float | None:
    """Return by how much a chosen answer is better: as stated, or the difference of the scores; None if unknown.

    >>> margin_of(None, 8, 5.5), margin_of(None, 8, None)
    (2.5, None)

    Raises:
        ValueError: one of them is not a finite number.
    """
    stated, better, worse = (
        _number(name, value)
        for name, value in ((MARGIN, margin), (SCORE_CHOSEN, score_chosen), (SCORE_REJECTED, score_rejected))
    )
    return stated if stated is not None or better is None or worse is None else better - worse


def _number(name: str, value: object) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {str(value)[:50]!r}, not a finite number")
    return float(value)


def _checked(turns: Iterable[Turn]) -> Conversation:
    result = tuple(turns)
    if not result:
        raise ValueError("the conversation is empty")
    check(result)
    return result


def _asked_and_answered(asked: str, instance: object) -> Iterator[Turn]:
    answer = instance.get("output") if isinstance(instance, Mapping) else None
    if not isinstance(answer, str):
        raise ValueError("the instruction has no answer in text")  # noqa: TRY004 - a fact about the data
    context = instance.get("input") if isinstance(instance, Mapping) else None
    yield Turn.of("user", "\n\n".join(part for part in (asked, context) if isinstance(part, str) and part.strip()))
    yield Turn.of("assistant", answer)


def _answered(asked: object, answer: object, name: str) -> Conversation:
    """Return a whole conversation that ends with an answer: `chosen` or `rejected` after its prompt."""
    if answer is None:
        raise ValueError(f"the pair has no {name} answer")
    turns = _completion(answer, name, has_prompt=_is_given(asked))
    if _is_given(asked):
        prompt = _prompt(asked)
        if turns[0].role == "assistant":
            turns = (*prompt, *turns)
        elif turns[: len(prompt)] != prompt and _without_system(turns)[: len(prompt)] != prompt:
            raise ValueError(f"the prompt is not what {name} begins with")
    _checked(turns)
    if turns[-1].role != "assistant":
        raise ValueError(f"{name} ends with a turn of the {turns[-1].role}, not with an answer")
    return turns


def _is_given(asked: object) -> bool:
    return bool(asked.strip() if isinstance(asked, str) else asked)


def _completion(answer: object, name: str, *, has_prompt: bool) -> Conversation:
    messages = _messages([answer] if isinstance(answer, Mapping) else answer)
    if messages is not None:
        turns = tuple(_turns(messages))
        if not turns:
            raise ValueError(f"{name} has no messages")
        return turns
    if not isinstance(answer, str):
        raise ValueError(f"{name} is {type(answer).__name__}, not text")  # noqa: TRY004 - a fact about the data
    if has_prompt:
        return (Turn.of("assistant", answer),)
    dialogue = _dialogue(answer)
    if not dialogue:
        raise ValueError(f"{name} is no dialogue, and there is no prompt")
    return dialogue


def _prompt(asked: object) -> Conversation:
    messages = _messages(asked)
    if messages is not None:
        return tuple(_turns(messages))
    if not isinstance(asked, str):
        raise ValueError(f"the prompt is {type(asked).__name__}, not text")  # noqa: TRY004 - a fact about the data
    turns = _dialogue(asked)
    if turns and turns[-1].role == "assistant" and turns[-1].is_blank:
        turns = turns[:-1]
    return turns or (Turn.of("user", asked),)


def _without_system(turns: Conversation) -> Conversation:
    return turns[1:] if turns[0].role == "system" else turns


def _dialogue(text: str) -> Conversation:
    """Split a dialogue of HH-RLHF, in which blanks surround each turn; empty if the text is none."""
    before, *rest = _DIALOGUE.split(text)
    if before or not rest:
        return ()
    return tuple(Turn.of(SPEAKERS[who.lower()], said.strip()) for who, said in zip(rest[::2], rest[1::2], strict=True))


def _messages(value: object) -> list[Message] | None:
    is_list = isinstance(value, list | tuple) and all(isinstance(message, Mapping) for message in value)
    return list(value) if is_list else None  # type: ignore[call-overload]


def _turns(messages: Iterable[Message]) -> Iterator[Turn]:
    for number, message in enumerate(messages, start=1):
        role = next((message[name] for name in ROLE if message.get(name)), None)
        if not isinstance(role, str):
            raise ValueError(f"message {number} has no role")  # noqa: TRY004 - a fact about the data
        if role.lower() not in SPEAKERS:
            raise ValueError(f"message {number} has the unknown role {role[:50]!r}")
        parts = tuple(_parts(message))
        if not parts:
            raise ValueError(f"message {number} has no text")
        yield Turn(SPEAKERS[role.lower()], parts)


def _parts(message: Message) -> Iterator[Part]:
    content = _text(next((message[name] for name in CONTENT if message.get(name) is not None), None))
    calls = [Part("tool_call", _call(call)) for call in _list(message.get("tool_calls"))]
    if content or (content is not None and not calls):
        yield Part("text", content)
    yield from calls
    for part in _list(message.get("parts")):
        kind, text = (part.get("kind"), part.get("text")) if isinstance(part, Mapping) else (None, None)
        if kind not in PART_KINDS or not isinstance(text, str):
            raise ValueError(f"a part of a message has the unknown kind {str(kind)[:50]!r}, or no text")
        yield Part(kind, text)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _call(call: object) -> str:
    """Return a tool call as JSON of its name and arguments."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call has no function with a name")  # noqa: TRY004 - a fact about the data
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise ValueError(f"the arguments of the tool call {function['name'][:50]!r} are not JSON") from None
    return json.dumps({"name": function["name"], "arguments": arguments or {}}, ensure_ascii=False)


def _text(content: object) -> str | None:
    """Return a text, or the joined text of parts that are all text (`{"type": "text", "text": ...}`)."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "\n".join(texts) if texts and len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _replies(message: Message) -> list[Message]:
    replies = [reply for reply in _list(message.get(REPLIES)) if isinstance(reply, Mapping)]
    return [reply for reply in replies if not reply.get("deleted")]


def _best_path(root: Message) -> list[Message]:
    path = [root]
    while replies := _replies(path[-1]):
        path.append(min(replies, key=_rank))
    return path


def _paths(root: Message) -> Iterator[list[Message]]:
    """Yield each path from the root to a leaf, in the order of the tree."""
    open_paths = [[root]]
    while open_paths:
        path = open_paths.pop()
        replies = _replies(path[-1])
        if not replies:
            yield path
        open_paths += [[*path, reply] for reply in reversed(replies)]


def _ranked(root: Message) -> Iterator[Ranked]:
    """Yield each two answers to one prompt of which one is ranked better, from the root down.

    Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5 (all pairs of the ranked answers to a prompt).
    """
    open_paths = [[root]]
    while open_paths:
        path = open_paths.pop()
        replies = _replies(path[-1])
        ranked = sorted((reply for reply in replies if _answers(reply)), key=_rank)
        for place, better in enumerate(ranked):
            for worse in ranked[place + 1 :]:
                if _rank(better) < _rank(worse):
                    yield Ranked([*path, better], [*path, worse])
        open_paths += [[*path, reply] for reply in reversed(replies)]


def _answers(reply: Message) -> bool:
    role = reply.get("role")
    is_assistant = isinstance(role, str) and SPEAKERS.get(role.lower()) == "assistant"
    return is_assistant and not math.isinf(_rank(reply))


def _rank(reply: Message) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) and not math.isnan(rank) else math.inf
