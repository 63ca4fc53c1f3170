"""GRPO: what it learns from executed tests, that it resumes to the bit, and what it refuses."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from tests.conftest import REPOSITORY
from tests.modeling.test_modeling_custom import decoder, small
from tests.training.rlhf.preference_data import events, figures, kill_and_resume
from tests.training.test_resume import Settings, changed, in_two, losses, weights

from ibidem import artifacts
from ibidem.config import build
from ibidem.data.synthetic.programs import request
from ibidem.errors import DataError, IbidemError, SandboxError, TrainingError
from ibidem.modeling.modeling_custom import Decoder
from ibidem.training import loop
from ibidem.training.guard import Guard
from ibidem.training.optim import make_optimizer
from ibidem.training.rlhf.config import GrpoConfig, SftConfig
from ibidem.training.rlhf.grpo_trainer import Grpo, grpo
from ibidem.training.rlhf.problems import Outcome, Tests
from ibidem.training.rlhf.rollout import Answer, Plan, Sampler
from ibidem.training.rlhf.sft_pipeline import sft

LAUNCHER = REPOSITORY / "src" / "training" / "rlhf" / "grpo_trainer.py"
PROBLEMS = 24
Scores = Callable[[Sequence[Answer]], list[Answer]]


def problem(number: int) -> dict[str, object]:
    """Return a problem that `f=abs` solves; its hidden test is another one."""
    tests = [f"assert f(-{each})=={each}" for each in (number, number + 50)]
    return {"task_id": number, "text": f"f{number}", "test_list": tests, "code": "f=abs"}


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    file.write_text("".join(json.dumps(problem(number)) + "\n" for number in range(1, PROBLEMS + 1)))
    return file


@pytest.fixture(scope="session")
def policy(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that answers each problem with `f=abs` or `f=int`: half of its answers pass."""
    folder = tmp_path_factory.mktemp("policy")
    rows = []
    for number in range(1, PROBLEMS + 1):
        asked = problem(number)
        prompt = request(str(asked["text"]), asked["test_list"][:1])
        rows += [{"instruction": prompt, "response": answer} for answer in ("f=abs", "f=int")]
    file = folder / "conversations.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "initial": checkpoint,
        "data": file,
        "output_dir": folder / "run",
        "held_out_share": 0,
        "training": {"steps": 60, "batch_sequences": 16, "micro_batch_sequences": 16, "mixed_precision": "no"},
        "optim": {"lr": 1e-2},
        "validation": {"every": 60, "samples": 0},
    }
    sft(build(SftConfig, settings))
    return folder / "run"


@pytest.fixture
def settings(policy: Path, problems: Path, tmp_path: Path) -> Settings:
    """Rollouts of 32 answers, 8 to each of 4 problems, each learned from in 2 minibatches and 2 epochs."""
    return {
        "initial": policy,
        "problems": problems,
        "output_dir": tmp_path / "run",
        "held_out_share": 0.2,
        "training": {"steps": 8, "batch_sequences": 16, "micro_batch_sequences": 8, "mixed_precision": "no"},
        "rollout": {"max_tokens": 10, "samples": 8, "minibatches": 2, "epochs": 2},
        "optim": {"lr": 1e-3, "warmup_steps": 1},
        "validation": {"every": 4, "windows": 4, "sample_tokens": 4},
        "checkpoints": {"every": 3},
    }


def run(settings: Settings, **changes: object) -> str:
    return grpo(build(GrpoConfig, changed(settings, **changes)))


def test_passes_rise_on_visible_and_hidden_tests(settings: Settings) -> None:
    said = run(settings, training__steps=48, optim__lr=3e-3, validation__every=48, checkpoints__every=48)
    last = settings["output_dir"] / "checkpoints" / "step-000048"
    assert said == f"{last}: step 48 of 48"
    steps = events(settings["output_dir"], "train.step")
    for name in ("objective/passed", "objective/hidden_passed"):
        assert steps[0][name] < 0.8
        assert steps[-1][name] > steps[0][name] + 0.15
    assert abs(steps[-1]["objective/gap"]) < 0.2
    first, measured = events(settings["output_dir"], "train.measured")
    assert set(measured) >= {"score", "length", "ended", "passed", "hidden_passed", "gap"}
    assert measured["score"] >= first["score"]
    inputs = {item.role: item.digest for item in artifacts.verify(last, kind="checkpoint").inputs}
    assert set(inputs) == {"data", "tokenizer", "initial"}
    (counts,) = events(settings["output_dir"], "train.problems")
    assert counts["train"] + counts["held_out"] == PROBLEMS


@pytest.mark.parametrize(
    "change",
    [
        {"grpo__loss": "gspo"},
        {"grpo__loss": "cispo"},
        {"grpo__kl": 0.1},
        {"grpo__kl": 0.1, "grpo__kl_as": "loss"},
    ],
)
def test_each_variant_starts_from_a_ratio_of_1(change: dict, settings: Settings) -> None:
    run(settings, **change)
    steps = events(settings["output_dir"], "train.step")
    for first in (steps[0], steps[4]):
        assert first["val/ratio"] == pytest.approx(1, abs=1e-5)
        assert first["policy/clipfrac"] == 0
    assert ("objective/kl" in steps[0]) == ("grpo__kl" in change)
    assert steps[1]["val/ratio_var"] > 0


@pytest.mark.parametrize("stop", [2, 3])
def test_stopping_inside_a_rollout_and_between_epochs_changes_no_bit(
    stop: int, settings: Settings, tmp_path: Path
) -> None:
    settings = changed(settings, grpo__kl=0.1, checkpoints__every=8)
    run(settings, output_dir=tmp_path / "whole")
    run(settings, output_dir=tmp_path / "parts", training__stop_at_step=stop)
    run(settings, output_dir=tmp_path / "parts", training__resume_from="latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    lasts = [tmp_path / name / "checkpoints" / "step-000008" for name in ("whole", "parts")]
    assert artifacts.load(lasts[0]).digest == artifacts.load(lasts[1]).digest


@pytest.mark.parametrize("change", [{"training__batch_sequences": 8}, {"grpo__kl": 0.1}, {"rollout__samples": 4}])
def test_a_run_goes_on_with_other_settings_and_another_rollout(change: dict, settings: Settings) -> None:
    run(settings, training__stop_at_step=2)
    run(settings, training__resume_from="latest", **change)
    assert len(events(settings["output_dir"], "train.rollout_dropped")) == 1
    assert len(losses(settings["output_dir"])) == 8


def test_a_killed_run_resumes_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    settings = changed(settings, training__steps=24, checkpoints__every=3, validation__every=24)
    run(settings, output_dir=tmp_path / "whole")
    kill_and_resume(settings, LAUNCHER, tmp_path, at=3)
    assert weights(tmp_path / "killed", 24) == weights(tmp_path / "whole", 24)


def test_two_processes_train_what_one_does(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "one")
    two = changed(settings, training__num_processes=2)
    in_two(two, tmp_path, "--output-dir", str(tmp_path / "two"), launcher=LAUNCHER)
    for name in ("loss", "objective/scores", "objective/hidden_passed", "grad_norm"):
        one, whole = (figures(tmp_path / folder, name) for folder in ("one", "two"))
        assert one == pytest.approx(whole, rel=1e-3, abs=1e-5)


def test_a_failure_of_the_judge_ends_the_run_and_is_no_reward(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    judge = Tests.outcomes

    def failing(self: Tests, answers: Sequence[object]) -> list[Outcome]:
        if next(calls) == 2:
            raise SandboxError("the supervisor of the jails has died")
        return judge(self, answers)

    monkeypatch.setattr(Tests, "outcomes", failing)
    with pytest.raises(SandboxError, match="has died"):
        run(settings, checkpoints__every=1)
    monkeypatch.undo()
    kept = len(events(settings["output_dir"], "train.step"))
    assert 0 < kept < 8
    run(settings, training__resume_from="latest")
    assert len(losses(settings["output_dir"])) == 8


def test_a_policy_that_never_passes_is_refused_with_its_pass_rate(settings: Settings, checkpoint: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"each of the 4 groups .* all 8 answers earn the same.* 0\.00 % pass all tests"
    ):
        run(settings, initial=checkpoint)
    assert not list((settings["output_dir"] / "checkpoints").glob("*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"problems": "absent.jsonl"}, "absent.jsonl: no such file or folder"),
        ({"rollout__samples": 1}, "rollout.samples"),
        ({"rollout__samples": 5}, "rollout.samples=5 does not divide the 32 answers"),
        ({"rollout__max_tokens": 60}, "no problem to train on .*leaves no room for 60 tokens"),
        ({"grpo__kl": -1}, "grpo.kl"),
        ({"grpo__kl_as": "k3"}, "grpo.kl_as"),
        ({"grpo__clip_low": 1}, "grpo.clip_low"),
        ({"grpo__clip_low": 0.1, "grpo__loss": "cispo"}, "clip_low: cispo bounds weights from above alone"),
        ({"grpo__kl_as": "loss"}, "kl_as: without a weight, kl, nothing is added"),
        ({"file__hidden_tests": -1}, "file.hidden_tests"),
    ],
)
def test_what_cannot_work_is_one_line(settings: Settings, change: dict, said: str) -> None:
    with pytest.raises(IbidemError, match=said) as error:
        run(settings, **change)
    assert "\n" not in str(error.value)


def test_problems_without_tests_are_one_line(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"task_id": 1, "text": "Add.", "test_list": []}) + "\n")
    with pytest.raises(DataError, match="no tests"):
        run(settings, problems=file)


def test_the_shipped_configuration_is_valid() -> None:
    tree = yaml.safe_load((REPOSITORY / "configs" / "training" / "grpo.yaml").read_text())
    config = build(GrpoConfig, tree)
    assert config.training.batch_sequences // config.rollout.samples == 16


class Silent:
    def check(self) -> None: ...

    def answer(self, model: Decoder, step: int) -> None: ...


def trained(score: Scores, steps: int, **changes: object) -> tuple[Decoder, Decoder]:
    """Return a small model before and after some steps of GRPO with other rewards."""
    common = {"initial": "none", "output_dir": "none", "problems": "none"}
    training = {"steps": steps, "batch_sequences": 16, "micro_batch_sequences": 16}
    settings = {**common, "training": training, "rollout": {"max_tokens": 4, "samples": 8}, "optim": {"lr": 1e-3}}
    config = build(GrpoConfig, changed(settings, **changes))
    before, model, accelerator = decoder(small()), decoder(small()), Accelerator(cpu=True)
    reference = before if config.grpo.kl else None
    sampler = Sampler(
        Plan(config.rollout, config.training, 2), [[1, 2], [3]], frozenset({9}), score, accelerator, reference
    )
    objective = Grpo(config, sampler, [], Silent())
    learner = loop.Learner(
        model, make_optimizer(model, config.optim), Guard(accelerator.device, clip=1.0, spike_factor=None, scales=False)
    )
    schedule = loop.Schedule(0, steps, steps, 1, 0, 1, 10, steps, steps)
    for step in range(1, steps + 1):
        objective.begin(model, step)
        loop.update(schedule, objective, learner, accelerator, step=step, lr=1e-3)
    return before, model


def test_constant_rewards_change_no_weight() -> None:
    before, after = trained(lambda answers: [each._replace(score=0.7) for each in answers], 3)
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, after.state_dict()[name]), name


def test_rewards_that_differ_change_the_weights() -> None:
    before, after = trained(lambda answers: [each._replace(score=float(each.ids_L[0] % 2)) for each in answers], 3)
    assert any(not torch.equal(weight, after.state_dict()[name]) for name, weight in before.state_dict().items())
