"""Processes of tests, which begin with their imports done: a server imports once, and forks for each of them."""

import faulthandler
import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "ibidem.cli",
        "ibidem.training.train",
        "ibidem.training.rlhf.sft_pipeline",
        "ibidem.training.rlhf.reward_model",
        "ibidem.training.rlhf.dpo_trainer",
        "ibidem.training.rlhf.ppo_trainer",
        "ibidem.training.rlhf.grpo_trainer",
        "torch.distributed.fsdp",
        "torch.distributed.checkpoint.state_dict",
    ]
)


LONGEST_S = 300.0
"""After it, processes that were launched together are killed."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def together(function: Callable[..., None], *arguments: object, processes: int = 2) -> None:
    """Run a function in processes, each with its rank, and a port to meet at, before the arguments."""
    import torch

    torch.multiprocessing.start_processes(
        function, (free_port(), *arguments), nprocs=processes, start_method="forkserver"
    )


def start(launcher: Path, arguments: Sequence[str], said: Path, ranks: Mapping[str, str] | None = None) -> Any:
    """Start a launcher as `python LAUNCHER ARGUMENTS` would, in this folder; what it says is in the file `said`."""
    environment = os.environ | dict(ranks or {})
    passed_on = (Path.cwd(), launcher, list(arguments), said, environment, 0.7 * LONGEST_S)
    process = FORKS.Process(target=_launch, args=passed_on)
    process.start()
    return process


def start_all(launcher: Path, arguments: Sequence[str], folder: Path, processes: int = 2) -> list[ForkServerProcess]:
    """Start a launcher in processes that know their ranks; what they say is in `said-<rank>.txt`."""
    port, started = str(free_port()), list[ForkServerProcess]()
    for rank in map(str, range(processes)):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        ranks = {**places, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if processes > 1 else {}
        started.append(start(launcher, arguments, folder / f"said-{rank}.txt", ranks))
    return started


def launch(launcher: Path, arguments: Sequence[str], folder: Path, processes: int = 2) -> None:
    """Run a launcher to its end in processes that know their ranks.

    If one fails, the others are killed; if they hang, what they say ends with where each of their threads is.
    """
    started = start_all(launcher, arguments, folder, processes)
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and {each.exitcode for each in started} <= {None, 0}:
        if all(each.exitcode == 0 for each in started):
            return
        time.sleep(0.02)
    codes = [each.exitcode for each in started]
    for each in started:
        each.kill()
        each.join()
    raise AssertionError(f"{codes}\n" + "\n".join(path.read_text()[-3000:] for path in folder.glob("said-*.txt")))


def _launch(
    where: Path, launcher: Path, arguments: list[str], said: Path, environment: Mapping[str, str], patience_s: float
) -> None:
    os.chdir(where)
    os.environ.clear()
    os.environ.update(environment)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.dump_traceback_later(patience_s)
    sys.argv = [str(launcher), *arguments]
    sys.path.insert(0, str(launcher.parent))  # as Python does for a script
    runpy.run_path(str(launcher), run_name="__main__")
