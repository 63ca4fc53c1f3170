"""Rollouts: everything follows from the step, and what is sampled is what the trainer scores."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tests.modeling.test_modeling_custom import decoder, small

from ibidem.errors import ConfigError, SandboxError
from ibidem.modeling import attention
from ibidem.modeling.log_probabilities import Scoring
from ibidem.training.rlhf import rollout
from ibidem.training.rlhf.batches import Encoded, pack
from ibidem.training.rlhf.config import AlignLoopConfig, GroupConfig
from ibidem.training.rlhf.rollout import ARRAYS, Answer, Plan, Rollout, Sampler, pack_answers

CONFIG = GroupConfig(max_tokens=6, samples=4, minibatches=2, epochs=3, temperature=1.3)
TRAINING = AlignLoopConfig(steps=100, batch_sequences=8, micro_batch_sequences=2, seed=5)
PLAN = Plan(CONFIG, TRAINING, prompts=7)
PROMPTS = [[1, 5, 9, 22, 4], [3], [7, 7, 2, 50, 60], [8, 8], [9], [10, 11], [12, 13, 14]]


def scored(answers: list[Answer]) -> list[Answer]:
    return [each._replace(score=float(each.ids_L.sum()), hidden=0.5) for each in answers]


def sampler(**changes: object) -> Sampler:
    reference = decoder(small()).requires_grad_(requires_grad=False)
    return Sampler(PLAN, PROMPTS, frozenset({96, 95}), scored, Accelerator(cpu=True), reference, **changes)


def test_each_epoch_learns_from_each_answer_once() -> None:
    for number in range(2):
        for epoch in range(3):
            steps = [number * 6 + epoch * 2 + minibatch for minibatch in range(2)]
            assert {PLAN.rollout_of(step) for step in steps} == {number}
            assert sorted(item for step in steps for item in PLAN.minibatch_of(step)) == list(range(16))
    orders = {tuple(PLAN.minibatch_of(step)) for step in range(12)}
    assert len(orders) == 12


def test_processes_and_micro_batches_share_out_a_step() -> None:
    plans = [replace(PLAN, processes=2, process=process) for process in range(2)]
    items = [item for plan in plans for micro in range(2) for item in plan.micro_batch_of(3, micro)]
    assert sorted(items) == sorted(PLAN.minibatch_of(3))


def test_every_prompt_is_asked_before_one_is_asked_again() -> None:
    asked = [number for at in range(7) for number in PLAN.prompts_of(at)]
    assert set(Counter(asked).values()) == {4}
    assert sorted(asked[:7]) == list(range(7))


def test_no_two_answers_have_the_same_seed() -> None:
    seeds = [seed for at in range(5) for group in range(4) for seed in PLAN.seeds_of(at, group)]
    assert len(set(seeds)) == len(seeds) == 80


def test_prompts_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 prompts .* 3 processes cannot share out"):
        replace(PLAN, processes=3).check()


def test_a_rollout_is_sampled_once_and_restored_to_the_bit() -> None:
    model, one = decoder(small()), sampler()
    assert one.begin(model, 0)
    assert not one.begin(model, 5)
    first = one.current
    other = sampler()
    other.restore(one.state())
    assert not other.begin(model, 3)
    for mine, theirs in zip(first.answers, other.current.answers, strict=True):
        assert (mine.prompt, mine.is_ended, mine.score, mine.hidden) == theirs[:1] + theirs[3:6]
        for name in ("ids_L", *ARRAYS):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name
    assert other.begin(model, 6)
    assert other.current.number == 1
    assert Rollout.of_state(other.state().tensors).number == 1


def test_what_is_sampled_is_what_the_trainer_scores() -> None:
    model, one = decoder(small()), sampler()
    one.begin(model, 0)
    assert {len(each.ids_L) for each in one.current.answers} <= set(range(1, 7))
    for answer in one.current.answers:
        assert answer.is_ended == (answer.ids_L[-1] in {95, 96})
        assert answer.is_ended or len(answer.ids_L) == 6
        assert not set(answer.ids_L[:-1].tolist()) & {95, 96}
        batch = pack_answers(PROMPTS, [answer])
        scores = model(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N, Scoring(1.3))
        assert scores.log_probs_N.tolist() == pytest.approx(answer.log_probs_L.tolist(), abs=1e-5)
        assert answer.reference_L.tolist() == pytest.approx(answer.log_probs_L.tolist(), abs=1e-5)


def test_a_batch_joins_what_belongs_to_its_answers() -> None:
    model, one = decoder(small()), sampler()
    one.begin(model, 0)
    marks = [np.full(len(each.ids_L), number, np.float32) for number, each in enumerate(one.current.answers)]
    batch = one.batch([5, 2, 9], marks)
    answer_of_N, old_N, marks_N = batch.others
    assert marks_N.tolist() == [[5, 2, 9][place] for place in answer_of_N.tolist()]
    targets = batch.targets_BT.flatten()[batch.counted_N].tolist()
    assert targets == [number for item in (5, 2, 9) for number in one.current.answers[item].ids_L]
    assert old_N.tolist() == [value for item in (5, 2, 9) for value in one.current.answers[item].log_probs_L.tolist()]


@pytest.mark.parametrize("masked", [0, 512])
@pytest.mark.parametrize("shape", [{}, {"kv_heads": 4, "qk_norm": False}, {"kv_heads": 1}])
def test_answers_that_share_a_prompt_have_the_scores_and_gradients_of_whole_texts(
    shape: dict, masked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MASKED_TOKENS", masked)
    prompts = [[5], [1, 2, 3, 4], [7, 8]]
    answers = [
        Answer(number, np.array(ids, np.int32), np.zeros(len(ids)), True)
        for number, ids in ((1, [9, 10, 96]), (1, [96]), (1, [11, 12]), (0, [1, 2]), (0, [3]), (2, [5, 5]), (1, [4]))
    ]
    shared = pack_answers(prompts, answers)
    assert shared.ids_BT.shape[1] < 3 * 4 + 3 + 1 + 2 + 1 * 3 + 3 + 4 + 3, "neighbors share their prompt"
    whole = pack([text(prompts[each.prompt], each) for each in answers])
    results = []
    for batch in (shared, whole):
        model = decoder(small(**shape))
        scores = model(
            batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N, Scoring(0.7, entropy=True)
        )
        weights = torch.linspace(-1, 1, len(scores.log_probs_N))
        ((scores.log_probs_N * weights).sum() + scores.entropies_N.sum()).backward()
        gradients = {name: each.grad for name, each in model.named_parameters()}
        results.append((scores.log_probs_N, scores.entropies_N, gradients))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-5)


def text(prompt: list[int], answer: Answer) -> Encoded:
    ids = np.array([*prompt, *answer.ids_L], np.int32)
    return Encoded(ids, np.arange(len(ids)) >= len(prompt))


def test_sampling_leaves_the_model_in_its_mode() -> None:
    model, one = decoder(small()), sampler()
    for training in (True, False):
        model.train(training)
        one.sampled(model, [0], [[1]])
        assert model.training is training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "change",
    [{"samples": 2}, {"minibatches": 1}, {"max_tokens": 5}, {"temperature": 1.0}, {"epochs": 1}],
)
def test_a_rollout_of_other_settings_is_dropped_and_sampled_anew(change: dict) -> None:
    model, one, other = decoder(small()), sampler(), sampler()
    one.begin(model, 0)
    other.plan = replace(PLAN, config=replace(CONFIG, **change))
    other.restore(one.state())
    assert other.current is None
    assert other.begin(model, 1)
    assert len(other.current.answers) == other.plan.answers


def test_a_rollout_of_other_prompts_or_without_its_reference_is_dropped() -> None:
    model, one = decoder(small()), sampler()
    one.begin(model, 0)
    fewer, bare = sampler(), sampler()
    fewer.prompts = PROMPTS[1:]
    bare.reference = None
    for other in (fewer, bare):
        other.restore(one.state())
        assert other.current is None


def test_a_training_in_sixteen_bits_has_its_own_log_probabilities_as_the_old_ones() -> None:
    model = decoder(small(width=64))
    one = sampler(precision=torch.bfloat16)
    one.reference = None
    one.begin(model, 0)
    for answer in one.current.answers[:4]:
        batch = pack_answers(PROMPTS, [answer])
        scores = model(batch.ids_BT, batch.targets_BT, batch.documents, 0.0, batch.counted_N, Scoring(1.3))
        assert scores.log_probs_N.tolist() == pytest.approx(answer.log_probs_L.tolist(), abs=1e-5)


def test_a_failure_on_one_process_is_raised_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = sampler()
    healthy.plan = replace(PLAN, processes=2)
    monkeypatch.setattr(rollout, "gather_object", lambda own: [*own, "the supervisor of the jails has died"])
    with pytest.raises(SandboxError, match="has died"):
        healthy.sampled(decoder(small()), [0], [[1]])
