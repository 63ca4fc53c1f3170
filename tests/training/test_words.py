"""What a training says of settings that do not do what they seem to."""

import json
from pathlib import Path
from typing import Any

import pytest

from ibidem.config import build
from ibidem.errors import CheckpointError
from ibidem.training.config import TrainConfig
from ibidem.training.train import train

Settings = dict[str, Any]


@pytest.fixture
def short(train_settings: Settings) -> Settings:
    """A training of two steps."""
    train_settings["training"] |= {"steps": 2, "resume_from": "latest"}
    train_settings["optim"]["warmup_steps"] = 1
    return train_settings


def events(settings: Settings, name: str) -> list[dict[str, Any]]:
    lines = (Path(settings["output_dir"]) / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == name]


def test_a_run_that_finds_no_checkpoint_to_resume_from_says_that_it_starts_anew(short: Settings) -> None:
    train(build(TrainConfig, short))
    (event,) = events(short, "train.starts_anew")
    assert event["reason"] == f"{short['output_dir']} has no checkpoint to resume from"
    train(build(TrainConfig, {**short, "training": {**short["training"], "steps": 3}}))
    assert len(events(short, "train.starts_anew")) == 1


@pytest.mark.parametrize("named", ["folder", "run", "url", "copies of another run"])
def test_a_place_to_resume_from_that_was_given_and_has_no_checkpoint_is_refused(
    named: str, short: Settings, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    place = {
        "folder": tmp_path / "nowhere", "run": tmp_path / "empty", "url": f"file://{tmp_path}/nowhere",
        "copies of another run": f"file://{tmp_path}/empty/",
    }[named]  # fmt: skip
    short["training"]["resume_from"] = str(place)
    short["checkpoints"] |= {"copy_to": f"file://{tmp_path}/copies"}
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*(no checkpoint|no such folder|no artifact here)"):
        train(build(TrainConfig, short))
    assert not (Path(short["output_dir"]) / "checkpoints").exists()


def test_the_copies_of_the_run_itself_may_be_none_at_its_first_start(short: Settings, tmp_path: Path) -> None:
    short["training"]["resume_from"] = f"file://{tmp_path}/copies/"
    short["checkpoints"] |= {"copy_to": f"file://{tmp_path}/copies"}
    train(build(TrainConfig, short))
    assert len(events(short, "train.starts_anew")) == 1


def test_a_run_that_is_not_asked_to_resume_does_not_say_that_it_starts_anew(short: Settings) -> None:
    del short["training"]["resume_from"]
    train(build(TrainConfig, short))
    assert events(short, "train.starts_anew") == []


@pytest.mark.parametrize("warmup", [1, 2, 3])
def test_a_warmup_as_long_as_the_run_is_one_warning(warmup: int, short: Settings) -> None:
    short["optim"]["warmup_steps"] = warmup
    train(build(TrainConfig, short))
    reasons = [event["reason"] for event in events(short, "train.long_warmup")]
    percent = {1: None, 2: 100, 3: 67}[warmup]
    said = f"optim.warmup_steps is {warmup}, training.steps is 2: the learning rate ends at {percent} % of optim.lr"
    assert reasons == ([f"{said}, still rising"] if percent else [])


def test_a_finished_run_with_other_settings_says_that_nothing_was_trained_with_them(short: Settings) -> None:
    first = train(build(TrainConfig, short))
    assert train(build(TrainConfig, short)) == first
    short["optim"] |= {"lr": 0.5, "schedule": "wsd"}
    said = train(build(TrainConfig, short))
    assert said == (
        f"{first}; trained before, with other settings (optim.lr was 0.01, is 0.5; optim.schedule was cosine, is wsd): "
        "choose another --output-dir to train with these"
    )
    (event,) = events(short, "train.settings_changed")
    assert event["reason"] == "optim.lr was 0.01, is 0.5; optim.schedule was cosine, is wsd"


def test_a_second_run_in_the_same_folder_is_refused_unless_it_resumes(short: Settings) -> None:
    train(build(TrainConfig, short))
    del short["training"]["resume_from"]
    short["optim"]["lr"] = 0.5
    with pytest.raises(CheckpointError, match="or choose another --output-dir"):
        train(build(TrainConfig, short))
