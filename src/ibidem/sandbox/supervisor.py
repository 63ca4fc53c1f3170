"""The supervisor: stays outside the pid namespace, keeps warm jails ready, and ends every job.

    judge ──job──► referee ◄──calls──► candidate      two children of the supervisor; a new candidate for every job
      ▲               │ verdict
      └───────────────┴── how it ended ── supervisor       kills both at the deadline, or when the judge is gone

The supervisor never reads a job: jobs pass from the judge to the referee through a pipe that only the referee reads, so
neither the supervisor nor the candidate, which is a fork of it, ever holds a test.
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

from ibidem.sandbox import candidate, isolation, messages, referee, seccomp, syscalls
from ibidem.sandbox.isolation import Limits

JOBS, VERDICTS = 0, 1
DONE, DEAD, IDLE = "done", "dead", "idle"
TICK_MS = 100
RUNS_TO_SPECIALIZE = 20
RENEW_AFTER = 64
"""Jobs after which a referee is replaced, and with it what benchmarks leave in its memory."""
NAMESPACES = "namespaces"
WARM = ("bisect", "copy", "functools", "heapq", "itertools", "math", "operator", "random", "re", "string", "typing")
"""Imported before the jails are made, since most programs and tests need them."""


class Setup(NamedTuple):
    """The settings that the judge passes to the supervisor."""

    sandbox: str
    packages: tuple[str, ...]
    limits: Limits


class Child(NamedTuple):
    """A jailed process."""

    pid: int
    pidfd: int


class Referee(NamedTuple):
    """The process that runs tests, and the socket over which it receives candidates."""

    child: Child
    control: socket.socket


class Clock:
    """Measures how long all processes of a job have been idle, from the first measurement on."""

    def __init__(self, proc: int, pids: tuple[int, ...]) -> None:
        self._proc, self._pids = proc, pids
        self._start: float | None = None

    def idle(self) -> float:
        """Return the seconds in which no process ran or waited for a CPU, so that load does not count."""
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


class Harness:
    """The process of the judge: when it ends, the supervisor and its jails end too."""

    def __init__(self) -> None:
        parent = os.getppid()  # 0 in a container: then the end of the pipe shows it
        self._pidfd = os.pidfd_open(parent) if parent else None

    def wait_for(self, descriptor: int, timeout_ms: int | None = None) -> bool:
        """Wait until something can be read; return False on timeout."""
        poll = select.poll()
        if self._pidfd is not None:
            poll.register(self._pidfd, select.POLLIN)
        poll.register(JOBS, 0)
        poll.register(descriptor, select.POLLIN)
        events = dict(poll.poll(timeout_ms))
        if self._pidfd in events or events.get(JOBS, 0) & (select.POLLHUP | select.POLLERR):
            os._exit(0)
        return descriptor in events


def main() -> None:
    """Serve the judge that holds the other ends of standard input and output."""
    setup, harness = _read_setup(sys.argv[1]), Harness()
    _warm_up()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    sys.path.remove(sys.argv[2])
    os.environ.clear()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy would start threads otherwise, which are not allowed
    clear_scratch = _sweep
    if setup.sandbox == NAMESPACES:
        isolation.enter(setup.packages, proc)
        clear_scratch = Scratch(_start_init(setup.limits)).clear
    elif os.getppid() != 0:
        raise PermissionError("this is not a container of its own")  # so its /tmp belongs to others
    isolation.surrender(setup.limits)
    gc.collect()
    gc.freeze()
    messages.send(VERDICTS, b"ready")
    _serve(setup, harness, proc, clear_scratch)


def _warm_up() -> None:
    """Do once what every child would do: imports, and the first runs of its code, after which Python specializes it."""
    register, os.register_at_fork = os.register_at_fork, lambda **_: None
    for name in WARM:
        __import__(name)
    os.register_at_fork = register  # `random` is not reseeded in every child: the same draws every time
    for _ in range(RUNS_TO_SPECIALIZE):
        candidate.rehearse()
    sys.modules["random"].seed(0)


def _read_setup(text: str) -> Setup:
    tree = json.loads(text)
    return Setup(tree["sandbox"], tuple(tree["packages"]), Limits(**tree["limits"]))


def _start_init(limits: Limits) -> socket.socket:
    """Start process 1 of the pid namespace, which dies with the supervisor, and all others with it.

    Only this process keeps the right to mount: it mounts a new scratch folder for every byte it receives.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        syscalls.die_with_parent(signal.SIGKILL)
        isolation.close_descriptors(theirs.fileno())
        isolation.mount_scratch(limits)
        theirs.send(b"m")
        while theirs.recv(1):
            syscalls.unmount(isolation.SCRATCH)
            isolation.mount_scratch(limits)
            theirs.send(b"m")
        os._exit(0)
    theirs.close()
    if not ours.recv(1):
        raise OSError("the scratch folder cannot be mounted")
    return ours


class Scratch:
    """The only folder that a program may write to."""

    def __init__(self, init: socket.socket) -> None:
        self._init = init
        self._fresh = os.stat(isolation.SCRATCH).st_ctime_ns

    def clear(self) -> None:
        """Replace the folder with an empty one if it was touched at all: its change time cannot be set back."""
        if os.stat(isolation.SCRATCH).st_ctime_ns != self._fresh:
            self._init.send(b"m")
            if not self._init.recv(1):
                os._exit(1)
            self._fresh = os.stat(isolation.SCRATCH).st_ctime_ns


def _serve(setup: Setup, harness: Harness, proc: int, clear_scratch: Callable[[], None]) -> None:
    """Judge one job after the other, each with a new candidate; the referee is replaced now and then."""
    candidate_calls, referee_calls = seccomp.Filter(), seccomp.Filter(("recvmsg",))
    referee_of: Referee | None = None
    for number in itertools.count():
        if referee_of is None or number % RENEW_AFTER == 0:
            if referee_of is not None:
                _end(referee_of.child)
                referee_of.control.close()
            referee_of = _start_referee(referee_calls, setup.limits)
        ours, theirs = socket.socketpair()
        jail = _fork(partial(_run_candidate, theirs, candidate_calls, setup.limits))
        theirs.close()
        harness.wait_for(JOBS)
        socket.send_fds(referee_of.control, [b"j"], [ours.fileno()])
        ours.close()
        harness.wait_for(referee_of.control.fileno())
        if referee_of.control.recv(1) != referee.READ:  # the rest of this job would be read as the next one
            os._exit(1)
        state = _watch(harness, referee_of, Clock(proc, (jail.pid, referee_of.child.pid)), setup.limits)
        end: dict[str, Any] = {"idle": state == IDLE, "candidate": _end(jail)}
        if state != DONE:
            end["referee"] = _end(referee_of.child)
            referee_of.control.close()
            referee_of = None
        clear_scratch()
        messages.send(VERDICTS, json.dumps(end).encode())


def _fork(work: Callable[[], NoReturn]) -> Child:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(70)
    return Child(pid, os.pidfd_open(pid))


def _start_referee(calls: seccomp.Filter, limits: Limits) -> Referee:
    ours, theirs = socket.socketpair()
    child = _fork(partial(_run_referee, theirs, calls, limits))
    theirs.close()
    return Referee(child, ours)


def _run_candidate(theirs: socket.socket, calls: seccomp.Filter, limits: Limits) -> NoReturn:
    channel = theirs.detach()
    isolation.close_descriptors(channel)
    os.chdir(isolation.SCRATCH)
    isolation.restrict(calls, limits.cpu_s)
    candidate.serve(channel)


def _run_referee(theirs: socket.socket, calls: seccomp.Filter, limits: Limits) -> NoReturn:
    jobs, verdicts = os.dup(JOBS), os.dup(VERDICTS)
    isolation.close_descriptors(theirs.fileno(), jobs, verdicts)
    isolation.restrict(calls, RENEW_AFTER * limits.cpu_s)
    referee.serve(theirs, jobs, verdicts, limits.cpu_s)


def _watch(harness: Harness, referee_of: Referee, clock: Clock, limits: Limits) -> str:
    """Wait until the referee is done or dead, or both it and the candidate are idle."""
    while not harness.wait_for(referee_of.control.fileno(), TICK_MS):
        if clock.idle() > limits.idle_s:
            return IDLE
    return DONE if referee_of.control.recv(1) == referee.DONE else DEAD


def _end(child: Child) -> dict[str, Any]:
    """Kill a process if it still runs, and reap it."""
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.close(child.pidfd)
    _, status, used = os.wait4(child.pid, 0)
    code, cpu_s = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
    return {"code": code, "cpu_s": cpu_s, "peak_kb": used.ru_maxrss}


def _sweep() -> None:
    """Empty the scratch folder, which all programs share in a container."""
    for folder, folders, files in os.walk(isolation.SCRATCH, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
