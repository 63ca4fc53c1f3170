"""The self-test of a jail: programs that must be contained, and programs that must pass.

A sandbox that never started looks perfect, since nothing escapes from it: so some programs must pass. A sandbox that
fails open looks perfect too, as long as no program tries to escape: so some programs try.
"""

from collections.abc import Callable

from ibidem.errors import SandboxError
from ibidem.sandbox.program import Kind, Program, Verdict

_ATTEMPT = """
def attempt(number):
    import os, _socket, _thread
    attempts = [
        lambda: os.fork(),
        lambda: _socket.socket(),
        lambda: _thread.start_new_thread(print, ()),
        lambda: os.execv("/proc/self/exe", ["x"]),
        lambda: os.kill(1, 9),
        lambda: os.memfd_create("x"),
        lambda: open("/escaped", "w"),
        lambda: os.symlink("/", "out"),
        lambda: bytearray(8 << 30),
        lambda: open("large", "wb").write(bytes(64 << 20)),
        lambda: os.listdir("/proc"),
        lambda: open("/etc/passwd"),
    ]
    try:
        attempts[number]()
    except Exception as error:
        return type(error).__name__
    return "done"
"""
_CONTAINED = ["PermissionError", "PermissionError", "RuntimeError", *["PermissionError"] * 3]
_CONTAINED += ["OSError", "PermissionError", "MemoryError", "OSError"]
_HIDDEN = ["FileNotFoundError"] * 2  # a container shows its own /proc and its image's files
_FORGED = """
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
def answer(x):
    import sys
    frame = sys._getframe()
    while frame:
        frame.f_globals.update(answer=lambda x: 2 * x, verdict=("passed", ""))
        frame = frame.f_back
    return Always()
"""
_HONEST = "import random\ndef answer(x):\n    open('scratch', 'w').write('x' * 1000)\n    return 2 * x\n"


def check(judge: Callable[[Program], Verdict], *, has_namespaces: bool) -> None:
    """Test a jail.

    Raises:
        SandboxError: a program escaped, or got the wrong verdict; no other program may be run.
    """
    expected = _CONTAINED + (_HIDDEN if has_namespaces else [])
    contained = f"assert [attempt(n) for n in range({len(expected)})] == {expected}"
    for code, name, tests, due in (
        (_ATTEMPT, "attempt", contained, Kind.PASSED),
        (_HONEST, "answer", "assert answer(21) == 42", Kind.PASSED),
        (_FORGED, "answer", "assert answer(21) == 42", Kind.ANSWER),
        ("import os\nos._exit(0)", "answer", "assert answer(21) == 42", Kind.CRASH),
        ("def answer(x):\n    return x", "answer", "assert answer(21) == 42", Kind.FAILED),
    ):
        verdict = judge(Program((code,), tests, (name,)))
        if verdict.kind is not due:
            raise SandboxError(
                f"the sandbox fails its self-test, so no code is run: expected {due}, got {verdict.kind} "
                f"({verdict.detail}) for the program {code.strip().splitlines()[0]!r}"
            )
