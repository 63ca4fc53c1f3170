"""A reward is the state of an answer's last token times one row of weights."""

import pytest
import torch
from tests.modeling.test_modeling_custom import decoder, small

from ibidem.modeling.attention import Documents
from ibidem.modeling.heads import RewardModel


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
