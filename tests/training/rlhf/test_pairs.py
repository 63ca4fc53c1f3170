"""Pairs: how they are split, which of them are measured, and that a step does not wait for the host's tensors."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import REPOSITORY
from tests.training.rlhf.preference_data import Row, events, pairs_dataset, rows
from tests.training.test_resume import Settings, changed
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ibidem import log
from ibidem.config import build
from ibidem.conversation import Conversation, Turn
from ibidem.modeling.heads import KIND
from ibidem.tokenization.chat import ChatTemplate
from ibidem.training import session
from ibidem.training.rlhf import dpo_trainer, reward_model, sft_pipeline
from ibidem.training.rlhf.batches import Encoded
from ibidem.training.rlhf.config import DpoConfig, RewardConfig, SftConfig
from ibidem.training.rlhf.pairs import EncodedPair, Pairs, read
from ibidem.training.rlhf.reference import _digest
from ibidem.training.rlhf.setup import set_up

QUESTIONS = [f"Question {number}?" for number in range(30)]


@pytest.fixture
def settings(checkpoint: Path, tmp_path: Path) -> Settings:
    return {
        "initial": checkpoint,
        "data": pairs_dataset(tmp_path / "pairs", rows(margins=True)),
        "output_dir": tmp_path / "run",
        "held_out_share": 0.3,
        "training": {"steps": 6, "batch_sequences": 8, "micro_batch_sequences": 4, "mixed_precision": "no"},
        "validation": {"every": 3, "sample_tokens": 4},
    }


def two_turns(question: str, number: int) -> Conversation:
    return Turn.of("user", question), Turn.of("assistant", f"Answer {number}"), Turn.of("user", f"More {number}?")


def first_questions(pairs: list[EncodedPair], template: ChatTemplate) -> set[str]:
    found = set()
    for question in QUESTIONS:
        asked = template.prompt((Turn.of("user", question),))
        if any(pair.chosen.ids_S[: len(asked)].tolist() == list(asked) for pair in pairs):
            found.add(question)
    return found


def test_no_held_out_pair_shares_its_first_question_with_a_training_pair(settings: Settings, tmp_path: Path) -> None:
    data: list[Row] = []
    for question in QUESTIONS:
        data += [(two_turns(question, number), "Yes", "No", None) for number in range(4)]
        data.append((question, "Yes", "No", None))
    config = build(DpoConfig, changed(settings, data=pairs_dataset(tmp_path / "data", data)))
    setup = set_up(config)
    pairs = read(config, setup)
    train, held_out = (first_questions(side, setup.template) for side in (pairs.train, pairs.held_out))
    assert train | held_out == set(QUESTIONS)
    assert held_out
    assert not train & held_out
    assert max(map(len, pairs.prompts)) == 3, "what is answered is the whole prompt"


def test_all_pairs_of_a_first_question_are_in_one_fold_of_the_benchmark() -> None:
    spec = importlib.util.spec_from_file_location("reward_on_hh", REPOSITORY / "benchmarks" / "reward_on_hh.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    folds: set[int] = set()
    for question in QUESTIONS:
        prompts = [(Turn.of("user", question),), *(two_turns(question, number) for number in range(5))]
        of_question = {benchmark.Item(SimpleNamespace(prompt=prompt), None).fold for prompt in prompts}
        assert len(of_question) == 1
        folds |= of_question
    assert folds == set(range(benchmark.FOLDS))


def test_answers_that_differ_in_blanks_alone_are_equal(settings: Settings, tmp_path: Path) -> None:
    data = pairs_dataset(tmp_path / "data", [*rows(), ("Equal?", "Yes", "Yes\n", None)])
    config = build(DpoConfig, changed(settings, data=data))
    assert read(config, set_up(config)).left_out == {"equal answers": 1}


def test_pairs_that_are_split_otherwise_have_another_reference() -> None:
    answers = [Encoded(np.full(3, number, dtype=np.int32), np.ones(3, dtype=np.bool_)) for number in (0, 1)]
    one, two = (EncodedPair(answer, answer, 0.0) for answer in answers)
    digests = {_digest(Pairs(*sides, [], Counter())) for sides in (([one, two], []), ([one], [two]))}
    assert len(digests) == 2


def dpo_of(settings: Settings) -> tuple[dpo_trainer.Dpo, nn.Module]:
    config = build(DpoConfig, settings)
    setup = set_up(config)
    objective = dpo_trainer.Dpo(config, setup, read(config, setup))
    objective.check()
    return objective, session.new_decoder(setup.shape, config.training)


def reward_of(settings: Settings) -> tuple[reward_model.Reward, nn.Module]:
    config = build(RewardConfig, settings)
    setup = set_up(config, KIND)
    model = reward_model.new_reward_model(setup.shape, config.training)
    nn.init.normal_(model.weight_1D, generator=torch.Generator().manual_seed(0))
    return reward_model.Reward(config, setup, read(config, setup)), model


def sft_of(settings: Settings) -> tuple[sft_pipeline.Sft, nn.Module]:
    config = build(SftConfig, settings)
    setup = set_up(config)
    objective = sft_pipeline.Sft(config, setup, sft_pipeline.read(config, setup))
    return objective, session.new_decoder(setup.shape, config.training)


def sample_of(items: list[Any], number: int) -> list[Any]:
    return [items[len(items) * place // number] for place in range(number)]


@pytest.mark.parametrize("objective_of", [dpo_of, reward_of])
def test_what_is_measured_is_spread_over_the_pairs(objective_of: Any, settings: Settings) -> None:
    settings = changed(settings, validation__samples=0)
    if objective_of is reward_of:
        settings |= {"reward": {"scale_pairs": 5}}
    few, model = objective_of(changed(settings, validation__windows=3))
    every, _ = objective_of(settings)
    assert len(few.pairs.held_out) > 6
    sampled = Pairs(sample_of(few.pairs.train, 5), sample_of(few.pairs.held_out, 3), [], Counter())
    every.pairs = sampled
    if objective_of is dpo_of:
        every.reference = {"held_out": torch.stack(sample_of(list(few.reference["held_out"]), 3))}
    with torch.no_grad():
        measured, expected = (each.measure(model, 6) for each in (few, every))
    assert measured == pytest.approx(expected, rel=1e-4)
    assert len(measured) >= 3


class Waits(TorchFunctionMode):
    """Records the operations of this thread that make the host wait for a GPU: copies to and fro of pageable memory.

    Only the layout of the documents, which is int32, stays on the CPU and is read there.
    """

    NAMES = frozenset(
        ("tensor", "as_tensor", "from_numpy", "to", "cuda", "cpu", "item", "tolist", "__float__", "__int__", "__bool__")
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        places = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, torch.device | str)]
        is_cast = name == "to" and not places
        is_layout = isinstance(args[0] if args else None, Tensor) and args[0].dtype == torch.int32
        if name in self.NAMES and not is_cast and not is_layout and not kwargs.get("non_blocking"):
            self.found.append(name)
        return func(*args, **kwargs)


@pytest.mark.parametrize("objective_of", [sft_of, dpo_of, reward_of])
def test_a_step_copies_nothing_that_the_loader_did_not_prepare(objective_of: Any, settings: Settings) -> None:
    objective, model = objective_of(settings)
    objective.begin(model, 0)
    with Waits() as waits:
        for micro in range(2):
            loss, _ = objective.loss(model, 0, micro)
            loss.backward()
        objective.figures()
    objective.close()
    assert waits.found == []


@pytest.mark.parametrize("objective_of", [dpo_of, reward_of])
def test_all_tensors_of_a_micro_batch_are_pinned(
    objective_of: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, model = objective_of(settings)
    pinned: set[int] = set()

    def pin(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        pinned.add(copy.untyped_storage().data_ptr())
        return copy

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    objective.begin(model, 0)
    batch = objective.loader.take(0, 0).pinned()
    objective.close()
    assert batch.others
    tensors = (batch.ids_BT, batch.targets_BT, batch.counted_N, batch.documents.edges, *batch.others)
    assert {each.untyped_storage().data_ptr() for each in tensors} <= pinned


def test_dpo_says_that_sharded_weights_answer_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build(DpoConfig, settings)
    setup = set_up(config)
    objective = dpo_trainer.Dpo(config, setup, read(config, setup))
    monkeypatch.setattr("ibidem.training.sharding.is_requested", lambda: True)
    monkeypatch.setattr(dpo_trainer, "reference_of", lambda *_: {})
    with log.recording(tmp_path / "events.jsonl"):
        objective.check()
    assert [event["reason"] for event in events(tmp_path, "train.no_samples")] == ["the weights are sharded"]
