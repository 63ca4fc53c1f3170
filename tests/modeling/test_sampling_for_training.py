"""Samples for a policy gradient: log-probabilities are those of the trainer, and a prompt is read once for all."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from tests.modeling.test_modeling_custom import decoder, small
from torch import Tensor

from ibidem.errors import ConfigError
from ibidem.modeling import running_batch, sampling
from ibidem.modeling.cache import Reading, read_prompts
from ibidem.modeling.generate import Sample, sample
from ibidem.modeling.log_probabilities import Scoring
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.modeling.modeling_custom import Decoder
from ibidem.modeling.running_batch import Drawn, Request, RunningBatch

PROMPTS = [[1, 5, 9, 22, 4], [3], [7, 7, 2, 50, 60, 61, 62, 63, 64, 65, 1, 2], [8, 8]]
SEEDS = [[0, 1, 2], [3], [5, 4], [6, 7, 8, 9, 0]]
NEVER = 97
"""An id that is not drawn."""
SHAPES = [{}, {"qk_norm": False, "kv_heads": 1}, {"tied": False, "kv_heads": 4}, {"qk_norm": False, "layers": 1}]


def sampled(model: Decoder | FrozenDecoder, *, temperature: float = 1.0) -> list[list[Sample]]:
    return sample(model, PROMPTS, SEEDS, max_tokens=12, temperature=temperature, end_ids=(96, 95))


def scored(model: Decoder, prompt: Sequence[int], ids: Sequence[int], temperature: float) -> Tensor:
    """Return the log-probabilities of a continuation as a trainer computes them."""
    text = torch.tensor([[*prompt, *ids]])
    positions = torch.arange(len(prompt) - 1, len(prompt) + len(ids) - 1)
    with torch.no_grad():
        scores = model(text[:, :-1], text[:, 1:], None, 0.0, positions, Scoring(temperature))
    return scores.log_probs_N


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_log_probabilities_of_samples_are_those_that_the_trainer_computes(
    shape: dict[str, object], temperature: float
) -> None:
    for seed in (0, 1):
        model = decoder(small(**shape), seed)
        groups = sampled(model, temperature=temperature)
        assert [len(group) for group in groups] == [3, 1, 2, 5]
        for prompt, group in zip(PROMPTS, groups, strict=True):
            for each in group:
                expected = scored(model, prompt, each.ids, temperature)
                torch.testing.assert_close(torch.tensor(each.log_probs), expected, atol=1e-5, rtol=0)


def test_samples_of_one_prompt_are_those_of_separate_rows() -> None:
    model = decoder(small())
    for prompt, seeds, group in zip(PROMPTS, SEEDS, sampled(model), strict=True):
        for seed, each in zip(seeds, group, strict=True):
            ((alone,),) = sample(model, [prompt], [[seed]], max_tokens=12, end_ids=(96, 95))
            assert each.ids == alone.ids
            assert each.log_probs == pytest.approx(alone.log_probs, abs=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 6])
def test_a_prompt_is_read_once_though_its_samples_do_not_fit_into_the_batch(
    max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All samples are equally long, so that none of a prompt is left in the batch when the next ones join."""
    model, prompts, seeds = decoder(small()), [[1, 2, 3], [4], [5, 6]], [range(7), range(2), range(3)]
    expected = sample(model, prompts, seeds, max_tokens=max_tokens, end_ids=(NEVER,))
    read: list[list[int]] = []

    def counted(frozen: FrozenDecoder, readings: list[Reading], sizes: list[int]) -> Tensor:
        assert sizes == [reading.unread for reading in readings]
        read.extend(list(reading.ids) for reading in readings)
        return read_prompts(frozen, readings, sizes)

    monkeypatch.setattr(running_batch, "read_prompts", counted)
    found = sample(model, prompts, seeds, max_tokens=max_tokens, end_ids=(NEVER,), most_rows=2)
    assert [[each.ids for each in group] for group in found] == [[each.ids for each in group] for group in expected]
    assert len({tuple(each.ids) for each in found[0]}) > 3
    assert read == prompts


def test_samples_that_join_copy_the_keys_and_values_of_their_prompt() -> None:
    batch = RunningBatch(FrozenDecoder(decoder(small())), slots=3)
    first = batch.admit(Request([1] * 20, 1.0, 1.0, range(5)))
    second = batch.admit(Request([2] * 30, 1.0, 1.0, range(2)))
    assert (first, second) == ([0, 1, 2, 3, 4], [5, 6])
    assert list(batch.step()) == [0, 1, 2]
    assert batch.tokens_read == 20
    batch.release(1)
    assert list(batch.step()) == [0, 2, 3]
    assert batch.tokens_read == 20 + 2
    batch.release(4)  # it never joins
    for number in (0, 2, 3):
        batch.release(number)
    assert list(batch.step()) == [5, 6]
    assert batch.tokens_read == 22 + 30
    batch.step()
    assert batch.tokens_read == 52 + 2
    assert all(row.prompt.reading is None for row in batch._rows), "what nobody waits for is not kept"


def test_a_sample_ends_with_the_first_of_several_end_ids() -> None:
    model = decoder(small())
    ((whole,),) = sample(model, [[1, 2]], [[0]], max_tokens=30, end_ids=(NEVER,))
    assert len(whole.ids) == len(whole.log_probs) == 30
    first = next(at for at in range(3, 30) if whole.ids[at] not in whole.ids[:at])
    second = next(at for at in range(first + 1, 30) if whole.ids[at] not in whole.ids[:at])
    ends = (NEVER, whole.ids[second], whole.ids[first])
    ((short,),) = sample(model, [[1, 2]], [[0]], max_tokens=30, end_ids=ends)
    assert short == Sample(whole.ids[: first + 1], whole.log_probs[: first + 1])


def chi_square(counts: Counter[tuple[int, ...]], chances: dict[tuple[int, ...], float]) -> tuple[float, int]:
    """Return Pearson's statistic and its degrees of freedom; outcomes that are too rare are one together."""
    total = counts.total()
    common = [outcome for outcome, chance in chances.items() if chance * total >= 5]
    observed = [counts[outcome] for outcome in common]
    expected = [chances[outcome] * total for outcome in common]
    observed.append(total - sum(observed))
    expected.append(total - sum(expected))
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True)), len(common)


def test_samples_follow_the_distribution_at_their_temperature() -> None:
    model = decoder(small(vocab_size=8, width=16, ffn_hidden=16, layers=1))
    with torch.no_grad():
        model.embedding.weight_VD.mul_(3)
    (group,) = sample(model, [[1, 5]], [range(6000)], max_tokens=2, temperature=1.7, end_ids=(NEVER,))
    counts = Counter(tuple(each.ids) for each in group)

    def chances(temperature: float) -> dict[tuple[int, ...], float]:
        with torch.no_grad():
            first = (model.logits(torch.tensor([[1, 5]]))[0, -1] / temperature).softmax(-1)
            both = torch.tensor([[1, 5, number] for number in range(8)])
            second = (model.logits(both)[:, -1] / temperature).softmax(-1)
        return {(a, b): float(first[a] * second[a, b]) for a in range(8) for b in range(8)}

    found, freedom = chi_square(counts, chances(1.7))
    limit = freedom + 4 * (2 * freedom) ** 0.5
    assert freedom > 20
    assert found < limit
    assert chi_square(counts, chances(1.5))[0] > limit, "another temperature would be noticed"


def test_only_rows_that_ask_for_log_probabilities_get_them() -> None:
    frozen = FrozenDecoder(decoder(small()))
    requests = [
        Request([1, 2], 0.0, 1.0, [0]),
        Request([3, 4, 5], 0.7, 1.0, [1, 2], log_probs=True),
        Request([6], 1.0, 0.9, [3]),
        Request([7], 1.3, 1.0, [4], log_probs=True),
    ]

    def steps(chosen: Sequence[Request]) -> list[list[Drawn]]:
        batch = RunningBatch(frozen, slots=8)
        numbers = [number for request in chosen for number in batch.admit(request)]
        drawn = [batch.step() for _ in range(4)]
        return [[step[number] for step in drawn] for number in numbers]

    together = steps(requests)
    assert [[each.log_prob is None for each in row] for row in together] == [[x] * 4 for x in (1, 0, 0, 1, 0)]
    alone = [row for request in requests for row in steps([request])]
    for mine, theirs in zip(together, alone, strict=True):
        assert [each.id for each in mine] == [each.id for each in theirs]
        for ours, expected in zip(mine, theirs, strict=True):
            assert ours.log_prob == (None if expected.log_prob is None else pytest.approx(expected.log_prob, abs=1e-5))


@pytest.mark.parametrize("kind", ["parameters", "frozen"])
def test_log_probabilities_in_sixteen_bits_are_those_of_the_very_logits_that_were_drawn_from(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decoder(small(width=64))
    sixteen = FrozenDecoder(model, "bfloat16") if kind == "frozen" else decoder(small(width=64)).bfloat16()
    seen: list[Tensor] = []

    def remembered(logits_BV: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        assert logits_BV.dtype == torch.float32
        ids_B, log_probs_B = sampling.draw_scored(logits_BV, *rest)
        logs_BV = (logits_BV.double() / 0.7).log_softmax(-1)
        seen.append(logs_BV[torch.arange(len(ids_B)), ids_B])
        return ids_B, log_probs_B

    monkeypatch.setattr(running_batch, "draw_scored", remembered)
    (group,) = sample(sixteen, [[1, 5, 9]], [range(5)], max_tokens=8, temperature=0.7, end_ids=(NEVER,))
    found = torch.tensor([each.log_probs for each in group], dtype=torch.float64)
    torch.testing.assert_close(found, torch.stack(seen, dim=1), atol=1e-6, rtol=0)
    expected = torch.stack([scored(model, [1, 5, 9], each.ids, 0.7) for each in group])
    torch.testing.assert_close(found.float(), expected, atol=0.2, rtol=0)
    assert not torch.allclose(found.float(), expected, atol=1e-4), "16 bits make a difference"


def test_a_sample_that_does_not_fit_into_the_context_is_refused() -> None:
    model = decoder(small())
    with pytest.raises(ConfigError, match="at most 4 fit"):
        sample(model, [[1], [1] * 60], [[0], [0, 1]], max_tokens=5, end_ids=(NEVER,))
    (group,) = sample(model, [[1] * 60], [[0, 1]], max_tokens=4, end_ids=(NEVER,))
    assert [len(each.ids) for each in group] == [4, 4]
