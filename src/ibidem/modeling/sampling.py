"""Drawing the next token: temperature, then nucleus, then one random number a row.

A number u in [0, 1) chooses the token at which the probabilities of the nucleus, added up from the most likely token
down, exceed the share u of its total. Sorting V = 65,536 logits of each row takes a CPU longer than the decoder does,
so there a histogram of the logits replaces the sort. Its bins are ordered, the most likely first:

    mass      |  .31  |  .29  |  .21  |  .14  |  .04  |  ...
    before    |  0    |  .31  |  .60  |  .81  |  .95  |
                                          ^ top_p = 0.9 ends inside this bin

Only the tokens of two bins are sorted: of the bin in which the nucleus ends, for the total, and of the bin that u falls
into. All tokens of the bins before the end are in the nucleus, so the distribution is that of the full sort.
`draw_scored` is for training: it has no nucleus and sorts nothing.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ibidem.errors import DataError

BINS = 4096
BINS_PER_NAT = 256.0
"""Tokens that are 16 nats less likely than the most likely one share the last bin."""
BLOCK = 256
"""Number of logits whose maximum, or sum, is computed at once."""


def draw(logits_BV: Tensor, temperature_B: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> Tensor:
    """Choose a token for each row; int64, (B,), on the device of the logits.

    Args:
        logits_BV: in float32.
        temperature_B: 0 takes the most likely token. This and the rest: float32, on the CPU.
        top_p_B: probability of the nucleus.
        uniform_B: a random number for each row, at least 0 and less than 1.

    Raises:
        DataError: logits are not finite, on a CPU.
    """
    _check_finite(logits_BV.amax(dim=-1))
    is_greedy_B = temperature_B == 0
    if is_greedy_B.all():
        return most_likely(logits_BV)
    scaled_BV = logits_BV / temperature_B.masked_fill(is_greedy_B, 1.0).to(logits_BV.device)[:, None]
    choose = by_histogram if logits_BV.device.type == "cpu" else by_sorting
    drawn_B = choose(scaled_BV, top_p_B.to(logits_BV.device), uniform_B.to(logits_BV.device))
    if not is_greedy_B.any():
        return drawn_B
    return torch.where(is_greedy_B.to(logits_BV.device), most_likely(logits_BV), drawn_B)


def draw_scored(logits_BV: Tensor, temperature_B: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Choose a token for each row from all ids; return the ids and their log-probabilities.

    The probabilities are added up in the order of the ids, first those of blocks and then those of the tokens of one
    block, so one exponential of each logit is all that is computed.

    Args:
        logits_BV: in float32.
        temperature_B: more than 0; logits are divided by it. This and the rest: float32, on the CPU.
        uniform_B: a random number for each row, at least 0 and less than 1.

    Returns:
        The ids, int64, and their log-probabilities, in nats, float32; (B,).

    >>> draw_scored(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([2.0]), torch.tensor([0.9]))
    (tensor([2]), tensor([-0.6803]))

    Raises:
        DataError: logits are not finite, on a CPU.
    """
    B, device = len(logits_BV), logits_BV.device
    if (temperature_B != 1).any():
        logits_BV = logits_BV / temperature_B.to(device)[:, None]
    best_B1 = logits_BV.amax(dim=-1, keepdim=True)
    _check_finite(best_B1)
    weights_BV = (logits_BV - best_B1).exp_()
    blocks_BXU = pad(weights_BV, (0, -weights_BV.shape[1] % BLOCK)).view(B, -1, BLOCK)
    until_BX = blocks_BXU.sum(dim=-1).double().cumsum(dim=-1)
    target_B1 = uniform_B.to(device)[:, None].double() * until_BX[:, -1:]
    block_B1 = _first_above(until_BX, target_B1)
    before_B1 = torch.where(block_B1 > 0, until_BX.gather(1, (block_B1 - 1).clamp(min=0)), 0.0)
    inside_BU = blocks_BXU[torch.arange(B, device=device), block_B1[:, 0]].double().cumsum(dim=-1)
    ids_B1 = block_B1 * BLOCK + _first_above(inside_BU, target_B1 - before_B1)
    log_probs_B1 = (logits_BV.gather(1, ids_B1) - best_B1) - until_BX[:, -1:].log()
    return ids_B1[:, 0], log_probs_B1[:, 0].float()


def most_likely(logits_BV: Tensor) -> Tensor:
    """Return the first of the ids with the largest logit of each row; int64, (B,).

    On a CPU `argmax` takes many times as long as `amax`. So it looks only at the maxima of blocks, and into one block.
    """
    B, V = logits_BV.shape
    if logits_BV.device.type != "cpu" or V % BLOCK:
        return logits_BV.argmax(dim=-1)
    blocks_BXU = logits_BV.view(B, -1, BLOCK)
    block_B = blocks_BXU.amax(dim=-1).argmax(dim=-1)
    return block_B * BLOCK + blocks_BXU[torch.arange(B), block_B].argmax(dim=-1)


def _check_finite(best: Tensor) -> None:
    if best.device.type == "cpu" and not best.isfinite().all():
        raise DataError("the model's logits are not finite: its weights are damaged")


def _first_above(until_BN: Tensor, target_B1: Tensor) -> Tensor:
    """Return the first place of each row whose running sum exceeds a target; at most the last that adds anything."""
    last_B1 = (until_BN < until_BN[:, -1:]).sum(dim=-1, keepdim=True)
    return torch.minimum(torch.searchsorted(until_BN, target_B1, right=True), last_B1)


def by_sorting(logits_BV: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> Tensor:
    """Choose a token for each row by sorting all; nothing waits for the device."""
    sorted_BV, order_BV = torch.softmax(logits_BV, dim=-1).sort(dim=-1, descending=True, stable=True)
    until_BV = sorted_BV.cumsum(dim=-1)
    inside_BV = (until_BV - sorted_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1)
    until_BV = torch.where(inside_BV, sorted_BV, 0.0).cumsum(dim=-1)
    at_B1 = torch.searchsorted(until_BV, uniform_B[:, None] * until_BV[:, -1:], right=True)
    return order_BV.gather(1, torch.minimum(at_B1, inside_BV.sum(dim=-1, keepdim=True) - 1))[:, 0]


def by_histogram(logits_BV: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> Tensor:
    """Choose a token for each row, sorting only the tokens of two bins; on a CPU."""
    best_B1 = logits_BV.amax(dim=-1, keepdim=True)
    weights_BV = (logits_BV - best_B1).exp_()
    bins_BV = (best_B1 - logits_BV).mul_(BINS_PER_NAT).clamp_(max=BINS - 1).long()
    mass_BN = logits_BV.new_zeros(len(logits_BV), BINS).scatter_add_(1, bins_BV, weights_BV)
    until_BN = mass_BN.double().cumsum(dim=-1)
    limit_B1 = top_p_B[:, None].double() * until_BN[:, -1:]
    ends_B = torch.searchsorted(until_BN, limit_B1)[:, 0].clamp_(max=BINS - 1).tolist()
    rows = zip(weights_BV, bins_BV, until_BN, ends_B, top_p_B.tolist(), uniform_B.tolist(), strict=True)
    return torch.tensor([_choose(*row) for row in rows])


def _choose(weights_V: Tensor, bins_V: Tensor, until_N: Tensor, end: int, top_p: float, uniform: float) -> int:
    """Choose a token of a row: `until_N` adds up the weights of the bins, the nucleus ends in the bin `end`."""
    total = float(until_N[-1])
    if top_p < 1:
        before = float(until_N[end - 1]) if end else 0.0
        last_ids, last_until = _sorted_bin(weights_V, bins_V, end)
        kept = int((last_until + before < top_p * total).sum()) + 1  # the token that crosses the limit is inside
        last_ids, last_until = last_ids[:kept], last_until[:kept]
        total = before + float(last_until[-1])
        if uniform * total >= before:
            return _pick(last_ids, last_until, uniform * total - before)
    filled = int(torch.searchsorted(until_N, until_N[-1]))  # the last bin that is not empty
    chosen = min(int(torch.searchsorted(until_N, uniform * total, right=True)), filled)
    before = float(until_N[chosen - 1]) if chosen else 0.0
    return _pick(*_sorted_bin(weights_V, bins_V, chosen), uniform * total - before)


def _sorted_bin(weights_V: Tensor, bins_V: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the ids of a bin's tokens, the most likely first, and their weights added up in float64."""
    ids = (bins_V == number).nonzero()[:, 0]
    weights, order = weights_V[ids].sort(descending=True, stable=True)
    return ids[order], weights.double().cumsum(0)


def _pick(ids: Tensor, until: Tensor, target: float) -> int:
    at = int(torch.searchsorted(until, target, right=True))
    return int(ids[min(at, len(ids) - 1)])
