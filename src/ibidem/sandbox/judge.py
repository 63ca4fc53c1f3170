"""The judge: runs programs in warm jails and returns verdicts.

    with Judge(workers=2) as judge:
        for verdict in judge.verdicts(programs):
            ...

What a program prints, returns or raises never decides: the tests run in a jail of their own, and only plain values
cross. A judge first tests itself on programs that must fail and programs that must pass (`selftest`).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from ibidem.errors import SandboxError
from ibidem.sandbox import isolation, messages, seccomp, selftest, supervisor
from ibidem.sandbox.isolation import Limits
from ibidem.sandbox.program import Kind, Program, Verdict

SOURCE = Path(__file__).resolve().parents[2]
BOOT = "import sys; sys.path.insert(0, sys.argv[2]); from ibidem.sandbox.supervisor import main; main()"
PYTHON_FLAGS = ("-s", "-S", "-P", "-c", BOOT)
DOCKER = "docker"
MAX_PROGRAM_BYTES = 4_000_000
"""Maximum size of a program as JSON; a longer one is not sent to a jail."""
OUT_OF_TIME = (-signal.SIGPROF, -signal.SIGXCPU)
"""How a referee ends whose tests are out of time."""
TICKS_SHARE = 0.5
"""Minimum share of its CPU time that a process ran when the limit ends it: the kernel counts ticks against the limit,
each for the process that runs at that moment, but reports the time that the process really ran."""
REMEDY = (
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0), or use --sandbox docker"
)


class Judge:
    """A pool of supervisors, each with a pair of warm jails; use it as a context manager.

    Raises:
        SandboxError: no jail can be made here, or one fails its self-test.
    """

    def __init__(
        self, workers: int = 2, limits: Limits | None = None, *, sandbox: str = supervisor.NAMESPACES, image: str = ""
    ) -> None:
        self._limits, self._workers = limits or Limits(), workers
        _check_platform(sandbox)
        command = _command(sandbox, self._limits, image)
        self._start = partial(_Supervisor, command)
        self._has_namespaces = sandbox == supervisor.NAMESPACES
        self._idle: SimpleQueue[_Supervisor | None] = SimpleQueue()
        self._supervisors: list[_Supervisor] = []
        try:
            self._supervisors = [self._start() for _ in range(workers)]
            for each in self._supervisors:
                self._prove(each)
                self._idle.put(each)
        except BaseException:
            self.close()
            raise
        self._threads = ThreadPoolExecutor(workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self.close()

    def close(self) -> None:
        """End all jails."""
        for each in self._supervisors:
            each.stop()

    def judge(self, program: Program) -> Verdict:
        """Judge one program."""
        if (size := len(json.dumps(program.sources))) > MAX_PROGRAM_BYTES:
            detail = f"the program is too long: {size:,} bytes, more than {MAX_PROGRAM_BYTES:,}"
            return Verdict(Kind.ANSWER, detail, answers=0, cpu_s=0.0, peak_kb=0)
        each = self._idle.get() or self._renew()
        try:
            verdict = self._judge_with(each, program)
        except BaseException:  # a supervisor that still owes an answer must not answer the next question
            each.stop()
            self._supervisors.remove(each)
            self._idle.put(None)
            raise
        self._idle.put(each)
        return verdict

    def verdicts(self, programs: Iterable[Program]) -> Iterator[Verdict]:
        """Judge programs in parallel; yield the verdicts in the order of the programs."""
        waiting = iter(programs)
        ahead = [self._threads.submit(self.judge, program) for program in islice(waiting, 2 * self._workers)]
        while ahead:
            verdict = ahead.pop(0).result()
            ahead += [self._threads.submit(self.judge, program) for program in islice(waiting, 1)]
            yield verdict

    def _renew(self) -> "_Supervisor":
        each = None
        try:
            each = self._start()
            self._prove(each)
        except BaseException:
            self._idle.put(None)
            if each is not None:
                each.stop()
            raise
        self._supervisors.append(each)
        return each

    def _prove(self, each: "_Supervisor") -> None:
        each.wait_until_ready()
        selftest.check(partial(self._judge_with, each), has_namespaces=self._has_namespaces)

    def _judge_with(self, each: "_Supervisor", program: Program) -> Verdict:
        said, end = each.run(asdict(program))
        return _verdict(said, end, self._limits)


class _Supervisor:
    """A supervisor process and the two pipes to it."""

    def __init__(self, command: list[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        environment = {"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:
            self._process = subprocess.Popen(command, env=environment, start_new_session=True, bufsize=0, **pipes)  # noqa: S603
        except OSError as error:
            self._errors.close()
            raise SandboxError(f"{command[0]} cannot be started: {error.strerror}") from None
        assert self._process.stdout is not None
        self._jobs, self._in_container = 0, command[0] == DOCKER
        self._reader = messages.Reader(self._process.stdout.fileno())

    def wait_until_ready(self) -> None:
        """Wait until the jails are ready."""
        try:
            self._reader.receive()
        except (EOFError, ValueError):
            remedy = "" if self._in_container else f"; {REMEDY}"
            raise SandboxError(f"no jail can be made here: {self._complaint()}{remedy}") from None

    def run(self, job: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Return the referee's verdict, if there is one, and the supervisor's account of the processes."""
        self._jobs += 1
        try:
            messages.send(self._in, json.dumps({**job, "number": self._jobs}).encode())
            first = json.loads(self._reader.receive())
            said, end = (first, json.loads(self._reader.receive())) if "kind" in first else (None, first)
        except (OSError, EOFError, ValueError, TypeError):
            self._process.kill()
            raise SandboxError(f"the supervisor of the jails has died: {self._complaint()}") from None
        if said is not None and said["number"] != self._jobs:
            raise SandboxError(f"the verdict on job {said['number']} came for job {self._jobs}")
        return said, end

    def stop(self) -> None:
        """End the supervisor, and its jails with it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    @property
    def _in(self) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    def _complaint(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        line = next((line for line in lines if line.startswith(f"{DOCKER}: ")), lines[-1] if lines else "")
        return line or f"it ended with code {self._process.wait(timeout=5)}"


def may_be_ours(verdict: Verdict) -> bool:
    """Return whether a verdict may be a fault of the judge or its machine: a process of it was killed, for example."""
    killed = _ending({"code": -signal.SIGKILL})
    return verdict.kind is Kind.TESTS or (verdict.kind is Kind.CRASH and verdict.detail == killed)


def _check_platform(sandbox: str) -> None:
    if sandbox == supervisor.NAMESPACES and not (sys.platform == "linux" and seccomp.supported()):
        raise SandboxError(
            "running model-written code requires Linux namespaces on x86-64 or ARM64; use --sandbox docker here"
        )


def _command(sandbox: str, limits: Limits, image: str) -> list[str]:
    setup: dict[str, Any] = {"sandbox": sandbox, "packages": (), "limits": limits._asdict()}
    if sandbox == supervisor.NAMESPACES:
        setup["packages"] = isolation.numpy_folders()
        python = getattr(sys, "_base_executable", sys.executable)
        return [python, *PYTHON_FLAGS, json.dumps(setup), str(SOURCE)]
    user, scratch = (
        f"{isolation.NOBODY}:{isolation.NOBODY}",
        f"{isolation.SCRATCH}:size={limits.scratch_bytes},uid={isolation.NOBODY}",
    )
    hard = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--user={user}"]
    hard += ["--pids-limit=16", f"--memory={3 * limits.memory_bytes}", f"--tmpfs={scratch},nosuid,nodev,noexec"]
    code = ["--volume", f"{SOURCE / 'ibidem'}:/ibidem/ibidem:ro", "--env=PYTHONHASHSEED=0"]
    start = [DOCKER, "run", "--rm", "--interactive", "--pull=never", *hard, *code, image]
    return [*start, "python3", *PYTHON_FLAGS, json.dumps(setup), "/ibidem"]


def _verdict(said: dict[str, Any] | None, end: dict[str, Any], limits: Limits) -> Verdict:
    kind, detail = _decide(said, end, limits)
    candidate, referee = end["candidate"], said or end["referee"]
    cpu_s, peak_kb = candidate["cpu_s"] + referee["cpu_s"], max(candidate["peak_kb"], referee["peak_kb"])
    return Verdict(kind, detail, said["answers"] if said else 0, cpu_s, peak_kb)


def _decide(said: dict[str, Any] | None, end: dict[str, Any], limits: Limits) -> tuple[Kind, str]:
    if end["idle"]:
        return Kind.IDLE, f"nothing was computed for {limits.idle_s:g} s"
    if said is None:
        is_late = end["referee"]["code"] in OUT_OF_TIME
        return (Kind.TIMEOUT, "the tests ran out of time") if is_late else (Kind.TESTS, _ending(end["referee"]))
    if said["kind"] == Kind.CRASH:
        code, cpu_s = end["candidate"]["code"], end["candidate"]["cpu_s"]
        is_late = code == -signal.SIGKILL and cpu_s >= TICKS_SHARE * limits.cpu_s
        return (Kind.TIMEOUT, f"{limits.cpu_s} CPU seconds") if is_late else (Kind.CRASH, _ending(end["candidate"]))
    if said["kind"] == Kind.RAISED and said["detail"].startswith("MemoryError"):
        return Kind.MEMORY, said["detail"]
    return Kind(said["kind"]), said["detail"]


def _ending(process: dict[str, Any]) -> str:
    code = process["code"]
    if code >= 0:
        return f"ended with code {code}"
    named = {each.value: each.name for each in signal.Signals}  # real-time signals have numbers alone
    return f"ended by {named.get(-code, f'signal {-code}')}"
