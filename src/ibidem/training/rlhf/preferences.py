"""Losses of preference data, and how far a reward model's confidence can be trusted. Pure functions; P pairs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

BINS = 10


def dpo_loss(
    chosen_log_ratios_P: Tensor, rejected_log_ratios_P: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """Return the DPO loss of each pair, in nats.

    Args:
        chosen_log_ratios_P: log pi(chosen | prompt) - log pi_ref(chosen | prompt), summed over the answer's tokens.
        rejected_log_ratios_P: the same of the rejected answer.
        beta: inverse of the strength with which the policy may leave the reference.
        label_smoothing: share of the pairs that are assumed to be swapped; the loss stays unbiased.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; with label smoothing the loss of rDPO, Chowdhury et al. 2024,
    arXiv:2403.00409.

    >>> dpo_loss(torch.tensor([2.0]), torch.tensor([0.0]), beta=0.5)
    tensor([0.3133])
    """
    logits_P = beta * (chosen_log_ratios_P - rejected_log_ratios_P)
    if label_smoothing == 0:
        return -logsigmoid(logits_P)
    kept, swapped = -logsigmoid(logits_P), -logsigmoid(-logits_P)
    return ((1 - label_smoothing) * kept - label_smoothing * swapped) / (1 - 2 * label_smoothing)


def length_normalized_dpo_loss(
    chosen_log_ratios_P: Tensor,
    rejected_log_ratios_P: Tensor,
    chosen_lengths_P: Tensor,
    rejected_lengths_P: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the DPO loss of each pair whose log-ratios are averaged over the tokens of the answer.

    A long answer then has no larger reward than a short one for its length alone. `beta` multiplies means, so it is
    larger than in `dpo_loss`: 5 in the source.

    Source: the length-normalized DPO of Lambert et al. 2024, arXiv:2411.15124 (Tulu 3).
    """
    chosen_P, rejected_P = chosen_log_ratios_P / chosen_lengths_P, rejected_log_ratios_P / rejected_lengths_P
    return dpo_loss(chosen_P, rejected_P, beta=beta, label_smoothing=label_smoothing)


def bradley_terry_loss(chosen_P: Tensor, rejected_P: Tensor, margins_P: Tensor | None = None) -> Tensor:
    """Return the negative log-likelihood of each preference, in nats.

    Args:
        chosen_P: rewards of the chosen answers.
        rejected_P: rewards of the rejected answers.
        margins_P: by how much the chosen answer should be better; None: 0.

    Source: Touvron et al. 2023, arXiv:2307.09288 (Llama 2), eq. 2; without margins Bradley and Terry 1952.

    >>> bradley_terry_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    tensor([0.6931])
    """
    differences_P = chosen_P - rejected_P
    return -logsigmoid(differences_P if margins_P is None else differences_P - margins_P)


class Bin(NamedTuple):
    """Pairs of about the same confidence."""

    pairs: int
    confidence: float
    """Mean probability that the model gives to the answer it prefers."""
    accuracy: float
    """Share of the pairs in which that answer is the chosen one; draws count half."""


def reliability(differences: Sequence[float], bins: int = BINS) -> list[Bin]:
    """Sort pairs into bins of equal width by confidence; empty bins are left out.

    Args:
        differences: reward of the chosen minus reward of the rejected answer, on the scale of the training.
        bins: number of bins from 0.5 to 1.

    >>> reliability([4.0, 4.0, -0.1])
    [Bin(pairs=1, confidence=0.525, accuracy=0.0), Bin(pairs=2, confidence=0.982, accuracy=1.0)]

    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    values = np.asarray(differences, np.float64)
    confidences = 1 / (1 + np.exp(-np.abs(values)))
    places = np.minimum(((confidences - 0.5) * 2 * bins).astype(int), bins - 1)
    found = []
    for place in np.unique(places):
        inside = places == place
        accuracy = float(np.heaviside(values[inside], 0.5).mean())
        found.append(Bin(int(inside.sum()), round(float(confidences[inside].mean()), 3), accuracy))
    return found


def expected_calibration_error(differences: Sequence[float], bins: int = BINS) -> float:
    """Return the mean distance between confidence and accuracy, over bins of confidence.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    found = reliability(differences, bins)
    distances = (each.pairs * abs(each.confidence - each.accuracy) for each in found)
    return sum(distances) / sum(each.pairs for each in found)


def sums_by_answer(values_N: Tensor, answer_of_N: Tensor, answers: int) -> Tensor:
    """Add up the values of the tokens of each answer.

    >>> sums_by_answer(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 1]), 2)
    tensor([3., 4.])
    """
    return torch.zeros(answers, dtype=values_N.dtype, device=values_N.device).index_add(0, answer_of_N, values_N)
