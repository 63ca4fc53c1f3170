"""Supervise jails some of whose walls are down, and only in the throw-away world of `world.py`.

The product knows nothing of this: functions of it are replaced in this process, which then starts as the product does.
"""

import json
import os
import resource
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.sandbox.world import FIRST_ID, IDS

from ibidem.sandbox import isolation, referee, seccomp, supervisor, syscalls

LARGER_SCRATCH = {"scratch_bytes": 40 << 20, "scratch_files": 4000}
TIMES_AS_PATIENT = 5
_PR_SET_DUMPABLE = 4


def lift(kind: int) -> None:
    """Leave a limit as the world has it."""
    limits = types.SimpleNamespace(**vars(isolation.resource))
    limit = limits.setrlimit
    limits.setrlimit = lambda each, value: None if each == kind else limit(each, value)
    isolation.resource = limits


def allow_all_calls() -> None:
    """Install no filter of system calls."""
    seccomp.Filter.install = lambda _: None


def enlarge_scratch() -> None:
    """Mount a scratch folder that holds more bytes and more files."""
    mount = isolation.mount_scratch
    isolation.mount_scratch = lambda limits: mount(limits._replace(**LARGER_SCRATCH))


def keep_root() -> None:
    """Stay in the root of the world."""
    isolation._build_root = lambda _: None


def keep_user() -> None:
    """Enter all namespaces but that of users, as the root of the world."""

    def enter(packages: tuple[str, ...], _proc: int) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        isolation._build_root(packages)
        syscalls.unshare(isolation._NAMESPACES & ~syscalls.CLONE_NEWUSER)
        syscalls.forgo_capabilities()

    isolation.enter = enter


def keep_privileges() -> None:
    """Keep every capability, and let processes be looked into."""
    enter = isolation.enter

    def enter_and_be_open(packages: tuple[str, ...], proc: int) -> None:
        enter(packages, proc)
        syscalls.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)

    isolation.enter = enter_and_be_open
    syscalls.forgo_capabilities = syscalls.drop_capabilities = syscalls.forgo_new_privileges = lambda: None


def keep_environment() -> None:
    """Let the environment of the harness, which has a secret, come through."""
    os.environ["IBIDEM_SECRET"] = "canary"
    os.environ.clear = lambda: None


def keep_descriptors() -> None:
    """Close nothing: there is something to read, and what is printed is kept where complaints go."""

    def close_nothing(*_: int) -> None:
        there, here = os.pipe()
        os.write(here, b"canary\n")
        os.dup2(there, 0)
        os.dup2(2, 1)

    isolation.close_descriptors = close_nothing


def keep_terminal() -> None:
    """Give this session a terminal."""
    ours, theirs = os.openpty()
    os.set_inheritable(ours, True)
    os.close(os.open(os.ttyname(theirs), os.O_RDWR))


def tell_tests() -> None:
    """Name the tests on the command line."""
    sys.argv.append("assert f(21) == 42")


def be_patient() -> None:
    """Wait longer for a program that sleeps."""
    idle = supervisor.Clock.idle
    supervisor.Clock.idle = lambda clock: idle(clock) / TIMES_AS_PATIENT


def run_with_tests() -> None:
    """Run the program where the tests are: they compare its own objects, and end where it ends."""

    def judge(job: dict[str, Any], _channel: int) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "tests"}
        kind = "passed"
        try:
            for code in (*job["sources"], job["preamble"], job["tests"]):
                exec(code, names)
        except Exception:  # noqa: BLE001 - what an end or an interrupt of the program does is its success
            kind = "failed"
        return {"kind": kind, "detail": "", "answers": 1}

    referee.judge = judge


# In this order: what is kept by "privileges" is kept of what "user" has made.
WALLS: dict[str, Callable[[], None]] = {
    "calls": allow_all_calls,
    "processes": partial(lift, resource.RLIMIT_NPROC),
    "memory": partial(lift, resource.RLIMIT_AS),
    "file size": partial(lift, resource.RLIMIT_FSIZE),
    "open files": partial(lift, resource.RLIMIT_NOFILE),
    "locked memory": partial(lift, resource.RLIMIT_MEMLOCK),
    "time": partial(lift, resource.RLIMIT_CPU),
    "idleness": be_patient,
    "scratch": enlarge_scratch,
    "root": keep_root,
    "user": keep_user,
    "privileges": keep_privileges,
    "environment": keep_environment,
    "descriptors": keep_descriptors,
    "session": keep_terminal,
    "secrecy": tell_tests,
    "values": run_with_tests,
}


def main() -> None:
    """Take the walls down that are named as JSON, and supervise; the arguments before them are the product's.

    Raises:
        PermissionError: this is not the throw-away world.
    """
    if Path("/proc/self/uid_map").read_text().split() != ["0", str(FIRST_ID), str(IDS)]:
        raise PermissionError("walls are taken down in the throw-away world alone")
    names, folder = json.loads(sys.argv[3]), sys.argv[4]
    sys.path.remove(folder)
    for name, take_down in WALLS.items():
        if name in names:
            take_down()
    supervisor.main()
