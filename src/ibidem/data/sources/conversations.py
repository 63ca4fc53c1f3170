r"""Read conversations, instructions and preference pairs from the columns of a dataset.

| COLUMN | as in |
|---|---|
| a list of messages: `role` and `content`, `from` and `value`, or `role` and `text`; tool calls as OpenAI has them | UltraChat, ShareGPT |
| a tree of replies: its best ranked path, all paths, or pairs of ranked replies | `prompt` of OpenAssistant's trees |
| `instruction`, `prompt` or `question`, with its answer in another column | Alpaca, Dolly, Self-Instruct |
| `text` or `prompt`, with `test_list`: a programming problem; its `code`, if it has any, is the answer | MBPP |
| `prompt`: a list of messages, with its answer in another column: a text, a message or a list of messages | TRL |
| `prompt` or `chosen`, with answers in `chosen` and `rejected`: texts, or lists of messages | UltraFeedback, TRL |
| `chosen`, with a dialogue of `\n\nHuman: ...\n\nAssistant: ...` there and in `rejected` | HH-RLHF |

Other columns add to the prompt; an empty one adds nothing:

| COLUMN | becomes |
|---|---|
| `input` or `context` | a paragraph below an instruction, or below a pair's prompt, that is text |
| `system` or `system_prompt` | the system turn, if the conversation has none; it may repeat the one that it has |
| `tools` or `functions`: a list of JSON function schemas, or a string of one | the last paragraph of the system turn: `Tools:`, and below it the list as one line of JSON, without keys that are null unless it is a string |
| `margin` | by how much the chosen answer is better; at least 0 |
| `score_chosen`, `score_rejected` | nothing, but the chosen answer must not have the lower score |

A row is quarantined if two such columns differ, or a column, an answer or a tool call cannot be read. The text of a
prompt is verbatim: only `chosen` and `rejected` without a prompt are split into turns. COLUMN is plain text if it is a
text without an answer or a pair beside it.

A list of messages may be the only value of a mapping: `{"messages": [...]}`. A message may have `parts` instead of a
content, as `ibidem.conversation.to_rows` writes them; the legacy `function_call` is a tool call.
"""  # noqa: E501 - a table

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ibidem.conversation import PART_KINDS, Conversation, Part, Role, Turn, check, is_same, plain
from ibidem.data.text.clean import block

ASKED = ("instruction", "prompt", "question")
CONTEXT = ("input", "context")
SYSTEM = ("system", "system_prompt")
TOOLS = ("tools", "functions")
ANSWER = ("output", "response", "completion", "answer", "instances")
CHOSEN, REJECTED, MARGIN = "chosen", "rejected", "margin"
STATEMENT, TESTS, CODE = ("text", "prompt"), "test_list", "code"
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
_NO_PROMPT_IN_TEXT = "an input is given, but no prompt in text"
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


class Preface(NamedTuple):
    """What other columns add to the system turn of a conversation: a text, and a list of tools."""

    system: str | None = None
    tools: str | None = None

    def before(self, turns: Conversation) -> Conversation:
        r"""Return the turns with it in the first one.

        >>> Preface("Be kind.", "Tools:\n[]").before((Turn.of("user", "Hi"),))[0].text
        'Be kind.\n\nTools:\n[]'

        Raises:
            ValueError: the conversation has another system turn.
        """
        has_own = bool(turns) and turns[0].role == "system"
        parts = turns[0].parts if has_own and not turns[0].is_blank else ()
        if self.system is not None:
            if parts and turns[0].text.strip() != self.system.strip():
                raise ValueError("the system turn is not what the column says")
            parts = parts or (Part("text", self.system),)
        if self.tools is not None:
            ends_in_text = bool(parts) and parts[-1].kind == "text"
            last = _joined(parts[-1].text, self.tools) if ends_in_text else self.tools
            parts = (*(parts[:-1] if ends_in_text else parts), Part("text", last))
        return (Turn("system", parts), *turns[has_own:]) if parts else turns


NO_PREFACE = Preface()


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


def conversation(
    value: object, answer: object = None, *, context: str | None = None, preface: Preface = NO_PREFACE
) -> Said | None:
    r"""Read a list of messages, or a pair of ranked replies; return None if the value is neither.

    Args:
        value: the messages.
        answer: what follows them: a text, a message or a list of messages.
        context: refused, because no message is known to which it belongs.
        preface: what the system turn gets.

    >>> conversation([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]).text
    'User:\nHi\n\nAssistant:\nHello\n'

    Raises:
        ValueError: it is not a conversation that an assistant can learn from or answer.
    """
    if isinstance(value, Ranked):
        if not value.chosen:
            raise ValueError("the tree has no two ranked replies to one prompt")
        if _answer(answer):
            raise ValueError("ranked replies have an answer in another column")
        return pair(None, value.chosen, value.rejected, context=context, preface=preface)
    if isinstance(value, Mapping) and len(value) == 1:
        value = next((value[name] for name in LISTS if name in value), value)
    messages = _messages(value)
    if messages is None:
        return None
    if context is not None:
        raise ValueError(_NO_PROMPT_IN_TEXT)
    return Said(_checked(preface.before(tuple(_turns([*messages, *_answer(answer)])))))


def instruction(asked: str, context: str | None, answer: object, preface: Preface = NO_PREFACE) -> Said:
    r"""Read an instruction and its answer, or its answers for several inputs (`instances` of Self-Instruct).

    >>> instruction("Add.", "1 + 1", "2").text
    'User:\nAdd.\n\n1 + 1\n\nAssistant:\n2\n'

    Raises:
        ValueError: there is no answer, or it is not text.
    """
    asked = _joined(asked, context)
    instances = answer if isinstance(answer, list) and answer else [{"output": answer}]
    turns = (turn for instance in instances for turn in _asked_and_answered(asked, instance))
    return Said(_checked(preface.before(tuple(turns))))


def problem(
    asked: str, tests: object, code: object, *, context: str | None = None, preface: Preface = NO_PREFACE
) -> Said:
    r"""Read a programming problem, and its solution if there is one; the tests are no part of the conversation.

    >>> problem("Add.", ["assert add(1, 1) == 2"], "def add(a, b): return a + b").text
    'User:\nAdd.\n\nAssistant:\n```python\ndef add(a, b): return a + b\n```\n'

    Raises:
        ValueError: the tests are not a list, or the solution is not text.
    """
    if not _is_missing(tests) and not isinstance(tests, list):
        raise ValueError(f"{TESTS} is {type(tests).__name__}, not a list")
    if not _is_missing(code) and not isinstance(code, str):
        raise ValueError(f"{CODE} is {type(code).__name__}, not text")
    solved = isinstance(code, str) and code.strip()
    answer = (Turn.of("assistant", block(str(code))),) if solved else ()
    return Said(_checked(preface.before((Turn.of("user", _joined(asked, context)), *answer))))


def pair(
    asked: object,
    chosen: object,
    rejected: object,
    margin: float | None = None,
    *,
    context: str | None = None,
    preface: Preface = NO_PREFACE,
) -> Said:
    """Read a preference pair; without a prompt, the answers contain it.

    Args:
        asked: the prompt: a text, or messages.
        chosen: the better answer.
        rejected: the worse answer.
        margin: by how much it is worse.
        context: what stands below a prompt that is text.
        preface: what the system turn gets.

    Raises:
        ValueError: an answer is missing, both are equal, or they answer different prompts.
    """
    if context is not None:
        if not isinstance(asked, str) or not asked.strip():
            raise ValueError(_NO_PROMPT_IN_TEXT)
        asked = _joined(asked, context)
    better, worse = (
        preface.before(_answered(asked, answer, name)) for answer, name in ((chosen, CHOSEN), (rejected, REJECTED))
    )
    if better[:-1] != worse[:-1]:
        raise ValueError("chosen and rejected answer different prompts")
    if is_same(better[-1].parts, worse[-1].parts):
        raise ValueError("chosen equals rejected")
    return Said(better, worse[-1].parts, margin)


def margin_of(margin: object, score_chosen: object, score_rejected: object) -> float | None:
    """Return by how much a chosen answer is better, as stated; None if it is not. The scores are only checked.

    >>> margin_of(0.5, 8, 5.5), margin_of(None, 8, 5.5)
    (0.5, None)

    Raises:
        ValueError: one of them is not a finite number, or the chosen answer is the worse one.
    """
    stated = None if margin is None else _number(MARGIN, margin)
    if stated is not None and stated < 0:
        raise ValueError(f"{MARGIN} is {margin}: chosen is the worse answer")
    better, worse = (
        None if _is_missing(score) else _number(name, score)
        for name, score in ((SCORE_CHOSEN, score_chosen), (SCORE_REJECTED, score_rejected))
    )
    if better is not None and worse is not None and better < worse:
        raise ValueError(f"{SCORE_CHOSEN} is {score_chosen}, less than {SCORE_REJECTED}, {score_rejected}")
    return stated


def only_text(columns: Mapping[str, object]) -> str | None:
    """Return the text of columns that mean the same; None if all are empty.

    >>> only_text({"input": "1 + 1", "context": None})
    '1 + 1'

    Raises:
        ValueError: one of them is not text, or they differ.
    """
    texts = {name: value for name, value in columns.items() if not _is_missing(value)}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is {type(value).__name__}, not text")  # noqa: TRY004 - a fact about the data
    given = {name: str(value) for name, value in texts.items() if str(value).strip()}
    if len({text.strip() for text in given.values()}) > 1:
        raise ValueError(f"{' and '.join(given)} differ")
    return next(iter(given.values()), None)


def listed_tools(columns: Mapping[str, object]) -> str | None:
    r"""Return the paragraph of a system turn that lists tools; None if there are none.

    >>> listed_tools({"tools": [{"name": "clock", "parameters": {"zone": None}}]})
    'Tools:\n[{"name": "clock", "parameters": {}}]'

    Raises:
        ValueError: a column is not a list of functions with names, or two differ.
    """
    return only_text({name: _tools(name, value) for name, value in columns.items()})


def _tools(name: str, value: object) -> str | None:
    if isinstance(value, str):
        tools = _parsed(value, f"{name} is not JSON") if value.strip() else None
    else:
        tools = _parsed(_json(value), "", without_null=True)
    if _is_missing(tools) or tools == []:
        return None
    if not isinstance(tools, list) or not all(map(_is_function, tools)):
        raise ValueError(f"{name} is not a list of functions with names")
    return f"Tools:\n{_json(tools)}"


def _is_function(tool: object) -> bool:
    function = (tool.get("function") or tool) if isinstance(tool, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _parsed(text: str, reason: str, *, without_null: bool = False) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_null if without_null else None)
    except (ValueError, RecursionError):
        raise ValueError(reason) from None


def _without_null(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Drop the keys that an Arrow file adds to each mapping because others have them."""
    return {name: value for name, value in pairs if value is not None}


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"a tool cannot be written as JSON: {error}"[:200]) from None


def _joined(*texts: object) -> str:
    return "\n\n".join(text for text in texts if isinstance(text, str) and text.strip())


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(name: str, value: object) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"{name} is {str(value)[:50]!r}, not a finite number")


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
    context = only_text({"input": instance.get("input")}) if isinstance(instance, Mapping) else None
    yield Turn.of("user", _joined(asked, context))
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
    return (Turn.of("user", asked),)


def _without_system(turns: Conversation) -> Conversation:
    return turns[1:] if turns[0].role == "system" else turns


def _dialogue(text: str) -> Conversation:
    """Split a dialogue of HH-RLHF, in which blanks surround each turn; empty if the text is none."""
    before, *rest = _DIALOGUE.split(text)
    if before or not rest:
        return ()
    return tuple(Turn.of(SPEAKERS[who.lower()], said.strip()) for who, said in zip(rest[::2], rest[1::2], strict=True))


def _answer(value: object) -> list[Message]:
    if _is_missing(value):
        return []
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    messages = _messages([value] if isinstance(value, Mapping) else value)
    if messages is None:
        raise ValueError(f"the answer is {type(value).__name__}, neither text nor messages")
    return messages


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
    """Yield the parts of a message; none if it has a content that is not text."""
    said = next((message[name] for name in CONTENT if message.get(name) is not None), None)
    content = _text(said)
    if content is None and said not in (None, []):
        return
    calls = [*_list(message, "tool_calls")]
    if message.get("function_call") is not None:
        calls.append({"function": message["function_call"]})
    if content or (content is not None and not calls):
        yield Part("text", content)
    yield from (Part("tool_call", _call(call)) for call in calls)
    for part in _list(message, "parts"):
        kind, text = (part.get("kind"), part.get("text")) if isinstance(part, Mapping) else (None, None)
        if kind not in PART_KINDS or not isinstance(text, str):
            raise ValueError(f"a part of a message has the unknown kind {str(kind)[:50]!r}, or no text")
        yield Part(kind, text)


def _list(message: Message, name: str) -> list[Any]:
    value = message.get(name)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{name} is {type(value).__name__}, not a list")
    return value or []


def _call(call: object) -> str:
    """Return a tool call as JSON of its name and arguments."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call has no function with a name")  # noqa: TRY004 - a fact about the data
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"the arguments of the tool call {function['name'][:50]!r} are not JSON")
    return _json({"name": function["name"], "arguments": arguments or {}})


def _text(content: object) -> str | None:
    """Return a text, or the joined text of parts that are all text (`{"type": "text", "text": ...}`)."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "\n".join(texts) if texts and len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _replies(message: Message) -> list[Message]:
    replies = message.get(REPLIES)
    replies = [reply for reply in replies if isinstance(reply, Mapping)] if isinstance(replies, list) else []
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
