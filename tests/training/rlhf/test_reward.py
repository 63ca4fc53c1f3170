"""Reward models: what they learn, their scale, that they resume to the bit, and that nothing takes them for a model."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import REPOSITORY
from tests.training.rlhf.preference_data import COLORS, THINGS, events, figures, kill_and_resume, pairs_dataset, rows
from tests.training.test_resume import Settings, changed, in_two, losses, weights

from ibidem import artifacts
from ibidem.cli import main
from ibidem.config import build
from ibidem.conversation import Part, Turn
from ibidem.errors import CheckpointError, IbidemError, TrainingError
from ibidem.modeling.heads import load_reward_model
from ibidem.statistics import lower_bound
from ibidem.tokenization.chat import ChatTemplate
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.rlhf.config import DpoConfig, RewardConfig
from ibidem.training.rlhf.dpo_trainer import dpo
from ibidem.training.rlhf.examples import Pair, split
from ibidem.training.rlhf.pairs import encode, pack_whole
from ibidem.training.rlhf.reward_model import reward

PROMPTS = REPOSITORY / "configs" / "evaluation" / "prompts.jsonl"
LAUNCHER = REPOSITORY / "src" / "training" / "rlhf" / "reward_model.py"


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs_dataset(tmp_path_factory.mktemp("pairs") / "pairs", rows(margins=True))


def settings_of(checkpoint: Path, pairs: Path, run: Path) -> Settings:
    return {
        "initial": checkpoint,
        "data": pairs,
        "output_dir": run,
        "held_out_share": 0.3,
        "training": {"steps": 6, "batch_sequences": 8, "micro_batch_sequences": 4, "mixed_precision": "no"},
        "optim": {"lr": 3e-3, "warmup_steps": 1},
        "validation": {"every": 3},
        "checkpoints": {"every": 3},
    }


@pytest.fixture
def settings(checkpoint: Path, pairs: Path, tmp_path: Path) -> Settings:
    return settings_of(checkpoint, pairs, tmp_path / "run")


def run(settings: Settings, **changes: object) -> str:
    return reward(build(RewardConfig, changed(settings, **changes)))


@pytest.fixture(scope="session")
def trained(checkpoint: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    settings = settings_of(checkpoint, pairs, tmp_path_factory.mktemp("reward") / "run")
    run(settings, training__steps=60, optim__lr=5e-3, validation__every=60, checkpoints__every=60)
    return settings["output_dir"]


def test_separable_pairs_are_learned_and_length_is_reported_beside(trained: Path) -> None:
    before, after = events(trained, "train.measured")
    assert before["accuracy"] == 0.5, "equal rewards decide nothing"
    assert after["accuracy"] == 1
    assert after["held_out_loss"] < 0.35
    assert before["held_out_loss"] > 0.69
    (counts,) = events(trained, "train.pairs")
    assert after["accuracy_at_least"] == pytest.approx(lower_bound(counts["held_out"], counts["held_out"]))
    assert before["calibration_error"] == 0, "half of the draws are right"
    assert 0 < after["calibration_error"] < 0.4
    assert 0 < after["shorter_is_chosen"] < 1
    bins = events(trained, "reward.reliability")
    assert sum(event["pairs"] for event in bins) == counts["held_out"]


def test_rewards_have_mean_0_and_deviation_1_on_the_answers_of_the_training(trained: Path) -> None:
    model, artifact = load_reward_model(trained)
    assert artifact.kind == "reward-model"
    template = ChatTemplate(Tokenizer.load(artifact.path / "tokenizer"))
    (counts,) = events(trained, "train.pairs")
    data = rows(margins=True)
    train, _ = split(data, ((Turn.of("user", prompt),) for prompt, *_ in data), 0.3)
    assert len(train) == counts["train"]
    rewards = []
    for prompt, chosen, rejected, _ in train:
        answers = ((Part("text", chosen),), (Part("text", rejected),))
        encoded = encode(template, Pair((Turn.of("user", prompt),), *answers, None))
        batch = pack_whole(encoded.both)
        with torch.no_grad():
            raw = model(batch.ids_BT, batch.documents, batch.counted_N)
        rewards.append(model.scaled(raw))
    rewards = torch.stack(rewards)
    assert bool((rewards[:, 0] > rewards[:, 1]).all())
    assert float(rewards.double().mean()) == pytest.approx(0, abs=1e-5)
    assert float(rewards.double().std(correction=0)) == pytest.approx(1, abs=1e-5)
    measured = events(trained, "train.measured")[-1]
    assert float(model.mean) == pytest.approx(measured["reward_mean"])
    assert float(model.deviation) == pytest.approx(measured["reward_deviation"])


def test_an_answer_has_the_same_reward_alone_and_beside_others(trained: Path) -> None:
    model, artifact = load_reward_model(trained)
    template = ChatTemplate(Tokenizer.load(artifact.path / "tokenizer"))
    answers = []
    for prompt, *texts, _ in rows()[:8]:
        both = ((Part("text", text),) for text in texts)
        answers += encode(template, Pair((Turn.of("user", prompt),), *both, None)).both
    with torch.no_grad():
        together, alone = (
            torch.cat([model(each.ids_BT, each.documents, each.counted_N) for each in batches])
            for batches in ([pack_whole(answers)], [pack_whole([answer]) for answer in answers])
        )
        cut = pack_whole([answer._replace(ids_S=answer.ids_S[:-1]) for answer in answers])
        without_end = model(cut.ids_BT, cut.documents, cut.counted_N)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert float((without_end - alone).abs().min()) > 1e-4, "it is the last token whose state is read"


def test_a_margin_asks_for_a_larger_difference(settings: Settings, tmp_path: Path) -> None:
    prompts = [f"Which color has the {color} {thing}?" for color in COLORS for thing in THINGS]
    differences = {}
    for margin in (None, 6.0):
        data = pairs_dataset(tmp_path / f"data-{margin}", [(prompt, "Yes", "No", margin) for prompt in prompts])
        run(settings, data=data, output_dir=tmp_path / str(margin), training__steps=60)
        differences[margin] = figures(tmp_path / str(margin), "rewards/margins")[-1]
    assert differences[6.0] > differences[None] + 0.5
    losses_at_start = [figures(tmp_path / name, "loss")[0] for name in ("None", "6.0")]
    assert losses_at_start == pytest.approx([math.log(2), math.log(1 + math.exp(6))], rel=1e-5)


def test_accumulation_is_one_batch_though_the_answers_differ_in_length(settings: Settings, tmp_path: Path) -> None:
    for size in (1, 8):
        run(settings, output_dir=tmp_path / str(size), training__micro_batch_sequences=size)
    for name in ("loss", "grad_norm", "rewards/margins", "rewards/chosen"):
        one, eight = (figures(tmp_path / size, name) for size in ("1", "8"))
        assert one == pytest.approx(eight, rel=1e-4, abs=1e-5)
    assert figures(tmp_path / "1", "loss")[0] == pytest.approx(figures(tmp_path / "8", "loss")[0], rel=1e-6)


def test_stopping_and_resuming_changes_no_bit(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "whole")
    run(settings, output_dir=tmp_path / "parts", training__stop_at_step=3)
    with pytest.raises(CheckpointError, match=r"not finished.*resume-from latest"):
        load_reward_model(tmp_path / "parts")
    run(settings, output_dir=tmp_path / "parts", training__resume_from="latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    lasts = [tmp_path / name / "checkpoints" / "step-000006" for name in ("whole", "parts")]
    assert artifacts.load(lasts[0]).digest == artifacts.load(lasts[1]).digest


def test_an_extended_run_that_is_stopped_has_no_scale(settings: Settings) -> None:
    run(settings)
    assert load_reward_model(settings["output_dir"])[0].is_scaled
    settings = changed(settings, training__steps=12, training__resume_from="latest")
    run(settings, training__stop_at_step=9)
    with pytest.raises(CheckpointError, match=r"step-000009: .*not finished"):
        load_reward_model(settings["output_dir"])
    run(settings)
    assert load_reward_model(settings["output_dir"])[0].is_scaled


def test_a_killed_run_resumes_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    settings = changed(settings, training__steps=40, checkpoints__every=5, validation__every=40)
    run(settings, output_dir=tmp_path / "whole")
    kill_and_resume(settings, LAUNCHER, tmp_path, at=5)
    assert weights(tmp_path / "killed", 40) == weights(tmp_path / "whole", 40)


def test_two_processes_train_what_one_does_and_resume_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "one")
    two = changed(settings, training__num_processes=2, training__resume_from="latest")
    for folder, flags in (("whole", ()), ("parts", ("--training.stop-at-step", "3")), ("parts", ())):
        in_two(two, tmp_path, "--output-dir", str(tmp_path / folder), *flags, launcher=LAUNCHER)
    for name in ("loss", "rewards/margins", "rewards/accuracies", "rewards/rejected"):
        one, whole = (figures(tmp_path / folder, name) for folder in ("one", "whole"))
        assert one == pytest.approx(whole, rel=1e-4, abs=1e-5)
    measured = [events(tmp_path / name, "train.measured")[-1] for name in ("one", "whole")]
    for name in ("held_out_loss", "accuracy", "reward_mean", "reward_deviation"):
        assert measured[0][name] == pytest.approx(measured[1][name], rel=1e-4, abs=1e-6)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "whole", 6) == weights(tmp_path / "parts", 6)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--prompt", "x", "--checkpoint"],
        ["evaluate", "perplexity", "--data", "DATA", "--checkpoint"],
        ["evaluate", "chat", "--output-dir", "OUT", "--prompts", "PROMPTS", "--checkpoint"],
        ["sft", "--data", "DATA", "--output-dir", "OUT", "--training.steps", "1", "--initial"],
        ["dpo", "--data", "DATA", "--output-dir", "OUT", "--training.steps", "1", "--initial"],
        ["reward", "--data", "DATA", "--output-dir", "OUT", "--training.steps", "1", "--initial"],
    ],
    ids=lambda words: words[0],
)
def test_nothing_takes_a_reward_model_for_a_checkpoint(
    words: list[str], trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": str(pairs), "OUT": str(tmp_path / "out"), "PROMPTS": str(PROMPTS)}
    last = next((trained / "checkpoints").glob("step-*"))
    assert main([*(places.get(word, word) for word in words), str(last)]) == 2
    said = capsys.readouterr().err.strip()
    assert "this is a reward-model" in said
    assert "expected a checkpoint" in said
    assert len(said.splitlines()) == 1


def test_the_gate_refuses_a_reward_model(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = next((trained / "checkpoints").glob("step-*"))
    policy = REPOSITORY / "configs" / "evaluation" / "gate.yaml"
    words = ["gate", "--config", str(policy), "--checkpoint", str(last), "--output-dir", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "this is a reward-model" in said[0]


def test_a_checkpoint_is_no_reward_model(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"this is a checkpoint.*reward-model"):
        load_reward_model(checkpoint)


def test_a_reward_model_of_another_tokenizer_is_refused(trained: Path) -> None:
    last = next((trained / "checkpoints").glob("step-*"))
    own = artifacts.load(last / "tokenizer").digest
    assert load_reward_model(trained, own)[1].path == last
    with pytest.raises(CheckpointError, match="trained with another tokenizer"):
        load_reward_model(trained, "sha256:00")


def test_a_run_of_another_kind_is_not_resumed(settings: Settings) -> None:
    run(settings, training__steps=3, validation__every=3)
    with pytest.raises(IbidemError, match=r"this is a reward-model.*expected a checkpoint"):
        dpo(build(DpoConfig, changed(settings, training__resume_from="latest")))


def test_rewards_that_are_all_equal_are_reported(settings: Settings) -> None:
    with pytest.raises(TrainingError, match="all rewards are 0: nothing was learned"):
        run(settings, optim__lr=1e-300)


def test_text_is_no_setting_of_a_reward_model(settings: Settings) -> None:
    with pytest.raises(IbidemError, match="generates no text"):
        run(settings, validation__prompts=["x"])


def test_an_untied_output_matrix_is_left_as_it_is(
    settings: Settings, train_settings: Settings, model_file: Path, tmp_path: Path
) -> None:
    from ibidem.training.config import TrainConfig
    from ibidem.training.train import train

    untied = tmp_path / "untied.py"
    untied.write_text(model_file.read_text().replace("layers=2", "layers=2, tied=False"))
    changes = {"training__steps": 2, "model": untied, "output_dir": tmp_path / "base"}
    train(build(TrainConfig, changed(train_settings, **changes)))
    run(settings, initial=tmp_path / "base", training__steps=3, validation__every=3)
    before = load_file(tmp_path / "base" / "checkpoints" / "step-000002" / "model.safetensors")
    after = load_file(settings["output_dir"] / "checkpoints" / "step-000003" / "model.safetensors")
    assert torch.equal(before["head.weight_VD"], after["decoder.head.weight_VD"])
    assert not torch.equal(before["embedding.weight_VD"], after["decoder.embedding.weight_VD"])


def test_without_held_out_pairs_nothing_is_measured_and_it_is_said(settings: Settings) -> None:
    run(settings, held_out_share=0, training__steps=1)
    assert events(settings["output_dir"], "train.not_measured")
    assert "accuracy" not in events(settings["output_dir"], "train.measured")[-1]
