"""`ibidem generate` writes as much as fits, and says what fits."""

import json
from pathlib import Path

import pytest

from ibidem.cli import main
from ibidem.modeling.checkpoint import TOKENIZER_DIR
from ibidem.tokenization.tokenizer import Tokenizer

CONTEXT = 64
PROMPTS = ("import os\n", "def add(value, index):\n    return value + index\n")


@pytest.fixture(scope="module")
def room(checkpoint: Path) -> int:
    tokenizer = Tokenizer.load(checkpoint / TOKENIZER_DIR)
    return CONTEXT - 1 - max(len(tokenizer.encode(prompt)) for prompt in PROMPTS)


def generate(checkpoint: Path, *words: str, prompts: tuple[str, ...] = PROMPTS) -> int:
    return main(["generate", "--checkpoint", str(checkpoint), "--prompt", *prompts, "--quiet", *words])


def test_without_a_length_a_completion_fills_a_small_context(checkpoint: Path, room: int, tmp_path: Path) -> None:
    assert generate(checkpoint, "--output", str(tmp_path / "a")) == 0
    assert generate(checkpoint, "--output", str(tmp_path / "b"), "--max-tokens", str(room)) == 0
    ours, theirs = ([json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in "ab")
    assert ours == theirs
    assert all(row["completion"] for row in ours)


def test_a_length_that_does_not_fit_says_the_largest_that_does(
    checkpoint: Path, room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(checkpoint, "--max-tokens", str(room + 1)) == 2
    said = capsys.readouterr().err
    assert (
        f"max_tokens {room + 1}: with a prompt of {CONTEXT - room} tokens at most {room} fit into the context" in said
    )


def test_a_prompt_without_room_for_a_token_is_one_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(checkpoint, prompts=("x = 1\n" * CONTEXT,)) == 2
    assert f"leaves no room in the model's context of {CONTEXT}; shorten it" in capsys.readouterr().err


def test_the_number_of_completions_is_counted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for prompts, said in ((PROMPTS[:1], "1 completion\n"), (PROMPTS, "2 completions\n")):
        assert generate(checkpoint, "--output", str(tmp_path / "o"), "--max-tokens", "1", prompts=prompts) == 0
        assert capsys.readouterr().out.endswith(said)


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_the_precision_of_the_weights_is_chosen(checkpoint: Path, weights: str, tmp_path: Path) -> None:
    assert generate(checkpoint, "--output", str(tmp_path / "o"), "--max-tokens", "4", "--weights", weights) == 0
    assert len((tmp_path / "o").read_text().splitlines()) == len(PROMPTS)
