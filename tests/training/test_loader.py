"""The loader gives a step what it would read itself, and ends whatever happens."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from ibidem.config import build
from ibidem.console import console
from ibidem.errors import DataError, TrainingError
from ibidem.modeling.config import read_model_config
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training import loop
from ibidem.training.config import TrainConfig
from ibidem.training.loader import AHEAD, Batch, Loader
from ibidem.training.pretraining import Pretraining
from ibidem.training.processes import compute_dtype, start_accelerator
from ibidem.training.tokenize import tokenized
from ibidem.training.tokens import Windows
from ibidem.training.train import train

CPU = torch.device("cpu")
PATIENCE_S = 30


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ibidem-loader"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


def batch_of(number: int) -> Batch:
    return Batch.of_windows(torch.full((1, 3), number), None)


class Recorded:
    """Makes batches, and records which."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self._fails_at = fails_at

    def __call__(self, step: int, micro: int) -> Batch:
        self.asked.append((step, micro))
        if 2 * step + micro == self._fails_at:
            raise DataError("the file is gone")
        return batch_of(2 * step + micro)


def loader_of(make: Recorded, stop: int = 3) -> Loader:
    return Loader(make, micro_batches=2, stop=stop, device=CPU)


def numbers(loader: Loader, steps: range) -> list[int]:
    taken = []
    for step in steps:
        loader.begin(step)
        taken += [int(loader.take(step, micro).ids_BT[0, 0]) for micro in range(2)]
    return taken


def wait_until(true: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_batches_come_in_the_order_of_the_steps_and_none_beyond_the_last() -> None:
    make = Recorded()
    loader = loader_of(make)
    assert numbers(loader, range(3)) == list(range(6))
    wait_until(lambda: not threads())  # it ends by itself
    loader.close()
    assert make.asked == [(step, micro) for step in range(3) for micro in range(2)]


def test_a_run_resumes_at_any_step() -> None:
    loader = loader_of(Recorded())
    assert numbers(loader, range(1, 3)) == [2, 3, 4, 5]
    loader.close()


def test_a_step_that_begins_again_gets_the_same() -> None:
    loader = loader_of(Recorded(), stop=5)
    first = numbers(loader, range(3))
    assert numbers(loader, range(3)) == first
    loader.close()


def test_only_a_few_batches_wait() -> None:
    make = Recorded()
    loader = loader_of(make, stop=100)
    loader.begin(0)
    wait_until(lambda: len(make.asked) > AHEAD)
    time.sleep(0.05)
    assert len(make.asked) == AHEAD + 1
    loader.close()


def test_an_error_is_raised_in_the_step_that_needs_the_batch() -> None:
    loader = loader_of(Recorded(fails_at=3))
    loader.begin(0)
    assert [int(loader.take(*place).ids_BT[0, 0]) for place in ((0, 0), (0, 1))] == [0, 1]
    loader.begin(1)
    loader.take(1, 0)
    with pytest.raises(DataError, match="the file is gone"):
        loader.take(1, 1)
    assert threads() == []


def objective_of(settings: dict[str, Any], tmp_path: Path) -> Pretraining:
    config = build(TrainConfig, settings)
    tokens, tokenizer = tokenized(config.data.dataset, config.data.tokenizer, tmp_path / "tokens", held_out_share=0.1)
    assert isinstance(tokenizer, Tokenizer)
    return Pretraining(config, read_model_config(config.model), tokens, tokenizer, Accelerator(cpu=True))


@pytest.mark.parametrize("fim_rate", [0.0, 0.5])
def test_batches_are_those_that_a_step_would_read_itself(
    train_settings: dict[str, Any], tmp_path: Path, fim_rate: float
) -> None:
    train_settings["data"] |= {"fim_rate": fim_rate}
    objective = objective_of(train_settings, tmp_path)
    for step in range(5, 8):
        objective.loader.begin(step)
        for micro in range(2):
            taken, read = objective.loader.take(step, micro), objective._micro_batch(step, micro)
            assert torch.equal(taken.ids_BT, read.ids_BT)
            assert torch.equal(taken.targets_BT, read.targets_BT)
            assert taken.documents is not None
            assert taken.documents.lengths == read.documents.lengths
    objective.close()


def test_validation_windows_are_the_tokens_of_the_held_out_documents_whatever_is_moved_in_training(
    train_settings: dict[str, Any], tmp_path: Path
) -> None:
    seen: list[torch.Tensor] = []

    class Model(torch.nn.Module):
        def forward(self, ids_BT: torch.Tensor, targets_BT: torch.Tensor, _documents: Any) -> torch.Tensor:
            seen.append(torch.cat([ids_BT, targets_BT[:, -1:]], dim=1))
            return targets_BT.sum().float()

    train_settings["data"] |= {"fim_rate": 0.9}
    train_settings["validation"] |= {"prompts": []}
    objective = objective_of(train_settings, tmp_path)
    objective.measure(Model(), 0)
    stored = np.stack([objective.held_out[index] for index in objective.held_out.spread(4)])
    fed = torch.cat(seen)[:4].numpy()
    counted = fed != -100
    assert (fed == stored)[counted].all()


def test_a_training_whose_data_fail_says_so_in_one_line_and_ends(
    train_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ibidem.cli import main

    def damaged(_windows: Windows, index: int) -> np.ndarray[Any, Any]:
        raise DataError(f"window {index} cannot be read")

    train_settings["validation"] |= {"prompts": []}
    monkeypatch.setattr(Pretraining, "measure", lambda *_: {"held_out_loss": 1.0})
    monkeypatch.setattr(Windows, "__getitem__", damaged)
    settings = {key: value for key, value in train_settings.items() if isinstance(value, dict)}
    flags = [
        f"--{key}.{name.replace('_', '-')}" for key, values in settings.items() for name in values if name != "prompts"
    ]
    values = [str(value) for each in settings.values() for name, value in each.items() if name != "prompts"]
    pairs = [part for pair in zip(flags, values, strict=True) for part in pair]
    top = ["--model", str(train_settings["model"]), "--output-dir", str(train_settings["output_dir"])]
    assert main(["train", *top, *pairs]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("ibidem: window ")
    assert last.endswith("cannot be read")


@pytest.mark.parametrize("error", [KeyboardInterrupt, TrainingError("no")])
def test_the_thread_ends_when_a_training_is_interrupted_or_fails(
    train_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    real = loop.update

    def update(*args: Any, step: int, lr: float) -> Any:
        if step == 2:
            assert len(threads()) == 1
            raise error
        return real(*args, step=step, lr=lr)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        train(build(TrainConfig, train_settings))
    assert threads() == []


def test_the_blueprints_fp16_is_accepted_and_a_cpu_says_that_it_uses_float32(
    train_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    train_settings["training"] |= {"mixed_precision": "fp16", "steps": 1}
    config = build(TrainConfig, train_settings)
    if torch.cuda.is_available():
        assert compute_dtype(config.training) == torch.float16
        return
    with console():
        start_accelerator(config)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "fp16" in line]
    assert "float32" in line


def test_a_short_training_still_takes_every_step(train_settings: dict[str, Any]) -> None:
    train_settings["training"] |= {"steps": 3}
    assert "step 3 of 3" in train(build(TrainConfig, train_settings))
