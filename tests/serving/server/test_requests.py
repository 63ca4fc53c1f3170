"""Requests: read strictly; what would change the answer and cannot be had is refused, never ignored."""

import json
import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ibidem.conversation import Part, Turn
from ibidem.serving.config import LimitsConfig
from ibidem.serving.server import requests
from ibidem.serving.server.errors import ApiError
from ibidem.serving.server.requests import NEUTRAL, NEUTRAL_OF_MESSAGES

LIMITS = LimitsConfig()
HI = [{"role": "user", "content": "Hi"}]
OF_CHAT = {"audio", "function_call", "functions", "modalities", "prediction", "reasoning_effort", "response_format"} | {
    *("store", "tool_choice", "tools", "top_logprobs", "verbosity", "web_search_options")
}
OF_COMPLETIONS = {"best_of", "echo"}
OTHERS: dict[str, Any] = {
    "audio": {"voice": "alloy"},
    "best_of": 2,
    "echo": True,
    "frequency_penalty": 0.5,
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "modalities": ["text", "audio"],
    "n": 2,
    "prediction": {"type": "content", "content": ""},
    "presence_penalty": -0.5,
    "reasoning_effort": "high",
    "response_format": {"type": "json_object"},
    "store": True,
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_logprobs": 3,
    "verbosity": "low",
    "web_search_options": {},
}
WITHOUT_EFFECT = {
    "user": "ada",
    "metadata": {"a": "b"},
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "prompt_cache_retention": "24h",
    "service_tier": "auto",
    "parallel_tool_calls": True,
}


def chat(**fields: Any) -> requests.ChatAsked:
    return requests.chat(json.dumps({"model": "ibidem", "messages": HI, **fields}).encode(), LIMITS)


def completion(**fields: Any) -> requests.CompletionAsked:
    return requests.completion(json.dumps({"model": "ibidem", "prompt": "a", **fields}).encode(), LIMITS)


def refused(ask: Any, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(**fields)
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_parameter_that_cannot_be_had_is_refused_and_accepted_where_it_changes_nothing(name: str) -> None:
    ask = completion if name in OF_COMPLETIONS else chat
    error = refused(ask, **{name: OTHERS[name]})
    assert (error.param, error.code) == (name, "unsupported_parameter")
    for value in (None, *NEUTRAL[name]):
        ask(**{name: value})


def test_a_value_that_only_equals_a_neutral_one_is_another() -> None:
    assert refused(completion, logprobs=0).param == "logprobs"
    assert refused(chat, n=True).param == "n"


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_parameter_without_effect_is_accepted(name: str) -> None:
    assert chat(**{name: WITHOUT_EFFECT[name]}) == chat()


@pytest.mark.parametrize("name", ["temprature", "best_of", "echo", "guided_json", "min_p", "top_k", "x" * 1000, "a\nb"])
def test_an_unknown_parameter_is_refused(name: str) -> None:
    error = refused(chat, **{name: 1})
    assert error.code == "unknown_parameter"
    assert name[0] == str(error.param)[0]
    assert len(str(error)) < 200


def test_parameters_of_one_endpoint_are_unknown_to_the_other() -> None:
    for name in sorted(OF_CHAT):
        assert refused(completion, **{name: None}).code == "unknown_parameter", name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-0.1, 2.1, "1", True, [1])),
        *(("top_p", value) for value in (0, 1.1, "1")),
        *((name, value) for name in ("max_tokens", "max_completion_tokens") for value in (0, -1, 1.5, "5", 2049)),
        *(("seed", value) for value in (-1, 1 << 32, 0.5, "7")),
        *(("stop", value) for value in ("", ["a", ""], [1], {"a": 1}, 5, ["x"] * 17, ["x"] * 10_000)),
        *(("stream", value) for value in (1, "true")),
        *(("model", value) for value in (None, 5)),
        ("stream_options", {"include_usage": True}),
        *(("messages", value) for value in (None, "Hi", {}, [])),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_name(name: str, value: Any) -> None:
    assert refused(chat, **{name: value}).param == name


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "tool", "content": "a"}], "messages.0.role"),
        ([{"role": ["user"], "content": "a"}], "messages.0.role"),
        ([{"content": "a"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": 5}], "messages.0.content"),
        ([{"role": "user", "content": ""}], "messages"),
        ([{"role": "user", "content": " \n"}], "messages"),
        ([{"role": "user", "content": []}], "messages"),
        ([*HI, {"role": "assistant", "content": "Hello"}], "messages"),
        ([{"role": "assistant", "content": "Hello"}, *HI], "messages"),
        ([{"role": "system", "content": "Be brief."}], "messages"),
        ([*HI, {"role": "system", "content": "Be brief."}, *HI], "messages"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}],
            "messages.0.content.0",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}], "messages.0.content.1"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages.0.content.0"),
        ([{"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]}], "messages.0.content.0"),
        ([{"role": "user", "content": "a", "name": "eve"}], "messages.0.name"),
        ([{"role": "user", "content": "a", "mood": "sad"}], "messages.0.mood"),
        ([{"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}], "messages.0.tool_calls"),
        (HI * 257, "messages"),
        (["Hi"], "messages.0"),
    ],
)
def test_a_message_that_cannot_be_answered_is_refused_by_its_place(messages: Any, param: str) -> None:
    assert refused(chat, messages=messages).param == param


def test_messages_become_turns() -> None:
    asked = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "system", "content": "\nBe kind.\n"},
            {"role": "user", "content": [{"type": "text", "text": "When "}, {"type": "text", "text": "is it open?"}]},
            {"role": "assistant", "content": "At nine.", "refusal": None, "annotations": [{}], "tool_calls": None},
            {"role": "user", "content": "And today?"},
        ]
    )
    assert asked.turns == (
        Turn("system", (Part("text", "Be brief."), Part("text", "\n\n"), Part("text", "\nBe kind.\n"))),
        Turn.of("user", "When is it open?"),
        Turn.of("assistant", "At nine."),
        Turn.of("user", "And today?"),
    )


def test_what_a_client_does_not_say_is_as_in_generate() -> None:
    drawn = requests.sampling(chat().wanted, room=None, most=2048)
    assert (drawn.max_tokens, drawn.temperature, drawn.top_p, drawn.stop) == (512, 0.8, 0.95, ())
    assert requests.sampling(chat().wanted, room=40, most=2048).max_tokens == 40
    assert requests.sampling(chat().wanted, room=4000, most=100).max_tokens == 100
    assert len({requests.sampling(chat().wanted, room=None, most=2048).seed for _ in range(8)}) > 1


def test_what_a_client_says_counts() -> None:
    asked = chat(temperature=0, top_p=0.5, seed=7, stop="\n", max_completion_tokens=9, stream=True)
    drawn = requests.sampling(asked.wanted, room=40, most=2048)
    assert (drawn.max_tokens, drawn.temperature, drawn.top_p, drawn.seed, drawn.stop) == (9, 0, 0.5, 7, ("\n",))
    assert requests.sampling(asked.wanted, room=4, most=2048).max_tokens == 4
    assert asked.wanted.is_streamed
    assert chat(max_tokens=5, max_completion_tokens=5).wanted.max_tokens == 5
    assert refused(chat, max_tokens=5, max_completion_tokens=6).param == "max_tokens"


def test_a_prompt_that_is_too_long_says_by_how_much() -> None:
    for room, over in ((0, "1 token;"), (-1234, "1,235 tokens;")):
        error = refused(lambda room: requests.sampling(chat().wanted, room=room, most=9), room=room)
        assert (error.code, error.param) == ("context_length_exceeded", "messages")
        assert over in str(error)


def test_a_prompt_of_completions_is_one_text() -> None:
    assert completion(prompt=["a"]).prompt == "a"
    for value in (["a", "b"], [], [1, 2], [[1]], 5, None):
        assert refused(completion, prompt=value).param == "prompt"


def test_the_marks_of_fill_in_the_middle_are_a_suffix() -> None:
    def parted(prompt: str, **fields: Any) -> tuple[str, str | None]:
        asked = completion(prompt=prompt, **fields)
        return asked.prompt, asked.suffix

    assert parted("a", suffix="b") == ("a", "b")
    assert parted("a") == ("a", None)
    assert parted("<|fim_prefix|>a\n<|fim_suffix|>\nb<|fim_middle|>") == ("a\n", "\nb")
    assert parted("<|fim_prefix|>a<|fim_suffix|><|fim_middle|>") == ("a", "")
    assert parted("# <|fim_suffix|>") == ("# <|fim_suffix|>", None)
    assert parted("<|fim_prefix|>a<|fim_middle|>", suffix="b") == ("<|fim_prefix|>a<|fim_middle|>", "b")
    for twice in ("<|fim_prefix|>a<|fim_suffix|>b<|fim_suffix|>c<|fim_middle|>", "<|fim_prefix|>a<|fim_middle|>"):
        assert refused(completion, prompt=twice).param == "prompt"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{\0}\0", "not UTF-8"),
        ('{"model": "ü"}'.encode("latin-1"), "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[]", "must be an object"),
        (b'{"model": "a", "model": "b"}', "key model appears twice"),
        (b'{"messages": [{"role": "user", "role": "system"}]}', "key role appears twice"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "-Infinity"),
        (b'{"user": NaN}', "NaN"),
        (b'{"metadata": {"a": 1e400}}', "1e400"),
        (b'{"temperature": -1E+999}', "-1E"),
        (b'{"n": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"model": "\\ud800"}', "U+D800"),
        (b'{"\\udc00": 1}', "U+DC00"),
        (b'{"model": "a\\u0000"}', "NUL"),
        (b'{"user": ["\\u0000"]}', "NUL"),
        (b'{"user": ' + b"[" * 16 + b"]" * 16 + b"}", "more than 16"),
        (b'{"user": ' + b'{"a":' * 16 + b"1" + b"}" * 16 + b"}", "more than 16"),
        (b"[" * 200_000, "16 lists and objects"),
    ],
)
def test_a_body_that_is_not_strict_json_is_refused(body: bytes, told: str) -> None:
    assert told in str(refused(lambda: requests.chat(body, LIMITS)))


def test_a_body_at_the_limit_of_depth_is_read() -> None:
    tree: Any = 1
    for _ in range(15):
        tree = [tree]
    assert chat(user=tree) == chat()


def test_a_float_that_is_not_finite_is_refused_however_it_is_written() -> None:
    body = b'{"model": "ibidem", "messages": [{"role": "user", "content": "Hi"}], "temperature": 1e999}'
    assert "1e999" in str(refused(lambda: requests.chat(body, LIMITS)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [*NEUTRAL, *NEUTRAL_OF_MESSAGES, *WITHOUT_EFFECT, "model", "messages", "role", "content", "stop"]
)


@given(st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON, max_size=3), max_size=3), max_size=5))
def test_whatever_is_sent_is_read_or_refused(tree: dict[str, Any]) -> None:
    for read in (requests.chat, requests.completion):
        try:
            read(json.dumps(tree).encode(), LIMITS)
        except ApiError as error:
            assert error.status == 400  # noqa: PT017
            assert len(str(error)) < 500  # noqa: PT017


def test_damaged_bytes_are_read_or_refused() -> None:
    rng = random.Random(0)
    good = json.dumps({"model": "ibidem", "messages": HI, "temperature": 0.5}).encode()
    for _ in range(500):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with suppress(ApiError):
            requests.chat(bytes(damaged), LIMITS)


class Key(str):
    """A key that counts comparisons."""

    __slots__ = ()
    __hash__ = str.__hash__
    compared = 0

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return str.__eq__(self, other)


def test_a_key_that_appears_twice_is_found_in_one_pass() -> None:
    Key.compared = 0
    with pytest.raises(ApiError, match="key 999 appears twice"):
        requests._mapping([*((Key(number), number) for number in range(1000)), (Key(999), 0)])
    assert Key.compared < 5000


class Counting:
    """What validates a body, and notes how many errors were built for it."""

    def __init__(self, kind: Any, counts: list[int]) -> None:
        self.adapter, self.counts = TypeAdapter(kind), counts

    def validate_json(self, body: bytes, **named: Any) -> Any:
        try:
            return self.adapter.validate_json(body, **named)
        except ValidationError as error:
            self.counts.append(error.error_count())
            raise


MANY_KEYS = {f"{number:x}": 1 for number in range(5000)}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [1] * 5000}, "messages.0"),
        (MANY_KEYS, "0"),
        ({"stream": True, "stream_options": MANY_KEYS}, "stream_options.0"),
    ],
)
def test_a_body_with_thousands_of_errors_costs_one(
    fields: dict[str, Any], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(requests, "_adapter", lambda kind: Counting(kind, counts))
    assert refused(chat, **fields).param == param
    assert sum(counts) <= 1


def test_more_messages_than_the_limit_are_refused_before_they_are_read() -> None:
    assert refused(chat, messages=[{"role": "nobody"}] * 257).param == "messages"
