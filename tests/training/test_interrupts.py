"""A termination ends a run after a step that is saved, on one process and on several, with exit code 0."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from tests import processes
from tests.training.test_resume import LAUNCHER, Settings, changed, losses, steps_of, stop_at, train

from ibidem.errors import Terminated
from ibidem.training.interrupts import noticed


def wait_for_step(run: Path, step: int) -> None:
    while not (run / "events.jsonl").exists() or max(losses(run), default=0) < step:
        time.sleep(0.02)


def stopped(run: Path) -> list[str]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event["reason"] for event in events if event["event"] == "train.stopping"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_termination_of_any_process_stops_all_after_the_same_step_with_exit_code_0(
    number: int, train_settings: Settings, tmp_path: Path
) -> None:
    settings = changed(train_settings, training__steps=100_000, checkpoints__every=100_000, validation__every=100_000)
    settings = changed(settings, training__num_processes=number, training__resume_from="latest")
    file, run = tmp_path / "config.yaml", Path(settings["output_dir"])
    file.write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    started = processes.start_all(LAUNCHER, ["--config", str(file)], tmp_path, number)
    try:
        wait_for_step(run, 2)
        for _ in range(2):  # as Slurm and torchrun both do
            os.kill(started[-1].pid or 0, signal.SIGTERM)
        for process in started:
            process.join(120)
        assert [process.exitcode for process in started] == [0] * number
    finally:
        for process in started:
            process.kill()
            process.join()
    last = max(losses(run))
    assert steps_of(run) == [last]
    assert stopped(run) == [f"a termination{' of another process' * (number - 1)}: the step is finished and saved"]
    said = [(tmp_path / f"said-{rank}.txt").read_text() for rank in range(number)]
    assert said[0].splitlines()[-1].endswith("go on with the same command and --training.resume-from latest")
    assert "interrupted" not in "".join(said[1:])
    processes.launch(LAUNCHER, ["--config", str(file), "--training.stop-at-step", str(last + 1)], tmp_path, number)
    assert max(losses(run)) == last + 1


def test_a_termination_is_told_from_ctrl_c_and_never_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with noticed(None) as notice:
        assert not notice()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert notice()
        assert notice.is_termination
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_was_terminated_is_told_as_such(train_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(2, monkeypatch, number=signal.SIGTERM)
    with pytest.raises(Terminated, match="step-000003 is saved"):
        train(train_settings)


@pytest.mark.parametrize("lost_by", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_does_not_leave_the_others_waiting(
    lost_by: signal.Signals, train_settings: Settings, tmp_path: Path
) -> None:
    settings = changed(train_settings, training__steps=100_000, checkpoints__every=100_000, validation__every=100_000)
    settings = changed(settings, training__num_processes=2, training__timeout_minutes=0.2)
    file, run = tmp_path / "config.yaml", Path(settings["output_dir"])
    file.write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    started = processes.start_all(LAUNCHER, ["--config", str(file)], tmp_path)
    try:
        wait_for_step(run, 2)
        os.kill(started[1].pid or 0, lost_by)
        started[0].join(120)
        assert started[0].exitcode not in {None, 0}
    finally:
        for process in started:
            process.kill()
            process.join()
