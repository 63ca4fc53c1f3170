"""Rewards and advantages of sampled answers. Pure functions; B answers of at most T tokens, padded with zeros.

tokens              a    b    c   END         the score stands on the last token of the answer
reward             -k   -k   -k   score - k   k: the KL penalty of the token, beta * (log pi - log pi_ref)
advantage           what the answer earned from this token on, beyond what its value had promised
"""

from dataclasses import dataclass

import torch
from torch import Tensor

KL_STEP = 0.2
"""Largest relative error that the adaptive controller reacts to."""
SMALL = 1e-8


def token_rewards(
    scores_B: Tensor, log_probs_BT: Tensor, reference_BT: Tensor, lengths_B: Tensor, *, beta: float
) -> Tensor:
    """Return the reward of each token: minus its KL penalty, and the score on the last one.

    The penalty is the estimator k1, log pi - log pi_ref, whose expectation is the KL divergence. As a reward its
    gradient is unbiased too.

    Args:
        scores_B: scores of whole answers.
        log_probs_BT: log-probabilities of the sampled tokens under the policy that sampled them.
        reference_BT: the same under the reference.
        lengths_B: numbers of tokens; at least 1; int64.
        beta: weight of the penalty.

    Source: Ziegler et al. 2019, arXiv:1909.08593, eq. 2; Ouyang et al. 2022, arXiv:2203.02155, eq. 2.

    >>> token_rewards(torch.ones(1), -torch.ones(1, 2), -torch.full((1, 2), 2.0), torch.tensor([2]), beta=0.1)
    tensor([[-0.1000,  0.9000]])
    """
    rewards_BT = -beta * (log_probs_BT - reference_BT)
    rewards_BT[torch.arange(len(scores_B)), lengths_B - 1] += scores_B
    return rewards_BT


def gae(rewards_BT: Tensor, values_BT: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Return generalized advantage estimates, (B, T), in the dtype of the rewards.

    Args:
        rewards_BT: reward of each token, the KL penalty already subtracted; 0 behind the end of an answer.
        values_BT: value of the state before each token; 0 behind the end, so that an end has no future.
        gamma: discount of a token.
        lam: weight of long returns: 0 is the one-step error, 1 the whole return minus the value.

    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 16.

    >>> gae(torch.ones(1, 2), torch.zeros(1, 2), gamma=1.0, lam=1.0)
    tensor([[2., 1.]])
    """
    advantages_BT = torch.zeros_like(rewards_BT)
    advantage_B = next_value_B = torch.zeros_like(rewards_BT[:, 0])
    for place in reversed(range(rewards_BT.shape[1])):
        errors_B = rewards_BT[:, place] + gamma * next_value_B - values_BT[:, place]
        advantage_B = errors_B + gamma * lam * advantage_B
        advantages_BT[:, place] = advantage_B
        next_value_B = values_BT[:, place]
    return advantages_BT


def whitened(values_N: Tensor) -> Tensor:
    """Return values with mean 0 and deviation 1; only those of real tokens may be given.

    >>> whitened(torch.tensor([1.0, 3.0]))
    tensor([-1.,  1.])
    """
    return (values_N - values_N.mean()) / (values_N.std(correction=0) + SMALL)


def group_advantages(rewards_B: Tensor, size: int) -> Tensor:
    """Return the reward of each answer minus the mean of its group: the answers to one prompt, which are neighbors.

    There is no division by the deviation, which would weigh easy and hard problems more than the others.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1; without the deviation Liu et al. 2025, arXiv:2503.20783
    (Dr. GRPO), section 3.2.

    >>> group_advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), 2)
    tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    rewards_PG = rewards_B.view(-1, size)
    return (rewards_PG - rewards_PG.mean(dim=1, keepdim=True)).flatten()


def has_contrast(scores_B: Tensor, size: int) -> Tensor:
    """Return for each group whether its answers have different scores; without, it teaches nothing.

    >>> has_contrast(torch.tensor([1.0, 0.0, 1.0, 1.0]), 2)
    tensor([ True, False])
    """
    scores_PG = scores_B.view(-1, size)
    return scores_PG.amax(dim=1) > scores_PG.amin(dim=1)


@dataclass
class KlController:
    """The weight of the KL penalty: fixed, or steered so that the KL divergence stays near a target.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """

    beta: float
    target: float | None
    """KL divergence of whole answers, in nats; None: the weight stays as it is."""
    horizon: int
    """Answers after which a relative error of 1 would have multiplied the weight by e, were it not bounded."""

    def update(self, kl: float, answers: int) -> None:
        """Raise the weight if the measured KL divergence of so many answers is above the target; else lower it.

        >>> controller = KlController(0.1, target=2.0, horizon=100)
        >>> controller.update(kl=4.0, answers=10)
        >>> round(controller.beta, 6)
        0.102
        """
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -KL_STEP), KL_STEP)
        self.beta *= 1 + error * answers / self.horizon


@dataclass
class Moments:
    """Mean and deviation of all scores so far.

    Source: Chan et al. 1983, The American Statistician 37, eq. 2.1.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of the squared distances from the mean."""

    def add(self, scores_B: Tensor) -> None:
        """Take more scores.

        >>> moments = Moments()
        >>> moments.add(torch.tensor([1.0])), moments.add(torch.tensor([3.0, 5.0]))
        (None, None)
        >>> moments.mean, round(moments.deviation, 4)
        (3.0, 1.633)
        """
        scores_B = scores_B.double()
        number, total = len(scores_B), self.count + len(scores_B)
        shift = float(scores_B.mean()) - self.mean
        self.squares += float((scores_B - scores_B.mean()).square().sum()) + shift**2 * self.count * number / total
        self.mean += shift * number / total
        self.count = total

    @property
    def deviation(self) -> float:
        """Deviation of the scores; 1 while all of them are equal."""
        return (self.squares / self.count) ** 0.5 if self.squares > 0 else 1.0
