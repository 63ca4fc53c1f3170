"""`ibidem chat` keeps a conversation as long as the context allows; the model's text never controls the terminal."""

import asyncio
import io
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from ibidem.cli import main
from ibidem.conversation import Conversation, Turn
from ibidem.figures import terminal_text
from ibidem.inference.chat import answer
from ibidem.modeling.checkpoint import TOKENIZER_DIR, load_model
from ibidem.modeling.generate import Sampling
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.serving.server.own_model import OwnSpeaker
from ibidem.serving.server.speech import Said, SamplingParams, Spoken
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer

Speech = AsyncGenerator[Said | Spoken]
Chat = Callable[..., tuple[int, str, str]]
Answer = Callable[[Conversation], Turn]


@pytest.fixture
def chat(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    def run(lines: str | bytes, *words: str) -> tuple[int, str, str]:
        data = io.BytesIO(lines if isinstance(lines, bytes) else lines.encode())
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data, encoding="utf-8"))
        code = main(["chat", "--checkpoint", str(checkpoint), *words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> Answer:
    """What `ibidem generate` answers to a whole conversation."""
    template = ChatTemplate(Tokenizer.load(checkpoint / TOKENIZER_DIR))
    frozen = FrozenDecoder(load_model(checkpoint)[0])
    return lambda turns: answer(frozen, template, [turns], Sampling(6, 0.8, 0.95, 3))[0].turn


def said(turn: Turn) -> str:
    return terminal_text("".join(part.text for part in turn.parts)) + "\n"


def test_each_line_is_answered_in_the_conversation_so_far(chat: Chat, alone: Answer) -> None:
    turns: Conversation = (Turn.of("user", "def add"),)
    turns = (*turns, alone(turns), Turn.of("user", "and index?"))
    expected = said(turns[1]) + said(alone(turns))
    code, out, _ = chat("def add\n\n  \nand index?\n", "--max-tokens", "6", "--seed", "3", "--quiet")
    assert (code, out) == (0, expected)


def test_a_conversation_that_is_too_long_loses_its_oldest_turns_and_says_so(chat: Chat, alone: Answer) -> None:
    code, out, err = chat("value\n" * 9, "--max-tokens", "6", "--seed", "3")
    assert code == 0
    assert out.startswith(said(alone((Turn.of("user", "value"),))))
    assert len(out.splitlines()) >= 9
    assert "the conversation is too long for the context, and loses 2 old turns" in err


def test_a_line_that_is_too_long_is_refused_and_the_next_one_answered(chat: Chat, alone: Answer) -> None:
    code, out, err = chat("value " * 80 + "\nvalue\n", "--max-tokens", "6", "--seed", "3")
    assert (code, out) == (0, said(alone((Turn.of("user", "value"),))))
    assert "shorten the prompt" in err


def test_what_is_not_text_is_one_line(chat: Chat) -> None:
    code, _, err = chat(b"\xff\xfe\n", "--quiet")
    assert code == 2
    assert err == "ibidem: standard input is not UTF-8 text; convert it\n"


def test_control_characters_of_the_model_do_not_reach_the_terminal(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    async def speak(*_: object, **_rest: object) -> Speech:
        for text in ("a\x1b[2J", "\u202eb\r", "\x07", "\tc\n", "\x9bd"):
            yield Said("text", text)
        yield Said("cite", "1\x1b")
        yield Spoken("stop", 1, 1)

    monkeypatch.setattr(OwnSpeaker, "speak", speak)
    _, out, _ = chat("Hi\n", "--quiet")
    assert out == "a\\x1b[2J\\u202eb\\r\\x07        c\n\\x9bd [1\\x1b]\n"


def test_an_interrupt_stops_the_answer_and_what_was_said_stays_in_the_conversation(
    chat: Chat, alone: Answer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    speak = OwnSpeaker.speak
    asked: list[Conversation] = []

    async def interrupted(
        speaker: OwnSpeaker, turns: Conversation, sampling: SamplingParams, *, owner: str, scope: str | None
    ) -> Speech:
        asked.append(turns)
        async with aclosing(speak(speaker, turns, sampling, owner=owner, scope=scope)) as speech:
            async for each in speech:
                if len(asked) == 1:
                    assert isinstance(each, Said)
                    yield Said(each.kind, each.text[:1])  # how much is there at once depends on time
                    signal.raise_signal(signal.SIGINT)
                    await asyncio.sleep(60)
                yield each

    monkeypatch.setattr(OwnSpeaker, "speak", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background of a shell
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    code, out, _ = chat("value\nindex\n", "--max-tokens", "6", "--seed", "3", "--quiet")
    first, second = asked
    assert code == 0
    assert first == second[:1]
    assert 0 < len(second[1].text) < len(alone(first).text)
    assert alone(first).text.startswith(second[1].text)
    assert out == said(second[1]) + said(alone(second))
