"""What an assistant answers to conversations.

    a checkpoint of ours                      renders by `tokenization.chat`, and ends at <|end|> or <|endoftext|>
    a Hugging Face model with a template      renders by its own chat template; its tokenizer reads control tokens in
                                              texts too, so that a text can spell a role there
    a Hugging Face model without              continues the plain rendering up to the next heading, such as User:

A conversation that is too long for the context is not cut within a turn: the oldest turns are left out, up to a turn of
the user, and their number is reported. The system's turn stays. If the last turn of the user does not fit, it is
refused.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ibidem import log
from ibidem.conversation import ROLES, Conversation, Turn, plain
from ibidem.errors import ConfigError
from ibidem.modeling.generate import Finish, Sampling, generate
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.modeling_custom import Decoder
from ibidem.tokenization.chat import ChatTemplate

PROMPT_FORMAT = 2
"""Version of how conversations are rendered for a model; it rises whenever a model would be asked in other words."""
PLAIN_STOP = tuple(f"\n{role.capitalize()}:" for role in ROLES)
"""Headings that end an answer in the plain rendering."""
_SHOWN_CHARS = 40


class Answer(NamedTuple):
    """A generated turn of the assistant."""

    turn: Turn
    num_tokens: int
    finish: Finish


def answer(
    model: Decoder | FrozenDecoder, template: ChatTemplate, conversations: Sequence[Conversation], sampling: Sampling
) -> list[Answer]:
    """Generate the assistant's next turn in each conversation.

    Raises:
        ConfigError: a conversation's last turn of the user and `max_tokens` do not fit into the context.
    """
    room = model.config.context - sampling.max_tokens
    fitting = fit(conversations, lambda turns: len(template.prompt(turns)), room)
    prompts = [template.prompt(turns) for turns in fitting]
    generated = generate(model, prompts, sampling, end_ids=template.end_ids)
    return [Answer(template.read(ids), len(ids), _finish(template, ids[-1])) for ids in generated]


def fit(
    conversations: Sequence[Conversation], num_tokens: Callable[[Conversation], int], room: int
) -> list[Conversation]:
    """Leave out the oldest turns of each conversation that has more than `room` tokens, and report how many had.

    Raises:
        ConfigError: the system's turn and the last turn of the user have more.
    """
    fitting = [_fit(turns, num_tokens, room) for turns in conversations]
    count = sum(len(kept) < len(turns) for kept, turns in zip(fitting, conversations, strict=True))
    if count:
        reason = "they are too long for the context and lose their oldest turns"
        log.event("evaluate.truncated", prompts=count, of=len(conversations), reason=reason)
    return fitting


def check_fit(conversations: Sequence[Conversation], num_tokens: Callable[[Conversation], int], room: int) -> None:
    """Refuse conversations that do not fit even without their older turns.

    Raises:
        ConfigError: the system's turn and the last turn of the user have more than `room` tokens.
    """
    for turns in conversations:
        _fit(turns, num_tokens, room)


def shortened(turns: Conversation, fits: Callable[[Conversation], bool]) -> Conversation:
    """Leave out the oldest turns of a conversation that does not fit, up to a turn of the user.

    Args:
        turns: the conversation.
        fits: whether a conversation fits; it is called O(log n) times, as what is shorter fits, too.

    Raises:
        ConfigError: the system's turn and the last turn of the user do not fit.
    """
    system = tuple(turn for turn in turns[:1] if turn.role == "system")
    starts = [place for place, turn in enumerate(turns) if turn.role == "user"]
    first = bisect_left(starts, True, key=lambda start: fits((*system, *turns[start:])))
    if first == len(starts):
        raise ConfigError("the prompt does not fit into the model's context; shorten it, or give fewer max_tokens")
    return (*system, *turns[starts[first] :])


def plain_prompt(turns: Conversation) -> str:
    r"""Render a conversation for a model without a chat template.

    >>> plain_prompt((Turn.of("user", "Hi"),))
    'User:\nHi\n\nAssistant:\n'
    """
    return f"{plain(turns)}\nAssistant:\n"


def _fit(turns: Conversation, num_tokens: Callable[[Conversation], int], room: int) -> Conversation:
    system = tuple(turn for turn in turns[:1] if turn.role == "system")
    starts = [place for place, turn in enumerate(turns) if turn.role == "user"]
    shorter = ((*system, *turns[start:]) for start in starts)
    kept = next((each for each in shorter if num_tokens(each) <= room), None)
    if kept is None:
        size = num_tokens((*system, *turns[starts[-1] :]))
        asked = " ".join(turns[starts[-1]].text.split())
        raise ConfigError(
            f"the prompt {asked[:_SHOWN_CHARS]!r} has {size:,} tokens, and max_tokens leaves {max(room, 0):,} of the "
            "model's context; shorten the prompt, or give fewer max_tokens"
        )
    return kept


def _finish(template: ChatTemplate, last_id: int) -> Finish:
    if last_id == template.turn_end_id:
        return "turn"
    return "document" if last_id in template.end_ids else "length"
