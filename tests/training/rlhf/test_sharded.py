"""DPO, reward models and PPO, sharded over two processes, train what one process trains."""

from pathlib import Path

import pytest
from tests.training.rlhf import test_dpo, test_ppo, test_reward
from tests.training.rlhf.preference_data import events, figures, pairs_dataset, rows
from tests.training.test_resume import Settings, changed, torchrun
from tests.training.test_sharding import environment_of_the_launcher

from ibidem.modeling.checkpoint import load_model
from ibidem.modeling.heads import load_reward_model

rewarding, pairs = test_ppo.rewarding, test_ppo.pairs  # fixtures
STAGES = {"dpo": test_dpo, "reward": test_reward}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_sharded_training_equals_one_process(
    name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = STAGES[name]
    settings: Settings = {
        "initial": checkpoint,
        "data": pairs_dataset(tmp_path / "pairs", rows()),
        "held_out_share": 0.2,
        "training": {"steps": 4, "batch_sequences": 8, "micro_batch_sequences": 2, "mixed_precision": "no"},
        "optim": {"lr": 1e-3, "warmup_steps": 1},
        "validation": {"every": 4},
        "checkpoints": {"every": 2},
    }
    stage.run(changed(settings, output_dir=tmp_path / "one"))
    for key, value in environment_of_the_launcher().items():
        monkeypatch.setenv(key, value)
    two = changed(settings, training__num_processes=2, training__resume_from="latest")
    for folder, flags in (("whole", ()), ("parts", ("--training.stop-at-step", "2")), ("parts", ())):
        done = torchrun(two, tmp_path, "--output-dir", str(tmp_path / folder), *flags, launcher=stage.LAUNCHER)
        assert done.returncode == 0, done.stderr[-4000:]
    for figure in ("loss", "rewards/margins"):
        one, whole = (figures(tmp_path / folder, figure) for folder in ("one", "whole"))
        assert one == pytest.approx(whole, rel=1e-4, abs=1e-5)
        assert figures(tmp_path / "parts", figure) == whole
    measured = [events(tmp_path / folder, "train.measured")[-1]["held_out_loss"] for folder in ("one", "whole")]
    assert measured[0] == pytest.approx(measured[1], rel=1e-4)
    if name == "dpo":
        said = events(tmp_path / "whole", "train.no_samples")
        assert {event["reason"] for event in said} == {"the weights are sharded"}
    load = load_reward_model if name == "reward" else load_model
    load(tmp_path / "whole" / "checkpoints" / "step-000004")


@pytest.mark.slow
def test_a_sharded_policy_samples_and_learns_what_one_process_does(
    checkpoint: Path, rewarding: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Settings = {
        "initial": checkpoint,
        "reward": rewarding,
        "data": pairs,
        "held_out_share": 0.2,
        "training": {"steps": 6, "batch_sequences": 8, "micro_batch_sequences": 2, "mixed_precision": "no"},
        "rollout": {"max_tokens": 8, "minibatches": 2, "epochs": 2},
        "optim": {"lr": 1e-3, "warmup_steps": 1},
        "validation": {"every": 6, "windows": 4},
        "checkpoints": {"every": 3},
    }
    test_ppo.run(changed(settings, output_dir=tmp_path / "one"))
    for key, value in environment_of_the_launcher().items():
        monkeypatch.setenv(key, value)
    two = changed(settings, training__num_processes=2, training__resume_from="latest")
    for folder, flags in (("whole", ()), ("parts", ("--training.stop-at-step", "3")), ("parts", ())):
        done = torchrun(two, tmp_path, "--output-dir", str(tmp_path / folder), *flags, launcher=test_ppo.LAUNCHER)
        assert done.returncode == 0, done.stderr[-4000:]
    for figure in ("loss", "objective/scores", "objective/kl", "loss/value_avg"):
        one, whole = (figures(tmp_path / folder, figure) for folder in ("one", "whole"))
        assert one == pytest.approx(whole, rel=1e-3, abs=1e-4)
        assert figures(tmp_path / "parts", figure) == whole
    load_model(tmp_path / "whole" / "checkpoints" / "step-000006")
