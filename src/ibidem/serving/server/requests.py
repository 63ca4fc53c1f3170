"""What a request to the API asks for.

    bytes --> JSON, strictly --> fields of OpenAI's API --> ChatAsked, CompletionAsked
              UTF-8, depth,      unknown: refused
              no key twice,      would change the answer, and cannot be had: refused
              no NaN, no NUL     without effect: accepted

A parameter is never ignored that would change the answer.
"""

import dataclasses
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import FailFast, Field, TypeAdapter, ValidationError
from starlette.requests import Request

from ibidem.config import configuration
from ibidem.conversation import Conversation, Part, Role, Turn, check
from ibidem.figures import counted, visible
from ibidem.serving.config import TEMPERATURE, TOP_P, LimitsConfig
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.speech import SamplingParams
from ibidem.tokenization.special import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

B = TypeVar("B")

MOST_BY_DEFAULT = 512
"""Maximum length of an answer, in tokens, unless the request names one."""
ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Unsupported parameters and the values at which they have no effect; null always is one."""
NEUTRAL_OF_MESSAGES: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "name": (),
    "refusal": (),
    "tool_calls": ([],),
}
SHOWN_CHARS = 60
UNKNOWN, UNSUPPORTED = "unknown_parameter", "unsupported_parameter"


@configuration
class _StreamOptions:
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


@configuration
class _Body:
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
    stop: Any = None
    user: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    n: Any = None
    presence_penalty: Any = None


@configuration
class _ChatBody(_Body):
    messages: Annotated[list[dict[str, Any]], FailFast()]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    metadata: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    store: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    verbosity: Any = None
    web_search_options: Any = None


@configuration
class _CompletionBody(_Body):
    prompt: Any
    suffix: str | None = None
    best_of: Any = None
    echo: Any = None


class Wanted(NamedTuple):
    """How an answer is to be drawn and sent; None: as the server sees fit."""

    model: str
    is_streamed: bool
    with_usage: bool
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]


class ChatAsked(NamedTuple):
    """A conversation to answer."""

    turns: Conversation
    wanted: Wanted


class CompletionAsked(NamedTuple):
    """A text to continue; with a suffix, a gap to fill."""

    prompt: str
    suffix: str | None
    wanted: Wanted


async def body_of(request: Request) -> bytes:
    """Receive the body of a request.

    Raises:
        ApiError: it is not said to be JSON, as pages of other sites could have it sent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be JSON; say so: Content-Type: application/json")
    return await request.body()


def chat(body: bytes, limits: LimitsConfig) -> ChatAsked:
    """Read a request for /v1/chat/completions.

    Raises:
        ApiError: it is malformed, over a limit, or asks for what cannot be had; `param` names the parameter.
    """
    asked = _read(_ChatBody, body, limits)
    if asked.max_tokens is not None and asked.max_completion_tokens not in {None, asked.max_tokens}:
        raise _refused("max_tokens", "differs from max_completion_tokens; leave one of them out")
    most = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    name = "max_tokens" if asked.max_completion_tokens is None else "max_completion_tokens"
    return ChatAsked(_conversation(asked.messages, limits), _wanted(asked, name, most, limits))


def completion(body: bytes, limits: LimitsConfig) -> CompletionAsked:
    """Read a request for /v1/completions; one with the marks of fill-in-the-middle in its prompt has a suffix.

    Raises:
        ApiError: as `chat`.
    """
    asked = _read(_CompletionBody, body, limits)
    prompt, suffix = _prompt(asked.prompt), asked.suffix
    if suffix is None:
        prompt, suffix = _parted(prompt)
    return CompletionAsked(prompt, suffix, _wanted(asked, "max_tokens", asked.max_tokens, limits))


def sampling(
    wanted: Wanted, *, room: int | None, most: int, temperature: float = TEMPERATURE, param: str = "messages"
) -> SamplingParams:
    """Return how an answer is drawn.

    Args:
        wanted: what the request says of it.
        room: how many tokens fit behind the prompt, negative if it is too long; None if nobody knows.
        most: the limit of the server.
        temperature: unless the request names one.
        param: what the prompt is called.

    Raises:
        ApiError: the prompt is too long.
    """
    if room is not None and room < 1:
        over = counted(1 - room, "token")
        message = f"{param}: too long for the model's context by at least {over}; shorten the text"
        raise ApiError(400, message, code="context_length_exceeded", param=param)
    asked = min(MOST_BY_DEFAULT, most) if wanted.max_tokens is None else wanted.max_tokens
    return SamplingParams(
        max_tokens=asked if room is None else min(asked, room),
        temperature=temperature if wanted.temperature is None else wanted.temperature,
        top_p=TOP_P if wanted.top_p is None else wanted.top_p,
        seed=secrets.randbits(32) if wanted.seed is None else wanted.seed,
        stop=wanted.stop,
    )


def parsed(body: bytes, limits: LimitsConfig) -> Any:
    """Read JSON strictly.

    Raises:
        ApiError: it is not UTF-8 or not JSON, a key appears twice, a number is not finite, a text has a NUL or half of
            a surrogate pair, or it is nested too deeply.
    """
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_mapping, parse_float=_finite, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8") from None
    except RecursionError:
        raise _too_deep(limits) from None
    except json.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # an integer of thousands of digits
        raise ApiError(400, "the body has a number that is too long") from None
    _check_values(value, limits, limits.json_depth)
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ApiError(400, f"key {_shown(key)} appears twice", param=_shown(key))
        mapping[key] = value
    return mapping


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _not_finite(text)
    return number


def _not_finite(word: str) -> ApiError:
    return ApiError(400, f"the body has {_shown(word)}, which is no finite number")


def _refuse_constant(word: str) -> Any:
    raise _not_finite(word)


def _too_deep(limits: LimitsConfig) -> ApiError:
    return ApiError(400, f"the body has more than {limits.json_depth} lists and objects in one another")


def _check_values(value: Any, limits: LimitsConfig, depth: int) -> None:
    match value:
        case str():
            _check_text(value)
        case dict() | list() if depth == 0:
            raise _too_deep(limits)
        case dict():
            for key, item in value.items():
                _check_text(key)
                _check_values(item, limits, depth - 1)
        case list():
            for item in value:
                _check_values(item, limits, depth - 1)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ApiError(400, "the body has a text with a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise ApiError(400, f"the body has a text with half of a surrogate pair, {half}; send whole ones") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _read(kind: type[B], body: bytes, limits: LimitsConfig) -> B:
    tree = parsed(body, limits)
    if not isinstance(tree, dict):
        raise ApiError(400, "the body must be an object")
    _check_known(tree, kind, "")  # pydantic would build an error for each
    if isinstance(options := tree.get("stream_options"), dict):
        _check_known(options, _StreamOptions, "stream_options.")
    try:
        found: B = _adapter(kind).validate_json(body, strict=True)  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as error:
        raise _explained(error.errors()[0]) from None
    _check_neutral(tree, NEUTRAL, "")
    return found


def _explained(problem: Mapping[str, Any]) -> ApiError:
    param = _shown(".".join(str(part) for part in problem["loc"]))
    match problem["type"]:
        case "missing" | "missing_keyword_only_argument":
            return _refused(param, "is required")
        case _:
            message = problem["msg"]
            return _refused(param, f"{message[0].lower()}{message[1:]}")


def _check_known(tree: Mapping[str, Any], kind: type, place: str) -> None:
    known = {field.name for field in dataclasses.fields(kind)}
    for name in tree:
        if name not in known:
            raise _refused(_shown(f"{place}{name}"), "this server knows no such parameter; leave it out", UNKNOWN)


def _check_neutral(tree: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], place: str) -> None:
    for name in tree.keys() & neutral.keys():
        if tree[name] is not None and not any(_is_same(tree[name], value) for value in neutral[name]):
            raise _refused(f"{place}{name}", "not supported by this server; leave it out", UNSUPPORTED)


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _wanted(found: _Body, name: str, most: int | None, limits: LimitsConfig) -> Wanted:
    if most is not None and most > limits.max_tokens:
        raise _refused(name, f"at most {limits.max_tokens:,} here")
    options = found.stream_options
    if options is not None and not found.stream:
        raise _refused("stream_options", "only with stream: true")
    return Wanted(
        model=found.model,
        is_streamed=bool(found.stream),
        with_usage=options is not None and bool(options.include_usage),
        temperature=found.temperature,
        top_p=found.top_p,
        max_tokens=most,
        seed=found.seed,
        stop=_stops(found.stop, limits),
    )


def _stops(value: Any, limits: LimitsConfig) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise _refused("stop", "must be a text, or a list of texts, none of them empty")
    if len(stops) > limits.stop_strings:
        raise _refused("stop", f"at most {limits.stop_strings} texts here")
    return tuple(stops)


def _conversation(messages: Sequence[Mapping[str, Any]], limits: LimitsConfig) -> Conversation:
    if len(messages) > limits.messages:
        raise _refused("messages", f"at most {limits.messages} here")
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        turn = _turn(message, f"messages.{number}")
        if turns and turns[-1].role == turn.role:  # templates know no two turns of one role
            turn = Turn(turn.role, (*turns.pop().parts, Part("text", "\n\n"), *turn.parts))
        turns.append(turn)
    try:
        check(turns)
    except ValueError as error:
        raise _refused("messages", str(error)) from None
    if turns[-1].role != "user":
        raise _refused("messages", "the last one must be of the user")
    return tuple(turns)


def _turn(message: Mapping[str, Any], place: str) -> Turn:
    for name in message:
        if name not in {"role", "content", "annotations", *NEUTRAL_OF_MESSAGES}:
            raise _refused(_shown(f"{place}.{name}"), "this server knows no such key; leave it out", UNKNOWN)
    _check_neutral(message, NEUTRAL_OF_MESSAGES, f"{place}.")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _refused(f"{place}.role", f"must be one of {', '.join(ROLES)}")
    return Turn.of(ROLES[role], _text(message.get("content"), f"{place}.content"))


def _text(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _refused(place, "must be a text, or a list of parts of type text")
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise _refused(f"{place}.{number}", "only parts of type text are supported by this server", UNSUPPORTED)
        if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise _refused(f"{place}.{number}", "must have a type and a text, and nothing else")
        texts.append(part["text"])
    return "".join(texts)


def _prompt(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if not isinstance(value, str):
        raise _refused("prompt", "must be one text; token ids and several prompts are not supported by this server")
    return value


def _parted(prompt: str) -> tuple[str, str | None]:
    """Return what stands before and behind the gap, if a prompt is written with the marks of fill-in-the-middle.

    >>> _parted("<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"), _parted("a")
    (('a', 'b'), ('a', None))
    """
    if not prompt.startswith(FIM_PREFIX) or not prompt.endswith(FIM_MIDDLE):
        return prompt, None
    before, mark, behind = prompt[len(FIM_PREFIX) : -len(FIM_MIDDLE)].partition(FIM_SUFFIX)
    if not mark or any(each in before + behind for each in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)):
        raise _refused("prompt", f"{FIM_PREFIX}, {FIM_SUFFIX} and {FIM_MIDDLE} once each; or send a suffix instead")
    return before, behind


def _refused(param: str, reason: str, code: str | None = None) -> ApiError:
    return ApiError(400, f"{param}: {reason}", param=param, code=code)


def _shown(name: str) -> str:
    name = visible(name)
    return name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}..."
