"""The jail of the tests: runs the benchmark's code, with proxies in place of the candidate's functions.

Only `values` pass between the two sides: the candidate cannot reach a frame, a test or an expected value, and its
answers are compared here, as builtin types only.
"""

import builtins
import gc
import json
import math
import os
import resource
import signal
import socket
import time
import traceback
from functools import partial
from typing import Any, NoReturn

from ibidem.sandbox import messages, values

TESTS = "tests"
READ, DONE = b"r", b"d"
GROWN_KB = 50_000
MAX_ANSWER = values.MAX_BYTES + 4
LONGEST_DETAIL = 300
ENDS_ITERATION = (StopIteration, StopAsyncIteration)
"""A program must not end the iteration of a test: these arrive as RuntimeError, as from a generator (PEP 479)."""
TESTS_SEED = 1
"""Tests draw other random numbers than the program."""


class Fault(BaseException):
    """The candidate's answer, or its silence, ends the tests, whatever exceptions they catch."""


class Link:
    """The connection to the candidate; counts its answers and remembers the first fault."""

    def __init__(self, channel: int) -> None:
        self._channel, self._reader = channel, messages.Reader(channel, MAX_ANSWER)
        self.answers = 0
        self.fault: tuple[str, str] | None = None
        self.raised: BaseException | None = None

    def start(self, sources: list[str]) -> None:
        """Make the candidate run its program."""
        kind, first, second = self._exchange(("run", sources))
        if kind == "raised":
            self.fail("syntax" if first in {"SyntaxError", "IndentationError", "TabError"} else "raised", second)

    def call(self, remote: "Remote", arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the candidate; its changes to the arguments are applied here too."""
        value, changed = self._value(("call", remote, arguments, named))
        if type(changed) is tuple:
            self._change(arguments, changed)
        return value

    def get(self, remote: "Remote", name: str) -> Any:
        """Get an attribute of an object of the candidate."""
        return self._value(("get", remote, name))[0]

    def fail(self, kind: str, detail: str) -> NoReturn:
        """End the tests."""
        self.fault = self.fault or (kind, detail)
        raise Fault

    def _value(self, request: tuple[Any, ...]) -> tuple[Any, Any]:
        kind, first, second = self._exchange(request)
        self.answers += 1
        if kind == "value":
            return first, second
        if second.startswith("Unsendable: "):
            self.fail("answer", second)
        known = getattr(builtins, first, None)
        if not (isinstance(known, type) and issubclass(known, Exception)) or issubclass(known, ENDS_ITERATION):
            known = RuntimeError
        self.raised = _exception(known, second)
        raise self.raised

    def _exchange(self, request: tuple[Any, ...]) -> tuple[str, Any, Any]:
        """Send a request and return the answer; both parts of a raised exception are checked to be text."""
        try:
            messages.send(self._channel, values.dumps(request, _reference))
        except values.Unsendable as error:
            self.fail("tests", f"an argument of a test cannot be sent: {error}")
        except OSError:
            self.fail("crash", "the program ended")
        try:
            answer = values.loads(self._reader.receive(), partial(Remote, self))
        except (EOFError, OSError):
            self.fail("crash", "the program ended")
        except (ValueError, MemoryError) as error:
            self.fail("answer", str(error) or "too large")
        if type(answer) is not tuple or len(answer) != 3 or type(answer[0]) is not str:
            self.fail("answer", "not an answer")
        is_raised = answer[0] == "raised" and type(answer[1]) is str and type(answer[2]) is str
        if not is_raised and answer[0] != ("done" if request[0] == "run" else "value"):
            self.fail("answer", "not an answer")
        return answer

    def _change(self, arguments: tuple[Any, ...], changed: tuple[Any, ...]) -> None:
        for mine, theirs in zip(arguments, changed, strict=False):
            if type(mine) is not type(theirs):
                continue
            if type(mine) in {list, bytearray}:
                mine[:] = theirs
            elif type(mine) in {dict, set}:
                mine.clear()
                mine.update(theirs)


class Remote:
    """An object that stays in the candidate's jail: it can be called and passed back; it has no value here."""

    __slots__ = ("_link", "_of")

    def __init__(self, link: Link, of: int | str) -> None:
        self._link, self._of = link, of

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._link.call(self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.get(self, name)

    def _refuse(self, *_: object) -> NoReturn:
        self._link.fail("answer", "an object of a class of its own, which has no value for a test")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __len__ = __iter__ = __contains__ = _refuse
    __copy__ = __deepcopy__ = __reduce__ = __reduce_ex__ = __getstate__ = _refuse
    __hash__ = __add__ = __radd__ = __sub__ = __rsub__ = __float__ = __int__ = __index__ = __str__ = __repr__ = _refuse


def serve(control: socket.socket, jobs: int, verdicts: int, cpu_s: int) -> NoReturn:
    """For every candidate received on `control`, judge the next job in `jobs`."""
    import random  # already imported by the supervisor, without its hook after a fork

    random.seed(TESTS_SEED)
    state, waiting = random.getstate(), messages.Reader(jobs)
    while True:
        _, (channel,), _, _ = socket.recv_fds(control, 1, 1)
        started, hard = time.process_time(), resource.getrlimit(resource.RLIMIT_CPU)[1]
        signal.setitimer(signal.ITIMER_PROF, cpu_s)  # to the tick: the limit below counts whole seconds
        resource.setrlimit(resource.RLIMIT_CPU, (min(math.ceil(started) + cpu_s, hard), hard))
        random.setstate(state)
        job = json.loads(waiting.receive())
        os.write(control.fileno(), READ)
        verdict = {**judge(job, channel), "number": job["number"]}
        os.close(channel)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > GROWN_KB:
            gc.collect()  # cycles in a program's answers
        used = {"cpu_s": time.process_time() - started, "peak_kb": _peak_kb()}
        messages.send(verdicts, json.dumps({**verdict, **used}).encode())
        os.write(control.fileno(), DONE)


def judge(job: dict[str, Any], channel: int) -> dict[str, Any]:
    """Run the tests of a job against the candidate at the other end of `channel`; return the verdict."""
    link = Link(channel)
    names: dict[str, Any] = {"__name__": TESTS}
    verdict = ("passed", "")
    try:
        link.start(job["sources"])
        exec(_compiled(job["preamble"]), names)  # noqa: S102 - the benchmark's own code, in a jail too
        names.update({name: Remote(link, name) for name in job["names"]})
        exec(_compiled(job["tests"]), names)  # noqa: S102
    except Fault:
        verdict = ("answer", "a fault ended the tests")
    except BaseException as error:  # noqa: BLE001 - each is a verdict
        verdict = _verdict(error, link, job["tests"])
    if link.fault is None and verdict[0] == "passed" and link.answers == 0:
        verdict = ("untested", "the tests never asked the program")
    kind, detail = link.fault or verdict
    return {"kind": kind, "detail": detail[:LONGEST_DETAIL], "answers": link.answers}


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _verdict(error: BaseException, link: Link, tests: str) -> tuple[str, str]:
    if error is link.raised:
        return "raised", str(error)
    line = _line_of(error, tests)
    if isinstance(error, AssertionError):
        return "failed", line
    if isinstance(error, MemoryError):
        return "memory", line
    return "failed", f"{type(error).__name__}: {str(error)[:LONGEST_DETAIL]} at {line}"


def _line_of(error: BaseException, tests: str) -> str:
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == TESTS]
    lines = tests.splitlines()
    return lines[numbers[-1] - 1].strip() if numbers and numbers[-1] and numbers[-1] <= len(lines) else ""


def _compiled(source: str) -> Any:
    return compile(source, TESTS, "exec", dont_inherit=True, optimize=0)


def _reference(value: object) -> int | str:
    if isinstance(value, Remote):
        return object.__getattribute__(value, "_of")  # type: ignore[no-any-return]
    raise values.Unsendable(f"a {type(value).__name__}")


def _exception(kind: type[Exception], message: str) -> Exception:
    try:
        return kind(message)
    except TypeError:  # some take more than a message
        return RuntimeError(message)
