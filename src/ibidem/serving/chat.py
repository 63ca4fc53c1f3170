"""`ibidem chat`: a conversation with a checkpoint in the terminal.

    > When does it open?          each line of standard input is a turn
    At nine.                      written as it is generated; Ctrl-C stops it, and what was said stays said
    > On Sundays too?             asked in the same conversation
    >                             Ctrl-D ends

The model's text cannot control the terminal. When a conversation is too long, its oldest turns are left out.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import aclosing

from ibidem import log
from ibidem.conversation import Conversation, Part, Turn, plain_part
from ibidem.errors import ConfigError
from ibidem.figures import counted, terminal_text
from ibidem.inference.chat import shortened
from ibidem.serving.config import DEFAULT_TOKENS, ChatConfig
from ibidem.serving.generate import report_untuned
from ibidem.serving.server.own_model import OwnSpeaker
from ibidem.serving.server.speech import Said, SamplingParams

PROMPT = "> "


def chat(config: ChatConfig) -> str:
    """Answer each line of standard input; return nothing more to print."""
    speaker = OwnSpeaker(config.checkpoint, slots=1, weights=config.weights)
    report_untuned(speaker.checkpoint)
    turns: Conversation = ()
    try:
        with asyncio.Runner() as runner:
            for line in _lines():
                turns = _answered(runner, speaker, (*turns, Turn.of("user", line)), config)
    finally:
        speaker.close()
    return ""


def _lines() -> Iterator[str]:
    """Yield the lines that are not blank."""
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            line = input(PROMPT if is_terminal else "")
            line.encode()
        except EOFError:
            sys.stdout.write("\n" * is_terminal)
            return
        except UnicodeError:
            raise ConfigError("standard input is not UTF-8 text; convert it") from None
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            sys.stdout.write("\n")
            continue
        if line.strip():
            yield line


def _answered(runner: asyncio.Runner, speaker: OwnSpeaker, turns: Conversation, config: ChatConfig) -> Conversation:
    """Return the conversation with an answer; without its last turn, if that gets none."""
    least = config.max_tokens or min(DEFAULT_TOKENS, speaker.context // 4)
    try:
        kept = shortened(turns, lambda each: speaker.room(each) >= least)
    except ConfigError as error:
        log.event("chat.refused", reason=str(error))
        return turns[:-1]
    if len(kept) < len(turns):
        reason = (
            f"the conversation is too long for the context, and loses {counted(len(turns) - len(kept), 'old turn')}"
        )
        log.event("chat.shortened", reason=reason)
    max_tokens = config.max_tokens or min(DEFAULT_TOKENS, speaker.room(kept))
    sampling = SamplingParams(max_tokens, config.temperature, config.top_p, config.seed)
    parts: list[Part] = []
    try:
        runner.run(_show(speaker, kept, sampling, parts))
    except KeyboardInterrupt:
        pass  # what was said is part of the conversation
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    answer = Turn("assistant", tuple(parts))
    return kept[:-1] if answer.is_blank else (*kept, answer)


async def _show(speaker: OwnSpeaker, turns: Conversation, sampling: SamplingParams, parts: list[Part]) -> None:
    """Write an answer as it is generated, and add its parts to a list."""
    async with aclosing(speaker.speak(turns, sampling, owner="", scope="")) as answer:
        async for said in answer:
            if isinstance(said, Said):
                part = Part(said.kind, said.text)
                sys.stdout.write(terminal_text(plain_part(part)))
                sys.stdout.flush()
                if parts and parts[-1].kind == part.kind == "text":  # a text is encoded as a whole
                    part = Part("text", parts.pop().text + part.text)
                parts.append(part)
