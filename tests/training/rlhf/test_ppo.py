"""PPO: what it learns, its figures, that it resumes to the bit inside a rollout, and what it refuses."""

import json
import shutil
from pathlib import Path
from statistics import mean

import pytest
import yaml
from safetensors.torch import load_file
from tests.conftest import REPOSITORY
from tests.training.rlhf.preference_data import events, figures, kill_and_resume, pairs_dataset, rows
from tests.training.rlhf.test_reward import run as train_reward
from tests.training.rlhf.test_reward import settings_of
from tests.training.test_resume import Settings, changed, in_two, losses, weights

from ibidem import artifacts
from ibidem.config import build
from ibidem.errors import DataError, IbidemError
from ibidem.modeling.checkpoint import load_model
from ibidem.training.rlhf.config import PpoConfig
from ibidem.training.rlhf.ppo_trainer import ppo

LAUNCHER = REPOSITORY / "src" / "training" / "rlhf" / "ppo_trainer.py"
NAMES = {
    "objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward", "objective/scores",
    "policy/approxkl_avg", "policy/clipfrac", "loss/policy_avg", "loss/value_avg", "val/clipfrac_avg", "val/ratio",
    "val/ratio_var", "val/num_eos_tokens",
}  # fmt: skip


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs_dataset(tmp_path_factory.mktemp("pairs") / "pairs", rows())


@pytest.fixture(scope="session")
def rewarding(checkpoint: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a reward model."""
    settings = settings_of(checkpoint, pairs, tmp_path_factory.mktemp("reward") / "run")
    train_reward(settings, training__steps=30, validation__every=30, checkpoints__every=30)
    return settings["output_dir"]


@pytest.fixture
def settings(checkpoint: Path, rewarding: Path, pairs: Path, tmp_path: Path) -> Settings:
    """Two rollouts of 16 answers, each learned from in 2 minibatches and 2 epochs."""
    return {
        "initial": checkpoint,
        "reward": rewarding,
        "data": pairs,
        "output_dir": tmp_path / "run",
        "held_out_share": 0.2,
        "training": {"steps": 8, "batch_sequences": 8, "micro_batch_sequences": 4, "mixed_precision": "no"},
        "rollout": {"max_tokens": 12, "minibatches": 2, "epochs": 2},
        "optim": {"lr": 1e-3, "warmup_steps": 1},
        "validation": {"every": 4, "windows": 6, "sample_tokens": 4},
        "checkpoints": {"every": 3},
    }


def run(settings: Settings, **changes: object) -> str:
    return ppo(build(PpoConfig, changed(settings, **changes)))


def test_the_score_rises_and_the_checkpoint_is_one_like_any_other(settings: Settings, rewarding: Path) -> None:
    said = run(
        settings, training__steps=160, validation__every=160, checkpoints__every=160, optim__lr=3e-3, ppo__kl=0.01,
        ppo__no_end_penalty=0,
    )  # fmt: skip
    last = settings["output_dir"] / "checkpoints" / "step-000160"
    assert said == f"{last}: step 160 of 160"
    first, measured = events(settings["output_dir"], "train.measured")
    assert set(first) >= {"score", "kl", "length", "ended"}
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    scores = [step["objective/scores"] for step in events(settings["output_dir"], "train.step")]
    assert mean(scores[-40:]) > mean(scores[:40]) + 0.2, "of ten rollouts each: one rollout says little"
    assert measured["kl"] > 0.1
    inputs = {item.role: item.digest for item in artifacts.verify(last, kind="checkpoint").inputs}
    assert set(inputs) == {"data", "tokenizer", "initial", "reward"}
    assert inputs["reward"] == artifacts.load(rewarding / "checkpoints" / "step-000030").digest
    load_model(last)


def test_the_figures_are_those_of_the_field_and_the_first_minibatch_is_the_rollouts_own(settings: Settings) -> None:
    run(settings, training__steps=8)
    steps = events(settings["output_dir"], "train.step")
    assert set(steps[0]) >= NAMES
    for first in (steps[0], steps[4]):
        assert first["val/ratio"] == pytest.approx(1, abs=1e-5)
        assert first["val/ratio_var"] == pytest.approx(0, abs=1e-9)
        assert first["policy/clipfrac"] == 0
        assert first["policy/approxkl_avg"] < 1e-9
    assert steps[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert steps[1]["val/ratio_var"] > 1e-9
    assert [step["objective/scores"] for step in steps[:4]] == [steps[0]["objective/scores"]] * 4
    assert steps[4]["objective/scores"] != steps[0]["objective/scores"]
    reward = steps[4]["objective/scores"] + steps[4]["objective/non_score_reward"]
    unended = 1 - steps[4]["val/num_eos_tokens"] / 16
    assert steps[4]["objective/rlhf_reward"] == pytest.approx(reward - unended)


def test_accumulation_is_one_batch_though_the_answers_differ_in_length(settings: Settings, tmp_path: Path) -> None:
    for size in (1, 8):
        run(settings, output_dir=tmp_path / str(size), training__micro_batch_sequences=size)
    for name in ("loss", "grad_norm", "objective/scores", "loss/value_avg"):
        one, eight = (figures(tmp_path / size, name) for size in ("1", "8"))
        assert one == pytest.approx(eight, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_stopping_inside_a_rollout_and_between_epochs_changes_no_bit(
    stop: int, settings: Settings, tmp_path: Path
) -> None:
    settings = changed(settings, ppo__kl_target=1, ppo__kl_horizon=50, ppo__scale_scores=True, checkpoints__every=8)
    run(settings, output_dir=tmp_path / "whole")
    run(settings, output_dir=tmp_path / "parts", training__stop_at_step=stop)
    run(settings, output_dir=tmp_path / "parts", training__resume_from="latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    lasts = [tmp_path / name / "checkpoints" / "step-000008" for name in ("whole", "parts")]
    assert artifacts.load(lasts[0]).digest == artifacts.load(lasts[1]).digest
    kept = json.loads((lasts[0] / "objective.json").read_text())
    assert kept["kl"] != 0.05, "it was steered"
    assert kept["scores"]["count"] == 32
    assert len(load_file(lasts[0] / "objective.safetensors")["facts"]) == 16


def test_a_fixed_weight_of_the_kl_penalty_is_that_of_the_settings(settings: Settings) -> None:
    run(settings, training__stop_at_step=3)
    run(settings, training__resume_from="latest", ppo__kl=0.5)
    assert figures(settings["output_dir"], "objective/kl_coef") == [0.05] * 3 + [0.5] * 5


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
    for name in ("loss", "objective/scores", "objective/kl", "loss/value_avg"):
        one, whole = (figures(tmp_path / folder, name) for folder in ("one", "whole"))
        assert one == pytest.approx(whole, rel=1e-3, abs=1e-4)
    measured = [[each["score"] for each in events(tmp_path / name, "train.measured")] for name in ("one", "whole")]
    assert measured[0] == pytest.approx(measured[1], rel=1e-3)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "whole", 8) == weights(tmp_path / "parts", 8)


def test_a_file_of_prompts_is_enough(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    asked = [{"prompt": f"Which color has thing number {number}?"} for number in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in asked))
    run(settings, data=file, training__steps=1)
    (counts,) = events(settings["output_dir"], "train.prompts")
    assert counts["train"] + counts["held_out"] == 40


def test_prompts_that_leave_no_room_are_left_out_and_counted(settings: Settings, tmp_path: Path) -> None:
    long = [("word " * 60, "Yes", "No", None)]
    run(settings, data=pairs_dataset(tmp_path / "data", [*rows(), *long]), training__steps=1)
    (counts,) = events(settings["output_dir"], "train.prompts")
    assert counts["left_out"] == {"leaves no room for 12 tokens": 1}
    with pytest.raises(DataError, match="no prompt to train on .*1 leaves no room for 12 tokens"):
        run(settings, data=pairs_dataset(tmp_path / "long", long), output_dir=tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "absent.jsonl"}, "data absent.jsonl: no such file or folder"),
        ({"reward": "absent"}, "absent: no such folder; expected a reward-model"),
        ({"reward": REPOSITORY}, "no artifact here .* expected a reward-model"),
        ({"ppo__kl_target": 0}, "ppo.kl_target"),
        ({"ppo__kl_target": 1, "ppo__kl": 0}, "a weight of 0 never changes"),
        ({"rollout__temperature": 0}, "rollout.temperature"),
        ({"rollout__samples": 3}, "rollout.samples=3 does not divide the 16 answers"),
        ({"rollout__max_tokens": 64}, "no prompt to train on"),
        ({"rollout__max_tokens": 100}, "no prompt to train on"),
        ({"optim__z_loss": 1e-4}, "z_loss"),
        ({"validation__prompts": ["word " * 100]}, "the prompt 'word .*shorten the prompt"),
    ],
)
def test_what_cannot_work_is_one_line(settings: Settings, change: dict, said: str) -> None:
    with pytest.raises(IbidemError, match=said) as error:
        run(settings, **change)
    assert "\n" not in str(error.value)
    assert not list((settings["output_dir"] / "checkpoints").glob("*"))


def test_a_checkpoint_is_no_reward_model(settings: Settings, checkpoint: Path) -> None:
    with pytest.raises(IbidemError, match=r"this is a checkpoint.*reward-model"):
        run(settings, reward=checkpoint)


def test_a_reward_model_of_another_tokenizer_or_without_a_scale_is_refused(
    settings: Settings, checkpoint: Path, pairs: Path, rewarding: Path, tmp_path: Path
) -> None:
    foreign, original = tmp_path / "foreign", artifacts.load(rewarding / "checkpoints" / "step-000030")
    inputs = [
        item if item.role != "tokenizer" else artifacts.Input("tokenizer", item.name, "sha256:" + "0" * 64)
        for item in original.inputs
    ]
    with artifacts.create(foreign, kind=original.kind, config=original.config, inputs=inputs) as draft:
        for path in original.path.iterdir():
            if path.name == artifacts.MANIFEST:
                continue
            (shutil.copytree if path.is_dir() else shutil.copy)(path, draft.path / path.name)
    with pytest.raises(IbidemError, match="another tokenizer"):
        run(settings, reward=foreign)
    unfinished = settings_of(checkpoint, pairs, tmp_path / "unfinished")
    train_reward(unfinished, training__steps=30, training__stop_at_step=3)
    with pytest.raises(IbidemError, match="no scale"):
        run(settings, reward=tmp_path / "unfinished")


def test_another_reward_model_is_another_run(settings: Settings, checkpoint: Path, pairs: Path, tmp_path: Path) -> None:
    run(settings, training__stop_at_step=3)
    other = settings_of(checkpoint, pairs, tmp_path / "other-reward")
    train_reward(other, training__steps=6)
    with pytest.raises(IbidemError, match="trained on other data"):
        run(settings, reward=tmp_path / "other-reward", training__resume_from="latest")


def test_the_shipped_configuration_is_valid() -> None:
    tree = yaml.safe_load((REPOSITORY / "configs" / "training" / "ppo.yaml").read_text())
    assert build(PpoConfig, tree).rollout.steps == 8


def test_without_held_out_prompts_nothing_is_measured_and_it_is_said(settings: Settings) -> None:
    run(settings, held_out_share=0, training__steps=1)
    assert events(settings["output_dir"], "train.not_measured")
    assert "score" not in events(settings["output_dir"], "train.measured")[-1]
