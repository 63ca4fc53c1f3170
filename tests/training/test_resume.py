"""A run that was stopped, killed or damaged goes on as if nothing had happened, or says why it cannot."""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests import processes
from tests.conftest import REPOSITORY

from ibidem import artifacts
from ibidem.config import build
from ibidem.errors import CheckpointError, ConfigError, DataError, TrainingError
from ibidem.modeling.tensor_files import files_of
from ibidem.training.config import TrainConfig

LAUNCHER = REPOSITORY / "src" / "training" / "train.py"
Settings = dict


def train(settings: Settings, **changes: object) -> None:
    from ibidem.training.train import train

    train(build(TrainConfig, changed(settings, **changes)))


def changed(settings: Settings, **changes: object) -> Settings:
    """Change settings; `training__seed=1` reaches into a group."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            result.setdefault(group, {})[name] = value
        else:
            result[group] = value
    return result


def losses(run: Path) -> dict[int, float]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return {event["step"]: event["loss"] for event in events if event["event"] == "train.step"}


def bits_per_byte(run: Path) -> list[float]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event["bits_per_byte"] for event in events if event["event"] == "train.measured"]


def weights(run: Path, step: int) -> bytes:
    return b"".join(path.read_bytes() for path in files_of(run / "checkpoints" / f"step-{step:06d}", "model"))


def with_dropout(model_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "dropout.py"
    path.write_text(model_file.read_text().replace("layers=2", "layers=2, dropout=0.2"))
    return path


@pytest.mark.parametrize(("dropout", "optimizer"), [(False, "adamw"), (True, "adamw"), (False, "muon")])
def test_stopping_and_resuming_changes_no_bit(
    dropout: bool, optimizer: str, train_settings: Settings, model_file: Path, tmp_path: Path
) -> None:
    if dropout:
        train_settings["model"] = with_dropout(model_file, tmp_path)
    settings = changed(train_settings, data__fim_rate=0.5, optim__name=optimizer)
    if optimizer == "muon":
        settings = changed(settings, optim__matrix_lr=5e-3)
    train(settings, output_dir=tmp_path / "whole")
    train(settings, output_dir=tmp_path / "parts", training__stop_at_step=20)
    train(settings, output_dir=tmp_path / "parts", training__resume_from="latest")
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) == 40
    assert whole == parts
    assert weights(tmp_path / "whole", 40) == weights(tmp_path / "parts", 40)
    digests = [artifacts.load(tmp_path / run / "checkpoints" / "step-000040").digest for run in ("whole", "parts")]
    assert digests[0] == digests[1]
    events = [json.loads(line) for line in (tmp_path / "whole" / "events.jsonl").read_text().splitlines()]
    windows = next(event for event in events if event["event"] == "train.windows")["train"]
    assert 20 * 4 % windows != 0, "the stop must be in the middle of an epoch"


def test_the_held_out_text_is_learned(train_settings: Settings, tmp_path: Path) -> None:
    train(train_settings, training__steps=120, validation__every=120, checkpoints__every=120)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    measured = [event["bits_per_byte"] for event in events if event["event"] == "train.measured"]
    assert measured[-1] < 0.6 * measured[0]


def test_accumulating_gradients_equals_one_large_batch(train_settings: Settings, tmp_path: Path) -> None:
    for size in (1, 4):
        train(train_settings, output_dir=tmp_path / str(size), training__micro_batch_sequences=size, training__steps=5)
    one, four = losses(tmp_path / "1"), losses(tmp_path / "4")
    assert all(one[step] == pytest.approx(four[step], rel=1e-4) for step in one)


def in_two(settings: Settings, tmp_path: Path, *flags: str, launcher: Path = LAUNCHER) -> None:
    """Train in two processes."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    processes.launch(launcher, ["--config", str(file), *flags], tmp_path)


def torchrun(
    settings: Settings, tmp_path: Path, *flags: str, processes: int = 2, launcher: Path = LAUNCHER
) -> subprocess.CompletedProcess[str]:
    """Start processes as a cluster does: one that dies is started again, and goes on from the latest checkpoint."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0",
        "--max-restarts", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
        str(launcher), "--config", str(file), *flags,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_two_processes_train_what_one_does_and_resume_to_the_bit(
    train_settings: Settings, model_file: Path, tmp_path: Path
) -> None:
    settings = changed(
        train_settings,
        training__num_processes=2,
        checkpoints__every=20,
        validation__windows=3,
        training__resume_from="latest",
    )
    settings["model"] = with_dropout(model_file, tmp_path)
    for run, flags in (
        ("whole", ()),
        ("parts", ("--training.stop-at-step", "20")),
        ("parts", ()),
    ):
        in_two(settings, tmp_path, "--output-dir", str(tmp_path / run), *flags)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert weights(tmp_path / "whole", 40) == weights(tmp_path / "parts", 40)
    plain = changed(train_settings, output_dir=tmp_path / "one")
    train(plain, training__steps=3, validation__windows=1)
    done = torchrun(
        changed(train_settings, output_dir=tmp_path / "two", training__resume_from="latest"),
        tmp_path,
        "--training.steps",
        "3",
        "--validation.windows",
        "1",
    )
    assert done.returncode == 0, done.stderr[-6000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [one[step] for step in (1, 2, 3)] == pytest.approx([two[step] for step in (1, 2, 3)], rel=1e-5)
    measured = [bits_per_byte(tmp_path / run) for run in ("one", "two")]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)


def test_fewer_processes_than_asked_for_is_an_error(train_settings: Settings) -> None:
    with pytest.raises(ConfigError, match="2 processes were requested, but 1 run"):
        train(train_settings, training__num_processes=2)


@pytest.fixture(scope="module")
def trained(dataset: Path, tokenizer_dir: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run with checkpoints at steps 10, 20 and 30 of 40."""
    settings = {
        "model": model_file,
        "output_dir": tmp_path_factory.mktemp("trained") / "run",
        "data": {"dataset": dataset, "tokenizer": tokenizer_dir, "held_out_share": 0.1, "context": 32},
        "training": {"steps": 40, "batch_sequences": 2, "mixed_precision": "no"},
        "validation": {"every": 40, "windows": 2},
        "checkpoints": {"every": 10, "keep_last": 3},
    }
    train(settings, training__stop_at_step=30)
    return settings


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def mix(newest: Path) -> None:
    shutil.copy(newest.with_name("step-000010") / "optimizer.safetensors", newest / "optimizer.safetensors")


DAMAGES = {
    "a flipped byte of the weights": lambda p: flip(p / "model.safetensors"),
    "a truncated optimizer": lambda p: truncate(p / "optimizer.safetensors"),
    "lost random states": lambda p: next(p.glob("random_states*")).unlink(),
    "files of two steps": mix,
    "another step": lambda p: (p / "progress.json").write_text('{"step": 5}\n'),
    "no manifest": lambda p: (p / "manifest.json").unlink(),
    "an empty folder": lambda p: [file.unlink() for file in p.rglob("*") if file.is_file()],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_by_name_and_the_one_before_is_taken(name: str, trained: Settings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained["output_dir"], run)
    newest = run / "checkpoints" / "step-000030"
    DAMAGES[name](newest)
    with pytest.raises(CheckpointError, match="step-000030"):
        train(trained, output_dir=run, training__resume_from=newest)
    train(trained, output_dir=run, training__resume_from="latest", training__stop_at_step=30)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    refused = [event for event in events if event["event"] == "checkpoint.refused"]
    assert [event["step"] for event in refused] == [30]
    assert "step-000030" in refused[0]["reason"]
    assert [event["step"] for event in events if event["event"] == "train.started"][-1] == 20
    assert artifacts.verify(newest).digest == artifacts.load(trained["output_dir"] / "checkpoints" / newest.name).digest
    assert (run / "checkpoints" / "damaged-0-step-000030").exists()


def test_going_on_from_an_older_checkpoint_puts_the_newer_ones_aside(trained: Settings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained["output_dir"], run)
    older = run / "checkpoints" / "step-000010"
    settings = changed(trained, output_dir=run, checkpoints__every=5, checkpoints__keep_last=2)
    train(settings, training__resume_from=older, training__stop_at_step=15)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step-000010", "step-000015", "superseded-0-step-000020", "superseded-0-step-000030",
    ]  # fmt: skip
    train(settings, training__resume_from="latest", training__stop_at_step=20)
    assert weights(run, 20) == weights(trained["output_dir"], 20)


def test_weights_that_are_not_finite_are_never_saved(train_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d"):
        train(train_settings, optim__lr=1e38, checkpoints__every=1)
    for folder in (tmp_path / "run").glob("checkpoints/step-*"):
        assert torch.isfinite(torch.cat([w.flatten() for w in load_file(folder / "model.safetensors").values()])).all()


def test_a_prompt_that_does_not_fit_is_told_at_the_start(train_settings: Settings) -> None:
    with pytest.raises(ConfigError, match="exceed the model's context"):
        train(train_settings, validation__prompts=("x = 1\n" * 60,))


def test_an_event_after_a_torn_line_is_not_lost(tmp_path: Path) -> None:
    from ibidem import log

    (tmp_path / "e.jsonl").write_text('{"event": "whole"}\n{"event": "to')
    with log.recording(tmp_path / "e.jsonl"):
        log.event("next")
    assert json.loads((tmp_path / "e.jsonl").read_text().splitlines()[-1])["event"] == "next"


def test_when_none_is_whole_nothing_is_started_over(trained: Settings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained["output_dir"], run)
    for folder in (run / "checkpoints").iterdir():
        flip(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint .* is intact"):
        train(trained, output_dir=run, training__resume_from="latest")


def test_a_new_run_does_not_bury_an_old_one(trained: Settings) -> None:
    with pytest.raises(CheckpointError, match="resume-from latest"):
        train(trained)


def test_a_checkpoint_of_another_tokenizer_is_refused(trained: Settings, dataset: Path, tmp_path: Path) -> None:
    from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer

    other = tmp_path / "other"
    train_tokenizer(TrainTokenizerConfig(input=dataset, output_dir=other, vocab_size=512, held_out_share=0.2))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        train(trained, data__tokenizer=other, training__resume_from="latest")


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"training__micro_batch_sequences": 3}, ConfigError, "micro_batch_sequences=3 does not divide"),
        ({"data__context": 128}, ConfigError, "exceeds the model's context=64"),
        ({"model": "missing.py"}, ConfigError, "no such file"),
        ({"data__dataset": "missing"}, RuntimeError, "missing: no such folder"),
        ({"data__tokenizer": "missing"}, RuntimeError, "missing: no such folder"),
        ({"training__step": 5}, ConfigError, "unknown key training.step; did you mean training.steps?"),
        ({"data__held_out_share": 0.0001}, ConfigError, "leaves nothing held out"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    changes: Settings, error: type[Exception], said: str, train_settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        train(train_settings, **changes)
    assert said in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_a_corpus_smaller_than_a_window_is_an_error(train_settings: Settings, model_file: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.py"
    wide.write_text(model_file.read_text().replace("context=64", "context=1000000"))
    with pytest.raises(DataError, match="less than one window"):
        train(train_settings, model=wide, data__context=1_000_000)


ROUNDS_PER_KILL = 3


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_loses_nothing_and_resumes(kills: int, train_settings: Settings, tmp_path: Path) -> None:
    """Kill at random moments, so many of them inside the saving of a checkpoint; each time the run goes on."""
    steps = 4000
    settings = changed(
        train_settings, training__steps=steps, training__batch_sequences=1, training__micro_batch_sequences=1,
        training__resume_from="latest", checkpoints__every=1, validation__every=10 * steps,
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    run, rng = Path(settings["output_dir"]), random.Random(0)
    inside, furthest = 0, 0
    for _ in range(ROUNDS_PER_KILL * kills):
        process = start(file)
        wait_for_checkpoint_beyond(process, run, furthest)
        if rng.random() < 0.8:
            wait_for_saving(process, run)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        inside += bool(partial_folders(run))
        whole = [step for step in steps_of(run) if is_whole(run, step)]
        assert whole, "a kill destroyed every checkpoint"
        assert max(whole) >= furthest, "a kill lost a finished checkpoint"
        furthest = max(whole)
        if inside >= kills:
            break
    assert inside >= kills
    train(settings, training__stop_at_step=furthest + 3)
    reference = changed(settings, output_dir=tmp_path / "reference", checkpoints__every=steps)
    train(reference, training__stop_at_step=furthest + 3)
    assert losses(run) == losses(tmp_path / "reference")
    assert weights(run, furthest + 3) == weights(tmp_path / "reference", furthest + 3)


def start(file: Path) -> Any:
    return processes.start(LAUNCHER, ["--config", str(file)], Path(os.devnull))


def wait_for_checkpoint_beyond(process: Any, run: Path, step: int) -> None:
    while max(steps_of(run), default=-1) <= step:
        assert process.exitcode is None, "the run ended by itself"
        time.sleep(0.01)


def wait_for_saving(process: Any, run: Path) -> None:
    while not partial_folders(run):
        assert process.exitcode is None, "the run ended by itself"
        time.sleep(0.0005)


def partial_folders(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(".step-*.partial.*"))


def steps_of(run: Path) -> list[int]:
    return [int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")]


def is_whole(run: Path, step: int) -> bool:
    try:
        artifacts.verify(run / "checkpoints" / f"step-{step:06d}")
    except RuntimeError:
        return False
    return True


def test_a_damaged_token_cache_is_not_trained_on(trained: Settings, tmp_path: Path) -> None:
    cache = tmp_path / "tokens"
    shutil.copytree(trained["output_dir"] / "tokens", cache)
    whole = {path: path.read_bytes() for path in cache.rglob("train.bin")}
    for path in whole:
        flip(path)
    train(trained, output_dir=tmp_path / "run", data__cache_dir=cache)
    assert any(path.read_bytes() == data for path, data in whole.items())


def test_a_run_does_not_end_before_its_checkpoint(trained: Settings) -> None:
    with pytest.raises(ConfigError, match="already at step 30"):
        train(trained, training__steps=20, training__resume_from="latest")


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """A shell starts its background jobs so that they ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop_at(
    step: int, monkeypatch: pytest.MonkeyPatch, *, times: int = 1, number: signal.Signals = signal.SIGINT
) -> None:
    """Press Ctrl-C, or end the process in another way, while a step is computed."""
    from ibidem.training.pretraining import Pretraining

    usual = Pretraining.begin

    def begin(self: Pretraining, model: torch.nn.Module, now: int) -> None:
        usual(self, model, now)
        for _ in range(times if now == step else 0):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Pretraining, "begin", begin)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_termination_finish_the_step_and_save_it(
    number: signal.Signals, train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(train_settings)
    with monkeypatch.context() as patch:
        stop_at(6, patch, number=number)
        with pytest.raises(
            KeyboardInterrupt, match="step-000007 is saved; go on with .* --training.resume-from latest"
        ):
            train(train_settings, output_dir=tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-000007"]
    train(train_settings, output_dir=tmp_path / "stopped", training__resume_from="latest")
    assert weights(tmp_path / "stopped", 40) == weights(tmp_path / "run", 40)


def test_a_second_ctrl_c_stops_at_once(
    train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(6, monkeypatch, times=2)
    with pytest.raises(KeyboardInterrupt, match="^$"):
        train(train_settings)
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_ctrl_c_in_the_last_step_is_no_interruption(
    train_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(39, monkeypatch)
    train(train_settings)
    assert len(losses(tmp_path / "run")) == 40


def test_everyone_who_may_read_the_run_may_read_its_weights(train_settings: Settings, tmp_path: Path) -> None:
    train(train_settings, training__steps=2)
    files = [path for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in files)
    assert len({stat.S_IMODE(path.stat().st_mode) for path in files}) == 1


def test_a_run_that_becomes_far_slower_says_so_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    from ibidem.training import loop

    said: list[dict[str, object]] = []
    monkeypatch.setattr(loop.log, "event", lambda _name, **fields: said.append(fields))
    pace = loop.Pace()
    for step in range(400):
        pace.notice(step, 100.0 if step < 50 or step % 100 == 0 else 40.0)
    assert [each["step"] for each in said] == [59, 159, 259, 359]
    assert {each["usual"] for each in said} == {100}
    quiet = loop.Pace()
    for step in range(400):
        quiet.notice(step, 100.0 if step % 9 else 10.0)
    assert len(said) == 4
