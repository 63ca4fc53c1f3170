"""A reward is the state of an answer's last token times one row of weights; a value that of any token."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.modeling.test_log_probabilities import batch
from tests.modeling.test_modeling_custom import decoder, small
from torch import Tensor

from ibidem import artifacts
from ibidem.errors import CheckpointError
from ibidem.inference.models import open_model
from ibidem.modeling import loss
from ibidem.modeling.attention import Documents
from ibidem.modeling.checkpoint import KIND, WEIGHTS, load_model, load_weights, model_config
from ibidem.modeling.generate import Sampling
from ibidem.modeling.heads import INTERACTIONS, GroundingHead, RewardModel, Spans, ValueDecoder
from ibidem.modeling.log_probabilities import Scoring, TokenScores
from ibidem.modeling.modeling_custom import Decoder


def reward_model(**changes: object) -> RewardModel:
    model = RewardModel(decoder(small(**changes)))
    torch.nn.init.normal_(model.weight_1D, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_rewards_and_gradients_are_those_of_the_last_hidden_states(tied: bool) -> None:
    model = reward_model(tied=tied).double()
    parts = [torch.randint(97, (1, T), generator=torch.Generator().manual_seed(T)) for T in (30, 1, 50)]
    starts = torch.zeros(1, 81, dtype=torch.bool)
    starts[0, [30, 31]] = True
    ends = torch.tensor([29, 30, 80])
    rewards = model(torch.cat(parts, dim=1), Documents.of(starts), ends)
    rewards.square().sum().backward()
    ours = {name: each.grad for name, each in model.named_parameters()}
    model.zero_grad()
    expected = torch.cat([model.decoder.hidden(part)[0][0, -1:] @ model.weight_1D[0] for part in parts])
    expected.square().sum().backward()
    torch.testing.assert_close(rewards, expected, rtol=1e-6, atol=1e-6)
    for name, each in model.named_parameters():
        if name == "decoder.head.weight_VD":
            assert ours[name] is None, "the output matrix is not trained"
        else:
            torch.testing.assert_close(ours[name], each.grad, rtol=1e-5, atol=1e-6)


def test_rewards_are_float32_whatever_the_blocks_compute_in() -> None:
    model = reward_model()
    model.decoder.compute_dtype = torch.bfloat16
    ids = torch.randint(97, (1, 20), generator=torch.Generator().manual_seed(0))
    assert model(ids, None, torch.tensor([19])).dtype == torch.float32


def test_a_new_reward_model_prefers_nothing_and_has_no_scale() -> None:
    model = RewardModel(decoder(small()))
    ids = torch.randint(97, (1, 20), generator=torch.Generator().manual_seed(0))
    rewards = model(ids, None, torch.tensor([5, 19]))
    assert rewards.tolist() == [0, 0]
    with pytest.raises(AssertionError, match="not finished"):
        model.scaled(rewards)


def test_scaled_rewards_have_the_scale_that_was_set() -> None:
    model = reward_model()
    model.set_scale(3.0, 2.0)
    assert model.scaled(torch.tensor([3.0, 5.0, -1.0])).tolist() == [0, 1, -2]
    assert {"mean", "deviation"} <= model.state_dict().keys(), "the scale is kept with the weights"


def value_decoder(**changes: object) -> ValueDecoder:
    """A decoder with the weights of `decoder` and a head that does something."""
    model = ValueDecoder(small(**changes))
    model.load_state_dict(decoder(small(**changes)).state_dict() | {"value_1D": model.value_1D.detach()})
    torch.nn.init.normal_(model.value_1D, generator=torch.Generator().manual_seed(1))
    return model.eval()


def scores_of(model: torch.nn.Module, *, entropy: bool = False) -> TokenScores:
    ids, targets, documents = batch()
    return model(ids, targets, documents, counted_N=loss.counted(targets), scoring=Scoring(0.7, entropy))


def test_a_value_decoder_is_a_decoder_whose_values_are_zero_at_first() -> None:
    plain, model = Decoder(small()), ValueDecoder(small())
    plain.init_weights(3)
    model.init_weights(3)
    weights = model.state_dict()
    assert not weights.pop("value_1D").any()
    assert all(torch.equal(weights[name], each) for name, each in plain.state_dict().items())
    assert model.value_1D.requires_grad
    mine, theirs = scores_of(model, entropy=True), scores_of(plain, entropy=True)
    assert theirs.values_N is None
    assert not mine.values_N.any()
    assert torch.equal(mine.log_probs_N, theirs.log_probs_N)
    assert torch.equal(mine.entropies_N, theirs.entropies_N)
    ids, targets, documents = batch()
    assert torch.equal(model(ids, targets, documents), plain(ids, targets, documents))


def policy_and_value_loss(scores: TokenScores) -> Tensor:
    """Return a loss that no sum over tokens gives."""
    weights = torch.linspace(-1, 2, len(scores.log_probs_N), dtype=scores.log_probs_N.dtype)
    return (scores.log_probs_N * weights).sum().square() + (scores.values_N - weights).square().mean()


@pytest.mark.parametrize("shape", [{}, {"tied": False, "qk_norm": False}])
def test_values_and_all_gradients_are_those_of_the_hidden_states(shape: dict[str, object]) -> None:
    model = value_decoder(**shape).double()
    ids, targets, documents = batch()
    positions = loss.counted(targets)
    scores = scores_of(model)
    policy_and_value_loss(scores).backward()
    ours = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    hidden, matrix = model.hidden(ids, documents)
    hidden = hidden.flatten(0, 1)[positions]
    logs = (hidden @ matrix.T / 0.7).log_softmax(dim=-1)
    chosen = logs[torch.arange(len(positions)), targets.flatten()[positions]]
    expected = TokenScores(chosen, None, hidden @ model.value_1D[0])
    torch.testing.assert_close(scores.values_N, expected.values_N)
    policy_and_value_loss(expected).backward()
    for mine, each in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, each.grad)


def test_the_gradient_of_values_reaches_the_trunk_and_is_that_of_finite_differences() -> None:
    model = value_decoder().double()
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in model.parameters()]

    def of(step: float) -> float:
        with torch.no_grad():
            for each, direction in zip(model.parameters(), directions, strict=True):
                each.add_(direction, alpha=step)
            return float(scores_of(model).values_N.square().sum())

    scores_of(model).values_N.square().sum().backward()
    slope = sum(float((each.grad * way).sum()) for each, way in zip(model.parameters(), directions, strict=True))
    assert all(bool(each.grad.any()) for each in model.blocks.parameters())
    assert (of(1e-6) - of(-2e-6)) / 2e-6 == pytest.approx(slope, rel=1e-6)


def test_values_are_float32_whatever_the_blocks_compute_in() -> None:
    model = value_decoder()
    expected = scores_of(model).values_N
    model.compute_dtype = torch.bfloat16
    found = scores_of(model).values_N
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.3, rtol=0)
    assert not torch.equal(found, found.bfloat16().float()), "values that were rounded to 16 bits"


def test_a_checkpoint_with_a_value_head_generates_and_evaluates_as_a_plain_one(
    checkpoint: Path, tmp_path: Path
) -> None:
    plain = artifacts.load(checkpoint)
    model = ValueDecoder(model_config(plain))
    load_weights(model, checkpoint)
    assert not model.value_1D.any(), "a plain checkpoint has no head"
    torch.nn.init.normal_(model.value_1D, generator=torch.Generator().manual_seed(1))
    folder = tmp_path / "with-head"
    with artifacts.create(folder, kind=KIND, config=plain.config, inputs=plain.inputs) as draft:
        shutil.copytree(checkpoint, draft.path, dirs_exist_ok=True)
        save_file(model.state_dict(), draft.path / WEIGHTS)
    ours, theirs = open_model(folder), open_model(checkpoint)
    prompts = ["import os\n", "def add(value"]
    sampling = Sampling(12, 1.0, 1.0, seed=1)
    assert ours.complete(prompts, sampling, ()) == theirs.complete(prompts, sampling, ())
    ids = ours.encode("def add(value, index):\n    return value + index\n")
    assert ours.nll(ids, 1) == theirs.nll(ids, 1)
    assert not hasattr(load_model(folder)[0], "value_1D")
    again = ValueDecoder(model_config(plain))
    load_weights(again, folder)
    assert torch.equal(again.value_1D, model.value_1D)


def test_weights_that_a_decoder_lacks_are_refused_unless_they_are_its_value_head(tmp_path: Path) -> None:
    model = decoder(small())
    save_file(model.state_dict() | {"value_2D": torch.zeros(1, 48)}, tmp_path / WEIGHTS)
    for each in (model, ValueDecoder(small())):
        with pytest.raises(CheckpointError, match="value_2D"):
            load_weights(each, tmp_path)


def spans(seed: int, padding: int = 0) -> Spans:
    """Three spans of two passages, as answers to two questions; padded by so many tokens."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(2, 5 + padding, 8, generator=generator), torch.randn(2, 9 + padding, 8, generator=generator)
    weights = torch.rand(2, 5 + padding, generator=generator)
    weights[0, 5:], weights[1, 3:] = 0, 0
    return Spans(
        states[0],
        weights / weights.sum(1, keepdim=True),
        states[1],
        torch.tensor([9, 6]),
        torch.tensor([0, 1, 1]),
        torch.tensor([0, 0, 1]),
        torch.tensor([[2, 4], [8, 9], [0, 1]]),
        torch.tensor([[0, 9], [5, 9], [0, 3]]),
        torch.rand(3, 4, generator=generator),
    )


def naive_interactions(head: GroundingHead, batch: Spans, row: int) -> list[float]:
    question, passage = int(batch.question_of_R[row]), int(batch.passage_of_R[row])
    (first, behind), sentence = batch.spans_R2[row].tolist(), range(*batch.sentences_R2[row].tolist())
    found = []
    for kind in (*head.log_reaches.exp().tolist(), "sentence", "span"):
        total = 0.0
        for q, weight in enumerate(batch.question_weights_NQ[question].tolist()):
            best = 0.0
            for p in range(int(batch.passage_lengths_M[passage])):
                inside = first <= p < behind
                distance = first - p if p < first else p - behind + 1
                if kind == "span":
                    nearness = float(inside)
                elif kind == "sentence":
                    nearness = float(not inside and p in sentence)
                else:
                    nearness = 0.0 if inside else torch.exp(torch.tensor(-distance / kind)).item()
                states = batch.question_states_NQD[question, q], batch.passage_states_MPD[passage, p]
                likeness = torch.nn.functional.cosine_similarity(
                    *(state * (1 + head.stretch_1D[0]) for state in states), dim=0
                )
                best = max(best, max(likeness.item(), 0.0) * nearness)
            total += weight * best
        found.append(total)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_late_interaction_is_that_of_loops_over_tokens(seed: int) -> None:
    head, batch = GroundingHead(8, 4), spans(seed)
    torch.nn.init.uniform_(head.stretch_1D, -0.5, 1.0, generator=torch.Generator().manual_seed(seed))
    found_R5 = head._interaction(batch)
    assert found_R5.shape == (3, len(INTERACTIONS))
    expected = torch.tensor([naive_interactions(head, batch, row) for row in range(3)])
    torch.testing.assert_close(found_R5, expected, rtol=1e-5, atol=1e-5)


def test_a_score_is_that_of_the_prior_before_training_and_padding_changes_nothing() -> None:
    head, batch = GroundingHead(8, 4), spans(1)
    head.set_prior([0.0, 1.0, 0.0, 0.0, *([0.0] * len(INTERACTIONS))])
    torch.testing.assert_close(head(batch), 12 * batch.features_RF[:, 1])
    torch.nn.init.normal_(head.out.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(head.change_1I, generator=torch.Generator().manual_seed(1))
    pad = torch.nn.functional.pad
    wider = batch._replace(
        question_states_NQD=pad(batch.question_states_NQD, (0, 0, 0, 3), value=1.0),
        question_weights_NQ=pad(batch.question_weights_NQ, (0, 3)),
        passage_states_MPD=pad(batch.passage_states_MPD, (0, 0, 0, 4), value=1.0),
    )
    torch.testing.assert_close(head(wider), head(batch))
