"""Rewards, advantages and policy losses equal plain loops in float64, and do what their papers say."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from ibidem.training.rlhf.advantages import (
    KlController,
    Moments,
    gae,
    group_advantages,
    has_contrast,
    token_rewards,
    whitened,
)
from ibidem.training.rlhf.policy_losses import (
    cispo_loss,
    clipped_policy_loss,
    clipped_value_loss,
    gspo_loss,
    sequence_kl_loss,
)


def random_answers(seed: int) -> tuple[list[int], Tensor, Tensor]:
    """Return lengths, rewards and values of answers, padded with zeros."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 30, (7,), generator=generator)
    is_token = torch.arange(int(lengths.max())) < lengths[:, None]
    rewards, values = (torch.randn(is_token.shape, generator=generator, dtype=torch.float64) * is_token for _ in "rv")
    return lengths.tolist(), rewards, values


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.99, 0.9), (1.0, 1.0), (0.9, 0.0)])
def test_gae_equals_the_sum_of_its_definition(gamma: float, lam: float, seed: int) -> None:
    lengths, rewards, values = random_answers(seed)
    found = gae(rewards, values, gamma=gamma, lam=lam)
    for row, length in enumerate(lengths):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        errors = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        expected = [sum((gamma * lam) ** k * errors[t + k] for k in range(length - t)) for t in range(length)]
        assert found[row, :length].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert not found[row, length:].any(), "padding earns nothing"


def test_the_score_stands_on_the_last_token_and_padding_has_no_reward() -> None:
    lengths = torch.tensor([3, 1])
    is_token = torch.arange(3) < lengths[:, None]
    log_probs, reference = -torch.ones(2, 3) * is_token, -3 * torch.ones(2, 3) * is_token
    rewards = token_rewards(torch.tensor([5.0, 7.0]), log_probs, reference, lengths, beta=0.5)
    assert rewards.tolist() == [[-1, -1, 4], [6, 0, 0]]


def test_whitening_has_mean_0_and_deviation_1_and_survives_equal_values() -> None:
    values = whitened(torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 2)
    assert float(values.mean()) == pytest.approx(0, abs=1e-9)
    assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert whitened(torch.full((5,), 2.0)).tolist() == [0] * 5


def test_group_advantages_add_up_to_0_and_keep_the_scale_of_the_rewards() -> None:
    rewards = torch.rand(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for scale in (1.0, 10.0):
        found = group_advantages(scale * rewards, 8).view(3, 8)
        assert found.sum(dim=1).tolist() == pytest.approx([0] * 3, abs=1e-9)
        expected = [value - np.mean(group) for group in (scale * rewards).view(3, 8).tolist() for value in group]
        assert found.flatten().tolist() == pytest.approx(expected)


def test_equal_rewards_have_no_contrast_and_no_advantage() -> None:
    rewards = torch.full((6,), 0.3)
    assert not has_contrast(rewards, 3).any()
    assert group_advantages(rewards, 3).tolist() == pytest.approx([0] * 6, abs=1e-7)


def test_the_clipped_loss_has_no_gradient_beyond_its_bounds_where_it_would_gain() -> None:
    old = torch.zeros(6)
    log_probs = torch.log(torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5, 1.25])).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
    found = clipped_policy_loss(log_probs, old, advantages, clip_low=0.2, clip_high=0.28)
    found.losses_N.sum().backward()
    assert found.losses_N.tolist() == pytest.approx([-1, -1.28, -0.5, 1.5, 0.8, -1.25])
    assert found.is_clipped_N.tolist() == [False, True, False, False, True, False]
    assert log_probs.grad.tolist() == pytest.approx([-1, 0, -0.5, 1.5, 0, -1.25])


def test_at_a_ratio_of_1_every_loss_has_the_gradient_of_the_policy() -> None:
    old = -torch.rand(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantages = torch.tensor([1.0, 1.0, -2.0, -2.0, -2.0], dtype=torch.float64)
    answer_of, lengths = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 3])
    for loss in (
        lambda logs: clipped_policy_loss(logs, old, advantages, clip_low=0.2, clip_high=0.2).losses_N,
        lambda logs: cispo_loss(logs, old, advantages, clip_high=1.0).losses_N,
        lambda logs: gspo_loss(logs, old, advantages, answer_of, lengths, clip_low=3e-4, clip_high=4e-4).losses_N,
    ):
        logs = old.clone().requires_grad_()
        loss(logs).sum().backward()
        assert logs.grad.tolist() == pytest.approx((-advantages).tolist())


def test_gspo_clips_whole_answers() -> None:
    old, answer_of, lengths = torch.zeros(4), torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2])
    logs = torch.tensor([0.3, -0.1, 0.0, 0.0]).requires_grad_()
    found = gspo_loss(logs, old, torch.ones(4), answer_of, lengths, clip_low=0.05, clip_high=0.05)
    found.losses_N.sum().backward()
    assert found.ratios_N.tolist() == pytest.approx([math.exp(0.1)] * 2 + [1, 1])
    assert found.is_clipped_N.tolist() == [True, True, False, False]
    assert logs.grad.tolist() == pytest.approx([0, 0, -1, -1])


def test_cispo_keeps_the_gradient_of_every_token_with_a_bounded_weight() -> None:
    logs = torch.log(torch.tensor([4.0, 0.5])).requires_grad_()
    found = cispo_loss(logs, torch.zeros(2), torch.ones(2), clip_high=1.0)
    found.losses_N.sum().backward()
    assert logs.grad.tolist() == pytest.approx([-2, -0.5])
    assert found.is_clipped_N.tolist() == [True, False]


def test_the_value_loss_is_the_larger_of_the_free_and_the_clipped_error() -> None:
    values, old, returns = torch.tensor([1.0, 0.1, -1.0]), torch.zeros(3), torch.tensor([1.0, 1.0, 1.0])
    losses, is_clipped = clipped_value_loss(values, old, returns, clip=0.2)
    assert losses.tolist() == pytest.approx([0.5 * 0.64, 0.5 * 0.81, 0.5 * 4])
    assert is_clipped.tolist() == [True, False, False]


def test_k2_of_answers_has_the_gradient_of_the_kl_divergence_and_k3_of_tokens_has_not() -> None:
    logits = torch.tensor([0.2, -0.4, 1.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([1.0, 0.3, -0.8], dtype=torch.float64).log_softmax(0)
    kl = (logits.softmax(0) * (logits.log_softmax(0) - reference)).sum()
    (expected,) = torch.autograd.grad(kl, logits)

    def sampled(loss_of: object) -> Tensor:
        logs = logits.log_softmax(0)
        losses = loss_of(logs, reference)
        (found,) = torch.autograd.grad((logits.softmax(0).detach() * losses).sum(), logits)
        return found

    k2 = sampled(lambda logs, ref: sequence_kl_loss(logs, ref, torch.arange(3), 3))
    k3 = sampled(lambda logs, ref: (ref - logs).exp() - 1 - (ref - logs))
    assert k2.tolist() == pytest.approx(expected.tolist())
    assert k3.tolist() != pytest.approx(expected.tolist(), rel=0.1)


def test_the_controller_raises_the_weight_above_the_target_and_lowers_it_below() -> None:
    controller = KlController(0.1, target=5.0, horizon=1000)
    controller.update(50.0, answers=100)
    assert controller.beta == pytest.approx(0.1 * 1.02), "the reaction is bounded"
    controller.update(0.0, answers=100)
    assert controller.beta == pytest.approx(0.1 * 1.02 * 0.98)
    controller.update(5.0, answers=100)
    assert controller.beta == pytest.approx(0.1 * 1.02 * 0.98)
    fixed = KlController(0.1, target=None, horizon=1)
    fixed.update(50.0, answers=100)
    assert fixed.beta == 0.1


def test_the_moments_of_parts_are_those_of_the_whole() -> None:
    rng = random.Random(0)
    scores = [rng.gauss(3, 2) for _ in range(100)]
    moments, start = Moments(), 0
    for size in (1, 7, 30, 62):
        moments.add(torch.tensor(scores[start : start + size], dtype=torch.float64))
        start += size
    assert moments.mean == pytest.approx(np.mean(scores))
    assert moments.deviation == pytest.approx(np.std(scores))
    assert Moments().deviation == 1
