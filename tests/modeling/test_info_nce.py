"""InfoNCE is the loss of its formula, masked rows are not there, and the temperature keeps within its bounds."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ibidem.modeling.heads import TEMPERATURES, GroundingHead, Spans
from ibidem.modeling.info_nce import info_nce

Columns = tuple[Tensor, Tensor, Tensor, Tensor]


def columns(seed: int, scale: float = 5.0) -> Columns:
    """Rows of some questions in any order: one right row each, and up to seven wrong or masked ones."""
    draw = random.Random(seed)
    rows = []
    for question in range(draw.randrange(1, 6)):
        rows.append((draw.gauss(0, scale), question, True, False))
        rows += [(draw.gauss(0, scale), question, False, draw.random() < 0.3) for _ in range(draw.randrange(8))]
    draw.shuffle(rows)
    scores, questions, rights, masks = zip(*rows, strict=True)
    return torch.tensor(scores), torch.tensor(questions), torch.tensor(rights), torch.tensor(masks)


def naive(scores: Tensor, questions: Tensor, rights: Tensor, masks: Tensor, temperature: float) -> list[float]:
    """The loss of each question, in Python's float64."""
    rows = list(zip(scores.tolist(), questions.tolist(), rights.tolist(), masks.tolist(), strict=True))
    losses = []
    for question in range(max(each[1] for each in rows) + 1):
        (right,) = (score for score, number, is_right, _ in rows if number == question and is_right)
        taken = [score for score, number, _, is_masked in rows if number == question and not is_masked]
        losses.append(math.log(math.fsum(math.exp((score - right) / temperature) for score in taken)))
    return losses


@given(seed=st.integers(0, 10_000), temperature=st.sampled_from([0.02, 0.3, 1.0]))
def test_each_loss_is_that_of_a_float64_loop(seed: int, temperature: float) -> None:
    rows = columns(seed, scale=2.0)
    losses = info_nce(*rows, temperature)
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx(naive(*rows, temperature), rel=1e-6, abs=1e-6)


def test_gradients_are_those_of_softmax() -> None:
    scores, *others = columns(3)
    scores, temperature = scores.double().requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: info_nce(s, *others, t), (scores, temperature))


@given(seed=st.integers(0, 10_000))
def test_a_masked_row_changes_neither_a_loss_nor_a_gradient(seed: int) -> None:
    found = []
    rows = columns(seed)
    kept = ~rows[3]
    for chosen in (torch.ones_like(kept), kept):
        scores, *others = (each[chosen] for each in rows)
        scores.requires_grad_()
        temperature = torch.tensor(0.5, requires_grad=True)
        losses = info_nce(scores, *others, temperature)
        losses.sum().backward()
        assert scores.grad is not None
        assert not scores.grad[others[2]].any()
        found.append((losses.detach(), scores.grad[~others[2]], temperature.grad))
    for whole, without in zip(*found, strict=True):
        assert torch.equal(whole, without)


def test_scores_of_any_size_have_finite_losses_and_gradients() -> None:
    scores = torch.tensor([3e4, -3e4, 3e4, 1.0], requires_grad=True)
    losses = info_nce(
        scores,
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([True, False, False, True]),
        torch.zeros(4, dtype=torch.bool),
        0.01,
    )
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([0.0, 2999900.0])
    assert torch.isfinite(scores.grad).all()


def test_a_question_without_a_wrong_row_has_no_loss() -> None:
    one = torch.ones(1, dtype=torch.bool)
    assert info_nce(torch.tensor([2.0]), torch.tensor([0]), one, ~one, 0.1).tolist() == [0.0]


def spans() -> Spans:
    """Two spans of one passage as answers to one question."""
    states = torch.nn.functional.one_hot(torch.arange(6), 8).float()[None]
    return Spans(
        states[:, :2], torch.tensor([[0.5, 0.5]]), states, torch.tensor([6]), torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.int64), torch.tensor([[0, 1], [3, 5]]), torch.tensor([[0, 6], [0, 6]]),
        torch.tensor([[0.2], [0.8]]),
    )  # fmt: skip


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_temperature_stays_within_its_bounds_and_comes_back_from_them(sign: int) -> None:
    head = GroundingHead(8, 1).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, betas=(0.0, 0.0), weight_decay=0.0)
    low, high = TEMPERATURES

    def push(sign: int, steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            (0 * head(spans()).sum() + sign * 1e6 * head.temperature).backward()
            optimizer.step()
            assert low * (1 - 1e-6) <= float(head.temperature.detach()) <= high * (1 + 1e-6)
        return float(head.temperature.detach())

    there, back = (low, high) if sign > 0 else (high, low)
    assert push(sign, 60) == pytest.approx(there)
    assert push(-sign, 60) == pytest.approx(back)
