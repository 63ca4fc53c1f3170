"""The keeper: stands outside the pid namespace, keeps warm jails ready, and ends every job.

    judge ──job──► referee ◄──calls──► candidate          two children of the keeper; a new candidate for every job
      ▲               │ verdict
      └───────────────┴── how it ended ── keeper           kills both at the deadline, or when the judge is gone

The keeper never reads a job: it passes from the judge to the referee by a pipe that only the referee reads, so neither
the keeper nor the candidate, which is a copy of it, has ever held a test.
"""

import gc
import itertools
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

from ibidem.sandbox import candidate, frames, kernel, referee, walls
from ibidem.sandbox.walls import Limits

JOBS, VERDICTS = 0, 1
DONE, DEAD, IDLE = "done", "dead", "idle"
TICK_MS = 100
RENEW_AFTER = 64
"""Jobs of a referee: what benchmarks leave behind in its memory goes with it."""
NAMESPACES, CONTAINER = "namespaces", "container"
WARM = ("bisect", "copy", "functools", "heapq", "itertools", "math", "operator", "random", "re", "string", "typing")
"""Imported before the jails are made, as most programs and tests want them."""


class Setup(NamedTuple):
    """What the judge tells the keeper."""

    walls: str
    packages: tuple[str, ...]
    limits: Limits


class Child(NamedTuple):
    """A jailed process."""

    pid: int
    pidfd: int


class Referee(NamedTuple):
    """The process that runs tests, and the line on which it is given candidates."""

    child: Child
    control: socket.socket


class Clock:
    """Measures how long the processes of a job all only wait, from the first look at it."""

    def __init__(self, proc: int, pids: tuple[int, ...]) -> None:
        self._proc, self._pids = proc, pids
        self._start: float | None = None

    def idle(self) -> float:
        """Give the seconds in which none of them ran or stood in line for a CPU: load does not count."""
        now = time.monotonic() - sum(map(self._busy, self._pids))
        self._start = now if self._start is None else self._start
        return now - self._start

    def _busy(self, pid: int) -> float:
        file = os.open(f"{pid}/schedstat", os.O_RDONLY, dir_fd=self._proc)
        try:
            ran, waited, _ = os.read(file, 200).split()
        finally:
            os.close(file)
        return (int(ran) + int(waited)) / 1e9


def main() -> None:
    """Serve the judge that holds the other ends of standard input and output."""
    setup = _read_setup(sys.argv[1])
    for name in WARM:
        __import__(name)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    sys.path.remove(sys.argv[2])
    os.environ.clear()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy wants threads otherwise, and there are none
    if setup.walls == NAMESPACES:
        walls.enter(setup.packages, setup.limits, proc)
        _start_init()
    walls.prepare(setup.limits)
    gc.collect()
    gc.freeze()
    frames.send(VERDICTS, b"ready")
    _serve(setup, proc)


def _read_setup(text: str) -> Setup:
    tree = json.loads(text)
    return Setup(tree["walls"], tuple(tree["packages"]), Limits(**tree["limits"]))


def _start_init() -> None:
    """Start process 1 of the pid namespace, which dies with the keeper and takes all others along."""
    if os.fork() == 0:
        kernel.die_with_parent(signal.SIGKILL)
        walls.close_descriptors()
        kernel.drop_capabilities()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            signal.pause()


def _serve(setup: Setup, proc: int) -> None:
    """Judge one job after the other: a new candidate for each, a new referee now and then."""
    referee_of: Referee | None = None
    clear_scratch = partial(walls.clear_scratch, setup.limits) if setup.walls == NAMESPACES else _sweep
    for number in itertools.count():
        if referee_of is None or number % RENEW_AFTER == 0:
            if referee_of is not None:
                _end(referee_of.child)
                referee_of.control.close()
            referee_of = _start_referee(setup)
        ours, theirs = socket.socketpair()
        jail = _fork(partial(_run_candidate, theirs, setup))
        theirs.close()
        _wait_for_job()
        socket.send_fds(referee_of.control, [b"j"], [ours.fileno()])
        ours.close()
        state = _watch(referee_of, Clock(proc, (jail.pid, referee_of.child.pid)), setup.limits)
        end: dict[str, Any] = {"idle": state == IDLE, "candidate": _end(jail)}
        if state != DONE:
            end["referee"] = _end(referee_of.child)
            referee_of.control.close()
            referee_of = None
        clear_scratch()
        frames.send(VERDICTS, json.dumps(end).encode())


def _fork(work: Callable[[], NoReturn]) -> Child:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(70)
    return Child(pid, os.pidfd_open(pid))


def _start_referee(setup: Setup) -> Referee:
    ours, theirs = socket.socketpair()
    child = _fork(partial(_run_referee, theirs, setup))
    theirs.close()
    return Referee(child, ours)


def _run_candidate(theirs: socket.socket, setup: Setup) -> NoReturn:
    channel = theirs.detach()
    walls.close_descriptors(channel)
    os.chdir(walls.SCRATCH)
    walls.restrict(setup.limits)
    candidate.serve(channel)


def _run_referee(theirs: socket.socket, setup: Setup) -> NoReturn:
    jobs, verdicts = os.dup(JOBS), os.dup(VERDICTS)
    walls.close_descriptors(theirs.fileno(), jobs, verdicts)
    walls.restrict(setup.limits, calls=("recvmsg",), cpu_s=RENEW_AFTER * setup.limits.cpu_s)
    referee.serve(theirs, jobs, verdicts, setup.limits.cpu_s)


def _wait_for_job() -> None:
    """Wait until the judge has written a job; leave when it is gone, and take the jails along."""
    poll = select.poll()
    poll.register(JOBS, select.POLLIN)
    ((_, state),) = poll.poll()
    if not state & select.POLLIN:
        os._exit(0)


def _watch(referee_of: Referee, clock: Clock, limits: Limits) -> str:
    """Wait until the referee is done or dead, or both it and the candidate only wait."""
    poll = select.poll()
    poll.register(JOBS, 0)
    poll.register(referee_of.control, select.POLLIN)
    while True:
        found = dict(poll.poll(TICK_MS))
        if found.get(JOBS, 0) & (select.POLLHUP | select.POLLERR):
            os._exit(0)
        if referee_of.control.fileno() in found:
            return DONE if referee_of.control.recv(1) else DEAD
        if clock.idle() > limits.idle_s:
            return IDLE


def _end(child: Child) -> dict[str, Any]:
    """Kill a process if it still runs, and reap it."""
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.close(child.pidfd)
    _, status, used = os.wait4(child.pid, 0)
    code, cpu_s = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
    return {"code": code, "cpu_s": cpu_s, "peak_kb": used.ru_maxrss}


def _sweep() -> None:
    """Empty the scratch folder, which in a container is the same for all programs."""
    for folder, folders, files in os.walk(walls.SCRATCH, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
