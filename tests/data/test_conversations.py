"""Conversations and instructions become documents of the category instruction, rendered plainly."""

import datetime as dt
import gzip
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import REPOSITORY, SHARED_DATA, WORDS, python_file
from tests.data.left_out import quarantined

from ibidem import artifacts
from ibidem.cli import main
from ibidem.conversation import Part, Turn, check, from_rows, plain, to_rows
from ibidem.data import shards
from ibidem.data.preprocess import source_texts
from ibidem.data.sources import conversations
from ibidem.data.sources.local import LocalFiles
from ibidem.data.sources.readers import read
from ibidem.data.sources.spec import Spec
from ibidem.records import Document, Unreadable

ANSWER = "Here is how:\n```python\n    x = 1\n```"
RENDERED = f"User:\nHow do I set x?\n\nAssistant:\n{ANSWER}\n"
SPELLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "role and content": (
        "messages",
        {"messages": [{"role": "user", "content": "How do I set x?"}, {"role": "assistant", "content": ANSWER}]},
    ),
    "from and value": (
        "conversations",
        {"conversations": [{"from": "human", "value": "How do I set x?\n\n"}, {"from": "gpt", "value": ANSWER}]},
    ),
    "parts of text": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "How do I set x?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
            ]
        },
    ),
    "instruction and output": ("instruction", {"instruction": "How do I set x?", "input": "", "output": ANSWER}),
    "prompt and completion": ("prompt", {"prompt": "How do I set x?", "completion": ANSWER}),
    "messages and a completion in text": (
        "prompt",
        {"prompt": [{"role": "user", "content": "How do I set x?"}], "completion": ANSWER},
    ),
    "messages and a completion of one message": (
        "prompt",
        {
            "prompt": [{"role": "user", "content": "How do I set x?"}],
            "completion": {"role": "assistant", "content": ANSWER},
        },
    ),
    "question and answer": ("question", {"question": "How do I set x?", "answer": ANSWER, "id": "q1"}),
    "instances": ("instruction", {"instruction": "How do I set x?", "instances": [{"input": "", "output": ANSWER}]}),
    "a tree of replies": (
        "prompt",
        {
            "prompt": {
                "text": "How do I set x?",
                "role": "prompter",
                "replies": [
                    {"text": "Do not.", "role": "assistant", "rank": 1, "deleted": False, "replies": []},
                    {"text": "Gone.", "role": "assistant", "rank": 0, "deleted": True, "replies": []},
                    {"text": ANSWER, "role": "assistant", "rank": 0, "deleted": False, "replies": []},
                ],
            }
        },
    ),
}


def preprocessed(tmp_path: Path, spec: str, *flags: str) -> list[dict[str, Any]]:
    command = ["preprocess", "--dataset", spec, "--output-dir", str(tmp_path / "out"), "--skip", "filters", *flags]
    assert main(command) == 0
    artifacts.verify(tmp_path / "out")
    return [row for path in shards.shard_paths(tmp_path / "out") for row in pq.read_table(path).to_pylist()]


def written(path: Path, rows: list[dict[str, Any]], *, row_group_size: int | None = None) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    else:
        shards.write_table(path, pa.Table.from_pylist(rows))
    return path


def read_row(path: Path, column: str, row: dict[str, Any]) -> Document | Unreadable:
    (piece,) = LocalFiles(Spec(str(written(path, [row])), None, "train", column)).pieces()
    ((_, item),) = read(piece)
    return item


def document(path: Path, column: str, row: dict[str, Any]) -> Document:
    item = read_row(path, column, row)
    assert isinstance(item, Document), item
    return item


def turns_of(path: Path, column: str, row: dict[str, Any]) -> list[tuple[str, str]]:
    turns = document(path, column, row).messages
    assert turns is not None
    check(turns)
    return [(turn.role, turn.text) for turn in turns]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_conversation_is_one_text(name: str, suffix: str, tmp_path: Path) -> None:
    column, row = SPELLINGS[name]
    path = written(tmp_path / f"a{suffix}", [row])
    (found,) = preprocessed(tmp_path, f"{path}:train:{column}")
    assert found["text"] == RENDERED
    assert found["category"] == "instruction"
    assert found["code_blocks"][0]["language"] == "python"
    assert found["record"] == row.get("id", f"a{suffix}:1")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_conversation_is_the_same_turns(name: str, suffix: str, tmp_path: Path) -> None:
    column, row = SPELLINGS[name]
    path = written(tmp_path / f"a{suffix}", [row])
    (found,) = preprocessed(tmp_path, f"{path}:train:{column}")
    assert from_rows(found["messages"]) == (Turn.of("user", "How do I set x?"), Turn.of("assistant", ANSWER))
    assert (found["rejected"], found["margin"]) == (None, None)


def test_the_input_of_an_instruction_stands_below_it() -> None:
    assert conversations.instruction("Add.", "1 + 1", "2").text == "User:\nAdd.\n\n1 + 1\n\nAssistant:\n2\n"
    two = [{"input": "1", "output": "2"}, {"input": None, "output": "3"}]
    assert conversations.instruction("Add 1.", None, two).text == (
        "User:\nAdd 1.\n\n1\n\nAssistant:\n2\n\nUser:\nAdd 1.\n\nAssistant:\n3\n"
    )


def test_every_input_of_an_instruction_is_joined() -> None:
    of_each = [{"input": "1", "output": "2"}]
    assert conversations.instruction("Add.", "To 1.", of_each).text == "User:\nAdd.\n\nTo 1.\n\n1\n\nAssistant:\n2\n"


CALL = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
CALLED = Part("tool_call", '{"name": "clock", "arguments": {"zone": "UTC"}}')
TOLD = (Part("text", "At nine"), Part("cite", "1"), Part("text", "."))


def test_tool_calls_passages_and_citations_are_parts(tmp_path: Path) -> None:
    turns = (
        Turn.of("system", "Be brief."),
        Turn("user", (Part("text", "When?"), Part("passage", "Open from 9."))),
        Turn("assistant", (CALLED,)),
        Turn.of("tool", "08:59"),
        Turn("assistant", TOLD),
    )
    openai = [
        {"role": "developer", "content": "Be brief."},
        to_rows(turns)[1],
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "08:59"},
        to_rows(turns)[4],
    ]
    path = written(tmp_path / "a.jsonl", [{"messages": to_rows(turns)}, {"messages": {"messages": openai}, "id": "b"}])
    found = preprocessed(tmp_path, f"{path}:train:messages", "--dedup.exact", "false", "--dedup.near", "false")
    assert [from_rows(row["messages"]) for row in found] == [turns, turns]
    assert found[0]["text"].endswith("Assistant:\nAt nine [1].\n")
    parquet = written(tmp_path / "b.parquet", [{"messages": to_rows(turns)}])
    (row,) = preprocessed(tmp_path, f"{parquet}:train:messages")
    assert from_rows(row["messages"]) == turns


def test_a_legacy_function_call_is_a_tool_call(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "function_call": CALL["function"]},
        {"role": "function", "name": "clock", "content": "08:59"},
        {"role": "assistant", "content": "At nine.", "function_call": None},
    ]
    for suffix in (".jsonl", ".parquet"):
        turns = document(tmp_path / f"a{suffix}", "messages", {"messages": talk}).messages
        assert turns is not None
        assert turns[1:] == (Turn("assistant", (CALLED,)), Turn.of("tool", "08:59"), Turn.of("assistant", "At nine."))


HEAD = [{"role": "user", "content": "Hi"}]
GOOD, BAD = ({"role": "assistant", "content": said} for said in ("Hello, you!", "Go away."))
DIALOGUE = "\n\nHuman: Hi\n\nAssistant: "
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "texts": ("prompt", {"prompt": "Hi", "chosen": GOOD["content"], "rejected": BAD["content"]}),
    "texts, by the answer": ("chosen", {"prompt": "Hi", "chosen": GOOD["content"], "rejected": BAD["content"]}),
    "a question": ("question", {"question": "Hi", "chosen": GOOD["content"], "rejected": BAD["content"]}),
    "messages": ("prompt", {"prompt": HEAD, "chosen": [GOOD], "rejected": [BAD]}),
    "messages with their prompt": ("chosen", {"chosen": [*HEAD, GOOD], "rejected": [*HEAD, BAD]}),
    "messages with their prompt, and as a text": (
        "chosen",
        {"prompt": "Hi", "chosen": [*HEAD, GOOD], "rejected": [*HEAD, BAD]},
    ),
    "a dialogue": ("chosen", {"chosen": f"{DIALOGUE}Hello, you!", "rejected": f"{DIALOGUE}Go away."}),
}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", PAIRS)
def test_every_spelling_of_a_pair_is_the_same_pair(name: str, suffix: str, tmp_path: Path) -> None:
    column, row = PAIRS[name]
    path = written(tmp_path / f"a{suffix}", [row])
    (found,) = preprocessed(tmp_path, f"{path}:train:{column}")
    (user, assistant) = from_rows(found["messages"])
    assert (user, assistant.text.strip()) == (Turn.of("user", "Hi"), "Hello, you!")
    assert found["rejected"] == [{"kind": "text", "text": "Go away."}]
    assert found["text"].split() == ["User:", "Hi", "Assistant:", "Hello,", "you!", "Rejected:", "Go", "away."]
    assert (found["category"], found["margin"]) == ("instruction", None)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("forged", ["Human: what?\n\nAssistant: sure, forged\n\nHuman: go", DIALOGUE.rstrip()])
def test_no_text_of_a_prompt_spells_turns(forged: str, suffix: str, tmp_path: Path) -> None:
    row = {"prompt": forged, "chosen": "a", "rejected": DIALOGUE}
    for column in ("prompt", "chosen"):
        found = document(tmp_path / f"a{suffix}", column, row)
        assert found.messages == (Turn.of("user", forged), Turn.of("assistant", "a"))
        assert found.rejected == (Part("text", DIALOGUE),)


INPUTS = {"input": "1 + 1", "context": "1 + 1"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["instruction", "chosen"])
@pytest.mark.parametrize("name", [["input"], ["context"], ["input", "context"]])
def test_the_input_of_a_pair_stands_below_its_prompt(name: list[str], column: str, suffix: str, tmp_path: Path) -> None:
    inputs = {each: INPUTS[each] for each in name}
    row = {"instruction": "Add.", "chosen": "2", "rejected": "3"} | inputs
    assert turns_of(tmp_path / f"a{suffix}", column, row) == [("user", "Add.\n\n1 + 1"), ("assistant", "2")]
    joined = [{"role": "user", "content": "Add.\n\n1 + 1"}]
    whole = row | {each: [*joined, {"role": "assistant", "content": row[each]}] for each in ("chosen", "rejected")}
    assert turns_of(tmp_path / f"b{suffix}", column, whole) == [("user", "Add.\n\n1 + 1"), ("assistant", "2")]


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("messages", {"messages": [*HEAD, GOOD]}),
    "messages and a completion": ("prompt", {"prompt": HEAD, "completion": GOOD["content"]}),
    "an instruction": ("instruction", {"instruction": "Hi", "output": GOOD["content"]}),
    **PAIRS,
}
SAID = [("user", "Hi"), ("assistant", "Hello, you!")]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("system", [{"system": "Be kind."}, {"system_prompt": "Be kind.", "system": ""}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_system_column_is_the_first_turn(kind: str, system: dict[str, str], suffix: str, tmp_path: Path) -> None:
    column, row = KINDS[kind]
    assert turns_of(tmp_path / f"a{suffix}", column, row | system) == [("system", "Be kind."), *SAID]
    empty: dict[str, Any] = dict.fromkeys(system, None if suffix == ".parquet" else " ")
    assert turns_of(tmp_path / f"b{suffix}", column, row | empty) == SAID


def test_a_system_column_that_repeats_the_system_turn_adds_none(tmp_path: Path) -> None:
    turn, system = {"role": "system", "content": "Be kind."}, {"system": "Be kind.\n", "system_prompt": "Be kind."}
    kind = [("system", "Be kind."), *SAID]
    assert turns_of(tmp_path / "a.jsonl", "messages", {"messages": [turn, *HEAD, GOOD]} | system) == kind
    pair = {"prompt": HEAD, "chosen": [turn, *HEAD, GOOD], "rejected": [*HEAD, BAD]}
    assert turns_of(tmp_path / "b.jsonl", "prompt", pair | {"system": "Be kind."}) == kind
    blank = {"messages": [turn | {"content": ""}, *HEAD, GOOD]}
    assert turns_of(tmp_path / "c.jsonl", "messages", blank | system)[0][1].strip() == "Be kind."


CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}
DICE = {"name": "dice", "parameters": {"type": "object", "properties": {"sides": {"type": "integer"}}}}
SCHEMAS = [{"type": "function", "function": CLOCK}, {"type": "function", "function": DICE}]
LISTED = f"Tools:\n{json.dumps(SCHEMAS)}"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("tools", [SCHEMAS, json.dumps(SCHEMAS, indent=2)])
@pytest.mark.parametrize("kind", KINDS)
def test_tools_stand_in_the_system_turn(kind: str, tools: object, suffix: str, tmp_path: Path) -> None:
    column, row = KINDS[kind]
    row = row | {"tools": tools}
    assert turns_of(tmp_path / f"a{suffix}", column, row) == [("system", LISTED), *SAID]
    row["system"] = "Be kind."
    found = document(tmp_path / f"b{suffix}", column, row).messages
    assert found is not None
    assert found[0] == Turn.of("system", f"Be kind.\n\n{LISTED}")


def test_tools_follow_the_system_turn_of_the_messages(tmp_path: Path) -> None:
    first = {"role": "system", "parts": [{"kind": "text", "text": "Be kind."}, {"kind": "passage", "text": "Hi."}]}
    legacy = json.dumps([CLOCK], indent=None)
    turns = document(tmp_path / "a.jsonl", "messages", {"messages": [first, *HEAD], "functions": [CLOCK]}).messages
    assert turns is not None
    assert turns[0].parts == (Part("text", "Be kind."), Part("passage", "Hi."), Part("text", f"Tools:\n{legacy}"))


@pytest.mark.parametrize("tools", [None, [], "", " ", "[]", "null", math.nan])
def test_no_tools_are_no_system_turn(tools: object, tmp_path: Path) -> None:
    assert turns_of(tmp_path / "a.jsonl", *KINDS["messages"]) == SAID
    assert turns_of(tmp_path / "a.jsonl", "messages", {"messages": [*HEAD, GOOD], "tools": tools}) == SAID


def test_a_default_of_null_is_kept_in_tools_that_are_a_string(tmp_path: Path) -> None:
    tools = json.dumps([{"name": "clock", "parameters": {"zone": {"default": None}}}])
    for column, listed in ((tools, tools), (json.loads(tools), tools.replace('{"default": null}', "{}"))):
        turns = turns_of(tmp_path / "a.jsonl", "messages", {"messages": [*HEAD, GOOD], "tools": column})
        assert turns[0] == ("system", f"Tools:\n{listed}")


def test_a_text_alone_has_no_system_turn(tmp_path: Path) -> None:
    found = document(tmp_path / "a.jsonl", "text", {"text": "x = 1\n", "system": "linux", "tools": "hammer"})
    assert (found.text, found.messages) == ("x = 1\n", None)


NESTED = "[" * 100_000
NO_FUNCTIONS = "tools is not a list of functions with names"
OTHER_SYSTEM = "the system turn is not what the column says"


@pytest.mark.parametrize(
    ("column", "row", "reason"),
    [
        ("instruction", {"instruction": "a", "output": "b", "input": ["c"]}, "input is list, not text"),
        ("instruction", {"instruction": "a", "output": "b", "input": "c", "context": "d"}, "input and context differ"),
        ("prompt", {"prompt": "a", "chosen": "b", "rejected": "c", "context": 5}, "context is int, not text"),
        ("prompt", {"prompt": HEAD, "chosen": [GOOD], "rejected": [BAD], "input": "x"},
         "an input is given, but no prompt in text"),
        ("chosen", {"chosen": f"{DIALOGUE}a", "rejected": f"{DIALOGUE}b", "input": "x"},
         "an input is given, but no prompt in text"),
        ("prompt", {"prompt": HEAD, "completion": "a", "input": "x"}, "an input is given, but no prompt in text"),
        ("prompt", {"prompt": HEAD, "completion": 7}, "the answer is int, neither text nor messages"),
        ("prompt", {"prompt": HEAD, "completion": ["a"]}, "the answer is list, neither text nor messages"),
        ("prompt", {"prompt": [*HEAD, GOOD], "completion": "a"}, "turns 2 and 3 are both of the assistant"),
        ("messages", {"messages": HEAD, "system": "a", "system_prompt": "b"}, "system and system_prompt differ"),
        ("messages", {"messages": HEAD, "system": ["a"]}, "system is list, not text"),
        ("messages", {"messages": [{"role": "system", "content": "a"}, *HEAD], "system": "b"}, OTHER_SYSTEM),
        ("prompt", {"prompt": [{"role": "system", "content": "a"}, *HEAD], "chosen": [GOOD], "rejected": [BAD],
                    "system_prompt": "b"}, OTHER_SYSTEM),
        ("messages", {"messages": HEAD, "tools": "hammer and tongs"}, "tools is not JSON"),
        ("messages", {"messages": HEAD, "tools": NESTED}, "tools is not JSON"),
        ("messages", {"messages": HEAD, "tools": '{"name": "clock"}'}, NO_FUNCTIONS),
        ("messages", {"messages": HEAD, "tools": [{"function": {"name": 3}}]}, NO_FUNCTIONS),
        ("messages", {"messages": HEAD, "tools": ["clock"]}, NO_FUNCTIONS),
        ("messages", {"messages": HEAD, "tools": [CLOCK], "functions": [DICE]}, "tools and functions differ"),
        ("messages", {"messages": [*HEAD, GOOD | {"function_call": "auto"}]},
         "a tool call has no function with a name"),
        ("messages", {"messages": [*HEAD, GOOD | {"tool_calls": "[]"}]}, "tool_calls is str, not a list"),
        ("messages", {"messages": [*HEAD, GOOD | {"parts": {"kind": "text"}}]}, "parts is dict, not a list"),
        ("messages", {"messages": [*HEAD, {"role": "assistant", "content": [{"type": "image"}], "tool_calls": [CALL]}]},
         "message 2 has no text"),
        ("messages", {"messages": [*HEAD, {"role": "assistant", "function_call": {"name": "f", "arguments": NESTED}}]},
         "the arguments of the tool call 'f' are not JSON"),
    ],
)  # fmt: skip
def test_what_would_be_lost_of_a_conversation_is_quarantined(
    column: str, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    item = read_row(tmp_path / "a.jsonl", column, row)
    assert item == Unreadable("a.jsonl", 1, reason)


def test_a_date_in_tools_or_arguments_is_quarantined(tmp_path: Path) -> None:
    day = dt.date(2020, 1, 1)
    reason = "a tool cannot be written as JSON: Object of type date is not JSON serializable"
    called = {"role": "assistant", "function_call": {"name": "f", "arguments": {"day": day}}}
    for row in ({"messages": HEAD, "tools": [{"name": "f", "day": day}]}, {"messages": [*HEAD, called]}):
        assert read_row(tmp_path / "a.parquet", "messages", row) == Unreadable("a.parquet", 1, reason)


def test_an_answer_beside_ranked_replies_is_quarantined(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"prompt": TREE, "answer": "So."}, {"prompt": TREE, "answer": None}])
    (piece,) = LocalFiles(Spec(str(path), None, "train", "prompt"), "ranked_pairs").pieces()
    items = [item for _, item in read(piece)]
    assert items[:4] == [Unreadable("a.jsonl", 1, "ranked replies have an answer in another column")] * 4
    assert [type(item) for item in items[4:]] == [Document] * 4


def test_what_appears_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "prompt": "b"}\n')
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt"] * 2), tmp_path / "b.parquet"
    )
    pq.write_table(pa.table({"query": ["a"], "response": ["b"]}), tmp_path / "c.parquet")
    (json_lines, parquet, other) = LocalFiles(Spec(str(tmp_path), None, "train", "prompt")).pieces()
    assert list(read(json_lines)) == [(0, Unreadable("a.jsonl", 1, "not JSON: key 'prompt' appears twice"))]
    assert list(read(parquet)) == [(1, Unreadable("b.parquet", None, "column 'prompt' appears twice"))]
    reason = "no column 'prompt' (columns: query, response)"
    assert list(read(other)) == [(2, Unreadable("c.parquet", None, reason))]


@pytest.mark.parametrize(
    ("more", "margin"),
    [
        ({"margin": 2}, 2.0),
        ({"margin": 0}, 0.0),
        ({"margin": 0.5, "score_chosen": 9.0, "score_rejected": 1.0}, 0.5),
        ({"score_chosen": 9.0, "score_rejected": 1.5}, None),
        ({"score_chosen": 9.0, "score_rejected": 9}, None),
        ({"score_chosen": math.nan, "score_rejected": 9}, None),
        ({"score_chosen": 9.0}, None),
        ({"margin": None}, None),
    ],
)
def test_a_pair_keeps_by_how_much_it_is_better(more: dict[str, Any], margin: float | None, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [PAIRS["texts"][1] | more])
    (found,) = preprocessed(tmp_path, f"{path}:train:prompt")
    assert found["margin"] == margin


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "user"}]}, "message 1 has no text"),
        ({"messages": [USER, {"content": "b"}]}, "message 2 has no role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 1 has no text"),
        ({"messages": [{"role": 7, "content": "a"}]}, "message 1 has no role"),
        ({"messages": [USER, {"role": "narrator", "content": "b"}]}, "message 2 has the unknown role 'narrator'"),
        ({"messages": ["a", "b"]}, "column 'messages' is list, not text"),
        ({"messages": []}, "the conversation is empty"),
        ({"messages": {"a": 1}}, "column 'messages' is dict, not text"),
        ({"messages": {"a": 1, "messages": [USER]}}, "column 'messages' is dict, not text"),
        ({"messages": [ASSISTANT, USER]}, "turn 1: a turn of the assistant cannot come first"),
        ({"messages": [USER, USER, ASSISTANT]}, "turns 1 and 2 are both of the user"),
        ({"messages": [{"role": "system", "content": "a"}]}, "the conversation has no turn of a user"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "turn 2, of the assistant, is empty"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "a tool call has no function with a name"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": 3}]}, "tool_calls is int, not a list"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "the arguments of the tool call 'f' are not JSON",
        ),
        (
            {"messages": [{"role": "user", "parts": [{"kind": "image", "text": "a"}]}]},
            "a part of a message has the unknown kind 'image', or no text",
        ),
        (
            {"messages": [{"role": "user", "parts": [{"kind": "cite", "text": "1"}]}]},
            "turn 1: a turn of the user has no cite",
        ),
    ],
)
def test_what_is_no_conversation_is_quarantined(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "Hi"}]}
    path = written(tmp_path / "a.jsonl", [row, good])
    assert [found["text"] for found in preprocessed(tmp_path, f"{path}:train:messages")] == ["User:\nHi\n"]
    assert quarantined(tmp_path / "out") == [{"file": "a.jsonl", "line": 1, "reason": reason}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b"}, "the pair has no rejected answer"),
        ({"prompt": "a", "rejected": "b"}, "the pair has no chosen answer"),
        ({"prompt": "a", "chosen": "b", "rejected": "b\n"}, "chosen equals rejected"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "turn 2, of the assistant, is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "turn 2, of the assistant, is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": 7}, "rejected is int, not text"),
        ({"prompt": 7, "chosen": "b", "rejected": "c"}, "the prompt is int, not text"),
        ({"prompt": None, "chosen": "b", "rejected": "c"}, "chosen is no dialogue, and there is no prompt"),
        ({"prompt": "", "chosen": [USER, ASSISTANT], "rejected": [USER]}, "rejected ends with a turn of the user, "
         "not with an answer"),
        ({"prompt": "", "chosen": [USER, ASSISTANT], "rejected": []}, "rejected has no messages"),
        (
            {"prompt": "z", "chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]},
            "the prompt is not what chosen begins with",
        ),
        (
            {"prompt": "", "chosen": [USER, ASSISTANT], "rejected": [{"role": "user", "content": "z"}, ASSISTANT]},
            "chosen and rejected answer different prompts",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}, "margin is 'much', not a finite number"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": math.inf}, "margin is 'inf', not a finite number"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": math.nan}, "margin is 'nan', not a finite number"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 10**400},
         f"margin is '1{'0' * 49}', not a finite number"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": -0.5}, "margin is -0.5: chosen is the worse answer"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 2, "score_rejected": 9},
         "score_chosen is 2, less than score_rejected, 9"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1, "score_chosen": 2, "score_rejected": 2.5},
         "score_chosen is 2, less than score_rejected, 2.5"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": "8"},
         "score_chosen is '8', not a finite number"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_quarantined(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [row, PAIRS["texts"][1]])
    assert len(preprocessed(tmp_path, f"{path}:train:prompt")) == 1
    assert quarantined(tmp_path / "out") == [{"file": "a.jsonl", "line": 1, "reason": reason}]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip() != "")
said = texts | st.sampled_from(["User:\nx", "\n\nAssistant:\ny", "<|end|><|user|>", "Human: a", "[1]", "```\n"])


@st.composite
def talks(draw: st.DrawFn) -> list[tuple[str, str]]:
    roles = draw(st.sampled_from([["system"], []])) + ["user", "assistant"] * draw(st.integers(1, 4))
    roles = roles[: len(roles) - draw(st.integers(0, 1))]
    return [(role, draw(said)) for role in roles]


@given(talks(), st.sampled_from([("role", "content"), ("from", "value"), ("role", "text")]))
def test_what_is_said_is_kept_verbatim(talk: list[tuple[str, str]], keys: tuple[str, str]) -> None:
    read = conversations.conversation([dict(zip(keys, turn, strict=True)) for turn in talk])
    assert read is not None
    assert [(turn.role, turn.parts) for turn in read.turns] == [(role, (Part("text", text),)) for role, text in talk]
    assert conversations.conversation(to_rows(read.turns)) == read


@given(talks().filter(lambda talk: len(talk) % 2 == (talk[0][0] == "system")), said, said)
def test_a_pair_is_read_alike_with_and_without_its_prompt(talk: list[tuple[str, str]], one: str, other: str) -> None:
    *before, _ = ({"role": role, "content": text} for role, text in talk)
    answers = [[{"role": "assistant", "content": text}] for text in (one, other)]
    apart = [before, *answers]
    together = [None, *([*before, *answer] for answer in answers)]
    if one.strip() == other.strip():
        for columns in (apart, together):
            with pytest.raises(ValueError, match="chosen equals rejected"):
                conversations.pair(*columns)
    else:
        pair = conversations.pair(*apart)
        assert pair == conversations.pair(*together)
        assert (pair.turns[-1].parts, pair.rejected) == ((Part("text", one),), (Part("text", other),))


words = st.lists(st.sampled_from(["Human", "Assistant:", "is", "\n", "here."]), min_size=1).map(" ".join)


@given(
    st.lists(words.filter(lambda text: text.strip() != ""), min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0)
)
def test_a_dialogue_is_split_at_its_speakers_alone(turns: list[str]) -> None:
    who = ("Human", "Assistant")
    dialogue = "".join(f"\n\n{who[number % 2]}: {text}" for number, text in enumerate(turns))
    read = conversations.pair(None, dialogue, f"{dialogue} More.")
    assert [turn.text for turn in read.turns] == [text.strip().strip("\n") for text in turns]


def reply(text: str, rank: int | None, *replies: dict[str, Any], role: str = "assistant") -> dict[str, Any]:
    return {"text": text, "role": role, "rank": rank, "deleted": False, "replies": list(replies)}


TREE = reply(
    "Q",
    None,
    reply("second", 1, reply("why?", None, reply("so", 0), reply("because", 1), role="prompter")),
    reply("best", 0),
    reply("last", 2),
    reply("unranked", None),
    {**reply("gone", 0), "deleted": True},
    role="prompter",
)


def test_a_tree_becomes_its_best_path_all_paths_or_ranked_pairs(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"prompt": TREE, "id": "t"}, {"prompt": "Just text.", "id": "x"}])
    spec = f"{path}:train:prompt"
    best, _ = preprocessed(tmp_path, spec)
    assert [turn.text for turn in from_rows(best["messages"])] == ["Q", "best"]
    *paths, text = preprocessed(tmp_path, spec, "--reply-trees", "all_paths")
    assert [[turn.text for turn in from_rows(row["messages"])][1:] for row in paths] == [
        ["second", "why?", "so"], ["second", "why?", "because"], ["best"], ["last"], ["unranked"],
    ]  # fmt: skip
    assert [row["record"] for row in (*paths, text)] == ["t"] * 5 + ["x"]
    assert [row["position"] for row in (*paths, text)] == list(range(6))
    *pairs, text = preprocessed(tmp_path, spec, "--reply-trees", "ranked_pairs")
    assert [
        (len(row["messages"]), from_rows(row["messages"])[-1].text, row["rejected"][0]["text"]) for row in pairs
    ] == [
        (2, "best", "second"), (2, "best", "last"), (2, "second", "last"), (4, "so", "because"),
    ]  # fmt: skip
    assert [row["position"] for row in (*pairs, text)] == list(range(5))


def test_a_tree_without_ranks_is_quarantined_where_pairs_are_made(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", [{"prompt": reply("Q", None, reply("A", None), role="prompter")}, {"prompt": TREE}]
    )
    assert len(preprocessed(tmp_path, f"{path}:train:prompt", "--reply-trees", "ranked_pairs")) == 4
    assert [row["reason"] for row in quarantined(tmp_path / "out")] == [
        "the tree has no two ranked replies to one prompt"
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow"])
def test_the_documents_of_trees_are_cut_into_shards_by_their_positions(name: str, tmp_path: Path) -> None:
    trees = [
        reply(f"Q{n}", None, *(reply(f"A{n}.{k}", k) for k in range(n % 4 + 1)), role="prompter") for n in range(30)
    ]
    path = written(tmp_path / name, [{"prompt": tree} for tree in trees], row_group_size=7)
    flags = ("--reply-trees", "all_paths", "--shard-size", "8", "--dedup.near", "false")
    rows = preprocessed(tmp_path, f"{path}:train:prompt", *flags)
    assert [row["position"] for row in rows] == list(range(sum(n % 4 + 1 for n in range(30))))
    assert [from_rows(row["messages"])[-1].text for row in rows] == [
        f"A{n}.{k}" for n in range(30) for k in range(n % 4 + 1)
    ]
    shard_rows = [len(pq.read_table(shard)) for shard in shards.shard_paths(tmp_path / "out")]
    assert shard_rows == [8] * 9 + [1]
    few = preprocessed(tmp_path, f"{path}:train:prompt", *flags, "--max-documents", "13", "--workers", "1")
    assert few == rows[:13]


@pytest.mark.parametrize("trees", ["best_path", "all_paths", "ranked_pairs"])
def test_reading_from_a_position_on_is_reading_the_rest(trees: conversations.Trees, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"prompt": tree} for tree in (TREE, 7, TREE, "Text.")])
    (piece,) = LocalFiles(Spec(str(path), None, "train", "prompt"), trees).pieces()
    whole = list(read(piece))
    assert [position for position, _ in whole] == list(range(piece.count))
    assert piece.count == {"best_path": 4, "all_paths": 12, "ranked_pairs": 10}[trees]
    for start in range(piece.count + 1):
        assert list(read(piece, start)) == whole[start:]


def test_a_takedown_removes_every_document_of_a_tree_with_its_turns(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"prompt": TREE, "id": "t"}, PAIRS["texts"][1] | {"id": "p"}])
    preprocessed(tmp_path, f"{path}:train:prompt", "--reply-trees", "all_paths", "--dedup.near", "false")
    request = written(tmp_path / "requests.jsonl", [{"kind": "record", "value": "t"}])
    command = ["takedown", "apply", str(request), "--dataset", str(tmp_path / "out")]
    assert main([*command, "--artifacts", str(tmp_path)]) == 0
    (left,) = (row for path in shards.shard_paths(tmp_path / "out") for row in pq.read_table(path).to_pylist())
    assert (left["record"], left["rejected"]) == ("p", [{"kind": "text", "text": "Go away."}])
    assert from_rows(left["messages"])[0] == Turn.of("user", "Hi")
    assert artifacts.load(tmp_path / "out").counts["dropped"] == {"removal.requested": 5}


def test_a_blend_keeps_conversations_beside_a_dataset_from_before_them(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    for seed in range(9):
        (tmp_path / "code" / f"m{seed}.py").write_text(python_file(seed))
    pairs = [PAIRS["texts"][1] | {"prompt": f"Say {number}.", "margin": number} for number in range(9)]
    flags = ("--dedup.near", "false", "--skip", "filters")
    source = written(tmp_path / "pairs.jsonl", pairs)
    for spec, name in ((f"{tmp_path}/code:train:text", "code"), (f"{source}:train:prompt", "pairs")):
        assert main(["preprocess", "--dataset", spec, "--output-dir", str(tmp_path / f"of-{name}"), *flags]) == 0
    old = tmp_path / "of-code"
    for path in shards.shard_paths(old):
        pq.write_table(pq.read_table(path).drop_columns(list(shards.OF_CONVERSATIONS)), path)
    manifest = json.loads((old / artifacts.MANIFEST).read_text())
    with artifacts.create(tmp_path / "old", kind=shards.KIND, config=manifest["config"], inputs=[]) as draft:
        shutil.copytree(old, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(artifacts.MANIFEST))
        draft.counts |= manifest["counts"]
    datasets = [f"--datasets.{name}.path={tmp_path / folder}" for name, folder in (("a", "old"), ("b", "of-pairs"))]
    shares = ["--shares.code=0.5", "--shares.instruction=0.5", "--shares.text=0"]
    assert main(["blend", *datasets, *shares, "--output-dir", str(tmp_path / "blend")]) == 0
    rows = [row for path in shards.shard_paths(tmp_path / "blend") for row in pq.read_table(path).to_pylist()]
    said = {from_rows(row["messages"])[0].text: row["margin"] for row in rows if row["messages"] is not None}
    assert said == {f"Say {number}.": float(number) for number in range(9)}
    assert {row["category"] for row in rows if row["messages"] is None} == {"code"}


def test_a_dropped_path_of_a_tree_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"prompt": TREE}, {"prompt": TREE}])
    preprocessed(tmp_path, f"{path}:train:prompt", "--reply-trees", "all_paths", "--dedup.near", "false")
    (dropped,) = shards.read_dropped(artifacts.load(tmp_path / "out"))
    texts = source_texts(artifacts.load(tmp_path / "out"), dropped.to_pylist())
    assert [text.split()[-1] for text in texts if text] == ["so", "because", "best", "last", "unranked"]


def test_no_rule_of_cleaning_or_scrubbing_spans_two_turns(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "\ufeff\n\nMy key:  \n\n\n\n```\nls   \n"},
        {"role": "assistant", "content": "Ask ann@ibidem.org   \n\n\n\nor bob@ibidem.org\n\n"},
    ]
    path = written(tmp_path / "a.jsonl", [{"messages": talk}])
    (row,) = preprocessed(tmp_path, f"{path}:train:messages")
    asked, answer = from_rows(row["messages"])
    assert asked == Turn.of("user", "My key:  \n\n```\nls")
    assert answer == Turn.of("assistant", "Ask <EMAIL>  \n\nor <EMAIL>")
    assert row["text"] == plain([asked, answer])
    assert row["scrubbed"] == [("email", 2)]


def test_secrets_are_scrubbed_from_every_part_and_from_the_rejected_answer(tmp_path: Path) -> None:
    secret = "ann@ibidem.org"
    turns = (
        Turn("user", (Part("text", f"Who is {secret}?"), Part("passage", f"Mail {secret} now."))),
        Turn("assistant", (Part("tool_call", f'{{"name": "mail", "arguments": {{"to": "{secret}"}}}}'),)),
        Turn.of("tool", f"Sent to {secret}."),
        Turn.of("assistant", f"I wrote to {secret}."),
    )
    rows = to_rows(turns)
    worse = {"role": "assistant", "content": f"No idea, ask {secret}."}
    path = written(tmp_path / "a.jsonl", [{"chosen": rows, "rejected": [*rows[:-1], worse]}])
    (row,) = preprocessed(tmp_path, f"{path}:train:chosen")
    assert row["scrubbed"] == [("email", 6)]
    assert secret not in json.dumps(row)
    assert row["text"].count("<EMAIL>") == json.dumps([row["messages"], row["rejected"]]).count("<EMAIL>") == 6


def test_a_pair_that_scrubbing_makes_equal_and_a_turn_that_cleaning_empties_are_dropped(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Who?", "chosen": "ann@ibidem.org", "rejected": "bob@ibidem.org"},
        {"prompt": "Why?", "chosen": "\ufeff", "rejected": "No."},
        {"prompt": "How?", "chosen": "So.", "rejected": "No."},
    ]
    assert len(preprocessed(tmp_path, f"{written(tmp_path / 'a.jsonl', rows)}:train:prompt")) == 1
    assert artifacts.load(tmp_path / "out").counts["dropped"] == {"empty": 1, "pair.equal": 1}


def test_a_conversation_is_not_repetitive_because_its_speakers_are_named_often(tmp_path: Path) -> None:
    lines = [" ".join(f"{word}{number}" for word in WORDS[:4]) for number in range(20)]
    talk = [{"role": ("user", "assistant")[number % 2], "content": line} for number, line in enumerate(lines)]
    path = written(tmp_path / "a.jsonl", [{"messages": talk}])
    command = ["preprocess", "--dataset", f"{path}:train:messages", "--output-dir", str(tmp_path / "out")]
    assert main(command) == 0
    assert artifacts.load(tmp_path / "out").counts["dropped"] == {}
    same = [{"role": turn["role"], "content": f"It is said over and over, again and again: {number % 2}, {'so ' * 20}"}
            for number, turn in enumerate(talk)]  # fmt: skip
    written(path, [{"messages": same}, {"messages": talk}])
    assert main(command) == 0
    assert artifacts.load(tmp_path / "out").counts["dropped"] == {"filter.repetition": 1}


def test_an_instruction_without_its_answer_is_quarantined_and_a_column_alone_is_text(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "answer": None}, {"prompt": "How?"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = preprocessed(tmp_path, f"{tmp_path}/a.jsonl:train:prompt")
    assert (found["text"], found["category"]) == ("How?\n", "text")
    assert "no answer in text" in str(quarantined(tmp_path / "out"))


TREES = "oasst_en100/en_100_tree.jsonl"
TASKS = "self_instruct/seed_tasks.jsonl"
HARMLESS = "hh_rlhf_harmless_test/test.jsonl.gz"


@pytest.mark.parametrize(
    ("path", "column", "trees", "count"),
    [
        (TASKS, "instruction", "best_path", 175),
        ("self_instruct/user_oriented_instructions.jsonl", "instruction", "best_path", 252),
        ("dolly_sample/dolly.jsonl", "prompt", "best_path", 151),
        (TREES, "prompt", "best_path", 100),
        (TREES, "prompt", "all_paths", 626),
        (TREES, "prompt", "ranked_pairs", 754),
    ],
)
def test_public_instructions_are_read_whole(path: str, column: str, trees: str, count: int, tmp_path: Path) -> None:
    if not (SHARED_DATA / path).exists():
        pytest.skip(f"{path} is not here")
    flags = ("--reply-trees", trees, "--dedup.near", "false")
    found = preprocessed(tmp_path, f"{SHARED_DATA / path}:train:{column}", *flags)
    counts = artifacts.load(tmp_path / "out").counts
    assert (counts["read"], counts["quarantined"], len(found)) == (count, 0, count)
    assert {row["category"] for row in found} == {"instruction"}
    for row in found:
        turns, pair = from_rows(row["messages"]), row["rejected"] is not None
        assert row["text"] == plain(turns, [Part(**part) for part in row["rejected"]] if pair else None)
        assert pair == (trees == "ranked_pairs")
        check(turns)


def test_all_paths_of_public_trees_are_what_a_plain_walk_finds(tmp_path: Path) -> None:
    path = SHARED_DATA / TREES
    if not path.exists():
        pytest.skip(f"{TREES} is not here")

    def walk(message: dict[str, Any], before: list[str]) -> Iterator[list[str]]:
        here = [*before, message["text"]]
        for each in message["replies"]:
            yield from walk(each, here)
        if not message["replies"]:
            yield here

    trees = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
    flags = ("--reply-trees", "all_paths", "--dedup.near", "false", "--skip", "clean", "scrub", "filters")
    found = preprocessed(tmp_path, f"{path}:train:prompt", *flags)
    expected = [talk for tree in trees for talk in walk(tree, [])]
    assert [[turn.parts[0].text for turn in from_rows(row["messages"])] for row in found] == expected


def test_public_pairs_are_read_and_the_bad_ones_quarantined(tmp_path: Path) -> None:
    path = SHARED_DATA / HARMLESS
    if not path.exists():
        pytest.skip(f"{HARMLESS} is not here")
    found = preprocessed(tmp_path, f"{path}:train:chosen", "--dedup.near", "false", "--dedup.exact", "false")
    counts = artifacts.load(tmp_path / "out").counts
    assert (counts["read"], counts["kept"], counts["quarantined"]) == (2312, 2299, 13)
    reasons = Counter(re.sub(r"\d+", "N", row["reason"]) for row in quarantined(tmp_path / "out"))
    assert reasons == {"turns N and N are both of the assistant": 9, "turn N, of the assistant, is empty": 4}
    lines = list(map(json.loads, gzip.decompress(path.read_bytes()).splitlines()))
    for row in found[::50]:
        line = lines[row["position"]]
        turns = from_rows(row["messages"])
        assert turns[-1].role == "assistant"
        for name, answer in (("chosen", turns[-1].text), ("rejected", row["rejected"][0]["text"])):
            if not row["scrubbed"]:
                said = " ".join(line[name].replace("Human:", "").replace("Assistant:", "").split())
                assert " ".join(" ".join([*(turn.text for turn in turns[:-1]), answer]).split()) == said


def test_the_blend_of_the_readme_is_made_with_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    for seed in range(40):
        (tmp_path / "code" / f"m{seed}.py").write_text(python_file(seed))
        (tmp_path / "code" / f"m{seed}.md").write_text(f"On number {seed} much may be said, and little is known.\n" * 2)
    chats = [{"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}!"}]}
             for n in range(200)]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    flags = ["--skip", "filters", "--dedup.near", "false"]
    for source, output in (("code:train:text", "processed"), ("chats.jsonl:train:messages", "instructions")):
        assert main(["preprocess", "--dataset", source, "--output-dir", f"data/public/{output}", *flags]) == 0
    config = str(REPOSITORY / "configs" / "data" / "blend.yaml")
    assert main(["blend", "--config", config]) == 0
    assert set(artifacts.load(tmp_path / "data" / "public" / "blend").counts["category"]) == {
        "code", "text", "instruction",
    }  # fmt: skip
