"""A run measures about ten times and completes prompts, whatever was set, and training does not notice."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.training.test_resume import changed, losses, weights, with_dropout

from ibidem.config import build, parse
from ibidem.errors import ConfigError
from ibidem.training.config import DEFAULT_PROMPTS, TrainConfig, measure_every

Settings = dict[str, Any]


def run(settings: Settings, **changes: object) -> list[dict[str, Any]]:
    from ibidem.training.train import train

    config = build(TrainConfig, changed(settings, **changes))
    train(config)
    return [json.loads(line) for line in (config.output_dir / "events.jsonl").read_text().splitlines()]


def of(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 25, 99, 240, 10_000])
def test_a_run_measures_about_ten_times(steps: int) -> None:
    every = measure_every(steps)
    number = len({*range(0, steps + 1, every), steps})
    assert min(steps, 6) < number <= 11


def test_a_long_run_measures_every_thousand_steps() -> None:
    assert measure_every(25_000) == 1000


def test_a_run_samples_three_prompts_at_the_start_on_the_way_and_at_the_end(train_settings: Settings) -> None:
    events = run(train_settings, training__steps=20, validation={"windows": 1, "sample_tokens": 3})
    assert [event["step"] for event in of(events, "train.measured")] == list(range(0, 21, 2))
    sampled = [(event["step"], event["prompt"]) for event in of(events, "train.sample")]
    assert sampled == [(step, prompt) for step in range(0, 21, 2) for prompt in DEFAULT_PROMPTS]
    assert len(DEFAULT_PROMPTS) == 3


def test_an_empty_list_of_prompts_turns_sampling_off(train_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("validation: {prompts: []}\n")
    needed = (
        "--model m --output-dir o --data.dataset d --data.tokenizer t --training.steps 1 --training.batch-sequences 1"
    )
    by_file = parse(TrainConfig, ["--config", str(tmp_path / "train.yaml"), *needed.split()])
    by_flag = parse(TrainConfig, [*needed.split(), "--validation.prompts"])
    assert by_file.validation.prompts == by_flag.validation.prompts == ()
    assert not of(run(train_settings, training__steps=1, validation__prompts=()), "train.sample")


def test_samples_change_no_bit_of_training(train_settings: Settings, model_file: Path, tmp_path: Path) -> None:
    train_settings["model"] = with_dropout(model_file, tmp_path)
    short = {"training__steps": 6, "validation__every": 2, "checkpoints__every": 6}
    sampled = of(run(train_settings, output_dir=tmp_path / "with", **short), "train.sample")
    run(train_settings, output_dir=tmp_path / "without", validation__prompts=(), **short)
    assert len(sampled) == 12
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert weights(tmp_path / "with", 6) == weights(tmp_path / "without", 6)


@pytest.mark.parametrize("context", [4, 8, 16])
def test_default_prompts_never_exceed_a_short_context(
    context: int, train_settings: Settings, model_file: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short.py"
    short.write_text(model_file.read_text().replace("context=64", f"context={context}"))
    events = run(train_settings, model=short, training__steps=1, data__context=context)
    prompts = {event["prompt"] for event in of(events, "train.sample")}
    assert prompts <= set(DEFAULT_PROMPTS)
    assert (len(prompts) < 3) == bool(of(events, "train.no_samples"))
    mine = tuple(f"{prompt} " for prompt in DEFAULT_PROMPTS)
    with pytest.raises(ConfigError, match="exceed the model's context"):
        run(train_settings, model=short, data__context=context, output_dir=tmp_path / "mine", validation__prompts=mine)


def test_a_checkpoint_with_other_validation_settings_is_resumed(train_settings: Settings, tmp_path: Path) -> None:
    earlier = {"validation": {"every": 250, "windows": 4, "prompts": []}}
    run(train_settings, output_dir=tmp_path / "parts", training__stop_at_step=20, **earlier)
    now: Settings = {"output_dir": tmp_path / "parts", "training__resume_from": "latest", "validation": {"windows": 4}}
    events = run(train_settings, **now)
    assert len(of(events, "train.settings_changed")) == 1
    run(train_settings, output_dir=tmp_path / "whole", **earlier)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
