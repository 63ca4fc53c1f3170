"""The training of a grounding head: what it learns and keeps, that its base stays, that it resumes, what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import REPOSITORY
from tests.training.passage_data import passage, prose_dataset
from tests.training.rlhf.preference_data import events, figures, kill_and_resume
from tests.training.test_resume import Settings, changed, losses, torchrun, weights

from ibidem import artifacts
from ibidem.cli import main
from ibidem.config import build, read_yaml
from ibidem.errors import CheckpointError, ConfigError, DataError, IbidemError
from ibidem.grounding.encoder import open_encoder
from ibidem.grounding.head import LATE, NEAR, open_head
from ibidem.modeling.heads import HEAD_KIND
from ibidem.statistics import lower_bound
from ibidem.training import head
from ibidem.training.cloze_rows import Material
from ibidem.training.config import HeadConfig, TrainConfig
from ibidem.training.contrastive import unread
from ibidem.training.head import best_threshold, train_head
from ibidem.training.train import train

LAUNCHER = REPOSITORY / "src" / "training" / "head.py"
PASSAGES = [passage(seed) for seed in range(24)]


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prose_dataset(tmp_path_factory.mktemp("prose") / "prose", PASSAGES)


def settings_of(checkpoint: Path, prose: Path, run: Path) -> Settings:
    return {
        "initial": checkpoint,
        "data": prose,
        "output_dir": run,
        "held_out_share": 0.3,
        "training": {"steps": 6, "batch_sequences": 8, "micro_batch_sequences": 4},
        "optim": {"lr": 5e-3, "warmup_steps": 1, "weight_decay": 0.01},
        "validation": {"every": 6, "windows": 8},
        "checkpoints": {"every": 3},
    }


@pytest.fixture
def settings(checkpoint: Path, prose: Path, tmp_path: Path) -> Settings:
    return settings_of(checkpoint, prose, tmp_path / "run")


def run(settings: Settings, **changes: object) -> str:
    return train_head(build(HeadConfig, changed(settings, **changes)))


@pytest.fixture(scope="session")
def trained(checkpoint: Path, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    settings = settings_of(checkpoint, prose, tmp_path_factory.mktemp("head") / "run")
    run(settings, training__steps=30, validation__every=30, validation__windows=400, checkpoints__every=30)
    return settings["output_dir"]


def test_a_head_learns_to_tell_the_right_span_from_all_wrong_ones(trained: Path) -> None:
    before, after = events(trained, "train.measured")
    (counts,) = events(trained, "train.questions")
    assert before["proximity_wins"] == after["proximity_wins"]
    assert before["wins"] == pytest.approx(before["proximity_wins"], abs=0.05), "an untrained head is proximity"
    assert after["held_out_loss"] < 0.95 * before["held_out_loss"]
    loss, number = figures(trained, "loss"), counts["held_out"]
    assert sum(loss[20:]) < 0.9 * sum(loss[:10])
    assert after["wins_at_least"] == pytest.approx(lower_bound(round(after["wins"] * number), number))
    assert 0.01 <= after["temperature"] < 1


def test_no_weight_moves_from_its_prior_by_more_than_the_weight_decay_lets_it(settings: Settings) -> None:
    for weight_decay, is_free in ((30.0, False), (0.01, True)):
        settings["output_dir"] = settings["output_dir"].with_name(f"decay-{weight_decay}")
        run(settings, training__steps=12, optim__lr=2e-2, optim__weight_decay=weight_decay)
        moved = open_head(settings["output_dir"]).model.change_1I.abs().max().item()
        assert (moved > 1 / 30) == is_free


def test_the_prior_that_wins_more_of_the_questions_is_taken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings, training__steps=1)
    (chosen,) = events(settings["output_dir"], "train.prior")
    better = LATE if chosen["late"] >= chosen["near"] - head.CLEARLY else NEAR
    assert open_head(settings["output_dir"]).model.prior_1I[0].tolist() == pytest.approx(better)
    for least, prior in ((2.0, LATE), (-2.0, NEAR)):
        monkeypatch.setattr(head, "CLEARLY", least)
        settings["output_dir"] = settings["output_dir"].with_name(f"least{least}")
        run(settings, training__steps=1)
        assert open_head(settings["output_dir"]).model.prior_1I[0].tolist() == pytest.approx(prior)


def test_a_resumed_run_keeps_its_prior_without_choosing_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings, training__resume_from="latest", training__stop_at_step=1)
    before = open_head(settings["output_dir"]).model.prior_1I
    monkeypatch.setattr(head, "CLEARLY", 2.0 if before[0].tolist() == pytest.approx(NEAR) else -2.0)
    run(settings, training__resume_from="latest", training__stop_at_step=2)
    assert len(events(settings["output_dir"], "train.prior")) == 1
    assert torch.equal(open_head(settings["output_dir"]).model.prior_1I, before)


def test_the_artifact_is_the_head_alone_and_its_base_is_an_input(trained: Path, checkpoint: Path, prose: Path) -> None:
    last = artifacts.verify(trained / "checkpoints" / "step-000030", kind=HEAD_KIND)
    inputs = {item.role: item for item in last.inputs}
    assert set(inputs) == {"data", "encoder"}
    assert inputs["encoder"].digest == artifacts.load(checkpoint).digest
    assert (last.path / inputs["encoder"].name).resolve() == checkpoint.resolve()
    assert inputs["data"].digest == artifacts.load(prose).digest
    assert sum(tensor.numel() for tensor in load_file(last.path / "model.safetensors").values()) < 10_000
    assert not (last.path / "tokenizer").exists()
    assert main(["verify", str(trained)]) == 0


def test_the_base_is_read_and_not_changed(settings: Settings, checkpoint: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(checkpoint, base)
    before = open_encoder(base).states(PASSAGES[0]).states_TD.clone()
    run(settings, initial=base, training__steps=1)
    assert artifacts.verify(base).digest == artifacts.load(checkpoint).digest
    assert torch.equal(open_encoder(base).states(PASSAGES[0]).states_TD, before)


def test_a_trained_head_opens_with_its_base_and_scores_as_in_training(trained: Path) -> None:
    opened = open_head(trained)
    material = Material(PASSAGES[:6], 0)
    rows = material.rows(range(4))
    states = {text: opened.encoder.states(text) for text in (*rows.questions, *rows.passages)}
    flat_TD = torch.cat([states[text].states_TD for text in (*rows.questions, *rows.passages)])
    with torch.no_grad():
        scores = opened.model(unread(rows, lambda text: states[text].spans_T2, material.known).read(flat_TD)).numpy()
    for place in range(4):
        question, text, spans = material.own_rows(place)
        alone = opened.scores(question, text, spans, material.known)
        assert alone == pytest.approx(scores[rows.question_of_R == place][: len(spans)], rel=1e-4, abs=1e-4)
    assert not np.isnan(float(opened.model.calibration))


def test_the_threshold_is_set_at_the_last_step_and_only_there(settings: Settings, trained: Path) -> None:
    measured = events(trained, "train.measured")
    assert "threshold" not in measured[0]
    last = load_file(trained / "checkpoints" / "step-000030" / "model.safetensors")
    assert float(last["calibration"]) == measured[-1]["threshold"]
    assert measured[-1]["told_apart"] > 0.7
    run(settings, training__stop_at_step=3)
    stopped = load_file(settings["output_dir"] / "checkpoints" / "step-000003" / "model.safetensors")
    assert torch.isnan(stopped["calibration"])
    run(settings, training__resume_from="latest")
    settings = changed(settings, training__steps=12, training__resume_from="latest")
    run(settings, training__stop_at_step=9)
    extended = load_file(settings["output_dir"] / "checkpoints" / "step-000009" / "model.safetensors")
    assert torch.isnan(extended["calibration"]), "the threshold was that of other weights"


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_tells_most_claims_apart(seed: int) -> None:
    draw = np.random.default_rng(seed)
    supported, unsupported = draw.normal(1, 1, 9).round(1), draw.normal(-1, 1, 9).round(1)

    def told(at: float) -> int:
        return (supported >= at).sum() + (unsupported < at).sum()

    assert told(best_threshold(supported, unsupported)) == max(map(told, np.arange(-5, 5, 0.01)))


def test_margins_that_are_all_equal_have_a_threshold() -> None:
    assert best_threshold(np.array([2.0]), np.array([2.0])) == 2.0


def test_stopping_and_resuming_changes_no_bit(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "whole")
    run(settings, output_dir=tmp_path / "parts", training__stop_at_step=3)
    run(settings, output_dir=tmp_path / "parts", training__resume_from="latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    lasts = [tmp_path / name / "checkpoints" / "step-000006" for name in ("whole", "parts")]
    assert artifacts.load(lasts[0]).digest == artifacts.load(lasts[1]).digest


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    settings = changed(settings, training__steps=40, checkpoints__every=5, validation__every=40)
    run(settings, output_dir=tmp_path / "whole")
    kill_and_resume(settings, LAUNCHER, tmp_path, at=5)
    assert weights(tmp_path / "killed", 40) == weights(tmp_path / "whole", 40)


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_resume_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    run(settings, output_dir=tmp_path / "one")
    two = changed(settings, training__num_processes=2, training__resume_from="latest")
    for folder, flags in (("whole", ()), ("parts", ("--training.stop-at-step", "3")), ("parts", ())):
        done = torchrun(two, tmp_path, "--output-dir", str(tmp_path / folder), *flags, launcher=LAUNCHER)
        assert done.returncode == 0, done.stderr[-4000:]
    for name in ("loss", "wins"):
        one, whole = (figures(tmp_path / folder, name) for folder in ("one", "whole"))
        assert one == pytest.approx(whole, rel=1e-4, abs=1e-5)
    measured = [events(tmp_path / name, "train.measured")[-1] for name in ("one", "whole")]
    for name in ("held_out_loss", "wins", "proximity_wins", "temperature", "threshold"):
        assert measured[0][name] == pytest.approx(measured[1][name], rel=1e-4, abs=1e-5)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "whole", 6) == weights(tmp_path / "parts", 6)


def test_a_head_of_another_base_is_not_resumed(
    settings: Settings, train_settings: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    run(settings, training__stop_at_step=3)
    other = changed(train_settings, initial=checkpoint, training__steps=1, output_dir=tmp_path / "other")
    train(build(TrainConfig, other))
    said = r"step-000003 was trained with another encoder \(sha256:\w+, not sha256:\w+\)$"
    with pytest.raises(CheckpointError, match=said) as error:
        run(settings, initial=tmp_path / "other", training__resume_from="latest")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "no passage: all documents are empty"),
        ([" \n\n ", "\t"] * 4, "no passage: all documents are empty"),
        (["1889", "it was so"] * 9, "none of .* passages can be asked about"),
        (PASSAGES[:1], "no held-out passage can be asked about"),
    ],
)
def test_data_without_a_question_is_one_line(texts: list[str], said: str, settings: Settings, tmp_path: Path) -> None:
    data = prose_dataset(tmp_path / "data", texts)
    with pytest.raises(DataError, match=said) as error:
        run(settings, data=data, held_out_share=None)
    assert "\n" not in str(error.value)
    assert not (settings["output_dir"] / "checkpoints").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"initial": REPOSITORY / "docs"}, "neither a checkpoint nor the folder"),
        ({"data": REPOSITORY / "docs"}, "no artifact here"),
        ({"training__compile": True}, "a grounding head has no blocks"),
        ({"validation__prompts": ["x"]}, "a grounding head generates no text"),
        ({"optim__name": "muon"}, "settings of decoders"),
        ({"training__batch_sequences": 6}, "micro_batch_sequences=4 does not divide batch_sequences=6"),
    ],
)
def test_what_cannot_work_is_one_line(settings: Settings, change: dict, said: str) -> None:
    with pytest.raises(IbidemError, match=said) as error:
        run(settings, **change)
    assert "\n" not in str(error.value)


def test_a_head_is_not_sharded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head.sharding, "is_requested", lambda: True)
    with pytest.raises(ConfigError, match="start it without FSDP"):
        run(settings)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--prompt", "x", "--checkpoint"],
        ["sft", "--data", "DATA", "--output-dir", "OUT", "--training.steps", "1", "--initial"],
    ],
    ids=lambda words: words[0],
)
def test_nothing_takes_a_head_for_a_checkpoint(
    words: list[str], trained: Path, prose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": str(prose), "OUT": str(tmp_path / "out")}
    last = next((trained / "checkpoints").glob("step-*"))
    assert main([*(places.get(word, word) for word in words), str(last)]) == 2
    said = capsys.readouterr().err.strip()
    assert "this is a grounding-head" in said
    assert len(said.splitlines()) == 1


def test_the_shipped_configuration_is_understood() -> None:
    config = build(HeadConfig, read_yaml(REPOSITORY / "configs" / "training" / "head.yaml"))
    assert config.training.batch_sequences % config.training.micro_batch_sequences == 0
