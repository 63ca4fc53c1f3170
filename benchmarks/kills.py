"""Kill trainings with SIGKILL at 200 moments; each goes on, and ends with the very bits of a run that was never killed.

    python benchmarks/kills.py benchmarks/results/kills.json              200 kills, about an hour on 2 cores
    python benchmarks/kills.py benchmarks/results/kills.json --kills 8    a try

The kills are of one process and of two (FSDP, gloo), with synchronous and asynchronous saving. Every second one waits
until files of a checkpoint are being written; every third start goes back to an older checkpoint, and saves the steps
after it again. After each kill the checkpoints that were sealed are hashed; then the next process resumes, and is
killed again. At the end each run is finished and compared with its reference.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from ibidem import artifacts
from ibidem.errors import ArtifactError
from ibidem.log import EVENTS
from ibidem.modeling.tensor_files import files_of
from ibidem.runs import CHECKPOINTS, folder_of, steps_of

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS, BEYOND = 100_000, 3
"""A run never ends by itself; it is finished a few steps beyond its last kill."""
LONGEST_S = 300.0
KINDS = [(processes, saving) for processes in (1, 2) for saving in ("synchronous", "asynchronous")]
SHAPE = "vocab_size=1024, width=64, layers=2, heads=2, ffn_hidden=128, context=64"


def main() -> None:
    """Kill all kinds of runs, and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        share = -(-asked.kills // len(KINDS))
        rows = [kill_one_kind(Path(folder), *kind, share, asked.seed) for kind in KINDS]
    result = {
        "command": "python benchmarks/kills.py benchmarks/results/kills.json",
        "kills": sum(row["kills"] for row in rows),
        "while_saving": sum(row["while_saving"] for row in rows),
        "all_bit_equal": all(row["bit_equal"] for row in rows),
        "kinds": rows,
    }
    asked.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(0 if result["all_bit_equal"] else 1)


def prepare(folder: Path) -> None:
    """Make a dataset, a tokenizer and the shape of a small model, from this project's own source."""
    (folder / "model.py").write_text(f"from ibidem.modeling.config import ModelConfig\nMODEL = ModelConfig({SHAPE})\n")
    ibidem("preprocess", "--dataset", f"{REPOSITORY / 'src'}:train:text", "--output-dir", str(folder / "data"))
    ibidem(
        "train-tokenizer", "--input", str(folder / "data"), "--vocab-size", "1024", "--output-dir",
        str(folder / "tokenizer"),
    )  # fmt: skip


def ibidem(*words: str) -> None:
    """Run a command to its end."""
    done = subprocess.run([sys.executable, "-m", "ibidem", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


def kill_one_kind(folder: Path, processes: int, saving: str, kills: int, seed: int) -> dict[str, object]:
    """Kill one kind of run so many times, finish it, and compare it with one that was never killed."""
    name = f"{saving}-{processes}"
    run, rng = folder / name, random.Random(f"{seed} {name}")
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(settings(folder, run, processes, saving)))
    while_saving = again = lost = 0
    for number in range(kills):
        before, flags = newest_whole(run), list[str]()
        if number % 3 == 2 and len(steps_of(run)) > 1:
            older, again = min(steps_of(run)), again + 1
            flags = ["--training.resume-from", str(folder_of(run, older))]
        started = start(file, processes, *flags)
        wait_for_start(started, run, number + 1)
        before = newest_whole(run) if flags else before
        wait_for_step_beyond(started, run, before)
        if number % 2:
            wait_for_saving(started, run)
        time.sleep(rng.random() * 0.03)
        kill(started)
        while_saving += bool(list((run / CHECKPOINTS).glob(".step-*")))
        now = newest_whole(run)
        lost += now < before
        print(name, f"kill {number + 1}: step {now}", flush=True)
    last = newest_whole(run) + BEYOND
    finish(file, processes, last)
    reference = folder / f"{name}-reference"
    file.write_text(yaml.safe_dump(settings(folder, reference, processes, saving)))
    finish(file, processes, last)
    equal = weights(run, last) == weights(reference, last) != b""
    return {
        "processes": processes, "saving": saving, "kills": kills, "while_saving": while_saving,
        "checkpoints_lost": lost, "went_back": again, "last_step": last, "bit_equal": equal,
    }  # fmt: skip


def settings(folder: Path, run: Path, processes: int, saving: str) -> dict[str, object]:
    """Return the settings of a run that saves every step."""
    return {
        "model": str(folder / "model.py"),
        "output_dir": str(run),
        "data": {
            "dataset": str(folder / "data"), "tokenizer": str(folder / "tokenizer"),
            "cache_dir": str(folder / "tokens"), "context": 32,
        },
        "training": {
            "steps": STEPS, "batch_sequences": 2, "mixed_precision": "no", "resume_from": "latest",
            "num_processes": processes,
        },
        "validation": {"every": STEPS, "windows": 2, "prompts": []},
        "checkpoints": {"every": 1, "keep_last": 2, "asynchronous": saving == "asynchronous"},
    }  # fmt: skip


def start(file: Path, processes: int, *flags: str) -> list[subprocess.Popen[bytes]]:
    """Start the processes of a run."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-m", "ibidem", "train", "--config", str(file), *flags],
            env=environment(rank, processes, port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]


def environment(rank: int, processes: int, port: str) -> dict[str, str]:
    """Return what a launcher sets."""
    common = os.environ | {"OMP_NUM_THREADS": "1"}
    if processes == 1:
        return common
    places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    meets = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": str(processes)}
    return common | places | meets | {"ACCELERATE_USE_FSDP": "true"}


def free_port() -> int:
    """Return a port on which nothing listens."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for_step_beyond(started: Sequence[subprocess.Popen[bytes]], run: Path, step: int) -> None:
    """Wait until a later checkpoint is sealed than the one of a step."""
    deadline = time.monotonic() + LONGEST_S
    while max(steps_of(run), default=-1) <= step:
        check_alive(started, deadline)
        time.sleep(0.01)


def wait_for_start(started: Sequence[subprocess.Popen[bytes]], run: Path, number: int) -> None:
    """Wait until so many processes have begun or resumed the run."""
    deadline, events = time.monotonic() + LONGEST_S, run / EVENTS
    while not events.exists() or events.read_bytes().count(b'"train.started"') < number:
        check_alive(started, deadline)
        time.sleep(0.01)


def wait_for_saving(started: Sequence[subprocess.Popen[bytes]], run: Path) -> None:
    """Wait until a checkpoint is being written."""
    deadline = time.monotonic() + LONGEST_S
    while not list((run / CHECKPOINTS).glob(".step-*.partial.*")):
        check_alive(started, deadline)
        time.sleep(0.0005)


def check_alive(started: Sequence[subprocess.Popen[bytes]], deadline: float) -> None:
    """Fail if a run ended by itself, or takes too long."""
    if any(process.poll() is not None for process in started) or time.monotonic() > deadline:
        kill(started)
        raise SystemExit("a run ended by itself, or hangs")


def kill(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill all processes of a run at once, as a machine that loses power does."""
    for process in started:
        process.send_signal(signal.SIGKILL)
    for process in started:
        process.wait()


def newest_whole(run: Path) -> int:
    """Return the step of the newest checkpoint; fail if any that is there is not whole."""
    for step in steps_of(run):
        try:
            artifacts.verify(folder_of(run, step))
        except ArtifactError as error:
            raise SystemExit(f"a kill left a checkpoint that is not whole: {error}") from None
    return max(steps_of(run), default=-1)


def finish(file: Path, processes: int, step: int) -> None:
    """Run to a step."""
    for process in start(file, processes, "--training.stop-at-step", str(step)):
        if process.wait(LONGEST_S):
            raise SystemExit(f"exit code {process.returncode} while a run was finished")


def weights(run: Path, step: int) -> bytes:
    """Return the bytes of the weights."""
    return b"".join(path.read_bytes() for path in files_of(folder_of(run, step), "model"))


if __name__ == "__main__":
    main()
