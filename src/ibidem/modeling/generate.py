"""Sampling from a decoder: batched, cached, reproducible."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ibidem.errors import ConfigError
from ibidem.modeling.cache import KVCache, hidden
from ibidem.modeling.modeling_custom import Decoder


class TextCodec(Protocol):
    """What generation requires of a tokenizer."""

    document_id: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token."""

    max_tokens: int = 128
    temperature: float = 0.8
    """0 takes the most likely token."""
    top_p: float = 0.95
    """Nucleus sampling: draw from the most likely tokens that together have this probability."""
    seed: int = 0
    first: int = 0
    """Number of the first prompt among all prompts; each number has its own random generator."""


def room_for(context: int, encode: Callable[[str], list[int]], prompts: Sequence[str]) -> int:
    """Return how many tokens fit into the context behind the longest prompt; negative if it is too long itself."""
    return context - 1 - max(len(encode(prompt)) for prompt in prompts)


class Completion(NamedTuple):
    """What was generated for one prompt."""

    text: str
    num_tokens: int
    finish: str
    """Why it ended: `document` (the end of the document was generated), `stop` (a stop string) or `length`."""


def complete(
    model: Decoder, tokenizer: TextCodec, prompts: Sequence[str], sampling: Sampling, stop: Sequence[str] = ()
) -> list[Completion]:
    """Continue each prompt as the start of a document; the text ends before the first stop string.

    Raises:
        ConfigError: a prompt and `max_tokens` do not fit into the context.
    """
    prompt_ids = [[tokenizer.document_id, *tokenizer.encode(prompt)] for prompt in prompts]
    longest = max((len(word.encode()) for word in stop), default=0)

    def is_stopped(ids: list[int]) -> bool:
        tail = tokenizer.decode(ids[-longest - 4 :])  # a token is at least one byte, a character at most four
        return any(word in tail for word in stop)

    generated = generate(
        model, prompt_ids, sampling, end_id=tokenizer.document_id, is_stopped=is_stopped if stop else None
    )
    return [_completion(tokenizer, ids, stop) for ids in generated]


@torch.no_grad()
def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    end_id: int,
    is_stopped: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Sample ids after each prompt, including `end_id` if it was drawn.

    Each row has its own random generator, so the sample of a prompt does not depend on the rest of the batch.
    """
    longest = max(len(prompt) for prompt in prompts)
    _check_length(longest, sampling.max_tokens, model.config.context)
    device = model.device
    numbers = range(sampling.first, sampling.first + len(prompts))
    generators = [torch.Generator().manual_seed(sampling.seed * 1_000_003 + number) for number in numbers]
    pads_B = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    ids_BT = torch.tensor([[end_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    cache = KVCache(model.config, pads_B, longest + sampling.max_tokens, model.head_VD.dtype)
    generated: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    was_training = model.training
    model.eval()
    for _ in range(sampling.max_tokens):
        last_BD = hidden(model, ids_BT, cache)[:, -1]
        logits_BV = (last_BD @ model.head_VD.T).float().cpu()
        next_ids = [
            _draw(logits_BV[row], sampling, generators[row]) if row in running else end_id
            for row in range(len(prompts))
        ]
        for row in list(running):
            generated[row].append(next_ids[row])
            if next_ids[row] == end_id or (is_stopped is not None and is_stopped(generated[row])):
                running.discard(row)
        if not running:
            break
        ids_BT = torch.tensor(next_ids, device=device)[:, None]
    model.train(was_training)
    return generated


def next_token_probabilities(logits_V: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """Turn logits into the sampling distribution: temperature, then nucleus.

    >>> next_token_probabilities(torch.tensor([2.0, 1.0, -9.0]), temperature=1.0, top_p=0.7).tolist()
    [1.0, 0.0, 0.0]

    Source: Holtzman et al. 2019, arXiv:1904.09751, section 3.1.
    """
    probabilities_V = torch.softmax(logits_V / temperature, dim=-1)
    if top_p < 1:
        sorted_V, order_V = probabilities_V.sort(descending=True, stable=True)
        outside_V = sorted_V.cumsum(0) - sorted_V >= top_p
        probabilities_V = probabilities_V.index_fill(0, order_V[outside_V], 0.0)
        probabilities_V /= probabilities_V.sum()
    return probabilities_V


def _draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    probabilities_V = next_token_probabilities(logits_V, temperature=sampling.temperature, top_p=sampling.top_p)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def _completion(tokenizer: TextCodec, ids: list[int], stop: Sequence[str]) -> Completion:
    ended = bool(ids) and ids[-1] == tokenizer.document_id
    text = tokenizer.decode(ids[:-1] if ended else ids)
    positions = [position for word in stop if (position := text.find(word)) >= 0]
    if positions:
        return Completion(text[: min(positions)], len(ids), "stop")
    return Completion(text, len(ids), "document" if ended else "length")


def _check_length(longest: int, max_tokens: int, context: int) -> None:
    room = context - longest
    if room < 1:
        raise ConfigError(
            f"a prompt of {longest:,} tokens leaves no room in the model's context of {context}; shorten it"
        )
    if max_tokens > room:
        raise ConfigError(
            f"max_tokens {max_tokens}: with a prompt of {longest} tokens at most {room} fit into the context, {context}"
        )
