"""Ray clusters on loopback: a head, and as many raylets as asked for, each with a processor of its own."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
PATHS = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "src")])
HOST, LONGEST_S = "127.0.0.1", 120


@contextmanager
def cluster(raylets: int = 1, *, cores: int = 2) -> Iterator[str]:
    """Start a cluster; yield its address, as soon as all raylets are there.

    Its own processes alone are stopped: `ray stop` would stop every cluster of the machine.
    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    address = f"{HOST}:{port}"
    folder = f"{tempfile.gettempdir()}/ray-{port}"  # short, for the names of its sockets
    head = ["--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", folder]
    with ExitStack() as started:
        first = started.enter_context(_raylet(head, cores))
        _wait_for(port, first)
        for _ in range(raylets - 1):
            started.enter_context(_raylet(["--address", address], cores))
        _wait_for_raylets(address, raylets)
        yield address


def run(words: list[str]) -> str:
    """Run Python with these words; return what it says."""
    environment = ENVIRONMENT | {"PYTHONPATH": PATHS}
    done = subprocess.run(
        [sys.executable, *words], env=environment, check=False, capture_output=True, text=True, timeout=2 * LONGEST_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def node(_: int) -> str:
    """Return the raylet that runs this task, after a moment in which others take theirs."""
    import ray

    time.sleep(0.3)
    return str(ray.get_runtime_context().get_node_id())


@contextmanager
def _raylet(more: list[str], cores: int) -> Iterator["subprocess.Popen[bytes]"]:
    options = ["--num-cpus", str(cores), "--node-ip-address", HOST, "--disable-usage-stats", "--block"]
    command = [Path(sys.executable).with_name("ray"), "start", *more, *options]
    environment = ENVIRONMENT | {"PYTHONPATH": PATHS}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


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
