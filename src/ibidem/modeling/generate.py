"""Sampling from a decoder: batched, cached, reproducible."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from ibidem.errors import ConfigError
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.running_batch import Request, RunningBatch

MOST_ROWS = 32
"""Maximum number of prompts that `generate` continues at once."""
SEED_STRIDE = 1_000_003
"""The random generator of a prompt has the seed `seed * SEED_STRIDE + number of the prompt`."""
Finish = Literal["document", "turn", "stop", "length"]
"""Why a generated text ended: with the document, with a turn, at a stop string, or at the maximum length."""


class TextCodec(Protocol):
    """What generation requires of a tokenizer."""

    document_id: int
    turn_end_id: int
    end_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""

    def continued(self, ids: Sequence[int]) -> str:
        """Return the text of ids that continue a text."""


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
    finish: Finish


def complete(
    model: Decoder | FrozenDecoder,
    tokenizer: TextCodec,
    prompts: Sequence[str],
    sampling: Sampling,
    stop: Sequence[str] = (),
) -> list[Completion]:
    """Continue each prompt as the start of a document.

    The text ends before the first stop string, or where the model ends the document or a turn.

    Raises:
        ConfigError: a prompt and `max_tokens` do not fit into the context.
    """
    prompt_ids = [[tokenizer.document_id, *tokenizer.encode(prompt)] for prompt in prompts]
    longest = max((len(word.encode()) for word in stop), default=0)

    def is_stopped(ids: list[int]) -> bool:
        tail = tokenizer.continued(ids[-longest - 4 :])  # a token is at least one byte, a character at most four
        return any(word in tail for word in stop)

    ends = is_stopped if stop else None
    generated = generate(model, prompt_ids, sampling, end_ids=tokenizer.end_ids, is_stopped=ends)
    return [_completion(tokenizer, ids, stop) for ids in generated]


def generate(
    model: Decoder | FrozenDecoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    end_ids: Collection[int],
    is_stopped: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Sample ids after each prompt, up to the first of `end_ids`, which is included.

    Each row has its own random generator, so the sample of a prompt does not depend on the rest of the batch, up to
    rounding. At most `MOST_ROWS` prompts are continued at once; the next one takes the place of one that is finished.
    """

    def is_finished(ids: list[int]) -> bool:
        return ids[-1] in end_ids or (is_stopped is not None and is_stopped(ids))

    first_seed = sampling.seed * SEED_STRIDE + sampling.first
    requests = [
        Request(prompt, sampling.temperature, sampling.top_p, [seed]) for seed, prompt in enumerate(prompts, first_seed)
    ]
    return [only.ids for (only,) in _continued(model, requests, sampling.max_tokens, MOST_ROWS, is_finished)]


class Sample(NamedTuple):
    """A continuation that was drawn from the whole distribution."""

    ids: list[int]
    """With the end id, if it ended with one."""
    log_probs: list[float]
    """Of each id under softmax(logits / temperature), in nats, from the logits it was drawn from; float32."""


def sample(
    model: Decoder | FrozenDecoder,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    end_ids: Collection[int],
    most_rows: int = 2 * MOST_ROWS,
) -> list[list[Sample]]:
    """Draw samples of each prompt, with their log-probabilities, for a policy gradient.

    There is no nucleus: the gradient's ratios are those of the whole distribution.

    Args:
        model: the policy. Its logits have the precision of a `FrozenDecoder`: on a GPU bfloat16 unless it is one.
        prompts: their ids; each is read once, whatever the number of its samples.
        seeds: for each prompt the random seeds of its samples; a sample depends on prompt and seed alone, up to
            rounding.
        max_tokens: maximum length of a sample.
        temperature: more than 0.
        end_ids: a sample ends with the first of them.
        most_rows: maximum number of samples that are continued at once, which bounds the memory of keys and values.

    Returns:
        The samples of each prompt, in the order of their seeds.

    Raises:
        ConfigError: a prompt and `max_tokens` do not fit into the context.
    """
    assert temperature > 0
    requests = [
        Request(prompt, temperature, 1.0, own, log_probs=True) for prompt, own in zip(prompts, seeds, strict=True)
    ]
    return _continued(model, requests, max_tokens, most_rows, lambda ids: ids[-1] in end_ids)


def _continued(
    model: Decoder | FrozenDecoder,
    requests: Sequence[Request],
    max_tokens: int,
    most_rows: int,
    is_finished: Callable[[list[int]], bool],
) -> list[list[Sample]]:
    """Return the samples of each request; their log-probabilities are empty unless it asks for them."""
    longest = max(len(request.ids) for request in requests)
    _check_length(longest, max_tokens, model.config.context)
    frozen = model if isinstance(model, FrozenDecoder) else FrozenDecoder(model)
    slots = min(sum(len(request.seeds) for request in requests), most_rows)
    batch = RunningBatch(frozen, slots=slots, size=longest + max_tokens)
    samples = [[Sample([], []) for _ in request.seeds] for request in requests]
    running: dict[int, Sample] = {}
    for request, own in zip(requests, samples, strict=True):
        running |= zip(batch.admit(request), own, strict=True)
    while running:
        for number, drawn in batch.step().items():
            ids, log_probs = running[number]
            ids.append(drawn.id)
            if drawn.log_prob is not None:
                log_probs.append(drawn.log_prob)
            if len(ids) == max_tokens or is_finished(ids):
                batch.release(number)
                del running[number]
    return samples


def _completion(tokenizer: TextCodec, ids: list[int], stop: Sequence[str]) -> Completion:
    last_id = ids[-1]
    ended: Finish = "turn" if last_id == tokenizer.turn_end_id else "document"
    finish = ended if last_id in tokenizer.end_ids else "length"
    text = tokenizer.continued(ids if finish == "length" else ids[:-1])
    positions = [position for word in stop if (position := text.find(word)) >= 0]
    if positions:
        return Completion(text[: min(positions)], len(ids), "stop")
    return Completion(text, len(ids), finish)


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
