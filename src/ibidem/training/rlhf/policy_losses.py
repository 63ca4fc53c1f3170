"""Losses of policy optimization. Pure functions of log-probabilities; N tokens of B answers, concatenated.

    ratio = pi(token) / pi_old(token)        pi_old: the policy that sampled the answers

A loss here has one number for each token, so that its caller decides how they are averaged.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ibidem.training.rlhf.preferences import sums_by_answer


class PolicyLoss(NamedTuple):
    """The loss of each token, and how far the policy has moved from the one that sampled."""

    losses_N: Tensor
    ratios_N: Tensor
    """Without gradient; GSPO's is equal for all tokens of an answer."""
    is_clipped_N: Tensor
    """Whether clipping took the token's gradient away, or for CISPO its excess weight."""


def clipped_policy_loss(
    log_probs_N: Tensor, old_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float
) -> PolicyLoss:
    """Return -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) of each token.

    Source: Schulman et al. 2017, arXiv:1707.06347 (PPO), eq. 7; with two bounds Yu et al. 2025, arXiv:2503.14476
    (DAPO), section 3.1.

    >>> old = torch.tensor([0.0])
    >>> clipped_policy_loss(old + 1, old, torch.tensor([2.0]), clip_low=0.2, clip_high=0.2).losses_N
    tensor([-2.4000])
    """
    return _clipped((log_probs_N - old_N).exp(), advantages_N, clip_low, clip_high)


def gspo_loss(
    log_probs_N: Tensor,
    old_N: Tensor,
    advantages_N: Tensor,
    answer_of_N: Tensor,
    lengths_B: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """Return the clipped loss with one ratio for a whole answer: the geometric mean of its tokens' ratios.

    Clipping keeps or drops whole answers, which is what was rewarded. The bounds are far narrower than those of tokens.

    Source: Zheng et al. 2025, arXiv:2507.18071 (GSPO), eq. 7.
    """
    sums_B = sums_by_answer(log_probs_N - old_N, answer_of_N, len(lengths_B))
    return _clipped((sums_B / lengths_B).exp()[answer_of_N], advantages_N, clip_low, clip_high)


def cispo_loss(log_probs_N: Tensor, old_N: Tensor, advantages_N: Tensor, *, clip_high: float) -> PolicyLoss:
    """Return -min(ratio, 1 + clip_high) * A * log pi of each token, the weight without gradient.

    No token loses its gradient; a large ratio only counts less.

    Source: MiniMax 2025, arXiv:2506.13585 (MiniMax-M1), eq. 4.
    """
    ratios_N = (log_probs_N.detach() - old_N).exp()
    weights_N = ratios_N.clamp(max=1 + clip_high)
    return PolicyLoss(-weights_N * advantages_N * log_probs_N, ratios_N, ratios_N > 1 + clip_high)


def clipped_value_loss(values_N: Tensor, old_N: Tensor, returns_N: Tensor, *, clip: float) -> tuple[Tensor, Tensor]:
    """Return the loss of each value, half of a squared error, and whether clipping took its gradient away.

    The error is the larger one of the value's own and of that of the value moved by at most `clip`.

    Source: Schulman's implementation of PPO (openai/baselines, ppo2); Ziegler et al. 2019 use it for language models.

    >>> clipped_value_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]), clip=0.2)
    (tensor([0.3200]), tensor([True]))
    """
    near_N = torch.clamp(values_N, old_N - clip, old_N + clip)
    errors_N, near_errors_N = (values_N - returns_N).square(), (near_N - returns_N).square()
    return 0.5 * torch.maximum(errors_N, near_errors_N), near_errors_N > errors_N


def sequence_kl_loss(log_probs_N: Tensor, reference_N: Tensor, answer_of_N: Tensor, answers: int) -> Tensor:
    """Return k2 of each answer, half the squared log-ratio to the reference; (B,).

    On the policy's own samples its gradient is that of the KL divergence. The gradient of k3, ratio - 1 - log ratio, is
    not: it is that of the divergence the other way round.

    Source: Schulman 2020, "Approximating KL divergence"; the gradients: Tang and Munos 2025, arXiv:2506.09477.
    """
    return 0.5 * sums_by_answer(log_probs_N - reference_N, answer_of_N, answers).square()


def approximate_kl(log_probs_N: Tensor, old_N: Tensor) -> Tensor:
    """Return half of the squared log-ratio of each token: how far the policy is from the one that sampled."""
    return 0.5 * (log_probs_N - old_N).square()


def _clipped(ratios_N: Tensor, advantages_N: Tensor, clip_low: float, clip_high: float) -> PolicyLoss:
    free_N = -advantages_N * ratios_N
    bound_N = -advantages_N * ratios_N.clamp(1 - clip_low, 1 + clip_high)
    return PolicyLoss(torch.maximum(free_N, bound_N), ratios_N.detach(), bound_N.detach() > free_N.detach())
