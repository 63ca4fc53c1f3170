"""Conversations and instructions become documents of the category instruction, rendered plainly."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import REPOSITORY, SHARED_DATA, python_file

from ibidem import artifacts
from ibidem.cli import main
from ibidem.data import shards
from ibidem.data.sources import conversations

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


def preprocessed(tmp_path: Path, *specs: str) -> list[dict[str, Any]]:
    command = ["preprocess", "--dataset", *specs, "--output-dir", str(tmp_path / "out"), "--skip", "filters"]
    assert main(command) == 0
    artifacts.verify(tmp_path / "out")
    return [row for path in shards.shard_paths(tmp_path / "out") for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_conversation_is_one_text(name: str, suffix: str, tmp_path: Path) -> None:
    column, row = SPELLINGS[name]
    path = tmp_path / f"a{suffix}"
    if suffix == ".jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    (found,) = preprocessed(tmp_path, f"{path}:train:{column}")
    assert found["text"] == RENDERED
    assert found["category"] == "instruction"
    assert found["code_blocks"][0]["language"] == "python"
    assert found["record"] == row.get("id", f"a{suffix}:1")


def test_the_input_of_an_instruction_stands_below_it() -> None:
    assert conversations.pair("Add.", "1 + 1", "2") == "User:\nAdd.\n\n1 + 1\n\nAssistant:\n2\n"
    two = [{"input": "1", "output": "2"}, {"input": None, "output": "3"}]
    assert conversations.pair("Add 1.", None, two) == (
        "User:\nAdd 1.\n\n1\n\nAssistant:\n2\n\nUser:\nAdd 1.\n\nAssistant:\n3\n"
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "user"}]}, "message 1 has no text"),
        ({"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}, "message 2 has no role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 1 has no text"),
        ({"messages": [{"role": 7, "content": "a"}]}, "message 1 has no role"),
        ({"messages": ["a", "b"]}, "column 'messages' is list, not text"),
        ({"messages": []}, "column 'messages' is list, not text"),
        ({"messages": {"a": 1}}, "column 'messages' is dict, not text"),
    ],
)
def test_what_is_no_conversation_is_quarantined(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "Hi"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(good) + "\n")
    assert [found["text"] for found in preprocessed(tmp_path, f"{tmp_path}/a.jsonl:train:messages")] == ["User:\nHi\n"]
    (line,) = (tmp_path / "out" / shards.QUARANTINE).read_text().splitlines()
    assert json.loads(line) == {"file": "a.jsonl", "line": 1, "reason": reason}


def test_an_instruction_without_its_answer_is_quarantined_and_a_column_alone_is_text(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "answer": None}, {"prompt": "How?"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = preprocessed(tmp_path, f"{tmp_path}/a.jsonl:train:prompt")
    assert (found["text"], found["category"]) == ("How?\n", "text")
    assert "no answer in text" in (tmp_path / "out" / shards.QUARANTINE).read_text()


@pytest.mark.parametrize(
    ("path", "column", "count"),
    [
        ("self_instruct/seed_tasks.jsonl", "instruction", 175),
        ("dolly_sample/dolly.jsonl", "prompt", 151),
        ("oasst_en100/en_100_tree.jsonl", "prompt", 100),
    ],
)
def test_public_instructions_are_read_whole(path: str, column: str, count: int, tmp_path: Path) -> None:
    if not (SHARED_DATA / path).exists():
        pytest.skip(f"{path} is not here")
    found = preprocessed(tmp_path, f"{SHARED_DATA / path}:train:{column}")
    counts = artifacts.load(tmp_path / "out").counts
    assert (counts["read"], counts["quarantined"]) == (count, 0)
    assert len(found) > 0.9 * count
    assert {row["category"] for row in found} == {"instruction"}
    assert all(row["text"].startswith("User:\n") and "\n\nAssistant:\n" in row["text"] for row in found)


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
