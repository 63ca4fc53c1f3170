r"""InfoNCE: the right answer of each question against the wrong ones, as a classification.

    question 0    right 2.0   wrong 1.0   wrong 1.5        loss = -log softmax of the right one, among its own rows
    question 1    right 0.5   wrong 0.3   masked 0.5       a masked row is not there

Source: van den Oord et al. 2018, arXiv:1807.03748, eq. 4; the temperature is learned as in Radford et al. 2021,
arXiv:2103.00020, section 2.3. Masking what looks wrong and is right: Chuang et al. 2020, arXiv:2007.00224, section 1.

Shapes: R rows, N questions.
"""

import torch
from torch import Tensor

from ibidem.modeling.loss import wide_dtype


def info_nce(
    scores_R: Tensor, question_R: Tensor, is_right_R: Tensor, is_masked_R: Tensor, temperature: Tensor | float
) -> Tensor:
    """Return the loss of each question, in nats, in at least float32.

    Args:
        scores_R: score of each row, higher is better.
        question_R: question of each row, 0 to N - 1; int64.
        is_right_R: whether the row is its question's right answer; each question has exactly one, and it is not masked.
        is_masked_R: rows that take no part: neither the loss nor a gradient depends on them.
        temperature: the scores are divided by it.

    Returns:
        losses_N. A question without a wrong row has the loss 0.

    >>> rows = torch.tensor([2.0, 1.0, 9.0]), torch.tensor([0, 0, 0])
    >>> info_nce(*rows, torch.tensor([True, False, False]), torch.tensor([False, False, True]), 1.0)
    tensor([0.3133])
    """
    logits_R = scores_R.double() / temperature  # a few rows, and differences of large numbers
    question_N, right_N = question_R[is_right_R], logits_R[is_right_R]
    right_N = torch.empty_like(right_N).index_copy(0, question_N, right_N)
    ahead_R = (logits_R - right_N[question_R]).masked_fill(is_masked_R, -torch.inf)
    most_N = torch.zeros_like(right_N).scatter_reduce(0, question_R, ahead_R.detach(), "amax")
    sums_N = torch.zeros_like(right_N).index_add(0, question_R, (ahead_R - most_N[question_R]).exp())
    return (most_N + sums_N.log()).to(wide_dtype(scores_R))
