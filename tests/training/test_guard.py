"""A step that is not finite, or far larger than usual, changes nothing; a run of them ends the training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.test_resume import Settings, changed, losses, train, weights

from ibidem.errors import TrainingError
from ibidem.modeling.config import ModelConfig
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training import pretraining
from ibidem.training.config import OptimConfig
from ibidem.training.guard import LARGEST_SCALE, STEPS_TO_GROW, Guard
from ibidem.training.loop import gradient_norm
from ibidem.training.optim import make_optimizer

CPU = torch.device("cpu")
SHAPE = ModelConfig(vocab_size=96, width=32, layers=1, heads=2, ffn_hidden=48, context=16)


def backward(model: Decoder, factor: float) -> torch.Tensor:
    ids = torch.randint(96, (1, 17), generator=torch.Generator().manual_seed(0))
    loss = model(ids[:, :-1], ids[:, 1:]) * factor
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_skipped_step_leaves_no_trace(name: str) -> None:
    states = []
    for bad in (False, True):
        model = Decoder(SHAPE)
        model.init_weights(0)
        optimizer = make_optimizer(model, OptimConfig(name=name))
        guard = Guard(CPU, clip=1.0, spike_factor=3.0, scales=False)
        for factor in (1.0, *([float("nan"), float("inf"), 1e6] if bad else []), 1.5):
            figures = guard.judge(backward(model, factor), gradient_norm(model), optimizer)
            optimizer.step()
            optimizer.zero_grad()
        states.append([model.state_dict(), [dict(state) for state in optimizer.state.values()], guard.state()])
        assert float(figures["skipped"]) == 0
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_clipping_and_scaling_are_those_of_clipped_gradients(name: str) -> None:
    results = []
    for scales in (False, True):
        model = Decoder(SHAPE)
        model.init_weights(0)
        optimizer = make_optimizer(model, OptimConfig(name=name))
        guard = Guard(CPU, clip=0.5, spike_factor=None, scales=True)
        loss = backward(model, float(guard.scale) if scales else 1.0)
        if scales:
            assert float(guard.judge(loss, gradient_norm(model), optimizer)["grad_norm"]) > 0.5
        else:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        results.append(model.state_dict())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


def test_the_scale_is_halved_by_an_overflow_and_grows_after_many_steps_without() -> None:
    guard = Guard(CPU, clip=1.0, spike_factor=None, scales=True)
    optimizer: Any = torch.optim.SGD([torch.zeros(1)])
    guard.judge(torch.tensor(1.0), torch.tensor(float("inf")), optimizer)
    assert float(guard.scale) == LARGEST_SCALE / 2
    for _ in range(STEPS_TO_GROW):
        guard.judge(torch.tensor(1.0), torch.tensor(1.0), optimizer)
    assert float(guard.scale) == LARGEST_SCALE
    for _ in range(STEPS_TO_GROW):
        guard.judge(torch.tensor(1.0), torch.tensor(1.0), optimizer)
    assert float(guard.scale) == LARGEST_SCALE


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    loss = pretraining.Pretraining.loss

    def spoiled(self: Any, model: Any, step: int, micro: int) -> tuple[torch.Tensor, int]:
        value, number = loss(self, model, step, micro)
        return value * (float("nan") if step in steps else 1.0), number

    monkeypatch.setattr(pretraining.Pretraining, "loss", spoiled)


def test_a_step_that_is_not_finite_is_skipped_and_told_and_resuming_changes_no_bit(
    train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {1, 3, 4})
    settings = changed(train_settings, training__steps=6)
    train(settings, output_dir=tmp_path / "whole")
    train(settings, output_dir=tmp_path / "parts", training__stop_at_step=4)
    train(settings, output_dir=tmp_path / "parts", training__resume_from="latest")
    rows = [json.loads(line) for line in (tmp_path / "parts" / "events.jsonl").read_text().splitlines()]
    assert [(row["step"], row["in_a_row"]) for row in rows if row["event"] == "train.skipped"] == [
        (2, 1), (4, 1), (5, 2),
    ]  # fmt: skip
    assert weights(tmp_path / "whole", 6) == weights(tmp_path / "parts", 6)
    assert list(losses(tmp_path / "whole")) == [1, 3, 6]


def test_too_many_skipped_steps_in_a_row_end_the_run_with_the_last_checkpoint_intact(
    train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, set(range(2, 40)))
    with pytest.raises(TrainingError, match=r"step 5: loss nan.*3 skipped in a row: lower optim.lr"):
        train(train_settings, optim__most_skipped=3, checkpoints__every=2)
    assert (tmp_path / "run" / "checkpoints" / "step-000004").exists()
