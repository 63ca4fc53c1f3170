"""Losses of preferences equal their formulas in float64, and DPO ends at the optimum that is known in closed form."""

import math

import pytest
import torch
from torch import Tensor

from ibidem.modeling.log_probabilities import token_scores
from ibidem.training.rlhf.preferences import (
    bradley_terry_loss,
    dpo_loss,
    expected_calibration_error,
    length_normalized_dpo_loss,
    reliability,
    sums_by_answer,
)

CHOSEN, REJECTED = [-3.0, 0.5, 40.0, -1000.0, 0.25], [-4.0, 0.75, -40.0, 1000.0, 0.25]
LENGTHS = [3, 1, 20, 400, 7], [5, 2, 10, 300, 7]


def minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(-x, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_equals_its_formula(smoothing: float, dtype: torch.dtype) -> None:
    chosen, rejected = torch.tensor(CHOSEN, dtype=dtype), torch.tensor(REJECTED, dtype=dtype)
    losses = dpo_loss(chosen, rejected, beta=0.3, label_smoothing=smoothing)
    expected = []
    for better, worse in zip(CHOSEN, REJECTED, strict=True):
        h = 0.3 * (better - worse)
        kept, swapped = minus_log_sigmoid(h), minus_log_sigmoid(-h)
        expected.append(((1 - smoothing) * kept - smoothing * swapped) / (1 - 2 * smoothing))
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_smoothed_dpo_is_unbiased_under_swapped_labels() -> None:
    chosen, rejected = torch.tensor(CHOSEN[:3]).double(), torch.tensor(REJECTED[:3]).double()
    kept = dpo_loss(chosen, rejected, beta=0.3, label_smoothing=0.2)
    swapped = dpo_loss(rejected, chosen, beta=0.3, label_smoothing=0.2)
    torch.testing.assert_close(0.8 * kept + 0.2 * swapped, dpo_loss(chosen, rejected, beta=0.3))


def test_length_normalized_dpo_equals_its_formula() -> None:
    tensors = (torch.tensor(each, dtype=torch.float64) for each in (CHOSEN, REJECTED, *LENGTHS))
    losses = length_normalized_dpo_loss(*tensors, beta=5.0)
    expected = [
        minus_log_sigmoid(5.0 * (better / long - worse / short))
        for better, worse, long, short in zip(CHOSEN, REJECTED, *LENGTHS, strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("margins", [None, [0.0, 1.0, 3.0, 2.0, -1.0]])
def test_bradley_terry_equals_its_formula(margins: list[float] | None) -> None:
    chosen, rejected = torch.tensor(CHOSEN).double(), torch.tensor(REJECTED).double()
    losses = bradley_terry_loss(chosen, rejected, None if margins is None else torch.tensor(margins))
    expected = [
        minus_log_sigmoid(better - worse - margin)
        for better, worse, margin in zip(CHOSEN, REJECTED, margins or [0.0] * 5, strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_perfectly_calibrated_model_has_no_calibration_error() -> None:
    step = math.log(0.8 / 0.2)  # right in four of five
    assert expected_calibration_error([step] * 4 + [-step]) == pytest.approx(0, abs=1e-3)
    assert expected_calibration_error([step] * 2 + [-step] * 3) == pytest.approx(0.4, abs=1e-3)
    assert expected_calibration_error([0.0] * 3) == 0, "a draw is half right"
    assert sum(each.pairs for each in reliability([0.0, 1.0, -800.0, 800.0])) == 4


def test_sums_go_to_the_answer_of_each_token() -> None:
    values = torch.arange(6, dtype=torch.float64, requires_grad=True)
    sums = sums_by_answer(values, torch.tensor([0, 0, 2, 2, 2, 3]), 4)
    assert sums.tolist() == [1, 0, 9, 5]
    (sums * torch.tensor([1.0, 2, 3, 4])).sum().backward()
    assert values.grad.tolist() == [1, 1, 3, 3, 3, 4]


V, BETA = 16, 0.25


def log_probs_of_all_answers(table: Tensor) -> Tensor:
    """Return the log-probabilities of all answers of two tokens under a table of logits.

    Column 0 are the logits of the first token, column 1 + a those of the second one after a.
    """
    first, second = torch.arange(V).repeat_interleave(V), torch.arange(V).repeat(V)
    hidden = torch.zeros(2, V * V, 1 + V, dtype=torch.float64)
    hidden[0, :, 0] = 1
    hidden[1, torch.arange(V * V), 1 + first] = 1
    return token_scores(hidden.flatten(0, 1), table, torch.cat([first, second])).log_probs_N.view(2, -1).sum(dim=0)


def total_variation(table: Tensor, optimum: Tensor) -> float:
    with torch.no_grad():
        return float((log_probs_of_all_answers(table).exp() - optimum).abs().sum()) / 2


def trained_by_dpo(reference: Tensor, rewards: Tensor) -> Tensor:
    """Minimize DPO over all ordered pairs, each as frequent as Bradley-Terry prefers it."""
    with torch.no_grad():
        reference_log_probs = log_probs_of_all_answers(reference)
    frequencies = torch.sigmoid(rewards[:, None] - rewards).fill_diagonal_(0) / (V * V - 1)
    table = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [table], max_iter=200, history_size=50, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_ratios = log_probs_of_all_answers(table) - reference_log_probs
        total = (frequencies * dpo_loss(log_ratios[:, None], log_ratios, beta=BETA)).sum()
        total.backward()
        return total

    optimizer.step(loss)
    return table


@pytest.mark.parametrize("seed", range(5))
def test_dpo_on_all_pairs_ends_at_the_known_optimum(seed: int) -> None:
    """It is ref * exp(reward / beta) / Z: Rafailov et al. 2023, eq. 4."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(V, 1 + V, generator=generator, dtype=torch.float64)
    rewards = 0.6 * torch.randn(V * V, generator=generator, dtype=torch.float64)
    optimum = (log_probs_of_all_answers(reference) + rewards / BETA).softmax(dim=0)
    assert 0.6 < total_variation(reference, optimum) < 0.9
    assert total_variation(trained_by_dpo(reference, rewards), optimum) < 0.001
