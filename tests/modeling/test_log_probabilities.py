"""Log-probabilities and entropies equal those of log_softmax, and the logits are never kept."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.modeling.test_modeling_custom import decoder, small
from tests.processes import together
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from ibidem.modeling import loss
from ibidem.modeling.attention import Documents
from ibidem.modeling.log_probabilities import Scoring, TokenScores, token_scores
from ibidem.training import sharding

N, V, D = 23, 31, 8


def inputs(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(N, D, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (N,), generator=generator)


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logs = torch.log_softmax(hidden.double() @ weight.double().T / temperature, dim=-1)
    return logs[torch.arange(len(targets)), targets], -(logs.exp() * logs).sum(dim=-1)


def weighted(log_probs: Tensor, entropies: Tensor | None) -> Tensor:
    """A loss in which every token counts differently."""
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    total = (log_probs.double() * weights).sum()
    return total if entropies is None else total + (entropies.double() * weights.flip(0)).sum()


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("tile", [(1, V), (7, 8), (1000, 1000), (N, 5)])
def test_scores_and_gradients_equal_log_softmax(
    tile: tuple[int, int], entropy: bool, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss.TILES, "cpu", loss.Tile(*tile))
    hidden, weight, targets = inputs()
    scores = token_scores(hidden, weight, targets, Scoring(temperature, entropy))
    log_probs, entropies = naive(hidden, weight, targets, temperature)
    torch.testing.assert_close(scores.log_probs_N, log_probs, rtol=1e-12, atol=1e-12)
    if entropy:
        torch.testing.assert_close(scores.entropies_N, entropies, rtol=1e-12, atol=1e-12)
    mine = torch.autograd.grad(weighted(*scores[:2]), (hidden, weight))
    theirs = torch.autograd.grad(weighted(log_probs, entropies if entropy else None), (hidden, weight))
    for ours, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_the_gradient_of_entropies_alone_is_exact() -> None:
    hidden, weight, targets = inputs()
    scores = token_scores(hidden, weight, targets, Scoring(entropy=True))
    mine = torch.autograd.grad(scores.entropies_N.square().sum(), (hidden, weight))
    theirs = torch.autograd.grad(naive(hidden, weight, targets, 1.0)[1].square().sum(), (hidden, weight))
    for ours, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_a_distribution_that_is_nearly_certain_has_finite_scores_and_gradients() -> None:
    hidden, weight, targets = inputs(torch.float32, scale=1e3)
    scores = token_scores(hidden, weight, targets, Scoring(entropy=True))
    gradients = torch.autograd.grad(scores.log_probs_N.sum() + scores.entropies_N.sum(), (hidden, weight))
    log_probs, entropies = naive(hidden, weight, targets, 1.0)
    assert bool((log_probs < -1000).any())
    torch.testing.assert_close(scores.log_probs_N.double(), log_probs, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(scores.entropies_N.double(), entropies, rtol=1e-3, atol=1e-3)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_scores_are_float32_and_as_exact_as_their_inputs(dtype: torch.dtype, rtol: float) -> None:
    hidden, weight, targets = inputs(dtype)
    scores = token_scores(hidden, weight, targets, Scoring(0.7, entropy=True))
    log_probs, entropies = naive(hidden, weight, targets, 0.7)
    assert scores.log_probs_N.dtype == scores.entropies_N.dtype == torch.float32
    torch.testing.assert_close(scores.log_probs_N.double(), log_probs, rtol=rtol, atol=rtol)
    torch.testing.assert_close(scores.entropies_N.double(), entropies, rtol=rtol, atol=rtol)
    mine = torch.autograd.grad(weighted(*scores[:2]), (hidden, weight))
    theirs = torch.autograd.grad(weighted(log_probs, entropies), (hidden, weight))
    for ours, expected in zip(mine, theirs, strict=True):
        assert ours.dtype == dtype
        assert float((ours - expected).double().norm() / expected.double().norm()) < rtol


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return result


@contextmanager
def saved_elements() -> Iterator[list[int]]:
    """Yield the sizes of the tensors that autograd keeps for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def test_the_logits_of_all_tokens_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss.TILES, "cpu", loss.Tile(tokens=4, ids=8))
    hidden = torch.randn(256, 16, requires_grad=True)
    weight = torch.randn(128, 16, requires_grad=True)
    targets = torch.randint(128, (256,))
    largest = Largest()
    with saved_elements() as saved, largest:
        scores = token_scores(hidden, weight, targets, Scoring(entropy=True))
        (scores.log_probs_N.sum() + scores.entropies_N.sum()).backward()
    assert max(saved) == max(hidden.numel(), weight.numel())
    assert 0 < largest.elements <= max(hidden.numel(), weight.numel()) < 256 * 128
    kept = Largest()
    with kept:
        naive(hidden, weight, targets, 1.0)[0].sum().backward()
    assert kept.elements >= 256 * 128, "the measure sees logits where they are kept"


def test_without_gradients_no_input_is_kept() -> None:
    hidden, weight, targets = inputs()
    with torch.no_grad(), saved_elements() as saved:
        scores = token_scores(hidden, weight, targets)
    assert not saved
    assert not scores.log_probs_N.requires_grad


def test_no_tokens_have_no_scores() -> None:
    hidden, weight, targets = inputs()
    scores = token_scores(hidden[:0], weight, targets[:0], Scoring(entropy=True))
    assert len(scores.log_probs_N) == len(scores.entropies_N) == 0
    scores.log_probs_N.sum().backward()
    assert not weight.grad.any()


def batch() -> tuple[Tensor, Tensor, Documents]:
    """A row of documents whose targets mostly do not count."""
    ids = torch.randint(97, (2, 22), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[:, torch.arange(21) % 3 != 0] = loss.IGNORE
    return ids[:, :-1], targets, Documents.of(ids[:, :-1] < 12)


def test_only_positions_that_count_reach_the_output_matrix_and_the_loss_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    computed = loss._loss_and_gradients
    monkeypatch.setattr(loss, "_loss_and_gradients", lambda *args: seen.append(len(args[0])) or computed(*args))
    ids, targets, documents = batch()
    results = []
    for positions in (None, loss.counted(targets)):
        model = decoder(small()).double()
        total = model(ids, targets, documents, counted_N=positions)
        total.backward()
        results.append((total.detach(), [parameter.grad for parameter in model.parameters()]))
    assert seen == [42, 14]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=0)
    for every, chosen in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(every, chosen, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_a_decoder_scores_what_its_logits_say(tied: bool) -> None:
    ids, targets, documents = batch()
    positions = loss.counted(targets)
    model = decoder(small(tied=tied)).double()
    scores = model(ids, targets, documents, counted_N=positions, scoring=Scoring(0.5, entropy=True))
    assert isinstance(scores, TokenScores)
    logs = (model.logits(ids, documents).flatten(0, 1)[positions] / 0.5).log_softmax(dim=-1)
    expected = logs[torch.arange(len(positions)), targets.flatten()[positions]]
    torch.testing.assert_close(scores.log_probs_N, expected)
    torch.testing.assert_close(scores.entropies_N, -(logs.exp() * logs).sum(dim=-1))
    weights = torch.linspace(-1, 1, len(positions), dtype=torch.float64)
    (scores.log_probs_N * weights).sum().backward()
    mine = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    (expected * weights).sum().backward()
    for ours, parameter in zip(mine, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)


def test_a_row_longer_than_the_context_is_worth_its_documents_alone() -> None:
    model = decoder(small())
    generator = torch.Generator().manual_seed(2)
    parts = [torch.randint(97, (1, length), generator=generator) for length in (30, 64, 1, 41)]
    starts = torch.zeros(1, 136, dtype=torch.bool)
    starts[0, [30, 94, 95]] = True
    with torch.no_grad():
        together = model.logits(torch.cat(parts, dim=1), Documents.of(starts))
        alone = torch.cat([model.logits(part) for part in parts], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_rows_of_a_batch_that_are_longer_than_the_context_are_worth_their_documents_alone() -> None:
    model = decoder(small())
    ids = torch.randint(97, (2, 100), generator=torch.Generator().manual_seed(3))
    starts = torch.zeros(2, 100, dtype=torch.bool)
    starts[0, 50], starts[1, 60] = True, True
    with torch.no_grad():
        together = model.logits(ids, Documents.of(starts))
        torch.testing.assert_close(together[:1, 50:], model.logits(ids[:1, 50:]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[1:, 60:], model.logits(ids[1:, 60:]), atol=1e-5, rtol=1e-5)


def test_a_document_longer_than_the_context_is_refused() -> None:
    model = decoder(small())
    ids, starts = torch.zeros(1, 100, dtype=torch.long), torch.zeros(1, 100, dtype=torch.bool)
    starts[0, 30] = True
    with pytest.raises(AssertionError, match="a document of 70 tokens exceeds the context"):
        model(ids, ids, Documents.of(starts))


def scored_step(rank: int, port: int, out: Path, wrapper: str) -> None:
    """Score a batch of its own on each process, and save the gradients that all agree on."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = decoder(small())
    if wrapper == "fsdp":
        sharding.shard(model, torch.device("cpu"))
    wrapped = DistributedDataParallel(model) if wrapper == "ddp" else model
    scored_loss(wrapped, rank).backward()
    gradients = [each.grad.full_tensor() if wrapper == "fsdp" else each.grad for each in model.parameters()]
    if rank == 0:
        torch.save(gradients, out)
    del wrapped  # as at the end of a session
    dist.destroy_process_group()


def scored_loss(model: torch.nn.Module, number: int) -> Tensor:
    """Return a loss that is no sum over tokens."""
    ids = torch.randint(97, (1, 22), generator=torch.Generator().manual_seed(number))
    targets = ids[:, 1:].masked_fill(ids[:, 1:] % 2 == 0, loss.IGNORE)
    scores = model(ids[:, :-1], targets, None, 0.0, loss.counted(targets), Scoring(entropy=True))
    return scores.log_probs_N.sum().square() + scores.entropies_N.sum()


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_gradients_of_scores_are_reduced_over_processes(wrapper: str, tmp_path: Path) -> None:
    together(scored_step, tmp_path / "gradients.pt", wrapper)
    model = decoder(small())
    (scored_loss(model, 0) + scored_loss(model, 1)).div(2).backward()
    reduced = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for gradient, parameter in zip(reduced, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-3 * float(parameter.grad.abs().max()))
