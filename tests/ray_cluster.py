"""Ray clusters on loopback: a head, and as many raylets as asked for, each with a processor of its own."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from tests.conftest import REPOSITORY
from tests.processes import free_port

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
HOST, LONGEST_S = "127.0.0.1", 120


class Cluster(NamedTuple):
    """A cluster that runs."""

    address: str
    raylets: "list[subprocess.Popen[bytes]]"
    """What keeps each of them, the head first."""

    def lose(self, number: int) -> None:
        """Kill a raylet and its workers, as if its machine was lost."""
        process = psutil.Process(self.raylets[number].pid)
        for each in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.kill()


@contextmanager
def cluster(raylets: int = 1, *, cores: int = 2, folder: Path | None = None, apart: bool = False) -> Iterator[Cluster]:
    """Start a cluster, whose processes work in a folder; yield it as soon as all raylets are there.

    Raylets that are `apart` have a disk each: the folder has the same name for all, and is the one for temporary files,
    too, but what one of them writes there none of the others sees, nor does this process.

    Its own processes alone are stopped: `ray stop` would stop every cluster of the machine.
    """
    if apart and subprocess.run([*_unshared(), "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs Linux namespaces")
    port = free_port()
    address = f"{HOST}:{port}"
    sockets = f"{tempfile.gettempdir()}/ray-{port}"  # a short name, as those of sockets must be
    head = ["--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", sockets]
    with ExitStack() as started:
        first = started.enter_context(_raylet(head, cores, folder, apart=apart))
        _wait_for(port, first)
        running = [first]
        while len(running) < raylets:  # one by one: two that start at once may choose the same ports
            running.append(started.enter_context(_raylet(["--address", address], cores, folder, apart=apart)))
            _wait_for_raylets(address, len(running))
        yield Cluster(address, running)


def environment() -> dict[str, str]:
    """Return the variables of processes that find the tests and this program."""
    paths = [str(REPOSITORY), str(REPOSITORY / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}


def run(words: list[str]) -> str:
    """Run Python with these words; return what it says."""
    done = subprocess.run(
        [sys.executable, *words], env=environment(), check=False, capture_output=True, text=True, timeout=2 * LONGEST_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def node(_: int) -> str:
    """Return the raylet that runs this task, after a moment in which others take theirs."""
    import ray

    time.sleep(0.3)
    return str(ray.get_runtime_context().get_node_id())


@contextmanager
def _raylet(more: list[str], cores: int, folder: Path | None, *, apart: bool) -> Iterator["subprocess.Popen[bytes]"]:
    options = ["--num-cpus", str(cores), "--node-ip-address", HOST, "--disable-usage-stats", "--block"]
    command = [str(Path(sys.executable).with_name("ray")), "start", *more, *options]
    own = environment()
    if apart:
        command = [*_unshared(), "sh", "-c", 'mount -t tmpfs none "$0" && cd "$0" && exec "$@"', str(folder), *command]
        own["TMPDIR"] = str(folder)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=own, cwd=folder, **silent)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def _unshared() -> list[str]:
    """Return the beginning of a command that has mounts of its own."""
    return ["unshare", *(["--map-root-user"] if os.getuid() else []), "--mount"]


def _wait_for(port: int, head: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and head.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the cluster did not start")


def _wait_for_raylets(address: str, number: int) -> None:
    """Wait in a process of its own: one that has joined a cluster cannot leave it for another."""
    if number == 1:
        return
    script = (
        f"import ray, time; ray.init({address!r}, log_to_driver=False)\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {number}: time.sleep(0.2)"
    )
    run(["-c", script])
